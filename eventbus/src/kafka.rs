//! The event bus on Kafka.
//!
//! | module | holds |
//! | --- | --- |
//! | `client` | the clients' settings, and what they say |
//! | `cluster` | what the brokers are asked |
//! | `topics` | making and adopting topics, trimming |
//! | `publish` | which events are taken, and what their receipts say |
//! | `publisher` | what is accepted, on its way, and stored |
//! | `pool`, `reader` | the clients that read, and reading one partition |
//! | `print`, `doubt` | knowing a log again by what was read of it, and whether it is still the one |
//! | `record` | an event as a record, and back |
//! | `state` | the small state: a compacted topic and a table |
//! | `groups` | how far readers are, for Kafka's own tools |
//! | `watch` | whether the brokers are there |
//!
//! A position is an offset. Topics have the names of the bus; `_evoke.state` holds the state.

mod client;
mod cluster;
mod doubt;
mod groups;
mod pool;
mod print;
mod publish;
mod publisher;
mod reader;
mod record;
mod state;
mod topics;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evoke_api::limits;
use evoke_api::names::{ObjectName, TopicName};
use futures_util::FutureExt as _;
use rdkafka::admin::AdminClient;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::client::{Ears, Told};
use self::cluster::{Cluster, Ends, Place};
use self::groups::Groups;
use self::pool::Pool;
use self::publisher::{Publisher, position};
use self::reader::KafkaReader;
use self::state::{Means, State};
use self::topics::{Known, Topics};
use crate::bus::{
    BusError, Entry, EventBus, From, Fut, Health, Mark, Partition, Position, Put, Reader, Receipt, Topic, TopicSpec,
};
use crate::event::Event;
use crate::health::HealthBoard;
use crate::metrics::{BusMetrics, OneBusMetrics, TopicMetrics};
use crate::plan::kafka::KafkaPlan;
use crate::queued::Queued;

/// The topic of the state. No namespace starts with `_`.
const STATE_TOPIC: &str = "_evoke.state";
/// How long what is on its way may take when the bus is closed.
const FLUSH: Duration = Duration::from_secs(10);

/// How a bus on Kafka works.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// The bus's name, in logs and metrics.
    pub name: Arc<str>,
    /// The cluster and its topics.
    pub plan: KafkaPlan,
    /// What the names of all topics begin with; nothing, but for tests.
    pub prefix: String,
    /// The largest event taken, as encoded, in bytes.
    pub max_event_bytes: usize,
    /// What is accepted and not yet durable, at most, in bytes.
    pub queue_bytes: usize,
    /// Where to count.
    pub metrics: BusMetrics,
}

impl KafkaOptions {
    /// The defaults, under this name.
    pub fn new(name: impl Into<Arc<str>>, plan: KafkaPlan, metrics: BusMetrics) -> Self {
        Self {
            name: name.into(),
            plan,
            prefix: String::new(),
            max_event_bytes: limits::EVENT_BYTES,
            queue_bytes: 16 << 20,
            metrics,
        }
    }
}

/// See the module.
pub struct KafkaBus {
    core: Arc<Core>,
}

/// What the parts of a bus share.
struct Core {
    options: KafkaOptions,
    told: Arc<Told>,
    cluster: Cluster,
    topics: Arc<Topics>,
    publisher: Publisher,
    /// Publishes the state: what the brokers refuse of events does not concern it.
    state_publisher: Publisher,
    events: Queued,
    pool: Arc<Pool>,
    groups: Arc<Groups>,
    state: Arc<State>,
    health: HealthBoard,
    metrics: OneBusMetrics,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBus").field("brokers", &self.core.options.plan.brokers.addresses).finish_non_exhaustive()
    }
}

impl KafkaBus {
    /// Opens the bus and connects in the background. Must be called inside a runtime.
    ///
    /// # Errors
    /// In words, settings that the client does not take.
    pub fn open(options: KafkaOptions) -> Result<Arc<Self>, String> {
        let refused = |error| format!("the Kafka client refuses its settings: {error}");
        let (brokers, name) = (&options.plan.brokers, Arc::clone(&options.name));
        let (told, tasks, closed) = (Arc::<Told>::default(), TaskTracker::new(), CancellationToken::new());
        let metrics = options.metrics.bus(&name);
        let admin: AdminClient<Ears> =
            client::managing(brokers, &name).create_with_context(Ears::new(&told)).map_err(refused)?;
        let largest = options.max_event_bytes.max(state::RECORD_BYTES);
        let in_batches = client::publishing_in_batches(brokers, &name, largest);
        let singly = client::publishing_singly(brokers, &name, largest);
        let state: Arc<str> = format!("{}{STATE_TOPIC}", options.prefix).into();
        let core = Arc::new(Core {
            cluster: Cluster::new(brokers, &name, &told, &tasks).map_err(refused)?,
            topics: Arc::new(Topics::new(admin, options.plan.clone(), options.max_event_bytes, closed.clone())),
            publisher: Publisher::new(in_batches.clone(), singly.clone(), &told, &metrics).map_err(refused)?,
            state_publisher: Publisher::new(in_batches, singly, &told, &metrics).map_err(refused)?,
            events: Queued::new(options.queue_bytes, &metrics.queued_bytes),
            groups: Groups::new(brokers, Arc::clone(&name), &tasks),
            pool: Pool::new(brokers, Arc::clone(&name), &told, &tasks),
            state: Arc::new(State::new(state, &metrics)),
            health: HealthBoard::new(name, metrics.clone()),
            options,
            told,
            metrics,
            closed: closed.clone(),
            tasks: tasks.clone(),
        });
        watch::begin(&core.health, &core.options.plan.brokers.addresses);
        tasks.spawn(watch::run(Arc::clone(&core)));
        tasks.spawn(publish::look_into_refusals(Arc::clone(&core)));
        tasks.spawn(Arc::clone(&core.pool).run(closed));
        Ok(Arc::new(Self { core }))
    }
}

