//! The loop of one subscription. It runs in steps: take in what landed, start what is due, read and judge what there is, then tell
//! the ledgers everything at once. Nothing is spawned, and no lock, clock or shared counter is touched per event.
//!
//! | module | holds |
//! | --- | --- |
//! | `land` | what comes of attempts |
//! | `start` | what is due, and what is read again for that |
//! | `read` | what is read and judged, and what the log has lost |

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use evoke_eventbus::bus::{BusError, Partition, Position};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::job::{Counts, Job};
use evoke_eventbus::subscription::ledger::{Millis, Open};
use evoke_eventbus::subscription::recorder::Book;
use evoke_eventbus::subscription::{Running, Subscription, Subscriptions};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFuture;

use super::Selector;
use super::again::Found;
use super::errand::{self, Errand};
use super::flight::{Flight, Landing, Place, Route};
use super::intake::{Intake, Unread};
use super::order::Order;
use super::recent::Recent;
use super::shelf::Shelf;
use super::status::Status;
use crate::metrics::LaneMetrics;
use crate::rate::Pace;

mod land;
mod read;
mod start;

/// Steps before the task lets others run.
const STEPS: usize = 16;

/// What an engine is made of.
pub(super) struct Parts {
    pub(super) subscriptions: Subscriptions,
    pub(super) subscription: Subscription,
    pub(super) route: Arc<Route>,
    /// How many events may be put aside.
    pub(super) parked: usize,
    pub(super) unread: Vec<Unread>,
    pub(super) recent: Option<Recent>,
    pub(super) pace: Pace,
    pub(super) metrics: LaneMetrics,
    pub(super) status: Status,
    pub(super) job: Option<Arc<Job>>,
}

/// A running subscription.
pub(super) struct Engine {
    subscriptions: Subscriptions,
    route: Arc<Route>,
    /// How many events may be put aside.
    parked: usize,
    selector: Box<dyn Selector>,
    intake: Intake,
    partitions: Vec<Partition>,
    book: Arc<Book>,
    running: Running,
    flights: FuturesUnordered<BoxFuture<'static, (Flight, Landing)>>,
    shelf: Shelf,
    order: Order,
    recent: Option<Recent>,
    pace: Pace,
    again: Option<BoxFuture<'static, (usize, usize, Found)>>,
    /// Where logs have lost their ends while something was under way: of which input, and from which position on. How many they are
    /// is the epoch.
    losses: Vec<(usize, Position)>,
    timer: Pin<Box<Sleep>>,
    now: Instant,
    /// What the ledgers do not know yet: open events, and `None` for finished ones.
    changes: Vec<(Place, Option<Open>)>,
    /// What of each input the ledgers do not know yet: where it goes on, how many events were judged, when the last of them was appended.
    judged: Vec<Judged>,
    settled: usize,
    /// What the book said when the last step looked for room.
    unrecorded: usize,
    patience: u8,
    stopping: bool,
    stalled: bool,
    failing: bool,
    letters_logged: Option<Instant>,
    letters_unlogged: u64,
    metrics: LaneMetrics,
    status: Status,
    errand: Option<Errand>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    upto: Position,
    count: u64,
    seen: Millis,
    /// How many events were ever appended before `upto`, where that was read.
    before: Option<u64>,
}

impl Engine {
    pub(super) fn new(parts: Parts, selector: Box<dyn Selector>) -> Self {
        let Parts { subscriptions, subscription, route, parked, unread, recent, pace, metrics, status, job } = parts;
        let Subscription { book, inputs, running } = subscription;
        let partitions: Vec<_> = inputs.iter().map(|input| input.cursor.partition().clone()).collect();
        status.opened(&book, partitions.clone());
        let errand = job.map(|job| Errand::new(job, &partitions));
        let until = errand.as_ref().map_or(&[][..], |errand| errand.until.as_slice());
        let now = Instant::now();
        let mut engine = Self {
            subscriptions,
            selector,
            judged: vec![Judged::default(); partitions.len()],
            intake: Intake::new(inputs, &unread, until),
            partitions,
            running,
            flights: FuturesUnordered::new(),
            shelf: Shelf::default(),
            order: Order::new(route.policy.ordering),
            recent,
            pace,
            route,
            parked,
            book,
            again: None,
            losses: Vec::new(),
            timer: Box::pin(tokio::time::sleep_until(now)),
            now,
            changes: Vec::new(),
            settled: 0,
            unrecorded: 0,
            patience: 0,
            stopping: false,
            stalled: false,
            failing: false,
            letters_logged: None,
            letters_unlogged: 0,
            metrics,
            status,
            errand,
            counts: Counts::default(),
        };
        engine.restore();
        let parked = engine.shelf.len();
        engine.metrics.show(0, parked, false);
        engine.status.set(0, parked, false);
        engine
    }

