//! Sharing: the processes on one bus divide the work of every subscription among them, and take over from one that dies.
//!
//! | module | holds |
//! | --- | --- |
//! | [`document`] | who takes part in one object's work, and who owns what of it |
//! | [`beats`] | signs of life, and who gives none |
//! | [`tenure`] | how long a process may act on what it owns |
//! | [`step`] | the decision, as a pure function |
//! | `identity` | one name, one process |
//! | `beating` | the beats of this process |
//! | `rounds` | looks at the bus's state once a second, decides, stores |
//! | `board` | what all of them know, as this process sees it |
//! | [`onlooker`] | the same as a tool sees it, which takes no part |
//!
//! A subscription reads only what this process owns, and holds it from its opening until its last position is durable: only then is
//! it given to another. On a bus inside the process nothing is shared, and everything is owned at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::{ObjectName, SubscriptionId, TopicName};
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Topics;
use super::control::Control;
use crate::bus::{BusError, EventBus};

mod beating;
pub mod beats;
mod board;
pub mod document;
mod identity;
pub mod onlooker;
mod rounds;
pub mod step;
pub mod tenure;

use beats::Place;
use board::Board;
use document::Name;
use tenure::Tenure;

/// Everything that processes tell each other is under this prefix of the bus's state.
pub const PREFIX: &str = "sharing/";

/// How this process takes part.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Its name, the same after a restart.
    pub name: Name,
    /// Where it runs.
    pub place: Place,
    /// How often, and how long.
    pub timing: Timing,
}

/// How often processes beat and look, and how long they wait. The same in all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one beat to the next.
    pub beat: Duration,
    /// From one look at the state to the next.
    pub look: Duration,
    /// A process that could not beat for so long starts no more work.
    pub lapse: Duration,
    /// How much longer it may record what it finishes.
    pub grace: Duration,
    /// A process whose beat is unchanged for so long is dead to the others.
    pub dead: Duration,
    /// What a process left that is dead for so long is taken away.
    pub forget: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(3),
            look: Duration::from_secs(1),
            lapse: Duration::from_secs(7),
            grace: Duration::from_secs(2),
            dead: Duration::from_secs(10),
            forget: Duration::from_secs(600),
        }
    }
}

/// Whose work is shared: what the members of one document have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Arc<str>);

impl Group {
    /// The subscribers of a Trigger.
    pub fn trigger(ObjectName { namespace, name }: &ObjectName) -> Self {
        Self(format!("trigger/{namespace}/{name}").into())
    }

    /// The sources and the sink of an EventSource.
    pub fn event_source(ObjectName { namespace, name }: &ObjectName) -> Self {
        Self(format!("source/{namespace}/{name}").into())
    }

    /// What is done once for the whole bus.
    pub(super) fn bus() -> Self {
        Self("bus".into())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What of a subscription is a process's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// Nothing.
    #[default]
    Nothing,
    /// All of it.
    All,
    /// These partitions of its topics, at least one.
    Partitions(BTreeSet<u16>),
}

impl Part {
    /// True for a partition that is in it.
    pub fn contains(&self, index: u16) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Partitions(indices) => indices.contains(&index),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_str("nothing"),
            Self::All => serializer.serialize_str("all"),
            Self::Partitions(indices) => serializer.collect_seq(indices),
        }
    }
}

/// How a subscription is divided, as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allotment {
    /// False until this process knows what is asked of the subscription and who else is there, and while it cannot know.
    pub known: bool,
    /// It is paused, in all processes.
    pub paused: bool,
    /// What this process may work on.
    pub mine: Part,
    /// What others own.
    pub others: BTreeMap<Name, Part>,
}

impl Allotment {
    /// What this process is to work on now.
    pub fn work(&self) -> &Part {
        if self.known && !self.paused { &self.mine } else { &Part::Nothing }
    }
}

/// The part of this process in what is shared on one bus. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Sharing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bus: Arc<dyn EventBus>,
    /// `None` on a bus inside the process.
    terms: Option<Terms>,
    board: Board,
    refused: watch::Sender<Option<Arc<str>>>,
}

impl Sharing {
    pub(super) fn new(bus: Arc<dyn EventBus>, topics: Topics, terms: Option<Terms>) -> Self {
        let board = Board::new(topics, terms.as_ref().map(|terms| (Arc::clone(&terms.name), terms.timing)));
        Self(Arc::new(Inner { bus, terms, board, refused: watch::Sender::new(None) }))
    }

