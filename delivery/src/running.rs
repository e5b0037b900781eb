//! A subscription at work in a task of its own, and how it is ended.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use evoke_api::names::SubscriptionId;
use evoke_eventbus::bus::BusError;
use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::panic;
use crate::subscription::{Progress, Supervisor};

/// How long a lane may take to wind up once its deliveries are cut short.
pub(crate) const ABORTED: Duration = Duration::from_secs(3);

/// Whether what was told to end has finished what was under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drained {
    /// It has.
    #[default]
    Whole,
    /// Some of it was cut short, and the next run does it again.
    CutShort,
}

/// A subscription that runs. Dropping it has it finish by itself; [`end`] waits for that.
#[derive(Debug)]
pub struct Running<T> {
    /// What its owner knows it by.
    pub of: T,
    id: SubscriptionId,
    progress: Progress,
    over: Over,
    /// None once it was told to end.
    stop: Option<DropGuard>,
    abort: CancellationToken,
    task: JoinHandle<()>,
}

/// Why a subscription is over that nobody stopped.
type Over = Arc<OnceLock<Arc<str>>>;

impl<T> Running<T> {
    /// Starts a subscription. Must be called inside a runtime.
    pub fn start(of: T, lane: Supervisor, tasks: &TaskTracker) -> Self {
        let (id, progress) = (lane.id().clone(), lane.progress());
        Self::spawn(of, id, progress, tasks, |stop, abort| lane.run(stop, abort))
    }

    fn spawn<W>(
        of: T,
        id: SubscriptionId,
        progress: Progress,
        tasks: &TaskTracker,
        work: impl FnOnce(CancellationToken, CancellationToken) -> W,
    ) -> Self
    where
        W: Future<Output = Result<(), BusError>> + Send + 'static,
    {
        let (stop, abort, over) = (CancellationToken::new(), CancellationToken::new(), Over::default());
        let work = work(stop.clone(), abort.clone());
        let task = tasks.spawn(follow(id.clone(), work, stop.clone(), Arc::clone(&over)));
        Self { of, id, progress, over, stop: Some(stop.drop_guard()), abort, task }
    }

    /// How it is doing.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Why it is over although nobody stopped it; `None` while it runs.
    pub fn over(&self) -> Option<Arc<str>> {
        self.over.get().cloned()
    }

    /// What it waits for, in words; `None` when it reads what is this process's of it.
    pub fn waits_for(&self) -> Option<String> {
        match self.over.get() {
            Some(cause) => Some(format!("has ended: {cause}")),
            None => self.progress.waits_for(),
        }
    }

    /// Waits for its end. Whoever waits may be cancelled, and another one goes on, also after the end.
    pub async fn ended(&mut self) {
        if !self.task.is_finished() {
            (&mut self.task).await.unwrap_or_default();
        }
    }
}

/// Ends subscriptions, all at once: they read nothing more, and finish their deliveries until `deadline`, when those are cut short.
/// Where it is cancelled, they are still there, and are ending.
pub async fn end<T>(lanes: &mut Vec<Running<T>>, deadline: Instant) -> Drained {
    let mut drained = Drained::Whole;
    lanes.iter_mut().for_each(|lane| drop(lane.stop.take()));
    for lane in &mut *lanes {
        if timeout_at(deadline, lane.ended()).await.is_err() {
            tracing::warn!(subscriber = %lane.id, "deliveries are cut short and will be repeated");
            drained = Drained::CutShort;
            lane.abort.cancel();
        }
    }
    let deadline = Instant::now() + ABORTED;
    for lane in &mut *lanes {
        if timeout_at(deadline, lane.ended()).await.is_err() {
            tracing::warn!(subscriber = %lane.id, "the lane does not end and is dropped");
            lane.task.abort();
        }
    }
    lanes.clear();
    drained
}

/// Reports the end of a subscription that nobody stopped.
async fn follow(
    id: SubscriptionId,
    work: impl Future<Output = Result<(), BusError>>,
    stopped: CancellationToken,
    over: Over,
) {
    let cause: Arc<str> = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(_) if stopped.is_cancelled() => return,
        Ok(Ok(())) => "it came to an end".into(),
        Ok(Err(error)) => error.to_string().into(),
        Err(panic) => format!("a bug in evoke: {}", panic::message(&*panic)).into(),
    };
    tracing::error!(subscriber = %id, %cause, "a subscriber has ended and delivers nothing until evoke is restarted");
    over.get_or_init(|| cause);
}

#[cfg(test)]
mod tests {
    use evoke_api::names::ObjectName;
    use tokio::time::timeout;

    use super::*;

    fn lane<W>(
        tasks: &TaskTracker,
        work: impl FnOnce(CancellationToken, CancellationToken) -> W,
    ) -> Running<&'static str>
    where
        W: Future<Output = Result<(), BusError>> + Send + 'static,
    {
        let id = SubscriptionId { owner: ObjectName::new("n", "t"), subscriber: "s".into() };
        Running::spawn("it", id, Progress::default(), tasks, work)
    }

    fn in_(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_ends_lanes_may_be_cancelled_and_another_goes_on() {
        let tasks = TaskTracker::new();
        let prompt = |stop: CancellationToken, _| async move {
            stop.cancelled().await;
            Ok(())
        };
        let slow = |_, abort: CancellationToken| async move {
            abort.cancelled().await;
            Ok(())
        };
        let mut lanes = vec![lane(&tasks, prompt), lane(&tasks, slow)];
        assert!(timeout(Duration::from_secs(1), end(&mut lanes, in_(5))).await.is_err(), "deliveries go on");
        assert_eq!(lanes.len(), 2);
        assert_eq!(end(&mut lanes, in_(1)).await, Drained::CutShort);
        assert!(lanes.is_empty());
        tasks.close();
        tasks.wait().await;

        let mut lanes = vec![lane(&tasks, prompt)];
        assert_eq!(end(&mut lanes, in_(5)).await, Drained::Whole);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_end_is_dropped() {
        let tasks = TaskTracker::new();
        let mut lanes = vec![lane(&tasks, |_, _| std::future::pending())];
        assert_eq!(end(&mut lanes, in_(1)).await, Drained::CutShort);
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn one_that_its_owner_drops_ends_by_itself() {
        let tasks = TaskTracker::new();
        let work = |stop: CancellationToken, _| async move {
            stop.cancelled().await;
            Ok(())
        };
        drop(lane(&tasks, work));
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn an_end_that_nobody_asked_for_has_a_cause() {
        let tasks = TaskTracker::new();
        let mut broken = lane(&tasks, |_, _| async { panic!("of {}", "wood") });
        let mut closed = lane(&tasks, |_, _| async { Err(BusError::Closed) });
        broken.ended().await;
        closed.ended().await;
        assert_eq!(broken.over().as_deref(), Some("a bug in evoke: of wood"));
        assert_eq!(broken.waits_for().as_deref(), Some("has ended: a bug in evoke: of wood"));
        assert_eq!(closed.waits_for().as_deref(), Some("has ended: the bus is closed"));
        let mut stopped = lane(&tasks, |stop: CancellationToken, _| async move {
            stop.cancelled().await;
            Err(BusError::Closed)
        });
        drop(stopped.stop.take());
        stopped.ended().await;
        assert_eq!(stopped.over(), None);
    }
}
