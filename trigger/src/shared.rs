//! What the subscribers of one Trigger share: the paths they read, and the events they read lately.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use evoke_eventbus::event::Event;
use parking_lot::Mutex;

use crate::condition::Condition;
use crate::json::Tree;
use crate::reading::Reading;

/// How many events are remembered: as many as a lane judges before the next one has its turn.
const EVENTS: usize = 1024;
/// How many bytes of events are remembered.
const BYTES: usize = 1024 * 1024;

/// The readings that the subscribers of one Trigger share. Each event's data is parsed once for all of them, as long as they
/// read it at about the same time, and by each for itself otherwise.
#[derive(Debug)]
pub(crate) struct Shared {
    tree: Arc<Tree>,
    memo: Option<Mutex<Memo>>,
}

#[derive(Debug, Default)]
struct Memo {
    /// By the place of the event in memory, which the reading keeps from being used for another.
    readings: HashMap<(usize, usize), Arc<Reading>>,
    order: VecDeque<(usize, usize)>,
    bytes: usize,
    used: bool,
}

impl Shared {
    /// What `conditions` share.
    pub(crate) fn new<'a>(conditions: impl Iterator<Item = &'a Condition> + Clone) -> Self {
        let tree = Tree::new(conditions.clone().flat_map(|c| c.paths().iter().map(Vec::as_slice)));
        let shares = conditions.filter(|condition| condition.reads_data()).count() > 1;
        Self { tree: Arc::new(tree), memo: shares.then(Mutex::default) }
    }

    /// The paths of all of them.
    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The reading of an event: the one that another subscriber made of it, or a new one.
    pub(crate) fn reading(&self, event: &Event) -> Arc<Reading> {
        let Some(memo) = &self.memo else { return Arc::new(Reading::new(event.clone())) };
        let key = (event.frame().as_ptr() as usize, event.encoded_len());
        let mut memo = memo.lock();
        memo.used = true;
        if let Some(reading) = memo.readings.get(&key) {
            return Arc::clone(reading);
        }
        let reading = Arc::new(Reading::new(event.clone()));
        if event.encoded_len() <= BYTES / 4 {
            memo.insert(key, Arc::clone(&reading));
        }
        reading
    }

    /// True when events are remembered at all.
    pub(crate) fn remembers(&self) -> bool {
        self.memo.is_some()
    }

    /// Forgets everything unless it was used since the last call, so that an idle Trigger holds no events.
    pub(crate) fn sweep(&self) {
        let Some(memo) = &self.memo else { return };
        let mut memo = memo.lock();
        if !std::mem::take(&mut memo.used) && !memo.order.is_empty() {
            *memo = Memo::default();
        }
    }
}

impl Memo {
    fn insert(&mut self, key: (usize, usize), reading: Arc<Reading>) {
        self.bytes += key.1;
        self.readings.insert(key, reading);
        self.order.push_back(key);
        while self.order.len() > EVENTS || self.bytes > BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            self.readings.remove(&oldest);
            self.bytes -= oldest.1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: usize, data: usize) -> Event {
        Event::builder(id.to_string(), "/s", "t").data("x".repeat(data)).build().unwrap()
    }

    fn shared(conditions: &[&str]) -> Shared {
        let conditions: Vec<_> = conditions.iter().map(|text| Condition::compile(text, &[]).unwrap()).collect();
        Shared::new(conditions.iter())
    }

    #[test]
    fn subscribers_get_the_same_reading_of_an_event() {
        let shared = shared(&["event.data.a == 1", "event.data.b == 2"]);
        let one = event(1, 10);
        let reading = shared.reading(&one);
        assert!(Arc::ptr_eq(&reading, &shared.reading(&one.clone())));
        assert!(!Arc::ptr_eq(&reading, &shared.reading(&event(1, 10))));
        shared.sweep();
        assert!(Arc::ptr_eq(&reading, &shared.reading(&one)));
        shared.sweep();
        shared.sweep();
        assert!(!Arc::ptr_eq(&reading, &shared.reading(&one)));
    }

    #[test]
    fn little_is_remembered() {
        let shared = shared(&["event.data.a == 1", "event.data.b == 2"]);
        let events: Vec<_> = (0..2_000).map(|id| event(id, 600)).collect();
        events.iter().for_each(|event| drop(shared.reading(event)));
        let memo = shared.memo.as_ref().unwrap().lock();
        assert_eq!((memo.order.len(), memo.readings.len()), (EVENTS, EVENTS));
        drop(memo);
        events.iter().for_each(|e| drop(shared.reading(&event(0, 4_000 + e.encoded_len() % 7))));
        let memo = shared.memo.as_ref().unwrap().lock();
        assert!(memo.bytes <= BYTES && memo.order.len() == memo.readings.len());
        assert_eq!(memo.bytes, memo.order.iter().map(|(_, length)| length).sum::<usize>());
    }

    #[test]
    fn one_reader_of_data_shares_with_nobody() {
        assert!(shared(&["event.data.a == 1", "event.type == 'x'"]).memo.is_none());
    }
}
