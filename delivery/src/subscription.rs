//! Reads a bus, selects, delivers and records: one durable position a subscriber.
//!
//! ```text
//!  cursors -> intake (merged by time) -> selector -> order -> flights (at most maxInFlight) -> ledger
//!                                                       ^        | failed
//!                                                       |        v
//!                                                     shelf: waiting for a retry, or behind another event of the key
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `supervisor` | runs a lane while something of the subscription is this process's |
//! | `lane` | a subscription's start and end |
//! | `engine` | its one loop: what is read, started, landed and recorded |
//! | `intake` | its inputs as one stream |
//! | `errand` | what makes a lane a job's: it ends, and it prepares events |
//! | `flight` | one attempt for one event, and where it lands |
//! | `shelf` | events put aside |
//! | `order` | which event of a key waits for which |
//! | `again` | reading what was read before |
//! | `recent` | what was delivered a short time ago |
//! | `warm` | what a start has to know of the time before |
//! | `status` | what it can be asked while it runs |

use std::time::Duration;

use evoke_eventbus::bus::Record;

mod again;
mod engine;
mod errand;
mod flight;
mod intake;
mod lane;
mod order;
mod recent;
mod shelf;
mod status;
mod supervisor;
mod warm;

pub use errand::REPLAY;
pub use lane::{Lane, declare};
pub use status::{Snapshot, Status};
pub use supervisor::{Progress, SelectorFactory, Supervisor};

/// Whether an event goes to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Match,
    /// It does not.
    NoMatch,
    /// It does not, since an input that the condition reads has not arrived.
    Waiting,
    /// It does not, since the condition could not be evaluated; says why.
    Error(String),
}

/// Decides which events a subscription delivers. Called with the events of each topic in order, and for several topics merged by
/// time of append; never concurrently.
pub trait Selector: Send {
    /// Judges one event of the topic at index `topic` of the subscription's `topics`, and remembers it.
    fn select(&mut self, topic: usize, record: &Record) -> Verdict;

    /// How far back events must be shown to `observe` before the first `select` after a start, by time of append; `None` when
    /// earlier events do not matter.
    fn window(&self) -> Option<Duration>;

    /// A number that stays the same, over restarts too, for as long as events are judged alike.
    fn fingerprint(&self) -> u64 {
        0
    }

    /// Remembers an event without judging it.
    fn observe(&mut self, topic: usize, record: &Record);
}

#[cfg(test)]
mod tests;
