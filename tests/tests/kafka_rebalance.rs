//! Kafka sources whose partitions go to another member while something of them is not settled: it waits for a retry, or the process
//! stands still.

use std::collections::BTreeSet;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::during;
use evoke_tests::manifests::{bare_source, objects, source, trigger};
use evoke_tests::process::Signal;
use evoke_tests::servers::kafka::{self, Broker, Record, produce};
use evoke_tests::{SOON, eventually};
use rdkafka::producer::FutureProducer;

const LATER: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;
/// How many records of each partition a round has.
const ROUND: usize = 50;
/// Where the events of each of two processes go.
const PATHS: [&str; 2] = ["/0", "/1"];

/// Waits until a group has so many members. One that stands still is a member until its session has timed out, after 6 s.
async fn members(broker: &Broker, group: &str, count: usize) {
    eventually(&format!("{count} members"), SOON, async || (broker.members(group).await?.len() == count).then_some(()))
        .await;
}

async fn round(broker: &Broker, topic: &str) -> BTreeSet<String> {
    let records = (0..ROUND).flat_map(|n| (0..PARTITIONS).map(move |p| Record::new(n.to_string()).partition(p)));
    broker.produce(topic, records).await.into_iter().map(|placed| placed.id).collect()
}

/// Every tenth record of a partition, by its offset at the end of the id.
fn is_refused(id: &str) -> bool {
    id.ends_with('0')
}

fn taken(sent: &BTreeSet<String>) -> BTreeSet<String> {
    sent.iter().filter(|id| !is_refused(id)).cloned().collect()
}

pub(crate) async fn a_retry_without_a_bus_survives_a_rebalance() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(PARTITIONS).await, broker.name("group"));
    let sink = Sink::scripted(|request| Answer::Status(if is_refused(request.id()) { 503 } else { 200 })).await;
    let spec = format!(
        "sink: {{uri: \"{}\"}}\ndelivery: {{retry: 1000, backoffPolicy: linear, backoffDelay: PT0.1S}}\n\
         kafka:\n  orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}",
        sink.url("/"),
        broker.listeners.plain
    );
    let homes = [0, 1].map(|_| Home::with(bare_source("kafka", &spec)));
    let mut one = homes[0].run().await;
    let mut sent = round(&broker, &topic).await;
    sink.wait_all(&taken(&sent), SOON).await;

    // What waits for its retry holds up neither the group nor what comes after it.
    let mut two = homes[1].run().await;
    one.log().wait_for(&["go to another member before all that was read of them has settled"], SOON).await;
    two.metric("evoke_source_in_flight", &[], 1.0, SOON).await;
    sent.extend(round(&broker, &topic).await);
    sink.wait_all(&taken(&sent), SOON).await;

    // A second signal is for those who do not want to wait for what a sink does not take.
    two.signal(Signal::TERM);
    two.log().wait_for(&["draining"], SOON).await;
    two.signal(Signal::INT);
    two.ended(SOON).await;
    members(&broker, &group, 1).await;
    sent.extend(round(&broker, &topic).await);
    sink.wait_all(&taken(&sent), LATER).await;

    sink.script(|_| Answer::Status(200));
    sink.wait_all(&sent, LATER).await;
    broker.all_committed(&group, &topic, PARTITIONS, LATER).await;
    one.stop().await;
    // Two of four partitions move: with one round that is not settled, and back with two of them.
    let found = assert_conserved(&sent, [&sink.delivered()], 2 * ROUND + 2 * 2 * ROUND);
    println!("a retry over a rebalance: {} sent, {} repeated", sent.len(), found.repeats);
    Ok(())
}

/// A source on a bus of its own, and a Trigger whose deliveries may take as long as a process stands still.
fn piped(broker: &Broker, topic: &str, group: &str, url: &str) -> String {
    let spec = format!(
        "kafka:\n  orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}",
        broker.listeners.plain
    );
    let subscriber = format!(
        "inputs: {{it: {{eventSource: kafka, event: orders}}}}\n\
         subscribers: [{{name: all, condition: it, sink: {{uri: \"{url}\"}}, delivery: {{timeout: PT5M}}}}]"
    );
    objects(&[source("kafka", &spec), trigger("all", &subscriber)])
}

/// Produces a few records to every partition whose value is a phase of the test.
async fn publish(producer: &FutureProducer, topic: &str, phase: &str) -> Vec<String> {
    let records = (0..2 * PARTITIONS).map(|n| Record::new(phase).partition(n % PARTITIONS));
    produce(producer, topic, records).await.into_iter().map(|placed| placed.id).collect()
}

/// Waits until both processes have read records of a phase.
async fn both_read(sink: &Sink, phase: &str) {
    eventually(&format!("both read what is {phase}"), LATER, async || {
        let reads = |path: &str| sink.received_at(path).iter().any(|request| request.body == phase);
        PATHS.into_iter().all(reads).then_some(())
    })
    .await;
}

pub(crate) async fn a_member_that_is_frozen_comes_back() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(PARTITIONS).await, broker.name("group"));
    let sink = Sink::start().await;
    let homes = PATHS.map(|path| Home::with(piped(&broker, &topic, &group, &sink.url(path))));
    let (mut frozen, mut other) = (homes[0].run().await, homes[1].run().await);
    members(&broker, &group, 2).await;
    let producer = broker.producer();
    let (mut sent, ()) = during(async |_| publish(&producer, &topic, "first").await, both_read(&sink, "first")).await;
    broker.all_committed(&group, &topic, PARTITIONS, SOON).await;

    // It stops in the middle of its work, and is replaced.
    let stop = async {
        sink.wait_more(50, SOON).await;
        frozen.signal(Signal::STOP);
        members(&broker, &group, 1).await;
    };
    let (meanwhile, ()) = during(async |_| publish(&producer, &topic, "meanwhile").await, stop).await;
    broker.all_committed(&group, &topic, PARTITIONS, LATER).await;

    frozen.signal(Signal::CONT);
    frozen.log().wait_for(&["partitions were taken away"], SOON).await;
    members(&broker, &group, 2).await;
    let (after, ()) = during(async |_| publish(&producer, &topic, "after").await, both_read(&sink, "after")).await;
    sent.extend(after);
    sent.extend(meanwhile.iter().cloned());
    sink.wait_all(&sent, LATER).await;
    broker.all_committed(&group, &topic, PARTITIONS, LATER).await;
    frozen.stop().await;
    other.stop().await;
    // Of its half of the partitions it may have stored what it had not committed, and what it still read before it knew.
    let found = assert_conserved(&sent, [&sink.delivered()], meanwhile.len() / 2);
    println!("a frozen member: {} sent, {} repeated", sent.len(), found.repeats);
    Ok(())
}
