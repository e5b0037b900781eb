//! The manifest that each page of the docs begins with, run as a reader runs it: with addresses and credentials set, beside what
//! the page takes for granted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, jetstream};
use bytes::Bytes;
use chrono::{DateTime, Datelike, Utc};
use evoke_tests::bus::stored_ids;
use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::clock::FakeClock;
use evoke_tests::evoke::{Evoke, Home, Run, binary};
use evoke_tests::http::{Answer, Received, Sink, request};
use evoke_tests::manifests::{objects, pass, source, trigger};
use evoke_tests::process::Program;
use evoke_tests::servers::kafka::{self, Broker, Record};
use evoke_tests::servers::mqtt::{self, Mosquitto};
use evoke_tests::servers::nats::{self, Nats};
use evoke_tests::servers::redis::{Group, MASTER, Redis};
use evoke_tests::servers::tls::{self, Authority};
use evoke_tests::{SOON, docs, eventually, ports};
use redis::cmd;
use serde_json::json;

use super::nats_source::make_stream;

/// The data of an order.
const ORDER: &str = r#"{"amount": 250}"#;
/// What an order has beside its id, as it is sent and as it is delivered.
const HEADERS: [(&str, &str); 5] = [
    ("ce-specversion", "1.0"),
    ("ce-source", "/shop"),
    ("ce-type", "order.created"),
    ("content-type", "application/json"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
];
/// The password of the user that the pages call `evoke`, and the token of their webhook.
const PASSWORD: &str = "d0cs-secret-40";

/// A home with the manifest that a page begins with, and `beside` it what the page takes for granted.
fn home(page: &str, beside: &[String]) -> Home {
    let home = Home::with(objects(beside));
    home.write("page.yaml", &docs::manifests(&docs::page(page))[0]);
    home
}

/// `evoke run` there, with fields set.
fn with(home: &Home, sets: &[String]) -> Run {
    home.evoke().args(sets.iter().flat_map(|set| ["--set", set.as_str()]))
}

/// Triggers that send every event of an EventSource to a sink, at a path of its name.
fn passes<const N: usize>(event_source: &str, events: [&str; N], sink: &Sink) -> [String; N] {
    events.map(|event| pass(event, event_source, event, &sink.url(&format!("/{event}"))))
}

/// The `tls` of a client that trusts the tests' servers and has a certificate.
fn certified(authority: &Authority) -> String {
    let (ca, client) = (authority.ca(), authority.client());
    format!("{{caFrom: {{file: {ca:?}}}, certFrom: {{file: {:?}}}, keyFrom: {{file: {:?}}}}}", client.cert, client.key)
}

/// Waits for the event with an id at a path of a sink.
async fn arrived(sink: &Sink, path: &str, id: &str) -> Received {
    eventually(&format!("{id} comes to {path}"), SOON, async || {
        sink.received_at(path).into_iter().find(|event| event.id() == id)
    })
    .await
}

/// Asserts what the event of a source, `{eventSource}/{event}`, carries, by the names that its page gives the attributes.
fn assert_made(event: &Received, of: &str, attributes: &[(&str, &str)], data: &str) {
    assert_eq!(event.ce("source"), format!("/namespaces/default/eventsources/{of}"));
    for (name, value) in attributes {
        let found = if *name == "datacontenttype" { event.header("content-type").to_owned() } else { event.text(name) };
        assert_eq!(found, *value, "{name} of {event:?}");
    }
    assert_eq!(event.body, data);
}

/// Posts an order to a webhook: the status of the answer.
async fn order(evoke: &Evoke, path: &str, id: &str, data: impl Into<Bytes>) -> u16 {
    let headers = [&HEADERS[..], &[("ce-id", id)]].concat();
    evoke.post(path, &headers, data).await.status.as_u16()
}

/// Asserts that an order is as it was sent.
fn assert_order(order: &Received) {
    for (name, value) in HEADERS {
        assert_eq!(order.header(name), value, "{name} of {order:?}");
    }
    assert_eq!(order.body, ORDER);
}

pub(crate) async fn source_kafka() -> Verdict {
    let (broker, authority, sink) = (kafka::shared().await?, tls::authority().await?, Sink::start().await);
    for topic in ["shop.orders", "payments"] {
        broker.make_topic(topic, 1).await;
    }
    let home = home("source-kafka", &passes("shop", ["orders", "payments"], &sink));
    let run = with(
        &home,
        &[
            format!("EventSource/shop:kafka.orders.brokers={}", broker.listeners.plain),
            format!("EventSource/shop:kafka.payments.brokers={}", broker.listeners.sasl_tls),
            format!("EventSource/shop:kafka.payments.sasl.username={}", kafka::USER),
            format!("EventSource/shop:kafka.payments.tls.caFrom.file={:?}", authority.ca()),
            format!("Secret/kafka:stringData.password={}", kafka::PASSWORD),
        ],
    );
    // `startAt: earliest` brings what is there, the default only what comes.
    broker.produce("shop.orders", [Record::new("before")]).await;
    broker.produce("payments", [Record::new("250 EUR")]).await;
    let mut evoke = run.ready().await;
    broker.produce("shop.orders", [Record::new(ORDER).key("ada").header("X-Tenant_Id", "acme")]).await;
    let attributes = [
        ("type", "io.evoke.kafka"),
        ("datacontenttype", "application/json"),
        ("partitionkey", "ada"),
        ("kafkapartition", "0"),
        ("kafkaoffset", "1"),
        ("kafkaheaderxtenantid", "acme"),
    ];
    assert_made(&arrived(&sink, "/orders", "shop.orders/0/1").await, "shop/orders", &attributes, ORDER);
    let payment = arrived(&sink, "/payments", "payments/0/0").await;
    assert_made(&payment, "shop/payments", &[("type", "payment.received"), ("datacontenttype", "")], "250 EUR");
    evoke.stop().await;
    assert_eq!(sink.count(), 2);
    Ok(())
}

pub(crate) async fn source_cron() -> Verdict {
    // Both schedules fire then: in winter it is two o'clock in Berlin.
    let id = format!("{}-01-15T01:00:00Z", Utc::now().year() + 1);
    let night: DateTime<Utc> = id.parse().unwrap();
    let sink = Sink::start().await;
    let home = home("source-cron", &passes("clock", ["heartbeat", "nightly-report"], &sink));
    let clock = FakeClock::new(home.path())?;
    let set_before = |seconds: i64| clock.set(&format!("+{}", (night - Utc::now()).num_seconds() - seconds));
    set_before(1800);
    let mut evoke = clock.wear(with(&home, &[])).ready().await;
    set_before(3);
    let heartbeat = arrived(&sink, "/heartbeat", &id).await;
    assert_made(&heartbeat, "clock/heartbeat", &[("type", "io.evoke.cron"), ("datacontenttype", "")], "");
    let report = arrived(&sink, "/nightly-report", &id).await;
    assert_eq!((report.ce("type"), report.header("content-type")), ("io.evoke.cron", "application/json"));
    assert_eq!(report.ce("source"), "/namespaces/default/eventsources/clock/nightly-report");
    assert_eq!(report.json(), json!({"report": "sales", "format": "pdf"}));
    assert_eq!(report.ce("time").parse::<DateTime<Utc>>().unwrap(), night);
    evoke.stop().await;
    assert_eq!(sink.received_at("/nightly-report").len(), 1);
    Ok(())
}

pub(crate) async fn source_redis() -> Verdict {
    let (authority, sink) = (tls::authority().await?, Sink::start().await);
    // What the page says a stream needs, and what any connection does.
    let rights = "~shop:orders +@connection +xgroup|create +xreadgroup +xack +xautoclaim +xinfo|groups";
    let server = Redis::with_tls(&[&format!("user evoke on >{PASSWORD} {rights}")]).await?;
    let group = Group::start().await?;
    let home = home("source-redis", &passes("shop", ["orders", "news", "jobs"], &sink));
    let run = with(
        &home,
        &[
            format!("EventSource/shop:redis.orders.redisHost={}", server.tls_address.unwrap()),
            format!("EventSource/shop:redis.orders.tls={}", certified(&authority)),
            format!("EventSource/shop:redis.news.redisHost={}", server.address),
            format!("EventSource/shop:redis.jobs.redisHost={}", group.sentinel),
            format!("EventSource/shop:redis.jobs.sentinelMasterName={MASTER}"),
            format!("Secret/redis:stringData.password={PASSWORD}"),
        ],
    );
    let (mut redis, mut master) = (server.connection().await, group.master.connection().await);
    // `startAt: earliest` brings what is there.
    let mut add = cmd("XADD");
    add.arg("shop:orders").arg("*").arg("data").arg(ORDER).arg("Customer_1").arg("ada");
    let entry: String = add.query_async(&mut redis).await.unwrap();
    let mut evoke = run.ready().await;
    let heard: i64 = cmd("PUBLISH").arg("news.sport").arg("3:1").query_async(&mut redis).await.unwrap();
    assert_eq!(heard, 1);
    cmd("RPUSH").arg("jobs").arg("sweep").exec_async(&mut master).await.unwrap();

    let order = arrived(&sink, "/orders", &format!("shop:orders/{entry}")).await;
    assert_made(&order, "shop/orders", &[("type", "io.evoke.redis"), ("redisfieldcustomer1", "ada")], ORDER);
    assert!(!order.ce("time").is_empty(), "{order:?}");
    let news = &sink.wait_at("/news", 1, SOON).await[0];
    assert_made(news, "shop/news", &[("type", "io.evoke.redis"), ("redischannel", "news.sport")], "3:1");
    let job = &sink.wait_at("/jobs", 1, SOON).await[0];
    assert_made(job, "shop/jobs", &[("type", "io.evoke.redis"), ("redischannel", "")], "sweep");
    evoke.stop().await;
    assert_eq!(sink.count(), 3);
    Ok(())
}

pub(crate) async fn source_mqtt() -> Verdict {
    let (broker, authority, sink) = (Mosquitto::with_tls().await?, tls::authority().await?, Sink::start().await);
    let home = home("source-mqtt", &passes("plant", ["readings", "alarms"], &sink));
    let run = with(
        &home,
        &[
            format!("EventSource/plant:mqtt.readings.url=ssl://{}", broker.tls_address.unwrap()),
            format!("EventSource/plant:mqtt.readings.tls={}", certified(&authority)),
            format!("EventSource/plant:mqtt.readings.username={}", mqtt::USER),
            format!("EventSource/plant:mqtt.alarms.url=tcp://{}", broker.address),
            format!("Secret/mqtt:stringData.password={}", mqtt::PASSWORD),
        ],
    );
    let mut evoke = run.ready().await;
    let mut publisher = broker.publisher().await;
    publisher.send("plant/7/readings", 2, "{\"celsius\": 21.50}").await;
    publisher.send("plant/fire", 2, "leave").await;
    let reading = &sink.wait_at("/readings", 1, SOON).await[0];
    let attributes = [
        ("type", "io.evoke.mqtt"),
        ("subject", "plant/7/readings"),
        ("mqttqos", "1"),
        ("datacontenttype", "application/json"),
    ];
    assert_made(reading, "plant/readings", &attributes, "{\"celsius\": 21.50}");
    // The other topic covers both.
    let alarms = sink.wait_at("/alarms", 2, SOON).await;
    let fire = alarms.iter().find(|alarm| alarm.ce("subject") == "plant/fire").unwrap();
    assert_made(fire, "plant/alarms", &[("type", "plant.alarm"), ("mqttqos", "2"), ("datacontenttype", "")], "leave");
    evoke.stop().await;
    assert_eq!(sink.count(), 3);
    Ok(())
}

/// A server that speaks TLS alone, and knows the user that the pages call `evoke`.
async fn nats_with_tls() -> Result<Nats, Skipped> {
    Nats::with_tls(false, &[&format!("authorization {{ user: evoke, password: {PASSWORD:?} }}")]).await
}

/// A client of [`nats_with_tls`].
async fn logged_in(nats: &Nats, authority: &Authority) -> Client {
    nats.client_with(|| {
        let options = ConnectOptions::with_user_and_password("evoke".to_owned(), PASSWORD.to_owned());
        options.require_tls(true).add_root_certificates(authority.ca())
    })
    .await
}

pub(crate) async fn source_nats() -> Verdict {
    let (authority, sink) = (tls::authority().await?, Sink::start().await);
    let (secure, open) = (nats_with_tls().await?, nats::shared().await?);
    let home = home("source-nats", &passes("shop", ["orders", "clicks"], &sink));
    let run = with(
        &home,
        &[
            format!("EventSource/shop:nats.orders.url=tls://{}", secure.address),
            format!("EventSource/shop:nats.orders.tls.caFrom.file={:?}", authority.ca()),
            format!("EventSource/shop:nats.clicks.url={}", open.url()),
            format!("Secret/nats:stringData.password={PASSWORD}"),
        ],
    );
    // `startAt: earliest` brings what is there, the filter not all of it.
    let orders = make_stream(&logged_in(&secure, &authority).await, "ORDERS").await;
    for subject in ["orders.us.ohio", "orders.eu.bonn"] {
        orders.publish(subject, ORDER.into()).await.unwrap().await.unwrap();
    }
    let mut evoke = run.ready().await;
    let client = open.client().await;
    client.publish("web.shop.click", "{\"x\": 7}".into()).await.unwrap();
    client.flush().await.unwrap();

    let order = arrived(&sink, "/orders", "ORDERS/2").await;
    let attributes = [("type", "io.evoke.nats"), ("subject", "orders.eu.bonn"), ("datacontenttype", "")];
    assert_made(&order, "shop/orders", &attributes, ORDER);
    assert!(!order.ce("time").is_empty(), "{order:?}");
    let click = &sink.wait_at("/clicks", 1, SOON).await[0];
    let attributes =
        [("type", "io.evoke.nats"), ("subject", "web.shop.click"), ("datacontenttype", "application/json")];
    assert_made(click, "shop/clicks", &attributes, "{\"x\": 7}");
    evoke.stop().await;
    assert_eq!(sink.count(), 2);
    Ok(())
}

pub(crate) async fn source_webhook() -> Verdict {
    let (sink, own) = (Sink::start().await, ports::free());
    let home = home("source-webhook", &passes("shop", ["orders", "payments", "readings"], &sink));
    let run = with(&home, &[format!("EventSource/shop:webhook.payments.port={}", own.port())]);
    let mut evoke = run.env("PAYMENTS_TOKEN", PASSWORD).ready().await;

    // The commands on the page, by curl and by evoke itself.
    let commands = docs::blocks(&docs::page("source-webhook"), "sh")[0].clone();
    let commands = commands.replace("http://127.0.0.1:8080", &evoke.webhook(""));
    let commands = commands.replace("\nevoke ", &format!("\n{} ", binary().display()));
    let (status, log) = Program::new("sh", "sh").args(["-ec", &commands]).output(SOON).await;
    assert!(status.success() && log.count("202 Accepted") == 2, "{commands}{}", log.text());
    let orders = sink.wait_at("/orders", 2, SOON).await;
    let made = orders.iter().find(|order| order.ce("type") == "io.evoke.webhook").unwrap();
    assert_made(made, "shop/orders", &[("datacontenttype", "application/json")], ORDER);
    let sent = orders.iter().find(|order| order.ce("type") == "order.created").unwrap();
    assert_eq!((&*sent.body, sent.header("content-type")), (ORDER.as_bytes(), "application/json"));

    let hook = format!("http://{own}/hooks/payments");
    assert_eq!(request("POST", &hook, &[], "x").await.unwrap().status, 401);
    let bearer = format!("Bearer {PASSWORD}");
    assert_eq!(request("POST", &hook, &[("authorization", bearer.as_str())], "250 EUR").await.unwrap().status, 202);
    let payment = &sink.wait_at("/payments", 1, SOON).await[0];
    assert_made(payment, "shop/payments", &[("type", "io.evoke.webhook"), ("datacontenttype", "")], "250 EUR");

    let readings = evoke.webhook("/default/shop/readings");
    assert_eq!(request("PUT", &readings, &[], "{\"celsius\": 21.50}").await.unwrap().status, 202);
    let reading = &sink.wait_at("/readings", 1, SOON).await[0];
    let attributes = [("type", "reading.taken"), ("partitionkey", "plant-7"), ("datacontenttype", "application/json")];
    assert_made(reading, "shop/readings", &attributes, "{\"celsius\": 21.50}");
    evoke.stop().await;
    assert_eq!(sink.count(), 4);
    Ok(())
}

/// Sends an order over the bus of a page, asserts that it arrives and that one is refused which is not below `limit` bytes, and
/// ends evoke.
async fn over_the_bus(page: &str, limit: usize, sets: &[String]) -> Home {
    let sink = Sink::start().await;
    let home = home(page, &[source("web", "webhook: {in: {}}"), pass("all", "web", "in", &sink.url("/"))]);
    let mut evoke = with(&home, sets).ready().await;
    assert_eq!(order(&evoke, "/default/web/in", "large", vec![b' '; limit]).await, 413);
    assert_eq!(order(&evoke, "/default/web/in", "1", ORDER).await, 202);
    assert_order(&arrived(&sink, "/", "1").await);
    evoke.stop().await;
    assert_eq!(sink.count(), 1);
    home
}

pub(crate) async fn bus_embedded() -> Verdict {
    let home = over_the_bus("bus-embedded", 1 << 20, &[]).await;
    assert_eq!(stored_ids(&home.data(), "default.web.in").await, ["1"]);
    Ok(())
}

pub(crate) async fn bus_jetstream() -> Verdict {
    let (nats, authority) = (nats_with_tls().await?, tls::authority().await?);
    let sets = [
        format!("EventBus/default:jetStream.url=tls://{}", nats.address),
        format!("EventBus/default:jetStream.tls.caFrom.file={:?}", authority.ca()),
        format!("Secret/nats:stringData.password={PASSWORD}"),
        // One server, which may not have the room.
        "EventBus/default:jetStream.replicas=1".to_owned(),
        "EventBus/default:jetStream.maxBytes=64Mi".to_owned(),
    ];
    over_the_bus("bus-jetstream", 512 << 10, &sets).await;
    let context = jetstream::new(logged_in(&nats, &authority).await);
    let stream = context.get_stream("evoke+default+web+in").await.unwrap();
    let (config, state) = (&stream.cached_info().config, &stream.cached_info().state);
    assert_eq!((config.subjects.len(), state.messages), (8, 1));
    let (week, window) = (Duration::from_secs(7 * 24 * 60 * 60), Duration::from_secs(120));
    assert_eq!((config.max_age, config.duplicate_window), (week, window));
    Ok(())
}

pub(crate) async fn bus_kafka() -> Verdict {
    const TOPIC: &str = "default.web.in";

    let (broker, authority) = (Broker::prepare().await?, tls::authority().await?);
    broker.start().await;
    let sets = [
        format!("EventBus/default:kafka.brokers={}", broker.listeners.sasl_tls),
        format!("EventBus/default:kafka.sasl.username={}", kafka::USER),
        format!("EventBus/default:kafka.tls.caFrom.file={:?}", authority.ca()),
        format!("Secret/kafka:stringData.password={}", kafka::PASSWORD),
        // There is one broker.
        "EventBus/default:kafka.replication=1".to_owned(),
    ];
    over_the_bus("bus-kafka", 1 << 20, &sets).await;
    assert_eq!(broker.copies(TOPIC).await.len(), 8);
    assert_eq!(broker.ends(TOPIC, 8).await.values().sum::<i64>(), 1);
    broker.stop().await;
    Ok(())
}

pub(crate) async fn bus_redis() -> Verdict {
    let authority = tls::authority().await?;
    let page = fs::read_to_string(docs::page("bus-redis")).unwrap();
    // What the page says the user needs, over several lines.
    let (_, rights) = page.split_once("`~evoke:*").expect("the page has an ACL");
    let (rights, _) = rights.split_once('`').expect("the ACL ends");
    let rights: Vec<&str> = rights.split_whitespace().collect();
    let server = Redis::with_tls(&[&format!("user evoke on >{PASSWORD} ~evoke:* {}", rights.join(" "))]).await?;
    let _replica = server.replica().await?;
    let sets = [
        format!("EventBus/default:redis.address={}", server.tls_address.unwrap()),
        format!("EventBus/default:redis.tls={}", certified(&authority)),
        format!("Secret/redis:stringData.password={PASSWORD}"),
    ];
    over_the_bus("bus-redis", 1 << 20, &sets).await;
    let mut ids = server.stream_ids("evoke:default:web:in").await;
    for partition in 1..8 {
        ids.extend(server.stream_ids(&format!("evoke:default:web:in:{partition}")).await);
    }
    assert_eq!(ids, ["1"]);
    Ok(())
}

pub(crate) async fn sink_http() -> Verdict {
    let authority = tls::authority().await?;
    let sink = Sink::with_tls(&authority.server()).await;
    sink.script(|request: &Received| match (&*request.path, request.id(), request.attempt) {
        ("/events", "refused", _) => Answer::Full(400, vec![], Bytes::from_static(b"unknown")),
        ("/events", "later", 1) => Answer::Status(503),
        _ => Answer::Status(200),
    });
    let home = home("sink-http", &[source("shop", "webhook: {orders: {}}")]);
    let run = with(
        &home,
        &[
            format!("Trigger/billing:subscribers[0].sink.uri={}", sink.url("/events")),
            format!("Trigger/billing:subscribers[0].deadLetterSink.uri={}", sink.url("/rejected")),
        ],
    );
    let mut evoke = run.env("SSL_CERT_FILE", authority.ca().to_str().unwrap()).ready().await;
    for id in ["large", "later", "refused"] {
        assert_eq!(order(&evoke, "/default/shop/orders", id, ORDER).await, 202);
    }
    assert_eq!(order(&evoke, "/default/shop/orders", "small", "{\"amount\": 50}").await, 202);
    let requests = sink.wait_at("/events", 4, SOON).await;
    let letter = arrived(&sink, "/rejected", "refused").await;
    evoke.stop().await;
    assert_eq!(sink.count(), 5, "what does not meet the condition is sent nowhere, and nothing twice");
    for request in &requests {
        assert_order(request);
        assert_eq!(request.method, "POST");
        assert!(request.header("user-agent").starts_with("evoke/"), "{request:?}");
    }
    let attempts = |id: &str| requests.iter().filter(|request| request.id() == id).count();
    assert_eq!(["large", "later", "refused"].map(attempts), [1, 2, 1]);
    assert_order(&letter);
    for (extension, value) in [
        ("knativeerrorcode", "400"),
        ("knativeerrordata", "unknown"),
        ("evokeattempts", "1"),
        ("evoketrigger", "default/billing"),
        ("evokesubscriber", "invoice"),
    ] {
        assert_eq!(letter.text(extension), value, "{extension} of {letter:?}");
    }
    assert!(letter.text("knativeerrordest").starts_with(&sink.url("/events")), "{letter:?}");
    Ok(())
}

/// What the function of the page is: it takes a port, and says what it got and where it runs.
const RESIZE: &str = r#"#!/usr/bin/env python3
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Resize(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        env = os.environ
        print("got", self.headers["ce-id"], body, env["CACHE"], env["POD_NAMESPACE"], os.getcwd(), flush=True)
        self.send_response(204)
        self.end_headers()

assert sys.argv[1:] == ["--port", os.environ["PORT"]], sys.argv
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Resize).serve_forever()
"#;

pub(crate) async fn runtime_process() -> Verdict {
    let subscribed = "inputs: {it: {eventSource: web, event: in}}\n\
                      subscribers: [{name: resize, condition: it, sink: {ref: {kind: Function, name: resize}}}]";
    let home = home("runtime-process", &[source("web", "webhook: {in: {}}"), trigger("t", subscribed)]);
    home.write("bin/resize", RESIZE);
    fs::set_permissions(home.manifests().join("bin/resize"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut evoke = with(&home, &[]).ready().await;
    assert_eq!(order(&evoke, "/default/web/in", "1", ORDER).await, 202);
    let line = format!("got 1 {ORDER} /tmp/resize default /");
    evoke.log().wait_for(&["default/resize", &line, "/manifests/bin"], SOON).await;
    evoke.metric("evoke_deliveries_total", &[("subscriber", "resize"), ("outcome", "delivered")], 1.0, SOON).await;
    evoke.stop().await;
    Ok(())
}
