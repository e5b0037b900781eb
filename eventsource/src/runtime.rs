//! An EventSource's sources at work, and in step with a plan that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use evoke_adapters::cron::{Lease, LeftOff, Turn};
use evoke_adapters::marks::{BusMarks, Marks};
use evoke_adapters::metrics::{Metrics as SourceMetrics, SourceMetrics as OfSource};
use evoke_adapters::plan::Surroundings;
use evoke_adapters::source::{Context, Origin, Outlet, Source, SourceError, Status};
use evoke_adapters::webhook::Listeners;
use evoke_api::names::{ObjectName, TopicName};
use evoke_delivery::metrics::Metrics as DeliveryMetrics;
use evoke_delivery::plan::{DeadLetterPlan, DeliveryPolicy, SubscriptionPlan};
use evoke_delivery::running::{Drained, Running, end};
use evoke_delivery::sinks::{SinkError, Sinks};
use evoke_delivery::subscription::{self, Selector, Supervisor, Verdict};
use evoke_eventbus::bus::{BusError, From, Record};
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::sharing::Group;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::outlet::budget::Budget;
use crate::outlet::bus::BusOutlet;
use crate::outlet::letters::Letters;
use crate::outlet::sink::{Delivery, SinkOutlet};
use crate::plan::{EventPlan, EventSourcePlan};
use crate::turns::Turns;

/// The first wait before a source that ended by itself is started again; it doubles up to a minute.
const RESTART_DELAY: Duration = Duration::from_secs(1);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);

/// What all EventSources of a process share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Where sinks come from.
    pub sinks: Sinks,
    /// Where webhooks listen.
    pub listeners: Listeners,
    /// What may be held that is not settled.
    pub budget: Budget,
    /// Of sources.
    pub sources: SourceMetrics,
    /// The name of this process to what it reads from, the same after a restart.
    pub instance: Arc<str>,
    /// Of the EventSource's own sink.
    pub deliveries: DeliveryMetrics,
    /// Where sources left off.
    pub left_off: LeftOffs,
}

/// Where the sources of this process left off, for those that take their places: also in an EventSource that moves to another bus,
/// or that comes back since a change of the manifests is taken back. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct LeftOffs(Arc<Mutex<BTreeMap<Named, LeftOff>>>);

impl LeftOffs {
    /// Forgets the events that none of these plans has.
    pub fn retain<'a>(&self, plans: impl IntoIterator<Item = &'a EventSourcePlan>) {
        let kept: BTreeSet<Named> = plans.into_iter().flat_map(|plan| &plan.events).map(named).collect();
        self.0.lock().retain(|event, _| kept.contains(event));
    }

    fn of(&self, plan: &EventPlan) -> LeftOff {
        self.0.lock().entry(named(plan)).or_default().clone()
    }
}

