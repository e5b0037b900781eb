//! What a bus counts, for every back-end alike. Labels are the bus and the topic, never an event.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::bus::Health;

/// The metrics of all buses of a process.
#[derive(Clone, Debug)]
pub struct BusMetrics {
    published_events: IntCounterVec,
    published_bytes: IntCounterVec,
    refused_events: IntCounterVec,
    stored_bytes: IntGaugeVec,
    dropped_events: IntCounterVec,
    damaged_events: IntCounterVec,
    duplicate_events: IntCounterVec,
    skipped_events: IntCounterVec,
    cut_bytes: IntCounterVec,
    commit_seconds: HistogramVec,
    queued_bytes: IntGaugeVec,
    waiting_publishes: IntGaugeVec,
    disk_errors: IntCounterVec,
    up: IntGaugeVec,
}

impl BusMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        fn add<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, prometheus::Error> {
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let counter =
            |name: &str, help: &str, labels: &[&str]| add(registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauge =
            |name: &str, help: &str, labels: &[&str]| add(registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let topic = &["bus", "topic"][..];
        let bus = &["bus"][..];
        let seconds = HistogramOpts::new("evoke_bus_commit_seconds", "How long it took to make a batch durable.")
            .buckets(vec![0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 1.0]);
        Ok(Self {
            published_events: counter("evoke_bus_published_events_total", "Events made durable.", topic)?,
            published_bytes: counter("evoke_bus_published_bytes_total", "Their size as encoded.", topic)?,
            refused_events: counter("evoke_bus_refused_events_total", "Events larger than the bus takes.", topic)?,
            stored_bytes: gauge("evoke_bus_stored_bytes", "What the log holds now.", topic)?,
            dropped_events: counter(
                "evoke_bus_dropped_events_total",
                "Events deleted to make room, read or not (onFull: dropOldest).",
                topic,
            )?,
            damaged_events: counter(
                "evoke_bus_damaged_events_total",
                "Events that were stored and that the disk no longer gives back.",
                topic,
            )?,
            duplicate_events: counter(
                "evoke_bus_duplicate_events_total",
                "Events that the broker had already: published again, and not stored again.",
                topic,
            )?,
            cut_bytes: counter(
                "evoke_bus_cut_bytes_total",
                "Bytes of unfinished writes cut off when the log was opened.",
                topic,
            )?,
            skipped_events: counter(
                "evoke_bus_skipped_events_total",
                "Records on a broker that were passed over: they are no events, or a newer evoke wrote them.",
                topic,
            )?,
            commit_seconds: add(registry, HistogramVec::new(seconds, bus)?)?,
            queued_bytes: gauge("evoke_bus_queued_bytes", "Accepted and not yet durable.", bus)?,
            waiting_publishes: gauge("evoke_bus_waiting_publishes", "Calls that wait for room.", bus)?,
            disk_errors: counter("evoke_bus_disk_errors_total", "Failed writes and syncs.", bus)?,
            up: gauge("evoke_bus_up", "1 when the bus works, else 0.", bus)?,
        })
    }

    /// The metrics of one bus.
    pub fn bus(&self, bus: &str) -> OneBusMetrics {
        OneBusMetrics {
            all: self.clone(),
            bus: bus.to_owned(),
            commit_seconds: self.commit_seconds.with_label_values(&[bus]),
            queued_bytes: self.queued_bytes.with_label_values(&[bus]),
            waiting_publishes: self.waiting_publishes.with_label_values(&[bus]),
            disk_errors: self.disk_errors.with_label_values(&[bus]),
            up: self.up.with_label_values(&[bus]),
        }
    }
}

/// The metrics of one bus, looked up once.
#[derive(Clone, Debug)]
pub struct OneBusMetrics {
    all: BusMetrics,
    bus: String,
    commit_seconds: Histogram,
    /// Accepted and not yet durable, in bytes.
    pub queued_bytes: IntGauge,
    /// Calls of `publish` that wait for room.
    pub waiting_publishes: IntGauge,
    /// Failed writes and syncs.
    pub disk_errors: IntCounter,
    up: IntGauge,
}

impl OneBusMetrics {
    /// The metrics of one topic of this bus.
    pub fn topic(&self, topic: &str) -> TopicMetrics {
        let labels = &[self.bus.as_str(), topic][..];
        TopicMetrics {
            published_events: self.all.published_events.with_label_values(labels),
            published_bytes: self.all.published_bytes.with_label_values(labels),
            refused_events: self.all.refused_events.with_label_values(labels),
            stored_bytes: self.all.stored_bytes.with_label_values(labels),
            dropped_events: self.all.dropped_events.with_label_values(labels),
            damaged_events: self.all.damaged_events.with_label_values(labels),
            duplicate_events: self.all.duplicate_events.with_label_values(labels),
            skipped_events: self.all.skipped_events.with_label_values(labels),
            cut_bytes: self.all.cut_bytes.with_label_values(labels),
        }
    }

    /// A batch became durable.
    pub fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// The bus came up or went down.
    pub fn health(&self, health: &Health) {
        self.up.set(i64::from(*health == Health::Up));
    }
}

/// The metrics of one topic, looked up once.
#[derive(Clone, Debug)]
pub struct TopicMetrics {
    /// Events made durable.
    pub published_events: IntCounter,
    /// Their size as encoded, in bytes.
    pub published_bytes: IntCounter,
    /// Events larger than the bus takes.
    pub refused_events: IntCounter,
    /// What the log holds, in bytes.
    pub stored_bytes: IntGauge,
    /// Events deleted to make room.
    pub dropped_events: IntCounter,
    /// Events that were stored and that the disk no longer gives back.
    pub damaged_events: IntCounter,
    /// Events that the broker had already.
    pub duplicate_events: IntCounter,
    /// Messages that cannot be events.
    pub skipped_events: IntCounter,
    /// Bytes of unfinished writes cut off at opening.
    pub cut_bytes: IntCounter,
}
