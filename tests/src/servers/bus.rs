//! What a bus is on, for tests that are the same on several kinds of bus.

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::jetstream;
use evoke_eventbus::bus::EventBus;
use futures_util::TryStreamExt as _;

use super::kafka::Broker;
use super::nats::Nats;
use super::redis::Redis;
use crate::case::Skipped;
use crate::evoke::Home;
use crate::manifests::bus;

const NO_SERVER: &str = "the bus inside of evoke has no server";

/// A bus with a server of its own, so that nobody else's subscriptions and dead letters are on it.
#[derive(Debug)]
pub enum BusServer {
    /// No server: the bus inside of evoke.
    Embedded,
    /// NATS JetStream.
    JetStream(Nats),
    /// Kafka.
    Kafka(Broker),
    /// Redis Streams.
    Redis(Redis),
}

impl BusServer {
    /// Starts a NATS server.
    ///
    /// # Errors
    /// Where NATS cannot be had.
    pub async fn jetstream() -> Result<Self, Skipped> {
        Nats::start().await.map(Self::JetStream)
    }

    /// Starts a Kafka broker.
    ///
    /// # Errors
    /// Where Kafka cannot be had.
    pub async fn kafka() -> Result<Self, Skipped> {
        let broker = Broker::prepare().await?;
        broker.start().await;
        Ok(Self::Kafka(broker))
    }

    /// Starts a Redis server.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub async fn redis() -> Result<Self, Skipped> {
        Redis::start().await.map(Self::Redis)
    }

    /// The spec of an EventBus on it, whose topics are made with so many partitions where it has partitions.
    pub fn spec(&self, partitions: u64) -> String {
        match self {
            Self::Embedded => "embedded: {}".to_owned(),
            Self::JetStream(nats) => format!("jetStream: {{url: \"{}\", partitions: {partitions}}}", nats.url()),
            Self::Kafka(broker) => {
                format!("kafka: {{brokers: \"{}\", partitions: {partitions}}}", broker.listeners.plain)
            }
            Self::Redis(redis) => format!("redis: {{address: \"{}\", partitions: {partitions}}}", redis.address),
        }
    }

    /// A home with this bus as `default`, in a file beside that of the other objects.
    pub fn home(&self, manifest: impl AsRef<str>) -> Home {
        let home = Home::with(manifest);
        home.write("bus.yaml", bus("default", &self.spec(4)));
        home
    }

    /// The bus that the evoke of a home has on it. An embedded one is nobody else's while evoke runs.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn open(&self, home: &Home) -> Arc<dyn EventBus> {
        match self {
            Self::Embedded => crate::bus::embedded(&home.data()),
            Self::JetStream(nats) => crate::bus::jetstream(&nats.url()).await,
            Self::Kafka(broker) => crate::bus::kafka(&broker.listeners.plain.to_string()),
            Self::Redis(redis) => crate::bus::redis(&[redis.address]),
        }
    }

    /// `kill -9` of the server.
    ///
    /// # Panics
    /// When there is none.
    pub async fn kill(&self) {
        match self {
            Self::Embedded => panic!("{NO_SERVER}"),
            Self::JetStream(nats) => nats.kill().await,
            Self::Kafka(broker) => broker.kill().await,
            Self::Redis(redis) => redis.kill().await,
        }
    }

    /// Starts the server on the data that it had.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(&self) {
        match self {
            Self::Embedded => panic!("{NO_SERVER}"),
            Self::JetStream(nats) => nats.resume().await,
            Self::Kafka(broker) => broker.start().await,
            Self::Redis(redis) => redis.resume().await,
        }
    }

    /// Where the server has its data.
    ///
    /// # Panics
    /// When there is none.
    pub fn data(&self) -> PathBuf {
        match self {
            Self::Embedded => panic!("{NO_SERVER}"),
            Self::JetStream(nats) => nats.data(),
            Self::Kafka(broker) => broker.data(),
            Self::Redis(redis) => redis.data(),
        }
    }

    /// Takes everything away that is on the server, for the next test on it.
    ///
    /// # Panics
    /// When the server does not do it.
    pub async fn clear(&self) {
        match self {
            Self::Embedded => {}
            Self::JetStream(nats) => {
                let context = jetstream::new(nats.client().await);
                let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
                for name in names {
                    context.delete_stream(name).await.unwrap();
                }
            }
            Self::Kafka(broker) => broker.delete_topics().await,
            Self::Redis(redis) => {
                redis::cmd("FLUSHALL").exec_async(&mut redis.connection().await).await.unwrap();
            }
        }
    }
}
