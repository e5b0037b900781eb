//! A plain HTTP client.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

static CLIENT: LazyLock<Client<HttpConnector, Full<Bytes>>> =
    LazyLock::new(|| Client::builder(TokioExecutor::new()).build_http());

/// Longer than evoke lets a sender wait for its events to be durable.
const ANSWERS_WITHIN: Duration = Duration::from_secs(45);

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a request. An error is a connection that failed or an answer that did not come.
///
/// # Errors
/// What went wrong, for people.
pub async fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Response, String> {
    let mut request = http::Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let answer = tokio::time::timeout(ANSWERS_WITHIN, async {
        let (head, body) = CLIENT.request(request).await.map_err(|e| format!("{e:?}"))?.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Response { status: head.status, headers: head.headers, body })
    });
    answer.await.unwrap_or_else(|_| Err(format!("no answer within {ANSWERS_WITHIN:?}")))
}

/// Sends a POST.
///
/// # Panics
/// When there is no answer.
pub async fn post(url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
    request("POST", url, headers, body).await.unwrap_or_else(|e| panic!("POST {url}: {e}"))
}

/// Sends a GET.
///
/// # Errors
/// What went wrong, for people.
pub async fn get(url: &str) -> Result<Response, String> {
    request("GET", url, &[], "").await
}
