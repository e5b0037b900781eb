//! Plans to what runs: at the start, after every change of the manifests, and to the end.
//!
//! Parts start in the order bus, function, Trigger, EventSource, so that every subscription has a durable position before a source
//! reads anything; what waits for a bus that is away starts when it comes; they end in the reverse order, so that whatever is read is settled and whatever is delivered is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use evoke_adapters::plan::tell_apart;
use evoke_adapters::webhook::Listeners;
use evoke_api::catalog::BusName;
use evoke_api::limits;
use evoke_api::names::ObjectName;
use evoke_delivery::endpoints::Endpoints;
use evoke_delivery::jobs::{Jobs, Runner};
use evoke_delivery::running::Drained;
use evoke_delivery::sinks::{SinkError, Sinks};
use evoke_eventbus::bus::BusError;
use evoke_eventbus::plan::BusKind;
use evoke_eventsource::plan::EventSourcePlan;
use evoke_eventsource::runtime::{EventSource, LeftOffs, Shared, StartError};
use evoke_function::plan::FunctionPlan;
use evoke_function::process::{LogOutput, ProcessHost};
use evoke_function::{guard, runtime as function};
use evoke_trigger::plan::TriggerPlan;
use evoke_trigger::runtime::{self as trigger, Surroundings, Trigger};
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::buses::{RunningBus, label, names};
use super::identity::Identity;
use super::kinds::{Change, Kinds, Left};
use super::metrics::Metrics;
use super::plan::Plans;
use crate::api::board::{Board, OnBoard};

mod view;

/// How long a bus may take to give a Trigger its positions before it counts as away.
const DECLARE: Duration = Duration::from_secs(10);

/// What is left of the time for an end when deliveries are cut short, for functions to end,
const FUNCTIONS_LEFT: Duration = Duration::from_secs(7);
/// and when those are killed, for buses to be closed.
const BUSES_LEFT: Duration = Duration::from_secs(3);

/// What the parts of a pipeline share.
pub(crate) struct Site {
    data_dir: PathBuf,
    /// Where webhooks share a listener.
    listen: SocketAddr,
    identity: Identity,
    kinds: Kinds,
    metrics: Metrics,
    endpoints: Endpoints,
    sinks: Sinks,
    host: Arc<ProcessHost>,
    sources: Shared,
    board: Board,
}

/// A part that cannot start, or a change that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{part}: {cause}")]
pub struct Refused {
    part: String,
    cause: String,
}

/// Plans that can follow those that run.
pub(crate) struct Accepted {
    plans: Plans,
    /// The buses that become another kind.
    changes: Vec<Change>,
}

impl Accepted {
    /// Plans that have run here, to run them again.
    pub(crate) fn again(plans: &Plans) -> Self {
        Self { plans: plans.clone(), changes: Vec::new() }
    }
}

/// What runs.
pub(crate) struct Pipeline {
    site: Site,
    plans: Plans,
    buses: BTreeMap<BusName, RunningBus>,
    /// Redrives and replays, of each bus.
    jobs: BTreeMap<BusName, Jobs>,
    functions: BTreeMap<ObjectName, RunningFunction>,
    triggers: BTreeMap<ObjectName, RunningTrigger>,
    event_sources: BTreeMap<ObjectName, EventSource>,
    /// What does not run as planned yet, since its bus is away.
    waiting: Vec<Waiting>,
    /// What a change is at.
    doing: watch::Sender<String>,
    /// What a change ends, which goes on although nobody waits for the change any more.
    ending: TaskTracker,
    tasks: TaskTracker,
}

/// When the parts of a pipeline have to have ended that is stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// Deliveries that are not finished are cut short then.
    pub(crate) deliveries: Instant,
    /// Functions that have not ended are killed then.
    pub(crate) functions: Instant,
}

/// A part that its bus keeps from running as planned.
#[derive(Debug)]
struct Waiting {
    kind: &'static str,
    name: ObjectName,
    cause: NotNow,
}

/// Why a part does not run as planned.
#[derive(Debug)]
enum NotNow {
    /// Its bus is away, which may pass.
    Away(String),
    /// Something that trying again does not mend.
    Refused(String),
}

