//! The order of a key.

use super::*;

#[tokio::test(start_paused = true)]
async fn keeps_the_order_of_a_key_over_failures_and_lets_other_keys_pass() {
    let mut plan = plan("a");
    plan.policy.ordering = Ordering::PartitionKey;
    let (bus, process) = waiting(0, &plan).await;
    bus.append(&partition("order"), (0..300).map(|n| keyed(n, &format!("k{}", n % 3))).collect());
    let sink = Script::new(|event, before| match (event.id(), before) {
        ("0" | "30", 0..4) => (3 * MS, failure(500)),
        ("60", 0) => (3 * MS, refusal(400)),
        (_, _) => (MS, Outcome::Delivered),
    });
    let lane = process.run(&plan, &sink);
    sink.attempts(308).await;
    let done = sink.ids();
    for key in 0..3 {
        let mut of_key: Vec<usize> = done.iter().map(|id| id.parse().unwrap()).filter(|n| n % 3 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
        of_key.dedup();
        assert_eq!(of_key, (key..300).step_by(3).collect::<Vec<_>>());
    }
    // The other keys did not wait for the failures of key 0.
    let first_of_key_0 = done.iter().position(|id| id == "3").unwrap();
    assert!(done.iter().filter(|id| id.parse::<usize>().unwrap() % 3 != 0).count() == 200);
    assert!(first_of_key_0 > 150, "{first_of_key_0}");
    assert!(sink.most_at_once() <= 3);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn order_of_a_key_survives_a_restart() {
    let mut plan = plan("a");
    plan.policy.ordering = Ordering::PartitionKey;
    let (bus, process) = waiting(0, &plan).await;
    bus.append(&partition("order"), (0..40).map(|n| keyed(n, "k")).collect());
    let fails = Script::fails();
    let lane = process.run(&plan, &fails);
    fails.attempts(5).await;
    sleep(SECOND).await;
    assert_eq!(fails.ids(), ["0"; 5]);
    lane.kill().await;
    let process = Process::start(&bus);
    let takes = Script::takes(MS);
    let lane = process.run(&plan, &takes);
    takes.attempts(40).await;
    assert_eq!(takes.ids(), ids(0..40));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn thousands_of_one_key_pass_in_order_through_a_fast_sink() {
    let mut plan = plan("a");
    plan.policy.ordering = Ordering::PartitionKey;
    let (bus, process) = waiting(0, &plan).await;
    bus.append(&partition("order"), (0..5000).map(|n| keyed(n, "k")).collect());
    let sink = Script::takes(Duration::ZERO);
    let begin = tokio::time::Instant::now();
    let lane = process.run(&plan, &sink);
    sink.attempts(5000).await;
    assert_eq!(sink.ids(), ids(0..5000));
    assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
    lane.drain().await;
}
