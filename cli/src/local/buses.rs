//! The buses that run in this process.

use std::path::Path;
use std::sync::Arc;

use evoke_api::catalog::BusName;
use evoke_api::names::SubscriptionId;
use evoke_eventbus::bus::EventBus;
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::open::{embedded_folder, open};
use evoke_eventbus::plan::{BusKind, BusPlan};
use evoke_eventbus::subscription::report::reports;
use evoke_eventbus::subscription::sharing::{Terms, Timing};
use evoke_eventbus::subscription::{Settings, Subscriptions, metrics};
use evoke_trigger::shared::Readings;
use prometheus::Registry;

use super::identity::Identity;

/// A bus and what stands above it.
#[derive(Debug)]
pub(crate) struct RunningBus {
    /// What it was opened as.
    pub(crate) plan: BusPlan,
    /// Its subscriptions.
    pub(crate) subscriptions: Subscriptions,
    /// What the conditions over its events share.
    pub(crate) readings: Readings,
}

impl RunningBus {
    /// Opens a bus. Must be called inside a runtime.
    ///
    /// # Errors
    /// As [`open`].
    pub(crate) async fn open(
        name: &BusName,
        plan: BusPlan,
        data_dir: &Path,
        identity: &Identity,
        bus_metrics: &BusMetrics,
        metrics: &metrics::Metrics,
    ) -> Result<Self, String> {
        let (bus, settings) = open(&plan, &label(name), data_dir, bus_metrics).await?;
        let metrics = &metrics.of_bus(&label(name));
        let subscriptions = match &plan.kind {
            BusKind::Embedded(_) => Subscriptions::start(bus, settings, metrics),
            BusKind::JetStream(_) | BusKind::Kafka(_) | BusKind::Redis(_) => {
                let Identity { name, place, .. } = identity;
                let terms = Terms { name: name.clone(), place: place.clone(), timing: Timing::default() };
                Subscriptions::start_shared(bus, settings, terms, metrics)
            }
        };
        Ok(Self { plan, subscriptions, readings: Readings::default() })
    }

    /// Opens a bus to look at it, and to run what is asked for: nothing of it is trimmed here.
    ///
    /// # Errors
    /// As [`open`].
    pub(crate) async fn looking(
        name: &BusName,
        plan: BusPlan,
        data_dir: &Path,
        bus_metrics: &BusMetrics,
        metrics: &metrics::Metrics,
    ) -> Result<Self, String> {
        let (bus, settings) = open(&plan, &label(name), data_dir, bus_metrics).await?;
        let settings = Settings { trims: false, ..settings };
        let subscriptions = Subscriptions::start(bus, settings, &metrics.of_bus(&label(name)));
        Ok(Self { plan, subscriptions, readings: Readings::default() })
    }

    /// The bus itself.
    pub(crate) fn bus(&self) -> &Arc<dyn EventBus> {
        self.subscriptions.bus()
    }

    /// Records what is left to record, and closes. What reads and publishes is to be ended first.
    pub(crate) async fn close(&self) {
        self.subscriptions.close().await;
        if let Err(error) = self.bus().close().await {
            tracing::warn!(%error, "the bus did not close cleanly; nothing that was acknowledged is lost");
        }
    }
}

/// The name of a bus in metrics, logs and the data directory. No namespace starts with `_`.
pub(crate) fn label(name: &BusName) -> String {
    match name {
        BusName::Namespaced(name) => format!("{}.{}", name.namespace, name.name),
        BusName::Cluster(name) => format!("_cluster.{name}"),
        // Declaring the bus later goes on with what it holds.
        BusName::Default(namespace) => format!("{namespace}.default"),
    }
}

/// True if `wanted` names the bus of this label: with a slash, or without its namespace.
pub(crate) fn names(wanted: &str, label: &str) -> bool {
    wanted.replace('/', ".") == label || label.split_once('.').is_some_and(|(_, name)| name == wanted)
}

/// What waits on an embedded bus that does not run: the subscriptions that have not finished all of it, and how many events each.
///
/// # Errors
/// In words, when it cannot be looked at.
pub(crate) async fn waiting(label: &str, data_dir: &Path) -> Result<Vec<(SubscriptionId, u64)>, String> {
    let folder = embedded_folder(data_dir, label);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    // Nobody scrapes a bus that is only looked at.
    let metrics = BusMetrics::new(&Registry::new()).map_err(|error| error.to_string())?;
    let bus = EmbeddedBus::open(&folder, EmbeddedOptions::new(label, metrics)).map_err(|error| error.to_string())?;
    let reports = reports(&*bus).await;
    let closed = bus.close().await;
    let waiting = reports.and_then(|reports| closed.map(|()| reports)).map_err(|error| error.to_string())?;
    let waiting = waiting.into_iter().map(|report| (report.lag().0 + report.open() as u64, report.subscription));
    Ok(waiting.filter(|(events, _)| *events > 0).map(|(events, subscription)| (subscription, events)).collect())
}
