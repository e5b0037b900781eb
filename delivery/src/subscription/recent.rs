//! The events that a subscription has delivered a short time ago, so that a repeat of one is not delivered: known by their `source` and
//! `id` within one partition, where both halves of a repeat land, and for a window of append time.
//!
//! Bounded in count, and each has one size: beyond it the oldest are forgotten early, which costs repeats and never an event.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Duration;

use evoke_api::limits;
use evoke_eventbus::bus::Record;
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::Millis;
use prometheus::IntCounter;

/// What an event is known by: two hashes with keys of this process, so that no sender can make up an event that hides another's.
type Key = [u64; 2];

/// See the module.
#[derive(Debug)]
pub(super) struct Recent {
    window: Duration,
    limit: usize,
    hashers: [RandomState; 2],
    inputs: Vec<Seen>,
    forgotten: IntCounter,
}

/// The events of one input.
#[derive(Debug, Default)]
struct Seen {
    times: HashMap<Key, Millis>,
    /// From the oldest on; also those that were taken back since.
    order: VecDeque<(Millis, Key)>,
    is_full: bool,
}

impl Recent {
    /// Nothing is known yet. `forgotten` counts what is forgotten before its window is over.
    pub(super) fn new(window: Duration, inputs: usize, forgotten: IntCounter) -> Self {
        let limit = (limits::REMEMBERED_EVENTS / inputs.max(1)).max(1);
        let hashers = [RandomState::new(), RandomState::new()];
        Self { window, limit, hashers, inputs: (0..inputs).map(|_| Seen::default()).collect(), forgotten }
    }

    /// How long an event is remembered.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// True for a repeat of an event that is remembered; any other is remembered from now on.
    pub(super) fn repeats(&mut self, input: usize, record: &Record) -> bool {
        let (key, at) = (self.key(&record.event), Millis::from(record.appended));
        let Some(seen) = self.inputs.get_mut(input) else { return false };
        seen.expire(at, self.window);
        match seen.times.entry(key) {
            Entry::Occupied(_) => return true,
            Entry::Vacant(vacant) => vacant.insert(at),
        };
        seen.order.push_back((at, key));
        if seen.order.len() > self.limit {
            seen.pop();
            self.forgotten.inc();
            if !std::mem::replace(&mut seen.is_full, true) {
                let remembered = self.limit;
                tracing::warn!(
                    remembered,
                    "too many events for the deduplicationWindow: the oldest are forgotten early"
                );
            }
        }
        false
    }

    /// An event became a dead letter: the next of its kind is delivered.
    pub(super) fn forget(&mut self, input: usize, event: &Event) {
        let key = self.key(event);
        if let Some(seen) = self.inputs.get_mut(input) {
            seen.times.remove(&key);
        }
    }

    /// The log is not what it was: nothing that is remembered counts any more.
    pub(super) fn clear(&mut self) {
        self.inputs.iter_mut().for_each(|seen| *seen = Seen::default());
    }

    fn key(&self, event: &Event) -> Key {
        self.hashers.each_ref().map(|hasher| hasher.hash_one((event.source(), event.id())))
    }
}

impl Seen {
    fn expire(&mut self, now: Millis, window: Duration) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) > window) {
            self.pop();
            self.is_full = false;
        }
    }

    fn pop(&mut self) {
        if let Some((at, key)) = self.order.pop_front()
            && self.times.get(&key) == Some(&at)
        {
            self.times.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use evoke_eventbus::bus::Position;

    use super::*;

    fn recent(window: u64, inputs: usize) -> Recent {
        Recent::new(Duration::from_millis(window), inputs, IntCounter::new("x", "x").unwrap())
    }

    fn record(source: &str, id: &str, millis: u64) -> Record {
        let event = Event::builder(id, source, "t").build().unwrap();
        Record::new(Position(0), Millis(1_000_000 + millis).to_system(), event)
    }

    #[test]
    fn a_repeat_is_one_of_the_same_source_id_and_partition_within_the_window() {
        let mut recent = recent(100, 2);
        let mut repeats = |input, source, id, at| recent.repeats(input, &record(source, id, at));
        assert!(!repeats(0, "/a", "1", 0));
        assert!(repeats(0, "/a", "1", 1));
        assert!(!repeats(0, "/b", "1", 1) && !repeats(0, "/a", "2", 1) && !repeats(1, "/a", "1", 1));
        // The two are not told apart by where the one ends and the other begins.
        assert!(!repeats(0, "/ab", "c", 2) && !repeats(0, "/a", "bc", 2));
        assert!(repeats(0, "/a", "1", 100), "counted from the one that was delivered, to the end of the window");
        assert!(!repeats(0, "/a", "1", 101));
        assert!(repeats(0, "/a", "1", 201));
    }

    #[test]
    fn what_became_a_dead_letter_may_come_again() {
        let mut recent = recent(100, 1);
        assert!(!recent.repeats(0, &record("/a", "1", 0)));
        recent.forget(0, &record("/a", "1", 0).event);
        assert!(!recent.repeats(0, &record("/a", "1", 50)));
        // The first one's time is over; that of the second is not.
        assert!(recent.repeats(0, &record("/a", "1", 120)));
        recent.clear();
        assert!(!recent.repeats(0, &record("/a", "1", 121)));
    }

    #[test]
    fn it_forgets_the_oldest_at_its_bound() {
        let mut recent = recent(1_000_000, 1);
        let count = limits::REMEMBERED_EVENTS as u64;
        for n in 0..count + 10 {
            assert!(!recent.repeats(0, &record("/a", &n.to_string(), n)));
        }
        assert_eq!((recent.inputs[0].times.len(), recent.inputs[0].order.len()), (count as usize, count as usize));
        assert_eq!(recent.forgotten.get(), 10);
        assert!(recent.repeats(0, &record("/a", "10", count + 10)));
        assert!(!recent.repeats(0, &record("/a", "9", count + 10)));
    }
}
