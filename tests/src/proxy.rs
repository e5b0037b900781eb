//! A TCP proxy between evoke and a server, which delays, holds or cuts what goes through it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// They go through.
    Open,
    /// They go through so much later.
    Slow(Duration),
    /// They wait, and connections stay as they are: the other side seems to be frozen.
    Held,
    /// There is no connection, and none can be made.
    Cut,
}

/// A proxy for one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// A proxy on a free port, open.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = watch::Sender::new(Line::Open);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, to, line.subscribe()));
        Self { address, line, _serving: serving }
    }

    /// Where to connect to instead of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what becomes of the bytes, on the connections that there are too.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, line: watch::Receiver<Line>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        connections.spawn(carry(client, to, line.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, from end to end.
async fn carry(client: TcpStream, to: SocketAddr, mut line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_client, to_server, line.clone()) => {}
        () = pump(from_server, to_client, line.clone()) => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

/// One direction, until it ends.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut line: watch::Receiver<Line>,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut bytes).await {
            Ok(read) if read > 0 => read,
            _ => return,
        };
        let arrived = Instant::now();
        if line.wait_for(|line| *line != Line::Held).await.is_err() {
            return;
        }
        let now = *line.borrow();
        if let Line::Slow(delay) = now {
            sleep_until(arrived + delay).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
