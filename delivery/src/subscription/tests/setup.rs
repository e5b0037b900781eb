//! What the tests stand on: a bus, scripted sinks, and lanes that can be killed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::{ObjectName, SubscriptionId, TopicName};
use evoke_eventbus::bus::{EventBus, From, Partition, Record};
use evoke_eventbus::event::Event;
use evoke_eventbus::faulty::{Faults, FaultyBus};
use evoke_eventbus::subscription::sharing::Terms;
use evoke_eventbus::subscription::{Settings, Subscriptions, metrics as bus_metrics};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{Lane, Selector, Status, Verdict, declare};
use super::memory::{Link, MemoryBus};
use crate::metrics::Metrics;
use crate::plan::{DeadLetterPlan, DeliveryPolicy, SubscriptionPlan};
use crate::rate::{Bucket, Buckets};
use crate::sink::{Outcome, Sink};
use crate::sinks::Outputs;

/// A process with a bus. Dropping it is a kill; the bus is what survives.
pub(super) struct Process {
    cut: CancellationToken,
    pub(super) subscriptions: Subscriptions,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    buckets: Buckets,
}

impl Process {
    pub(super) fn start(bus: &Arc<MemoryBus>) -> Self {
        let cut = CancellationToken::new();
        Self::on(Link::new(bus, &cut), cut)
    }

    /// A process whose every call to the bus may fail.
    pub(super) fn start_faulty(bus: &Arc<MemoryBus>, seed: u64) -> Self {
        let cut = CancellationToken::new();
        let link = Link::new(bus, &cut);
        Self::on(FaultyBus::new(link, seed, Faults::OFTEN), cut)
    }

    pub(super) fn on(bus: Arc<dyn EventBus>, cut: CancellationToken) -> Self {
        Self::with(cut, |metrics| Subscriptions::start(bus, Settings::default(), metrics))
    }

    /// A process that shares its bus with others.
    pub(super) fn sharing(bus: Arc<dyn EventBus>, cut: CancellationToken, settings: Settings, terms: Terms) -> Self {
        Self::with(cut, |metrics| Subscriptions::start_shared(bus, settings, terms, metrics))
    }

    fn with(cut: CancellationToken, start: impl FnOnce(&bus_metrics::Metrics) -> Subscriptions) -> Self {
        let registry = Registry::new();
        let bus_metrics = bus_metrics::Metrics::new(&registry).unwrap();
        let metrics = Metrics::new(&registry).unwrap();
        Self { cut, subscriptions: start(&bus_metrics), registry, metrics, buckets: Buckets::default() }
    }

    /// The sum of a metric over the children whose labels hold `label`.
    pub(super) fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let children = family.map(prometheus::proto::MetricFamily::get_metric).unwrap_or_default();
        let has = |metric: &&prometheus::proto::Metric| {
            label.is_empty() || metric.get_label().iter().any(|l| l.value() == label)
        };
        children.iter().filter(has).map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum()
    }

    pub(super) async fn declare(&self, plan: &SubscriptionPlan) {
        declare(&self.subscriptions, plan, From::Next).await.unwrap();
    }

    /// The bucket of a plan's limit.
    pub(super) fn bucket(&self, plan: &SubscriptionPlan) -> Option<Bucket> {
        plan.policy.rate_limit.as_ref().map(|limit| self.buckets.of(&plan.id, limit))
    }

    pub(super) fn run(&self, plan: &SubscriptionPlan, sink: &Arc<Script>) -> Running {
        self.run_with(plan, sink, None, Box::new(All))
    }

    pub(super) fn run_with(
        &self,
        plan: &SubscriptionPlan,
        sink: &Arc<Script>,
        dead_letter: Option<&Arc<Script>>,
        selector: Box<dyn Selector>,
    ) -> Running {
        let outputs = Outputs {
            sink: Some(Arc::clone(sink) as Arc<dyn Sink>),
            dead_letter: dead_letter.map(|sink| Arc::clone(sink) as Arc<dyn Sink>),
            bucket: self.bucket(plan),
        };
        self.run_outputs(plan, outputs, selector)
    }

    pub(super) fn run_outputs(
        &self,
        plan: &SubscriptionPlan,
        outputs: Outputs,
        selector: Box<dyn Selector>,
    ) -> Running {
        let lane = Lane::new(self.subscriptions.clone(), Arc::new(plan.clone()), outputs, selector, &self.metrics);
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let status = lane.status();
        #[allow(clippy::disallowed_methods, reason = "a test's own task")]
        let task = tokio::spawn(lane.run(stop.clone(), abort.clone()).map(Result::unwrap));
        Running { task, stop, abort, status }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

pub(super) struct Running {
    task: JoinHandle<()>,
    pub(super) stop: CancellationToken,
    pub(super) abort: CancellationToken,
    pub(super) status: Status,
}

impl Running {
    /// Without draining.
    pub(super) async fn kill(self) {
        self.task.abort();
        _ = self.task.await;
    }

    pub(super) async fn drain(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    pub(super) async fn ended(self) {
        self.task.await.unwrap();
    }
}

pub(super) fn id(name: &str) -> SubscriptionId {
    SubscriptionId { owner: ObjectName::new("shop", "orders"), subscriber: name.into() }
}

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::event(&ObjectName::new("shop", "web"), name)
}

pub(super) fn partition(name: &str) -> Partition {
    Partition { topic: topic(name), index: 0 }
}

pub(super) fn store() -> Partition {
    Partition { topic: TopicName::dead_letters(), index: 0 }
}

pub(super) fn plan(name: &str) -> SubscriptionPlan {
    SubscriptionPlan {
        id: id(name),
        topics: vec![topic("order")],
        sink: None,
        topic: None,
        reply: None,
        dead_letter: DeadLetterPlan::Store,
        policy: DeliveryPolicy::default(),
    }
}

pub(super) fn event(n: usize) -> Event {
    Event::builder(n.to_string(), "/web", "order").data(vec![b'x'; 100]).build().unwrap()
}

pub(super) fn keyed(n: usize, key: &str) -> Event {
    event(n).to_builder().attribute("partitionkey", key).build().unwrap()
}

/// Selects everything.
pub(super) struct All;

impl Selector for All {
    fn select(&mut self, _: usize, _: &Record) -> Verdict {
        Verdict::Match
    }

    fn window(&self) -> Option<Duration> {
        None
    }

    fn observe(&mut self, _: usize, _: &Record) {}
}

/// What a script does with an event: how long it takes, and what comes of it. Given the event and how often it came before.
type Play = dyn Fn(&Event, usize) -> (Duration, Outcome) + Send + Sync;

/// A sink that follows a script and remembers everything.
pub(super) struct Script {
    play: Box<Play>,
    pub(super) log: Mutex<Vec<Attempt>>,
    seen: Mutex<HashMap<String, usize>>,
    running: Mutex<(usize, usize)>,
    count: watch::Sender<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) id: String,
    pub(super) begun: Instant,
    pub(super) event: Event,
    pub(super) outcome: Outcome,
}

