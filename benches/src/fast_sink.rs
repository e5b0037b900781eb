//! An HTTP sink that costs as little as it can, and knows which events came and when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const NOT_YET: u64 = u64::MAX;
const NUMBER: &[u8] = b"{\"n\":\"";
const PAYLOAD_BYTES: usize = 1024;

/// A JSON object of 1 KiB that starts with its number, and has an `amount` above 100 for conditions to read.
pub fn payload(n: usize) -> Vec<u8> {
    let mut text = format!(
        "{{\"n\":\"{n:09}\",\"type\":\"order.created\",\"amount\":{}.5,\"customer\":{{\"tier\":\"gold\"}},\"pad\":\"",
        101 + n % 900
    );
    text.extend(std::iter::repeat_n('x', PAYLOAD_BYTES - text.len() - 2));
    text.push_str("\"}");
    text.into_bytes()
}

#[derive(Debug)]
struct Seen {
    start: Instant,
    /// When each event came first, in nanoseconds after `start`.
    at: Vec<AtomicU64>,
    distinct: AtomicUsize,
    all: AtomicUsize,
    progress: watch::Sender<usize>,
    delay: Duration,
}

/// The sink.
#[derive(Debug)]
pub struct FastSink {
    address: SocketAddr,
    seen: Arc<Seen>,
    _server: JoinSet<()>,
}

impl FastSink {
    /// Starts a sink for events numbered below `events`, which takes `delay` for each.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(events: usize, delay: Duration) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen {
            start: Instant::now(),
            at: (0..events).map(|_| AtomicU64::new(NOT_YET)).collect(),
            distinct: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            progress: watch::Sender::new(0),
            delay,
        });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, seen.clone()));
        Ok(Self { address, seen, _server: server })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The time its events' times are after.
    pub fn started(&self) -> Instant {
        self.seen.start
    }

    /// How many different events have come.
    pub fn count(&self) -> usize {
        self.seen.distinct.load(Ordering::Relaxed)
    }

    /// Waits until `count` different events have come.
    pub async fn wait(&self, count: usize) {
        let mut progress = self.seen.progress.subscribe();
        while self.count() < count {
            // Told of every 64th event only, so it looks again by itself for the last ones.
            let told = tokio::time::timeout(Duration::from_millis(5), progress.changed());
            drop(told.await);
        }
    }

    /// When an event came first.
    pub fn arrival(&self, n: usize) -> Option<Duration> {
        let at = self.seen.at.get(n)?.load(Ordering::Relaxed);
        (at != NOT_YET).then(|| Duration::from_nanos(at))
    }

    /// How many requests came that were repeats.
    pub fn repeats(&self) -> usize {
        self.seen.all.load(Ordering::Relaxed) - self.seen.distinct.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, seen.clone()));
    }
}

async fn connection(stream: TcpStream, seen: Arc<Seen>) {
    stream.set_nodelay(true).unwrap_or_default();
    let service = service_fn(|request| answer(request, &seen));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .unwrap_or_default();
}

async fn answer(request: Request<Incoming>, seen: &Seen) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let number =
        body.strip_prefix(NUMBER).and_then(|rest| std::str::from_utf8(rest.get(..9)?).ok()?.parse::<usize>().ok());
    let all = seen.all.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(slot) = number.and_then(|n| seen.at.get(n)) {
        let now = u64::try_from(seen.start.elapsed().as_nanos()).unwrap_or(NOT_YET);
        if slot.compare_exchange(NOT_YET, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            seen.distinct.fetch_add(1, Ordering::Relaxed);
        }
    }
    if all.is_multiple_of(64) {
        seen.progress.send_replace(all);
    }
    if !seen.delay.is_zero() {
        tokio::time::sleep(seen.delay).await;
    }
    Ok(Response::new(Empty::new()))
}
