//! Several processes on one bus, in simulated time: they come, are killed, are cut off, leave and come back, by seed.

use std::collections::BTreeMap;

use evoke_api::names::SubscriptionId;
use evoke_eventbus::faulty::{Faults, FaultyBus};
use evoke_eventbus::subscription::Settings;
use evoke_eventbus::subscription::control::Control;
use evoke_eventbus::subscription::partition_of;
use evoke_eventbus::subscription::sharing::beats::Place;
use evoke_eventbus::subscription::sharing::document::{Document, Unit};
use evoke_eventbus::subscription::sharing::{Group, Terms, Timing, onlooker};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::memory::Link;
use super::*;
use crate::sink::Sink;
use crate::sinks::Outputs;

mod lost_state;

const PARTITIONS: u16 = 8;
const GROUP: &str = "sharing/groups/trigger/shop/orders";

async fn document(bus: &MemoryBus) -> Document {
    let entries = bus.load(GROUP).await.unwrap();
    entries.first().map_or_else(Document::default, |entry| Document::decode(&entry.value).unwrap())
}

/// A sink as one process sees it: nothing may be delivered by a process that does not own it.
struct Watched {
    process: Arc<str>,
    bus: Arc<MemoryBus>,
    script: Arc<Script>,
    whole: Option<Arc<str>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Sink for Watched {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome> {
        async move {
            let document = document(&self.bus).await;
            let unit = match &self.whole {
                Some(name) => Unit::Whole(Arc::clone(name)),
                None => Unit::Partition(partition_of(event, PARTITIONS)),
            };
            let owner = document.owners.get(&unit);
            if owner != Some(&self.process) {
                let id = event.id();
                self.wrong.lock().push(format!("{} delivers {id} of {unit:?}, which {owner:?} owns", self.process));
            }
            self.script.deliver(event).await
        }
        .boxed()
    }

    fn destination(&self) -> &str {
        "http://script.test/"
    }
}

/// One process at work on one subscription.
struct Node {
    process: Process,
    link: Arc<Link>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    progress: Progress,
}

impl Node {
    /// As `kill -9`.
    async fn kill(self) {
        self.task.abort();
        _ = self.task.await;
        drop(self.process);
    }

    /// As SIGTERM.
    async fn leave(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.process.subscriptions.close().await;
    }
}

/// A bus, and what all processes do on it.
struct World {
    bus: Arc<MemoryBus>,
    plan: Arc<SubscriptionPlan>,
    script: Arc<Script>,
    whole: bool,
    wrong: Arc<Mutex<Vec<String>>>,
    published: usize,
}

impl World {
    async fn new(plan: SubscriptionPlan, script: &Arc<Script>, whole: bool) -> Self {
        let (bus, wrong) = (MemoryBus::new(), Arc::default());
        let world = Self { bus, plan: Arc::new(plan), script: script.clone(), whole, wrong, published: 0 };
        let first = world.start("first", 0, Faults::NONE).await;
        first.leave().await;
        assert_eq!(document(&world.bus).await, Document::default(), "who leaves leaves nothing behind");
        assert!(world.bus.load("sharing/beats/").await.unwrap().is_empty());
        world
    }

    async fn start(&self, name: &str, seed: u64, faults: Faults) -> Node {
        self.start_in(name, name, seed, faults).await
    }

    /// A process of this name, on the data directory `place`.
    async fn start_in(&self, name: &str, place: &str, seed: u64, faults: Faults) -> Node {
        let cut = CancellationToken::new();
        let link = Link::new(&self.bus, &cut);
        let bus: Arc<dyn EventBus> = match faults {
            Faults::NONE => Arc::clone(&link) as _,
            faults => FaultyBus::new(Arc::clone(&link) as _, seed, faults),
        };
        let settings = Settings { partitions: PARTITIONS, ..Settings::default() };
        let place = Place { host: "test".into(), directory: place.into() };
        let terms = Terms { name: name.into(), place, timing: Timing::default() };
        let process = Process::sharing(bus, cut, settings, terms);
        while declare(&process.subscriptions, &self.plan, From::Next).await.is_err() {}
        let whole = self.whole.then(|| Arc::clone(&self.plan.id.subscriber));
        let (bus, script, wrong) = (self.bus.clone(), self.script.clone(), self.wrong.clone());
        let sink = Watched { process: name.into(), bus, script, whole, wrong };
        let supervisor = Supervisor::new(
            process.subscriptions.clone(),
            Arc::clone(&self.plan),
            Outputs { sink: Some(Arc::new(sink)), dead_letter: None, bucket: None },
            Box::new(|| Box::new(All)),
            &process.metrics,
            (Group::trigger(&self.plan.id.owner), self.whole),
        );
        let (progress, stop) = (supervisor.progress(), CancellationToken::new());
        #[allow(clippy::disallowed_methods, reason = "a test's own task")]
        let task = tokio::spawn(supervisor.run(stop.clone(), CancellationToken::new()).map(Result::unwrap));
        Node { process, link, stop, task, progress }
    }

