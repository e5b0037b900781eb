//! `evoke replay`: a part of the log once more, beside the subscription.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home, assert_has, json as read};
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::{SOON, eventually};
use serde_json::{Value, json};

/// A subscriber `even` of events whose data says so, and one of all.
pub(crate) fn manifest(sink: &Sink) -> String {
    let (even, all) = (sink.url("/even"), sink.url("/all"));
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers:\n  - {{name: even, condition: it.data.even, sink: {{uri: \"{even}\"}}, delivery: {{retry: 0}}}}\n  \
         - {{name: all, condition: it, sink: {{uri: \"{all}\"}}}}"
    );
    objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)])
}

fn home(sink: &Sink) -> Home {
    Home::with(manifest(sink))
}

pub(crate) async fn send(evoke: &Evoke, n: usize) {
    let id = n.to_string();
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", &*id),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("content-type", "application/json"),
    ];
    let body = format!("{{\"even\": {}}}", n.is_multiple_of(2));
    assert_eq!(evoke.post("/default/web/in", &headers, body).await.status, 202);
}

async fn row(home: &Home, subscriber: &str) -> Value {
    home.json(&["subscription", "list", "--subscriber", subscriber]).await["subscriptions"][0].clone()
}

/// Waits until `all` has recorded `count` events, and gives back where it is.
pub(crate) async fn offset(home: &Home, count: usize) -> String {
    eventually("the position is recorded", SOON, async || {
        let row = row(home, "all").await;
        (row["evaluated"] == count).then(|| row["inputs"][0]["offset"].as_str().unwrap().to_owned())
    })
    .await
}

fn replayed(sink: &Sink, path: &str) -> Vec<String> {
    let requests = sink.received_at(path);
    let marked = requests.iter().filter(|request| !request.ce("evokereplay").is_empty());
    marked.map(|request| request.id().to_owned()).collect()
}

/// True if a file below a folder holds a text.
fn is_in(text: &str, folder: &Path) -> bool {
    let holds = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).contains(text);
    fs::read_dir(folder).unwrap().map(Result::unwrap).any(|entry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => is_in(text, &entry.path()),
        kind => kind.is_file() && holds(&entry.path()),
    })
}

pub(crate) async fn a_replay_delivers_a_part_again_and_moves_nothing() -> Verdict {
    replays(&BusServer::Embedded).await
}

pub(crate) async fn replays(bus: &BusServer) -> Verdict {
    let sink = Sink::start().await;
    let home = bus.home(manifest(&sink));
    let evoke = home.run().await;
    for n in 0..5 {
        send(&evoke, n).await;
    }
    let middle = offset(&home, 5).await;
    for n in 5..10 {
        send(&evoke, n).await;
    }
    sink.wait_at("/all", 10, SOON).await;
    sink.wait_at("/even", 5, SOON).await;
    let end = offset(&home, 10).await;
    let counted = home.json(&["replay", "--trigger", "t", "--since", "1h", "--dry-run"]).await;
    let expected = json!([
        { "subscription": "default/t/all", "read": 10, "matched": 10 },
        { "subscription": "default/t/even", "read": 10, "matched": 5 },
    ]);
    assert_eq!(counted["dryRun"], expected);
    assert_eq!((replayed(&sink, "/all").len(), replayed(&sink, "/even").len()), (0, 0), "it only counts");

    let done = home.json(&["replay", "--trigger", "t", "--subscriber", "even", "--from", &middle]).await;
    let job = &done["jobs"][0];
    assert_has(job, &json!({ "kind": "replay", "state": "done" }));
    assert_has(&job["counts"], &json!({ "read": 5, "delivered": 2 }));
    let mut again = replayed(&sink, "/even");
    again.sort();
    assert_eq!((again, replayed(&sink, "/all").len()), (vec!["6".to_owned(), "8".to_owned()], 0));
    let request = sink.received_at("/even").pop().unwrap();
    assert_eq!(request.ce("evokereplay"), job["id"].as_str().unwrap());
    // The subscription is where it was, and goes on from there.
    assert_eq!(row(&home, "all").await["inputs"][0]["offset"], end);
    assert_eq!(row(&home, "even").await["evaluated"], 10);

    // Each subscriber of the Trigger, from the earliest.
    let (code, text) = home.tool(&["replay", "--trigger", "default/t", "--from", "earliest"]).await;
    assert!(code == Some(0) && text.contains("default/t/all: done, 10 delivered"), "{text}");
    assert!(text.contains("default/t/even: done, 5 delivered"), "{text}");
    // A part that ends before it begins is empty.
    let none =
        home.json(&["replay", "--trigger", "t", "--from", "earliest", "--until", "1h", "--subscriber", "all"]).await;
    assert_eq!(none["jobs"][0]["state"], "done");
    assert_has(&none["jobs"][0]["counts"], &json!({ "read": 0 }));
    for (args, said) in [
        (&["--trigger", "nope", "--since", "1h"][..], "no Trigger default/nope"),
        (&["--trigger", "t", "--subscriber", "nope", "--since", "1h"], "it has all, even"),
        (&["--trigger", "t", "--from", "nonsense"], "no offset"),
        (&["--trigger", "t", "--since", "1h", "--to", "ftp://u:p@localhost/"], "not http or https"),
    ] {
        let (code, text) = home.tool(&[&["replay"][..], args].concat()).await;
        assert!(code == Some(1) && text.contains(said), "{args:?}: {text}");
    }
    Ok(())
}

