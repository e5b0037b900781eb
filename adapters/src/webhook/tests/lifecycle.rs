//! Starting, changing, hanging up and stopping.

use std::time::Duration;

use evoke_api::credentials::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::*;
use crate::webhook::Auth;

/// How long to wait before asking again for what takes seconds: each time takes a port for a while.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const POST: &str = "POST /ns/shop/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";

/// One request on a connection that stays open: the status of its answer.
async fn on(stream: &mut TcpStream, request: &str) -> u16 {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_sender_that_hangs_up_in_its_body_published_nothing() {
    let site = Site::new().await;
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    stream.write_all(POST.as_bytes()).await.unwrap();
    stream.write_all(b"a").await.unwrap();
    drop(stream);
    site.webhook.stop().await;
    assert_eq!(*site.outlet.taken.borrow(), 0);
}

#[tokio::test]
async fn a_sender_that_hangs_up_after_its_body_published_all() {
    let site = Site::new().await;
    site.outlet.fate.send_replace(Fate::Block);
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let batch = format!("[{},{}]", structured("1"), structured("2"));
    let head = format!(
        "POST /ns/shop/orders HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
        BATCH.1,
        batch.len()
    );
    stream.write_all([head, batch].concat().as_bytes()).await.unwrap();
    site.outlet.taken(1).await;
    drop(stream);
    // The server has seen it when the connection is gone.
    while site.listeners.hub().metrics.connections.get() > 0 {
        tokio::task::yield_now().await;
    }
    site.outlet.fate.send_replace(Fate::Settle);
    site.webhook.stop().await;
    assert_eq!(*site.outlet.settled.borrow(), 1);
    assert_eq!(site.outlet.events().iter().map(Event::id).collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_turns_the_rest_away() {
    let site = Site::new().await;
    site.outlet.fate.send_replace(Fate::Hold);
    let settling = site.start(&[], "first");
    site.outlet.taken(1).await;
    let mut slow = TcpStream::connect(site.address).await.unwrap();
    slow.write_all(POST.as_bytes()).await.unwrap();
    while site.listeners.hub().requests.available_permits() + 2 > site.listeners.hub().limits.requests {
        tokio::task::yield_now().await;
    }
    site.webhook.cancel.cancel();
    // The body that is not there yet is not waited for, and new requests are not taken.
    assert_eq!(on(&mut slow, "").await, 503);
    let late = site.post(&[], "late").await;
    assert_eq!((late.status, late.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    let mut webhook = site.webhook;
    assert!(webhook.task.try_join_next().is_none());
    site.outlet.fate.send_replace(Fate::Settle);
    assert_eq!(finish(settling).await.status, StatusCode::ACCEPTED);
    webhook.task.join_next().await.unwrap().unwrap().unwrap();
    site.listeners.close(Duration::from_secs(10)).await;
    assert_eq!(site.listeners.hub().metrics.connections.get(), 0);
    assert!(TcpStream::connect(site.address).await.is_err());
    assert_eq!(site.outlet.events().len(), 1);
}

#[tokio::test]
async fn closing_does_not_wait_for_ever() {
    let site = Site::new().await;
    site.outlet.fate.send_replace(Fate::Hold);
    let mut stuck = TcpStream::connect(site.address).await.unwrap();
    stuck.write_all([POST, "ab"].concat().as_bytes()).await.unwrap();
    site.outlet.taken(1).await;
    site.listeners.close(Duration::from_millis(20)).await;
    assert_eq!(site.listeners.hub().metrics.connections.get(), 0);
    let mut rest = Vec::new();
    drop(stuck.read_to_end(&mut rest).await);
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_webhook_is_changed_without_a_connection_or_a_request_lost() {
    let limits = Limits { linger: Duration::from_secs(2), ..Limits::default() };
    let site = Site::with(plan("orders"), limits, 4096).await;
    let mut kept = TcpStream::connect(site.address).await.unwrap();
    assert_eq!(on(&mut kept, &[POST, "ab"].concat()).await, 202);

    // The new one is started before the old one is stopped: it takes over, and the old one finishes what it has.
    let second = TestOutlet::new(4096);
    let mut changed = plan("orders");
    changed.origin.attributes.insert("generation".into(), "2".into());
    site.outlet.fate.send_replace(Fate::Hold);
    let settling = site.start(&[], "old");
    site.outlet.taken(2).await;
    let mut next = Running::start(changed, &site.listeners, &second);
    next.up().await;
    assert_eq!(on(&mut kept, &[POST, "ab"].concat()).await, 202);
    assert_eq!(second.events()[0].attribute("generation"), Some("2"));
    site.outlet.fate.send_replace(Fate::Settle);
    site.webhook.stop().await;
    assert_eq!(finish(settling).await.status, StatusCode::ACCEPTED);
    assert_eq!(on(&mut kept, &[POST, "ab"].concat()).await, 202);

    // The old one is stopped before the new one is started: senders are told to come back.
    next.stop().await;
    assert_eq!(on(&mut kept, &[POST, "ab"].concat()).await, 503);
    let mut last = Running::start(plan("orders"), &site.listeners, &second);
    last.up().await;
    assert_eq!(on(&mut kept, &[POST, "ab"].concat()).await, 202);

    // When it stays away, its path is nobody's while others listen, and then the address is given up.
    let mut other = Running::start(plan("other"), &site.listeners, &second);
    other.up().await;
    last.stop().await;
    while on(&mut kept, &[POST, "ab"].concat()).await == 503 {
        sleep(LOOK_AGAIN).await;
    }
    assert_eq!(on(&mut kept, &[POST, "ab"].concat()).await, 404);
    other.stop().await;
    while TcpStream::connect(site.address).await.is_ok() {
        sleep(LOOK_AGAIN).await;
    }
    assert_eq!(site.listeners.shared_address(), None);
    let mut rest = Vec::new();
    drop(kept.read_to_end(&mut rest).await);
}

#[tokio::test]
async fn requests_belong_to_the_webhook_that_came_first() {
    let site = Site::new().await;
    let late = TestOutlet::new(4096);
    let taken = WebhookPlan { path: "/ns/shop/orders".into(), ..plan("twin") };
    let mut twin = Running::start(taken, &site.listeners, &late);
    assert_eq!(twin.down().await, "POST /ns/shop/orders belongs to event orders of EventSource ns/shop");
    let put = WebhookPlan { path: "/ns/shop/orders".into(), method: Method::PUT, ..plan("put") };
    let mut put = Running::start(put, &site.listeners, &late);
    put.up().await;
    assert_eq!(site.send("PUT", "/ns/shop/orders", &[], "p").await.status, StatusCode::ACCEPTED);
    assert_eq!(site.send("GET", "/ns/shop/orders", &[], "").await.header("allow"), "POST, PUT, OPTIONS");
    site.post(&[], "first").await;
    assert_eq!(site.outlet.events().len(), 1);
    site.webhook.stop().await;
    twin.up().await;
    // Another one that goes is no reason to stop.
    put.stop().await;
    let request = Request::post(format!("http://{}/ns/shop/orders", site.address)).body(Full::from("second")).unwrap();
    assert_eq!(site.client.request(request).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(late.events().len(), 2);
    twin.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_and_tried_again() {
    let occupied = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = occupied.local_addr().unwrap().port();
    let listeners = listeners(Limits { bind_retry: Duration::from_millis(10), ..Limits::default() });
    let outlet = TestOutlet::new(4096);
    let own = WebhookPlan { listen: Listen::Port(port), ..plan("orders") };
    let mut webhook = Running::start(own, &listeners, &outlet);
    let why = webhook.down().await;
    assert!(why.starts_with(&format!("cannot listen on 127.0.0.1:{port}: Address already in use")), "{why}");
    drop(occupied);
    webhook.up().await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    assert_eq!(on(&mut stream, &[POST, "ab"].concat()).await, 202);
    webhook.stop().await;
    listeners.close(Duration::from_secs(10)).await;
    let again = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn an_empty_credential_lets_nobody_in() {
    let auth = Some(Auth::Bearer(Secret::new("")));
    let (listeners, outlet) = (listeners(Limits::default()), TestOutlet::new(4096));
    let mut webhook = Running::start(WebhookPlan { auth, ..plan("orders") }, &listeners, &outlet);
    assert!(webhook.down().await.starts_with("a credential of `auth` is empty"));
    assert_eq!(listeners.shared_address(), None);
    webhook.stop().await;
}

#[tokio::test]
async fn dropping_everything_ends_everything() {
    let site = Site::new().await;
    site.outlet.fate.send_replace(Fate::Hold);
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    stream.write_all([POST, "ab"].concat().as_bytes()).await.unwrap();
    site.outlet.taken(1).await;
    let hub = Arc::clone(site.listeners.hub());
    let Site { listeners, webhook, .. } = site;
    drop(webhook);
    drop(listeners);
    hub.tasks.close();
    hub.tasks.wait().await;
    assert_eq!(hub.metrics.connections.get(), 0);
}
