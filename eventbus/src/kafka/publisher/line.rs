//! One client: what it is given, what it reports, and what it leaves to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
use crate::bus::{Position, PublishError};
use crate::kafka::client::{self, Told};
use crate::kafka::cluster::Place;
use crate::kafka::record;

/// How long the thread waits for something to do, which is also how late it sees that it is to end.
const POLL: Duration = Duration::from_millis(50);
/// The same while records wait for the first one of their partition.
const POLL_TRIALS: Duration = Duration::from_millis(5);
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

/// See the module.
pub(super) struct Line {
    producer: BaseProducer<Reports>,
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
            Ok(message) => Ok(position(message.offset())),
            Err((error, _)) => Err(error),
        };
        self.condition.report(*pending, stored);
    }
}

impl Condition {
    fn give_up(&self) {
        self.gave_up.store(true, Ordering::Release);
    }

    fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Acquire)
    }

    /// Takes in what became of a record.
    fn report(&self, pending: Pending, stored: Result<Position, &KafkaError>) {
        let error = match stored {
            Ok(position) => {
                self.works.store(true, Ordering::Relaxed);
                self.trials.tried(pending.to(), true);
                pending.resolve(Ok(position));
                return;
            }
            Err(error) => error,
        };
        match (fate::of(error), self.mode) {
            (Fate::Again, _) => self.keep(pending),
            (Fate::TooLarge | Fate::Refused, Mode::InBatches) => {
                let topic = Arc::clone(&pending.to().0);
                self.left.lock().refused.entry(topic).or_insert_with(|| text(error));
                self.keep(pending);
            }
            (Fate::TooLarge, Mode::Singly) => {
                let error = pending.too_large();
                self.fail(pending, error);
            }
            (Fate::Refused, Mode::Singly) | (Fate::Failed, _) => self.fail(pending, fate::uncertain(error)),
        }
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

    fn fail(&self, pending: Pending, error: PublishError) {
        self.trials.tried(pending.to(), false);
        pending.resolve(Err(error));
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
        });
        let reports = Reports { told: Arc::clone(told), condition: Arc::clone(&condition) };
        Ok(Self { producer: config.create_with_context(reports)?, condition })
    }

    /// Takes events of one partition, in their order. Does not wait.
    pub(super) fn take(&self, to: &Place, events: impl IntoIterator<Item = Pending>) {
        self.condition.trials.admit(to, events, |pending| {
            if let Err((error, pending)) = self.produce(pending) {
                self.condition.report(pending, Err(&error));
            }
        });
    }

    /// Takes a record that is not published again. Does not wait.
    pub(super) fn take_once(&self, pending: Pending, record: Outgoing<'_>) {
        if let Err((error, pending)) = self.produce_as(pending, record) {
            self.condition.report(pending, Err(&error));
        }
    }

    fn produce(&self, pending: Pending) -> Result<(), (KafkaError, Pending)> {
        match pending.event().cloned() {
            Some(event) => self.produce_as(pending, record::outgoing(&event)),
            None => Err((KafkaError::Canceled, pending)),
        }
    }

    fn produce_as(&self, pending: Pending, record: Outgoing<'_>) -> Result<(), (KafkaError, Pending)> {
        if self.gave_up() {
            return Err((KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), pending));
        }
        let (topic, partition) = pending.to().clone();
        let mut outgoing = BaseRecord::<[u8], [u8], _>::with_opaque_to(&topic, Box::new(pending)).partition(partition);
        (outgoing.key, outgoing.payload, outgoing.headers) = (record.key, record.value, record.headers);
        self.producer.send(outgoing).map_err(|(error, refused)| (error, *refused.delivery_opaque))
    }

    /// Waits a moment for what the client has to say.
    pub(super) fn poll(&self) {
        self.producer.poll(if self.condition.trials.is_open() { POLL_TRIALS } else { POLL });
        let mut failed = Vec::new();
        self.condition.trials.release(|pending| failed.extend(self.produce(pending).err()));
        for (error, pending) in failed {
            self.condition.report(pending, Err(&error));
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

    /// Why it gave up, in the client's words.
    pub(super) fn cause(&self) -> String {
        let told = self.producer.client().fatal_error().map(|(_, text)| text);
        told.unwrap_or_else(|| "it lost count of what the brokers have".to_owned())
    }

    /// Takes back what it has not sent, and, where nobody waits for it any more, what it has. Says whether that is all. Blocks for a
    /// moment.
    pub(super) fn take_back(&self, sent_too: bool) -> bool {
        let purge = PurgeConfig::default().queue();
        self.producer.purge(if sent_too { purge.inflight() } else { purge });
        self.producer.flush(REPORT).is_ok()
    }

    /// Whether nothing is on its way, and nothing left to report.
    pub(super) fn has_settled(&self) -> bool {
        self.producer.flush(Duration::ZERO).is_ok()
    }

    /// Whether it has nothing to do, and leaves nothing to another.
    pub(super) fn is_idle(&self) -> bool {
        self.has_settled() && self.condition.trials.is_empty() && self.condition.left.lock().records.is_empty()
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
    use crate::event::Event;
    use crate::metrics::BusMetrics;
    use crate::queued::Queued;

    /// A client of brokers that are not there.
    fn line(mode: Mode, closing: &Arc<AtomicBool>) -> Line {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("enable.idempotence", "true").set("message.timeout.ms", "0");
        Line::new(&config, mode, &Arc::default(), closing).unwrap()
    }

    /// Gives it the events of one call.
    async fn take(line: &Line, number: u64, partition: i32, events: usize) -> oneshot::Receiver<Vec<Stored>> {
        let metrics = BusMetrics::new(&Registry::new()).unwrap().bus("test");
        let room = Queued::new(1 << 20, &metrics.queued_bytes).place(1).await.unwrap();
        let events: Vec<_> = (0..events).map(event).collect();
        let (call, stored) = Call::new(("orders".into(), partition), number, events.len(), events, &metrics, room);
        line.take(&call.to, call.events());
        call.handed_over();
        stored
    }

    fn event(id: usize) -> Event {
        Event::builder(id.to_string(), "/s", "t").build().unwrap()
    }

    /// Takes back everything.
    fn settle(line: &Line) {
        while !line.take_back(true) {}
    }

    #[tokio::test]
    async fn what_a_client_leaves_is_all_that_it_had_in_the_order_of_acceptance() {
        let line = line(Mode::InBatches, &Arc::default());
        let mut stored = vec![take(&line, 0, 0, 2).await, take(&line, 1, 1, 1).await, take(&line, 2, 0, 2).await];
        assert!(!line.is_idle() && !line.gave_up());
        line.condition.give_up();
        stored.push(take(&line, 3, 1, 1).await);
        settle(&line);
        let left = line.leave();
        let order: Vec<_> = left.records.iter().map(Pending::order).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)]);
        assert!(line.is_idle() && left.refused.is_empty());
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
        let refused = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
        for (mode, ends) in [(Mode::InBatches, true), (Mode::Singly, false)] {
            let line = line(mode, &Arc::default());
            let metrics = BusMetrics::new(&Registry::new()).unwrap().bus("test");
            let room = Queued::new(1 << 20, &metrics.queued_bytes).place(1).await.unwrap();
            let (call, mut stored) = Call::new(("orders".into(), 0), 0, 1, vec![event(0)], &metrics, room);
            call.handed_over();
            line.condition.report(call.pending(0), Err(&refused));
            assert_eq!((line.gave_up(), line.was_refused()), (ends, ends), "{mode:?}");
            let told = stored.try_recv().ok();
            let too_large = told.as_deref().is_some_and(|told| matches!(told, [Err(PublishError::TooLarge { .. })]));
            assert_eq!((too_large, line.leave().records.len()), (!ends, usize::from(ends)), "{mode:?}: {told:?}");
        }
    }
}
