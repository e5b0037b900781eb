//! Runs the jobs of one bus whose subscribers run here. A job is claimed by compare-and-set, and its owner shows that it is alive by
//! counting up; one that does not any more is taken over. After a restart an evoke knows its own jobs by its name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evoke_eventbus::arrival::Arrival;
use evoke_eventbus::bus::{BusError, EventBus};
use evoke_eventbus::subscription::job::{self, Counts, Job, JobId, Runner as Claim, State, Stored, Work};
use evoke_eventbus::subscription::ledger::Millis;
use evoke_eventbus::subscription::{Subscriptions, control};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Subscribers;
use super::launch::{self, Unmade};
use super::turn;
use crate::dead_letters;
use crate::metrics::Metrics;
use crate::plan::SubscriptionPlan;
use crate::running::{ABORTED, Drained};
use crate::sinks::Sinks;
use crate::subscription::Status;

/// How often it looks for jobs.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often an owner shows that it is alive, at the least.
const BEAT: Duration = Duration::from_secs(3);
/// An owner that could not show it for so long starts nothing more.
const QUIET: Duration = Duration::from_secs(7);
/// An owner that has not shown it for so long is dead.
const DEAD: Duration = Duration::from_secs(10);
/// Jobs at work at once; the others wait.
const AT_ONCE: usize = 8;
/// How long what became of a job can be asked.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// The most intervals that a job which was cut short takes off the list.
const HOLES: usize = 1_000;

/// What runs the jobs of one bus.
pub struct Runner {
    /// The bus.
    pub subscriptions: Subscriptions,
    /// Whose jobs.
    pub subscribers: Arc<dyn Subscribers>,
    /// Where sinks come from.
    pub sinks: Sinks,
    /// What deliveries are counted with.
    pub metrics: Metrics,
    /// The name of this process, the same after a restart.
    pub instance: Arc<str>,
}

