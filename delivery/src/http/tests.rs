use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use evoke_api::names::ObjectName;
use evoke_eventbus::codec::http::{Decoded, decode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::endpoints::Endpoints;
use crate::plan::SinkPlan;
use crate::sinks::Sinks;

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// What a server saw of one request.
#[derive(Clone, Debug)]
struct Seen {
    head: http::request::Parts,
    body: Bytes,
}

/// A real server on a free port, ended with the test.
struct Server {
    at: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        let (shared, counted, answer) = (Arc::clone(&seen), Arc::clone(&connections), Arc::new(answer));
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (seen, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                    async move {
                        let (head, body) = request.into_parts();
                        let request = Seen { head, body: body.collect().await.unwrap().to_bytes() };
                        let response = answer(&request);
                        seen.lock().push(request);
                        Ok::<_, Infallible>(response)
                    }
                });
                served.spawn(async move {
                    // A client that hangs up ends its connection only.
                    _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { at, seen, connections, _tasks: tasks }
    }

    fn url(&self, rest: &str) -> Url {
        format!("http://{}{rest}", self.at).parse().unwrap()
    }
}

/// A server that does not speak HTTP, or not for long: what it does with each connection is up to the test.
async fn raw<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream).await;
        }
    });
    (at, tasks)
}

fn full(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed()
}

fn answer(status: u16) -> impl Fn(&Seen) -> Response<Body> {
    move |_| Response::builder().status(status).body(full("because")).unwrap()
}

fn event() -> Event {
    Event::builder("1", "/web", "order")
        .attribute("datacontenttype", "application/json")
        .attribute("subject", "a b")
        .attribute("partitionkey", "k")
        .data(&b"{\"a\":  1}"[..])
        .build()
        .unwrap()
}

fn sink(url: &Url, timeout: Duration) -> Arc<dyn Sink> {
    Sinks::new(Endpoints::default()).sink(&SinkPlan::Http(url.clone()), timeout).unwrap()
}

async fn post(url: &Url) -> Outcome {
    sink(url, Duration::from_secs(5)).deliver(&event()).await
}

#[tokio::test]
async fn posts_a_binary_mode_cloud_event_with_its_data_untouched() {
    let server = Server::start(answer(202)).await;
    let sink = sink(&server.url("/in/here?x=1"), Duration::from_secs(5));
    assert_eq!(sink.deliver(&event()).await, Outcome::Delivered);
    let seen = server.seen.lock()[0].clone();
    assert_eq!((seen.head.method, seen.head.uri.to_string()), (Method::POST, "/in/here?x=1".to_owned()));
    assert_eq!(seen.body, "{\"a\":  1}");
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/web"),
        ("ce-type", "order"),
        ("ce-subject", "a%20b"),
        ("ce-partitionkey", "k"),
        ("content-type", "application/json"),
        ("content-length", "9"),
        ("host", &server.at.to_string()),
    ] {
        assert_eq!(seen.head.headers[name], value, "{name}");
    }
    assert_eq!(sink.destination(), format!("http://{}/in/here", server.at));
}

#[tokio::test]
async fn an_event_whose_data_is_an_event_is_not_taken_for_that_one() {
    let server = Server::start(answer(202)).await;
    let inner = r#"{"specversion":"1.0","id":"inner","source":"/i","type":"i"}"#;
    let event = event().to_builder().attribute("datacontenttype", "application/cloudevents+json").data(inner).build();
    let event = event.unwrap();
    assert_eq!(sink(&server.url("/"), Duration::from_secs(5)).deliver(&event).await, Outcome::Delivered);
    let seen = server.seen.lock()[0].clone();
    let Ok(Decoded::One(read)) = decode(&seen.head.headers, &seen.body) else { panic!("{seen:?}") };
    let read = read.build().unwrap();
    assert_eq!((read.id(), read.attribute("subject"), read.partition_key()), ("1", Some("a b"), Some("k")));
    assert_eq!((read.content_type(), read.data_slice()), (Some("application/cloudevents+json"), inner.as_bytes()));
}

