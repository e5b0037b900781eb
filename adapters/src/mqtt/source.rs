//! One connection after the other, with back-off.

use std::sync::Arc;
use std::time::Duration;

use evoke_api::events::MqttVersion;
use evoke_connect::backoff::Backoff;
use futures_util::future::{BoxFuture, FutureExt, poll_fn};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};

use super::acks::{Acks, Token};
use super::link::{Connector, KEEP_ALIVE, Link, Reader, Writer};
use super::message::{Mapper, weight};
use super::trouble::Trouble;
use super::wire::{Incoming, Outgoing, Publish, WireError};
use crate::intake::{Happened, Intake, Room};
use crate::metrics::SourceMetrics;
use crate::plan::mqtt::{MqttPlan, Qos, SHARE};
use crate::report::Report;
use crate::source::{Context, Origin, Source, SourceError, Status};

/// A connection that lasted this long did work.
const WORKED: Duration = Duration::from_secs(10);
/// How long a broker may say nothing at all, which answers a sign of life every third of that.
const SILENCE: Duration = KEEP_ALIVE;
/// What is read ahead of the outlet.
const ROOM: Room = Room { messages: 256, bytes: 1024 * 1024 };
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) struct MqttReader {
    plan: MqttPlan,
    origin: Origin,
    metrics: SourceMetrics,
}

impl MqttReader {
    pub(super) fn new(plan: MqttPlan, origin: Origin, metrics: SourceMetrics) -> Self {
        Self { plan, origin, metrics }
    }
}

impl Source for MqttReader {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        async move {
            let connector =
                Connector::new(&self.plan).map_err(|e| SourceError(format!("TLS cannot be used: {e}").into()))?;
            let mut sessions = Sessions {
                connector,
                mapper: Mapper::new(&self.origin, self.plan.content_type.as_deref()),
                taken: Taken { intake: Intake::new(&context, ROOM), acks: Acks::default() },
                report: Report { metrics: self.metrics, context },
                version: self.plan.version.unwrap_or(MqttVersion::V5),
                plan: self.plan,
                is_subscribed: false,
            };
            sessions.run().await;
            sessions.finish().await;
            Ok(())
        }
        .boxed()
    }
}

/// What was taken in, and what the broker is to be told of it.
struct Taken {
    intake: Intake<Token>,
    acks: Acks,
}

struct Sessions {
    plan: MqttPlan,
    connector: Connector,
    mapper: Mapper,
    report: Report,
    taken: Taken,
    /// The version of MQTT to try next.
    version: MqttVersion,
    /// This source has subscribed before.
    is_subscribed: bool,
}

impl Sessions {
    async fn run(&mut self) {
        let cancel = self.report.context.cancel.clone();
        let mut backoff = Backoff::new();
        while !cancel.is_cancelled() {
            let since = Instant::now();
            let Err(trouble) = self.session().await else { return };
            let unsent = self.taken.acks.disconnected();
            self.report.metrics.commit_failures.inc_by(unsent.try_into().unwrap_or_default());
            if cancel.is_cancelled() {
                let Origin { event_source, event, .. } = self.mapper.origin();
                tracing::warn!(%event_source, %event, %trouble, "ended before everything was acknowledged");
                return;
            }
            if self.report.is_up() {
                self.report.metrics.reconnects.inc();
                // One that is refused as soon as it is up must not be tried faster for that.
                if since.elapsed() >= WORKED {
                    backoff.reset();
                }
            }
            if let (Trouble::Version(_), None) = (&trouble, self.plan.version) {
                self.version = other(self.version);
            }
            let text: Arc<str> = trouble.to_string().into();
            self.report.set(if self.is_subscribed { Status::Down(text) } else { Status::Connecting(text) });
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = beside(&mut self.taken, &self.report, sleep(backoff.wait())) => {}
            }
        }
    }

    /// One connection: until the source is cancelled and everything is settled and acknowledged, or something goes wrong.
    async fn session(&mut self) -> Result<(), Trouble> {
        let cancel = self.report.context.cancel.clone();
        let connecting = self.connector.connect(self.version);
        let link = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            link = beside(&mut self.taken, &self.report, connecting) => link?,
        };
        let Link { reader, mut writer, accepted } = link;
        self.taken.acks.connected(accepted.session_present);
        if let Some(seconds) = accepted.session_expiry.filter(|seconds| !self.plan.clean && *seconds != u32::MAX) {
            let Origin { event_source, event, .. } = self.mapper.origin();
            tracing::info!(%event_source, %event, seconds, "the broker keeps the session of an absent client only so long");
        }
        // A subscription that is there is not made again: the broker would send what it retains once more.
        let subscribe = !(accepted.session_present && self.is_subscribed);
        if subscribe {
            let (filter, qos) = (self.plan.topic.clone(), self.plan.qos);
            self.taken.acks.send(Outgoing::Subscribe { filter, qos });
        }
        let keep_alive = accepted.keep_alive.map_or(KEEP_ALIVE, |seconds| Duration::from_secs(seconds.into()));
        let mut at_work = AtWork {
            sessions: self,
            reader,
            heard: Instant::now(),
            pings: pings(keep_alive),
            is_subscribed: !subscribe,
            is_foreign_told: false,
        };
        at_work.run(&mut writer).await?;
        // Whether it arrives makes no difference to what is acknowledged.
        drop(timeout(GOODBYE, writer.send(Outgoing::Disconnect)).await);
        Ok(())
    }

    async fn finish(&mut self) {
        let lost = self.taken.intake.finish(drop).await.lost;
        if lost > 0 {
            self.report.metrics.skipped.inc_by(lost.try_into().unwrap_or_default());
            let Origin { event_source, event, .. } = self.mapper.origin();
            tracing::warn!(%event_source, %event, lost, "messages of QoS 0 are lost: they could not be stored");
        }
        self.report.metrics.up.set(0);
    }
}

