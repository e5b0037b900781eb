use std::path::Path;
use std::time::Duration;

use evoke_api::catalog::Catalog;
use evoke_api::events::{EventSourceSpec, Input, Subscriber, TriggerSpec, WebhookSource};
use evoke_api::names::TopicName;
use evoke_delivery::endpoints::Endpoints;
use evoke_eventbus::bus::{From, Partition};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::event::Event;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::subscription::{Settings, metrics};
use prometheus::Registry;

use super::*;

/// One run of a process on a data directory.
struct Process {
    surroundings: Surroundings,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let registry = Registry::new();
        let options = EmbeddedOptions::new("test", BusMetrics::new(&registry).unwrap());
        let bus = EmbeddedBus::open(dir, options).unwrap();
        let counted = metrics::Metrics::new(&registry).unwrap();
        let subscriptions = Subscriptions::start(bus, Settings::default(), &counted);
        let sinks = Sinks::new(Endpoints::default());
        let (metrics, readings) = (Metrics::new(&registry).unwrap(), Readings::default());
        Self { surroundings: Surroundings { subscriptions, sinks, metrics, readings } }
    }

    async fn run(&self, plan: &TriggerPlan) -> Trigger {
        declare(plan, &self.surroundings.subscriptions).await.unwrap();
        Trigger::start(plan, self.surroundings.clone()).unwrap()
    }

    async fn publish(&self, event: &str, ids: &[&str]) {
        let topic = TopicName::event(&ObjectName::new("shop", "web"), event);
        let events = ids.iter().map(|id| Event::builder(*id, "/s", event).build().unwrap()).collect();
        let bus = self.surroundings.subscriptions.bus();
        let receipt = bus.publish(&Partition { topic, index: 0 }, events).await.unwrap().await;
        assert!(receipt.iter().all(Result::is_ok));
    }

    /// The ids of the first `count` events on a topic, sorted: deliveries run side by side.
    async fn ids(&self, topic: &str, count: usize) -> Vec<String> {
        let partition = Partition { topic: TopicName::named("shop", topic), index: 0 };
        let mut reader = self.surroundings.subscriptions.bus().read(&partition, From::First, 1 << 20).await.unwrap();
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(reader.next(1 << 20).await.unwrap().records.iter().map(|r| r.event.id().to_owned()));
        }
        ids.sort();
        ids
    }

    async fn end(self, trigger: Trigger) {
        trigger.stop(soon()).await;
        self.surroundings.subscriptions.close().await;
        self.surroundings.subscriptions.bus().close().await.unwrap();
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Subscribers by name and condition; each publishes on the topic of its name.
fn planned(subscribers: &[(&str, &str)]) -> TriggerPlan {
    let events = ["orders", "payments"];
    let source = EventSourceSpec {
        event_bus: Some("default".into()),
        webhook: events.map(|event| (event.to_owned(), WebhookSource::default())).into_iter().collect(),
        ..EventSourceSpec::default()
    };
    let input = |event: &str| Input { event_source: Some("web".into()), event: Some(event.into()), ..Input::default() };
    let subscriber = |(name, condition): &(&str, &str)| Subscriber {
        name: Some((*name).into()),
        condition: (*condition).into(),
        topic: Some((*name).into()),
        ..Subscriber::default()
    };
    let spec = TriggerSpec {
        event_bus: "default".into(),
        inputs: events.map(|event| (event.to_owned(), input(event))).into_iter().collect(),
        subscribers: subscribers.iter().map(subscriber).collect(),
        ..TriggerSpec::default()
    };
    let mut catalog = Catalog { default_bus: true, ..Catalog::default() };
    catalog.event_sources.insert(ObjectName::new("shop", "web"), source);
    crate::plan::plan(&ObjectName::new("shop", "t"), &spec, &catalog).plan.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_gets_what_its_condition_says_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let plan = planned(&[("o", "orders"), ("join", "orders && payments"), ("even", "event.id in ['o2', 'p2']")]);
    let process = Process::start(dir.path());
    let trigger = process.run(&plan).await;
    process.publish("orders", &["o1"]).await;
    assert_eq!(process.ids("o", 1).await, ["o1"]);
    // The other lanes may still be on their way to their first look.
    let ready = async {
        while trigger.waits_for().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ready).await.expect("every lane comes to read");
    assert_eq!(trigger.status().len(), 3);
    process.end(trigger).await;

    let process = Process::start(dir.path());
    let trigger = process.run(&plan).await;
    process.publish("payments", &["p1"]).await;
    assert_eq!(process.ids("join", 1).await, ["p1"], "o1 is in the window, though it was read before the restart");
    process.publish("orders", &["o2"]).await;
    process.publish("payments", &["p2"]).await;
    assert_eq!(process.ids("even", 2).await, ["o2", "p2"]);
    assert_eq!(process.ids("join", 3).await, ["o2", "p1", "p2"]);
    assert_eq!(process.ids("o", 2).await, ["o1", "o2"]);
    process.end(trigger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_touches_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path());
    let one = planned(&[("same", "orders"), ("changed", "orders"), ("gone", "orders")]);
    let mut trigger = process.run(&one).await;
    process.publish("orders", &["1"]).await;
    for topic in ["same", "changed", "gone"] {
        process.ids(topic, 1).await;
    }
    let two = planned(&[("same", "orders"), ("changed", "orders && event.id != '2'"), ("new", "orders")]);
    // A lane holds the plan that it was started with.
    let name = |trigger: &Trigger, name: &str| {
        trigger.lanes.iter().map(|lane| &lane.of.subscription.id.subscriber).find(|it| &***it == name).cloned()
    };
    let before = name(&trigger, "same").unwrap();
    declare(&two, &process.surroundings.subscriptions).await.unwrap();
    trigger.update(&two, soon()).await.unwrap();
    assert!(Arc::ptr_eq(&name(&trigger, "same").unwrap(), &before));
    assert_eq!(name(&trigger, "gone"), None);
    process.publish("orders", &["2", "3"]).await;
    assert_eq!(process.ids("same", 3).await, ["1", "2", "3"]);
    assert_eq!(process.ids("changed", 2).await, ["1", "3"]);
    assert_eq!(process.ids("new", 2).await, ["2", "3"]);
    assert_eq!(process.ids("gone", 1).await, ["1"]);
    process.end(trigger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_ends_by_itself_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path());
    let mut trigger = process.run(&planned(&[("a", "orders")])).await;
    process.publish("orders", &["1"]).await;
    process.ids("a", 1).await;
    process.surroundings.subscriptions.close().await;
    trigger.lanes[0].ended().await;
    assert_eq!(trigger.waits_for().unwrap(), "subscriber a has ended: the bus is closed");
    assert_eq!(trigger.status()[0].ended.as_deref(), Some("the bus is closed"));
    trigger.stop(soon()).await;
}
