//! One request: from its head to the answer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use evoke_eventbus::codec::http::{Decoded, decode, trace_context};
use evoke_eventbus::codec::{DecodeError, essence, json};
use evoke_eventbus::event::{Event, EventBuilder};
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, trace};
use uuid::Uuid;

use super::answer::{self, Answer};
use super::auth::Guard;
use super::body::{self, Unread};
use super::listeners::Hub;
use super::plan::WebhookPlan;
use super::routes::{Found, Routes};
use crate::source::{Arrival, Outlet};

const WEBHOOK_REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
/// How much of a coding's name an answer quotes, in bytes.
const QUOTED_BYTES: usize = 64;

/// A webhook that runs.
pub(super) struct Endpoint {
    pub(super) plan: WebhookPlan,
    guard: Option<Guard>,
    outlet: Arc<dyn Outlet>,
    /// Requests that are not answered, and events that are not settled.
    pub(super) requests: TaskTracker,
    /// Cancelled when bodies are not waited for any more.
    closing: CancellationToken,
    /// Cancelled when nothing is waited for any more.
    abandoned: CancellationToken,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Why a request brought no event.
enum Refusal {
    Unauthorized(HeaderValue),
    Encoded(String),
    TooLarge(String),
    Malformed(DecodeError),
    Broken,
    Slow,
    /// It is to be sent again; says why.
    Later(&'static str),
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        match self {
            Self::Unauthorized(challenge) => answer::unauthorized(challenge),
            Self::Encoded(detail) => answer::encoded(&detail),
            Self::TooLarge(detail) => answer::refused(StatusCode::PAYLOAD_TOO_LARGE, &detail),
            Self::Malformed(error) => {
                let status = match error {
                    DecodeError::Format(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    DecodeError::BatchTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                    DecodeError::Attribute { .. } | DecodeError::Content(_) | DecodeError::InBatch { .. } => {
                        StatusCode::BAD_REQUEST
                    }
                };
                answer::malformed(status, &error.to_string(), error.attribute_name())
            }
            Self::Broken => answer::refused(StatusCode::BAD_REQUEST, "the body ended early"),
            Self::Slow => answer::too_slow(),
            Self::Later(why) => answer::later(why),
        }
    }
}

const STOPPING: Refusal = Refusal::Later("the webhook is being stopped or changed: send it again");

/// Answers a request at an address with these routes.
pub(super) async fn serve(hub: &Hub, routes: &Routes, request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    // A sender that asked first has its answer before it sends the body; reading on would ask it to.
    let sends_on = head.version < Version::HTTP_2 && !head.headers.contains_key(EXPECT);
    let answer = route(hub, routes, head, &mut body).await;
    if sends_on && !body.is_end_stream() && !answer.headers().contains_key(CONNECTION) {
        let closing = hub.closing.clone();
        hub.tasks.spawn(async move { closing.run_until_cancelled(body::discard(body)).await.is_some() });
    }
    answer
}

async fn route(hub: &Hub, routes: &Routes, head: Parts, body: &mut Incoming) -> Answer {
    // The token keeps the webhook from ending before the answer is there.
    match routes.find(head.uri.path(), &head.method) {
        Found::Endpoint(endpoint, _token) => {
            let answer = match endpoint.take(hub, head, body).await {
                Ok(()) => answer::accepted(),
                Err(refusal) => refusal.answer(),
            };
            hub.metrics.answered(&endpoint.plan.origin, answer.status());
            answer
        }
        Found::OtherMethods(allow) if head.method == Method::OPTIONS => {
            answer::handshake(allow, head.headers.get(&WEBHOOK_REQUEST_ORIGIN))
        }
        Found::OtherMethods(allow) => answer::wrong_method(allow),
        Found::Gone => STOPPING.answer(),
        Found::Nothing => {
            hub.metrics.unrouted.inc();
            answer::refused(StatusCode::NOT_FOUND, "no webhook has this path")
        }
    }
}

/// What a body is encoded as, unless it is sent as it is: its bytes would be taken for the data.
fn coding(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let lists = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let coding = codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))?;
    Some(String::from_utf8_lossy(coding.get(..QUOTED_BYTES).unwrap_or(coding)))
}

impl Endpoint {
    /// A webhook that takes requests from now on. When `abandoned` is cancelled, what is not settled is left as it is.
    pub(super) fn new(plan: WebhookPlan, outlet: Arc<dyn Outlet>, abandoned: CancellationToken) -> Self {
        let guard = plan.auth.as_ref().map(Guard::new);
        Self { plan, guard, outlet, requests: TaskTracker::new(), closing: CancellationToken::new(), abandoned }
    }

    /// Answers what it has: bodies that are not there yet are not waited for, events that are accepted are.
    pub(super) async fn drain(&self) {
        self.closing.cancel();
        self.requests.close();
        self.requests.wait().await;
    }

