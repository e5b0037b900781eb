//! A bus that fails by seed: it wraps another one, delays, refuses, and loses answers, but never breaks the contract.
//!
//! What it does to a call: wait; refuse it before anything happened ([`BusError::Unavailable`]); or do it and lose the answer, which
//! is `Unavailable` for state and [`PublishError::Uncertain`] for events. Readers give short and empty batches, and fail at times and
//! go on. So a caller that holds on to the contract loses nothing, and one that does not is found out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::TopicName;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bus::{
    Batch, BusError, Entry, EventBus, From, Fut, Health, Mark, Partition, Position, PublishError, Put, Reader, Receipt,
    Topic, TopicSpec,
};
use crate::event::Event;

/// How often what goes wrong, in calls of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Calls that wait first, and receipts that come late.
    pub delayed: u16,
    /// How long they do at most.
    pub delay: Duration,
    /// Calls that fail before they did anything.
    pub refused: u16,
    /// Publishes and stores that happen and are reported as failed.
    pub unanswered: u16,
    /// Batches cut short.
    pub short: u16,
    /// Batches without records.
    pub empty: u16,
}

impl Faults {
    /// None.
    pub const NONE: Self = Self { delayed: 0, delay: Duration::ZERO, refused: 0, unanswered: 0, short: 0, empty: 0 };
    /// Everything, often enough that a few hundred calls meet each.
    pub const OFTEN: Self =
        Self { delayed: 200, delay: Duration::from_millis(3), refused: 50, unanswered: 50, short: 300, empty: 100 };
}

/// See the module.
pub struct FaultyBus {
    inner: Arc<dyn EventBus>,
    dice: Arc<Dice>,
}

impl fmt::Debug for FaultyBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyBus").field(&self.inner).finish()
    }
}

/// A seeded source of chance, and what it decides about.
struct Dice {
    state: Mutex<u64>,
    faults: Mutex<Faults>,
}

impl Dice {
    fn roll(&self) -> u64 {
        let mut state = self.state.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn hits(&self, chance: impl Fn(&Faults) -> u16) -> bool {
        let chance = chance(&self.faults.lock());
        self.roll() % 1000 < u64::from(chance)
    }

    async fn wait(&self) {
        if self.hits(|f| f.delayed) {
            let most = u64::try_from(self.faults.lock().delay.as_micros()).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_micros(self.roll() % most.saturating_add(1))).await;
        }
    }

    /// Waits at times, and fails at times.
    async fn before(&self) -> Result<(), BusError> {
        self.wait().await;
        if self.hits(|f| f.refused) { Err(unavailable("refused")) } else { Ok(()) }
    }
}

fn unavailable(what: &str) -> BusError {
    BusError::Unavailable(format!("{what} by the fault wrapper").into())
}

impl FaultyBus {
    /// Wraps a bus. One seed gives one order of faults; which call meets which also depends on the scheduler.
    pub fn new(inner: Arc<dyn EventBus>, seed: u64, faults: Faults) -> Arc<Self> {
        Arc::new(Self { inner, dice: Arc::new(Dice { state: Mutex::new(seed), faults: Mutex::new(faults) }) })
    }

    /// Changes how often what goes wrong from here on, for open readers too.
    pub fn set(&self, faults: Faults) {
        *self.dice.faults.lock() = faults;
    }

    /// The wrapped bus.
    pub fn inner(&self) -> &Arc<dyn EventBus> {
        &self.inner
    }
}

impl EventBus for FaultyBus {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic> {
        async move {
            self.dice.before().await?;
            self.inner.declare(topic).await
        }
        .boxed()
    }

    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt> {
        async move {
            self.dice.before().await?;
            let receipt = self.inner.publish(to, events).await?;
            let (dice, unanswered) = (self.dice.clone(), self.dice.hits(|f| f.unanswered));
            Ok(async move {
                let mut results = receipt.await;
                dice.wait().await;
                if unanswered {
                    // What was refused was refused for certain.
                    for stored in results.iter_mut().filter(|r| r.is_ok()) {
                        *stored = Err(PublishError::Uncertain("lost by the fault wrapper".into()));
                    }
                }
                results
            }
            .boxed())
        }
        .boxed()
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch_bytes: usize) -> Fut<'a, Box<dyn Reader>> {
        async move {
            self.dice.before().await?;
            let inner = self.inner.read(partition, from, prefetch_bytes).await?;
            Ok(Box::new(FaultyReader { inner, dice: self.dice.clone(), next: None }) as Box<dyn Reader>)
        }
        .boxed()
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        async move {
            self.dice.before().await?;
            self.inner.locate(at).await
        }
        .boxed()
    }

    fn partitions<'a>(&'a self, topic: &'a TopicName) -> Fut<'a, Option<u16>> {
        async move {
            self.dice.before().await?;
            self.inner.partitions(topic).await
        }
        .boxed()
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        async move {
            self.dice.before().await?;
            self.inner.trim(partition, before).await
        }
        .boxed()
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        async move {
            self.dice.before().await?;
            self.inner.load(prefix).await
        }
        .boxed()
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        async move {
            self.dice.before().await?;
            let revisions = self.inner.store(puts).await?;
            if self.dice.hits(|f| f.unanswered) { Err(unavailable("answer lost")) } else { Ok(revisions) }
        }
        .boxed()
    }

    fn losses(&self) -> watch::Receiver<u64> {
        self.inner.losses()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }

    fn stored_bytes<'a>(&'a self, partition: &'a Partition) -> Fut<'a, Option<u64>> {
        self.inner.stored_bytes(partition)
    }

    fn max_event_bytes(&self) -> usize {
        self.inner.max_event_bytes()
    }

    fn max_value_bytes(&self) -> usize {
        self.inner.max_value_bytes()
    }

    fn close(&self) -> Fut<'_, ()> {
        self.inner.close()
    }
}

struct FaultyReader {
    inner: Box<dyn Reader>,
    dice: Arc<Dice>,
    /// Where the inner reader goes on, once known.
    next: Option<Position>,
}

impl Reader for FaultyReader {
    fn next(&mut self, max_bytes: usize) -> Fut<'_, Batch> {
        async move {
            self.dice.before().await?;
            if let Some(next) = self.next
                && self.dice.hits(|f| f.empty)
            {
                return Ok(Batch { next, ..Batch::default() });
            }
            let short = self.dice.hits(|f| f.short);
            let batch = self.inner.next(if short { max_bytes / 4 } else { max_bytes }).await?;
            self.next = Some(batch.next);
            Ok(batch)
        }
        .boxed()
    }
}
