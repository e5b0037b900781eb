//! What all sources count. What a source hands over (events, bytes, what is malformed) is counted where it is accepted, so a source
//! itself counts only what happens upstream of that.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::source::Origin;

const LABELS: [&str; 4] = ["namespace", "event_source", "event", "kind"];

/// The metrics of all sources of a process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    events: IntCounterVec,
    bytes: IntCounterVec,
    in_flight: IntGaugeVec,
    in_flight_bytes: IntGaugeVec,
    up: IntGaugeVec,
    lag: IntGaugeVec,
    commit_failures: IntCounterVec,
    reconnects: IntCounterVec,
    skipped: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let outcome = ["namespace", "event_source", "event", "kind", "outcome"];
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauges = |name: &str, help: &str| {
            let family = IntGaugeVec::new(Opts::new(name, help), &LABELS)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        Ok(Self {
            events: counters(
                "evoke_source_events_total",
                "What sources handed over, by what became of it: accepted, malformed, too_large, failed.",
                &outcome,
            )?,
            bytes: counters("evoke_source_bytes_total", "Encoded size of the accepted events.", &LABELS)?,
            in_flight: gauges("evoke_source_in_flight", "Events accepted and not settled.")?,
            in_flight_bytes: gauges("evoke_source_in_flight_bytes", "Encoded size of the events not settled.")?,
            up: gauges("evoke_source_up", "1 while the source reads, else 0.")?,
            lag: gauges("evoke_source_lag", "Records upstream that are not committed, where the source knows.")?,
            commit_failures: counters(
                "evoke_source_commit_failures_total",
                "Upstream commits or acknowledgements that failed; what they were for may be read again.",
                &LABELS,
            )?,
            reconnects: counters(
                "evoke_source_reconnects_total",
                "How often the source lost what it reads from, or was started again.",
                &LABELS,
            )?,
            skipped: counters(
                "evoke_source_skipped_total",
                "What upstream lost before it could be read, as far as it can be counted: expired records, missed ticks.",
                &LABELS,
            )?,
        })
    }

    /// The metrics of one event; they read 0 from here on.
    pub fn of(&self, origin: &Origin, kind: &str) -> SourceMetrics {
        let at = [&*origin.event_source.namespace, &*origin.event_source.name, &*origin.event, kind];
        let events = |outcome: &str| self.events.with_label_values(&[at[0], at[1], at[2], at[3], outcome]);
        SourceMetrics {
            accepted: events("accepted"),
            malformed: events("malformed"),
            too_large: events("too_large"),
            failed: events("failed"),
            bytes: self.bytes.with_label_values(&at),
            in_flight: self.in_flight.with_label_values(&at),
            in_flight_bytes: self.in_flight_bytes.with_label_values(&at),
            up: self.up.with_label_values(&at),
            lag: self.lag.with_label_values(&at),
            commit_failures: self.commit_failures.with_label_values(&at),
            reconnects: self.reconnects.with_label_values(&at),
            skipped: self.skipped.with_label_values(&at),
        }
    }

    /// Takes the series of an event away that is no more.
    pub fn forget(&self, origin: &Origin, kind: &str) {
        let at = [&*origin.event_source.namespace, &*origin.event_source.name, &*origin.event, kind];
        for outcome in ["accepted", "malformed", "too_large", "failed"] {
            drop(self.events.remove_label_values(&[at[0], at[1], at[2], at[3], outcome]));
        }
        for family in [&self.bytes, &self.commit_failures, &self.reconnects, &self.skipped] {
            drop(family.remove_label_values(&at));
        }
        for family in [&self.in_flight, &self.in_flight_bytes, &self.up, &self.lag] {
            drop(family.remove_label_values(&at));
        }
    }
}

/// The metrics of one event of an EventSource.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Events that the outlet accepted.
    pub accepted: IntCounter,
    /// Records that could not become events.
    pub malformed: IntCounter,
    /// Events above the bus's limit.
    pub too_large: IntCounter,
    /// Events that are not known to be settled; the source reads them again.
    pub failed: IntCounter,
    /// Encoded size of the accepted events.
    pub bytes: IntCounter,
    /// Events accepted and not settled.
    pub in_flight: IntGauge,
    /// Their encoded size.
    pub in_flight_bytes: IntGauge,
    /// 1 while the source reads, else 0.
    pub up: IntGauge,
    /// Records upstream that are not committed, where the source knows.
    pub lag: IntGauge,
    /// Upstream commits that failed.
    pub commit_failures: IntCounter,
    /// How often the source lost what it reads from, or was started again.
    pub reconnects: IntCounter,
    /// What upstream lost before it could be read.
    pub skipped: IntCounter,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evoke_api::events::Attributes;
    use evoke_api::names::ObjectName;
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn an_event_has_its_series_from_the_start_and_none_after_it_is_forgotten() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let origin = Origin {
            event_source: ObjectName::new("ns", "orders"),
            event: Arc::from("created"),
            attributes: Attributes::default(),
        };
        let scrape = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        metrics.of(&origin, "kafka").accepted.inc_by(3);
        let labels = r#"event="created",event_source="orders",kind="kafka",namespace="ns""#;
        let text = scrape();
        assert!(text.contains(&format!("evoke_source_events_total{{{labels},outcome=\"accepted\"}} 3")), "{text}");
        assert!(text.contains(&format!("evoke_source_lag{{{labels}}} 0")), "{text}");
        metrics.forget(&origin, "kafka");
        assert_eq!(scrape(), "");
    }
}
