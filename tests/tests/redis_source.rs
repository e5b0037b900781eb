//! Redis sources: streams, channels and lists, how they log in, and servers that come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{bare_source, objects, pass, source};
use evoke_tests::servers::redis::{Group, MASTER, Redis};
use evoke_tests::servers::tls;
use evoke_tests::{SOON, eventually};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, cmd};
use serde_json::json;

pub(crate) const GROUP: &str = "default.redis.in";
const SKIPPED: &str = "evoke_source_skipped_total";
/// How many entries are trimmed away while they are pending.
const TRIMMED: usize = 4;

pub(crate) async fn reading(address: &str, more: &str) -> (Home, Evoke, Sink) {
    let sink = Sink::start().await;
    let home = home(address, more, &sink);
    let evoke = home.run().await;
    (home, evoke, sink)
}

/// A source of one event called `in`.
pub(crate) fn manifests(address: &str, more: &str, sink: &Sink) -> String {
    let spec = format!("redis:\n  in: {{redisHost: \"{address}\"{more}}}");
    objects(&[source("redis", &spec), pass("all", "redis", "in", &sink.url("/"))])
}

fn home(address: &str, more: &str, sink: &Sink) -> Home {
    Home::with(manifests(address, more, sink))
}

async fn add(redis: &mut MultiplexedConnection, stream: &str, fields: &[(&str, &str)]) -> String {
    redis.xadd::<_, _, _, _, String>(stream, "*", fields).await.unwrap()
}

/// What one call of a load adds to the stream `in`, and the ids.
pub(crate) async fn add_some(redis: &mut MultiplexedConnection, call: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(format!("in/{}", add(redis, "in", &[("data", &format!("{call}-{n}"))]).await));
    }
    ids
}

/// Waits until no entry is pending in the source's group.
pub(crate) async fn acked(redis: &mut MultiplexedConnection, stream: &str, group: &str) {
    eventually("every entry is acknowledged", SOON, async || {
        let pending: redis::Value = cmd("XPENDING").arg(stream).arg(group).query_async(redis).await.ok()?;
        matches!(pending, redis::Value::Array(ref parts) if parts.first() == Some(&redis::Value::Int(0))).then_some(())
    })
    .await;
}

/// Waits until nothing is left in any list. One that is empty is none to Redis; what evoke notes beside it is of other types.
pub(crate) async fn emptied(redis: &mut MultiplexedConnection) {
    eventually("nothing is left in any list", SOON, async || {
        let mut scan = cmd("SCAN");
        scan.arg(0).arg("COUNT").arg(1000).arg("TYPE").arg("list");
        let (_, lists): (String, Vec<String>) = scan.query_async(redis).await.ok()?;
        lists.is_empty().then_some(())
    })
    .await;
}

fn by_id<'a>(received: &'a [Received], id: &str) -> &'a Received {
    received.iter().find(|r| r.id() == id).unwrap_or_else(|| panic!("no {id} among {received:?}"))
}

pub(crate) async fn stream_entries_become_events() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let (_home, mut evoke, sink) = reading(&server.address.to_string(), ", stream: orders, startAt: earliest").await;
    let with_data =
        [("data", "{ \"a\": 1.50 }"), ("ce-type", "order.created"), ("ce-datacontenttype", "application/json")];
    let full = add(&mut redis, "orders", &with_data).await;
    let fields = add(&mut redis, "orders", &[("name", "Zoë"), ("amount", "7")]).await;
    let own = [("data", "x"), ("ce-id", "own"), ("ce-source", "/shop"), ("ce-tenant", "acme")];
    let own_at = add(&mut redis, "orders", &own).await;
    let received = sink.wait(3, SOON).await;

    let full = by_id(&received, &format!("orders/{full}"));
    assert_eq!(full.body, "{ \"a\": 1.50 }");
    assert_eq!(full.ce("type"), "order.created");
    assert_eq!(full.ce("source"), "/namespaces/default/eventsources/redis/in");
    assert_eq!(full.header("content-type"), "application/json");
    let fields = by_id(&received, &format!("orders/{fields}"));
    assert_eq!(fields.ce("type"), "io.evoke.redis");
    assert_eq!(fields.json(), json!({"name": "Zoë", "amount": "7"}));
    assert_eq!(fields.header("content-type"), "application/json");
    let own = received.iter().find(|r| r.body == "x").unwrap_or_else(|| panic!("{own_at} did not come"));
    assert_eq!(own.ce("tenant"), "acme");
    assert_eq!((own.id(), own.ce("source")), ("own", "/shop"));
    acked(&mut redis, "orders", GROUP).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_stream_starts_where_the_manifest_says() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    for n in 0..5 {
        add(&mut redis, "in", &[("data", &format!("before-{n}"))]).await;
    }
    let sink = Sink::start().await;
    let address = server.address;
    let spec = format!(
        "redis:\n  in: {{redisHost: \"{address}\"}}\n  first: {{redisHost: \"{address}\", stream: in, startAt: earliest, consumerGroup: g2}}"
    );
    let passes = ["in", "first"].map(|event| pass(event, "redis", event, &sink.url(&format!("/{event}"))));
    let home = Home::with(objects(&[&[source("redis", &spec)], &passes[..]].concat()));
    let mut evoke = home.run().await;
    evoke.kill().await;
    for n in 0..5 {
        add(&mut redis, "in", &[("data", &format!("after-{n}"))]).await;
    }
    let mut evoke = home.run().await;
    let bodies = |received: &[Received]| received.iter().map(|r| r.body.clone()).collect::<BTreeSet<_>>();
    let first = sink.wait_at("/first", 10, SOON).await;
    assert_eq!(bodies(&first).len(), 10);
    let usual = sink.wait_at("/in", 5, SOON).await;
    assert!(usual.iter().all(|r| r.body.starts_with(b"after-")), "{usual:?}");
    acked(&mut redis, "in", "g2").await;
    acked(&mut redis, "in", GROUP).await;
    evoke.stop().await;
    Ok(())
}

