//! MQTT sources: what a message becomes, when it is acknowledged, how they log in, and brokers that come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::{assert_conserved, count};
use evoke_tests::manifests::{bare_source, objects, pass, source};
use evoke_tests::servers::mqtt::{Mosquitto, PASSWORD, Publisher, USER};
use evoke_tests::servers::tls;
use evoke_tests::{SOON, eventually};
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::json;

/// A source of one event called `in`.
fn home(url: &str, more: &str, sink: &Sink) -> Home {
    let spec = format!("deadLetterSink: {{uri: \"{}\"}}\nmqtt:\n  in: {{url: \"{url}\"{more}}}", sink.url("/dead"));
    Home::with(objects(&[source("mqtt", &spec), pass("all", "mqtt", "in", &sink.url("/"))]))
}

pub(crate) async fn reading(broker: &Mosquitto, more: &str) -> (Home, Evoke, Sink) {
    let sink = Sink::start().await;
    let home = home(&format!("tcp://{}", broker.address), more, &sink);
    let evoke = home.run().await;
    (home, evoke, sink)
}

fn by_body<'a>(received: &'a [Received], body: &str) -> &'a Received {
    received.iter().find(|r| r.body == body.as_bytes()).unwrap_or_else(|| panic!("no {body:?} among {received:?}"))
}

fn bodies(received: &[Received]) -> Vec<String> {
    received.iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect()
}

