//! A list, taken from the left.
//!
//! Each consumer moves items to a list of its own, and removes them from there once they are settled. What it did not finish it
//! takes up when it comes back. A consumer says now and then that it is alive; the items of one that was silent for too long are put
//! back where they were taken from.
//!
//! ```text
//! LIST --BLMOVE--> {LIST}:evoke:items:CONSUMER      {LIST}:evoke:alive:CONSUMER (expires)    {LIST}:evoke:consumers (a set)
//!                  {LIST}:evoke:removed:CONSUMER    names the last removal (expires)
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use redis::{Value, cmd};

use super::desk::{self, Ask, Batch, Refused, Work, ask};
use super::removal::Removals;
use super::source::{BLOCK, Every, Portion, Session, Shared, millis};
use super::trouble::Trouble;
use crate::source::Origin;
use evoke_connect::redis::link::Link;
use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble as ServerTrouble;

/// What a consumer says with that it is alive.
const ALIVE: &str = "SADD";
const LAG_INTERVAL: Duration = Duration::from_secs(10);
/// Items that go back in one exchange.
const GIVE_BACK: usize = 100;

/// One list. What must outlast a session is kept here.
pub(super) struct List {
    key: String,
    dead_after: Duration,
    /// A connection that breaks causes no duplicates of what is settled and not removed.
    removals: Removals,
    refused: Refused,
}

impl List {
    pub(super) fn new(key: String, dead_after: Duration) -> Self {
        Self { key, dead_after, removals: Removals::default(), refused: Refused::default() }
    }

    async fn session(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let keys = Keys { prefix: prefix(&self.key) };
        let connected = async {
            let clerk = shared.connector.connect(&self.key).await?;
            // Refused for anything that is no list.
            clerk.ask(cmd("LLEN").arg(&self.key)).await?;
            say_alive(&clerk, &keys, &shared.consumer, self.dead_after).await?;
            Ok::<_, Trouble>((shared.connector.connect(&self.key).await?, clerk))
        };
        let (reader, clerk) = tokio::select! {
            biased;
            () = shared.context.cancel.cancelled() => return Ok(()),
            connected = connected => connected?,
        };
        // Whether what was refused is allowed by now is not to be found out only after an interval.
        let timer = if self.refused.is(ALIVE) { Every::at_once } else { Every::new };
        let mut taking = Taking {
            shared,
            keys,
            own: true,
            held: false,
            portion: Portion::new(),
            beats: timer(self.dead_after / 3),
            searches: Every::at_once(self.dead_after),
            measures: Every::at_once(LAG_INTERVAL),
            list: self,
        };
        desk::run(&mut taking, shared, reader, clerk).await
    }
}

impl Session for List {
    fn run<'a>(&'a mut self, shared: &'a Shared) -> BoxFuture<'a, Result<(), Trouble>> {
        self.session(shared).boxed()
    }
}

/// The keys beside the list, in the list's own slot of a cluster.
#[derive(Clone, Debug)]
struct Keys {
    prefix: String,
}

impl Keys {
    fn items(&self, consumer: &str) -> String {
        format!("{}:items:{consumer}", self.prefix)
    }

    fn alive(&self, consumer: &str) -> String {
        format!("{}:alive:{consumer}", self.prefix)
    }

    fn removed(&self, consumer: &str) -> String {
        format!("{}:removed:{consumer}", self.prefix)
    }

    fn consumers(&self) -> String {
        format!("{}:consumers", self.prefix)
    }
}

/// A key with a hash tag of its own keeps it; any other key becomes the tag.
fn prefix(key: &str) -> String {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    if tag.is_some_and(|tag| !tag.is_empty()) { format!("{key}:evoke") } else { format!("{{{key}}}:evoke") }
}