/// Leaves so many entries in the stream `in`.
async fn trim(redis: &mut MultiplexedConnection, left: usize) {
    let gone: usize = cmd("XTRIM").arg("in").arg("MAXLEN").arg(left).query_async(redis).await.unwrap();
    assert_eq!(gone, TRIMMED);
}

/// Waits until the source has delivered what is left of these entries, has acknowledged all, and has counted those that were trimmed.
async fn are_counted(redis: &mut MultiplexedConnection, evoke: &mut Evoke, sink: &Sink, ids: &[String]) {
    let left = ids[TRIMMED..].iter().cloned().collect();
    sink.wait_all(&left, SOON).await;
    acked(redis, "in", GROUP).await;
    assert_eq!(evoke.metric(SKIPPED, &[("event", "in")], TRIMMED as f64, SOON).await, TRIMMED as f64);
    evoke.stop().await;
    assert_conserved(&left, [&sink.delivered()], 0);
}

pub(crate) async fn an_entry_that_is_trimmed_while_it_is_pending_is_counted() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let sink = Sink::scripted(|_| Answer::Hang).await;
    // Without a bus, an entry is pending until its sink has it.
    let spec = format!("sink: {{uri: \"{}\"}}\nredis:\n  in: {{redisHost: \"{}\"}}", sink.url("/"), server.address);
    let home = Home::with(bare_source("redis", &spec));
    let mut evoke = home.run().await;
    let ids = add_some(&mut redis, 0).await;
    sink.wait(ids.len(), SOON).await;
    evoke.kill().await;
    trim(&mut redis, ids.len() - TRIMMED).await;
    sink.script(|_| Answer::Status(200));
    are_counted(&mut redis, &mut home.run().await, &sink, &ids).await;
    Ok(())
}

pub(crate) async fn an_entry_that_is_trimmed_before_it_is_taken_over_is_counted() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let ids = add_some(&mut redis, 0).await;
    cmd("XGROUP").arg("CREATE").arg("in").arg(GROUP).arg(0).exec_async(&mut redis).await.unwrap();
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg("gone").arg("STREAMS").arg("in").arg(">");
    read.exec_async(&mut redis).await.unwrap();
    trim(&mut redis, ids.len() - TRIMMED).await;
    let more = ", processingTimeout: 1s, redeliverInterval: 1s";
    let (_home, mut evoke, sink) = reading(&server.address.to_string(), more).await;
    are_counted(&mut redis, &mut evoke, &sink, &ids).await;
    Ok(())
}

