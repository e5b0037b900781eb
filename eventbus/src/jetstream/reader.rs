//! Reads one partition: pulls from a consumer of its own that nobody acknowledges to. Whatever gets lost between here and there, it
//! makes another that goes on where the last record was.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::core::Core;
use super::error::WireError;
use super::gaps::{Clock, Gaps, Passed};
use super::locate::{self, Epoch, Span};
use super::topic::Topic;
use crate::bus::{Batch, BusError, From, Fut, Partition, Reader, Record};
use crate::codec::nats::{self, Decoded};
use crate::event::Event;

/// How long a pull waits at the servers.
const PULL: Duration = Duration::from_secs(30);
/// How often the servers say that they are there while a pull waits.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which the consumer is taken for lost.
const SILENCE: Duration = Duration::from_secs(5);
/// More messages than this are never on the way, so that they fit the client's own queue.
const PULL_MESSAGES: usize = 20_000;
/// A message is never smaller than its subject and its acknowledgement's.
const MESSAGE_BYTES: usize = 64;

pub(super) struct JetReader {
    core: Arc<Core>,
    topic: Arc<Topic>,
    partition: u16,
    /// One of two pulls, in bytes; 0 where each message is asked for.
    pull: usize,
    /// Where to go on.
    next: u64,
    /// Where whoever reads was told to go on.
    told: u64,
    /// When the stream was made that this is about.
    created: String,
    epoch: Epoch,
    session: Option<Session>,
    newest: SystemTime,
    /// The last message, to know the log again by.
    last: Option<Print>,
    /// A message larger than a pull was met, and is asked for alone.
    large: bool,
    ready: Option<Record>,
    gaps: Gaps,
    /// What is given next, once it is known what it passes over.
    judging: Option<(Batch, Passed)>,
    making: Option<BoxFuture<'static, Result<Made, BusError>>>,
}

/// A consumer, and what is on the way from it.
struct Session {
    core: Arc<Core>,
    stream: String,
    consumer: String,
    inbox: String,
    messages: Subscriber,
    /// The connection it was made over.
    connection: u64,
    /// Where it begins.
    from: u64,
    /// The last message's number among all of this consumer's.
    last: u64,
    /// Bytes that were asked for and have not come.
    asked: usize,
    heard: Instant,
    clock: Option<Clock>,
}

impl Drop for Session {
    /// A consumer that stays is forgotten after a minute.
    fn drop(&mut self) {
        let (core, call) = (self.core.clone(), format!("CONSUMER.DELETE.{}.{}", self.stream, self.consumer));
        if core.closed.is_cancelled() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        self.core.tasks.spawn(async move {
            if let Err(error) = core.wire.api::<serde_json::Value>(&call, &json!({})).await {
                tracing::debug!(%error, "a consumer was not deleted");
            }
        });
    }
}

/// Where a message is and when it was stored: another one in its place was stored at another time.
#[derive(Clone, Copy, Debug)]
struct Print {
    sequence: u64,
    appended: SystemTime,
}

/// What became of a new consumer.
enum Made {
    Session(Session),
    /// The log is not the one that was read; says where to go on.
    Other(BusError),
}

