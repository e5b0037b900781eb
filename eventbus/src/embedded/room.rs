//! Who may publish now: bytes of the log under `maxBytes`.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// How many bytes the logs of a bus hold and may hold.
#[derive(Debug)]
pub(super) struct Room {
    max: u64,
    /// Held, and promised to what is in the queues.
    used: AtomicU64,
    freed: Notify,
}

impl Room {
    pub(super) fn new(max: Option<u64>) -> Self {
        Self { max: max.unwrap_or(u64::MAX), used: AtomicU64::new(0), freed: Notify::new() }
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` if they fit below the limit and `extra`. Of what is larger than a quarter of the limit, that much has to fit: a log
    /// is never empty to its last byte, and one that waited for that would take nothing ever.
    pub(super) fn take(&self, bytes: u64, extra: u64) -> bool {
        let limit = self.max.saturating_add(extra);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let fits = used.saturating_add(bytes.min(self.max / 4)) <= limit;
                fits.then_some(used.saturating_add(bytes))
            })
            .is_ok()
    }

    /// Counts what is held already.
    pub(super) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back, and wakes who waits.
    pub(super) fn give(&self, bytes: u64) {
        // Saturating: the slack of a segment that was never cut to size is counted only once it is opened again.
        let less = |used: u64| Some(used.saturating_sub(bytes));
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_default();
        self.freed.notify_waiters();
    }

    /// Completes at the next `give` after it was made.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}
