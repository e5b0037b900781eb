//! What a kill, a bus that fails, and a drain cost.

use super::*;

/// Kills at random moments; then everything is delivered, and what came twice is bounded by the kills.
async fn kills(seed: u64) {
    let mut random = seed;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut plan = plan("a");
    plan.policy.max_in_flight = 1 + next(20) as usize;
    plan.policy.ordering = if next(2) == 0 { Ordering::None } else { Ordering::PartitionKey };
    let max = plan.policy.max_in_flight;
    let (bus, mut process) = waiting(0, &plan).await;
    let total = 600;
    bus.append(&partition("order"), (0..total).map(|n| keyed(n, &format!("k{}", n % 17))).collect());
    *bus.store_takes.lock() = MS * next(40) as u32;
    let sink = Script::new(move |event, before| {
        let n: u64 = event.id().parse().unwrap();
        let takes = MS * ((n * 7 + seed) % 5) as u32;
        (takes, if (n + seed).is_multiple_of(11) && before == 0 { failure(500) } else { Outcome::Delivered })
    });
    let mut kills = 0;
    for _ in 0..4 {
        let lane = process.run(&plan, &sink);
        sleep(MS * (1 + next(150)) as u32).await;
        lane.kill().await;
        process = Process::start(&bus);
        kills += 1;
    }
    let lane = process.run(&plan, &sink);
    while sink.delivered().len() < total {
        sleep(SECOND).await;
    }
    sleep(SECOND).await;
    lane.drain().await;
    let duplicates = sink.duplicates();
    assert!(duplicates <= kills * 2 * max, "{duplicates} duplicates of {kills} kills with maxInFlight {max}");
    if plan.policy.ordering == Ordering::PartitionKey {
        sink.assert_order(|n| n % 17);
    }
    let ledger = ledger(&bus, "a").await;
    assert_eq!((ledger.needs(), ledger.count() as usize >= total), (Position(total as u128), true));
}

#[test]
fn a_kill_costs_at_most_twice_max_in_flight_in_duplicates() {
    by_seed(200, kills);
}

/// A bus that delays, refuses, forgets to answer and gives short batches: nothing is lost, and what comes twice is bounded by the
/// kills, as ever.
async fn failing_bus(seed: u64) {
    let mut plan = plan("a");
    plan.topics.push(topic("payment"));
    plan.policy.max_in_flight = 8;
    plan.dead_letter = DeadLetterPlan::Topic(topic("failed"));
    if seed % 2 == 1 {
        plan.policy.ordering = Ordering::PartitionKey;
    }
    let (bus, _) = waiting(0, &plan).await;
    let sink = Script::new(move |event, before| {
        let n: u64 = event.id().parse().unwrap();
        let outcome = match (n + seed) % 13 {
            0 => refusal(400),
            1 | 2 if before < 2 => failure(500),
            _ => Outcome::Delivered,
        };
        (MS * (n % 3) as u32, outcome)
    });
    let total = 300;
    let is_refused = |n: &usize| (*n as u64 + seed).is_multiple_of(13);
    let mut appended = 0;
    let kills = 3;
    for life in 0..=kills {
        let process = Process::start_faulty(&bus, seed * 10 + life as u64);
        let lane = process.run(&plan, &sink);
        if life < kills {
            for _ in 0..10 {
                let batch = (appended..appended + 10).map(|n| keyed(n, &format!("k{}", n % 5))).collect();
                bus.append(&partition(["order", "payment"][appended / 10 % 2]), batch);
                appended += 10;
                sleep(20 * MS).await;
            }
            lane.kill().await;
        } else {
            let left = |sink: &Script| {
                let delivered = sink.delivered();
                (0..total).filter(|n| !is_refused(n) && !delivered.contains_key(n)).count()
            };
            for _ in 0..1000 {
                if left(&sink) == 0 && bus.events(&partition("failed")).len() >= (0..total).filter(is_refused).count() {
                    break;
                }
                sleep(SECOND).await;
            }
            assert_eq!(left(&sink), 0);
            sleep(5 * SECOND).await;
            lane.drain().await;
        }
    }
    let letters: std::collections::BTreeSet<usize> =
        bus.events(&partition("failed")).iter().map(|letter| letter.id().parse().unwrap()).collect();
    assert_eq!(letters, (0..total).filter(is_refused).collect());
    assert!(sink.duplicates() <= kills * 16, "{}", sink.duplicates());
    if plan.policy.ordering == Ordering::PartitionKey {
        // Which topic is read first when one fails is open.
        sink.assert_order(|n| (n % 5, n / 10 % 2));
    }
}

#[test]
fn a_bus_that_fails_at_everything_costs_time_and_no_event() {
    by_seed(200, failing_bus);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_records_nothing_stops_the_deliveries_at_twice_max_in_flight() {
    let mut plan = plan("a");
    plan.policy.max_in_flight = 10;
    let (bus, process) = waiting(500, &plan).await;
    bus.frozen.send_replace(true);
    let sink = Script::takes(Duration::ZERO);
    let lane = process.run(&plan, &sink);
    sleep(60 * SECOND).await;
    assert_eq!(sink.log.lock().len(), 20);
    bus.frozen.send_replace(false);
    sink.attempts(500).await;
    assert_eq!(sink.ids(), ids(0..500));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_runs_and_starts_nothing() {
    let mut plan = plan("a");
    plan.policy.max_in_flight = 5;
    let (bus, process) = waiting(50, &plan).await;
    let sink = Script::takes(300 * MS);
    let lane = process.run(&plan, &sink);
    sleep(100 * MS).await;
    lane.drain().await;
    assert_eq!(sink.delivered().len(), 5);
    let ledger = ledger(&bus, "a").await;
    assert_eq!((ledger.upto(), ledger.open().len()), (Position(5), 0));
}

#[tokio::test(start_paused = true)]
async fn an_aborted_drain_leaves_what_runs_open() {
    let mut plan = plan("a");
    plan.policy.max_in_flight = 5;
    let (bus, process) = waiting(50, &plan).await;
    let sink = Script::takes(300 * SECOND);
    let lane = process.run(&plan, &sink);
    sleep(SECOND).await;
    lane.stop.cancel();
    sleep(SECOND).await;
    lane.abort.cancel();
    lane.ended().await;
    assert_eq!(ledger(&bus, "a").await.open().len(), 5);
}
