//! A job as the lane that it is: what it reads, what it selects, where it delivers to.

use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::{SubscriptionId, TopicName};
use evoke_eventbus::bus::{BusError, EventBus, Record};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::intervals::Intervals;
use evoke_eventbus::subscription::job::{Job, Work};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use url::Url;

use super::Subscribers;
use crate::dead_letters;
use crate::metrics::Metrics;
use crate::plan::{DeadLetterPlan, SinkPlan, SubscriptionPlan};
use crate::sink::{Outcome, Sink};
use crate::sinks::{Outputs, Sinks};
use crate::subscription::{Lane, Selector, Verdict};

/// Why a replay does not go on after a restart.
const FORGOTTEN: &str =
    "the user and password of its URL were known only to the evoke that was asked, until it ended: ask again";

/// Why a job has no lane.
#[derive(Debug)]
pub(super) enum Unmade {
    /// The bus did not say what is needed: it may do so later.
    Yet(BusError),
    /// It never will; in words, why.
    Ever(String),
}

impl From<String> for Unmade {
    fn from(cause: String) -> Self {
        Self::Ever(cause)
    }
}

impl From<BusError> for Unmade {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Broken(_) => Self::Ever(error.to_string()),
            error => Self::Yet(error),
        }
    }
}

/// Makes the lane of a job of the subscriber that `plan` is the plan of.
///
/// # Errors
/// Why it cannot be made, now or ever.
pub(super) async fn lane(
    subscriptions: &Subscriptions,
    job: &Arc<Job>,
    plan: &SubscriptionPlan,
    subscribers: &dyn Subscribers,
    sinks: &Sinks,
    metrics: &Metrics,
) -> Result<Lane, Unmade> {
    let mut plan = plan.clone();
    // What was delivered before is what is asked for.
    plan.policy.deduplication_window = None;
    let (selector, outputs) = match &job.work {
        Work::Redrive { letters } => {
            plan.topics = vec![TopicName::dead_letters()];
            let selector = Letters::of(&**subscriptions.bus(), &plan.id, letters).await?;
            (Box::new(selector) as Box<dyn Selector>, sinks.outputs(&plan).map_err(|error| error.to_string())?)
        }
        Work::Replay { to, login, .. } => {
            let Some(selector) = subscribers.selector(&plan.id) else {
                return Err(Unmade::Ever("its subscriber is gone".into()));
            };
            let outputs = match to {
                Some(_) if *login => {
                    let Some(to) = subscribers.target(&job.id) else { return Err(Unmade::Ever(FORGOTTEN.into())) };
                    elsewhere(&mut plan, to.expose(), sinks)?
                }
                Some(to) => elsewhere(&mut plan, to, sinks)?,
                None => sinks.outputs(&plan).map_err(|error| error.to_string())?,
            };
            (selector, outputs)
        }
    };
    Ok(Lane::new(subscriptions.clone(), Arc::new(plan), outputs, selector, metrics).of_job(Arc::clone(job)))
}

/// Makes a plan deliver to a URL and nowhere else: what fails there for good is no dead letter of the subscriber's.
fn elsewhere(plan: &mut SubscriptionPlan, to: &str, sinks: &Sinks) -> Result<Outputs, String> {
    // The text itself may hold a password: it is never quoted.
    let sink = SinkPlan::Http(Url::parse(to).map_err(|error| format!("what it delivers to is no URL: {error}"))?);
    let made = sinks.sink(&sink, plan.policy.timeout).map_err(|error| error.to_string())?;
    (plan.dead_letter, plan.sink) = (DeadLetterPlan::Sink(sink.clone()), Some(sink));
    (plan.topic, plan.reply) = (None, None);
    Ok(Outputs { sink: Some(made), dead_letter: Some(Arc::new(Nowhere)), bucket: None })
}

/// Takes what failed at another sink: it is counted, and that is all.
struct Nowhere;

impl Sink for Nowhere {
    fn deliver<'a>(&'a self, _: &'a Event) -> BoxFuture<'a, Outcome> {
        std::future::ready(Outcome::Delivered).boxed()
    }

    fn destination(&self) -> &str {
        ""
    }
}

/// Selects dead letters of one subscriber.
struct Letters {
    of: SubscriptionId,
    wanted: Intervals,
    removed: Intervals,
}

impl Letters {
    async fn of(bus: &dyn EventBus, of: &SubscriptionId, wanted: &Intervals) -> Result<Self, BusError> {
        let removed = dead_letters::removed(bus, Some(of)).await?;
        Ok(Self { of: of.clone(), wanted: wanted.clone(), removed })
    }
}

impl Selector for Letters {
    fn select(&mut self, _: usize, record: &Record) -> Verdict {
        let is_wanted = self.wanted.contains(record.at)
            && !self.removed.contains(record.at)
            && dead_letters::origin(&record.event).is_some_and(|origin| origin == self.of);
        if is_wanted { Verdict::Match } else { Verdict::NoMatch }
    }

    fn window(&self) -> Option<Duration> {
        None
    }

    fn observe(&mut self, _: usize, _: &Record) {}
}