impl Script {
    pub(super) fn new(play: impl Fn(&Event, usize) -> (Duration, Outcome) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            play: Box::new(play),
            log: Mutex::default(),
            seen: Mutex::default(),
            running: Mutex::default(),
            count: watch::Sender::new(0),
        })
    }

    /// Takes everything, after so long.
    pub(super) fn takes(delay: Duration) -> Arc<Self> {
        Self::new(move |_, _| (delay, Outcome::Delivered))
    }

    /// Fails everything, in a way that may pass.
    pub(super) fn fails() -> Arc<Self> {
        Self::new(|_, _| (Duration::ZERO, failure(503)))
    }

    /// Waits until so many attempts have ended.
    pub(super) async fn attempts(&self, count: usize) {
        self.count.subscribe().wait_for(|done| *done >= count).await.unwrap();
    }

    /// The ids that were delivered, and how often each.
    pub(super) fn delivered(&self) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for attempt in self.log.lock().iter().filter(|attempt| attempt.outcome == Outcome::Delivered) {
            *counts.entry(attempt.id.parse().unwrap()).or_default() += 1;
        }
        counts
    }

    /// How many deliveries were not the first of their event.
    pub(super) fn duplicates(&self) -> usize {
        self.delivered().values().map(|count| count - 1).sum()
    }

    /// The events of every key were delivered in the order of their ids, repeats aside.
    pub(super) fn assert_order<K: Ord>(&self, key: impl Fn(usize) -> K) {
        let (mut last, mut seen) = (BTreeMap::new(), BTreeSet::new());
        for attempt in self.log.lock().iter().filter(|attempt| attempt.outcome == Outcome::Delivered) {
            let n: usize = attempt.id.parse().unwrap();
            if seen.insert(n)
                && let Some(before) = last.insert(key(n), n)
            {
                assert!(before < n, "{n} after {before}");
            }
        }
    }

    /// The ids in the order in which attempts ended.
    pub(super) fn ids(&self) -> Vec<String> {
        self.log.lock().iter().map(|attempt| attempt.id.clone()).collect()
    }

    /// The times at which attempts for an event began, since the first.
    pub(super) fn times(&self, id: &str) -> Vec<Duration> {
        let log = self.log.lock();
        let begun: Vec<_> = log.iter().filter(|attempt| attempt.id == id).map(|attempt| attempt.begun).collect();
        begun.iter().map(|at| *at - begun[0]).collect()
    }

    /// The most that ran at once.
    pub(super) fn most_at_once(&self) -> usize {
        self.running.lock().1
    }
}

pub(super) fn failure(status: u16) -> Outcome {
    let cause = format!("answered {status}");
    Outcome::Retry { cause, status: Some(status), after: None, body: b"later".to_vec() }
}

pub(super) fn refusal(status: u16) -> Outcome {
    Outcome::Refused { cause: format!("answered {status}"), status: Some(status), body: b"never".to_vec() }
}

/// Counts down when an attempt ends, also when it is dropped.
struct Guard<'a>(&'a Script);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.running.lock().0 -= 1;
    }
}

impl Sink for Script {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome> {
        async move {
            let begun = Instant::now();
            let before = {
                let mut seen = self.seen.lock();
                let count = seen.entry(event.id().to_owned()).or_default();
                std::mem::replace(count, *count + 1)
            };
            let (takes, outcome) = (self.play)(event, before);
            let guard = {
                let mut running = self.running.lock();
                running.0 += 1;
                running.1 = running.1.max(running.0);
                Guard(self)
            };
            // The subscriber has it from here on, whatever becomes of whoever sent it.
            let attempt = Attempt { id: event.id().to_owned(), begun, event: event.clone(), outcome: outcome.clone() };
            self.log.lock().push(attempt);
            if takes > Duration::ZERO {
                tokio::time::sleep(takes).await;
            }
            drop(guard);
            self.count.send_modify(|count| *count += 1);
            outcome
        }
        .boxed()
    }

    fn destination(&self) -> &str {
        "http://script.test/"
    }
}
