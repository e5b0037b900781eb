//! The harness for the bus on Kafka.

use std::sync::Arc;

use evoke_connect::kafka::Brokers;
use evoke_eventbus::bus::{EventBus, Partition};
use evoke_eventbus::conformance::{Harness, Limits};
use evoke_eventbus::event::Event;
use evoke_eventbus::kafka::{KafkaBus, KafkaOptions};
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::kafka::KafkaPlan;
use evoke_tests::case::Skipped;
use evoke_tests::servers::kafka::{self, Broker, Record};
use prometheus::Registry;

pub(super) struct Kafka(Arc<Broker>);

pub(super) struct Site {
    prefix: String,
    limits: Limits,
}

pub(super) async fn harness() -> Result<Kafka, Skipped> {
    Ok(Kafka(kafka::shared().await?))
}

impl Site {
    fn wire(&self, partition: &Partition) -> String {
        format!("{}{}", self.prefix, partition.topic)
    }
}

impl Harness for Kafka {
    type Site = Site;

    const FULL_BLOCKS: bool = false;

    async fn site(&self, limits: Limits) -> Site {
        Site { prefix: format!("{}.", self.0.name("site")), limits }
    }

    async fn open(&self, site: &Site) -> Arc<dyn EventBus> {
        let brokers = Brokers { addresses: self.0.listeners.proxied.to_string(), ..Brokers::default() };
        let plan = KafkaPlan { brokers, partitions: 1, ..KafkaPlan::default() };
        let metrics = BusMetrics::new(&Registry::new()).unwrap();
        let options = KafkaOptions {
            prefix: site.prefix.clone(),
            max_event_bytes: site.limits.max_event_bytes,
            ..KafkaOptions::new("test", plan, metrics)
        };
        KafkaBus::open(options).unwrap()
    }

    async fn cut(&self, _: &Site, bus: Arc<dyn EventBus>) -> Arc<dyn EventBus> {
        // Of every test that runs now: it is to go on by itself.
        self.0.cut().await;
        bus
    }

    async fn lose_tail(&self, site: &Site, bus: Arc<dyn EventBus>, partition: &Partition) -> Arc<dyn EventBus> {
        let topic = site.wire(partition);
        self.0.delete_topic(&topic).await;
        self.0.make_topic(&topic, 1).await;
        self.0.produce(&topic, (0..10).map(|n| Record::new(n.to_string()).partition(0))).await;
        bus
    }

    async fn publish_foreign(&self, site: &Site, _: &Arc<dyn EventBus>, to: &Partition, event: Event) {
        let mut record = Record::new(event.data().to_vec()).partition(to.index.into()).header("ce_specversion", "1.0");
        for (name, value) in event.attributes() {
            record = record.header(&format!("ce_{name}"), value);
        }
        self.0.produce(&site.wire(to), [record]).await;
    }
}
