//! Replays: jobs over a part of the log, or a count of what they would deliver, told as it goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::DateTime;
use evoke_api::credentials::Secret;
use evoke_api::names::{SubscriptionId, TopicName};
use evoke_delivery::jobs::{self, BadSpan, Counting, Span, Start};
use evoke_eventbus::bus::Position;
use evoke_eventbus::subscription::job::{self, Counts, Job, Range, Work};
use evoke_eventbus::subscription::token::Token;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::board::{OnBoard, Subscriber, needs_functions};
use super::{Api, ApiError, jobs as shown};

/// What to replay.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Asked {
    namespace: String,
    trigger: String,
    subscriber: Option<String>,
    /// The bus that is meant; it has to be the Trigger's.
    bus: Option<String>,
    /// The time to start at.
    since: Option<String>,
    /// `earliest`, or an offset for each input.
    from: Vec<String>,
    until: Option<String>,
    /// A URL, which may hold a password.
    to: Option<Secret>,
    dry_run: bool,
}

/// One subscriber's part of it.
struct Part {
    subscriber: Subscriber,
    label: String,
    bus: OnBoard,
    ranges: Vec<Range>,
}

pub(super) async fn replay(State(api): State<Api>, Json(asked): Json<Asked>) -> Result<Response, ApiError> {
    let to = asked.to.as_ref().map(|to| read_url(to.expose())).transpose()?;
    let span = span(&asked)?;
    let meant = asked.bus.as_deref().map(|bus| api.buses(Some(bus))).transpose()?;
    let mut parts = Vec::new();
    for subscriber in subscribers(&api, &asked)? {
        let label = subscriber.bus.clone();
        if let Some(meant) = &meant
            && meant.iter().all(|(meant, _)| *meant != label)
        {
            let meant: Vec<&str> = meant.iter().map(|(meant, _)| meant.as_str()).collect();
            return Err(ApiError::bad(format!(
                "{} reads bus {label}, not {}: only what is on the bus of its Trigger can be replayed",
                subscriber.plan.id,
                meant.join(", ")
            )));
        }
        let Some((_, bus)) = api.buses(Some(&label))?.into_iter().next() else { continue };

        let ranges = jobs::ranges(&bus.subscriptions, &subscriber.plan.topics, &span).await;
        let ranges = ranges.map_err(|error| match error {
            BadSpan::Bus(error) => ApiError::bus(&label, &error),
            BadSpan::Offset(text) => ApiError::bad(text),
        })?;
        parts.push(Part { subscriber, label, bus, ranges });
    }
    if asked.dry_run { Ok(count(parts)) } else { make(&api, to.as_ref(), parts).await }
}

fn subscribers(api: &Api, asked: &Asked) -> Result<Vec<Subscriber>, ApiError> {
    let is_of = |id: &SubscriptionId| *id.owner.namespace == *asked.namespace && *id.owner.name == *asked.trigger;
    let named = |id: &SubscriptionId| asked.subscriber.as_deref().is_none_or(|name| *id.subscriber == *name);
    let found = api.board.subscribers(|id| is_of(id) && named(id));
    if !found.is_empty() {
        return Ok(found);
    }
    let others: Vec<_> = api.board.subscribers(is_of).iter().map(|s| s.plan.id.subscriber.to_string()).collect();
    let Asked { namespace, trigger, .. } = asked;
    Err(ApiError::not_found(match asked.subscriber.as_deref().filter(|_| !others.is_empty()) {
        Some(name) => format!("Trigger {namespace}/{trigger} has no subscriber {name}: it has {}", others.join(", ")),
        None => format!("there is no Trigger {namespace}/{trigger} in the manifests that run here"),
    }))
}

fn span(asked: &Asked) -> Result<Span, ApiError> {
    let time = |text: &String| {
        let wrong = |_| ApiError::bad(format!("{text:?} is no time: write it as 2026-01-02T03:04:05Z"));
        DateTime::parse_from_rfc3339(text).map(SystemTime::from).map_err(wrong)
    };
    let until = asked.until.as_ref().map(time).transpose()?;
    let start = match (&asked.since, &asked.from[..]) {
        (Some(since), []) => Start::Time(time(since)?),
        (None, [from]) if from == "earliest" => Start::First,
        (None, offsets @ [_, ..]) => Start::Offsets(read_offsets(offsets)?),
        _ => return Err(ApiError::bad("say where to start: either `since`, a time, or `from`, an offset")),
    };
    Ok(Span { start, until })
}

