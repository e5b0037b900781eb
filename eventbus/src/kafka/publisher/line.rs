//! One client: what it is given, what it reports, and what it leaves to the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use evoke_connect::kafka::words::text;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};

use super::call::{Outgoing, Pending};
use super::fate::{self, Fate};
use super::position;
use super::trials::Trials;
use crate::bus::Position;
use crate::kafka::client::{self, Told};
use crate::kafka::cluster::Place;
use crate::kafka::record;

/// How long the thread waits for something to do, which is also how late it sees that it is to end.
const POLL: Duration = Duration::from_millis(50);
/// How long a client is given at a time to report what it gave up.
const REPORT: Duration = Duration::from_millis(20);

/// How a client publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Many records in a batch. A batch that is refused ends the client, so that nothing behind it is stored.
    InBatches,
    /// One record in a batch. One that is refused can never be stored, and what is behind it goes on.
    Singly,
}

/// What a client leaves to the next.
#[derive(Default)]
pub(super) struct Left {
    /// In the order in which they were accepted.
    pub(super) records: Vec<Pending>,
    /// The topics of which the brokers refused a batch, and why.
    pub(super) refused: BTreeMap<Arc<str>, String>,
}

type Client = BaseProducer<Reports>;

/// A record that is not stored, and why.
type Failed = (KafkaError, Pending);

/// See the module.
pub(super) struct Line {
    client: Arc<Client>,
    condition: Arc<Condition>,
}

/// How a client is.
struct Condition {
    mode: Mode,
    /// It takes nothing more, and another is to take its place.
    gave_up: AtomicBool,
    /// It got something stored.
    works: AtomicBool,
    /// There will be no other.
    closing: Arc<AtomicBool>,
    trials: Trials<Pending>,
    left: Mutex<Left>,
    /// The client, which is the line's.
    client: OnceLock<Weak<Client>>,
}

/// Takes in what a client says.
struct Reports {
    told: Arc<Told>,
    condition: Arc<Condition>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        client::log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            // That the client cannot go on says nothing of the brokers.
            self.condition.give_up();
        } else {
            self.told.hear(&error, reason);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        let stored = match result {
            Ok(message) => stored_at(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.condition.report(*pending, stored);
    }
}

/// Where a record is that the client calls stored. It also calls so what it was told to try again and has no offset of, once something
/// after it is stored: brokers that remember nothing of the client may have stored that alone.
fn stored_at(offset: i64) -> Result<Position, KafkaError> {
    if offset < 0 {
        return Err(KafkaError::MessageProduction(RDKafkaErrorCode::Inconsistent));
    }
    Ok(position(offset))
}

impl Condition {
    fn give_up(&self) {
        self.gave_up.store(true, Ordering::Release);
    }

    fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Acquire)
    }

    /// Gives a record to the client. Does not wait.
    fn produce(&self, pending: Pending) -> Result<(), Failed> {
        match pending.event().cloned() {
            Some(event) => self.produce_as(pending, record::outgoing(&event)),
            None => Err((KafkaError::Canceled, pending)),
        }
    }

    fn produce_as(&self, pending: Pending, record: Outgoing<'_>) -> Result<(), Failed> {
        let client = self.client.get().and_then(Weak::upgrade).filter(|_| !self.gave_up());
        let Some(client) = client else {
            return Err((KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), pending));
        };
        let (topic, partition) = pending.to().clone();
        let mut outgoing = BaseRecord::<[u8], [u8], _>::with_opaque_to(&topic, Box::new(pending)).partition(partition);
        (outgoing.key, outgoing.payload, outgoing.headers) = (record.key, record.value, record.headers);
        client.send(outgoing).map_err(|(error, refused)| (error, *refused.delivery_opaque))
    }

    /// Takes in what became of a record, and has those go that waited for it.
    fn report(&self, pending: Pending, stored: Result<Position, KafkaError>) {
        let position = match stored {
            Ok(position) => position,
            Err(error) => return self.failed(VecDeque::from([(error, pending)])),
        };
        self.works.store(true, Ordering::Relaxed);
        let awaited = pending.is_awaited().then(|| pending.to().clone());
        pending.resolve(Ok(position));
        if let Some(to) = awaited {
            let mut failed = VecDeque::new();
            self.trials.pass(Instant::now(), &to, |pending| failed.extend(self.produce(pending.awaited(false)).err()));
            self.failed(failed);
        }
    }

    /// Takes in what failed, and what fails that goes in its place.
    fn failed(&self, mut failed: VecDeque<Failed>) {
        while let Some((error, pending)) = failed.pop_front() {
            if let Some(next) = self.end(pending, &error) {
                failed.extend(self.produce(next.awaited(true)).err());
            }
        }
    }

    /// Says what becomes of a record that failed. Gives the one to try in its place, where others wait for it.
    fn end(&self, pending: Pending, error: &KafkaError) -> Option<Pending> {
        let cause = match (fate::of(error), self.mode) {
            (Fate::Again, _) => {
                self.keep(pending);
                return None;
            }
            (Fate::TooLarge | Fate::Refused, Mode::InBatches) => {
                let topic = Arc::clone(&pending.to().0);
                self.left.lock().refused.entry(topic).or_insert_with(|| text(error));
                self.keep(pending);
                return None;
            }
            (Fate::NoTopic, _) => {
                for waiting in self.trials.forget(pending.to()) {
                    waiting.resolve(Err(fate::uncertain(error)));
                }
                fate::uncertain(error)
            }
            (Fate::TooLarge, Mode::Singly) => pending.too_large(),
            (Fate::Refused, Mode::Singly) | (Fate::Failed, _) => fate::uncertain(error),
        };
        let next = if pending.is_awaited() { self.trials.another(pending.to()) } else { None };
        pending.resolve(Err(cause));
        next
    }

    /// Keeps a record for the next client.
    fn keep(&self, pending: Pending) {
        if self.closing.load(Ordering::Acquire) {
            pending.resolve(Err(fate::closed()));
            return;
        }
        self.give_up();
        if pending.event().is_some() {
            self.left.lock().records.push(pending);
        } else {
            pending.resolve(Err(fate::given_up("another takes its place")));
        }
    }
}

