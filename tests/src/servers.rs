//! Real servers, each a process of its own on free ports with its data in a temporary folder.

pub mod bus;
pub mod kafka;
pub mod mqtt;
pub mod nats;
pub mod redis;
pub mod tls;

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::case::Skipped;

/// A server that all tests of a run share. Started by the first that asks.
#[derive(Debug)]
pub struct Shared<S> {
    server: OnceCell<Result<Arc<S>, Skipped>>,
    stopped: Mutex<bool>,
}

impl<S> Shared<S> {
    const fn new() -> Self {
        Self { server: OnceCell::const_new(), stopped: Mutex::new(false) }
    }

    async fn get(&self, start: impl Future<Output = Result<S, Skipped>>) -> Result<Arc<S>, Skipped> {
        self.server.get_or_init(|| Box::pin(async { start.await.map(Arc::new) })).await.clone()
    }

    /// The server, if it was started, for the first caller.
    fn take(&self) -> Option<Arc<S>> {
        let mut stopped = self.stopped.lock();
        if std::mem::replace(&mut *stopped, true) {
            return None;
        }
        self.server.get().and_then(|server| server.clone().ok())
    }
}

/// Brings what has to be downloaded, once a machine, so that no test's time is spent on it.
pub async fn bring() {
    let mut brought = JoinSet::new();
    brought.spawn(kafka::bring());
    brought.spawn(nats::bring());
    // Where something goes wrong, the tests that need it try again, and fail.
    while brought.join_next().await.is_some() {}
}

/// Ends the servers that the tests of this run shared.
pub async fn stop_shared() {
    if let Some(broker) = kafka::SHARED.take() {
        broker.stop().await;
    }
    if let Some(server) = nats::SHARED.take() {
        server.kill().await;
    }
}
