//! What is read and judged, and what the log has lost.

use std::task::Context;

use evoke_api::limits;
use evoke_eventbus::bus::{Position, Record};
use evoke_eventbus::subscription::LOST_END;
use evoke_eventbus::subscription::feed::{Gone, Slice};
use evoke_eventbus::subscription::ledger::Millis;

use super::{Closed, Engine, Judged};
use crate::subscription::Verdict;
use crate::subscription::flight::{Flight, Place};
use crate::subscription::intake::Next;
use crate::subscription::shelf::detached;

/// Events judged in one step, so that what landed meanwhile is not kept waiting.
const JUDGED_PER_STEP: usize = 1024;
/// A slice of which less than this share matches is not kept alive by its events under way.
const SPARSE: usize = 8;
/// Why events are lost that were never read.
const DELETED: &str = "the bus deleted them before they were read";

impl Engine {
    /// Forgets events that are put aside and gone from the bus, and counts them with `unread` others. One that was found gone in two ways
    /// is counted once.
    pub(super) fn lose(&mut self, input: usize, places: &[Place], unread: u64, cause: &str) {
        if let Some(recent) = self.recent.as_mut().filter(|_| !places.is_empty()) {
            // Of what is lost it is not known what it was: a repeat of it must be delivered.
            recent.clear();
        }
        let mut events = unread;
        for place in places {
            let Some(open) = self.shelf.remove(*place) else { continue };
            events += 1;
            self.changes.push((*place, None));
            self.settled += 1;
            if let Some(next) = self.order.forget(open.key, *place) {
                self.shelf.release(next);
            }
        }
        if events > 0
            && let Some(partition) = self.partitions.get(input)
        {
            self.subscriptions.count_dropped(&self.route.counted_as, partition, events, cause);
        }
    }

