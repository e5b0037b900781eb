//! Subscriptions: listed, paused, resumed, deleted.

use axum::Json;
use axum::extract::{Path, Query, State};
use evoke_api::names::SubscriptionId;
use evoke_eventbus::subscription::control::Control;
use evoke_eventbus::subscription::ledger;
use evoke_eventbus::subscription::report::{self, InputReport, Report};
use evoke_eventbus::subscription::sharing::{Timing, onlooker};
use evoke_eventbus::subscription::token::Token;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::board::{Live, OnBoard};
use super::{Api, ApiError, subscription};

/// Which subscriptions.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Which {
    namespace: Option<String>,
    trigger: Option<String>,
    subscriber: Option<String>,
    bus: Option<String>,
}

/// One subscription.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    namespace: String,
    trigger: String,
    subscriber: String,
    bus: String,
    /// True if this process runs it.
    running: bool,
    paused: bool,
    /// True while it reads nothing since too many events are put aside.
    stalled: bool,
    /// Events that were not evaluated yet.
    lag: u64,
    /// False when `lag` is an estimate.
    lag_exact: bool,
    /// Deliveries under way; absent where another process would know.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<usize>,
    /// Matched events put aside.
    parked: usize,
    /// Events evaluated so far.
    evaluated: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    inputs: Vec<Input>,
    /// Redrives and replays that are not over.
    jobs: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    topic: String,
    /// Where it goes on, for `startAt` and `evoke replay --from`.
    offset: String,
    lag: u64,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    partition: u16,
    position: String,
    lag: Option<u64>,
    open: usize,
}

pub(super) async fn list(State(api): State<Api>, Query(which): Query<Which>) -> Result<Json<Value>, ApiError> {
    let mut rows = Vec::new();
    for (label, bus) in api.buses(which.bus.as_deref())? {
        let reports = report::reports(&**bus.subscriptions.bus()).await;
        for report in reports.map_err(|error| ApiError::bus(&label, &error))? {
            if which.names(&report.subscription) {
                rows.push(row(&label, &report, api.board.live(&report.subscription)));
            }
        }
    }
    Ok(Json(json!({ "subscriptions": rows })))
}

impl Which {
    fn names(&self, id: &SubscriptionId) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        same(&self.namespace, &id.owner.namespace)
            && same(&self.trigger, &id.owner.name)
            && same(&self.subscriber, &id.subscriber)
    }
}

fn row(label: &str, report: &Report, live: Option<Live>) -> Row {
    let id = &report.subscription;
    let (lag, lag_exact) = report.lag();
    let ledgers = report.inputs.iter().flat_map(|input| &input.partitions);
    let runs_here = live.is_some();
    let Live { lane, ended } = live.unwrap_or_default();
    Row {
        name: id.to_string(),
        namespace: id.owner.namespace.to_string(),
        trigger: id.owner.name.to_string(),
        subscriber: id.subscriber.to_string(),
        bus: label.to_owned(),
        running: lane.running && ended.is_none(),
        paused: report.control.paused,
        stalled: lane.stalled,
        lag,
        lag_exact,
        in_flight: runs_here.then_some(lane.in_flight),
        parked: if runs_here { lane.parked } else { report.open() },
        evaluated: ledgers.map(|(_, ledger, _)| ledger.count()).sum(),
        last_error: ended.or(lane.last_error).map(|cause| cause.to_string()),
        inputs: report.inputs.iter().map(input).collect(),
        jobs: report.jobs.iter().map(ToString::to_string).collect(),
    }
}

fn input(input: &InputReport) -> Input {
    let positions = input.partitions.iter().map(|(index, ledger, _)| (*index, ledger.upto())).collect();
    let partitions = input.partitions.iter().map(|(index, ledger, mark)| Partition {
        partition: *index,
        position: ledger.upto().to_string(),
        lag: mark.map(|mark| ledger.lag(&mark).0),
        open: ledger.open().len(),
    });
    Input {
        topic: input.topic.to_string(),
        offset: Token { topic: input.topic.clone(), positions }.to_string(),
        lag: input.lag(),
        partitions: partitions.collect(),
    }
}

