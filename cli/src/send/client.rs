//! Posts requests and reads their answers.

use std::error::Error;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use evoke_api::credentials::Secret;
use evoke_eventbus::codec::{http as binding, json};
use evoke_eventbus::event::Event;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::events::{named, read};
use super::{Mode, SendArgs, SendError};

/// How much of an answer is read.
const ANSWER_BYTES: usize = 64 * 1024;
/// How much of an answer that is no JSON problem an error message quotes, in characters.
const QUOTED: usize = 300;

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<String>,
    pub(super) content: String,
}

/// Who posts, and what it sends with every request.
pub(super) struct Poster {
    connections: Connections,
    headers: HeaderMap,
    uri: Uri,
}

enum Connections {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Poster {
    pub(super) async fn new(args: &SendArgs) -> Result<Self, SendError> {
        let pool = Client::builder(TokioExecutor::new());
        let connections = if args.url.scheme() == "https" {
            let provider = rustls::crypto::ring::default_provider();
            let tls = HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(provider)
                .map_err(|e| SendError(format!("cannot read which authorities this machine trusts: {e}")))?;
            Connections::Tls(pool.build(tls.https_only().enable_http1().build()))
        } else {
            Connections::Plain(pool.build_http())
        };
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("evoke/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = authorization(args).await? {
            headers.insert(AUTHORIZATION, authorization);
        }
        for (name, value) in &args.headers {
            headers.append(name, value.clone());
        }
        let mut url = args.url.clone();
        url.set_fragment(None);
        let uri = url.as_str().parse().map_err(|e| SendError(format!("{url} cannot be requested: {e}")))?;
        Ok(Self { connections, headers, uri })
    }

    /// Sends events in one request.
    pub(super) async fn post(&self, args: &SendArgs, events: &[Event]) -> Result<Answer, SendError> {
        let mut headers = HeaderMap::new();
        let body = match (args.mode, events) {
            (Mode::Binary, [event]) => binding::message(event, &mut headers),
            (Mode::Structured, [event]) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(json::MEDIA_TYPE));
                json::encode(event)
            }
            (_, events) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(json::BATCH_MEDIA_TYPE));
                json::encode_batch(events)
            }
        };
        // What the user says comes last and wins.
        headers.extend(self.headers.clone());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = args.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        let unanswered = |why: String| SendError(format!("{} did not answer: {why}", shown(&args.url)));
        let exchange = async {
            let response = match &self.connections {
                Connections::Plain(client) => client.request(request).await,
                Connections::Tls(client) => client.request(request).await,
            };
            let (head, body) = response.map_err(|e| unanswered(innermost(&e)))?.into_parts();
            // The status says it all; what cannot be read of the rest is left out.
            let content = Limited::new(body, ANSWER_BYTES).collect().await.map(Collected::to_bytes).unwrap_or_default();
            Ok(Answer {
                status: head.status,
                retry_after: head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned),
                content: String::from_utf8_lossy(&content).into_owned(),
            })
        };
        match timeout(args.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(unanswered(format!("nothing came within {:?}", args.timeout))),
        }
    }
}

async fn authorization(args: &SendArgs) -> Result<Option<HeaderValue>, SendError> {
    let (path, header) = match (&args.bearer_token_file, &args.basic_auth_file) {
        (Some(path), _) => {
            let token = secret(path).await?;
            (path, format!("Bearer {}", token.expose()))
        }
        (None, Some(path)) => {
            let pair = secret(path).await?;
            if !pair.expose().contains(':') {
                return Err(SendError(format!("{} is not USER:PASSWORD", named(path))));
            }
            (path, format!("Basic {}", BASE64_STANDARD.encode(pair.expose())))
        }
        (None, None) => return Ok(None),
    };
    let mut header = HeaderValue::try_from(header)
        .map_err(|_| SendError(format!("{} holds what no header can carry", named(path))))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// The text of a file less the line break at its end.
async fn secret(path: &Path) -> Result<Secret, SendError> {
    let content = read(path).await?;
    let text = std::str::from_utf8(&content).map_err(|_| SendError(format!("{} is not text", named(path))))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(SendError(format!("{} is empty", named(path)))),
        text => Ok(Secret::new(text)),
    }
}

/// A URL as messages show it: a query may hold what is secret.
pub(super) fn shown(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// What an answer says is wrong: the detail of a JSON problem, else how the answer starts.
pub(super) fn explanation(content: &str) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }

    match serde_json::from_str::<Problem>(content) {
        Ok(problem) => problem.detail,
        Err(_) => content.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED).collect(),
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
