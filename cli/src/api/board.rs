//! What the API works on: the buses of this process and the subscribers that run here. The pipeline keeps it up to date; a tool that
//! goes to the buses by itself has one of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evoke_api::credentials::Secret;
use evoke_api::names::SubscriptionId;
use evoke_delivery::jobs::Subscribers;
use evoke_delivery::plan::{SinkPlan, SubscriptionPlan};
use evoke_delivery::subscription::{Selector, Snapshot};
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::job::{Job, JobId, Work};
use evoke_eventsource::runtime::Everything;
use evoke_trigger::plan::TriggerPlan;
use evoke_trigger::shared::Readings;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::local::buses::{label, names};
use crate::local::plan::Plans;

/// The most replays whose user and password are remembered.
const TARGETS: usize = 1_000;

/// See the module. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    buses: BTreeMap<String, OnBoard>,
    subscribers: BTreeMap<SubscriptionId, Subscriber>,
    live: BTreeMap<SubscriptionId, Live>,
    /// The jobs that this process has made; `None` where it runs those of others too.
    own_jobs: Option<BTreeSet<JobId>>,
    /// Where replays deliver to that were asked for here with a user and a password, which are kept nowhere else.
    targets: BTreeMap<JobId, Secret>,
}

/// A bus that is open here.
#[derive(Clone, Debug)]
pub(crate) struct OnBoard {
    /// What stands above it.
    pub(crate) subscriptions: Subscriptions,
    /// Wakes whoever runs its jobs.
    pub(crate) nudge: Arc<Notify>,
    /// True where no other process can use it.
    pub(crate) exclusive: bool,
}

/// A subscriber of the manifests.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    /// Its bus.
    pub(crate) bus: String,
    /// Where its events come from and go to.
    pub(crate) plan: Arc<SubscriptionPlan>,
    selects: Selects,
}

#[derive(Clone, Debug)]
enum Selects {
    Everything,
    Condition(Arc<TriggerPlan>, usize),
}

/// How a subscription is that runs here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    /// Its lane.
    pub(crate) lane: Snapshot,
    /// Why it is over; `None` while it runs.
    pub(crate) ended: Option<Arc<str>>,
}

impl Subscriber {
    /// What selects its events, new.
    pub(crate) fn selector(&self) -> Option<Box<dyn Selector>> {
        match &self.selects {
            Selects::Everything => Some(Box::new(Everything)),
            Selects::Condition(trigger, index) => {
                trigger.subscribers.get(*index).map(|subscriber| subscriber.selector(&Readings::default()))
            }
        }
    }
}

impl Board {
    /// The board of a tool: it runs no jobs but its own.
    pub(crate) fn of_a_tool() -> Self {
        Self(Arc::new(Mutex::new(Inner { own_jobs: Some(BTreeSet::new()), ..Inner::default() })))
    }

    /// True for that of a tool.
    pub(crate) fn is_of_a_tool(&self) -> bool {
        self.0.lock().own_jobs.is_some()
    }

    /// A bus was opened.
    pub(crate) fn opened(&self, label: String, bus: OnBoard) {
        self.0.lock().buses.insert(label, bus);
    }

    /// A bus was closed.
    pub(crate) fn closed(&self, label: &str) {
        self.0.lock().buses.remove(label);
    }

    /// The buses by their labels: all, or the one of that name.
    pub(crate) fn buses(&self, wanted: Option<&str>) -> Vec<(String, OnBoard)> {
        let inner = self.0.lock();
        let in_full = wanted.is_some_and(|wanted| inner.buses.contains_key(wanted));
        let is_wanted = |label: &str| match wanted {
            Some(wanted) if in_full => wanted == label,
            Some(wanted) => names(wanted, label),
            None => true,
        };
        let buses = inner.buses.iter().filter(|(label, _)| is_wanted(label));
        buses.map(|(label, bus)| (label.clone(), bus.clone())).collect()
    }

