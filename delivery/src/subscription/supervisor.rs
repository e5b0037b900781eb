//! Runs a subscription's lane while something of it is this process's and it is not paused. When that changes, the lane drains and
//! records where it is; then another one starts with what is this process's by then. One that a bug in evoke ends is started again
//! from its last position, each time a little later.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::limits;
use evoke_api::names::SubscriptionId;
use evoke_eventbus::bus::BusError;
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::sharing::{Allotment, Group, Part, Share};
use futures_util::FutureExt;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::status::{Snapshot, Status};
use super::{Lane, Selector};
use crate::metrics::Metrics;
use crate::panic;
use crate::plan::SubscriptionPlan;
use crate::sinks::Outputs;

/// How long deliveries may go on once another process may have taken over.
const LAPSED: Duration = Duration::from_secs(2);
/// How often it is asked whether the last position of the lane before is durable.
const RECORDED: Duration = Duration::from_millis(20);
/// The first wait before a lane that a bug has ended is started again; it doubles up to a minute.
const RESTART_DELAY: Duration = Duration::from_secs(1);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);

/// Makes a selector that remembers nothing yet.
pub type SelectorFactory = Box<dyn Fn() -> Box<dyn Selector> + Send + Sync>;

/// One subscription, ready to run wherever its parts are this process's.
pub struct Supervisor {
    subscriptions: Subscriptions,
    plan: Arc<SubscriptionPlan>,
    outputs: Outputs,
    selector: SelectorFactory,
    metrics: Metrics,
    restarts: IntCounter,
    group: Group,
    whole: bool,
    progress: Progress,
}

impl Supervisor {
    /// As [`Lane::new`]. `group` is whose subscription it is; one that is `whole` has one owner over all processes, others are split
    /// by partition.
    pub fn new(
        subscriptions: Subscriptions,
        plan: Arc<SubscriptionPlan>,
        outputs: Outputs,
        selector: SelectorFactory,
        metrics: &Metrics,
        (group, whole): (Group, bool),
    ) -> Self {
        let (metrics, restarts) = (metrics.clone(), metrics.restarts(&plan.id));
        let progress = Progress::default();
        Self { subscriptions, plan, outputs, selector, metrics, restarts, group, whole, progress }
    }

    /// The subscription.
    pub(crate) fn id(&self) -> &SubscriptionId {
        &self.plan.id
    }

    /// Follows it.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Runs until `stop`, then finishes the deliveries that run until `abort`.
    ///
    /// # Errors
    /// As [`Lane::run`].
    pub async fn run(self, stop: CancellationToken, abort: CancellationToken) -> Result<(), BusError> {
        let share = self.subscriptions.share(self.group.clone(), &self.plan.id, &self.plan.topics, self.whole);
        self.progress.follow(&share);
        let mut delay = RESTART_DELAY;
        loop {
            let wanted = async {
                share.wanted().await;
                while share.held().is_some() {
                    sleep(RECORDED).await;
                }
            };
            if stop.run_until_cancelled(wanted).await.is_none() {
                return Ok(());
            }
            let started = Instant::now();
            match AssertUnwindSafe(self.lane(&share, &stop, &abort)).catch_unwind().await {
                Ok(ended) if stop.is_cancelled() => return ended,
                Ok(ended) => ended?,
                Err(panic) => {
                    if started.elapsed() > RESTART_DELAY_MAX {
                        delay = RESTART_DELAY;
                    }
                    self.broke(panic::message(&*panic), delay);
                    if stop.run_until_cancelled(sleep(delay)).await.is_none() {
                        return Ok(());
                    }
                    delay = RESTART_DELAY_MAX.min(delay * 2);
                }
            }
        }
    }

    /// Says that a bug has ended a lane. What its ledgers do not know is delivered again by the next one.
    fn broke(&self, cause: &str, delay: Duration) {
        let subscriber = &self.plan.id;
        tracing::error!(%subscriber, cause, retry_in = ?delay, "a bug in evoke has ended a subscription, which is started again");
        self.restarts.inc();
        self.progress.broke(format!("a bug in evoke: {cause}").into());
    }

