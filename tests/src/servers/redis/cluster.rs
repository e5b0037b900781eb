//! Servers that are one cluster: who has which slots, and what changes that.

use std::net::SocketAddr;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, cmd};

use super::Redis;
use crate::case::Skipped;
use crate::{eventually, ports};

/// The slots of each master at first.
const SHARES: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];
/// How long the servers may take to agree, also that one of them is dead, and on who takes its place: a vote that fails is
/// repeated after a minute.
const SETTLES: Duration = Duration::from_secs(180);
/// On a busy machine a server that lives may well be silent for a while, and is not to be taken for dead for that.
const PATIENCE: &str = "cluster-node-timeout 15000";
/// How many keys are moved by one command.
const KEYS: usize = 100;
/// How long that may take, in milliseconds.
const MOVES_WITHIN: usize = 10_000;

/// Servers that share the keys between them.
#[derive(Debug)]
pub struct Cluster {
    /// Three masters, each with a third of the slots, then the replicas of each, where there are any.
    pub nodes: Vec<Redis>,
}

/// What a server says of itself.
struct Itself {
    id: String,
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    /// Starts three servers and waits until each knows who has what.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub async fn start() -> Result<Self, Skipped> {
        Self::of(SHARES.len()).await
    }

    /// Starts three servers and a replica of each, and waits until these follow.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub async fn with_replicas() -> Result<Self, Skipped> {
        let cluster = Self::of(2 * SHARES.len()).await?;
        let (masters, replicas) = cluster.nodes.split_at(SHARES.len());
        for (master, replica) in masters.iter().zip(replicas) {
            eventually("the replica takes its master", SETTLES, async || {
                let id = itself(master).await?.id;
                let mut connection = replica.connection().await;
                cmd("CLUSTER").arg("REPLICATE").arg(id).exec_async(&mut connection).await.ok()
            })
            .await;
            follows(replica).await;
        }
        Ok(cluster)
    }

    async fn of(count: usize) -> Result<Self, Skipped> {
        let (mut nodes, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let bus = ports::free().port();
            let port = format!("cluster-port {bus}");
            nodes.push(Redis::with(&["cluster-enabled yes", PATIENCE, &port]).await?);
            buses.push(bus);
        }
        for (index, (node, bus)) in nodes.iter().zip(buses).enumerate() {
            // Where nobody's claim is older, the servers agree at once. It can be set only by one that knows no other.
            ask::<()>(node, cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(index + 1)).await;
            if let Some((first, last)) = SHARES.get(index) {
                ask::<()>(node, cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last)).await;
            }
            if index > 0 {
                let mut meet = cmd("CLUSTER");
                meet.arg("MEET").arg("127.0.0.1").arg(node.address.port()).arg(bus);
                ask::<()>(&nodes[0], &meet).await;
            }
        }
        let known = format!("cluster_known_nodes:{count}\r\n");
        for node in &nodes {
            let mut connection = node.connection().await;
            eventually("the cluster is whole", SETTLES, async || {
                let info: String = cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.ok()?;
                let parts = ["cluster_state:ok", "cluster_slots_ok:16384", &*known];
                parts.iter().all(|part| info.contains(part)).then_some(())
            })
            .await;
        }
        Ok(Self { nodes })
    }

    /// Where all of them listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Redis)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.is_running())
    }

    async fn slot(&self, key: &str) -> u16 {
        let (_, node) = self.running().next().expect("a server that runs");
        ask(node, cmd("CLUSTER").arg("KEYSLOT").arg(key)).await
    }

    /// Which of the servers has a key's slot, once one of them and no other says that it does.
    pub async fn holder(&self, key: &str) -> usize {
        let slot = self.slot(key).await;
        eventually("one server has the slot", SETTLES, async || {
            let mut holders = Vec::new();
            for (index, node) in self.running() {
                if itself(node).await?.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot)) {
                    holders.push(index);
                }
            }
            match holders[..] {
                [holder] => Some(holder),
                _ => None,
            }
        })
        .await
    }

    /// Kills the server that has a key's slot, and waits until its replica has taken its place. Says which one is dead.
    pub async fn fail_over(&self, key: &str) -> usize {
        let dead = self.holder(key).await;
        self.nodes[dead].kill().await;
        self.holder(key).await;
        dead
    }

    /// Starts a server that was killed, and waits until it follows the one that has taken its place.
    pub async fn rejoin(&self, node: usize) {
        self.nodes[node].resume().await;
        follows(&self.nodes[node]).await;
    }

    /// Moves the slot of a key to another server, as `redis-cli --cluster reshard` does. For as long as `halfway` says, its keys are
    /// there and the slot is not. For a cluster without replicas.
    pub async fn move_slot(&self, key: &str, to: usize, halfway: Duration) {
        let (slot, from) = (self.slot(key).await, self.holder(key).await);
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (source_id, target_id) = (itself(source).await.unwrap().id, itself(target).await.unwrap().id);
        let set = |state: &str, id: &str| {
            let mut set = cmd("CLUSTER");
            set.arg("SETSLOT").arg(slot).arg(state).arg(id);
            set
        };
        ask::<()>(target, &set("IMPORTING", &source_id)).await;
        ask::<()>(source, &set("MIGRATING", &target_id)).await;
        loop {
            let keys: Vec<String> = ask(source, cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(KEYS)).await;
            if keys.is_empty() {
                break;
            }
            let mut migrate = cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(target.address.port()).arg("").arg(0).arg(MOVES_WITHIN).arg("KEYS").arg(keys);
            ask::<()>(source, &migrate).await;
        }
        tokio::time::sleep(halfway).await;
        // The one that gets it is the first to know: nobody is sent to one that sends it back.
        let others = self.nodes.iter().filter(|node| node.address != target.address);
        for node in [target].into_iter().chain(others) {
            ask::<()>(node, &set("NODE", &target_id)).await;
        }
    }
}

async fn ask<T: FromRedisValue>(node: &Redis, command: &Cmd) -> T {
    command.query_async(&mut node.connection().await).await.unwrap()
}

async fn itself(node: &Redis) -> Option<Itself> {
    let mut connection = node.connection().await;
    let nodes: String = cmd("CLUSTER").arg("NODES").query_async(&mut connection).await.ok()?;
    let mut fields = nodes.lines().find(|line| line.contains("myself"))?.split(' ');
    let id = fields.next()?.to_owned();
    // Address, flags, master, ping, pong, epoch and state, then the slots of a master, and those that are on their way in brackets.
    Some(Itself { id, slots: fields.skip(7).filter_map(range).collect() })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Waits until a replica has what its master has.
async fn follows(replica: &Redis) {
    eventually("the replica follows", SETTLES, async || {
        let mut connection = replica.connection().await;
        let info: String = cmd("INFO").arg("replication").query_async(&mut connection).await.ok()?;
        (info.contains("role:slave") && info.contains("master_link_status:up")).then_some(())
    })
    .await;
}
