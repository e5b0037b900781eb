//! The contract of an event bus: a partitioned, append-only log of events, and a little durable state with compare-and-set.
//!
//! ```text
//!              first                     a reader at `next`            end
//!   trimmed ...  |r|r|r|.|r|r|r|r|r|r|r|r|r|r|r|.|.|r|r|r|r|r|r|r|r|r|r|  <- publish
//!                     positions are ordered, not dense
//! ```
//!
//! What a back-end promises, in this order:
//!
//! 1. **Durable before the receipt.** [`EventBus::publish`] resolves when the events are *accepted*; its [`Receipt`] resolves
//!    when they are *durable*. What a resolved receipt calls stored is read by every reader that starts before it, over any crash
//!    of this process.
//! 2. **Order.** In one partition, events are read in one order by everybody. Events of one call, and of calls made one after the
//!    other, are first appended in that order; a failure may repeat events, never reorder them.
//! 3. **Back-pressure.** A full bus leaves `publish` pending. A reader that is not asked for more holds at most its prefetch.
//! 4. **Readers leave nothing behind.** Who has read what is kept above this trait, in the state it offers.
//! 5. **Time never goes back** within a partition: `appended` is the time of append, not the event's own.
//! 6. **A position that is gone is an error**, never a silent jump: [`BusError::Trimmed`] below the log, [`BusError::Ahead`]
//!    beyond its end, [`BusError::Damaged`] within it; or a gap that a batch names, where a bus deletes while it is read. How many
//!    events are gone is what lies between two positions, or, where positions do not tell, between two numbers of events that were ever
//!    appended: see [`Point`].
//! 7. **A repeat may be stored once**: an event that is published again, known by its source and id. One that is passed on for several
//!    reasons, each with a name of its own ([`EventBus::pass_on`]), is stored for each of them.
//! 8. **State** is durable when [`EventBus::store`] resolves; [`EventBus::load`] sees every store that resolved before it.
//!    State that is gone all the same is made again, and [`EventBus::losses`] says so.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
#[cfg(doc)]
use evoke_api::limits;
use evoke_api::names::{ObjectName, TopicName};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::event::Event;
use crate::note::Note;

/// One boxed future a call, that is, a batch: none is made per event.
pub type Fut<'a, T> = BoxFuture<'a, Result<T, BusError>>;

/// Resolves when the events of one `publish` are durable, with one result for each, in order. Where they are it does not say: not
/// every back-end is told.
pub type Receipt = BoxFuture<'static, Vec<Result<(), PublishError>>>;

/// A place in a partition. Ordered there, not dense, and without meaning elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u128);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: TopicName,
    /// From 0.
    pub index: u16,
}

/// Where to start reading, or what to locate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first event that is kept.
    First,
    /// The first event appended after this call.
    Next,
    /// This position, or the first event after it if none is there.
    At(Position),
    /// The first event appended at this time or later.
    Time(SystemTime),
}

/// One event in the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it is.
    pub at: Position,
    /// When it was appended.
    pub appended: SystemTime,
    /// The event.
    pub event: Event,
    /// What its readers have made of it.
    pub note: Note,
}

impl Record {
    /// A record that nobody has read yet.
    pub fn new(at: Position, appended: SystemTime, event: Event) -> Self {
        Self { at, appended, event, note: Note::default() }
    }
}

/// What a reader gave: some records, and where to go on.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order; may be empty.
    pub records: Vec<Record>,
    /// The events' size as encoded.
    pub bytes: usize,
    /// The position to go on at, even if there are no records.
    pub next: Position,
    /// Positions between the records at which events may have been that the bus deleted before they were read: no event that is gone
    /// lies elsewhere. In order.
    pub gaps: Vec<Range<Position>>,
    /// As [`Point::before`], of `next`.
    pub before: Option<u64>,
    /// When the latest of all that was passed on the way to `next` was appended, where some of it was no event: it may lie behind the
    /// last record.
    pub latest: Option<SystemTime>,
}

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where it is.
    pub at: Position,
    /// How many events were ever appended before it, those that are gone by now too. Where the difference of two positions says how many
    /// events are between them this is not needed, and `None`; also where it is not known.
    pub before: Option<u64>,
}

