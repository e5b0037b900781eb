//! Three brokers that are one cluster.

use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::{Metadata, MetadataPartition};

use super::{Broker, Place, STARTING, STARTS_AT_ONCE, STARTS_WITHIN};
use crate::case::Skipped;
use crate::eventually;

const BROKERS: usize = 3;
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Three brokers, each of which is a controller too, so that any one of them can go.
#[derive(Debug)]
pub struct Cluster {
    /// The brokers, by their ids from 1.
    pub nodes: Vec<Broker>,
}

/// One partition, as the brokers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    leader: i32,
    in_sync: usize,
}

impl Cluster {
    /// Starts three brokers and waits until each knows the others.
    ///
    /// # Errors
    /// Where Kafka cannot be had.
    pub async fn start() -> Result<Self, Skipped> {
        let mut nodes = Vec::new();
        for place in Place::all(BROKERS) {
            nodes.push(Broker::prepare_at(&place, &[]).await?);
        }
        // None of them starts before most of them do.
        let turns = STARTING.acquire_many(STARTS_AT_ONCE.try_into().unwrap()).await.unwrap();
        join_all(nodes.iter().map(Broker::start_now)).await;
        drop(turns);
        let cluster = Self { nodes };
        eventually("three brokers are one cluster", STARTS_WITHIN, async || {
            let known = cluster.look(None, |metadata| metadata.brokers().len()).await?;
            (known == BROKERS).then_some(())
        })
        .await;
        Ok(cluster)
    }

    /// All addresses, as manifests have them.
    pub fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.listeners.plain.to_string()).collect::<Vec<_>>().join(",")
    }

    /// The broker that leads the first partition of a topic now.
    pub async fn leader(&self, topic: &str) -> &Broker {
        let leader = eventually("the partition has a leader", STARTS_WITHIN, async || {
            usize::try_from(self.partitions(topic).await?.first()?.leader).ok()?.checked_sub(1)
        })
        .await;
        &self.nodes[leader]
    }

    /// Waits until every partition of a topic is in sync on all brokers, so that one of them may go.
    pub async fn settled(&self, topic: &str) {
        eventually("all brokers are in sync", STARTS_WITHIN, async || {
            let partitions = self.partitions(topic).await?;
            let whole = |seen: &Seen| seen.leader > 0 && seen.in_sync == BROKERS;
            (!partitions.is_empty() && partitions.iter().all(whole)).then_some(())
        })
        .await;
    }

    async fn partitions(&self, topic: &str) -> Option<Vec<Seen>> {
        let seen = |p: &MetadataPartition| Seen { leader: p.leader(), in_sync: p.isr().len() };
        let partitions =
            move |metadata: &Metadata| Some(metadata.topics().first()?.partitions().iter().map(seen).collect());
        self.look(Some(topic.to_owned()), partitions).await?
    }

    /// What is in the metadata of a topic, or of all.
    async fn look<T: Send + 'static>(
        &self,
        topic: Option<String>,
        read: impl FnOnce(&Metadata) -> T + Send + 'static,
    ) -> Option<T> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.addresses()).set("log_level", "0");
        let consumer: BaseConsumer = config.create().unwrap();
        let fetched = tokio::task::spawn_blocking(move || {
            consumer.fetch_metadata(topic.as_deref(), ANSWERS_WITHIN).ok().map(|metadata| read(&metadata))
        });
        fetched.await.unwrap()
    }
}