fn user(properties: &[(&str, &str)]) -> Vec<(String, String)> {
    properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Waits until every payload was delivered, and returns how often each was.
async fn delivered(sink: &Sink, sent: &BTreeSet<String>, within: Duration) -> evoke_tests::ledger::Counts {
    eventually("every message arrives", within, async || {
        let there = count(bodies(&sink.received_at("/")));
        sent.iter().all(|payload| there.contains_key(payload)).then_some(there)
    })
    .await
}

pub(crate) async fn messages_become_events() -> Verdict {
    let broker = Mosquitto::start().await?;
    let more = ", topic: \"shop/+/orders\", contentType: application/json, attributes: {tenant: acme}";
    let (_home, mut evoke, sink) = reading(&broker, more).await;
    let mut publisher = broker.publisher().await;
    for (qos, payload) in [(0, "{\"qos\": 0.0}"), (1, "{\"qos\": 1.0}"), (2, "{\"qos\": 2.0}")] {
        publisher.send("shop/7/orders", qos, payload).await;
    }
    publisher.send("shop/7/other", 1, "not this").await;
    let properties = PublishProperties {
        content_type: Some("text/plain".to_owned()),
        correlation_data: Some(vec![1, 2, 255].into()),
        response_topic: Some("answers".to_owned()),
        user_properties: user(&[("X-Region", "eu west"), ("traceparent", "00-1-2-03")]),
        ..PublishProperties::default()
    };
    publisher.send_with("shop/é/orders", 1, false, b"\x00\xff".to_vec(), properties).await;
    let received = sink.wait(4, SOON).await;
    for qos in ["0", "1", "2"] {
        let event = by_body(&received, &format!("{{\"qos\": {qos}.0}}"));
        assert_eq!((event.ce("subject"), event.ce("type")), ("shop/7/orders", "io.evoke.mqtt"));
        assert_eq!(event.ce("source"), "/namespaces/default/eventsources/mqtt/in");
        assert_eq!((event.header("content-type"), event.ce("tenant")), ("application/json", "acme"));
        assert_eq!((event.ce("mqttqos"), event.ce("mqttretained")), (if qos == "2" { "1" } else { qos }, ""));
    }
    let whole = received.iter().find(|r| r.body == b"\x00\xff"[..]).expect("binary data comes as it is");
    assert_eq!((whole.text("subject").as_str(), whole.header("content-type")), ("shop/é/orders", "text/plain"));
    assert_eq!((whole.ce("mqttcorrelationdata"), whole.ce("mqttresponsetopic")), ("AQL/", "answers"));
    assert_eq!(whole.text("mqttpropertyxregion"), "eu west");
    assert_eq!(whole.header("traceparent"), "00-1-2-03");
    let ids: BTreeSet<&str> = received.iter().map(Received::id).collect();
    assert_eq!(ids.len(), 4);
    evoke.stop().await;
    Ok(())
}

/// Waits until so many lines of the broker's log hold a text: they come a moment after what they tell of.
pub(crate) async fn logs(broker: &Mosquitto, text: &str, count: usize) {
    let has = async || (broker.logged(&[text]) == count).then_some(());
    eventually(&format!("{count} lines with {text:?}"), SOON, has).await;
}

pub(crate) async fn the_older_version_is_spoken_where_asked() -> Verdict {
    let broker = Mosquitto::start().await?;
    let more = ", topic: a/#, protocolVersion: v3.1.1, qos: 2, contentType: text/plain";
    let (_home, mut evoke, sink) = reading(&broker, more).await;
    // MQTT 3.1.1, and a session that is kept.
    logs(&broker, "as default.mqtt.in (p2, c0", 1).await;
    let mut publisher = broker.publisher().await;
    for qos in [0, 1, 2] {
        publisher.send("a/b", qos, format!("qos {qos}")).await;
    }
    let received = sink.wait(3, SOON).await;
    for qos in ["0", "1", "2"] {
        let event = by_body(&received, &format!("qos {qos}"));
        assert_eq!((event.ce("mqttqos"), event.ce("subject")), (qos, "a/b"));
        assert_eq!(event.header("content-type"), "text/plain");
    }
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_message_that_is_an_event_is_taken_as_one() -> Verdict {
    let broker = Mosquitto::start().await?;
    let (_home, mut evoke, sink) = reading(&broker, ", topic: events").await;
    let mut publisher = broker.publisher().await;
    let binary = PublishProperties {
        content_type: Some("application/json".to_owned()),
        user_properties: user(&[
            ("specversion", "1.0"),
            ("id", "b-1"),
            ("source", "/shop"),
            ("type", "order.created"),
            ("time", "2026-05-04T03:02:01Z"),
            ("tenant", "acme"),
        ]),
        ..PublishProperties::default()
    };
    publisher.send_with("events", 1, false, "{ \"a\": 1.50 }", binary).await;
    let structured = || PublishProperties {
        content_type: Some("application/cloudevents+json".to_owned()),
        ..PublishProperties::default()
    };
    let body = "{\"specversion\":\"1.0\",\"id\":\"s-1\",\"source\":\"/shop\",\"type\":\"t\",\"subject\":\"own\",\"data\":{\"a\": 2.50}}";
    publisher.send_with("events", 1, false, body, structured()).await;
    publisher.send_with("events", 1, false, "{\"specversion\":", structured()).await;
    publisher.send("events", 1, "after").await;
    let received = sink.wait_at("/", 3, SOON).await;
    let binary = received.iter().find(|r| r.id() == "b-1").expect("the event in binary mode");
    assert_eq!((binary.ce("source"), binary.ce("type"), binary.ce("tenant")), ("/shop", "order.created", "acme"));
    assert_eq!((binary.ce("time"), binary.ce("subject")), ("2026-05-04T03:02:01Z", ""));
    assert_eq!(binary.body, "{ \"a\": 1.50 }");
    let structured = received.iter().find(|r| r.id() == "s-1").expect("the event in structured mode");
    assert_eq!((structured.ce("subject"), structured.json()), ("own", json!({"a": 2.5})));
    assert_eq!(structured.body, "{\"a\": 2.50}");
    let letter = &sink.wait_at("/dead", 1, SOON).await[0];
    assert_eq!((letter.ce("type"), &*letter.body), ("io.evoke.malformed", &b"{\"specversion\":"[..]));
    assert!(letter.text("evokecause").contains("a message of topic \"events\""), "{}", letter.text("evokecause"));
    by_body(&received, "after");
    evoke.stop().await;
    // What is dead-lettered is acknowledged too.
    logs(&broker, "Sending PUBLISH to default.mqtt.in", 4).await;
    logs(&broker, "Received PUBACK from default.mqtt.in", 4).await;
    Ok(())
}

pub(crate) async fn what_is_too_large_is_dead_lettered_and_passed_by() -> Verdict {
    let broker = Mosquitto::start().await?;
    for version in ["v3.1.1", "v5"] {
        let more = format!(", topic: a, consumerID: \"large-{version}\", protocolVersion: {version}");
        let (_home, mut evoke, sink) = reading(&broker, &more).await;
        let mut publisher = broker.publisher().await;
        publisher.send("a", 1, vec![b'L'; 2 * 1024 * 1024]).await;
        publisher.send("a", 1, "after").await;
        assert_eq!(sink.wait_at("/", 1, SOON).await[0].body, "after");
        let letter = &sink.wait_at("/dead", 1, SOON).await[0];
        assert!(letter.text("evokecause").contains("1048576"), "{}", letter.text("evokecause"));
        evoke.stop().await;
    }
    Ok(())
}

pub(crate) async fn a_retained_message_and_a_will_come_as_they_are() -> Verdict {
    let broker = Mosquitto::start().await?;
    let mut publisher = broker.publisher().await;
    publisher.send_with("state/door", 1, true, "open", PublishProperties::default()).await;
    let (_home, mut evoke, sink) = reading(&broker, ", topic: \"state/#\"").await;
    let retained = &sink.wait(1, SOON).await[0];
    assert_eq!(
        (retained.ce("mqttretained"), retained.ce("subject"), &*retained.body),
        ("true", "state/door", &b"open"[..])
    );
    // Gone without a word, it has the broker speak for it.
    drop(broker.publisher_with_will("state/heater", "gone").await);
    let received = sink.wait(2, SOON).await;
    let will = by_body(&received, "gone");
    assert_eq!((will.ce("subject"), will.ce("mqttretained")), ("state/heater", ""));
    evoke.stop().await;
    assert_eq!(broker.logged(&["Will message specified"]), 1, "evoke leaves none behind");
    Ok(())
}

pub(crate) async fn nothing_is_acknowledged_before_it_is_durable() -> Verdict {
    let broker = Mosquitto::start().await?;
    for (qos, name) in [(1, "PUBACK"), (2, "PUBREC")] {
        // Without a bus, an event is settled when its sink has it.
        let sink = Sink::scripted(|_| Answer::Hang).await;
        let (id, address) = (format!("held-{qos}"), broker.address);
        let spec = format!(
            "sink: {{uri: \"{}\"}}\nmqtt:\n  in: {{url: \"tcp://{address}\", topic: t{qos}, consumerID: {id}, qos: {qos}}}",
            sink.url("/")
        );
        let home = Home::with(bare_source("mqtt", &spec));
        let mut evoke = home.run().await;
        let mut publisher = broker.publisher().await;
        publisher.send_all(&format!("t{qos}"), qos, (0..5).map(|n| n.to_string())).await;
        sink.wait(5, SOON).await;
        assert_eq!(broker.logged(&[&format!("Received {name} from {id}")]), 0, "before the sink's answer");
        evoke.kill().await;
        sink.script(|_| Answer::Status(200));
        let mut evoke = home.run().await;
        sink.wait_delivered(5, SOON).await;
        eventually("every message is acknowledged", SOON, async || {
            (broker.logged(&[&format!("Received {name} from {id}")]) == 5).then_some(())
        })
        .await;
        evoke.stop().await;
        let again: BTreeSet<String> = bodies(&sink.received()).into_iter().collect();
        assert_eq!(again, (0..5).map(|n| n.to_string()).collect());
    }
    Ok(())
}

pub(crate) async fn what_is_published_while_evoke_is_away_arrives() -> Verdict {
    let broker = Mosquitto::start().await?;
    for version in ["v3.1.1", "v5"] {
        // A session of its own: the broker would keep what the one before subscribed to.
        let more = format!(", topic: \"{version}/#\", protocolVersion: {version}, qos: 2, consumerID: c-{version}");
        let (home, mut evoke, sink) = reading(&broker, &more).await;
        evoke.stop().await;
        let mut publisher = broker.publisher().await;
        for qos in [1, 2] {
            publisher.send_all(&format!("{version}/a"), qos, (0..50).map(|n| format!("{qos}-{n}"))).await;
        }
        let mut evoke = home.run().await;
        let received = bodies(&sink.wait(100, SOON).await);
        let sent: BTreeSet<String> = [1, 2].iter().flat_map(|qos| (0..50).map(move |n| format!("{qos}-{n}"))).collect();
        assert_eq!(received.iter().cloned().collect::<BTreeSet<_>>(), sent);
        evoke.stop().await;
        assert_eq!(sink.count(), 100, "none came twice");
    }
    Ok(())
}

/// Publishes in the background while `between` does what it does, and returns every payload that the broker confirmed.
async fn under_load(
    publisher: &mut Publisher,
    qos: u8,
    rounds: usize,
    mut between: impl AsyncFnMut(usize),
) -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for round in 0..rounds {
        let payloads: Vec<String> = (0..400).map(|n| format!("{qos}-{round}-{n}")).collect();
        sent.extend(payloads.iter().cloned());
        tokio::join!(publisher.send_all("load", qos, payloads), between(round));
    }
    sent
}

pub(crate) async fn a_kill_of_evoke_under_load_loses_nothing() -> Verdict {
    for (version, qos) in [("v3.1.1", 1), ("v5", 1), ("v3.1.1", 2), ("v5", 2)] {
        let broker = Mosquitto::start().await?;
        let more = format!(", topic: load, qos: {qos}, protocolVersion: {version}");
        let (home, mut evoke, sink) = reading(&broker, &more).await;
        let mut publisher = broker.publisher().await;
        let sent = under_load(&mut publisher, qos, 3, async |round| {
            sink.wait(round * 400 + 40, SOON).await;
            evoke.kill().await;
            evoke = home.run().await;
        })
        .await;
        let there = delivered(&sink, &sent, SOON).await;
        evoke.stop().await;
        // What one kill may repeat: what was in flight with the broker and with the sink.
        let found = assert_conserved(&sent, [&there], 3 * 2 * 200);
        println!("MQTT {version} QoS {qos}: {} sent, {} repeats over 3 kills", sent.len(), found.repeats);
    }
    Ok(())
}

pub(crate) async fn a_broker_that_is_killed_and_comes_back_loses_nothing() -> Verdict {
    for (version, qos) in [("v3.1.1", 1), ("v5", 2)] {
        let broker = Mosquitto::prepare(&["allow_anonymous true"])?;
        let sink = Sink::start().await;
        let more = format!(", topic: load, qos: {qos}, protocolVersion: {version}");
        let home = home(&format!("tcp://{}", broker.address), &more, &sink);
        // Down at the start.
        let mut evoke = home.evoke().start().await;
        evoke.waits_for(&["mqtt/in", "nobody listens there"], SOON).await;
        broker.resume().await;
        evoke.ready(SOON).await;
        let mut sent = BTreeSet::new();
        for round in 0..2 {
            // The session is on disk before anything is confirmed for it.
            broker.stop().await;
            evoke.waits_for(&["mqtt/in"], SOON).await;
            broker.resume().await;
            evoke.ready(SOON).await;
            let mut publisher = broker.publisher().await;
            let payloads: Vec<String> = (0..200).map(|n| format!("{round}-{n}")).collect();
            sent.extend(payloads.iter().cloned());
            publisher.send_all("load", qos, payloads).await;
            delivered(&sink, &sent, SOON).await;
            broker.kill().await;
            evoke.waits_for(&["mqtt/in"], SOON).await;
            broker.resume().await;
            evoke.ready(SOON).await;
        }
        let there = delivered(&sink, &sent, SOON).await;
        evoke.stop().await;
        assert_conserved(&sent, [&there], 400);
    }
    Ok(())
}

pub(crate) async fn rejected_credentials_are_named() -> Verdict {
    let broker = Mosquitto::with_password().await?;
    let (sink, url) = (Sink::start().await, format!("tcp://{}", broker.address));
    let cases = [
        ("none", "topic: open/a".to_owned(), "user and a password"),
        (
            "wrong",
            format!("topic: open/a, username: {USER}, password: wr0ng-mqtt-secret"),
            "correct username and password",
        ),
        ("right", format!("topic: open/a, username: {USER}, passwordFrom: {{env: MQTT_PASSWORD}}"), ""),
    ];
    let mut spec = "mqtt:".to_owned();
    for (name, more, _) in &cases {
        spec.push_str(&format!("\n  {name}: {{url: \"{url}\", {more}}}"));
        spec.push_str(&format!("\n  {name}-3: {{url: \"{url}\", protocolVersion: v3.1.1, {more}}}"));
    }
    let home = Home::with(objects(&[source("mqtt", &spec), pass("all", "mqtt", "right", &sink.url("/"))]));
    let mut evoke = home.evoke().env("MQTT_PASSWORD", PASSWORD).start().await;
    for event in ["event=right", "event=right-3"] {
        evoke.log().wait_for(&["the source is up", event], SOON).await;
    }
    for (name, _, says) in cases.iter().filter(|(.., says)| !says.is_empty()) {
        for suffix in ["", "-3"] {
            evoke.waits_for(&[&format!("mqtt/{name}{suffix}"), says], SOON).await;
        }
    }
    broker.publisher_with_password().await.send("open/a", 1, "x").await;
    assert_eq!(sink.wait(1, SOON).await[0].body, "x");
    evoke.stop().await;
    assert_eq!(evoke.log().count("mqtt-secret"), 0, "a password is in the log");
    Ok(())
}

pub(crate) async fn a_topic_that_may_not_be_read_is_named() -> Verdict {
    let broker = Mosquitto::with_password().await?;
    let sink = Sink::start().await;
    let more = format!(", topic: closed, username: {USER}, password: {PASSWORD}");
    let home = home(&format!("tcp://{}", broker.address), &more, &sink);
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["mqtt/in", "refuses the subscription to \"closed\""], SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_client_certificate_logs_in() -> Verdict {
    let (broker, authority) = (Mosquitto::with_tls().await?, tls::authority().await?);
    let client = authority.client();
    let (sink, address) = (Sink::start().await, broker.tls_address.unwrap());
    let inline = |path: &std::path::Path| format!("{:?}", std::fs::read_to_string(path).unwrap());
    let from = format!(
        "tls: {{caFrom: {{file: {}}}, certFrom: {{file: {}}}, keyFrom: {{file: {}}}, serverName: localhost}}",
        authority.ca().display(),
        client.cert.display(),
        client.key.display()
    );
    let openfunctions = format!(
        "caCert: {}, clientCert: {}, clientKey: {}",
        inline(&authority.ca()),
        inline(&client.cert),
        inline(&client.key)
    );
    let anonymous = format!("tls: {{caFrom: {{file: {}}}}}", authority.ca().display());
    let spec = format!(
        "mqtt:\n  from: {{url: \"ssl://{address}\", topic: a, {from}}}\n  \
         inline: {{url: \"ssl://{address}\", topic: a, {openfunctions}}}\n  \
         nobody: {{url: \"ssl://{address}\", topic: a, {anonymous}}}"
    );
    let passes = ["from", "inline"].map(|event| pass(event, "mqtt", event, &sink.url(&format!("/{event}"))));
    let home = Home::with(objects(&[&[source("mqtt", &spec)], &passes[..]].concat()));
    let mut evoke = home.evoke().start().await;
    for event in ["event=from", "event=inline"] {
        evoke.log().wait_for(&["the source is up", event], SOON).await;
    }
    evoke.waits_for(&["mqtt/nobody"], SOON).await;
    broker.publisher().await.send("a", 1, "x").await;
    for path in ["/from", "/inline"] {
        assert_eq!(sink.wait_at(path, 1, SOON).await[0].body, "x");
    }
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_client_that_takes_the_session_over_is_named() -> Verdict {
    let broker = Mosquitto::start().await?;
    let more = ", topic: a, consumerID: same";
    let (_home, mut evoke, sink) = reading(&broker, more).await;
    let other = home(&format!("tcp://{}", broker.address), more, &sink);
    let mut second = other.run().await;
    eventually("one of them says so", SOON, async || {
        let told = ["another client with the client id", "another client has the client id"];
        told.iter().any(|text| evoke.log().count(text) + second.log().count(text) > 0).then_some(())
    })
    .await;
    second.stop().await;
    evoke.ready(SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn processes_share_a_subscription() -> Verdict {
    let broker = Mosquitto::start().await?;
    let sinks = [Sink::start().await, Sink::start().await];
    let homes = [0, 1].map(|n| {
        let more = format!(", topic: \"$share/g/jobs\", consumerID: worker-{n}");
        home(&format!("tcp://{}", broker.address), &more, &sinks[n])
    });
    let (mut first, mut second) = (homes[0].run().await, homes[1].run().await);
    let mut publisher = broker.publisher().await;
    let sent: BTreeSet<String> = (0..200).map(|n| format!("job-{n}")).collect();
    publisher.send_all("jobs", 1, sent.iter().cloned()).await;
    eventually("every job is done", SOON, async || (sinks[0].count() + sinks[1].count() >= 200).then_some(())).await;
    first.stop().await;
    second.stop().await;
    let done = sinks.each_ref().map(|sink| count(bodies(&sink.received())));
    assert!(done.iter().all(|done| !done.is_empty()), "each did some");
    assert_conserved(&sent, &done, 0);
    Ok(())
}
