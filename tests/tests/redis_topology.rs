//! What changes on the servers below a Redis bus that runs: who is a master, where slots are, who may log in. Nothing is lost, events of
//! one key keep their order, and evoke goes on by itself.

use std::net::SocketAddr;
use std::time::Duration;

use evoke_tests::SOON;
use evoke_tests::bus::{ids as ids_in, redis as bus_of};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::{assert_conserved, assert_ordered, count};
use evoke_tests::load::{Load, SENDERS, Sent};
use evoke_tests::manifests::{bus, objects, source, trigger};
use evoke_tests::servers::redis::{Cluster, Redis};
use redis::aio::MultiplexedConnection;
use redis::cmd;

const LONG: Duration = Duration::from_secs(90);
const TOPIC: &str = "default.web.in";
const STREAM: &str = "evoke:default:web:in";
/// Every position and everything else that is small.
const STATE: &str = "evoke:{_state}";
/// Which stream is whose.
const REGISTRY: &str = "evoke:_streams";
/// How long the keys of a slot are somewhere else than the slot.
const HALFWAY: Duration = Duration::from_secs(1);
/// What an outage may repeat, beside what is on the bus twice: twice the default `maxInFlight`.
const PER_OUTAGE: usize = 2 * 100;

/// Webhook, and a subscriber that keeps the order of each key.
fn home(spec: &str, sink: &Sink) -> Home {
    let subscriber = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers: [{{name: all, condition: it, \
         sink: {{uri: \"{}\"}}, delivery: {{ordering: partitionKey}}}}]",
        sink.url("/")
    );
    Home::with(objects(&[
        bus("default", &format!("redis: {{{spec}}}")),
        source("web", "webhook: {in: {}}"),
        trigger("t", &subscriber),
    ]))
}

fn of(cluster: &Cluster) -> String {
    let addresses: Vec<_> = cluster.addresses().iter().map(ToString::to_string).collect();
    format!("address: \"{}\", cluster: true", addresses.join(","))
}

/// Ends a load under which `outages` happened: everything is on the bus and has arrived, in the order in which it was sent.
async fn all_arrive_in_order(load: Load, sink: &Sink, mut evoke: Evoke, servers: &[SocketAddr], outages: usize) {
    let Sent { ids, again } = load.end().await;
    sink.wait_all(&ids, LONG).await;
    evoke.stop().await;
    let partitions = ids_in(bus_of(servers), TOPIC).await;
    for partition in &partitions {
        assert_ordered(partition);
    }
    // Redis does not recognise what comes again: what was under way when it did not answer may be there twice.
    let stored = count(partitions.into_iter().flatten());
    let twice = assert_conserved(&ids, [&stored], again + outages * SENDERS).repeats;
    let found = assert_conserved(&ids, [&sink.delivered()], outages * PER_OUTAGE + twice);
    let answered = sink.received().into_iter().filter(|request| request.status == Some(200));
    assert_ordered(answered.map(|request| request.id().to_owned()));
    println!(
        "Redis changed {outages} times: {} sent, {again} sent again, {twice} stored again, {} repeats",
        ids.len(),
        found.repeats
    );
}

pub(crate) async fn a_promoted_replica_has_all_that_was_waited_for() -> Verdict {
    let cluster = Cluster::with_replicas().await?;
    let sink = Sink::start().await;
    let home = home(&format!("{}, replicas: 1", of(&cluster)), &sink);
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    // One master has all positions beside its streams, the other has streams alone.
    let deaths = [STATE, STREAM];
    for key in deaths {
        load.more(200, LONG).await;
        let down = evoke.waits_for(&["bus default.default", "down"], SOON);
        let (dead, _) = tokio::join!(cluster.fail_over(key), down);
        // What was promoted has no replica of its own: what needs one waits until the dead one is back.
        cluster.rejoin(dead).await;
        evoke.ready(LONG).await;
    }
    load.more(200, LONG).await;
    all_arrive_in_order(load, &sink, evoke, &cluster.addresses(), deaths.len()).await;
    Ok(())
}

pub(crate) async fn slots_that_move_under_load_lose_nothing() -> Verdict {
    const PARTITIONS: usize = 4;
    let cluster = Cluster::start().await?;
    let sink = Sink::start().await;
    let home = home(&format!("{}, partitions: {PARTITIONS}", of(&cluster)), &sink);
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    let mut keys = vec![STATE.to_owned(), REGISTRY.to_owned(), STREAM.to_owned()];
    keys.extend((1..PARTITIONS).map(|index| format!("{STREAM}:{index}")));
    for key in &keys {
        load.more(50, LONG).await;
        let to = (cluster.holder(key).await + 1) % cluster.nodes.len();
        cluster.move_slot(key, to, HALFWAY).await;
        assert_eq!(cluster.holder(key).await, to, "{key}");
    }
    load.more(200, LONG).await;
    evoke.ready(SOON).await;
    all_arrive_in_order(load, &sink, evoke, &cluster.addresses(), keys.len()).await;
    Ok(())
}

const PASSWORD: &str = "w0rker-topology-secret";
/// What the docs ask for, and no more.
const RIGHTS: &str =
    "~evoke:* +@stream +@hash +@scripting +@transaction +@connection +info +time +wait +memory|usage +cluster|slots";

async fn acl(admin: &mut MultiplexedConnection, words: &str) {
    cmd("ACL").arg(words.split(' ').collect::<Vec<_>>()).exec_async(admin).await.unwrap();
}

/// Waits until evoke says that it is not let in, and shows that it does not say with what.
async fn turned_away(evoke: &Evoke) {
    let why = ["bus default.default: down", "refuses the user or the password", "username", "password"];
    let text = evoke.waits_for(&why, SOON).await;
    assert!(!text.contains(PASSWORD), "{text}");
}

pub(crate) async fn a_user_that_is_changed_or_deleted_is_named_and_goes_on_once_it_may() -> Verdict {
    const OUTAGES: usize = 2;
    let server = Redis::with(&[&format!("user worker on >{PASSWORD} {RIGHTS}")]).await?;
    let mut admin = server.connection().await;
    let sink = Sink::start().await;
    let spec = format!("address: \"{}\", username: worker, password: {PASSWORD}", server.address);
    let home = home(&spec, &sink);
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    load.more(200, LONG).await;

    // Connections that are logged in stay so when the password changes, until they are ended.
    acl(&mut admin, "SETUSER worker resetpass >another").await;
    let ended: i64 = cmd("CLIENT").arg("KILL").arg("USER").arg("worker").query_async(&mut admin).await.unwrap();
    assert!(ended > 0, "evoke is logged in as worker");
    turned_away(&evoke).await;
    acl(&mut admin, &format!("SETUSER worker resetpass >{PASSWORD}")).await;
    evoke.ready(SOON).await;
    load.more(200, LONG).await;

    // This ends them by itself.
    acl(&mut admin, "DELUSER worker").await;
    turned_away(&evoke).await;
    acl(&mut admin, &format!("SETUSER worker on >{PASSWORD} {RIGHTS}")).await;
    evoke.ready(SOON).await;
    load.more(200, LONG).await;

    let log = evoke.log().clone();
    all_arrive_in_order(load, &sink, evoke, &[server.address], OUTAGES).await;
    let downs = log.count("the bus cannot write");
    assert!(downs <= 2 * OUTAGES, "{downs} lines for {OUTAGES} outages: one each is enough");
    assert_eq!(log.count(PASSWORD), 0, "a password is in the log");
    Ok(())
}
