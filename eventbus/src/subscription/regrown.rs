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
/// How long an answer is good for others.
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
    fn covers(&self, ledger: &Ledger) -> bool {
        self.asked.elapsed() < GOOD && self.seen <= ledger.seen() && ledger.upto() <= self.upto
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
        let _turn = self.turns.acquire().await.map_err(|_| BusError::Closed)?;
        let mut asked = Vec::new();
        for (place, (partition, ledger)) in ledgers.iter().enumerate() {
            // Without having passed an event, it is at its start.
            if ledger.seen() > Millis(0) && !self.is_sound(partition, ledger) {
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
                let newer = judge(bus, partition, ledger.seen(), marks).await?;
                Ok::<_, BusError>((place, partition, ledger, newer))
            });
        let mut elsewhere = BTreeMap::new();
        for (place, partition, ledger, newer) in try_join_all(looks).await? {
            match newer {
                Some(newer) => {
                    elsewhere.insert(place, newer);
                }
                None => {
                    let sound = Sound { seen: ledger.seen(), upto: ledger.upto(), asked: now };
                    self.sound.lock().insert(partition.clone(), sound);
                }
            }
        }
        Ok(elsewhere)
    }

    fn is_sound(&self, partition: &Partition, ledger: &Ledger) -> bool {
        self.sound.lock().get(partition).is_some_and(|sound| sound.covers(ledger))
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
    judge(bus, partition, seen, &marks).await
}

/// What to ask for [`judge`].
fn question(partition: &Partition, seen: Millis, upto: Position) -> [(Partition, From); 2] {
    let newer = seen.after(Duration::from_millis(1)).to_system();
    [From::Time(newer), From::At(upto)].map(|from| (partition.clone(), from))
}

async fn judge(
    bus: &dyn EventBus,
    partition: &Partition,
    seen: Millis,
    marks: &[Mark],
) -> Result<Option<Point>, BusError> {
    let [newer, here] = marks else {
        return Err(BusError::Unavailable("the bus located only some of what was asked for".into()));
    };
    let upto = here.at.min(here.end);
    // Where other partitions have positions, too, there may be a place that is newer, and no event.
    if newer.at >= upto || newer.ahead <= here.ahead {
        return Ok(None);
    }
    let last = scan::last_before(bus, partition, upto, newer.at).await?;
    Ok(last.filter(|last| Millis::from(last.appended) > seen).map(|_| newer.point()))
}

#[cfg(test)]
mod tests;
