//! Logs that have lost their end and hold other events there by now: those of servers that came back with an older copy and were written
//! to since. An open reader knows a log again by what it has read of it. A subscription that is opened has nothing but its ledger.
//!
//! ```text
//!   then  ... a b c d e f |          upto, and `seen` is when f was appended
//!   now   ... a b c G H I J K        where G begins is the first place that is newer than `seen`: before upto
//! ```
//!
//! All that a ledger has passed was appended at its `seen` or before, whatever clocks did, since that only grows. So nothing before its
//! frontier is newer in the log that it is of, but for what was there before the subscription began. The last event before the frontier
//! is none of that once the subscription has passed one: where that one is newer, it never was judged, nor was anything back to the first
//! place that is newer. Should that be wrong all the same, events are judged again, and none is lost.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ledger::{Ledger, Millis};
use super::scan;
use crate::bus::{BusError, EventBus, From, Mark, Partition, Point, Position};

/// Subscriptions that ask at once. Where many begin together, most are at the same places, and learn from what these are told.
const AT_ONCE: usize = 4;
/// How long an answer is good for those that come later. Whoever was there already when it was asked for may have waited for longer.
const GOOD: Duration = Duration::from_secs(2);

/// Looks whether logs are those that ledgers are of.
#[derive(Debug)]
pub(super) struct Regrown {
    turns: Semaphore,
    sound: Mutex<HashMap<Partition, Sound>>,
}

/// No event before `upto` was newer than `seen`.
#[derive(Clone, Copy, Debug)]
struct Sound {
    seen: Millis,
    upto: Position,
    asked: Instant,
}

impl Sound {
    fn new(ledger: &Ledger, asked: Instant) -> Self {
        Self { seen: ledger.seen(), upto: ledger.upto(), asked }
    }

    /// True if this says as much as another one, and is good for who has come when that was asked for.
    fn covers(&self, other: &Self) -> bool {
        self.asked + GOOD > other.asked && self.seen <= other.seen && other.upto <= self.upto
    }
}

impl Regrown {
    pub(super) fn new() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), sound: Mutex::default() }
    }

    /// Where to go on in those logs that hold what some ledgers have not judged, by the ledgers' places in the list.
    pub(super) async fn look(
        &self,
        bus: &dyn EventBus,
        ledgers: &[(&Partition, &Ledger)],
    ) -> Result<BTreeMap<usize, Point>, BusError> {
        let arrived = Instant::now();
        let _turn = self.turns.acquire().await.map_err(|_| BusError::Closed)?;
        let mut asked = Vec::new();
        for (place, (partition, ledger)) in ledgers.iter().enumerate() {
            // Without having passed an event, it is at its start.
            if ledger.seen() > Millis(0) && !self.is_sound(partition, Sound::new(ledger, arrived)) {
                asked.push((place, *partition, *ledger));
            }
        }
        if asked.is_empty() {
            return Ok(BTreeMap::new());
        }
        let now = Instant::now();
        let at: Vec<_> =
            asked.iter().flat_map(|(_, partition, ledger)| question(partition, ledger.seen(), ledger.upto())).collect();
        let marks = bus.locate(&at).await?;
        let looks =
            asked.into_iter().zip(marks.chunks_exact(2)).map(|((place, partition, ledger), marks)| async move {
                let newer = self.judge(bus, partition, Sound::new(ledger, now), marks).await?;
                Ok::<_, BusError>(newer.map(|newer| (place, newer)))
            });
        Ok(try_join_all(looks).await?.into_iter().flatten().collect())
    }

    /// As [`newer_before`], by what was located; remembers that there is nothing.
    async fn judge(
        &self,
        bus: &dyn EventBus,
        partition: &Partition,
        sound: Sound,
        marks: &[Mark],
    ) -> Result<Option<Point>, BusError> {
        if let Some(newer) = newer(marks)? {
            return newer.judge(bus, partition, sound.seen).await;
        }
        let mut known = self.sound.lock();
        let kept = known.entry(partition.clone()).or_insert(sound);
        if !kept.covers(&sound) {
            *kept = sound;
        }
        Ok(None)
    }

    fn is_sound(&self, partition: &Partition, wanted: Sound) -> bool {
        self.sound.lock().get(partition).is_some_and(|sound| sound.covers(&wanted))
    }
}

/// Where what is newer than `seen` begins, if the last event before `upto` is.
///
/// # Errors
/// The bus's.
pub(super) async fn newer_before(
    bus: &dyn EventBus,
    partition: &Partition,
    seen: Millis,
    upto: Position,
) -> Result<Option<Point>, BusError> {
    let marks = bus.locate(&question(partition, seen, upto)).await?;
    match newer(&marks)? {
        Some(newer) => newer.judge(bus, partition, seen).await,
        None => Ok(None),
    }
}

/// What to ask for [`newer`].
fn question(partition: &Partition, seen: Millis, upto: Position) -> [(Partition, From); 2] {
    let newer = seen.after(Duration::from_millis(1)).to_system();
    [From::Time(newer), From::At(upto)].map(|from| (partition.clone(), from))
}

/// Something before a place is newer than what was seen.
#[derive(Clone, Copy, Debug)]
struct Newer {
    /// Where that begins.
    from: Point,
    upto: Position,
}

/// What is newer, by marks of what [`question`] asks.
fn newer(marks: &[Mark]) -> Result<Option<Newer>, BusError> {
    let [newer, here] = marks else {
        return Err(BusError::Unavailable("the bus located only some of what was asked for".into()));
    };
    let upto = here.at.min(here.end);
    // Where other partitions have positions, too, there may be a place that is newer, and no event.
    let is_there = newer.at < upto && newer.ahead > here.ahead;
    Ok(is_there.then(|| Newer { from: newer.point(), upto }))
}

impl Newer {
    /// Where it begins, if the last event is of it: otherwise that is only a clock that was ahead.
    async fn judge(self, bus: &dyn EventBus, partition: &Partition, seen: Millis) -> Result<Option<Point>, BusError> {
        let last = scan::last_before(bus, partition, self.upto, self.from.at).await?;
        Ok(last.filter(|last| Millis::from(last.appended) > seen).map(|_| self.from))
    }
}

#[cfg(test)]
mod tests;
