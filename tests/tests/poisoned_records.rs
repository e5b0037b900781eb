//! Records that claim to be events and are none, or that a newer evoke wrote, written to a bus's topic by another program: each is passed
//! by, counted and named, and nothing stops there.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use async_nats::jetstream;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::servers::kafka::Record;
use evoke_tests::{SOON, eventually};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

const SKIPPED: &str = "evoke_bus_skipped_events_total";
const TOPIC: [(&str, &str); 1] = [("topic", "default.web.in")];
const CONTENT_TYPE: &str = "datacontenttype";
const FORMAT: &str = "evokeformat";

/// What another program says of its record.
type Attributes<'a> = &'a [(&'a str, &'a [u8])];

/// What claims to be an event and is none: its attributes, its data, and what is said of it.
const POISONED: [(Attributes<'static>, &str, &str); 5] = [
    (&[("specversion", b"1.0"), ("source", b"/other"), ("type", b"t")], "no id", "is missing or empty"),
    (
        &[("id", b"broken"), (CONTENT_TYPE, b"application/cloudevents+json")],
        "{\"specversion\": \"1.0\", \"id\": ",
        "cannot be read as a JSON event",
    ),
    (
        &[("specversion", b"1.0"), ("id", b"bytes"), ("source", b"/other"), ("type", b"t"), ("subject", &[0xff, 0xfe])],
        "no text",
        "UTF-8",
    ),
    (
        &[(FORMAT, b"2"), ("specversion", b"1.0"), ("id", b"newer"), ("source", b"/other"), ("type", b"t")],
        "no idea",
        "written by a newer evoke",
    ),
    (
        &[("specversion", b"1.0"), ("id", b"when"), ("source", b"/other"), ("type", b"t"), ("time", b"yesterday")],
        "no time",
        "which is no timestamp",
    ),
];

/// A webhook, a topic with one partition, a Trigger.
fn home(server: &BusServer, sink: &Sink) -> Home {
    Home::with(objects(&[
        bus("default", &server.spec(1)),
        source("web", "webhook: {in: {}}"),
        pass("all", "web", "in", &sink.url("/")),
    ]))
}

/// Writes a record past evoke.
async fn write(server: &BusServer, attributes: Attributes<'_>, data: &str) {
    match server {
        BusServer::Embedded => panic!("nobody else can write to a bus inside of evoke"),
        BusServer::JetStream(nats) => {
            let mut headers = HeaderMap::new();
            for (name, value) in attributes {
                if *name == CONTENT_TYPE {
                    headers.insert("content-type", std::str::from_utf8(value).unwrap());
                } else {
                    let value = percent_encode(value, NON_ALPHANUMERIC).to_string();
                    headers.insert(format!("ce-{name}"), &*value);
                }
            }
            let context = jetstream::new(nats.client().await);
            let sent = context.publish_with_headers("evoke.default.web.in", headers, data.to_owned().into()).await;
            sent.unwrap().await.unwrap();
        }
        BusServer::Kafka(broker) => {
            let mut record = Record::new(data).partition(0);
            for (name, value) in attributes {
                let name = if *name == CONTENT_TYPE { "content-type".to_owned() } else { format!("ce_{name}") };
                record = record.header(&name, *value);
            }
            broker.produce("default.web.in", [record]).await;
        }
        BusServer::Redis(redis) => {
            let mut add = redis::cmd("XADD");
            add.arg("evoke:default:web:in").arg("*");
            // An entry is given what it lacks, unless it says that evoke wrote it.
            if !attributes.iter().any(|(name, _)| *name == "id") {
                add.arg("evokeformat").arg("1");
            }
            for (name, value) in attributes {
                let field = if *name == FORMAT { FORMAT.to_owned() } else { format!("ce-{name}") };
                add.arg(field).arg(*value);
            }
            add.arg("data").arg(data).exec_async(&mut redis.connection().await).await.unwrap();
        }
    }
}

async fn poison(server: &BusServer) {
    for (attributes, data, _) in POISONED {
        write(server, attributes, data).await;
    }
}

/// Events from another program.
pub(crate) async fn write_events(server: &BusServer, prefix: &str) -> BTreeSet<String> {
    let ids: BTreeSet<String> = (0..5).map(|n| format!("{prefix}-{n}")).collect();
    for id in &ids {
        let attributes: [(&str, &[u8]); 4] =
            [("specversion", b"1.0"), ("id", id.as_bytes()), ("source", b"/other"), ("type", b"t")];
        write(server, &attributes, id).await;
    }
    ids
}

/// Events through the webhook.
async fn send_events(evoke: &Evoke, prefix: &str) -> BTreeSet<String> {
    let ids: BTreeSet<String> = (0..5).map(|n| format!("{prefix}-{n}")).collect();
    for id in &ids {
        let headers = [("ce-specversion", "1.0"), ("ce-id", &**id), ("ce-source", "/s"), ("ce-type", "t")];
        assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
    }
    ids
}

pub(crate) async fn they_are_passed_by_on_jetstream() -> Verdict {
    are_passed_by(&BusServer::jetstream().await?).await
}

pub(crate) async fn they_are_passed_by_on_kafka() -> Verdict {
    are_passed_by(&BusServer::kafka().await?).await
}

pub(crate) async fn they_are_passed_by_on_redis() -> Verdict {
    are_passed_by(&BusServer::redis().await?).await
}

async fn are_passed_by(server: &BusServer) -> Verdict {
    let count = POISONED.len() as f64;
    let sink = Sink::start().await;
    let home = home(server, &sink);
    let mut evoke = home.run().await;
    let mut sent = send_events(&evoke, "before").await;
    sink.wait_all(&sent, SOON).await;
    poison(server).await;
    sent.extend(send_events(&evoke, "after").await);
    sink.wait_all(&sent, SOON).await;
    assert_eq!(evoke.metric(SKIPPED, &TOPIC, count, SOON).await, count);
    // On JetStream the log names the first one.
    let named = if matches!(server, BusServer::JetStream(_)) { 1 } else { POISONED.len() };
    for (_, _, cause) in &POISONED[..named] {
        evoke.log().wait_for(&["WARN", " is passed ", cause], SOON).await;
    }
    evoke.stop().await;

    // The same in the middle of what waits to be read at once.
    sent.extend(write_events(server, "first").await);
    poison(server).await;
    sent.extend(write_events(server, "last").await);
    let mut evoke = home.run().await;
    sink.wait_all(&sent, SOON).await;
    assert_eq!(evoke.metric(SKIPPED, &TOPIC, count, SOON).await, count);
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn they_are_no_lag_on_jetstream() -> Verdict {
    are_no_lag(&BusServer::jetstream().await?).await
}

pub(crate) async fn they_are_no_lag_on_kafka() -> Verdict {
    are_no_lag(&BusServer::kafka().await?).await
}

pub(crate) async fn they_are_no_lag_on_redis() -> Verdict {
    are_no_lag(&BusServer::redis().await?).await
}

/// Where a log ends in them, a subscription that has nothing else to read is at its end, and does not read them again.
async fn are_no_lag(server: &BusServer) -> Verdict {
    let count = POISONED.len() as f64;
    let sink = Sink::start().await;
    let home = home(server, &sink);
    let mut evoke = home.run().await;
    let mut sent = send_events(&evoke, "before").await;
    sink.wait_all(&sent, SOON).await;
    poison(server).await;
    assert_eq!(evoke.metric(SKIPPED, &TOPIC, count, SOON).await, count);
    eventually("nothing is left to be read", SOON, async || {
        let listed = home.json(&["subscription", "list"]).await;
        let row = &listed["subscriptions"][0];
        (row["evaluated"] == sent.len() && row["lag"] == 0).then_some(())
    })
    .await;
    evoke.stop().await;

    let mut evoke = home.run().await;
    sent.extend(send_events(&evoke, "after").await);
    sink.wait_all(&sent, SOON).await;
    assert_eq!(evoke.metrics().await.sum(SKIPPED, &TOPIC), 0.0, "they are read once");
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}