impl Line {
    /// A client that publishes as its settings say, which are those of its mode.
    pub(super) fn new(
        config: &ClientConfig,
        mode: Mode,
        told: &Arc<Told>,
        closing: &Arc<AtomicBool>,
    ) -> Result<Self, KafkaError> {
        let condition = Arc::new(Condition {
            mode,
            gave_up: AtomicBool::new(false),
            works: AtomicBool::new(false),
            closing: Arc::clone(closing),
            trials: Trials::default(),
            left: Mutex::default(),
            client: OnceLock::new(),
        });
        let reports = Reports { told: Arc::clone(told), condition: Arc::clone(&condition) };
        let client: Arc<Client> = Arc::new(config.create_with_context(reports)?);
        condition.client.set(Arc::downgrade(&client)).unwrap_or_default();
        Ok(Self { client, condition })
    }

    /// Takes events of one partition, in their order. Does not wait.
    pub(super) fn take(&self, to: &Place, events: impl IntoIterator<Item = Pending>) {
        let (condition, mut failed) = (&self.condition, VecDeque::new());
        condition.trials.admit(Instant::now(), to, events, |pending, awaited| {
            failed.extend(condition.produce(pending.awaited(awaited)).err());
        });
        condition.failed(failed);
    }

    /// Takes a record that is not published again. Does not wait.
    pub(super) fn take_once(&self, pending: Pending, record: Outgoing<'_>) {
        if let Err(failed) = self.condition.produce_as(pending, record) {
            self.condition.failed(VecDeque::from([failed]));
        }
    }

    /// Waits a moment for what the client has to say.
    pub(super) fn poll(&self) {
        self.client.poll(POLL);
    }

    /// How many partitions of a topic it knows by what the brokers say: it refuses records for any other. Blocks.
    pub(super) fn partitions(&self, topic: &str, patience: Duration) -> Result<usize, KafkaError> {
        let metadata = self.client.client().fetch_metadata(Some(topic), patience)?;
        let Some(found) = metadata.topics().first() else { return Ok(0) };
        match found.error() {
            None => Ok(found.partitions().len()),
            // It learns of partitions only where there is none.
            Some(error) => Err(KafkaError::MetadataFetch(error.into())),
        }
    }

    /// Has another take its place.
    pub(super) fn give_up(&self) {
        self.condition.give_up();
    }

    /// Whether another is to take its place.
    pub(super) fn gave_up(&self) -> bool {
        self.condition.gave_up()
    }

