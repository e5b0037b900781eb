//! The log over an outage of a server: however long it takes, evoke says what changed, and does not say it again for every attempt.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::load::Load;
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::servers::kafka::Record;
use evoke_tests::servers::mqtt::Mosquitto;
use evoke_tests::{SOON, eventually};
use redis::cmd;
use tokio::time::sleep;

use super::bus_kafka::LATER;
use super::nats_source::make_stream;

/// How long a server is away once everybody has noticed: much longer than most pauses between two attempts.
const OUTAGE: Duration = Duration::from_secs(15);
/// Warnings and errors for each part that `/readyz` has and that depends on the server, at the most.
const LINES: usize = 10;
/// Those that differ in nothing but the cause, which may become another one: the connection broke, then it is refused.
const ALIKE: usize = 3;

/// What is away.
#[derive(Clone, Copy)]
enum Server<'a> {
    Broker(&'a BusServer),
    Mosquitto(&'a Mosquitto),
}

impl Server<'_> {
    async fn kill(self) {
        match self {
            Self::Broker(server) => server.kill().await,
            Self::Mosquitto(broker) => broker.kill().await,
        }
    }

    async fn start(self) {
        match self {
            Self::Broker(server) => server.start().await,
            Self::Mosquitto(broker) => broker.resume().await,
        }
    }

    /// Sends what an event of a source is made of.
    async fn send(self, event: &str, data: &str) {
        match self {
            Self::Broker(BusServer::Embedded) => panic!("no source reads from it"),
            Self::Broker(BusServer::JetStream(nats)) => {
                let client = nats.client().await;
                client.publish(format!("s.{event}"), data.to_owned().into()).await.unwrap();
                client.flush().await.unwrap();
            }
            Self::Broker(BusServer::Kafka(broker)) => {
                broker.produce(event, [Record::new(data)]).await;
            }
            Self::Broker(BusServer::Redis(redis)) => {
                let mut command = match event {
                    "stream" => cmd("XADD"),
                    "list" => cmd("RPUSH"),
                    _ => cmd("PUBLISH"),
                };
                command.arg(event);
                if event == "stream" {
                    command.arg("*").arg("data");
                }
                command.arg(data).exec_async(&mut redis.connection().await).await.unwrap();
            }
            Self::Mosquitto(broker) => broker.publisher().await.send(event, 1, data).await,
        }
    }
}

/// What a line of the log says where it is a warning or an error, without what it says it of.
fn loud(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip(1);
    matches!(words.next(), Some("WARN" | "ERROR"))
        .then(|| words.take_while(|word| !word.contains('=')).collect::<Vec<_>>().join(" "))
}

fn all_loud(evoke: &Evoke) -> Vec<String> {
    evoke.log().text().lines().filter_map(loud).collect()
}

/// Kills a server that these parts depend on, starts it again when it has been away for long, and gives what was said meanwhile.
async fn said_of_an_outage(evoke: &mut Evoke, server: Server<'_>, parts: &[String]) -> Vec<String> {
    let before = all_loud(evoke).len();
    server.kill().await;
    for part in parts {
        evoke.waits_for(&[part], LATER).await;
    }
    sleep(OUTAGE).await;
    server.start().await;
    evoke.ready(LATER).await;
    all_loud(evoke).split_off(before)
}

/// Asserts that few lines were said, for so many parts, of which so many may say the same.
fn assert_few(said: &[String], parts: usize, same: usize) {
    let mut counts = BTreeMap::<&str, usize>::new();
    for text in said {
        *counts.entry(text).or_default() += 1;
    }
    println!("an outage, for {parts} parts: {counts:#?}");
    assert!(!said.is_empty(), "an outage is worth a line");
    assert!(said.len() <= LINES * parts, "{} lines: {counts:#?}", said.len());
    assert!(counts.values().all(|count| *count <= ALIKE * same), "one line again and again: {counts:#?}");
}

