//! Kafka sources: what records become, where reading starts, how they log in.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloudevents::{AttributesReader, EventBuilder, EventBuilderV10};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::during;
use evoke_tests::manifests::{bare_source, objects, pass, secret, source};
use evoke_tests::servers::kafka::{self, Broker, PASSWORD, Record, USER, produce};
use evoke_tests::servers::tls;
use evoke_tests::{SOON, eventually};
use serde_json::json;

/// A source of one topic, from its start, and what `more` says, with a sink for its events and one for its dead letters.
async fn reading(broker: &Broker, topic: &str, more: &str) -> (Home, Evoke, Sink, Sink) {
    let (sink, dead) = (Sink::start().await, Sink::start().await);
    let spec = format!(
        "deadLetterSink: {{uri: \"{}\"}}\n\
         kafka:\n  orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, {more}}}",
        dead.url("/"),
        broker.listeners.plain
    );
    let home = Home::with(objects(&[source("kafka", &spec), pass("all", "kafka", "orders", &sink.url("/"))]));
    let evoke = home.run().await;
    (home, evoke, sink, dead)
}

fn by_id<'a>(received: &'a [Received], id: &str) -> &'a Received {
    let ids: Vec<&str> = received.iter().map(Received::id).collect();
    received.iter().find(|r| r.id() == id).unwrap_or_else(|| panic!("no {id} among {ids:?}"))
}

