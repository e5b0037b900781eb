//! A transaction on its way to the server, sent again until it is stored.

use std::time::Duration;

use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble;
use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::{Instant, sleep};

use super::hub::Node;
use super::scripts;
use super::shared::{Core, Log};
use crate::bus::{Health, PublishError};
use crate::codec::redis as codec;
use crate::event::Event;

/// How long to wait before a refused transaction is sent again.
const RETRY: Duration = Duration::from_millis(200);

/// Events that are stored as a whole or not at all.
pub(super) struct Transaction {
    events: Vec<Event>,
    /// Those with more bytes are left out, since the server does not take them.
    limit: usize,
    /// Of those that are sent: all together, and the largest.
    bytes: usize,
    largest: usize,
    commands: Pipeline,
}

impl Transaction {
    pub(super) fn new(stream: &str, events: Vec<Event>) -> Self {
        Self::within(stream, events, usize::MAX)
    }

    /// The same without the events that are larger than `limit`, in bytes.
    pub(super) fn without_larger(self, stream: &str, limit: usize) -> Self {
        Self::within(stream, self.events, limit)
    }

    fn within(stream: &str, events: Vec<Event>, limit: usize) -> Self {
        let (mut bytes, mut largest) = (0, 0);
        let mut commands = Pipeline::with_capacity(events.len());
        commands.atomic();
        for event in events.iter().filter(|event| event.encoded_len() <= limit) {
            bytes += event.encoded_len();
            largest = largest.max(event.encoded_len());
            commands.add_command(add(stream, event));
        }
        Self { events, limit, bytes, largest, commands }
    }

    /// True if all of its events are left out.
    pub(super) fn sends_nothing(&self) -> bool {
        self.commands.is_empty()
    }

    /// How many events it is about, sent or not.
    pub(super) fn total(&self) -> usize {
        self.events.len()
    }

    /// Which of its events are not sent, by their places, and why.
    pub(super) fn refused(&self) -> Vec<(usize, PublishError)> {
        let limit = self.limit;
        let sizes = self.events.iter().map(Event::encoded_len).enumerate();
        sizes
            .filter(|(_, bytes)| *bytes > limit)
            .map(|(place, bytes)| (place, PublishError::TooLarge { bytes, limit }))
            .collect()
    }

    /// The events that are sent.
    fn sent(&self) -> impl DoubleEndedIterator<Item = &Event> {
        let limit = self.limit;
        self.events.iter().filter(move |event| event.encoded_len() <= limit)
    }
}

fn add(stream: &str, event: &Event) -> Cmd {
    let fields = codec::fields_of(event);
    let mut add = Cmd::with_capacity(3 + 2 * fields, event.encoded_len() + stream.len() + 8 * fields);
    add.arg("XADD").arg(stream).arg("*");
    codec::encode(event, |name, value| {
        add.arg(name).arg(value);
    });
    add
}

/// What became of a transaction.
pub(super) enum Sent {
    /// It is stored.
    Stored,
    /// It is not: an event has more bytes than these, which is what the server takes.
    TooLarge(usize),
    /// The bus was closed before it was known.
    GivenUp,
}

/// Why an attempt failed.
enum Failed {
    TooLarge(usize),
    Trouble(Trouble),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// A transaction on its way.
pub(super) struct Sending<'a> {
    pub(super) core: &'a Core,
    pub(super) log: &'a Log,
    pub(super) transaction: &'a Transaction,
}

