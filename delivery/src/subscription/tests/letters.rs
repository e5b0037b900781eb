//! Dead letters: where they go, and what becomes of those that go nowhere.

use std::collections::BTreeMap;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_dead_letter_goes_to_the_sink_with_its_retries_and_then_to_the_store() {
    let mut plan = plan("a");
    plan.policy.retry = 2;
    let (bus, process) = waiting(2, &plan).await;
    let fails = Script::fails();
    let letters = Script::new(|event, before| match (event.id(), before) {
        ("0", 2) => (MS, Outcome::Delivered),
        _ => (MS, failure(503)),
    });
    let lane = process.run_with(&plan, &fails, Some(&letters), Box::new(All));
    letters.attempts(6).await;
    sleep(SECOND).await;
    let delivered = letters.log.lock().iter().find(|a| a.outcome == Outcome::Delivered).cloned().unwrap();
    assert_eq!(delivered.event.attribute("evokeattempts"), Some("3"));
    assert_eq!(delivered.event.attribute("evokecause"), Some("answered 503"));
    let stored = bus.events(&store());
    assert_eq!(stored.iter().map(Event::id).collect::<Vec<_>>(), ["1"]);
    assert_eq!(process.metric("evoke_dead_letters_total", "sink"), 1.0);
    assert_eq!(process.metric("evoke_dead_letters_total", "store"), 1.0);
    assert_eq!(ledger(&bus, "a").await.needs(), Position(2));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_goes_to_the_topic_that_the_plan_names() {
    let mut plan = plan("a");
    plan.dead_letter = DeadLetterPlan::Topic(topic("failed"));
    let (bus, process) = waiting(1, &plan).await;
    let lane = process.run(&plan, &Script::new(|_, _| (MS, refusal(422))));
    sleep(SECOND).await;
    assert_eq!(bus.events(&partition("failed"))[0].attribute("knativeerrorcode"), Some("422"));
    assert_eq!(bus.events(&store()).len(), 0);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_its_topic_never_takes_goes_to_the_store_after_its_retries() {
    let mut plan = plan("a");
    plan.policy.retry = 2;
    plan.dead_letter = DeadLetterPlan::Topic(topic("failed"));
    let (bus, process) = waiting(2, &plan).await;
    *bus.refused_topic.lock() = Some(topic("failed"));
    let lane = process.run(&plan, &Script::new(|_, _| (MS, refusal(422))));
    sleep(5 * SECOND).await;
    let stored = bus.events(&store());
    let letters: BTreeMap<_, _> = stored.iter().map(|letter| (letter.id(), letter.attribute("evokecause"))).collect();
    assert_eq!(letters, BTreeMap::from([("0", Some("answered 422")), ("1", Some("answered 422"))]));
    assert_eq!(stored.len(), 2);
    assert!(bus.events(&partition("failed")).is_empty());
    assert_eq!(process.metric("evoke_delivery_retries_total", ""), 4.0, "two of each letter");
    assert_eq!(process.metric("evoke_dead_letters_total", "topic"), 0.0);
    assert_eq!(process.metric("evoke_dead_letters_total", "store"), 2.0);
    assert_eq!(ledger(&bus, "a").await.needs(), Position(2));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_fails_for_a_while_gets_its_dead_letters() {
    let mut plan = plan("a");
    plan.dead_letter = DeadLetterPlan::Topic(topic("failed"));
    let (bus, process) = waiting(2, &plan).await;
    *bus.refused_topic.lock() = Some(topic("failed"));
    let lane = process.run(&plan, &Script::new(|_, _| (MS, refusal(422))));
    sleep(5 * SECOND).await;
    *bus.refused_topic.lock() = None;
    sleep(60 * SECOND).await;
    assert_eq!(bus.events(&partition("failed")).len(), 2);
    assert!(bus.events(&store()).is_empty());
    assert_eq!(ledger(&bus, "a").await.needs(), Position(2));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_too_large_for_the_store_is_shortened() {
    let plan = plan("a");
    let bus = MemoryBus::with_limit(1000);
    let process = Process::start(&bus);
    process.declare(&plan).await;
    let large = event(0).to_builder().data(vec![b'y'; 900]).build().unwrap();
    bus.append(&partition("order"), vec![large]);
    let lane = process.run(&plan, &Script::new(|_, _| (MS, refusal(400))));
    sleep(SECOND).await;
    let letter = &bus.events(&store())[0];
    assert_eq!((letter.id(), letter.attribute("evoketruncated")), ("0", Some("900")));
    assert!(letter.data_slice().starts_with(b"yyy"));
    assert_eq!(ledger(&bus, "a").await.needs(), Position(1));
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_nothing_is_waited_for() {
    are_waited_for(DeadLetterPlan::Store).await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_takes_nothing_at_all_is_waited_for() {
    are_waited_for(DeadLetterPlan::Topic(topic("failed"))).await;
}

/// Dead letters end in the store, once it takes them.
async fn are_waited_for(dead_letter: DeadLetterPlan) {
    let mut plan = plan("a");
    plan.dead_letter = dead_letter;
    let (bus, process) = waiting(3, &plan).await;
    bus.refuses_publish.store(true, Relaxed);
    let lane = process.run(&plan, &Script::new(|_, _| (MS, refusal(400))));
    sleep(3600 * SECOND).await;
    assert_eq!(ledger(&bus, "a").await.needs(), Position(0));
    bus.refuses_publish.store(false, Relaxed);
    sleep(120 * SECOND).await;
    assert_eq!(bus.events(&store()).len(), 3);
    assert_eq!(ledger(&bus, "a").await.needs(), Position(3));
    lane.drain().await;
}
