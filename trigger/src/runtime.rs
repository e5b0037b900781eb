//! A Trigger at work: one supervised lane a subscriber, each on its own.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::{ObjectName, SubscriptionId};
use evoke_delivery::metrics::Metrics;
use evoke_delivery::sinks::{SinkError, Sinks};
use evoke_delivery::subscription::{Progress, SelectorFactory, Snapshot, Supervisor, declare as declare_subscription};
use evoke_eventbus::bus::BusError;
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::sharing::{Allotment, Group};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::plan::{SubscriberPlan, TriggerPlan};
use crate::shared::Readings;

/// How long a lane may take to wind up once its deliveries are cut short.
const ABORTED: Duration = Duration::from_secs(3);

/// What the Triggers of one bus share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The bus, and the positions on it.
    pub subscriptions: Subscriptions,
    /// Where sinks come from.
    pub sinks: Sinks,
    /// What deliveries are counted with.
    pub metrics: Metrics,
    /// What conditions share.
    pub readings: Readings,
}

/// Makes sure that every subscriber has a durable position and every topic exists. To be called for all Triggers before any
/// source starts.
///
/// # Errors
/// The bus's.
pub async fn declare(plan: &TriggerPlan, subscriptions: &Subscriptions) -> Result<(), BusError> {
    for subscriber in &plan.subscribers {
        declare_subscription(subscriptions, &subscriber.subscription, subscriber.start.clone()).await?;
    }
    Ok(())
}

/// A Trigger that runs. Dropping it has its lanes finish by themselves; [`Trigger::stop`] waits for them.
#[derive(Debug)]
pub struct Trigger {
    name: ObjectName,
    surroundings: Surroundings,
    lanes: Vec<Running>,
    /// Lanes that were told to end, and have not been seen to.
    ending: Vec<Running>,
    tasks: TaskTracker,
    ended: watch::Sender<u64>,
}

#[derive(Debug)]
struct Running {
    plan: SubscriberPlan,
    progress: Progress,
    end: End,
    /// None once it was told to end.
    stop: Option<DropGuard>,
    abort: CancellationToken,
    task: JoinHandle<()>,
}

/// Why a lane is over that nobody stopped.
type End = Arc<Mutex<Option<Arc<str>>>>;

/// How one subscriber is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberStatus {
    /// Its name.
    pub subscriber: Arc<str>,
    /// Its lane.
    pub lane: Snapshot,
    /// How it is divided between processes, and whether it is paused.
    pub allotment: Allotment,
    /// Why it is over; `None` while it runs.
    pub ended: Option<Arc<str>>,
}

impl Trigger {
    /// Starts a lane for every subscriber. [`declare`] comes first. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`SinkError`]; nothing is started then.
    pub fn start(plan: &TriggerPlan, surroundings: Surroundings) -> Result<Self, SinkError> {
        let mut trigger = Self {
            name: plan.name.clone(),
            surroundings,
            lanes: Vec::new(),
            ending: Vec::new(),
            tasks: TaskTracker::new(),
            ended: watch::channel(0).0,
        };
        let new = trigger.prepare(plan, |_| true)?;
        trigger.launch(new);
        Ok(trigger)
    }