    /// Whether it got something stored.
    pub(super) fn works(&self) -> bool {
        self.condition.works.load(Ordering::Relaxed)
    }

    /// Whether the brokers refused a batch of it.
    pub(super) fn was_refused(&self) -> bool {
        !self.condition.left.lock().refused.is_empty()
    }

    /// Why it can do nothing any more, in the client's words.
    pub(super) fn fatal(&self) -> Option<String> {
        self.client.client().fatal_error().map(|(_, text)| text)
    }

    /// Takes back what it has not sent, and, where nobody waits for it any more, what it has. Says whether that is all. Blocks for a
    /// moment.
    pub(super) fn take_back(&self, sent_too: bool) -> bool {
        let purge = PurgeConfig::default().queue();
        self.client.purge(if sent_too { purge.inflight() } else { purge });
        self.client.flush(REPORT).is_ok()
    }

    /// Whether nothing is on its way, and nothing left to report.
    pub(super) fn has_settled(&self) -> bool {
        self.client.flush(Duration::ZERO).is_ok()
    }

    /// What it leaves, once it has settled.
    pub(super) fn leave(&self) -> Left {
        let mut left = std::mem::take(&mut *self.condition.left.lock());
        left.records.extend(self.condition.trials.end());
        left.records.sort_by_key(Pending::order);
        left
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::sync::oneshot;

    use super::super::call::{Call, Stored};
    use super::*;
    use crate::bus::PublishError;
    use crate::event::Event;
    use crate::metrics::BusMetrics;
    use crate::queued::Queued;

    type Receipt = oneshot::Receiver<Vec<Stored>>;

    /// The largest record that a client of these tests takes.
    const LIMIT: usize = 1000;

    /// A client of brokers that are not there.
    fn line(mode: Mode, closing: &Arc<AtomicBool>) -> Line {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("enable.idempotence", "true").set("message.timeout.ms", "0");
        config.set("message.max.bytes", LIMIT.to_string());
        Line::new(&config, mode, &Arc::default(), closing).unwrap()
    }

    /// One call of so many events with so many bytes.
    async fn call(number: u64, partition: i32, events: usize, bytes: usize) -> (Arc<Call>, Receipt) {
        let metrics = BusMetrics::new(&Registry::new()).unwrap().bus("test");
        let room = Queued::new(1 << 20, &metrics.queued_bytes).place(1).await.unwrap();
        let event = |id: usize| Event::builder(id.to_string(), "/s", "t").data(vec![b'x'; bytes]).build().unwrap();
        let to = ("orders".into(), partition);
        Call::new(to, number, events, (0..events).map(event).collect(), &metrics, room, Arc::default())
    }

    /// Gives it the events of one call.
    async fn take(line: &Line, number: u64, partition: i32, events: usize) -> Receipt {
        let (call, stored) = call(number, partition, events, 1).await;
        line.take(&call.to, call.events());
        call.handed_over();
        stored
    }

    /// Tells it what became of a record that others of its partition wait for.
    async fn tell(line: &Line, partition: i32, stored: Result<Position, RDKafkaErrorCode>) -> Receipt {
        let (call, receipt) = call(u64::MAX, partition, 1, 1).await;
        call.handed_over();
        line.condition.report(call.pending(0).awaited(true), stored.map_err(KafkaError::MessageProduction));
        receipt
    }

    /// Takes back everything.
    fn settle(line: &Line) {
        while !line.take_back(true) {}
    }

    #[tokio::test]
    async fn what_a_client_leaves_is_all_that_it_had_in_the_order_of_acceptance() {
        let line = line(Mode::InBatches, &Arc::default());
        let mut stored = vec![take(&line, 0, 0, 2).await, take(&line, 1, 1, 1).await, take(&line, 2, 0, 2).await];
        assert!(!line.gave_up());
        line.condition.give_up();
        stored.push(take(&line, 3, 1, 1).await);
        settle(&line);
        let left = line.leave();
        let order: Vec<_> = left.records.iter().map(Pending::order).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)]);
        assert!(line.leave().records.is_empty() && left.refused.is_empty());
        assert!(stored.iter_mut().all(|stored| stored.try_recv().is_err()), "nobody is told yet");
    }

    #[tokio::test]
    async fn what_a_bus_has_on_its_way_when_it_is_closed_has_failed() {
        let closing = Arc::default();
        let line = line(Mode::Singly, &closing);
        let stored = take(&line, 0, 0, 1).await;
        closing.store(true, Ordering::Release);
        settle(&line);
        assert_eq!(stored.await.unwrap(), [Err(fate::closed())]);
        assert!(!line.gave_up() && line.leave().records.is_empty());
    }

    #[tokio::test]
    async fn a_batch_that_is_refused_ends_a_client_and_a_record_that_is_refused_alone_does_not() {
        for (mode, ends) in [(Mode::InBatches, true), (Mode::Singly, false)] {
            let line = line(mode, &Arc::default());
            let mut stored = tell(&line, 0, Err(RDKafkaErrorCode::MessageSizeTooLarge)).await;
            assert_eq!((line.gave_up(), line.was_refused()), (ends, ends), "{mode:?}");
            let told = stored.try_recv().ok();
            let too_large = told.as_deref().is_some_and(|told| matches!(told, [Err(PublishError::TooLarge { .. })]));
            assert_eq!((too_large, line.leave().records.len()), (!ends, usize::from(ends)), "{mode:?}: {told:?}");
        }
    }

    #[tokio::test]
    async fn what_a_client_calls_stored_without_knowing_where_is_published_again() {
        // What the client and the brokers say instead of an offset that they do not have.
        for offset in [-1001, -1] {
            let line = line(Mode::Singly, &Arc::default());
            let (call, mut stored) = call(0, 0, 1, 1).await;
            call.handed_over();
            line.condition.report(call.pending(0), stored_at(offset));
            assert!(line.gave_up() && !line.works() && stored.try_recv().is_err(), "{offset}");
            assert_eq!(line.leave().records.len(), 1);
        }
        assert_eq!(stored_at(0), Ok(position(0)));
    }

    #[tokio::test]
    async fn what_waits_goes_as_soon_as_a_record_is_stored() {
        let line = line(Mode::InBatches, &Arc::default());
        let _receipts = [take(&line, 0, 0, 3).await, take(&line, 1, 0, 2).await];
        assert_eq!(line.condition.trials.waiting(), 4);
        // Not only after a poll.
        tell(&line, 0, Ok(position(7))).await;
        assert_eq!(line.condition.trials.waiting(), 0);
        let _receipt = take(&line, 2, 0, 2).await;
        assert_eq!(line.condition.trials.waiting(), 0, "the brokers know the client there");
        settle(&line);
        assert_eq!(line.leave().records.len(), 7);
    }

    #[tokio::test]
    async fn where_a_topic_is_gone_everything_that_waits_has_failed_and_the_next_record_goes_alone() {
        let line = line(Mode::InBatches, &Arc::default());
        let _first = take(&line, 0, 0, 1).await;
        let mut waiting = take(&line, 1, 0, 1000).await;
        tell(&line, 0, Err(RDKafkaErrorCode::UnknownTopic)).await;
        let stored = waiting.try_recv().unwrap();
        assert_eq!(stored.len(), 1000);
        assert!(stored.iter().all(|stored| matches!(stored, Err(PublishError::Uncertain(_)))), "{stored:?}");
        // The same where something was stored before.
        for _ in 0..2 {
            let _receipt = take(&line, 2, 0, 2).await;
            assert_eq!(line.condition.trials.waiting(), 1);
            tell(&line, 0, Ok(position(0))).await;
            tell(&line, 0, Err(RDKafkaErrorCode::UnknownPartition)).await;
        }
    }

    #[tokio::test]
    async fn records_that_fail_at_once_hold_up_nothing() {
        let line = line(Mode::Singly, &Arc::default());
        let _first = take(&line, 0, 0, 1).await;
        let (call, mut waiting) = call(1, 0, 1000, 2 * LIMIT).await;
        line.take(&call.to, call.events());
        call.handed_over();
        let _last = take(&line, 2, 0, 1).await;
        tell(&line, 0, Err(RDKafkaErrorCode::MessageSizeTooLarge)).await;
        let stored = waiting.try_recv().unwrap();
        assert_eq!(stored.len(), 1000);
        assert!(stored.iter().all(|stored| matches!(stored, Err(PublishError::TooLarge { .. }))), "{stored:?}");
        assert_eq!(line.condition.trials.waiting(), 0, "what is behind them is tried");
        settle(&line);
        assert_eq!(line.leave().records.len(), 2);
    }
}
