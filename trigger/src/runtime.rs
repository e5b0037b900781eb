//! A Trigger at work: one supervised lane a subscriber, each on its own.

use std::sync::Arc;

use evoke_api::names::ObjectName;
use evoke_delivery::metrics::Metrics;
use evoke_delivery::running::{Drained, Running, end};
use evoke_delivery::sinks::{SinkError, Sinks};
use evoke_delivery::subscription::{SelectorFactory, Snapshot, Supervisor, declare as declare_subscription};
use evoke_eventbus::bus::BusError;
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::sharing::{Allotment, Group};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::plan::{SubscriberPlan, TriggerPlan};
use crate::shared::Readings;

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
    lanes: Vec<Running<SubscriberPlan>>,
    /// Lanes that were told to end, and have not been seen to.
    ending: Vec<Running<SubscriberPlan>>,
    tasks: TaskTracker,
}

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
        let same = |subscriber: &SubscriberPlan| self.lanes.iter().any(|lane| lane.of == *subscriber);
        let new = self.prepare(plan, |subscriber| !same(subscriber))?;
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.lanes).into_iter().partition(|lane| plan.subscribers.contains(&lane.of));
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
        let running = lanes.into_iter().map(|(plan, lane)| Running::start(plan, lane, &self.tasks));
        self.lanes.extend(running);
    }

    /// Its name.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// How each subscriber is doing, in the order they were started.
    pub fn status(&self) -> Vec<SubscriberStatus> {
        let status = |lane: &Running<SubscriberPlan>| SubscriberStatus {
            subscriber: Arc::clone(&lane.of.subscription.id.subscriber),
            lane: lane.progress().snapshot(),
            allotment: lane.progress().allotment(),
            ended: lane.over(),
        };
        self.lanes.iter().map(status).collect()
    }

    /// What the Trigger waits for, in words; `None` when every subscriber reads what is this process's of it.
    pub fn waits_for(&self) -> Option<String> {
        self.lanes.iter().find_map(|lane| {
            let subscriber = &lane.of.subscription.id.subscriber;
            lane.waits_for().map(|what| format!("subscriber {subscriber} {what}"))
        })
    }

    /// Stops reading, lets deliveries finish until `deadline`, then cuts them short, and waits for all of it. What was not finished
    /// is delivered again by the next run.
    pub async fn stop(mut self, deadline: Instant) -> Drained {
        self.ending.append(&mut self.lanes);
        let drained = end(&mut self.ending, deadline).await;
        self.tasks.close();
        self.tasks.wait().await;
        drained
    }
}

#[cfg(test)]
mod tests;