    pub(super) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book)
    }

    /// Puts aside what the ledgers have open.
    fn restore(&mut self) {
        let wall = Millis::now();
        let policy = &self.route.policy;
        // A clock that was set back must not put a retry off by more than it was to wait, nor one that was wrong for ever.
        let longest = policy.delay_max.max(policy.retry_after_max);
        let (book, shelf, order, now) = (&self.book, &mut self.shelf, &mut self.order, self.now);
        book.view(|pages| {
            for (input, ledger) in (0..self.partitions.len()).filter_map(|input| Some((input, pages.ledger(input)?))) {
                for (at, open) in ledger.open() {
                    let place = Place { input, at: *at };
                    let due = now + open.due.since(wall).min(open.due.since(open.last)).min(longest);
                    shelf.restore(place, *open, order.enter(open.key, place).then_some(due));
                }
            }
        });
    }

    /// Runs until stopped and done, or aborted.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stopped: Pin<&mut WaitForCancellationFuture<'_>>,
        aborted: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Poll<Result<(), BusError>> {
        if aborted.poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.stopping = self.stopping || stopped.poll(cx).is_ready();
        for _ in 0..STEPS {
            self.now = Instant::now();
            // Another process may have taken over while this one could not reach the bus, or stood still.
            self.stopping = self.stopping || !self.running.may_start(self.now);
            self.unrecorded = self.book.unrecorded();
            self.shelf.expire(self.now);
            self.pace.begin(self.now);
            let mut moved = self.land(cx);
            moved |= self.take_again(cx);
            let mut closed = false;
            if !self.stopping {
                moved |= self.start_due(cx);
                match self.read(cx) {
                    Ok(read) => moved |= read,
                    Err(Closed) => closed = true,
                }
            }
            self.record();
            if closed {
                return Poll::Ready(Err(BusError::Closed));
            }
            if !moved {
                return self.rest(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nothing can be done now: sees to it that the task is woken when something can.
    fn rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BusError>> {
        if self.stopping && self.flights.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.is_complete(cx) {
            self.status.complete();
            return Poll::Ready(Ok(()));
        }
        let due = [self.shelf.next_due(), self.pace.due()].into_iter().flatten().min();
        if let Some(due) = due.filter(|_| !self.stopping) {
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        self.book.wake_on_write(cx);
        if self.book.unrecorded() < self.unrecorded {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// True for a job that has nothing left to do.
    fn is_complete(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(errand) = self.errand.as_mut().filter(|_| !self.stopping) else { return false };
        if self.intake.is_over() {
            return self.flights.is_empty() && self.shelf.len() == 0;
        }
        let intake = &self.intake;
        for input in errand.poll_over(&self.route.bus, || intake.waiting(), cx) {
            if let Some(until) = self.intake.pass(input) {
                self.note(input, Judged { upto: until, ..Judged::default() });
            }
        }
        false
    }

    /// An event as it is delivered, and where it was before if it is redriven.
    fn prepared(&self, event: Event) -> (Event, Option<Arc<str>>) {
        match &self.errand {
            Some(errand) => (errand::prepare(&errand.job, &event), errand.origin(&event)),
            None => (event, None),
        }
    }

    /// How many more events may be under way or settled without being recorded.
    fn room(&self) -> usize {
        let max = self.route.policy.max_in_flight;
        let places = (2 * max).saturating_sub(self.flights.len() + self.unrecorded + self.settled);
        places.min(max.saturating_sub(self.flights.len()))
    }

    /// Tells the ledgers and whoever watches what has changed.
    fn record(&mut self) {
        let (changes, judged, settled) = (&mut self.changes, &mut self.judged, std::mem::take(&mut self.settled));
        let is_new = |judged: &Judged| judged.count > 0 || judged.upto > Position::default();
        if settled == 0 && changes.is_empty() && !judged.iter().any(is_new) {
            return;
        }
        self.book.update(|pages| {
            for (place, open) in changes.drain(..) {
                let Some(ledger) = pages.change(place.input) else { continue };
                match open {
                    Some(open) => ledger.matched(place.at, open),
                    None => {
                        ledger.finished(place.at);
                    }
                }
            }
            for (input, judged) in judged.iter_mut().enumerate().filter(|(_, judged)| is_new(judged)) {
                let Judged { upto, count, seen, before } = std::mem::take(judged);
                if let Some(ledger) = pages.change(input) {
                    ledger.advance(upto, count, seen);
                    if let Some(before) = before {
                        ledger.counted(before);
                    }
                }
            }
            settled
        });
        self.unrecorded = self.book.unrecorded();
        self.metrics.flush();
        let (in_flight, parked) = (self.flights.len(), self.shelf.len());
        self.metrics.show(in_flight, parked, self.stalled);
        self.status.set(in_flight, parked, self.stalled);
        self.status.count(self.counts);
    }
}

/// The bus is closed.
struct Closed;