impl std::convert::From<Position> for Point {
    fn from(at: Position) -> Self {
        Self { at, before: None }
    }
}

/// What [`EventBus::locate`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The position that was asked for.
    pub at: Position,
    /// The first position that is kept.
    pub first: Position,
    /// The position after the last event.
    pub end: Position,
    /// How many events lie from `at` to `end`.
    pub ahead: u64,
    /// False when `ahead` is an estimate.
    pub exact: bool,
    /// As [`Point::before`], of `end`.
    pub appended: Option<u64>,
}

impl Mark {
    /// The place in the log that is nearest to `at`.
    pub fn point(&self) -> Point {
        let before = self.appended.filter(|_| self.exact).map(|appended| appended.saturating_sub(self.ahead));
        Point { at: self.at.min(self.end).max(self.first), before }
    }

    /// Where the log begins. How many events were before that is told by a mark that does not lie behind it.
    pub fn begin(&self) -> Point {
        let before = self.point().before.filter(|_| self.at <= self.first);
        Point { at: self.first, before }
    }
}

/// How a topic should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: TopicName,
    /// How many partitions it is made with; fixed from then on.
    pub partitions: u16,
}

/// How a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its partitions.
    pub partitions: u16,
    /// In words, what differs from the [`TopicSpec`] and was left alone.
    pub drift: Vec<String>,
}

/// One change of state.
#[derive(Clone, Debug)]
pub struct Put {
    /// The key: path-like, at most 512 bytes.
    pub key: String,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
    /// What must hold for the change to be made.
    pub expect: Expect,
}

impl Put {
    /// Refuses a key or a value of more bytes than these.
    pub(crate) fn check(&self, key_bytes: usize, value_bytes: usize) -> Result<(), BusError> {
        let value = self.value.as_ref().map_or(0, Bytes::len);
        if self.key.len() <= key_bytes && value <= value_bytes {
            return Ok(());
        }
        let key: String = self.key.chars().take(80).collect();
        let text = format!("state {key:?} is larger than {key_bytes} bytes of key and {value_bytes} of value");
        Err(BusError::Broken(text.into()))
    }
}

/// The condition of a [`Put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// None.
    Any,
    /// The key does not exist.
    Absent,
    /// The key has this revision.
    Revision(u64),
}

/// One key of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Changes with every put, and never comes again for this key, not after it was deleted either.
    pub revision: u64,
}

/// How a bus is doing. Feeds status and readiness, and one log line a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not there yet; says what is tried.
    Connecting(Arc<str>),
    /// Works.
    Up,
    /// Does not work; says why.
    Down(Arc<str>),
    /// Takes no more events; says what is full.
    Full(Arc<str>),
}

/// Why a bus could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The position was trimmed away.
    #[error("events before position {first} are no longer kept")]
    Trimmed {
        /// The first position that is kept.
        first: Position,
    },
    /// What lies there is damaged. What lies below is not concerned.
    #[error("events from position {first} on are damaged, the log goes on at {next}")]
    Damaged {
        /// The first position that is damaged.
        first: Position,
        /// Where the log goes on.
        next: Position,
    },
    /// The position lies beyond the log: the bus lost its end, or was made anew.
    #[error("the log ends at position {end}, before the position asked for")]
    Ahead {
        /// The position after the last event.
        end: Position,
    },
    /// The bus is being closed.
    #[error("the bus is closed")]
    Closed,
    /// The topic was never declared.
    #[error("there is no topic {0}")]
    NoTopic(TopicName),
    /// Something that may pass.
    #[error("{0}")]
    Unavailable(Arc<str>),
    /// Something that will not pass by itself: damaged data, wrong credentials, a foreign format.
    #[error("{0}")]
    Broken(Arc<str>),
}

/// Why one event of a `publish` is not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is larger than the bus takes; the others of its call are not affected.
    #[error("the event has {bytes} bytes, the bus takes {limit}")]
    TooLarge {
        /// The event's size as encoded.
        bytes: usize,
        /// `maxEventBytes`.
        limit: usize,
    },
    /// It may or may not be stored; publishing it again is safe.
    #[error("not known to be stored: {0}")]
    Uncertain(Arc<str>),
}

