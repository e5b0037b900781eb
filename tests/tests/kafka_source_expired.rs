//! Records of a Kafka source that expire before they are read: reading goes on at the earliest there is, and what is lost is counted.

use std::collections::BTreeSet;

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::kafka::{self, Broker, Placed, Record};

const SKIPPED: &str = "evoke_source_skipped_total";
/// What the log says of a partition that is read from another offset on than the group had committed.
const RESTARTED: &str = "the topic has no such offset any more: reading from the earliest on";
/// What it says once it is known how many records that passed over.
const EXPIRED: &str = "records expired before they were read";

/// One partition is cut in its middle, one at its end, and one not at all.
const PARTITIONS: i32 = 3;
/// How many records of each partition are read before evoke is stopped,
const READ: i64 = 10;
/// and how many are written while it is away.
const MISSED: i64 = 30;
/// Where the first two partitions are cut.
const CUTS: [(i32, i64); 2] = [(0, READ + 12), (1, READ + MISSED)];

/// Produces so many records to each partition.
async fn round(broker: &Broker, topic: &str, records: i64) -> Vec<Placed> {
    let records = (0..records).flat_map(|n| (0..PARTITIONS).map(move |p| Record::new(n.to_string()).partition(p)));
    broker.produce(topic, records).await
}

fn is_cut(placed: &Placed) -> bool {
    CUTS.iter().any(|(partition, before)| placed.partition == *partition && placed.offset < *before)
}

fn ids(placed: Vec<Placed>) -> BTreeSet<String> {
    placed.into_iter().map(|placed| placed.id).collect()
}

pub(crate) async fn an_expired_offset_restarts_at_the_earliest_and_is_counted() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(PARTITIONS).await, broker.name("group"));
    let sink = Sink::start().await;
    let spec = format!(
        "kafka: {{orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}}}",
        broker.listeners.plain
    );
    let home = Home::with(objects(&[source("kafka", &spec), pass("all", "kafka", "orders", &sink.url("/"))]));
    let mut evoke = home.run().await;
    let mut sent = ids(round(&broker, &topic, READ).await);
    sink.wait_all(&sent, SOON).await;
    broker.all_committed(&group, &topic, PARTITIONS, SOON).await;
    evoke.stop().await;

    let (cut, left): (Vec<_>, Vec<_>) = round(&broker, &topic, MISSED).await.into_iter().partition(is_cut);
    for (partition, before) in CUTS {
        broker.delete_before(&topic, partition, before).await;
    }
    let lost = |of: i32| cut.iter().filter(|placed| placed.partition == of).count();
    let (in_the_middle, to_the_end) = (lost(0), lost(1));
    assert!(in_the_middle > 0 && to_the_end > 0 && lost(2) == 0, "{cut:?} are cut");

    let mut evoke = home.run().await;
    sent.extend(ids(left));
    sink.wait_all(&sent, SOON).await;
    for (partition, _) in CUTS {
        let place = format!(" partition={partition} offset={READ}");
        let line = evoke.log().wait_for(&[RESTARTED, &topic, &place], SOON).await;
        assert!(line.contains("WARN"), "{line}");
    }
    let labels = [("event_source", "kafka"), ("event", "orders"), ("kind", "kafka"), ("namespace", "default")];
    let skipped = evoke.metric(SKIPPED, &labels, in_the_middle as f64, SOON).await;
    assert_eq!(skipped, in_the_middle as f64, "of a partition with nothing left nobody knows yet where it goes on");
    evoke.log().wait_for(&[EXPIRED, &topic, &format!(" skipped={in_the_middle}")], SOON).await;

    // The next record of a partition says what was before it.
    sent.extend(ids(round(&broker, &topic, 1).await));
    sink.wait_all(&sent, SOON).await;
    let skipped = evoke.metric(SKIPPED, &labels, cut.len() as f64, SOON).await;
    assert_eq!(skipped, cut.len() as f64);
    evoke.log().wait_for(&[EXPIRED, &topic, &format!(" skipped={to_the_end}")], SOON).await;
    evoke.stop().await;
    assert_eq!((evoke.log().count(RESTARTED), evoke.log().count(EXPIRED)), (2, 2), "once for each partition");

    // What was passed over is over: the next start finds its offsets.
    let mut evoke = home.run().await;
    sent.extend(ids(round(&broker, &topic, 1).await));
    sink.wait_all(&sent, SOON).await;
    assert_eq!(evoke.metrics().await.sum(SKIPPED, &labels), 0.0);
    broker.all_committed(&group, &topic, PARTITIONS, SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count(RESTARTED), 0);
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}
