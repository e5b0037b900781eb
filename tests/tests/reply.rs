//! Answers that are events go back on the bus.

use bytes::Bytes;
use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::manifests::{objects, source, trigger};

const WEB: &str = "webhook: {in: {}}";

async fn send(evoke: &Evoke, id: &str, more: &[(&str, &str)]) {
    let mut headers = vec![("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/test"), ("ce-type", "asked")];
    headers.extend(more);
    assert_eq!(evoke.post("/default/web/in", &headers, "question").await.status, 202);
}

/// A binary-mode answer to a request.
fn answer(request: &Received, id: String) -> Answer {
    let headers = vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", id),
        ("ce-source", "/desk".to_owned()),
        ("ce-type", "answered".to_owned()),
        ("ce-tenant", "acme".to_owned()),
        ("content-type", "text/plain".to_owned()),
    ];
    Answer::Full(200, headers, Bytes::from(format!("to {}", request.id())))
}

/// Subscriber `asks` of `web/in` whose replies go to the topic `answers`, and subscriber `hears` of that topic.
fn asks_and_hears(asks: &Sink, hears: &Sink, more: &str) -> String {
    let first = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers: [{{name: asks, condition: it, sink: {{uri: \"{}\"}}, reply: {{topic: answers}}{more}}}]",
        asks.url("/")
    );
    let second = format!(
        "inputs: {{it: {{topic: answers}}}}\nsubscribers: [{{name: hears, condition: it, sink: {{uri: \"{}\"}}}}]",
        hears.url("/")
    );
    objects(&[source("web", WEB), trigger("first", &first), trigger("second", &second)])
}

pub(crate) async fn an_answer_goes_back_on_the_bus() -> Verdict {
    let structured = r#"{"specversion":"1.0","id":"s","source":"/desk","type":"answered","data":{"price":  1.50}}"#;
    let asks = Sink::scripted(move |request| match request.id() {
        "binary" => answer(request, "b".into()),
        "structured" => {
            let headers = vec![("content-type", "application/cloudevents+json".to_owned())];
            Answer::Full(201, headers, Bytes::from_static(structured.as_bytes()))
        }
        "plain" => Answer::Full(200, vec![("content-type", "application/json".to_owned())], Bytes::from_static(b"{}")),
        _ => Answer::Status(202),
    })
    .await;
    let hears = Sink::start().await;
    let home = Home::with(asks_and_hears(&asks, &hears, ""));
    let mut evoke = home.run().await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for id in ["plain", "empty", "binary", "structured"] {
        send(&evoke, id, &[("traceparent", traceparent)]).await;
    }
    asks.wait_delivered(4, SOON).await;
    hears.wait_delivered(2, SOON).await;
    evoke.stop().await;
    assert!(asks.received().iter().all(|request| request.header("prefer") == "reply"));
    let heard = hears.received();
    assert_eq!(heard.len(), 2, "{heard:?}");
    let of = |id: &str| heard.iter().find(|request| request.id() == id).unwrap();
    let (binary, structured) = (of("b"), of("s"));
    assert_eq!((&*binary.body, binary.header("content-type")), (&b"to binary"[..], "text/plain"));
    assert_eq!((binary.ce("source"), binary.ce("type"), binary.ce("tenant")), ("/desk", "answered", "acme"));
    assert_eq!(&*structured.body, br#"{"price":  1.50}"#);
    for request in [binary, structured] {
        assert_eq!((request.ce("evokehops"), request.header("traceparent")), ("1", traceparent));
    }
    Ok(())
}

pub(crate) async fn every_reply_arrives_over_a_kill() -> Verdict {
    let asks = Sink::scripted(|request| answer(request, format!("re-{}", request.id()))).await;
    let hears = Sink::start().await;
    let home = Home::with(asks_and_hears(&asks, &hears, ", delivery: {maxInFlight: 10}"));
    let mut evoke = home.run().await;
    for n in 0..200 {
        send(&evoke, &n.to_string(), &[]).await;
    }
    asks.wait_delivered(50, SOON).await;
    evoke.kill().await;
    let _evoke = home.run().await;
    hears.wait_all(&(0..200).map(|n| format!("re-{n}")).collect(), SOON).await;
    let again = asks.delivered().values().map(|count| count - 1).sum::<usize>();
    assert!(again <= 20, "{again} deliveries repeated by one kill, where maxInFlight is 10");
    Ok(())
}

pub(crate) async fn what_only_claims_to_be_an_event_is_tried_again_and_dead_lettered() -> Verdict {
    let asks = Sink::scripted(|request| match request.attempt {
        1 if request.id() == "once" => Answer::Full(200, vec![("ce-id", "x".to_owned())], Bytes::new()),
        _ if request.id() == "once" => answer(request, "fine".into()),
        _ => {
            let headers = vec![("content-type", "application/cloudevents+json".to_owned())];
            Answer::Full(200, headers, Bytes::from_static(b"{\"id\": "))
        }
    })
    .await;
    let (hears, dead) = (Sink::start().await, Sink::start().await);
    let more =
        format!(", deadLetterSink: {{uri: \"{}\"}}, delivery: {{retry: 2, backoffDelay: PT0.01S}}", dead.url("/"));
    let home = Home::with(asks_and_hears(&asks, &hears, &more));
    let mut evoke = home.run().await;
    send(&evoke, "once", &[]).await;
    send(&evoke, "always", &[]).await;
    let letter = dead.wait(1, SOON).await.remove(0);
    hears.wait_delivered(1, SOON).await;
    evoke.stop().await;
    assert_eq!((letter.id(), &*letter.body, letter.ce("evokeattempts")), ("always", &b"question"[..], "3"));
    assert_eq!(letter.ce("knativeerrorcode"), "200");
    let cause = letter.text("evokecause");
    assert!(cause.contains("claims to be a CloudEvent and is none"), "{cause}");
    assert_eq!(asks.attempts(), [("once".to_owned(), 2), ("always".to_owned(), 3)].into());
    assert_eq!(hears.received().iter().map(Received::id).collect::<Vec<_>>(), ["fine"]);
    Ok(())
}

pub(crate) async fn functions_that_answer_each_other_are_cut_off() -> Verdict {
    let sink = Sink::scripted(|request| answer(request, format!("{}+", request.id()))).await;
    let dead = Sink::start().await;
    let of = |input: &str, to: &str| {
        format!(
            "inputs: {{it: {input}}}\nsubscribers: [{{name: s, condition: it, sink: {{uri: \"{}\"}}, \
             reply: {{topic: {to}}}, deadLetterSink: {{uri: \"{}\"}}}}]",
            sink.url("/"),
            dead.url("/")
        )
    };
    let home = Home::with(objects(&[
        source("web", WEB),
        trigger("start", &of("{eventSource: web, event: in}", "ping")),
        trigger("ping", &of("{topic: ping}", "pong")),
        trigger("pong", &of("{topic: pong}", "ping")),
    ]));
    let mut evoke = home.run().await;
    send(&evoke, "1", &[]).await;
    let letter = dead.wait(1, SOON).await.remove(0);
    evoke.stop().await;
    assert_eq!(sink.count(), 17, "the event and sixteen replies");
    assert_eq!(letter.id(), format!("1{}", "+".repeat(17)), "the reply that nobody gets");
    let cause = letter.text("evokecause");
    assert!(cause.contains("at most 16 may follow each other"), "{cause}");
    assert_eq!((letter.ce("evoketrigger"), dead.count()), ("default/pong", 1));
    Ok(())
}
