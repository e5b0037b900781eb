//! What tests do with a broker from outside evoke: make topics, produce, look at groups.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::groups::{GroupInfo, GroupList};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::Broker;
use crate::eventually;

const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// A record to produce.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The partition; by the key or round robin when `None`.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The time, in milliseconds since 1970; now when `None`.
    pub timestamp: Option<i64>,
}

impl Record {
    /// A record with a value alone.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// Who has a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// The broker that leads it; below 0 for none.
    pub leader: i32,
    /// All that are to have it.
    pub wanted: usize,
    /// How many of them have all of it.
    pub in_sync: usize,
}

/// Where a record was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The id of the event that evoke makes of it.
    pub id: String,
}

impl Broker {
    pub(super) async fn answers(&self) -> bool {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(2));
            metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
        })
        .await
        .unwrap()
    }

    /// Makes a topic of a new name.
    pub async fn topic(&self, partitions: i32) -> String {
        let name = self.name("topic");
        self.make_topic(&name, partitions).await;
        name
    }

    /// Makes a topic.
    pub async fn make_topic(&self, name: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(ANSWERS_WITHIN));
        // A topic of this name may still be on its way out.
        eventually("the topic can be made", ANSWERS_WITHIN, async || {
            match admin.create_topics([&topic], &options).await.unwrap().remove(0) {
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
                made => Some(made.unwrap()),
            }
        })
        .await;
    }

    /// Makes a topic with settings of its own.
    pub async fn make_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        topic.config.extend_from_slice(settings);
        let options = AdminOptions::new().operation_timeout(Some(ANSWERS_WITHIN));
        admin.create_topics([&topic], &options).await.unwrap()[0].as_ref().unwrap();
    }

    /// Changes a topic's settings; those that are not named get their defaults.
    pub async fn set(&self, name: &str, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let config = AlterConfig::new(ResourceSpecifier::Topic(name));
        let config = settings.iter().fold(config, |config, (name, value)| config.set(name, value));
        admin.alter_configs(&[config], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(ANSWERS_WITHIN));
        admin.delete_topics(&[name], &options).await.unwrap()[0].as_ref().unwrap();
    }

    /// Deletes all topics but Kafka's own, and waits until they are gone.
    pub async fn delete_topics(&self) {
        let names = async || {
            let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
            let listed = tokio::task::spawn_blocking(move || {
                let metadata = admin.inner().fetch_metadata(None, ANSWERS_WITHIN).unwrap();
                metadata.topics().iter().map(|topic| topic.name().to_owned()).collect::<Vec<_>>()
            });
            listed.await.unwrap().into_iter().filter(|name| !name.starts_with("__")).collect::<Vec<_>>()
        };
        for name in names().await {
            self.delete_topic(&name).await;
        }
        eventually("the topics are gone", ANSWERS_WITHIN, async || names().await.is_empty().then_some(())).await;
    }

    /// Gives a topic more partitions, `partitions` in all.
    pub async fn grow_topic(&self, name: &str, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(ANSWERS_WITHIN));
        let grown = admin.create_partitions([&NewPartitions::new(name, partitions)], &options).await;
        grown.unwrap()[0].as_ref().unwrap();
    }

    /// Who has the partitions of a topic.
    pub async fn copies(&self, topic: &str) -> Vec<Copies> {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(Some(&topic), ANSWERS_WITHIN).unwrap();
            let copies = metadata.topics()[0].partitions().iter().map(|partition| Copies {
                leader: partition.leader(),
                wanted: partition.replicas().len(),
                in_sync: partition.isr().len(),
            });
            copies.collect()
        })
        .await
        .unwrap()
    }

    /// A producer, for many calls of [`produce`].
    pub fn producer(&self) -> FutureProducer {
        let mut config = self.client();
        config.set("message.max.bytes", "8388608").set("linger.ms", "1").set("enable.idempotence", "true");
        config.create().unwrap()
    }

    /// Produces records and waits until all are stored.
    pub async fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) -> Vec<Placed> {
        produce(&self.producer(), topic, records).await
    }

    /// The offsets that a group has committed, by partition.
    pub async fn committed(&self, group: &str, topic: &str, partitions: i32) -> BTreeMap<i32, i64> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, partition);
        }
        tokio::task::spawn_blocking(move || {
            let committed = consumer.committed_offsets(list, ANSWERS_WITHIN).unwrap();
            let offsets = committed.elements().into_iter().filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            });
            offsets.collect()
        })
        .await
        .unwrap()
    }

    /// Waits until a group has committed all that a topic holds.
    ///
    /// # Panics
    /// When it has not within `within`.
    pub async fn all_committed(&self, group: &str, topic: &str, partitions: i32, within: Duration) {
        let ends = self.ends(topic, partitions).await;
        eventually("everything is committed", within, async || {
            (self.committed(group, topic, partitions).await == ends).then_some(())
        })
        .await;
    }

    /// The offset of the first record that is left, by partition.
    pub async fn begins(&self, topic: &str, partitions: i32) -> BTreeMap<i32, i64> {
        self.watermarks(topic, partitions).await.into_iter().map(|(partition, (begin, _))| (partition, begin)).collect()
    }

    /// The offset after the last record, by partition.
    pub async fn ends(&self, topic: &str, partitions: i32) -> BTreeMap<i32, i64> {
        self.watermarks(topic, partitions).await.into_iter().map(|(partition, (_, end))| (partition, end)).collect()
    }

    async fn watermarks(&self, topic: &str, partitions: i32) -> BTreeMap<i32, (i64, i64)> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || {
            let ends = |partition| consumer.fetch_watermarks(&topic, partition, ANSWERS_WITHIN).unwrap();
            (0..partitions).map(|partition| (partition, ends(partition))).collect()
        })
        .await
        .unwrap()
    }

    /// Deletes what lies before an offset of a partition.
    pub async fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        let options = AdminOptions::new().operation_timeout(Some(ANSWERS_WITHIN));
        let deleted = admin.delete_records(&list, &options).await.unwrap();
        deleted.find_partition(topic, partition).unwrap().error().unwrap();
    }

    /// The ids of a group's members; one that joins again gets another. `None` where the broker does not say.
    pub async fn members(&self, group: &str) -> Option<BTreeSet<String>> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let group = group.to_owned();
        tokio::task::spawn_blocking(move || {
            let groups = consumer.fetch_group_list(Some(&group), ANSWERS_WITHIN);
            let members = |groups: &GroupList| -> BTreeSet<String> {
                groups.groups().iter().flat_map(GroupInfo::members).map(|member| member.id().to_owned()).collect()
            };
            groups.as_ref().map(members).ok()
        })
        .await
        .unwrap()
    }
}

/// Produces records and waits until all are stored.
pub async fn produce(producer: &FutureProducer, topic: &str, records: impl IntoIterator<Item = Record>) -> Vec<Placed> {
    let sent = records.into_iter().map(async |record| {
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
            headers.insert(Header { key: name, value: Some(value) })
        });
        let outgoing = FutureRecord {
            topic,
            partition: record.partition,
            payload: record.value.as_ref(),
            key: record.key.as_ref(),
            timestamp: record.timestamp,
            headers: Some(headers),
        };
        let delivery = producer.send(outgoing, ANSWERS_WITHIN).await.map_err(|(error, _)| error)?;
        let (partition, offset) = (delivery.partition, delivery.offset);
        Ok::<_, rdkafka::error::KafkaError>(Placed { partition, offset, id: format!("{topic}/{partition}/{offset}") })
    });
    try_join_all(sent).await.unwrap()
}
