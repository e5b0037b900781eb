//! Publishes on one stream: one transaction at a time, in order, until the server has it.
//!
//! While one is under way, what comes after it gathers into the next, which is put together meanwhile. A transaction is stored as a whole or not at all, and is sent
//! again for as long as its fate is unknown, so that a failure may repeat events and never reorders them. Once it is stored it is not
//! sent again while it is there, however long replicas take to have it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble;
use futures_util::poll;
use parking_lot::Mutex;
use redis::{Pipeline, Value, cmd};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use super::hub::Node;
use super::scripts;
use super::shared::{Core, Log};
use crate::bus::Health;
use crate::codec::redis as codec;
use crate::event::Event;
use crate::queued::Place;

/// What goes into one transaction, but for its last event. The server keeps all of it aside until it is complete, and is slower with
/// what its processor's caches do not hold.
const TRANSACTION_BYTES: usize = 256 << 10;
const TRANSACTION_EVENTS: usize = 2048;
/// How long to wait before a refused transaction is sent again.
const RETRY: Duration = Duration::from_millis(200);

/// The events of one call.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) events: Vec<Event>,
    /// Told when all of them are stored.
    pub(super) reply: oneshot::Sender<()>,
    pub(super) place: Place,
}

/// What waits for one stream. Bounded by the places that its operations hold.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    ops: VecDeque<Op>,
    /// Nobody publishes any more.
    ended: bool,
}

impl Lane {
    /// Puts an operation in line; false when the bus is closed.
    pub(super) fn push(&self, op: Op) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.ended {
            return false;
        }
        waiting.ops.push_back(op);
        drop(waiting);
        self.arrived.notify_one();
        true
    }

    /// The next operation; where there is none and there is to be an end, this is it.
    fn take(&self, end: bool) -> Option<Op> {
        let mut waiting = self.waiting.lock();
        let op = waiting.ops.pop_front();
        waiting.ended |= end && op.is_none();
        op
    }

    /// Gives up what waits: whoever waits for the receipts learns that they will not come.
    fn give_up(&self) {
        let mut waiting = self.waiting.lock();
        waiting.ended = true;
        waiting.ops.clear();
    }
}

/// Publishes what comes until the bus is closed and all of it is stored, or cannot be.
pub(super) async fn run(core: Arc<Core>, log: Arc<Log>) {
    let mut gathered = Gathered { log: &log, rest: VecDeque::new(), open: VecDeque::new() };
    let mut next = None;
    loop {
        let closed = core.closed.is_cancelled();
        let Some(transaction) = next.take().or_else(|| gathered.transaction(closed)) else {
            if closed {
                return;
            }
            tokio::select! {
                () = log.lane.arrived.notified() => {}
                () = core.closed.cancelled() => {}
            }
            continue;
        };
        let sending = Sending { core: &core, log: &log, transaction: &transaction };
        let mut stored = std::pin::pin!(sending.until_stored());
        let at_once = poll!(stored.as_mut());
        // While the server is busy with one, the next one is put together.
        next = gathered.transaction(false);
        let stored = match at_once {
            Poll::Ready(stored) => stored,
            Poll::Pending => stored.await,
        };
        if !stored {
            core.hub.board.clear(&log.key);
            log.lane.give_up();
            return;
        }
        gathered.stored(transaction.events.len());
    }
}

/// What was taken from the lane and is not answered yet.
struct Gathered<'a> {
    log: &'a Log,
    /// Events that are in no transaction yet.
    rest: VecDeque<Event>,
    /// Whom they are from, and those of the transaction that is under way.
    open: VecDeque<Open>,
}

/// A call of which not everything is stored.
struct Open {
    left: usize,
    reply: oneshot::Sender<()>,
    _place: Place,
}

impl Gathered<'_> {
    /// The next transaction; `None` if nothing waits.
    fn transaction(&mut self, end: bool) -> Option<Transaction> {
        let (mut bytes, mut events) = (0, Vec::new());
        while bytes < TRANSACTION_BYTES && events.len() < TRANSACTION_EVENTS {
            if self.rest.is_empty() {
                let Some(Op { events, reply, place }) = self.log.lane.take(end && events.is_empty()) else { break };
                self.open.push_back(Open { left: events.len(), reply, _place: place });
                self.rest = events.into();
            }
            if let Some(event) = self.rest.pop_front() {
                bytes += event.encoded_len();
                events.push(event);
            }
        }
        (!events.is_empty()).then(|| Transaction { commands: commands(&self.log.key, &events), events, bytes })
    }

    /// So many events are stored: answers the calls that are whole.
    fn stored(&mut self, mut events: usize) {
        while let Some(first) = self.open.front_mut() {
            let taken = events.min(first.left);
            events -= taken;
            first.left -= taken;
            if first.left > 0 {
                return;
            }
            if let Some(Open { reply, .. }) = self.open.pop_front() {
                // Nobody may be waiting.
                reply.send(()).unwrap_or_default();
            }
        }
    }
}

/// Events that are stored as a whole or not at all.
struct Transaction {
    events: Vec<Event>,
    bytes: usize,
    commands: Pipeline,
}