pub(crate) async fn a_group_that_is_destroyed_goes_on_before_what_is_not_settled() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let sink = Sink::start().await;
    // Without a bus, an entry is not settled until its sink has it.
    let spec = format!("sink: {{uri: \"{}\"}}\nredis:\n  in: {{redisHost: \"{}\"}}", sink.url("/"), server.address);
    let home = Home::with(bare_source("redis", &spec));
    let mut evoke = home.run().await;
    let settled = add_some(&mut redis, 0).await;
    sink.wait_delivered(settled.len(), SOON).await;
    acked(&mut redis, "in", GROUP).await;
    sink.script(|_| Answer::Hang);
    let unsettled = add_some(&mut redis, 1).await;
    sink.wait(settled.len() + unsettled.len(), SOON).await;
    let gone: bool = cmd("XGROUP").arg("DESTROY").arg("in").arg(GROUP).query_async(&mut redis).await.unwrap();
    assert!(gone, "the group was there");
    sink.script(|_| Answer::Status(200));
    let all: BTreeSet<String> = settled.into_iter().chain(unsettled).collect();
    sink.wait_all(&all, SOON).await;
    evoke.ready(SOON).await;
    acked(&mut redis, "in", GROUP).await;
    evoke.stop().await;
    assert_conserved(&all, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn channel_messages_become_events() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let (_home, mut evoke, sink) = reading(&server.address.to_string(), ", channel: \"news.*\"").await;
    let heard: i64 = redis.publish("news.sport", "a \u{0} b").await.unwrap();
    assert_eq!(heard, 1, "evoke is ready and listens");
    let _: i64 = redis.publish("other", "not this").await.unwrap();
    let _: i64 = redis.publish("news.art", "last").await.unwrap();
    let received = sink.wait(2, SOON).await;
    let bodies: BTreeSet<&[u8]> = received.iter().map(|r| &*r.body).collect();
    assert_eq!(bodies, BTreeSet::from([b"a \0 b".as_slice(), b"last"]));
    assert_ne!(received[0].id(), received[1].id());
    assert_eq!(received[0].ce("type"), "io.evoke.redis");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn list_items_survive_a_kill() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let (home, mut evoke, sink) = reading(&server.address.to_string(), ", list: jobs").await;
    let items: Vec<String> = (0..3000).map(|n| format!("job-{n}")).collect();
    let _: i64 = redis.rpush("jobs", &items).await.unwrap();
    sink.wait(200, SOON).await;
    evoke.kill().await;
    let mut evoke = home.run().await;
    let bodies =
        || sink.received().iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect::<BTreeSet<_>>();
    let all: BTreeSet<String> = items.into_iter().collect();
    eventually("every item", Duration::from_secs(60), async || (bodies().len() == all.len()).then_some(())).await;
    assert_eq!(bodies(), all);
    emptied(&mut redis).await;
    let repeats = sink.count() - all.len();
    assert!(repeats <= 1000, "{repeats} repeats after one kill");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn an_acl_user_over_tls_reads_its_database() -> Verdict {
    let authority = tls::authority().await?;
    let acl = "user reader on >r3ader-secret ~* &* +@all";
    let server = Redis::with_tls(&[acl, "user default off"]).await?;
    let client = authority.client();
    let more = format!(
        ", redisUsername: reader, redisPasswordFrom: {{env: REDIS_PASSWORD}}, redisDB: 3, enableTLS: true, stream: in, \
         startAt: earliest, tls: {{caFrom: {{file: {}}}, certFrom: {{file: {}}}, keyFrom: {{file: {}}}, serverName: localhost}}",
        authority.ca().display(),
        client.cert.display(),
        client.key.display()
    );
    let sink = Sink::start().await;
    let home = home(&server.tls_address.unwrap().to_string(), &more, &sink);
    let mut evoke = home.evoke().env("REDIS_PASSWORD", "r3ader-secret").ready().await;
    let mut redis = server.connection_as("reader", "r3ader-secret").await;
    let _: () = cmd("SELECT").arg(3).query_async(&mut redis).await.unwrap();
    add(&mut redis, "in", &[("data", "in three")]).await;
    assert_eq!(sink.wait(1, SOON).await[0].body, "in three");
    acked(&mut redis, "in", GROUP).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn rejected_credentials_are_named() -> Verdict {
    let server = Redis::with(&["user default on >right ~* &* +@all"]).await?;
    let sink = Sink::start().await;
    let home = home(&server.address.to_string(), ", redisPassword: wr0ng-redis-secret", &sink);
    let mut evoke = home.evoke().start().await;
    let text = evoke.waits_for(&["redis/in", "refuses", "password"], SOON).await;
    assert!(!text.contains("wr0ng"), "{text}");
    evoke.stop().await;
    assert_eq!(evoke.log().count("wr0ng-redis-secret"), 0);
    Ok(())
}

pub(crate) async fn a_server_that_is_down_and_comes_back_loses_nothing() -> Verdict {
    let server = Redis::prepare(&[])?;
    let sink = Sink::start().await;
    let home = home(&server.address.to_string(), ", stream: in, startAt: earliest", &sink);
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["redis/in"], SOON).await;
    server.resume().await;
    evoke.ready(SOON).await;
    let mut sent = BTreeSet::new();
    for round in 0..2 {
        let mut redis = server.connection().await;
        for n in 0..300 {
            sent.insert(format!("in/{}", add(&mut redis, "in", &[("data", &n.to_string())]).await));
        }
        sink.wait_delivered(round * 300 + 20, SOON).await;
        server.kill().await;
        evoke.waits_for(&["redis/in"], SOON).await;
        server.resume().await;
        evoke.ready(SOON).await;
    }
    sink.wait_delivered(sent.len(), SOON).await;
    acked(&mut server.connection().await, "in", GROUP).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 600);
    Ok(())
}

pub(crate) async fn sentinel_names_the_new_master() -> Verdict {
    let group = Group::start().await?;
    let more = format!(", failover: true, sentinelMasterName: {MASTER}, stream: in, startAt: earliest");
    let (_home, mut evoke, sink) = reading(&group.sentinel.to_string(), &more).await;
    let mut sent = BTreeSet::new();
    let mut redis = group.master.connection().await;
    for n in 0..100 {
        sent.insert(format!("in/{}", add(&mut redis, "in", &[("data", &n.to_string())]).await));
    }
    sink.wait_delivered(100, SOON).await;
    group.settled().await;
    group.fail_over().await;
    let mut redis = group.replica.connection().await;
    for n in 100..200 {
        sent.insert(format!("in/{}", add(&mut redis, "in", &[("data", &n.to_string())]).await));
    }
    sink.wait_delivered(200, Duration::from_secs(60)).await;
    evoke.ready(SOON).await;
    acked(&mut redis, "in", GROUP).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 200);
    Ok(())
}
