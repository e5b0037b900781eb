//! The metrics are those that the docs list, they add up, and no secret shows anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use async_nats::ConnectOptions;
use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::evoke::{Evoke, Home, checkout};
use evoke_tests::http::{Answer, Sink, get};
use evoke_tests::manifests::{bare_source, bus, objects, python, secret, source, trigger};
use evoke_tests::servers::kafka::{self, PASSWORD, Record, USER};
use evoke_tests::servers::mqtt::{self, Mosquitto};
use evoke_tests::servers::nats::Nats;
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};

/// A documented metric.
#[derive(Debug, PartialEq, Eq)]
struct Documented {
    kind: String,
    labels: BTreeSet<String>,
}

/// Reads the tables of docs/metrics.md whose rows are `| name | type | labels | meaning |`, names and labels in backticks.
fn documented() -> BTreeMap<String, Documented> {
    let text = fs::read_to_string(checkout().join("docs/metrics.md")).unwrap();
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `evoke_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _] = cells[..] else { panic!("not four cells: {line}") };
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        metrics.insert(name.trim_matches('`').to_owned(), Documented { kind: kind.to_owned(), labels });
    }
    metrics
}

/// An evoke with everything at once, and what it uses.
struct Everything {
    home: Home,
    evoke: Evoke,
    /// The start of each secret.
    secrets: Vec<String>,
    _servers: (Mosquitto, Nats, Redis),
}

/// Every kind of source and of bus, each with a secret to log in with, conditions that match and do not, deliveries that fail, a
/// function.
async fn everything(sink: &Sink) -> Result<Everything, Skipped> {
    let broker = kafka::shared().await?;
    let redis = Redis::with(&["user default on >r3dis-secret-5521 ~* &* +@all"]).await?;
    let mosquitto = Mosquitto::with_password().await?;
    let nkey = nkeys::KeyPair::new_user();
    let (seed, public) = (nkey.seed().unwrap(), nkey.public_key());
    let users =
        format!("authorization {{ users: [{{user: reader, password: \"n4ts-secret-8830\"}}, {{nkey: {public}}}] }}");
    let nats = Nats::with(&[&users]).await?;
    let (topic, group) = (broker.topic(1).await, broker.name("group"));
    let spec = format!(
        "kafka: {{k: {{brokers: \"{}\", authRequired: true, topic: {topic}, startAt: earliest, consumerGroup: {group}, \
         saslUsername: {USER}, saslPassword: {PASSWORD}, tls: {{disabled: true}}}}}}\n\
         cron: {{c: {{schedule: \"@every 1s\"}}}}\n\
         redis: {{r: {{redisHost: \"{}\", redisPasswordFrom: {{env: REDIS_PASSWORD}}, startAt: earliest}}}}\n\
         mqtt: {{m: {{url: \"mqtt://{}\", topic: open/a, username: {}, passwordFrom: {{env: MQTT_PASSWORD}}}}}}\n\
         nats: {{n: {{url: \"{}\", subject: a, auth: {{username: reader, passwordFrom: {{secretKeyRef: {{name: nats, key: password}}}}}}}}}}\n\
         webhook: {{w: {{auth: {{bearerTokenFrom: {{secretKeyRef: {{name: hook, key: token}}}}}}}}}}",
        broker.listeners.sasl,
        redis.address,
        mosquitto.address,
        mqtt::USER,
        nats.url()
    );
    let inputs =
        ["k", "c", "r", "w", "m", "n"].map(|event| format!("{event}: {{eventSource: s, event: {event}}}")).join(", ");
    let userinfo = sink.url("/").replace("http://", "http://user:ur1-secret-9133@");
    let spec_of_trigger = format!(
        "inputs: {{{inputs}}}\nsubscribers:\n  \
         - {{name: all, condition: 'k || c || r || w || m || n', sink: {{uri: \"{userinfo}\"}}, delivery: {{retry: 1, backoffDelay: PT0.01S}}}}\n  \
         - {{name: some, condition: w.data.amount > 1.0, topic: some, delivery: {{deduplicationWindow: 1m}}}}\n  \
         - {{name: f, condition: w, sink: {{ref: {{kind: Function, name: f}}}}, delivery: {{retry: 0}}}}"
    );
    // The names of what is on the broker that tests share are of this test alone.
    let on_kafka = broker.name("on-kafka");
    let sink_of = |bus: &str| format!("eventBus: {bus}\nsink: {{uri: \"{}\"}}\nwebhook: {{w: {{}}}}", sink.url("/"));
    let sasl = format!("sasl: {{username: {USER}, passwordFrom: {{secretKeyRef: {{name: kafka, key: password}}}}}}");
    let home = Home::with(objects(&[
        source("s", &spec),
        secret("nats", "password", "n4ts-secret-8830"),
        secret("kafka", "password", PASSWORD),
        bus(
            "jet",
            &format!("jetStream: {{url: \"{}\", partitions: 1, auth: {{nkeyFrom: {{env: NKEY}}}}}}", nats.url()),
        ),
        bus(
            "kafka",
            &format!(
                "kafka: {{brokers: \"{}\", partitions: 1, authRequired: true, tls: {{disabled: true}}, {sasl}}}",
                broker.listeners.sasl
            ),
        ),
        bus("redis", &format!("redis: {{address: \"{}\", partitions: 1, password: r3dis-secret-5521}}", redis.address)),
        bare_source("on-jet", &sink_of("jet")),
        bare_source(&on_kafka, &sink_of("kafka")),
        bare_source("on-redis", &sink_of("redis")),
        secret("hook", "token", "t0ken-secret-7744"),
        python("f", "f.py"),
        trigger("t", &spec_of_trigger),
    ]));
    let program = "import os\nfrom http.server import *\nThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), BaseHTTPRequestHandler).serve_forever()";
    home.write("f.py", program);
    let run = home.evoke().args(["-vv"]).env("REDIS_PASSWORD", "r3dis-secret-5521");
    let evoke = run.env("MQTT_PASSWORD", mqtt::PASSWORD).env("NKEY", &seed).ready().await;
    broker.produce(&topic, [Record::new("k"), Record::new("bad").header("ce_specversion", "1.0")]).await;
    let mut connection = redis.connection_as("default", "r3dis-secret-5521").await;
    let _: String = redis::AsyncCommands::xadd(&mut connection, "r", "*", &[("data", "r")]).await.unwrap();
    mosquitto.publisher_with_password().await.send("open/a", 1, "m").await;
    let login = || ConnectOptions::with_user_and_password("reader".to_owned(), "n4ts-secret-8830".to_owned());
    let client = nats.client_with(login).await;
    client.publish("a", "n".into()).await.unwrap();
    client.flush().await.unwrap();
    for source in ["on-jet", &on_kafka, "on-redis"] {
        let kind = source.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        assert_eq!(evoke.post(&format!("/default/{source}/w"), &[], kind.to_owned()).await.status, 202);
    }
    let token = [("authorization", "Bearer t0ken-secret-7744"), ("content-type", "application/json")];
    for body in ["{\"amount\": 2}", "{\"amount\": \"x\"}", "{}"] {
        assert_eq!(evoke.post("/default/s/w", &token, body).await.status, 202);
    }
    let wrong = [("authorization", "Bearer wr0ng-secret-1")];
    assert_eq!(evoke.post("/default/s/w", &wrong, "x").await.status, 401);
    let bodies = ["k", "r", "m", "n", "on-jet", "on-kafka", "on-redis", "{\"amount\": 2}", "{\"amount\": \"x\"}", "{}"];
    eventually("everything has arrived", SOON, async || {
        let answered: Vec<_> = sink.received().into_iter().filter(|r| r.status == Some(200)).map(|r| r.body).collect();
        bodies.iter().all(|body| answered.iter().any(|answered| answered == body)).then_some(())
    })
    .await;
    let known = ["r3dis-secret", "n4ts-secret", "t0ken-secret", "ur1-secret", "wr0ng-secret", PASSWORD, mqtt::PASSWORD];
    let secrets = known.map(str::to_owned).into_iter().chain([seed]).collect();
    Ok(Everything { home, evoke, secrets, _servers: (mosquitto, nats, redis) })
}

