//! A stream: sessions with its consumer, and what is acknowledged. A message is acknowledged once it is settled, and until then the server
//! is told that work goes on.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::time::Duration;

use async_nats::jetstream::Message as StreamMessage;
use async_nats::jetstream::{self, Context as JetStream};
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use evoke_connect::backoff::Backoff;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};

use super::connection::{ANSWER, Connection, State};
use super::consumer::{Consumer, Reached, prepare};
use super::message::Mapper;
use crate::intake::{Happened, Intake, Room};
use crate::metrics::SourceMetrics;
use crate::plan::nats::{NatsSourcePlan, StreamPlan};
use crate::report::Report;
use crate::source::{Context, Origin, Source, SourceError, Status};

/// What is read ahead of the outlet.
const ROOM: Room = Room { messages: 512, bytes: 4 * 1024 * 1024 };
/// What one request asks for.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// What a message takes beside its payload, at the most; the server refuses a request that the next message does not fit.
const OVERHEAD: usize = 128 * 1024;
/// How long a request waits for messages.
const EXPIRES: Duration = Duration::from_secs(10);
/// A request that the server has not ended so long after that is lost.
const LATE: Duration = Duration::from_secs(5);
/// The pause after a request that the server refuses.
const REFUSED: Duration = Duration::from_millis(500);
/// How often the lag is asked for.
const MEASURE: Duration = Duration::from_secs(10);
/// How long the last acknowledgements may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// A session that lasted this long did work.
const WORKED: Duration = Duration::from_secs(10);

pub(super) struct StreamReader {
    plan: NatsSourcePlan,
    stream: StreamPlan,
    origin: Origin,
    metrics: SourceMetrics,
}

impl StreamReader {
    pub(super) fn new(plan: NatsSourcePlan, stream: StreamPlan, origin: Origin, metrics: SourceMetrics) -> Self {
        Self { plan, stream, origin, metrics }
    }
}

impl Source for StreamReader {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        async move {
            let connection = Connection::open(&self.plan, &self.origin).await?;
            let mut jetstream = jetstream::new(connection.client.clone());
            jetstream.set_timeout(ANSWER);
            let mut sessions = Sessions {
                plan: self.stream,
                mapper: Mapper::new(&self.origin, self.plan.content_type.as_deref()),
                jetstream,
                taken: Taken::new(Intake::new(&context, ROOM)),
                report: Report { metrics: self.metrics, context },
                connection,
            };
            Box::pin(sessions.run()).await;
            sessions.finish().await;
            Ok(())
        }
        .boxed()
    }
}

/// One message of the stream as it is now: another stream of its name may have the same sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    made: i128,
    sequence: u64,
}

/// What the server is to be sent.
struct Outgoing {
    subject: Subject,
    reply: Option<Subject>,
    payload: Bytes,
}

/// What was taken in and is not settled, and what the server is to be told of it. Both are bounded by what the consumer lets be on its way.
struct Taken {
    intake: Intake<Token>,
    /// Where to acknowledge a message, by its sequence.
    in_flight: HashMap<u64, Subject>,
    outgoing: VecDeque<Outgoing>,
    reached: Reached,
}

impl Taken {
    fn new(intake: Intake<Token>) -> Self {
        let (in_flight, outgoing) = (HashMap::new(), VecDeque::new());
        Self { intake, in_flight, outgoing, reached: Reached::default() }
    }

    /// A session with the stream that was made at this time begins. Nothing that another told is true of it.
    fn begin(&mut self, made: i128) {
        if self.reached.made != made {
            self.reached = Reached { made, sequence: None };
            self.in_flight.clear();
            self.outgoing.clear();
        }
        // A request of an earlier session is answered to nobody.
        self.outgoing.retain(|packet| packet.reply.is_none());
    }

    fn note(&mut self, happened: Happened<Token>, report: &Report) {
        match happened {
            Happened::Accepted | Happened::Due => {}
            Happened::Settled(tokens) => self.settled(tokens),
            Happened::Failed(error) => {
                report.set(Status::Down(format!("what was read could not be stored: {error}").into()));
            }
        }
    }

    fn settled(&mut self, tokens: Vec<Token>) {
        for Token { made, sequence } in tokens {
            if made == self.reached.made {
                self.reached.sequence = self.reached.sequence.max(Some(sequence));
                if let Some(reply) = self.in_flight.remove(&sequence) {
                    self.tell(reply, b"+ACK");
                }
            }
        }
    }

