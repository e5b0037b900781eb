//! What a subscription can be asked while it runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use evoke_eventbus::bus::{Partition, Position};
use evoke_eventbus::subscription::job::Counts;
use evoke_eventbus::subscription::recorder::Book;
use parking_lot::Mutex;

/// Follows one subscription, also after it has ended. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    opened: OnceLock<(Arc<Book>, Vec<Partition>)>,
    in_flight: AtomicUsize,
    parked: AtomicUsize,
    stalled: AtomicBool,
    last_error: Mutex<Option<Arc<str>>>,
    counts: Mutex<Counts>,
    complete: AtomicBool,
}

/// A subscription at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// False until it reads, which takes the bus.
    pub running: bool,
    /// Where it goes on, and how many events it has evaluated, in each partition of its topics.
    pub positions: Vec<(Partition, Position, u64)>,
    /// Deliveries under way.
    pub in_flight: usize,
    /// Matched events put aside.
    pub parked: usize,
    /// True while it reads nothing since too many events are put aside.
    pub stalled: bool,
    /// The last failure, cleared by a success.
    pub last_error: Option<Arc<str>>,
}

impl Status {
    /// How it is now.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.0;
        let positions = shared.opened.get().map(|(book, partitions)| {
            book.view(|pages| {
                let ledgers = (0..).map_while(|input| pages.ledger(input));
                partitions.iter().zip(ledgers).map(|(p, ledger)| (p.clone(), ledger.upto(), ledger.count())).collect()
            })
        });
        Snapshot {
            running: positions.is_some(),
            positions: positions.unwrap_or_default(),
            in_flight: shared.in_flight.load(Ordering::Relaxed),
            parked: shared.parked.load(Ordering::Relaxed),
            stalled: shared.stalled.load(Ordering::Relaxed),
            last_error: shared.last_error.lock().clone(),
        }
    }

    /// What came of its events since it was started.
    pub fn counts(&self) -> Counts {
        *self.0.counts.lock()
    }

    /// True once a job has nothing left to do.
    pub fn is_complete(&self) -> bool {
        self.0.complete.load(Ordering::Acquire)
    }

    pub(super) fn count(&self, counts: Counts) {
        *self.0.counts.lock() = counts;
    }

    pub(super) fn complete(&self) {
        self.0.complete.store(true, Ordering::Release);
    }

    pub(super) fn opened(&self, book: &Arc<Book>, partitions: Vec<Partition>) {
        // A lane opens its subscription once.
        _ = self.0.opened.set((Arc::clone(book), partitions));
    }

    pub(super) fn set(&self, in_flight: usize, parked: usize, stalled: bool) {
        self.0.in_flight.store(in_flight, Ordering::Relaxed);
        self.0.parked.store(parked, Ordering::Relaxed);
        self.0.stalled.store(stalled, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, cause: &str) {
        let mut last = self.0.last_error.lock();
        if last.as_deref() != Some(cause) {
            *last = Some(cause.into());
        }
    }

    pub(super) fn works(&self) {
        *self.0.last_error.lock() = None;
    }
}
