//! The connections that everything but readers shares: made in the background, looked after, and made again for ever.
//!
//! ```text
//!             survey: who serves which keys? are they what a bus needs?
//! keeper  --> Topology { nodes, slots } --> whoever wants to ask the server of a key
//!    ^------- suspect: somebody's question failed
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evoke_connect::address::Address;
use evoke_connect::backoff::Backoff;
use evoke_connect::redis::link::{Connector, Link};
use evoke_connect::redis::reply;
use evoke_connect::redis::server::Mode;
use evoke_connect::redis::slots::{SLOTS, slot};
use evoke_connect::redis::trouble::Trouble;
use redis::{Value, cmd};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bulk::Bulk;
use super::copies::{Broken, Copies};
use crate::bus::{BusError, Health};
use crate::health::HealthBoard;

/// How often the servers are looked at while all is well.
const TICK: Duration = Duration::from_secs(5);
/// The least time between two surveys.
const PAUSE: Duration = Duration::from_millis(50);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(3);
/// The first version with streams.
const OLDEST: u32 = 5;
/// Who has the trouble, for the bus's health.
const SERVER: &str = "server";

/// A server and the connections to it.
#[derive(Debug)]
pub(super) struct Node {
    /// For all but events; answers fast.
    pub(super) ask: Link,
    /// For events.
    pub(super) publish: Link,
    /// For waiting until replicas have what was written, where they must.
    pub(super) copies: Option<Copies>,
    /// Outlives the connections, so that what a server does not say is not found out again with each of them.
    pub(super) bulk: Arc<Bulk>,
}

/// Who serves what.
#[derive(Debug, Default)]
pub(super) struct Topology {
    nodes: BTreeMap<Address, Arc<Node>>,
    /// First and last slot, and whose they are; one entry where there is no cluster.
    slots: Vec<(u16, u16, Address)>,
    /// Why something is missing.
    cause: Arc<str>,
}

impl Topology {
    fn node(&self, key: &str) -> Option<&Arc<Node>> {
        let slot = slot(key);
        let (_, _, address) = self.slots.iter().find(|(first, last, _)| (*first..=*last).contains(&slot))?;
        self.nodes.get(address)
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    pub(super) connector: Connector,
    pub(super) board: Arc<HealthBoard>,
    /// How many replicas must have what is written.
    replicas: u32,
    topology: watch::Sender<Arc<Topology>>,
    suspected: Notify,
}

impl Hub {
    /// Knows no server yet: [`Hub::keep`] finds them.
    pub(super) fn new(connector: Connector, board: Arc<HealthBoard>, replicas: u32) -> Self {
        let addresses: Vec<_> = connector.plan().addresses.iter().map(ToString::to_string).collect();
        let cause: Arc<str> = format!("connecting to redis at {}", addresses.join(", ")).into();
        board.trouble(&SERVER.into(), Health::Connecting(cause.clone()));
        let topology = Topology { cause, ..Topology::default() };
        let topology = watch::Sender::new(Arc::new(topology));
        Self { connector, board, replicas, topology, suspected: Notify::new() }
    }

    /// The server of a key, if it is there.
    pub(super) fn node(&self, key: &str) -> Result<Arc<Node>, BusError> {
        let topology = self.topology.borrow();
        topology.node(key).cloned().ok_or_else(|| BusError::Unavailable(topology.cause.clone()))
    }

    /// The longest string that every server takes which is there, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.topology.borrow().nodes.values().map(|node| node.bulk.most()).min().unwrap_or(usize::MAX)
    }

