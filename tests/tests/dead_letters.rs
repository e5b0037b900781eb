//! `evoke dlq`: what failed is listed, shown, delivered again, purged.

use std::collections::BTreeSet;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home, assert_has, json as read};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::{SOON, eventually};
use serde_json::{Value, json};

/// Two subscribers, at `/a` and at `/b`, that try no event twice.
fn manifest(sink: &Sink) -> String {
    let subscriber = |name: &str| {
        let url = sink.url(&format!("/{name}"));
        format!("{{name: {name}, condition: it, sink: {{uri: \"{url}\"}}, delivery: {{retry: 0}}}}")
    };
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers: [{}, {}]",
        subscriber("a"),
        subscriber("b")
    );
    objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)])
}

fn two(sink: &Sink) -> Home {
    Home::with(manifest(sink))
}

async fn send(evoke: &Evoke, id: &str) {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-subject", "a subject"),
        ("content-type", "application/json"),
    ];
    assert_eq!(evoke.post("/default/web/in", &headers, format!("{{\"id\": \"{id}\"}}")).await.status, 202);
}

async fn letters(home: &Home, filter: &[&str]) -> Vec<Value> {
    let listed = home.json(&[&["dlq", "list"][..], filter].concat()).await;
    listed["deadLetters"].as_array().unwrap().clone()
}

async fn listed(home: &Home, filter: &[&str], count: usize) -> Vec<Value> {
    eventually(&format!("{count} dead letters with {filter:?}"), SOON, async || {
        let letters = letters(home, filter).await;
        (letters.len() == count).then_some(letters)
    })
    .await
}

fn ids(letters: &[Value]) -> BTreeSet<String> {
    letters.iter().map(|letter| letter["eventId"].as_str().unwrap().to_owned()).collect()
}

fn set<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(str::to_owned).into()
}

pub(crate) async fn dead_letters_are_listed_shown_and_purged() -> Verdict {
    lists_and_purges(&BusServer::Embedded).await
}

pub(crate) async fn lists_and_purges(bus: &BusServer) -> Verdict {
    let refuse = |request: &Received| match (&*request.path, request.id()) {
        ("/a", "1") => Answer::Status(400),
        ("/a", _) => Answer::Status(503),
        _ => Answer::Status(410),
    };
    let sink = Sink::scripted(refuse).await;
    let home = bus.home(manifest(&sink));
    let mut evoke = home.run().await;
    assert!(letters(&home, &[]).await.is_empty());
    for id in ["1", "2", "3"] {
        send(&evoke, id).await;
    }
    let all = listed(&home, &[], 6).await;
    let first = all.iter().find(|letter| letter["eventId"] == "1" && letter["subscriber"] == "a").unwrap();
    let expected = json!({
        "bus": "default.default", "namespace": "default", "trigger": "t", "eventSource": "/s", "eventType": "t",
        "cause": "answered 400 Bad Request", "status": 400, "attempts": 1, "destination": sink.url("/a"), "bytes": 11,
    });
    assert_has(first, &expected);
    for name in ["id", "appended", "firstTime", "lastTime"] {
        assert!(first[name].is_string(), "{name} of {first}");
    }
    // Filters, alone and together, and pages.
    assert_eq!(ids(&letters(&home, &["--subscriber", "a"]).await), set(["1", "2", "3"]));
    assert_eq!(ids(&letters(&home, &["--cause", "503 service"]).await), set(["2", "3"]));
    assert_eq!(letters(&home, &["--trigger", "t", "--cause", "410", "--event", "2"]).await.len(), 1);
    assert_eq!(letters(&home, &["--trigger", "other"]).await.len(), 0);
    assert_eq!(letters(&home, &["--since", "1h"]).await.len(), 6);
    let time = all[5]["appended"].as_str().unwrap();
    assert!(letters(&home, &["--since", time]).await.iter().any(|letter| letter["id"] == all[5]["id"]));
    let page = home.json(&["dlq", "list", "--limit", "4"]).await;
    let rest = home.json(&["dlq", "list", "--after", page["next"].as_str().unwrap()]).await;
    let paged = [page["deadLetters"].as_array().unwrap().clone(), rest["deadLetters"].as_array().unwrap().clone()];
    assert_eq!((paged[0].len(), paged.concat()), (4, all.clone()));
    assert_eq!(rest["next"], Value::Null);

    let id = first["id"].as_str().unwrap();
    let shown = home.json(&["dlq", "show", id]).await["deadLetters"][0].clone();
    let event = &shown["event"];
    assert_eq!(shown["id"], id);
    let cause = "answered 400 Bad Request";
    assert_has(event, &json!({ "id": "1", "subject": "a subject", "data": { "id": "1" }, "evokecause": cause }));
    let (code, text) = home.tool(&["dlq", "show", id]).await;
    assert!(code == Some(0) && text.contains("a subject") && text.contains("evokecause:"), "{text}");
    assert!(text.contains("evokeposition:") && text.contains(first["position"].as_str().unwrap()), "{text}");
    let (code, text) = home.tool(&["dlq", "show", "99999"]).await;
    assert!(code == Some(1) && text.contains("no dead letter 99999"), "{text}");

    // Nobody is asked, so nothing is purged without --yes.
    let (code, text) = home.tool(&["dlq", "purge", "--subscriber", "a", "--cause", "503"]).await;
    assert!(code == Some(1) && text.contains("2 dead letters") && text.contains("--yes"), "{text}");
    assert_eq!(letters(&home, &[]).await.len(), 6);
    let purged = home.json(&["dlq", "purge", "--subscriber", "a", "--cause", "503", "--yes"]).await;
    assert_eq!(purged["purged"], 2);
    assert_eq!(ids(&letters(&home, &["--subscriber", "a"]).await), set(["1"]));
    let by_id: Vec<&str> = vec!["dlq", "purge", "--yes", id];
    assert_eq!(home.json(&by_id).await["purged"], 1);
    assert_eq!(home.json(&by_id).await["purged"], 0, "it is purged already");
    // A kill forgets nothing of it, and the files alone say the same.
    evoke.kill().await;
    let (code, text) = home.tool_without_evoke(&["dlq", "list", "-o", "json"]).await;
    assert_eq!(code, Some(0), "{text}");
    let left = read(&text)["deadLetters"].as_array().unwrap().clone();
    assert!(left.len() == 3 && left.iter().all(|letter| letter["subscriber"] == "b"), "{left:?}");
    let (code, text) = home.tool_without_evoke(&["dlq", "purge", "--all", "--yes"]).await;
    assert_eq!((code, text.trim()), (Some(0), "3 purged"));
    let _evoke = home.run().await;
    assert_eq!(letters(&home, &[]).await.len(), 0);
    Ok(())
}

