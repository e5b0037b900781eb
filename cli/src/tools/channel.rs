//! The way to an evoke, and a request on it.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use evoke_api::credentials::Secret;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::task::JoinSet;
use url::Url;

use super::ToolError;
use super::args::TargetArgs;
use super::direct::Direct;
use crate::api::socket;

/// The largest answer that is read as a whole, in bytes.
const ANSWER_BYTES: usize = 256 << 20;
/// What may stand in a query as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A way to the API.
pub(super) enum Channel {
    /// The evoke that runs on a data directory.
    Socket(PathBuf),
    /// The evoke with an admin address.
    Admin(Url, Option<Secret>),
    /// None: the API in this process, on the buses themselves.
    Direct(Box<Direct>),
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    body: Body,
    rest: Vec<u8>,
    /// Drives the connection as long as the answer is read.
    _connection: JoinSet<()>,
}

impl Channel {
    /// Finds the evoke that the command line names.
    ///
    /// # Errors
    /// Says what was tried, and what to do.
    pub(super) async fn open(target: &TargetArgs) -> Result<Self, ToolError> {
        if !target.manifests.is_empty() {
            return Ok(Self::Direct(Box::new(Direct::open(target).await?)));
        }
        if let Some(url) = &target.admin {
            let token = target.token_file.as_deref().map(read_token).transpose()?;
            return Ok(Self::Admin(url.clone(), token));
        }
        match socket::connect(&target.data_dir).await {
            Ok(_) => Ok(Self::Socket(target.data_dir.clone())),
            Err(error) => Err(ToolError(nobody(&target.data_dir, &error))),
        }
    }

    /// Ends what it has begun.
    pub(super) async fn close(self) {
        if let Self::Direct(direct) = self {
            direct.close().await;
        }
    }

    /// True if the API runs in this process.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Self::Direct(_))
    }

    /// One request with its whole answer as JSON.
    ///
    /// # Errors
    /// Who did not answer, or what the answer says is wrong.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ToolError> {
        let answer = self.stream(method, path, body).await?;
        let content = http_body_util::Limited::new(answer.body, ANSWER_BYTES).collect().await;
        let content = content.map_err(|error| ToolError(format!("the answer breaks off: {error}")))?.to_bytes();
        serde_json::from_slice(&content).map_err(|error| ToolError(format!("the answer cannot be read: {error}")))
    }

    /// One request, with its answer as it comes.
    ///
    /// # Errors
    /// As [`Channel::call`].
    pub(super) async fn stream(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ToolError> {
        let content = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .header(USER_AGENT, concat!("evoke/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(content))
            .map_err(|error| ToolError(error.to_string()))?;
        let mut connection = JoinSet::new();
        let response = match self {
            Self::Socket(dir) => {
                *request.uri_mut() = path.parse().map_err(|error| ToolError(format!("{path}: {error}")))?;
                request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
                over_socket(dir, request, &mut connection).await?
            }
            Self::Admin(url, token) => {
                let uri = url.join(path).ok().and_then(|url| url.as_str().parse::<Uri>().ok());
                *request.uri_mut() = uri.ok_or_else(|| ToolError(format!("{url} cannot be requested")))?;
                if let Some(token) = token {
                    let header = HeaderValue::try_from(format!("Bearer {}", token.expose()));
                    let mut header =
                        header.map_err(|_| ToolError("the token holds what no header can carry".into()))?;
                    header.set_sensitive(true);
                    request.headers_mut().insert(AUTHORIZATION, header);
                }
                over_tcp(url, request).await?
            }
            Self::Direct(direct) => {
                *request.uri_mut() = path.parse().map_err(|error| ToolError(format!("{path}: {error}")))?;
                let service = TowerToHyperService::new(direct.router());
                let Ok(response) = hyper::service::Service::call(&service, request).await;
                response.map(boxed)
            }
        };
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(Answer { body, rest: Vec::new(), _connection: connection });
        }
        let content =
            http_body_util::Limited::new(body, 64 << 10).collect().await.map(http_body_util::Collected::to_bytes);
        Err(ToolError(self.refused(head.status, &content.unwrap_or_default())))
    }

    fn refused(&self, status: StatusCode, content: &[u8]) -> String {
        let problem: Option<Value> = serde_json::from_slice(content).ok();
        match problem.as_ref().and_then(|problem| problem.get("detail")).and_then(Value::as_str) {
            Some(detail) => detail.to_owned(),
            None if status == StatusCode::NOT_FOUND => {
                format!("{} knows no such request: is it an evoke of this version", self.name())
            }
            None => {
                let text = String::from_utf8_lossy(content);
                let text: Vec<_> = text.split_whitespace().collect();
                format!("{} answered {status}: {}", self.name(), text.join(" "))
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Socket(dir) => format!("the evoke on {}", dir.display()),
            Self::Admin(url, _) => url.to_string(),
            Self::Direct(_) => "this command".to_owned(),
        }
    }
}

impl Answer {
    /// The next line, read as JSON.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub(super) async fn line(&mut self) -> Result<Option<Value>, ToolError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|error| ToolError(format!("the answer cannot be read: {error}")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.rest.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(ToolError(format!("the answer breaks off: {error}"))),
                None => return Ok(None),
            }
        }
    }
}

