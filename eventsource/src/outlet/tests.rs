use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use evoke_adapters::metrics::{Metrics, SourceMetrics};
use evoke_adapters::source::{Arrival, Malformed, Origin, Outlet};
use evoke_api::names::{ObjectName, SubscriptionId, TopicName};
use evoke_delivery::plan::{DeliveryPolicy, Ordering};
use evoke_delivery::sink::{Outcome, Sink};
use evoke_eventbus::bus::{EventBus, From, Partition};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::event::Event;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::subscription::{Settings, Subscriptions, metrics as subscription_metrics};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prometheus::Registry;

use super::budget::Budget;
use super::bus::BusOutlet;
use super::letters::Letters;
use super::sink::{Delivery, SinkOutlet};

pub(super) fn origin() -> Origin {
    Origin { event_source: ObjectName::new("ns", "shop"), event: "orders".into(), attributes: Default::default() }
}

pub(super) fn event(id: &str, bytes: usize) -> Event {
    origin().event("test", id).data(vec![b'x'; bytes]).build().unwrap()
}

fn subscription() -> SubscriptionId {
    SubscriptionId { owner: origin().event_source, subscriber: "sink".into() }
}

pub(super) fn malformed() -> Arrival {
    let raw = Bytes::from_static(b"\x00garbage");
    Arrival::Malformed(Malformed { position: "t/0/7".into(), cause: "no type".into(), raw })
}

pub(super) fn metrics() -> SourceMetrics {
    Metrics::new(&Registry::new()).unwrap().of(&origin(), "test")
}

/// What uses the bus in a process.
pub(super) fn on(bus: Arc<dyn EventBus>) -> Subscriptions {
    let metrics = subscription_metrics::Metrics::new(&Registry::new()).unwrap();
    Subscriptions::start(bus, Settings::default(), &metrics)
}

/// Ends it, and the bus.
pub(super) async fn close(subscriptions: &Subscriptions) {
    subscriptions.close().await;
    subscriptions.bus().close().await.unwrap();
}

pub(super) async fn read(bus: &dyn EventBus, topic: &TopicName, count: usize) -> Vec<Event> {
    let partition = Partition { topic: topic.clone(), index: 0 };
    let mut reader = bus.read(&partition, From::First, 1 << 20).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(reader.next(1 << 20).await.unwrap().records.into_iter().map(|record| record.event));
    }
    events
}

#[tokio::test]
async fn settled_means_that_events_and_dead_letters_are_on_the_bus() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = EmbeddedOptions::new("test", BusMetrics::new(&Registry::new()).unwrap());
    options.max_event_bytes = 64 << 10;
    let subscriptions = on(EmbeddedBus::open(dir.path(), options).unwrap());
    let bus = subscriptions.bus();
    let topic = TopicName::event(&origin().event_source, "orders");
    subscriptions.declare_topic(&topic).await.unwrap();
    subscriptions.declare_store(&TopicName::dead_letters()).await.unwrap();
    let metrics = metrics();
    let letters = Letters {
        sink: None,
        policy: DeliveryPolicy::default(),
        topic: Some((subscriptions.clone(), TopicName::dead_letters())),
    };
    let outlet = BusOutlet {
        origin: origin(),
        health: bus.health(),
        subscriptions: subscriptions.clone(),
        topic: topic.clone(),
        letters,
        budget: Budget::default(),
        metrics: metrics.clone(),
    };
    assert!(outlet.has_room());
    let large = event("large", 100_000);
    let batch =
        vec![Arrival::Event(event("1", 10)), Arrival::Event(large), malformed(), Arrival::Event(event("2", 10))];
    let settled = outlet.accept(batch).await.unwrap();
    assert_eq!(metrics.in_flight.get(), 2);
    settled.await.unwrap();
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
    assert_eq!((metrics.accepted.get(), metrics.too_large.get(), metrics.malformed.get()), (2, 1, 1));

    let ids: Vec<_> = read(&**bus, &topic, 2).await.iter().map(|event| event.id().to_owned()).collect();
    assert_eq!(ids, ["1", "2"]);
    let dead = read(&**bus, &TopicName::dead_letters(), 2).await;
    assert_eq!(dead[0].attribute("evokeposition"), Some("large"));
    assert!(dead[0].attribute("evokecause").unwrap().contains("the limit is 65536"), "{dead:?}");
    assert_eq!(dead[0].data_slice().len(), 16 << 10);
    assert_eq!((dead[1].id(), dead[1].data_slice()), ("t/0/7", &b"\x00garbage"[..]));
    close(&subscriptions).await;
}