#[derive(Debug)]
struct RunningTrigger {
    plan: TriggerPlan,
    trigger: Trigger,
}

#[derive(Debug)]
struct RunningFunction {
    handle: function::Handle,
    task: JoinHandle<()>,
}

impl Site {
    /// Prepares what the parts share; nothing listens or is opened yet.
    ///
    /// # Errors
    /// When the data directory cannot be used.
    pub(crate) fn new(data_dir: PathBuf, listen: SocketAddr, metrics: Metrics, board: Board) -> io::Result<Self> {
        let identity = Identity::take(&data_dir)?;
        let kinds = Kinds::read(&data_dir)?;
        let endpoints = Endpoints::default();
        let sinks = Sinks::new(endpoints.clone());
        let host = Arc::new(ProcessHost::new(guard::this_executable()?, Arc::new(LogOutput)));
        let sources = Shared {
            sinks: sinks.clone(),
            listeners: Listeners::new(listen, metrics.webhooks.clone()),
            budget: evoke_eventsource::outlet::budget::Budget::default(),
            sources: metrics.sources.clone(),
            instance: Arc::clone(&identity.name),
            deliveries: metrics.deliveries.clone(),
            left_off: LeftOffs::default(),
        };
        Ok(Self { data_dir, listen, identity, kinds, metrics, endpoints, sinks, host, sources, board })
    }

    /// Keeps functions off the ports that webhooks of these plans listen on.
    fn reserve_ports(&self, plans: &Plans) {
        let webhooks = plans.event_sources.values().flat_map(EventSourcePlan::webhooks);
        let ports = webhooks.map(|webhook| webhook.address(self.listen).port());
        self.host.reserve(ports.collect());
    }

    /// The name of this evoke.
    pub(crate) fn instance(&self) -> Arc<str> {
        Arc::clone(&self.identity.name)
    }
}

impl Deadlines {
    /// For all of it to have ended by then.
    pub(crate) fn before(end: Instant) -> Self {
        Self { deliveries: end - FUNCTIONS_LEFT, functions: end - BUSES_LEFT }
    }
}

impl Accepted {
    /// The plans themselves.
    pub(crate) fn plans(&self) -> &Plans {
        &self.plans
    }
}

