//! A list, taken from the left.
//!
//! Each consumer moves items to a list of its own, and removes them from there once they are settled. What it did not finish it
//! takes up when it comes back. A consumer says now and then that it is alive; the items of one that was silent for too long are put
//! back where they were taken from.
//!
//! ```text
//! LIST --BLMOVE--> {LIST}:evoke:items:CONSUMER      {LIST}:evoke:alive:CONSUMER (expires)    {LIST}:evoke:consumers (a set)
//!                  {LIST}:evoke:removed:CONSUMER    names the last removal, or who put items back (expires)
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use redis::{Value, cmd};

use super::consumers::{self, ALIVE, Keys, SEARCH};
use super::desk::{self, Ask, Batch, Refused, Work, ask};
use super::removal::Removals;
use super::source::{BLOCK, Every, Portion, Session, Shared};
use super::trouble::Trouble;
use crate::source::Origin;
use evoke_connect::redis::reply;

const LAG_INTERVAL: Duration = Duration::from_secs(10);
/// What became of a consumer that lives and was taken for dead.
const PUT_BACK: &str = "what this consumer held was put back, since it was silent for longer than processingTimeout (raise it \
                        where that is often), or the server has lost its note: some of it comes again";

/// One list. What must outlast a session is kept here.
pub(super) struct List {
    keys: Keys,
    dead_after: Duration,
    /// A connection that breaks causes no duplicates of what is settled and not removed.
    removals: Removals,
    refused: Refused,
}

impl List {
    pub(super) fn new(key: String, dead_after: Duration) -> Self {
        Self { keys: Keys::new(key), dead_after, removals: Removals::default(), refused: Refused::default() }
    }

    async fn session(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let connected = async {
            let clerk = shared.connector.connect(self.keys.list()).await?;
            // Refused for anything that is no list.
            clerk.ask(cmd("LLEN").arg(self.keys.list())).await?;
            let noted = consumers::say_alive(&clerk, &self.keys, &shared.consumer, self.dead_after).await?;
            Ok::<_, Trouble>((shared.connector.connect(self.keys.list()).await?, clerk, noted))
        };
        let (reader, clerk, noted) = tokio::select! {
            biased;
            () = shared.context.cancel.cancelled() => return Ok(()),
            connected = connected => connected?,
        };
        self.removals.begin(noted);
        // Whether what was refused is allowed by now is not to be found out only after an interval.
        let timer = if self.refused.is(ALIVE) { Every::at_once } else { Every::new };
        let mut taking = Taking {
            shared,
            own: true,
            in_hand: 0,
            is_reading: false,
            is_unclear: false,
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

/// One session's view of the list.
struct Taking<'a> {
    list: &'a mut List,
    shared: &'a Shared,
    /// Whether there may still be items in this consumer's list that it does not know of, above all of an earlier session. Those
    /// are read when all others are removed, and until then nothing is.
    own: bool,
    /// How many items were found and are not settled.
    in_hand: usize,
    /// Whether a read is under way, which may have moved items that are not found yet.
    is_reading: bool,
    /// Whether more than this consumer knows of was in its list while it read. That is counted again without a read.
    is_unclear: bool,
    portion: Portion,
    beats: Every,
    searches: Every,
    measures: Every,
}

enum Done {
    /// What is noted as the last removal.
    Removed(Vec<u8>),
    Alive,
    GivenBack(i64),
    Measured {
        waiting: i64,
        held: i64,
    },
}

impl Taking<'_> {
    fn remove(&mut self) -> Ask<Done> {
        let List { keys, removals, .. } = &mut *self.list;
        let consumer = &self.shared.consumer;
        let command = removals.command(&keys.items(consumer), &keys.note(consumer));
        ask("EVAL", move |link| {
            async move {
                let noted = link.ask(&command).await?;
                Ok(Done::Removed(reply::bytes(noted).ok_or(reply::Garbled("a removal"))?))
            }
            .boxed()
        })
    }

    fn say_alive(&self) -> Ask<Done> {
        let (keys, own, dead_after) = (self.list.keys.clone(), self.shared.consumer.clone(), self.list.dead_after);
        ask(ALIVE, move |link| {
            // What is noted shows in the next removal.
            async move { consumers::say_alive(link, &keys, &own, dead_after).await.map(|_| Done::Alive) }.boxed()
        })
    }

    /// Puts back what consumers hold that are dead.
    fn search(&self) -> Ask<Done> {
        let (keys, own) = (self.list.keys.clone(), self.shared.consumer.clone());
        ask(SEARCH, move |link| async move { consumers::search(link, &keys, &own).await.map(Done::GivenBack) }.boxed())
    }

    fn measure(&self) -> Ask<Done> {
        let mut commands = redis::pipe();
        commands.cmd("LLEN").arg(self.list.keys.list());
        commands.cmd("LLEN").arg(self.list.keys.items(&self.shared.consumer));
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

impl Work for Taking<'_> {
    type Token = Bytes;
    type Found = Vec<Bytes>;
    type Done = Done;

    fn read(&mut self, quiet: bool) -> Option<Ask<Vec<Bytes>>> {
        // What is read of the own list are its first items, so that those before have to be removed.
        if self.is_unclear || (self.own && !quiet) {
            return None;
        }
        self.is_reading = true;
        let (list, items) = (self.list.keys.list().to_owned(), self.list.keys.items(&self.shared.consumer));
        let count = self.portion.count();
        if self.own {
            return Some(ask("LRANGE", move |link| {
                async move {
                    let found = link.ask(cmd("LRANGE").arg(items).arg(0).arg(count - 1)).await?;
                    let found = reply::array(found).unwrap_or_default().into_iter().filter_map(reply::bytes);
                    Ok(found.map(Bytes::from).collect())
                }
                .boxed()
            }));
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
        self.is_reading = false;
        self.in_hand += items.len();
        let arrivals = items.iter().map(|item| self.shared.mapper.item(item.clone())).collect();
        Batch { tokens: items, arrivals }
    }

    fn settled(&mut self, items: Vec<Bytes>) {
        self.in_hand = self.in_hand.saturating_sub(items.len());
        self.list.removals.settled(items);
    }

    fn is_idle(&self) -> bool {
        self.list.removals.is_empty()
    }

    fn errand(&mut self, _room: bool) -> Option<Ask<Done>> {
        if self.beats.is_due() {
            return Some(self.say_alive());
        }
        // What is due now and then comes before removals: where items come without a pause, there is always something to remove.
        if self.searches.is_due() {
            return Some(self.search());
        }
        if self.measures.is_due() || (self.is_unclear && !self.is_reading) {
            return Some(self.measure());
        }
        if self.list.removals.is_empty() { None } else { Some(self.remove()) }
    }

    fn done(&mut self, done: Done) -> Result<Batch<Bytes>, Trouble> {
        match done {
            Done::Removed(noted) => {
                if !self.list.removals.answered(noted) {
                    return Err(Trouble::other(PUT_BACK));
                }
            }
            Done::Alive | Done::GivenBack(0) => {}
            Done::GivenBack(items) => {
                let Origin { event_source, event, .. } = self.shared.origin();
                tracing::info!(%event_source, %event, items, "put back what a consumer left that is gone");
            }
            Done::Measured { waiting, held } => {
                self.shared.metrics.lag.set(waiting.saturating_add(held));
                // More than that is what Redis has moved for a connection that was given up.
                let known = self.in_hand + self.list.removals.len();
                let is_more = usize::try_from(held).is_ok_and(|held| held > known);
                self.is_unclear = is_more && self.is_reading;
                self.own |= is_more && !self.is_reading;
            }
        }
        Ok(Batch::empty())
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
