//! What a bus holds, read with evoke's own library: the embedded one of an evoke that has ended, or one on servers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use evoke_api::limits;
use evoke_api::names::TopicName;
use evoke_connect::address::Address;
use evoke_connect::kafka::Brokers;
use evoke_connect::nats::NatsPlan;
use evoke_connect::redis::server::Mode;
use evoke_eventbus::bus::{EventBus, From, Partition, Position, Record, TopicSpec};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::event::Event;
use evoke_eventbus::jetstream::JetStreamBus;
use evoke_eventbus::kafka::{KafkaBus, KafkaOptions};
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::jetstream::JetStreamPlan;
use evoke_eventbus::plan::kafka::KafkaPlan;
use evoke_eventbus::plan::redis::RedisPlan;
use evoke_eventbus::redis::{RedisBus, RedisOptions};

use crate::ledger::{Counts, count};
use crate::{SOON, eventually};

const NAME: &str = "tests";
const PREFETCH: usize = 4 << 20;

fn metrics() -> BusMetrics {
    BusMetrics::new(&prometheus::Registry::new()).unwrap()
}

/// The only bus in a data directory.
///
/// # Panics
/// When it cannot be opened, such as while evoke runs.
pub fn embedded(data: &Path) -> Arc<dyn EventBus> {
    let folders: Vec<_> = fs::read_dir(data.join("bus")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [folder] = &folders[..] else { panic!("not one bus: {folders:?}") };
    EmbeddedBus::open(folder, EmbeddedOptions::new(NAME, metrics())).unwrap()
}

/// The bus on servers of NATS, `nats://host:port` separated by commas, that let everyone in.
pub async fn jetstream(url: &str) -> Arc<dyn EventBus> {
    let servers = url.split(',').map(str::to_owned).collect();
    jetstream_as(NatsPlan { servers, ..NatsPlan::default() }).await
}

/// The same on servers that want credentials.
///
/// # Panics
/// When no client takes them.
pub async fn jetstream_as(nats: NatsPlan) -> Arc<dyn EventBus> {
    Arc::new(JetStreamBus::open(NAME, JetStreamPlan::on(nats), limits::EVENT_BYTES, &metrics()).await.unwrap())
}

/// The bus on Kafka brokers, `host:port` separated by commas, that let everyone in.
pub fn kafka(brokers: &str) -> Arc<dyn EventBus> {
    let brokers = Brokers { addresses: brokers.to_owned(), ..Brokers::default() };
    let plan = KafkaPlan { brokers, partitions: 1, ..KafkaPlan::default() };
    KafkaBus::open(KafkaOptions::new(NAME, plan, metrics())).unwrap()
}

/// The bus on a server of Redis, or on several that are one cluster, that let everyone in.
pub fn redis(servers: &[SocketAddr]) -> Arc<dyn EventBus> {
    let mut plan = RedisPlan::at("", 0);
    plan.server.addresses = servers.iter().map(|at| Address { host: at.ip().to_string(), port: at.port() }).collect();
    if servers.len() > 1 {
        plan.server.mode = Mode::Cluster;
    }
    RedisBus::open(&RedisOptions::new(NAME, plan, metrics())).unwrap()
}

/// Every event of a topic that the only bus in a data directory keeps, in order.
///
/// # Panics
/// When it cannot be read, such as while evoke runs.
pub async fn stored(data: &Path, topic: &TopicName) -> Vec<Event> {
    records(data, topic).await.into_iter().map(|record| record.event).collect()
}

/// The same, with where they are and when they were appended.
///
/// # Panics
/// When it cannot be read, such as while evoke runs.
pub async fn records(data: &Path, topic: &TopicName) -> Vec<Record> {
    let bus = embedded(data);
    let partition = Partition { topic: topic.clone(), index: 0 };
    let end = bus.locate(&[(partition.clone(), From::Next)]).await.unwrap()[0].end;
    let records = read(&*bus, &partition, |_, next| next >= end).await;
    bus.close().await.unwrap();
    records
}

/// The ids of [`stored`] events, for counting.
pub async fn stored_ids(data: &Path, topic: &str) -> Vec<String> {
    stored(data, &TopicName::parse(topic)).await.iter().map(|event| event.id().to_owned()).collect()
}

/// How often each id is in a topic, over all its partitions. Puts an event of its own at the end of each, and closes the bus.
///
/// # Panics
/// When it cannot be read.
pub async fn counted(bus: Arc<dyn EventBus>, topic: &str) -> Counts {
    count(ids(bus, topic).await.into_iter().flatten())
}

/// The ids in each partition of a topic, in order. Puts an event of its own at the end of each, and closes the bus.
///
/// # Panics
/// When it cannot be read.
pub async fn ids(bus: Arc<dyn EventBus>, topic: &str) -> Vec<Vec<String>> {
    let spec = TopicSpec { name: TopicName::parse(topic), partitions: 1 };
    let found = eventually("the bus answers", SOON, async || bus.declare(&spec).await.ok()).await;
    let mut ids = Vec::new();
    for index in 0..found.partitions {
        let partition = Partition { topic: spec.name.clone(), index };
        // Where partitions share a log, or replicas are behind, nothing else says for certain where a partition ends.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let last = Event::builder(format!("end-{now}"), "/tests", "end").build().unwrap();
        let receipt = bus.publish(&partition, vec![last.clone()]).await.unwrap();
        assert_eq!(receipt.await, [Ok(())]);
        let is_there = |records: &[Record]| records.last().is_some_and(|record| record.event == last);
        let records = read(&*bus, &partition, |records, _| is_there(records)).await;
        ids.push(records.iter().map(|record| record.event.id().to_owned()).filter(|id| id != last.id()).collect());
    }
    bus.close().await.unwrap();
    ids
}

/// Reads a partition from its beginning until the records, or the position to read on at, are `enough`.
async fn read(bus: &dyn EventBus, partition: &Partition, enough: impl Fn(&[Record], Position) -> bool) -> Vec<Record> {
    let mut next = bus.locate(&[(partition.clone(), From::First)]).await.unwrap()[0].at;
    let mut reader = bus.read(partition, From::First, PREFETCH).await.unwrap();
    let mut records = Vec::new();
    while !enough(&records, next) {
        let batch = tokio::time::timeout(SOON, reader.next(PREFETCH)).await.expect("a reader gives what is there");
        let batch = batch.unwrap();
        records.extend(batch.records);
        next = batch.next;
    }
    records
}
