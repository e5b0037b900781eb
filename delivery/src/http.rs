//! Posts events over HTTP/1.1, as CloudEvents in binary content mode, or in structured mode where their data is an event itself.
//!
//! | answer | outcome |
//! | --- | --- |
//! | 2xx | delivered; where replies are wanted, an event in it is taken, and what only claims to be one is garbage |
//! | 404, 408, 409, 429, 5xx, no connection, no answer in time, no HTTP | to be retried, `Retry-After` honoured |
//! | 3xx (never followed), other 4xx, anything else | refused |

use std::io;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use evoke_eventbus::codec::http::message;
use evoke_eventbus::event::Event;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;
use url::Url;

use crate::reply::{self, Answer};
use crate::sink::{Outcome, Sink};

/// Asks for an event as an answer, as Knative does.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// How much of an answer is read at most, so that its connection can be used again.
const ANSWER_BYTES: usize = 64 << 10;
/// How much of an answer a dead letter may quote.
const QUOTED_BYTES: usize = 1024;
/// How long a connection may take to come about, within the time limit of the attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Connections, shared by all sinks. The pool has no limit of its own: `maxInFlight` is the limit.
#[derive(Clone, Debug)]
pub(crate) enum Poster {
    /// For `http`.
    Plain(Client<HttpConnector, Full<Bytes>>),
    /// For `https`.
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Poster {
    /// For `http`.
    pub(crate) fn plain() -> Self {
        Self::Plain(pool().build(connector()))
    }

    /// For `https`, trusting what this machine trusts.
    pub(crate) fn tls() -> io::Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let mut tcp = connector();
        tcp.enforce_http(false);
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)?
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self::Tls(pool().build(tls)))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        match self {
            Self::Plain(client) => client.request(request).await,
            Self::Tls(client) => client.request(request).await,
        }
    }

    /// One attempt, with the whole exchange inside `limit`. An answer that is an event is taken if it is `wanted`, up to so many bytes.
    pub(crate) async fn post(
        &self,
        uri: Uri,
        auth: Option<&HeaderValue>,
        event: &Event,
        limit: Duration,
        wanted: Option<usize>,
    ) -> (Outcome, Option<Event>) {
        let deadline = Instant::now() + limit;
        let mut headers = HeaderMap::with_capacity(24);
        let mut request = Request::new(Full::new(message(event, &mut headers)));
        (*request.method_mut(), *request.uri_mut()) = (Method::POST, uri);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("evoke/", env!("CARGO_PKG_VERSION"))));
        if let Some(auth) = auth {
            headers.insert(AUTHORIZATION, auth.clone());
        }
        if wanted.is_some() {
            headers.insert(PREFER, HeaderValue::from_static("reply"));
        }
        *request.headers_mut() = headers;
        match tokio::time::timeout_at(deadline, self.send(request)).await {
            Ok(Ok(response)) => judge(response, deadline, wanted).await,
            Ok(Err(error)) => (retry(explain(&error), None, None), None),
            Err(_) => (retry(format!("no answer within {:.1} s", limit.as_secs_f64()), None, None), None),
        }
    }
}

fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(IDLE));
    tcp
}

fn pool() -> hyper_util::client::legacy::Builder {
    let mut pool = Client::builder(TokioExecutor::new());
    pool.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
    pool
}

async fn judge(response: Response<Incoming>, deadline: Instant, wanted: Option<usize>) -> (Outcome, Option<Event>) {
    let (head, mut body) = response.into_parts();
    let status = head.status;
    if let Some(limit) = wanted.filter(|_| status.is_success()) {
        match reply::read(&head.headers, body, limit, deadline).await {
            Answer::Plain(unread) => body = unread,
            Answer::Event(event) => return (Outcome::Delivered, Some(event)),
            answer => return (garbage(status, answer, limit), None),
        }
    }
    // The status decides alone; a body that does not end only costs its connection.
    let answer = tokio::time::timeout_at(deadline, drain(body)).await.unwrap_or_default();
    if status.is_success() {
        return (Outcome::Delivered, None);
    }
    let cause = format!("answered {status}");
    let is_passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::NOT_FOUND | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS
        );
    if is_passing {
        let after = head.headers.get(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
        return (Outcome::Retry { cause, status: Some(status.as_u16()), after, body: answer }, None);
    }
    let cause = if status.is_redirection() { format!("{cause}: redirects are not followed") } else { cause };
    (Outcome::Refused { cause, status: Some(status.as_u16()), body: answer }, None)
}

/// An answer of which no event can be made.
fn garbage(status: StatusCode, answer: Answer, limit: usize) -> Outcome {
    let status_code = Some(status.as_u16());
    match answer {
        Answer::Garbage(why, start) => {
            let cause = format!("answered {status} with what claims to be a CloudEvent and is none: {why}");
            let body = start.get(..QUOTED_BYTES.min(start.len())).unwrap_or_default().to_vec();
            Outcome::Retry { cause, status: status_code, after: None, body }
        }
        _ => {
            let cause =
                format!("answered {status} with an event of more than {limit} bytes, which the bus does not take");
            Outcome::Refused { cause, status: status_code, body: Vec::new() }
        }
    }
}

/// Reads an answer to its end, or as much of it as is worth reading, and keeps its start.
async fn drain(mut body: Incoming) -> Vec<u8> {
    let (mut read, mut kept) = (0, Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            let room = QUOTED_BYTES - kept.len();
            kept.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            read += data.len();
            if read > ANSWER_BYTES {
                break;
            }
        }
    }
    kept
}

pub(crate) fn retry(cause: String, status: Option<u16>, after: Option<Duration>) -> Outcome {
    Outcome::Retry { cause, status, after, body: Vec::new() }
}

/// Seconds, or a date, as a delay from now.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let formats = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let date = formats.iter().find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())?;
    Some(SystemTime::from(date.and_utc()).duration_since(now).unwrap_or_default())
}

/// The innermost cause, in words for people.
fn explain(error: &Error) -> String {
    let what = if error.is_connect() { "no connection" } else { "no HTTP answer" };
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    format!("{what}: {innermost}")
}

/// An HTTP endpoint.
#[derive(Debug)]
pub struct HttpSink {
    poster: Poster,
    uri: Uri,
    auth: Option<HeaderValue>,
    timeout: Duration,
    destination: String,
}

impl HttpSink {
    /// Posts to `url`, whose user and password become basic authentication.
    ///
    /// # Errors
    /// A URL that HTTP cannot express.
    pub(crate) fn new(poster: Poster, url: &Url, timeout: Duration) -> Result<Self, http::uri::InvalidUri> {
        let mut bare = url.clone();
        // Both fail only for URLs without a host, which have no credentials either.
        _ = (bare.set_username(""), bare.set_password(None));
        bare.set_fragment(None);
        let uri = bare.as_str().parse()?;
        bare.set_query(None);
        Ok(Self { poster, uri, auth: basic(url), timeout, destination: bare.into() })
    }

    async fn post(&self, event: &Event, wanted: Option<usize>) -> (Outcome, Option<Event>) {
        self.poster.post(self.uri.clone(), self.auth.as_ref(), event, self.timeout, wanted).await
    }
}

/// The credentials of a URL as a header.
fn basic(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
    let pair = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
    let mut header = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(pair))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

impl Sink for HttpSink {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { self.post(event, None).await.0 })
    }

    fn ask<'a>(&'a self, event: &'a Event, limit: usize) -> BoxFuture<'a, (Outcome, Option<Event>)> {
        Box::pin(self.post(event, Some(limit)))
    }

    fn destination(&self) -> &str {
        &self.destination
    }
}

#[cfg(test)]
mod tests;
