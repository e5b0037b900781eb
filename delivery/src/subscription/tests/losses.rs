//! What the log has lost.

use super::memory::NO_EVENT;
use super::*;

const DROPPED: &str = "evoke_subscription_dropped_total";

/// Appends events of these numbers, which are those of the log, too.
fn append(bus: &MemoryBus, numbers: std::ops::Range<usize>) {
    bus.append(&partition("order"), numbers.map(event).collect());
}

/// Gives up all events before this number.
async fn cut(bus: &MemoryBus, number: u64) {
    // The last one below what is needed stays.
    bus.trim(&partition("order"), bus.position(number + 1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_counted_to_the_event_where_positions_do_not_tell() {
    let (plan, bus) = (plan("a"), MemoryBus::sparse());
    let process = Process::start(&bus);
    process.declare(&plan).await;
    append(&bus, 0..100);
    cut(&bus, 40).await;
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    sink.attempts(60).await;
    assert_eq!((sink.ids(), process.metric(DROPPED, "a")), (ids(40..100), 40.0));
    lane.drain().await;
    // Twice while it does not run: what it goes on from is what it has evaluated.
    append(&bus, 100..200);
    cut(&bus, 120).await;
    cut(&bus, 150).await;
    let lane = process.run(&plan, &sink);
    sink.attempts(110).await;
    assert_eq!((sink.ids().split_off(60), process.metric(DROPPED, "a")), (ids(150..200), 90.0));
    lane.drain().await;
    // Another process knows it from the ledger.
    append(&bus, 200..220);
    cut(&bus, 219).await;
    let other = Process::start(&bus);
    let lane = other.run(&plan, &sink);
    sink.attempts(111).await;
    assert_eq!((other.metric(DROPPED, "a"), process.metric(DROPPED, "a")), (19.0, 90.0));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_and_was_passed_over_is_not_lost() {
    let (plan, bus) = (plan("a"), MemoryBus::sparse());
    let process = Process::start(&bus);
    process.declare(&plan).await;
    let no_event = |n: usize| Event::builder(n.to_string(), "/web", NO_EVENT).build().unwrap();
    let some = (0..10).map(|n| if n % 3 == 0 { no_event(n) } else { event(n) });
    bus.append(&partition("order"), some.collect());
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    sink.attempts(6).await;
    lane.drain().await;
    append(&bus, 10..20);
    cut(&bus, 15).await;
    let lane = process.run(&plan, &sink);
    sink.attempts(11).await;
    assert_eq!((sink.ids().split_off(6), process.metric(DROPPED, "a")), (ids(15..20), 5.0));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_began_in_the_middle_of_a_log_counts_from_where_it_has_caught_up() {
    let (plan, bus) = (plan("a"), MemoryBus::sparse());
    let process = Process::start(&bus);
    process.subscriptions.declare_topic(&topic("order")).await.unwrap();
    append(&bus, 0..100);
    declare(&process.subscriptions, &plan, From::At(bus.position(50))).await.unwrap();
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    sink.attempts(50).await;
    lane.drain().await;
    append(&bus, 100..120);
    cut(&bus, 110).await;
    let lane = process.run(&plan, &sink);
    sink.attempts(60).await;
    assert_eq!((sink.ids().split_off(50), process.metric(DROPPED, "a")), (ids(110..120), 10.0));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_trimmed_unread_is_counted_and_passed() {
    let plan = plan("a");
    let (bus, process) = waiting(100, &plan).await;
    bus.trim(&partition("order"), Position(40)).await.unwrap();
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    sink.attempts(60).await;
    assert_eq!(sink.ids(), ids(40..100));
    assert_eq!(process.metric("evoke_subscription_dropped_total", "a"), 40.0);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_parked_event_that_was_trimmed_is_counted_and_passed() {
    let plan = plan("a");
    let (bus, process) = waiting(3, &plan).await;
    let fails = Script::fails();
    let lane = process.run(&plan, &fails);
    fails.attempts(12).await;
    bus.trim(&partition("order"), Position(2)).await.unwrap();
    sleep(4 * SECOND).await;
    assert_eq!(process.metric("evoke_subscription_dropped_total", "a"), 2.0);
    assert_eq!(ledger(&bus, "a").await.open().keys().collect::<Vec<_>>(), [&Position(2)]);
    lane.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_end_is_read_from_its_new_end_on() {
    let plan = plan("a");
    let (bus, process) = waiting(10, &plan).await;
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    sink.attempts(10).await;
    lane.drain().await;
    bus.cut(&partition("order"), 5);
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    sleep(SECOND).await;
    bus.append(&partition("order"), (20..23).map(event).collect());
    sink.attempts(13).await;
    assert_eq!(sink.ids()[10..], ["20", "21", "22"]);
    lane.drain().await;
}
