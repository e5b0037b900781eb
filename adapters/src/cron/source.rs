//! Waits for the ticks of a schedule and hands them over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::sleep;

use super::ticks::{Noted, Ticks, Turn};
use super::{CronPlan, Turn as Lease, rfc3339};
use crate::flow::{Flow, Progress};
use crate::marks::Marks;
use crate::metrics::SourceMetrics;
use crate::source::{Arrival, Context, Malformed, Origin, Source, SourceError, Status, Unsettled};
use evoke_connect::backoff::Backoff;

/// The clock is looked at this often: it may be set, and the timer stands still while the machine sleeps.
const LOOK: Duration = Duration::from_secs(1);
/// Ticks handed over and not settled.
const IN_FLIGHT: usize = 1024;
/// How late a tick still fires that was due while the turn went from one process to another.
const TAKEOVER: Duration = Duration::from_secs(60);

pub(super) struct CronSource {
    plan: CronPlan,
    origin: Origin,
    metrics: SourceMetrics,
    marks: Option<Arc<dyn Marks>>,
    turn: Option<Lease>,
}

impl CronSource {
    pub(super) fn new(
        plan: CronPlan,
        origin: Origin,
        metrics: SourceMetrics,
        marks: Option<Arc<dyn Marks>>,
        turn: Option<Lease>,
    ) -> Self {
        // Only what is to be caught up, or taken over, has to be remembered.
        let marks = marks.filter(|_| plan.catch_up.is_some() || turn.is_some());
        Self { plan, origin, metrics, marks, turn }
    }

    /// The ticks after `mark`, as of now.
    fn ticks(&self, mark: Option<DateTime<Utc>>) -> Ticks {
        let (now, catch_up) = (Utc::now(), self.plan.catch_up);
        let (mark, catch_up) = match &self.turn {
            None => (mark, catch_up),
            Some(Lease { since, .. }) => {
                let waited = (now - *since).to_std().unwrap_or_default().min(TAKEOVER);
                // Without `catchUp`, what was missed before this process ran stays missed.
                let from = if catch_up.is_some() { mark } else { mark.map(|mark| mark.max(*since)) };
                (from.or(Some(*since)), Some(catch_up.unwrap_or_default().max(waited)))
            }
        };
        Ticks::new(self.plan.schedule.clone(), catch_up, mark, now)
    }
}

impl Source for CronSource {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        async move {
            let Some(mark) = self.load(&context).await else { return Ok(()) };
            let ticks = self.ticks(mark);
            let flow = Flow::new(context.outlet.clone());
            let marking =
                Marking { marks: self.marks.clone(), origin: self.origin.clone(), fired: None, storing: None };
            let due = VecDeque::new();
            Run { source: *self, context, ticks, due, flow, marking, backoff: Backoff::new() }.run().await;
            Ok(())
        }
        .boxed()
    }
}

impl CronSource {
    /// The mark of an earlier run. The first run leaves one at once, so that even its first tick can be caught up. `None` when
    /// cancelled.
    async fn load(&self, context: &Context) -> Option<Option<DateTime<Utc>>> {
        let Some(marks) = &self.marks else { return Some(None) };
        let mut backoff = Backoff::new();
        loop {
            let attempt = async {
                let mark = marks.load(&self.origin).await?;
                if mark.is_none() {
                    marks.store(&self.origin, Utc::now()).await?;
                }
                Ok(mark)
            };
            let error: Unsettled = tokio::select! {
                biased;
                () = context.cancel.cancelled() => return None,
                attempted = attempt => match attempted {
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
}

/// Stores the latest tick that fired, one at a time: a mark that is outrun by the next is never stored.
struct Marking {
    marks: Option<Arc<dyn Marks>>,
    origin: Origin,
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
            self.storing = Some(async move { marks.store(&origin, tick).await }.boxed());
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
        // What fails now was not promised to anybody: it is due again after the next start, as far as `catchUp` goes.
        while self.flow.len() > 0 || !self.marking.is_idle() {
            tokio::select! {
                progress = self.flow.progress() => drop(self.note(progress)),
                stored = self.marking.stored() => self.note_mark(stored),
            }
        }
        self.source.metrics.up.set(0);
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
        if self.source.turn.as_ref().is_some_and(|turn| !(turn.lasts)()) {
            return Some(LOOK);
        }
        if self.due.is_empty() {
            let now = Utc::now();
            let (turn, noted) = self.ticks.turn(now);
            self.tell(noted);
            match turn {
                Turn::Due(ticks) => self.due.extend(ticks),
                Turn::At(next) => return Some((next - now).to_std().unwrap_or_default().min(LOOK)),
                Turn::Over => return Some(LOOK),
            }
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