/// Why an EventSource cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus refused.
    #[error("the bus: {0}")]
    Bus(#[from] BusError),
    /// A sink cannot be made.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// A running EventSource. Dropping it ends its sources without waiting; [`EventSource::stop`] settles what they read.
#[derive(Debug)]
pub struct EventSource {
    plan: EventSourcePlan,
    shared: Shared,
    subscriptions: Option<Subscriptions>,
    events: Vec<Event>,
    sink: Option<Running<SubscriptionPlan>>,
    /// What delivers to the sink where there is no bus: one for all sources, so that they share its `maxInFlight`.
    delivery: Option<Arc<Delivery>>,
    /// What was told to end, and has not been seen to.
    ending: Ending,
    tasks: TaskTracker,
}

/// An EventSource, an event of it, and the kind of its source.
type Named = (ObjectName, Arc<str>, &'static str);

#[derive(Debug)]
struct Event {
    plan: EventPlan,
    status: watch::Receiver<Status>,
    /// None once it was told to end.
    stop: Option<DropGuard>,
    task: JoinHandle<()>,
}

/// See [`EventSource`]. Whoever waits here may be cancelled, and another one goes on.
#[derive(Debug, Default)]
struct Ending {
    events: Vec<Event>,
    sinks: Vec<Running<SubscriptionPlan>>,
}

impl EventSource {
    /// An EventSource of which nothing runs yet: [`EventSource::change`] to the same plan starts it. `subscriptions` are those of the
    /// plan's bus.
    pub fn new(plan: &EventSourcePlan, subscriptions: Option<Subscriptions>, shared: Shared) -> Self {
        Self {
            plan: EventSourcePlan { events: Vec::new(), sink: None, ..plan.clone() },
            shared,
            subscriptions,
            events: Vec::new(),
            sink: None,
            delivery: None,
            ending: Ending::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &EventSourcePlan {
        &self.plan
    }

    /// How each of its sources is doing.
    pub fn sources(&self) -> impl Iterator<Item = (&EventPlan, Status)> {
        self.events.iter().map(|event| (&event.plan, event.status.borrow().clone()))
    }

    /// Its own sink, where there is a bus.
    pub fn sink(&self) -> Option<&Running<SubscriptionPlan>> {
        self.sink.as_ref()
    }

    /// Takes another plan of the same EventSource over: what is the same in both goes on undisturbed. The topics and the position of
    /// its own sink exist before its sources read anything. Where it is cancelled, another call may go on with it.
    ///
    /// # Errors
    /// [`StartError`]; what has been started or ended by then stays so, and another call may mend it.
    pub async fn change(&mut self, plan: EventSourcePlan) -> Result<(), StartError> {
        let deadline = Instant::now() + evoke_api::limits::DRAIN;
        // Where dead letters go is part of every source; so is the sink where there is no bus.
        let same_ends = plan.bus == self.plan.bus
            && plan.dead_letter == self.plan.dead_letter
            && (plan.bus.is_some() || plan.sink == self.plan.sink);
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.events)
            .into_iter()
            .partition(|event| same_ends && plan.events.contains(&event.plan));
        self.events = kept;
        let ended: Vec<_> = gone.iter().map(|event| event.plan.clone()).collect();
        self.ending.events.extend(gone);
        self.ending.events(&self.shared, deadline).await;
        for event in ended.iter().filter(|event| !plan.events.iter().any(|other| named(other) == named(event))) {
            self.shared.sources.forget(&event.origin, event.source.kind());
        }
        if !same_ends {
            self.delivery = None;
        }
        if let (Some(subscriptions), true) = (&self.subscriptions, plan.bus.is_some()) {
            subscriptions.declare_store(&TopicName::dead_letters()).await?;
            if let DeadLetterPlan::Topic(topic) = &plan.dead_letter {
                subscriptions.declare_store(topic).await?;
            }
            self.change_sink(plan.sink.as_ref(), deadline).await?;
        }
        for event in &plan.events {
            if !self.events.iter().any(|running| running.plan == *event) {
                let started = self.start_event(event, &plan).await?;
                self.events.push(started);
            }
        }
        self.plan = plan;
        Ok(())
    }

    /// Ends its sources once they have settled what they read, then its own sink, all by `deadline`.
    pub async fn stop(mut self, deadline: Instant) -> Drained {
        self.ending.events.append(&mut self.events);
        let settled = self.ending.events(&self.shared, deadline).await;
        self.ending.sinks.extend(self.sink.take());
        settled.max(end(&mut self.ending.sinks, deadline).await)
    }

    async fn change_sink(&mut self, plan: Option<&SubscriptionPlan>, deadline: Instant) -> Result<(), StartError> {
        if self.sink.as_ref().map(|lane| &lane.of) == plan {
            return Ok(());
        }
        self.ending.sinks.extend(self.sink.take());
        end(&mut self.ending.sinks, deadline).await;
        let (Some(plan), Some(subscriptions)) = (plan, &self.subscriptions) else { return Ok(()) };
        subscription::declare(subscriptions, plan, From::Next).await?;
        let outputs = self.shared.sinks.outputs(plan)?;
        let metrics = &self.shared.deliveries;
        let share = (Group::event_source(&plan.id.owner), false);
        let selector = Box::new(|| Box::new(Everything) as Box<dyn Selector>);
        let lane = Supervisor::new(subscriptions.clone(), Arc::new(plan.clone()), outputs, selector, metrics, share);
        self.sink = Some(Running::start(plan.clone(), lane, &self.tasks));
        Ok(())
    }

    async fn start_event(&mut self, plan: &EventPlan, of: &EventSourcePlan) -> Result<Event, StartError> {
        let outlet = self.outlet(plan, of).await?;
        let (status, seen) = watch::channel(Status::Connecting("starting".into()));
        let stop = CancellationToken::new();
        let marks = self.subscriptions.as_ref().map(|s| Arc::new(BusMarks(Arc::clone(s.bus()))) as Arc<dyn Marks>);
        let turns = self.subscriptions.as_ref().filter(|s| s.is_shared() && plan.source.takes_turns());
        let left_off = self.shared.left_off.of(plan);
        let turns = turns.map(|subscriptions| Turns::new(subscriptions, &plan.origin, left_off.since()));
        let keep = Keep { plan: plan.clone(), shared: self.shared.clone(), marks, turns, left_off };
        let context = Context { outlet, status, cancel: stop.clone() };
        let task = self.tasks.spawn(keep.run(context, seen.clone()));
        Ok(Event { plan: plan.clone(), status: seen, stop: Some(stop.drop_guard()), task })
    }

    async fn outlet(&mut self, plan: &EventPlan, of: &EventSourcePlan) -> Result<Arc<dyn Outlet>, StartError> {
        let metrics = self.shared.sources.of(&plan.origin, plan.source.kind());
        let (origin, budget) = (plan.origin.clone(), self.shared.budget.clone());
        let policy = of.sink.as_ref().map_or_else(DeliveryPolicy::default, |sink| sink.policy.clone());
        let letter_sink = match &of.dead_letter {
            DeadLetterPlan::Sink(sink) => Some(self.shared.sinks.sink(sink, policy.timeout)?),
            DeadLetterPlan::Topic(_) | DeadLetterPlan::Store => None,
        };
        let Some(subscriptions) = &self.subscriptions else {
            let letters = letter_sink.map(|sink| Letters { sink: Some(sink), policy: policy.clone(), topic: None });
            let Some(SubscriptionPlan { id, sink: Some(sink), .. }) = &of.sink else {
                return Err(StartError::Bus(BusError::Closed));
            };
            let delivery = match &self.delivery {
                Some(delivery) => Arc::clone(delivery),
                None => {
                    let sink = self.shared.sinks.sink(sink, policy.timeout)?;
                    Arc::clone(self.delivery.insert(Arc::new(Delivery::new(id.clone(), sink, policy, letters))))
                }
            };
            return Ok(Arc::new(SinkOutlet { origin, delivery, budget, metrics }));
        };
        subscriptions.declare_topic(&plan.topic).await?;
        let letter_topic = match &of.dead_letter {
            DeadLetterPlan::Topic(topic) => topic.clone(),
            DeadLetterPlan::Sink(_) | DeadLetterPlan::Store => TopicName::dead_letters(),
        };
        subscriptions.declare_store(&letter_topic).await?;
        let letters = Letters { sink: letter_sink, policy, topic: Some((subscriptions.clone(), letter_topic)) };
        let (health, subscriptions, topic) = (subscriptions.bus().health(), subscriptions.clone(), plan.topic.clone());
        Ok(Arc::new(BusOutlet { origin, subscriptions, health, topic, letters, budget, metrics }))
    }
}

impl Ending {
    /// Ends sources once they have settled what they read.
    async fn events(&mut self, shared: &Shared, deadline: Instant) -> Drained {
        let mut drained = Drained::Whole;
        self.events.iter_mut().for_each(|event| drop(event.stop.take()));
        for Event { plan, task, .. } in &mut self.events {
            if !task.is_finished() && timeout_at(deadline, &mut *task).await.is_err() {
                let (event_source, event) = (&plan.origin.event_source, &*plan.origin.event);
                tracing::warn!(%event_source, event, "the source did not settle in time; what it read is read again");
                drained = Drained::CutShort;
                task.abort();
            }
            shared.sources.of(&plan.origin, plan.source.kind()).up.set(0);
        }
        self.events.clear();
        drained
    }
}

fn named(plan: &EventPlan) -> Named {
    (plan.origin.event_source.clone(), plan.origin.event.clone(), plan.source.kind())
}

/// Keeps one source at work.
struct Keep {
    plan: EventPlan,
    shared: Shared,
    marks: Option<Arc<dyn Marks>>,
    /// For a source that must run in one process only.
    turns: Option<Turns>,
    /// For a source that goes by the clock.
    left_off: LeftOff,
}

impl Keep {
    async fn run(self, context: Context, status: watch::Receiver<Status>) {
        let origin = &self.plan.origin;
        let metrics = self.shared.sources.of(origin, self.plan.source.kind());
        let this = &self;
        let work = async {
            // The status's sender ends with the work, and the report with it.
            let context = context;
            match &this.turns {
                None => keep(origin, || this.source(None), context, &metrics).await,
                Some(turns) => {
                    let run = |context: Context, lease: Lease| {
                        keep(origin, move || this.source(Some(lease.clone())), context, &metrics).boxed()
                    };
                    turns.run(&context, run).await;
                }
            }
        };
        tokio::join!(work, report(origin, status, &metrics));
    }

    fn source(&self, lease: Option<Lease>) -> Result<Box<dyn Source>, SourceError> {
        let EventPlan { origin, source, .. } = &self.plan;
        let Shared { sources, instance, listeners, .. } = &self.shared;
        let metrics = sources.of(origin, source.kind());
        let turn = Some(Turn { left_off: self.left_off.clone(), lease });
        source.source(origin, Surroundings { metrics, instance, marks: self.marks.clone(), turn, listeners })
    }
}

/// Runs a source until it is cancelled, and starts another one with back-off when it ends before.
async fn keep(
    origin: &Origin,
    make: impl Fn() -> Result<Box<dyn Source>, SourceError>,
    context: Context,
    metrics: &OfSource,
) {
    let Origin { event_source, event, .. } = origin;
    let mut delay = RESTART_DELAY;
    loop {
        let started = Instant::now();
        let (made, given) = (make(), context.clone());
        let run = AssertUnwindSafe(async { made?.run(given).await }).catch_unwind();
        let cause: Arc<str> = match run.await {
            _ if context.cancel.is_cancelled() => return,
            Ok(Ok(())) => "it ended by itself".into(),
            Ok(Err(error)) => error.0,
            Err(_) => "it panicked".into(),
        };
        if started.elapsed() > RESTART_DELAY_MAX {
            delay = RESTART_DELAY;
        }
        tracing::error!(%event_source, %event, %cause, retry_in = ?delay, "the source does not run");
        context.status.send_replace(Status::Down(cause));
        metrics.reconnects.inc();
        tokio::select! {
            () = context.cancel.cancelled() => return,
            () = sleep(delay) => delay = RESTART_DELAY_MAX.min(delay * 2),
        }
    }
}

/// Says how a source is doing: a line in the log for each change, and a metric.
async fn report(origin: &Origin, mut status: watch::Receiver<Status>, metrics: &OfSource) {
    let Origin { event_source, event, .. } = origin;
    loop {
        let now = status.borrow_and_update().clone();
        metrics.up.set((now == Status::Up).into());
        match now {
            Status::Up => tracing::info!(%event_source, %event, "the source is up"),
            Status::Connecting(what) => tracing::info!(%event_source, %event, %what, "the source is not reading yet"),
            Status::Down(cause) => tracing::warn!(%event_source, %event, %cause, "the source is down and tries again"),
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// What an EventSource's own sink gets.
#[derive(Clone, Copy, Debug)]
pub struct Everything;

impl Selector for Everything {
    fn select(&mut self, _topic: usize, _record: &Record) -> Verdict {
        Verdict::Match
    }

    fn window(&self) -> Option<Duration> {
        None
    }

    fn observe(&mut self, _topic: usize, _record: &Record) {}
}

#[cfg(test)]
mod tests;