    /// Resolves once everything the request brought is settled.
    async fn take(&self, hub: &Hub, head: Parts, body: &mut Incoming) -> Result<(), Refusal> {
        let Parts { mut headers, .. } = head;
        if let Some(guard) = self.guard.as_ref().filter(|guard| !guard.admits(&headers)) {
            return Err(Refusal::Unauthorized(guard.challenge()));
        }
        if let Some(coding) = coding(&headers) {
            let detail = format!("the body is encoded as {coding:?}: send it as it is, without Content-Encoding");
            return Err(Refusal::Encoded(detail));
        }
        self.check_room()?;
        let Ok(request) = Arc::clone(&hub.requests).try_acquire_owned() else {
            return Err(Refusal::Later("too many requests are under way: send it again"));
        };
        let limit = self.body_limit(hub, &headers);
        let read = self.closing.run_until_cancelled(hub.bodies.read(body, limit));
        let (body, share) = match timeout(hub.limits.body_time, read).await {
            Ok(Some(Ok(read))) => read,
            Ok(Some(Err(Unread::TooLarge))) => {
                return Err(Refusal::TooLarge(format!("the body is larger than {limit} bytes")));
            }
            Ok(Some(Err(Unread::NoRoom))) => return Err(Refusal::Later("too much is being received: send it again")),
            Ok(Some(Err(Unread::Broken))) => return Err(Refusal::Broken),
            Ok(None) => return Err(STOPPING),
            Err(_) => return Err(Refusal::Slow),
        };
        let events = self.events(&mut headers, &body)?;
        if events.is_empty() {
            return Ok(());
        }
        self.check_room()?;
        // A sender that hangs up drops this future. What was taken from it is settled all the same, and wholly.
        let outlet = Arc::clone(&self.outlet);
        let abandoned = self.abandoned.clone();
        let settled = self.requests.spawn(async move {
            let arrivals = events.into_iter().map(Arrival::Event).collect();
            let settle = async {
                let settled = outlet.accept(arrivals).await?;
                drop(share);
                settled.await
            };
            let outcome = abandoned.run_until_cancelled(settle).await;
            drop(request);
            outcome
        });
        match timeout(hub.limits.settle_time, settled).await {
            Ok(Ok(Some(Ok(())))) => Ok(()),
            Ok(Ok(Some(Err(unsettled)))) => {
                debug!(webhook = self.plan.path, error = %unsettled, "not settled");
                Err(Refusal::Later("the events are not known to be stored: send them again"))
            }
            Ok(Ok(None) | Err(_)) | Err(_) => Err(Refusal::Later("the events are not stored yet: send them again")),
        }
    }

    fn check_room(&self) -> Result<(), Refusal> {
        match self.outlet.has_room() {
            true => Ok(()),
            false => Err(Refusal::Later("there is no room for more events: send it again")),
        }
    }

    /// What a body may have at most: one event as it is, or as JSON, which may be longer than what it stands for.
    fn body_limit(&self, hub: &Hub, headers: &HeaderMap) -> usize {
        let one = self.outlet.max_event_bytes();
        let as_json = one.saturating_mul(2).saturating_add(16 * 1024);
        let content_type = headers.get(CONTENT_TYPE).or(self.plan.content_type.as_ref());
        match content_type.and_then(|value| value.to_str().ok()).map(essence) {
            Some(media) if media.eq_ignore_ascii_case(json::MEDIA_TYPE) => as_json,
            Some(media) if media.eq_ignore_ascii_case(json::BATCH_MEDIA_TYPE) => hub.limits.batch_bytes.max(as_json),
            _ => one,
        }
    }

    /// The events of a request: all of them, or what is wrong with one.
    fn events(&self, headers: &mut HeaderMap, body: &[u8]) -> Result<Vec<Event>, Refusal> {
        if let Some(content_type) = self.plan.content_type.as_ref().filter(|_| !body.is_empty()) {
            headers.entry(CONTENT_TYPE).or_insert_with(|| content_type.clone());
        }
        let (events, batch) = match decode(headers, body)? {
            Decoded::One(event) => (vec![event], false),
            Decoded::Batch(events) => (events, true),
            Decoded::Plain => (vec![self.plain(headers, body)], false),
        };
        let in_batch = |error: DecodeError, index| if batch { error.in_batch(index) } else { error };
        let max = self.outlet.max_event_bytes();
        let finish = |(index, event): (usize, EventBuilder<'_>)| {
            let event = self.plan.origin.finish(event).map_err(|e| in_batch(e.into(), index))?;
            let bytes = event.encoded_len();
            if bytes > max {
                let which = if batch { format!("event {index} of the batch") } else { "the event".into() };
                return Err(Refusal::TooLarge(format!("{which} has {bytes} bytes, the bus takes {max}")));
            }
            trace!(webhook = self.plan.path, event = event.id(), "received");
            Ok(event)
        };
        events.into_iter().enumerate().map(finish).collect()
    }

    /// An event of a body that is none.
    fn plain<'a>(&self, headers: &'a HeaderMap, body: &'a [u8]) -> EventBuilder<'a> {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let event = self.plan.origin.event("webhook", Uuid::now_v7().to_string());
        let event = event
            .attribute_if("datacontenttype", content_type)
            .attribute("time", Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true));
        trace_context(headers).fold(event, |event, (name, value)| event.attribute(name, value)).data(body)
    }
}
