//! A list, taken from the left.
//!
//! Each consumer moves items to a list of its own, and removes them from there once they are settled. What it did not finish it
//! takes up when it comes back. A consumer says now and then that it is alive; the items of one that was silent for too long are put
//! back where they were taken from.
//!
//! ```text
//! LIST --BLMOVE--> {LIST}:evoke:items:CONSUMER    {LIST}:evoke:alive:CONSUMER (expires)    {LIST}:evoke:consumers (a set)
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use redis::{Value, cmd};

use super::desk::{self, Ask, Batch, Work, ask};
use super::source::{BLOCK, Every, Portion, Session, Shared, millis};
use super::trouble::Trouble;
use crate::source::Origin;
use evoke_connect::redis::link::Link;
use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble as ServerTrouble;

const LAG_INTERVAL: Duration = Duration::from_secs(10);
/// Items that go back in one exchange.
const GIVE_BACK: usize = 100;
/// Items that are removed in one exchange.
const REMOVE_COUNT: usize = 500;

/// One list. What must outlast a session is kept here.
pub(super) struct List {
    key: String,
    dead_after: Duration,
    /// Settled and not removed: a connection that breaks causes no duplicates of these.
    settled: Vec<Bytes>,
}

impl List {
    pub(super) fn new(key: String, dead_after: Duration) -> Self {
        Self { key, dead_after, settled: Vec::new() }
    }

    async fn session(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let keys = Keys { prefix: prefix(&self.key) };
        let connected = async {
            let mut clerk = shared.connector.connect(&self.key).await?;
            // Refused for anything that is no list.
            clerk.ask(cmd("LLEN").arg(&self.key)).await?;
            clerk.ask(cmd("SADD").arg(keys.consumers()).arg(&shared.consumer)).await?;
            say_alive(&mut clerk, &keys.alive(&shared.consumer), self.dead_after).await?;
            Ok::<_, Trouble>((shared.connector.connect(&self.key).await?, clerk))
        };
        let (reader, clerk) = tokio::select! {
            biased;
            () = shared.context.cancel.cancelled() => return Ok(()),
            connected = connected => connected?,
        };
        shared.up();
        let mut taking = Taking {
            shared,
            keys,
            own: true,
            portion: Portion::new(),
            removing: 0,
            beats: Every::new(self.dead_after / 3),
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

    fn consumers(&self) -> String {
        format!("{}:consumers", self.prefix)
    }
}

/// A key with a hash tag of its own keeps it; any other key becomes the tag.
fn prefix(key: &str) -> String {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    if tag.is_some_and(|tag| !tag.is_empty()) { format!("{key}:evoke") } else { format!("{{{key}}}:evoke") }
}

async fn say_alive(link: &mut Link, key: &str, dead_after: Duration) -> Result<(), ServerTrouble> {
    link.ask(cmd("SET").arg(key).arg(1).arg("PX").arg(millis(dead_after))).await.map(drop)
}

/// One session's view of the list.
struct Taking<'a> {
    list: &'a mut List,
    shared: &'a Shared,
    keys: Keys,
    /// Whether there may still be items that this consumer took in an earlier session.
    own: bool,
    portion: Portion,
    /// How many of the settled ones, from the first, are being removed.
    removing: usize,
    beats: Every,
    searches: Every,
    measures: Every,
}

enum Done {
    Removed,
    Alive,
    GivenBack(usize),
    Measured(i64),
}

impl Taking<'_> {
    fn remove(&mut self) -> Ask<Done> {
        self.removing = self.list.settled.len().min(REMOVE_COUNT);
        let items = self.keys.items(&self.shared.consumer);
        let mut commands = redis::pipe();
        for item in self.list.settled.iter().take(self.removing) {
            commands.cmd("LREM").arg(&items).arg(1).arg(&item[..]);
        }
        ask(move |link| async move { link.ask_all(&commands).await.map(|_| Done::Removed) }.boxed())
    }

    /// Puts back what consumers hold that are dead.
    fn search(&self) -> Ask<Done> {
        let (list, keys, own) = (self.list.key.clone(), self.keys.clone(), self.shared.consumer.clone());
        ask(move |link| {
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
        ask(move |link| {
            async move {
                let lengths = link.ask_all(&commands).await?;
                Ok(Done::Measured(
                    lengths.iter().filter_map(|n| if let Value::Int(n) = n { Some(*n) } else { None }).sum(),
                ))
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
        if self.own {
            // The next of them are the first of the list only once those before are removed.
            return quiet.then(|| {
                ask(move |link| {
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
        Some(ask(move |link| {
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
        self.list.settled.extend(items);
    }

    fn is_idle(&self) -> bool {
        self.list.settled.is_empty()
    }

    fn errand(&mut self, _room: bool) -> Option<Ask<Done>> {
        if self.beats.is_due() {
            let (key, dead_after) = (self.keys.alive(&self.shared.consumer), self.list.dead_after);
            return Some(ask(move |link| {
                async move { say_alive(link, &key, dead_after).await.map(|()| Done::Alive) }.boxed()
            }));
        }
        if !self.list.settled.is_empty() {
            return Some(self.remove());
        }
        if self.searches.is_due() {
            return Some(self.search());
        }
        if self.measures.is_due() { Some(self.measure()) } else { None }
    }

    fn done(&mut self, done: Done) -> Batch<Bytes> {
        match done {
            Done::Removed => drop(self.list.settled.drain(..self.removing)),
            Done::Alive | Done::GivenBack(0) => {}
            Done::GivenBack(items) => {
                let Origin { event_source, event, .. } = self.shared.origin();
                tracing::info!(%event_source, %event, items, "put back what a consumer left that is gone");
            }
            Done::Measured(length) => self.shared.metrics.lag.set(length),
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