impl Drop for KafkaBus {
    fn drop(&mut self) {
        self.core.closed.cancel();
        self.core.publisher.stop();
        self.core.state_publisher.stop();
    }
}

impl Core {
    fn wire(&self, topic: &TopicName) -> Arc<str> {
        format!("{}{topic}", self.options.prefix).into()
    }

    fn place(&self, partition: &Partition) -> Place {
        (self.wire(&partition.topic), partition.index.into())
    }

    fn topic_metrics(&self, topic: &TopicName) -> TopicMetrics {
        self.metrics.topic(topic.as_str())
    }

    /// An error at once while the brokers are not there.
    fn gate(&self) -> Result<(), BusError> {
        if self.closed.is_cancelled() {
            return Err(BusError::Closed);
        }
        match &*self.health.subscribe().borrow() {
            Health::Up | Health::Full(_) => Ok(()),
            Health::Connecting(cause) | Health::Down(cause) => Err(BusError::Unavailable(Arc::clone(cause))),
        }
    }

    /// Completes with `work`, or with an error as soon as the bus is closed; at once while the brokers are not there.
    async fn with_brokers<T>(&self, work: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        self.gate()?;
        self.closed.run_until_cancelled(work).await.unwrap_or(Err(BusError::Closed))
    }

    /// Completes with `work`, or with an error once the brokers go away: a change is tried until they are back, but nobody should wait
    /// for that long without a word.
    async fn while_there<T>(&self, work: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        let mut health = self.health.subscribe();
        let away = async {
            let down = health.wait_for(|health| matches!(health, Health::Down(_))).await.ok();
            match down.as_deref() {
                Some(Health::Down(cause)) => Arc::clone(cause),
                _ => "the brokers are away".into(),
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            cause = away => Err(BusError::Unavailable(format!("the change is not known to be made: {cause}").into())),
        }
    }

    fn means(&self) -> Means<'_> {
        Means { cluster: &self.cluster, publisher: &self.state_publisher }
    }

    /// Puts the bus's name of a topic in the place of Kafka's.
    fn named<T>(&self, topic: &TopicName, answer: Result<T, BusError>) -> Result<T, BusError> {
        answer.map_err(|error| match error {
            BusError::NoTopic(_) => BusError::NoTopic(topic.clone()),
            other => other,
        })
    }

    async fn ends(&self, partition: &Partition) -> Result<Ends, BusError> {
        self.gate()?;
        let ends = self.cluster.ends(vec![self.place(partition)]).await;
        let ends = self.named(&partition.topic, ends)?;
        ends.first().copied().ok_or_else(|| BusError::NoTopic(partition.topic.clone()))
    }

    fn known(&self, partition: &Partition) -> Result<Known, BusError> {
        let known = self.topics.known(&partition.topic).ok_or_else(|| BusError::NoTopic(partition.topic.clone()))?;
        if partition.index >= known.partitions {
            let Partition { topic, index } = partition;
            let text = format!("topic {topic} has {} partitions: there is no {index}", known.partitions);
            return Err(BusError::Broken(text.into()));
        }
        Ok(known)
    }

    async fn read(
        self: &Arc<Self>,
        partition: &Partition,
        from: From,
        prefetch: usize,
    ) -> Result<KafkaReader, BusError> {
        let ends = self.ends(partition).await?;
        let place = self.place(partition);
        let next = match from {
            From::First => ends.first,
            From::Next => ends.end,
            From::At(at) => match i64::try_from(at.0) {
                Ok(at) if at < ends.first => return Err(BusError::Trimmed { first: position(ends.first) }),
                Ok(at) if at <= ends.end => at,
                _ => return Err(BusError::Ahead { end: position(ends.end) }),
            },
            From::Time(time) => {
                let found = self.cluster.since(vec![(place.clone(), time)]).await?;
                found.first().copied().flatten().unwrap_or(ends.end).clamp(ends.first, ends.end)
            }
        };
        Ok(KafkaReader::new(self, partition, place, next, prefetch))
    }

