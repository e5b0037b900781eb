//! What becomes of a request that is not taken.

use std::time::Duration;

use evoke_api::credentials::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::webhook::Auth;

/// Sends bytes as they are, and reads until the server closes.
async fn raw(site: &Site, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn malformed_events_are_named_with_their_attribute() {
    let site = Site::new().await;
    let reply = site.post(&[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s")], "").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        reply.json(),
        serde_json::json!({
            "status": 400, "title": "Bad Request", "attribute": "type",
            "detail": "attribute \"type\" is missing or empty",
        })
    );
    let reply = site.post(&[STRUCTURED], structured("1").replace("1.0", "0.3")).await;
    assert_eq!((reply.status, &reply.json()["attribute"]), (StatusCode::BAD_REQUEST, &"specversion".into()));
    let reply = site.post(&[BATCH], format!("[{},{}]", structured("1"), structured(""))).await;
    assert_eq!((reply.status, &reply.json()["attribute"]), (StatusCode::BAD_REQUEST, &"id".into()));
    assert_eq!(reply.detail(), "event 1 of the batch: attribute \"id\" is missing or empty");
    let reply = site.post(&[STRUCTURED], "{").await;
    assert_eq!((reply.status, reply.json().get("attribute")), (StatusCode::BAD_REQUEST, None));
    assert!(reply.detail().starts_with("the content cannot be read as a JSON event: EOF"));
    let reply = site.post(&[("content-type", "application/cloudevents+protobuf")], "x").await;
    assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(site.outlet.events(), []);
}

#[tokio::test]
async fn encoded_bodies_are_refused_with_what_to_send_instead() {
    let site = Site::new().await;
    for (sent, named) in [("gzip", "gzip"), ("Identity, BR", "BR"), (", x-\"1\"", "x-\\\"1\\\"")] {
        for headers in [&[("content-encoding", sent)][..], &[("content-encoding", sent), STRUCTURED]] {
            let reply = site.post(headers, "x").await;
            assert_eq!(
                (reply.status, reply.header("accept-encoding")),
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "identity")
            );
            let expected = format!("the body is encoded as \"{named}\": send it as it is, without Content-Encoding");
            assert_eq!(reply.detail(), expected);
        }
    }
    let twice = site.post(&[("content-encoding", "identity"), ("content-encoding", "gzip")], "x").await;
    assert_eq!(twice.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // By what is announced, before it is sent.
    let asked = b"POST /ns/shop/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\
                  content-encoding: gzip\r\nexpect: 100-continue\r\n\r\n";
    let announced = raw(&site, asked).await;
    assert!(announced.starts_with("HTTP/1.1 415 "), "{announced}");
    assert_eq!(site.outlet.events(), []);
    for plain in ["identity", "IDENTITY ,", ""] {
        assert_eq!(site.post(&[("content-encoding", plain)], "x").await.status, StatusCode::ACCEPTED, "{plain:?}");
    }
    assert_eq!(site.outlet.events().len(), 3);
}

#[tokio::test]
async fn what_is_too_large_is_refused_whole() {
    let site = Site::with(plan("orders"), Limits { batch_bytes: 30_000, ..Limits::default() }, 4096).await;
    let too_large = |reply: Reply| {
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{reply:?}");
        reply.detail()
    };
    // By what is announced, before it is sent.
    let asked = b"POST /ns/shop/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\nexpect: 100-continue\r\n\r\n";
    let announced = raw(&site, asked).await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
    assert_eq!(too_large(site.post(&[], vec![b'x'; 4097]).await), "the body is larger than 4096 bytes");
    // By what arrives unannounced.
    let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 4096], b"\r\n".to_vec()].concat();
    let head =
        b"POST /ns/shop/orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n".to_vec();
    let arrived = raw(&site, &[head, chunk.clone(), chunk, b"0\r\n\r\n".to_vec()].concat()).await;
    assert!(arrived.starts_with("HTTP/1.1 413 "), "{arrived}");
    // By the event it would be.
    let encoded = too_large(site.post(&[], vec![b'x'; 4096]).await);
    assert!(encoded.starts_with("the event has 4") && encoded.ends_with("bytes, the bus takes 4096"), "{encoded}");
    let big = structured("2").replace("1.0}", &format!("\"{}\"}}", "x".repeat(4096)));
    let event = too_large(site.post(&[BATCH], format!("[{},{big}]", structured("1"))).await);
    assert!(event.starts_with("event 1 of the batch has 4"), "{event}");
    let batch = too_large(site.post(&[BATCH], vec![b' '; 40_000]).await);
    assert_eq!(batch, "the body is larger than 30000 bytes");
    let many = format!("[{}1]", "1,".repeat(10_000));
    assert_eq!(too_large(site.post(&[BATCH], many).await), "the batch has more than 10000 events: send it in parts");
    assert_eq!(site.outlet.events(), []);
}