pub(crate) async fn a_plain_record_keeps_key_headers_and_position() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(3).await;
    let attributes = "{subject: order, team: blue, dataschema: \"https://example.org/order\"}";
    let more = format!("contentType: application/json, attributes: {attributes}");
    let (_home, mut evoke, sink, dead) = reading(&broker, &topic, &more).await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - Duration::from_secs(5);
    let value = r#"{ "amount" : 1.50 }"#;
    let full = Record::new(value)
        .partition(2)
        .key("order-7")
        .header("x-Tenant", "acme")
        .header("signature", [0xff, 0x00])
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("tracestate", "a=1");
    let tombstone = Record { value: None, ..Record::default() }.partition(0).key([0xfe]);
    let placed = broker.produce(&topic, [full, tombstone]).await;
    let received = sink.wait(2, SOON).await;

    let full = by_id(&received, &placed[0].id);
    assert_eq!(full.id(), format!("{topic}/2/0"));
    assert_eq!(full.body, value);
    for (attribute, value) in [
        ("specversion", "1.0"),
        ("source", "/namespaces/default/eventsources/kafka/orders"),
        ("type", "io.evoke.kafka"),
        ("subject", "order"),
        ("team", "blue"),
        ("dataschema", "https://example.org/order"),
        ("partitionkey", "order-7"),
        ("kafkapartition", "2"),
        ("kafkaoffset", "0"),
        ("kafkaheaderxtenant", "acme"),
        ("kafkaheadersignature", "/wA="),
    ] {
        assert_eq!(full.ce(attribute), value, "{attribute}");
    }
    assert_eq!(full.header("content-type"), "application/json");
    assert_eq!(full.header("traceparent"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert_eq!(full.header("tracestate"), "a=1");
    let time = u64::try_from(full.event().time().unwrap().timestamp()).unwrap();
    assert!((before.as_secs()..=before.as_secs() + 60).contains(&time), "the record's time: {}", full.ce("time"));

    let tombstone = by_id(&received, &placed[1].id);
    assert_eq!(tombstone.body, "");
    assert_eq!(tombstone.ce("partitionkey"), "/g==", "a binary key in base64");
    evoke.stop().await;
    assert_eq!(dead.count(), 0);
    let committed = broker.committed("default.kafka.orders", &topic, 3).await;
    assert_eq!((committed.get(&0), committed.get(&2)), (Some(&1), Some(&1)), "{committed:?}");
    Ok(())
}

pub(crate) async fn a_record_that_is_an_event_is_taken_as_one() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(1).await;
    let (_home, _evoke, sink, dead) =
        reading(&broker, &topic, &format!("attributes: {{team: blue}}, consumerGroup: {}", broker.name("group"))).await;
    let binary = Record::new("<a/>")
        .key("k")
        .header("ce_specversion", "1.0")
        .header("ce_id", "binary")
        .header("ce_source", "http://example.com/s")
        .header("ce_type", "t.binary")
        .header("ce_tenant", "acme")
        .header("ce_traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("content-type", "application/xml")
        .header("other", "x");
    let event = EventBuilderV10::new()
        .id("structured")
        .source("http://example.com/s")
        .ty("t.structured")
        .extension("tenant", "acme")
        .data("application/json", json!({"amount": 3}))
        .build()
        .unwrap();
    let structured = Record::new(serde_json::to_vec(&event).unwrap())
        .header("content-type", "application/cloudevents+json; charset=UTF-8");
    broker.produce(&topic, [binary]).await;
    broker.produce(&topic, [structured]).await;
    let received = sink.wait(2, SOON).await;

    let binary = by_id(&received, "binary");
    assert_eq!((binary.ce("source"), binary.ce("type")), ("http://example.com/s", "t.binary"));
    assert_eq!((binary.ce("tenant"), binary.ce("team")), ("acme", "blue"));
    assert_eq!(binary.header("content-type"), "application/xml");
    assert_eq!(binary.body, "<a/>");
    assert_eq!(binary.header("traceparent"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let structured = by_id(&received, "structured");
    assert_eq!((structured.event().ty(), structured.ce("tenant")), ("t.structured", "acme"));
    assert_eq!(structured.header("content-type"), "application/json");
    assert_eq!(structured.json(), json!({"amount": 3}));
    assert_eq!(dead.count(), 0);
    Ok(())
}

pub(crate) async fn what_cannot_be_an_event_is_dead_lettered_and_passed_by() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(1).await;
    let group = broker.name("group");
    let (_home, mut evoke, sink, dead) = reading(&broker, &topic, &format!("consumerGroup: {group}")).await;
    let half = Record::new("half").header("ce_specversion", "1.0").header("ce_id", "1").header("ce_type", "t");
    let broken = Record::new("{\"specversion\":").header("content-type", "application/cloudevents+json");
    let claims = Record::new("[1]").header("content-type", "application/cloudevents+json");
    let large = Record::new(vec![b'L'; 2 * 1024 * 1024]);
    let placed = broker.produce(&topic, [half, broken, claims, large, Record::new("good")]).await;
    let received = sink.wait(1, SOON).await;
    assert_eq!(received[0].body, "good");
    let letters = dead.wait(4, SOON).await;
    let expected: [(&str, &[u8]); 4] =
        [("source", b"half"), ("", b"{\"specversion\":"), ("", b"[1]"), ("1048576", &[b'L'; 16 * 1024])];
    for (place, (says, kept)) in placed.iter().zip(expected) {
        let letter = letters
            .iter()
            .find(|letter| letter.headers.values().any(|value| value.to_str().is_ok_and(|v| v.contains(&place.id))))
            .unwrap_or_else(|| panic!("no dead letter names {}: {letters:?}", place.id));
        assert_eq!(letter.body, kept, "{}", place.id);
        assert!(letter.text("evokecause").contains(says), "{}: {}", place.id, letter.text("evokecause"));
        assert!(!letter.text("evokecause").is_empty());
        assert_eq!(letter.ce("source"), "/namespaces/default/eventsources/kafka/orders");
        let is_hash = |value: &http::HeaderValue| {
            value.to_str().is_ok_and(|v| v.len() == 64 && v.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        assert!(letter.headers.values().any(is_hash), "no SHA-256 in {:?}", letter.headers);
    }
    evoke.stop().await;
    let committed = broker.committed(&group, &topic, 1).await;
    assert_eq!(committed.get(&0), Some(&5), "the upstream commit moved on");
    assert_eq!((sink.count(), dead.count()), (1, 4));
    Ok(())
}

pub(crate) async fn reading_starts_where_the_manifest_says() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(2).await;
    let before = broker.produce(&topic, (0..20).map(|n| Record::new(format!("before-{n}")))).await;
    let sink = Sink::start().await;
    let event = |name: &str, start: &str| {
        format!("  {name}: {{brokers: \"{}\", authRequired: false, topic: {topic}{start}}}", broker.listeners.plain)
    };
    let group = broker.name("group");
    let spec = format!(
        "kafka:\n{}\n{}\n{}",
        event("first", ", startAt: earliest"),
        event("last", ", startAt: latest"),
        event("usual", &format!(", consumerGroup: {group}"))
    );
    let names = ["first", "last", "usual"];
    let passes = names.map(|event| pass(event, "kafka", event, &sink.url(&format!("/{event}"))));
    let home = Home::with(objects(&[&[source("kafka", &spec)], &passes[..]].concat()));
    let mut evoke = home.run().await;
    // Nothing that is produced after evoke was ready is missed, even if it stops before it read anything.
    evoke.kill().await;
    let after = broker.produce(&topic, (0..20).map(|n| Record::new(format!("after-{n}")))).await;
    let mut evoke = home.run().await;
    let ids = |path: &str| sink.received_at(path).iter().map(|r| r.id().to_owned()).collect::<BTreeSet<_>>();
    let after: BTreeSet<String> = after.into_iter().map(|placed| placed.id).collect();
    let all: BTreeSet<String> = before.into_iter().map(|placed| placed.id).chain(after.iter().cloned()).collect();
    // What was delivered before the kill may come again, so it is the ids that are awaited and not a number of requests.
    for (path, expected) in [("/first", &all), ("/last", &after), ("/usual", &after)] {
        eventually(path, SOON, async || ids(path).is_superset(expected).then_some(())).await;
        assert_eq!(ids(path), *expected, "{path}");
    }
    evoke.stop().await;
    let end: i64 = broker.committed(&group, &topic, 2).await.values().sum();
    assert_eq!(end, 40);
    // What was committed is not read again.
    let before = sink.count();
    let mut evoke = home.run().await;
    broker.produce(&topic, [Record::new("more")]).await;
    sink.wait(before + 3, SOON).await;
    evoke.stop().await;
    assert_eq!(sink.count(), before + 3);
    Ok(())
}

pub(crate) async fn sasl_and_tls_log_in() -> Verdict {
    let (broker, authority) = (kafka::shared().await?, tls::authority().await?);
    let topic = broker.topic(1).await;
    let sink = Sink::start().await;
    let login = format!("username: {USER}, passwordFrom: {{secretKeyRef: {{name: kafka, key: password}}}}");
    let ca = authority.ca();
    let plain = |mechanism: &str| format!("sasl: {{mechanism: {mechanism}, {login}}}, tls: {{disabled: true}}");
    let secure = |mechanism: &str| {
        format!("sasl: {{mechanism: {mechanism}, {login}}}, tls: {{caFrom: {{file: {}}}}}", ca.display())
    };
    let of = format!(
        "saslUsername: {USER}, saslPassword: {PASSWORD}, tls: {{caFrom: {{env: KAFKA_CA}}, serverName: broker.test}}"
    );
    let sources = [
        ("plain", broker.listeners.sasl, plain("PLAIN")),
        ("scram256", broker.listeners.sasl, plain("SCRAM-SHA-256")),
        ("scram512", broker.listeners.sasl, plain("SCRAM-SHA-512")),
        ("plaintls", broker.listeners.sasl_tls, secure("PLAIN")),
        ("scramtls", broker.listeners.sasl_tls, secure("SCRAM-SHA-512")),
        ("openfunction", broker.listeners.sasl_tls, of),
    ];
    let mut spec = "kafka:".to_owned();
    for (name, brokers, more) in &sources {
        spec.push_str(&format!(
            "\n  {name}: {{brokers: \"{brokers}\", authRequired: true, topic: {topic}, startAt: earliest, {more}}}"
        ));
    }
    let passes = sources.each_ref().map(|(event, ..)| pass(event, "kafka", event, &sink.url(&format!("/{event}"))));
    let home =
        Home::with(objects(&[&[source("kafka", &spec), secret("kafka", "password", PASSWORD)], &passes[..]].concat()));
    let _evoke = home.evoke().env("KAFKA_CA", &fs::read_to_string(&ca).unwrap()).ready().await;
    broker.produce(&topic, [Record::new("x")]).await;
    for (name, ..) in &sources {
        let received = sink.wait_at(&format!("/{name}"), 1, SOON).await;
        assert_eq!(received[0].body, "x", "{name}");
    }
    Ok(())
}

pub(crate) async fn a_client_certificate_logs_in() -> Verdict {
    let (broker, authority) = (kafka::shared().await?, tls::authority().await?);
    let topic = broker.topic(1).await;
    let sink = Sink::start().await;
    let client = authority.client();
    let spec = format!(
        "kafka:\n  orders:\n    brokers: \"{}\"\n    authRequired: false\n    topic: {topic}\n    startAt: earliest\n    consumerGroup: {}\n    \
         tls:\n      caFrom: {{file: {}}}\n      certFrom: {{file: {}}}\n      keyFrom: {{file: {}}}",
        broker.listeners.mutual_tls,
        broker.name("group"),
        authority.ca().display(),
        client.cert.display(),
        client.key.display(),
    );
    let home = Home::with(objects(&[source("kafka", &spec), pass("all", "kafka", "orders", &sink.url("/"))]));
    let _evoke = home.run().await;
    broker.produce(&topic, [Record::new("x")]).await;
    assert_eq!(sink.wait(1, SOON).await[0].body, "x");
    Ok(())
}

pub(crate) async fn rejected_credentials_are_named_and_hold_up_nobody_else() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(1).await;
    let sink = Sink::start().await;
    let wrong = format!("sasl: {{username: {USER}, password: wr0ng-secret-31}}, tls: {{disabled: true}}");
    let spec = format!(
        "kafka:\n  \
         bad: {{brokers: \"{}\", authRequired: true, topic: {topic}, {wrong}}}\n  \
         good: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest}}",
        broker.listeners.sasl, broker.listeners.plain
    );
    let home = Home::with(objects(&[source("kafka", &spec), pass("good", "kafka", "good", &sink.url("/"))]));
    let mut evoke = home.evoke().start().await;
    broker.produce(&topic, [Record::new("x")]).await;
    sink.wait(1, SOON).await;
    let text = evoke.waits_for(&["kafka/bad"], SOON).await;
    let text = if text.to_lowercase().contains("authentication") {
        text
    } else {
        evoke.waits_for(&["kafka/bad", "uthentication"], SOON).await
    };
    assert!(!text.contains("kafka/good"), "{text}");
    evoke.stop().await;
    assert_eq!(evoke.log().count("wr0ng-secret"), 0, "the password is in the log");
    let warnings = evoke.log().count("uthentication");
    assert!((1..=6).contains(&warnings), "one line a change, not one an attempt: {warnings}");
    Ok(())
}

pub(crate) async fn a_sink_without_a_bus_holds_the_commit() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(1).await, broker.name("group"));
    let sink = Sink::scripted(|_| Answer::Hang).await;
    let spec = format!(
        "sink: {{uri: \"{}\"}}\nkafka:\n  orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}",
        sink.url("/"),
        broker.listeners.plain
    );
    let home = Home::with(bare_source("kafka", &spec));
    let mut evoke = home.run().await;
    broker.produce(&topic, (0..5).map(|n| Record::new(n.to_string()))).await;
    sink.wait(5, SOON).await;
    let committed = broker.committed(&group, &topic, 1).await;
    assert!(committed.get(&0).is_none_or(|offset| *offset == 0), "committed before the sink's answer: {committed:?}");
    evoke.kill().await;
    sink.script(|_| Answer::Status(200));
    let _evoke = home.run().await;
    sink.wait_delivered(5, SOON).await;
    eventually("the commit", SOON, async || {
        (broker.committed(&group, &topic, 1).await.get(&0) == Some(&5)).then_some(())
    })
    .await;
    Ok(())
}

