//! Waits for the ticks of a schedule and hands them over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{sleep, timeout};

use super::ticks::{Noted, Ticks, Turn};
use super::{CronPlan, Lease, LeftOff, rfc3339};
use crate::flow::{Flow, Progress};
use crate::marks::{Mark, Marks};
use crate::metrics::SourceMetrics;
use crate::source::{Arrival, Context, Malformed, Origin, Source, SourceError, Status, Unsettled};
use evoke_connect::backoff::Backoff;

/// The clock is looked at this often: it may be set, and the timer stands still while the machine sleeps.
const LOOK: Duration = Duration::from_secs(1);
/// Ticks handed over and not settled.
const IN_FLIGHT: usize = 1024;
/// How late a tick still fires that was due while the turn went from one source to another, of this process or of another one.
const TAKEOVER: TimeDelta = TimeDelta::seconds(60);

pub(super) struct CronSource {
    plan: CronPlan,
    origin: Origin,
    metrics: SourceMetrics,
    marks: Option<Arc<dyn Marks>>,
    left_off: LeftOff,
    lease: Option<Lease>,
    /// Since when this process answers for what is due.
    since: DateTime<Utc>,
}

impl CronSource {
    pub(super) fn new(
        plan: CronPlan,
        origin: Origin,
        metrics: SourceMetrics,
        marks: Option<Arc<dyn Marks>>,
        left_off: LeftOff,
        lease: Option<Lease>,
    ) -> Self {
        let since = lease.as_ref().map_or_else(|| left_off.since(), |lease| lease.since);
        Self { plan, origin, metrics, marks, left_off, lease, since }
    }

    /// Only what is to be caught up, or taken over, has to be remembered.
    fn remembers(&self) -> bool {
        self.plan.catch_up.is_some() || self.lease.is_some()
    }

    fn is_of_schedule(&self, mark: &Mark) -> bool {
        mark.schedule.as_ref().is_none_or(|schedule| *schedule == self.plan.marked())
    }

    /// From when on this process answers for what nobody has fired: the last look of the source before this one, if there was one.
    fn began(&self) -> DateTime<Utc> {
        self.left_off.looked().unwrap_or(self.since)
    }

    /// The time after which ticks count, where an earlier run got as far as `mark`.
    fn counts_from(&self, mark: Option<&Mark>) -> DateTime<Utc> {
        match mark {
            Some(mark) if self.plan.catch_up.is_some() && self.is_of_schedule(mark) => {
                self.left_off.looked().map_or(mark.time, |looked| looked.max(mark.time))
            }
            // Without `catchUp`, what was missed before this process ran stays missed, and of a schedule that is new nothing was.
            Some(mark) if self.lease.is_some() => self.began().max(mark.time),
            _ => self.began(),
        }
    }

    /// The ticks that are not known to have been due yet.
    fn ticks(&self, mark: Option<&Mark>) -> Ticks {
        let from = self.counts_from(mark);
        let gap = Utc::now() - from.max(self.began());
        Ticks::new(self.plan.schedule.clone(), self.plan.catch_up, from).after_gap(gap.min(TAKEOVER))
    }

    /// The ticks that the source before this one found due and did not get settled, whatever its schedule was.
    fn owed(&self, mark: Option<&Mark>) -> VecDeque<DateTime<Utc>> {
        // Another process that had the turn meanwhile has fired what is marked.
        let mark = mark.filter(|mark| self.lease.is_some() && self.is_of_schedule(mark));
        self.left_off.owed(mark.map(|mark| mark.time))
    }
}

impl Source for CronSource {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        async move {
            let Some(mark) = self.load(&context).await else { return Ok(()) };
            let (ticks, due) = (self.ticks(mark.as_ref()), self.owed(mark.as_ref()));
            let flow = Flow::new(context.outlet.clone());
            let marking = Marking {
                marks: self.marks.clone().filter(|_| self.remembers()),
                origin: self.origin.clone(),
                schedule: self.plan.marked(),
                fired: None,
                storing: None,
            };
            let backoff = Backoff::new();
            Run { source: *self, context, ticks, looked: None, due, flow, marking, backoff }.run().await;
            Ok(())
        }
        .boxed()
    }
}

