//! A plan to a bus that runs in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bus::EventBus;
use crate::embedded::{EmbeddedBus, EmbeddedOptions};
use crate::metrics::BusMetrics;
use crate::plan::{BusKind, BusPlan};
use crate::subscription::Settings;
use crate::subscription::trim::{MaxBytes, Retention};

/// Opens a bus, and says what its plan means for what stands above it. `label` is its name in metrics, logs and the data directory.
/// Must be called inside a runtime.
///
/// # Errors
/// In words: a data directory that cannot be used, credentials that no client takes, a back-end that this evoke was built without.
/// A broker that is away is no error: it is waited for.
pub async fn open(
    plan: &BusPlan,
    label: &str,
    data_dir: &Path,
    metrics: &BusMetrics,
) -> Result<(Arc<dyn EventBus>, Settings), String> {
    let max_event_bytes = plan.max_event_bytes;
    let opened: (Arc<dyn EventBus>, Settings) = match &plan.kind {
        BusKind::Embedded(plan) => {
            let mut options = EmbeddedOptions::new(label, metrics.clone());
            options.max_event_bytes = max_event_bytes;
            options.max_bytes = plan.max_bytes;
            options.on_full = plan.on_full;
            options.sync = plan.sync;
            let bus = EmbeddedBus::open(&embedded_folder(data_dir, label), options).map_err(|e| e.to_string())?;
            (bus, settings(1, plan.max_age, plan.max_bytes.map(MaxBytes::Together)))
        }
        #[cfg(feature = "nats")]
        BusKind::JetStream(plan) => {
            let bus = crate::jetstream::JetStreamBus::open(label, plan.clone(), max_event_bytes, metrics).await?;
            // Each topic has a stream of its own, which is given the limit.
            (Arc::new(bus), settings(plan.partitions, plan.max_age, plan.max_bytes.map(MaxBytes::EachTopic)))
        }
        #[cfg(feature = "kafka")]
        BusKind::Kafka(plan) => {
            let mut options = crate::kafka::KafkaOptions::new(label, plan.clone(), metrics.clone());
            options.max_event_bytes = max_event_bytes;
            // How much a topic holds is Kafka's own matter.
            (crate::kafka::KafkaBus::open(options)?, settings(plan.partitions, plan.max_age, None))
        }
        #[cfg(feature = "redis")]
        BusKind::Redis(plan) => {
            let mut options = crate::redis::RedisOptions::new(label, plan.clone(), metrics.clone());
            options.max_event_bytes = max_event_bytes;
            let max_bytes = plan.max_bytes.map(MaxBytes::Together);
            (crate::redis::RedisBus::open(&options)?, settings(plan.partitions, plan.max_age, max_bytes))
        }
        #[cfg(not(all(feature = "kafka", feature = "nats", feature = "redis")))]
        kind => {
            use evoke_api::problem::{FieldPath, Problem};
            let feature = kind.lacks().unwrap_or_else(|| kind.name());
            return Err(Problem::not_built(FieldPath::root(), feature).to_string());
        }
    };
    Ok(opened)
}

/// Where an embedded bus has its files.
pub fn embedded_folder(data_dir: &Path, label: &str) -> PathBuf {
    data_dir.join("bus").join(label)
}

fn settings(partitions: u16, max_age: Option<Duration>, max_bytes: Option<MaxBytes>) -> Settings {
    let retention = Retention { max_age, max_bytes, ..Retention::default() };
    Settings { partitions, retention, ..Settings::default() }
}

#[cfg(test)]
mod tests {
    use evoke_api::events::{OnFull, SyncMode};
    use evoke_api::names::TopicName;
    use prometheus::Registry;
    use tempfile::TempDir;

    use super::*;
    use crate::bus::{From, Health, Partition, Position, PublishError, TopicSpec};
    use crate::event::Event;
    use crate::plan::EmbeddedPlan;

    const LABEL: &str = "default.default";

    fn orders() -> Partition {
        Partition { topic: TopicName::parse("default.shop.orders"), index: 0 }
    }

    fn event(id: usize, bytes: usize) -> Event {
        Event::builder(id.to_string(), "/test", "t").data(vec![b'x'; bytes]).build().unwrap()
    }