pub(crate) async fn a_second_process_joins_and_leaves_where_there_is_only_a_sink() -> Verdict {
    const MAX_IN_FLIGHT: usize = 50;
    const REBALANCES: usize = 2;

    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(4).await, broker.name("group"));
    let sink = Sink::scripted(|_| Answer::After(Duration::from_millis(5), Box::new(Answer::Status(200)))).await;
    let spec = format!(
        "sink: {{uri: \"{}\"}}\ndelivery: {{maxInFlight: {MAX_IN_FLIGHT}}}\n\
         kafka:\n  orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}",
        sink.url("/"),
        broker.listeners.plain
    );
    let homes = [0, 1].map(|_| Home::with(bare_source("kafka", &spec)));
    let mut one = homes[0].run().await;
    let producer = broker.producer();
    let publish = async |call: usize| {
        let records = (0..8).map(|n| Record::new(format!("{call}-{n}")).partition(n % 4));
        produce(&producer, &topic, records).await.into_iter().map(|placed| placed.id).collect::<Vec<_>>()
    };
    let second = async {
        sink.wait_delivered(200, SOON).await;
        let mut two = homes[1].run().await;
        eventually("two members", SOON, async || (broker.members(&group).await?.len() == 2).then_some(())).await;
        two.metric("evoke_source_events_total", &[("outcome", "accepted")], 200.0, SOON).await;
        two.stop().await;
        eventually("one member", SOON, async || (broker.members(&group).await?.len() == 1).then_some(())).await;
        let so_far = sink.delivered_count();
        sink.wait_delivered(so_far + 200, SOON).await;
    };
    let (sent, ()) = during(publish, second).await;
    sink.wait_all(&sent, Duration::from_secs(60)).await;
    one.stop().await;
    let found = assert_conserved(&sent, [&sink.delivered()], REBALANCES * 2 * MAX_IN_FLIGHT);
    println!("rebalance without a bus: {} sent, {} repeated", sent.len(), found.repeats);
    let committed: i64 = broker.committed(&group, &topic, 4).await.values().sum();
    assert_eq!(usize::try_from(committed), Ok(sent.len()), "everything is committed");
    Ok(())
}