impl CronSource {
    /// The mark of an earlier run. `None` when cancelled.
    async fn load(&self, context: &Context) -> Option<Option<Mark>> {
        let Some(marks) = &self.marks else { return Some(None) };
        let mut backoff = Backoff::new();
        loop {
            let error: Unsettled = tokio::select! {
                biased;
                () = context.cancel.cancelled() => return None,
                attempted = self.remembered(marks.as_ref()) => match attempted {
                    Ok(mark) => return Some(mark),
                    Err(error) => error,
                }
            };
            context.status.send_replace(Status::Connecting(format!("the last tick is not known: {error}").into()));
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => return None,
                () = sleep(backoff.wait()) => {}
            }
        }
    }

    /// The mark of an earlier run. Where there is none of this schedule one is left at once, so that even its first tick can be caught
    /// up.
    async fn remembered(&self, marks: &dyn Marks) -> Result<Option<Mark>, Unsettled> {
        if !self.remembers() {
            // What fires from now on is not marked, and is not caught up should `catchUp` come back.
            marks.forget(&self.origin).await?;
            return Ok(None);
        }
        let mark = marks.load(&self.origin).await?;
        let schedule = Some(self.plan.marked());
        if mark.as_ref().is_none_or(|mark| mark.schedule != schedule) {
            let time = self.counts_from(mark.as_ref());
            marks.store(&self.origin, Mark { time, schedule }).await?;
        }
        Ok(mark)
    }
}

/// Stores the latest tick that fired, one at a time: a mark that is outrun by the next is never stored.
struct Marking {
    /// `None` where nothing has to be remembered.
    marks: Option<Arc<dyn Marks>>,
    origin: Origin,
    schedule: Arc<str>,
    fired: Option<DateTime<Utc>>,
    storing: Option<BoxFuture<'static, Result<(), Unsettled>>>,
}

impl Marking {
    fn fired(&mut self, tick: DateTime<Utc>) {
        self.fired = self.marks.is_some().then_some(tick);
        self.go_on();
    }

    fn go_on(&mut self) {
        if self.storing.is_none()
            && let (Some(marks), Some(tick)) = (self.marks.clone(), self.fired.take())
        {
            let origin = self.origin.clone();
            let mark = Mark { time: tick, schedule: Some(self.schedule.clone()) };
            self.storing = Some(async move { marks.store(&origin, mark).await }.boxed());
        }
    }

    fn is_idle(&self) -> bool {
        self.storing.is_none()
    }

    /// Waits until a mark is stored; for ever if none is being stored. Safe to cancel.
    async fn stored(&mut self) -> Result<(), Unsettled> {
        let Some(storing) = &mut self.storing else { return std::future::pending().await };
        let stored = storing.await;
        self.storing = None;
        self.go_on();
        stored
    }
}

struct Run {
    source: CronSource,
    context: Context,
    ticks: Ticks,
    /// Up to when all ticks that were due have been found.
    looked: Option<DateTime<Utc>>,
    /// Ticks that are due and not handed over.
    due: VecDeque<DateTime<Utc>>,
    flow: Flow<DateTime<Utc>>,
    marking: Marking,
    backoff: Backoff,
}

