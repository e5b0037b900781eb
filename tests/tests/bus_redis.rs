//! Pipelines on a Redis bus: what is on the wire, servers that come and go, are full, or are not what a bus needs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use evoke_api::names::TopicName;
use evoke_eventbus::bus::{EventBus, Health, Partition, TopicSpec};
use evoke_eventbus::event::Event;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::redis::RedisPlan;
use evoke_eventbus::redis::{RedisBus, RedisOptions};
use evoke_tests::bus::{counted, redis as bus_of};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink, request};
use evoke_tests::ledger::{assert_conserved, sent};
use evoke_tests::load::{Load, SENDERS, Sent};
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::process::Signal;
use evoke_tests::servers::redis::{Cluster, Group, MASTER, Redis};
use evoke_tests::servers::tls;
use evoke_tests::{SOON, eventually};
use futures_util::FutureExt;
use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};
use serde_json::json;
use tokio::task::JoinSet;

const LONG: Duration = Duration::from_secs(90);
const STREAM: &str = "evoke:default:web:in";
const TOPIC: &str = "default.web.in";
/// What an outage of the servers or a kill of evoke may repeat, beside what is on the bus twice: twice the default `maxInFlight`. A
/// kill leaves so much delivered and not recorded, and so does an outage after which the work is given up.
const PER_OUTAGE: usize = 2 * 100;

/// Webhook, bus, Trigger, sink.
pub(crate) fn home(spec: &str, sink: &Sink) -> Home {
    Home::with(objects(&[
        bus("default", &format!("redis: {{{spec}}}")),
        source("web", "webhook: {in: {}}"),
        pass("all", "web", "in", &sink.url("/")),
    ]))
}

pub(crate) fn at(server: &Redis) -> String {
    format!("address: \"{}\", partitions: 4", server.address)
}

/// Posts an event; the status, if there is an answer.
pub(crate) async fn send(url: &str, id: &str, body: &[u8]) -> Option<u16> {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    request("POST", url, &headers, body.to_vec()).await.ok().map(|answer| answer.status.as_u16())
}

/// Ends a load under which `outages` happened, and asserts that everything arrives and is on the bus.
pub(crate) async fn all_arrive(load: Load, sink: &Sink, mut evoke: Evoke, servers: &[SocketAddr], outages: usize) {
    let Sent { ids, again } = load.end().await;
    sink.wait_all(&ids, LONG).await;
    evoke.stop().await;
    // Redis does not recognise what comes again: what was under way when it did not answer may be there twice.
    let stored = counted(bus_of(servers), TOPIC).await;
    let twice = assert_conserved(&ids, [&stored], again + outages * SENDERS).repeats;
    let found = assert_conserved(&ids, [&sink.delivered()], outages * PER_OUTAGE + twice);
    println!(
        "Redis bus, {outages} outages: {} sent, {again} sent again, {twice} stored again, {} repeats",
        ids.len(),
        found.repeats
    );
}

/// Every entry of a stream: its fields, in order.
async fn entries(redis: &mut MultiplexedConnection, key: &str) -> Vec<Vec<(String, Vec<u8>)>> {
    let entries: Vec<Value> = cmd("XRANGE").arg(key).arg("-").arg("+").query_async(redis).await.unwrap();
    let read = |entry| {
        let (_, fields): (String, Vec<Vec<u8>>) = redis::from_redis_value(entry).unwrap();
        fields.chunks(2).map(|pair| (String::from_utf8(pair[0].clone()).unwrap(), pair[1].clone())).collect()
    };
    entries.into_iter().map(read).collect()
}

async fn add(redis: &mut MultiplexedConnection, key: &str, fields: &[(&str, &[u8])]) -> String {
    let mut add = cmd("XADD");
    add.arg(key).arg("*");
    for (name, value) in fields {
        add.arg(name).arg(value);
    }
    add.query_async(redis).await.unwrap()
}

fn by_id<'a>(received: &'a [Received], id: &str) -> &'a Received {
    received.iter().find(|r| r.id() == id).unwrap_or_else(|| panic!("no {id} among {received:?}"))
}

