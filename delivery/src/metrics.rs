//! Metrics of deliveries. Their children are looked up once a subscription, never per event.

use evoke_api::names::SubscriptionId;
use evoke_eventbus::subscription::metrics::SUBSCRIPTION;
use prometheus::core::Collector;
use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{
    Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// From a fast function to the longest time limit that makes sense, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// The collectors, registered once a process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    verdicts: IntCounterVec,
    deliveries: IntCounterVec,
    attempts: IntCounterVec,
    retries: IntCounterVec,
    dead_letters: IntCounterVec,
    replies: IntCounterVec,
    forgotten: IntCounterVec,
    rate_waited: CounterVec,
    in_flight: IntGaugeVec,
    parked: IntGaugeVec,
    stalled: IntGaugeVec,
    restarts: IntCounterVec,
    duration: HistogramVec,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let [namespace, trigger, subscriber] = SUBSCRIPTION;
        let counter = |name: &str, help: &str, more: &[&str]| {
            let labels = [&[namespace, trigger, subscriber], more].concat();
            register(registry, IntCounterVec::new(Opts::new(name, help), &labels)?)
        };
        let gauge =
            |name: &str, help: &str| register(registry, IntGaugeVec::new(Opts::new(name, help), &SUBSCRIPTION)?);
        Ok(Self {
            verdicts: counter("evoke_verdicts_total", "Events evaluated, by what the condition said.", &["verdict"])?,
            deliveries: counter(
                "evoke_deliveries_total",
                "Events finished, by how: delivered, dead_lettered, or duplicate: not delivered again.",
                &["outcome"],
            )?,
            attempts: counter("evoke_delivery_attempts_total", "Attempts to deliver that ended.", &[])?,
            retries: counter("evoke_delivery_retries_total", "Attempts that failed and are tried again.", &[])?,
            dead_letters: counter(
                "evoke_dead_letters_total",
                "Dead letters, by where they went: sink, topic or store.",
                &["to"],
            )?,
            replies: counter(
                "evoke_replies_total",
                "Events that sinks answered with, by what became of them: published or cut.",
                &["outcome"],
            )?,
            forgotten: counter(
                "evoke_deduplication_forgotten_total",
                "Delivered events that were forgotten before their deduplicationWindow was over.",
                &[],
            )?,
            rate_waited: register(
                registry,
                CounterVec::new(
                    Opts::new("evoke_rate_limit_wait_seconds_total", "How long deliveries waited for their rateLimit."),
                    &SUBSCRIPTION,
                )?,
            )?,
            in_flight: gauge("evoke_deliveries_in_flight", "Deliveries under way.")?,
            parked: gauge(
                "evoke_deliveries_parked",
                "Matched events put aside: for a later retry, or behind one of their key.",
            )?,
            stalled: gauge(
                "evoke_subscription_stalled",
                "1 while a subscription reads nothing since too many events are put aside.",
            )?,
            restarts: counter(
                "evoke_subscription_restarts_total",
                "How often a bug in evoke has ended a subscription, which was started again.",
                &[],
            )?,
            duration: register(
                registry,
                HistogramVec::new(
                    HistogramOpts::new("evoke_delivery_duration_seconds", "How long attempts to deliver took.")
                        .buckets(BUCKETS.into()),
                    &SUBSCRIPTION,
                )?,
            )?,
        })
    }

    /// The counts of one subscription's replies.
    pub(crate) fn replies(&self, subscription: &SubscriptionId) -> ReplyMetrics {
        let SubscriptionId { owner, subscriber } = subscription;
        let with = |outcome| self.replies.with_label_values(&[&*owner.namespace, &*owner.name, &**subscriber, outcome]);
        ReplyMetrics { published: with("published"), cut: with("cut") }
    }

    /// The count of how often one subscription was started again.
    pub(crate) fn restarts(&self, subscription: &SubscriptionId) -> IntCounter {
        let SubscriptionId { owner, subscriber } = subscription;
        self.restarts.with_label_values(&[&*owner.namespace, &*owner.name, &**subscriber])
    }

    /// The count of what one subscription forgot before its time.
    pub(crate) fn forgotten(&self, subscription: &SubscriptionId) -> IntCounter {
        let SubscriptionId { owner, subscriber } = subscription;
        self.forgotten.with_label_values(&[&*owner.namespace, &*owner.name, &**subscriber])
    }

    /// The children of one subscription.
    pub(crate) fn of(&self, subscription: &SubscriptionId) -> LaneMetrics {
        let labels: [&str; 3] = [&subscription.owner.namespace, &subscription.owner.name, &subscription.subscriber];
        let [namespace, trigger, subscriber] = labels;
        let with = |counter: &IntCounterVec, value| counter.with_label_values(&[namespace, trigger, subscriber, value]);
        let duration: Histogram = self.duration.with_label_values(&labels);
        LaneMetrics {
            matched: with(&self.verdicts, "match").local(),
            not_matched: with(&self.verdicts, "no_match").local(),
            waiting: with(&self.verdicts, "waiting").local(),
            errors: with(&self.verdicts, "error"),
            delivered: with(&self.deliveries, "delivered").local(),
            dead_lettered: with(&self.deliveries, "dead_lettered"),
            duplicates: with(&self.deliveries, "duplicate"),
            rate_waited: self.rate_waited.with_label_values(&labels),
            attempts: self.attempts.with_label_values(&labels).local(),
            retries: self.retries.with_label_values(&labels),
            to_sink: with(&self.dead_letters, "sink"),
            to_topic: with(&self.dead_letters, "topic"),
            to_store: with(&self.dead_letters, "store"),
            in_flight: self.in_flight.with_label_values(&labels),
            parked: self.parked.with_label_values(&labels),
            stalled: self.stalled.with_label_values(&labels),
            duration: duration.local(),
        }
    }
}