/// Says that a consumer is there, also to those who took it for dead and have struck it off: its items must be found when it is.
async fn say_alive(link: &Link, keys: &Keys, consumer: &str, dead_after: Duration) -> Result<(), ServerTrouble> {
    let mut commands = redis::pipe();
    commands.cmd(ALIVE).arg(keys.consumers()).arg(consumer);
    commands.cmd("SET").arg(keys.alive(consumer)).arg(1).arg("PX").arg(millis(dead_after));
    link.ask_all(&commands).await.map(drop)
}

/// One session's view of the list.
struct Taking<'a> {
    list: &'a mut List,
    shared: &'a Shared,
    keys: Keys,
    /// Whether there may still be items in this consumer's list that it does not know of, above all of an earlier session.
    own: bool,
    /// Whether something was in that list when it was measured.
    held: bool,
    portion: Portion,
    beats: Every,
    searches: Every,
    measures: Every,
}

enum Done {
    /// What is noted as the last removal.
    Removed(Vec<u8>),
    Alive,
    GivenBack(usize),
    Measured {
        waiting: i64,
        held: i64,
    },
}

impl Taking<'_> {
    fn remove(&mut self) -> Ask<Done> {
        let consumer = &self.shared.consumer;
        let command = self.list.removals.command(&self.keys.items(consumer), &self.keys.removed(consumer));
        ask("EVAL", move |link| {
            async move {
                let noted = link.ask(&command).await?;
                Ok(Done::Removed(reply::bytes(noted).ok_or(reply::Garbled("a removal"))?))
            }
            .boxed()
        })
    }

    /// Puts back what consumers hold that are dead.
    fn search(&self) -> Ask<Done> {
        let (list, keys, own) = (self.list.key.clone(), self.keys.clone(), self.shared.consumer.clone());
        ask("SMEMBERS", move |link| {
            async move {
                let consumers = link.ask(cmd("SMEMBERS").arg(keys.consumers())).await?;
                let consumers = reply::array(consumers).unwrap_or_default().into_iter().filter_map(reply::string);
                let mut given_back = 0;
                for consumer in consumers.filter(|consumer| *consumer != own) {
                    if link.ask(cmd("EXISTS").arg(keys.alive(&consumer))).await? == Value::Int(0) {
                        given_back += give_back(link, &keys.items(&consumer), &list).await?;
                        link.ask(cmd("SREM").arg(keys.consumers()).arg(&consumer)).await?;
                    }
                }
                Ok(Done::GivenBack(given_back))
            }
            .boxed()
        })
    }

    fn measure(&self) -> Ask<Done> {
        let mut commands = redis::pipe();
        commands.cmd("LLEN").arg(&self.list.key);
        commands.cmd("LLEN").arg(self.keys.items(&self.shared.consumer));
        ask("LLEN", move |link| {
            async move {
                let lengths = link.ask_all(&commands).await?;
                let mut lengths = lengths.into_iter().map(|length| if let Value::Int(n) = length { n } else { 0 });
                let mut next = || lengths.next().unwrap_or_default();
                Ok(Done::Measured { waiting: next(), held: next() })
            }
            .boxed()
        })
    }
}

/// Moves the items from one list's end to the head of the other, the last one first, so that each exchange keeps their order.
async fn give_back(link: &mut Link, from: &str, to: &str) -> Result<usize, ServerTrouble> {
    let mut moved = 0;
    loop {
        let mut commands = redis::pipe();
        // At once, or somebody who waits for items would get the last one first.
        commands.atomic();
        for _ in 0..GIVE_BACK {
            commands.cmd("LMOVE").arg(from).arg(to).arg("RIGHT").arg("LEFT");
        }
        let items = link.ask_all(&commands).await?;
        let found = items.iter().filter(|item| **item != Value::Nil).count();
        moved += found;
        if found < GIVE_BACK {
            return Ok(moved);
        }
    }
}

