//! Sources whose server stands still under load: for so short that nobody notices, and until it is given up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::during;
use evoke_tests::manifests::bare_source;
use evoke_tests::servers::mqtt::Mosquitto;
use evoke_tests::servers::nats::Nats;
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use parking_lot::Mutex;
use redis::AsyncCommands;

use super::{mqtt_source, nats_source, redis_source};

/// So short that nobody notices.
const SHORT: Duration = Duration::from_secs(2);
/// Longer than any server may be silent, and what it takes to go on after that.
const LATER: Duration = Duration::from_secs(90);
/// Messages or requests that there are to be between two faults, at the least.
const BETWEEN: usize = 100;
/// What is sent at once.
const AT_ONCE: usize = 10;

/// Messages of QoS 1 that Mosquitto has on their way to a client, at the most: so many acknowledgements may be lost with a
/// connection.
const MQTT_WINDOW: usize = 20;
/// The same of a consumer that evoke makes.
const NATS_WINDOW: usize = 1024;
/// Entries of a stream of Redis that evoke has read and not stored, at the most, when it is in no hurry: one read, and one ahead.
const REDIS_WINDOW: usize = 2 * 128;

/// What one call of a load sends.
fn payloads(call: usize) -> Vec<String> {
    (0..AT_ONCE).map(|n| format!("{call}-{n}")).collect()
}

/// Freezes a server twice, the second time until the source says what it `says` of it.
async fn stand_still(evoke: &mut Evoke, sink: &Sink, says: &[&str], freeze: impl Fn(bool)) {
    sink.wait_more(BETWEEN, SOON).await;
    freeze(true);
    tokio::time::sleep(SHORT).await;
    freeze(false);
    sink.wait_more(BETWEEN, SOON).await;
    assert_eq!(evoke.metrics().await.sum("evoke_source_reconnects_total", &[]), 0.0, "nobody noticed");
    freeze(true);
    evoke.waits_for(says, LATER).await;
    assert_eq!(evoke.metrics().await.sum("evoke_source_up", &[]), 0.0);
    freeze(false);
    evoke.ready(LATER).await;
    sink.wait_more(BETWEEN, LATER).await;
    evoke.metric("evoke_source_reconnects_total", &[], 1.0, SOON).await;
}

/// Waits until everything that was sent has arrived, by its body.
async fn arrives(sink: &Sink, sent: &BTreeSet<String>) {
    eventually("everything arrives", LATER, async || {
        let there = sink.bodies();
        sent.iter().all(|body| there.contains_key(body)).then_some(())
    })
    .await;
}

pub(crate) async fn a_broker_of_mqtt_loses_nothing() -> Verdict {
    let broker = Mosquitto::start().await?;
    let (_home, mut evoke, sink) = mqtt_source::reading(&broker, ", topic: load, qos: 1").await;
    let mut publisher = broker.publisher().await.patient(LATER);
    let publish = async |call: usize| {
        let payloads = payloads(call);
        publisher.send_all("load", 1, payloads.clone()).await;
        payloads
    };
    let freeze = |still: bool| if still { broker.freeze() } else { broker.thaw() };
    let says = ["mqtt/in", "did not answer within 30 s"];
    let (sent, ()) = during(publish, stand_still(&mut evoke, &sink, &says, freeze)).await;
    arrives(&sink, &sent).await;
    evoke.stop().await;
    let found = assert_conserved(&sent, [&sink.bodies()], MQTT_WINDOW);
    println!("MQTT, frozen: {} sent, {} repeats", sent.len(), found.repeats);
    Ok(())
}

pub(crate) async fn a_server_of_nats_loses_nothing_of_a_stream() -> Verdict {
    let nats = Nats::start().await?;
    let context = nats_source::make_stream(&nats.client().await, "S").await;
    let (_home, mut evoke, sink) = nats_source::reading(&nats, ", stream: S").await;
    let publish = async |call: usize| nats_source::store_some(&context, call).await;
    let freeze = |still: bool| if still { nats.freeze() } else { nats.thaw() };
    let says = ["nats/in", "lost the connection"];
    let (sent, ()) = during(publish, stand_still(&mut evoke, &sink, &says, freeze)).await;
    sink.wait_all(&sent, LATER).await;
    nats_source::acked(&context, "S", "default_nats_in").await;
    evoke.stop().await;
    let found = assert_conserved(&sent, [&sink.delivered()], NATS_WINDOW);
    println!("JetStream, frozen: {} sent, {} repeats", sent.len(), found.repeats);
    Ok(())
}

