//! The small state: a compacted topic, read by every process into a table.
//!
//! | module | holds |
//! | --- | --- |
//! | [`follower`] | reads the topic into the table |
//! | [`record`] | the records of the topic |
//! | [`table`] | what they come to |
//!
//! A put without a condition is stored once the brokers have it. One with a condition is an attempt: every process judges it by the
//! same rule when it reads it, and its writer waits until its own process did.
//!
//! Whoever has reason to think that the topic is not what was read has the follower look: it makes one that is gone again, and begins anew
//! with one that is another.

mod follower;
mod record;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

pub(super) use self::follower::follow;
use self::record::{AttemptId, Change, read, record_key, record_value};
use self::table::{Judged, Table, revision_at};
use super::cluster::{Cluster, Place};
use super::publisher::{Outgoing, Publisher};
use super::topics::Topics;
use crate::bus::{BusError, Entry, Expect, Put};
use crate::queued::Queued;

/// Bytes of a key and a value, at most.
const KEY_BYTES: usize = 512;
const VALUE_BYTES: usize = 8 << 20;
/// The largest record, with what is around it.
pub(super) const RECORD_BYTES: usize = VALUE_BYTES + RECORD_OVERHEAD;
const RECORD_OVERHEAD: usize = 64 << 10;
/// What may be on its way.
const QUEUE_BYTES: usize = 32 << 20;
/// How long the table may take to come up to the end of the topic before the bus is called unavailable.
const CATCH_UP: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct State {
    wire: Arc<str>,
    queue: Queued,
    table: Mutex<Shared>,
    /// Everything before this offset is in the table; below 0 before the topic was found.
    applied: watch::Sender<i64>,
    /// The largest value that the topic takes.
    largest: AtomicUsize,
    /// The topic may not be what was read.
    doubt: Notify,
    /// How often it was another one.
    losses: watch::Sender<u64>,
}

#[derive(Default)]
struct Shared {
    table: Table,
    waiting: HashMap<AttemptId, oneshot::Sender<Option<u64>>>,
}

/// What the state needs of the bus.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) publisher: &'a Publisher,
}

/// A change, ready to be published.
struct Ready {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Ready {
    fn new(key: &str, change: &Change) -> Self {
        Self { key: record_key(key, change), value: record_value(change) }
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }

    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing { key: Some(&self.key), value: self.value.as_deref(), headers: None }
    }
}

impl State {
    pub(super) fn new(wire: Arc<str>, metrics: &crate::metrics::OneBusMetrics) -> Self {
        let queue = Queued::new(QUEUE_BYTES, &metrics.queued_bytes);
        let (applied, largest) = (watch::Sender::new(-1), AtomicUsize::new(VALUE_BYTES));
        let (doubt, losses) = (Notify::new(), watch::Sender::new(0));
        Self { wire, queue, table: Mutex::default(), applied, largest, doubt, losses }
    }

    /// How often the state was lost.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Has the follower look whether the topic still is the one that was read.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// The largest value taken.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    /// The topic, as Kafka knows it.
    pub(super) fn wire(&self) -> &Arc<str> {
        &self.wire
    }

    fn place(&self) -> Place {
        (Arc::clone(&self.wire), 0)
    }

    /// Makes the topic where it is not there, and checks what matters of one that is.
    pub(super) async fn prepare(&self, cluster: &Cluster, topics: &Topics) -> Result<(), BusError> {
        match cluster.partitions(&self.wire).await? {
            Some(1) => return self.check_topic(topics).await,
            Some(n) => {
                let text =
                    format!("topic {} has {n} partitions: it holds evoke's own state, and must have one", self.wire);
                return Err(BusError::Broken(text.into()));
            }
            None => {}
        }
        let limit = RECORD_BYTES.to_string();
        let settings = [
            ("cleanup.policy", "compact"),
            ("message.timestamp.type", "LogAppendTime"),
            ("max.message.bytes", &limit),
            ("retention.ms", "-1"),
            // Only files that are full are compacted.
            ("segment.bytes", "16777216"),
            ("min.cleanable.dirty.ratio", "0.2"),
        ];
        topics.make(cluster, &self.wire, 1, &settings).await
    }

    /// Refuses a topic that somebody else made and that forgets, and stays below what it takes: who may not see its settings takes it
    /// for what it should be.
    async fn check_topic(&self, topics: &Topics) -> Result<(), BusError> {
        let wire = &self.wire;
        let record = topics.setting(wire, "max.message.bytes").await.and_then(|bytes| bytes.parse::<usize>().ok());
        if let Some(record) = record {
            self.largest.store(record.saturating_sub(RECORD_OVERHEAD).min(VALUE_BYTES), Ordering::Relaxed);
        }
        match topics.setting(wire, "cleanup.policy").await {
            Some(policy) if !policy.contains("compact") => {
                let text = format!(
                    "topic {wire} has cleanup.policy={policy}: it holds evoke's own state, which Kafka would delete with time; set it \
                     with `kafka-configs.sh --alter --entity-type topics --entity-name {wire} --add-config cleanup.policy=compact`"
                );
                Err(BusError::Broken(text.into()))
            }
            _ => Ok(()),
        }
    }

