//! NATS sources: subjects and JetStream streams, how they log in, and servers that come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream;
use async_nats::{Client, HeaderMap, jetstream};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::{Counts, assert_conserved};
use evoke_tests::manifests::{bare_source, objects, pass, source};
use evoke_tests::servers::nats::{self, Nats};
use evoke_tests::servers::tls;
use evoke_tests::{SOON, eventually};
use futures_util::StreamExt as _;
use serde_json::json;

/// What an unacknowledged message may take to come again, and to be delivered.
const AGAIN: Duration = Duration::from_secs(60);

/// A source of one event called `in`.
pub(crate) fn manifests(url: &str, more: &str, sink: &Sink) -> String {
    let spec = format!("deadLetterSink: {{uri: \"{}\"}}\nnats:\n  in: {{url: \"{url}\"{more}}}", sink.url("/dead"));
    objects(&[source("nats", &spec), pass("all", "nats", "in", &sink.url("/"))])
}

fn home(url: &str, more: &str, sink: &Sink) -> Home {
    Home::with(manifests(url, more, sink))
}

pub(crate) async fn reading(nats: &Nats, more: &str) -> (Home, Evoke, Sink) {
    let sink = Sink::start().await;
    let home = home(&nats.url(), more, &sink);
    let evoke = home.run().await;
    (home, evoke, sink)
}

/// A stream of the subjects below its name in lower case.
pub(crate) async fn make_stream(client: &Client, name: &str) -> jetstream::Context {
    let context = jetstream::new(client.clone());
    let subjects = vec![format!("{}.>", name.to_lowercase())];
    let config = stream::Config { name: name.to_owned(), subjects, ..stream::Config::default() };
    context.create_stream(config).await.unwrap();
    context
}

/// Publishes and returns the id that the event will have.
async fn publish(context: &jetstream::Context, stream: &str, subject: &str, payload: &str) -> String {
    let ack = context.publish(subject.to_owned(), payload.to_owned().into()).await.unwrap().await.unwrap();
    format!("{stream}/{}", ack.sequence)
}

pub(crate) async fn publish_all(
    context: &jetstream::Context,
    stream: &str,
    subject: &str,
    count: usize,
) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for n in 0..count {
        ids.insert(publish(context, stream, subject, &n.to_string()).await);
    }
    ids
}

/// Publishes until the server says that it has it, which recognises what it had before, and returns the id that the event will have.
async fn store(context: &jetstream::Context, subject: &str, payload: &str) -> String {
    eventually("the message is stored", AGAIN, async || {
        let once = headers(&[("Nats-Msg-Id", payload)]);
        let sent = context.publish_with_headers(subject.to_owned(), once, payload.to_owned().into()).await.ok()?;
        let ack = sent.await.ok()?;
        Some(format!("{}/{}", ack.stream, ack.sequence))
    })
    .await
}

/// What one call of a load stores, and the ids.
pub(crate) async fn store_some(context: &jetstream::Context, call: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(store(context, "s.a", &format!("{call}-{n}")).await);
    }
    ids
}

/// Waits until every message that the consumer has given out is acknowledged and none is left.
pub(crate) async fn acked(context: &jetstream::Context, stream: &str, consumer: &str) {
    eventually("every message is acknowledged", SOON, async || {
        let info = context.get_stream(stream).await.ok()?.consumer_info(consumer).await.ok()?;
        (info.num_ack_pending == 0 && info.num_pending == 0).then_some(())
    })
    .await;
}

fn by_id<'a>(received: &'a [Received], id: &str) -> &'a Received {
    received.iter().find(|r| r.id() == id).unwrap_or_else(|| panic!("no {id} among {received:?}"))
}

async fn delivered(sink: &Sink, sent: &BTreeSet<String>, within: Duration) -> Counts {
    eventually("every message arrives", within, async || {
        let there = sink.delivered();
        sent.iter().all(|id| there.contains_key(id)).then_some(there)
    })
    .await
}

fn headers(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    map
}