pub(crate) async fn a_redrive_goes_to_the_one_subscriber_as_the_event_was() -> Verdict {
    redrives(&BusServer::Embedded).await
}

pub(crate) async fn redrives(bus: &BusServer) -> Verdict {
    let sink = Sink::scripted(|_| Answer::Status(400)).await;
    let home = bus.home(manifest(&sink));
    let evoke = home.run().await;
    for id in ["1", "2", "3"] {
        send(&evoke, id).await;
    }
    let first = listed(&home, &[], 6).await;
    let place = first.iter().find(|letter| letter["eventId"] == "3").unwrap()["position"].clone();
    assert!(place.as_str().unwrap().starts_with("default.web.in/"), "{place}");
    // 3 fails again, and is a dead letter again.
    sink.script(|request| Answer::Status(if request.id() == "3" { 422 } else { 200 }));
    let before = (sink.received_at("/a").len(), sink.received_at("/b").len());
    let (code, text) = home.tool(&["dlq", "redrive", "--trigger", "t", "--subscriber", "a", "-o", "json"]).await;
    assert_eq!(code, Some(1), "not all of it went well: {text}");
    let redriven = read(&text);
    let job = &redriven["jobs"][0];
    assert_has(job, &json!({ "kind": "redrive", "state": "done", "subscription": "default/t/a" }));
    assert_has(&job["counts"], &json!({ "delivered": 2, "failed": 1 }));
    let again = &sink.received_at("/a")[before.0..];
    assert_eq!(again.len(), 3);
    for request in again {
        assert_eq!((&*request.text("subject"), request.json()["id"].as_str()), ("a subject", Some(request.id())));
        let added: Vec<_> = request.headers.keys().filter(|name| name.as_str().contains("evoke")).collect();
        assert!(added.is_empty() && request.ce("knativeerrorcode").is_empty(), "{added:?}");
    }
    assert_eq!(sink.received_at("/b").len(), before.1, "the other subscriber is left alone");
    let left = listed(&home, &["--subscriber", "a"], 1).await;
    assert_has(&left[0], &json!({ "eventId": "3", "status": 422, "position": place }));
    // The subscription itself has not moved.
    let row = home.json(&["subscription", "list", "--subscriber", "a"]).await["subscriptions"][0].clone();
    assert_has(&row, &json!({ "evaluated": 3, "lag": 0 }));

    // By id, by cause, and all: each once.
    sink.script(|_| Answer::Status(200));
    let (code, text) = home.tool(&["dlq", "redrive", left[0]["id"].as_str().unwrap()]).await;
    assert!(code == Some(0) && text.contains("default/t/a: done, 1 delivered, 0 failed"), "{text}");
    assert_eq!(home.json(&["dlq", "redrive", "--cause", "400"]).await["jobs"][0]["counts"]["delivered"], 3);
    assert_eq!(letters(&home, &[]).await.len(), 0);
    let (code, text) = home.tool(&["dlq", "redrive", "--all"]).await;
    assert!(code == Some(1) && text.contains("no dead letter"), "{text}");
    let jobs = home.json(&["job", "list"]).await;
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 3);
    Ok(())
}

