//! What all parts of the bus share: the connection, the topics that are known, the tasks, the state.

use std::collections::HashMap;
use std::sync::Arc;

use evoke_api::names::TopicName;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use super::state::Bucket;
use super::stream;
use super::topic::Topic;
use super::wire::Wire;
use super::writer;
use crate::bus::{BusError, Partition, TopicSpec};
use crate::health::HealthBoard;
use crate::metrics::OneBusMetrics;
use crate::plan::jetstream::JetStreamPlan;

/// Accepted and not yet stored, in bytes with what each event costs beside its own.
const QUEUE_BYTES: usize = 16 << 20;
/// The same for the bus's own topics. It is by way of the dead letters that a full topic gets empty again, so what waits for that one
/// must not keep them out.
const OWN_QUEUE_BYTES: usize = QUEUE_BYTES / 4;
/// Topics whose names begin so are the bus's own.
const OWN_TOPICS: &str = "_evoke.";

/// Room in the queues, in bytes.
#[derive(Debug)]
pub(super) struct Room {
    events: Arc<Semaphore>,
    own_events: Arc<Semaphore>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { events: Arc::new(Semaphore::new(QUEUE_BYTES)), own_events: Arc::new(Semaphore::new(OWN_QUEUE_BYTES)) }
    }

    /// The room that events of a topic are taken from, and how much there is when nothing waits.
    pub(super) fn of(&self, topic: &TopicName) -> (Arc<Semaphore>, usize) {
        if topic.as_str().starts_with(OWN_TOPICS) {
            (self.own_events.clone(), OWN_QUEUE_BYTES)
        } else {
            (self.events.clone(), QUEUE_BYTES)
        }
    }

    /// What is taken.
    fn used(&self) -> usize {
        let free = self.events.available_permits() + self.own_events.available_permits();
        (QUEUE_BYTES + OWN_QUEUE_BYTES).saturating_sub(free)
    }
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) wire: Arc<Wire>,
    pub(super) plan: JetStreamPlan,
    pub(super) board: Arc<HealthBoard>,
    pub(super) metrics: OneBusMetrics,
    pub(super) bucket: Bucket,
    pub(super) room: Room,
    pub(super) tasks: TaskTracker,
    /// Nothing new is taken.
    pub(super) closing: CancellationToken,
    /// Everything ends.
    pub(super) closed: CancellationToken,
    /// Told when a writer has written all that waited for it.
    pub(super) drained: Notify,
    pub(super) topics: Mutex<HashMap<TopicName, Arc<Topic>>>,
}

impl Core {
    pub(super) fn open(&self) -> Result<(), BusError> {
        if self.closing.is_cancelled() { Err(BusError::Closed) } else { Ok(()) }
    }

    /// Waits for a connection, unless the bus is closed.
    pub(super) async fn connected(&self) -> Result<(), BusError> {
        tokio::select! {
            () = self.wire.until_up() => Ok(()),
            () = self.closing.cancelled() => Err(BusError::Closed),
        }
    }

    /// Makes or adopts the stream of a topic.
    pub(super) async fn declare(&self, spec: &TopicSpec) -> Result<(Arc<Topic>, Vec<String>), BusError> {
        self.open()?;
        let stream::Adopted { partitions, drift, info } = stream::declare(&self.wire, &self.plan, spec).await?;
        Ok((self.know(&spec.name, partitions, &info), drift))
    }

    /// A topic that was declared here, or that has a stream.
    pub(super) async fn topic(&self, name: &TopicName) -> Result<Arc<Topic>, BusError> {
        self.open()?;
        if let Some(topic) = self.topics.lock().get(name) {
            return Ok(topic.clone());
        }
        let info = stream::info(&self.wire, &stream::name(name)).await?;
        let info = info.ok_or_else(|| BusError::NoTopic(name.clone()))?;
        match stream::partitions(&info.config, name) {
            0 => Err(BusError::NoTopic(name.clone())),
            partitions => Ok(self.know(name, partitions, &info)),
        }
    }

    /// A partition that is there.
    pub(super) async fn partition(&self, partition: &Partition) -> Result<Arc<Topic>, BusError> {
        let topic = self.topic(&partition.topic).await?;
        if partition.index < topic.partitions() {
            return Ok(topic);
        }
        let text =
            format!("topic {} has {} partitions, none with index {}", topic.name, topic.partitions(), partition.index);
        Err(BusError::Broken(text.into()))
    }

    fn know(&self, name: &TopicName, partitions: u16, info: &stream::Info) -> Arc<Topic> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.get(name)
            && topic.partitions() == partitions
        {
            topic.learn(&info.config);
            topic.holds(info.state.bytes);
            return topic.clone();
        }
        let topic = Arc::new(Topic::new(name.clone(), partitions, info, self.metrics.topic(name.as_str())));
        let old = topics.insert(name.clone(), topic.clone());
        drop(topics);
        if let Some(old) = old {
            let was = old.partitions();
            tracing::error!(
                topic = %name,
                was,
                now = partitions,
                "the stream has another number of partitions by now: restart evoke, whose sources publish for the old ones"
            );
            old.forget(
                &format!("topic {name} has {partitions} partitions by now, and no more {was}: restart evoke").into(),
            );
        }
        topic
    }

    /// Whether a topic has the partitions that it is known by. Where it has others, what waits for the old ones is given up.
    pub(super) fn agrees(&self, topic: &Topic, info: &stream::Info) -> bool {
        let partitions = stream::partitions(&info.config, &topic.name);
        if partitions == 0 {
            return true;
        }
        if partitions == topic.partitions() {
            topic.learn(&info.config);
            return true;
        }
        self.know(&topic.name, partitions, info);
        false
    }

    /// The same, asked of the servers; a stream that is gone has no others.
    pub(super) async fn still_agrees(&self, topic: &Topic) -> Result<bool, ApiError> {
        let info = stream::info(&self.wire, &topic.stream).await?;
        Ok(info.is_none_or(|info| self.agrees(topic, &info)))
    }

    /// Makes the stream of a topic anew if it is gone; says whether it was.
    pub(super) async fn remake(&self, topic: &Topic) -> Result<bool, BusError> {
        if let Some(info) = stream::info(&self.wire, &topic.stream).await? {
            self.agrees(topic, &info);
            return Ok(false);
        }
        let spec = TopicSpec { name: topic.name.clone(), partitions: topic.partitions() };
        stream::declare(&self.wire, &self.plan, &spec).await.map(|_| true)
    }

    /// Lets go of everything that waits: the bus is closed.
    pub(super) fn forget_topics(&self) {
        let topics: Vec<_> = self.topics.lock().drain().map(|(_, topic)| topic).collect();
        topics.iter().for_each(|topic| topic.forget(&"the bus was closed".into()));
    }

    /// Shows what is accepted and not yet stored.
    pub(super) fn show_queue(&self) {
        self.metrics.queued_bytes.set(i64::try_from(self.room.used()).unwrap_or(i64::MAX));
    }

    /// Starts the writer of a partition with its first event.
    pub(super) fn write(self: &Arc<Self>, topic: &Arc<Topic>, partition: u16) {
        let started = |queue: &writer::Queue| queue.started.swap(true, std::sync::atomic::Ordering::AcqRel);
        if topic.queue(partition).is_some_and(|queue| !started(queue)) {
            self.tasks.spawn(writer::run(self.clone(), topic.clone(), partition));
        }
    }
}
