//! The trimmer on the embedded bus, pass by pass.

use evoke_api::names::{ObjectName, TopicName};
use prometheus::Registry;
use tempfile::TempDir;

use super::*;
use crate::bus::{Expect, Put, TopicSpec};
use crate::embedded::{EmbeddedBus, EmbeddedOptions, SegmentSizes};
use crate::event::Event;
use crate::metrics::BusMetrics;
use crate::subscription::ledger::{LedgerName, Millis, Open};

struct Setup {
    bus: Arc<EmbeddedBus>,
    trimmer: Trimmer,
    holder: watch::Receiver<Option<Holder>>,
    idle: BTreeMap<SubscriptionId, Instant>,
    _dir: TempDir,
}

fn partition(topic: &str) -> Partition {
    Partition { topic: TopicName::parse(topic), index: 0 }
}

fn id(name: &str) -> SubscriptionId {
    SubscriptionId { owner: ObjectName::new("shop", "orders"), subscriber: name.into() }
}

/// Everything that is acked may go at once.
const NO_REPLAY: Retention =
    Retention { max_age: None, max_bytes: None, replay_age: Duration::ZERO, replay_bytes: u64::MAX };

impl Setup {
    async fn new(retention: Retention) -> Self {
        let dir = TempDir::new().unwrap();
        let registry = Registry::new();
        let segments = SegmentSizes { first: 32 << 10, largest: 32 << 10 };
        let options = EmbeddedOptions { segments, ..EmbeddedOptions::new("test", BusMetrics::new(&registry).unwrap()) };
        let bus = EmbeddedBus::open(dir.path(), options).unwrap();
        let metrics = Metrics::new(&registry).unwrap();
        let (holder_is, holder) = watch::channel(None);
        let (dyn_bus, topics) = (Arc::clone(&bus) as Arc<dyn EventBus>, Topics::default());
        let sharing = Sharing::new(Arc::clone(&dyn_bus), topics.clone(), None);
        let (positions, shown) = (watch::Sender::new(None), Shown::default());
        let trimmer =
            Trimmer { bus: dyn_bus, retention, topics, sharing, metrics, holder: holder_is, positions, shown };
        let setup = Self { bus, trimmer, holder, idle: BTreeMap::new(), _dir: dir };
        setup.topic("shop.web.order", false).await;
        setup
    }

    async fn topic(&self, topic: &str, keep: bool) {
        let name = TopicName::parse(topic);
        self.bus.declare(&TopicSpec { name: name.clone(), partitions: 1 }).await.unwrap();
        self.trimmer.topics.0.lock().topics.insert(name, KnownTopic { partitions: 1, keep });
    }

    async fn publish(&self, topic: &str, count: usize) {
        let event = Event::builder("1", "/web", "order").data(vec![b'x'; 1000]).build().unwrap();
        for _ in 0..count / 10 {
            let receipt = self.bus.publish(&partition(topic), vec![event.clone(); 10]).await.unwrap();
            assert!(receipt.await.iter().all(Result::is_ok));
        }
    }

    async fn position(&mut self, name: &str, upto: u128, open: Option<u128>, running: bool) {
        self.position_in("shop.web.order", name, upto, open, running).await;
    }

    async fn position_in(&mut self, topic: &str, name: &str, upto: u128, open: Option<u128>, running: bool) {
        let name = LedgerName { subscription: id(name), partition: partition(topic) };
        let mut ledger = Ledger::starting_at(Position(upto));
        if let Some(open) = open {
            ledger.matched(Position(open), Open { last: Millis(1), ..Open::default() });
        }
        let put = Put { key: name.key(), value: Some(ledger.encode(&name)), expect: Expect::Any };
        self.bus.store(vec![put]).await.unwrap();
        if running {
            self.trimmer.topics.0.lock().running.insert(name.subscription, 1);
        }
    }

    async fn pass(&mut self, full: bool) {
        self.trimmer.pass(full, &mut self.idle).await.unwrap();
    }

    fn lost(&self, name: &str) -> i64 {
        self.trimmer.metrics.lost.with_label_values(&labels(&id(name))).get()
    }

    async fn first(&self, topic: &str) -> u128 {
        self.bus.locate(&[(partition(topic), From::First)]).await.unwrap()[0].first.0
    }
}

