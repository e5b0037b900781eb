//! Redrive, replay and purge: what is delivered again, beside the subscription and without moving its position.
//!
//! | module | holds |
//! | --- | --- |
//! | `runner` | runs the jobs of a bus in this process |
//! | `launch` | a job as the lane that it is |
//! | `turn` | which of several redrives goes first |
//! | `redrive` | dead letters to jobs |
//! | `purge` | dead letters taken off the list |
//! | `replay` | a part of the log to a job, or to a count |

use std::sync::Arc;

use evoke_api::credentials::Secret;
use evoke_api::names::SubscriptionId;
use evoke_eventbus::subscription::job::{Job, JobId};

use crate::plan::SubscriptionPlan;
use crate::subscription::Selector;

mod launch;
mod purge;
mod redrive;
mod replay;
mod runner;
mod turn;

pub use purge::{Purged, purge};
pub use redrive::{Redriven, redrive};
pub use replay::{BadSpan, Counting, Span, Start, count, ranges};
pub use runner::{Jobs, Runner};

/// The subscribers that run in this process, as they are planned now.
pub trait Subscribers: Send + Sync {
    /// The plan of one; `None` if it does not run here.
    fn plan(&self, id: &SubscriptionId) -> Option<Arc<SubscriptionPlan>>;

    /// What selects its events, new.
    fn selector(&self, id: &SubscriptionId) -> Option<Box<dyn Selector>>;

    /// Whether a job of one of them may be run here.
    fn takes(&self, job: &Job) -> bool;

    /// The whole URL that a replay delivers to, of one that was asked for here with a user and a password.
    fn target(&self, job: &JobId) -> Option<Secret>;
}

/// A name that no other job has.
pub fn new_id() -> JobId {
    JobId(uuid::Uuid::now_v7().simple().to_string().into())
}

#[cfg(test)]
mod tests;
