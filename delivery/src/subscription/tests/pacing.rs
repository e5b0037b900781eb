//! `rateLimit`. The clock is paused and moves only when nobody has anything to do: a lane that span while it waits would never end.

use super::*;
use crate::plan::RateLimit;

fn limited(events: u32, per: Duration, burst: u32) -> SubscriptionPlan {
    let mut plan = plan("a");
    plan.policy.rate_limit = Some(RateLimit { events, per, burst });
    plan
}

/// When the attempts began, since the first.
fn starts(sink: &Script) -> Vec<f64> {
    let log = sink.log.lock();
    log.iter().map(|attempt| (attempt.begun - log[0].begun).as_secs_f64()).collect()
}

#[track_caller]
fn within(starts: &[f64], rate: f64, burst: usize) {
    for (n, at) in starts.iter().enumerate().skip(burst) {
        let earliest = (n + 1 - burst) as f64 / rate;
        assert!((earliest - 0.001..earliest + 0.01).contains(at), "the {n}th started at {at}: {starts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_lets_a_burst_through_and_then_keeps_the_rate() {
    let mut plan = limited(5, SECOND, 5);
    plan.policy.max_in_flight = 2;
    let (_, process) = waiting(25, &plan).await;
    let sink = Script::takes(Duration::ZERO);
    let lane = process.run(&plan, &sink);
    sink.attempts(10).await;
    sleep(100 * MS).await;
    assert_eq!(lane.status.snapshot().in_flight, 0, "what waits has no place");
    sink.attempts(25).await;
    within(&starts(&sink), 5.0, 5);
    assert_eq!(sink.ids(), ids(0..25));
    let waited = process.metric("evoke_rate_limit_wait_seconds_total", "a");
    assert!((3.5..4.1).contains(&waited), "{waited}");
    // At rest, the bucket fills; nothing waits and nothing counts.
    sleep(3600 * SECOND).await;
    assert_eq!(process.metric("evoke_rate_limit_wait_seconds_total", "a"), waited);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn retries_count_and_dead_letters_do_not() {
    let mut plan = limited(2, SECOND, 1);
    plan.policy.retry = 2;
    plan.policy.delay = MS;
    let (bus, process) = waiting(4, &plan).await;
    let fails = Script::fails();
    let lane = process.run(&plan, &fails);
    fails.attempts(12).await;
    sleep(SECOND).await;
    within(&starts(&fails), 2.0, 1);
    assert_eq!(bus.events(&store()).len(), 4);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_gives_no_second_burst() {
    let plan = limited(10, SECOND, 10);
    let (_, process) = waiting(40, &plan).await;
    let sink = Script::takes(Duration::ZERO);
    let first = process.run(&plan, &sink);
    sink.attempts(12).await;
    // As with a reload: the next lane is made before the last one ends.
    let mut edited = plan.clone();
    edited.policy.retry = 3;
    let bucket = process.bucket(&edited);
    first.drain().await;
    let second = process.run(&edited, &sink);
    drop(bucket);
    sink.attempts(40).await;
    within(&starts(&sink), 10.0, 10);
    assert_eq!(sink.delivered().values().max(), Some(&1));
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_limited_subscription_holds_nobody_else_back_and_keeps_its_order() {
    let mut slow = limited(1, 60 * SECOND, 1);
    slow.policy.ordering = Ordering::PartitionKey;
    let (bus, process) = waiting(0, &slow).await;
    let free = plan("free");
    process.declare(&free).await;
    bus.append(&partition("order"), (0..2000).map(|n| keyed(n, "k")).collect());
    let (paced, sink) = (Script::takes(MS), Script::takes(Duration::ZERO));
    let lanes = [process.run(&slow, &paced), process.run(&free, &sink)];
    sink.attempts(2000).await;
    assert!(paced.log.lock().len() <= 2);
    paced.attempts(20).await;
    assert_eq!(paced.ids(), ids(0..20));
    within(&starts(&paced), 1.0 / 60.0, 1);
    for lane in lanes {
        lane.drain().await;
    }
}