/// Remembers what it was given, and unless it takes everything, answers each event as its id says.
#[derive(Default)]
struct Scripted {
    given: Mutex<Vec<String>>,
    takes_all: bool,
}

impl Sink for Scripted {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome> {
        let mut given = self.given.lock();
        let tried = given.iter().filter(|id| *id == event.id()).count();
        given.push(event.id().to_owned());
        let outcome = match event.id() {
            _ if self.takes_all => Outcome::Delivered,
            "refused" => Outcome::Refused { cause: "answered 400".into(), status: Some(400), body: b"no".to_vec() },
            "late" if tried < 2 => {
                Outcome::Retry { cause: "answered 503".into(), status: Some(503), after: None, body: Vec::new() }
            }
            _ => Outcome::Delivered,
        };
        std::future::ready(outcome).boxed()
    }

    fn destination(&self) -> &str {
        "http://sink/"
    }
}

#[tokio::test]
async fn what_a_dead_letter_sink_does_not_take_goes_to_the_topic() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new("test", BusMetrics::new(&Registry::new()).unwrap());
    let subscriptions = on(EmbeddedBus::open(dir.path(), options).unwrap());
    let topic = TopicName::named("ns", "broken");
    subscriptions.declare_store(&topic).await.unwrap();
    let sink = Arc::new(Scripted::default());
    let policy = DeliveryPolicy { retry: 1, delay: Duration::from_millis(1), ..DeliveryPolicy::default() };
    let letters = Letters { sink: Some(sink.clone()), policy, topic: Some((subscriptions.clone(), topic.clone())) };
    letters.settle(["late", "fine", "refused"].map(|id| event(id, 1)).into()).await.unwrap();
    assert_eq!(*sink.given.lock(), ["late", "late", "fine", "refused"]);
    let kept: Vec<_> =
        read(&**subscriptions.bus(), &topic, 2).await.iter().map(|event| event.id().to_owned()).collect();
    assert_eq!(kept, ["late", "refused"]);

    let without_a_bus = Letters { topic: None, ..letters };
    without_a_bus.settle(vec![event("fine", 1)]).await.unwrap();
    let unsettled = without_a_bus.settle(vec![event("refused", 1)]).await.unwrap_err();
    assert!(unsettled.0.contains("there is no bus"), "{unsettled}");
    close(&subscriptions).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_bus_settled_means_delivered_or_dead_lettered() {
    let (sink, dead) = (Arc::new(Scripted::default()), Arc::new(Scripted { takes_all: true, ..Scripted::default() }));
    let letters = Letters { sink: Some(dead.clone()), policy: DeliveryPolicy::default(), topic: None };
    let delivery = Delivery::new(subscription(), sink.clone(), DeliveryPolicy::default(), Some(letters));
    let outlet =
        SinkOutlet { origin: origin(), delivery: Arc::new(delivery), budget: Budget::default(), metrics: metrics() };
    let batch = ["late", "refused", "fine"].map(|id| Arrival::Event(event(id, 1))).into_iter().chain([malformed()]);
    outlet.accept(batch.collect()).await.unwrap().await.unwrap();
    let count = |sink: &Scripted, id: &str| sink.given.lock().iter().filter(|given| *given == id).count();
    assert_eq!([count(&sink, "late"), count(&sink, "refused"), count(&sink, "fine")], [3, 1, 1]);
    assert_eq!(*dead.given.lock(), ["t/0/7", "refused"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_dead_letter_a_refused_event_is_never_given_up() {
    let sink = Arc::new(Scripted::default());
    let delivery = Delivery::new(subscription(), sink.clone(), DeliveryPolicy::default(), None);
    let outlet =
        SinkOutlet { origin: origin(), delivery: Arc::new(delivery), budget: Budget::default(), metrics: metrics() };
    let settled = outlet.accept(vec![Arrival::Event(event("refused", 1))]).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(95), settled).await.is_err());
    assert_eq!(sink.given.lock().len(), 4);
}

/// Takes a while over each event, and remembers how many it had at once and in which order they ended.
#[derive(Default)]
struct Slow {
    now: AtomicUsize,
    most: AtomicUsize,
    ended: Mutex<Vec<String>>,
}

impl Sink for Slow {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome> {
        async move {
            let now = self.now.fetch_add(1, Relaxed) + 1;
            self.most.fetch_max(now, Relaxed);
            // Events that come later take less time, so that only waiting keeps them in order.
            let place: u64 = event.id().parse().unwrap();
            tokio::time::sleep(Duration::from_millis(100 - place)).await;
            self.now.fetch_sub(1, Relaxed);
            self.ended.lock().push(event.id().to_owned());
            Outcome::Delivered
        }
        .boxed()
    }

    fn destination(&self) -> &str {
        "http://slow/"
    }
}

#[tokio::test(start_paused = true)]
async fn all_batches_of_a_sink_share_its_places() {
    let sink = Arc::new(Slow::default());
    let policy = DeliveryPolicy { max_in_flight: 3, ..DeliveryPolicy::default() };
    let delivery = Arc::new(Delivery::new(subscription(), sink.clone(), policy, None));
    let outlet = |delivery| SinkOutlet { origin: origin(), delivery, budget: Budget::default(), metrics: metrics() };
    let batch = |from: u32| (from..from + 8).map(|id| Arrival::Event(event(&id.to_string(), 1))).collect::<Vec<_>>();
    let (one, other) = (outlet(delivery.clone()), outlet(delivery));
    let settled = [one.accept(batch(0)).await.unwrap(), other.accept(batch(8)).await.unwrap()];
    futures_util::future::try_join_all(settled).await.unwrap();
    assert_eq!(sink.ended.lock().len(), 16);
    assert_eq!(sink.most.load(Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_keep_their_order_over_batches_where_asked_to() {
    let sink = Arc::new(Slow::default());
    let policy = DeliveryPolicy { ordering: Ordering::PartitionKey, ..DeliveryPolicy::default() };
    let delivery = Arc::new(Delivery::new(subscription(), sink.clone(), policy, None));
    let outlet = SinkOutlet { origin: origin(), delivery, budget: Budget::default(), metrics: metrics() };
    let keyed = |id: u32| {
        let event = origin().event("test", id.to_string()).attribute("partitionkey", format!("k{}", id % 2));
        Arrival::Event(event.build().unwrap())
    };
    let first = outlet.accept((0..6).map(keyed).collect()).await.unwrap();
    let second = async { outlet.accept((6..10).map(keyed).collect()).await.unwrap().await };
    futures_util::future::try_join(first, second).await.unwrap();
    let ended = sink.ended.lock();
    for parity in 0..2 {
        let of_key: Vec<u32> = ended.iter().map(|id| id.parse().unwrap()).filter(|id: &u32| id % 2 == parity).collect();
        assert!(of_key.is_sorted() && of_key.len() == 5, "{ended:?}");
    }
    assert_eq!(sink.most.load(Relaxed), 2);
}

#[tokio::test]
async fn the_budget_makes_the_next_batch_wait() {
    let budget = Budget::new(1000);
    let first = budget.take(900).await;
    assert!(budget.has_room());
    assert!(budget.take(200).now_or_never().is_none());
    drop(first);
    let larger_than_all = budget.take(5000).now_or_never().unwrap();
    assert!(!budget.has_room());
    drop(larger_than_all);
    assert!(budget.has_room());
}

#[tokio::test]
async fn what_one_outlet_holds_the_others_wait_for() {
    let batch = |ids: &[&str]| ids.iter().map(|id| Arrival::Event(event(id, 100))).collect::<Vec<_>>();
    let budget = Budget::new(2 * event("1", 100).encoded_len());
    let outlet = |sink: &Arc<Scripted>| {
        let delivery = Arc::new(Delivery::new(subscription(), sink.clone(), DeliveryPolicy::default(), None));
        SinkOutlet { origin: origin(), delivery, budget: budget.clone(), metrics: metrics() }
    };
    let sinks = [Arc::new(Scripted::default()), Arc::new(Scripted::default())];
    let [one, other] = sinks.each_ref().map(outlet);
    let held = one.accept(batch(&["1", "2"])).await.unwrap();
    assert!(!one.has_room() && !other.has_room(), "one source has all there is");
    assert!(other.accept(batch(&["3"])).now_or_never().is_none());

    held.await.unwrap();
    assert!(one.has_room() && other.has_room());
    let half = other.accept(batch(&["3"])).now_or_never().unwrap().unwrap();
    assert!(one.has_room(), "half of it is free");
    assert!(one.accept(batch(&["4", "5"])).now_or_never().is_none(), "and no more");
    half.await.unwrap();
    assert_eq!(sinks.each_ref().map(|sink| sink.given.lock().concat()), ["12", "3"], "nothing that waited was taken");
}
