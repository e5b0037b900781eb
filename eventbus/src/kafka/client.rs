//! The clients of a bus: their settings, and what they say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evoke_connect::kafka::Brokers;
use evoke_connect::kafka::words::shorten;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::Notify;

/// A consumer whose errors are noted.
pub(super) type Consumer = BaseConsumer<Ears>;

/// A batch on the wire: below what brokers and topics take by default, and so large that a request is worth its while. A reader that
/// may hold little may still hold one of them, since Kafka gives out whole batches.
pub(super) const BATCH_BYTES: usize = 1_000_000;
/// What a record may be larger than an event as encoded.
pub(super) const RECORD_OVERHEAD: usize = 64 << 10;

/// What the clients of a bus said last of the brokers.
#[derive(Debug, Default)]
pub(super) struct Told {
    cause: Mutex<Option<String>>,
    /// Something went wrong.
    pub(super) heard: Notify,
    cuts: AtomicU64,
}

impl Told {
    /// What went wrong last since the brokers were last found well.
    pub(super) fn cause(&self) -> Option<String> {
        self.cause.lock().clone()
    }

    /// The brokers are well.
    pub(super) fn clear(&self) {
        *self.cause.lock() = None;
    }

    pub(super) fn hear(&self, error: &KafkaError, reason: &str) {
        // That all brokers are down says less than what went wrong before.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.cause.lock() = Some(shorten(reason));
        }
        self.heard.notify_one();
    }

    /// A connection is lost, or brokers were away: what they hold by now may not be what they held.
    pub(super) fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was. Where it is more than it was, a log may not be the one that was read.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }
}

/// Takes in what a client says.
#[derive(Debug)]
pub(super) struct Ears {
    told: Arc<Told>,
    /// Lines of its log so far.
    lines: AtomicU64,
    /// Held by whoever listens.
    listening: Mutex<()>,
}

impl Ears {
    pub(super) fn new(told: &Arc<Told>) -> Self {
        Self { told: Arc::clone(told), lines: AtomicU64::new(0), listening: Mutex::default() }
    }
}

/// What the client logs; whatever is to be said of it comes as an error too.
pub(super) fn log(level: RDKafkaLogLevel, fac: &str, message: &str) {
    tracing::debug!(target: "librdkafka", ?level, fac, "{message}");
}

/// What may go unanswered without that: what is asked while a connection is set up, and where a log ends. The latter is asked again for as
/// long as its broker is silent, by who looks after a cut, and nothing is read over the connection that it is asked over.
const NO_CUT: [&str; 4] = ["ApiVersion", "SaslHandshake", "SaslAuthenticate", "ListOffsets"];

/// Whether a line of the log says that a connection which worked is lost, or is about to be. It comes before anything that the client
/// gets over the next one.
fn tells_of_a_cut(fac: &str, message: &str) -> bool {
    match fac {
        "FAIL" => message.contains("in state UP"),
        "REQTMOUT" => tells_of_silence(message),
        _ => false,
    }
}

/// Whether something that was sent, at least in part, was not answered in time: the client closes the connection then, and says no more
/// than this. What only waited to be sent had no connection that could be lost.
fn tells_of_silence(message: &str) -> bool {
    let Some((_, late)) = message.rsplit_once("Timed out ") else { return false };
    match late.split_once("Request in flight") {
        Some((request, _)) => !NO_CUT.contains(&request),
        // The sum of them all.
        None => late.contains(" partially-sent ") && !late.contains(" 0 partially-sent "),
    }
}

/// Takes in all that a client has to say, and gives the last error of it. Where it had told of a cut before, that is counted by then,
/// whoever took it in.
pub(super) fn listen(client: &Consumer) -> Option<KafkaError> {
    let ears: &Arc<Ears> = client.context();
    let _one_at_a_time = ears.listening.lock();
    let mut last = None;
    loop {
        let lines = ears.lines.load(Ordering::Relaxed);
        match client.poll(Duration::ZERO) {
            Some(said) => last = said.err().or(last),
            // A line of the log is taken in, and not given out.
            None if ears.lines.load(Ordering::Relaxed) == lines => return last,
            None => {}
        }
    }
}

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
        if tells_of_a_cut(fac, message) {
            self.told.cut();
        }
        self.lines.fetch_add(1, Ordering::Relaxed);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        // A connection that is lost for the third time in half a minute is not logged again. If it was the last one, this comes.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.told.cut();
        }
        self.told.hear(&error, reason);
    }
}

impl ConsumerContext for Ears {
    fn rebalance(
        &self,
        _: &BaseConsumer<Self>,
        _: RDKafkaRespErr,
        _: &mut rdkafka::topic_partition_list::TopicPartitionList,
    ) {
        // Nothing is subscribed to, so there is no group that could be balanced.
    }
}

fn common(brokers: &Brokers, name: &str) -> ClientConfig {
    let mut config = brokers.config();
    config
        .set("client.id", format!("evoke-bus-{name}"))
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "30000");
    config
}

/// The settings of the client that makes topics and describes them.
pub(super) fn managing(brokers: &Brokers, name: &str) -> ClientConfig {
    common(brokers, name)
}

/// The settings of the client that asks for topics and offsets.
pub(super) fn asking(brokers: &Brokers, name: &str) -> ClientConfig {
    let mut config = common(brokers, name);
    // What a transaction aborted was never published. Whoever asks where a log ends must see it end where readers do, which is before the
    // first transaction that is still open.
    config.set("isolation.level", "read_committed");
    // It is counted, and shown to nobody.
    config.set("log.connection.close", "true");
    config
}

