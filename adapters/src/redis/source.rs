//! Runs one session with Redis after the other, with back-off.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};

use super::channel::Channel;
use super::entry::Mapper;
use super::list::List;
use super::stream::Stream;
use super::trouble::Trouble;
use crate::metrics::SourceMetrics;
use crate::plan::redis::{Read, RedisPlan};
use crate::source::{Context, Origin, Source, SourceError, Status};
use evoke_connect::backoff::Backoff;
use evoke_connect::redis::link::Connector;

/// How long the server may let a read wait for something to read.
pub(super) const BLOCK: Duration = Duration::from_secs(5);
/// Batches handed over and not settled; the outlet's own limits are in bytes.
pub(super) const IN_FLIGHT: usize = 256;
/// A session that lasted this long did work.
const WORKED: Duration = Duration::from_secs(10);
/// What one read asks for, in bytes, as far as it can be guessed.
const READ_BYTES: usize = 1024 * 1024;
const READ_COUNT: usize = 128;

/// What every session needs.
pub(super) struct Shared {
    pub(super) plan: RedisPlan,
    pub(super) connector: Connector,
    pub(super) mapper: Mapper,
    pub(super) metrics: SourceMetrics,
    pub(super) context: Context,
    /// The name that unfinished work is kept under in Redis.
    pub(super) consumer: String,
}

impl Shared {
    /// Says that it reads.
    pub(super) fn up(&self) {
        self.set(Status::Up);
    }

    /// Says how it is doing, if that is news.
    pub(super) fn set(&self, status: Status) {
        self.metrics.up.set((status == Status::Up).into());
        self.context.status.send_if_modified(|old| {
            let is_news = *old != status;
            *old = status;
            is_news
        });
    }

    fn is_up(&self) -> bool {
        *self.context.status.borrow() == Status::Up
    }

    /// The outlet's name for the source, in logs.
    pub(super) fn origin(&self) -> &Origin {
        self.mapper.origin()
    }
}

/// One session: connects, reads until the context is cancelled and everything is settled, or until something goes wrong. What it
/// must not forget stays in it for the next session.
pub(super) trait Session: Send {
    fn run<'a>(&'a mut self, shared: &'a Shared) -> BoxFuture<'a, Result<(), Trouble>>;
}

pub(super) struct RedisReader {
    plan: RedisPlan,
    origin: Origin,
    metrics: SourceMetrics,
    instance: String,
}

impl RedisReader {
    pub(super) fn new(plan: RedisPlan, origin: Origin, metrics: SourceMetrics, instance: &str) -> Self {
        Self { plan, origin, metrics, instance: instance.to_owned() }
    }

    fn session(&self) -> Box<dyn Session> {
        match &self.plan.read {
            Read::Stream { key, group, start_at, claim } => {
                Box::new(Stream::new(key.clone(), group.clone(), *start_at, *claim))
            }
            Read::List { key, dead_after } => Box::new(List::new(key.clone(), *dead_after)),
            Read::Channel { name, is_pattern } => Box::new(Channel::new(name.clone(), *is_pattern)),
        }
    }
}

impl Source for RedisReader {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        async move {
            let connector = Connector::new(&self.plan.server)
                .map_err(|e| SourceError(format!("TLS cannot be used: {e}").into()))?;
            let mut session = self.session();
            let source = &self.origin.event_source;
            let consumer = format!("{}/{}/{}/{}", self.instance, source.namespace, source.name, self.origin.event);
            let mapper = Mapper::new(&self.origin, self.plan.key(), self.plan.content_type.as_deref());
            let shared =
                Arc::new(Shared { plan: self.plan, connector, mapper, metrics: self.metrics, context, consumer });
            run(&mut *session, &shared).await;
            shared.metrics.up.set(0);
            Ok(())
        }
        .boxed()
    }
}

async fn run(session: &mut dyn Session, shared: &Shared) {
    let cancel = &shared.context.cancel;
    let mut backoff = Backoff::between(shared.plan.retry_first, shared.plan.retry_longest);
    let mut was_up = false;
    while !cancel.is_cancelled() {
        let since = Instant::now();
        let Err(trouble) = session.run(shared).await else { return };
        if cancel.is_cancelled() {
            let Origin { event_source, event, .. } = shared.origin();
            tracing::warn!(%event_source, %event, %trouble, "ended before everything was acknowledged");
            return;
        }
        if shared.is_up() {
            was_up = true;
            shared.metrics.reconnects.inc();
            // One that is refused as soon as it is up must not be tried faster for that.
            if since.elapsed() >= WORKED {
                backoff.reset();
            }
        }
        let text: Arc<str> = trouble.to_string().into();
        shared.set(if was_up { Status::Down(text) } else { Status::Connecting(text) });
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = sleep(backoff.wait()) => {}
        }
    }
}

/// A whole number of milliseconds, as Redis takes times.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Something to do again and again.
pub(super) struct Every {
    interval: Interval,
    is_due: bool,
}

impl Every {
    /// Due for the first time after one interval.
    pub(super) fn new(interval: Duration) -> Self {
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval: ticks, is_due: false }
    }

    /// Due at once for the first time.
    pub(super) fn at_once(interval: Duration) -> Self {
        Self { is_due: true, ..Self::new(interval) }
    }

    /// Whether it is to be done now; it is not until it is due again.
    pub(super) fn is_due(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }

    /// Waits until it is due. Safe to cancel.
    pub(super) async fn due(&mut self) {
        self.interval.tick().await;
        self.is_due = true;
    }
}

/// Guesses how many entries make up a read of the size that is wanted, from the sizes of those before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portion {
    average: usize,
}

impl Portion {
    pub(super) fn new() -> Self {
        Self { average: READ_BYTES / 16 }
    }

    pub(super) fn count(self) -> usize {
        (READ_BYTES / self.average.max(1)).clamp(1, READ_COUNT)
    }

    /// Learns from a read: at once from large entries, little by little from small ones.
    pub(super) fn learn(&mut self, entries: usize, bytes: usize) {
        if let Some(seen) = bytes.checked_div(entries) {
            self.average = if seen > self.average { seen } else { (self.average * 3 + seen) / 4 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_small_where_entries_are_large() {
        let mut portion = Portion::new();
        assert_eq!(portion.count(), 16);
        portion.learn(1, READ_BYTES);
        assert_eq!(portion.count(), 1);
        for _ in 0..100 {
            portion.learn(10, 1000);
        }
        assert_eq!(portion.count(), READ_COUNT);
        portion.learn(0, 0);
        portion.learn(5, 0);
        assert_eq!(portion.count(), READ_COUNT);
    }
}
