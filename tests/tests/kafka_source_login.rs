//! A Kafka source that is no longer let in while it reads: it says so, goes on once it is, and misses nothing.

use std::time::Duration;

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::during;
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::kafka::{Broker, PASSWORD, Record, USER, produce};

use super::bus_kafka::LATER;

const PARTITIONS: i32 = 2;
const GROUP: &str = "g";
/// How long a connection may be used until its user has to log in again.
const LOGGED_IN: Duration = Duration::from_secs(4);
/// What is produced at once, and how often in a second at the most.
const AT_ONCE: i32 = 4;
const CALLS: usize = 50;
/// What may be repeated: the connection that commits may be refused so much earlier than the one that fetches, and what that one
/// has read ahead is as much again.
const WINDOW: usize = 2 * LOGGED_IN.as_secs() as usize * CALLS * AT_ONCE as usize;
/// How many records are read before the user is removed, and after it is back.
const BETWEEN: usize = 100;

pub(crate) async fn a_user_that_is_removed_while_connected_is_named_and_misses_nothing() -> Verdict {
    let logged_in = LOGGED_IN.as_millis().to_string();
    let broker = Broker::prepare_with(&[("connections.max.reauth.ms", logged_in.as_str())]).await?;
    broker.start().await;
    let topic = broker.topic(PARTITIONS).await;
    let sink = Sink::start().await;
    let spec = format!(
        "kafka:\n  orders: {{brokers: \"{}\", topic: {topic}, startAt: earliest, consumerGroup: {GROUP}, authRequired: true, \
         tls: {{disabled: true}}, sasl: {{mechanism: SCRAM-SHA-512, username: {USER}, password: {PASSWORD}}}}}",
        broker.listeners.sasl
    );
    let home = Home::with(objects(&[source("kafka", &spec), pass("all", "kafka", "orders", &sink.url("/"))]));
    let mut evoke = home.run().await;
    // Whoever produces is another user.
    let producer = broker.producer();
    let publish = async |call: usize| {
        let records = (0..AT_ONCE).map(|n| Record::new(format!("{call}-{n}")).partition(n % PARTITIONS));
        produce(&producer, &topic, records).await.into_iter().map(|placed| placed.id).collect::<Vec<_>>()
    };
    let shut_out = async {
        sink.wait_more(BETWEEN, SOON).await;
        broker.remove_user().await;
        let said = ["kafka/orders", "uthentication", "check the user, the password and the mechanism"];
        let said = evoke.waits_for(&said, LATER).await;
        assert!(!said.contains(PASSWORD), "{said}");
        broker.restore_user().await;
        evoke.ready(LATER).await;
        sink.wait_more(BETWEEN, LATER).await;
    };
    let (sent, ()) = during(publish, shut_out).await;
    sink.wait_all(&sent, LATER).await;
    broker.all_committed(GROUP, &topic, PARTITIONS, SOON).await;
    evoke.stop().await;
    let found = assert_conserved(&sent, [&sink.delivered()], WINDOW);
    println!("a user of Kafka that is removed: {} sent, {} repeats", sent.len(), found.repeats);
    assert_eq!(evoke.log().count(PASSWORD), 0, "the password is in the log");
    broker.stop().await;
    Ok(())
}
