//! What one subscriber has finished of one partition: a frontier, and the matched events below it that are still open.
//!
//! ```text
//!   ... finished | open | finished | open | finished | upto -> not evaluated yet ...
//! ```
//!
//! Pure: no clock, no I/O. Retry, restart, move and pause are all this one record.
//!
//! What is lost with the log is counted by whoever moves the frontier over it, in the same step, and by nobody else: one process has
//! it at a time, so that no event is counted by two. Where positions do not tell how many events are between them, the ledger knows how
//! many were ever appended before its frontier.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use evoke_api::names::{ObjectName, SubscriptionId, TopicName};

use crate::bus::{Mark, Partition, Point, Position};

mod codec;

/// Every ledger's key in the bus's state starts like this.
pub const PREFIX: &str = "ledger/";

/// What an open event takes in a ledger, at most, in bytes: 16 of a position that begins with a time before the year 10,000, 3 of up to
/// a million attempts, 8 of a key, 7 of each of three times.
const OPEN_BYTES: usize = 48;
/// What is around them: six numbers, and the names, of which each is shorter than a key.
const HEAD_BYTES: usize = 4 << 10;

/// How many events may be open in a ledger of at most so many bytes.
pub const fn open_within(bytes: usize) -> usize {
    bytes.saturating_sub(HEAD_BYTES) / OPEN_BYTES
}

/// A wall-clock time in milliseconds since 1970, as ledgers keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The time now.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The time so much later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The same as the system's type; a time beyond its range becomes 1970.
    pub fn to_system(self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.0)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl From<SystemTime> for Millis {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Whose ledger, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerName {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The partition.
    pub partition: Partition,
}

impl LedgerName {
    /// Its key in the bus's state. A topic too long for a key is replaced by its hash; the value holds every name in full.
    pub fn key(&self) -> String {
        let Partition { topic, index } = &self.partition;
        let prefix = prefix(&self.subscription);
        let key = format!("{prefix}{topic}/{index}");
        if key.len() <= 512 { key } else { format!("{prefix}#{:016x}/{index}", hash(topic.as_str().as_bytes())) }
    }
}

/// The prefix of the keys of all ledgers of one subscription.
pub fn prefix(subscription: &SubscriptionId) -> String {
    let ObjectName { namespace, name } = &subscription.owner;
    format!("{PREFIX}{namespace}/{name}/{}/", subscription.subscriber)
}

/// The prefix of the keys under which a subscription notes from where on its deliveries are remembered.
pub fn recent_prefix(subscription: &SubscriptionId) -> String {
    let ObjectName { namespace, name } = &subscription.owner;
    format!("recent/{namespace}/{name}/{}/", subscription.subscriber)
}

/// FNV-1a: the same in every process and version, which `std`'s hashers do not promise.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A matched event that is not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Attempts that were made and failed.
    pub attempts: u32,
    /// When the next attempt is due; zero for at once.
    pub due: Millis,
    /// When the first attempt ended.
    pub first: Millis,
    /// When the last attempt ended.
    pub last: Millis,
    /// The hash of the key whose order is kept; zero for none.
    pub key: u64,
}

/// What of a ledger is lost with the log: see [`Ledger::trimmed`], [`Ledger::damaged`] and [`Ledger::ahead`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Open events that are gone.
    pub open: u64,
    /// Events between the old frontier and the new one, which were never evaluated. Where the log does not count what is appended, the
    /// positions between the two: an upper bound where those have holes. `None` where they do not tell either.
    pub unread: Option<u64>,
}

impl Lost {
    /// All of them, as far as known.
    pub fn events(self) -> u64 {
        self.open.saturating_add(self.unread.unwrap_or_default())
    }
}

/// One subscriber's record of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    generation: u64,
    upto: Position,
    count: u64,
    seen: Millis,
    /// As [`Point::before`], of `upto`.
    before: Option<u64>,
    open: BTreeMap<Position, Open>,
}

impl Ledger {
    /// A ledger that starts at a place.
    pub fn starting_at(place: impl Into<Point>) -> Self {
        let Point { at, before } = place.into();
        Self { upto: at, before, ..Self::default() }
    }

    /// The same, with a time that counts as [`Ledger::seen`] from the start.
    #[must_use]
    pub(super) fn since(self, seen: Millis) -> Self {
        Self { seen, ..self }
    }

    /// Raised by [`Ledger::seek`] alone.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The position to go on at; everything below was evaluated.
    pub fn upto(&self) -> Position {
        self.upto
    }

    /// How many events were evaluated.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// When the latest of all that was evaluated, or passed by with it, was appended; zero before the first event. It never goes back, not
    /// with the clock of the bus either: nothing that was evaluated was appended later.
    pub fn seen(&self) -> Millis {
        self.seen
    }

    /// The matched events that are not finished, all of them below [`Ledger::upto`].
    pub fn open(&self) -> &BTreeMap<Position, Open> {
        &self.open
    }

    /// The lowest position that is still needed.
    pub fn needs(&self) -> Position {
        self.open.first_key_value().map_or(self.upto, |(at, _)| *at)
    }

