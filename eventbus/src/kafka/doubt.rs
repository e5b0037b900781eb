//! Whether a log is still the one that was read, and has the place to go on at.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use evoke_api::names::TopicName;
use tokio::time::sleep;

use super::Core;
use super::cluster::{Ends, Place, Turn};
use super::print::{Prints, Verdict};
use super::publisher::position;
use crate::bus::BusError;

/// How long to wait before brokers that say something odd are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long a log is looked at with one client before it is with another one.
const ANEW: Duration = Duration::from_secs(30);

/// What a reader knows of a log that may be another one by now.
pub(super) struct Doubt {
    pub(super) core: Arc<Core>,
    pub(super) topic: TopicName,
    pub(super) place: Place,
    /// The offset to go on at.
    pub(super) next: i64,
    /// What was read last.
    pub(super) prints: Prints,
    /// When the latest of all that was read was appended.
    pub(super) appended: SystemTime,
}

impl Doubt {
    /// Looks until the brokers say it.
    ///
    /// # Errors
    /// [`BusError::Trimmed`] and [`BusError::Ahead`] where the log does not go on at the place, [`BusError::Unavailable`] where there is
    /// none.
    pub(super) async fn settle(self) -> Result<(), BusError> {
        let closed = self.core.closed.clone();
        closed.run_until_cancelled(self.look()).await.unwrap_or(Err(BusError::Closed))
    }

    async fn look(&self) -> Result<(), BusError> {
        let (mut since, mut turn) = (Instant::now(), Turn::Check);
        loop {
            let gate = self.core.gate();
            let is_asked = gate.is_ok();
            let ends = match gate {
                Ok(()) => self.ends(turn).await,
                Err(away) => Err(away),
            };
            turn = if is_asked { Turn::CheckAgain } else { Turn::Check };
            let ends = match ends {
                Ok(ends) => ends,
                Err(BusError::NoTopic(topic)) => {
                    self.core.pool.outdate(&self.place, Instant::now());
                    sleep(ASK_AGAIN).await;
                    return Err(BusError::Unavailable(format!("topic {topic} is no longer there").into()));
                }
                // The brokers are away, and who reads waits for them.
                Err(BusError::Unavailable(_)) => {
                    sleep(ASK_AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let verdict = self.verdict(ends).await;
            if matches!(verdict, Err(BusError::Unavailable(_) | BusError::Ahead { .. })) {
                // Either a client does not read what there is by now, or there is another log than the one that it read.
                self.core.pool.outdate(&self.place, since);
            }
            if !matches!(verdict, Err(BusError::Unavailable(_))) {
                return verdict;
            }
            // A client that was made meanwhile may have come too early as well: it gets a while, and is not replaced in each round.
            if since.elapsed() >= ANEW {
                since = Instant::now();
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn ends(&self, turn: Turn) -> Result<Ends, BusError> {
        let ends = self.core.cluster.ends_in(turn, vec![self.place.clone()]).await;
        let ends = self.core.named(&self.topic, ends)?;
        ends.first().copied().ok_or_else(|| BusError::NoTopic(self.topic.clone()))
    }

    async fn verdict(&self, ends: Ends) -> Result<(), BusError> {
        let next = self.next;
        let known = self.core.topics.known(&self.topic);
        // Of a compacted topic, a record that was read may be gone from the middle.
        let compared = match known.is_some_and(|known| known.compacted) {
            true => Verdict::Same,
            false => self.prints.compare(&self.core, &self.place, ends, false).await?,
        };
        match compared {
            Verdict::SameBelow(on) => Err(ahead(on)),
            Verdict::Other => Err(ahead(self.newer(ends, next).await?)),
            Verdict::Same if next < ends.first => Err(BusError::Trimmed { first: position(ends.first) }),
            Verdict::Same if next > ends.end => Err(ahead(ends.end)),
            Verdict::Same => Ok(()),
        }
    }

    /// Where another log holds what is newer than what was read of this one, as far as its times tell. Where they tell of nothing that lies
    /// before what was read, the beginning: what repeats is not lost.
    async fn newer(&self, ends: Ends, next: i64) -> Result<i64, BusError> {
        let since = self.appended + Duration::from_millis(1);
        let found = self.core.cluster.since(vec![(self.place.clone(), since)]).await?;
        let on = found.first().copied().flatten().unwrap_or(ends.end).max(ends.first);
        Ok(if on < next { on } else { ends.first })
    }
}

fn ahead(end: i64) -> BusError {
    BusError::Ahead { end: position(end) }
}