pub(crate) async fn a_redrive_survives_kills() -> Verdict {
    const EVENTS: usize = 1_000;
    const KILLS: usize = 3;
    let sink = Sink::scripted(|_| Answer::Status(400)).await;
    let home = two(&sink);
    let run = home.evoke();
    let mut evoke = run.clone().ready().await;
    let sent: BTreeSet<String> = (0..EVENTS).map(|n| n.to_string()).collect();
    for id in &sent {
        send(&evoke, id).await;
    }
    eventually("all of them failed", SOON, async || {
        let listed = home.json(&["dlq", "list", "--limit", "0", "--subscriber", "a"]).await;
        (listed["deadLetters"].as_array().unwrap().len() == EVENTS).then_some(())
    })
    .await;
    sink.script(|_| Answer::After(Duration::from_millis(100), Box::new(Answer::Status(200))));
    let detached = home.json(&["dlq", "redrive", "--subscriber", "a", "--detach"]).await;
    assert_eq!(detached["jobs"][0]["letters"], EVENTS);
    let job = detached["jobs"][0]["id"].as_str().unwrap().to_owned();
    for kill in 1..=KILLS {
        sink.wait_delivered(kill * 200, SOON).await;
        evoke.kill().await;
        evoke = run.clone().ready().await;
    }
    // What is under way, or done, is redriven by nobody else.
    let (code, text) = home.tool(&["dlq", "redrive", "--subscriber", "a", "--detach"]).await;
    assert!(code == Some(1) && text.contains("no dead letter was redriven"), "{text}");
    sink.wait_all(&sent, SOON).await;
    eventually("the job is done", SOON, async || {
        let jobs = home.json(&["job", "list"]).await;
        let done = jobs["jobs"].as_array().unwrap().iter().any(|row| row["id"] == *job && row["state"] == "done");
        done.then_some(())
    })
    .await;
    let delivered = sink.delivered();
    assert_conserved(&sent, [&delivered], KILLS * 2 * 100);
    assert_eq!(letters(&home, &["--subscriber", "a"]).await.len(), 0);
    assert_eq!(home.json(&["dlq", "list", "--limit", "0"]).await["deadLetters"].as_array().unwrap().len(), EVENTS);
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn what_nobody_runs_is_left_alone() -> Verdict {
    let sink = Sink::scripted(|_| Answer::Status(400)).await;
    let home = two(&sink);
    let evoke = home.run().await;
    send(&evoke, "1").await;
    listed(&home, &[], 2).await;
    // The Trigger goes; its letters stay, and wait for it.
    home.write("evoke.yaml", source("web", "webhook: {in: {}}"));
    eventually("the Trigger is gone", SOON, async || {
        let listed = home.json(&["subscription", "list"]).await;
        (listed["subscriptions"][0]["running"] == false).then_some(())
    })
    .await;
    let (code, text) = home.tool(&["dlq", "redrive", "--all"]).await;
    assert!(code == Some(1) && text.contains("1 of default/t/a left alone"), "{text}");
    assert_eq!(letters(&home, &[]).await.len(), 2);
    Ok(())
}

pub(crate) async fn a_redrive_without_evoke_delivers_by_itself() -> Verdict {
    redrives_without_evoke(&BusServer::Embedded).await
}

pub(crate) async fn redrives_without_evoke(bus: &BusServer) -> Verdict {
    let sink = Sink::scripted(|_| Answer::Status(400)).await;
    let home = bus.home(manifest(&sink));
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    listed(&home, &[], 2).await;
    evoke.stop().await;
    sink.script(|_| Answer::Status(200));
    let (code, text) = home.tool_without_evoke(&["dlq", "redrive", "--subscriber", "b"]).await;
    assert!(code == Some(0) && text.contains("default/t/b: done, 1 delivered"), "{text}");
    let _evoke = home.run().await;
    let left = letters(&home, &[]).await;
    assert!(left.len() == 1 && left[0]["subscriber"] == "a", "{left:?}");
    Ok(())
}