impl Work for Taking<'_> {
    type Token = Bytes;
    type Found = Vec<Bytes>;
    type Done = Done;

    fn read(&mut self, quiet: bool) -> Option<Ask<Vec<Bytes>>> {
        let (list, items) = (self.list.key.clone(), self.keys.items(&self.shared.consumer));
        let count = self.portion.count();
        // Redis may have moved an item to this consumer for a connection that was given up: only now it shows.
        self.own |= quiet && std::mem::take(&mut self.held);
        if self.own {
            // The next of them are the first of the list only once those before are removed.
            return quiet.then(|| {
                ask("LRANGE", move |link| {
                    async move {
                        let found = link.ask(cmd("LRANGE").arg(items).arg(0).arg(count - 1)).await?;
                        Ok(reply::array(found)
                            .unwrap_or_default()
                            .into_iter()
                            .filter_map(reply::bytes)
                            .map(Bytes::from)
                            .collect())
                    }
                    .boxed()
                })
            });
        }
        Some(ask("BLMOVE", move |link| {
            async move {
                let mut take = cmd("BLMOVE");
                take.arg(&list).arg(&items).arg("LEFT").arg("RIGHT").arg(BLOCK.as_secs());
                let Some(first) = reply::bytes(link.ask_blocking(&take, BLOCK).await?) else { return Ok(Vec::new()) };
                let mut found = vec![Bytes::from(first)];
                let mut commands = redis::pipe();
                for _ in 1..count {
                    commands.cmd("LMOVE").arg(&list).arg(&items).arg("LEFT").arg("RIGHT");
                }
                if count > 1 {
                    let more = link.ask_all(&commands).await?;
                    found.extend(more.into_iter().filter_map(reply::bytes).map(Bytes::from));
                }
                Ok(found)
            }
            .boxed()
        }))
    }

    fn found(&mut self, items: Vec<Bytes>) -> Batch<Bytes> {
        self.portion.learn(items.len(), items.iter().map(Bytes::len).sum());
        self.own &= !items.is_empty();
        let arrivals = items.iter().map(|item| self.shared.mapper.item(item.clone())).collect();
        Batch { tokens: items, arrivals }
    }

    fn settled(&mut self, items: Vec<Bytes>) {
        self.list.removals.settled(items);
    }

    fn is_idle(&self) -> bool {
        self.list.removals.is_empty()
    }

    fn errand(&mut self, _room: bool) -> Option<Ask<Done>> {
        if self.beats.is_due() {
            let (keys, own, dead_after) = (self.keys.clone(), self.shared.consumer.clone(), self.list.dead_after);
            return Some(ask(ALIVE, move |link| {
                async move { say_alive(link, &keys, &own, dead_after).await.map(|()| Done::Alive) }.boxed()
            }));
        }
        if !self.list.removals.is_empty() {
            return Some(self.remove());
        }
        if self.searches.is_due() {
            return Some(self.search());
        }
        if self.measures.is_due() { Some(self.measure()) } else { None }
    }

    fn done(&mut self, done: Done) -> Batch<Bytes> {
        match done {
            Done::Removed(noted) => self.list.removals.answered(noted),
            Done::Alive | Done::GivenBack(0) => {}
            Done::GivenBack(items) => {
                let Origin { event_source, event, .. } = self.shared.origin();
                tracing::info!(%event_source, %event, items, "put back what a consumer left that is gone");
            }
            Done::Measured { waiting, held } => {
                self.shared.metrics.lag.set(waiting.saturating_add(held));
                self.held |= held > 0;
            }
        }
        Batch::empty()
    }

    fn due(&mut self) -> BoxFuture<'_, ()> {
        async {
            tokio::select! {
                () = self.beats.due() => {}
                () = self.searches.due() => {}
                () = self.measures.due() => {}
            }
        }
        .boxed()
    }

    fn refused(&mut self) -> &mut Refused {
        &mut self.list.refused
    }
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn the_keys_beside_a_list_are_in_its_slot() {
        assert_eq!(prefix("orders"), "{orders}:evoke");
        assert_eq!(prefix("{shop}orders"), "{shop}orders:evoke");
        assert_eq!(prefix("{}orders"), "{{}orders}:evoke");
    }
}