/// What became of the events that sinks answered with.
#[derive(Clone, Debug)]
pub(crate) struct ReplyMetrics {
    pub(crate) published: IntCounter,
    pub(crate) cut: IntCounter,
}

/// The metrics of one subscription. The local ones are counted without atomics and flushed once a step.
#[derive(Debug)]
pub(crate) struct LaneMetrics {
    pub(crate) matched: LocalIntCounter,
    pub(crate) not_matched: LocalIntCounter,
    pub(crate) waiting: LocalIntCounter,
    pub(crate) errors: IntCounter,
    pub(crate) delivered: LocalIntCounter,
    pub(crate) dead_lettered: IntCounter,
    pub(crate) duplicates: IntCounter,
    pub(crate) rate_waited: Counter,
    pub(crate) attempts: LocalIntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) to_sink: IntCounter,
    pub(crate) to_topic: IntCounter,
    pub(crate) to_store: IntCounter,
    pub(crate) in_flight: IntGauge,
    pub(crate) parked: IntGauge,
    pub(crate) stalled: IntGauge,
    pub(crate) duration: LocalHistogram,
}

impl LaneMetrics {
    pub(crate) fn flush(&self) {
        for counter in [&self.matched, &self.not_matched, &self.waiting, &self.delivered, &self.attempts] {
            counter.flush();
        }
        self.duration.flush();
    }

    pub(crate) fn lettered(&self, to: &str) {
        match to {
            "sink" => self.to_sink.inc(),
            "topic" => self.to_topic.inc(),
            _ => self.to_store.inc(),
        }
    }

    pub(crate) fn show(&self, in_flight: usize, parked: usize, stalled: bool) {
        self.in_flight.set(in_flight as i64);
        self.parked.set(parked as i64);
        self.stalled.set(stalled.into());
    }
}

impl Drop for LaneMetrics {
    fn drop(&mut self) {
        self.flush();
        for gauge in [&self.in_flight, &self.parked, &self.stalled] {
            gauge.set(0);
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
