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

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_end_and_was_written_to_since_is_read_from_there_on() {
    let mut plan = plan("a");
    plan.policy.delay = 3600 * SECOND;
    plan.policy.delay_max = 3600 * SECOND;
    let (bus, process) = waiting(10, &plan).await;
    let sink = Script::new(|event, _| (MS, if event.id() == "7" { failure(503) } else { Outcome::Delivered }));
    let lane = process.run(&plan, &sink);
    sink.attempts(10).await;
    lane.drain().await;
    sleep(SECOND).await;
    // Others have written more than was lost by the time that somebody looks.
    bus.cut(&partition("order"), 5);
    bus.append(&partition("order"), (20..30).map(event).collect());
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    sink.attempts(20).await;
    assert_eq!(sink.ids()[10..], ids(20..30));
    // What waited for a retry beyond the copy's end is none of what is there now.
    assert_eq!(process.metric(DROPPED, "a"), 1.0);
    lane.drain().await;
    let ledger = ledger(&bus, "a").await;
    assert_eq!((ledger.upto(), ledger.open().len()), (Position(15), 0));
    // Nothing has changed since.
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    bus.append(&partition("order"), vec![event(30)]);
    sink.attempts(21).await;
    assert_eq!((sink.ids()[20..].to_vec(), process.metric(DROPPED, "a")), (ids(30..31), 0.0));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_place_of_a_parked_event_by_now_is_not_taken_for_it() {
    let mut plan = plan("a");
    plan.policy.delay = 5 * SECOND;
    let (bus, process) = waiting(5, &plan).await;
    let sink = Script::new(|event, _| (MS, if event.id() == "3" { failure(503) } else { Outcome::Delivered }));
    let lane = process.run(&plan, &sink);
    sink.attempts(5).await;
    sleep(SECOND).await;
    bus.cut(&partition("order"), 3);
    bus.append(&partition("order"), (30..32).map(event).collect());
    sleep(10 * SECOND).await;
    assert_eq!((sink.ids(), process.metric(DROPPED, "a")), (ids(0..5), 1.0));
    lane.drain().await;
    assert_eq!(ledger(&bus, "a").await.open().len(), 0);
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    sink.attempts(7).await;
    assert_eq!((sink.ids()[5..].to_vec(), process.metric(DROPPED, "a")), (ids(30..32), 0.0));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_parked_event_that_somebody_deleted_at_the_end_of_the_log_holds_up_no_other() {
    let mut plan = plan("a");
    plan.policy.delay = 5 * SECOND;
    let (bus, process) = waiting(5, &plan).await;
    let sink = Script::new(|event, before| {
        let fails = before == 0 && ["2", "3", "4"].contains(&event.id());
        (MS, if fails { failure(503) } else { Outcome::Delivered })
    });
    let lane = process.run(&plan, &sink);
    sink.attempts(5).await;
    sleep(SECOND).await;
    for at in [3, 4] {
        bus.delete(&partition("order"), Position(at));
    }
    sink.attempts(6).await;
    assert_eq!(sink.delivered().keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    // Each may be waited for before it is known.
    sleep(60 * SECOND).await;
    assert_eq!(process.metric(DROPPED, "a"), 2.0);
    let ledger = ledger(&bus, "a").await;
    assert_eq!((ledger.upto(), ledger.open().len()), (Position(5), 0));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn damage_takes_nothing_that_waits_before_it() {
    let mut plan = plan("a");
    plan.policy.delay = 5 * SECOND;
    let (bus, process) = waiting(5, &plan).await;
    let sink = Script::new(|event, before| {
        (MS, if before == 0 && event.id() == "1" { failure(503) } else { Outcome::Delivered })
    });
    let lane = process.run(&plan, &sink);
    sink.attempts(5).await;
    bus.damage(&partition("order"), 6..8);
    append(&bus, 5..10);
    sink.attempts(8).await;
    assert_eq!(sink.ids()[5..], ["5", "8", "9"]);
    assert_eq!(process.metric(DROPPED, "a"), 2.0);
    sink.attempts(9).await;
    assert_eq!((sink.ids()[8..].to_vec(), process.metric(DROPPED, "a")), (ids(1..2), 2.0));
    lane.drain().await;
    // Nor does it keep a window from being read again.
    bus.damage(&partition("order"), 8..9);
    plan.policy.deduplication_window = Some(3600 * SECOND);
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    append(&bus, 10..11);
    sink.attempts(10).await;
    assert_eq!((sink.ids()[9..].to_vec(), process.metric(DROPPED, "a")), (ids(10..11), 0.0));
    lane.drain().await;
}
