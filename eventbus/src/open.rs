//! A plan to a bus that runs in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bus::EventBus;
use crate::embedded::{EmbeddedBus, EmbeddedOptions};
use crate::metrics::BusMetrics;
use crate::plan::{BusKind, BusPlan};
use crate::subscription::Settings;
use crate::subscription::trim::Retention;

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
            (bus, settings(1, plan.max_age, plan.max_bytes))
        }
        #[cfg(feature = "nats")]
        BusKind::JetStream(plan) => {
            let bus = crate::jetstream::JetStreamBus::open(label, plan.clone(), max_event_bytes, metrics).await?;
            (Arc::new(bus), settings(plan.partitions, plan.max_age, plan.max_bytes))
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
            (crate::redis::RedisBus::open(&options)?, settings(plan.partitions, plan.max_age, plan.max_bytes))
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

fn settings(partitions: u16, max_age: Option<Duration>, max_bytes: Option<u64>) -> Settings {
    let retention = Retention { max_age, max_bytes, ..Retention::default() };
    Settings { partitions, retention, ..Settings::default() }
}
