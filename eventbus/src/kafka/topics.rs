//! Topics: made as they should be, or taken as they are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use evoke_api::names::TopicName;
use evoke_connect::kafka::words::text;
use parking_lot::RwLock;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::client::{BATCH_BYTES, Ears, RECORD_OVERHEAD};
use super::cluster::{Cluster, Place};
use super::publisher::Publisher;
use crate::bus::{BusError, Topic, TopicSpec};
use crate::plan::kafka::KafkaPlan;

/// How long the brokers may take to change something.
const CHANGE: Duration = Duration::from_secs(10);
/// How often a new topic is looked for until every broker knows it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often a topic is looked at that takes less than it is asked to.
const LOOK_UP: Duration = Duration::from_secs(5);
/// How long an event may wait for that.
const ANSWER: Duration = Duration::from_secs(2);
/// What Kafka calls a topic may have at most so many characters.
const NAME_BYTES: usize = 249;

/// A topic that is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) partitions: u16,
    /// The largest batch that it takes, in bytes.
    pub(super) batch_limit: usize,
    /// Its records' times are when they were appended.
    pub(super) append_time: bool,
    /// Kafka deletes records of it by their keys.
    pub(super) compacted: bool,
    /// When somebody last looked at what it takes.
    looked: Instant,
}

/// The topics of a bus.
pub(super) struct Topics {
    admin: AdminClient<Ears>,
    plan: KafkaPlan,
    max_event_bytes: usize,
    known: RwLock<HashMap<TopicName, Known>>,
    declaring: Mutex<()>,
    /// Who looks at what a topic takes after a refusal: the next one may find what it looks for.
    looking: Mutex<()>,
    closed: CancellationToken,
}

impl Topics {
    pub(super) fn new(
        admin: AdminClient<Ears>,
        plan: KafkaPlan,
        max_event_bytes: usize,
        closed: CancellationToken,
    ) -> Self {
        let (known, declaring, looking) = (RwLock::default(), Mutex::default(), Mutex::default());
        Self { admin, plan, max_event_bytes, known, declaring, looking, closed }
    }

    pub(super) fn known(&self, topic: &TopicName) -> Option<Known> {
        self.known.read().get(topic).copied()
    }

    /// The largest batch that a topic of this bus must take.
    fn batch_limit(&self) -> usize {
        self.max_event_bytes + RECORD_OVERHEAD
    }