    /// Reads and judges as long as there is room.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut left = JUDGED_PER_STEP;
        while left > 0 && self.room() > 0 && !self.check_stalled() && !self.has_queue() {
            match self.intake.next(cx) {
                Next::Pending => return Ok(left < JUDGED_PER_STEP),
                Next::Passed { input, upto, lost, before, latest } => {
                    self.lose(input, &[], lost, DELETED);
                    let seen = latest.map_or(Millis(0), Millis::from);
                    self.note(input, Judged { upto, count: 0, seen, before });
                }
                Next::Lost { input, events } => self.lose(input, &[], events, DELETED),
                Next::Gone { gone: Gone::Closed, .. } => return Err(Closed),
                Next::Gone { input, gone } => self.gone(input, gone),
                Next::Records { .. } if !self.pace.permits(self.now) => return Ok(left < JUDGED_PER_STEP),
                Next::Records { input, topic, records } => {
                    let records = records.part(0, left);
                    let judged = self.judge(input, topic, &records, cx);
                    let seen = records.records().get(judged - 1).map_or(Millis(0), |record| record.appended.into());
                    if let Some(upto) = self.intake.take(input, judged) {
                        let before = records.before(upto);
                        let latest = records.latest(upto).map_or(Millis(0), Millis::from);
                        self.note(input, Judged { upto, count: judged as u64, seen: seen.max(latest), before });
                    }
                    left = left.saturating_sub(judged - 1);
                }
            }
            left -= 1;
        }
        Ok(left < JUDGED_PER_STEP)
    }

    /// Judges records until one finds no room; says how many, at least one.
    fn judge(&mut self, input: usize, topic: usize, records: &Slice, cx: &mut Context<'_>) -> usize {
        let mut matched = 0;
        for (index, record) in records.records().iter().enumerate() {
            match self.selector.select(topic, record) {
                Verdict::Match if self.recent.as_mut().is_some_and(|recent| recent.repeats(input, record)) => {
                    matched += 1;
                    self.metrics.duplicates.inc();
                    self.explain(record, "duplicate", None);
                }
                Verdict::Match => {
                    matched += 1;
                    self.explain(record, "match", None);
                    let place = Place { input, at: record.at };
                    let is_sparse = index >= 64 && matched * SPARSE < index;
                    let event = if is_sparse { detached(&record.event) } else { record.event.clone() };
                    let (event, origin) = self.prepared(event);
                    let key = self.order.key(&event);
                    let flight = Flight { origin, ..Flight::new(place, event, key, self.now) };
                    if self.order.enter(key, place) {
                        self.launch(flight, cx);
                    } else {
                        self.changes.push((place, Some(flight.open)));
                        self.settled += 1;
                        self.shelf.behind(flight);
                    }
                    if self.room() == 0
                        || self.shelf.len() >= self.parked
                        || self.has_queue()
                        || !self.pace.is_open(self.now)
                    {
                        self.matched(matched);
                        return index + 1;
                    }
                }
                Verdict::NoMatch => {
                    self.metrics.not_matched.inc();
                    self.explain(record, "no_match", None);
                }
                Verdict::Waiting => {
                    self.metrics.waiting.inc();
                    self.explain(record, "waiting", None);
                }
                Verdict::Error(cause) => {
                    self.metrics.errors.inc();
                    self.explain(record, "error", Some(cause.as_str()));
                }
            }
        }
        self.matched(matched);
        records.records().len()
    }

    /// Says in the log what came of judging an event. Nothing is read of it while nobody listens.
    fn explain(&self, Record { event, .. }: &Record, outcome: &'static str, cause: Option<&str>) {
        tracing::debug!(
            target: "evoke::decision",
            subscriber = %self.route.id,
            id = event.id(),
            source = event.source(),
            outcome,
            cause,
            "judged"
        );
    }

    fn matched(&mut self, count: usize) {
        self.metrics.matched.inc_by(count as u64);
        self.counts.matched += count as u64;
    }

    /// An input went on by what `news` says.
    pub(super) fn note(&mut self, input: usize, news: Judged) {
        self.counts.read += news.count;
        if let Some(judged) = self.judged.get_mut(input) {
            *judged = Judged {
                upto: news.upto,
                count: judged.count + news.count,
                seen: judged.seen.max(news.seen),
                before: news.before.or(judged.before.map(|before| before + news.count)),
            };
        }
    }

    /// The log does not have an input's place any more.
    fn gone(&mut self, input: usize, gone: Gone) {
        self.record();
        let (from, to, cause) = match gone {
            Gone::Trimmed { first } => (Some(Position::default()), first, "the bus gave them up before they were read"),
            Gone::Damaged { first, next } => (Some(first), next, "they are damaged where the bus keeps them"),
            Gone::Ahead { end } => (None, end, LOST_END),
            Gone::Closed => return,
        };
        let is_lost = |Place { at, .. }: Place| from.map_or(at >= to.at, |from| (from..to.at).contains(&at));
        let lost = self.shelf.places(input, is_lost);
        let (mut skipped, mut goes_on) = (0, to.at);
        self.book.update(|pages| {
            if let Some(ledger) = pages.change(input) {
                let upto = ledger.upto();
                let lost = match from {
                    Some(from) => ledger.damaged(from, to),
                    None => ledger.ahead(to),
                };
                goes_on = ledger.upto();
                // Nobody knows how many they were: one at least.
                skipped = lost.unread.unwrap_or(1);
                tracing::warn!(subscriber = %self.route.id, from = %upto, to = %goes_on, "the position moves to where the log is: {cause}");
            }
            0
        });
        self.lose(input, &lost, skipped, cause);
        if let Some(recent) = &mut self.recent {
            recent.clear();
        }
        if from.is_none() {
            if self.flights.is_empty() && self.again.is_none() {
                self.losses.clear();
            }
            self.losses.push((input, to.at));
        }
        self.intake.seek(input, goes_on);
    }

    /// True if enough events wait for others of their key. While one of these waits for a retry itself, its key must not hold up the
    /// others, and more is read.
    fn has_queue(&self) -> bool {
        let enough = limits::QUEUED_EVENTS.max(4 * self.route.policy.max_in_flight);
        self.shelf.next_due().is_none() && self.shelf.len() >= enough
    }

    fn check_stalled(&mut self) -> bool {
        let parked = self.shelf.len();
        let limit = if self.stalled { self.parked - self.parked / 10 } else { self.parked };
        let stalled = parked >= limit;
        if stalled != self.stalled {
            self.stalled = stalled;
            let subscriber = &self.route.id;
            if stalled {
                tracing::warn!(%subscriber, parked, "too many events wait for a retry: nothing more is read until some are finished");
            } else {
                tracing::info!(%subscriber, parked, "reads again");
            }
        }
        stalled
    }
}
