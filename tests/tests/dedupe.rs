//! What a bus takes for the same event: what one subscriber publishes again, and nothing that another one publishes, or that is
//! published for another reason.

use std::collections::BTreeSet;

use bytes::Bytes;
use evoke_tests::SOON;
use evoke_tests::bus::counted;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home, assert_has};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::Counts;
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::servers::bus::BusServer;
use serde_json::json;

use super::tools::send;

/// Sent within moments, and so within every `duplicateWindow`.
const EVENTS: usize = 50;
const WEB: &str = "webhook: {in: {}}";

/// A Trigger of which every subscriber has all events, and these fields.
fn to_all(name: &str, subscribers: &[&str], fields: &str) -> String {
    let lines: String =
        subscribers.iter().map(|name| format!("\n  - {{name: {name}, condition: it, {fields}}}")).collect();
    trigger(name, &format!("inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers:{lines}"))
}

async fn send_all(evoke: &Evoke) -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for id in (0..EVENTS).map(|n| n.to_string()) {
        send(evoke, &id).await;
        sent.insert(id);
    }
    sent
}

async fn delivered(evoke: &Evoke, count: usize) {
    evoke.metric("evoke_deliveries_total", &[("outcome", "delivered")], count as f64, SOON).await;
}

/// Asserts that a topic has each of these events so many times, and nothing else.
async fn holds(server: &BusServer, home: &Home, topic: &str, ids: &BTreeSet<String>, times: usize) {
    let expected: Counts = ids.iter().map(|id| (id.clone(), times)).collect();
    assert_eq!(counted(server.open(home).await, topic).await, expected, "{topic}");
}

pub(crate) async fn two_subscribers_of_one_topic_both_publish() -> Verdict {
    both_publish(&BusServer::Embedded).await
}

pub(crate) async fn two_subscribers_of_one_topic_both_publish_on_jetstream() -> Verdict {
    both_publish(&BusServer::jetstream().await?).await
}

pub(crate) async fn two_subscribers_of_one_topic_both_publish_on_kafka() -> Verdict {
    both_publish(&BusServer::kafka().await?).await
}

pub(crate) async fn two_subscribers_of_one_topic_both_publish_on_redis() -> Verdict {
    both_publish(&BusServer::redis().await?).await
}

/// Two subscribers of one Trigger share a topic, and two of one name do, each of a Trigger of its own.
async fn both_publish(server: &BusServer) -> Verdict {
    let home = server.home(objects(&[
        source("web", WEB),
        to_all("one", &["a", "b"], "topic: archive"),
        to_all("two", &["a"], "topic: shared"),
        to_all("three", &["a"], "topic: shared"),
    ]));
    let mut evoke = home.run().await;
    let sent = send_all(&evoke).await;
    delivered(&evoke, 4 * EVENTS).await;
    assert_eq!(evoke.metrics().await.sum("evoke_bus_duplicate_events_total", &[]), 0.0);
    evoke.stop().await;
    for topic in ["default.archive", "default.shared"] {
        holds(server, &home, topic, &sent, 2).await;
    }
    Ok(())
}

pub(crate) async fn a_replay_into_a_topic_is_stored() -> Verdict {
    let server = BusServer::jetstream().await?;
    let home = server.home(objects(&[source("web", WEB), to_all("t", &["keeps"], "topic: archive")]));
    let mut evoke = home.run().await;
    let sent = send_all(&evoke).await;
    delivered(&evoke, EVENTS).await;
    // Each replay is one of its own.
    for _ in 0..2 {
        let done = home.json(&["replay", "--trigger", "t", "--from", "earliest"]).await;
        assert_has(&done["jobs"][0], &json!({ "kind": "replay", "state": "done" }));
        assert_has(&done["jobs"][0]["counts"], &json!({ "read": EVENTS, "delivered": EVENTS }));
    }
    evoke.stop().await;
    holds(&server, &home, "default.archive", &sent, 3).await;
    Ok(())
}

pub(crate) async fn the_same_reply_of_two_functions_is_stored_twice() -> Verdict {
    let server = BusServer::jetstream().await?;
    let sink = Sink::scripted(|request: &Received| {
        let headers = vec![
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", format!("re-{}", request.id())),
            ("ce-source", "/desk".to_owned()),
            ("ce-type", "answered".to_owned()),
        ];
        Answer::Full(200, headers, Bytes::from_static(b"answer"))
    })
    .await;
    let fields = format!("sink: {{uri: \"{}\"}}, reply: {{topic: answers}}", sink.url("/"));
    let home = server.home(objects(&[source("web", WEB), to_all("t", &["a", "b"], &fields)]));
    let mut evoke = home.run().await;
    let sent = send_all(&evoke).await;
    delivered(&evoke, 2 * EVENTS).await;
    evoke.stop().await;
    let replies = sent.iter().map(|id| format!("re-{id}")).collect();
    holds(&server, &home, "default.answers", &replies, 2).await;
    Ok(())
}
