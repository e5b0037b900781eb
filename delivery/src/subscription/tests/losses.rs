//! What the log has lost.

use super::*;

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
