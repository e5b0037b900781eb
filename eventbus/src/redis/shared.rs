//! What all parts of the bus share: the topics that are known, their streams, and how much these hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evoke_api::events::OnFull;
use evoke_api::names::TopicName;
use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble;
use parking_lot::{Mutex, RwLock};
use redis::{Pipeline, Value, cmd};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hub::{Hub, Node};
use super::keys::{self, STREAMS};
use super::lane::{self, Lane};
use super::look::Samples;
use super::room::Room;
use super::scripts;
use super::state::Made;
use crate::bus::{BusError, Partition, Topic, TopicSpec};
use crate::metrics::{OneBusMetrics, TopicMetrics};
use crate::queued::Queued;

/// Topics whose names begin so are the bus's own: they have a queue of their own and may go beyond what others may, since it is by
/// way of the dead letters that a full bus gets empty again.
const OWN_TOPICS: &str = "_evoke.";
/// How often the streams are measured when nobody asks.
const MEASURE: Duration = Duration::from_secs(5);
/// The least time between two measurements.
const MEASURE_PAUSE: Duration = Duration::from_millis(100);
/// Nodes of a stream that its size is judged by.
const SAMPLES: usize = 64;
/// A share of the oldest stream that goes at once when the oldest are to make room.
const DROP_SHARE: u64 = 16;

/// One partition of a topic.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) key: Arc<str>,
    /// One of the bus's own.
    pub(super) own: bool,
    pub(super) lane: Lane,
    /// Whether somebody publishes what is in the lane.
    running: Mutex<bool>,
    pub(super) samples: Mutex<Samples>,
    mean: AtomicUsize,
    pub(super) metrics: TopicMetrics,
}

impl Log {
    /// Learns how large events are.
    pub(super) fn learn(&self, events: usize, bytes: usize) {
        if let Some(seen) = bytes.checked_div(events) {
            let old = self.mean.load(Ordering::Relaxed);
            self.mean.store(if old == 0 || seen > old { seen } else { (old * 3 + seen) / 4 }, Ordering::Relaxed);
        }
    }

    /// How large an event is, about; 0 where none was seen.
    pub(super) fn mean(&self) -> usize {
        self.mean.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) hub: Hub,
    /// As the manifest has it; see [`Core::largest_event`].
    pub(super) max_event_bytes: usize,
    on_full: OnFull,
    pub(super) events: Queued,
    pub(super) own_events: Queued,
    pub(super) room: Arc<Room>,
    pub(super) metrics: OneBusMetrics,
    pub(super) made: Made,
    topics: RwLock<HashMap<TopicName, Arc<[Arc<Log>]>>>,
    /// Nothing new is taken.
    pub(super) closed: CancellationToken,
    /// Nothing is under way any more.
    pub(super) ended: CancellationToken,
    /// What publishes.
    pub(super) lanes: TaskTracker,
    /// What looks after connections and sizes.
    pub(super) keepers: TaskTracker,
}

impl Core {
    pub(super) fn new(hub: Hub, options: &super::RedisOptions, metrics: OneBusMetrics) -> Self {
        Self {
            hub,
            max_event_bytes: options.max_event_bytes,
            on_full: options.plan.on_full,
            events: Queued::new(options.queue_bytes, &metrics.queued_bytes),
            own_events: Queued::new(options.queue_bytes / 4, &metrics.queued_bytes),
            room: Arc::new(Room::new(options.plan.max_bytes)),
            metrics,
            made: Made::default(),
            topics: RwLock::default(),
            closed: CancellationToken::new(),
            ended: CancellationToken::new(),
            lanes: TaskTracker::new(),
            keepers: TaskTracker::new(),
        }
    }

    /// Completes with `work`, or with an error as soon as the bus is closed.
    pub(super) async fn unless_closed<T>(
        &self,
        work: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        self.closed.run_until_cancelled(work).await.unwrap_or(Err(BusError::Closed))
    }

    /// The largest event that is taken now, as encoded: what the manifest says, or what the servers take where that is less.
    pub(super) fn largest_event(&self) -> usize {
        self.max_event_bytes.min(self.hub.longest())
    }

    pub(super) fn drops_oldest(&self) -> bool {
        self.on_full == OnFull::DropOldest
    }

    pub(super) async fn declare(&self, spec: &TopicSpec) -> Result<Topic, BusError> {
        let logs = match self.known(&spec.name) {
            Some(logs) => logs,
            None => {
                let streams: Vec<_> = (0..spec.partitions.max(1)).map(|p| keys::stream(&spec.name, p)).collect();
                let node = self.hub.node(STREAMS)?;
                let claim = scripts::claim(STREAMS, spec.name.as_str(), &streams);
                let owner = node.ask.ask(&claim).await.map_err(|trouble| self.hub.suspect(&trouble))?;
                self.learn(&spec.name, owner)?
            }
        };
        let partitions = u16::try_from(logs.len()).unwrap_or(u16::MAX);
        let drift = match partitions {
            n if n == spec.partitions => Vec::new(),
            n => vec![format!("topic {} has {n} partitions since it was made, not {}", spec.name, spec.partitions)],
        };
        Ok(Topic { partitions, drift })
    }

