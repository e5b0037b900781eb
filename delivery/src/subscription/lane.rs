//! One subscription at work, in one task: read, select, deliver, retry, record.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::limits;
use evoke_api::names::{SubscriptionId, TopicName};
use evoke_eventbus::bus::{BusError, From, Partition};
use evoke_eventbus::subscription::job::Job;
use evoke_eventbus::subscription::ledger;
use evoke_eventbus::subscription::start::Start;
use evoke_eventbus::subscription::{Input, Subscription, Subscriptions};
use tokio_util::sync::CancellationToken;

use super::Selector;
use super::engine::{Engine, Parts};
use super::flight::{Route, Target};
use super::intake::Unread;
use super::recent::Recent;
use super::status::Status;
use super::warm::warm_up;
use crate::metrics::Metrics;
use crate::plan::{DeadLetterPlan, SubscriptionPlan};
use crate::rate::Pace;
use crate::sinks::Outputs;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// What does not pass by itself is looked at again this often: somebody may repair it.
const BROKEN_MAX: Duration = Duration::from_secs(60);
/// How long the last write of the positions may take.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Makes sure that a subscription has a durable position, `start` where it has none yet, and that the topics exist on which it
/// reads and publishes. To be called for all subscriptions before any source starts.
///
/// # Errors
/// The bus's.
pub async fn declare(
    subscriptions: &Subscriptions,
    plan: &SubscriptionPlan,
    start: impl Into<Start>,
) -> Result<(), BusError> {
    subscriptions.declare_store(&TopicName::dead_letters()).await?;
    if let DeadLetterPlan::Topic(topic) = &plan.dead_letter {
        subscriptions.declare_store(topic).await?;
    }
    for topic in plan.topic.iter().chain(&plan.reply) {
        subscriptions.declare_topic(topic).await?;
    }
    subscriptions.declare(&plan.id, &plan.topics, start).await
}

/// One subscription, ready to run.
pub struct Lane {
    subscriptions: Subscriptions,
    plan: Arc<SubscriptionPlan>,
    outputs: Outputs,
    selector: Box<dyn Selector>,
    metrics: Metrics,
    status: Status,
    job: Option<Arc<Job>>,
}

impl Lane {
    /// A subscription that delivers to `outputs`, which [`Sinks::outputs`](crate::sinks::Sinks::outputs) makes of the plan.
    pub fn new(
        subscriptions: Subscriptions,
        plan: Arc<SubscriptionPlan>,
        outputs: Outputs,
        selector: Box<dyn Selector>,
        metrics: &Metrics,
    ) -> Self {
        Self { subscriptions, plan, outputs, selector, metrics: metrics.clone(), status: Status::default(), job: None }
    }

    /// The same for a job beside the subscription, of whose plan the topics are those that the job reads. It ends by itself, and
    /// [`Status::is_complete`] then says so.
    #[must_use]
    pub fn of_job(self, job: Arc<Job>) -> Self {
        Self { job: Some(job), ..self }
    }

    /// The name under which its events are counted.
    fn counted_as(&self) -> SubscriptionId {
        self.job.as_ref().map_or_else(|| self.plan.id.clone(), |job| job.counted_as())
    }

    /// Follows it.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Runs until `stop`, then finishes the deliveries that run until `abort`, and records where it is. What is not finished by
    /// then is delivered again by the next run. Dropping it instead loses nothing either.
    ///
    /// # Errors
    /// [`BusError::Closed`]; it waits for a bus that is away, and for one that is broken until somebody has repaired it.
    pub async fn run(mut self, stop: CancellationToken, abort: CancellationToken) -> Result<(), BusError> {
        let Some(opened) = stop.run_until_cancelled(self.open()).await else { return Ok(()) };
        let mut engine = Engine::new(opened?, self.selector);
        let book = engine.book();
        let ended = {
            let (mut stopped, mut aborted) = (pin!(stop.cancelled()), pin!(abort.cancelled()));
            std::future::poll_fn(|cx| engine.poll(cx, stopped.as_mut(), aborted.as_mut())).await
        };
        drop(engine);
        if tokio::time::timeout(LAST_WRITE, book.flush()).await.is_err() {
            tracing::warn!(subscriber = %self.plan.id, "the last position could not be recorded: some deliveries will repeat");
        }
        ended
    }