/// A new consumer, once it is known that the log still is what it was.
async fn session(
    core: Arc<Core>,
    topic: Arc<Topic>,
    partition: u16,
    next: u64,
    (created, last): (String, Option<Print>),
    connection: u64,
) -> Result<Made, BusError> {
    let asked = Instant::now();
    let info = locate::look(&core, &topic, partition).await?;
    let clock = info.ts.map(|said| Clock { said: said.into(), asked });
    let span = Span::of(&info, &topic, partition);
    if info.created != created {
        return Ok(Made::Other(BusError::Trimmed { first: span.epoch.at(span.first) }));
    }
    // Servers that came back with an older copy have stored other events by now where those were that they lost.
    if let Some(Print { sequence, appended }) = last.filter(|last| (span.first..span.end).contains(&last.sequence))
        && locate::stored_at(&core, &topic, sequence).await?.is_some_and(|stored| stored != appended)
    {
        let newer = locate::since(&core, &topic, partition, appended + Duration::from_nanos(1)).await?;
        return Ok(Made::Other(BusError::Ahead { end: span.epoch.at(newer.clamp(span.first, sequence)) }));
    }
    let from = span.check(span.epoch.at(next))?;
    let (consumer, inbox) = (locate::consumer_name(), core.wire.client.new_inbox());
    let messages = core.wire.client.subscribe(inbox.clone()).await;
    let messages = messages.map_err(|e| WireError::Client(e.to_string()))?;
    let start = json!({"deliver_policy": "by_start_sequence", "opt_start_seq": from});
    locate::make_consumer::<serde_json::Value>(&core, &topic, partition, &consumer, start).await?;
    let stream = topic.stream.clone();
    let (last, asked, heard) = (0, 0, Instant::now());
    Ok(Made::Session(Session { core, stream, consumer, inbox, messages, connection, from, last, asked, heard, clock }))
}

/// What a message means to the reader.
enum Step {
    Record(Record),
    /// Nothing to give, go on.
    Nothing,
    /// The consumer is of no use any more.
    Renew,
}

impl JetReader {
    pub(super) async fn open(
        core: Arc<Core>,
        topic: Arc<Topic>,
        partition: u16,
        from: From,
        prefetch: usize,
    ) -> Result<Self, BusError> {
        let info = locate::look(&core, &topic, partition).await?;
        let span = Span::of(&info, &topic, partition);
        let next = match from {
            From::First => span.first,
            From::Next => span.end,
            From::At(position) => span.check(position)?,
            From::Time(_) => {
                let asked = [(Partition { topic: topic.name.clone(), index: partition }, from)];
                let marks = locate::locate(&core, &asked).await?;
                marks.first().map_or(span.end, |mark| span.sequence(mark.at))
            }
        };
        let mut reader = Self {
            core,
            topic,
            partition,
            pull: if prefetch < 2 * MESSAGE_BYTES { 0 } else { prefetch / 2 },
            next,
            told: next,
            epoch: span.epoch,
            created: info.created,
            session: None,
            newest: SystemTime::UNIX_EPOCH,
            last: None,
            large: false,
            ready: None,
            gaps: Gaps::default(),
            judging: None,
            making: None,
        };
        let connection = reader.core.wire.up()?;
        reader.connect(connection).await?;
        Ok(reader)
    }

    async fn read(&mut self, max_bytes: usize) -> Result<Batch, BusError> {
        loop {
            if self.core.closing.is_cancelled() {
                return Err(BusError::Closed);
            }
            self.follow().await?;
            if self.topic.cut(self.partition) > self.next {
                return Err(self.gone().await?);
            }
            if self.judging.is_some() {
                return self.judged().await;
            }
            self.prepare().await?;
            if let Some(batch) = self.take(max_bytes) {
                let passed = self.gaps.take(self.next);
                self.told = self.next;
                self.judging = Some((batch, passed));
                return self.judged().await;
            }
            // What has come may have been the end of what was asked for.
            self.prepare().await?;
            if let Some(batch) = self.wait().await? {
                return Ok(batch);
            }
        }
    }

    /// Where the stream was given another number of partitions, its topic is known anew: the one of before never agrees with it again.
    async fn follow(&mut self) -> Result<(), BusError> {
        let is_known =
            self.core.topics.lock().get(&self.topic.name).is_some_and(|known| Arc::ptr_eq(known, &self.topic));
        if !is_known {
            let partition = Partition { topic: self.topic.name.clone(), index: self.partition };
            self.topic = self.core.partition(&partition).await?;
        }
        Ok(())
    }

