//! Webhook sources: every shape a request may have, who may send, and what evoke answers.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cloudevents::{AttributesReader, EventBuilder, EventBuilderV10};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink, post, post_by_sdk, request};
use evoke_tests::ledger::{assert_conserved, count, sent};
use evoke_tests::manifests::{bus, objects, pass, secret, source};
use evoke_tests::{SOON, eventually, ports};
use serde_json::json;

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn webhook(spec: &str, event: &str) -> (Home, Evoke, Sink) {
    let sink = Sink::start().await;
    let home = Home::with(objects(&[source("web", spec), pass("all", "web", event, &sink.url("/"))]));
    let evoke = home.run().await;
    (home, evoke, sink)
}

pub(crate) async fn binary_structured_and_batched_events_arrive_as_they_are() -> Verdict {
    let (_home, mut evoke, sink) = webhook("webhook: {in: {}}", "in").await;
    let url = evoke.webhook("/default/web/in");
    let event = |id: &str| {
        EventBuilderV10::new()
            .id(id)
            .source("http://example.com/orders")
            .ty("order.created")
            .subject("order/7")
            .time("2026-11-23T10:00:00.123456Z")
            .extension("tenant", "north west")
            .extension("attempt", 3)
            .data("application/json", json!({"amount": 1.50, "note": "ä\u{1F600}"}))
            .build()
            .unwrap()
    };
    let answer = post_by_sdk(&url, event("binary")).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let structured = serde_json::to_string(&event("structured")).unwrap();
    let answer = post(&url, &[("content-type", "application/cloudevents+json")], structured).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let batch = serde_json::to_string(&[event("batch-1"), event("batch-2")]).unwrap();
    let answer = post(&url, &[("content-type", "application/cloudevents-batch+json; charset=utf-8")], batch).await;
    assert_eq!(answer.status, 202, "{}", answer.text());

    let received = sink.wait(4, SOON).await;
    let ids: BTreeSet<&str> = received.iter().map(Received::id).collect();
    assert_eq!(ids, BTreeSet::from(["binary", "structured", "batch-1", "batch-2"]));
    for request in &received {
        assert_eq!(request.method, "POST");
        assert_eq!(request.ce("specversion"), "1.0");
        let got = request.event();
        let want = event(request.id());
        assert_eq!(
            (got.source().as_str(), got.ty(), got.subject()),
            (want.source().as_str(), want.ty(), want.subject())
        );
        assert_eq!(got.time(), want.time());
        assert_eq!(request.ce("attempt"), "3");
        assert_eq!(request.ce("tenant"), "north%20west");
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.json(), json!({"amount": 1.50, "note": "ä\u{1F600}"}));
    }
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn structured_data_keeps_its_bytes() -> Verdict {
    let (_home, evoke, sink) = webhook("webhook: {in: {}}", "in").await;
    let url = evoke.webhook("/default/web/in");
    let json = r#"{ "amount" : 1.50, "n": 12345678901234567890123, "k":"\u00e4", "k":"\u00e4" }"#;
    let head = r#""specversion":"1.0","source":"/s","type":"t","datacontenttype":"application/json""#;
    let send = async |body: String| {
        let answer = post(&url, &[("content-type", "application/cloudevents+json")], body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    send(format!("{{\"data\":{json},\"id\":\"json\",{head}}}")).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let base64 = BASE64_STANDARD.encode(&bytes);
    send(format!(
        r#"{{"specversion":"1.0","id":"binary","source":"/s","type":"t","datacontenttype":"application/x-raw","data_base64":"{base64}"}}"#
    ))
    .await;
    send(
        r#"{"specversion":"1.0","id":"text","source":"/s","type":"t","datacontenttype":"text/plain","data":"a\nb"}"#
            .into(),
    )
    .await;
    send(r#"{"specversion":"1.0","id":"none","source":"/s","type":"t","city":"Köln 100%"}"#.into()).await;
    let received = sink.wait(4, SOON).await;
    let body = |id: &str| received.iter().find(|r| r.id() == id).unwrap().body.clone();
    assert_eq!(body("json"), json);
    assert_eq!(body("binary"), bytes);
    assert_eq!(body("text"), "a\nb");
    assert_eq!(body("none"), "");
    let city = received.iter().find(|r| r.id() == "none").unwrap().ce("city").to_owned();
    assert_eq!(city, "K%C3%B6ln%20100%25");
    Ok(())
}

pub(crate) async fn a_plain_body_becomes_an_event() -> Verdict {
    let spec =
        "webhook:\n  in: {attributes: {type: form.filled, tenant: blue}}\n  typed: {contentType: application/xml}";
    let (_home, evoke, sink) = webhook(spec, "in").await;
    let answer = evoke.post("/default/web/in", &[("content-type", "text/csv"), ("traceparent", TRACE)], "a,b\n").await;
    assert_eq!(answer.status, 202);
    let answer = evoke.post("/default/web/in", &[], vec![0, 159, 146, 150]).await;
    assert_eq!(answer.status, 202);
    let received = sink.wait(2, SOON).await;
    let (text, raw) =
        if received[0].body == "a,b\n" { (&received[0], &received[1]) } else { (&received[1], &received[0]) };
    assert_eq!(text.ce("type"), "form.filled");
    assert_eq!(text.ce("tenant"), "blue");
    assert_eq!(text.ce("source"), "/namespaces/default/eventsources/web/in");
    assert_eq!(text.header("content-type"), "text/csv");
    assert_eq!(text.header("traceparent"), TRACE);
    assert_eq!(raw.body, vec![0, 159, 146, 150]);
    for request in [text, raw] {
        let id = request.id().split('-').map(str::len).collect::<Vec<_>>();
        assert_eq!(id, [8, 4, 4, 4, 12], "a UUID: {}", request.id());
        assert_eq!(request.id().as_bytes()[14], b'7', "version 7: {}", request.id());
    }
    assert_ne!(text.id(), raw.id());
    Ok(())
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(crate) async fn path_method_and_port_are_as_the_manifest_says() -> Verdict {
    let sink = Sink::start().await;
    let own = ports::free();
    let spec = format!(
        "webhook:\n  hook: {{path: /github/push, method: PUT}}\n  own: {{port: {}, path: /own}}\n  plain: {{}}",
        own.port()
    );
    let passes = ["hook", "own", "plain"].map(|event| pass(event, "web", event, &sink.url(&format!("/{event}"))));
    let home = Home::with(objects(&[&[source("web", &spec)], &passes[..]].concat()));
    let evoke = home.run().await;
    let hook = evoke.webhook("/github/push");
    assert_eq!(request("PUT", &hook, &[], "by put").await.unwrap().status, 202);
    let refused = post(&hook, &[], "by post").await;
    assert_eq!(refused.status, 405);
    assert!(refused.header("allow").contains("PUT"), "{:?}", refused.headers);
    assert_eq!(post(&format!("http://{own}/own"), &[], "by port").await.status, 202);
    assert_eq!(post(&evoke.webhook("/own"), &[], "not here").await.status, 404);
    assert_eq!(evoke.post("/default/web/plain", &[], "by default").await.status, 202);
    assert_eq!(evoke.post("/default/web/hook", &[], "replaced").await.status, 404);
    assert_eq!(evoke.post("/default/web/other", &[], "nowhere").await.status, 404);
    let received = sink.wait(3, SOON).await;
    let got: BTreeSet<(&str, &[u8])> = received.iter().map(|r| (r.path.as_str(), &*r.body)).collect();
    let want: [(&str, &[u8]); 3] = [("/hook", b"by put"), ("/own", b"by port"), ("/plain", b"by default")];
    assert_eq!(got, BTreeSet::from(want));
    Ok(())
}

pub(crate) async fn only_who_may_send_can() -> Verdict {
    let sink = Sink::start().await;
    let spec = "webhook:\n  \
                token: {auth: {bearerTokenFrom: {secretKeyRef: {name: hook, key: token}}}}\n  \
                basic: {auth: {usernameFrom: {env: HOOK_USER}, passwordFrom: {file: password.txt}}}";
    let passes = ["token", "basic"].map(|event| pass(event, "web", event, &sink.url("/")));
    let home =
        Home::with(objects(&[&[source("web", spec), secret("hook", "token", "t0k3n-8d1")], &passes[..]].concat()));
    home.write("password.txt", "pa:ss-77\n");
    let evoke = home.evoke().env("HOOK_USER", "bob").ready().await;
    let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
    for (path, authorization, status) in [
        ("/default/web/token", None, 401),
        ("/default/web/token", Some("Bearer wrong".to_owned()), 401),
        ("/default/web/token", Some(basic("bob:pa:ss-77")), 401),
        ("/default/web/token", Some("Bearer t0k3n-8d1".to_owned()), 202),
        ("/default/web/basic", None, 401),
        ("/default/web/basic", Some(basic("bob:wrong")), 401),
        ("/default/web/basic", Some("Basic %%%".to_owned()), 401),
        ("/default/web/basic", Some(basic("bob:pa:ss-77")), 202),
    ] {
        let headers: Vec<(&str, &str)> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer = evoke.post(path, &headers, "x").await;
        assert_eq!(answer.status, status, "{path} {authorization:?}: {}", answer.text());
        if status == 401 {
            let scheme = if path.ends_with("token") { "Bearer" } else { "Basic" };
            assert!(answer.header("www-authenticate").starts_with(scheme), "{:?}", answer.headers);
        }
    }
    let received = sink.wait(2, SOON).await;
    for request in received {
        assert!(!format!("{:?}", request.headers).contains("t0k3n"), "credentials are passed on: {request:?}");
        assert_eq!(request.header("authorization"), "");
    }
    Ok(())
}

pub(crate) async fn what_is_no_event_is_refused_by_name() -> Verdict {
    let (_home, evoke, sink) = webhook("webhook: {in: {}}", "in").await;
    let structured = [("content-type", "application/cloudevents+json")];
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let cases: [(Headers<'_>, &str, u16, &str); 9] = [
        (&[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t")], "", 400, "source"),
        (&[("ce-specversion", "1.0"), ("ce-id", ""), ("ce-source", "/s"), ("ce-type", "t")], "", 400, "id"),
        (&[("ce-specversion", "0.2"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")], "", 400, "0.2"),
        (&structured, "{\"specversion\":\"1.0\"", 400, ""),
        (&structured, "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\"}", 400, "type"),
        (&structured, "[]", 400, ""),
        (&batch, "{}", 400, ""),
        (&batch, "[{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\"}]", 400, "type"),
        (&[("content-type", "application/cloudevents+avro")], "x", 415, "avro"),
    ];
    for (headers, body, status, says) in cases {
        let answer = evoke.post("/default/web/in", headers, body).await;
        assert_eq!(answer.status, status, "{headers:?} {body}: {}", answer.text());
        assert!(answer.text().contains(says), "{headers:?} {body}: {}", answer.text());
    }
    let large = vec![b'x'; 2 * 1024 * 1024];
    let answer = evoke.post("/default/web/in", &[("content-type", "text/plain")], large).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    // What came before did neither harm nor leave anything behind.
    assert_eq!(evoke.post("/default/web/in", &[("content-type", "text/plain")], "good").await.status, 202);
    let received = sink.wait(1, SOON).await;
    assert_eq!(received[0].body, "good");
    Ok(())
}

pub(crate) async fn the_handshake_allows_a_sender() -> Verdict {
    let (_home, evoke, _sink) = webhook("webhook: {in: {}}", "in").await;
    let headers = [("WebHook-Request-Origin", "sender.example"), ("WebHook-Request-Rate", "120")];
    let answer = request("OPTIONS", &evoke.webhook("/default/web/in"), &headers, "").await.unwrap();
    assert!(answer.status.is_success(), "{}", answer.status);
    assert!(matches!(answer.header("webhook-allowed-origin"), "sender.example" | "*"), "{:?}", answer.headers);
    assert!(!answer.header("webhook-allowed-rate").is_empty(), "{:?}", answer.headers);
    assert!(answer.header("allow").contains("POST"), "{:?}", answer.headers);
    Ok(())
}

pub(crate) async fn a_full_bus_answers_503_and_what_was_accepted_arrives() -> Verdict {
    let sink = Sink::scripted(|_| Answer::Hang).await;
    let manifests = objects(&[
        bus("default", "embedded: {maxBytes: 8Mi}"),
        source("web", "webhook: {in: {}}"),
        pass("all", "web", "in", &sink.url("/")),
    ]);
    let home = Home::with(manifests);
    let mut evoke = home.run().await;
    let url = evoke.webhook("/default/web/in");
    let body = vec![b'x'; 256 * 1024];
    let mut accepted = BTreeSet::new();
    let send = async |n: usize| {
        let id = format!("event-{n}");
        let headers = [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-source", "/s"), ("ce-type", "t")];
        (id.clone(), post(&url, &headers, body.clone()).await)
    };
    let mut refused = BTreeSet::new();
    for n in 0..400 {
        let (id, answer) = send(n).await;
        match answer.status.as_u16() {
            202 => assert!(accepted.insert(id)),
            503 => {
                assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|s| s >= 1), "{:?}", answer.headers);
                refused.insert(id);
            }
            other => panic!("{other}: {}", answer.text()),
        }
        if refused.len() == 5 {
            break;
        }
    }
    assert_eq!(refused.len(), 5, "8 MiB took {} events of 256 KiB and more", accepted.len());
    assert!((8..=40).contains(&accepted.len()), "{} events of 256 KiB in 8 MiB", accepted.len());
    sink.script(|_| Answer::Status(200));
    // The hanging attempts end only with their time limit, which a restart does not wait for.
    evoke.kill().await;
    let evoke = home.run().await;
    let url = evoke.webhook("/default/web/in");
    let after = [("ce-specversion", "1.0"), ("ce-id", "after"), ("ce-source", "/s"), ("ce-type", "t")];
    eventually("room again", SOON, async || (post(&url, &after, "x").await.status == 202).then_some(())).await;
    accepted.insert("after".to_owned());
    sink.wait_all(&accepted, SOON).await;
    let delivered = sink.delivered();
    assert_conserved(&sent(&accepted, &refused, &delivered), [&delivered], 100);
    Ok(())
}

pub(crate) async fn a_sink_without_a_bus_settles_the_answer() -> Verdict {
    let sink = Sink::scripted(|request| Answer::Status(if request.body == "bad" { 400 } else { 200 })).await;
    let dead = Sink::start().await;
    let spec = format!(
        "sink: {{uri: \"{}\"}}\ndeadLetterSink: {{uri: \"{}\"}}\nwebhook: {{in: {{}}}}",
        sink.url("/"),
        dead.url("/")
    );
    let home = Home::with(evoke_tests::manifests::bare_source("web", &spec));
    let evoke = home.run().await;
    assert_eq!(evoke.post("/default/web/in", &[], "good").await.status, 202);
    assert_eq!(sink.count(), 1, "answered before the sink had it");
    assert_eq!(evoke.post("/default/web/in", &[], "bad").await.status, 202);
    assert_eq!(dead.count(), 1, "answered before the dead letter had it");
    assert_eq!(dead.received()[0].body, "bad");
    let ids = count(sink.received().iter().map(|r| r.id().to_owned()));
    assert_eq!(ids.len(), 2);
    Ok(())
}
