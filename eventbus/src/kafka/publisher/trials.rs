//! Partitions in which a client has stored nothing yet.
//!
//! Brokers see by its number that a batch is missing before another only once they have some batch of this client in the partition. Until
//! then the batches behind one that they refuse would be stored. So one record goes first, and the others wait until it is stored.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::kafka::cluster::Place;

/// How a partition is tried.
enum Trial<T> {
    Open {
        waiting: VecDeque<T>,
        /// Whether the record is stored, once that is known.
        over: Option<bool>,
    },
    Passed,
}

/// See the module.
pub(super) struct Trials<T> {
    partitions: Mutex<HashMap<Place, Trial<T>>>,
    /// Some partition is tried.
    open: AtomicBool,
    /// Some trial is over.
    over: AtomicBool,
}

impl<T> Default for Trials<T> {
    fn default() -> Self {
        Self { partitions: Mutex::default(), open: AtomicBool::new(false), over: AtomicBool::new(false) }
    }
}

impl<T> Trials<T> {
    /// Calls `go` with those records of a partition that may go now, in their order. The others wait.
    pub(super) fn admit(&self, to: &Place, records: impl IntoIterator<Item = T>, mut go: impl FnMut(T)) {
        let mut records = records.into_iter();
        let mut partitions = self.partitions.lock();
        match partitions.get_mut(to) {
            Some(Trial::Open { waiting, .. }) => waiting.extend(records),
            Some(Trial::Passed) => {
                drop(partitions);
                records.for_each(go);
            }
            None => {
                let Some(first) = records.next() else { return };
                partitions.insert(to.clone(), Trial::Open { waiting: records.collect(), over: None });
                self.open.store(true, Ordering::Release);
                drop(partitions);
                go(first);
            }
        }
    }

    /// The record that a partition is tried with is stored, or has failed; says nothing of a partition that is not tried.
    pub(super) fn tried(&self, to: &Place, stored: bool) {
        if !self.is_open() {
            return;
        }
        if let Some(Trial::Open { over, .. }) = self.partitions.lock().get_mut(to) {
            *over = Some(stored);
            self.over.store(true, Ordering::Release);
        }
    }

    /// Calls `go` with what may go since a trial is over: with all that waited, or, where the record failed, with the next one to try.
    /// It must not call back here.
    pub(super) fn release(&self, mut go: impl FnMut(T)) {
        if !self.over.swap(false, Ordering::AcqRel) {
            return;
        }
        // Held for as long as it takes: who comes later is not to come first.
        let mut partitions = self.partitions.lock();
        let mut open = false;
        partitions.retain(|_, trial| {
            let Trial::Open { waiting, over } = trial else { return true };
            match over.take() {
                None => {
                    open = true;
                    true
                }
                Some(true) => {
                    waiting.drain(..).for_each(&mut go);
                    *trial = Trial::Passed;
                    true
                }
                Some(false) => match waiting.pop_front() {
                    Some(next) => {
                        open = true;
                        go(next);
                        true
                    }
                    None => false,
                },
            }
        });
        self.open.store(open, Ordering::Release);
    }

    /// Whether some partition is tried.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.partitions.lock().values().all(|trial| match trial {
            Trial::Open { waiting, .. } => waiting.is_empty(),
            Trial::Passed => true,
        })
    }

    /// Ends all trials, and gives what waits.
    pub(super) fn end(&self) -> Vec<T> {
        let trials = std::mem::take(&mut *self.partitions.lock());
        let waiting = trials.into_values().filter_map(|trial| match trial {
            Trial::Open { waiting, .. } => Some(waiting),
            Trial::Passed => None,
        });
        waiting.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> Place {
        ("orders".into(), partition)
    }

    fn admitted(trials: &Trials<u32>, partition: i32, records: std::ops::Range<u32>) -> Vec<u32> {
        let mut gone = Vec::new();
        trials.admit(&place(partition), records, |record| gone.push(record));
        gone
    }

    fn released(trials: &Trials<u32>) -> Vec<u32> {
        let mut gone = Vec::new();
        trials.release(|record| gone.push(record));
        gone
    }

    #[test]
    fn one_record_goes_first_and_the_others_follow_in_order() {
        let trials = Trials::default();
        assert_eq!(admitted(&trials, 0, 0..3), [0]);
        assert!(admitted(&trials, 0, 3..5).is_empty());
        assert_eq!(admitted(&trials, 1, 10..11), [10], "another partition");
        assert!(released(&trials).is_empty() && trials.is_open() && !trials.is_empty());
        trials.tried(&place(0), true);
        assert_eq!(released(&trials), [1, 2, 3, 4]);
        assert_eq!(admitted(&trials, 0, 5..7), [5, 6]);
        assert!(trials.is_open() && trials.is_empty(), "the other partition is still tried");
        trials.tried(&place(1), true);
        assert!(released(&trials).is_empty() && !trials.is_open());
    }

    #[test]
    fn where_a_record_fails_the_next_one_is_tried() {
        let trials = Trials::default();
        assert_eq!(admitted(&trials, 0, 0..3), [0]);
        trials.tried(&place(0), false);
        assert_eq!(released(&trials), [1]);
        trials.tried(&place(0), false);
        assert_eq!(released(&trials), [2]);
        trials.tried(&place(0), false);
        assert!(released(&trials).is_empty() && !trials.is_open());
        assert_eq!(admitted(&trials, 0, 3..5), [3], "tried anew");
        assert_eq!(trials.end(), [4]);
        assert!(trials.is_empty());
    }
}
