//! What a sender gets back: a status, and a problem in JSON (RFC 9457) unless all is well.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

pub(super) type Answer = Response<Full<Bytes>>;

/// Seconds after which a sender that was turned away may try again.
const SOON: HeaderValue = HeaderValue::from_static("1");

#[derive(Serialize)]
struct Problem<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<&'a str>,
}

/// Everything of the request is settled.
pub(super) fn accepted() -> Answer {
    empty(StatusCode::ACCEPTED)
}

/// The answer to the handshake of CloudEvents' webhook specification: the sender may send, at any rate.
pub(super) fn handshake(allow: HeaderValue, origin: Option<&HeaderValue>) -> Answer {
    let mut answer = empty(StatusCode::OK);
    let headers = answer.headers_mut();
    headers.insert(ALLOW, allow);
    if let Some(origin) = origin {
        headers.insert(HeaderName::from_static("webhook-allowed-origin"), origin.clone());
        headers.insert(HeaderName::from_static("webhook-allowed-rate"), HeaderValue::from_static("*"));
    }
    answer
}

/// It is the request's fault.
pub(super) fn refused(status: StatusCode, detail: &str) -> Answer {
    problem(status, detail, None)
}

/// It is the fault of one attribute of an event in the request, where `attribute` names one.
pub(super) fn malformed(status: StatusCode, detail: &str, attribute: Option<&str>) -> Answer {
    problem(status, detail, attribute)
}

/// The body has a coding that is not undone here.
pub(super) fn encoded(detail: &str) -> Answer {
    let answer = problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail, None);
    with(answer, ACCEPT_ENCODING, HeaderValue::from_static("identity"))
}

/// The path takes other methods.
pub(super) fn wrong_method(allow: HeaderValue) -> Answer {
    with(problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method", None), ALLOW, allow)
}

/// The request does not say who sends it, or not the right one.
pub(super) fn unauthorized(challenge: HeaderValue) -> Answer {
    let answer = problem(StatusCode::UNAUTHORIZED, "credentials are missing or wrong", None);
    with(answer, WWW_AUTHENTICATE, challenge)
}

/// The request is to be sent again.
pub(super) fn later(detail: &str) -> Answer {
    with(problem(StatusCode::SERVICE_UNAVAILABLE, detail, None), RETRY_AFTER, SOON)
}

/// The sender took too long; what else it sends on this connection cannot be told apart from what it did not.
pub(super) fn too_slow() -> Answer {
    let answer = problem(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", None);
    with(answer, CONNECTION, HeaderValue::from_static("close"))
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn problem(status: StatusCode, detail: &str, attribute: Option<&str>) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { status: status.as_u16(), title, detail, attribute };
    let mut answer = Response::new(Full::from(serde_json::to_vec(&problem).unwrap_or_default()));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))
}

fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}
