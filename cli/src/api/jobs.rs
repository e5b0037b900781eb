//! Redrives and replays: how far they are, and their end.

use axum::Json;
use axum::extract::{Path, Query, State};
use evoke_eventbus::subscription::job::{self, Job, JobId, Work};
use evoke_eventbus::subscription::ledger::Millis;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Api, ApiError, rfc3339};

/// Which bus.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Which {
    bus: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, Query(which): Query<Which>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "jobs": rows(&api, &which, None).await? })))
}

pub(super) async fn find(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, ApiError> {
    rows(&api, &which, Some(&id)).await?.pop().map(Json).ok_or_else(|| missing(&id))
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no job {id}: `evoke job list` shows those of the last hour"))
}

async fn rows(api: &Api, which: &Which, id: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let mut rows = Vec::new();
    for (label, bus) in api.buses(which.bus.as_deref())? {
        let jobs = job::list(&**bus.subscriptions.bus()).await.map_err(|error| ApiError::bus(&label, &error))?;
        let jobs = jobs.into_iter().map(|stored| stored.job);
        rows.extend(jobs.filter(|job| id.is_none_or(|id| &*job.id.0 == id)).map(|job| row(&label, &job)));
    }
    Ok(rows)
}

/// A job as it is shown.
pub(super) fn row(label: &str, job: &Job) -> Value {
    let to = match &job.work {
        // The query of a URL may hold a key, and whoever may look at jobs is not to have it.
        Work::Replay { to, login, .. } => {
            to.as_deref().and_then(|to| to.split(['?', '#']).next()).map(|to| match login {
                true => to.replacen("://", "://***@", 1),
                false => to.to_owned(),
            })
        }
        Work::Redrive { .. } => None,
    };
    let state = serde_json::to_value(&job.state).unwrap_or_default();
    json!({
        "id": job.id,
        "kind": job.work.name(),
        "bus": label,
        "subscription": job.subscription().to_string(),
        "state": state["phase"],
        "cause": state.get("cause"),
        "to": to,
        "made": rfc3339(Millis(job.made).to_system()),
        "ended": job.ended.map(|ended| rfc3339(Millis(ended).to_system())),
        "runner": job.runner.as_ref().map(|runner| &runner.instance),
        "counts": job.counts,
    })
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, ApiError> {
    let Some(found) = rows(&api, &which, Some(&id)).await?.pop() else { return Err(missing(&id)) };
    for (label, bus) in api.buses(found["bus"].as_str())? {
        let cancelled = job::cancel(&**bus.subscriptions.bus(), &JobId(id.as_str().into())).await;
        if !cancelled.map_err(|error| ApiError::bus(&label, &error))? {
            return Err(ApiError::conflict(format!(
                "job {id} is over: {}",
                found["state"].as_str().unwrap_or_default()
            )));
        }
        bus.nudge.notify_one();
    }
    rows(&api, &which, Some(&id)).await?.pop().map(Json).ok_or_else(|| missing(&id))
}