    /// Goes on with another plan of the same Trigger: subscribers that are the same in both are not touched. The others end
    /// first, by `deadline`, so that no two lanes ever write one position. [`declare`] comes before. Where it is cancelled, all that can be
    /// done is to stop the Trigger, which waits for those as well.
    ///
    /// # Errors
    /// [`SinkError`]; nothing is changed then.
    pub async fn update(&mut self, plan: &TriggerPlan, deadline: Instant) -> Result<(), SinkError> {
        let same = |subscriber: &SubscriberPlan| self.lanes.iter().any(|lane| lane.plan == *subscriber);
        let new = self.prepare(plan, |subscriber| !same(subscriber))?;
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.lanes).into_iter().partition(|lane| plan.subscribers.contains(&lane.plan));
        self.lanes = kept;
        self.ending.extend(gone);
        end(&mut self.ending, deadline).await;
        self.launch(new);
        Ok(())
    }

    /// Lanes for the subscribers that are wanted; none runs yet.
    fn prepare(
        &self,
        plan: &TriggerPlan,
        wanted: impl Fn(&SubscriberPlan) -> bool,
    ) -> Result<Vec<(SubscriberPlan, Supervisor)>, SinkError> {
        let Surroundings { subscriptions, sinks, metrics, readings } = &self.surroundings;
        let lane = |subscriber: &SubscriberPlan| {
            let outputs = sinks.outputs(&subscriber.subscription)?;
            let subscription = Arc::new(subscriber.subscription.clone());
            let (of, with) = (subscriber.clone(), readings.clone());
            let selector: SelectorFactory = Box::new(move || of.selector(&with));
            // What reads several topics may join them: that takes all of them in one place.
            let share = (Group::trigger(&plan.name), subscription.topics.len() > 1);
            let lane = Supervisor::new(subscriptions.clone(), subscription, outputs, selector, metrics, share);
            Ok((subscriber.clone(), lane))
        };
        plan.subscribers.iter().filter(|subscriber| wanted(subscriber)).map(lane).collect()
    }

    fn launch(&mut self, lanes: Vec<(SubscriberPlan, Supervisor)>) {
        for (plan, lane) in lanes {
            let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
            let (progress, end) = (lane.progress(), End::default());
            let task = self.tasks.spawn(follow(
                plan.subscription.id.clone(),
                lane.run(stop.clone(), abort.clone()),
                stop.clone(),
                Arc::clone(&end),
                self.ended.clone(),
            ));
            self.lanes.push(Running { plan, progress, end, stop: Some(stop.drop_guard()), abort, task });
        }
    }

    /// Its name.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// How each subscriber is doing, in the order they were started.
    pub fn status(&self) -> Vec<SubscriberStatus> {
        let status = |lane: &Running| SubscriberStatus {
            subscriber: Arc::clone(&lane.plan.subscription.id.subscriber),
            lane: lane.progress.snapshot(),
            allotment: lane.progress.allotment(),
            ended: lane.end.lock().clone(),
        };
        self.lanes.iter().map(status).collect()
    }

    /// What the Trigger waits for, in words; `None` when every subscriber reads what is this process's of it.
    pub fn waits_for(&self) -> Option<String> {
        self.lanes.iter().find_map(|Running { plan, progress, end, .. }| {
            let subscriber = &plan.subscription.id.subscriber;
            match &*end.lock() {
                Some(cause) => Some(format!("subscriber {subscriber} has ended: {cause}")),
                None => progress.waits_for().map(|what| format!("subscriber {subscriber} {what}")),
            }
        })
    }

    /// Changes whenever a lane ends that nobody stopped; [`Trigger::status`] says why.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Stops reading, lets deliveries finish until `deadline`, then cuts them short, and waits for all of it. What was not finished
    /// is delivered again by the next run.
    pub async fn stop(mut self, deadline: Instant) {
        self.ending.append(&mut self.lanes);
        end(&mut self.ending, deadline).await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Reports the end of a lane that nobody stopped.
async fn follow(
    id: SubscriptionId,
    work: impl Future<Output = Result<(), BusError>>,
    stopped: CancellationToken,
    end: End,
    ended: watch::Sender<u64>,
) {
    let cause: Arc<str> = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(_) if stopped.is_cancelled() => return,
        Ok(Ok(())) => "it came to an end".into(),
        Ok(Err(error)) => error.to_string().into(),
        Err(panic) => format!("a bug in evoke: {}", told(&*panic)).into(),
    };
    tracing::error!(subscriber = %id, %cause, "a subscriber has ended and delivers nothing until evoke is restarted");
    *end.lock() = Some(cause);
    ended.send_modify(|count| *count += 1);
}

fn told(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Ends lanes, all at once. Where it is cancelled, they are still there, and are ending.
async fn end(lanes: &mut Vec<Running>, deadline: Instant) {
    lanes.iter_mut().for_each(|lane| drop(lane.stop.take()));
    for lane in lanes.iter_mut().filter(|lane| !lane.task.is_finished()) {
        if timeout_at(deadline, &mut lane.task).await.is_err() {
            let subscriber = &lane.plan.subscription.id;
            tracing::warn!(%subscriber, "deliveries are cut short and will be repeated");
            lane.abort.cancel();
        }
    }
    let deadline = Instant::now() + ABORTED;
    for lane in lanes.iter_mut().filter(|lane| !lane.task.is_finished()) {
        if timeout_at(deadline, &mut lane.task).await.is_err() {
            tracing::warn!(subscriber = %lane.plan.subscription.id, "the lane does not end and is dropped");
            lane.task.abort();
        }
    }
    lanes.clear();
}

#[cfg(test)]
mod tests;