    /// Waits until the table has everything before `end`.
    async fn wait(&self, end: i64) -> Result<(), BusError> {
        let mut applied = self.applied.subscribe();
        let come = applied.wait_for(|applied| *applied >= end);
        match tokio::time::timeout(CATCH_UP, come).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(BusError::Closed),
            Err(_) => Err(BusError::Unavailable(format!("topic {} cannot be read to its end", self.wire).into())),
        }
    }

    pub(super) async fn load(&self, means: Means<'_>, prefix: &str) -> Result<Vec<Entry>, BusError> {
        let before = *self.applied.borrow();
        let end = match means.cluster.ends(vec![self.place()]).await {
            Ok(ends) => ends.first().map_or(0, |ends| ends.end),
            Err(BusError::NoTopic(_)) => return Err(self.not_there()),
            Err(error) => return Err(error),
        };
        if end < before {
            return Err(self.not_there());
        }
        self.wait(end).await?;
        let shared = self.table.lock();
        // The table may have been begun anew since.
        if *self.applied.borrow() < end {
            return Err(self.not_there());
        }
        Ok(shared.table.load(prefix))
    }

    /// The topic is not what was read.
    fn not_there(&self) -> BusError {
        self.doubt();
        BusError::Unavailable(format!("topic {} is gone, or another one by now: it is looked into", self.wire).into())
    }

    pub(super) async fn store(&self, means: Means<'_>, puts: Vec<Put>) -> Result<Vec<Option<u64>>, BusError> {
        if puts.is_empty() {
            return Ok(Vec::new());
        }
        let mut ready = Vec::with_capacity(puts.len());
        let mut outcomes = Vec::with_capacity(puts.len());
        for put in &puts {
            check(put, self.largest())?;
            let change = match put.expect {
                Expect::Any => {
                    outcomes.push(None);
                    Change::Put { value: put.value.clone() }
                }
                expect => {
                    let attempt = Waiting::new(self);
                    let id = attempt.id;
                    outcomes.push(Some(attempt));
                    Change::Attempt { id, expect, value: put.value.clone() }
                }
            };
            ready.push(Ready::new(&put.key, &change));
        }
        let offsets = self.publish(means, &ready).await?;
        let mut revisions = Vec::with_capacity(puts.len());
        let mut won = Vec::new();
        for ((put, offset), outcome) in puts.iter().zip(offsets).zip(outcomes) {
            let Some(waiting) = outcome else {
                revisions.push(Some(revision_at(offset)));
                continue;
            };
            let revision = waiting.judged().await?;
            if revision.is_some() {
                won.push(put.key.as_str());
            }
            revisions.push(revision);
        }
        // Who won tidies up; if it does not come to that, the next one does.
        if !won.is_empty()
            && let Err(error) = self.tidy(means, &won).await
        {
            tracing::debug!(%error, "attempts are left in the log");
        }
        Ok(revisions)
    }

    /// Puts what all attempts on some keys came to in their place.
    async fn tidy(&self, means: Means<'_>, keys: &[&str]) -> Result<(), BusError> {
        let (mut settlements, mut gone) = (Vec::new(), Vec::new());
        for key in keys {
            if let Some((settlement, replaced)) = self.table.lock().table.settlement(key) {
                settlements.push(Ready::new(key, &settlement));
                gone.extend(replaced.into_iter().map(|key| Ready { key, value: None }));
            }
        }
        self.publish(means, &settlements).await?;
        self.publish(means, &gone).await.map(|_| ())
    }

    /// Publishes changes, and waits until they are stored.
    async fn publish(&self, means: Means<'_>, changes: &[Ready]) -> Result<Vec<i64>, BusError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let slot = self
            .queue
            .place(changes.iter().map(|change| Queued::weight(change.bytes())).sum())
            .await
            .ok_or(BusError::Closed)?;
        let stored = means.publisher.send(&self.wire, 0, changes.iter().map(Ready::outgoing), slot);
        let stored = stored.await.map_err(|_| BusError::Closed)?;
        let offsets = stored.into_iter().map(|stored| match stored {
            Ok(position) => Ok(i64::try_from(position.0).unwrap_or(i64::MAX)),
            Err(error) => Err(BusError::Unavailable(error.to_string().into())),
        });
        offsets.collect()
    }
}

fn check(put: &Put, limit: usize) -> Result<(), BusError> {
    let bytes = put.value.as_ref().map_or(0, bytes::Bytes::len);
    if put.key.len() > KEY_BYTES {
        let text = format!("a key of {} bytes is longer than the {KEY_BYTES} that the bus takes", put.key.len());
        return Err(BusError::Broken(text.into()));
    }
    if bytes > limit {
        let text = format!("a value of {bytes} bytes at {} is larger than the {limit} that the bus takes", put.key);
        return Err(BusError::Broken(text.into()));
    }
    Ok(())
}

impl Shared {
    fn take(&mut self, topic: &str, offset: i64, key: &[u8], value: Option<&[u8]>) {
        match read(key, value) {
            Ok(Some((key, change))) => {
                let judged = self.table.apply(offset, key, change);
                if let Some(Judged { id, revision }) = judged
                    && let Some(waiting) = self.waiting.remove(&id)
                {
                    waiting.send(revision).unwrap_or_default();
                }
            }
            Ok(None) => {}
            Err(cause) => tracing::error!(topic, offset, cause, "a record of the bus's state is passed by"),
        }
    }
}

/// Waits for the outcome of one attempt.
struct Waiting<'a> {
    state: &'a State,
    id: AttemptId,
    outcome: oneshot::Receiver<Option<u64>>,
}

impl<'a> Waiting<'a> {
    fn new(state: &'a State) -> Self {
        let (sender, outcome) = oneshot::channel();
        let id = uuid::Uuid::now_v7().into_bytes();
        state.table.lock().waiting.insert(id, sender);
        Self { state, id, outcome }
    }

    async fn judged(mut self) -> Result<Option<u64>, BusError> {
        match tokio::time::timeout(CATCH_UP, &mut self.outcome).await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(_)) => Err(BusError::Closed),
            Err(_) => Err(BusError::Unavailable(
                "it is not known yet whether the change was made: load the key to see".into(),
            )),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.state.table.lock().waiting.remove(&self.id);
    }
}
