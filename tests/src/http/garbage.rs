//! A server that answers no HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Answers every connection that sends something with bytes that are no HTTP, and closes it.
#[derive(Debug)]
pub struct Garbage {
    address: SocketAddr,
    answered: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

impl Garbage {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, answered) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (mut server, counter) = (JoinSet::new(), answered.clone());
        server.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut some = [0; 4096];
                if stream.read(&mut some).await.is_ok_and(|read| read > 0) {
                    counter.fetch_add(1, Ordering::Relaxed);
                    // The client may be gone before it reads this.
                    stream.write_all(b"\x16\x03 this is no HTTP\r\n\r\n").await.unwrap_or_default();
                }
            }
        });
        Self { address, answered, _server: server }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many connections it answered.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}