type Named = Path<(String, String, String)>;

pub(super) async fn pause(State(api): State<Api>, path: Named, which: Query<Which>) -> Result<Json<Value>, ApiError> {
    steer(&api, path, &which, Control { paused: true }).await
}

pub(super) async fn resume(State(api): State<Api>, path: Named, which: Query<Which>) -> Result<Json<Value>, ApiError> {
    steer(&api, path, &which, Control { paused: false }).await
}

async fn steer(api: &Api, path: Named, which: &Which, control: Control) -> Result<Json<Value>, ApiError> {
    let Path((namespace, owner, name)) = path;
    let id = subscription(&namespace, &owner, &name)?;
    let (label, bus) = find(api, &id, which).await?;
    bus.subscriptions.control(&id, control).await.map_err(|error| ApiError::bus(&label, &error))?;
    bus.nudge.notify_one();
    Ok(Json(json!({ "name": id.to_string(), "bus": label, "paused": control.paused })))
}

pub(super) async fn delete(State(api): State<Api>, path: Named, which: Query<Which>) -> Result<Json<Value>, ApiError> {
    let Path((namespace, owner, name)) = path;
    let id = subscription(&namespace, &owner, &name)?;
    let (label, bus) = find(&api, &id, &which).await?;
    let is_tool = api.board.is_of_a_tool();
    if api.board.live(&id).is_some() || runs_on(&api, &id, &label) && !is_tool {
        let text =
            format!("{id} is in the manifests that run: take it out first, or its position would begin anew at once");
        return Err(ApiError::conflict(text));
    }
    if bus.subscriptions.is_worked_on(&id) {
        let text = format!("another evoke on this bus runs {id}: take it out of its manifests first");
        return Err(ApiError::conflict(text));
    }
    if is_tool {
        let worker = onlooker::worker(&**bus.subscriptions.bus(), &id, Timing::default()).await;
        if let Some(worker) = worker.map_err(|error| ApiError::bus(&label, &error))? {
            let text = format!("{id} is run by {worker}: take it out of its manifests, or stop it, first");
            return Err(ApiError::conflict(text));
        }
    }
    report::delete(&**bus.subscriptions.bus(), &id).await.map_err(|error| ApiError::bus(&label, &error))?;
    bus.subscriptions.forget(&id);
    tracing::info!(subscription = %id, bus = label, "a subscription is deleted");
    Ok(Json(json!({ "name": id.to_string(), "bus": label, "deleted": true })))
}

fn runs_on(api: &Api, id: &SubscriptionId, label: &str) -> bool {
    api.board.subscriber(id).is_some_and(|subscriber| subscriber.bus == label)
}

/// The bus that has a subscription.
async fn find(api: &Api, id: &SubscriptionId, which: &Which) -> Result<(String, OnBoard), ApiError> {
    let mut found = Vec::new();
    for (label, bus) in api.buses(which.bus.as_deref())? {
        let ledgers = bus.subscriptions.bus().load(&ledger::prefix(id)).await;
        if !ledgers.map_err(|error| ApiError::bus(&label, &error))?.is_empty() {
            found.push((label, bus));
        }
    }
    if found.len() > 1 {
        // The one it runs on is meant, if it runs.
        if let Some(place) = found.iter().position(|(label, _)| runs_on(api, id, label)) {
            return Ok(found.swap_remove(place));
        }
        let labels: Vec<_> = found.iter().map(|(label, _)| label.as_str()).collect();
        return Err(ApiError::conflict(format!("{id} is on several buses: name one of {}", labels.join(", "))));
    }
    let missing = || ApiError::not_found(format!("there is no subscription {id}: `evoke subscription list` shows all"));
    found.pop().ok_or_else(missing)
}
