//! Where an EventSource puts what cannot be an event, and what its own sink refuses: its `deadLetterTopic` or `deadLetterSink`, or the
//! bus's store, which also gets what those do not take.

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, assert_has, json as read};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::count;
use evoke_tests::manifests::{bus, objects, pass, source, trigger};
use evoke_tests::servers::kafka::{self, Broker, Placed, Record};
use evoke_tests::servers::redis::Redis;
use redis::cmd;
use serde_json::{Value, json};

use super::functions::send;
use super::redis_source;

/// A Trigger that sends what comes to the topic `broken` to a sink.
fn reader(sink: &Sink) -> String {
    let spec = format!(
        "inputs: {{broken: {{topic: broken}}}}\n\
         subscribers: [{{name: r, condition: broken, sink: {{uri: \"{}\"}}}}]",
        sink.url("/")
    );
    trigger("reader", &spec)
}

/// A Kafka source of one topic, from its start, with `more` in its spec, and a Trigger that passes on what it reads.
fn reading(broker: &Broker, topic: &str, group: &str, more: &str, sink: &Sink) -> [String; 2] {
    let spec = format!(
        "{more}\nkafka: {{orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}}}",
        broker.listeners.plain
    );
    [source("kafka", &spec), pass("all", "kafka", "orders", &sink.url("/"))]
}

/// A record that claims to be an event and has no `source`, one that is too large for an event, and one that is neither.
async fn poison(broker: &Broker, topic: &str) -> Vec<Placed> {
    let half = Record::new("half").header("ce_specversion", "1.0").header("ce_id", "1").header("ce_type", "t");
    let large = Record::new(vec![b'L'; 2 * 1024 * 1024]);
    broker.produce(topic, [half, large, Record::new("good")]).await
}

/// What the bus's own store of an evoke that has ended lists.
async fn stored(home: &Home) -> Vec<Value> {
    let (code, text) = home.tool_without_evoke(&["dlq", "list", "-o", "json"]).await;
    assert_eq!(code, Some(0), "{text}");
    read(&text)["deadLetters"].as_array().unwrap().clone()
}

pub(crate) async fn what_cannot_be_an_event_is_read_from_the_topic_by_a_trigger() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(1).await, broker.name("group"));
    let (sink, dead) = (Sink::start().await, Sink::start().await);
    let [from, to] = reading(&broker, &topic, &group, "deadLetterTopic: broken", &sink);
    let home = Home::with(objects(&[from, to, reader(&dead)]));
    let mut evoke = home.run().await;
    assert_eq!(evoke.log().count("nothing here publishes on the topic"), 0);
    let placed = poison(&broker, &topic).await;
    let letters = dead.wait(2, SOON).await;
    let expected: [(&str, &[u8], usize); 2] =
        [("source", b"half", 4), ("1048576", &[b'L'; 16 * 1024], 2 * 1024 * 1024)];
    for (place, (says, kept, bytes)) in placed.iter().zip(expected) {
        let letter = letters.iter().find(|letter| letter.id() == place.id);
        let letter = letter.unwrap_or_else(|| panic!("no letter of {}: {letters:?}", place.id));
        assert_eq!((letter.ce("type"), letter.ce("evokeposition")), ("io.evoke.malformed", &*place.id));
        assert_eq!(letter.ce("source"), "/namespaces/default/eventsources/kafka/orders");
        assert!(letter.text("evokecause").contains(says), "{}", letter.text("evokecause"));
        assert_eq!((&*letter.body, letter.ce("evokebytes")), (kept, &*bytes.to_string()));
    }
    assert_eq!(sink.wait(1, SOON).await[0].body, "good");
    broker.all_committed(&group, &topic, 1, SOON).await;
    evoke.stop().await;
    assert_eq!((sink.count(), dead.count()), (1, 2));
    assert_eq!(stored(&home).await, Vec::<Value>::new(), "the topic has them, and not the store");
    Ok(())
}

pub(crate) async fn what_its_own_sink_refuses_is_in_the_topic_too() -> Verdict {
    let dead = Sink::start().await;
    let refuse = |request: &Received| Answer::Status(if request.id() == "bad" { 400 } else { 200 });
    let sink = Sink::scripted(refuse).await;
    let spec = format!("sink: {{uri: \"{}\"}}\ndeadLetterTopic: broken\nwebhook: {{in: {{}}}}", sink.url("/"));
    let home = Home::with(objects(&[source("web", &spec), reader(&dead)]));
    let mut evoke = home.run().await;
    for id in ["bad", "good"] {
        send(&evoke, id).await;
    }
    let letter = dead.wait(1, SOON).await.remove(0);
    assert_eq!((letter.id(), letter.ce("type"), &*letter.body), ("bad", "t", &b"x"[..]));
    assert_eq!((letter.ce("knativeerrorcode"), letter.ce("evoketrigger")), ("400", "default/web"));
    assert_eq!(letter.ce("evokesubscriber"), "sink");
    sink.wait(2, SOON).await;
    evoke.stop().await;
    assert_eq!(sink.attempts(), count(["bad", "good"]));
    assert_eq!(dead.count(), 1);
    assert_eq!(stored(&home).await, Vec::<Value>::new());
    Ok(())
}

