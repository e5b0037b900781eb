//! What a bus has accepted and not stored yet: how much of it there may be, and whose turn it is.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// Each event counts at least this much against a queue, so that a bound in bytes is one in count too.
const EVENT_BYTES_MIN: usize = 256;

/// What is accepted and not yet stored, bounded in bytes, first come first served.
#[derive(Debug)]
pub(crate) struct Queued {
    turn: Mutex<()>,
    permits: Arc<Semaphore>,
    size: usize,
    gauge: IntGauge,
}

/// Counts a call that waits to be accepted, for as long as it lives.
pub(crate) struct Waiting<'a>(&'a IntGauge);

impl<'a> Waiting<'a> {
    pub(crate) fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A place among what is queued; freed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    permit: OwnedSemaphorePermit,
    gauge: IntGauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.sub(i64::try_from(self.permit.num_permits()).unwrap_or(i64::MAX));
    }
}

impl Queued {
    /// A queue of `size` bytes, counted in `gauge`.
    pub(crate) fn new(size: usize, gauge: &IntGauge) -> Self {
        let size = size.clamp(EVENT_BYTES_MIN, u32::MAX as usize / 2);
        Self { turn: Mutex::new(()), permits: Arc::new(Semaphore::new(size)), size, gauge: gauge.clone() }
    }

    /// What an item of so many bytes counts.
    pub(crate) fn weight(bytes: usize) -> usize {
        bytes.max(EVENT_BYTES_MIN)
    }

    /// Waits for the turn: nobody who comes later gets a place before this is dropped.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Waits for a place; what is larger than the queue takes all of it. `None` when closed.
    pub(crate) async fn place(&self, weight: usize) -> Option<Place> {
        let weight = u32::try_from(weight.min(self.size)).ok()?;
        let permit = self.permits.clone().acquire_many_owned(weight).await.ok()?;
        self.gauge.add(weight.into());
        Some(Place { permit, gauge: self.gauge.clone() })
    }
}