    /// `count` more events were evaluated, the latest of which was appended at `seen`; the frontier moves to `upto`. Never goes
    /// back.
    pub fn advance(&mut self, upto: Position, count: u64, seen: Millis) {
        self.upto = self.upto.max(upto);
        // What is no event says nothing of those before the first one: they may be newer.
        if count > 0 || self.seen > Millis(0) {
            self.seen = self.seen.max(seen);
        }
        self.count += count;
        self.before = self.before.map(|before| before.saturating_add(count));
    }

    /// So many events were ever appended before the frontier: who reads the log has counted what is no event, too.
    pub fn counted(&mut self, before: u64) {
        self.before = Some(before);
    }

    /// How many events were ever appended before the frontier, if `mark`, which is one of it, says otherwise than the ledger.
    pub fn corrected(&self, mark: &Mark) -> Option<u64> {
        let Point { at, before } = mark.point();
        // Below a log of which nothing was ever deleted there was nothing.
        let is_frontier = mark.at == self.upto && (at == self.upto || before == Some(0));
        before.filter(|_| is_frontier && self.before != before)
    }

    /// How many events lie from the frontier on, by a mark of it, and whether that is exact.
    pub fn lag(&self, mark: &Mark) -> (u64, bool) {
        match (mark.exact, mark.appended, self.before) {
            // What can only be estimated is not nothing.
            (false, Some(appended), Some(before)) => (appended.saturating_sub(before).max(1), true),
            _ => (mark.ahead, mark.exact),
        }
    }

    /// An event matched and is not finished yet, or what is known of an open one has changed. The frontier passes it.
    pub fn matched(&mut self, at: Position, open: Open) {
        self.upto = self.upto.max(Position(at.0.saturating_add(1)));
        self.open.insert(at, open);
    }

    /// An event is delivered, dead-lettered or given up; false if it was not open.
    pub fn finished(&mut self, at: Position) -> bool {
        self.open.remove(&at).is_some()
    }

    /// Goes on at `to`, forward or back, and forgets what is open.
    pub fn seek(&mut self, to: Position) {
        self.generation += 1;
        (self.upto, self.seen, self.before) = (to, Millis(0), None);
        self.open.clear();
    }

    /// What is lost if the log now begins at `first`.
    pub fn lost(&self, first: Point) -> Lost {
        self.lost_between(Position::default(), first)
    }

    fn lost_between(&self, from: Position, to: Point) -> Lost {
        let open = self.open.range(from.min(to.at)..to.at).count() as u64;
        let unread = match (self.before, to.before) {
            _ if to.at <= self.upto => Some(0),
            // Fewer than were read are those of another log, of which nothing was.
            (Some(passed), Some(before)) => Some(before.checked_sub(passed).unwrap_or(before)),
            // Positions that begin with a time are further apart than events.
            _ => u64::try_from(to.at.0.saturating_sub(self.upto.0)).ok(),
        };
        Lost { open, unread }
    }

    /// The log now begins at `first`: what lies below is lost.
    pub fn trimmed(&mut self, first: impl Into<Point>) -> Lost {
        self.damaged(Position::default(), first)
    }

    /// What lies from `first` on and before `next` is lost; the log goes on there.
    pub fn damaged(&mut self, first: Position, next: impl Into<Point>) -> Lost {
        let next: Point = next.into();
        let lost = self.lost_between(first, next);
        self.open.retain(|at, _| !(first..next.at).contains(at));
        if next.at > self.upto {
            (self.upto, self.before) = (next.at, next.before);
        }
        lost
    }

    /// The log now ends at `end`, before the frontier: what lies beyond was lost with it.
    pub fn ahead(&mut self, end: impl Into<Point>) -> Lost {
        let end: Point = end.into();
        let open = self.open.split_off(&end.at).len() as u64;
        if end.at < self.upto {
            (self.upto, self.before) = (end.at, end.before);
        }
        Lost { open, unread: Some(0) }
    }

    /// The bytes that state holds: see the module `codec`.
    pub fn encode(&self, name: &LedgerName) -> Bytes {
        codec::encode(name, self)
    }

    /// Reads what [`Ledger::encode`] wrote.
    ///
    /// # Errors
    /// [`BadLedger`] for a newer version and for damage.
    pub fn decode(bytes: &[u8]) -> Result<(LedgerName, Self), BadLedger> {
        codec::decode(bytes)
    }
}

/// Bytes that are no ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLedger {
    /// Written by a newer evoke.
    #[error("a ledger of version {0}, this evoke knows version 2: run the newer evoke that wrote it")]
    Version(u8),
    /// Cut off or damaged.
    #[error("a damaged ledger")]
    Damaged,
}

/// The names in a ledger, for the codec.
fn named(parts: [&str; 4], index: u16) -> LedgerName {
    let [namespace, owner, subscriber, topic] = parts;
    LedgerName {
        subscription: SubscriptionId { owner: ObjectName::new(namespace, owner), subscriber: subscriber.into() },
        partition: Partition { topic: TopicName::parse(topic), index },
    }
}

#[cfg(test)]
mod tests;
