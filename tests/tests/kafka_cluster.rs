//! Kafka sources when brokers and group members come and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::{Counts, assert_conserved};
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::kafka::{self, Broker, Record, produce};
use evoke_tests::{SOON, eventually};
use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// How many records the source has not done with when a broker fails. The client reads ahead up to its `queued.min.messages` of
/// 10,000, so it may have them all, and they go on being delivered. What the group had not committed by then comes again where it
/// takes the partitions away meanwhile: any of these, once, and nothing that was committed before.
const READ_AHEAD: usize = 500;
/// How long anything may take while records are produced all the time.
const LATER: Duration = Duration::from_secs(90);

fn manifests(broker: &Broker, topic: &str, group: &str, sink: &Sink) -> String {
    let spec = format!(
        "kafka:\n  orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}",
        broker.listeners.plain
    );
    objects(&[source("kafka", &spec), pass("all", "kafka", "orders", &sink.url("/"))])
}

/// Produces to all partitions until told to stop, and returns the ids.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinSet<BTreeSet<String>>,
}

impl Load {
    fn start(broker: &Broker, topic: &str) -> Self {
        let (stop, producer, topic) = (Arc::new(AtomicBool::new(false)), broker.producer(), topic.to_owned());
        let (mut task, stopped) = (JoinSet::new(), stop.clone());
        task.spawn(async move {
            let mut ids = BTreeSet::new();
            let mut pace = interval(Duration::from_millis(20));
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                let records = (n..n + 8).map(|n| Record::new(format!("record {n}")).partition(n % 4));
                ids.extend(produce(&producer, &topic, records).await.into_iter().map(|placed| placed.id));
                n += 8;
            }
            ids
        });
        Self { stop, task }
    }

    async fn stop(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join_next().await.unwrap().unwrap()
    }
}

/// Produces so many records.
async fn fill(broker: &Broker, topic: &str, records: usize) -> BTreeSet<String> {
    let placed = broker.produce(topic, (0..records).map(|n| Record::new(n.to_string()))).await;
    placed.into_iter().map(|placed| placed.id).collect()
}

pub(crate) async fn a_broker_that_is_down_at_start_is_waited_for() -> Verdict {
    let broker = Broker::prepare().await?;
    let (sink, own) = (Sink::start().await, "orders");
    let home = Home::with(manifests(&broker, own, "g", &sink));
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["kafka/orders"], SOON).await;
    broker.start().await;
    broker.make_topic(own, 2).await;
    let placed = broker.produce(own, (0..10).map(|n| Record::new(n.to_string()))).await;
    evoke.ready(Duration::from_secs(60)).await;
    sink.wait_delivered(10, SOON).await;
    let ids = placed.into_iter().map(|placed| placed.id).collect();
    assert_conserved(&ids, [&sink.delivered()], 0);
    evoke.stop().await;
    broker.stop().await;
    Ok(())
}

pub(crate) async fn a_broker_that_is_killed_and_comes_back_loses_nothing() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    let topic = broker.topic(4).await;
    let sink = Sink::start().await;
    let home = Home::with(manifests(&broker, &topic, "g", &sink));
    let mut evoke = home.run().await;
    let (mut sent, rounds) = (BTreeSet::new(), 2);
    for round in 0..rounds {
        sent.extend(fill(&broker, &topic, READ_AHEAD).await);
        // Somewhere in the middle of the records.
        sink.wait_delivered(round * READ_AHEAD + 100, SOON).await;
        broker.kill().await;
        evoke.waits_for(&["kafka/orders"], Duration::from_secs(60)).await;
        broker.start().await;
        evoke.ready(Duration::from_secs(60)).await;
        sink.wait_all(&sent, Duration::from_secs(60)).await;
        broker.all_committed("g", &topic, 4, SOON).await;
    }
    sent.extend(fill(&broker, &topic, READ_AHEAD).await);
    sink.wait_all(&sent, Duration::from_secs(60)).await;
    evoke.stop().await;
    let found = assert_conserved(&sent, [&sink.delivered()], rounds * READ_AHEAD);
    println!("a broker that is killed: {} sent, {} repeated", sent.len(), found.repeats);
    broker.stop().await;
    Ok(())
}