    async fn locate(&self, asked: &[(Partition, From)]) -> Result<Vec<Mark>, BusError> {
        let mut partitions: Vec<&Partition> = asked.iter().map(|(partition, _)| partition).collect();
        partitions.sort();
        partitions.dedup();
        let mut ends = Vec::with_capacity(partitions.len());
        // One question a topic, so that one that is not there is known by its name.
        for of_topic in partitions.chunk_by(|a, b| a.topic == b.topic) {
            let places = of_topic.iter().map(|partition| self.place(partition)).collect();
            let answer = self.cluster.ends(places).await;
            let Some(first) = of_topic.first() else { continue };
            ends.extend(self.named(&first.topic, answer)?);
        }
        let times: Vec<_> = asked
            .iter()
            .filter_map(|(partition, from)| match from {
                From::Time(time) => Some((self.place(partition), *time)),
                _ => None,
            })
            .collect();
        let mut found = if times.is_empty() { Vec::new() } else { self.cluster.since(times).await? }.into_iter();
        let mut marks = Vec::with_capacity(asked.len());
        for (partition, from) in asked {
            let Ends { first, end } = partitions
                .binary_search(&partition)
                .ok()
                .and_then(|index| ends.get(index))
                .copied()
                .ok_or_else(|| BusError::NoTopic(partition.topic.clone()))?;
            let at = match from {
                From::First => position(first),
                From::Next => position(end),
                From::At(at) => *at,
                From::Time(_) => position(found.next().flatten().unwrap_or(end).clamp(first, end)),
            };
            let from = at.max(position(first)).0;
            let ahead = u64::try_from(position(end).0.saturating_sub(from)).unwrap_or(u64::MAX);
            let exact = self.topics.known(&partition.topic).is_none_or(|known| !known.compacted);
            marks.push(Mark { at, first: position(first), end: position(end), ahead, exact, appended: None });
        }
        Ok(marks)
    }

    async fn trim(&self, partition: &Partition, before: Position) -> Result<(), BusError> {
        let ends = self.ends(partition).await?;
        let before = i64::try_from(before.0).unwrap_or(i64::MAX).min(ends.end);
        if before <= ends.first {
            return Ok(());
        }
        self.topics.trim(&self.place(partition), before).await
    }

    async fn close(&self) {
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl EventBus for KafkaBus {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic> {
        let core = &self.core;
        core.with_brokers(async {
            let wire = core.wire(&topic.name);
            core.topics.declare(&core.cluster, &core.publisher, topic, &wire).await
        })
        .boxed()
    }

    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt> {
        self.core.publish(to, events).boxed()
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch_bytes: usize) -> Fut<'a, Box<dyn Reader>> {
        let core = &self.core;
        core.with_brokers(async move {
            let reader = core.read(partition, from, prefetch_bytes).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
        .boxed()
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        self.core.with_brokers(self.core.locate(at)).boxed()
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        self.core.with_brokers(self.core.trim(partition, before)).boxed()
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        self.core.with_brokers(self.core.state.load(self.core.means(), prefix)).boxed()
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        let core = &self.core;
        core.with_brokers(core.while_there(core.state.store(core.means(), puts))).boxed()
    }

    fn partitions<'a>(&'a self, topic: &'a TopicName) -> Fut<'a, Option<u16>> {
        let core = &self.core;
        core.with_brokers(async move {
            core.topics.partitions(&core.cluster, &core.publisher, topic, &core.wire(topic)).await
        })
        .boxed()
    }

    fn mirror<'a>(&'a self, reader: &'a ObjectName, next: &'a BTreeMap<Partition, Position>) -> Fut<'a, bool> {
        let core = &self.core;
        let group = core.wire(&TopicName::named(&reader.namespace, &reader.name));
        let offset = |position: &Position| i64::try_from(position.0).unwrap_or(i64::MAX);
        let next = next.iter().map(|(partition, position)| (core.place(partition), offset(position))).collect();
        core.with_brokers(async move { core.groups.commit(group, next).await.map(|()| true) }).boxed()
    }

    fn losses(&self) -> tokio::sync::watch::Receiver<u64> {
        self.core.state.losses()
    }

    fn health(&self) -> tokio::sync::watch::Receiver<Health> {
        self.core.health.subscribe()
    }

    fn stored_bytes<'a>(&'a self, _: &'a Partition) -> Fut<'a, Option<u64>> {
        // The client cannot ask for it.
        async { Ok(None) }.boxed()
    }

    fn max_event_bytes(&self) -> usize {
        self.core.options.max_event_bytes
    }

    fn max_value_bytes(&self) -> usize {
        self.core.state.largest()
    }

    fn close(&self) -> Fut<'_, ()> {
        async move {
            self.core.close().await;
            let core = Arc::clone(&self.core);
            let ended = tokio::task::spawn_blocking(move || {
                let until = Instant::now() + FLUSH;
                core.publisher.close(until);
                core.state_publisher.close(until);
                core.pool.close();
                core.groups.close();
            });
            ended.await.map_err(|error| BusError::Broken(format!("the bus did not close: {error}").into()))
        }
        .boxed()
    }
}