    fn tell(&mut self, reply: Subject, what: &'static [u8]) {
        self.outgoing.push_back(Outgoing { subject: reply, reply: None, payload: Bytes::from_static(what) });
    }

    /// Tells the server that all that is not settled is being worked on.
    fn extend(&mut self) {
        // Where these cannot be sent, there is no use in more of them.
        if self.outgoing.len() <= self.in_flight.len() {
            let replies: Vec<_> = self.in_flight.values().cloned().collect();
            replies.into_iter().for_each(|reply| self.tell(reply, b"+WPI"));
        }
    }
}

/// Sends what there is to send. Safe to cancel: a packet is either still to be sent or on its way.
async fn send(client: &Client, outgoing: &mut VecDeque<Outgoing>) -> Result<(), String> {
    while let Some(Outgoing { subject, reply, payload }) = outgoing.front() {
        let sent = match reply {
            Some(reply) => client.publish_with_reply(subject.clone(), reply.clone(), payload.clone()).await,
            None => client.publish(subject.clone(), payload.clone()).await,
        };
        outgoing.pop_front();
        sent.map_err(|error| format!("the server cannot be told: {error}"))?;
    }
    Ok(())
}

struct Sessions {
    plan: StreamPlan,
    mapper: Mapper,
    jetstream: JetStream,
    taken: Taken,
    report: Report,
    connection: Connection,
}

impl Sessions {
    async fn run(&mut self) {
        let cancel = self.report.context.cancel.clone();
        let mut backoff = Backoff::new();
        while !cancel.is_cancelled() {
            if !self.connected().await {
                return;
            }
            let since = Instant::now();
            let Err(trouble) = Box::pin(self.session()).await else { return };
            if since.elapsed() >= WORKED {
                backoff.reset();
            }
            let state = self.connection.now();
            if state.is_up {
                let denied = state.denied.map(|what| format!("; the server says: {what}")).unwrap_or_default();
                self.connection.say(format!("{trouble}{denied}").into(), &self.report);
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = beside(&mut self.taken, &self.report, sleep(backoff.wait())) => {}
                }
            }
        }
    }

    /// Waits for a connection; false when the source is cancelled before there is one.
    async fn connected(&mut self) -> bool {
        let cancel = self.report.context.cancel.clone();
        let mut state = self.connection.now();
        while !state.is_up {
            self.connection.say_down(&state, &self.report);
            state = tokio::select! {
                biased;
                () = cancel.cancelled() => return false,
                state = beside(&mut self.taken, &self.report, self.connection.changed()) => state,
            };
        }
        true
    }

    /// Reads until the source is cancelled and everything is settled and acknowledged, or something goes wrong.
    async fn session(&mut self) -> Result<(), String> {
        let cancel = self.report.context.cancel.clone();
        let client = self.connection.client.clone();
        let (jetstream, plan, reached) = (self.jetstream.clone(), self.plan.clone(), self.taken.reached);
        let prepared = async {
            let consumer = prepare(&jetstream, &plan, reached).await?;
            let inbox = Subject::from(client.new_inbox());
            let messages = client.subscribe(inbox.clone()).await.map_err(|e| format!("no inbox can be had: {e}"))?;
            Ok::<_, String>((consumer, inbox, messages))
        };
        let (consumer, inbox, messages) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            prepared = beside(&mut self.taken, &self.report, prepared) => prepared?,
        };
        self.taken.begin(consumer.made);
        let every = (consumer.ack_wait / 3).max(Duration::from_millis(100));
        let mut at_work = AtWork {
            sessions: self,
            client,
            consumer,
            inbox,
            messages,
            request: None,
            is_next_too_large: false,
            extensions: ticks(every),
            measures: ticks(MEASURE),
            measure: None,
        };
        at_work.run().await
    }

    /// Has settled what can be, gives back what cannot, and waits until the server has been told.
    async fn finish(&mut self) {
        let mut settled = Vec::new();
        let left = self.taken.intake.finish(|tokens| settled.extend(tokens)).await;
        self.taken.settled(settled);
        let unsettled: Vec<_> =
            left.tokens.iter().filter_map(|token| self.taken.in_flight.remove(&token.sequence)).collect();
        unsettled.into_iter().for_each(|reply| self.taken.tell(reply, b"-NAK"));
        if self.connection.now().is_up {
            let client = &self.connection.client;
            let told = async {
                send(client, &mut self.taken.outgoing).await?;
                client.flush().await.map_err(|e| e.to_string())
            };
            drop(timeout(GOODBYE, told).await);
        }
        self.report.metrics.up.set(0);
    }
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

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A request for messages that the server has not ended.
struct Request {
    left: usize,
    until: Instant,
    has_brought: bool,
    /// Whether it is for one message, however large that is.
    is_for_one: bool,
}