    /// One partition, from memory or as the server knows it.
    pub(super) async fn log(&self, partition: &Partition) -> Result<Arc<Log>, BusError> {
        let Partition { topic, index } = partition;
        let logs = match self.known(topic) {
            Some(logs) => logs,
            None => {
                let node = self.hub.node(STREAMS)?;
                let mut owner = cmd("HGET");
                owner.arg(STREAMS).arg(keys::stream(topic, 0));
                let owner = node.ask.ask(&owner).await.map_err(|trouble| self.hub.suspect(&trouble))?;
                if owner == Value::Nil {
                    return Err(BusError::NoTopic(topic.clone()));
                }
                self.learn(topic, owner)?
            }
        };
        logs.get(usize::from(*index)).cloned().ok_or_else(|| {
            BusError::Broken(format!("topic {topic} has {} partitions: there is no {index}", logs.len()).into())
        })
    }

    fn known(&self, topic: &TopicName) -> Option<Arc<[Arc<Log>]>> {
        self.topics.read().get(topic).cloned()
    }

    /// Takes in whose a topic's first stream is: `{topic} {partitions} {index}`.
    fn learn(&self, topic: &TopicName, owner: Value) -> Result<Arc<[Arc<Log>]>, BusError> {
        let owner = reply::string(owner).unwrap_or_default();
        let mut parts = owner.split(' ');
        let (name, partitions) = (parts.next().unwrap_or_default(), parts.next().and_then(|n| n.parse::<u16>().ok()));
        if name != topic.as_str() {
            let text = format!("topic {topic} would share a stream with topic {name}: rename one of them");
            return Err(BusError::Broken(text.into()));
        }
        let Some(partitions) = partitions.filter(|n| *n > 0) else {
            let text = format!("the key {STREAMS} says {owner:?} of topic {topic}, which this evoke cannot read");
            return Err(BusError::Broken(text.into()));
        };
        let own = topic.as_str().starts_with(OWN_TOPICS);
        let mut topics = self.topics.write();
        let logs = topics.entry(topic.clone()).or_insert_with(|| {
            let metrics = self.metrics.topic(topic.as_str());
            (0..partitions)
                .map(|index| {
                    Arc::new(Log {
                        key: keys::stream(topic, index).into(),
                        own,
                        lane: Lane::default(),
                        running: Mutex::default(),
                        samples: Mutex::default(),
                        mean: AtomicUsize::new(0),
                        metrics: metrics.clone(),
                    })
                })
                .collect()
        });
        Ok(logs.clone())
    }

    /// Has what is in a stream's lane published.
    pub(super) fn run_lane(self: &Arc<Self>, log: &Arc<Log>) {
        if !std::mem::replace(&mut *log.running.lock(), true) {
            self.lanes.spawn(lane::run(self.clone(), log.clone()));
        }
    }

    /// Claims the topics again that are known here and not to the server: one that came back empty knows none.
    async fn claim_again(&self) -> Result<(), Trouble> {
        let Ok(node) = self.hub.node(STREAMS) else { return Ok(()) };
        let known: Vec<_> = self.topics.read().iter().map(|(topic, logs)| (topic.clone(), logs.clone())).collect();
        if known.is_empty() {
            return Ok(());
        }
        let mut owners = cmd("HMGET");
        owners.arg(STREAMS).arg(known.iter().map(|(topic, _)| keys::stream(topic, 0)).collect::<Vec<_>>());
        let owners = reply::array(node.ask.ask(&owners).await?).unwrap_or_default();
        for ((topic, logs), _) in known.iter().zip(owners).filter(|(_, owner)| *owner == Value::Nil) {
            let streams: Vec<_> = logs.iter().map(|log| log.key.to_string()).collect();
            node.ask.ask(&scripts::claim(STREAMS, topic.as_str(), &streams)).await?;
        }
        Ok(())
    }

    /// Measures the streams, now and then and when asked, until cancelled.
    pub(super) async fn measure(&self) {
        loop {
            let Some(measuring) = self.ended.run_until_cancelled(self.room.measuring()).await else { return };
            let before = self.room.before();
            let measured = async {
                self.claim_again().await?;
                if self.room.max.is_none() { Ok(None) } else { self.stored().await.map(Some) }
            };
            let measured = self.ended.run_until_cancelled(measured).await;
            match measured {
                None => return,
                Some(Ok(Some(bytes))) => self.room.measured(bytes, before),
                Some(Ok(None)) => self.room.measured(0, before),
                // The keeper says what is wrong.
                Some(Err(trouble)) => drop(self.hub.suspect(&trouble)),
            }
            drop(measuring);
            tokio::select! {
                () = self.ended.cancelled() => return,
                () = tokio::time::sleep(MEASURE_PAUSE) => {}
            }
            tokio::select! {
                () = self.ended.cancelled() => return,
                () = self.room.asked() => {}
                () = tokio::time::sleep(MEASURE) => {}
            }
        }
    }

