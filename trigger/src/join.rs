//! Which inputs count as arrived when an event is judged: OpenFunction's rules, by time of append.
//!
//! 1. An input is true or false, and is false at first.
//! 2. An event makes its inputs true.
//! 3. An input stays true for 60 s after its latest event. Nothing else makes it false, firing least of all.
//! 4. So `A && B` fires at the second of the two, and again for every further one within the window.
//!
//! The times are those of append, which a bus never lets go back within a partition: what a condition says of an event is
//! the same today and in a replay. As topics are merged, an input's latest event may lie a little after the one at hand; it
//! counts within the same span.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_eventbus::bus::Record;
use evoke_eventbus::event::Event;

use crate::json::Tree;
use crate::reading::Reading;

/// The latest event of each input.
#[derive(Debug)]
pub(crate) struct Window {
    span: Duration,
    /// What is read of the events.
    tree: Arc<Tree>,
    inputs: Box<[Latest]>,
}

#[derive(Debug)]
struct Latest {
    /// Whether anything of the event is read later.
    kept: bool,
    at: Option<SystemTime>,
    event: Option<Reading>,
}

impl Window {
    /// No input has arrived yet. Events are read along `tree`; `kept` says of each input whether its event is read beyond having
    /// arrived.
    pub(crate) fn new(span: Duration, tree: &Arc<Tree>, kept: impl IntoIterator<Item = bool>) -> Self {
        let inputs = kept.into_iter().map(|kept| Latest { kept, at: None, event: None }).collect();
        Self { span, tree: Arc::clone(tree), inputs }
    }

    /// An event of an input.
    pub(crate) fn arrive(&mut self, input: usize, record: &Record) {
        let Some(latest) = self.inputs.get_mut(input) else { return };
        // After a restart partitions are merged anew: the later one by time wins either way.
        if latest.at.is_some_and(|at| at > record.appended) {
            return;
        }
        latest.at = Some(record.appended);
        latest.event = latest.kept.then(|| Reading::new(detached(&record.event), &self.tree));
    }

    /// True when an input's latest event lies within the span around `at`, on either side.
    pub(crate) fn has_arrived(&self, input: usize, at: SystemTime) -> bool {
        self.inputs.get(input).and_then(|latest| latest.at).is_some_and(|latest| {
            let apart = latest.duration_since(at).unwrap_or_else(|earlier| earlier.duration());
            apart <= self.span
        })
    }

    /// The latest event of an input that has arrived, if it is kept.
    pub(crate) fn reading(&self, input: usize) -> Option<&Reading> {
        self.inputs.get(input)?.event.as_ref()
    }
}

/// A copy that does not keep alive the batch that an event was read with.
fn detached(event: &Event) -> Event {
    Event::from_frame(bytes::Bytes::copy_from_slice(event.frame())).unwrap_or_else(|_| event.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evoke_api::limits::JOIN_WINDOW;
    use evoke_eventbus::bus::Position;
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + millis)
    }

    fn record(millis: u64, id: &str) -> Record {
        let event = Event::builder(id, "/s", "t").build().unwrap();
        Record::new(Position(0), at(millis), event)
    }

    #[test]
    fn an_input_counts_for_a_minute_on_either_side() {
        let mut window = Window::new(JOIN_WINDOW, &Arc::default(), [false]);
        assert!(!window.has_arrived(0, at(0)));
        window.arrive(0, &record(100_000, "1"));
        for (millis, expected) in [(39_999, false), (40_000, true), (100_000, true), (160_000, true), (160_001, false)]
        {
            assert_eq!(window.has_arrived(0, at(millis)), expected, "{millis}");
        }
        assert!(!window.has_arrived(1, at(100_000)));
    }

    #[test]
    fn the_latest_event_is_kept_whatever_the_order_of_arrival() {
        let mut window = Window::new(JOIN_WINDOW, &Arc::default(), [true, false]);
        let id = |window: &Window| window.reading(0).map(|r| r.event().id().to_owned());
        for (millis, arriving, latest) in [(5, "a", "a"), (9, "b", "b"), (7, "c", "b"), (9, "d", "d")] {
            window.arrive(0, &record(millis, arriving));
            assert_eq!(id(&window).as_deref(), Some(latest));
        }
        window.arrive(1, &record(5, "x"));
        assert!(window.has_arrived(1, at(5)) && window.reading(1).is_none());
    }

    #[test]
    fn a_kept_event_does_not_hold_its_batch() {
        let mut window = Window::new(JOIN_WINDOW, &Arc::default(), [true]);
        let record = record(1, "1");
        window.arrive(0, &record);
        let kept = window.reading(0).unwrap().event();
        assert_eq!(*kept, record.event);
        assert_ne!(kept.frame().as_ptr(), record.event.frame().as_ptr());
    }

    /// OpenFunction, as it is told: a boolean an input, and a timer that its every event starts anew. The clock only moves when
    /// an event comes, and before an event is handled every timer that ran out has fired.
    #[derive(Default)]
    struct Handler {
        states: BTreeMap<usize, bool>,
        timers: BTreeMap<usize, u64>,
    }

    impl Handler {
        fn handle(&mut self, now: u64, input: usize) -> Vec<bool> {
            let ran_out: Vec<usize> = self.timers.iter().filter(|(_, due)| **due < now).map(|(i, _)| *i).collect();
            for input in ran_out {
                self.timers.remove(&input);
                self.states.insert(input, false);
            }
            self.states.insert(input, true);
            self.timers.insert(input, now + 60_000);
            (0..3).map(|input| self.states.get(&input).copied().unwrap_or(false)).collect()
        }
    }

    proptest! {
        #[test]
        fn follows_openfunction(steps in prop::collection::vec((0..3usize, 0..40_000u64), 1..60)) {
            let (mut handler, mut window, mut now) = (Handler::default(), Window::new(JOIN_WINDOW, &Arc::default(), [true; 3]), 0);
            for (input, pause) in steps {
                now += pause;
                let expected = handler.handle(now, input);
                window.arrive(input, &record(now, "x"));
                let ours: Vec<bool> = (0..3).map(|input| window.has_arrived(input, at(now))).collect();
                prop_assert_eq!(ours, expected, "at {}", now);
            }
        }

        /// Whatever order the partitions of a topic are merged in, the window that comes of it is the same.
        #[test]
        fn the_order_of_merging_does_not_matter(mut times in prop::collection::vec(0..200_000u64, 1..20), seed in any::<u64>()) {
            let judge = |times: &[u64]| {
                let mut window = Window::new(JOIN_WINDOW, &Arc::default(), [true]);
                times.iter().for_each(|t| window.arrive(0, &record(*t, &t.to_string())));
                let latest = window.reading(0).map(|r| r.event().id().to_owned());
                (latest, (0..200).map(|s| window.has_arrived(0, at(s * 1_000))).collect::<Vec<_>>())
            };
            let one = judge(&times);
            let len = times.len();
            for i in 0..len {
                times.swap(i, (seed as usize).wrapping_mul(31).wrapping_add(i * 7) % len);
            }
            prop_assert_eq!(judge(&times), one);
        }
    }
}