#[tokio::test]
async fn a_refused_body_does_not_cost_the_sender_its_answer() {
    let site = Site::with(plan("orders"), Limits::default(), 1024).await;
    for _ in 0..20 {
        assert_eq!(site.post(&[], vec![b'x'; 2 << 20]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    site.outlet.room.send_replace(false);
    assert_eq!(site.post(&[], vec![b'x'; 2 << 20]).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_sender_is_told_to_come_back() {
    let limits = Limits { settle_time: Duration::from_millis(50), body_bytes: 3000, requests: 1, ..Limits::default() };
    let site = Site::with(plan("orders"), limits, 4096).await;
    let later = |reply: &Reply, detail: &str| {
        assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"), "{reply:?}");
        assert!(reply.detail().starts_with(detail), "{reply:?}");
    };
    site.outlet.room.send_replace(false);
    later(&site.post(&[], "x").await, "there is no room for more events");
    site.outlet.room.send_replace(true);
    later(&site.post(&[], vec![b'x'; 3500]).await, "too much is being received");
    site.outlet.fate.send_replace(Fate::Fail);
    let failed = site.post(&[], "x").await;
    later(&failed, "the events are not known to be stored");
    assert!(!failed.body.contains("on fire"));
    // A sender that is not waited for any longer may have sent something that is stored in the end.
    site.outlet.fate.send_replace(Fate::Hold);
    later(&site.post(&[], "held").await, "the events are not stored yet");
    later(&site.post(&[], "x").await, "too many requests are under way");
    site.outlet.fate.send_replace(Fate::Settle);
    site.outlet.settled.subscribe().wait_for(|n| *n == 1).await.unwrap();
    // What is not accepted keeps its share of the budget.
    site.outlet.fate.send_replace(Fate::Block);
    let Some(free) = retry(|| async { site.post(&[], vec![b'x'; 2000]).await }, "the events are not stored yet").await
    else {
        panic!("never taken")
    };
    later(&free, "the events are not stored yet");
    assert_eq!(site.listeners.hub().metrics.body_bytes.get(), 2000);
    site.outlet.fate.send_replace(Fate::Settle);
    site.outlet.settled.subscribe().wait_for(|n| *n == 2).await.unwrap();
    assert_eq!(site.listeners.hub().metrics.body_bytes.get(), 0);
}

/// Sends until the answer's detail starts with `detail`, while a place is being given back.
async fn retry<F: Future<Output = Reply>>(send: impl Fn() -> F, detail: &str) -> Option<Reply> {
    for _ in 0..1000 {
        let reply = send().await;
        if reply.detail().starts_with(detail) {
            return Some(reply);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test]
async fn other_paths_and_methods() {
    let site = Site::new().await;
    let nowhere = site.send("POST", "/ns/shop/other", &[], "x").await;
    assert_eq!((nowhere.status, nowhere.detail().as_str()), (StatusCode::NOT_FOUND, "no webhook has this path"));
    assert_eq!(site.send("POST", "/ns/shop/orders/", &[], "x").await.status, StatusCode::NOT_FOUND);
    let get = site.send("GET", "/ns/shop/orders", &[], "").await;
    assert_eq!((get.status, get.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST, OPTIONS"));
    assert_eq!(site.listeners.hub().metrics.unrouted.get(), 2);
}

#[tokio::test]
async fn the_handshake_of_cloudevents_webhooks() {
    let site = Site::with(
        WebhookPlan { auth: Some(Auth::Bearer(Secret::new("t"))), ..plan("orders") },
        Limits::default(),
        4096,
    )
    .await;
    let asked = [("webhook-request-origin", "emitter.example.com"), ("webhook-request-rate", "120")];
    let reply = site.send("OPTIONS", "/ns/shop/orders", &asked, "").await;
    assert_eq!((reply.status, reply.header("allow")), (StatusCode::OK, "POST, OPTIONS"));
    assert_eq!(reply.header("webhook-allowed-origin"), "emitter.example.com");
    assert_eq!(reply.header("webhook-allowed-rate"), "*");
    let bare = site.send("OPTIONS", "/ns/shop/orders", &[], "").await;
    assert_eq!((bare.status, bare.header("webhook-allowed-origin")), (StatusCode::OK, ""));
    assert_eq!(site.send("OPTIONS", "/", &asked, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_may_send() {
    let bearer = WebhookPlan { auth: Some(Auth::Bearer(Secret::new("t0ken"))), ..plan("orders") };
    let site = Site::with(bearer, Limits::default(), 4096).await;
    for wrong in [&[][..], &[("authorization", "Bearer other")], &[("authorization", "Basic dDp0")]] {
        let reply = site.post(wrong, "x").await;
        assert_eq!(
            (reply.status, reply.header("www-authenticate")),
            (StatusCode::UNAUTHORIZED, "Bearer realm=\"evoke\"")
        );
        assert!(!reply.body.contains("t0ken"));
    }
    assert_eq!(site.post(&[("authorization", "Bearer t0ken")], "x").await.status, StatusCode::ACCEPTED);

    let basic = Auth::Basic { username: Secret::new("aladdin"), password: Secret::new("opensesame") };
    let site = Site::with(WebhookPlan { auth: Some(basic), ..plan("orders") }, Limits::default(), 4096).await;
    let reply = site.post(&[], "x").await;
    assert_eq!(
        (reply.status, reply.header("www-authenticate")),
        (StatusCode::UNAUTHORIZED, "Basic realm=\"evoke\", charset=\"UTF-8\"")
    );
    let right = [("authorization", "Basic YWxhZGRpbjpvcGVuc2VzYW1l")];
    assert_eq!(site.post(&right, "x").await.status, StatusCode::ACCEPTED);
    assert_eq!(site.outlet.events().len(), 1);
}

#[tokio::test]
async fn what_is_no_http_or_too_much_of_it() {
    let site = Site::new().await;
    assert!(raw(&site, b"EHLO evoke\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let long = format!("POST /ns/shop/orders HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(80_000));
    assert!(raw(&site, long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = format!(
        "POST /ns/shop/orders HTTP/1.1\r\n{}\r\n",
        (0..300).map(|n| format!("x{n}: x\r\n")).collect::<String>()
    );
    assert!(raw(&site, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn slow_senders_are_not_waited_for() {
    let short = Duration::from_millis(100);
    let site =
        Site::with(plan("orders"), Limits { head_time: short, body_time: short, ..Limits::default() }, 4096).await;
    // Nothing at all, half a preface of HTTP/2, half a head: the connection ends.
    for bytes in [&b""[..], b"PRI * HT", b"POST /ns/shop/orders HTTP/1.1\r\nhos"] {
        assert_eq!(raw(&site, bytes).await, "");
    }
    // Half a body: an answer, and the connection ends.
    let body = raw(&site, b"POST /ns/shop/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab").await;
    assert!(body.starts_with("HTTP/1.1 408 ") && body.contains("connection: close"), "{body}");
    assert_eq!(site.outlet.events(), []);
}