#[tokio::test]
async fn what_somebody_needs_stays_and_what_all_have_acked_goes() {
    let mut setup = Setup::new(NO_REPLAY).await;
    setup.publish("shop.web.order", 500).await;
    setup.position("fast", 500, None, true).await;
    setup.position("slow", 400, Some(200), true).await;
    setup.pass(false).await;
    let first = setup.first("shop.web.order").await;
    assert!((150..=200).contains(&first), "{first}");
    setup.position("slow", 400, None, true).await;
    setup.pass(false).await;
    let first = setup.first("shop.web.order").await;
    assert!((350..=400).contains(&first), "{first}");
    let gauge = |name: &str| setup.trimmer.metrics.lag.with_label_values(&labels(&id(name))).get();
    assert_eq!((gauge("fast"), gauge("slow")), (0, 100));
}

#[tokio::test]
async fn what_is_acked_stays_for_replay_by_age_and_bytes() {
    let day = Duration::from_secs(24 * 60 * 60);
    let mut setup = Setup::new(Retention { replay_age: day, replay_bytes: 150_000, ..NO_REPLAY }).await;
    setup.position("a", 0, None, true).await;
    setup.publish("shop.web.order", 100).await;
    setup.position("a", 100, None, true).await;
    setup.pass(false).await;
    assert_eq!(setup.first("shop.web.order").await, 0);
    setup.publish("shop.web.order", 400).await;
    setup.position("a", 450, None, true).await;
    setup.pass(false).await;
    let first = setup.first("shop.web.order").await;
    assert!((300..=400).contains(&first), "{first}");
}

#[tokio::test]
async fn a_full_bus_gives_up_replay_first_and_names_who_holds_the_rest() {
    let mut setup = Setup::new(Retention::default()).await;
    setup.publish("shop.web.order", 300).await;
    setup.position("fast", 300, None, true).await;
    setup.position("slow", 100, None, true).await;
    setup.pass(false).await;
    assert_eq!((setup.first("shop.web.order").await, setup.holder.borrow().clone()), (0, None));
    setup.pass(true).await;
    let first = setup.first("shop.web.order").await;
    assert!((60..=100).contains(&first), "{first}");
    let holder = setup.holder.borrow().clone().unwrap();
    assert_eq!((holder.subscription, holder.events, holder.running), (id("slow"), 200, true));
    setup.pass(false).await;
    assert_eq!(*setup.holder.borrow(), None);
}

#[tokio::test]
async fn a_topic_that_is_nearly_full_gives_up_its_own_replay_and_no_other_s() {
    let (order, refund) = ("shop.web.order", "shop.web.refund");
    let max_bytes = Some(MaxBytes::EachTopic(500_000));
    let mut setup = Setup::new(Retention { max_bytes, ..Retention::default() }).await;
    setup.topic(refund, false).await;
    setup.publish(order, 300).await;
    setup.publish(refund, 300).await;
    setup.position("a", 300, None, true).await;
    setup.position_in(refund, "b", 200, None, true).await;
    // Together they hold more than one of them may.
    setup.pass(false).await;
    assert_eq!((setup.first(order).await, setup.first(refund).await, setup.holder.borrow().clone()), (0, 0, None));
    setup.publish(order, 300).await;
    setup.position("a", 550, None, true).await;
    setup.pass(false).await;
    let first = setup.first(order).await;
    assert!((150..=350).contains(&first), "{first}");
    assert_eq!(setup.first(refund).await, 0);
    let holder = setup.holder.borrow().clone().unwrap();
    assert_eq!((holder.subscription, holder.events), (id("a"), 50), "b holds more, where there is room");

    setup.trimmer.retention.max_bytes = Some(MaxBytes::Together(500_000));
    setup.pass(false).await;
    let first = setup.first(refund).await;
    assert!((1..=200).contains(&first), "{first}");
    assert_eq!(setup.holder.borrow().clone().unwrap().subscription, id("b"));
}