    /// What is there already, without waiting.
    fn take(&mut self, max_bytes: usize) -> Option<Batch> {
        let mut batch = Batch::default();
        loop {
            let record = match self.ready.take() {
                Some(record) => record,
                None => match self.pop() {
                    Some(Step::Record(record)) => record,
                    Some(Step::Nothing) => continue,
                    Some(Step::Renew) => {
                        self.session = None;
                        break;
                    }
                    None => break,
                },
            };
            let bytes = record.event.encoded_len();
            if !batch.records.is_empty() && batch.bytes + bytes > max_bytes {
                self.ready = Some(record);
                break;
            }
            self.next = locate::sequence(record.at) + 1;
            batch.bytes += bytes;
            batch.records.push(record);
        }
        batch.next = self.epoch.at(self.next);
        batch.latest = Some(self.newest);
        (self.next > self.told).then_some(batch)
    }

    /// The next message that has come, if one has.
    fn pop(&mut self) -> Option<Step> {
        let message = self.session.as_mut()?.messages.next().now_or_never()?;
        Some(message.map_or(Step::Renew, |message| self.step(&message)))
    }

    fn step(&mut self, message: &Message) -> Step {
        let Some(session) = &mut self.session else { return Step::Nothing };
        session.heard = Instant::now();
        if let Some(status) = message.status {
            return self.status(status, message);
        }
        let Some(place) = message.reply.as_ref().and_then(|reply| Place::parse(reply.as_str())) else {
            return Step::Nothing;
        };
        if place.number != session.last + 1 {
            return Step::Renew;
        }
        session.last = place.number;
        self.last = Some(Print { sequence: place.sequence, appended: place.appended });
        session.asked = session.asked.saturating_sub(message.length);
        self.large = false;
        if place.sequence < self.next {
            return Step::Nothing;
        }
        if self.topic.cuts_itself() {
            self.gaps.pass(self.next, place.sequence, self.newest);
        }
        self.newest = self.newest.max(place.appended);
        // What cannot be an event is passed by: `next` goes on behind it.
        let Some(event) = self.event(message, place.sequence) else {
            self.next = place.sequence + 1;
            return Step::Nothing;
        };
        Step::Record(Record::new(self.epoch.at(place.sequence), self.newest, event))
    }

    fn status(&mut self, status: StatusCode, message: &Message) -> Step {
        let Some(session) = &mut self.session else { return Step::Nothing };
        let described = message.description.as_deref().unwrap_or_default();
        match status.as_u16() {
            // Still there.
            100 => Step::Nothing,
            // The pull has ended, and gives back what it was not used for.
            404 | 408 => {
                session.asked = session.asked.saturating_sub(left(message));
                Step::Nothing
            }
            409 if described.eq_ignore_ascii_case("Message Size Exceeds MaxBytes") => {
                let left = left(message);
                session.asked = session.asked.saturating_sub(left);
                // A whole pull was too small for the next message, and so are the others that wait.
                self.large |= left >= self.pull;
                Step::Nothing
            }
            _ => Step::Renew,
        }
    }

    /// The event that a message is, or the one made of it.
    fn event(&self, message: &Message, sequence: u64) -> Option<Event> {
        let decoded = nats::decode(message.headers.as_ref(), &message.payload).and_then(|decoded| {
            let event = match decoded {
                Decoded::Event(event) => event,
                Decoded::Plain(content_type) => {
                    let id = format!("{}/{sequence}", self.topic.stream);
                    Event::builder(id, format!("/nats/{}", message.subject), nats::PLAIN_TYPE)
                        .attribute_if("datacontenttype", content_type)
                        .data(message.payload.clone())
                }
            };
            event.build().map_err(Into::into)
        });
        match decoded {
            Ok(event) => Some(event),
            Err(error) => {
                let (topic, first) = (&self.topic.name, self.topic.skip());
                if first {
                    tracing::warn!(%topic, sequence, %error, "a message that cannot be an event is passed by; more of them are only counted");
                } else {
                    tracing::debug!(%topic, sequence, %error, "a message that cannot be an event is passed by");
                }
                None
            }
        }
    }