impl Taken {
    /// Takes a message in, unless it was before.
    fn take(&mut self, message: &Publish, mapper: &Mapper) {
        let mut token = None;
        if message.qos != Qos::AtMostOnce {
            token = self.acks.arrived(message);
            if token.is_none() {
                return;
            }
        }
        self.intake.take(mapper.arrival(message), token, weight(message));
    }

    fn note(&mut self, happened: Happened<Token>, report: &Report) {
        match happened {
            Happened::Accepted | Happened::Due => {}
            Happened::Settled(tokens) => tokens.into_iter().for_each(|token| self.acks.settled(token)),
            Happened::Failed(error) => {
                report.set(Status::Down(format!("what was read could not be stored: {error}").into()));
            }
        }
    }
}

fn other(version: MqttVersion) -> MqttVersion {
    match version {
        MqttVersion::V3 => MqttVersion::V5,
        MqttVersion::V5 => MqttVersion::V3,
    }
}

/// Three signs of life in the time in which the broker wants one; 0 is a broker that wants none.
fn pings(keep_alive: Duration) -> Interval {
    let every = if keep_alive.is_zero() { KEEP_ALIVE } else { keep_alive.min(KEEP_ALIVE) } / 3;
    let mut pings = interval_at(Instant::now() + every, every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

/// Waits for something else while what was taken in is being settled.
async fn beside<T>(taken: &mut Taken, report: &Report, other: impl Future<Output = T>) -> T {
    tokio::pin!(other);
    loop {
        tokio::select! {
            biased;
            done = &mut other => return done,
            happened = taken.intake.next() => taken.note(happened, report),
        }
    }
}

/// A connection at work.
struct AtWork<'a> {
    sessions: &'a mut Sessions,
    reader: Reader,
    /// When the broker was heard of last, as far as it was listened to.
    heard: Instant,
    pings: Interval,
    is_subscribed: bool,
    /// It was said that messages come which no subscription of this manifest asks for.
    is_foreign_told: bool,
}

impl AtWork<'_> {
    async fn run(&mut self, writer: &mut Writer) -> Result<(), Trouble> {
        let cancel = self.sessions.report.context.cancel.clone();
        let (mut stopping, mut unflushed, mut was_reading) = (false, false, true);
        self.say_up();
        loop {
            let Taken { intake, acks } = &mut self.sessions.taken;
            unflushed |= !acks.is_idle();
            if stopping && (intake.is_settled() || intake.is_failing()) && !unflushed {
                return Ok(());
            }
            let reading = !stopping && intake.has_room();
            if reading && !was_reading {
                self.heard = Instant::now();
            }
            was_reading = reading;
            let silent = self.heard + SILENCE;
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !stopping => stopping = true,
                sent = send(writer, acks), if unflushed => {
                    sent.map_err(|error| Trouble::broken(&self.sessions.plan, Some(error)))?;
                    unflushed = false;
                }
                happened = intake.next() => {
                    self.sessions.taken.note(happened, &self.sessions.report);
                    self.say_up();
                }
                packet = self.reader.next(), if reading => {
                    self.heard = Instant::now();
                    self.take(packet)?;
                    self.take_more()?;
                }
                _ = self.pings.tick() => acks.send(Outgoing::Ping),
                () = sleep_until(silent), if reading => {
                    return Err(Trouble::silent(&self.sessions.plan.address, SILENCE.as_secs()));
                }
            }
        }
    }

    /// Takes what has already arrived, so that it makes one batch.
    fn take_more(&mut self) -> Result<(), Trouble> {
        while self.sessions.taken.intake.has_room() {
            let Some(packet) = self.reader.next().now_or_never() else { break };
            self.take(packet)?;
        }
        Ok(())
    }

    fn take(&mut self, packet: Option<Result<Incoming, WireError>>) -> Result<(), Trouble> {
        let plan = &self.sessions.plan;
        match packet {
            Some(Ok(Incoming::Publish(message))) => {
                self.look_at(&message);
                let Sessions { taken, mapper, .. } = &mut *self.sessions;
                taken.take(&message, mapper);
            }
            Some(Ok(Incoming::Release(packet_id))) => self.sessions.taken.acks.released(packet_id),
            Some(Ok(Incoming::Subscribed(Ok(granted)))) => {
                if granted < plan.qos {
                    let Origin { event_source, event, .. } = self.sessions.mapper.origin();
                    let (asked, granted) = (plan.qos.as_str(), granted.as_str());
                    tracing::warn!(%event_source, %event, asked, granted, "the broker grants a lower QoS than asked for");
                }
                (self.is_subscribed, self.sessions.is_subscribed) = (true, true);
                self.say_up();
            }
            Some(Ok(Incoming::Subscribed(Err(reason)))) => return Err(Trouble::not_subscribed(&plan.topic, &reason)),
            Some(Ok(Incoming::Goodbye(goodbye))) => return Err(Trouble::goodbye(plan, goodbye)),
            Some(Ok(Incoming::Pong | Incoming::Accepted(_) | Incoming::Refused(_) | Incoming::Other)) => {}
            Some(Err(error)) => return Err(Trouble::broken(plan, Some(error))),
            None => return Err(Trouble::broken(plan, None)),
        }
        Ok(())
    }

    fn say_up(&self) {
        if self.is_subscribed && !self.sessions.taken.intake.is_failing() {
            self.sessions.report.set(Status::Up);
        }
    }

    /// A session remembers the subscriptions of earlier manifests. What they bring is taken in rather than lost, and said.
    fn look_at(&mut self, message: &Publish) {
        if self.is_foreign_told || covers(&self.sessions.plan.topic, &message.topic) {
            return;
        }
        self.is_foreign_told = true;
        let Origin { event_source, event, .. } = self.sessions.mapper.origin();
        let (topic, consumer_id) = (&*message.topic, &*self.sessions.plan.client_id);
        tracing::warn!(
            %event_source, %event, topic, consumer_id,
            "the session brings messages that `topic` does not name; if an earlier manifest subscribed to them, set another consumerID"
        );
    }
}

/// Sends what there is to send. Safe to cancel: a packet is either still to be sent or on its way.
async fn send(writer: &mut Writer, acks: &mut Acks) -> Result<(), WireError> {
    loop {
        poll_fn(|cx| writer.poll_ready_unpin(cx)).await?;
        let Some(packet) = acks.next() else { break };
        writer.start_send_unpin(packet)?;
    }
    writer.flush().await
}

/// Whether a subscription brings the messages of a topic, as far as that can be told: other `$` prefixes than `$share` are a
/// broker's own matter.
fn covers(filter: &str, topic: &str) -> bool {
    let filter = match filter.strip_prefix(SHARE) {
        Some(shared) => shared.split_once('/').map_or(shared, |(_, filter)| filter),
        None => filter,
    };
    if filter.starts_with('$') {
        return true;
    }
    let (mut levels, mut wanted) = (topic.split('/'), filter.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests;