pub(crate) async fn messages_of_a_subject_become_events() -> Verdict {
    let nats = Nats::start().await?;
    let client = nats.client().await;
    let more = ", subject: \"shop.*.orders\", contentType: application/json, attributes: {tenant: acme}";
    let (_home, mut evoke, sink) = reading(&nats, more).await;
    client.publish("shop.7.orders", "{ \"a\": 1.50 }".into()).await.unwrap();
    client.publish("shop.7.other", "not this".into()).await.unwrap();
    let plain = headers(&[("content-type", "text/plain"), ("X-Region", "eu"), ("traceparent", "00-1-2-03")]);
    client.publish_with_reply_and_headers("shop.8.orders", "answers", plain, "\u{0}x".into()).await.unwrap();
    client.flush().await.unwrap();
    let received = sink.wait(2, SOON).await;
    let json = received.iter().find(|r| r.ce("subject") == "shop.7.orders").expect("the JSON");
    assert_eq!((&*json.body, json.header("content-type")), (&b"{ \"a\": 1.50 }"[..], "application/json"));
    assert_eq!((json.ce("type"), json.ce("tenant")), ("io.evoke.nats", "acme"));
    assert_eq!(json.ce("source"), "/namespaces/default/eventsources/nats/in");
    let text = received.iter().find(|r| r.ce("subject") == "shop.8.orders").expect("the text");
    assert_eq!((&*text.body, text.header("content-type")), (&b"\0x"[..], "text/plain"));
    assert_eq!((text.ce("natsheaderxregion"), text.ce("natsreply")), ("eu", "answers"));
    assert_eq!(text.header("traceparent"), "00-1-2-03");
    assert_ne!(text.id(), json.id());
    evoke.stop().await;
    assert_eq!(sink.count(), 2);
    Ok(())
}

pub(crate) async fn a_queue_group_shares_the_messages_of_a_subject() -> Verdict {
    let nats = Nats::start().await?;
    let client = nats.client().await;
    let sinks = [Sink::start().await, Sink::start().await];
    let homes = [0, 1].map(|n| home(&nats.url(), ", subject: jobs, queueGroup: workers", &sinks[n]));
    let (mut first, mut second) = (homes[0].run().await, homes[1].run().await);
    for n in 0..200 {
        client.publish("jobs", n.to_string().into()).await.unwrap();
    }
    client.flush().await.unwrap();
    eventually("every job is done", SOON, async || (sinks[0].count() + sinks[1].count() >= 200).then_some(())).await;
    // Listening again after the connection broke.
    nats.kill().await;
    first.waits_for(&["nats/in"], SOON).await;
    nats.resume().await;
    first.ready(SOON).await;
    second.ready(SOON).await;
    let client = nats.client().await;
    client.publish("jobs", "after".into()).await.unwrap();
    client.flush().await.unwrap();
    eventually("the one after", SOON, async || (sinks[0].count() + sinks[1].count() >= 201).then_some(())).await;
    first.stop().await;
    second.stop().await;
    let bodies: Vec<_> = sinks.iter().flat_map(Sink::received).map(|r| r.body).collect();
    assert_eq!((bodies.len(), bodies.iter().collect::<BTreeSet<_>>().len()), (201, 201), "each went to one of them");
    assert!(sinks.iter().all(|sink| sink.count() > 0), "each got some");
    Ok(())
}