pub(crate) async fn todays_condition_applies_and_what_fails_is_a_dead_letter() -> Verdict {
    let sink = Sink::start().await;
    let home = home(&sink);
    let evoke = home.run().await;
    for n in 0..4 {
        send(&evoke, n).await;
    }
    sink.wait_at("/even", 2, SOON).await;
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers: [{{name: even, condition: \"!it.data.even\", sink: {{uri: \"{}\"}}, delivery: {{retry: 0}}}}]",
        sink.url("/odd")
    );
    home.write("evoke.yaml", objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)]));
    eventually("the change is taken over", SOON, async || {
        let counted = home.json(&["replay", "--trigger", "t", "--from", "earliest", "--dry-run"]).await;
        (counted["dryRun"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    sink.script(|request| Answer::Status(if request.id() == "3" { 400 } else { 200 }));
    let (code, text) = home.tool(&["replay", "--trigger", "t", "--from", "earliest", "-o", "json"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert_has(&read(&text)["jobs"][0]["counts"], &json!({ "delivered": 1, "failed": 1 }));
    let ids: BTreeSet<_> = replayed(&sink, "/odd").into_iter().collect();
    assert_eq!(ids, BTreeSet::from(["1", "3"].map(str::to_owned)));
    let letters = home.json(&["dlq", "list"]).await["deadLetters"].clone();
    assert_eq!(letters.as_array().unwrap().len(), 1);
    assert_has(&letters[0], &json!({ "eventId": "3" }));
    Ok(())
}

pub(crate) async fn a_replay_survives_kills() -> Verdict {
    const EVENTS: usize = 1_000;
    const KILLS: usize = 3;
    let sink = Sink::start().await;
    let home = home(&sink);
    let run = home.evoke();
    let mut evoke = run.clone().ready().await;
    let sent: BTreeSet<String> = (0..EVENTS).map(|n| n.to_string()).collect();
    for n in 0..EVENTS {
        send(&evoke, n).await;
    }
    sink.wait_at("/all", EVENTS, SOON).await;
    sink.script(|_| Answer::After(Duration::from_millis(100), Box::new(Answer::Status(200))));
    let args = ["replay", "--trigger", "t", "--subscriber", "all", "--from", "earliest", "--detach"];
    let job = home.json(&args).await["jobs"][0]["id"].as_str().unwrap().to_owned();
    for kill in 1..=KILLS {
        eventually("some of it is delivered", SOON, async || {
            (replayed(&sink, "/all").len() >= kill * 200).then_some(())
        })
        .await;
        evoke.kill().await;
        evoke = run.clone().ready().await;
    }
    eventually("the job is done", Duration::from_secs(60), async || {
        let jobs = home.json(&["job", "list"]).await;
        let row = jobs["jobs"].as_array().unwrap().iter().find(|row| row["id"] == *job).cloned().unwrap();
        (row["state"] == "done").then_some(())
    })
    .await;
    let answered = sink.received_at("/all").into_iter().filter(|request| request.status == Some(200));
    let again = evoke_tests::ledger::count(
        answered.filter(|request| !request.ce("evokereplay").is_empty()).map(|request| request.id().to_owned()),
    );
    assert_conserved(&sent, [&again], KILLS * 2 * 100);
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn events_go_to_another_sink_where_asked() -> Verdict {
    replays_elsewhere(&BusServer::Embedded).await
}

pub(crate) async fn replays_elsewhere(bus: &BusServer) -> Verdict {
    let (sink, laptop) = (
        Sink::start().await,
        Sink::scripted(|request| Answer::Status(if request.id() == "2" { 400 } else { 200 })).await,
    );
    let home = bus.home(manifest(&sink));
    let mut evoke = home.run().await;
    for n in 0..4 {
        send(&evoke, n).await;
    }
    sink.wait_at("/all", 4, SOON).await;
    sink.wait_at("/even", 2, SOON).await;
    offset(&home, 4).await;
    let url = laptop.url("/");
    let args = ["replay", "--trigger", "t", "--subscriber", "even", "--since", "1h", "--to", &url];
    // Through the evoke that runs, then without it.
    let (code, text) = home.tool(&args).await;
    assert!(code == Some(1) && text.contains("1 delivered, 1 failed"), "{text}");
    assert_eq!(
        home.json(&["dlq", "list"]).await["deadLetters"],
        Value::Array(Vec::new()),
        "it is nobody's dead letter"
    );
    evoke.stop().await;
    laptop.script(|_| Answer::Status(200));
    let (code, text) = home.tool_without_evoke(&args).await;
    assert!(code == Some(0) && text.contains("2 delivered, 0 failed"), "{text}");
    let got: Vec<_> = laptop.received().iter().map(|request| request.id().to_owned()).collect();
    assert_eq!(
        evoke_tests::ledger::count(got),
        evoke_tests::ledger::Counts::from([("0".to_owned(), 2), ("2".to_owned(), 2)])
    );
    assert_eq!((replayed(&sink, "/even").len(), sink.count()), (0, 6));
    let mut evoke = home.run().await;
    assert_eq!(row(&home, "even").await["evaluated"], 4);
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn the_password_of_another_sink_is_sent_and_shown_nowhere() -> Verdict {
    let (sink, laptop) = (Sink::start().await, Sink::start().await);
    let home = home(&sink);
    let mut evoke = home.evoke().args(["-vv"]).ready().await;
    for n in 0..4 {
        send(&evoke, n).await;
    }
    sink.wait_at("/all", 4, SOON).await;
    offset(&home, 4).await;
    let url = laptop.url("/").replace("://", "://dev:l4ptop-secret-3141@");
    let args = ["replay", "--trigger", "t", "--subscriber", "all", "--since", "1h", "--to", &url, "-o", "json"];
    let (code, mut shown) = home.tool(&args).await;
    assert_eq!(code, Some(0), "{shown}");
    let job = read(&shown)["jobs"][0].clone();
    assert_eq!(job["to"].as_str(), Some(&*laptop.url("/").replace("://", "://***@")));
    shown.push_str(&home.tool(&["job", "list", "-o", "wide"]).await.1);

    // One that is still under way when evoke ends has nobody left who knows the password.
    laptop.script(|_| Answer::Status(503));
    let mut detached = args.to_vec();
    detached.push("--detach");
    shown.push_str(&home.tool(&detached).await.1);
    eventually("the second replay has begun", SOON, async || {
        laptop.received().iter().any(|request| request.status == Some(503)).then_some(())
    })
    .await;
    evoke.kill().await;
    shown.push_str(&evoke.log().text());
    let mut evoke = home.evoke().args(["-vv"]).ready().await;
    let cause = eventually("the replay has failed", SOON, async || {
        let jobs = home.json(&["job", "list"]).await;
        let failed = jobs["jobs"].as_array().unwrap().iter().find(|job| job["state"] == "failed").cloned();
        failed.map(|job| job["cause"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(cause.contains("password") && cause.contains("ask again"), "{cause}");
    evoke.stop().await;
    shown.push_str(&evoke.log().text());

    laptop.script(|_| Answer::Status(200));
    let (code, text) = home.tool_without_evoke(&args).await;
    assert_eq!(code, Some(0), "{text}");
    shown.push_str(&text);
    let sent: BTreeSet<_> = laptop.received().iter().map(|request| format!("{:?}", request.headers)).collect();
    // dev:l4ptop-secret-3141
    assert!(sent.iter().all(|headers| headers.contains("Basic ZGV2Omw0cHRvcC1zZWNyZXQtMzE0MQ==")), "{sent:?}");
    assert!(!shown.contains("l4ptop"), "{shown}");
    assert!(!is_in("l4ptop", &home.data()), "nothing of it is on the bus");
    Ok(())
}

pub(crate) async fn a_job_is_cancelled_and_waits_while_its_subscription_is_paused() -> Verdict {
    cancels(&BusServer::Embedded).await
}

pub(crate) async fn cancels(bus: &BusServer) -> Verdict {
    let sink = Sink::start().await;
    let home = bus.home(manifest(&sink));
    let evoke = home.run().await;
    for n in 0..300 {
        send(&evoke, n).await;
    }
    sink.wait_at("/all", 300, SOON).await;
    home.json(&["subscription", "pause", "t/all"]).await;
    let args = ["replay", "--trigger", "t", "--subscriber", "all", "--from", "earliest", "--detach"];
    let job = home.json(&args).await["jobs"][0]["id"].as_str().unwrap().to_owned();
    let state = async |home: &Home| {
        let jobs = home.json(&["job", "list"]).await;
        jobs["jobs"].as_array().unwrap().iter().find(|row| row["id"] == *job).unwrap()["state"].clone()
    };
    assert_eq!(state(&home).await, "waiting");
    assert_eq!(home.json(&["subscription", "list", "--subscriber", "all"]).await["subscriptions"][0]["jobs"][0], *job);
    // It begins with the resumption, and ends where it is when it is cancelled.
    sink.script(|_| Answer::After(Duration::from_secs(20), Box::new(Answer::Status(200))));
    home.json(&["subscription", "resume", "t/all"]).await;
    eventually("it has begun", SOON, async || (!replayed(&sink, "/all").is_empty()).then_some(())).await;
    let (code, text) = home.tool(&["job", "cancel", &job]).await;
    assert_eq!((code, text.trim()), (Some(0), &*format!("{job} cancelled")));
    assert_eq!(state(&home).await, "cancelled");
    let (code, text) = home.tool(&["job", "cancel", &job]).await;
    assert!(code == Some(1) && text.contains("is over"), "{text}");
    assert!(replayed(&sink, "/all").len() < 300);
    Ok(())
}