/// The parts are the bus, the source and the Trigger.
async fn is_quiet_as_a_bus(server: &BusServer) -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(objects(&[
        bus("default", &server.spec(1)),
        source("web", "webhook: {in: {}}"),
        pass("all", "web", "in", &sink.url("/")),
    ]));
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    load.more(100, LATER).await;
    let said = said_of_an_outage(&mut evoke, Server::Broker(server), &["bus default.default".to_owned()]).await;
    load.more(100, LATER).await;
    let sent = load.end().await;
    sink.wait_all(&sent.ids, LATER).await;
    assert_few(&said, 3, 1);
    evoke.stop().await;
    Ok(())
}

/// Each event is a part, and has a spec.
async fn is_quiet_as_a_source(kind: &str, server: Server<'_>, events: &[(&str, String)]) -> Verdict {
    let sink = Sink::start().await;
    let (mut spec, mut passes) = (format!("{kind}:"), Vec::new());
    for (event, fields) in events {
        write!(spec, "\n  {event}: {{{fields}}}").unwrap();
        passes.push(pass(event, kind, event, &sink.url(&format!("/{event}"))));
    }
    let home = Home::with(objects(&[&[source(kind, &spec)], &passes[..]].concat()));
    let mut evoke = home.run().await;
    let goes_through = async |data: &str| {
        for (event, _) in events {
            // It holds a client of every kind of server.
            Box::pin(server.send(event, data)).await;
            eventually(&format!("{data} of {event} arrives"), SOON, async || {
                sink.received_at(&format!("/{event}")).iter().any(|request| request.body == data).then_some(())
            })
            .await;
        }
    };
    goes_through("before").await;
    let parts: Vec<String> = events.iter().map(|(event, _)| format!("{kind}/{event}")).collect();
    let said = said_of_an_outage(&mut evoke, server, &parts).await;
    goes_through("after").await;
    assert_few(&said, parts.len(), parts.len());
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_bus_on_jetstream_says_what_changed() -> Verdict {
    is_quiet_as_a_bus(&BusServer::jetstream().await?).await
}

pub(crate) async fn a_bus_on_kafka_says_what_changed() -> Verdict {
    is_quiet_as_a_bus(&BusServer::kafka().await?).await
}

pub(crate) async fn a_bus_on_redis_says_what_changed() -> Verdict {
    is_quiet_as_a_bus(&BusServer::redis().await?).await
}

pub(crate) async fn a_source_of_mqtt_says_what_changed() -> Verdict {
    let broker = Mosquitto::start().await?;
    let reads = |topic: &'static str, version: &str| {
        (topic, format!("url: \"tcp://{}\", topic: {topic}, protocolVersion: {version}", broker.address))
    };
    let events = [reads("older", "v3.1.1"), reads("newer", "v5")];
    is_quiet_as_a_source("mqtt", Server::Mosquitto(&broker), &events).await
}

pub(crate) async fn a_source_of_nats_says_what_changed() -> Verdict {
    let server = BusServer::jetstream().await?;
    let BusServer::JetStream(nats) = &server else { unreachable!() };
    make_stream(&nats.client().await, "S").await;
    let url = nats.url();
    let events = [
        ("stored", format!("url: \"{url}\", stream: S, subject: s.stored")),
        ("bare", format!("url: \"{url}\", subject: s.bare")),
    ];
    is_quiet_as_a_source("nats", Server::Broker(&server), &events).await
}

pub(crate) async fn a_source_of_kafka_says_what_changed() -> Verdict {
    let server = BusServer::kafka().await?;
    let BusServer::Kafka(broker) = &server else { unreachable!() };
    broker.make_topic("in", 1).await;
    let fields = format!("brokers: \"{}\", authRequired: false, topic: in, startAt: earliest", broker.listeners.plain);
    is_quiet_as_a_source("kafka", Server::Broker(&server), &[("in", fields)]).await
}

pub(crate) async fn a_source_of_redis_says_what_changed() -> Verdict {
    let server = BusServer::redis().await?;
    let BusServer::Redis(redis) = &server else { unreachable!() };
    let reads = |what: &'static str| (what, format!("redisHost: \"{}\", {what}: {what}", redis.address));
    let events = [reads("stream"), reads("list"), reads("channel")];
    is_quiet_as_a_source("redis", Server::Broker(&server), &events).await
}
