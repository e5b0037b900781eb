//! What operators ask of a running evoke, over HTTP: `/v1/...` on the Unix socket in the data directory, and on the admin address.
//!
//! | module | holds |
//! | --- | --- |
//! | `board` | the buses and subscribers that all of it works on |
//! | `socket` | the Unix socket |
//! | `access` | who may do what on the admin address |
//! | `subscriptions`, `dead_letters`, `replays`, `jobs` | the answers |

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use evoke_api::names::{ObjectName, SubscriptionId, is_event_name, is_namespace, is_object_name};
use evoke_eventbus::bus::BusError;
use serde_json::json;

pub(crate) mod access;
pub(crate) mod board;
mod dead_letters;
mod jobs;
mod replays;
pub(crate) mod socket;
mod subscriptions;

use board::{Board, OnBoard};

/// The largest body of a request, in bytes.
const BODY_BYTES: usize = 1 << 20;

/// What every request works on.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    board: Board,
    /// The name of this process to other processes.
    instance: Arc<str>,
    /// Two redrives at once would select the same letters.
    selecting: Arc<tokio::sync::Mutex<()>>,
}

impl Api {
    /// The API over a board.
    pub(crate) fn new(board: Board, instance: Arc<str>) -> Self {
        Self { board, instance, selecting: Arc::default() }
    }

    /// Its routes.
    pub(crate) fn router(self) -> Router {
        let (list, find) = (get(dead_letters::list), get(dead_letters::find));
        Router::new()
            .route("/v1/subscriptions", get(subscriptions::list))
            .route("/v1/subscriptions/{namespace}/{owner}/{name}", axum::routing::delete(subscriptions::delete))
            .route("/v1/subscriptions/{namespace}/{owner}/{name}/pause", post(subscriptions::pause))
            .route("/v1/subscriptions/{namespace}/{owner}/{name}/resume", post(subscriptions::resume))
            .route("/v1/dead-letters", list)
            .route("/v1/dead-letters/{id}", find)
            .route("/v1/dead-letters/redrive", post(dead_letters::redrive))
            .route("/v1/dead-letters/purge", post(dead_letters::purge))
            .route("/v1/replays", post(replays::replay))
            .route("/v1/jobs", get(jobs::list))
            .route("/v1/jobs/{id}", get(jobs::find).delete(jobs::cancel))
            .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES))
            .with_state(self)
    }

    /// The buses that a request is about.
    fn buses(&self, wanted: Option<&str>) -> Result<Vec<(String, OnBoard)>, ApiError> {
        let buses = self.board.buses(wanted);
        if buses.is_empty() {
            let known: Vec<_> = self.board.buses(None).into_iter().map(|(label, _)| label).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = match wanted {
                Some(bus) => format!("there is no bus {bus} here: there is {known}"),
                None => {
                    "no bus is open here yet: try again once evoke is ready, or add a Trigger that names one".into()
                }
            };
            return Err(ApiError::new(StatusCode::NOT_FOUND, text));
        }
        Ok(buses)
    }
}

/// Why a request is refused: a status, and a text for people.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    detail: String,
}

impl ApiError {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// What a bus could not do.
    fn bus(label: &str, error: &BusError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("bus {label}: {error}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, axum::Json(json!({ "detail": self.detail }))).into_response()
    }
}

/// The subscription that a path names.
fn subscription(namespace: &str, owner: &str, name: &str) -> Result<SubscriptionId, ApiError> {
    if !is_namespace(namespace) || !is_object_name(owner) || !is_event_name(name) {
        return Err(ApiError::bad(format!(
            "{namespace}/{owner}/{name} is no subscription: NAMESPACE/TRIGGER/SUBSCRIBER"
        )));
    }
    Ok(SubscriptionId { owner: ObjectName::new(namespace, owner), subscriber: name.into() })
}

/// A time as people and programs read it.
fn rfc3339(time: std::time::SystemTime) -> String {
    chrono::DateTime::<chrono::Utc>::from(time).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
