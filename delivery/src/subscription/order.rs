//! Keeps events of one key in order: the next waits until the one before is finished.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::hash;

use super::flight::Place;
use crate::plan::Ordering;

/// The keys with an event that is not finished, and who waits behind it. Keys are known by their hash: two that share one merely
/// wait for each other.
#[derive(Debug)]
pub(super) struct Order {
    ordering: Ordering,
    keys: HashMap<u64, VecDeque<Place>>,
}

impl Order {
    pub(super) fn new(ordering: Ordering) -> Self {
        Self { ordering, keys: HashMap::new() }
    }

    /// The hash of an event's key; zero if its order does not matter.
    pub(super) fn key(&self, event: &Event) -> u64 {
        match self.ordering {
            Ordering::None => 0,
            Ordering::PartitionKey => event.partition_key().map_or(0, |key| hash(key.as_bytes()).max(1)),
        }
    }

    /// True if an event may start at once; otherwise it is noted as waiting.
    pub(super) fn enter(&mut self, key: u64, place: Place) -> bool {
        if key == 0 || self.ordering == Ordering::None {
            return true;
        }
        match self.keys.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(VecDeque::new());
                true
            }
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(place);
                false
            }
        }
    }

    /// The event at the head of its key is finished; gives back who is next.
    pub(super) fn leave(&mut self, key: u64) -> Option<Place> {
        let Entry::Occupied(mut waiting) = self.keys.entry(key) else { return None };
        let next = waiting.get_mut().pop_front();
        if next.is_none() {
            waiting.remove();
        }
        next
    }

    /// Forgets an event that is lost; gives back who is next if it was at the head of its key.
    pub(super) fn forget(&mut self, key: u64, place: Place) -> Option<Place> {
        let waiting = self.keys.get_mut(&key)?;
        match waiting.iter().position(|other| *other == place) {
            Some(index) => {
                waiting.remove(index);
                None
            }
            None => self.leave(key),
        }
    }
}
