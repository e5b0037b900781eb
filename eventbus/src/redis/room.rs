//! Who may publish now: bytes of the streams under `maxBytes`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};

/// What a stream takes for an entry beside its fields, about.
const ENTRY_BYTES: u64 = 48;

/// How many bytes all streams together hold, as last measured and with what was published since.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) max: Option<u64>,
    measured: AtomicU64,
    published: AtomicU64,
    /// Streams that the server refuses to append to.
    refused: AtomicUsize,
    changed: Notify,
    measure: Notify,
    measuring: Mutex<()>,
}

impl Room {
    pub(super) fn new(max: Option<u64>) -> Self {
        Self {
            max,
            measured: AtomicU64::new(0),
            published: AtomicU64::new(0),
            refused: AtomicUsize::new(0),
            changed: Notify::new(),
            measure: Notify::new(),
            measuring: Mutex::new(()),
        }
    }

    /// What an event of so many bytes is taken to need.
    pub(super) fn need(bytes: usize) -> u64 {
        bytes as u64 + ENTRY_BYTES
    }

    pub(super) fn used(&self) -> u64 {
        self.measured.load(Ordering::Relaxed).saturating_add(self.published.load(Ordering::Relaxed))
    }

    /// Takes `bytes` if they fit below the limit and an eighth of it for what is `own`. Of what is larger than a quarter of the limit,
    /// that much has to fit: streams are never empty to the last byte.
    pub(super) fn take(&self, bytes: u64, own: bool) -> bool {
        if !own && self.refused.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let limit = self.max.map_or(u64::MAX, |max| max.saturating_add(if own { max / 8 } else { 0 }));
        let needed = self.max.map_or(bytes, |max| bytes.min(max / 4));
        let fits = self.used().saturating_add(needed) <= limit;
        if fits {
            self.published.fetch_add(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Waits until nobody else measures. To be held from [`Room::before`] to [`Room::measured`]: of two who measure at once, both
    /// would take away what was published before.
    pub(super) async fn measuring(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.measuring.lock().await
    }

    /// What was published until now; to be given to [`Room::measured`].
    pub(super) fn before(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// The streams hold so much, with all that was published `before`.
    pub(super) fn measured(&self, bytes: u64, before: u64) {
        self.measured.store(bytes, Ordering::Relaxed);
        // Saturating: a count that goes below nothing would be one that no limit is above.
        let less = |published: u64| Some(published.saturating_sub(before));
        self.published.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_default();
        self.changed.notify_waiters();
    }

    /// Completes at the next change after it was made.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Has the streams measured now.
    pub(super) fn ask(&self) {
        self.measure.notify_one();
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&self) {
        self.measure.notified().await;
    }

    /// One more stream is refused, until the guard is dropped.
    pub(super) fn refuse(self: &Arc<Self>) -> Refused {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Refused(self.clone())
    }
}

/// See [`Room::refuse`].
#[derive(Debug)]
pub(super) struct Refused(Arc<Room>);

impl Drop for Refused {
    fn drop(&mut self) {
        self.0.refused.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_was_measured_and_published_since() {
        let room = Arc::new(Room::new(Some(800)));
        assert!(room.take(700, false));
        assert!(!room.take(200, false));
        assert!(room.take(200, true), "an eighth more for the bus's own");
        let before = room.before();
        assert!(!room.take(1, false));
        room.measured(100, before);
        assert_eq!(room.used(), 100);
        let refused = room.refuse();
        assert!(!room.take(1, false) && room.take(1, true));
        drop(refused);
        assert!(room.take(1, false));
    }
}
