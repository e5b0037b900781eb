//! The thread of a session: connects, polls, makes batches, commits.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evoke_connect::kafka::words::text;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::callbacks::{Callbacks, Consumer, Shared};
use super::client;
use super::positions::Mark;
use super::record::{Header, Mapper, Raw, malformed};
use crate::metrics::SourceMetrics;
use crate::plan::kafka::KafkaPlan;
use crate::source::{Arrival, Origin, Status};

/// What is handed over at once, at most.
const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 1024 * 1024;
/// How long a poll waits for a record, which is also how late a stop is seen.
const POLL: Duration = Duration::from_millis(100);
/// How often settled records are committed; a crash reads again what settled since.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);
/// How long a full outlet is waited for before the partitions are paused. Pausing drops what was fetched ahead.
const PAUSE_AFTER: Duration = Duration::from_millis(500);
/// How long one question to the brokers may take while connecting.
const ANSWER: Duration = Duration::from_secs(1);
/// How long what is on its way may take to settle after the session failed.
const DRAIN: Duration = Duration::from_secs(5);

/// Records of one or several partitions, in order, as they go to the outlet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) arrivals: Vec<Arrival>,
    /// The end of the batch in each partition of it.
    pub(super) marks: Vec<Mark>,
    /// The partition of each arrival.
    pub(super) partitions: Vec<i32>,
    pub(super) bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.arrivals.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }

    /// Takes out what was read of partitions that are no longer this member's: their new owner reads it.
    fn retain_current(&mut self, shared: &Shared) {
        let positions = shared.positions.lock();
        if self.marks.iter().all(|mark| positions.epoch(mark.partition) == Some(mark.epoch)) {
            return;
        }
        self.marks.retain(|mark| positions.epoch(mark.partition) == Some(mark.epoch));
        let mut partitions = self.partitions.iter();
        let kept = |partition: Option<&i32>| self.marks.iter().any(|mark| Some(&mark.partition) == partition);
        self.arrivals.retain(|_| kept(partitions.next()));
        self.partitions.retain(|partition| kept(Some(partition)));
    }
}

/// Why a session ended, if it was not asked to.
#[derive(Debug)]
pub(super) enum Failure {
    /// The next one may go better.
    Passing(String),
    /// Nothing but another manifest helps.
    Lasting(String),
}

/// What a thread needs.
pub(super) struct Reader {
    pub(super) plan: KafkaPlan,
    pub(super) origin: Origin,
    pub(super) metrics: SourceMetrics,
    pub(super) instance: String,
    pub(super) shared: Arc<Shared>,
    pub(super) status: watch::Sender<Status>,
    /// Cancelled when the session is to end.
    pub(super) stop: CancellationToken,
    /// Cancelled when all that was handed over is settled, or never will be.
    pub(super) drained: CancellationToken,
    pub(super) runtime: Handle,
}

impl Reader {
    /// Reads until it is stopped or fails. Blocks.
    pub(super) fn run(self, batches: mpsc::Sender<Batch>) -> Result<(), Failure> {
        let callbacks = Callbacks {
            topic: self.plan.topic.clone(),
            start_at: self.plan.start_at,
            shared: Arc::clone(&self.shared),
            metrics: self.metrics.clone(),
        };
        let consumer: Consumer = client::config(&self.plan, &self.origin, &self.instance)
            .create_with_context(callbacks)
            .map_err(|error| Failure::Lasting(format!("the Kafka client refuses its settings: {error}")))?;
        let mapper = Mapper::new(&self.origin, self.plan.content_type.as_deref());
        let mut poller = Poller {
            reader: &self,
            consumer: &consumer,
            mapper,
            resets: HashMap::new(),
            down: false,
            committed_at: Instant::now(),
            checked_at: Instant::now(),
        };
        let read = poller.connect().and_then(|()| poller.read(&batches));
        drop(batches);
        poller.drain();
        read.map_err(Failure::Passing)
    }

