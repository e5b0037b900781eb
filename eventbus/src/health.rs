//! What keeps a bus from working, put together from the parts that report it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bus::Health;
use crate::metrics::OneBusMetrics;

/// Collects troubles by who has them. The worst is the bus's health; each change of it is one line in the log.
#[derive(Debug)]
pub(crate) struct HealthBoard {
    bus: Arc<str>,
    troubles: Mutex<BTreeMap<Arc<str>, Health>>,
    sender: watch::Sender<Health>,
    metrics: OneBusMetrics,
}

impl HealthBoard {
    pub(crate) fn new(bus: Arc<str>, metrics: OneBusMetrics) -> Self {
        metrics.health(&Health::Up);
        Self { bus, troubles: Mutex::default(), sender: watch::Sender::new(Health::Up), metrics }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Health> {
        self.sender.subscribe()
    }

    /// `who` has this trouble, until it is cleared or replaced.
    pub(crate) fn trouble(&self, who: &Arc<str>, what: Health) {
        let mut troubles = self.troubles.lock();
        if troubles.get(who) != Some(&what) {
            troubles.insert(who.clone(), what);
            self.publish(&troubles);
        }
    }

    /// `who` is well again.
    pub(crate) fn clear(&self, who: &str) {
        let mut troubles = self.troubles.lock();
        if troubles.remove(who).is_some() {
            self.publish(&troubles);
        }
    }

    fn publish(&self, troubles: &BTreeMap<Arc<str>, Health>) {
        let down = troubles.values().find(|h| matches!(h, Health::Down(_)));
        let now = down.or_else(|| troubles.values().next()).cloned().unwrap_or(Health::Up);
        let before = self.sender.send_replace(now.clone());
        if before == now {
            return;
        }
        self.metrics.health(&now);
        let bus = &*self.bus;
        match now {
            Health::Up => tracing::info!(bus, "the bus takes events again"),
            Health::Connecting(what) => tracing::info!(bus, %what, "the bus is not there yet"),
            Health::Down(cause) => tracing::error!(bus, %cause, "the bus cannot write; it keeps trying"),
            Health::Full(cause) => tracing::error!(bus, %cause, "the bus is full; publishers wait"),
        }
    }
}