impl Sending<'_> {
    /// Resolves when the events are stored, or will not be.
    pub(super) async fn until_done(&self) -> Sent {
        let Self { core, log, .. } = *self;
        let mut refused = None;
        let mut appended = None;
        let mut is_cut_off = false;
        loop {
            let node = tokio::select! {
                biased;
                node = core.hub.wait_for(&log.key) => node,
                () = core.closed.cancelled() => return Sent::GivenUp,
            };
            let began = Instant::now();
            let trouble = match self.attempt(&node, &mut appended, refused.is_some(), is_cut_off).await {
                Ok(ids) => match self.copied(&node).await {
                    Ok(true) => {
                        core.hub.board.clear(&log.key);
                        core.metrics.committed(began.elapsed());
                        self.count();
                        return Sent::Stored;
                    }
                    Ok(false) => return Sent::GivenUp,
                    Err(trouble) => {
                        appended = Some(ids);
                        trouble
                    }
                },
                Err(Failed::TooLarge(limit)) => {
                    core.hub.board.clear(&log.key);
                    return Sent::TooLarge(limit);
                }
                Err(Failed::Trouble(trouble)) => trouble,
            };
            is_cut_off = trouble.code().is_none();
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
                () = core.closed.cancelled() => return Sent::GivenUp,
            }
        }
    }

    /// Sends it, unless it is there already or too large; gives the ids of its entries. Where the attempt before was cut off and the
    /// server does not say what it takes, that may be why.
    async fn attempt(
        &self,
        node: &Node,
        appended: &mut Option<Vec<Value>>,
        is_full: bool,
        is_cut_off: bool,
    ) -> Result<Vec<Value>, Failed> {
        if let Some(ids) = self.is_there(node, appended).await? {
            return Ok(ids);
        }
        let Self { core, log, transaction } = self;
        if is_cut_off && let Some(longest) = transaction.sent().map(Event::data_slice).max_by_key(|data| data.len()) {
            node.bulk.try_out(&core.hub.connector, &node.publish.address, longest).await?;
        }
        let most = node.bulk.most();
        if transaction.largest > most {
            return Err(Failed::TooLarge(most));
        }
        if is_full && log.own {
            let ids = node.publish.ask(&self.append()).await?;
            return Ok(items(ids).map_err(Trouble::from)?);
        }
        Ok(node.publish.ask_all(&transaction.commands).await?)
    }

    /// The same as one command, for a server whose memory is full.
    fn append(&self) -> Cmd {
        let mut append = scripts::append(&self.log.key);
        for event in self.transaction.sent() {
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
        let (Some(id), Some(event)) = (last, self.transaction.sent().next_back()) else { return Ok(None) };
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
        let Self { log, transaction: Transaction { commands, bytes, .. }, .. } = self;
        log.metrics.published_events.inc_by(commands.len() as u64);
        log.metrics.published_bytes.inc_by(*bytes as u64);
        log.learn(commands.len(), *bytes);
    }
}

/// Refusals that say how the server is doing, not what is wrong with a stream.
const PASSING: [&str; 9] =
    ["LOADING", "READONLY", "MASTERDOWN", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "BUSY", "NOREPLICAS"];

fn items(value: Value) -> Result<Vec<Value>, reply::Garbled> {
    reply::array(value).ok_or(reply::Garbled("the script that appends"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_left_out_and_named_by_its_place() {
        let event = |id: &str, bytes: usize| Event::builder(id, "/s", "t").data(vec![b'x'; bytes]).build().unwrap();
        let events: Vec<_> =
            [("a", 10), ("b", 5000), ("c", 3000), ("d", 10)].map(|(id, bytes)| event(id, bytes)).into();
        let sizes: Vec<_> = events.iter().map(Event::encoded_len).collect();
        let ids = |transaction: &Transaction| transaction.sent().map(|event| event.id().to_owned()).collect::<Vec<_>>();
        let all = Transaction::new("s", events);
        assert_eq!((all.refused(), all.largest, all.commands.len()), (Vec::new(), sizes[1], 4));
        let less = all.without_larger("s", 4000);
        assert_eq!((ids(&less), less.largest), (vec!["a".to_owned(), "c".to_owned(), "d".to_owned()], sizes[2]));
        assert_eq!(less.refused(), [(1, PublishError::TooLarge { bytes: sizes[1], limit: 4000 })]);
        let least = less.without_larger("s", 100);
        assert_eq!((ids(&least), least.bytes), (vec!["a".to_owned(), "d".to_owned()], sizes[0] + sizes[3]));
        let limit = 100;
        let refused = [
            (1, PublishError::TooLarge { bytes: sizes[1], limit }),
            (2, PublishError::TooLarge { bytes: sizes[2], limit }),
        ];
        assert_eq!((least.refused(), least.total()), (refused.to_vec(), 4));
        let none = least.without_larger("s", 1);
        assert!(none.sends_nothing() && none.refused().len() == 4);
    }
}
