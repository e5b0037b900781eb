//! Records that other programs write in transactions: what is committed arrives, what is aborted was never there.

use std::collections::BTreeSet;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::kafka::{self, Broker, Record, produce};
use evoke_tests::{SOON, eventually};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, Producer};

use super::bus_kafka::{LATER, Pipeline};

/// Makes one of a producer's calls that block.
async fn blocking(
    producer: &FutureProducer,
    call: impl FnOnce(&FutureProducer) -> Result<(), KafkaError> + Send + 'static,
) {
    let producer = producer.clone();
    tokio::task::spawn_blocking(move || call(&producer)).await.unwrap().unwrap();
}

/// Writes events to partition 0 of a topic in transactions, of which the second and the last are aborted. Gives back the ids of those that
/// are committed.
async fn write(broker: &Broker, topic: &str) -> BTreeSet<String> {
    let mut config = broker.client();
    config.set("transactional.id", broker.name("writer"));
    let producer: FutureProducer = config.create().unwrap();
    blocking(&producer, |producer| producer.init_transactions(LATER)).await;
    let mut committed = BTreeSet::new();
    for (prefix, commits) in [("first", true), ("second", false), ("third", true), ("last", false)] {
        let ids = [1, 2].map(|n| format!("{prefix}-{n}"));
        let records = ids.iter().map(|id| {
            let record = Record::new("x").partition(0).header("ce_specversion", "1.0").header("ce_id", id.as_str());
            record.header("ce_source", "/other").header("ce_type", "t")
        });
        producer.begin_transaction().unwrap();
        produce(&producer, topic, records).await;
        blocking(&producer, move |producer| match commits {
            true => producer.commit_transaction(LATER),
            false => producer.abort_transaction(LATER),
        })
        .await;
        if commits {
            committed.extend(ids);
        }
    }
    committed
}

pub(crate) async fn a_bus_gives_what_is_committed_and_is_at_its_end() -> Verdict {
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::new(&broker, "partitions: 1").await;
    let mut evoke = pipeline.home.run().await;
    let sent = write(&broker, &pipeline.topic()).await;
    pipeline.sink.wait_all(&sent, SOON).await;
    let trigger = format!("all-{}", pipeline.name);
    eventually("nothing is left to be read", SOON, async || {
        let listed = pipeline.home.json(&["subscription", "list", "--trigger", &trigger]).await;
        let row = &listed["subscriptions"][0];
        (row["evaluated"] == sent.len() && row["lag"] == 0).then_some(())
    })
    .await;
    evoke.stop().await;
    assert_conserved(&sent, [&pipeline.sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_source_reads_what_is_committed() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(1).await;
    let sink = Sink::start().await;
    let (brokers, group) = (broker.listeners.plain, broker.name("group"));
    let spec =
        format!("kafka: {{in: {{brokers: \"{brokers}\", topic: {topic}, consumerGroup: {group}, startAt: earliest}}}}");
    let home = Home::with(objects(&[source("kafka", &spec), pass("all", "kafka", "in", &sink.url("/"))]));
    let mut evoke = home.run().await;
    let sent = write(&broker, &topic).await;
    sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}
