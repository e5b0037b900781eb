//! What the bus is asked for beside publishing: topics, readers, positions, trims, and changes of state.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::env::Env;
use super::lock::DirLock;
use super::options::EmbeddedOptions;
use super::reader::LogReader;
use super::recovery::make_topic;
use super::state::{KEY_BYTES, StateLog, StateTable, StoreOp, VALUE_BYTES};
use super::topic::TopicLog;
use super::writer::{Queue, Topics};
use crate::bus::{BusError, From, Mark, Partition, Position, Put, Reader, Topic, TopicSpec};
use crate::queued::Queued;

/// What all parts of the bus share.
pub(super) struct Core {
    pub(super) dir: PathBuf,
    pub(super) env: Arc<Env>,
    pub(super) options: EmbeddedOptions,
    pub(super) topics: Arc<Topics>,
    pub(super) declaring: tokio::sync::Mutex<()>,
    pub(super) state: Arc<StateTable>,
    pub(super) state_log: Arc<Mutex<StateLog>>,
    pub(super) queue: Arc<Queue<TopicLog>>,
    pub(super) state_queue: Arc<Queue<Mutex<StateLog>>>,
    pub(super) events: Queued,
    pub(super) own_events: Queued,
    pub(super) changes: Queued,
    pub(super) closed: CancellationToken,
    /// Kept by each task that may change a file, so that nobody else has the directory before it ends.
    pub(super) lock: Mutex<Option<Arc<DirLock>>>,
}

impl Core {
    pub(super) fn topic(&self, partition: &Partition) -> Result<Arc<TopicLog>, BusError> {
        if partition.index != 0 {
            let text = format!("topic {} has one partition: there is no {}", partition.topic, partition.index);
            return Err(BusError::Broken(text.into()));
        }
        let topics = self.topics.read();
        topics.get(&partition.topic).cloned().ok_or_else(|| BusError::NoTopic(partition.topic.clone()))
    }

    /// Completes with `work`, or with an error as soon as the bus is closed.
    pub(super) async fn unless_closed<T>(
        &self,
        work: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        self.closed.run_until_cancelled(work).await.unwrap_or(Err(BusError::Closed))
    }

    /// Runs what waits for the disk on a thread that may.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        let lock = self.lock.lock().clone();
        if self.closed.is_cancelled() {
            return Err(BusError::Closed);
        }
        let locked = move || {
            let done = work();
            drop(lock);
            done
        };
        self.unless_closed(tokio::task::spawn_blocking(locked).map(|done| done.unwrap_or(Err(BusError::Closed)))).await
    }

    pub(super) async fn declare(&self, spec: &TopicSpec) -> Result<Topic, BusError> {
        let drift = match spec.partitions {
            1 => Vec::new(),
            n => vec![format!("topic {} has 1 partition, as all of the embedded bus have, not {n}", spec.name)],
        };
        let topic = Topic { partitions: 1, drift };
        let _one_at_a_time = self.declaring.lock().await;
        if self.topics.read().contains_key(&spec.name) {
            return Ok(topic);
        }
        let (env, dir, name, topics) = (self.env.clone(), self.dir.clone(), spec.name.clone(), self.topics.clone());
        self.blocking(move || {
            let made = make_topic(&env, &dir.join("topics"), &name);
            let made = made.map_err(|e| BusError::Unavailable(format!("topic {name} cannot be made: {e}").into()))?;
            topics.write().insert(name, Arc::new(made));
            Ok(topic)
        })
        .await
    }

    pub(super) async fn read(
        &self,
        partition: &Partition,
        from: From,
        prefetch: usize,
    ) -> Result<Box<dyn Reader>, BusError> {
        let topic = self.topic(partition)?;
        let at = match from {
            From::Time(_) => {
                let topic = topic.clone();
                self.blocking(move || topic.resolve(from)).await?
            }
            _ => topic.resolve(from)?,
        };
        let end = topic.end();
        let at = u64::try_from(at).ok().filter(|at| *at <= end).ok_or(BusError::Ahead { end: Position(end.into()) })?;
        if at < topic.first() {
            return Err(topic.trimmed());
        }
        Ok(Box::new(LogReader::new(topic, self.closed.clone(), at, prefetch)))
    }

    pub(super) async fn locate(&self, at: &[(Partition, From)]) -> Result<Vec<Mark>, BusError> {
        let asked: Vec<_> =
            at.iter().map(|(partition, from)| Ok((self.topic(partition)?, *from))).collect::<Result<_, BusError>>()?;
        let mark_all = move || asked.iter().map(|(topic, from)| topic.mark(*from)).collect();
        if at.iter().any(|(_, from)| matches!(from, From::Time(_))) {
            return self.blocking(mark_all).await;
        }
        mark_all()
    }

    pub(super) async fn trim(&self, partition: &Partition, before: Position) -> Result<(), BusError> {
        let topic = self.topic(partition)?;
        let before = u64::try_from(before.0).unwrap_or(u64::MAX);
        let (queue, state_queue) = (self.queue.clone(), self.state_queue.clone());
        self.blocking(move || {
            let trimmed = topic.trim(before);
            queue.retry();
            state_queue.retry();
            trimmed
        })
        .await
    }

    pub(super) async fn store(&self, puts: Vec<Put>, soon: bool) -> Result<Vec<Option<u64>>, BusError> {
        if puts.is_empty() {
            return Ok(Vec::new());
        }
        for put in &puts {
            put.check(KEY_BYTES, VALUE_BYTES)?;
        }
        let weight = puts.iter().map(|p| Queued::weight(p.key.len() + p.value.as_ref().map_or(0, bytes::Bytes::len)));
        let weight = weight.sum();
        let place = self
            .unless_closed(async {
                let _turn = self.changes.turn().await;
                self.changes.place(weight).await.ok_or(BusError::Closed)
            })
            .await?;
        let (reply, stored) = oneshot::channel();
        if !self.state_queue.push(self.state_log.clone(), StoreOp { puts, soon, reply, place }) {
            return Err(BusError::Closed);
        }
        stored.await.map_err(|_| BusError::Closed)
    }
}
