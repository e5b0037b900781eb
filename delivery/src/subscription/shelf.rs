//! Matched events that are not under way: those that wait for a retry, and those that wait behind another one of their key.
//! Bounded in count by the lane, in bytes here: beyond them an event is kept by its position alone and read again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::Open;
use tokio::time::Instant;

use super::flight::{Flight, Place, Stage};

/// Events kept with their data, in bytes.
const PAYLOAD_BYTES: usize = 1 << 20;

/// An event that was put aside.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) open: Open,
    stage: Stage,
    event: Option<Event>,
    origin: Option<Arc<str>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until then.
    Waiting(Instant),
    /// Until the one before it is finished.
    Behind,
    /// May start.
    Due,
    /// Is being read again.
    Fetching,
}

/// The events that are put aside.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    asides: HashMap<Place, Aside>,
    timers: BTreeSet<(Instant, Place)>,
    due: VecDeque<Place>,
    /// Due, but to be read again first.
    absent: BTreeSet<Place>,
    bytes: usize,
}

impl Shelf {
    pub(super) fn len(&self) -> usize {
        self.asides.len()
    }

    /// True while an event may start.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// When the next event is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Puts an event aside until `due`; with its data if `keep` and there is room.
    pub(super) fn wait(&mut self, flight: Flight, due: Instant, keep: bool) {
        self.timers.insert((due, flight.place));
        self.put(flight, State::Waiting(due), keep);
    }

    /// Puts an event aside until [`Shelf::release`].
    pub(super) fn behind(&mut self, flight: Flight) {
        self.put(flight, State::Behind, true);
    }

    fn put(&mut self, flight: Flight, state: State, keep: bool) {
        let Flight { place, event, open, origin, mut stage, .. } = flight;
        if stage.held() > 0 && self.bytes + stage.held() > PAYLOAD_BYTES {
            // What the sink answered has no room here: it is asked again.
            stage = Stage::Sink;
        }
        self.bytes += stage.held();
        let keep = keep && self.bytes + event.encoded_len() <= PAYLOAD_BYTES;
        let event = keep.then(|| detached(&event));
        self.bytes += event.as_ref().map_or(0, Event::encoded_len);
        self.asides.insert(place, Aside { open, stage, event, origin, state });
    }

    /// Takes in what a ledger had open: waiting until `due`, or behind another one.
    pub(super) fn restore(&mut self, place: Place, open: Open, due: Option<Instant>) {
        let state = due.map_or(State::Behind, State::Waiting);
        if let Some(due) = due {
            self.timers.insert((due, place));
        }
        self.asides.insert(place, Aside { open, stage: Stage::Sink, event: None, origin: None, state });
    }

    /// Lets an event go that waited behind another one.
    pub(super) fn release(&mut self, place: Place) {
        if let Some(aside) = self.asides.get_mut(&place)
            && aside.state == State::Behind
        {
            aside.state = State::Due;
            self.line_up(place);
        }
    }

    /// Moves what is due by `now` into the line.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(due, place)) = self.timers.first().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, place));
            if let Some(aside) = self.asides.get_mut(&place) {
                aside.state = State::Due;
                self.line_up(place);
            }
        }
    }

    fn line_up(&mut self, place: Place) {
        match self.asides.get(&place) {
            Some(aside) if aside.event.is_some() => self.due.push_back(place),
            Some(_) => {
                self.absent.insert(place);
            }
            None => {}
        }
    }

    /// The next event that may start, with its data.
    pub(super) fn start(&mut self, now: Instant) -> Option<Flight> {
        loop {
            let place = self.due.pop_front()?;
            // What stood in the line may be gone, and something else at its place that is not due.
            if self.asides.get(&place).is_some_and(|aside| aside.state == State::Due && aside.event.is_some())
                && let Some(Aside { open, stage, event: Some(event), origin, .. }) = self.asides.remove(&place)
            {
                self.bytes -= event.encoded_len() + stage.held();
                return Some(Flight { place, event, open, recorded: true, stage, started: now, epoch: 0, origin });
            }
        }
    }

    /// Up to `max` events of one input that may start once they were read again, in order.
    pub(super) fn absent(&mut self, max: usize) -> Vec<Place> {
        let Some(input) = self.absent.first().map(|place| place.input) else { return Vec::new() };
        let places: Vec<_> = self.absent.iter().take_while(|place| place.input == input).take(max).copied().collect();
        for place in &places {
            self.absent.remove(place);
            if let Some(aside) = self.asides.get_mut(place) {
                aside.state = State::Fetching;
            }
        }
        places
    }

    /// An event was read again.
    pub(super) fn fetched(&mut self, place: Place, event: Event, origin: Option<Arc<str>>) {
        if let Some(aside) = self.asides.get_mut(&place)
            && aside.state == State::Fetching
        {
            self.bytes += event.encoded_len();
            (aside.event, aside.origin, aside.state) = (Some(event), origin, State::Due);
            self.due.push_back(place);
        }
    }

    /// An event could not be read again yet.
    pub(super) fn postpone(&mut self, place: Place, until: Instant) {
        if let Some(aside) = self.asides.get_mut(&place)
            && aside.state == State::Fetching
        {
            aside.state = State::Waiting(until);
            self.timers.insert((until, place));
        }
    }

    /// Forgets an event.
    pub(super) fn remove(&mut self, place: Place) -> Option<Open> {
        let aside = self.asides.remove(&place)?;
        self.bytes -= aside.event.as_ref().map_or(0, Event::encoded_len) + aside.stage.held();
        if let State::Waiting(due) = aside.state {
            self.timers.remove(&(due, place));
        }
        self.absent.remove(&place);
        Some(aside.open)
    }

    /// The events of one input for which `is` holds.
    pub(super) fn places(&self, input: usize, is: impl Fn(Place) -> bool) -> Vec<Place> {
        self.asides.keys().filter(|place| place.input == input && is(**place)).copied().collect()
    }
}

/// The event in a buffer of its own, so that it does not keep all that was read with it.
pub(super) fn detached(event: &Event) -> Event {
    Event::from_frame(bytes::Bytes::copy_from_slice(event.frame())).unwrap_or_else(|_| event.clone())
}
