//! What is started: a new event, one that is due, and what has to be read again for that.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use evoke_eventbus::subscription::ledger::{Ledger, Millis};
use futures_util::future::BoxFuture;

use super::Engine;
use crate::subscription::again;
use crate::subscription::flight::{Flight, Place, Stage, fly};

/// Events read again at once.
const AGAIN: usize = 64;
/// How long until a failed re-read is tried again.
const AGAIN_DELAY: Duration = Duration::from_secs(1);
/// After a delivery that took its time, so many are not expected to be done at once.
const PATIENCE: u8 = u8::MAX;

impl Engine {
    /// Starts a delivery. One that is done at once never becomes a task or an entry of the ledger.
    pub(super) fn launch(&mut self, mut flight: Flight, cx: &mut Context<'_>) {
        let (place, open, recorded) = (flight.place, flight.open, flight.recorded);
        (flight.started, flight.epoch) = (self.now, self.losses.len());
        if !matches!(flight.stage, Stage::Letter(_)) {
            self.pace.started(self.now);
        }
        let mut under_way: BoxFuture<'static, _> = Box::pin(fly(Arc::clone(&self.route), flight));
        if self.patience > 0 {
            self.patience -= 1;
        } else {
            match under_way.as_mut().poll(cx) {
                Poll::Ready((flight, landing)) => return self.landed(flight, landing),
                Poll::Pending => self.patience = PATIENCE,
            }
        }
        if !recorded {
            self.changes.push((place, Some(open)));
        }
        self.flights.push(under_way);
    }

    /// Starts what is due, and reads again what has to be for that.
    pub(super) fn start_due(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.room() > 0
            && self.shelf.has_due()
            && self.pace.permits(self.now)
            && let Some(flight) = self.shelf.start(self.now)
        {
            self.launch(flight, cx);
            moved = true;
        }
        if self.again.is_none() && self.room() > 0 && !self.shelf.has_due() {
            let places = self.shelf.absent(self.room().min(AGAIN));
            if let Some(first) = places.first()
                && let Some(partition) = self.partitions.get(first.input)
            {
                let (input, bus) = (first.input, Arc::clone(&self.route.bus));
                // Nothing that was judged is newer.
                let seen = self.book.view(|pages| pages.ledger(input).map(Ledger::seen));
                let seen = seen.filter(|seen| *seen > Millis(0)).unwrap_or(Millis(u64::MAX));
                let found = again::events(bus, partition.clone(), places.iter().map(|place| place.at).collect(), seen);
                let epoch = self.losses.len();
                self.again = Some(Box::pin(async move { (input, epoch, found.await) }));
                moved |= self.take_again(cx);
            }
        }
        moved
    }

    pub(super) fn take_again(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Poll::Ready((input, epoch, mut found))) = self.again.as_mut().map(|again| again.as_mut().poll(cx))
        else {
            return false;
        };
        self.again = None;
        if let Some(error) = &found.error {
            tracing::warn!(subscriber = %self.route.id, %error, "cannot read events that wait for a retry, trying again");
        }
        // What was at these positions is forgotten, and another event may be there that is none of this.
        found.events.retain(|(at, _)| !self.is_lost(Place { input, at: *at }, epoch));
        found.later.retain(|at| !self.is_lost(Place { input, at: *at }, epoch));
        found.lost.retain(|at| !self.is_lost(Place { input, at: *at }, epoch));
        for (at, event) in found.events {
            let (event, origin) = self.prepared(event);
            self.shelf.fetched(Place { input, at }, event, origin);
        }
        for at in found.later {
            self.shelf.postpone(Place { input, at }, self.now + AGAIN_DELAY);
        }
        let lost: Vec<_> = found.lost.into_iter().map(|at| Place { input, at }).collect();
        self.lose(input, &lost, 0, "the bus does not have them any more, and they waited for a retry");
        true
    }
}
