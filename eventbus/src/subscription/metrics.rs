//! Metrics of what stands above a bus: ledgers, readers, trimming, lag.

use std::sync::Arc;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The labels that name a subscription.
pub const SUBSCRIPTION: [&str; 3] = ["namespace", "trigger", "subscriber"];

/// The collectors, registered once a process and shared by all buses. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The bus that they are of, where that is a label.
    pub(super) bus: Arc<str>,
    pub(super) ledger_writes: IntCounter,
    pub(super) ledger_bytes: IntCounter,
    pub(super) ledger_failures: IntCounter,
    pub(super) window_bytes: IntGauge,
    pub(super) read: IntCounterVec,
    pub(super) lag: IntGaugeVec,
    pub(super) held: IntGaugeVec,
    pub(super) lost: IntGaugeVec,
    pub(super) dropped: IntCounterVec,
    pub(super) trims: IntCounter,
    pub(super) skew: GaugeVec,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        let of_subscription = |name, help| register(registry, IntGaugeVec::new(Opts::new(name, help), &SUBSCRIPTION)?);
        Ok(Self {
            bus: Arc::default(),
            ledger_writes: counter("evoke_ledger_writes_total", "Stores of subscribers' positions.")?,
            ledger_bytes: counter("evoke_ledger_written_bytes_total", "Bytes of positions stored.")?,
            ledger_failures: counter("evoke_ledger_write_failures_total", "Stores of positions that failed.")?,
            window_bytes: register(
                registry,
                IntGauge::new(
                    "evoke_feed_window_bytes",
                    "Events read and kept until every subscriber at the head has them.",
                )?,
            )?,
            read: register(
                registry,
                IntCounterVec::new(Opts::new("evoke_feed_read_bytes_total", "Bytes read from the bus."), &["reader"])?,
            )?,
            lag: of_subscription("evoke_subscription_lag_events", "Events that a subscription has not evaluated yet.")?,
            held: of_subscription(
                "evoke_subscription_held_events",
                "Events that the bus keeps since a subscription has not finished them.",
            )?,
            lost: of_subscription(
                "evoke_subscription_lost_events",
                "Events that are gone and were not finished by a subscription that runs nowhere; they are dropped once it runs.",
            )?,
            dropped: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "evoke_subscription_dropped_total",
                        "Events that were gone before a subscription had finished them; an upper bound where positions have holes.",
                    ),
                    &SUBSCRIPTION,
                )?,
            )?,
            trims: counter("evoke_bus_trims_total", "Times that the beginning of a log was given up.")?,
            skew: register(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "evoke_bus_clock_skew_seconds",
                        "How far the bus's clock is ahead of this machine's, as far as that is certain; negative where it is behind.",
                    ),
                    &["bus"],
                )?,
            )?,
        })
    }

    /// The same for the bus of this name.
    #[must_use]
    pub fn of_bus(&self, name: &str) -> Self {
        Self { bus: name.into(), ..self.clone() }
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
