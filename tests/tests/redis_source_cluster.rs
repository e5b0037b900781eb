//! Redis sources of servers that are one cluster: the one that holds a key is found, also when it is another one by now.

use std::collections::BTreeSet;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::{Counts, assert_conserved, count};
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::redis::Cluster;
use evoke_tests::{SOON, eventually};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, cmd};

use super::redis_source::{acked, emptied};

const GROUP: &str = "default.redis.entries";
/// What the servers may take to agree on who is there, and evoke to hear of it.
const LATER: Duration = Duration::from_secs(60);
/// How many entries, and how many items, are added at a time.
const EACH: usize = 100;

/// A source of a stream and of a list that lie on different servers, and what was added to them.
struct Reading<'a> {
    cluster: &'a Cluster,
    home: Home,
    sink: Sink,
    stream: String,
    list: String,
    /// The ids that the stream's events have.
    entries: BTreeSet<String>,
    /// The data of the list's.
    items: BTreeSet<String>,
}

/// A key that this server of the cluster holds.
async fn held_by(cluster: &Cluster, node: usize, prefix: &str) -> String {
    for n in 0..100 {
        let key = format!("{prefix}-{n}");
        if cluster.holder(&key).await == node {
            return key;
        }
    }
    panic!("none of a hundred keys is held by server {node}");
}

impl<'a> Reading<'a> {
    /// Reads from what `redisHost` names; neither key is on the first server.
    async fn of(cluster: &'a Cluster, host: &str) -> Self {
        let sink = Sink::start().await;
        let (stream, list) = (held_by(cluster, 2, "entries").await, held_by(cluster, 1, "jobs").await);
        let servers = format!("redisHost: \"{host}\", redisType: cluster");
        let spec = format!(
            "redis:\n  entries: {{{servers}, stream: {stream}, startAt: earliest}}\n  jobs: {{{servers}, list: {list}}}"
        );
        let passes = ["entries", "jobs"].map(|event| pass(event, "redis", event, &sink.url(&format!("/{event}"))));
        let home = Home::with(objects(&[&[source("redis", &spec)], &passes[..]].concat()));
        Self { cluster, home, sink, stream, list, entries: BTreeSet::new(), items: BTreeSet::new() }
    }

    /// A connection to the server that holds a key by now.
    async fn server(&self, key: &str) -> MultiplexedConnection {
        self.cluster.nodes[self.cluster.holder(key).await].connection().await
    }

    async fn add(&mut self) {
        let mut redis = self.server(&self.stream).await;
        for n in 0..EACH {
            let id: String = redis.xadd(&self.stream, "*", &[("data", n.to_string())]).await.unwrap();
            self.entries.insert(format!("{}/{id}", self.stream));
        }
        let from = self.items.len();
        let items: Vec<String> = (from..from + EACH).map(|n| format!("job-{n}")).collect();
        let _: i64 = self.server(&self.list).await.rpush(&self.list, &items).await.unwrap();
        self.items.extend(items);
    }

    /// How often each entry and each item came.
    fn arrived(&self) -> (Counts, Counts) {
        let entries = self.sink.received_at("/entries").into_iter().map(|request| request.id().to_owned());
        let jobs = self.sink.received_at("/jobs").into_iter();
        (count(entries), count(jobs.map(|request| String::from_utf8_lossy(&request.body).into_owned())))
    }

    /// Waits until all that was added has come, every entry is acknowledged, and every item is gone.
    async fn finished(&self) {
        eventually("every entry and every item", LATER, async || {
            let (entries, items) = self.arrived();
            let all = self.entries.iter().all(|id| entries.contains_key(id));
            (all && self.items.iter().all(|item| items.contains_key(item))).then_some(())
        })
        .await;
        acked(&mut self.server(&self.stream).await, &self.stream, GROUP).await;
        emptied(&mut self.server(&self.list).await).await;
    }
}

fn hosts(cluster: &Cluster) -> String {
    cluster.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) async fn a_stream_and_a_list_are_read_where_they_are() -> Verdict {
    let cluster = Cluster::start().await?;
    // The only one that is named has neither of them.
    let mut reading = Reading::of(&cluster, &cluster.nodes[0].address.to_string()).await;
    let mut evoke = reading.home.run().await;
    reading.add().await;
    reading.finished().await;
    evoke.stop().await;
    let (entries, items) = reading.arrived();
    assert_conserved(&reading.entries, [&entries], 0);
    assert_conserved(&reading.items, [&items], 0);
    // What was acknowledged and what was removed does not come again.
    let mut evoke = reading.home.run().await;
    reading.add().await;
    reading.finished().await;
    evoke.stop().await;
    assert_eq!(reading.sink.count(), 4 * EACH);
    Ok(())
}

pub(crate) async fn keys_that_move_to_another_server_are_followed() -> Verdict {
    let cluster = Cluster::start().await?;
    let mut reading = Reading::of(&cluster, &hosts(&cluster)).await;
    let mut evoke = reading.home.run().await;
    reading.add().await;
    reading.finished().await;
    for key in [&reading.stream, &reading.list] {
        cluster.move_slot(key, 0, Duration::from_millis(500)).await;
    }
    reading.add().await;
    reading.finished().await;
    evoke.ready(LATER).await;
    evoke.stop().await;
    let (entries, items) = reading.arrived();
    // Nothing was under way, and the group and what it has acknowledged move with the stream.
    assert_conserved(&reading.entries, [&entries], 0);
    assert_conserved(&reading.items, [&items], 0);
    Ok(())
}

pub(crate) async fn a_server_that_dies_and_comes_back_loses_nothing() -> Verdict {
    let cluster = Cluster::start().await?;
    let mut reading = Reading::of(&cluster, &hosts(&cluster)).await;
    let mut evoke = reading.home.run().await;
    reading.add().await;
    reading.sink.wait(EACH / 4, SOON).await;
    // The one with the stream, without which the others serve nobody either.
    let dead = &cluster.nodes[2];
    dead.kill().await;
    evoke.waits_for(&["redis/entries"], LATER).await;
    dead.resume().await;
    for node in &cluster.nodes {
        let mut redis = node.connection().await;
        eventually("the cluster is whole again", LATER, async || {
            let info: String = cmd("CLUSTER").arg("INFO").query_async(&mut redis).await.ok()?;
            info.contains("cluster_state:ok").then_some(())
        })
        .await;
    }
    evoke.ready(LATER).await;
    reading.add().await;
    reading.finished().await;
    evoke.stop().await;
    let (entries, items) = reading.arrived();
    // What was with evoke when the server died, and not acknowledged, may come again: of what was added before, each once at most.
    assert_conserved(&reading.entries, [&entries], EACH);
    assert_conserved(&reading.items, [&items], EACH);
    Ok(())
}
