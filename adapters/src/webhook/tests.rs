//! A listening server, a real client, and an outlet that does what a test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use evoke_api::events::Attributes;
use evoke_api::names::ObjectName;
use evoke_eventbus::event::Event;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::limits::Limits;
use super::plan::{Listen, WebhookPlan};
use super::{Listeners, Metrics};
use crate::source::{Arrival, Context, Origin, Outlet, Settled, SourceError, Status, Unsettled};

mod lifecycle;
mod modes;
mod refusals;

/// What the outlet does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Settles at once.
    Settle,
    /// Accepts, and settles when the fate changes.
    Hold,
    /// Does not accept until the fate changes.
    Block,
    /// Accepts, and does not know whether it is settled.
    Fail,
}

#[derive(Debug)]
struct TestOutlet {
    batches: Mutex<Vec<Vec<Event>>>,
    taken: watch::Sender<usize>,
    settled: watch::Sender<usize>,
    fate: watch::Sender<Fate>,
    room: watch::Sender<bool>,
    max: usize,
}

impl TestOutlet {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            batches: Mutex::default(),
            taken: watch::Sender::new(0),
            settled: watch::Sender::new(0),
            fate: watch::Sender::new(Fate::Settle),
            room: watch::Sender::new(true),
            max,
        })
    }

    fn events(&self) -> Vec<Event> {
        self.batches.lock().concat()
    }

    /// Waits until `accept` was called so often.
    async fn taken(&self, calls: usize) {
        self.taken.subscribe().wait_for(|n| *n >= calls).await.unwrap();
    }
}

/// The outlet as a source sees it.
struct Handle(Arc<TestOutlet>);

impl Outlet for Handle {
    fn accept(&self, arrivals: Vec<Arrival>) -> BoxFuture<'_, Result<Settled, Unsettled>> {
        let outlet = Arc::clone(&self.0);
        async move {
            outlet.taken.send_modify(|n| *n += 1);
            let mut fate = outlet.fate.subscribe();
            fate.wait_for(|fate| *fate != Fate::Block).await.unwrap();
            let events = arrivals.into_iter().map(|arrival| match arrival {
                Arrival::Event(event) => event,
                Arrival::Malformed(malformed) => panic!("{malformed:?}"),
            });
            outlet.batches.lock().push(events.collect());
            let settled: Settled = async move {
                let fate = *fate.wait_for(|fate| *fate != Fate::Hold).await.unwrap();
                if fate == Fate::Fail {
                    return Err(Unsettled("the disk is on fire".into()));
                }
                outlet.settled.send_modify(|n| *n += 1);
                Ok(())
            }
            .boxed();
            Ok(settled)
        }
        .boxed()
    }

    fn has_room(&self) -> bool {
        *self.0.room.borrow()
    }

    fn max_event_bytes(&self) -> usize {
        self.0.max
    }
}

/// A running webhook.
struct Running {
    status: watch::Receiver<Status>,
    cancel: CancellationToken,
    task: JoinSet<Result<(), SourceError>>,
}

impl Running {
    fn start(plan: WebhookPlan, listeners: &Listeners, outlet: &Arc<TestOutlet>) -> Self {
        let (status, follow) = watch::channel(Status::Connecting("test".into()));
        let cancel = CancellationToken::new();
        let outlet = Arc::new(Handle(Arc::clone(outlet)));
        let context = Context { outlet, status, cancel: cancel.clone() };
        let mut task = JoinSet::new();
        task.spawn(plan.source(listeners).run(context));
        Self { status: follow, cancel, task }
    }

    async fn up(&mut self) {
        self.status.wait_for(|status| *status == Status::Up).await.unwrap();
    }

    async fn down(&mut self) -> String {
        match &*self.status.wait_for(|status| matches!(status, Status::Down(_))).await.unwrap() {
            Status::Down(why) => why.to_string(),
            other => panic!("{other:?}"),
        }
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        self.task.join_next().await.unwrap().unwrap().unwrap();
    }
}

fn plan(event: &str) -> WebhookPlan {
    WebhookPlan {
        origin: Origin {
            event_source: ObjectName::new("ns", "shop"),
            event: event.into(),
            attributes: Attributes::default(),
        },
        listen: Listen::Shared,
        path: format!("/ns/shop/{event}"),
        method: Method::POST,
        auth: None,
        content_type: None,
    }
}

fn listeners(limits: Limits) -> Listeners {
    Listeners::with_limits((Ipv4Addr::LOCALHOST, 0).into(), Metrics::new(&Registry::new()).unwrap(), limits)
}

/// One webhook, what it feeds, and who sends to it.
struct Site {
    listeners: Listeners,
    outlet: Arc<TestOutlet>,
    webhook: Running,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: http::HeaderMap,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), "application/problem+json");
        serde_json::from_str(&self.body).unwrap()
    }

    fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

async fn reply<B: hyper::body::Body<Error: std::fmt::Debug>>(response: Response<B>) -> Reply {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Reply { status: head.status, headers: head.headers, body: String::from_utf8(body).unwrap() }
}

impl Site {
    async fn new() -> Self {
        Self::with(plan("orders"), Limits::default(), 4096).await
    }

    async fn with(plan: WebhookPlan, limits: Limits, max: usize) -> Self {
        let listeners = listeners(limits);
        let outlet = TestOutlet::new(max);
        let mut webhook = Running::start(plan, &listeners, &outlet);
        webhook.up().await;
        let address = listeners.shared_address().unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { listeners, outlet, webhook, address, client }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Request<Full<Bytes>> {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(Full::new(body.into())).unwrap()
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let request = self.request(method, path, headers, body);
        reply(self.client.request(request).await.unwrap()).await
    }

    async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.send("POST", "/ns/shop/orders", headers, body).await
    }

    /// Sends in the background.
    fn start(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> JoinSet<Reply> {
        let sending = self.client.request(self.request("POST", "/ns/shop/orders", headers, body));
        let mut task = JoinSet::new();
        task.spawn(async move { reply(sending.await.unwrap()).await });
        task
    }
}

async fn finish(mut sending: JoinSet<Reply>) -> Reply {
    sending.join_next().await.unwrap().unwrap()
}

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

fn structured(id: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{{"n": 1.0}}}}"#)
}
