//! Delivery: retries, dead letters, independence, order, and every kind of sink.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use evoke_api::names::TopicName;
use evoke_tests::bus;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Garbage, Received, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, python, source, trigger};
use evoke_tests::{SOON, eventually, ports};
use tokio::sync::watch;

const WEB: &str = "webhook: {in: {}}";

async fn send(evoke: &Evoke, id: &str, more: &[(&str, &str)], body: impl Into<Bytes>) {
    let mut headers = vec![("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/test"), ("ce-type", "t")];
    headers.extend(more);
    let answer = evoke.post("/default/web/in", &headers, body).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// A Trigger `t` on `web/in` whose subscribers are flow mappings, less their condition.
fn to(subscribers: &[String]) -> String {
    let lines: String = subscribers.iter().map(|s| format!("\n  - {{condition: it, {s}}}")).collect();
    trigger("t", &format!("inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers:{lines}"))
}

fn uri(sink: &Sink, path: &str) -> String {
    format!("{{uri: \"{}\"}}", sink.url(path))
}

async fn run(subscribers: &[String]) -> (Home, Evoke) {
    let home = Home::with(objects(&[source("web", WEB), to(subscribers)]));
    let evoke = home.run().await;
    (home, evoke)
}

pub(crate) async fn what_may_work_later_is_retried_until_it_does() -> Verdict {
    let script = |request: &Received| match (request.id(), request.attempt) {
        (_, 3..) => Answer::Status(200),
        ("close", _) => Answer::Close,
        ("hang", _) => Answer::Hang,
        (status, _) => Answer::Status(status.parse().unwrap()),
    };
    let sink = Sink::scripted(script).await;
    let policy = "delivery: {retry: 5, backoffPolicy: linear, backoffDelay: PT0.1S, timeout: PT5S}";
    let (_home, mut evoke) = run(&[format!("name: a, sink: {}, {policy}", uri(&sink, "/"))]).await;
    let ids = ["404", "408", "409", "429", "500", "502", "503", "504", "close", "hang"];
    for id in ids {
        send(&evoke, id, &[], id.to_owned()).await;
    }
    sink.wait_delivered(ids.len(), SOON).await;
    evoke.stop().await;
    assert!(sink.attempts().values().all(|attempts| *attempts == 3), "{:?}", sink.attempts());
    for request in sink.received() {
        assert_eq!(request.body, request.id(), "every attempt carries the data");
    }
    Ok(())
}

pub(crate) async fn retry_after_is_honoured() -> Verdict {
    let script = |request: &Received| match request.attempt {
        1 => Answer::Full(503, vec![("retry-after", "2".to_owned())], Bytes::new()),
        _ => Answer::Status(204),
    };
    let sink = Sink::scripted(script).await;
    let (_home, evoke) =
        run(&[format!("name: a, sink: {}, delivery: {{backoffDelay: PT0.01S}}", uri(&sink, "/"))]).await;
    send(&evoke, "1", &[], "x").await;
    let received = sink.wait(2, SOON).await;
    let waited = received[1].at - received[0].at;
    assert!((2.0..10.0).contains(&waited.as_secs_f64()), "asked for 2 s, waited {waited:?}");
    Ok(())
}

pub(crate) async fn what_fails_for_good_is_dead_lettered_with_its_cause() -> Verdict {
    let script = |request: &Received| match request.id() {
        "refused" => Answer::Full(422, vec![], Bytes::from_static(b"no such customer")),
        _ => Answer::Status(503),
    };
    let (sink, dead) = (Sink::scripted(script).await, Sink::start().await);
    let policy = "delivery: {retry: 2, backoffPolicy: exponential, backoffDelay: PT0.05S}";
    let (home, mut evoke) =
        run(&[format!("name: a, sink: {}, deadLetterSink: {}, {policy}", uri(&sink, "/a"), uri(&dead, "/d"))]).await;
    send(&evoke, "refused", &[("ce-tenant", "acme"), ("content-type", "application/json")], r#"{ "a": 1.50 }"#).await;
    send(&evoke, "unavailable", &[], "x").await;
    let letters = dead.wait(2, SOON).await;
    evoke.stop().await;
    let by_id: BTreeMap<&str, &Received> = letters.iter().map(|r| (r.id(), r)).collect();
    let (refused, unavailable) = (by_id["refused"], by_id["unavailable"]);
    assert_eq!(refused.body, r#"{ "a": 1.50 }"#);
    assert_eq!(refused.header("content-type"), "application/json");
    for (attribute, value) in [
        ("tenant", "acme"),
        ("source", "/test"),
        ("type", "t"),
        ("knativeerrorcode", "422"),
        ("evokeattempts", "1"),
        ("evoketrigger", "default/t"),
        ("evokesubscriber", "a"),
    ] {
        assert_eq!(refused.ce(attribute), value, "{attribute}");
    }
    assert!(refused.ce("knativeerrordest").starts_with(&sink.url("/a")), "{}", refused.ce("knativeerrordest"));
    assert!(!refused.text("evokecause").is_empty());
    let said = refused.text("knativeerrordata");
    assert!(said.contains("customer") || said == "bm8gc3VjaCBjdXN0b21lcg==", "{said}");
    let time = |name: &str| chrono::DateTime::parse_from_rfc3339(unavailable.ce(name)).unwrap();
    assert!(time("evokefirsttime") < time("evokelasttime"));
    assert_eq!((unavailable.ce("knativeerrorcode"), unavailable.ce("evokeattempts")), ("503", "3"));
    let topic = TopicName::parse("default.web.in");
    let stored = bus::records(&home.data(), &topic).await;
    let places = stored.iter().map(|record| (record.event.id(), format!("{topic}/0/{}", record.at)));
    let places: BTreeMap<&str, String> = places.collect();
    let said: BTreeMap<&str, String> = letters.iter().map(|r| (r.id(), r.text("evokeposition"))).collect();
    assert_eq!(said, places);
    assert_eq!(sink.attempts(), [("refused".to_owned(), 1), ("unavailable".to_owned(), 3)].into());
    Ok(())
}

pub(crate) async fn a_dead_letter_topic_is_read_by_a_trigger() -> Verdict {
    let (sink, dead) = (Sink::scripted(|_| Answer::Status(400)).await, Sink::start().await);
    let reader = trigger(
        "reader",
        &format!(
            "inputs: {{failed: {{topic: failures}}}}\n\
             subscribers: [{{name: r, condition: 'failed.knativeerrorcode == \"400\"', sink: {}}}]",
            uri(&dead, "/")
        ),
    );
    let home = Home::with(objects(&[
        source("web", WEB),
        to(&[format!("name: a, sink: {}, deadLetterTopic: failures", uri(&sink, "/"))]),
        reader,
    ]));
    let evoke = home.run().await;
    send(&evoke, "1", &[], "x").await;
    let letter = dead.wait(1, SOON).await.remove(0);
    assert_eq!((letter.id(), letter.ce("source"), &*letter.body), ("1", "/test", &b"x"[..]));
    assert_eq!(letter.ce("evokesubscriber"), "a");
    Ok(())
}

pub(crate) async fn a_topic_passes_events_on() -> Verdict {
    let sink = Sink::start().await;
    let spec = "inputs: {it: {eventSource: web, event: in}}\nsubscribers: [{name: f, condition: it, topic: next}]";
    let second = format!(
        "inputs: {{next: {{topic: next}}}}\nsubscribers: [{{name: s, condition: next, sink: {}}}]",
        uri(&sink, "/")
    );
    let home = Home::with(objects(&[source("web", WEB), trigger("first", spec), trigger("second", &second)]));
    let mut evoke = home.run().await;
    send(&evoke, "1", &[("ce-tenant", "acme")], "x").await;
    let received = sink.wait(1, SOON).await.remove(0);
    assert_eq!((received.id(), received.ce("tenant"), &*received.body), ("1", "acme", &b"x"[..]));
    evoke.stop().await;
    assert_eq!(sink.count(), 1);
    Ok(())
}

pub(crate) async fn one_bad_subscriber_neither_delays_nor_repeats_for_others() -> Verdict {
    let (good, hanging, failing) =
        (Sink::start().await, Sink::scripted(|_| Answer::Hang).await, Sink::scripted(|_| Answer::Status(503)).await);
    let garbage = Garbage::start().await;
    let gone = format!("http://{}/", ports::free());
    let (home, mut evoke) = run(&[
        format!("name: hanging, sink: {}", uri(&hanging, "/")),
        format!("name: failing, sink: {}", uri(&failing, "/")),
        format!("name: garbage, sink: {{uri: \"{}\"}}", garbage.url()),
        format!("name: gone, sink: {{uri: \"{gone}\"}}"),
        format!("name: good, sink: {}", uri(&good, "/")),
    ])
    .await;
    let sent: BTreeSet<String> = (0..1000).map(|n| n.to_string()).collect();
    for id in &sent {
        send(&evoke, id, &[], "x").await;
    }
    good.wait_delivered(sent.len(), SOON).await;
    assert_conserved(&sent, [&good.delivered()], 0);
    assert!(failing.count() > 0 && hanging.count() > 0 && garbage.answered() > 0);
    // A restart redoes what the bad ones have not finished, and nothing of the good one's.
    evoke.signal(evoke_tests::process::Signal::TERM);
    evoke.ended(Duration::from_secs(60)).await;
    hanging.script(|_| Answer::Status(200));
    failing.script(|_| Answer::Status(200));
    let _evoke = home.run().await;
    hanging.wait_delivered(sent.len(), SOON).await;
    failing.wait_delivered(sent.len(), Duration::from_secs(90)).await;
    assert_conserved(&sent, [&good.delivered()], 0);
    assert_conserved(&sent, [&hanging.delivered()], 0);
    assert_conserved(&sent, [&failing.delivered()], 0);
    Ok(())
}

pub(crate) async fn max_in_flight_is_real() -> Verdict {
    const MOST: usize = 7;
    const WAVES: usize = 7;

    // Nothing of a wave is answered before all of it is there.
    let gates: Vec<watch::Sender<bool>> = (0..WAVES).map(|_| watch::Sender::new(false)).collect();
    let told: Vec<_> = gates.iter().map(watch::Sender::subscribe).collect();
    let arrived = AtomicUsize::new(0);
    let script = move |_: &Received| {
        let wave = arrived.fetch_add(1, Ordering::Relaxed) / MOST;
        Answer::When(told[wave.min(WAVES - 1)].clone(), Box::new(Answer::Status(200)))
    };
    let sink = Sink::scripted(script).await;
    let policy = format!("delivery: {{maxInFlight: {MOST}, timeout: PT5M}}");
    let (_home, evoke) = run(&[format!("name: a, sink: {}, {policy}", uri(&sink, "/"))]).await;
    for n in 0..MOST * WAVES {
        send(&evoke, &n.to_string(), &[], "x").await;
    }
    for (wave, gate) in gates.iter().enumerate() {
        let so_far = (wave + 1) * MOST;
        sink.wait(so_far, SOON).await;
        evoke.metric("evoke_deliveries_in_flight", &[("subscriber", "a")], MOST as f64, SOON).await;
        assert_eq!(sink.count(), so_far, "concurrent up to maxInFlight, and no more");
        gate.send_replace(true);
    }
    sink.wait_delivered(MOST * WAVES, SOON).await;
    Ok(())
}

pub(crate) async fn events_of_one_key_keep_their_order() -> Verdict {
    // Every third event fails at first, and answers take different times: only waiting keeps the order.
    let script = |request: &Received| {
        let n: usize = request.id().rsplit('-').next().unwrap().parse().unwrap();
        let status = if n.is_multiple_of(3) && request.attempt == 1 { 503 } else { 200 };
        Answer::After(Duration::from_millis((n * 7 % 13) as u64), Box::new(Answer::Status(status)))
    };
    let sink = Sink::scripted(script).await;
    let policy = "delivery: {ordering: partitionKey, backoffDelay: PT0.02S}";
    let (home, mut evoke) = run(&[format!("name: a, sink: {}, {policy}", uri(&sink, "/"))]).await;
    let keys = ["red", "green", "blue", "grey"];
    for n in 0..60 {
        for key in keys {
            send(&evoke, &format!("{key}-{n}"), &[("ce-partitionkey", key)], "x").await;
        }
        if n == 30 {
            sink.wait_delivered(40, SOON).await;
            evoke.stop().await;
            evoke = home.run().await;
        }
    }
    sink.wait_delivered(60 * keys.len(), SOON).await;
    for key in keys {
        let order: Vec<usize> = sink
            .received()
            .iter()
            .filter(|r| r.status == Some(200) && r.ce("partitionkey") == key)
            .map(|r| r.id().rsplit('-').next().unwrap().parse().unwrap())
            .collect();
        assert!(order.is_sorted(), "{key}: {order:?}");
        assert_eq!(order.len(), 60, "{key}: {order:?}");
    }
    Ok(())
}

pub(crate) async fn a_sink_that_comes_back_gets_everything() -> Verdict {
    let address = ports::free();
    let (_home, evoke) = run(&[format!(
        "name: a, sink: {{uri: \"http://{address}/\"}}, delivery: {{retry: 1000, backoffPolicy: linear, backoffDelay: PT0.02S}}"
    )])
    .await;
    let sent: BTreeSet<String> = (0..300).map(|n| n.to_string()).collect();
    for id in &sent {
        send(&evoke, id, &[], "x").await;
    }
    let sink = Sink::at(address, |_| Answer::Status(200)).await;
    sink.wait_delivered(300, SOON).await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_redirect_is_not_followed() -> Verdict {
    let (elsewhere, dead) = (Sink::start().await, Sink::start().await);
    let to_there = elsewhere.url("/stolen");
    let sink = Sink::scripted(move |_| Answer::Full(302, vec![("location", to_there.clone())], Bytes::new())).await;
    let policy = "delivery: {retry: 1, backoffDelay: PT0.01S}";
    let (_home, evoke) =
        run(&[format!("name: a, sink: {}, deadLetterSink: {}, {policy}", uri(&sink, "/"), uri(&dead, "/"))]).await;
    send(&evoke, "1", &[], "x").await;
    assert_eq!(dead.wait(1, SOON).await[0].ce("knativeerrorcode"), "302");
    assert_eq!(elsewhere.count(), 0);
    Ok(())
}

pub(crate) async fn what_can_never_work_is_a_dead_letter_at_once() -> Verdict {
    let (sink, dead) =
        (Sink::scripted(|request| Answer::Status(request.id().parse().unwrap())).await, Sink::start().await);
    let policy = "delivery: {retry: 3, backoffDelay: 10ms}";
    let (_home, mut evoke) =
        run(&[format!("name: a, sink: {}, deadLetterSink: {}, {policy}", uri(&sink, "/"), uri(&dead, "/"))]).await;
    let statuses =
        ["301", "307", "400", "401", "403", "405", "406", "410", "411", "413", "414", "415", "422", "431", "451"];
    for status in statuses {
        send(&evoke, status, &[], "x").await;
    }
    dead.wait_delivered(statuses.len(), SOON).await;
    evoke.stop().await;
    assert!(sink.attempts().values().all(|attempts| *attempts == 1), "{:?}", sink.attempts());
    for letter in dead.received() {
        assert_eq!((letter.ce("knativeerrorcode"), letter.ce("evokeattempts")), (letter.id(), "1"));
    }
    Ok(())
}

pub(crate) async fn a_long_retry_has_no_place_and_holds_back_its_key_alone() -> Verdict {
    let later = || Answer::Full(503, vec![("retry-after", "3000".to_owned())], Bytes::new());
    let sink = Sink::scripted(move |request| if request.id() == "late" { later() } else { Answer::Status(200) }).await;
    let policy = "maxInFlight: 1, retryAfterMax: PT1H";
    let subscribers = [
        format!("name: free, sink: {}, delivery: {{{policy}}}", uri(&sink, "/free")),
        format!("name: keyed, sink: {}, delivery: {{{policy}, ordering: partitionKey}}", uri(&sink, "/keyed")),
    ];
    let (home, mut evoke) = run(&subscribers).await;
    send(&evoke, "late", &[("ce-partitionkey", "red")], "x").await;
    for n in 0..20 {
        send(&evoke, &format!("red-{n}"), &[("ce-partitionkey", "red")], "x").await;
        send(&evoke, &format!("blue-{n}"), &[("ce-partitionkey", "blue")], "x").await;
    }
    let ids = |path: &str| -> BTreeSet<String> { sink.received_at(path).iter().map(|r| r.id().to_owned()).collect() };
    let parked = async |evoke: &Evoke| {
        for (subscriber, count) in [("free", 1.0), ("keyed", 21.0)] {
            evoke.metric("evoke_deliveries_parked", &[("subscriber", subscriber)], count, SOON).await;
        }
    };
    sink.wait_at("/free", 41, SOON).await;
    sink.wait_at("/keyed", 21, SOON).await;
    parked(&evoke).await;
    assert!(ids("/keyed").iter().all(|id| !id.starts_with("red")), "{:?}", ids("/keyed"));
    let is_idle = async || (evoke.metrics().await.sum("evoke_deliveries_in_flight", &[]) == 0.0).then_some(());
    eventually("what waits has no place", SOON, is_idle).await;
    // A restart neither forgets what waits nor tries it early.
    evoke.stop().await;
    let evoke = home.run().await;
    parked(&evoke).await;
    send(&evoke, "blue-last", &[("ce-partitionkey", "blue")], "x").await;
    sink.wait_at("/free", 42, SOON).await;
    sink.wait_at("/keyed", 22, SOON).await;
    assert_eq!(sink.attempts()["late"], 2, "once for each subscriber");
    assert_eq!((ids("/free").len(), ids("/keyed").len()), (42, 22));
    Ok(())
}

const FORWARD: &str = r#"
import os, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower().startswith("ce-")}
        request = urllib.request.Request(os.environ["SINK"] + self.path, body, headers)
        urllib.request.urlopen(request).read()
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

pub(crate) async fn a_function_is_reached_by_every_name_it_has() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(objects(&[
        source("web", WEB),
        python("forward", "forward.py"),
        to(&[
            "name: ref, sink: {ref: {kind: Function, name: forward}}".to_owned(),
            "name: full, sink: {ref: {apiVersion: core.openfunction.io/v1beta1, kind: Function, name: forward, \
             namespace: default}}"
                .to_owned(),
            "name: old, sink: {uri: \"http://openfunction.io.svc.cluster.local/default/forward\"}".to_owned(),
            "name: new, sink: {uri: \"http://forward.default.svc.cluster.local/sub/path?q=1\"}".to_owned(),
        ]),
    ]));
    home.write("forward.py", FORWARD);
    let evoke = home.evoke().env("SINK", &sink.url("")).ready().await;
    send(&evoke, "1", &[("ce-tenant", "acme")], "payload").await;
    let received = sink.wait(4, SOON).await;
    let paths: Vec<&str> = received.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(paths.iter().filter(|path| **path == "/").count(), 3, "{paths:?}");
    assert!(paths.contains(&"/sub/path?q=1"), "{paths:?}");
    for request in &received {
        assert_eq!((request.id(), request.ce("tenant"), &*request.body), ("1", "acme", &b"payload"[..]));
    }
    Ok(())
}