impl Run {
    async fn run(mut self) {
        self.up(Status::Up);
        let cancel = self.context.cancel.clone();
        loop {
            let wait = self.hand_over();
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                progress = self.flow.progress() => {
                    if let Some(wait) = self.note(progress) {
                        tokio::select! {
                            () = cancel.cancelled() => break,
                            () = sleep(wait) => {}
                        }
                    }
                }
                stored = self.marking.stored() => self.note_mark(stored),
                () = sleep(wait.unwrap_or(LOOK)), if wait.is_some() => {}
            }
        }
        // Whoever has the next turn counts only from about its own start, which may be later than a tick that is due by now.
        while self.hand_over().is_none() {
            let progress = self.flow.progress().await;
            if self.note(progress).is_some() {
                break;
            }
        }
        // What fails now is owed by the source that takes this one's place; after the next start it is due as far as `catchUp` goes.
        while self.flow.len() > 0 || !self.marking.is_idle() {
            tokio::select! {
                progress = self.flow.progress() => drop(self.note(progress)),
                stored = self.marking.stored() => self.note_mark(stored),
            }
        }
        self.tell_others().await;
        self.source.metrics.up.set(0);
    }

    /// Leaves a mark of the last look: for a process with another schedule, it is from here that ticks of that count.
    async fn tell_others(&mut self) {
        let has_turn = self.source.lease.as_ref().is_some_and(|lease| (lease.lasts)());
        if has_turn
            && self.due.is_empty()
            && let Some(looked) = self.looked
        {
            self.marking.fired(looked);
            // An end does not wait for a bus that is away.
            if let Ok(stored) = timeout(LOOK, self.marking.stored()).await {
                self.note_mark(stored);
            }
        }
    }

    fn up(&self, status: Status) {
        self.source.metrics.up.set((status == Status::Up).into());
        self.context.status.send_replace(status);
    }

    /// Hands over what is due and fits; how long to wait for more, or `None` while nothing more fits.
    fn hand_over(&mut self) -> Option<Duration> {
        if !self.flow.has_room() || self.flow.len() >= IN_FLIGHT {
            return None;
        }
        if self.source.lease.as_ref().is_some_and(|lease| !(lease.lasts)()) {
            return Some(LOOK);
        }
        if self.due.is_empty()
            && let Some(wait) = self.look()
        {
            return Some(wait);
        }
        let tick = self.due.pop_front()?;
        let Origin { event_source, event, .. } = &self.source.origin;
        tracing::trace!(%event_source, %event, %tick, "tick");
        let arrival = match self.source.plan.event(&self.source.origin, tick) {
            Ok(event) => Arrival::Event(event),
            Err(error) => Arrival::Malformed(Malformed {
                position: rfc3339(tick),
                cause: error.to_string(),
                raw: self.source.plan.data.clone().unwrap_or_default(),
            }),
        };
        self.flow.offer(tick, vec![arrival]);
        None
    }

    /// Finds what is due by now; how long to wait where nothing is.
    fn look(&mut self) -> Option<Duration> {
        let now = Utc::now();
        let (turn, noted) = self.ticks.turn(now);
        self.tell(noted);
        let last = self.ticks.last();
        let (found, looked, wait) = match turn {
            // There may be more by now.
            Turn::Due(ticks) => (ticks, last, None),
            Turn::At(next) => (Vec::new(), last.max(now), Some((next - now).to_std().unwrap_or_default().min(LOOK))),
            Turn::Over => (Vec::new(), last.max(now), Some(LOOK)),
        };
        self.looked = Some(looked);
        self.source.left_off.found(looked, &found);
        self.due.extend(found);
        wait
    }

    fn tell(&self, noted: Noted) {
        let Origin { event_source, event, .. } = &self.source.origin;
        if noted.skipped > 0 {
            self.source.metrics.skipped.inc_by(noted.skipped);
            tracing::warn!(%event_source, %event, skipped = noted.skipped, "missed ticks are older than catchUp allows");
        }
        if noted.put_back {
            tracing::warn!(%event_source, %event, "the clock was put back by hours: its times count anew");
        }
    }

    /// Takes note of what became of ticks; how long to wait before the next attempt, where one failed.
    fn note(&mut self, progress: Progress<DateTime<Utc>>) -> Option<Duration> {
        match progress {
            Progress::Accepted => None,
            Progress::Settled(tick) => {
                if self.backoff.reset() {
                    self.up(Status::Up);
                }
                self.source.left_off.settled(tick);
                self.marking.fired(tick);
                None
            }
            Progress::Failed(ticks, error) => {
                self.up(Status::Down(error.0));
                for tick in ticks.into_iter().rev() {
                    self.due.push_front(tick);
                }
                Some(self.backoff.wait())
            }
        }
    }

    fn note_mark(&self, stored: Result<(), Unsettled>) {
        if let Err(error) = stored {
            self.source.metrics.commit_failures.inc();
            let Origin { event_source, event, .. } = &self.source.origin;
            tracing::warn!(%event_source, %event, %error, "a tick is not marked as fired");
        }
    }
}

#[cfg(test)]
mod tests;