    fn publish(&mut self, count: usize, keys: usize) {
        for n in self.published..self.published + count {
            let event = keyed(n, &format!("k{}", n % keys));
            let index = partition_of(&event, PARTITIONS);
            self.bus.append(&Partition { topic: topic("order"), index }, vec![event]);
        }
        self.published += count;
    }

    async fn delivered(&self) {
        let begin = tokio::time::Instant::now();
        while self.script.delivered().len() < self.published {
            assert!(begin.elapsed() < 300 * SECOND, "{} of {}", self.script.delivered().len(), self.published);
            sleep(SECOND).await;
        }
    }

    fn duplicates(&self) -> usize {
        self.script.duplicates()
    }

    /// The events of every key were delivered in their order, repeats aside.
    fn assert_order(&self, keys: usize) {
        self.script.assert_order(|n| n % keys);
    }

    fn assert_right(&self) {
        assert_eq!(*self.wrong.lock(), [] as [String; 0]);
    }
}

fn shared() -> SubscriptionPlan {
    let mut plan = plan("a");
    plan.policy.max_in_flight = 10;
    plan.policy.ordering = Ordering::PartitionKey;
    plan
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begin = tokio::time::Instant::now();
    while !is().await {
        assert!(begin.elapsed() < 60 * SECOND, "{what}");
        sleep(50 * MS).await;
    }
}

fn part(node: &Node) -> usize {
    let allotment = node.progress.allotment();
    (0..PARTITIONS).filter(|index| allotment.work().contains(*index)).count()
}

#[tokio::test(start_paused = true)]
async fn three_processes_divide_the_work_and_moves_repeat_nothing() {
    let script = Script::takes(30 * MS);
    let mut world = World::new(shared(), &script, false).await;
    let one = world.start("one", 1, Faults::NONE).await;
    until("one has it all", async || part(&one) == 8).await;
    world.publish(400, 40);
    let two = world.start("two", 2, Faults::NONE).await;
    let three = world.start("three", 3, Faults::NONE).await;
    until("all have their share", async || {
        let parts = [part(&one), part(&two), part(&three)];
        parts.iter().sum::<usize>() == 8 && parts.iter().all(|part| (2..=3).contains(part))
    })
    .await;
    world.publish(400, 40);
    world.delivered().await;
    let others = one.progress.allotment().others;
    assert_eq!(others.keys().map(|name| &**name).collect::<Vec<_>>(), ["three", "two"]);
    two.leave().await;
    world.publish(400, 40);
    world.delivered().await;
    until("two have it all", async || part(&one) == 4 && part(&three) == 4).await;
    one.leave().await;
    three.leave().await;
    assert_eq!(world.duplicates(), 0);
    world.assert_order(40);
    world.assert_right();
}

#[tokio::test(start_paused = true)]
async fn who_dies_is_replaced_within_seconds_and_repeats_little() {
    let script = Script::takes(30 * MS);
    let mut world = World::new(shared(), &script, false).await;
    let (one, two) = (world.start("one", 1, Faults::NONE).await, world.start("two", 2, Faults::NONE).await);
    until("both have half", async || part(&one) == 4 && part(&two) == 4).await;
    world.publish(200, 40);
    script.attempts(50).await;
    two.kill().await;
    let killed = tokio::time::Instant::now();
    until("one has it all", async || part(&one) == 8).await;
    let took = killed.elapsed();
    assert!(took > 7 * SECOND && took < 13 * SECOND, "{took:?}");
    world.delivered().await;
    assert!(world.duplicates() <= 2 * 10, "{}", world.duplicates());
    one.leave().await;
    world.assert_order(40);
    world.assert_right();
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_its_own_back_at_once() {
    let script = Script::takes(30 * MS);
    let mut world = World::new(shared(), &script, false).await;
    let (one, two) = (world.start("one", 1, Faults::NONE).await, world.start("two", 2, Faults::NONE).await);
    until("both have half", async || part(&one) == 4 && part(&two) == 4).await;
    let before = two.progress.allotment().mine;
    two.kill().await;
    let killed = tokio::time::Instant::now();
    let two = world.start("two", 3, Faults::NONE).await;
    until("two has its own", async || part(&two) == 4).await;
    assert!(killed.elapsed() < SECOND, "{:?}", killed.elapsed());
    assert_eq!(two.progress.allotment().mine, before);
    world.publish(100, 10);
    world.delivered().await;
    assert_eq!(world.duplicates(), 0);
    one.leave().await;
    two.leave().await;
    world.assert_right();
}

/// Cut off from the bus, but neither from what it has read nor from the sink: it has to stop by itself.
#[tokio::test(start_paused = true)]
async fn zombie_after_sigstop() {
    let script = Script::takes(200 * MS);
    let mut world = World::new(shared(), &script, false).await;
    let (one, two) = (world.start("one", 1, Faults::NONE).await, world.start("two", 2, Faults::NONE).await);
    until("both have half", async || part(&one) == 4 && part(&two) == 4).await;
    world.publish(2000, 400);
    script.attempts(50).await;
    two.link.stalled.send_replace(true);
    until("two has noticed", async || part(&two) == 0).await;
    until("one has it all", async || part(&one) == 8).await;
    world.publish(200, 400);
    sleep(5 * SECOND).await;
    two.link.stalled.send_replace(false);
    until("two is back", async || part(&one) == 4 && part(&two) == 4).await;
    world.publish(200, 400);
    world.delivered().await;
    assert!(world.duplicates() <= 2 * 10, "{}", world.duplicates());
    one.leave().await;
    two.leave().await;
    world.assert_order(400);
    world.assert_right();
}

#[tokio::test(start_paused = true)]
async fn a_copied_data_directory_is_refused_by_name_and_the_first_goes_on() {
    let script = Script::takes(MS);
    let mut world = World::new(shared(), &script, false).await;
    let one = world.start_in("evoke-1", "/srv/one", 1, Faults::NONE).await;
    until("one has it all", async || part(&one) == 8).await;
    let copy = world.start_in("evoke-1", "/srv/copy", 2, Faults::NONE).await;
    let mut refused = copy.process.subscriptions.refused();
    let why = refused.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    for part in ["evoke-1", "/srv/one", "/srv/copy", "INSTANCE"] {
        assert!(why.contains(part), "{why}");
    }
    world.publish(100, 10);
    world.delivered().await;
    assert_eq!((part(&one), part(&copy), world.duplicates()), (8, 0, 0));
    copy.leave().await;
    assert_eq!(part(&one), 8);
    one.kill().await;
    // A directory that was moved is no copy: its name is free once the last beat is old.
    let moved = world.start_in("evoke-1", "/srv/moved", 3, Faults::NONE).await;
    until("it has taken its name", async || part(&moved) == 8).await;
    assert_eq!(*moved.process.subscriptions.refused().borrow(), None);
    moved.leave().await;
    world.assert_right();
}

#[tokio::test(start_paused = true)]
async fn park_survives_kill() {
    let mut plan = shared();
    plan.policy.retry = 8;
    let script = Script::new(|_, before| (Duration::ZERO, if before < 6 { failure(503) } else { Outcome::Delivered }));
    let mut world = World::new(plan, &script, false).await;
    let (one, two) = (world.start("one", 1, Faults::NONE).await, world.start("two", 2, Faults::NONE).await);
    until("both have half", async || part(&one) == 4 && part(&two) == 4).await;
    world.publish(20, 20);
    // The fifth attempt is due more than a second later: all of them are put aside.
    script.attempts(4 * 20).await;
    sleep(SECOND).await;
    two.kill().await;
    world.delivered().await;
    one.leave().await;
    assert_eq!((world.duplicates(), world.bus.events(&store()).len()), (0, 0));
    assert_eq!(script.log.lock().len(), 7 * 20, "no attempt was forgotten, and none made twice");
    world.assert_right();
}

#[tokio::test(start_paused = true)]
async fn a_paused_subscription_rests_in_all_processes() {
    let script = Script::takes(MS);
    let mut world = World::new(shared(), &script, false).await;
    let (one, two) = (world.start("one", 1, Faults::NONE).await, world.start("two", 2, Faults::NONE).await);
    until("both have half", async || part(&one) == 4 && part(&two) == 4).await;
    one.process.subscriptions.control(&id("a"), Control { paused: true }).await.unwrap();
    until("both rest", async || part(&one) + part(&two) == 0).await;
    assert!(one.progress.allotment().paused && two.progress.waits_for().is_none());
    world.publish(100, 10);
    sleep(5 * SECOND).await;
    assert_eq!(script.delivered().len(), 0);
    two.process.subscriptions.control(&id("a"), Control::default()).await.unwrap();
    world.delivered().await;
    assert_eq!(world.duplicates(), 0);
    one.leave().await;
    two.leave().await;
}

#[tokio::test(start_paused = true)]
async fn join_over_move() {
    let script = Script::takes(10 * MS);
    let mut world = World::new(shared(), &script, true).await;
    let mut nodes = BTreeMap::new();
    for name in ["one", "two", "three"] {
        nodes.insert(name, world.start(name, 1, Faults::NONE).await);
    }
    for _ in 0..2 {
        let mut owner = None;
        until("one has all of it", async || {
            owner = document(&world.bus).await.owners.into_values().next();
            owner.as_ref().is_some_and(|name| nodes.get(&**name).is_some_and(|node| part(node) == 8))
        })
        .await;
        let working = nodes.values().filter(|node| part(node) > 0).count();
        assert_eq!(working, 1);
        world.publish(200, 20);
        script.attempts(world.published - 150).await;
        nodes.remove(&*owner.unwrap()).unwrap().kill().await;
    }
    world.delivered().await;
    assert!(world.duplicates() <= 2 * 2 * 10, "{}", world.duplicates());
    world.assert_right();
}

#[tokio::test(start_paused = true)]
async fn an_onlooker_knows_who_works_on_a_subscription_and_who_is_dead() {
    let world = World::new(shared(), &Script::takes(MS), false).await;
    let worker = async || onlooker::worker(&*world.bus, &world.plan.id, Timing::default()).await.unwrap();
    assert_eq!(worker().await, None);
    let one = world.start_in("one", "/data/1", 1, Faults::NONE).await;
    until("one has it all", async || part(&one) == 8).await;
    let found = worker().await.unwrap();
    assert!(found.starts_with("one, which is process ") && found.ends_with("the data directory /data/1"), "{found}");
    let other = SubscriptionId { subscriber: "b".into(), ..world.plan.id.clone() };
    assert_eq!(onlooker::worker(&*world.bus, &other, Timing::default()).await.unwrap(), None);
    // Nothing of what it does while it ends reaches the bus.
    one.link.cut.cancel();
    one.kill().await;
    let begin = tokio::time::Instant::now();
    assert_eq!(worker().await, None);
    assert!(begin.elapsed() >= Timing::default().dead, "what stands still may only be slow");
    let two = world.start("two", 2, Faults::NONE).await;
    until("two has it all", async || part(&two) == 8).await;
    two.leave().await;
    let begin = tokio::time::Instant::now();
    assert_eq!(worker().await, None);
    assert!(begin.elapsed() < SECOND, "who left is not waited for");
}

/// Chance by seed, the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// Processes come and go in every way there is, on a bus that fails; at the end everything has arrived, in order, from whoever owned
/// it, and only what was under way at a kill or a cut was repeated.
async fn chaos(seed: u64, whole: bool) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let script = Script::takes(20 * MS);
    let mut world = World::new(shared(), &script, whole).await;
    let names = ["a", "b", "c"];
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    let mut cuts = 0;
    for step in 0..40 {
        let name = names[dice.roll(3)];
        match (dice.roll(6), nodes.remove(name)) {
            (_, None) => {
                nodes.insert(name, world.start(name, seed * 1000 + step, Faults::OFTEN).await);
            }
            (0, Some(node)) => {
                cuts += 1;
                node.kill().await;
            }
            (1, Some(node)) => {
                // Who leaves waits for the bus to take its last positions.
                node.link.stalled.send_replace(false);
                node.leave().await;
            }
            (2, Some(node)) => {
                let stalled = node.link.stalled.send_replace(true);
                cuts += usize::from(!stalled);
                nodes.insert(name, node);
            }
            (_, Some(node)) => {
                node.link.stalled.send_replace(false);
                nodes.insert(name, node);
            }
        }
        world.publish(dice.roll(60), 30);
        sleep(MS * dice.roll(6000) as u32).await;
    }
    if nodes.is_empty() {
        nodes.insert("a", world.start("a", seed, Faults::OFTEN).await);
    }
    for node in nodes.values() {
        node.link.stalled.send_replace(false);
    }
    world.delivered().await;
    for node in nodes.into_values() {
        node.leave().await;
    }
    world.assert_right();
    world.assert_order(30);
    // A lost answer of the bus may have a beat come too late as well; a cut is then counted twice.
    let allowed = 2 * (cuts + 1) * 2 * 10;
    assert!(world.duplicates() <= allowed, "{} of {allowed}", world.duplicates());
}

#[test]
fn one_owner_and_conservation_whatever_happens() {
    by_seed(40, |seed| chaos(seed, false));
}

#[test]
fn one_owner_of_a_join_whatever_happens() {
    by_seed(20, |seed| chaos(seed, true));
}
