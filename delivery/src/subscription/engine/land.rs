//! What comes of attempts: done, to be tried again, or given up.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use evoke_api::limits;
use evoke_eventbus::subscription::ledger::{Millis, Open};
use futures_util::StreamExt;

use super::Engine;
use crate::dead_letter::{self, Failure};
use crate::schedule;
use crate::subscription::errand::Errand;
use crate::subscription::flight::{Flight, Landing, Letter, Place, Setback, Stage, fly};

/// Failures for good are logged one by one up to this often.
const LETTER_LOG_INTERVAL: Duration = Duration::from_secs(10);

impl Engine {
    pub(super) fn land(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some((mut flight, landing))) = self.flights.poll_next_unpin(cx) {
            flight.recorded = true;
            self.landed(flight, landing);
            moved = true;
        }
        moved
    }

    pub(super) fn landed(&mut self, flight: Flight, landing: Landing) {
        let took = self.now.saturating_duration_since(flight.started);
        self.metrics.attempts.inc();
        self.metrics.duration.observe(took.as_secs_f64());
        tracing::debug!(
            target: "evoke::delivery",
            subscriber = %self.route.id,
            id = flight.event.id(),
            status = landing.name(),
            attempt = flight.open.attempts + 1,
            // To the microsecond.
            duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3,
            cause = landing.cause(),
            "delivery"
        );
        if self.is_lost(flight.place, flight.epoch) {
            return self.landed_too_late(&flight, &landing);
        }
        match landing {
            Landing::Delivered => {
                self.metrics.delivered.inc();
                self.counts.delivered += 1;
                if std::mem::take(&mut self.failing) {
                    self.status.works();
                }
                self.finish(&flight);
            }
            Landing::Lettered(to) => {
                self.metrics.dead_lettered.inc();
                self.counts.failed += 1;
                self.metrics.lettered(to.name());
                if let (Some(recent), Stage::Letter(letter)) = (&mut self.recent, &flight.stage)
                    && letter.instead.is_none()
                {
                    recent.forget(flight.place.input, &flight.event);
                }
                self.finish(&flight);
            }
            Landing::Retry(setback) => self.retry(flight, setback),
            Landing::Refused(setback) => self.give_up(flight, setback),
        }
    }

    /// True if the log has lost a position since `epoch`: another event may be there now.
    pub(super) fn is_lost(&self, Place { input, at }: Place, epoch: usize) -> bool {
        self.losses.iter().skip(epoch).any(|(of, from)| *of == input && at >= *from)
    }

    /// An event was under way while the log lost it. Its position is another one's by now, so that the ledger and what is put aside
    /// are left alone.
    fn landed_too_late(&mut self, flight: &Flight, landing: &Landing) {
        match landing {
            Landing::Delivered => {
                self.metrics.delivered.inc();
                self.counts.delivered += 1;
            }
            Landing::Lettered(to) => {
                self.metrics.dead_lettered.inc();
                self.counts.failed += 1;
                self.metrics.lettered(to.name());
            }
            Landing::Retry(setback) | Landing::Refused(setback) => {
                self.failed(&setback.cause);
                if let Some(partition) = self.partitions.get(flight.place.input) {
                    let cause = "they failed after the bus had lost the end of its log";
                    self.subscriptions.count_dropped(&self.route.counted_as, partition, 1, cause);
                }
            }
        }
        self.settle(flight);
    }

    fn finish(&mut self, flight: &Flight) {
        if flight.recorded {
            self.changes.push((flight.place, None));
        }
        self.settle(flight);
    }

    /// Gives up a flight's place, and lets the next one of its key go.
    fn settle(&mut self, flight: &Flight) {
        self.settled += 1;
        if let Some(next) = self.order.leave(flight.open.key) {
            self.shelf.release(next);
        }
    }

    /// An attempt failed that may work later.
    fn retry(&mut self, mut flight: Flight, setback: Setback) {
        self.failed(&setback.cause);
        let wall = Millis::now();
        let policy = &self.route.policy;
        let n = match &mut flight.stage {
            Stage::Letter(letter) => {
                letter.attempts = letter.attempts.saturating_add(1);
                flight.open.last = wall;
                letter.attempts
            }
            Stage::Sink | Stage::Reply(_) | Stage::Topic if flight.open.attempts >= policy.retry => {
                return self.give_up(flight, setback);
            }
            Stage::Sink | Stage::Reply(_) | Stage::Topic => {
                flight.failed(wall);
                flight.open.attempts
            }
        };
        let delay = schedule::delay(policy, n, setback.after, rand::random());
        flight.open.due = wall.after(delay);
        self.metrics.retries.inc();
        self.changes.push((flight.place, Some(flight.open)));
        self.settled += 1;
        self.shelf.wait(flight, self.now + delay, delay <= limits::PARK_AFTER);
    }

    /// An event cannot be delivered: from here on it is a dead letter. It keeps its place.
    fn give_up(&mut self, mut flight: Flight, setback: Setback) {
        self.failed(&setback.cause);
        flight.failed(Millis::now());
        let Open { attempts, first, last, .. } = flight.open;
        let position = self.position(&flight);
        self.log_letter(&flight, &setback.cause);
        let failure = Failure {
            destination: self.route.destination(&flight.stage),
            cause: setback.cause,
            status: setback.status,
            body: setback.body,
            attempts,
            first,
            last,
            position,
        };
        flight.stage = Stage::Letter(Box::new(Letter {
            failure,
            instead: setback.instead,
            to: self.route.first_mailbox(),
            attempts: 0,
        }));
        if !flight.recorded {
            self.changes.push((flight.place, Some(flight.open)));
        }
        flight.started = self.now;
        self.flights.push(Box::pin(fly(Arc::clone(&self.route), flight)));
    }

    /// Where an event is on the bus, for people. One that is redriven lies there as a dead letter, and is said to be where it was before.
    fn position(&self, flight: &Flight) -> Option<String> {
        if self.errand.as_ref().is_some_and(Errand::is_redrive) {
            return flight.origin.as_deref().map(str::to_owned);
        }
        let partition = self.partitions.get(flight.place.input)?;
        Some(dead_letter::position(partition, flight.place.at))
    }

    fn log_letter(&mut self, flight: &Flight, cause: &str) {
        if self.letters_logged.is_some_and(|last| self.now < last + LETTER_LOG_INTERVAL) {
            self.letters_unlogged += 1;
            return;
        }
        self.letters_logged = Some(self.now);
        let others = std::mem::take(&mut self.letters_unlogged);
        let (id, attempts) = (flight.event.id(), flight.open.attempts);
        tracing::warn!(subscriber = %self.route.id, id, attempts, cause, others, "an event becomes a dead letter");
    }

    fn failed(&mut self, cause: &str) {
        self.failing = true;
        self.status.failed(cause);
    }
}