    fn say(&self, status: Status) {
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            if changed {
                *old = status;
            }
            changed
        });
    }
}

struct Poller<'a> {
    reader: &'a Reader,
    consumer: &'a Consumer,
    mapper: Mapper,
    /// Partitions that went on at the earliest offset, with the offset they were to go on at.
    resets: HashMap<i32, i64>,
    down: bool,
    committed_at: Instant,
    checked_at: Instant,
}

impl Poller<'_> {
    fn stopped(&self) -> bool {
        self.reader.stop.is_cancelled()
    }

    /// Waits for a broker and the topic, for ever.
    fn connect(&mut self) -> Result<(), String> {
        let plan = &self.reader.plan;
        let mut wait = Duration::from_millis(250);
        while !self.stopped() {
            match self.look() {
                Ok(()) => {
                    self.reader.shared.clear_error();
                    self.reader.say(self.joining());
                    return self.consumer.subscribe(&[&plan.topic]).map_err(|error| text(&error));
                }
                Err(status) => self.reader.say(status),
            }
            let until = Instant::now() + wait;
            while Instant::now() < until && !self.stopped() {
                self.serve(POLL);
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        Ok(())
    }

    fn joining(&self) -> Status {
        Status::Connecting(format!("joining consumer group {:?}", self.reader.plan.group).into())
    }

    /// Whether a broker answers and has the topic.
    fn look(&self) -> Result<(), Status> {
        let plan = &self.reader.plan;
        plan.brokers.check_server_name().map_err(|cause| Status::Down(cause.into()))?;
        let metadata = self.consumer.fetch_metadata(Some(&plan.topic), ANSWER).map_err(|_| {
            // The reason comes as an event of its own, which only a poll brings.
            self.serve(POLL);
            Status::Down(self.unreachable())
        })?;
        let error = metadata.topics().first().and_then(MetadataTopic::error);
        match error.map(RDKafkaErrorCode::from) {
            None => Ok(()),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                let waits = format!("there is no topic {:?} on {}: waiting for it", plan.topic, plan.brokers());
                Err(Status::Connecting(waits.into()))
            }
            Some(error) => Err(Status::Down(format!("topic {:?}: {error}", plan.topic).into())),
        }
    }

    /// What to say of brokers that cannot be reached.
    fn unreachable(&self) -> Arc<str> {
        self.reader.plan.brokers.unreachable(self.reader.shared.last_error().as_deref()).into()
    }

    /// Lets the client tell what it has to tell, while nothing is read.
    fn serve(&self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            // Nothing is subscribed to, so this is an error, which the callbacks have noted, or nothing.
            if self.consumer.poll(rest).is_none() && Instant::now() >= until {
                return;
            }
        }
    }

    fn read(&mut self, batches: &mpsc::Sender<Batch>) -> Result<(), String> {
        while !self.stopped() {
            let batch = self.fill()?;
            self.check()?;
            self.commit();
            if !batch.arrivals.is_empty() {
                self.hand_over(batch, batches)?;
            }
        }
        Ok(())
    }

    /// Takes what is there, waiting only for the first record.
    fn fill(&mut self) -> Result<Batch, String> {
        let mut batch = Batch::default();
        let mut wait = POLL;
        while !batch.is_full() {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => self.take(&mut batch, &message),
                Some(Err(error)) => self.judge(&error)?,
                None => break,
            }
            wait = Duration::ZERO;
        }
        Ok(batch)
    }

    /// Notes where reading went on elsewhere than it should have.
    fn note_resets(&mut self) {
        for reset in self.reader.shared.take_resets() {
            let (topic, partition, offset) = (&self.reader.plan.topic, reset.partition, reset.offset);
            tracing::warn!(%topic, partition, offset, "the topic has no such offset any more: reading from the earliest on");
            self.resets.insert(partition, offset);
        }
    }

    fn take(&mut self, batch: &mut Batch, message: &BorrowedMessage<'_>) {
        let (partition, offset) = (message.partition(), message.offset());
        // The client may have told it since the last look, together with this record.
        self.note_resets();
        if !self.resets.is_empty()
            && let Some(expected) = self.resets.remove(&partition)
        {
            let skipped = u64::try_from(offset - expected).unwrap_or(0);
            self.reader.metrics.skipped.inc_by(skipped);
            tracing::info!(
                topic = message.topic(),
                partition,
                expected,
                offset,
                skipped,
                "records expired before they were read"
            );
        }
        match batch.marks.iter_mut().rev().find(|mark| mark.partition == partition) {
            Some(mark) => mark.next = offset + 1,
            None => {
                let Some(epoch) = self.reader.shared.positions.lock().epoch(partition) else { return };
                batch.marks.push(Mark { partition, epoch, next: offset + 1 });
            }
        }
        let arrival = arrival(&self.mapper, message);
        batch.bytes += match &arrival {
            Arrival::Event(event) => event.encoded_len(),
            Arrival::Malformed(malformed) => malformed.raw.len(),
        };
        batch.arrivals.push(arrival);
        batch.partitions.push(partition);
        self.recovered();
    }

    /// What an error means: nothing, that the brokers are gone for a while, or the end of the session.
    fn judge(&mut self, error: &KafkaError) -> Result<(), String> {
        use RDKafkaErrorCode as Code;
        if let KafkaError::MessageConsumptionFatal(code) = error {
            return Err(match code {
                Code::FencedInstanceId => {
                    "another evoke took its place in the group under the same name: is its data directory a copy?"
                        .to_owned()
                }
                _ => format!("the Kafka client gave up: {}", text(error)),
            });
        }
        let topic = &self.reader.plan.topic;
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown | Code::Authentication) => {
                self.down = true;
                self.checked_at = Instant::now();
                self.reader.say(Status::Down(self.unreachable()));
                Ok(())
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Err(format!("there is no topic {topic:?}")),
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::InconsistentGroupProtocol
                | Code::InvalidSessionTimeout
                | Code::InvalidGroupId
                | Code::Fenced,
            ) => Err(self.reader.shared.last_error().unwrap_or_else(|| text(error))),
            _ => Ok(()),
        }
    }

    /// Acts on what the callbacks left, and says how the source is doing.
    fn check(&mut self) -> Result<(), String> {
        let shared = &self.reader.shared;
        if let Some(cause) = shared.take_start_error() {
            return Err(cause);
        }
        self.note_resets();
        if self.down && self.checked_at.elapsed() >= ANSWER {
            if self.consumer.fetch_metadata(Some(&self.reader.plan.topic), ANSWER).is_ok() {
                self.recovered();
            }
            self.checked_at = Instant::now();
        }
        if !self.down {
            self.reader.say(if shared.joined() { Status::Up } else { self.joining() });
        }
        Ok(())
    }

    fn recovered(&mut self) {
        if self.down {
            self.down = false;
            self.reader.shared.clear_error();
            self.reader.metrics.reconnects.inc();
        }
    }

    /// Commits what settled, when it is time to.
    fn commit(&mut self) {
        if self.committed_at.elapsed() < COMMIT_INTERVAL {
            return;
        }
        self.committed_at = Instant::now();
        let due = self.reader.shared.positions.lock().due();
        if due.is_empty() {
            return;
        }
        let sent =
            self.consumer.context().offsets(&due).and_then(|list| self.consumer.commit(&list, CommitMode::Async));
        if let Err(error) = sent {
            self.consumer.context().committed(Some(&error));
            let mut positions = self.reader.shared.positions.lock();
            due.iter().for_each(|(partition, _)| positions.refused(*partition));
        }
    }

    /// Gives a batch to the outlet's task. While that is not ready the group is told that this member lives.
    fn hand_over(&mut self, mut batch: Batch, batches: &mpsc::Sender<Batch>) -> Result<(), String> {
        let mut paused = false;
        while !self.stopped() {
            let ready = async { tokio::time::timeout(PAUSE_AFTER, batches.reserve()).await };
            let ready = self.reader.runtime.block_on(ready);
            match ready {
                Ok(Ok(permit)) => {
                    batch.retain_current(&self.reader.shared);
                    if !batch.arrivals.is_empty() {
                        self.reader.shared.positions.lock().hand_over(&batch.marks);
                        permit.send(batch);
                    }
                    break;
                }
                Ok(Err(_)) => return Err("the outlet is closed".to_owned()),
                Err(_) => {
                    if !paused {
                        paused = true;
                        self.pause(true);
                    }
                    match self.consumer.poll(Duration::ZERO) {
                        Some(Ok(message)) => self.take(&mut batch, &message),
                        Some(Err(error)) => self.judge(&error)?,
                        None => {}
                    }
                    self.check()?;
                    self.commit();
                }
            }
        }
        if paused {
            self.pause(false);
        }
        Ok(())
    }

    fn pause(&self, pause: bool) {
        self.reader.shared.set_paused(pause);
        let mut list = TopicPartitionList::new();
        for partition in self.reader.shared.positions.lock().assigned() {
            list.add_partition(&self.reader.plan.topic, partition);
        }
        let done = if pause { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        if let Err(error) = done {
            tracing::debug!(topic = %self.reader.plan.topic, pause, cause = %text(&error), "cannot pause or resume");
        }
    }

    /// Waits until what was handed over is settled, staying in the group, and commits it.
    fn drain(&mut self) {
        self.pause(true);
        let failed = (!self.stopped()).then(Instant::now);
        while !self.reader.drained.is_cancelled() && failed.is_none_or(|since| since.elapsed() < DRAIN) {
            // Records of partitions that were just assigned are left to the next session.
            drop(self.consumer.poll(Duration::from_millis(20)));
            self.commit();
        }
        let assigned: Vec<i32> = self.reader.shared.positions.lock().assigned().collect();
        self.consumer.context().commit_now(self.consumer, &assigned);
    }
}