/// A partitioned log and a little state. The module's text is the contract; every back-end passes the same conformance suite.
pub trait EventBus: Send + Sync + fmt::Debug + 'static {
    /// Creates the topic or adopts it as it is. Never shrinks or repartitions; what differs comes back as drift.
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic>;

    /// Resolves when the events are accepted (there was room); the receipt when they are durable. Dropping the receipt does not
    /// undo anything.
    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt>;

    /// [`EventBus::publish`] of events that others may publish too: `by` names who does it, and what for. Only where that is the same
    /// may the bus take one for a repeat of another.
    fn pass_on<'a>(&'a self, to: &'a Partition, events: Vec<Event>, _by: &'a Arc<str>) -> Fut<'a, Receipt> {
        self.publish(to, events)
    }

    /// Opens a reader that holds at most `prefetch_bytes` it was not asked for.
    ///
    /// # Errors
    /// [`BusError::Trimmed`] and [`BusError::Ahead`] for a position outside the log. One that lost its end and has grown beyond the position
    /// since does not show here: only a reader that has read of it before knows it again.
    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch_bytes: usize) -> Fut<'a, Box<dyn Reader>>;

    /// Start, end, times and positions as marks, one for each asked. Needs no reader.
    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>>;

    /// The caller vouches that nobody needs anything below `before`. May keep more, never less.
    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()>;

    /// Every key under `prefix`, not older than any store that resolved before this call.
    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>>;

    /// Durable when it resolves, each put atomic by itself: its new revision, or `None` where `expect` did not hold.
    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>>;

    /// The same for what may be lost with the machine, as long as it is not lost with this process: seen by [`EventBus::load`] when
    /// it resolves, and durable soon after. A back-end for which that is no cheaper stores it durably.
    fn store_soon(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        self.store(puts)
    }

    /// How often the state turned out to be gone since the bus was opened, such as that somebody deleted it. It is made again then, and
    /// holds what was stored since: whoever keeps something there stores it again. The count goes up before any load shows the loss.
    /// Where state is lost with the bus alone, there is nobody to count.
    fn losses(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// How many partitions a topic that is declared has by now, where others can give it more; those can be used then. `None` where
    /// nobody can.
    fn partitions<'a>(&'a self, _topic: &'a TopicName) -> Fut<'a, Option<u16>> {
        Box::pin(async { Ok(None) })
    }

    /// Shows how far a reader is, as the next position of each partition, to the broker's own tools: for people to look at, since
    /// nothing rests on it. False where those have no place for it.
    fn mirror<'a>(&'a self, _reader: &'a ObjectName, _next: &'a BTreeMap<Partition, Position>) -> Fut<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    /// How the bus is doing.
    fn health(&self) -> watch::Receiver<Health>;

    /// How many bytes the log of a partition holds, where the back-end knows.
    fn stored_bytes<'a>(&'a self, partition: &'a Partition) -> Fut<'a, Option<u64>>;

    /// The largest event taken, as encoded.
    fn max_event_bytes(&self) -> usize;

    /// The largest value of state taken, in bytes: at least [`limits::STATE_VALUE_BYTES`], unless the servers were given smaller
    /// limits. Whoever keeps something there keeps it below; what is larger is refused as [`BusError::Broken`].
    fn max_value_bytes(&self) -> usize;

    /// Waits for outstanding receipts and ends all readers. Dropping the bus instead loses nothing that a receipt promised.
    fn close(&self) -> Fut<'_, ()>;
}

/// Reads one partition in order.
pub trait Reader: Send {
    /// Waits for a record, then takes what is there up to `max_bytes`; one record always fits. Safe to cancel: what was not
    /// returned is returned next time. Reconnects by itself, without gap or repeat.
    ///
    /// # Errors
    /// [`BusError::Trimmed`] when the log was trimmed past this reader, [`BusError::Ahead`] when it lost its end, also where it has grown
    /// again since, [`BusError::Damaged`] when what comes next cannot be read.
    fn next(&mut self, max_bytes: usize) -> Fut<'_, Batch>;
}