    /// Sees to it that there is a consumer. What a call that is dropped began, the next one goes on with.
    async fn connect(&mut self, connection: u64) -> Result<(), BusError> {
        if self.session.is_some() {
            return Ok(());
        }
        self.ready = None;
        let (core, topic, partition) = (&self.core, &self.topic, self.partition);
        let made = self.making.get_or_insert_with(|| {
            let (core, topic, known) = (core.clone(), topic.clone(), (self.created.clone(), self.last));
            Box::pin(session(core, topic, partition, self.next, known, connection))
        });
        let made = made.as_mut().await;
        self.making = None;
        match made? {
            Made::Session(session) => {
                self.next = session.from;
                self.gaps.forget_from(self.next);
                self.large = false;
                self.session = Some(session);
                Ok(())
            }
            // Whoever reads opens another one there.
            Made::Other(error) => Err(error),
        }
    }

    /// Sees to it that there is a consumer and that enough was asked of it, over as many connections as that takes.
    async fn prepare(&mut self) -> Result<(), BusError> {
        loop {
            let Ok(connection) = self.core.wire.up() else {
                self.core.connected().await?;
                continue;
            };
            match self.prepare_over(connection).await {
                Err(BusError::Unavailable(_)) if self.core.wire.up() != Ok(connection) => {}
                done => return done,
            }
        }
    }

    async fn prepare_over(&mut self, connection: u64) -> Result<(), BusError> {
        if self.session.as_ref().is_some_and(|session| session.connection != connection) {
            self.session = None;
        }
        self.connect(connection).await?;
        let Some(session) = &mut self.session else { return Ok(()) };
        if self.pull == 0 || self.large {
            if session.asked == 0 && self.ready.is_none() {
                session.ask(1, None).await?;
            }
        } else {
            while session.asked <= self.pull {
                session.ask((self.pull / MESSAGE_BYTES).clamp(1, PULL_MESSAGES), Some(self.pull)).await?;
            }
        }
        Ok(())
    }

    /// Waits for a message. At a quiet end that moved on for other partitions, an empty batch says so.
    async fn wait(&mut self) -> Result<Option<Batch>, BusError> {
        let mut standing = self.core.wire.standing();
        standing.borrow_and_update();
        let Some(session) = &mut self.session else { return Ok(None) };
        let silent = session.heard + SILENCE;
        let message = tokio::select! {
            message = session.messages.next() => message,
            () = self.core.closing.cancelled() => return Err(BusError::Closed),
            _ = standing.changed() => return Ok(None),
            () = tokio::time::sleep_until(silent) => None,
        };
        let expired = message.as_ref().is_some_and(|message| message.status == Some(StatusCode::TIMEOUT));
        match message.map_or(Step::Renew, |message| self.step(&message)) {
            Step::Record(record) => self.ready = Some(record),
            Step::Nothing => {}
            Step::Renew => self.session = None,
        }
        if expired { self.idle().await } else { Ok(None) }
    }

    /// What lies before the end for other partitions alone needs not be passed again.
    async fn idle(&mut self) -> Result<Option<Batch>, BusError> {
        let info = locate::look(&self.core, &self.topic, self.partition).await?;
        let Span { end, .. } = Span::of(&info, &self.topic, self.partition);
        if end <= self.next || info.created != self.created {
            return Ok(None);
        }
        let found = locate::next_message(&self.core, &self.topic, self.partition, self.next).await;
        if found.map_err(BusError::from)?.is_some() || self.ready.is_some() {
            return Ok(None);
        }
        if self.topic.cuts_itself() {
            self.gaps.pass(self.next, end, self.newest);
        }
        (self.next, self.told) = (end, end);
        self.judging = Some((Batch { next: self.epoch.at(end), ..Batch::default() }, self.gaps.take(end)));
        self.judged().await.map(Some)
    }

    /// The batch, with what of the sequences that it passes over may be those of events that the servers deleted before they were read.
    /// A call that is dropped here gives it next time.
    async fn judged(&mut self) -> Result<Batch, BusError> {
        let mut gaps = Vec::new();
        if let Some((_, passed)) = &self.judging
            && !self.is_kept(passed)
        {
            // Asked for after all of it was passed: what was deleted by then shows.
            let info = locate::info(&self.core, &self.topic).await?;
            self.topic.learn(&info.config);
            // Of another stream of the same name, the next consumer tells.
            if info.created == self.created {
                gaps = passed.before(info.state.first_seq, self.epoch);
            }
        }
        let (batch, _) = self.judging.take().unwrap_or_default();
        Ok(Batch { gaps, ..batch })
    }