/// Asserts that partitions went to another member settled and committed. Only where that could not be had in time, or the group took
/// them away, may a rebalance repeat anything, and then evoke says so.
fn gave_up_in_order(evoke: &Evoke) {
    assert!(evoke.log().count("partitions given up") > 0, "no partition went to another member");
    for said in ["will be read again", "partitions were taken away"] {
        assert_eq!(evoke.log().count(said), 0, "{said}");
    }
}

pub(crate) async fn a_second_evoke_joins_and_leaves_the_group() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(4).await, broker.name("group"));
    let sink = Sink::scripted(|_| Answer::After(Duration::from_millis(5), Box::new(Answer::Status(200)))).await;
    let first = Home::with(manifests(&broker, &topic, &group, &sink));
    let second = Home::with(manifests(&broker, &topic, &group, &sink));
    let mut one = first.run().await;
    let load = Load::start(&broker, &topic);
    sink.wait_delivered(200, LATER).await;
    let mut two = second.run().await;
    eventually("two members", LATER, async || (broker.members(&group).await?.len() == 2).then_some(())).await;
    two.metric("evoke_bus_published_events_total", &[], 500.0, LATER).await;
    two.stop().await;
    eventually("one member", LATER, async || (broker.members(&group).await?.len() == 1).then_some(())).await;
    let so_far = sink.delivered_count();
    sink.wait_delivered(so_far + 500, LATER).await;
    let sent = load.stop().await;
    gave_up_in_order(&one);
    // What the second one took over and did not deliver before its end waits in its own data directory.
    let mut two = second.run().await;
    sink.wait_all(&sent, LATER).await;
    two.stop().await;
    one.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_foreign_consumer_joins_and_leaves_the_group() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(4).await, broker.name("group"));
    let sink = Sink::start().await;
    let home = Home::with(manifests(&broker, &topic, &group, &sink));
    let mut evoke = home.run().await;
    let load = Load::start(&broker, &topic);
    sink.wait_delivered(200, LATER).await;
    let mut config = broker.client();
    config.set("group.id", &group).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    config.set("partition.assignment.strategy", "cooperative-sticky");
    let consumer: StreamConsumer = config.create().unwrap();
    consumer.subscribe(&[&topic]).unwrap();
    let mut foreign = Counts::new();
    let taken = tokio::time::timeout(LATER, async {
        while foreign.len() < 200 {
            let message = consumer.recv().await.unwrap();
            let id = format!("{topic}/{}/{}", message.partition(), message.offset());
            *foreign.entry(id).or_default() += 1;
            consumer.commit_message(&message, CommitMode::Async).unwrap();
        }
    });
    taken.await.expect("the foreign consumer gets a share");
    consumer.commit_consumer_state(CommitMode::Sync).unwrap();
    consumer.unsubscribe();
    drop(consumer);
    let sent = load.stop().await;
    let left: BTreeSet<String> = sent.iter().filter(|id| !foreign.contains_key(*id)).cloned().collect();
    sink.wait_all(&left, LATER).await;
    gave_up_in_order(&evoke);
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered(), &foreign], 0);
    Ok(())
}

pub(crate) async fn a_broker_that_freezes_loses_nothing() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    let topic = broker.topic(2).await;
    let sink = Sink::start().await;
    let home = Home::with(manifests(&broker, &topic, "g", &sink));
    let mut evoke = home.run().await;
    let before = fill(&broker, &topic, READ_AHEAD).await;
    sink.wait_all(&before, SOON).await;
    broker.all_committed("g", &topic, 2, SOON).await;
    let mut sent = fill(&broker, &topic, 4 * READ_AHEAD).await;
    sink.wait_delivered(before.len() + 50, SOON).await;
    broker.freeze();
    evoke.waits_for(&["kafka/orders"], Duration::from_secs(120)).await;
    broker.thaw();
    sink.wait_all(&sent, Duration::from_secs(60)).await;
    evoke.ready(Duration::from_secs(60)).await;
    evoke.stop().await;
    let delivered = sink.delivered();
    assert!(before.iter().all(|id| delivered[id] == 1), "what was committed came again");
    sent.extend(before);
    assert_conserved(&sent, [&delivered], 4 * READ_AHEAD);
    broker.stop().await;
    Ok(())
}