    async fn open(&mut self) -> Result<Parts, BusError> {
        let (mut delay, mut said) = (RETRY_FIRST, None);
        loop {
            match self.try_open().await {
                Err(error @ BusError::Closed) => return Err(error),
                Err(error) => {
                    let is_broken = matches!(error, BusError::Broken(_));
                    if said.as_ref() != Some(&is_broken) {
                        let subscriber = &self.plan.id;
                        match is_broken {
                            true => {
                                tracing::error!(%subscriber, %error, "cannot start until this is repaired, trying again");
                            }
                            false => tracing::warn!(%subscriber, %error, "cannot start, trying again"),
                        }
                        said = Some(is_broken);
                    }
                    self.status.failed(&error.to_string());
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(if is_broken { BROKEN_MAX } else { RETRY_MAX });
                }
                Ok((subscription, route, parked, unread, recent)) => {
                    if said.is_some() {
                        tracing::info!(subscriber = %self.plan.id, "has started");
                        self.status.works();
                    }
                    let metrics = self.metrics.of(&self.counted_as());
                    return Ok(Parts {
                        subscriptions: self.subscriptions.clone(),
                        subscription,
                        route: Arc::new(route),
                        parked,
                        unread,
                        recent,
                        pace: Pace::new(self.outputs.bucket.clone(), metrics.rate_waited.clone()),
                        metrics,
                        status: self.status.clone(),
                        job: self.job.clone(),
                    });
                }
            }
        }
    }

    async fn try_open(&mut self) -> Result<(Subscription, Route, usize, Vec<Unread>, Option<Recent>), BusError> {
        let plan = Arc::clone(&self.plan);
        let bus = Arc::clone(self.subscriptions.bus());
        let mut route = Route {
            id: plan.id.clone(),
            counted_as: self.counted_as(),
            bus: Arc::clone(&bus),
            by: match &self.job {
                Some(job) => format!("{} {}", plan.id, job.id.0).into(),
                None => plan.id.to_string().into(),
            },
            policy: plan.policy.clone(),
            sink: self.outputs.sink.clone(),
            reply: target(&self.subscriptions, plan.reply.as_ref(), false).await?,
            replies: self.metrics.replies(&self.counted_as()),
            topic: target(&self.subscriptions, plan.topic.as_ref(), false).await?,
            letter_sink: self.outputs.dead_letter.clone(),
            letter_topic: match &plan.dead_letter {
                DeadLetterPlan::Topic(topic) => target(&self.subscriptions, Some(topic), true).await?,
                DeadLetterPlan::Sink(_) | DeadLetterPlan::Store => None,
            },
            store: Target { topic: TopicName::dead_letters(), partitions: 1 },
        };
        self.subscriptions.declare_store(&route.store.topic).await?;
        // Only a bus that has answered knows how much it takes.
        let (places, parked) = fit(plan.policy.max_in_flight, ledger::open_within(bus.max_value_bytes()));
        route.policy.max_in_flight = places;
        let subscription = match &self.job {
            Some(job) => self.subscriptions.open_job(job, &plan.topics, places).await?,
            None => self.subscriptions.open(&plan.id, &plan.topics, places).await?,
        };
        let inputs = subscription.inputs.iter().map(|Input { cursor, .. }| cursor);
        let at: Vec<(Partition, From)> =
            inputs.map(|cursor| (cursor.partition().clone(), From::At(cursor.position()))).collect();
        let marks = bus.locate(&at).await?;
        subscription.correct(&marks);
        let unread = marks.iter().map(Unread::from_mark).collect();
        let window = plan.policy.deduplication_window;
        let mut recent = window
            .map(|window| Recent::new(window, subscription.inputs.len(), self.metrics.forgotten(&self.counted_as())));
        warm_up(&*bus, &plan.id, &subscription, &mut *self.selector, recent.as_mut()).await?;
        Ok((subscription, route, parked, unread, recent))
    }
}

/// How many events may be under way and how many put aside, where a ledger may have `open` of both: it must fit into a value of the
/// bus's state, or nothing could be recorded any more.
fn fit(max_in_flight: usize, open: usize) -> (usize, usize) {
    let in_flight = max_in_flight.min(open / 2).max(1);
    (in_flight, open.saturating_sub(in_flight).clamp(1, limits::PARKED_EVENTS))
}

async fn target(
    subscriptions: &Subscriptions,
    topic: Option<&TopicName>,
    keep: bool,
) -> Result<Option<Target>, BusError> {
    let Some(topic) = topic else { return Ok(None) };
    let made = match keep {
        true => subscriptions.declare_store(topic).await?,
        false => subscriptions.declare_topic(topic).await?,
    };
    Ok(Some(Target { topic: topic.clone(), partitions: made.partitions }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_fits_into_the_state_of_every_bus() {
        let open = ledger::open_within(limits::STATE_VALUE_BYTES);
        for max_in_flight in [1, 100, 10_000] {
            assert_eq!(fit(max_in_flight, open), (max_in_flight, limits::PARKED_EVENTS), "of {open}");
        }
        for (max_in_flight, open) in [(100, 250), (10_000, 250), (100, 10), (1, 2)] {
            let (in_flight, parked) = fit(max_in_flight, open);
            assert!(in_flight + parked <= open && in_flight > 0 && parked > 0, "{in_flight} and {parked} of {open}");
        }
    }
}
