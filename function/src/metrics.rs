//! What functions count.

use evoke_api::names::ObjectName;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

const LABELS: [&str; 2] = ["namespace", "function"];

/// The metrics of all functions of a process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    restarts: IntCounterVec,
    up: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let restarts = Opts::new("evoke_function_restarts_total", "How often a function was started again.");
        let up = Opts::new("evoke_function_up", "1 while an instance of the function listens, else 0.");
        let metrics = Self { restarts: IntCounterVec::new(restarts, &LABELS)?, up: IntGaugeVec::new(up, &LABELS)? };
        registry.register(Box::new(metrics.restarts.clone()))?;
        registry.register(Box::new(metrics.up.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn of(&self, function: &ObjectName) -> FunctionMetrics {
        let at = [&*function.namespace, &*function.name];
        FunctionMetrics { restarts: self.restarts.with_label_values(&at), up: self.up.with_label_values(&at) }
    }

    /// Takes the series of a function away that is no more.
    pub fn forget(&self, function: &ObjectName) {
        let at = [&*function.namespace, &*function.name];
        drop(self.restarts.remove_label_values(&at));
        drop(self.up.remove_label_values(&at));
    }
}

/// The metrics of one function.
#[derive(Clone, Debug)]
pub(crate) struct FunctionMetrics {
    pub(crate) restarts: IntCounter,
    pub(crate) up: IntGauge,
}