    /// Takes part until `leave`, then gives everything back. Nothing may be held by then that is still worked on.
    pub(super) async fn run(self, leave: CancellationToken) {
        match &self.0.terms {
            Some(terms) => self.take_part(terms, &leave).await,
            None => self.follow(&leave).await,
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.0.terms.is_some()
    }

    /// Why this process takes no part, once that is for good.
    pub(super) fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.refused.subscribe()
    }

    /// Has the state looked at now.
    pub(super) fn nudge(&self) {
        self.0.board.nudge();
    }

    /// Takes part in a subscription. One that is `whole` has one owner, the others are split by the partitions of `topics`.
    pub(super) fn share(&self, group: Group, id: &SubscriptionId, topics: &[TopicName], whole: bool) -> Share {
        let (serial, allotment) = self.0.board.register(group, id, topics, whole);
        Share { sharing: self.clone(), id: id.clone(), serial, allotment }
    }

    /// Holds what is this process's of a subscription until the hold is dropped. A subscription that is not shared is held as a
    /// whole.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] while nothing of it is, or while it is held already.
    pub(super) fn hold(&self, id: &SubscriptionId) -> Result<(Part, Hold), BusError> {
        let (part, serial, tenure) = self.0.board.hold(id)?;
        Ok((part, Hold { sharing: self.clone(), serial, tenure }))
    }

    /// Whether some process works on a subscription; `None` where this process is the only one.
    pub(super) fn runs(&self, id: &SubscriptionId) -> Option<bool> {
        self.0.board.runs(id)
    }

    /// The same of one that may be paused.
    pub(super) fn has_workers(&self, id: &SubscriptionId) -> Option<bool> {
        self.0.board.has_workers(id)
    }

    /// The topics that other processes have declared, with their partitions and whether all of it is kept.
    pub(super) fn topics(&self) -> BTreeMap<TopicName, super::KnownTopic> {
        self.0.board.topics()
    }
}

/// Takes part in the work of one subscription, until dropped.
#[derive(Debug)]
pub struct Share {
    sharing: Sharing,
    id: SubscriptionId,
    serial: u64,
    allotment: watch::Receiver<Allotment>,
}

impl Share {
    /// How it is divided now.
    pub fn allotment(&self) -> Allotment {
        self.allotment.borrow().clone()
    }

    /// Follows it.
    pub fn watch(&self) -> watch::Receiver<Allotment> {
        self.allotment.clone()
    }

    /// Waits until there is something to work on.
    pub async fn wanted(&self) {
        self.differs(&Part::Nothing).await;
    }

    /// Waits until something else is to be worked on than `part`.
    pub async fn differs(&self, part: &Part) {
        let mut allotment = self.allotment.clone();
        if allotment.wait_for(|allotment| allotment.work() != part).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What is held of it: `None` until it is opened.
    pub fn held(&self) -> Option<Part> {
        self.sharing.0.board.held(&self.id)
    }

    /// Holds it without opening it: for what has no positions of its own.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] while it is not this process's.
    pub fn hold(&self) -> Result<Hold, BusError> {
        self.sharing.hold(&self.id).map(|(_, hold)| hold)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.sharing.0.board.unregister(&self.id, self.serial);
    }
}

/// Says that this process works on what it owns: until it is dropped, no other process is given it.
#[derive(Debug)]
pub struct Hold {
    sharing: Sharing,
    serial: u64,
    tenure: Option<Tenure>,
}

impl Hold {
    /// False once this process has not been able to beat for too long: others may have taken over.
    pub fn may_start(&self, now: Instant) -> bool {
        self.tenure.as_ref().is_none_or(|tenure| tenure.may_start(now))
    }

    /// Likewise, for recording what was finished.
    pub(super) fn may_record(&self, now: Instant) -> bool {
        self.tenure.as_ref().is_none_or(|tenure| tenure.may_record(now))
    }

    /// True where it may be another process's afterwards.
    pub(super) fn is_shared(&self) -> bool {
        self.tenure.is_some()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.sharing.0.board.release(self.serial);
    }
}

/// What is asked of a subscription where nothing is stored.
fn control_of(controls: &BTreeMap<String, Control>, id: &SubscriptionId) -> Control {
    controls.get(&super::control::key(id)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
