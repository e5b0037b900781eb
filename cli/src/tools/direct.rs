//! The API on the buses that manifests name, without a running evoke. Jobs that it is asked for run in this process.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use evoke_api::manifest::Schemas;
use evoke_delivery::endpoints::Endpoints;
use evoke_delivery::jobs::{Jobs, Runner};
use evoke_delivery::sinks::Sinks;
use evoke_eventbus::bus::{BusError, Health};
use evoke_eventbus::plan::BusKind;
use evoke_eventbus::subscription::job::{self, Stored, Work};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::ToolError;
use super::args::TargetArgs;
use crate::api::Api;
use crate::api::board::{Board, OnBoard};
use crate::args::ManifestArgs;
use crate::local::buses::{RunningBus, label};
use crate::local::metrics::Metrics;
use crate::local::plan::{Plans, Purpose, plan};
use crate::local::read;

/// How long a broker may take to answer at first.
const CONNECT: Duration = Duration::from_secs(15);
/// How long what is under way may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// The buses, and the API on them.
pub(super) struct Direct {
    buses: Vec<(RunningBus, Jobs)>,
    router: Router,
    tasks: TaskTracker,
    instance: Arc<str>,
}

impl Direct {
    /// Opens the buses that the manifests use.
    ///
    /// # Errors
    /// What is wrong with the manifests, or with a bus.
    pub(super) async fn open(target: &TargetArgs) -> Result<Self, ToolError> {
        let plans = plans(target)?;
        let metrics = Metrics::new().map_err(|error| ToolError(format!("cannot register metrics: {error}")))?;
        let instance: Arc<str> = format!("tool-{}", uuid::Uuid::now_v7().simple()).into();
        let board = Board::of_a_tool();
        board.plan(&plans);
        let router = Api::new(board.clone(), Arc::clone(&instance)).router();
        let mut direct = Self { buses: Vec::new(), router, tasks: TaskTracker::new(), instance: Arc::clone(&instance) };
        for (name, plan) in &plans.buses {
            let label = label(name);
            let embedded = matches!(plan.kind, BusKind::Embedded(_));
            let folder = evoke_eventbus::open::embedded_folder(&target.data_dir, &label);
            if embedded && !folder.is_dir() {
                let dir = target.data_dir.display();
                let text = format!(
                    "bus {label} is embedded, and the data directory {dir} holds none: name it with --data-dir"
                );
                return Err(direct.failed(text).await);
            }
            let looking =
                RunningBus::looking(name, plan.clone(), &target.data_dir, &metrics.bus, &metrics.subscriptions);
            let bus = match looking.await {
                Ok(bus) => bus,
                Err(cause) => {
                    let hint = "if evoke runs there, leave out -f to ask it";
                    return Err(direct.failed(format!("bus {label}: {cause}; {hint}")).await);
                }
            };
            let runner = Runner {
                subscriptions: bus.subscriptions.clone(),
                subscribers: board.on(&label),
                sinks: Sinks::new(Endpoints::default()),
                metrics: metrics.deliveries.clone(),
                instance: Arc::clone(&instance),
            };
            let answered = answers(&bus).await;
            let jobs = Jobs::start(runner, &direct.tasks);
            let subscriptions = bus.subscriptions.clone();
            board.opened(label.clone(), OnBoard { subscriptions, nudge: jobs.nudge(), exclusive: embedded });
            direct.buses.push((bus, jobs));
            if let Err(why) = answered {
                return Err(direct.failed(format!("bus {label} does not answer: {why}")).await);
            }
        }
        Ok(direct)
    }

    /// The API.
    pub(super) fn router(&self) -> Router {
        self.router.clone()
    }

    async fn failed(self, text: String) -> ToolError {
        self.close().await;
        ToolError(text)
    }

    /// Ends what was begun, and closes the buses.
    pub(super) async fn close(self) {
        let deadline = Instant::now() + DRAIN;
        for (bus, jobs) in self.buses {
            jobs.stop(deadline).await;
            if let Err(error) = forget_own(&bus, &self.instance).await {
                tracing::warn!(%error, "an evoke on this bus will cancel the replay");
            }
            bus.close().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Takes the jobs off the bus that nobody but this command could go on with.
async fn forget_own(bus: &RunningBus, instance: &Arc<str>) -> Result<(), BusError> {
    let bus = &**bus.bus();
    for Stored { job, .. } in job::list(bus).await? {
        if matches!(&job.work, Work::Replay { only: Some(only), .. } if only == instance) && !job.state.is_over() {
            job::forget(bus, &job).await?;
        }
    }
    Ok(())
}

fn plans(target: &TargetArgs) -> Result<Plans, ToolError> {
    let manifests =
        ManifestArgs { paths: target.manifests.clone(), overrides: target.overrides.clone(), bus: target.bus };
    let mut loaded = read(&Schemas::new(), &manifests);
    // What cannot run here, such as a source, is no obstacle to looking at its bus.
    let plans = plan(&mut loaded, target.bus, Purpose::Validate { partial: false }, None);
    let errors: Vec<_> = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).collect();
    if !errors.is_empty() {
        for error in &errors {
            anstream::eprintln!("{error}");
        }
        return Err(ToolError(format!(
            "{}: `evoke validate` shows the same",
            crate::validate::count(errors.len(), "error")
        )));
    }
    if plans.buses.is_empty() {
        return Err(ToolError("no Trigger or EventSource of these manifests uses a bus".into()));
    }
    Ok(plans)
}

/// Waits until the bus works; says what it waits for if that takes long.
async fn answers(bus: &RunningBus) -> Result<(), String> {
    let mut health = bus.bus().health();
    let works = |health: &Health| matches!(health, Health::Up | Health::Full(_));
    let waited = timeout(CONNECT, health.wait_for(works)).await.map(|result| result.is_ok());
    if waited == Ok(true) {
        return Ok(());
    }
    let text = match &*health.borrow() {
        Health::Connecting(what) => what.to_string(),
        Health::Down(why) => why.to_string(),
        Health::Up | Health::Full(_) => "it closed".to_owned(),
    };
    Err(text)
}
