//! Whom TLS trusts: `tls.serverName` and `tls.insecureSkipVerify` of every source and bus that has servers.

use std::time::Duration;

use async_nats::ConnectOptions;
use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::kafka::{self, Record};
use evoke_tests::servers::mqtt::Mosquitto;
use evoke_tests::servers::nats::Nats;
use evoke_tests::servers::redis::Redis;
use evoke_tests::servers::tls::{self, Authority};
use redis::AsyncCommands;

/// What a bus may take to say why it does not come up.
const LATER: Duration = Duration::from_secs(60);
/// What is said of a server that shows the certificate of another one.
const REFUSED: &str = "certificate not valid for name \"other.test\"";
/// What is said where nobody is refused.
const WARNING: &str = "any certificate is trusted";

/// `tls` with the client certificate that every server here asks for, and `more`.
fn with(authority: &Authority, more: &str) -> String {
    let client = authority.client();
    format!("tls: {{certFrom: {{file: {:?}}}, keyFrom: {{file: {:?}}}, {more}}}", client.cert, client.key)
}

/// The servers' own authority, and the name that their certificate is to have.
fn named(authority: &Authority, name: &str) -> String {
    with(authority, &format!("caFrom: {{file: {:?}}}, serverName: {name}", authority.ca()))
}

/// No authority, and no questions.
fn anybody(authority: &Authority) -> String {
    with(authority, "insecureSkipVerify: true")
}

/// Runs three events of a source that are all `event` and differ in whom they trust. `publish` publishes an `x` for all of them.
async fn sources(kind: &str, event: &str, publish: impl AsyncFnOnce()) -> Verdict {
    let (authority, sink) = (tls::authority().await?, Sink::start().await);
    let trusting = [
        ("right", named(&authority, "broker.test")),
        ("other", named(&authority, "other.test")),
        ("any", anybody(&authority)),
    ];
    let name = format!("tls-{kind}");
    let events = trusting.each_ref().map(|(event_name, tls)| format!("\n  {event_name}: {{{event}, {tls}}}"));
    let passes = trusting.each_ref().map(|(to, _)| pass(to, &name, to, &sink.url(&format!("/{to}"))));
    let spec = format!("{kind}:{}", events.concat());
    let home = Home::with(objects(&[&[source(&name, &spec)], &passes[..]].concat()));
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&[&format!("{name}/other"), REFUSED], SOON).await;
    for event in ["event=right", "event=any"] {
        evoke.log().wait_for(&["the source is up", event], SOON).await;
    }
    publish().await;
    for path in ["/right", "/any"] {
        assert_eq!(sink.wait_at(path, 1, SOON).await[0].body, "x", "{path}");
    }
    evoke.stop().await;
    assert_eq!(sink.count(), 2, "nothing comes from a server that is not the one");
    let warned = format!("warning: spec.{kind}.any.tls.insecureSkipVerify: {WARNING}");
    assert_eq!((evoke.log().count(&warned), evoke.log().count(WARNING)), (1, 1), "who trusts anybody is named");
    Ok(())
}

/// Runs a bus whose spec is made of its `tls`, with a webhook called `name` on it.
async fn buses(name: &str, spec: impl Fn(&str) -> String) -> Verdict {
    let (authority, sink) = (tls::authority().await?, Sink::start().await);
    let manifests = |tls: &str| {
        let passed = pass(&format!("all-{name}"), name, "in", &sink.url("/"));
        objects(&[bus("default", &spec(tls)), source(name, "webhook: {in: {}}"), passed])
    };
    let home = Home::with(manifests(&named(&authority, "other.test")));
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["bus default.default", REFUSED], LATER).await;
    evoke.kill().await;
    assert_eq!(evoke.log().count(WARNING), 0);
    home.write("evoke.yaml", manifests(&anybody(&authority)));
    let mut evoke = home.run().await;
    assert_eq!(evoke.post(&format!("/default/{name}/in"), &[], "x").await.status, 202);
    assert_eq!(sink.wait(1, SOON).await[0].body, "x");
    evoke.stop().await;
    let warned = format!(".tls.insecureSkipVerify: {WARNING}");
    assert_eq!(evoke.log().count(&warned), 1, "who trusts anybody is named");
    Ok(())
}

pub(crate) async fn a_kafka_source_checks_whom_it_reads_from() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(1).await;
    let brokers = broker.listeners.mutual_tls;
    let event = format!("brokers: \"{brokers}\", authRequired: false, topic: {topic}, startAt: earliest");
    sources("kafka", &event, async || {
        broker.produce(&topic, [Record::new("x")]).await;
    })
    .await
}

pub(crate) async fn a_redis_source_checks_whom_it_reads_from() -> Verdict {
    let server = Redis::with_tls(&[]).await?;
    let address = server.tls_address.unwrap();
    let event = format!("redisHost: \"{address}\", enableTLS: true, stream: in, startAt: earliest");
    sources("redis", &event, async || {
        let _: String = server.connection().await.xadd("in", "*", &[("data", "x")]).await.unwrap();
    })
    .await
}

pub(crate) async fn an_mqtt_source_checks_whom_it_reads_from() -> Verdict {
    let broker = Mosquitto::with_tls().await?;
    let event = format!("url: \"ssl://{}\", topic: a", broker.tls_address.unwrap());
    sources("mqtt", &event, async || broker.publisher().await.send("a", 1, "x").await).await
}

pub(crate) async fn a_nats_source_checks_whom_it_reads_from() -> Verdict {
    let (nats, authority) = (Nats::with_tls(true, &[]).await?, tls::authority().await?);
    let own = authority.client();
    let options = || {
        let options = ConnectOptions::new().require_tls(true).add_root_certificates(authority.ca());
        options.add_client_certificate(own.cert.clone(), own.key.clone())
    };
    sources("nats", &format!("url: \"tls://{}\", subject: a", nats.address), async || {
        let client = nats.client_with(options).await;
        client.publish("a", "x".into()).await.unwrap();
        client.flush().await.unwrap();
    })
    .await
}

pub(crate) async fn a_bus_on_kafka_checks_whom_it_publishes_to() -> Verdict {
    let broker = kafka::shared().await?;
    let brokers = broker.listeners.mutual_tls;
    buses(&broker.name("tls"), |tls| format!("kafka: {{brokers: \"{brokers}\", partitions: 1, {tls}}}")).await
}

pub(crate) async fn a_bus_on_redis_checks_whom_it_publishes_to() -> Verdict {
    let server = Redis::with_tls(&[]).await?;
    let address = server.tls_address.unwrap();
    buses("web", |tls| format!("redis: {{address: \"{address}\", partitions: 1, {tls}}}")).await
}

pub(crate) async fn a_bus_on_jetstream_checks_whom_it_publishes_to() -> Verdict {
    let nats = Nats::with_tls(true, &[]).await?;
    buses("web", |tls| format!("jetStream: {{url: \"tls://{}\", partitions: 1, {tls}}}", nats.address)).await
}
