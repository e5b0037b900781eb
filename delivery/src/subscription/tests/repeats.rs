//! `deduplicationWindow`.

use super::*;

fn windowed(window: Duration) -> SubscriptionPlan {
    let mut plan = plan("a");
    plan.policy.deduplication_window = Some(window);
    plan
}

/// The bus takes events, a second apart.
async fn come(bus: &MemoryBus, ids: &[usize]) {
    for id in ids {
        bus.append(&partition("order"), vec![event(*id)]);
        sleep(SECOND).await;
    }
}

fn outcomes(process: &Process) -> [f64; 3] {
    ["delivered", "dead_lettered", "duplicate"].map(|name| process.metric("evoke_deliveries_total", name))
}

#[tokio::test(start_paused = true)]
async fn a_repeat_within_the_window_is_counted_and_not_delivered() {
    let plan = windowed(10 * SECOND);
    let (bus, process) = waiting(0, &plan).await;
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    come(&bus, &[1, 2, 1, 3, 1]).await;
    assert_eq!(sink.ids(), ["1", "2", "3"]);
    sleep(10 * SECOND).await;
    come(&bus, &[1]).await;
    assert_eq!(sink.ids(), ["1", "2", "3", "1"], "after the window it is delivered again");
    assert_eq!((outcomes(&process), process.metric("evoke_verdicts_total", "match")), ([4.0, 0.0, 2.0], 6.0));
    let ledger = ledger(&bus, "a").await;
    assert_eq!((ledger.needs(), ledger.count()), (Position(6), 6));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_and_a_kill_remember_what_was_delivered() {
    let plan = windowed(60 * SECOND);
    let (bus, process) = waiting(0, &plan).await;
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    come(&bus, &[1, 2]).await;
    lane.drain().await;
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    come(&bus, &[1, 3]).await;
    lane.kill().await;
    come(&bus, &[2, 4]).await;
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    come(&bus, &[3, 1]).await;
    assert_eq!(sink.ids(), ["1", "2", "3", "4"]);
    assert_eq!(outcomes(&process), [1.0, 0.0, 3.0]);
    sleep(60 * SECOND).await;
    come(&bus, &[4]).await;
    assert_eq!(sink.delivered()[&4], 2);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_ahead_for_a_while_empties_no_window() {
    let plan = windowed(60 * SECOND);
    let (bus, process) = waiting(0, &plan).await;
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    // Later than the clock of any machine that this runs on.
    *bus.ahead.lock() = 3_600 * 24 * 365 * 100 * SECOND;
    come(&bus, &[1]).await;
    *bus.ahead.lock() = Duration::ZERO;
    come(&bus, &[2]).await;
    lane.drain().await;
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    come(&bus, &[2, 3]).await;
    assert_eq!(sink.ids(), ["1", "2", "3"]);
    assert_eq!(outcomes(&process), [1.0, 0.0, 1.0]);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_ahead_for_a_while_fills_no_window_after_a_restart() {
    let plan = windowed(60 * SECOND);
    let (bus, process) = waiting(0, &plan).await;
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    *bus.ahead.lock() = 3_600 * SECOND;
    come(&bus, &[1]).await;
    *bus.ahead.lock() = Duration::ZERO;
    come(&bus, &[2]).await;
    lane.drain().await;
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    come(&bus, &[2]).await;
    assert_eq!(sink.ids(), ["1", "2"]);
    sleep(61 * SECOND).await;
    come(&bus, &[2, 1]).await;
    assert_eq!(sink.ids(), ["1", "2", "2", "1"]);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_never_delivered_is_no_repeat_after_a_restart_either() {
    let mut plan = windowed(3600 * SECOND);
    let (bus, process) = waiting(0, &plan).await;
    // Before the subscription began, it got nothing.
    plan.id = id("later");
    come(&bus, &[1]).await;
    process.declare(&plan).await;
    let sink = Script::takes(MS);
    let lane = process.run(&plan, &sink);
    come(&bus, &[2]).await;
    lane.drain().await;
    let process = Process::start(&bus);
    let lane = process.run(&plan, &sink);
    come(&bus, &[1, 2]).await;
    assert_eq!(sink.ids(), ["2", "1"]);
    lane.drain().await;

    // Nor does an edited condition, which would have matched what the one before did not.
    struct Odd(u64);
    impl Selector for Odd {
        fn select(&mut self, _: usize, record: &Record) -> Verdict {
            let is_odd = record.event.id().parse::<u64>().unwrap() % 2 == 1;
            if self.0 > 1 || is_odd { Verdict::Match } else { Verdict::NoMatch }
        }
        fn window(&self) -> Option<Duration> {
            None
        }
        fn fingerprint(&self) -> u64 {
            self.0
        }
        fn observe(&mut self, _: usize, _: &Record) {}
    }
    plan.id = id("edited");
    let process = Process::start(&bus);
    process.declare(&plan).await;
    let sink = Script::takes(MS);
    let lane = process.run_with(&plan, &sink, None, Box::new(Odd(1)));
    come(&bus, &[4, 5]).await;
    lane.drain().await;
    let process = Process::start(&bus);
    let lane = process.run_with(&plan, &sink, None, Box::new(Odd(2)));
    come(&bus, &[4, 4]).await;
    assert_eq!(sink.ids(), ["5", "4"]);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_became_a_dead_letter_may_come_again() {
    let plan = windowed(60 * SECOND);
    let (bus, process) = waiting(0, &plan).await;
    let sink = Script::new(|_, before| (MS, if before == 0 { refusal(400) } else { Outcome::Delivered }));
    let lane = process.run(&plan, &sink);
    come(&bus, &[1, 1, 1]).await;
    assert_eq!(sink.ids(), ["1", "1"]);
    assert_eq!(outcomes(&process), [1.0, 1.0, 1.0]);
    lane.drain().await;
}

/// Every event comes twice or more, over kills and a bus that fails at everything: each is delivered, and only kills repeat any.
async fn window_over_faults(seed: u64) {
    let mut plan = windowed(3600 * SECOND);
    plan.policy.max_in_flight = 4;
    if seed % 2 == 1 {
        plan.policy.ordering = Ordering::PartitionKey;
    }
    let (bus, _) = waiting(0, &plan).await;
    let sink = Script::new(move |event, before| {
        let n: u64 = event.id().parse().unwrap();
        (
            MS * (n % 5) as u32,
            if (n + seed).is_multiple_of(7) && before < 2 { failure(500) } else { Outcome::Delivered },
        )
    });
    let (total, kills) = (120, 3);
    for life in 0..=kills {
        let process = Process::start_faulty(&bus, seed * 10 + life as u64);
        let lane = process.run(&plan, &sink);
        for n in 0..total {
            let n = (n * 7 + life * 13) % total;
            bus.append(&partition("order"), vec![keyed(n, &format!("k{}", n % 5))]);
            sleep(MS * (n % 4) as u32).await;
        }
        if life < kills {
            lane.kill().await;
            continue;
        }
        for _ in 0..1000 {
            if ledger(&bus, "a").await.needs() == Position(total as u128 * (kills as u128 + 1)) {
                break;
            }
            sleep(SECOND).await;
        }
        lane.drain().await;
    }
    let delivered = sink.delivered();
    assert_eq!(delivered.len(), total);
    assert!(sink.duplicates() <= kills * 2 * 4, "{}", sink.duplicates());
}

#[test]
fn nothing_is_lost_to_the_window_over_kills_and_faults() {
    by_seed(100, window_over_faults);
}
