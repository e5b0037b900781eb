//! Every metric of a process, each crate's own.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";

/// The metrics that the parts of a pipeline share.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Where all of them are.
    pub(crate) registry: Registry,
    pub(crate) bus: evoke_eventbus::metrics::BusMetrics,
    pub(crate) subscriptions: evoke_eventbus::subscription::metrics::Metrics,
    pub(crate) deliveries: evoke_delivery::metrics::Metrics,
    pub(crate) sources: evoke_adapters::metrics::Metrics,
    pub(crate) webhooks: evoke_adapters::webhook::Metrics,
    pub(crate) functions: evoke_function::metrics::Metrics,
    reloads: IntCounterVec,
    reload_failed: IntGauge,
}

impl Metrics {
    /// Registers all of them in a registry of their own.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let reloads = IntCounterVec::new(
            Opts::new("evoke_reloads_total", "Changes of the manifests, by outcome: applied or refused."),
            &["outcome"],
        )?;
        let reload_failed =
            IntGauge::new("evoke_reload_failed", "1 while the manifests were changed to something that is refused.")?;
        registry.register(Box::new(reloads.clone()))?;
        registry.register(Box::new(reload_failed.clone()))?;
        for outcome in [APPLIED, REFUSED] {
            reloads.with_label_values(&[outcome]);
        }
        Ok(Self {
            bus: evoke_eventbus::metrics::BusMetrics::new(&registry)?,
            subscriptions: evoke_eventbus::subscription::metrics::Metrics::new(&registry)?,
            deliveries: evoke_delivery::metrics::Metrics::new(&registry)?,
            sources: evoke_adapters::metrics::Metrics::new(&registry)?,
            webhooks: evoke_adapters::webhook::Metrics::new(&registry)?,
            functions: evoke_function::metrics::Metrics::new(&registry)?,
            registry,
            reloads,
            reload_failed,
        })
    }

    /// Counts a change of the manifests.
    pub(crate) fn reloaded(&self, applied: bool) {
        self.reloads.with_label_values(&[if applied { APPLIED } else { REFUSED }]).inc();
        self.reload_failed.set(i64::from(!applied));
    }
}