    /// Every stream of the bus, of other processes' topics too.
    async fn streams(&self) -> Result<Vec<(String, String)>, Trouble> {
        let Ok(node) = self.hub.node(STREAMS) else { return Err(away()) };
        let all = reply::array(node.ask.ask(cmd("HGETALL").arg(STREAMS)).await?).unwrap_or_default();
        let mut parts = all.into_iter().filter_map(reply::string);
        let mut streams = Vec::new();
        while let (Some(key), Some(owner)) = (parts.next(), parts.next()) {
            streams.push((key, owner));
        }
        Ok(streams)
    }

    /// What all streams hold, in bytes.
    async fn stored(&self) -> Result<u64, Trouble> {
        let mut asks: Vec<(Arc<Node>, Pipeline)> = Vec::new();
        for (key, _) in self.streams().await? {
            let Ok(node) = self.hub.node(&key) else { return Err(away()) };
            match asks.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &node)) {
                Some((_, pipeline)) => measure(pipeline, &key),
                None => {
                    let mut pipeline = Pipeline::new();
                    measure(&mut pipeline, &key);
                    asks.push((node, pipeline));
                }
            }
        }
        let mut total: u64 = 0;
        for (node, pipeline) in asks {
            let found = node.ask.ask_all(&pipeline).await?;
            total = total.saturating_add(held(&found));
        }
        Ok(total)
    }

    /// What one stream holds, in bytes, as the server judges it.
    pub(super) async fn stored_in(&self, key: &str) -> Result<u64, BusError> {
        let node = self.hub.node(key)?;
        let mut pipeline = Pipeline::new();
        measure(&mut pipeline, key);
        Ok(held(&node.ask.ask_all(&pipeline).await.map_err(|trouble| self.hub.suspect(&trouble))?))
    }

    /// Deletes the oldest events of the bus, its own last; false when there are none.
    pub(super) async fn drop_oldest(&self) -> Result<bool, Trouble> {
        let mut oldest: Option<(bool, u128, String, u64, String)> = None;
        for (key, owner) in self.streams().await? {
            let Ok(node) = self.hub.node(&key) else { continue };
            let mut look = Pipeline::new();
            look.add_command(scripts::look(&key, 0, []));
            let found = node.ask.ask_all(&look).await?;
            let Some(seen) = found.into_iter().next().and_then(super::look::Seen::read) else { continue };
            if let Some(first) = seen.first {
                let topic = owner.split(' ').next().unwrap_or_default().to_owned();
                let candidate = (topic.starts_with(OWN_TOPICS), first, key, seen.length, topic);
                oldest = Some(match oldest.take() {
                    Some(other) if other < candidate => other,
                    _ => candidate,
                });
            }
        }
        let Some((_, _, key, length, topic)) = oldest else { return Ok(false) };
        let Ok(node) = self.hub.node(&key) else { return Ok(false) };
        let mut trim = cmd("XTRIM");
        trim.arg(&key).arg("MAXLEN").arg(length.saturating_sub((length / DROP_SHARE).max(1)));
        if let Value::Int(dropped) = node.ask.ask(&trim).await? {
            let dropped = u64::try_from(dropped).unwrap_or(0);
            self.metrics.topic(&topic).dropped_events.inc_by(dropped);
            let _measuring = self.room.measuring().await;
            let before = self.room.before();
            let bytes = self.stored().await?;
            self.room.measured(bytes, before);
            return Ok(dropped > 0);
        }
        Ok(false)
    }
}

/// Asks how much a stream holds, and how many entries that is.
fn measure(pipeline: &mut Pipeline, key: &str) {
    pipeline.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(SAMPLES);
    pipeline.cmd("XLEN").arg(key);
}

/// What streams hold, less one entry each: the last one that is not needed stays, and must not keep a bus full.
fn held(measured: &[Value]) -> u64 {
    let held = measured.chunks(2).map(|pair| match pair {
        [Value::Int(bytes), Value::Int(length)] if *length > 1 => bytes.saturating_sub(bytes / length),
        _ => 0,
    });
    held.fold(0, |total: u64, bytes| total.saturating_add(u64::try_from(bytes).unwrap_or(0)))
}

fn away() -> Trouble {
    Trouble::Other("the server is not there".into())
}
