//! What webhooks count beside what all sources do.

use http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::source::Origin;

/// The metrics of all webhooks of a process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    pub(super) unrouted: IntCounter,
    pub(super) connections: IntGauge,
    pub(super) body_bytes: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("evoke_webhook_requests_total", "Requests to webhooks, by the status code of the answer."),
                &["namespace", "event_source", "event", "code"],
            )?,
            unrouted: IntCounter::new("evoke_webhook_unrouted_total", "Requests to a path that no webhook has.")?,
            connections: IntGauge::new("evoke_webhook_connections", "Open connections of senders.")?,
            body_bytes: IntGauge::new("evoke_webhook_body_bytes", "Bytes of request bodies read and not accepted.")?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.unrouted.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.body_bytes.clone()))?;
        Ok(metrics)
    }

    /// Counts the answer to a request.
    pub(super) fn answered(&self, origin: &Origin, code: StatusCode) {
        let Origin { event_source, event, .. } = origin;
        self.requests.with_label_values(&[&event_source.namespace, &event_source.name, event, code.as_str()]).inc();
    }
}