pub(crate) async fn events_are_readable_on_the_wire_and_foreign_ones_are_taken() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.run().await;
    let headers =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-x", "%C3%A9")];
    let data = [0u8, 255, b'{', b'\n'];
    assert_eq!(evoke.post("/default/web/in", &headers, data.to_vec()).await.status, 202);
    sink.wait(1, SOON).await;
    let mut found = Vec::new();
    for key in [STREAM.to_owned(), format!("{STREAM}:1"), format!("{STREAM}:2"), format!("{STREAM}:3")] {
        found.extend(entries(&mut redis, &key).await);
    }
    assert_eq!(found.len(), 1, "one entry in one of four streams");
    let field = |name: &str| found[0].iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let expected: [(&str, &[u8]); 7] = [
        ("evokeformat", b"1"),
        ("ce-specversion", b"1.0"),
        ("ce-id", b"1"),
        ("ce-source", b"/s"),
        ("ce-type", b"t"),
        ("ce-x", "é".as_bytes()),
        ("data", &data),
    ];
    for (name, value) in expected {
        assert_eq!(field(name).as_deref(), Some(value), "{name}");
    }

    let own: [(&str, &[u8]); 4] =
        [("ce-id", b"own"), ("ce-source", b"urn:shop"), ("data", b"raw"), ("ce-type", b"order")];
    add(&mut redis, STREAM, &own).await;
    // What claims to be evoke's and has no id, and what is no text where text must be.
    add(&mut redis, &format!("{STREAM}:2"), &[("evokeformat", b"1"), ("data", b"poison")]).await;
    add(&mut redis, &format!("{STREAM}:2"), &[("ce-id", &[0xff, 0xfe]), ("data", b"poison")]).await;
    let fields = add(&mut redis, &format!("{STREAM}:2"), &[("name", "Zoë".as_bytes()), ("amount", b"7")]).await;
    let received = sink.wait(3, SOON).await;
    assert_eq!((by_id(&received, "own").ce("source"), by_id(&received, "own").ce("type")), ("urn:shop", "order"));
    assert_eq!(by_id(&received, "own").body, "raw");
    let object = by_id(&received, &format!("{STREAM}:2/{fields}"));
    assert_eq!(object.json(), json!({"name": "Zoë", "amount": "7"}));
    evoke.metric("evoke_bus_skipped_events_total", &[("topic", "default.web.in")], 2.0, SOON).await;
    evoke.stop().await;
    assert_eq!(sink.count(), 3);
    Ok(())
}

pub(crate) async fn a_server_that_is_killed_under_load_loses_nothing() -> Verdict {
    let server = Redis::start().await?;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    const KILLS: usize = 4;
    for _ in 0..KILLS {
        load.more(150, LONG).await;
        server.kill().await;
        evoke.waits_for(&["bus default.default", "down"], SOON).await;
        server.resume().await;
        evoke.ready(SOON).await;
    }
    load.more(150, LONG).await;
    let log = evoke.log().clone();
    all_arrive(load, &sink, evoke, &[server.address], KILLS).await;
    let downs = log.count("the bus cannot write");
    assert!(downs <= 2 * KILLS, "{downs} lines for {KILLS} outages: one each is enough");
    Ok(())
}

pub(crate) async fn evoke_that_is_killed_goes_on_where_it_was() -> Verdict {
    let server = Redis::start().await?;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let run = home.evoke();
    let load = Load::start(&run.webhook("/default/web/in"));
    const KILLS: usize = 4;
    for _ in 0..KILLS {
        let mut evoke = run.clone().start().await;
        evoke.ready(SOON).await;
        load.more(200, LONG).await;
        evoke.kill().await;
    }
    let evoke = run.clone().ready().await;
    all_arrive(load, &sink, evoke, &[server.address], KILLS).await;
    Ok(())
}

pub(crate) async fn a_server_that_is_down_at_start_is_waited_for() -> Verdict {
    let server = Redis::prepare(&[])?;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["bus default.default", "nobody listens there"], SOON).await;
    server.resume().await;
    evoke.ready(SOON).await;
    assert_eq!(send(&evoke.webhook("/default/web/in"), "1", b"x").await, Some(202));
    assert_eq!(sink.wait(1, SOON).await[0].id(), "1");
    evoke.stop().await;
    let lines = evoke.log().count("the bus is not there yet");
    assert!(lines <= 2, "{lines} lines: one that it connects, one why it cannot yet");
    assert_eq!(evoke.log().count("trying again"), 0, "what waits for the bus has nothing to add");
    Ok(())
}