    /// True where the servers cannot have deleted what was passed over.
    fn is_kept(&self, passed: &Passed) -> bool {
        let clock = self.session.as_ref().and_then(|session| session.clock);
        match (self.topic.only_age(), clock) {
            (Some(age), Some(clock)) => passed.is_younger(age, clock.now()),
            _ => passed.is_empty(),
        }
    }

    /// The error of a position that was trimmed; the reader is to be opened again.
    async fn gone(&mut self) -> Result<BusError, BusError> {
        (self.session, self.ready, self.judging) = (None, None, None);
        self.gaps.forget_from(0);
        let info = locate::look(&self.core, &self.topic, self.partition).await?;
        let Span { epoch, first, .. } = Span::of(&info, &self.topic, self.partition);
        Ok(BusError::Trimmed { first: epoch.at(first) })
    }
}

impl Reader for JetReader {
    fn next(&mut self, max_bytes: usize) -> Fut<'_, Batch> {
        Box::pin(self.read(max_bytes))
    }
}

impl Session {
    async fn ask(&mut self, messages: usize, bytes: Option<usize>) -> Result<(), BusError> {
        let mut pull = json!({"batch": messages, "expires": nanos(PULL), "idle_heartbeat": nanos(HEARTBEAT)});
        if let (Some(pull), Some(bytes)) = (pull.as_object_mut(), bytes) {
            pull.insert("max_bytes".to_owned(), bytes.into());
        }
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer);
        // Counted before it is sent: a call that is dropped in between leaves at worst a pull that is missed until it is noticed.
        self.asked += bytes.unwrap_or(1);
        self.heard = Instant::now();
        let sent = self.core.wire.client.publish_with_reply(subject, self.inbox.clone(), pull.to_string().into()).await;
        sent.map_err(|e| WireError::Client(e.to_string()).into())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a pull that ended was not used for, in bytes.
fn left(message: &Message) -> usize {
    let bytes = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Bytes"));
    let bytes = bytes.and_then(|bytes| bytes.as_str().parse().ok()).unwrap_or_default();
    // One that was not limited in bytes counts as one.
    if bytes == 0 { 1 } else { bytes }
}

/// Where a message is, as its acknowledgement's subject says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    sequence: u64,
    /// Among all messages of the consumer.
    number: u64,
    appended: SystemTime,
}

impl Place {
    /// `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.NUMBER.NANOSECONDS.PENDING`, with a domain and an account before the stream
    /// and a token at the end in its newer form.
    fn parse(reply: &str) -> Option<Self> {
        let mut tokens = reply.split('.');
        let newer = reply.split('.').count() > 9;
        if (tokens.next(), tokens.next()) != (Some("$JS"), Some("ACK")) {
            return None;
        }
        let mut number = tokens.skip(if newer { 5 } else { 3 });
        let mut number = || number.next()?.parse::<u64>().ok();
        let (sequence, consumer, nanos) = (number()?, number()?, number()?);
        let appended = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        Some(Self { sequence, number: consumer, appended })
    }
}

impl std::fmt::Debug for JetReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JetReader").field("topic", &self.topic.name).field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_acknowledgement_are_read() {
        let place = Place::parse("$JS.ACK.evoke+a.c5.1.3.2.1795645929960512361.6").unwrap();
        assert_eq!((place.sequence, place.number), (3, 2));
        assert_eq!(place.appended, SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_645_929_960_512_361));
        assert_eq!(Place::parse("$JS.ACK.hub.hash.evoke+a.c5.1.3.2.1795645929960512361.6.token"), Some(place));
        assert_eq!(Place::parse("_INBOX.a.b"), None);
    }
}
