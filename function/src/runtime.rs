//! Keeps one instance of a function alive: launches it, says where it listens, starts it again when it ends, and ends it
//! gracefully when it is told to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::ObjectName;
use evoke_delivery::endpoints::Endpoints;
use http::uri::Authority;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::launch::{Instance, LaunchError, Launcher};
use crate::metrics::Metrics;
use crate::plan::FunctionPlan;
use crate::process::{ProcessHost, ProcessLauncher};

/// The first wait before a function is started again; it doubles with every failure.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// The longest wait.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);
/// A function that listened this long starts with the first wait again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// What a function does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Does not listen yet; says why it is being started.
    Starting {
        /// For people.
        why: Arc<str>,
    },
    /// Listens.
    Ready {
        /// Where.
        url: Arc<str>,
    },
    /// Ended or could not start, and waits to be started again.
    Failed {
        /// For people.
        cause: Arc<str>,
    },
    /// Was told to end, and did.
    Stopped,
}

/// How a function is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it does.
    pub state: State,
    /// How often it was started again.
    pub restarts: u64,
}

/// Watches a function and ends it.
#[derive(Clone, Debug)]
pub struct Handle {
    status: watch::Receiver<Status>,
    stop: watch::Sender<Option<Instant>>,
}

impl Handle {
    /// Follows how the function is doing.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Has the function ended: asked to at once, made to by `deadline` or when its own grace is over. The runtime's future resolves
    /// when it is gone.
    pub fn stop(&self, deadline: Instant) {
        self.stop.send_replace(Some(deadline));
    }
}

/// Serves a function as a child process. It runs while the future is polled, and ends when every [`Handle`] is gone or one
/// stops it.
pub fn serve(
    plan: Arc<FunctionPlan>,
    host: Arc<ProcessHost>,
    endpoints: Endpoints,
    metrics: &Metrics,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (name, grace) = (plan.name.clone(), plan.grace);
    let launcher = Box::new(ProcessLauncher::new(plan, host));
    keep(Kept { name, launcher, grace, endpoints }, metrics)
}

/// What is kept alive.
pub struct Kept {
    /// The function's name, under which its address is published.
    pub name: ObjectName,
    /// How it comes to life.
    pub launcher: Box<dyn Launcher>,
    /// How long an instance may take to end.
    pub grace: Duration,
    /// Where its address is published.
    pub endpoints: Endpoints,
}

/// Keeps one instance alive. It lives while the future is polled, and ends when every [`Handle`] is gone or one stops it.
pub fn keep(kept: Kept, metrics: &Metrics) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let starting = Status { state: State::Starting { why: "first start".into() }, restarts: 0 };
    let (status, status_seen) = watch::channel(starting);
    let (stop, stop_seen) = watch::channel(None);
    let counted = metrics.of(&kept.name);
    counted.up.set(0);
    let runtime = Runtime { kept, status, stop: stop_seen, metrics: counted };
    (Handle { status: status_seen, stop }, runtime.run())
}

struct Runtime {
    kept: Kept,
    status: watch::Sender<Status>,
    stop: watch::Receiver<Option<Instant>>,
    metrics: crate::metrics::FunctionMetrics,
}

impl Runtime {
    async fn run(mut self) {
        let mut delay = RESTART_DELAY;
        while let Some((cause, lived)) = self.live().await {
            if lived >= HEALTHY_AFTER {
                delay = RESTART_DELAY;
            }
            let function = &self.kept.name;
            tracing::warn!(%function, cause = &*cause, retry_in = ?delay, "the function does not run");
            self.set(State::Failed { cause: cause.clone() });
            tokio::select! {
                biased;
                _ = self.stop.wait_for(Option::is_some) => break,
                () = sleep(delay) => {}
            }
            delay = RESTART_DELAY_MAX.min(delay * 2);
            self.metrics.restarts.inc();
            self.status.send_modify(|status| {
                status.restarts += 1;
                status.state = State::Starting { why: format!("starting again: {cause}").into() };
            });
        }
        self.set(State::Stopped);
        tracing::info!(function = %self.kept.name, "the function is stopped");
    }

    /// One life of an instance: why it is over and how long it listened, or `None` once the function was told to end.
    async fn live(&mut self) -> Option<(Arc<str>, Duration)> {
        let launched = tokio::select! {
            biased;
            _ = self.stop.wait_for(Option::is_some) => return None,
            launched = self.kept.launcher.launch() => launched,
        };
        let published = launched.and_then(|instance| {
            let authority = instance.authority().parse::<Authority>();
            let authority = authority.map_err(|e| LaunchError(format!("{}: {e}", instance.authority()).into()))?;
            Ok((instance, authority))
        });
        let (mut instance, authority) = match published {
            Ok(published) => published,
            Err(LaunchError(cause)) => return Some((cause, Duration::ZERO)),
        };
        let since = Instant::now();
        self.publish(&authority);
        let ended = tokio::select! {
            biased;
            _ = self.stop.wait_for(Option::is_some) => None,
            reason = instance.ended() => Some(reason),
        };
        self.withdraw(&authority);
        let Some(reason) = ended else {
            self.stop_instance(instance).await;
            return None;
        };
        instance.stop(Duration::ZERO).await;
        Some((reason.into(), since.elapsed()))
    }

    async fn stop_instance(&self, instance: Box<dyn Instance>) {
        let deadline = *self.stop.borrow();
        // Without a deadline all handles are gone, and nobody waits.
        let left = deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()));
        instance.stop(self.kept.grace.min(left)).await;
    }

    fn publish(&self, authority: &Authority) {
        let url = format!("http://{authority}");
        tracing::info!(function = %self.kept.name, url, "the function listens");
        self.kept.endpoints.publish(&self.kept.name, Some(authority.clone()));
        self.metrics.up.set(1);
        self.set(State::Ready { url: url.into() });
    }

    /// Withdraws the address, unless a successor of this runtime has published its own.
    fn withdraw(&self, authority: &Authority) {
        let published = self.kept.endpoints.follow(&self.kept.name).borrow().clone();
        if published.as_ref() == Some(authority) {
            self.kept.endpoints.publish(&self.kept.name, None);
            self.metrics.up.set(0);
        }
    }

    fn set(&self, state: State) {
        self.status.send_modify(|status| status.state = state);
    }
}