    /// Makes the topic, or takes it as it is.
    pub(super) async fn declare(
        &self,
        cluster: &Cluster,
        publisher: &Publisher,
        spec: &TopicSpec,
        wire: &str,
    ) -> Result<Topic, BusError> {
        if wire.len() > NAME_BYTES {
            let text = format!(
                "topic {wire:?} is longer than the {NAME_BYTES} characters that Kafka allows: shorten its names"
            );
            return Err(BusError::Broken(text.into()));
        }
        let _one_at_a_time = self.declaring.lock().await;
        if cluster.partitions(wire).await?.is_none() {
            let limit = self.batch_limit().max(1 << 20).to_string();
            let age =
                self.plan.max_age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)).to_string();
            let bytes = self.retained_bytes(spec.partitions).to_string();
            let settings = [
                ("cleanup.policy", "delete"),
                ("message.timestamp.type", "LogAppendTime"),
                ("max.message.bytes", &limit),
                ("retention.ms", &age),
                ("retention.bytes", &bytes),
            ];
            self.make(cluster, wire, spec.partitions, &settings).await?;
        }
        // Not every broker may know a new topic at once, and one that is taken for empty has no place where a subscription could start.
        let Some(partitions) = cluster.partitions(wire).await? else {
            return Err(BusError::Unavailable(format!("topic {wire} is not known to every broker yet").into()));
        };
        let partitions = self.usable(cluster, publisher, &spec.name, wire, partitions).await?;
        let mut drift = Vec::new();
        if partitions != spec.partitions {
            drift.push(format!(
                "topic {wire} has {partitions} partitions, not {}: they are used as they are",
                spec.partitions
            ));
        }
        let (batch_limit, looked) = (usize::MAX, Instant::now());
        let mut known = Known { partitions, batch_limit, append_time: true, compacted: false, looked };
        self.compare(wire, &mut known, &mut drift).await;
        // Nothing of it was published yet that could be overtaken. Later the brokers say so, by refusing a batch.
        if known.batch_limit < BATCH_BYTES && self.known(&spec.name).is_none() {
            publisher.singly(wire).map_err(|error| {
                BusError::Unavailable(format!("no Kafka client can be made: {}", text(&error)).into())
            })?;
        }
        let before = self.known.write().insert(spec.name.clone(), known);
        if let Some(before) = before.filter(|before| before.partitions < partitions) {
            tell_of_growth(wire, before, partitions);
        }
        Ok(Topic { partitions, drift })
    }

    /// How many partitions of a topic that has `there` can be used. Those that others have added can once the client that publishes on it
    /// knows them.
    async fn usable(
        &self,
        cluster: &Cluster,
        publisher: &Publisher,
        topic: &TopicName,
        wire: &str,
        there: usize,
    ) -> Result<u16, BusError> {
        let there = u16::try_from(there).unwrap_or(u16::MAX);
        match self.known(topic) {
            Some(before) if before.partitions < there => {
                let known = publisher.partitions(cluster, wire).await?;
                Ok(u16::try_from(known).unwrap_or(u16::MAX).clamp(before.partitions, there))
            }
            _ => Ok(there),
        }
    }

    /// How many partitions of a topic that is declared can be used by now; `None` for one that is not, or is gone.
    pub(super) async fn partitions(
        &self,
        cluster: &Cluster,
        publisher: &Publisher,
        topic: &TopicName,
        wire: &str,
    ) -> Result<Option<u16>, BusError> {
        if self.known(topic).is_none() {
            return Ok(None);
        }
        let Some(partitions) = cluster.partitions(wire).await? else { return Ok(None) };
        let partitions = self.usable(cluster, publisher, topic, wire, partitions).await?;
        if let Some(known) = self.known.write().get_mut(topic).filter(|known| known.partitions < partitions) {
            tell_of_growth(wire, *known, partitions);
            known.partitions = partitions;
        }
        Ok(Some(partitions))
    }

    fn retained_bytes(&self, partitions: u16) -> i64 {
        let each = self.plan.max_bytes.map(|bytes| bytes / u64::from(partitions.max(1)));
        each.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// Makes a topic, and waits until it can be used.
    pub(super) async fn make(
        &self,
        cluster: &Cluster,
        wire: &str,
        partitions: u16,
        settings: &[(&str, &str)],
    ) -> Result<(), BusError> {
        let copies = self.plan.replication.map_or(-1, i32::from);
        let mut topic = NewTopic::new(wire, partitions.into(), TopicReplication::Fixed(copies));
        topic.config.extend_from_slice(settings);
        let options = AdminOptions::new().request_timeout(Some(CHANGE)).operation_timeout(Some(CHANGE));
        let made = self.admin.create_topics([&topic], &options).await;
        let made =
            made.map_err(|error| BusError::Unavailable(format!("cannot make topic {wire}: {}", text(&error)).into()))?;
        match made.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((
                _,
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed),
            ))) => {
                let text = format!(
                    "topic {wire} is not there and cannot be made: {code}; make it, or let this user make topics"
                );
                return Err(BusError::Broken(text.into()));
            }
            Some(Err((_, code @ RDKafkaErrorCode::InvalidReplicationFactor))) => {
                let text = format!(
                    "topic {wire} cannot be made: {code}; the cluster has fewer brokers than `replication` says"
                );
                return Err(BusError::Unavailable(text.into()));
            }
            Some(Err((_, code))) => {
                return Err(BusError::Unavailable(format!("topic {wire} cannot be made: {code}").into()));
            }
            Some(Ok(_)) | None => tracing::info!(topic = wire, partitions, "made a topic"),
        }
        let until = tokio::time::Instant::now() + CHANGE;
        loop {
            match cluster.partitions(wire).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) | Err(BusError::Unavailable(_)) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(None) => {
                    return Err(BusError::Unavailable(format!("topic {wire} was made and is not there").into()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A topic's settings; `None` where this user may not see them.
    async fn described(&self, wire: &str) -> Option<ConfigResource> {
        let options = AdminOptions::new().request_timeout(Some(CHANGE));
        let described = self.admin.describe_configs([&ResourceSpecifier::Topic(wire)], &options).await;
        described.ok()?.into_iter().next()?.ok()
    }

    /// One of a topic's settings; `None` where this user may not see it.
    pub(super) async fn setting(&self, wire: &str, name: &str) -> Option<String> {
        self.described(wire).await?.get(name)?.value.clone()
    }

    /// Compares a topic's settings with what they should be. Who may not see them takes the topic for what it should be.
    async fn compare(&self, wire: &str, known: &mut Known, drift: &mut Vec<String>) {
        let Some(resource) = self.described(wire).await else {
            tracing::debug!(topic = wire, "the topic's settings cannot be seen");
            return;
        };
        let settings = resource.entry_map();
        let get = |name: &str| settings.get(name).and_then(|entry| entry.value.as_deref());
        let number = |name: &str| get(name).and_then(|value| value.parse::<i64>().ok());
        if get("message.timestamp.type").is_some_and(|kind| kind != "LogAppendTime") {
            known.append_time = false;
            drift.push(format!(
                "topic {wire} keeps the time that publishers give (message.timestamp.type): with a clock that is off, time \
                 windows and retention are off too; set it to LogAppendTime"
            ));
        }
        if get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            known.compacted = true;
            drift.push(format!(
                "topic {wire} is compacted (cleanup.policy): Kafka deletes events whose key comes again, read or not; set it to delete"
            ));
        }
        if let Some(limit) = limit_in(&resource) {
            known.batch_limit = limit;
            drift.extend(self.takes_less(wire, limit));
        }
        let wanted = self.plan.max_age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        if let Some(age) = number("retention.ms").filter(|age| *age != wanted) {
            drift.push(format!(
                "topic {wire} keeps events for {} (retention.ms), not {}: what is not read by then is lost and counted",
                shown(age, " ms"),
                shown(wanted, " ms")
            ));
        }
        let wanted = self.retained_bytes(known.partitions);
        if let Some(bytes) = number("retention.bytes").filter(|bytes| *bytes != wanted) {
            drift.push(format!(
                "topic {wire} keeps {} a partition (retention.bytes), not {}",
                shown(bytes, " bytes"),
                shown(wanted, " bytes")
            ));
        }
    }

    /// In words, that a topic takes less than it should, where it does.
    fn takes_less(&self, wire: &str, limit: usize) -> Option<String> {
        let wanted = self.batch_limit();
        (limit < wanted).then(|| {
            format!(
                "topic {wire} takes {limit} bytes (max.message.bytes), less than events of {} bytes need: larger ones are \
                 refused; set it to {wanted}",
                self.max_event_bytes
            )
        })
    }

    /// Looks at the largest batch that a topic takes, after the brokers refused one, and says so where it should take more.
    pub(super) async fn look_again(&self, topic: &TopicName, wire: &str) {
        let _one_at_a_time = self.looking.lock().await;
        self.look(topic, wire).await;
    }

    /// The largest batch that a topic takes, after the brokers refused one of `refused` bytes; `None` where nobody can tell, and when the
    /// bus is closed.
    pub(super) async fn limit_below(&self, refused: usize, topic: &TopicName, wire: &str) -> Option<usize> {
        let smaller = |limit: &usize| *limit < refused;
        let look = async {
            let _one_at_a_time = self.looking.lock().await;
            // Somebody else may have looked meanwhile.
            match self.known(topic).map(|known| known.batch_limit).filter(smaller) {
                Some(limit) => Some(limit),
                None => self.look(topic, wire).await,
            }
        };
        let looked = self.closed.run_until_cancelled(tokio::time::timeout(CHANGE, look)).await;
        looked?.ok().flatten().filter(smaller)
    }

    /// How a topic is by now that took less than it is asked to when somebody looked last; `None` where that was a moment ago.
    pub(super) async fn look_up(&self, topic: &TopicName, wire: &str) -> Option<Known> {
        {
            let mut all = self.known.write();
            let known = all.get_mut(topic).filter(|known| known.looked.elapsed() >= LOOK_UP)?;
            // Who comes meanwhile does not wait for the answer.
            known.looked = Instant::now();
        }
        let looked = self.closed.run_until_cancelled(tokio::time::timeout(ANSWER, self.look(topic, wire))).await;
        looked?.ok()??;
        self.known(topic)
    }

    /// `None` for a topic that is not declared, or that this user may not look at.
    async fn look(&self, topic: &TopicName, wire: &str) -> Option<usize> {
        let limit = limit_in(&self.described(wire).await?)?;
        let before = {
            let mut all = self.known.write();
            let known = all.get_mut(topic)?;
            known.looked = Instant::now();
            std::mem::replace(&mut known.batch_limit, limit)
        };
        if before != limit
            && let Some(drift) = self.takes_less(wire, limit)
        {
            tracing::warn!(%topic, %drift, "the topic is no longer as declared and was left alone");
        }
        Some(limit)
    }

    /// Deletes what lies before an offset, as far as Kafka lets it.
    pub(super) async fn trim(&self, place: &Place, before: i64) -> Result<(), BusError> {
        let (topic, partition) = place;
        let failed = |cause: String| BusError::Unavailable(format!("cannot trim topic {topic}: {cause}").into());
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(topic, *partition, Offset::Offset(before));
        added.map_err(|error| failed(text(&error)))?;
        let options = AdminOptions::new().request_timeout(Some(CHANGE)).operation_timeout(Some(CHANGE));
        let done = self.admin.delete_records(&list, &options).await.map_err(|error| failed(text(&error)))?;
        match done.find_partition(topic, *partition).map(|entry| entry.error()) {
            Some(Err(error)) => match error.rdkafka_error_code() {
                // A compacted topic, which keeps what it keeps.
                Some(RDKafkaErrorCode::PolicyViolation) => Ok(()),
                _ => Err(failed(text(&error))),
            },
            Some(Ok(())) | None => Ok(()),
        }
    }
}

/// The largest batch that a topic takes, by its settings.
fn limit_in(settings: &ConfigResource) -> Option<usize> {
    settings.get("max.message.bytes")?.value.as_deref()?.parse().ok()
}

fn shown(limit: i64, unit: &str) -> String {
    if limit < 0 { "everything for ever".to_owned() } else { format!("{limit}{unit}") }
}

fn tell_of_growth(wire: &str, before: Known, partitions: u16) {
    tracing::warn!(
        topic = wire,
        before = before.partitions,
        partitions,
        "somebody gave the topic more partitions: they are used, and the order of keys is not kept across the change"
    );
}