#[tokio::test]
async fn one_that_runs_nowhere_holds_space_up_to_max_age_and_its_loss_shows_until_it_runs() {
    let mut setup = Setup::new(Retention { max_age: Some(Duration::ZERO), ..NO_REPLAY }).await;
    setup.publish("shop.web.order", 300).await;
    setup.position("running", 200, None, true).await;
    setup.position("orphan", 0, None, false).await;
    // It may only be about to start.
    setup.pass(false).await;
    assert_eq!(setup.first("shop.web.order").await, 0);
    setup.idle.insert(id("orphan"), Instant::now().checked_sub(ORPHANED_AFTER).unwrap());
    setup.pass(false).await;
    let first = setup.first("shop.web.order").await;
    assert!((150..=200).contains(&first), "{first}");
    // However often it is looked at, and by whom.
    for _ in 0..2 {
        setup.pass(false).await;
        assert_eq!(setup.lost("orphan") as u128, first);
        setup.trimmer.shown = Shown::default();
    }
    assert_eq!(setup.lost("running"), 0);
    // What moves the position counts it.
    setup.position("orphan", first, None, true).await;
    setup.pass(false).await;
    assert_eq!(setup.lost("orphan"), 0);
    let dropped = setup.trimmer.metrics.dropped.with_label_values(&labels(&id("orphan")));
    assert_eq!(dropped.get(), 0);
}

#[tokio::test]
async fn what_waits_for_a_retry_of_one_that_runs_nowhere_shows_as_lost_with_the_rest() {
    let mut setup = Setup::new(Retention { max_age: Some(Duration::ZERO), ..NO_REPLAY }).await;
    setup.publish("shop.web.order", 300).await;
    setup.position("orphan", 20, Some(10), false).await;
    setup.idle.insert(id("orphan"), Instant::now().checked_sub(ORPHANED_AFTER).unwrap());
    setup.pass(false).await;
    let first = setup.first("shop.web.order").await;
    assert!(first > 200, "{first}");
    setup.pass(false).await;
    assert_eq!(setup.lost("orphan") as u128, first - 20 + 1);
    let held = setup.trimmer.metrics.held.with_label_values(&labels(&id("orphan"))).get();
    assert_eq!(held as u128, 300 - first);
}

#[tokio::test]
async fn dead_letters_wait_for_a_reader_and_other_topics_do_not() {
    let mut setup = Setup::new(NO_REPLAY).await;
    setup.topic("_evoke.deadletters", true).await;
    setup.publish("_evoke.deadletters", 200).await;
    setup.publish("shop.web.order", 200).await;
    setup.pass(true).await;
    assert_eq!(setup.first("_evoke.deadletters").await, 0);
    assert!(setup.first("shop.web.order").await > 100);
}

#[tokio::test]
async fn a_job_keeps_what_it_needs_and_gives_up_nothing_for_others() {
    let mut setup = Setup::new(NO_REPLAY).await;
    setup.publish("shop.web.order", 500).await;
    setup.position("a", 500, None, true).await;
    setup.position("a~job", 300, Some(200), true).await;
    setup.topic("_evoke.deadletters", true).await;
    setup.publish("_evoke.deadletters", 500).await;
    setup.position_in("_evoke.deadletters", "a~other", 400, None, true).await;
    setup.pass(true).await;
    let first = setup.first("shop.web.order").await;
    assert!((150..=200).contains(&first), "{first}");
    assert_eq!(setup.first("_evoke.deadletters").await, 0, "the letters of others are still listed");
}

#[tokio::test]
async fn a_job_that_another_process_runs_is_no_orphan() {
    let mut setup = Setup::new(Retention { max_age: Some(Duration::ZERO), ..NO_REPLAY }).await;
    setup.publish("shop.web.order", 300).await;
    setup.position("a", 300, None, true).await;
    setup.position("a~job", 100, None, false).await;
    let work = job::Work::Replay { to: None, login: false, only: None };
    let job = job::Job::new(job::JobId("job".into()), &id("a"), work, Vec::new());
    job::create(&*setup.bus, &job::Job { state: State::Running, ..job }).await.unwrap();
    setup.idle.insert(id("a~job"), Instant::now().checked_sub(ORPHANED_AFTER).unwrap());
    setup.pass(false).await;
    let first = setup.first("shop.web.order").await;
    assert!((50..=100).contains(&first), "{first}");
}

#[tokio::test]
async fn nothing_is_trimmed_while_a_position_cannot_be_read() {
    let mut setup = Setup::new(NO_REPLAY).await;
    setup.publish("shop.web.order", 300).await;
    let newer = Put { key: "ledger/a/b/c/d/0".into(), value: Some(vec![9].into()), expect: Expect::Any };
    setup.bus.store(vec![newer]).await.unwrap();
    let error = setup.trimmer.pass(true, &mut setup.idle).await.unwrap_err();
    assert!(matches!(&error, BusError::Broken(text) if text.contains("version 9")), "{error}");
    assert_eq!(setup.first("shop.web.order").await, 0);
}