/// The jobs of one bus in this process. Dropping it has them end by themselves.
#[derive(Debug)]
pub struct Jobs {
    nudge: Arc<Notify>,
    stop: CancellationToken,
    abort: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Jobs {
    /// Starts running them. Must be called inside a runtime.
    pub fn start(runner: Runner, tasks: &TaskTracker) -> Self {
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let nudge = Arc::new(Notify::new());
        let work = AtWork {
            runner,
            lanes: BTreeMap::new(),
            tasks: JoinSet::new(),
            others: BTreeMap::new(),
            abort: abort.clone(),
            failing: false,
        };
        let task = tasks.spawn(work.run(Arc::clone(&nudge), stop.clone()));
        Self { nudge, stop, abort, task }
    }

    /// Wakes it: something has changed.
    pub fn nudge(&self) -> Arc<Notify> {
        Arc::clone(&self.nudge)
    }

    /// Lets deliveries finish until `deadline`, then cuts them short, and waits. What is not finished goes on after the next
    /// start.
    pub async fn stop(mut self, deadline: Instant) -> Drained {
        self.stop.cancel();
        if timeout_at(deadline, &mut self.task).await.is_ok() {
            return Drained::Whole;
        }
        tracing::warn!("deliveries of jobs are cut short and will be repeated");
        self.abort.cancel();
        if timeout_at(Instant::now() + ABORTED, &mut self.task).await.is_err() {
            self.task.abort();
        }
        Drained::CutShort
    }
}

/// The runner at work.
struct AtWork {
    runner: Runner,
    lanes: BTreeMap<JobId, Running>,
    tasks: JoinSet<(JobId, Result<(), BusError>)>,
    /// Other processes' jobs: the revision of the document, and since when. An owner that takes a job up again counts from zero, so
    /// that the count alone could look as if it stood still.
    others: BTreeMap<JobId, (u64, Instant)>,
    abort: CancellationToken,
    failing: bool,
}

/// A job that runs here.
struct Running {
    plan: Arc<SubscriptionPlan>,
    status: Status,
    task: tokio::task::Id,
    stop: CancellationToken,
    /// What was counted before this lane began.
    before: Counts,
    /// When the bus was last told that its owner is alive.
    shown: Instant,
    ended: Option<Result<(), BusError>>,
}

impl AtWork {
    async fn run(mut self, nudge: Arc<Notify>, stop: CancellationToken) {
        let mut arrival = Arrival::of(&**self.runner.subscriptions.bus());
        while !stop.is_cancelled() {
            let is_news = arrival.has_come();
            match stop.run_until_cancelled(in_time(Box::pin(self.pass()))).await {
                None => break,
                Some(Ok(())) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("jobs are followed again");
                    }
                }
                Some(Err(BusError::Closed)) => break,
                Some(Err(error)) => {
                    if is_news && !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "jobs cannot be followed, trying again");
                    }
                }
            }
            // Each job by itself: one that cannot be followed does not end the others.
            self.lanes.values().filter(|lane| lane.shown.elapsed() > QUIET).for_each(|lane| lane.stop.cancel());
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                () = nudge.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
        self.lanes.values().for_each(|lane| lane.stop.cancel());
        let mut beat = Instant::now() + BEAT;
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => self.ended(ended),
                    None => break,
                },
                // Deliveries may take longer to finish than it takes another process to think that this one is dead.
                () = sleep_until(beat) => {
                    if let Err(error) = in_time(Box::pin(self.settle_all())).await {
                        tracing::debug!(%error, "jobs cannot be followed while their deliveries finish");
                    }
                    beat = Instant::now() + BEAT;
                }
            }
        }
        // What is complete is said now, rather than after the next start.
        if let Err(error) = in_time(Box::pin(self.settle_all())).await {
            tracing::debug!(%error, "jobs that ended with the drain are settled by the next run");
        }
    }

    fn ended(&mut self, ended: Result<(JobId, Result<(), BusError>), tokio::task::JoinError>) {
        match ended {
            Ok((id, result)) => {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.ended = Some(result);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a job has ended by a bug in evoke and is started again");
                if let Some(lane) = self.lanes.values_mut().find(|lane| lane.task == error.id()) {
                    lane.ended = Some(Ok(()));
                }
            }
        }
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        Arc::clone(self.runner.subscriptions.bus())
    }

    async fn pass(&mut self) -> Result<(), BusError> {
        let jobs = job::list(&*self.bus()).await?;
        self.others.retain(|id, _| jobs.iter().any(|stored| stored.job.id == *id));
        let waiting = turn::waiting(&jobs);
        let mut failed = Failed::default();
        for Stored { job, revision } in jobs {
            let id = job.id.clone();
            let done = if job.state.is_over() {
                self.tidy(&job, revision).await
            } else if self.lanes.contains_key(&job.id) {
                self.follow(job, revision).await
            } else if waiting.contains(&job.id) {
                Ok(())
            } else {
                self.consider(job, revision).await
            };
            failed.note(&id, done)?;
        }
        failed.first()
    }

    async fn settle_all(&mut self) -> Result<(), BusError> {
        let mut failed = Failed::default();
        for Stored { job, revision } in job::list(&*self.bus()).await? {
            if !job.state.is_over() && self.lanes.contains_key(&job.id) {
                let id = job.id.clone();
                failed.note(&id, self.follow(job, revision).await)?;
            }
        }
        for Stored { job, revision } in job::list(&*self.bus()).await? {
            let is_mine = job.runner.as_ref().is_some_and(|claim| claim.instance == self.runner.instance);
            if job.state.is_over() && is_mine {
                failed.note(&job.id, self.tidy(&job, revision).await)?;
            }
        }
        failed.first()
    }

    /// Takes a job that nobody runs.
    async fn consider(&mut self, mut job: Job, revision: u64) -> Result<(), BusError> {
        let instance = Arc::clone(&self.runner.instance);
        let is_foreign = job.runner.as_ref().is_some_and(|claim| claim.instance != instance);
        if is_foreign && !self.is_dead(&job, revision) {
            return Ok(());
        }
        if let Work::Replay { only: Some(only), .. } = &job.work
            && *only != instance
        {
            // It reaches only from a process that is gone, or that has not begun yet.
            if is_foreign || Millis::now().since(Millis(job.made)) > KEPT {
                (job.state, job.ended) = (State::Cancelled, Some(Millis::now().0));
                job::update(&*self.bus(), &job, revision).await?;
            }
            return Ok(());
        }
        let subscription = job.subscription();
        let subscribers = &self.runner.subscribers;
        if self.lanes.len() >= AT_ONCE || !subscribers.takes(&job) {
            return Ok(());
        }
        let Some(plan) = subscribers.plan(&subscription) else { return Ok(()) };
        if control::load(&*self.bus(), &subscription).await?.paused {
            return Ok(());
        }
        let resumed = job.runner.is_some();
        (job.state, job.runner) = (State::Running, Some(Claim { instance, beat: 0 }));
        let Some(revision) = job::update(&*self.bus(), &job, revision).await? else { return Ok(()) };
        if turn::is_taken(&*self.bus(), &job).await? {
            (job.state, job.runner) = (State::Waiting, None);
            job::update(&*self.bus(), &job, revision).await?;
            return Ok(());
        }
        if let Work::Redrive { .. } = &job.work {
            dead_letters::begin(&*self.bus(), &subscription, &job.id).await?;
        }
        let (id, kind) = (job.id.clone(), job.work.name());
        tracing::info!(job = %id, %subscription, kind, resumed, "a job begins");
        self.launch(job, plan).await
    }

    /// True once a job that has an owner was not written for a while.
    fn is_dead(&mut self, job: &Job, revision: u64) -> bool {
        if job.runner.is_none() {
            return true;
        }
        let (last, since) = self.others.entry(job.id.clone()).or_insert_with(|| (revision, Instant::now()));
        if *last != revision {
            (*last, *since) = (revision, Instant::now());
        }
        since.elapsed() > DEAD
    }

    async fn launch(&mut self, job: Job, plan: Arc<SubscriptionPlan>) -> Result<(), BusError> {
        let Runner { subscriptions, subscribers, sinks, metrics, .. } = &self.runner;
        let (job, shown) = (Arc::new(job), Instant::now());
        let lane = match launch::lane(subscriptions, &job, &plan, &**subscribers, sinks, metrics).await {
            Ok(lane) => lane,
            // It is claimed, and the next pass takes it up again.
            Err(Unmade::Yet(error)) => return Err(error),
            Err(Unmade::Ever(cause)) => return self.end(&job, State::Failed(cause.into()), job.counts).await,
        };
        let (status, stop, abort) = (lane.status(), CancellationToken::new(), self.abort.clone());
        let (id, stopped) = (job.id.clone(), stop.clone());
        let task = self.tasks.spawn(async move { (id, lane.run(stopped, abort).await) }).id();
        let running = Running { plan, status, task, stop, before: job.counts, shown, ended: None };
        self.lanes.insert(job.id.clone(), running);
        Ok(())
    }

    /// Shows how far a job is that runs here, and ends it when it is done or not to go on.
    async fn follow(&mut self, mut job: Job, revision: u64) -> Result<(), BusError> {
        let subscription = job.subscription();
        let wanted = self.runner.subscribers.plan(&subscription);
        let paused = control::load(&*self.bus(), &subscription).await?.paused;
        let Some(lane) = self.lanes.get_mut(&job.id) else { return Ok(()) };
        let counts = lane.before + lane.status.counts();
        match &lane.ended {
            Some(Ok(())) if lane.status.is_complete() => {
                self.end(&job, State::Done, counts).await?;
                self.lanes.remove(&job.id);
                return Ok(());
            }
            Some(Err(error @ BusError::Broken(_))) => {
                let state = State::Failed(error.to_string().into());
                self.end(&job, state, counts).await?;
                self.lanes.remove(&job.id);
                return Ok(());
            }
            _ => {}
        }
        let is_mine = job.runner.as_ref().is_some_and(|claim| claim.instance == self.runner.instance);
        let same = wanted.is_some_and(|plan| *plan == *lane.plan);
        if !is_mine || !same || paused {
            lane.stop.cancel();
        }
        let is_news = counts != job.counts || lane.shown.elapsed() > BEAT || lane.ended.is_some();
        let has_ended = lane.ended.is_some();
        if is_mine && is_news {
            job.counts = counts;
            if has_ended {
                (job.state, job.runner) = (State::Waiting, None);
            } else if let Some(claim) = &mut job.runner {
                claim.beat += 1;
            }
            let shown = Instant::now();
            let written = job::update(&*self.bus(), &job, revision).await?;
            if written.is_none() {
                // It is looked at again as it is now.
                return Ok(());
            }
            if let Some(lane) = self.lanes.get_mut(&job.id) {
                lane.shown = shown;
            }
        }
        if has_ended {
            self.lanes.remove(&job.id);
        }
        Ok(())
    }

    /// Says what became of a job, then lets go of what was kept for it.
    async fn end(&self, job: &Job, state: State, counts: Counts) -> Result<(), BusError> {
        let bus = self.bus();
        let removed = match (&state, &job.work) {
            (State::Done, Work::Redrive { letters }) => {
                dead_letters::remove(&*bus, Some(&job.subscription()), letters).await
            }
            _ => Ok(()),
        };
        let state = match removed {
            Ok(()) => state,
            // What cannot be said of the letters now cannot be said of them later either.
            Err(error @ BusError::Broken(_)) => State::Failed(error.to_string().into()),
            Err(error) => return Err(error),
        };
        loop {
            let now = job::list(&*bus).await?.into_iter().find(|stored| stored.job.id == job.id);
            let Some(Stored { job: mut ended, revision }) = now else { return Ok(()) };
            if ended.state.is_over() {
                break;
            }
            (ended.state, ended.counts, ended.ended) = (state.clone(), counts, Some(Millis::now().0));
            if job::update(&*bus, &ended, revision).await?.is_some() {
                break;
            }
        }
        let (kind, subscription) = (job.work.name(), job.subscription());
        let Counts { matched, delivered, failed, .. } = counts;
        match &state {
            State::Failed(cause) => tracing::error!(job = %job.id, %subscription, kind, %cause, "a job cannot go on"),
            _ => tracing::info!(job = %job.id, %subscription, kind, matched, delivered, failed, "a job is done"),
        }
        Ok(())
    }

    /// Lets go of what was kept for a job that is over, once no lane of it runs here, and forgets one that ended long ago.
    async fn tidy(&mut self, job: &Job, revision: u64) -> Result<(), BusError> {
        if let Some(lane) = self.lanes.get(&job.id) {
            lane.stop.cancel();
            if lane.ended.is_none() {
                return Ok(());
            }
            self.lanes.remove(&job.id);
        }
        let is_foreign = job.runner.as_ref().is_some_and(|claim| claim.instance != self.runner.instance);
        if is_foreign && !self.is_dead(job, revision) {
            return Ok(());
        }
        let bus = self.bus();
        let ledgers = job::ledgers(&*bus, job).await?;
        if let (Work::Redrive { letters }, [(_, ledger)]) = (&job.work, &ledgers[..])
            && job.state != State::Done
        {
            let mut finished = letters.below(ledger.upto());
            ledger.open().keys().for_each(|at| finished.remove(*at));
            if finished.len() > HOLES {
                // The letters behind the first one that is open stay on the list, and are delivered twice if they are redriven.
                finished = letters.below(ledger.needs());
            }
            match dead_letters::remove(&*bus, Some(&job.subscription()), &finished).await {
                Err(error @ BusError::Broken(_)) => {
                    // They stay on the list, and are delivered twice if they are redriven.
                    tracing::warn!(job = %job.id, %error, "the letters that a job has delivered cannot be taken off the list");
                }
                done => done?,
            }
        }
        if !ledgers.is_empty() {
            job::forget_ledgers(&*bus, job).await?;
            if matches!(job.work, Work::Redrive { .. }) {
                dead_letters::give_up_removed(&*bus).await?;
            }
        }
        let ended = Millis(job.ended.unwrap_or(job.made));
        if Millis::now().since(ended) > KEPT {
            job::forget(&*bus, job).await?;
        }
        Ok(())
    }
}

/// What takes longer than an owner may be silent is over for this time: a bus that does not answer is one that cannot be reached.
async fn in_time(work: impl Future<Output = Result<(), BusError>>) -> Result<(), BusError> {
    let late = |_| BusError::Unavailable(format!("it did not answer within {QUIET:?}").into());
    timeout(QUIET, work).await.map_err(late)?
}

/// The first error of a pass, which the other jobs do not wait for.
#[derive(Default)]
struct Failed(Option<BusError>);

impl Failed {
    /// Takes in what came of one job. Of a bus that is closed nothing more is asked.
    fn note(&mut self, id: &JobId, done: Result<(), BusError>) -> Result<(), BusError> {
        match done {
            Ok(()) => Ok(()),
            Err(BusError::Closed) => Err(BusError::Closed),
            Err(error) => {
                tracing::debug!(job = %id, %error, "a job cannot be followed");
                self.0.get_or_insert(error);
                Ok(())
            }
        }
    }

    fn first(self) -> Result<(), BusError> {
        self.0.map_or(Ok(()), Err)
    }
}