fn commands(stream: &str, events: &[Event]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(events.len());
    pipeline.atomic();
    for event in events {
        let fields = codec::fields_of(event);
        let mut add = redis::Cmd::with_capacity(3 + 2 * fields, event.encoded_len() + stream.len() + 8 * fields);
        add.arg("XADD").arg(stream).arg("*");
        codec::encode(event, |name, value| {
            add.arg(name).arg(value);
        });
        pipeline.add_command(add);
    }
    pipeline
}

/// A transaction on its way.
struct Sending<'a> {
    core: &'a Core,
    log: &'a Log,
    transaction: &'a Transaction,
}

impl Sending<'_> {
    /// Resolves when the events are stored; with false when the bus is closed before they are.
    async fn until_stored(&self) -> bool {
        let Self { core, log, .. } = *self;
        let mut refused = None;
        let mut appended = None;
        loop {
            let node = tokio::select! {
                biased;
                node = core.hub.wait_for(&log.key) => node,
                () = core.closed.cancelled() => return false,
            };
            let began = Instant::now();
            let stored = match self.is_there(&node, &mut appended).await {
                Ok(Some(ids)) => Ok(ids),
                Ok(None) if refused.is_some() && log.own => {
                    node.publish.ask(&self.append()).await.and_then(|ids| Ok(items(ids)?))
                }
                Ok(None) => node.publish.ask_all(&self.transaction.commands).await,
                Err(trouble) => Err(trouble),
            };
            let trouble = match stored {
                Ok(ids) => match self.copied(&node).await {
                    Ok(true) => {
                        core.hub.board.clear(&log.key);
                        core.metrics.committed(began.elapsed());
                        self.count();
                        return true;
                    }
                    Ok(false) => return false,
                    Err(trouble) => {
                        appended = Some(ids);
                        trouble
                    }
                },
                Err(trouble) => trouble,
            };
            let full = matches!(trouble.code(), Some("OOM"))
                || matches!(&trouble, Trouble::Redis(error, _) if error.detail().is_some_and(|d| d.contains("maxmemory")));
            if full {
                refused.get_or_insert_with(|| core.room.refuse());
                let text = format!("the server's memory is full: it takes no more events ({})", node.publish.address);
                core.hub.board.trouble(&log.key, Health::Full(text.into()));
                if core.drops_oldest() && core.drop_oldest().await.unwrap_or(false) {
                    continue;
                }
            } else {
                core.hub.suspect(&trouble);
                // What keeps the server from answering is said of the server; a refusal is of this stream.
                if trouble.code().is_some_and(|code| !PASSING.contains(&code)) {
                    core.hub.board.trouble(&log.key, Health::Down(format!("{}: {trouble}", log.key).into()));
                }
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = core.closed.cancelled() => return false,
            }
        }
    }

    /// The same as one command, for a server whose memory is full.
    fn append(&self) -> redis::Cmd {
        let mut append = scripts::append(&self.log.key);
        for event in &self.transaction.events {
            append.arg(2 * codec::fields_of(event));
            codec::encode(event, |name, value| {
                append.arg(name).arg(value);
            });
        }
        append
    }

    /// The ids of a transaction that was `appended` before, where it is still there: it is not known then which replicas have it.
    /// That it is there shows in its last entry, since it is stored as a whole or not at all.
    async fn is_there(&self, node: &Node, appended: &mut Option<Vec<Value>>) -> Result<Option<Vec<Value>>, Trouble> {
        let last = appended.as_ref().and_then(|ids| reply::string(ids.last()?.clone()));
        let (Some(id), Some(event)) = (last, self.transaction.events.last()) else { return Ok(None) };
        let mut range = cmd("XRANGE");
        range.arg(&*self.log.key).arg(&id).arg(&id);
        let found = node.ask.ask(&range).await?;
        let found = reply::entries(found).unwrap_or_default();
        let is = |name: &[u8], value: &str| {
            let mut fields = found.iter().filter_map(|entry| entry.fields.as_ref()).flatten();
            fields.any(|(n, v)| n == name && v == value.as_bytes())
        };
        let is_there = is(b"ce-id", event.id()) && is(b"ce-source", event.source());
        Ok(appended.take().filter(|_| is_there))
    }

    /// Waits until as many replicas have all of it as the manifest asks for; false when the bus is closed before.
    async fn copied(&self, node: &Node) -> Result<bool, Trouble> {
        let Self { core, log, .. } = self;
        let Some(copies) = &node.copies else { return Ok(true) };
        let wanted = copies.wanted;
        loop {
            let have = copies.count(&log.key).await?;
            if have >= wanted {
                return Ok(true);
            }
            let text = format!("{have} of {wanted} replicas have what was published, so that publishers wait");
            core.hub.board.trouble(&log.key, Health::Down(text.into()));
            if core.closed.is_cancelled() {
                return Ok(false);
            }
        }
    }

    fn count(&self) {
        let Self { log, transaction: Transaction { events, bytes, .. }, .. } = self;
        log.metrics.published_events.inc_by(events.len() as u64);
        log.metrics.published_bytes.inc_by(*bytes as u64);
        log.learn(events.len(), *bytes);
    }
}

/// Refusals that say how the server is doing, not what is wrong with a stream.
const PASSING: [&str; 9] =
    ["LOADING", "READONLY", "MASTERDOWN", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "BUSY", "NOREPLICAS"];

fn items(value: Value) -> Result<Vec<Value>, reply::Garbled> {
    reply::array(value).ok_or(reply::Garbled("the script that appends"))
}
