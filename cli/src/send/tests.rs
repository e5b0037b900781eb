use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use clap::Parser;
use evoke_eventbus::codec::http::{Decoded, decode};
use http::{HeaderMap, StatusCode, Uri};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: SendArgs,
}

fn parsed(url: &str, args: &[&str]) -> Result<SendArgs, clap::Error> {
    Cli::try_parse_from([&["send", url], args].concat()).map(|cli| cli.args)
}

#[derive(Clone, Debug)]
struct Received {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    events: Vec<Event>,
}

/// A server that takes events and answers what it is told to.
struct Server {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    _task: JoinSet<()>,
}

type Scripted = (StatusCode, &'static str);

impl Server {
    async fn answering(status: StatusCode, content: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new().fallback(take).with_state((Arc::clone(&received), (status, content)));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, received, _task: task }
    }

    async fn send(&self, path: &str, args: &[&str]) -> (Result<(), String>, String) {
        let args = parsed(&format!("{}{path}", self.url), args).unwrap();
        let mut out = Vec::new();
        let result = send(&args, &mut out).await;
        (result.map_err(|e| e.to_string()), String::from_utf8(out).unwrap())
    }

    fn only(&self) -> Received {
        let [received] = self.received.lock().clone().try_into().unwrap();
        received
    }
}

async fn take(
    State((received, (status, content))): State<(Arc<Mutex<Vec<Received>>>, Scripted)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let events = match decode(&headers, &body).unwrap() {
        Decoded::One(event) => vec![event.build().unwrap()],
        Decoded::Batch(events) => events.into_iter().map(|event| event.build().unwrap()).collect(),
        Decoded::Plain => vec![],
    };
    received.lock().push(Received { method, uri, headers, events });
    (status, [("retry-after", "7")], content)
}

#[tokio::test]
async fn what_is_not_said_is_filled_in() {
    let server = Server::answering(StatusCode::ACCEPTED, "").await;
    let (result, out) = server.send("/a/b?c=d#e", &[]).await;
    assert_eq!(result, Ok(()));
    let Received { method, uri, headers, events } = server.only();
    let event = &events[0];
    assert_eq!((method, uri.to_string().as_str()), (Method::POST, "/a/b?c=d"));
    assert_eq!(out, format!("202 Accepted: {}\n", event.id()));
    assert_eq!((event.source(), event.ty(), event.content_type()), ("/evoke/send", "io.evoke.send", None));
    assert_eq!(uuid::Uuid::parse_str(event.id()).unwrap().get_version_num(), 7);
    assert!(chrono::DateTime::parse_from_rfc3339(event.attribute("time").unwrap()).is_ok());
    assert!(headers["user-agent"].to_str().unwrap().starts_with("evoke/"));
}