fn arrival(mapper: &Mapper, message: &BorrowedMessage<'_>) -> Arrival {
    let raw = |headers| Raw {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key(),
        value: message.payload(),
        timestamp: message.timestamp().to_millis(),
        headers,
    };
    let Some(headers) = message.headers() else { return mapper.arrival(&raw(&[])) };
    // The client panics on a header whose name is not UTF-8.
    let listed =
        catch_unwind(AssertUnwindSafe(|| headers.iter().map(|h| (h.key, h.value)).collect::<Vec<Header<'_>>>()));
    match listed {
        Ok(headers) => mapper.arrival(&raw(&headers)),
        Err(_) => Arrival::Malformed(malformed(&raw(&[]), "the name of a header is not UTF-8 text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_of_a_partition_that_went_away_is_left_to_its_new_owner() {
        let shared = Shared::default();
        shared.positions.lock().assign([0, 1]);
        let mark = |partition, next| Mark { partition, epoch: 1, next };
        let raw =
            |offset| Raw { topic: "t", partition: 0, offset, key: None, value: None, timestamp: None, headers: &[] };
        let mut batch = Batch {
            arrivals: (0..4).map(|offset| Arrival::Malformed(malformed(&raw(offset), "x"))).collect(),
            marks: vec![mark(0, 4), mark(1, 3)],
            partitions: vec![0, 1, 1, 0],
            bytes: 0,
        };
        batch.retain_current(&shared);
        assert_eq!(batch.arrivals.len(), 4);
        shared.positions.lock().revoke(&[1]);
        batch.retain_current(&shared);
        assert_eq!((batch.marks.as_slice(), batch.partitions.as_slice()), (&[mark(0, 4)][..], &[0, 0][..]));
        let left: Vec<_> = batch
            .arrivals
            .iter()
            .map(|arrival| match arrival {
                Arrival::Malformed(malformed) => malformed.position.as_str(),
                Arrival::Event(event) => event.id(),
            })
            .collect();
        assert_eq!(left, ["t/0/0", "t/0/3"]);
    }
}