fn read_offsets(offsets: &[String]) -> Result<BTreeMap<TopicName, BTreeMap<u16, Position>>, ApiError> {
    let read = |text: &String| text.parse::<Token>().map(|Token { topic, positions }| (topic, positions));
    offsets.iter().map(|text| read(text).map_err(|error| ApiError::bad(error.to_string()))).collect()
}

/// Where a replay delivers to instead.
struct To {
    /// Without user and password: it is kept in the bus's state.
    bare: Url,
    /// All of it, where there are any.
    login: Option<Secret>,
}

fn read_url(text: &str) -> Result<To, ApiError> {
    let url = Url::parse(text).map_err(|error| ApiError::bad(format!("`to` is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ApiError::bad(format!("{:?} is not http or https", url.scheme())));
    }
    let mut bare = url.clone();
    // Both fail only for URLs without a host, which have no credentials either.
    _ = (bare.set_username(""), bare.set_password(None));
    Ok(To { login: (bare != url).then(|| Secret::new(url)), bare })
}

async fn make(api: &Api, to: Option<&To>, parts: Vec<Part>) -> Result<Response, ApiError> {
    let is_tool = api.board.is_of_a_tool();
    let mut rows = Vec::new();
    for Part { subscriber, label, bus, ranges } in parts {
        let plan = &subscriber.plan;
        if is_tool && bus.exclusive && to.is_none() && needs_functions(plan) {
            let text =
                format!("{} is a function, which only `evoke run` serves: start it, or name a URL with --to", plan.id);
            return Err(ApiError::conflict(text));
        }
        let login = to.and_then(|to| to.login.as_ref());
        // What reaches only from this machine, or takes a password that is kept only here, is run by nobody else.
        let only = (is_tool && to.is_some() || login.is_some()).then(|| Arc::clone(&api.instance));
        let work = Work::Replay { to: to.map(|to| to.bare.to_string()), login: login.is_some(), only };
        let job = Job::new(jobs::new_id(), &plan.id, work, ranges);
        api.board.made(&job.id);
        if let Some(login) = login {
            api.board.remember(&job.id, login.clone());
        }
        job::create(&**bus.subscriptions.bus(), &job).await.map_err(|error| ApiError::bus(&label, &error))?;
        tracing::info!(job = %job.id, subscription = %plan.id, "a replay is asked for");
        bus.nudge.notify_one();
        rows.push(shown::row(&label, &job));
    }
    Ok(Json(json!({ "jobs": rows })).into_response())
}

/// Counts, as a stream of JSON objects, one a line; the last one has `done`.
fn count(parts: Vec<Part>) -> Response {
    // Nobody who reads slowly is counted for ahead of.
    let (lines, mut told) = tokio::sync::mpsc::channel::<Value>(4);
    let work = async move {
        for Part { subscriber, bus, ranges, .. } in parts {
            let id = subscriber.plan.id.to_string();
            let Some(selector) = subscriber.selector() else { continue };
            let counting =
                Counting { bus: &**bus.subscriptions.bus(), topics: &subscriber.plan.topics, ranges: &ranges };
            let line = |counts: Counts, done: bool| json!({ "subscription": id, "read": counts.read, "matched": counts.matched, "done": done });
            let progress = |counts| match lines.try_send(line(counts, false)) {
                Ok(()) | Err(tokio::sync::mpsc::error::TrySendError::Full(_)) => true,
                Err(tokio::sync::mpsc::error::TrySendError::Closed(_)) => false,
            };
            let last = match jobs::count(counting, selector, progress).await {
                Ok(counts) => line(counts, true),
                Err(error) => json!({ "subscription": id, "error": error.to_string() }),
            };
            if lines.send(last).await.is_err() {
                return;
            }
        }
    };
    // The work goes on as the answer is read, and ends with it.
    let mut work = Box::pin(futures_util::FutureExt::fuse(work));
    let stream = futures_util::stream::poll_fn(move |cx| {
        _ = work.as_mut().poll(cx);
        told.poll_recv(cx)
    });
    let body = stream.map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(format!("{line}\n"))));
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}
