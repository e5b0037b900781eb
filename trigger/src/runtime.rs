//! A Trigger at work: one supervised lane a subscriber, each on its own.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
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
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::plan::{SubscriberPlan, TriggerPlan};
use crate::shared::Shared;

/// How long an idle Trigger may hold on to the events that it read last.
const SWEEP: Duration = Duration::from_secs(1);
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
    tasks: TaskTracker,
    sweepers: CancellationToken,
    _sweepers_end: DropGuard,
    ended: watch::Sender<u64>,
}

#[derive(Debug)]
struct Running {
    plan: SubscriberPlan,
    progress: Progress,
    end: End,
    stop: DropGuard,
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
        let sweepers = CancellationToken::new();
        let mut trigger = Self {
            name: plan.name.clone(),
            surroundings,
            lanes: Vec::new(),
            tasks: TaskTracker::new(),
            _sweepers_end: sweepers.clone().drop_guard(),
            sweepers,
            ended: watch::channel(0).0,
        };
        let new = trigger.prepare(plan, |_| true)?;
        trigger.launch(new);
        Ok(trigger)
    }

    /// Goes on with another plan of the same Trigger: subscribers that are the same in both are not touched. The others end
    /// first, by `deadline`, so that no two lanes ever write one position. [`declare`] comes before.
    ///
    /// # Errors
    /// [`SinkError`]; nothing is changed then.
    pub async fn update(&mut self, plan: &TriggerPlan, deadline: Instant) -> Result<(), SinkError> {
        let same = |subscriber: &SubscriberPlan| self.lanes.iter().any(|lane| lane.plan == *subscriber);
        let new = self.prepare(plan, |subscriber| !same(subscriber))?;
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.lanes).into_iter().partition(|lane| plan.subscribers.contains(&lane.plan));
        self.lanes = kept;
        end(gone, deadline).await;
        self.launch(new);
        Ok(())
    }

    /// Lanes for the subscribers that are wanted; none runs yet.
    fn prepare(
        &self,
        plan: &TriggerPlan,
        wanted: impl Fn(&SubscriberPlan) -> bool,
    ) -> Result<Vec<(SubscriberPlan, Supervisor, Arc<Shared>)>, SinkError> {
        let Surroundings { subscriptions, sinks, metrics } = &self.surroundings;
        let shared = plan.shared();
        let lane = |subscriber: &SubscriberPlan| {
            let outputs = sinks.outputs(&subscriber.subscription)?;
            let subscription = Arc::new(subscriber.subscription.clone());
            let (of, with) = (subscriber.clone(), Arc::clone(&shared));
            let selector: SelectorFactory = Box::new(move || of.selector(&with));
            // What reads several topics may join them: that takes all of them in one place.
            let share = (Group::trigger(&plan.name), subscription.topics.len() > 1);
            let lane = Supervisor::new(subscriptions.clone(), subscription, outputs, selector, metrics, share);
            Ok((subscriber.clone(), lane, Arc::clone(&shared)))
        };
        plan.subscribers.iter().filter(|subscriber| wanted(subscriber)).map(lane).collect()
    }

    fn launch(&mut self, lanes: Vec<(SubscriberPlan, Supervisor, Arc<Shared>)>) {
        if let Some((_, _, shared)) = lanes.first()
            && shared.remembers()
        {
            self.tasks.spawn(sweep(Arc::downgrade(shared), self.sweepers.clone()));
        }
        for (plan, lane, _) in lanes {
            let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
            let (progress, end) = (lane.progress(), End::default());
            let task = self.tasks.spawn(follow(
                plan.subscription.id.clone(),
                lane.run(stop.clone(), abort.clone()),
                stop.clone(),
                Arc::clone(&end),
                self.ended.clone(),
            ));
            self.lanes.push(Running { plan, progress, end, stop: stop.drop_guard(), abort, task });
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
    pub async fn stop(self, deadline: Instant) {
        end(self.lanes, deadline).await;
        self.sweepers.cancel();
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

/// Ends lanes, all at once.
async fn end(lanes: Vec<Running>, deadline: Instant) {
    let mut ending = Vec::with_capacity(lanes.len());
    for Running { stop, abort, task, plan, .. } in lanes {
        drop(stop);
        ending.push((abort, task, plan.subscription.id));
    }
    let mut late = Vec::new();
    for (abort, mut task, id) in ending {
        if timeout_at(deadline, &mut task).await.is_err() {
            tracing::warn!(subscriber = %id, "deliveries are cut short and will be repeated");
            abort.cancel();
            late.push((task, id));
        }
    }
    let deadline = Instant::now() + ABORTED;
    for (mut task, id) in late {
        if timeout_at(deadline, &mut task).await.is_err() {
            tracing::warn!(subscriber = %id, "the lane does not end and is dropped");
            task.abort();
        }
    }
}

/// Has an idle Trigger let go of the events that it read last.
async fn sweep(shared: Weak<Shared>, stop: CancellationToken) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match shared.upgrade() {
            Some(shared) => shared.sweep(),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests;
