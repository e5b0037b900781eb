//! A Kafka source that is edited while records flow: the next session goes on where the last one ended, and no other source notices.

use std::collections::BTreeMap;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::during;
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::kafka::{self, Record, produce};
use evoke_tests::{SOON, eventually};

use super::reload::wait_for_round;

const LATER: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;
/// How often the source is edited. The names of the rounds sort as their numbers do.
const EDITS: usize = 4;

pub(crate) async fn one_that_is_edited_under_load_loses_and_repeats_nothing() -> Verdict {
    let broker = kafka::shared().await?;
    let names = ["edited", "kept"];
    let topics = [broker.topic(PARTITIONS).await, broker.topic(PARTITIONS).await];
    let groups = names.map(|name| broker.name(name));
    let sink = Sink::start().await;
    let home = Home::with(objects(&names.map(|name| pass(name, "kafka", name, &sink.url(&format!("/{name}"))))));
    let edit = |round: usize| {
        let event = |at: usize, attributes: &str| {
            format!(
                "  {}: {{brokers: \"{}\", authRequired: false, topic: {}, startAt: earliest, consumerGroup: {}{attributes}}}",
                names[at], broker.listeners.plain, topics[at], groups[at]
            )
        };
        let attributes = format!(
            ", attributes: {{round: r{round}, source: /of/r{round}, dataschema: \"https://example.org/r{round}\"}}"
        );
        home.write("source.yaml", source("kafka", &format!("kafka:\n{}\n{}", event(0, &attributes), event(1, ""))));
    };
    edit(0);
    let mut evoke = home.run().await;
    let is_in = async || broker.members(&groups[1]).await.filter(|members| !members.is_empty());
    let joined = eventually("the source is in its group", SOON, is_in).await;
    let producer = broker.producer();
    let publish = async |call: usize| {
        let mut ids = Vec::new();
        for topic in &topics {
            let records = (0..PARTITIONS).map(|p| Record::new(call.to_string()).partition(p));
            ids.extend(produce(&producer, topic, records).await.into_iter().map(|placed| placed.id));
        }
        ids
    };
    let edits = async {
        wait_for_round(&sink, 0).await;
        for round in 1..=EDITS {
            edit(round);
            wait_for_round(&sink, round).await;
        }
    };
    let (sent, ()) = during(publish, edits).await;
    sink.wait_all(&sent, LATER).await;
    for (group, topic) in groups.iter().zip(&topics) {
        broker.all_committed(group, topic, PARTITIONS, SOON).await;
    }
    let failed = evoke.metrics().await.sum("evoke_source_events_total", &[("outcome", "failed")]);
    assert_eq!(failed, 0.0, "a source that ends settles what it read");
    let members = async || broker.members(&groups[1]).await;
    let members = eventually("the broker says who is in the group", SOON, members).await;
    assert_eq!(members, joined, "the other source stays in its group");
    evoke.stop().await;
    assert_eq!(evoke.log().count("read again"), 0, "everything is committed that was read");
    assert_conserved(&sent, [&sink.delivered()], 0);

    // Every event has the attributes of one manifest, and in a partition the manifests follow each other.
    let mut rounds = BTreeMap::new();
    for request in sink.received_at("/edited") {
        let round = request.ce("round").to_owned();
        let of_the_round = (format!("/of/{round}"), format!("https://example.org/{round}"));
        assert_eq!((request.text("source"), request.text("dataschema")), of_the_round);
        let place = |attribute| request.ce(attribute).parse::<u64>().unwrap();
        rounds.insert((place("kafkapartition"), place("kafkaoffset")), round);
    }
    for partition in 0..u64::try_from(PARTITIONS).unwrap() {
        let found: Vec<_> = rounds.range((partition, 0)..=(partition, u64::MAX)).map(|(_, round)| round).collect();
        assert!(found.is_sorted() && found.first() < found.last(), "partition {partition}: {found:?}");
    }
    for request in sink.received_at("/kept") {
        assert_eq!(request.ce("source"), "/namespaces/default/eventsources/kafka/kept");
    }
    Ok(())
}
