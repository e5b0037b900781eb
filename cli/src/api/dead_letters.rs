//! The bus's own dead letters: listed page by page, shown, redriven, purged.

use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use evoke_delivery::dead_letter;
use evoke_delivery::dead_letters::{self as store, Filter, Letter, Selection, Wanted};
use evoke_delivery::jobs::{self, Purged};
use evoke_eventbus::bus::{BusError, EventBus, Position};
use evoke_eventbus::codec::json as format;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Api, ApiError, rfc3339};

/// How many letters a page has.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Which bus, and which page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Paging {
    bus: Option<String>,
    /// Where the page before ended.
    cursor: Option<String>,
    limit: Option<usize>,
}

/// A dead letter, without its data.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    bus: String,
    /// When it became one.
    appended: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriber: Option<String>,
    event_id: String,
    event_source: String,
    event_type: String,
    /// Where the event was, on the bus or before.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// The data's size.
    bytes: usize,
    /// The job that delivers it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
}

fn row(label: &str, letter: Letter<'_>) -> Row {
    let event = &letter.record.event;
    let text = |name: &str| event.attribute(name).map(str::to_owned);
    Row {
        id: letter.record.at.to_string(),
        bus: label.to_owned(),
        appended: rfc3339(letter.record.appended),
        namespace: letter.origin.map(|id| id.owner.namespace.to_string()),
        trigger: letter.origin.map(|id| id.owner.name.to_string()),
        subscriber: letter.origin.map(|id| id.subscriber.to_string()),
        event_id: event.id().to_owned(),
        event_source: event.source().to_owned(),
        event_type: event.ty().to_owned(),
        position: text(dead_letter::POSITION),
        cause: text("evokecause"),
        status: event.attribute("knativeerrorcode").and_then(|code| code.parse().ok()),
        attempts: event.attribute("evokeattempts").and_then(|attempts| attempts.parse().ok()),
        first_time: text("evokefirsttime"),
        last_time: text("evokelasttime"),
        destination: text("knativeerrordest"),
        bytes: event.data_slice().len(),
        job: letter.job.map(ToString::to_string),
    }
}

fn wanted(filter: Filter) -> Result<Wanted, ApiError> {
    Wanted::new(filter).map_err(|error| ApiError::bad(error.to_string()))
}

pub(super) async fn list(
    State(api): State<Api>,
    Query(filter): Query<Filter>,
    Query(paging): Query<Paging>,
) -> Result<Json<Value>, ApiError> {
    let wanted = wanted(filter)?;
    let limit = paging.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let cursor = paging.cursor.as_deref().map(read_cursor).transpose()?;
    let mut rows = Vec::new();
    for (label, bus) in api.buses(paging.bus.as_deref())? {
        let after = match &cursor {
            Some((of, _)) if label < *of => continue,
            Some((of, after)) if label == *of => Some(*after),
            _ => None,
        };
        let left = limit - rows.len();
        let shown =
            store::page(&**bus.subscriptions.bus(), &wanted, after, left, |letter| rows.push(row(&label, letter)));
        if let Some(next) = shown.await.map_err(|error| ApiError::bus(&label, &error))? {
            return Ok(Json(json!({ "deadLetters": rows, "next": format!("{label}:{next}") })));
        }
    }
    Ok(Json(json!({ "deadLetters": rows, "next": null })))
}

fn read_cursor(text: &str) -> Result<(String, Position), ApiError> {
    let read = || {
        let (label, at) = text.rsplit_once(':')?;
        Some((label.to_owned(), Position(at.parse().ok()?)))
    };
    read().ok_or_else(|| ApiError::bad(format!("{text:?} is no cursor: take the one that the page before ends with")))
}

/// A dead letter with its event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    id: String,
    bus: String,
    appended: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    event: Box<RawValue>,
    /// The data, byte for byte.
    data_base64: String,
}