    /// One lane, until stopped or until something else is this process's.
    async fn lane(&self, share: &Share, stop: &CancellationToken, abort: &CancellationToken) -> Result<(), BusError> {
        let (subscriptions, plan, outputs) = (self.subscriptions.clone(), Arc::clone(&self.plan), self.outputs.clone());
        let mut grown = subscriptions.grown();
        let lane = Lane::new(subscriptions, plan, outputs, (self.selector)(), &self.metrics);
        self.progress.begin(lane.status());
        let (halt, cut) = (stop.child_token(), abort.child_token());
        let mut run = pin!(lane.run(halt.clone(), cut.clone()));
        let subscriber = &self.plan.id;
        tokio::select! {
            ended = &mut run => return ended,
            allotment = moved(share) => match allotment.work() {
                _ if allotment.paused => tracing::info!(%subscriber, "paused"),
                Part::Nothing => tracing::info!(%subscriber, "not this process's any more"),
                part => tracing::info!(%subscriber, ?part, "goes on with another part"),
            },
            Ok(()) = grown.changed() => tracing::info!(%subscriber, "goes on with more partitions"),
        }
        halt.cancel();
        tokio::select! {
            ended = &mut run => return ended,
            () = patience(share) => {}
        }
        tracing::warn!(%subscriber, "deliveries are cut short and will be repeated");
        cut.cancel();
        run.await
    }
}

/// Resolves when something else is this process's than what is held.
async fn moved(share: &Share) -> Allotment {
    let mut allotment = share.watch();
    loop {
        // A copy, since what is held is known under a lock that is taken before the channel's when it is changed.
        let now = allotment.borrow_and_update().clone();
        let stays = match share.held() {
            Some(held) => held == *now.work(),
            // What is opened is what is this process's by then.
            None => *now.work() != Part::Nothing,
        };
        if !stays {
            return now;
        }
        if allotment.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// How long deliveries may take to finish.
async fn patience(share: &Share) {
    let mut allotment = share.watch();
    if timeout(limits::DRAIN, allotment.wait_for(|allotment| !allotment.known)).await.is_ok() {
        sleep(LAPSED).await;
    }
}

/// Follows one subscription over all its lanes. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    lane: Option<Status>,
    opened: bool,
    /// What ended the last lane, until another one begins.
    broken: Option<Arc<str>>,
    allotment: Option<watch::Receiver<Allotment>>,
}

impl Progress {
    /// How its lane is now. It counts as running from its first lane on, also while the next one starts, unless a bug has ended the
    /// one before.
    pub fn snapshot(&self) -> Snapshot {
        let mut inner = self.0.lock();
        let snapshot = inner.lane.as_ref().map(Status::snapshot).unwrap_or_default();
        inner.opened |= snapshot.running;
        match &inner.broken {
            Some(cause) => Snapshot { running: false, in_flight: 0, last_error: Some(Arc::clone(cause)), ..snapshot },
            None => Snapshot { running: inner.opened, ..snapshot },
        }
    }

    /// How it is divided between processes.
    pub fn allotment(&self) -> Allotment {
        self.0.lock().allotment.as_ref().map(|allotment| allotment.borrow().clone()).unwrap_or_default()
    }

    /// What it waits for, in words; `None` when it works, or has nothing to do in this process.
    pub fn waits_for(&self) -> Option<String> {
        if let Some(cause) = &self.0.lock().broken {
            return Some(format!("is started again soon, after {cause}"));
        }
        let allotment = self.allotment();
        let idle = *allotment.work() == Part::Nothing;
        let works = allotment.known && (idle || self.snapshot().running);
        (!works).then(|| "waits for the bus".to_owned())
    }

    fn follow(&self, share: &Share) {
        self.0.lock().allotment = Some(share.watch());
    }

    fn begin(&self, lane: Status) {
        let mut inner = self.0.lock();
        inner.opened |= inner.lane.as_ref().is_some_and(|lane| lane.snapshot().running);
        (inner.lane, inner.broken) = (Some(lane), None);
    }

    fn broke(&self, cause: Arc<str>) {
        let mut inner = self.0.lock();
        (inner.opened, inner.broken) = (false, Some(cause));
    }
}