#[tokio::test]
async fn what_is_said_is_sent() {
    let server = Server::answering(StatusCode::OK, "thanks").await;
    let args = [
        "--type",
        "order.created",
        "--source",
        "/shop",
        "--id",
        "17",
        "--subject",
        "o 1",
        "--time",
        "2026-05-04T03:02:01Z",
        "-a",
        "partitionkey=eu",
        "--attribute",
        "note=a=b",
        "--data",
        r#"{ "amount" : 1.0 }"#,
        "-H",
        "x-tenant: north",
        "-X",
        "PUT",
        "-o",
        "json",
    ];
    let (result, out) = server.send("/", &args).await;
    assert_eq!((result, out.as_str()), (Ok(()), "{\"status\":200,\"ids\":[\"17\"],\"answer\":\"thanks\"}\n"));
    let Received { method, headers, events, .. } = server.only();
    assert_eq!((method, &headers["x-tenant"]), (Method::PUT, &HeaderValue::from_static("north")));
    let mut got: Vec<_> = events[0].attributes().collect();
    got.sort_unstable();
    let expected = [
        ("datacontenttype", "application/json"),
        ("id", "17"),
        ("note", "a=b"),
        ("partitionkey", "eu"),
        ("source", "/shop"),
        ("subject", "o 1"),
        ("time", "2026-05-04T03:02:01Z"),
        ("type", "order.created"),
    ];
    assert_eq!(got, expected);
    assert_eq!(events[0].data_slice(), br#"{ "amount" : 1.0 }"#);
}

#[tokio::test]
async fn data_comes_from_files_too() {
    let server = Server::answering(StatusCode::ACCEPTED, "").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.bin");
    let path = file.to_str().unwrap();
    for (content, content_type) in [
        (&b"[1, 2]"[..], "application/json"),
        (b"plain \xc3\xa9", "text/plain; charset=utf-8"),
        (b"\xff", "application/octet-stream"),
    ] {
        std::fs::write(&file, content).unwrap();
        for args in [["--data-file", path], ["--data", &format!("@{path}")]] {
            server.send("/", &args).await.0.unwrap();
            let last = server.received.lock().pop().unwrap();
            assert_eq!((last.events[0].data_slice(), last.events[0].content_type()), (content, Some(content_type)));
        }
    }
    let (result, _) = server.send("/", &["--data", "-7", "--content-type", "text/csv"]).await;
    assert_eq!(result, Ok(()));
    assert_eq!(server.only().events[0].data_slice(), b"-7");
    assert_eq!(server.only().events[0].content_type(), Some("text/csv"));
    let missing = server.send("/", &["--data-file", "/no/such/file"]).await.0.unwrap_err();
    assert!(missing.starts_with("cannot read /no/such/file: No such file"), "{missing}");
}

#[tokio::test]
async fn modes_and_counts() {
    for (mode, requests, content_type) in
        [("binary", 3, "text/plain; charset=utf-8"), ("structured", 3, json_type(false)), ("batch", 1, json_type(true))]
    {
        let server = Server::answering(StatusCode::ACCEPTED, "").await;
        let (result, out) = server.send("/", &["--mode", mode, "-n", "3", "--data", "x"]).await;
        assert_eq!(result, Ok(()));
        let received = server.received.lock().clone();
        assert_eq!((received.len(), out.lines().count()), (requests, requests));
        assert!(received.iter().all(|r| r.headers["content-type"] == content_type), "{received:?}");
        let mut ids: Vec<_> = received.iter().flat_map(|r| &r.events).map(|e| e.id().to_owned()).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        if mode == "batch" {
            assert_eq!(out, "202 Accepted: 3 events\n");
        }
    }
}

#[tokio::test]
async fn no_more_events_are_built_than_are_sent() {
    let server = Server::answering(StatusCode::BAD_REQUEST, "").await;
    let count = u32::MAX.to_string();
    let (result, _) = server.send("/", &["-n", &count, "--data", "x"]).await;
    assert!(result.is_err_and(|why| why.contains("answered 400 Bad Request")));
    assert_eq!(server.received.lock().len(), 1);

    // A batch is one request.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.bin");
    std::fs::write(&file, vec![0_u8; 1 << 20]).unwrap();
    let args = ["-n", &count, "--mode", "batch", "--data-file", file.to_str().unwrap()];
    let refused =
        "the events of one batch have more than 67108864 bytes: send fewer of them, or each in a request of its own";
    assert_eq!(server.send("/", &args).await.0, Err(refused.to_owned()));
    assert_eq!(server.received.lock().len(), 1);
}

#[tokio::test]
async fn an_event_whose_data_is_an_event_arrives_as_itself() {
    let inner = r#"{"specversion":"1.0","id":"inner","source":"/i","type":"i"}"#;
    for mode in ["binary", "structured", "batch"] {
        let server = Server::answering(StatusCode::ACCEPTED, "").await;
        let args = ["--id", "outer", "--mode", mode, "--data", inner, "--content-type", "application/cloudevents+json"];
        assert_eq!(server.send("/", &args).await, (Ok(()), "202 Accepted: outer\n".to_owned()));
        let Received { events, .. } = server.only();
        assert_eq!((events[0].id(), events[0].data_slice()), ("outer", inner.as_bytes()));
    }
}

fn json_type(batch: bool) -> &'static str {
    if batch { "application/cloudevents-batch+json" } else { "application/cloudevents+json" }
}

#[tokio::test]
async fn whole_events_come_from_a_file() {
    let server = Server::answering(StatusCode::ACCEPTED, "").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.json");
    let path = file.to_str().unwrap();
    let event =
        |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{{"n": {id}.0}}}}"#);
    std::fs::write(&file, format!(" [{},{}]", event("1"), event("2"))).unwrap();
    server.send("/", &["--event-file", path, "--type", "mine", "-a", "tenant=x"]).await.0.unwrap();
    let received = server.received.lock().clone();
    let got: Vec<_> =
        received.iter().map(|r| (r.events[0].id(), r.events[0].ty(), r.events[0].attribute("tenant"))).collect();
    assert_eq!(got, [("1", "mine", Some("x")), ("2", "mine", Some("x"))]);
    assert_eq!(received[1].events[0].data_slice(), br#"{"n": 2.0}"#);
    std::fs::write(&file, event("").replace("\"n\": ", "\"n\": 1")).unwrap();
    let wrong = server.send("/", &["--event-file", path]).await.0.unwrap_err();
    assert_eq!(wrong, format!("{path} holds no CloudEvent: attribute \"id\" is missing or empty"));
    // One that is wrong keeps the others from being sent.
    let wide = (0..124).fold(event("4"), |event, n| event.replacen('{', &format!("{{\"x{n}\":\"\","), 1));
    std::fs::write(&file, format!("[{},{}]", event("3"), wide)).unwrap();
    let wrong = server.send("/", &["--event-file", path, "-a", "tenant=x"]).await.0.unwrap_err();
    assert_eq!((wrong.as_str(), server.received.lock().len()), ("no event: more than 128 attributes", 2));
    std::fs::write(&file, "[]").unwrap();
    assert_eq!(server.send("/", &["--event-file", path]).await.0.unwrap_err(), format!("{path} holds no event"));
}