pub(crate) async fn a_scrape_is_what_the_docs_say() -> Verdict {
    let sink = Sink::scripted(|r| Answer::Status(if r.body == "k" && r.attempt == 1 { 503 } else { 200 })).await;
    let Everything { home: _home, mut evoke, _servers, .. } = everything(&sink).await?;
    let documented = documented();
    assert!(documented.len() >= 10, "{} metrics in docs/metrics.md", documented.len());
    // Lag is looked at now and then, not on every event.
    let scrape = eventually("the lag shows", Duration::from_secs(90), async || {
        Some(evoke.metrics().await).filter(|scrape| scrape.types.contains_key("evoke_subscription_lag_events"))
    })
    .await;
    for (name, kind) in &scrape.types {
        let found = documented.get(name).unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
        assert_eq!(&found.kind, kind, "{name}");
        let base_units = ["_total", "_seconds", "_bytes"].iter().any(|unit| name.ends_with(unit));
        assert!(*kind != "counter" || name.ends_with("_total"), "{name}: a counter ends in _total");
        assert!(*kind != "histogram" || base_units, "{name}: a histogram ends in its unit");
    }
    for sample in &scrape.samples {
        let family = scrape.family(sample);
        let mut labels: BTreeSet<String> = sample.labels.keys().cloned().collect();
        labels.remove("le");
        assert_eq!(documented[family].labels, labels, "{family}");
        for value in sample.labels.values() {
            assert!(value.len() <= 80 && !value.contains("://"), "{family}: {value:?} is no bounded label");
        }
    }
    let missing: Vec<&String> = documented.keys().filter(|name| !scrape.types.contains_key(*name)).collect();
    assert!(missing.is_empty(), "documented, but not in a scrape: {missing:?}");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn no_secret_shows_anywhere() -> Verdict {
    let sink = Sink::start().await;
    let Everything { home, mut evoke, secrets, _servers } = everything(&sink).await?;
    let mut shown = String::new();
    for path in ["/metrics", "/readyz", "/healthz", "/v1/status"] {
        shown.push_str(&get(&evoke.admin(path)).await.unwrap().text());
    }
    for tool in [
        &["subscription", "list", "-o", "wide"][..],
        &["subscription", "list", "-o", "json"],
        &["dlq", "list", "-o", "json"],
    ] {
        shown.push_str(&home.tool(tool).await.1);
    }
    let (_, validated) = evoke_tests::evoke::command(["validate".into(), home.manifests().into_os_string()]).await;
    shown.push_str(&validated);
    evoke.stop().await;
    shown.push_str(&evoke.log().text());
    for request in sink.received() {
        shown.push_str(&format!("{:?}", request.headers));
    }
    for secret in secrets {
        // The user and password of a sink's URL are for the sink, as its Authorization header.
        let lines: Vec<&str> = shown.lines().filter(|line| line.contains(&secret)).collect();
        assert!(lines.is_empty(), "{secret} shows in {lines:?}");
    }
    Ok(())
}
