//! The sink.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudevents::binding::http::to_event;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::ledger::{self, Counts};
use crate::servers::tls::Identity;

/// One request that the sink took.
#[derive(Clone, Debug)]
pub struct Received {
    /// When.
    pub at: Instant,
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Which request with this `ce-id` it is, from 1.
    pub attempt: usize,
    /// The status it was answered with; `None` where it got none.
    pub status: Option<u16>,
}

impl Received {
    /// A header's text, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// A CloudEvents attribute as it was sent, empty when it is not there.
    pub fn ce(&self, attribute: &str) -> &str {
        self.header(&format!("ce-{attribute}"))
    }

    /// A CloudEvents attribute, its percent-encoding undone.
    pub fn text(&self, attribute: &str) -> String {
        percent_encoding::percent_decode_str(self.ce(attribute)).decode_utf8().unwrap().into_owned()
    }

    /// `ce-id`.
    pub fn id(&self) -> &str {
        self.ce("id")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {:?}", self.body))
    }

    /// The event, as the CloudEvents SDK reads it.
    ///
    /// # Panics
    /// When the SDK finds no event.
    pub fn event(&self) -> cloudevents::Event {
        to_event(&self.headers, self.body.to_vec()).unwrap_or_else(|e| panic!("not a CloudEvent ({e}): {self:?}"))
    }
}

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With a status.
    Status(u16),
    /// With a status, headers and a body.
    Full(u16, Vec<(&'static str, String)>, Bytes),
    /// With another answer, later.
    After(Duration, Box<Self>),
    /// With another answer, once the test says so.
    When(watch::Receiver<bool>, Box<Self>),
    /// Never.
    Hang,
    /// With a closed connection.
    Close,
}

type Script = dyn Fn(&Received) -> Answer + Send + Sync;

#[derive(Default)]
struct Taken {
    requests: Vec<Received>,
    attempts: HashMap<String, usize>,
    answered: HashMap<String, usize>,
}

struct Shared {
    script: Mutex<Arc<Script>>,
    taken: Mutex<Taken>,
    changed: watch::Sender<()>,
}

/// An HTTP server that takes whatever is posted to it.
pub struct Sink {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Sink {
    /// A sink that answers 200.
    pub async fn start() -> Self {
        Self::scripted(|_| Answer::Status(200)).await
    }

    /// A sink that answers by script.
    pub async fn scripted(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), None, script)
    }

    /// A sink that answers 200 over TLS, as this server.
    pub async fn with_tls(server: &Identity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, Some(server.acceptor()), |_| Answer::Status(200))
    }

    /// A sink at an address that was free before.
    pub async fn at(address: SocketAddr, script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind(address).await.unwrap(), None, script)
    }

    fn on(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(script)),
            taken: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut server = JoinSet::new();
        server.spawn(serve(listener, tls, shared.clone()));
        Self { address, scheme, shared, _server: server }
    }

    /// Answers by another script from now on.
    pub fn script(&self, script: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock() = Arc::new(script);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which starts with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// All requests so far, as they came.
    pub fn received(&self) -> Vec<Received> {
        self.shared.taken.lock().requests.clone()
    }

    /// The requests for one path so far.
    pub fn received_at(&self, path: &str) -> Vec<Received> {
        self.shared.taken.lock().requests.iter().filter(|request| request.path == path).cloned().collect()
    }

    /// How often each id was answered with 2xx: what evoke counts as delivered, and what it may repeat.
    pub fn delivered(&self) -> Counts {
        self.shared.taken.lock().answered.iter().map(|(id, count)| (id.clone(), *count)).collect()
    }

    /// How many different ids were answered with 2xx.
    pub fn delivered_count(&self) -> usize {
        self.shared.taken.lock().answered.len()
    }

    /// How often each id came, however it was answered.
    pub fn attempts(&self) -> Counts {
        ledger::count(self.shared.taken.lock().requests.iter().map(|request| request.id().to_owned()))
    }

    /// How often each body came, as text.
    pub fn bodies(&self) -> Counts {
        let taken = self.shared.taken.lock();
        ledger::count(taken.requests.iter().map(|request| String::from_utf8_lossy(&request.body)))
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        self.shared.taken.lock().requests.len()
    }

    /// Waits for the `count`th request and returns all so far.
    ///
    /// # Panics
    /// When it has not come within `within`.
    pub async fn wait(&self, count: usize, within: Duration) -> Vec<Received> {
        self.until(&format!("{count} requests"), within, |taken| taken.requests.len() >= count).await;
        self.received()
    }

    /// Waits for `count` more requests than there are now.
    ///
    /// # Panics
    /// When they have not come within `within`.
    pub async fn wait_more(&self, count: usize, within: Duration) {
        let count = self.count() + count;
        self.until(&format!("{count} requests"), within, |taken| taken.requests.len() >= count).await;
    }

    /// Waits for the `count`th request at one path and returns all there so far.
    ///
    /// # Panics
    /// When it has not come within `within`.
    pub async fn wait_at(&self, path: &str, count: usize, within: Duration) -> Vec<Received> {
        let there = |taken: &Taken| taken.requests.iter().filter(|request| request.path == path).count() >= count;
        self.until(&format!("{count} requests at {path}"), within, there).await;
        self.received_at(path)
    }

    /// Waits until `count` different ids were answered with 2xx.
    ///
    /// # Panics
    /// When they were not within `within`.
    pub async fn wait_delivered(&self, count: usize, within: Duration) {
        self.until(&format!("{count} ids delivered"), within, |taken| taken.answered.len() >= count).await;
    }

    /// Waits until every one of `ids` was answered with 2xx.
    ///
    /// # Panics
    /// When they were not within `within`.
    pub async fn wait_all(&self, ids: &BTreeSet<String>, within: Duration) {
        let missing = |taken: &Taken| ids.iter().filter(|id| !taken.answered.contains_key(*id)).cloned().collect();
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            while !Vec::is_empty(&missing(&self.shared.taken.lock())) {
                changed.changed().await.expect("the sink is held here");
            }
        };
        if tokio::time::timeout(within, wait).await.is_err() {
            let missing: Vec<String> = missing(&self.shared.taken.lock());
            let some = &missing[..missing.len().min(20)];
            panic!("{} of {} ids not delivered within {within:?}: {some:?}", missing.len(), ids.len());
        }
    }

    async fn until(&self, what: &str, within: Duration, there: impl Fn(&Taken) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            while !there(&self.shared.taken.lock()) {
                changed.changed().await.expect("the sink is held here");
            }
        };
        if tokio::time::timeout(within, wait).await.is_err() {
            let taken = self.shared.taken.lock();
            let (requests, delivered) = (taken.requests.len(), taken.answered.len());
            panic!("{what}: not within {within:?}, but {requests} requests and {delivered} ids delivered");
        }
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(connection(stream, tls.clone(), shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap_or_default();
    match tls {
        None => exchange(stream, shared).await,
        Some(tls) => {
            // Who does not trust this server goes away, and has sent nothing.
            let Ok(stream) = tls.accept(stream).await else { return };
            exchange(stream, shared).await;
        }
    }
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, shared.clone()));
    // The other side may end a connection as it likes.
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .unwrap_or_default();
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let (at, method, headers) = (Instant::now(), head.method, head.headers);
    let mut received = Received { at, method, path, headers, body, attempt: 1, status: None };
    let id = received.id().to_owned();
    {
        let mut taken = shared.taken.lock();
        let attempts = taken.attempts.entry(id.clone()).or_default();
        *attempts += 1;
        received.attempt = *attempts;
    }
    let script = shared.script.lock().clone();
    let mut answer = script(&received);
    let place = {
        let mut taken = shared.taken.lock();
        taken.requests.push(received);
        taken.requests.len() - 1
    };
    shared.changed.send_replace(());
    let response = loop {
        match answer {
            Answer::Status(status) => break response(status, &[], Bytes::new()),
            Answer::Full(status, headers, body) => break response(status, &headers, body),
            Answer::After(delay, later) => {
                tokio::time::sleep(delay).await;
                answer = *later;
            }
            Answer::When(mut told, later) => {
                let is_told = told.wait_for(|told| *told).await.is_ok();
                answer = if is_told { *later } else { Answer::Hang };
            }
            Answer::Hang => std::future::pending().await,
            Answer::Close => return Err("closed by script".into()),
        }
    };
    let mut taken = shared.taken.lock();
    if let Some(request) = taken.requests.get_mut(place) {
        request.status = Some(response.status().as_u16());
    }
    if response.status().is_success() {
        *taken.answered.entry(id).or_default() += 1;
    }
    drop(taken);
    shared.changed.send_replace(());
    Ok(response)
}

fn response(status: u16, headers: &[(&'static str, String)], body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(body)).unwrap()
}
