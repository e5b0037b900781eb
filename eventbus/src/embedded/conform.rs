//! The conformance suite on the embedded bus, bare and behind the fault wrapper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::Registry;
use tempfile::TempDir;

use super::{EmbeddedBus, EmbeddedOptions, SegmentSizes};
use crate::bus::{EventBus, Partition};
use crate::conformance::{Harness, Limits};
use crate::faulty::{Faults, FaultyBus};
use crate::metrics::BusMetrics;

struct Embedded {
    faults: Faults,
}

struct Site {
    dir: TempDir,
    limits: Limits,
    seed: AtomicU64,
}

impl Harness for Embedded {
    type Site = Site;

    async fn site(&self, limits: Limits) -> Site {
        Site { dir: TempDir::new().unwrap(), limits, seed: AtomicU64::new(1) }
    }

    async fn open(&self, site: &Site) -> Arc<dyn EventBus> {
        let options = EmbeddedOptions {
            max_event_bytes: site.limits.max_event_bytes,
            max_bytes: Some(site.limits.max_bytes),
            segments: SegmentSizes { first: 16 << 10, largest: 64 << 10 },
            ..EmbeddedOptions::new("test", BusMetrics::new(&Registry::new()).unwrap())
        };
        let bus = EmbeddedBus::open(site.dir.path(), options).unwrap();
        FaultyBus::new(bus, site.seed.fetch_add(1, Ordering::Relaxed), self.faults)
    }

    async fn cut(&self, site: &Site, bus: Arc<dyn EventBus>) -> Arc<dyn EventBus> {
        // A second handle may be left in the test; the directory is free once the bus has ended.
        bus.close().await.unwrap();
        drop(bus);
        self.open(site).await
    }

    async fn lose_tail(&self, site: &Site, bus: Arc<dyn EventBus>, partition: &Partition) -> Arc<dyn EventBus> {
        bus.close().await.unwrap();
        let folder = site.dir.path().join("topics").join(partition.topic.as_str());
        let logs = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let last = logs.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap();
        let mut bytes = std::fs::read(&last).unwrap();
        let end = bytes.iter().rposition(|b| *b != 0).unwrap();
        bytes[end - 1000..].fill(0);
        std::fs::write(last, bytes).unwrap();
        self.open(site).await
    }
}

mod bare {
    use crate::conformance_tests;

    crate::with_conformance_tests!(conformance_tests! super::Embedded { faults: super::Faults::NONE });
}

mod faulty {
    use crate::conformance_tests;

    crate::with_conformance_tests!(conformance_tests! super::Embedded { faults: super::Faults::OFTEN });
}