    /// A bus with one topic.
    async fn opened(dir: &TempDir, plan: EmbeddedPlan) -> (Arc<dyn EventBus>, Settings) {
        let plan = BusPlan { max_event_bytes: 4096, kind: BusKind::Embedded(plan) };
        let metrics = BusMetrics::new(&Registry::new()).unwrap();
        let (bus, settings) = open(&plan, LABEL, dir.path(), &metrics).await.unwrap();
        bus.declare(&TopicSpec { name: orders().topic, partitions: 1 }).await.unwrap();
        (bus, settings)
    }

    async fn publish(bus: &dyn EventBus, events: Vec<Event>) -> Vec<Result<(), PublishError>> {
        bus.publish(&orders(), events).await.unwrap().await
    }

    /// How many records before the second one of the log were not known to be synced when it was written, by
    /// `docs/on-disk-format.md`.
    fn unsynced_before_the_second(dir: &TempDir) -> u32 {
        let log = embedded_folder(dir.path(), LABEL).join("topics/default.shop.orders/0000000001.log");
        let bytes = std::fs::read(log).unwrap();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (first, header) = (64, 24);
        let second = (first + header + number(first + 4) as usize).next_multiple_of(8);
        assert_eq!(number(second + 16), 1, "its place in the segment");
        number(second + 20)
    }

    #[tokio::test]
    async fn an_embedded_bus_is_as_its_plan_says() {
        let dir = TempDir::new().unwrap();
        let (age, bytes) = (Duration::from_secs(3600), 8 << 20);
        let plan = EmbeddedPlan {
            max_age: Some(age),
            max_bytes: Some(bytes),
            sync: SyncMode::Never,
            on_full: OnFull::DropOldest,
        };
        let (bus, settings) = opened(&dir, plan).await;
        let max_bytes = Some(MaxBytes::Together(bytes));
        let retention = Retention { max_age: Some(age), max_bytes, ..Retention::default() };
        assert_eq!((settings.partitions, settings.retention), (1, retention));
        assert_eq!(bus.max_event_bytes(), 4096);
        let refused = publish(&*bus, vec![event(0, 5000)]).await;
        assert!(matches!(refused.as_slice(), [Err(PublishError::TooLarge { limit: 4096, .. })]), "{refused:?}");
        for id in 0..2 {
            assert_eq!(publish(&*bus, vec![event(id, 100)]).await, [Ok(())]);
        }
        assert_eq!(unsynced_before_the_second(&dir), 1);

        // Half as much again as it may hold, with nobody who trims: a bus that blocks would never be done with it.
        let (batches, batch) = (12, 256);
        let all = async {
            for _ in 0..batches {
                let stored = publish(&*bus, (0..batch).map(|id| event(id, 4000)).collect()).await;
                assert!(stored.iter().all(Result::is_ok), "{stored:?}");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("the oldest make room");
        let mark = bus.locate(&[(orders(), From::First)]).await.unwrap()[0];
        assert_eq!(mark.end, Position(2 + batches * batch as u128));
        assert!(mark.first > Position(2), "{mark:?}");
        let held = bus.stored_bytes(&orders()).await.unwrap().unwrap();
        assert!(held <= bytes, "{held}");
        bus.close().await.unwrap();
    }

    #[tokio::test]
    async fn an_embedded_bus_syncs_and_blocks_unless_its_plan_says_else() {
        let dir = TempDir::new().unwrap();
        let (bus, settings) = opened(&dir, EmbeddedPlan { max_bytes: Some(8 << 20), ..EmbeddedPlan::default() }).await;
        assert_eq!(settings.retention.max_age, None);
        for id in 0..2 {
            assert_eq!(publish(&*bus, vec![event(id, 100)]).await, [Ok(())]);
        }
        assert_eq!(unsynced_before_the_second(&dir), 0);
        let mut health = bus.health();
        let fill = async {
            for _ in 0..12 {
                publish(&*bus, (0..256).map(|id| event(id, 4000)).collect()).await;
            }
        };
        tokio::select! {
            () = fill => panic!("it takes more than it may hold"),
            // What is seen is let go of before the other side ends, which clears it.
            full = async { health.wait_for(|health| matches!(health, Health::Full(_))).await.map(drop) } => full.unwrap(),
        }
        let mark = bus.locate(&[(orders(), From::First)]).await.unwrap()[0];
        assert_eq!(mark.first, Position(0), "nothing is dropped");
        bus.close().await.unwrap();
    }
}