    /// Who subscribes from now on.
    pub(crate) fn plan(&self, plans: &Plans) {
        let mut subscribers = BTreeMap::new();
        for trigger in plans.triggers.values() {
            let shared = Arc::new(trigger.clone());
            for (index, subscriber) in trigger.subscribers.iter().enumerate() {
                let plan = Arc::new(subscriber.subscription.clone());
                let selects = Selects::Condition(Arc::clone(&shared), index);
                subscribers.insert(plan.id.clone(), Subscriber { bus: label(&trigger.bus), plan, selects });
            }
        }
        for source in plans.event_sources.values() {
            if let (Some(bus), Some(sink)) = (&source.bus, &source.sink) {
                let plan = Arc::new(sink.clone());
                let selects = Selects::Everything;
                subscribers.insert(plan.id.clone(), Subscriber { bus: label(bus), plan, selects });
            }
        }
        self.0.lock().subscribers = subscribers;
    }

    /// A subscriber of the manifests.
    pub(crate) fn subscriber(&self, id: &SubscriptionId) -> Option<Subscriber> {
        self.0.lock().subscribers.get(id).cloned()
    }

    /// The subscribers of the manifests for which `is` holds.
    pub(crate) fn subscribers(&self, is: impl Fn(&SubscriptionId) -> bool) -> Vec<Subscriber> {
        let inner = self.0.lock();
        inner.subscribers.iter().filter(|(id, _)| is(id)).map(|(_, subscriber)| subscriber.clone()).collect()
    }

    /// How those are that run here.
    pub(crate) fn show(&self, live: BTreeMap<SubscriptionId, Live>) {
        self.0.lock().live = live;
    }

    /// How one is, if it runs here.
    pub(crate) fn live(&self, id: &SubscriptionId) -> Option<Live> {
        self.0.lock().live.get(id).cloned()
    }

    /// This process has made a job.
    pub(crate) fn made(&self, job: &JobId) {
        if let Some(own) = &mut self.0.lock().own_jobs {
            own.insert(job.clone());
        }
    }

    /// Remembers the whole URL that a replay delivers to, for as long as this process lives and few others come after it.
    pub(crate) fn remember(&self, job: &JobId, to: Secret) {
        let targets = &mut self.0.lock().targets;
        targets.insert(job.clone(), to);
        if targets.len() > TARGETS {
            // Their names are in the order in which they were made.
            targets.pop_first();
        }
    }

    /// The subscribers on one bus, for whoever runs its jobs.
    pub(crate) fn on(&self, bus: &str) -> Arc<dyn Subscribers> {
        Arc::new(OnBus { board: self.clone(), bus: bus.to_owned() })
    }
}

struct OnBus {
    board: Board,
    bus: String,
}

impl OnBus {
    fn find(&self, id: &SubscriptionId) -> Option<Subscriber> {
        self.board.subscriber(id).filter(|subscriber| subscriber.bus == self.bus)
    }
}

impl Subscribers for OnBus {
    fn plan(&self, id: &SubscriptionId) -> Option<Arc<SubscriptionPlan>> {
        self.find(id).map(|subscriber| subscriber.plan)
    }

    fn selector(&self, id: &SubscriptionId) -> Option<Box<dyn Selector>> {
        self.find(id)?.selector()
    }

    fn takes(&self, job: &Job) -> bool {
        let is_own = self.board.0.lock().own_jobs.as_ref().map(|own| own.contains(&job.id));
        // A tool serves no functions: whoever does delivers to them.
        is_own.is_none_or(|is_own| is_own && (goes_elsewhere(job) || !self.needs_functions(job)))
    }

    fn target(&self, job: &JobId) -> Option<Secret> {
        self.board.0.lock().targets.get(job).cloned()
    }
}

impl OnBus {
    fn needs_functions(&self, job: &Job) -> bool {
        self.find(&job.subscription()).is_none_or(|subscriber| needs_functions(&subscriber.plan))
    }
}

/// True for a subscriber that is a function.
pub(crate) fn needs_functions(plan: &SubscriptionPlan) -> bool {
    matches!(plan.sink, Some(SinkPlan::Function { .. }))
}

fn goes_elsewhere(job: &Job) -> bool {
    matches!(job.work, Work::Replay { to: Some(_), .. })
}
