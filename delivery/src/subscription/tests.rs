use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use evoke_api::limits;
use evoke_eventbus::bus::{EventBus, Expect, From, Partition, Position, Put, Record};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::Ledger;
use parking_lot::Mutex;

use super::*;
use crate::plan::{DeadLetterPlan, DeliveryPolicy, Ordering, SubscriptionPlan};
use crate::sink::Outcome;
use memory::MemoryBus;
use seeds::by_seed;
use setup::*;

mod crash;
mod embedded;
mod letters;
mod losses;
mod memory;
mod merge;
mod order;
mod pacing;
mod panics;
mod repeats;
mod replies;
mod retries;
mod seeds;
mod setup;
mod sharing;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A subscription that is declared and has `count` events waiting.
async fn waiting(count: usize, plan: &SubscriptionPlan) -> (Arc<MemoryBus>, Process) {
    let bus = MemoryBus::new();
    let process = Process::start(&bus);
    process.declare(plan).await;
    bus.append(&partition("order"), (0..count).map(event).collect());
    (bus, process)
}

async fn ledger(bus: &MemoryBus, name: &str) -> Ledger {
    let entries = bus.load(&format!("ledger/shop/orders/{name}/")).await.unwrap();
    Ledger::decode(&entries[0].value).unwrap().1
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn delivers_what_comes_after_the_declaration_and_records_it() {
    let bus = MemoryBus::new();
    let process = Process::start(&bus);
    process.subscriptions.declare_topic(&topic("order")).await.unwrap();
    bus.append(&partition("order"), vec![event(0)]);
    let plan = plan("a");
    process.declare(&plan).await;
    bus.append(&partition("order"), vec![event(1)]);
    let sink = Script::takes(Duration::ZERO);
    let lane = process.run(&plan, &sink);
    sink.attempts(1).await;
    bus.append(&partition("order"), vec![event(2), event(3)]);
    sink.attempts(3).await;
    assert_eq!(sink.ids(), ["1", "2", "3"]);
    sleep(150 * MS).await;
    let ledger = ledger(&bus, "a").await;
    assert_eq!((ledger.upto(), ledger.count(), ledger.open().len()), (Position(4), 3, 0));
    let status = lane.status.snapshot();
    assert_eq!(status.positions, [(partition("order"), Position(4), 3)]);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn runs_as_many_deliveries_at_once_as_allowed() {
    let mut plan = plan("a");
    plan.policy.max_in_flight = 7;
    let (_, process) = waiting(50, &plan).await;
    let sink = Script::takes(10 * MS);
    let lane = process.run(&plan, &sink);
    sink.attempts(50).await;
    assert_eq!(sink.most_at_once(), 7);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_subscriber_does_not_delay_another() {
    let (good, bad) = (plan("good"), plan("bad"));
    let (bus, process) = waiting(0, &good).await;
    process.declare(&bad).await;
    let (takes, fails) = (Script::takes(MS), Script::fails());
    let lanes = [process.run(&bad, &fails), process.run(&good, &takes)];
    let begin = tokio::time::Instant::now();
    bus.append(&partition("order"), (0..5000).map(event).collect());
    takes.attempts(5000).await;
    // 100 at once and 1 ms each is 50 ms, and the ledger is written on the way.
    assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
    assert_eq!(takes.delivered().len(), 5000);
    for lane in lanes {
        lane.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn publishes_to_the_topic_after_the_sink_and_repeats_only_what_is_missing() {
    let mut plan = plan("a");
    plan.topic = Some(topic("copy"));
    let (bus, process) = waiting(2, &plan).await;
    bus.refuses_publish.store(true, Relaxed);
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    sink.attempts(2).await;
    sleep(SECOND).await;
    bus.refuses_publish.store(false, Relaxed);
    sleep(20 * SECOND).await;
    assert_eq!(bus.events(&partition("copy")).len(), 2);
    assert_eq!(sink.log.lock().len(), 2);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn every_event_is_accounted_for() {
    struct Thirds;
    impl Selector for Thirds {
        fn select(&mut self, _: usize, record: &Record) -> Verdict {
            match record.event.id().parse::<usize>().unwrap() % 4 {
                0 => Verdict::NoMatch,
                1 => Verdict::Waiting,
                2 => Verdict::Error("no such field".into()),
                _ => Verdict::Match,
            }
        }

        fn window(&self) -> Option<Duration> {
            None
        }

        fn observe(&mut self, _: usize, _: &Record) {}
    }
    let plan = plan("a");
    let (bus, process) = waiting(400, &plan).await;
    let sink = Script::new(|event, _| {
        let refused = event.id().parse::<usize>().unwrap().is_multiple_of(5);
        (MS, if refused { refusal(400) } else { Outcome::Delivered })
    });
    let lane = process.run_with(&plan, &sink, None, Box::new(Thirds));
    sink.attempts(100).await;
    sleep(SECOND).await;
    let verdict = |name| process.metric("evoke_verdicts_total", name);
    assert_eq!(["no_match", "waiting", "error", "match"].map(verdict), [100.0; 4]);
    let done = |name| process.metric("evoke_deliveries_total", name);
    assert_eq!(["delivered", "dead_lettered"].map(done), [80.0, 20.0]);
    assert_eq!(ledger(&bus, "a").await.count(), 400);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn positions_are_kept_when_a_subscription_is_declared_again() {
    let plan = plan("a");
    let (bus, process) = waiting(5, &plan).await;
    declare(&process.subscriptions, &plan, From::Next).await.unwrap();
    assert_eq!(ledger(&bus, "a").await.upto(), Position(0));
    let standing = process.subscriptions.list().await.unwrap();
    assert_eq!(standing.len(), 1);
    assert_eq!(standing[0].name.partition, Partition { topic: topic("order"), index: 0 });
    assert_eq!((standing[0].mark.unwrap().ahead, standing[0].running), (5, false));
}

#[tokio::test(start_paused = true)]
async fn a_position_that_cannot_be_read_is_tried_again_until_it_is_repaired() {
    let plan = plan("a");
    let (bus, process) = waiting(3, &plan).await;
    let good = bus.load("ledger/shop/orders/a/").await.unwrap().remove(0);
    let put = |value: bytes::Bytes| Put { key: good.key.clone(), value: Some(value), expect: Expect::Any };
    bus.store(vec![put(bytes::Bytes::from_static(b"\x63 of a newer evoke"))]).await.unwrap();
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    sleep(600 * SECOND).await;
    let status = lane.status.snapshot();
    assert!(!status.running);
    let error = status.last_error.unwrap();
    assert!(
        error.ends_with("a ledger of version 99, this evoke knows version 2: run the newer evoke that wrote it"),
        "{error}"
    );
    bus.store(vec![put(good.value.clone())]).await.unwrap();
    sink.attempts(3).await;
    let status = lane.status.snapshot();
    assert_eq!((sink.ids(), status.running, status.last_error), (ids(0..3), true, None));
    lane.drain().await;
}

#[test]
fn the_default_policy_is_the_documented_one() {
    let policy = DeliveryPolicy::default();
    assert_eq!((policy.retry, policy.max_in_flight, policy.timeout), (10, 100, 30 * SECOND));
}