pub(crate) async fn what_a_dead_letter_sink_refuses_is_in_the_store() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(1).await, broker.name("group"));
    let (sink, dead) = (Sink::start().await, Sink::scripted(|_| Answer::Status(400)).await);
    let more = format!("deadLetterSink: {{uri: \"{}\"}}", dead.url("/"));
    let home = Home::with(objects(&reading(&broker, &topic, &group, &more, &sink)));
    let mut evoke = home.run().await;
    let placed = poison(&broker, &topic).await;
    assert_eq!(sink.wait(1, SOON).await[0].body, "good");
    // Only what is durable as a dead letter is committed.
    broker.all_committed(&group, &topic, 1, SOON).await;
    evoke.stop().await;
    assert_eq!(dead.attempts(), count(placed[..2].iter().map(|placed| &*placed.id)), "it is asked first, and once");
    assert_eq!(evoke.log().count("the dead-letter sink refused"), 2);
    let letters = stored(&home).await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    for (place, (says, bytes)) in placed.iter().zip([("source", 4), ("1048576", 16 * 1024)]) {
        let letter = letters.iter().find(|letter| letter["eventId"] == *place.id);
        let letter = letter.unwrap_or_else(|| panic!("no letter of {}: {letters:?}", place.id));
        let expected = json!({
            "eventType": "io.evoke.malformed", "eventSource": "/namespaces/default/eventsources/kafka/orders",
            "position": place.id, "bytes": bytes,
        });
        assert_has(letter, &expected);
        assert!(letter["cause"].as_str().unwrap().contains(says), "{letter}");
        assert!(letter.get("trigger").is_none(), "no Trigger has failed: {letter}");
    }
    Ok(())
}

pub(crate) async fn what_a_dead_letter_topic_never_takes_is_in_the_store() -> Verdict {
    let server = Redis::start().await?;
    let (mut redis, sink) = (server.connection().await, Sink::start().await);
    let spec = format!(
        "sink: {{uri: \"{}\"}}\n\
         delivery: {{retry: 1, backoffDelay: PT0.05S, timeout: PT3S}}\n\
         deadLetterTopic: broken\n\
         redis: {{up: {{redisHost: \"{}\", stream: up, startAt: earliest}}}}",
        sink.url("/"),
        server.address
    );
    let on_server = format!("redis: {{address: \"{}\", partitions: 1}}", server.address);
    let home = Home::with(objects(&[bus("default", &on_server), source("src", &spec)]));
    let mut evoke = home.run().await;
    // To what is no stream nothing can be added.
    cmd("SET").arg("evoke:default:broken").arg("no stream").exec_async(&mut redis).await.unwrap();
    let mut entries = redis::pipe();
    entries.atomic();
    for (id, bytes) in [("a", 1), ("large", 2 << 20), ("b", 1)] {
        entries.cmd("XADD").arg("up").arg("*").arg("ce-id").arg(id).arg("ce-source").arg("/s").arg("ce-type").arg("t");
        entries.arg("data").arg(vec![b'x'; bytes]);
    }
    entries.exec_async(&mut redis).await.unwrap();
    sink.wait_all(&["a".to_owned(), "b".to_owned()].into(), SOON).await;
    evoke.waits_for(&["evoke:default:broken", "the key holds something else"], SOON).await;
    // Only what is durable as a dead letter is acknowledged.
    redis_source::acked(&mut redis, "up", "default.src.up").await;
    let kept = [("topic", "_evoke.deadletters")];
    assert_eq!(evoke.metrics().await.sum("evoke_bus_published_events_total", &kept), 1.0);
    evoke.stop().await;
    assert_eq!(evoke.log().count("the dead-letter topic failed, trying the store"), 1);
    assert_eq!(sink.attempts(), count(["a", "b"]));
    let letters = stored(&home).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let expected = json!({
        "eventId": "large", "eventType": "io.evoke.malformed", "position": "large", "bytes": 16 * 1024,
        "eventSource": "/namespaces/default/eventsources/src/up",
    });
    assert_has(&letters[0], &expected);
    assert!(letters[0]["cause"].as_str().unwrap().contains("1048576"), "{}", letters[0]);
    Ok(())
}