impl Pipeline {
    /// Nothing runs yet.
    pub(crate) fn new(site: Site) -> Self {
        Self {
            site,
            plans: Plans::default(),
            buses: BTreeMap::new(),
            jobs: BTreeMap::new(),
            functions: BTreeMap::new(),
            triggers: BTreeMap::new(),
            event_sources: BTreeMap::new(),
            waiting: Vec::new(),
            doing: watch::Sender::default(),
            ending: TaskTracker::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// What it was last told to run.
    pub(crate) fn plans(&self) -> &Plans {
        &self.plans
    }

    /// The metrics of all of it.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.site.metrics
    }

    /// Takes plans that can follow those that run; `abandon` names the buses of which it does not matter what waits there. Nothing
    /// changes yet.
    ///
    /// # Errors
    /// The first bus that cannot become what it is to be.
    pub(crate) async fn accept(&self, mut plans: Plans, abandon: &[String]) -> Result<Accepted, Refused> {
        let events = plans.event_sources.values_mut().flat_map(|plan| &mut plan.events);
        tell_apart(events.map(|event| (&event.origin, &mut event.source)));
        for (name, plan) in &mut plans.buses {
            let Some(running) = self.buses.get(name).filter(|running| running.plan != *plan) else { continue };
            if plan.is_renewal_of(&running.plan) {
                // What else has changed is not to wait for a restart.
                tracing::warn!(
                    bus = label(name),
                    "the bus keeps the credentials that it has until evoke is started again"
                );
                *plan = running.plan.clone();
                continue;
            }
            let (bus, was, now) = (label(name), running.plan.kind.name(), plan.kind.name());
            let part = format!("bus {bus}");
            let cause = if was == now {
                "it cannot change while it runs: stop evoke, then start it again".to_owned()
            } else {
                let left = Left::of_running(Some(was));
                let change = Change { bus, was: was.to_owned(), now, left };
                format!("it is {was} and cannot become {now} while it runs: {}", change.ways_out())
            };
            return Err(Refused { part, cause });
        }
        self.now(format_args!("looking at what waits on buses that become another kind"));
        let running: BTreeSet<String> = self.buses.keys().map(label).collect();
        let changes = self.site.kinds.changes(&plans, &running).await;
        let is_fine = |change: &Change| change.is_clean() || abandon.iter().any(|name| names(name, &change.bus));
        match changes.iter().find(|change| !is_fine(change)) {
            Some(change) => Err(Refused { part: format!("bus {}", change.bus), cause: change.refusal() }),
            None => Ok(Accepted { plans, changes }),
        }
    }

    /// Runs these plans instead of what runs. What is the same in both goes on undisturbed.
    ///
    /// # Errors
    /// The first part that cannot start. What was started until then goes on, and what ran before can be applied again.
    pub(crate) async fn apply(&mut self, Accepted { plans, changes }: Accepted) -> Result<(), Refused> {
        self.end_what_is_gone(&plans, Deadlines::before(Instant::now() + limits::DRAIN)).await;
        changes.iter().for_each(Change::report);
        for (name, plan) in &plans.buses {
            if !self.buses.contains_key(name) {
                let Site { data_dir, identity, metrics, .. } = &self.site;
                self.now(format_args!("opening bus {}", label(name)));
                let (plan, counted) = (plan.clone(), &metrics.subscriptions);
                let opened = RunningBus::open(name, plan, data_dir, identity, &metrics.bus, counted).await;
                let refused = |cause| Refused { part: format!("bus {}", label(name)), cause };
                let bus = opened.map_err(refused)?;
                let remembered = self.site.kinds.set(&label(name), bus.plan.kind.name());
                remembered.map_err(|error| refused(format!("its kind cannot be written down: {error}")))?;
                self.start_jobs(name, &bus);
                self.buses.insert(name.clone(), bus);
            }
        }
        self.site.kinds.set_names(&plans).map_err(|error| {
            let cause = format!("what their names mean cannot be written down: {error}");
            Refused { part: "buses".to_owned(), cause }
        })?;
        self.site.reserve_ports(&plans);
        for (name, plan) in &plans.functions {
            if !self.functions.contains_key(name) {
                let function = self.start_function(plan);
                self.functions.insert(name.clone(), function);
            }
        }
        self.plans = plans;
        self.site.board.plan(&self.plans);
        self.settle().await;
        let refused = self.waiting.iter().find_map(|Waiting { kind, name, cause }| match cause {
            NotNow::Refused(cause) => Some(Refused { part: format!("{kind} {name}"), cause: cause.clone() }),
            NotNow::Away(_) => None,
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
        // Not before all of it is known to run: what ran before may have to go on.
        self.site.sources.left_off.retain(self.plans.event_sources.values());
        Ok(())
    }

    /// True while some part does not run as planned since its bus is away; [`Pipeline::settle`] tries again.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Runs every Trigger and EventSource as planned, as far as their buses let it. A source starts only when every Trigger on its
    /// bus has its positions, so that no event is read before somebody is known to want it.
    pub(crate) async fn settle(&mut self) {
        let deadline = Instant::now() + limits::DRAIN;
        let plans = self.plans.clone();
        let mut waiting = Vec::new();
        let mut unready = BTreeSet::new();
        for plan in plans.triggers.values() {
            // One that does not answer is not asked again for every Trigger.
            let ran = match unready.contains(&plan.bus) {
                true => Err(NotNow::Away(format!("bus {} is away", label(&plan.bus)))),
                false => self.run_trigger(plan, deadline).await,
            };
            if let Err(cause) = ran {
                unready.insert(plan.bus.clone());
                waiting.push(Waiting { kind: "trigger", name: plan.name.clone(), cause });
            }
        }
        for plan in plans.event_sources.values() {
            let away = plan.bus.as_ref().filter(|bus| unready.contains(*bus));
            let ran = match away {
                Some(bus) => Err(NotNow::Away(format!("the Triggers on bus {} have no positions yet", label(bus)))),
                None => self.run_event_source(plan).await,
            };
            if let Err(cause) = ran {
                waiting.push(Waiting { kind: "source", name: plan.name.clone(), cause });
            }
        }
        self.waiting = waiting;
    }

    /// Ends what is in no plan any more, and what can only change by being started again: a function whose plan differs, and what
    /// moves to another bus.
    async fn end_what_is_gone(
        &mut self,
        plans: &Plans,
        Deadlines { deliveries: deadline, functions: kill }: Deadlines,
    ) {
        let moved: Vec<_> = self
            .event_sources
            .iter()
            .filter(|(name, running)| plans.event_sources.get(*name).is_none_or(|plan| plan.bus != running.plan().bus))
            .map(|(name, _)| name.clone())
            .collect();
        for name in moved {
            if let Some(running) = self.event_sources.remove(&name) {
                self.now(format_args!("ending source {name}"));
                self.end(running.stop(deadline)).await;
                tracing::info!(event_source = %name, "stopped");
            }
        }
        let moved: Vec<_> = self
            .triggers
            .iter()
            .filter(|(name, running)| plans.triggers.get(*name).is_none_or(|plan| plan.bus != running.plan.bus))
            .map(|(name, _)| name.clone())
            .collect();
        for name in moved {
            if let Some(running) = self.triggers.remove(&name) {
                self.now(format_args!("ending trigger {name}"));
                self.end(running.trigger.stop(deadline)).await;
                tracing::info!(trigger = %name, "stopped; its positions are kept");
            }
        }
        let changed: Vec<_> = self
            .functions
            .keys()
            .filter(|name| plans.functions.get(*name).is_none_or(|plan| self.plans.functions.get(*name) != Some(plan)))
            .cloned()
            .collect();
        for name in changed {
            if let Some(running) = self.functions.remove(&name) {
                self.now(format_args!("ending function {name}"));
                self.end(running.stop(kill)).await;
            }
        }
        let unused: Vec<_> = self.buses.keys().filter(|name| !plans.buses.contains_key(*name)).cloned().collect();
        for name in unused {
            self.now(format_args!("closing bus {}", label(&name)));
            self.site.board.closed(&label(&name));
            if let Some(jobs) = self.jobs.remove(&name) {
                self.end(jobs.stop(deadline)).await;
            }
            if let Some(bus) = self.buses.remove(&name) {
                self.end(async move { bus.close().await }).await;
            }
        }
    }

    /// Says what a change is at, for those who ask how long it takes.
    fn now(&self, doing: fmt::Arguments<'_>) {
        self.doing.send_replace(doing.to_string());
    }

    /// Waits for the end of a part, which comes to it even if nobody waits.
    async fn end<T: Send + 'static>(&self, part: impl Future<Output = T> + Send + 'static) {
        drop(self.ending.spawn(part).await);
    }

    /// Follows what is asked of a bus: redrives and replays.
    fn start_jobs(&mut self, name: &BusName, bus: &RunningBus) {
        let Site { board, sinks, metrics, .. } = &self.site;
        let label = label(name);
        let runner = Runner {
            subscriptions: bus.subscriptions.clone(),
            subscribers: board.on(&label),
            sinks: sinks.clone(),
            metrics: metrics.deliveries.clone(),
            instance: self.site.instance(),
        };
        let jobs = Jobs::start(runner, &self.tasks);
        let exclusive = matches!(bus.plan.kind, BusKind::Embedded(_));
        let subscriptions = bus.subscriptions.clone();
        board.opened(label, OnBoard { subscriptions, nudge: jobs.nudge(), exclusive });
        self.jobs.insert(name.clone(), jobs);
    }

    fn start_function(&self, plan: &FunctionPlan) -> RunningFunction {
        let Site { host, endpoints, metrics, .. } = &self.site;
        let (handle, run) =
            function::serve(Arc::new(plan.clone()), Arc::clone(host), endpoints.clone(), &metrics.functions);
        RunningFunction { handle, task: self.tasks.spawn(run) }
    }

    async fn run_trigger(&mut self, plan: &TriggerPlan, deadline: Instant) -> Result<(), NotNow> {
        if self.triggers.get(&plan.name).is_some_and(|running| running.plan == *plan) {
            return Ok(());
        }
        let Some(bus) = self.buses.get(&plan.bus) else {
            return Err(NotNow::Refused(format!("its bus {} does not run", label(&plan.bus))));
        };
        let (subscriptions, readings) = (bus.subscriptions.clone(), bus.readings.clone());
        let doing = if self.triggers.contains_key(&plan.name) { "changing" } else { "starting" };
        self.now(format_args!("{doing} trigger {}", plan.name));
        match timeout(DECLARE, trigger::declare(plan, &subscriptions)).await {
            Ok(declared) => declared?,
            Err(_) => return Err(NotNow::Away(format!("bus {} does not answer", label(&plan.bus)))),
        }
        match self.triggers.get_mut(&plan.name) {
            Some(running) => {
                running.trigger.update(plan, deadline).await?;
                running.plan = plan.clone();
            }
            None => {
                let Site { sinks, metrics, .. } = &self.site;
                let surroundings =
                    Surroundings { subscriptions, sinks: sinks.clone(), metrics: metrics.deliveries.clone(), readings };
                let trigger = Trigger::start(plan, surroundings)?;
                self.triggers.insert(plan.name.clone(), RunningTrigger { plan: plan.clone(), trigger });
            }
        }
        Ok(())
    }

    async fn run_event_source(&mut self, plan: &EventSourcePlan) -> Result<(), NotNow> {
        self.now(format_args!("changing source {}", plan.name));
        // It is there before it is started, so that it is stopped whatever happens meanwhile.
        let running = self.event_sources.entry(plan.name.clone()).or_insert_with(|| {
            let bus = plan.bus.as_ref().and_then(|bus| self.buses.get(bus));
            EventSource::new(plan, bus.map(|bus| bus.subscriptions.clone()), self.site.sources.clone())
        });
        if running.plan() != plan {
            running.change(plan.clone()).await?;
        }
        Ok(())
    }

    /// Ends all of it in order. The buses are closed last, and take as long as they take.
    pub(crate) async fn stop(&mut self, Deadlines { deliveries: deadline, functions: kill }: Deadlines) -> Drained {
        let sources = std::mem::take(&mut self.event_sources).into_values();
        let listeners = self.site.sources.listeners.close(deadline.saturating_duration_since(Instant::now()));
        // Requests that are under way are answered as they settle, which takes both.
        let (sources, ()) = tokio::join!(join_all(sources.map(|source| source.stop(deadline))), listeners);
        let triggers = std::mem::take(&mut self.triggers).into_values();
        let jobs = std::mem::take(&mut self.jobs).into_values();
        let (triggers, jobs, reloaded) = tokio::join!(
            join_all(triggers.map(|running| running.trigger.stop(deadline))),
            join_all(jobs.map(|jobs| jobs.stop(deadline))),
            self.ended(deadline),
        );
        let functions = std::mem::take(&mut self.functions).into_values();
        join_all(functions.map(|function| function.stop(kill))).await;
        for bus in std::mem::take(&mut self.buses).into_values() {
            bus.close().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
        [sources, triggers, jobs, vec![reloaded]].into_iter().flatten().max().unwrap_or_default()
    }

    /// Waits for what a change was ending when it was cut off.
    async fn ended(&self, deadline: Instant) -> Drained {
        self.ending.close();
        if timeout_at(deadline, self.ending.wait()).await.is_ok() {
            return Drained::Whole;
        }
        tracing::warn!("what a reload was ending has not ended in time");
        Drained::CutShort
    }
}

impl RunningFunction {
    async fn stop(self, deadline: Instant) {
        self.handle.stop(deadline);
        let mut task = self.task;
        if timeout_at(deadline, &mut task).await.is_err() {
            task.abort();
        }
    }
}

impl From<BusError> for NotNow {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Unavailable(cause) => Self::Away(cause.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl From<SinkError> for NotNow {
    fn from(error: SinkError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<StartError> for NotNow {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Bus(error) => error.into(),
            StartError::Sink(error) => error.into(),
        }
    }
}