pub(crate) async fn messages_of_a_stream_become_events() -> Verdict {
    let nats = Nats::start().await?;
    let client = nats.client().await;
    let context = make_stream(&client, "SHOP").await;
    publish(&context, "SHOP", "shop.orders", "before").await;
    let (home, mut evoke, sink) = reading(&nats, ", stream: SHOP, subject: \"shop.orders\"").await;
    let plain = publish(&context, "SHOP", "shop.orders", "{ \"a\": 1.50 }").await;
    publish(&context, "SHOP", "shop.other", "not this").await;
    let send = async |list: &[(&str, &str)], body: &str| {
        let sent = context.publish_with_headers("shop.orders", headers(list), body.to_owned().into()).await;
        format!("SHOP/{}", sent.unwrap().await.unwrap().sequence)
    };
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b-1"),
        ("ce-source", "/shop"),
        ("ce-type", "order.created"),
        ("ce-note", "a%20b"),
        ("content-type", "application/json"),
    ];
    send(&binary, "{ \"b\": 2.50 }").await;
    let body = "{\"specversion\":\"1.0\",\"id\":\"s-1\",\"source\":\"/shop\",\"type\":\"t\",\"data\":{\"c\": 3.50}}";
    send(&[("content-type", "application/cloudevents+json")], body).await;
    let broken = send(&[("ce-specversion", "1.0"), ("ce-id", "x")], "broken").await;
    let received = sink.wait_at("/", 3, SOON).await;
    let plain = by_id(&received, &plain);
    assert_eq!(
        (plain.ce("type"), plain.ce("subject"), &*plain.body),
        ("io.evoke.nats", "shop.orders", &b"{ \"a\": 1.50 }"[..])
    );
    assert!(chrono::DateTime::parse_from_rfc3339(plain.ce("time")).is_ok(), "{:?}", plain.headers);
    let binary = by_id(&received, "b-1");
    assert_eq!(
        (binary.ce("source"), binary.ce("type"), binary.text("note").as_str()),
        ("/shop", "order.created", "a b")
    );
    assert_eq!((&*binary.body, binary.header("content-type")), (&b"{ \"b\": 2.50 }"[..], "application/json"));
    let structured = by_id(&received, "s-1");
    assert_eq!((&*structured.body, structured.json()), (&b"{\"c\": 3.50}"[..], json!({"c": 3.5})));
    let letter = &sink.wait_at("/dead", 1, SOON).await[0];
    assert_eq!((letter.ce("evokeposition"), &*letter.body), (&*broken, &b"broken"[..]));
    acked(&context, "SHOP", "default_nats_in").await;
    evoke.stop().await;
    // What was acknowledged does not come again, and what came meanwhile does.
    let after = publish(&context, "SHOP", "shop.orders", "after").await;
    let mut evoke = home.run().await;
    by_id(&sink.wait_at("/", 4, SOON).await, &after);
    evoke.stop().await;
    assert_eq!(sink.received_at("/").len(), 4);
    Ok(())
}