pub(crate) async fn a_server_of_redis_loses_no_entry_of_a_stream() -> Verdict {
    let server = Redis::start().await?;
    let (_home, mut evoke, sink) =
        redis_source::reading(&server.address.to_string(), ", stream: in, startAt: earliest").await;
    let mut redis = server.patient_connection().await;
    let publish = async |call: usize| redis_source::add_some(&mut redis, call).await;
    let freeze = |still: bool| if still { server.freeze() } else { server.thaw() };
    let says = ["redis/in", "did not answer within"];
    let (sent, ()) = during(publish, stand_still(&mut evoke, &sink, &says, freeze)).await;
    sink.wait_all(&sent, LATER).await;
    redis_source::acked(&mut redis, "in", redis_source::GROUP).await;
    evoke.stop().await;
    let found = assert_conserved(&sent, [&sink.delivered()], REDIS_WINDOW);
    println!("Redis stream, frozen: {} sent, {} repeats", sent.len(), found.repeats);
    Ok(())
}

pub(crate) async fn a_server_of_redis_loses_no_item_of_a_list() -> Verdict {
    let server = Redis::start().await?;
    let (_home, mut evoke, sink) = redis_source::reading(&server.address.to_string(), ", list: jobs").await;
    let mut redis = server.patient_connection().await;
    let publish = async |call: usize| {
        let items = payloads(call);
        let _: i64 = redis.rpush("jobs", &items).await.unwrap();
        items
    };
    let freeze = |still: bool| if still { server.freeze() } else { server.thaw() };
    let says = ["redis/in", "did not answer within"];
    let (sent, ()) = during(publish, stand_still(&mut evoke, &sink, &says, freeze)).await;
    arrives(&sink, &sent).await;
    redis_source::emptied(&mut redis).await;
    evoke.stop().await;
    // All that was read had time to settle before the server was given up, and only a crash repeats items.
    assert_conserved(&sent, [&sink.bodies()], 0);
    Ok(())
}

/// Whether the server did what it was asked for last is not known when it is given up. Asked again to remove an item that is
/// settled, it must not take an equal one that is not.
pub(crate) async fn equal_items_of_a_list_are_each_delivered() -> Verdict {
    let server = Redis::start().await?;
    let taken: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let takes = Arc::clone(&taken);
    let answer = move |request: &Received| {
        let taken = takes.lock().contains(request.id());
        Answer::Status(if taken { 200 } else { 503 })
    };
    let sink = Sink::scripted(answer).await;
    // Without a bus, an item is settled when its sink has it.
    let spec = format!(
        "sink: {{uri: \"{}\"}}\ndelivery: {{backoffDelay: PT0.05S}}\nredis:\n  in: {{redisHost: \"{}\", list: jobs}}",
        sink.url("/"),
        server.address
    );
    let home = Home::with(bare_source("redis", &spec));
    let mut evoke = home.run().await;
    let mut redis = server.patient_connection().await;
    let ids = async |count: usize| {
        eventually("every item is tried", SOON, async || {
            let ids = sink.attempts();
            (ids.len() == count).then_some(ids)
        })
        .await
    };
    let _: i64 = redis.rpush("jobs", vec!["same"; AT_ONCE]).await.unwrap();
    let first = ids(AT_ONCE).await;
    let _: i64 = redis.rpush("jobs", vec!["same"; AT_ONCE]).await.unwrap();
    ids(2 * AT_ONCE).await;
    server.freeze();
    taken.lock().extend(first.into_keys());
    sink.wait_delivered(AT_ONCE, SOON).await;
    evoke.waits_for(&["redis/in", "did not answer within"], LATER).await;
    server.thaw();
    sink.script(|_| Answer::Status(200));
    evoke.ready(LATER).await;
    // What was not settled comes again, under ids of its own.
    sink.wait_delivered(2 * AT_ONCE, SOON).await;
    redis_source::emptied(&mut redis).await;
    evoke.stop().await;
    assert_eq!(sink.delivered_count(), 2 * AT_ONCE);
    Ok(())
}
