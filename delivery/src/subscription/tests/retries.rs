//! Failed attempts: when they are tried again, and where they wait.

use evoke_eventbus::subscription::ledger::Open;

use super::*;

#[tokio::test(start_paused = true)]
async fn retries_at_the_times_of_the_policy_then_writes_a_dead_letter() {
    let plan = plan("a");
    let (bus, process) = waiting(1, &plan).await;
    let sink = Script::fails();
    let lane = process.run(&plan, &sink);
    sink.attempts(11).await;
    let times = sink.times("0");
    let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    let plain = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0];
    for (gap, plain) in gaps.iter().zip(plain) {
        assert!(*gap > plain * 0.8 - 0.002 && *gap < (plain * 1.2f64).min(60.0) + 0.01, "{gap} for {plain}");
    }
    sleep(SECOND).await;
    let letters = bus.events(&store());
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.id(), letter.source(), letter.ty(), letter.data()), ("0", "/web", "order", event(0).data()));
    for (name, value) in [
        ("knativeerrordest", "http://script.test/"),
        ("knativeerrorcode", "503"),
        ("knativeerrordata", "later"),
        ("evokecause", "answered 503"),
        ("evokeattempts", "11"),
        ("evoketrigger", "shop/orders"),
        ("evokesubscriber", "a"),
    ] {
        assert_eq!(letter.attribute(name), Some(value), "{name}");
    }
    assert_eq!(ledger(&bus, "a").await.open().len(), 0);
    assert_eq!(process.metric("evoke_deliveries_total", "dead_lettered"), 1.0);
    assert_eq!(process.metric("evoke_delivery_retries_total", ""), 10.0);
    assert_eq!(sink.log.lock().len(), 11);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_becomes_a_dead_letter_at_once() {
    let plan = plan("a");
    let (bus, process) = waiting(3, &plan).await;
    let sink = Script::new(|event, _| (MS, if event.id() == "1" { refusal(400) } else { Outcome::Delivered }));
    let lane = process.run(&plan, &sink);
    sink.attempts(3).await;
    sleep(200 * MS).await;
    let letters = bus.events(&store());
    assert_eq!(letters.iter().map(Event::id).collect::<Vec<_>>(), ["1"]);
    assert_eq!(letters[0].attribute("evokeattempts"), Some("1"));
    assert_eq!(letters[0].attribute("knativeerrorcode"), Some("400"));
    assert_eq!(letters[0].attribute("knativeerrordata"), Some("never"));
    assert_eq!(ledger(&bus, "a").await.needs(), Position(3));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn honours_retry_after_within_its_bound() {
    let plan = plan("a");
    let (_, process) = waiting(1, &plan).await;
    let sink = Script::new(|_, before| {
        let after = [Some(7 * SECOND), Some(10_000 * SECOND), None].get(before).copied().flatten();
        let failed = Outcome::Retry { cause: "busy".into(), status: Some(429), after, body: Vec::new() };
        (Duration::ZERO, if before < 2 { failed } else { Outcome::Delivered })
    });
    let lane = process.run(&plan, &sink);
    sink.attempts(3).await;
    let seconds: Vec<_> = sink.times("0").iter().map(|time| time.as_secs_f64().round()).collect();
    assert_eq!(seconds, [0.0, 7.0, 307.0]);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_for_its_retry_holds_no_place() {
    let mut plan = plan("a");
    plan.policy.max_in_flight = 1;
    let (_, process) = waiting(200, &plan).await;
    let sink = Script::new(|event, before| {
        let fails = event.id().parse::<usize>().unwrap() < 50 && before < 5;
        (MS, if fails { failure(500) } else { Outcome::Delivered })
    });
    let lane = process.run(&plan, &sink);
    sink.attempts(100).await;
    // None of the fifty has been tried often enough, and those behind them are through already.
    assert!(sink.delivered().len() > 30, "{:?}", sink.delivered());
    sink.attempts(200 + 50 * 5).await;
    assert_eq!(sink.delivered().len(), 200);
    assert_eq!(sink.delivered().values().max(), Some(&1));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_survives_a_restart_with_its_attempts_and_its_time() {
    let mut plan = plan("a");
    plan.policy.retry = 6;
    let (bus, process) = waiting(3, &plan).await;
    let fails = Script::fails();
    let lane = process.run(&plan, &fails);
    fails.attempts(12).await;
    sleep(300 * MS).await;
    let before = ledger(&bus, "a").await;
    assert_eq!(before.upto(), Position(3));
    assert_eq!(before.open().values().map(|open| open.attempts).collect::<Vec<_>>(), [4, 4, 4]);
    lane.kill().await;
    let process = Process::start(&bus);
    let begin = tokio::time::Instant::now();
    let lane = process.run(&plan, &fails);
    fails.attempts(13).await;
    // 1.6 s less a fifth, less the 0.3 s that have passed; the ledger's clock is the wall's, which does not stand still here.
    assert!(begin.elapsed() > 800 * MS, "{:?}", begin.elapsed());
    fails.attempts(21).await;
    sleep(SECOND).await;
    assert_eq!(bus.events(&store()).len(), 3);
    assert!(bus.events(&store()).iter().all(|letter| letter.attribute("evokeattempts") == Some("7")));
    assert_eq!(fails.log.lock().len(), 21);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_puts_a_retry_off_by_no_more_than_its_own_delay() {
    const HOUR: Duration = Duration::from_secs(3600);
    let plan = plan("a");
    let (bus, process) = waiting(1, &plan).await;
    let fails = Script::fails();
    let lane = process.run(&plan, &fails);
    fails.attempts(4).await;
    sleep(300 * MS).await;
    lane.kill().await;
    drop(process);
    // The clock that the ledger was written by was an hour ahead of the one that there is now.
    let entry = bus.load("ledger/shop/orders/a/").await.unwrap().remove(0);
    let (name, mut ledger) = Ledger::decode(&entry.value).unwrap();
    for (at, open) in ledger.open().clone() {
        let [due, first, last] = [open.due, open.first, open.last].map(|time| time.after(HOUR));
        ledger.matched(at, Open { due, first, last, ..open });
    }
    let put = Put { key: entry.key, value: Some(ledger.encode(&name)), expect: Expect::Any };
    bus.store(vec![put]).await.unwrap();
    let process = Process::start(&bus);
    let begin = tokio::time::Instant::now();
    let lane = process.run(&plan, &fails);
    fails.attempts(5).await;
    // 1.6 s, give or take a fifth: all of it, since nobody knows how much of it is over.
    assert!((1200 * MS..2 * SECOND).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn stops_reading_when_too_many_are_parked_and_goes_on_when_they_are_not() {
    let mut plan = plan("a");
    plan.policy.retry = 1000;
    let total = limits::PARKED_EVENTS + 2000;
    let (bus, process) = waiting(total, &plan).await;
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sink = Script::new({
        let healed = Arc::clone(&healed);
        move |_, _| (Duration::ZERO, if healed.load(Relaxed) { Outcome::Delivered } else { failure(503) })
    });
    let lane = process.run(&plan, &sink);
    while !lane.status.snapshot().stalled {
        sleep(SECOND).await;
    }
    let parked = lane.status.snapshot().parked + lane.status.snapshot().in_flight;
    assert!((limits::PARKED_EVENTS..=limits::PARKED_EVENTS + plan.policy.max_in_flight).contains(&parked), "{parked}");
    assert_eq!(process.metric("evoke_subscription_stalled", ""), 1.0);
    sleep(SECOND).await;
    assert!(ledger(&bus, "a").await.upto() <= Position(parked as u128));
    healed.store(true, Relaxed);
    while sink.delivered().len() < total {
        sleep(SECOND).await;
    }
    assert_eq!(sink.delivered().values().max(), Some(&1));
    sleep(SECOND).await;
    assert_eq!(process.metric("evoke_subscription_stalled", ""), 0.0);
    assert_eq!(ledger(&bus, "a").await.needs(), Position(total as u128));
    lane.drain().await;
}