pub(crate) async fn a_consumer_starts_where_the_manifest_says() -> Verdict {
    let nats = Nats::start().await?;
    let client = nats.client().await;
    let context = make_stream(&client, "S").await;
    let before = publish_all(&context, "S", "s.a", 5).await;
    let sink = Sink::start().await;
    let url = nats.url();
    let spec = format!(
        "nats:\n  last: {{url: \"{url}\", stream: S}}\n  first: {{url: \"{url}\", stream: S, startAt: earliest, consumer: own}}"
    );
    let passes = ["last", "first"].map(|event| pass(event, "nats", event, &sink.url(&format!("/{event}"))));
    let home = Home::with(objects(&[&[source("nats", &spec)], &passes[..]].concat()));
    let mut evoke = home.run().await;
    // From when it is ready on, nothing is missed, whether it runs or not.
    evoke.kill().await;
    let after = publish_all(&context, "S", "s.a", 5).await;
    let mut evoke = home.run().await;
    sink.wait_at("/last", 5, SOON).await;
    let ids = |path: &str| sink.received_at(path).iter().map(|r| r.id().to_owned()).collect::<BTreeSet<_>>();
    eventually("all from the first on", AGAIN, async || (ids("/first").len() == 10).then_some(())).await;
    assert_eq!(ids("/first"), before.union(&after).cloned().collect());
    assert_eq!(ids("/last"), after);
    acked(&context, "S", "own").await;
    acked(&context, "S", "default_nats_last").await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn nothing_is_acknowledged_before_it_is_settled() -> Verdict {
    let nats = Nats::start().await?;
    let client = nats.client().await;
    let context = make_stream(&client, "S").await;
    let consumer = pull::Config {
        durable_name: Some("short".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(6),
        ..pull::Config::default()
    };
    context.get_stream("S").await.unwrap().create_consumer(consumer).await.unwrap();
    // Without a bus, an event is settled when its sink has it.
    let sink = Sink::scripted(|_| Answer::Hang).await;
    let spec = format!(
        "sink: {{uri: \"{}\"}}\nnats:\n  in: {{url: \"{}\", stream: S, consumer: short}}",
        sink.url("/"),
        nats.url()
    );
    let home = Home::with(bare_source("nats", &spec));
    let mut words = client.subscribe("$JS.ACK.S.short.>").await.unwrap();
    let mut evoke = home.run().await;
    let sent = publish_all(&context, "S", "s.a", 5).await;
    sink.wait(5, SOON).await;
    let info = async || context.get_stream("S").await.unwrap().consumer_info("short").await.unwrap();
    // Told every 2 s that work goes on, the server sends nothing again once its ack wait of 6 s is over.
    let mut told = 0;
    while told < 5 * 5 {
        let word = tokio::time::timeout(SOON, words.next()).await.expect("the server is told").unwrap();
        assert_eq!(&*word.payload, b"+WPI");
        told += 1;
    }
    let held = info().await;
    assert_eq!((held.num_ack_pending, held.num_redelivered, held.ack_floor.stream_sequence), (5, 0, 0));
    evoke.kill().await;
    sink.script(|_| Answer::Status(200));
    let mut evoke = home.run().await;
    let there = delivered(&sink, &sent, AGAIN).await;
    acked(&context, "S", "short").await;
    evoke.stop().await;
    assert_conserved(&sent, [&there], 5);
    assert_eq!(info().await.config.durable_name.as_deref(), Some("short"), "the consumer is still there");
    Ok(())
}

pub(crate) async fn kills_of_evoke_and_of_the_server_lose_nothing() -> Verdict {
    let nats = Nats::prepare(&[]).await?;
    let sink = Sink::start().await;
    let home = home(&nats.url(), ", stream: S, startAt: earliest", &sink);
    // Down at the start, then without the stream.
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["nats/in"], SOON).await;
    nats.resume().await;
    evoke.waits_for(&["nats/in", "there is no stream \"S\""], SOON).await;
    let context = make_stream(&nats.client().await, "S").await;
    evoke.ready(SOON).await;
    let mut sent = BTreeSet::new();
    for round in 0..3 {
        let context = jetstream::new(nats.client().await);
        sent.extend(publish_all(&context, "S", "s.a", 300).await);
        sink.wait_delivered(round * 300 + 20, AGAIN).await;
        match round {
            0 => {
                evoke.kill().await;
                evoke = home.run().await;
            }
            1 => {
                nats.kill().await;
                evoke.waits_for(&["nats/in"], SOON).await;
                nats.resume().await;
                evoke.ready(SOON).await;
            }
            _ => {
                evoke.kill().await;
                nats.kill().await;
                nats.resume().await;
                evoke = home.run().await;
            }
        }
    }
    let there = delivered(&sink, &sent, AGAIN).await;
    acked(&context, "S", "default_nats_in").await;
    evoke.stop().await;
    let found = assert_conserved(&sent, [&there], 3 * 2 * 300);
    println!("JetStream: {} sent, {} repeats", sent.len(), found.repeats);
    Ok(())
}

pub(crate) async fn two_processes_share_a_consumer() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let sinks = [Sink::start().await, Sink::start().await];
    let homes = [0, 1].map(|n| home(&nats.url(), ", stream: S, consumer: shared", &sinks[n]));
    let (mut first, mut second) = (homes[0].run().await, homes[1].run().await);
    let mut sent = publish_all(&context, "S", "s.a", 1000).await;
    let both = || sinks[0].delivered_count() + sinks[1].delivered_count();
    eventually("every message arrives", SOON, async || (both() >= 1000).then_some(())).await;
    assert!(sinks.iter().all(|sink| sink.delivered_count() > 0), "each got some");
    // One that dies leaves what it held to the other.
    sinks[0].script(|_| Answer::Hang);
    sent.extend(publish_all(&context, "S", "s.a", 300).await);
    first.kill().await;
    eventually("what the other held", AGAIN, async || {
        let there: BTreeSet<String> = sinks.iter().flat_map(|sink| sink.delivered().into_keys()).collect();
        let held = evoke_tests::bus::stored_ids(&homes[0].data(), "default.nats.in").await;
        let there: BTreeSet<String> = there.into_iter().chain(held).collect();
        (there.len() >= sent.len()).then_some(())
    })
    .await;
    acked(&context, "S", "shared").await;
    second.stop().await;
    Ok(())
}