/// A session at work.
struct AtWork<'a> {
    sessions: &'a mut Sessions,
    client: Client,
    consumer: Consumer,
    inbox: Subject,
    messages: Subscriber,
    request: Option<Request>,
    /// Whether the next message is larger than what a request may ask for.
    is_next_too_large: bool,
    extensions: Interval,
    measures: Interval,
    measure: Option<BoxFuture<'static, Option<u64>>>,
}

impl AtWork<'_> {
    async fn run(&mut self) -> Result<(), String> {
        let cancel = self.sessions.report.context.cancel.clone();
        let mut stopping = false;
        self.say_up();
        loop {
            if !stopping && self.request.is_none() && self.sessions.taken.intake.has_room() {
                self.ask();
            }
            let Taken { intake, outgoing, .. } = &mut self.sessions.taken;
            let until = self.request.as_ref().map(|request| request.until);
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !stopping => {
                    stopping = true;
                    // What still comes is given back at once.
                    drop(timeout(GOODBYE, self.messages.unsubscribe()).await);
                }
                sent = send(&self.client, outgoing), if !outgoing.is_empty() => sent?,
                happened = intake.next() => {
                    self.sessions.taken.note(happened, &self.sessions.report);
                    self.say_up();
                }
                state = self.sessions.connection.changed() => self.note_state(&state)?,
                message = self.messages.next() => match message {
                    Some(message) => self.take(message, stopping)?,
                    None if stopping => return self.settle().await,
                    None => return Err("the client is gone".to_owned()),
                },
                () = until_or_never(until) => self.request = None,
                _ = self.extensions.tick() => self.sessions.taken.extend(),
                _ = self.measures.tick(), if self.measure.is_none() => self.measure = Some(self.measure()),
                lag = or_never(&mut self.measure) => {
                    self.measure = None;
                    if let Some(lag) = lag {
                        self.sessions.report.metrics.lag.set(lag.try_into().unwrap_or(i64::MAX));
                    }
                }
            }
        }
    }

    /// Nothing more comes: has what came settled and acknowledged.
    async fn settle(&mut self) -> Result<(), String> {
        loop {
            let Taken { intake, outgoing, .. } = &mut self.sessions.taken;
            if (intake.is_settled() || intake.is_failing()) && outgoing.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                sent = send(&self.client, outgoing), if !outgoing.is_empty() => sent?,
                happened = intake.next() => self.sessions.taken.note(happened, &self.sessions.report),
                state = self.sessions.connection.changed() => self.note_state(&state)?,
                _ = self.extensions.tick() => self.sessions.taken.extend(),
            }
        }
    }

    fn note_state(&mut self, state: &State) -> Result<(), String> {
        if !state.is_up {
            self.sessions.connection.say_down(state, &self.sessions.report);
            return Err("the connection broke".to_owned());
        }
        // A request does not outlive its connection.
        self.request = None;
        Ok(())
    }

    fn say_up(&mut self) {
        if !self.sessions.taken.intake.is_failing() {
            self.sessions.connection.say_up(&self.sessions.report);
        }
    }

    /// Asks for messages.
    fn ask(&mut self) {
        let Consumer { max_batch, max_bytes, max_expires, .. } = &self.consumer;
        let is_for_one = std::mem::take(&mut self.is_next_too_large);
        let (batch, bytes) = if is_for_one {
            // 0 is no limit, which a consumer that has one takes as well.
            (1, 0)
        } else {
            let fits = self.client.server_info().max_payload.saturating_add(OVERHEAD);
            (max_batch.unwrap_or(BATCH).min(BATCH), BATCH_BYTES.max(fits).min(max_bytes.unwrap_or(usize::MAX)))
        };
        let expires = max_expires.unwrap_or(EXPIRES).min(EXPIRES);
        let StreamPlan { stream, consumer, .. } = &self.sessions.plan;
        let request = json!({ "batch": batch, "max_bytes": bytes, "expires": expires.as_nanos() as u64 });
        self.sessions.taken.outgoing.push_back(Outgoing {
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}").into(),
            reply: Some(self.inbox.clone()),
            payload: request.to_string().into(),
        });
        let until = Instant::now() + expires + LATE;
        self.request = Some(Request { left: batch, until, has_brought: false, is_for_one });
    }

    fn take(&mut self, message: Message, stopping: bool) -> Result<(), String> {
        if let Some(status) = message.status.filter(|status| *status != StatusCode::OK) {
            return self.note_status(status, message.description.as_deref().unwrap_or_default());
        }
        if let Some(request) = &mut self.request {
            (request.left, request.has_brought) = (request.left.saturating_sub(1), true);
            if request.left == 0 {
                self.request = None;
            }
        }
        let Some(reply) = message.reply.clone() else { return Ok(()) };
        let message = StreamMessage { message, context: self.sessions.jetstream.clone() };
        // Every message of a consumer tells where it is from.
        let Ok(info) = message.info() else { return Ok(()) };
        let taken = &mut self.sessions.taken;
        if stopping {
            taken.tell(reply, b"-NAK");
            return Ok(());
        }
        let sequence = info.stream_sequence;
        // What comes again before it is settled need not be stored again.
        if taken.in_flight.insert(sequence, reply).is_some() {
            return Ok(());
        }
        let position = format!("{}/{sequence}", self.sessions.plan.stream);
        let time = rfc3339(info.published.unix_timestamp_nanos());
        let arrival = self.sessions.mapper.arrival(&message.message, &position, time);
        let token = Token { made: self.consumer.made, sequence };
        taken.intake.take(arrival, Some(token), message.message.length);
        Ok(())
    }

    fn note_status(&mut self, status: StatusCode, description: &str) -> Result<(), String> {
        let StreamPlan { stream, consumer, .. } = &self.sessions.plan;
        match status {
            StatusCode::IDLE_HEARTBEAT => {}
            StatusCode::NOT_FOUND | StatusCode::TIMEOUT => self.request = None,
            StatusCode::NO_RESPONDERS => {
                return Err(format!("nobody answers for the consumer {consumer:?} of the stream {stream:?}"));
            }
            _ if description.contains("Consumer Deleted") || description.contains("push") => {
                return Err(format!("the consumer {consumer:?} of the stream {stream:?} is gone: it is made again"));
            }
            _ if description.contains("Message Size Exceeds MaxBytes") => return self.note_size(),
            // Its limits were changed since they were looked up.
            _ if description.contains("Exceeded MaxRequest") => {
                return Err(format!("the consumer {consumer:?} of the stream {stream:?} refuses: {description}"));
            }
            // Too many requests, a leader that changes, a server that shuts down.
            _ => {
                tracing::debug!(%stream, %consumer, %status, description, "the server refuses a request for messages");
                let until = Instant::now() + REFUSED;
                self.request = Some(Request { left: BATCH, until, has_brought: false, is_for_one: false });
            }
        }
        Ok(())
    }

    /// The next message does not fit into what the request has left of its bytes. One that fits into no request comes alone.
    fn note_size(&mut self) -> Result<(), String> {
        match self.request.take() {
            Some(Request { is_for_one: true, .. }) => {
                let StreamPlan { stream, consumer, .. } = &self.sessions.plan;
                return Err(format!(
                    "the next message of the stream {stream:?} is larger than the `max_bytes` of the consumer {consumer:?}: \
                     raise that, or name another in consumer"
                ));
            }
            Some(Request { has_brought: false, .. }) => self.is_next_too_large = true,
            _ => {}
        }
        Ok(())
    }

    fn measure(&self) -> BoxFuture<'static, Option<u64>> {
        let (stream, consumer) = (self.consumer.stream.clone(), self.sessions.plan.consumer.clone());
        let lag = async move {
            let info = stream.consumer_info(consumer).await.ok()?;
            Some(info.num_pending.saturating_add(info.num_ack_pending as u64))
        };
        lag.boxed()
    }
}

async fn until_or_never(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

async fn or_never<T>(under_way: &mut Option<BoxFuture<'static, T>>) -> T {
    match under_way {
        Some(future) => future.await,
        None => pending().await,
    }
}

fn rfc3339(nanos: i128) -> Option<String> {
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    let rest = u32::try_from(nanos.rem_euclid(1_000_000_000)).ok()?;
    Some(DateTime::from_timestamp(seconds, rest)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}