    /// Completes once the server of a key is away.
    pub(super) async fn away(&self, key: &str) -> BusError {
        let mut topology = self.topology.subscribe();
        loop {
            if let Err(error) = self.node(key) {
                return error;
            }
            if topology.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for the server of a key.
    pub(super) async fn wait_for(&self, key: &str) -> Arc<Node> {
        let mut topology = self.topology.subscribe();
        loop {
            if let Some(node) = topology.borrow_and_update().node(key) {
                return node.clone();
            }
            if topology.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Has the servers looked at again, and says what went wrong.
    pub(super) fn suspect(&self, trouble: &Trouble) -> BusError {
        self.suspected.notify_one();
        BusError::Unavailable(trouble.to_string().into())
    }

    /// Looks after the connections until cancelled.
    pub(super) async fn keep(&self, cancel: &CancellationToken) {
        let mut backoff = Backoff::between(RETRY_FIRST, RETRY_LONGEST);
        let mut was_up = false;
        let who: Arc<str> = SERVER.into();
        loop {
            let before = self.topology.borrow().clone();
            let Some((mut topology, trouble)) = cancel.run_until_cancelled(self.survey(&before)).await else { break };
            let wait = match trouble {
                None => {
                    was_up = true;
                    backoff.reset();
                    self.topology.send_replace(Arc::new(topology));
                    self.board.clear(SERVER);
                    TICK
                }
                Some(trouble) => {
                    topology.cause = trouble.to_string().into();
                    let unreachable = matches!(trouble, Trouble::Other(_)) && !was_up;
                    let health = if unreachable { Health::Connecting } else { Health::Down };
                    let health = health(topology.cause.clone());
                    self.topology.send_replace(Arc::new(topology));
                    self.board.trouble(&who, health);
                    backoff.wait()
                }
            };
            let next = Instant::now() + wait;
            tokio::select! {
                () = cancel.cancelled() => break,
                () = sleep(PAUSE.min(wait)) => {}
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.suspected.notified(), if wait == TICK => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
        self.topology.send_replace(Arc::new(Topology { cause: "the bus is closed".into(), ..Topology::default() }));
    }

    /// Finds the servers, keeping what still works; with it the first thing that is wrong.
    async fn survey(&self, before: &Topology) -> (Topology, Option<Trouble>) {
        let mut after = Topology::default();
        let mut trouble = None;
        match self.shares(before).await {
            Ok(shares) => after.slots = shares,
            Err(found) => trouble = Some(found),
        }
        let mut addresses: Vec<Address> = after.slots.iter().map(|(_, _, address)| address.clone()).collect();
        addresses.sort();
        addresses.dedup();
        for address in addresses {
            match self.look_after(before.nodes.get(&address), &address).await {
                Ok(node) => drop(after.nodes.insert(address, node)),
                Err(found) => trouble = trouble.or(Some(found)),
            }
        }
        let covered: u32 = after.slots.iter().map(|(first, last, _)| u32::from(last.saturating_sub(*first)) + 1).sum();
        if trouble.is_none() && covered < u32::from(SLOTS) {
            let text =
                format!("the cluster serves {covered} of its {SLOTS} slots: repair it with `redis-cli --cluster fix`");
            trouble = Some(Trouble::Other(text));
        }
        (after, trouble)
    }

    /// Who serves which slots.
    async fn shares(&self, before: &Topology) -> Result<Vec<(u16, u16, Address)>, Trouble> {
        if self.connector.plan().mode != Mode::Cluster {
            let address = match self.connector.whereabouts().await {
                Ok(addresses) => addresses.into_iter().next(),
                // Without a Sentinel to ask, what works goes on.
                Err(_) if !before.nodes.is_empty() => return Ok(before.slots.clone()),
                Err(trouble) => return Err(trouble),
            };
            let address = address.ok_or_else(|| Trouble::Other("no server is named".into()))?;
            return Ok(vec![(0, SLOTS - 1, address)]);
        }
        let mut command = cmd("CLUSTER");
        command.arg("SLOTS");
        let mut trouble = Trouble::Other("no server is named".into());
        for node in before.nodes.values() {
            match node.ask.ask(&command).await {
                Ok(answer) => return shares(answer, &node.ask.address),
                Err(found) => trouble = found,
            }
        }
        for address in &self.connector.plan().addresses {
            let asked = async {
                let link = self.connector.open(address).await?;
                shares(link.ask(&command).await?, address)
            };
            match asked.await {
                Ok(shares) => return Ok(shares),
                Err(found) => trouble = found,
            }
        }
        Err(trouble)
    }

    /// The connections to a server, those that are there where they still work.
    async fn look_after(&self, node: Option<&Arc<Node>>, address: &Address) -> Result<Arc<Node>, Trouble> {
        if let Some(node) = node
            && inspect(&node.ask).await.is_ok()
            && node.bulk.follow(&node.ask).await.is_ok()
            && self.answers(&node.publish).await
            && self.copies_answer(node.copies.as_ref()).await
        {
            return Ok(node.clone());
        }
        let ask = self.connector.open(address).await?;
        inspect(&ask).await?;
        has_streams(&ask).await?;
        let bulk = node.map(|node| node.bulk.clone()).unwrap_or_default();
        bulk.ask(&ask).await?;
        let publish = self.connector.open(address).await?;
        let copies = match self.replicas {
            0 => None,
            wanted => Some(Copies::new(self.connector.open(address).await?, wanted)),
        };
        Ok(Arc::new(Node { ask, publish, copies, bulk }))
    }

    async fn copies_answer(&self, copies: Option<&Copies>) -> bool {
        match copies.map(Copies::idle) {
            None | Some(Ok(None)) => true,
            Some(Ok(Some(link))) => self.answers(link).await,
            Some(Err(Broken)) => false,
        }
    }

    /// True for a connection that works, or is busy.
    async fn answers(&self, link: &Link) -> bool {
        let limit = self.connector.plan().response_timeout;
        timeout(limit, link.ask(&cmd("PING"))).await.is_ok_and(|answer| answer.is_ok())
    }
}

/// Whether a server is what a bus needs: a master, new enough, that evicts nothing.
async fn inspect(link: &Link) -> Result<(), Trouble> {
    let info = match link.ask(&cmd("INFO")).await {
        Ok(info) => reply::bytes(info).unwrap_or_default(),
        // Where the user may not ask, the first write shows what is wrong.
        Err(trouble) if trouble.code() == Some("NOPERM") => return link.ask(&cmd("PING")).await.map(drop),
        Err(trouble) => return Err(trouble),
    };
    let info = String::from_utf8_lossy(&info);
    let field = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let address = &link.address;
    if let Some(version) = field("redis_version")
        && version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < OLDEST)
    {
        let text = format!("{address} is Redis {version}, which has no streams: a bus needs Redis {OLDEST} or later");
        return Err(Trouble::Refused(text));
    }
    if let Some(policy) = field("maxmemory_policy").filter(|policy| *policy != "noeviction") {
        let text = format!(
            "{address} would delete events when its memory is full: its maxmemory-policy is {policy}, and a bus needs noeviction"
        );
        return Err(Trouble::Refused(text));
    }
    if field("loading") == Some("1") {
        return Err(Trouble::Other(format!("{address} is still loading its data")));
    }
    if field("role") == Some("slave") {
        let text = format!("{address} is a replica, which takes no writes: name its master, or its Sentinels");
        return Err(Trouble::Other(text));
    }
    Ok(())
}

/// Whether a server knows how to publish on a stream, whatever version it says it is: some services leave streams out.
async fn has_streams(link: &Link) -> Result<(), Trouble> {
    let mut command = cmd("COMMAND");
    command.arg("INFO").arg("XADD");
    // Where the user may not ask, the first write shows what is wrong.
    let Ok(Value::Array(known)) = link.ask(&command).await else { return Ok(()) };
    if known.iter().all(|command| *command == Value::Nil) {
        let address = &link.address;
        let text = format!("{address} has no streams: it lacks XADD, and a bus needs what Redis {OLDEST} has");
        return Err(Trouble::Refused(text));
    }
    Ok(())
}

/// The answer to `CLUSTER SLOTS`.
fn shares(answer: Value, asked: &Address) -> Result<Vec<(u16, u16, Address)>, Trouble> {
    let read = || {
        reply::array(answer)?
            .into_iter()
            .map(|share| {
                let mut parts = reply::array(share)?.into_iter();
                let (first, last) = (number(&parts.next()?)?, number(&parts.next()?)?);
                let mut master = reply::array(parts.next()?)?.into_iter();
                // An empty host is the one that was asked.
                let host = reply::string(master.next()?).filter(|host| !host.is_empty());
                let port = number(&master.next()?)?;
                Some((first, last, Address { host: host.unwrap_or_else(|| asked.host.clone()), port }))
            })
            .collect::<Option<Vec<_>>>()
    };
    read().ok_or(Trouble::Garbled(reply::Garbled("CLUSTER SLOTS")))
}

fn number(value: &Value) -> Option<u16> {
    match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}