pub(super) async fn find(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::not_found(format!("there is no dead letter {id}: `evoke dlq list` shows all"));
    let at = Position(id.parse().map_err(|_| missing())?);
    let mut found = Vec::new();
    for (label, bus) in api.buses(paging.bus.as_deref())? {
        let letter = store::find(&**bus.subscriptions.bus(), at).await;
        if let Some((record, job)) = letter.map_err(|error| ApiError::bus(&label, &error))? {
            let text = String::from_utf8_lossy(&format::encode(&record.event)).into_owned();
            let event = RawValue::from_string(text)
                .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
            let appended = rfc3339(record.appended);
            let job = job.map(|job| job.to_string());
            let data_base64 = BASE64_STANDARD.encode(record.event.data_slice());
            found.push(Shown { id: id.clone(), bus: label, appended, job, event, data_base64 });
        }
    }
    match found.len() {
        0 => Err(missing()),
        1 => Ok(Json(json!({ "deadLetters": found }))),
        _ => {
            let labels: Vec<_> = found.iter().map(|letter| letter.bus.as_str()).collect();
            Err(ApiError::conflict(format!("{id} is on several buses: name one of {}", labels.join(", "))))
        }
    }
}

/// What to change.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Change {
    filter: Filter,
    bus: Option<String>,
    /// Only count.
    dry_run: bool,
}

pub(super) async fn redrive(State(api): State<Api>, Json(change): Json<Change>) -> Result<Json<Value>, ApiError> {
    let wanted = wanted(change.filter)?;
    let _alone = api.selecting.lock().await;
    let (mut jobs, mut skipped, mut busy, mut more) = (Vec::new(), Vec::new(), 0, false);
    for (label, bus) in api.buses(change.bus.as_deref())? {
        let runs = |id: &_| api.board.subscriber(id).is_some_and(|subscriber| subscriber.bus == label);
        let redriven = jobs::redrive(&**bus.subscriptions.bus(), &wanted, runs).await;
        let redriven = redriven.map_err(|error| ApiError::bus(&label, &error))?;
        for (job, letters) in redriven.jobs {
            api.board.made(&job.id);
            tracing::info!(job = %job.id, subscription = %job.subscription(), letters, "dead letters are redriven");
            let subscription = job.subscription().to_string();
            jobs.push(json!({ "id": job.id, "bus": label, "subscription": subscription, "letters": letters }));
        }
        for (origin, letters) in redriven.skipped {
            let subscription = origin.map(|id| id.to_string());
            skipped.push(json!({ "bus": label, "subscription": subscription, "letters": letters }));
        }
        (busy, more) = (busy + redriven.busy, more || redriven.more);
        bus.nudge.notify_one();
    }
    Ok(Json(json!({ "jobs": jobs, "skipped": skipped, "busy": busy, "more": more })))
}

pub(super) async fn purge(State(api): State<Api>, Json(change): Json<Change>) -> Result<Json<Value>, ApiError> {
    let started = SystemTime::now();
    let wanted = wanted(change.filter)?;
    let _alone = api.selecting.lock().await;
    let (mut purged, mut of, mut busy, mut more) = (0, Vec::new(), 0, false);
    for (label, bus) in api.buses(change.bus.as_deref())? {
        let found = purge_on(&**bus.subscriptions.bus(), &wanted, change.dry_run).await;
        let found = found.map_err(|error| ApiError::bus(&label, &error))?;
        for (origin, count) in &found.of {
            purged += count;
            of.push(
                json!({ "bus": label, "subscription": origin.as_ref().map(ToString::to_string), "letters": count }),
            );
        }
        (busy, more) = (busy + found.busy, more || found.more);
    }
    if !change.dry_run && purged > 0 {
        tracing::info!(letters = purged, took = ?started.elapsed().unwrap_or_default(), "dead letters are purged");
    }
    Ok(Json(json!({ "purged": purged, "of": of, "busy": busy, "more": more, "dryRun": change.dry_run })))
}

async fn purge_on(bus: &dyn EventBus, wanted: &Wanted, dry_run: bool) -> Result<Purged, BusError> {
    if !dry_run {
        return jobs::purge(bus, wanted).await;
    }
    let Selection { of, busy, more } = store::select(bus, wanted).await?;
    let of = of.into_iter().map(|(origin, letters)| (origin, letters.count)).collect();
    Ok(Purged { of, busy, more })
}
