//! What a bus has lost before a subscriber had finished it is counted for that subscriber: what was published is delivered or counted,
//! by id, and those who had it are not concerned.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink, request};
use evoke_tests::ledger::{assert_conserved, balance};
use evoke_tests::manifests::{bus, objects, pass, source, trigger};
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use serde_json::json;

const LONG: Duration = Duration::from_secs(90);
const DROPPED: &str = "evoke_subscription_dropped_total";
/// What is three times `maxBytes`.
const EVENTS: usize = 400;
const EVENT_BYTES: usize = 64 << 10;

/// Webhook, and a Trigger with a subscriber that takes everything at once and one that does not.
pub(crate) fn home(spec: &str, fast: &Sink, slow: &Sink, delivery: &str) -> Home {
    let subscribers = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers:\n  \
         - {{name: fast, condition: it, sink: {{uri: \"{}\"}}}}\n  \
         - {{name: slow, condition: it, sink: {{uri: \"{}\"}}, delivery: {{{delivery}}}}}",
        fast.url("/"),
        slow.url("/")
    );
    Home::with(objects(&[bus("default", spec), source("web", "webhook: {in: {}}"), trigger("t", &subscribers)]))
}

/// Posts an event until it is accepted.
pub(crate) async fn send(evoke: &Evoke, id: &str, bytes: usize) {
    let (url, body) = (evoke.webhook("/default/web/in"), Bytes::from(vec![b'x'; bytes]));
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    eventually(&format!("{id} is accepted"), SOON, async || {
        let answer = request("POST", &url, &headers, body.clone()).await.ok()?;
        (answer.status == 202).then_some(())
    })
    .await;
}

pub(crate) async fn dropped(evoke: &Evoke, subscriber: &str) -> f64 {
    evoke.metrics().await.sum(DROPPED, &[("subscriber", subscriber)])
}

/// Waits until nothing of the slow subscriber is under way or put aside.
pub(crate) async fn at_rest(evoke: &Evoke) {
    eventually("nothing is under way", LONG, async || {
        let scrape = evoke.metrics().await;
        let open = ["evoke_deliveries_parked", "evoke_deliveries_in_flight"];
        (open.map(|name| scrape.sum(name, &[("subscriber", "slow")])) == [0.0, 0.0]).then_some(())
    })
    .await;
}

pub(crate) async fn what_a_full_embedded_bus_drops_is_counted() -> Verdict {
    let (fast, slow) = (Sink::start().await, Sink::scripted(|_| Answer::Hang).await);
    let delivery = "maxInFlight: 4, timeout: PT15S, retry: 1000, backoffPolicy: linear, backoffDelay: PT0.2S";
    let home = home("embedded: {maxBytes: 8Mi, onFull: dropOldest}", &fast, &slow, delivery);
    let mut evoke = home.run().await;
    let mut sent = BTreeSet::new();
    for n in 0..EVENTS {
        let id = n.to_string();
        send(&evoke, &id, EVENT_BYTES).await;
        sent.insert(id);
        if n % 16 == 15 {
            fast.wait_all(&sent, SOON).await;
        }
    }
    evoke.ready(SOON).await;
    let gone = evoke.metrics().await.sum("evoke_bus_dropped_events_total", &[("topic", "default.web.in")]);
    assert!(gone as usize > EVENTS / 2, "{gone} of {EVENTS} events of 64 KiB made room in 8 MiB");
    assert_eq!(slow.delivered_count(), 0, "it hangs");

    slow.script(|_| Answer::Status(200));
    // What comes last is read last.
    let last = "last".to_owned();
    send(&evoke, &last, 1).await;
    slow.wait_all(&[last.clone()].into(), LONG).await;
    sent.insert(last);
    at_rest(&evoke).await;
    let found = balance(&sent, [&slow.delivered()]);
    assert_eq!((found.made_up, found.repeats), (Vec::new(), 0));
    assert_eq!(dropped(&evoke, "slow").await, found.lost.len() as f64, "of {} events", sent.len());
    assert!(found.lost.len() > EVENTS / 4, "{} are lost to it", found.lost.len());
    fast.wait_all(&sent, SOON).await;
    assert_eq!(dropped(&evoke, "fast").await, 0.0);
    assert_conserved(&sent, [&fast.delivered()], 0);
    evoke.stop().await;
    Ok(())
}

/// What can never fit is no reason that what comes after it, and does, has to wait.
pub(crate) async fn a_batch_that_is_larger_than_the_bus_holds_up_nothing() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(objects(&[
        bus("default", "embedded: {maxBytes: 8Mi}"),
        source("web", "webhook: {in: {}}"),
        pass("t", "web", "in", &sink.url("/")),
    ]));
    let mut evoke = home.run().await;
    send(&evoke, "first", 1).await;
    sink.wait_delivered(1, SOON).await;
    let data = "x".repeat(1_000_000);
    let event =
        |n: usize| json!({"specversion": "1.0", "id": format!("b{n}"), "source": "/s", "type": "t", "data": data});
    let batch = serde_json::to_vec(&(0..9).map(event).collect::<Vec<_>>()).unwrap();
    let answer = evoke.post("/default/web/in", &[("content-type", "application/cloudevents-batch+json")], batch).await;
    assert!([202, 413, 503].contains(&answer.status.as_u16()), "{}: {}", answer.status, answer.text());
    send(&evoke, "last", 1).await;
    sink.wait_all(&["first", "last"].map(str::to_owned).into(), SOON).await;
    evoke.ready(SOON).await;
    evoke.stop().await;
    Ok(())
}

/// Every second event of those before the loss.
pub(crate) fn is_refused(id: &str) -> bool {
    id.strip_prefix("before-").and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n % 2 == 1)
}

pub(crate) async fn what_waited_on_a_server_that_came_back_empty_is_counted() -> Verdict {
    let server = Redis::start().await?;
    let refuse = |request: &Received| match is_refused(request.id()) {
        true => Answer::Full(503, vec![("retry-after", "3000".to_owned())], Bytes::new()),
        false => Answer::Status(200),
    };
    let (fast, slow) = (Sink::start().await, Sink::scripted(refuse).await);
    let spec = format!("redis: {{address: \"{}\", partitions: 4}}", server.address);
    let home = home(&spec, &fast, &slow, "retryAfterMax: PT1H");
    let mut evoke = home.run().await;
    let before: BTreeSet<String> = (0..40).map(|n| format!("before-{n}")).collect();
    for id in &before {
        send(&evoke, id, 1).await;
    }
    fast.wait_all(&before, SOON).await;
    let (waiting, finished): (BTreeSet<_>, BTreeSet<_>) = before.iter().cloned().partition(|id| is_refused(id));
    slow.wait_all(&finished, SOON).await;
    let parked = [("subscriber", "slow")];
    assert_eq!(evoke.metric("evoke_deliveries_parked", &parked, 20.0, SOON).await, waiting.len() as f64);

    server.kill().await;
    server.forget();
    server.resume().await;
    evoke.metric(DROPPED, &parked, 20.0, LONG).await;
    evoke.ready(SOON).await;
    let after: BTreeSet<String> = (0..40).map(|n| format!("after-{n}")).collect();
    for id in &after {
        send(&evoke, id, 1).await;
    }
    let sent: BTreeSet<String> = before.union(&after).cloned().collect();
    fast.wait_all(&sent, SOON).await;
    slow.wait_all(&after, SOON).await;
    at_rest(&evoke).await;
    assert_eq!((dropped(&evoke, "slow").await, dropped(&evoke, "fast").await), (20.0, 0.0));
    evoke.stop().await;
    let found = balance(&sent, [&slow.delivered()]);
    assert_eq!((found.lost.into_iter().collect::<BTreeSet<_>>(), found.made_up), (waiting, Vec::new()));
    Ok(())
}