#[tokio::test]
async fn every_status_means_what_knative_says() {
    let retried = [404, 408, 409, 429, 500, 502, 503, 504, 599];
    let refused = [300, 301, 302, 307, 308, 400, 401, 403, 405, 406, 410, 413, 415, 422, 428, 431, 499, 600];
    for status in [200, 201, 202, 204, 299].iter().chain(&retried).chain(&refused).copied() {
        let server = Server::start(answer(status)).await;
        match post(&server.url("/")).await {
            Outcome::Delivered => assert!((200..300).contains(&status), "{status}"),
            Outcome::Retry { status: given, cause, body, after } => {
                assert!(retried.contains(&status), "{status}");
                assert_eq!((given, after), (Some(status), None));
                assert!(cause.starts_with(&format!("answered {status}")), "{cause}");
                assert_eq!(body, b"because");
            }
            Outcome::Refused { status: given, body, .. } => {
                assert!(refused.contains(&status), "{status}");
                assert_eq!(given, Some(status));
                assert_eq!(body, b"because");
            }
        }
        assert_eq!(server.seen.lock().len(), 1, "one attempt for {status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(answer(200)).await;
    let location = elsewhere.url("/").to_string();
    let server =
        Server::start(move |_| Response::builder().status(307).header("location", &location).body(full("")).unwrap())
            .await;
    assert!(matches!(post(&server.url("/")).await, Outcome::Refused { status: Some(307), .. }));
    assert_eq!(elsewhere.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn retry_after_is_read_in_seconds_and_as_a_date() {
    let in_an_hour = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    for (text, from, to) in [
        ("120".to_owned(), 120, 120),
        (in_an_hour.format("%a, %d %b %Y %H:%M:%S GMT").to_string(), 3500, 3600),
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 0, 0),
    ] {
        let header = text.clone();
        let server = Server::start(move |_| {
            Response::builder().status(503).header("retry-after", &header).body(full("")).unwrap()
        })
        .await;
        let Outcome::Retry { after: Some(after), .. } = post(&server.url("/")).await else { panic!("{text}") };
        assert!((from..=to).contains(&after.as_secs()), "{text}: {after:?}");
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 5);
    for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
        assert_eq!(retry_after(&HeaderValue::from_static(text), at), Some(Duration::from_secs(5)), "{text}");
    }
    assert_eq!(retry_after(&HeaderValue::from_static("soon"), at), None);
}

#[tokio::test]
async fn whoever_does_not_answer_as_http_is_tried_again() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (hangs_up, _a) = raw(|stream| async move { drop(stream) }).await;
    let (garbage, _b) = raw(|mut stream| async move {
        let mut buffer = [0; 1024];
        _ = stream.read(&mut buffer).await;
        _ = stream.write_all(b"220 mail ready\r\n\r\n").await;
    })
    .await;
    let (cut, _c) = raw(|mut stream| async move {
        let mut buffer = [0; 1024];
        _ = stream.read(&mut buffer).await;
        _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconte").await;
    })
    .await;
    for (at, expected) in [
        (closed, "no connection: Connection refused"),
        (hangs_up, "no HTTP answer: "),
        (garbage, "no HTTP answer: "),
        (cut, "no HTTP answer: "),
    ] {
        let url: Url = format!("http://{at}/").parse().unwrap();
        let Outcome::Retry { cause, status: None, .. } = post(&url).await else { panic!("{expected}") };
        assert!(cause.starts_with(expected), "{cause}");
    }
    let nowhere: Url = "http://does-not-exist.invalid/".parse().unwrap();
    let Outcome::Retry { cause, .. } = post(&nowhere).await else { panic!() };
    assert!(cause.starts_with("no connection: "), "{cause}");
}

#[tokio::test]
async fn the_time_limit_holds_for_the_whole_exchange() {
    let (silent, _a) = raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let url: Url = format!("http://{silent}/").parse().unwrap();
    let begin = Instant::now();
    let outcome = sink(&url, Duration::from_millis(200)).deliver(&event()).await;
    let Outcome::Retry { cause, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(cause, "no answer within 0.2 s");
    assert!(begin.elapsed() < Duration::from_secs(20));
    // An answer that has begun well and does not end is an answer.
    let endless = Server::start(|_| {
        let frames = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        Response::new(BodyExt::boxed(SyncBody(StreamBody::new(frames))))
    })
    .await;
    let begin = Instant::now();
    assert_eq!(sink(&endless.url("/"), Duration::from_secs(3)).deliver(&event()).await, Outcome::Delivered);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

struct SyncBody<B>(B);

impl<B: hyper::body::Body<Data = Bytes, Error = Infallible> + Unpin> hyper::body::Body for SyncBody<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[tokio::test]
async fn a_huge_answer_is_not_read_to_its_end() {
    let server = Server::start(|_| Response::builder().status(500).body(full(&"x".repeat(8 << 20))).unwrap()).await;
    let Outcome::Retry { body, .. } = post(&server.url("/")).await else { panic!() };
    assert_eq!(body, vec![b'x'; 1024]);
}

#[tokio::test]
async fn connections_are_used_again_and_as_many_as_there_are_posts_at_once() {
    let server = Server::start(answer(200)).await;
    let sink = sink(&server.url("/"), Duration::from_secs(5));
    for _ in 0..20 {
        let posts: Vec<_> = (0..10).map(|_| async { sink.deliver(&event()).await }).collect();
        assert!(futures_util::future::join_all(posts).await.iter().all(|outcome| *outcome == Outcome::Delivered));
    }
    assert!(server.connections.load(Ordering::Relaxed) <= 12, "{:?}", server.connections);
}

#[tokio::test]
async fn credentials_of_a_url_become_basic_auth_and_are_never_shown() {
    let server = Server::start(answer(200)).await;
    let mut url = server.url("/?token=t0ken");
    url.set_username("jane").unwrap();
    url.set_password(Some("hunter2 ü")).unwrap();
    let poster = Poster::plain();
    let sink = HttpSink::new(poster, &url, Duration::from_secs(5)).unwrap();
    assert_eq!(sink.deliver(&event()).await, Outcome::Delivered);
    let seen = server.seen.lock()[0].clone();
    let expected = format!("Basic {}", BASE64.encode("jane:hunter2 ü"));
    assert_eq!(seen.head.headers["authorization"], expected);
    assert_eq!(seen.head.uri.to_string(), "/?token=t0ken");
    let shown = format!("{} {:?}", sink.destination(), sink.auth);
    assert!(!shown.contains("hunter2") && !shown.contains("t0ken") && !shown.contains(&expected), "{shown}");
}

#[tokio::test]
async fn a_function_is_posted_to_where_it_listens_and_waited_for_where_it_does_not() {
    let endpoints = Endpoints::default();
    let name = ObjectName::new("shop", "billing");
    let plan = SinkPlan::Function { name: name.clone(), path: "/in?a=b".into() };
    let sinks = Sinks::new(endpoints.clone());
    let impatient = sinks.sink(&plan, Duration::from_millis(50)).unwrap();
    let Outcome::Retry { cause, .. } = impatient.deliver(&event()).await else { panic!() };
    assert_eq!(cause, "function shop/billing is not ready");

    let sink = sinks.sink(&plan, Duration::from_secs(10)).unwrap();
    assert_eq!(sink.destination(), "http://billing.shop.svc.cluster.local/in");
    let event = event();
    let waiting = sink.deliver(&event);
    let server = Server::start(answer(200)).await;
    let publish = async {
        tokio::task::yield_now().await;
        endpoints.publish(&name, Some(server.at.to_string().parse().unwrap()));
    };
    assert_eq!(futures_util::future::join(waiting, publish).await.0, Outcome::Delivered);
    assert_eq!(server.seen.lock()[0].head.uri.to_string(), "/in?a=b");

    let moved = Server::start(answer(200)).await;
    endpoints.publish(&name, Some(moved.at.to_string().parse().unwrap()));
    assert_eq!(sink.deliver(&event).await, Outcome::Delivered);
    assert_eq!((server.seen.lock().len(), moved.seen.lock().len()), (1, 1));
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_no_connection() {
    let (plain, _a) = raw(|mut stream| async move {
        _ = stream.write_all(b"this is not TLS").await;
    })
    .await;
    let url: Url = format!("https://{plain}/").parse().unwrap();
    match Sinks::new(Endpoints::default()).sink(&SinkPlan::Http(url), Duration::from_secs(5)) {
        Ok(sink) => {
            let Outcome::Retry { cause, .. } = sink.deliver(&event()).await else { panic!() };
            assert!(cause.starts_with("no connection: "), "{cause}");
        }
        // A machine without any certificates cannot make the sink, and says so.
        Err(error) => assert!(error.to_string().contains("certificates"), "{error}"),
    }
}

/// What comes of an answer where replies are wanted, up to 200 bytes.
async fn asked(answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> (Outcome, Option<Event>) {
    let server = Server::start(answer).await;
    let asked = sink(&server.url("/"), Duration::from_secs(5)).ask(&event(), 200).await;
    assert_eq!(server.seen.lock()[0].head.headers.get("prefer").map(|value| value.to_str().unwrap()), Some("reply"));
    asked
}

fn replies(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let response = headers.iter().fold(Response::builder().status(status), |r, (name, value)| r.header(*name, *value));
    response.body(full(body)).unwrap()
}

const BINARY: [(&str, &str); 4] =
    [("ce-specversion", "1.0"), ("ce-id", "r1"), ("ce-source", "/fn"), ("ce-type", "answer")];

#[tokio::test]
async fn an_answer_that_is_an_event_is_taken() {
    let headers =
        [&BINARY[..], &[("ce-tenant", "acme"), ("content-type", "text/plain"), ("traceparent", "00-1-2-01")]].concat();
    let (outcome, reply) = asked(move |_| replies(202, &headers, "hello")).await;
    let reply = reply.unwrap();
    assert_eq!((outcome, reply.id(), reply.source(), reply.ty()), (Outcome::Delivered, "r1", "/fn", "answer"));
    assert_eq!((reply.content_type(), reply.attribute("tenant")), (Some("text/plain"), Some("acme")));
    assert_eq!((reply.data_slice(), reply.attribute("traceparent")), (&b"hello"[..], Some("00-1-2-01")));
    let structured = r#"{"specversion": "1.0", "id": "r2", "source": "/fn", "type": "answer", "data": {"a":  1}}"#;
    let (outcome, reply) =
        asked(|_| replies(200, &[("content-type", "application/cloudevents+json; charset=utf-8")], structured)).await;
    let reply = reply.unwrap();
    assert_eq!((outcome, reply.id(), reply.data_slice()), (Outcome::Delivered, "r2", &br#"{"a":  1}"#[..]));
}

#[tokio::test]
async fn any_other_answer_is_no_reply() {
    let large = "x".repeat(10_000);
    assert_eq!(asked(|_| replies(202, &[], "")).await, (Outcome::Delivered, None));
    assert_eq!(
        asked(|_| replies(200, &[("content-type", "application/json")], "{}")).await,
        (Outcome::Delivered, None)
    );
    assert_eq!(asked(move |_| replies(200, &[], &large)).await, (Outcome::Delivered, None));
    let (outcome, reply) = asked(|_| replies(503, &BINARY, "x")).await;
    assert!(matches!(outcome, Outcome::Retry { status: Some(503), .. }) && reply.is_none(), "{outcome:?}");
    let server = Server::start(|_| replies(200, &BINARY, "x")).await;
    assert_eq!(post(&server.url("/")).await, Outcome::Delivered);
    assert_eq!(server.seen.lock()[0].head.headers.get("prefer"), None, "not asked for");
}

#[tokio::test]
async fn what_only_claims_to_be_an_event_is_garbage_and_one_too_large_is_refused() {
    const JSON: [(&str, &str); 1] = [("content-type", "application/cloudevents+json")];
    for (headers, body) in [
        (&BINARY[..3], "no type"),
        (&JSON[..], "{}"),
        (&JSON[..], ""),
        (&[("content-type", "application/cloudevents+xml")][..], "<event/>"),
        (&[("content-type", "application/cloudevents-batch+json")][..], "[]"),
    ] {
        match asked(move |_| replies(200, headers, body)).await {
            (Outcome::Retry { cause, status: Some(200), after: None, body: start }, None) => {
                assert!(
                    cause.starts_with("answered 200 OK with what claims to be a CloudEvent and is none: "),
                    "{cause}"
                );
                assert_eq!(start, body.as_bytes());
            }
            other => panic!("{headers:?}: {other:?}"),
        }
    }
    let large = "x".repeat(201);
    match asked(move |_| replies(200, &BINARY, &large)).await {
        (Outcome::Refused { cause, status: Some(200), .. }, None) => {
            assert_eq!(cause, "answered 200 OK with an event of more than 200 bytes, which the bus does not take");
        }
        other => panic!("{other:?}"),
    }
}