#[tokio::test]
async fn credentials_come_from_files() {
    let server = Server::answering(StatusCode::ACCEPTED, "").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "aladdin:opensesame\n").unwrap();
    for (option, header) in
        [("--bearer-token-file", "Bearer aladdin:opensesame"), ("--basic-auth-file", "Basic YWxhZGRpbjpvcGVuc2VzYW1l")]
    {
        server.send("/", &[option, path]).await.0.unwrap();
        assert_eq!(server.received.lock().pop().unwrap().headers["authorization"], header);
    }
    std::fs::write(&file, "token\n").unwrap();
    let wrong = server.send("/", &["--basic-auth-file", path]).await.0.unwrap_err();
    assert_eq!(wrong, format!("{path} is not USER:PASSWORD"));
    std::fs::write(&file, "\n").unwrap();
    let empty = server.send("/", &["--bearer-token-file", path]).await.0.unwrap_err();
    assert_eq!(empty, format!("{path} is empty"));
}

#[tokio::test]
async fn a_refusal_is_explained_and_ends_it() {
    let problem = r#"{"status":400,"title":"Bad Request","detail":"attribute \"id\" is missing"}"#;
    let server = Server::answering(StatusCode::BAD_REQUEST, problem).await;
    let (result, out) = server.send("/x?token=secret", &["-n", "3"]).await;
    let expected = format!("{}/x answered 400 Bad Request: attribute \"id\" is missing (Retry-After: 7)", server.url);
    assert_eq!((result, out.as_str(), server.received.lock().len()), (Err(expected), "", 1));
    let server = Server::answering(StatusCode::FOUND, " go \n away ").await;
    let (result, out) = server.send("/", &["-o", "json", "--id", "1"]).await;
    assert_eq!(result, Err(format!("{}/ answered 302 Found: go away (Retry-After: 7)", server.url)));
    assert_eq!(out, "{\"status\":302,\"ids\":[\"1\"],\"answer\":\" go \\n away \"}\n");
}

#[tokio::test]
async fn nobody_answers() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let silent = parsed(&url, &["--timeout", "50ms"]).unwrap();
    let error = send(&silent, &mut Vec::new()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{url} did not answer: nothing came within 50ms"));
    drop(listener);
    let patient = parsed(&url, &["--timeout", "30s"]).unwrap();
    let error = send(&patient, &mut Vec::new()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{url} did not answer: Connection refused")), "{error}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let url = "http://127.0.0.1:8080/";
    for (url, args, says) in [
        ("127.0.0.1:8080", &[][..], "write it as http://"),
        ("ftp://x/", &[], "\"ftp\" is not http or https"),
        ("http://u:p@x/", &[], "--basic-auth-file"),
        (url, &["--attribute", "name"], "write it as name=value"),
        (url, &["--attribute", "Bad-Name=x"], "is no attribute name"),
        (url, &["--attribute", "id=1"], "the id is given with --id"),
        (url, &["-a", "id=1", "-n", "3"], "the id is given with --id"),
        (url, &["--time", "yesterday"], "no timestamp"),
        (url, &["--type", ""], "value is required"),
        (url, &["-H", "x"], "write it as 'name: value'"),
        (url, &["--timeout", "5"], "write `5s`"),
        (url, &["--timeout", "0s"], "no time"),
        (url, &["--count", "0"], "0 is not in 1.."),
        (url, &["--id", "1", "--count", "2"], "cannot be used with"),
        (url, &["--data", "x", "--data-file", "y"], "cannot be used with"),
        (url, &["--event-file", "x", "--data", "y"], "cannot be used with"),
        (url, &["--bearer-token-file", "x", "--basic-auth-file", "y"], "cannot be used with"),
        (url, &["--mode", "avro"], "possible values: binary, structured, batch"),
    ] {
        let error = parsed(url, args).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(says), "{args:?}: {error}");
    }
}

#[test]
fn help_is_complete() {
    use clap::CommandFactory;
    let mut command = Cli::command();
    let help = command.render_help().to_string();
    assert!(help.contains("Examples:") && help.contains("Exit code:"), "{help}");
    assert!(command.get_arguments().all(|argument| argument.get_help().is_some()));
}