/// The settings of a client that reads partitions one by one, and holds up to three times `ahead` bytes of each.
pub(super) fn reading(brokers: &Brokers, name: &str, ahead: usize) -> ClientConfig {
    let mut config = asking(brokers, name);
    config
        // The client assigns only with a group, of which nothing is ever asked.
        .set("group.id", "evoke-bus")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that is not there is for the reader to judge.
        .set("auto.offset.reset", "error")
        // Twice what comes at once: the client asks for more before it has given out all it holds.
        .set("queued.max.messages.kbytes", (2 * ahead / 1024).max(1).to_string())
        .set("queued.min.messages", "1000000")
        .set("fetch.message.max.bytes", ahead.to_string())
        // A partition that is added, or that holds less again, waits for the request that is under way, which the silence of another
        // partition may hold up for so long.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.queue.backoff.ms", "1")
        .set("fetch.error.backoff.ms", "100");
    config
}

/// The settings of a client that commits offsets for a group without joining it.
pub(super) fn committing(brokers: &Brokers, name: &str, group: &str) -> ClientConfig {
    let mut config = common(brokers, name);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        // How long a commit waits for the group's coordinator, and then for its answer.
        .set("session.timeout.ms", "5000")
        .set("socket.timeout.ms", "5000");
    config
}

/// The settings of a client that publishes events of up to `max_bytes`.
fn publishing(brokers: &Brokers, name: &str, max_bytes: usize) -> ClientConfig {
    let mut config = common(brokers, name);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // What was accepted is tried until it is stored: nothing that comes later can overtake it.
        .set("message.timeout.ms", "0")
        .set("retry.backoff.ms", "50")
        .set("retry.backoff.max.ms", "1000")
        .set("linger.ms", "1")
        .set("batch.size", BATCH_BYTES.to_string())
        .set("message.max.bytes", (max_bytes + RECORD_OVERHEAD).max(BATCH_BYTES).to_string())
        // What may be queued is bounded before it comes here.
        .set("queue.buffering.max.messages", "10000000")
        .set("queue.buffering.max.kbytes", "2097151");
    config
}

/// The same for a client that publishes in batches, and ends with one that is refused: what is behind it would be stored otherwise, and
/// overtake it.
pub(super) fn publishing_in_batches(brokers: &Brokers, name: &str, max_bytes: usize) -> ClientConfig {
    let mut config = publishing(brokers, name, max_bytes);
    config.set("enable.gapless.guarantee", "true");
    config
}

/// The same for topics that may refuse several events in a batch though they take each: one at a time.
pub(super) fn publishing_singly(brokers: &Brokers, name: &str, max_bytes: usize) -> ClientConfig {
    let mut config = publishing(brokers, name, max_bytes);
    config.set("batch.num.messages", "1");
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_aborted_is_neither_read_nor_counted() {
        let brokers = Brokers::default();
        for config in [asking(&brokers, "b"), reading(&brokers, "b", 1 << 20)] {
            assert_eq!(config.get("isolation.level"), Some("read_committed"));
        }
    }

    #[test]
    fn only_what_was_sent_over_a_connection_that_worked_tells_of_silence() {
        let sum = |in_flight, partial| {
            format!("Timed out {in_flight} in-flight, 0 retry-queued, 10 out-queue, {partial} partially-sent requests")
        };
        let one = |request| format!("Timed out {request}Request in flight (after 10050ms, timeout #0)");
        for (text, tells) in [
            (one("Fetch"), true),
            (one("Metadata"), true),
            (one("ListOffsets"), false),
            (one("ApiVersion"), false),
            (sum(0, 0), false),
            // Each request was named before.
            (sum(10, 0), false),
            (sum(0, 1), true),
            (sum(0, 10), true),
        ] {
            assert_eq!(tells_of_silence(&format!("[thrd:k:9092/1]: k:9092/1: {text}")), tells, "{text}");
        }
    }

    #[test]
    fn connections_that_are_lost_are_counted() {
        let brokers = Brokers::default();
        for config in [asking(&brokers, "b"), reading(&brokers, "b", 1 << 20)] {
            assert_eq!(config.get("log.connection.close"), Some("true"));
        }
        let told = Arc::<Told>::default();
        let ears = Ears::new(&told);
        let mut expected = 0;
        for (fac, message, is_cut) in [
            ("FAIL", "k:9092/1: Disconnected (after 2000ms in state UP, 1 identical error(s) suppressed)", true),
            ("FAIL", "k:9092/1: Connect to ipv4#10.0.0.1:9092 failed: refused (after 0ms in state CONNECT)", false),
            ("REQTMOUT", "k:9092/1: Timed out FetchRequest in flight (after 10050ms, timeout #0)", true),
            ("CONFWARN", "something in state UP", false),
        ] {
            ears.log(RDKafkaLogLevel::Info, fac, message);
            expected += u64::from(is_cut);
            assert_eq!(told.cuts(), expected, "{message}");
        }
        ears.error(KafkaError::Global(RDKafkaErrorCode::Resolve), "k:9092/1: no such host");
        assert_eq!(told.cuts(), expected);
        ears.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert_eq!((told.cuts(), told.cause().as_deref()), (expected + 1, Some("no such host")));
    }
}