async fn over_socket(
    dir: &Path,
    request: Request<Full<Bytes>>,
    connection: &mut JoinSet<()>,
) -> Result<Response<Body>, ToolError> {
    let stream = socket::connect(dir).await.map_err(|error| ToolError(nobody(dir, &error)))?;
    let unanswered = |error: hyper::Error| ToolError(format!("the evoke on {} did not answer: {error}", dir.display()));
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(unanswered)?;
    connection.spawn(async move {
        // What goes wrong here is what the request or its body says.
        _ = driver.await;
    });
    Ok(sender.send_request(request).await.map_err(unanswered)?.map(boxed))
}

async fn over_tcp(url: &Url, request: Request<Full<Bytes>>) -> Result<Response<Body>, ToolError> {
    let pool = Client::builder(TokioExecutor::new());
    let response = if url.scheme() == "https" {
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| ToolError(format!("cannot read which authorities this machine trusts: {error}")))?;
        pool.build(tls.https_only().enable_http1().build()).request(request).await
    } else {
        pool.build_http().request(request).await
    };
    let unanswered = |error: &dyn Error| {
        ToolError(format!(
            "{url} did not answer: {}; is evoke running, and is this its --admin address",
            innermost(error)
        ))
    };
    Ok(response.map_err(|error| unanswered(&error))?.map(boxed))
}

fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Nobody answers on a data directory: what to do.
fn nobody(dir: &Path, error: &io::Error) -> String {
    let dir = dir.display();
    let mut text = match error.kind() {
        io::ErrorKind::NotFound => format!("no evoke runs on the data directory {dir}"),
        io::ErrorKind::ConnectionRefused => format!("no evoke runs on the data directory {dir} any more"),
        io::ErrorKind::PermissionDenied => {
            return format!(
                "the evoke on the data directory {dir} belongs to another user: {error}; run this as that user"
            );
        }
        _ => format!("no evoke answers on the data directory {dir}: {error}"),
    };
    // Writing to a string cannot fail.
    _ = write!(text, ": name another with --data-dir or --admin, or go to the buses themselves with -f MANIFESTS");
    text
}

fn read_token(file: &Path) -> Result<Secret, ToolError> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| ToolError(format!("{} cannot be read: {error}", file.display())))?;
    match text.trim() {
        "" => Err(ToolError(format!("{} is empty", file.display()))),
        token => Ok(Secret::new(token)),
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A path with the parameters that there are.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let set = parameters.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let pairs: Vec<_> = set.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, PLAIN))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}
