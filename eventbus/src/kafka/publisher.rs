//! The producer: what is accepted, on its way, and stored.
//!
//! Accepted is what has a place in a bounded queue. What is accepted is tried until the brokers have it, so that nothing that comes
//! later overtakes it. Only what can never be stored fails, and with a client that gave up, everything that it had: a new one
//! takes its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evoke_connect::kafka::words::text;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use tokio::sync::oneshot;

use super::client::{self, Told};
use crate::bus::{Position, PublishError};
use crate::metrics::OneBusMetrics;
use crate::queued::Place;

/// How long the thread waits for something to do, which is also how late it sees that it is to end.
const POLL: Duration = Duration::from_millis(50);
/// How long what is on its way may take when the bus is closed.
const FLUSH: Duration = Duration::from_secs(10);

/// What became of one record.
pub(super) type Stored = Result<Position, PublishError>;

/// A record to publish.
pub(super) struct Outgoing<'a> {
    pub(super) key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Option<OwnedHeaders>,
}

/// The records of one call, until all of them are stored or will never be.
struct Call {
    results: Mutex<Vec<Stored>>,
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<Vec<Stored>>>>,
    since: Instant,
    metrics: OneBusMetrics,
    _place: Place,
}

impl Call {
    fn resolve(&self, index: usize, result: Stored) {
        if let Some(place) = self.results.lock().get_mut(index) {
            *place = result;
        }
        self.count(1);
    }

    fn count(&self, resolved: usize) {
        if self.left.fetch_sub(resolved, Ordering::AcqRel) == resolved
            && let Some(done) = self.done.lock().take()
        {
            self.metrics.committed(self.since.elapsed());
            // Whoever dropped the receipt does not want to know.
            done.send(std::mem::take(&mut *self.results.lock())).unwrap_or_default();
        }
    }
}

/// One record of a call.
struct Pending {
    call: Arc<Call>,
    index: usize,
}

/// Takes in what a producer says.
struct Reports {
    told: Arc<Told>,
    gave_up: Arc<AtomicBool>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        client::log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.gave_up.store(true, Ordering::Release);
        }
        self.told.hear(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        let stored = match result {
            Ok(message) => Ok(position(message.offset())),
            Err((error, _)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                    self.gave_up.store(true, Ordering::Release);
                }
                Err(uncertain(error))
            }
        };
        pending.call.resolve(pending.index, stored);
    }
}

fn uncertain(error: &KafkaError) -> PublishError {
    PublishError::Uncertain(
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {
                "the bus was closed before the brokers had it".to_owned()
            }
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                "the topic is no longer there: make it again, or start evoke again".to_owned()
            }
            _ => text(error),
        }
        .into(),
    )
}

/// The position of a record at this offset.
pub(super) fn position(offset: i64) -> Position {
    Position(offset.max(0).unsigned_abs().into())
}

/// One client, until it gives up.
struct Client {
    producer: BaseProducer<Reports>,
    gave_up: Arc<AtomicBool>,
}

impl Client {
    fn new(config: &ClientConfig, told: &Arc<Told>) -> Result<Self, KafkaError> {
        let gave_up = Arc::new(AtomicBool::new(false));
        let reports = Reports { told: Arc::clone(told), gave_up: Arc::clone(&gave_up) };
        Ok(Self { producer: config.create_with_context(reports)?, gave_up })
    }

    fn is_dead(&self) -> bool {
        self.gave_up.load(Ordering::Acquire)
    }
}

struct Inner {
    config: ClientConfig,
    told: Arc<Told>,
    client: Mutex<Arc<Client>>,
    metrics: OneBusMetrics,
    stop: AtomicBool,
}

/// See the module.
pub(super) struct Publisher {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    pub(super) fn new(config: ClientConfig, told: &Arc<Told>, metrics: &OneBusMetrics) -> Result<Self, KafkaError> {
        let client = Mutex::new(Arc::new(Client::new(&config, told)?));
        let inner = Arc::new(Inner {
            config,
            told: Arc::clone(told),
            client,
            metrics: metrics.clone(),
            stop: AtomicBool::new(false),
        });
        let polled = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("evoke-bus-kafka".to_owned())
            .spawn(move || polled.run())
            .map_err(|error| KafkaError::ClientCreation(format!("cannot start a thread: {error}")))?;
        Ok(Self { inner, thread: Mutex::new(Some(thread)) })
    }

    /// Hands records to the client, in their order; resolves with one result for each. Does not wait.
    pub(super) fn send<'a>(
        &self,
        topic: &str,
        partition: i32,
        records: impl ExactSizeIterator<Item = Outgoing<'a>>,
        place: Place,
    ) -> oneshot::Receiver<Vec<Stored>> {
        let (done, stored) = oneshot::channel();
        let count = records.len();
        let not_yet = PublishError::Uncertain("the bus ended before the brokers had it".into());
        let call = Arc::new(Call {
            results: Mutex::new(vec![Err(not_yet); count]),
            // One more, so that it is not over before all are handed over.
            left: AtomicUsize::new(count + 1),
            done: Mutex::new(Some(done)),
            since: Instant::now(),
            metrics: self.inner.metrics.clone(),
            _place: place,
        });
        // All with one client: when it gives up it gives all of them up.
        let client = Arc::clone(&self.inner.client.lock());
        for (index, record) in records.enumerate() {
            let pending = Box::new(Pending { call: Arc::clone(&call), index });
            let mut outgoing = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, pending).partition(partition);
            (outgoing.key, outgoing.payload, outgoing.headers) = (record.key, record.value, record.headers);
            if let Err((error, refused)) = client.producer.send(outgoing) {
                refused.delivery_opaque.call.resolve(index, Err(uncertain(&error)));
            }
        }
        call.count(1);
        stored
    }

    /// Waits for what is on its way, gives up what takes too long, and ends the thread. Blocks.
    pub(super) fn close(&self) {
        let client = Arc::clone(&self.inner.client.lock());
        if client.producer.flush(FLUSH).is_err() {
            client.producer.purge(PurgeConfig::default().queue().inflight());
            // The reports of what was purged are all there is left.
            drop(client.producer.flush(FLUSH));
        }
        drop(client);
        self.stop();
    }

    /// Ends the thread. Blocks for a moment.
    pub(super) fn stop(&self) {
        self.inner.stop.store(true, Ordering::Release);
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that publishes on Kafka panicked");
        }
    }
}

impl Inner {
    /// Polls the client for its reports.
    fn run(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let client = Arc::clone(&self.client.lock());
            client.producer.poll(POLL);
            if client.is_dead() {
                self.replace(&client);
            }
        }
    }

    /// Puts a new client in the place of one that gave up.
    fn replace(&self, dead: &Arc<Client>) {
        let cause = self.told.cause().unwrap_or_default();
        match Client::new(&self.config, &self.told) {
            Ok(client) => {
                *self.client.lock() = Arc::new(client);
                tracing::warn!(
                    cause,
                    "the Kafka client gave up: what it had on its way is published again by whoever published it"
                );
            }
            Err(error) => {
                tracing::error!(%error, "the Kafka client gave up, and there cannot be another");
                return;
            }
        }
        dead.producer.purge(PurgeConfig::default().queue().inflight());
        drop(dead.producer.flush(FLUSH));
    }
}
