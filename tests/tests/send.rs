//! `evoke send`: what it takes from standard input, and whom it trusts over TLS, as HTTP sinks do.

use std::path::Path;

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, binary};
use evoke_tests::http::Sink;
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::process::Program;
use evoke_tests::servers::tls;
use serde_json::json;

/// Runs `evoke send` with a file as its standard input: its exit code and its output.
async fn send_from(input: &Path, args: &[&str]) -> (Option<i32>, String) {
    let redirected = Program::new("evoke", "sh").args(["-c", "exec \"$0\" send \"$@\" < \"$INPUT\""]);
    let (status, log) = redirected.args([binary()]).args(args).env("INPUT", input).output(SOON).await;
    (status.code(), log.text())
}

pub(crate) async fn data_comes_from_standard_input() -> Verdict {
    let (home, sink) = (Home::new(), Sink::start().await);
    let input = home.path().join("input");
    for (data, content_type) in [
        (&b"\x00\xff\r\n \n"[..], "application/octet-stream"),
        (b"{ \"amount\" : 1.50 }\n", "application/json"),
        (b"@not-a-file\n", "text/plain; charset=utf-8"),
    ] {
        std::fs::write(&input, data).unwrap();
        for (option, value) in [("--data", "-"), ("--data", "@-"), ("--data-file", "-")] {
            let id = format!("{content_type} by {option} {value}");
            let (code, text) = send_from(&input, &[&sink.url("/"), "--id", &id, option, value]).await;
            assert_eq!((code, text.contains("200 OK")), (Some(0), true), "{id}: {text}");
            let received = sink.received();
            let last = received.last().unwrap();
            assert_eq!((last.text("id"), &*last.body), (id, data));
            assert_eq!(last.header("content-type"), content_type);
        }
    }
    assert_eq!(sink.count(), 9);
    Ok(())
}

pub(crate) async fn whole_events_come_from_standard_input() -> Verdict {
    let (home, sink) = (Home::new(), Sink::start().await);
    let input = home.path().join("input");
    let event = |id: &str, amount: &str| {
        format!(
            "{{\"specversion\": \"1.0\", \"id\": \"{id}\", \"source\": \"/shop\", \"type\": \"order\", \"tenant\": \"acme\", \
             \"datacontenttype\": \"application/json\", \"data\": {{\"amount\": {amount}}}}}"
        )
    };
    let whole = ["--event-file", "-", "--subject", "given"];
    let send = async |path: &str, more: &[&str]| {
        let url = sink.url(path);
        send_from(&input, &[&[&*url], &whole[..], more].concat()).await
    };

    std::fs::write(&input, event("one", "1.50")).unwrap();
    let (code, text) = send("/one", &[]).await;
    assert_eq!((code, text.contains("200 OK: one")), (Some(0), true), "{text}");
    let one = &sink.received_at("/one")[0];
    assert_eq!((one.id(), one.ce("type"), one.ce("tenant"), one.ce("subject")), ("one", "order", "acme", "given"));
    assert_eq!((&*one.body, one.header("content-type")), (&b"{\"amount\": 1.50}"[..], "application/json"));

    std::fs::write(&input, format!("\n[{}, {}]", event("two", "2"), event("three", "3"))).unwrap();
    let (code, text) = send("/each", &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let each = sink.received_at("/each");
    let ids: Vec<(&str, &[u8])> = each.iter().map(|request| (request.id(), &*request.body)).collect();
    assert_eq!(ids, [("two", &b"{\"amount\": 2}"[..]), ("three", b"{\"amount\": 3}")]);
    let (code, text) = send("/batch", &["--mode", "batch"]).await;
    assert_eq!((code, text.contains("200 OK: 2 events")), (Some(0), true), "{text}");
    let batch = sink.received_at("/batch");
    assert_eq!((batch.len(), batch[0].header("content-type")), (1, "application/cloudevents-batch+json"));
    let sent: Vec<_> = batch[0].json().as_array().unwrap().iter().map(|event| event["id"].clone()).collect();
    assert_eq!(sent, [json!("two"), json!("three")]);

    for none in ["", "[]", "{\"specversion\": "] {
        std::fs::write(&input, none).unwrap();
        let (code, text) = send("/none", &[]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("standard input holds no"), "{text}");
    }
    assert_eq!(sink.count(), 4, "what is no event is not sent");
    Ok(())
}

pub(crate) async fn https_is_trusted_as_the_machine_does() -> Verdict {
    let authority = tls::authority().await?;
    let sink = Sink::with_tls(&authority.server()).await;
    let url = sink.url("/in");
    let send = async |id: &str, trusted: &Path| {
        let program = Program::new("evoke", binary()).args(["send", &url, "--id", id, "--data", "x"]);
        let (status, log) = program.env("SSL_CERT_FILE", trusted).output(SOON).await;
        (status.code(), log.text())
    };
    let (code, text) = send("trusted", &authority.ca()).await;
    assert_eq!((code, text.contains("200 OK: trusted")), (Some(0), true), "{text}");
    let received = sink.received();
    assert_eq!((received[0].id(), &*received[0].path, &*received[0].body), ("trusted", "/in", &b"x"[..]));
    // A certificate that has signed nothing.
    let (code, text) = send("stranger", &authority.client().cert).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&url) && text.contains("invalid peer certificate"), "{text}");
    assert_eq!(sink.count(), 1);
    Ok(())
}

pub(crate) async fn an_https_sink_is_trusted_as_the_machine_does() -> Verdict {
    let authority = tls::authority().await?;
    let (sink, dead) = (Sink::with_tls(&authority.server()).await, Sink::start().await);
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers: [{{name: all, condition: it, sink: {{uri: \"{}\"}}, deadLetterSink: {{uri: \"{}\"}}, \
         delivery: {{retry: 1, backoffDelay: PT0.1S}}}}]",
        sink.url("/in"),
        dead.url("/")
    );
    let home = Home::with(objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)]));
    for (id, trusted) in [("stranger", authority.client().cert), ("trusted", authority.ca())] {
        let mut evoke = home.evoke().env("SSL_CERT_FILE", trusted.to_str().unwrap()).ready().await;
        let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
        assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
        let to = if id == "trusted" { &sink } else { &dead };
        assert_eq!(to.wait(1, SOON).await[0].id(), id);
        evoke.stop().await;
    }
    let letter = &dead.received()[0];
    assert!(letter.text("evokecause").contains("invalid peer certificate"), "{}", letter.text("evokecause"));
    assert_eq!((letter.ce("evokeattempts"), letter.ce("knativeerrorcode")), ("2", ""));
    assert!(letter.ce("knativeerrordest").starts_with(&sink.url("/in")), "{letter:?}");
    let received = sink.received();
    assert_eq!((received.len(), &*received[0].path, &*received[0].body), (1, "/in", &b"x"[..]));
    assert_eq!(dead.count(), 1);
    Ok(())
}
