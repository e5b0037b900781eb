//! Partitions of which the brokers may not know what a client has stored there.
//!
//! They see by its number that a batch is missing before another only where they remember one of this client in the partition. Where they
//! do not, because it has stored nothing there yet or nothing for long, or because the topic is another one by now, they would store the
//! batches behind one that they refuse or put off. So one record goes first, and the others wait until it is stored.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::kafka::cluster::Place;

/// How long nothing may go to a partition before it is tried again. Brokers remember for a day unless they are set otherwise
/// (`producer.id.expiration.ms`), and a trial takes no longer than one answer.
const REST: Duration = Duration::from_secs(60);

/// How a partition is tried.
enum Trial<T> {
    /// With a record that is under way; these wait for it.
    Open(VecDeque<T>),
    /// It was, and the last records went then.
    Passed(Instant),
}

/// See the module.
pub(super) struct Trials<T> {
    partitions: Mutex<HashMap<Place, Trial<T>>>,
}

impl<T> Default for Trials<T> {
    fn default() -> Self {
        Self { partitions: Mutex::default() }
    }
}

impl<T> Trials<T> {
    /// Calls `go` with those records of a partition that may go now, in their order, and with whether it is one that others wait for. The
    /// others wait.
    pub(super) fn admit(
        &self,
        now: Instant,
        to: &Place,
        records: impl IntoIterator<Item = T>,
        mut go: impl FnMut(T, bool),
    ) {
        let mut records = records.into_iter();
        let mut partitions = self.partitions.lock();
        match partitions.get_mut(to) {
            Some(Trial::Open(waiting)) => waiting.extend(records),
            Some(Trial::Passed(last)) if now.saturating_duration_since(*last) < REST => {
                *last = now;
                drop(partitions);
                records.for_each(|record| go(record, false));
            }
            _ => {
                let Some(first) = records.next() else { return };
                partitions.insert(to.clone(), Trial::Open(records.collect()));
                drop(partitions);
                go(first, true);
            }
        }
    }

    /// The record that a partition is tried with is stored: calls `go` with all that waited for it, in order. It must not call back here.
    pub(super) fn pass(&self, now: Instant, to: &Place, go: impl FnMut(T)) {
        // Held for as long as it takes: who comes later is not to come first.
        let mut partitions = self.partitions.lock();
        if let Some(Trial::Open(waiting)) = partitions.insert(to.clone(), Trial::Passed(now)) {
            waiting.into_iter().for_each(go);
        }
    }

    /// The record that a partition is tried with has failed: gives the one to try it with next. Without one it is tried no more.
    pub(super) fn another(&self, to: &Place) -> Option<T> {
        let mut partitions = self.partitions.lock();
        let Some(Trial::Open(waiting)) = partitions.get_mut(to) else { return None };
        let next = waiting.pop_front();
        if next.is_none() {
            partitions.remove(to);
        }
        next
    }

    /// A partition is not there, so that it will be another one if it ever is: gives what waits.
    pub(super) fn forget(&self, to: &Place) -> VecDeque<T> {
        match self.partitions.lock().remove(to) {
            Some(Trial::Open(waiting)) => waiting,
            Some(Trial::Passed(_)) | None => VecDeque::new(),
        }
    }

    /// How many records wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let waiting = |trial: &Trial<T>| if let Trial::Open(waiting) = trial { waiting.len() } else { 0 };
        self.partitions.lock().values().map(waiting).sum()
    }

    /// Ends all trials, and gives what waits.
    pub(super) fn end(&self) -> Vec<T> {
        let trials = std::mem::take(&mut *self.partitions.lock());
        let waiting = trials.into_values().filter_map(|trial| match trial {
            Trial::Open(waiting) => Some(waiting),
            Trial::Passed(_) => None,
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

    /// What goes of these records, and whether others wait for it.
    fn admitted(trials: &Trials<u32>, now: Instant, partition: i32, records: std::ops::Range<u32>) -> Vec<(u32, bool)> {
        let mut gone = Vec::new();
        trials.admit(now, &place(partition), records, |record, awaited| gone.push((record, awaited)));
        gone
    }

    fn passed(trials: &Trials<u32>, now: Instant, partition: i32) -> Vec<u32> {
        let mut gone = Vec::new();
        trials.pass(now, &place(partition), |record| gone.push(record));
        gone
    }

    #[test]
    fn one_record_goes_first_and_the_others_follow_in_order() {
        let (trials, now) = (Trials::default(), Instant::now());
        assert_eq!(admitted(&trials, now, 0, 0..3), [(0, true)]);
        assert!(admitted(&trials, now, 0, 3..5).is_empty());
        assert_eq!(admitted(&trials, now, 1, 10..11), [(10, true)], "another partition");
        assert_eq!(passed(&trials, now, 0), [1, 2, 3, 4]);
        assert_eq!(admitted(&trials, now, 0, 5..7), [(5, false), (6, false)]);
        assert!(passed(&trials, now, 1).is_empty() && trials.end().is_empty());
    }

    #[test]
    fn where_a_record_fails_the_next_one_is_tried() {
        let (trials, now) = (Trials::default(), Instant::now());
        assert_eq!(admitted(&trials, now, 0, 0..3), [(0, true)]);
        assert_eq!(trials.another(&place(0)), Some(1));
        assert!(admitted(&trials, now, 0, 3..4).is_empty());
        assert_eq!([trials.another(&place(0)), trials.another(&place(0))], [Some(2), Some(3)]);
        assert_eq!(trials.another(&place(0)), None);
        assert_eq!(admitted(&trials, now, 0, 4..6), [(4, true)], "tried anew");
        assert_eq!(trials.end(), [5]);
    }

    #[test]
    fn a_partition_that_rested_or_was_not_there_is_tried_again() {
        let (trials, mut now) = (Trials::default(), Instant::now());
        admitted(&trials, now, 0, 0..1);
        passed(&trials, now, 0);
        for _ in 0..3 {
            now += REST - Duration::from_nanos(1);
            assert_eq!(admitted(&trials, now, 0, 1..2), [(1, false)], "it does not rest");
        }
        now += REST;
        assert_eq!(admitted(&trials, now, 0, 2..4), [(2, true)]);
        assert_eq!(trials.forget(&place(0)), [3]);
        assert_eq!(admitted(&trials, now, 0, 4..6), [(4, true)]);
        assert_eq!(passed(&trials, now, 0), [5]);
        assert!(trials.forget(&place(0)).is_empty());
        assert_eq!(admitted(&trials, now, 0, 6..7), [(6, true)], "nothing waits, and it is not the one that it was");
    }
}