pub(crate) async fn a_consumer_that_is_gone_is_made_again() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let (_home, mut evoke, sink) = reading(&nats, ", stream: S").await;
    let mut sent = publish_all(&context, "S", "s.a", 10).await;
    sink.wait_delivered(10, SOON).await;
    acked(&context, "S", "default_nats_in").await;
    let stream = context.get_stream("S").await.unwrap();
    stream.delete_consumer("default_nats_in").await.unwrap();
    sent.extend(publish_all(&context, "S", "s.a", 10).await);
    delivered(&sink, &sent, SOON).await;
    // So is one of a stream that is made anew, which begins with it.
    context.delete_stream("S").await.unwrap();
    evoke.waits_for(&["nats/in"], SOON).await;
    let context = make_stream(&nats.client().await, "S").await;
    evoke.ready(SOON).await;
    let before = sink.count();
    publish(&context, "S", "s.a", "new").await;
    let received = sink.wait(before + 1, SOON).await;
    assert_eq!(received.last().map(|r| r.body.clone()).as_deref(), Some(&b"new"[..]));
    acked(&context, "S", "default_nats_in").await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn each_way_to_log_in_and_one_that_is_refused() -> Verdict {
    let authority = tls::authority().await?;
    let client = authority.client();
    let nats = Nats::with_tls(true, &["authorization { token: \"n4ts-token-81\" }"]).await?;
    let sink = Sink::start().await;
    let files = format!(
        "tls: {{caFrom: {{file: {}}}, certFrom: {{file: {}}}, keyFrom: {{file: {}}}, serverName: localhost}}",
        authority.ca().display(),
        client.cert.display(),
        client.key.display()
    );
    let address = nats.address;
    let spec = format!(
        "nats:\n  good: {{url: \"tls://{address}\", subject: a, auth: {{tokenFrom: {{env: NATS_TOKEN}}}}, {files}}}\n  \
         bad: {{url: \"tls://{address}\", subject: a, auth: {{token: wr0ng-nats-secret}}, {files}}}\n  \
         stream: {{url: \"tls://{address}\", stream: S, auth: {{token: wr0ng-nats-secret}}, {files}}}"
    );
    let home = Home::with(objects(&[source("nats", &spec), pass("all", "nats", "good", &sink.url("/"))]));
    let mut evoke = home.evoke().env("NATS_TOKEN", "n4ts-token-81").start().await;
    for name in ["nats/bad", "nats/stream"] {
        evoke.waits_for(&[name, "refuses to log evoke in"], SOON).await;
    }
    evoke.log().wait_for(&["the source is up", "event=good"], SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("wr0ng-nats") + evoke.log().count("n4ts-token"), 0, "a token is in the log");
    Ok(())
}

pub(crate) async fn what_the_user_may_not_read_is_named() -> Verdict {
    let users = "authorization { users: [ { user: u, password: \"n4ts-user-17\", permissions: { subscribe: [\"_INBOX.>\", \"open\"] } } ] }";
    let nats = Nats::with(&[users]).await?;
    let sink = Sink::start().await;
    let login = "auth: {username: u, password: n4ts-user-17}";
    let spec = format!(
        "nats:\n  open: {{url: \"{0}\", subject: open, {login}}}\n  closed: {{url: \"{0}\", subject: closed, {login}}}",
        nats.url()
    );
    let home = Home::with(objects(&[source("nats", &spec), pass("all", "nats", "open", &sink.url("/"))]));
    let mut evoke = home.evoke().start().await;
    let text = evoke.waits_for(&["nats/closed", "may not read the subject"], SOON).await;
    evoke.log().wait_for(&["the source is up", "event=open"], SOON).await;
    assert!(!text.contains("n4ts-user-17"), "{text}");
    evoke.stop().await;
    Ok(())
}

/// Tests share one server where they need no more of it than a subject.
pub(crate) async fn a_subject_that_nobody_publishes_on_is_ready() -> Verdict {
    let nats = nats::shared().await?;
    let (_home, mut evoke, sink) = reading(&nats, ", subject: nobody.publishes.here").await;
    evoke.stop().await;
    assert_eq!(sink.count(), 0);
    Ok(())
}
