//! An outlet for tests, which settles when it is told to.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::source::{Arrival, Outlet, Settled, Unsettled};

/// What becomes of a batch.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Settled,
    Unsettled(&'static str),
}

/// Accepts everything, and settles at once or when told to.
pub(crate) struct TestOutlet {
    batches: Mutex<Vec<Batch>>,
    count: watch::Sender<usize>,
    at_once: Mutex<bool>,
    refusal: Mutex<Option<&'static str>>,
}

struct Batch {
    arrivals: Vec<Arrival>,
    settle: Option<oneshot::Sender<Result<(), Unsettled>>>,
}

impl TestOutlet {
    pub(crate) fn new() -> Arc<Self> {
        let (batches, refusal) = (Mutex::default(), Mutex::default());
        Arc::new(Self { batches, count: watch::channel(0).0, at_once: Mutex::new(false), refusal })
    }

    /// Settles all that waits and all that comes.
    pub(crate) fn settle_all(&self) {
        *self.at_once.lock() = true;
        let waiting = self.batches.lock().len();
        for index in 0..waiting {
            self.settle(index, Answer::Settled);
        }
    }

    /// Decides about one batch, unless that was done.
    pub(crate) fn settle(&self, batch: usize, answer: Answer) {
        let answer = match answer {
            Answer::Settled => Ok(()),
            Answer::Unsettled(why) => Err(Unsettled(why.into())),
        };
        if let Some(settle) = self.batches.lock()[batch].settle.take() {
            settle.send(answer).ok();
        }
    }

    /// Refuses what comes from now on.
    pub(crate) fn refuse(&self, why: &'static str) {
        *self.refusal.lock() = Some(why);
    }

    /// Accepts again what comes from now on.
    pub(crate) fn relent(&self) {
        *self.refusal.lock() = None;
    }

    /// Waits until this many batches were accepted.
    pub(crate) async fn batches(&self, count: usize) -> Vec<Vec<Arrival>> {
        self.count.subscribe().wait_for(|there| *there >= count).await.unwrap();
        self.batches.lock().iter().map(|batch| batch.arrivals.clone()).collect()
    }
}

impl Outlet for TestOutlet {
    fn accept(&self, arrivals: Vec<Arrival>) -> BoxFuture<'_, Result<Settled, Unsettled>> {
        async move {
            if let Some(why) = *self.refusal.lock() {
                return Err(Unsettled(why.into()));
            }
            let (settle, settled) = oneshot::channel();
            let settle = if *self.at_once.lock() {
                settle.send(Ok(())).ok();
                None
            } else {
                Some(settle)
            };
            let mut batches = self.batches.lock();
            batches.push(Batch { arrivals, settle });
            self.count.send_replace(batches.len());
            Ok(async move { settled.await.unwrap_or(Err(Unsettled("the outlet is gone".into()))) }.boxed())
        }
        .boxed()
    }

    fn has_room(&self) -> bool {
        true
    }

    fn max_event_bytes(&self) -> usize {
        1024 * 1024
    }
}
