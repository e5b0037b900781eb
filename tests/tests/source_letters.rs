//! Where an EventSource puts what cannot be an event, and what its own sink refuses: its `deadLetterTopic`, or the bus's store.

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, assert_has, json as read};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::count;
use evoke_tests::manifests::{objects, pass, source, trigger};
use evoke_tests::servers::kafka::{self, Broker, Placed, Record};
use serde_json::{Value, json};

use super::functions::send;

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
