//! The bus loses its state while processes are at work on it: they store again what they know.

use super::*;

/// How many events all positions on the bus have passed, and how many of them are open.
async fn recorded(bus: &MemoryBus) -> (u64, usize) {
    let entries = bus.load("ledger/").await.unwrap();
    let ledgers = entries.iter().map(|entry| Ledger::decode(&entry.value).unwrap().1);
    ledgers.fold((0, 0), |(count, open), ledger| (count + ledger.count(), open + ledger.open().len()))
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_over_from_the_living_and_what_waits_for_a_retry_is_not_lost() {
    let later = Outcome::Retry {
        cause: "answered 503".to_owned(),
        status: Some(503),
        after: Some(60 * SECOND),
        body: Vec::new(),
    };
    let script = Script::new(move |event, before| match (event.id(), before) {
        ("7", 0) => (Duration::ZERO, later.clone()),
        _ => (30 * MS, Outcome::Delivered),
    });
    let mut world = World::new(shared(), &script, false).await;
    let (one, two) = (world.start("one", 1, Faults::NONE).await, world.start("two", 2, Faults::NONE).await);
    until("both have half", async || part(&one) == 4 && part(&two) == 4).await;
    // What has the key of the event that fails waits behind it: 47 and 87.
    world.publish(100, 40);
    until("three are left", async || recorded(&world.bus).await == (100, 3)).await;
    let before = document(&world.bus).await;

    world.bus.lose_state();
    until("all is there again", async || {
        assert_eq!((part(&one), part(&two)), (4, 4), "what is agreed on holds");
        document(&world.bus).await == before && recorded(&world.bus).await == (100, 3)
    })
    .await;
    until("both beat again", async || world.bus.load("sharing/beats/").await.unwrap().len() == 2).await;
    // For longer than it takes to be taken for dead.
    sleep(15 * SECOND).await;
    assert_eq!(document(&world.bus).await, before);

    // Nobody is left who knows anything but the bus.
    one.kill().await;
    two.kill().await;
    let three = world.start("three", 3, Faults::NONE).await;
    world.delivered().await;
    assert_eq!(world.duplicates(), 0);
    world.assert_order(40);
    three.leave().await;
    world.assert_right();
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_and_the_place_to_go_on_at_is_kept() {
    let script = Script::takes(MS);
    let mut world = World::new(shared(), &script, false).await;
    let one = world.start("one", 1, Faults::NONE).await;
    until("it has it all", async || part(&one) == 8).await;
    world.publish(10, 10);
    world.delivered().await;
    let id = world.plan.id.clone();
    let ask = async |node: &Node, paused: bool| {
        node.process.subscriptions.control(&id, Control { paused }).await.unwrap();
    };
    ask(&one, true).await;
    until("it is paused", async || part(&one) == 0 && recorded(&world.bus).await == (10, 0)).await;
    // Its last position is given back.
    sleep(2 * SECOND).await;

    world.bus.lose_state();
    until("all is there again", async || {
        assert_eq!(part(&one), 0, "it stays paused");
        recorded(&world.bus).await == (10, 0) && world.bus.load("control/").await.unwrap().len() == 1
    })
    .await;
    one.kill().await;
    let one = world.start("one", 2, Faults::NONE).await;
    ask(&one, false).await;
    world.publish(10, 10);
    world.delivered().await;
    assert_eq!(world.duplicates(), 0);
    one.leave().await;
    world.assert_right();
}