pub(crate) async fn wrong_credentials_are_named_and_right_ones_work_over_tls() -> Verdict {
    let authority = tls::authority().await?;
    // What the docs ask for, and no more.
    let acl = "user worker on >w0rker-secret ~evoke:* +@stream +@hash +@scripting +@transaction +@connection +info +time \
               +wait +memory|usage +cluster|slots";
    let server = Redis::with_tls(&[acl, "user default on >other ~* &* +@all"]).await?;
    let sink = Sink::start().await;
    let wrong = home(&format!("{}, password: wr0ng-bus-secret", at(&server)), &sink);
    let mut evoke = wrong.evoke().start().await;
    let text = evoke.waits_for(&["bus default.default", "refuses the user or the password"], SOON).await;
    assert!(!text.contains("wr0ng"), "{text}");
    evoke.kill().await;
    assert_eq!(evoke.log().count("wr0ng-bus-secret"), 0);

    let client = authority.client();
    let more = format!(
        "address: \"{}\", username: worker, passwordFrom: {{env: BUS_PASSWORD}}, db: 3, tls: {{caFrom: {{file: {}}}, \
         certFrom: {{file: {}}}, keyFrom: {{file: {}}}, serverName: localhost}}",
        server.tls_address.unwrap(),
        authority.ca().display(),
        client.cert.display(),
        client.key.display()
    );
    let right = home(&more, &sink);
    let mut evoke = right.evoke().env("BUS_PASSWORD", "w0rker-secret").ready().await;
    assert_eq!(send(&evoke.webhook("/default/web/in"), "1", b"x").await, Some(202));
    assert_eq!(sink.wait(1, SOON).await[0].id(), "1");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_server_that_evicts_is_refused_by_name() -> Verdict {
    let server = Redis::with(&["maxmemory 100mb", "maxmemory-policy allkeys-lru"]).await?;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["bus default.default", "allkeys-lru", "noeviction"], SOON).await;
    let mut redis = server.connection().await;
    let set = cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("noeviction").exec_async(&mut redis).await;
    set.unwrap();
    evoke.ready(SOON).await;
    assert_eq!(send(&evoke.webhook("/default/web/in"), "1", b"x").await, Some(202));
    sink.wait(1, SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_server_without_streams_is_named() -> Verdict {
    // As services do that do not offer them. A server that is older than streams knows as little of them.
    let server = Redis::with(&["rename-command XADD \"\""]).await?;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["bus default.default: down", "has no streams", "XADD", "Redis 5"], SOON).await;
    evoke.signal(Signal::TERM);
    evoke.ended(LONG).await;
    assert_eq!(evoke.log().count("the bus cannot write"), 1, "one line a change, not one an attempt");
    Ok(())
}

pub(crate) async fn a_user_that_may_not_publish_is_named() -> Verdict {
    let server = Redis::with(&["user default on nopass ~* &* +@all -xadd", "user admin on >adm1n ~* &* +@all"]).await?;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.run().await;
    let url = evoke.webhook("/default/web/in");
    let mut sending = JoinSet::new();
    sending.spawn(async move { send(&url, "1", b"x").await });
    evoke.waits_for(&["bus default.default", "down", "xadd", "give it the commands and keys"], SOON).await;
    evoke.metric("evoke_bus_up", &[("bus", "default.default")], 0.0, SOON).await;
    // What was accepted is stored once it may be.
    let mut admin = server.connection_as("admin", "adm1n").await;
    cmd("ACL").arg("SETUSER").arg("default").arg("+xadd").exec_async(&mut admin).await.unwrap();
    evoke.ready(SOON).await;
    sink.wait_all(&["1".to_owned()].into(), SOON).await;
    assert_eq!(sending.join_next().await.unwrap().unwrap(), Some(202));
    evoke.stop().await;
    Ok(())
}

async fn set_memory(redis: &mut MultiplexedConnection, bytes: u64) {
    cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec_async(redis).await.unwrap();
}

async fn used_memory(redis: &mut MultiplexedConnection) -> u64 {
    let info: String = cmd("INFO").arg("memory").query_async(redis).await.unwrap();
    info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap()
}

/// Posts large events until the bus takes no more; what was accepted, and what was not.
async fn fill(evoke: &Evoke) -> (BTreeSet<String>, BTreeSet<String>) {
    let url = evoke.webhook("/default/web/in");
    let (mut accepted, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..400 {
        let id = format!("event-{n}");
        match send(&url, &id, &[b'x'; 128 << 10]).await {
            Some(202) => accepted.insert(id),
            _ => refused.insert(id),
        };
        if refused.len() == 3 {
            return (accepted, refused);
        }
    }
    panic!("{} events of 128 KiB were accepted", accepted.len());
}

pub(crate) async fn a_full_server_pauses_and_resumes() -> Verdict {
    let server = Redis::with(&["maxmemory-policy noeviction"]).await?;
    let mut redis = server.connection().await;
    let sink = Sink::scripted(|_| Answer::Status(503)).await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.run().await;
    let limit = used_memory(&mut redis).await + (8 << 20);
    set_memory(&mut redis, limit).await;
    let (accepted, refused) = fill(&evoke).await;
    assert!(accepted.len() > 10, "{} events of 128 KiB in 8 MiB", accepted.len());
    evoke.waits_for(&["bus default.default", "full", "memory is full"], SOON).await;
    // Deliveries go on while it is full, are recorded, and make room by themselves.
    sink.script(|_| Answer::Status(200));
    evoke.ready(LONG).await;
    sink.wait_all(&accepted, LONG).await;
    assert_eq!(send(&evoke.webhook("/default/web/in"), "after", b"x").await, Some(202));
    sink.wait_all(&["after".to_owned()].into(), SOON).await;
    evoke.stop().await;
    let delivered = sink.delivered();
    let accepted: BTreeSet<String> = accepted.into_iter().chain(["after".to_owned()]).collect();
    assert_conserved(&sent(&accepted, &refused, &delivered), [&delivered], 0);
    Ok(())
}

pub(crate) async fn max_bytes_pauses_and_resumes() -> Verdict {
    let server = Redis::start().await?;
    let sink = Sink::scripted(|_| Answer::Status(503)).await;
    let home = home(&format!("{}, maxBytes: 4Mi", at(&server)), &sink);
    let mut evoke = home.run().await;
    let (accepted, refused) = fill(&evoke).await;
    assert!((10..=60).contains(&accepted.len()), "{} events of 128 KiB in 4 MiB", accepted.len());
    evoke.waits_for(&["bus default.default", "full", "default/all/all holds the most"], SOON).await;
    sink.script(|_| Answer::Status(200));
    sink.wait_all(&accepted, LONG).await;
    evoke.ready(LONG).await;
    evoke.stop().await;
    let delivered = sink.delivered();
    assert_conserved(&sent(&accepted, &refused, &delivered), [&delivered], 0);
    Ok(())
}

pub(crate) async fn a_failover_loses_nothing_that_replicas_have() -> Verdict {
    let group = Group::start().await?;
    let sink = Sink::start().await;
    let spec = format!("address: \"{}\", sentinelMasterName: {MASTER}, partitions: 4, replicas: 1", group.sentinel);
    let home = home(&spec, &sink);
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    load.more(300, LONG).await;
    group.fail_over().await;
    // The new master has no replica: nothing is accepted before it gets one.
    let mut replica = group.replica.connection().await;
    evoke.waits_for(&["bus default.default", "down"], SOON).await;
    group.master.resume().await;
    let mut old = group.master.connection().await;
    let to = group.replica.address.port();
    eventually("the old master follows", SOON, async || {
        cmd("REPLICAOF").arg("127.0.0.1").arg(to).exec_async(&mut old).await.ok()?;
        let info: String = cmd("INFO").arg("replication").query_async(&mut replica).await.ok()?;
        info.contains("state=online").then_some(())
    })
    .await;
    evoke.ready(LONG).await;
    load.more(300, LONG).await;
    all_arrive(load, &sink, evoke, &[group.replica.address], 1).await;
    Ok(())
}

/// How many `WAIT`s the server was sent.
async fn waits(redis: &mut MultiplexedConnection) -> u64 {
    let stats: String = cmd("INFO").arg("commandstats").query_async(redis).await.unwrap();
    let calls =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls=")?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

async fn waited_for(redis: &MultiplexedConnection, count: u64) {
    let mut redis = redis.clone();
    eventually("replicas are waited for", LONG, async || (waits(&mut redis).await >= count).then_some(())).await;
}

pub(crate) async fn a_replica_that_is_late_has_nothing_sent_again() -> Verdict {
    const PARTITIONS: u16 = 8;
    let master = Redis::start().await?;
    let replica = master.replica().await?;
    let mut redis = master.connection().await;
    let plan = RedisPlan { replicas: 1, ..RedisPlan::at("127.0.0.1", master.address.port()) };
    let metrics = BusMetrics::new(&prometheus::Registry::new()).unwrap();
    let bus = RedisBus::open(&RedisOptions::new("test", plan, metrics)).unwrap();
    bus.health().wait_for(|health| *health == Health::Up).await.unwrap();
    let topic = TopicName::parse("default.late.in");
    bus.declare(&TopicSpec { name: topic.clone(), partitions: PARTITIONS }).await.unwrap();
    let publish = async |round: usize| {
        let mut receipts = Vec::new();
        for index in 0..PARTITIONS {
            let event = Event::builder(format!("{round}-{index}"), "/late", "t").build().unwrap();
            let to = Partition { topic: topic.clone(), index };
            receipts.push(bus.publish(&to, vec![event]).await.unwrap());
        }
        receipts
    };
    for receipt in publish(0).await {
        assert!(receipt.await[0].is_ok());
    }
    replica.freeze();
    let mut receipts = publish(1).await;
    receipts.extend(publish(2).await);
    let before = waits(&mut redis).await;
    // Long enough for who is sent one behind the other to be out of patience.
    waited_for(&redis, before + 10).await;
    bus.health().wait_for(|health| format!("{health:?}").contains("0 of 1 replicas")).await.unwrap();
    // What breaks meanwhile is made again, and finds what it had sent.
    let _: i64 = cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query_async(&mut redis).await.unwrap();
    waited_for(&redis, before + 14).await;
    assert!(receipts.iter_mut().all(|receipt| receipt.now_or_never().is_none()), "no replica has them");
    replica.thaw();
    for receipt in receipts {
        assert!(receipt.await[0].is_ok());
    }
    let ids = async |redis: &mut MultiplexedConnection, index: u16| {
        let key = if index == 0 { "evoke:default:late:in".into() } else { format!("evoke:default:late:in:{index}") };
        let id = |fields: Vec<(String, Vec<u8>)>| fields.into_iter().find(|(name, _)| name == "ce-id").unwrap().1;
        entries(redis, &key).await.into_iter().map(|fields| String::from_utf8(id(fields)).unwrap()).collect::<Vec<_>>()
    };
    for index in 0..PARTITIONS {
        let once: Vec<_> = (0..3).map(|round| format!("{round}-{index}")).collect();
        assert_eq!(ids(&mut redis, index).await, once);
        assert_eq!(ids(&mut replica.connection().await, index).await, once);
    }
    bus.close().await.unwrap();
    Ok(())
}

pub(crate) async fn a_cluster_of_three_is_one_bus() -> Verdict {
    let cluster = Cluster::start().await?;
    let sink = Sink::start().await;
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.address.to_string()).collect();
    let home = home(&format!("address: \"{}\", cluster: true", addresses.join(",")), &sink);
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    load.more(300, LONG).await;
    let mut holders = BTreeSet::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let keys: Vec<String> =
            cmd("KEYS").arg("evoke:default:*").query_async(&mut node.connection().await).await.unwrap();
        if !keys.is_empty() {
            holders.insert(index);
        }
    }
    assert!(holders.len() > 1, "eight streams are spread over three servers");
    let first = &cluster.nodes[0];
    first.kill().await;
    evoke.waits_for(&["bus default.default", "down"], SOON).await;
    first.resume().await;
    evoke.ready(LONG).await;
    load.more(300, LONG).await;
    let servers: Vec<_> = cluster.nodes.iter().map(|node| node.address).collect();
    all_arrive(load, &sink, evoke, &servers, 1).await;
    Ok(())
}

pub(crate) async fn a_server_that_came_back_empty_is_counted_and_goes_on() -> Verdict {
    let server = Redis::start().await?;
    let sink = Sink::start().await;
    let home = home(&at(&server), &sink);
    let mut evoke = home.run().await;
    let url = evoke.webhook("/default/web/in");
    for n in 0..40 {
        assert_eq!(send(&url, &format!("before-{n}"), b"x").await, Some(202));
    }
    sink.wait(40, SOON).await;
    server.kill().await;
    server.forget();
    server.resume().await;
    // All four partitions have moved on to the end of what there is now.
    eventually("the loss is said of every partition", SOON, async || {
        (evoke.log().count("the bus has lost the end of its log") >= 4).then_some(())
    })
    .await;
    evoke.ready(SOON).await;
    let mut expected = BTreeSet::new();
    for n in 0..40 {
        let id = format!("after-{n}");
        eventually("accepted", SOON, async || (send(&url, &id, b"x").await == Some(202)).then_some(())).await;
        expected.insert(id);
    }
    sink.wait_all(&expected, SOON).await;
    // What was lost is no obstacle to the next start.
    evoke.stop().await;
    let mut evoke = home.run().await;
    assert_eq!(send(&evoke.webhook("/default/web/in"), "last", b"x").await, Some(202));
    sink.wait_all(&["last".to_owned()].into(), SOON).await;
    evoke.stop().await;
    Ok(())
}
