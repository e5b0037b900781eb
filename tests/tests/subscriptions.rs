//! `evoke subscription`, and the ways to an evoke: its socket, its admin address, the buses themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home, assert_has, command, json as read};
use evoke_tests::http::{Answer, Sink, get, request};
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use serde_json::{Value, json};

fn manifest(sink: &Sink) -> String {
    objects(&[source("web", "webhook: {in: {}}"), pass("t", "web", "in", &sink.url("/"))])
}

fn webhook_to(sink: &Sink) -> Home {
    Home::with(manifest(sink))
}

async fn send(evoke: &Evoke, id: &str) {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
}

/// The only subscription that is listed.
async fn only(home: &Home) -> Value {
    let listed = home.json(&["subscription", "list"]).await;
    let rows = listed["subscriptions"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{listed}");
    rows[0].clone()
}

pub(crate) async fn a_list_says_where_a_subscription_is() -> Verdict {
    lists(&BusServer::Embedded).await
}

pub(crate) async fn lists(bus: &BusServer) -> Verdict {
    let sink = Sink::start().await;
    let home = bus.home(manifest(&sink));
    let mut evoke = home.run().await;
    for id in ["1", "2", "3"] {
        send(&evoke, id).await;
    }
    sink.wait_delivered(3, SOON).await;
    let row = eventually("the position is recorded", SOON, async || {
        let row = only(&home).await;
        (row["evaluated"] == 3 && row["inFlight"] == 0).then_some(row)
    })
    .await;
    let expected = json!({
        "name": "default/t/all", "namespace": "default", "trigger": "t", "subscriber": "all", "bus": "default.default",
        "running": true, "paused": false, "stalled": false, "lag": 0, "lagExact": true, "parked": 0, "jobs": [],
    });
    assert_has(&row, &expected);
    assert!(row.get("lastError").is_none());
    let input = &row["inputs"][0];
    assert_has(input, &json!({ "topic": "default.web.in", "lag": 0 }));
    assert!(!input["offset"].as_str().unwrap().is_empty());
    assert_eq!(input["partitions"][0]["partition"], 0);

    let (code, text) = home.tool(&["subscription", "list", "-o", "wide"]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("default/t/all") && text.contains(input["offset"].as_str().unwrap()), "{text}");
    for (filter, rows) in [(["--trigger", "t"], 1), (["--trigger", "other/t"], 0), (["--namespace", "nope"], 0)] {
        let listed = home.json(&[&["subscription", "list"][..], &filter].concat()).await;
        assert_eq!(listed["subscriptions"].as_array().unwrap().len(), rows, "{filter:?}");
    }

    // What fails and waits is shown, too.
    sink.script(|_| Answer::Status(503));
    send(&evoke, "4").await;
    let failing = eventually("the failure is shown", SOON, async || {
        let row = only(&home).await;
        // That it waits for its retry is on the bus as well, so that the kill below does not take it back.
        let open = |partition: &Value| partition["open"] == 1;
        let is_recorded = row["inputs"][0]["partitions"].as_array().unwrap().iter().any(open);
        (row["lastError"].is_string() && is_recorded).then_some(row)
    })
    .await;
    assert!(failing["lastError"].as_str().unwrap().contains("503"), "{failing}");

    // The same over the admin address, which needs no token for that, and from the files alone once evoke is gone.
    let (code, text) = command(["subscription", "list", "-o", "json", "--admin", &evoke.admin("")]).await;
    assert_eq!((code, read(&text)["subscriptions"][0]["name"].as_str()), (Some(0), Some("default/t/all")), "{text}");
    evoke.kill().await;
    let (code, text) = home.tool_without_evoke(&["subscription", "list", "-o", "json"]).await;
    assert_eq!(code, Some(0), "{text}");
    let row = &read(&text)["subscriptions"][0];
    assert_has(row, &json!({ "running": false, "parked": 1 }));
    assert_eq!(row.get("inFlight"), None, "another process would know");
    Ok(())
}

pub(crate) async fn pause_and_resume_are_kept() -> Verdict {
    pauses(&BusServer::Embedded).await
}

pub(crate) async fn pauses(bus: &BusServer) -> Verdict {
    let sink = Sink::start().await;
    let home = bus.home(manifest(&sink));
    let mut evoke = home.run().await;
    let (code, text) = home.tool(&["subscription", "pause", "t/all"]).await;
    assert_eq!((code, text.trim()), (Some(0), "default/t/all paused"));
    assert_eq!(only(&home).await["paused"], true);
    // Asking twice is as good as once, and a restart forgets nothing.
    assert_eq!(home.json(&["subscription", "pause", "default/t/all"]).await["subscriptions"][0]["paused"], true);
    evoke.kill().await;
    let mut evoke = home.run().await;
    assert_eq!(only(&home).await["paused"], true);
    let (code, text) = home.tool(&["subscription", "resume", "t/all"]).await;
    assert_eq!((code, text.trim()), (Some(0), "default/t/all resumed"));
    assert_eq!(only(&home).await["paused"], false);
    evoke.stop().await;

    // Without evoke, too.
    let (code, text) = home.tool_without_evoke(&["subscription", "pause", "t/all"]).await;
    assert_eq!(code, Some(0), "{text}");
    let _evoke = home.run().await;
    assert_eq!(only(&home).await["paused"], true);
    let (code, text) = home.tool(&["subscription", "pause", "t/nobody"]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("no subscription default/t/nobody"), "{text}");
    Ok(())
}

pub(crate) async fn only_what_runs_nowhere_is_deleted() -> Verdict {
    deletes(&BusServer::Embedded).await
}

pub(crate) async fn deletes(bus: &BusServer) -> Verdict {
    let sink = Sink::start().await;
    let home = bus.home(manifest(&sink));
    let evoke = home.run().await;
    send(&evoke, "1").await;
    sink.wait_delivered(1, SOON).await;
    let (code, text) = home.tool(&["subscription", "delete", "t/all", "--yes"]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("default/t/all") && text.contains("manifests"), "{text}");
    // Nobody is there to confirm.
    let (code, text) = home.tool(&["subscription", "delete", "t/all"]).await;
    assert!(code == Some(1) && text.contains("--yes"), "{text}");

    home.write("evoke.yaml", source("web", "webhook: {in: {}}"));
    eventually("the Trigger is gone", SOON, async || (only(&home).await["running"] == false).then_some(())).await;
    let deleted = eventually("it may be deleted", SOON, async || {
        let (code, text) = home.tool(&["subscription", "delete", "t/all", "--yes", "-o", "json"]).await;
        (code == Some(0)).then(|| read(&text))
    })
    .await;
    assert_eq!(deleted["subscriptions"][0]["deleted"], true);
    assert_eq!(home.json(&["subscription", "list"]).await["subscriptions"], Value::Array(Vec::new()));
    let (code, _) = home.tool(&["subscription", "delete", "t/all", "--yes"]).await;
    assert_eq!(code, Some(1), "there is none any more");

    // One that comes back begins anew, at the tail.
    send(&evoke, "2").await;
    home.write("evoke.yaml", manifest(&sink));
    eventually("the Trigger is back", SOON, async || {
        let listed = home.json(&["subscription", "list"]).await;
        (listed["subscriptions"][0]["running"] == true).then_some(())
    })
    .await;
    send(&evoke, "3").await;
    sink.wait_all(&["1", "3"].map(str::to_owned).into(), SOON).await;
    assert!(!sink.attempts().contains_key("2"));
    Ok(())
}

pub(crate) async fn what_another_evoke_runs_on_a_broker_is_not_deleted() -> Verdict {
    let (server, sink) = (Redis::start().await?, Sink::start().await);
    let home = Home::with(objects(&[
        bus("default", &format!("redis: {{address: \"{}\"}}", server.address)),
        source("web", "webhook: {in: {}}"),
        pass("t", "web", "in", &sink.url("/")),
    ]));
    let delete = ["subscription", "delete", "t/all", "--yes"];
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    sink.wait_delivered(1, SOON).await;
    let (code, text) = home.tool_without_evoke(&delete).await;
    assert_eq!(code, Some(1), "{text}");
    let process = format!("process {} on ", evoke.pid().as_raw_nonzero());
    assert!(text.contains("default/t/all is run by ") && text.contains(&process), "{text}");
    assert!(text.contains(home.data().to_str().unwrap()), "{text}");
    send(&evoke, "2").await;
    sink.wait_delivered(2, SOON).await;
    evoke.stop().await;

    let (code, text) = home.tool_without_evoke(&delete).await;
    assert_eq!((code, text.trim()), (Some(0), "default/t/all deleted"));
    let (code, text) = home.tool_without_evoke(&["subscription", "list", "-o", "json"]).await;
    assert_eq!((code, read(&text)["subscriptions"].clone()), (Some(0), Value::Array(Vec::new())));
    // What a kill leaves behind is not taken for life.
    home.run().await.kill().await;
    let (code, text) = home.tool_without_evoke(&delete).await;
    assert_eq!((code, text.trim()), (Some(0), "default/t/all deleted"));
    Ok(())
}

pub(crate) async fn tools_say_where_they_looked() -> Verdict {
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    let (code, text) = home.tool(&["subscription", "list"]).await;
    assert_eq!(code, Some(1));
    let data = home.data();
    for part in [data.to_str().unwrap(), "no evoke runs", "--data-dir", "--admin", "-f"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (code, text) = home.tool_without_evoke(&["subscription", "list"]).await;
    assert!(code == Some(1) && text.contains("holds none") && text.contains("--data-dir"), "{text}");
    assert!(!data.exists(), "looking makes nothing");
    let free = evoke_tests::ports::free();
    let (code, text) = command(["subscription", "list", "--admin", &format!("http://{free}")]).await;
    assert!(code == Some(1) && text.contains(&free.to_string()) && text.contains("did not answer"), "{text}");

    let mut evoke = home.run().await;
    let (code, text) = home.tool_without_evoke(&["subscription", "list"]).await;
    assert!(code == Some(1) && text.contains(&evoke.pid().as_raw_nonzero().to_string()), "names who has it: {text}");
    assert!(text.contains("-f"), "names the way out: {text}");
    evoke.kill().await;
    let (code, text) = home.tool(&["subscription", "list"]).await;
    assert!(code == Some(1) && text.contains("any more"), "{text}");
    Ok(())
}

pub(crate) async fn wrong_usage_of_the_tools_is_2() -> Verdict {
    for args in [
        &["subscription"][..],
        &["subscription", "pause"],
        &["subscription", "pause", "a/b/c/d"],
        &["subscription", "list", "-o", "xml"],
        &["subscription", "list", "--token-file", "x"],
        &["subscription", "list", "--admin", "localhost:1"],
        &["subscription", "list", "--admin", "http://u:p@localhost:1"],
        &["dlq", "redrive"],
        &["dlq", "purge", "--yes"],
        &["dlq", "show", "x"],
        &["dlq", "list", "--since", "yesterday"],
        &["replay", "--trigger", "t"],
        &["replay", "--since", "1h"],
        &["replay", "--trigger", "t", "--since", "1h", "--from", "earliest"],
        &["replay", "--trigger", "t", "--since", "1h", "--dry-run", "--to", "http://localhost/"],
        &["job", "cancel"],
    ] {
        let (code, text) = command(args).await;
        assert_eq!(code, Some(2), "{args:?}: {text}");
    }
    Ok(())
}

pub(crate) async fn only_its_owner_reaches_the_socket_and_only_the_token_changes_over_tcp() -> Verdict {
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    let token = home.path().join("token");
    fs::write(&token, "t0ken\n").unwrap();
    let mut evoke = home.evoke().args(["--admin-token-file", token.to_str().unwrap()]).ready().await;
    let socket = home.data().join("evoke.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let url = evoke.admin("/v1/subscriptions/default/t/all/pause");
    let bearer = |token: &str| format!("Bearer {token}");
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", bearer("t0ke"))], 401),
        (vec![("authorization", bearer("t0ken")), ("host", "evil.example".into())], 403),
        (vec![("authorization", bearer("t0ken"))], 200),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = request("POST", &url, &headers, "").await.unwrap();
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.text());
    }
    assert_eq!(only(&home).await["paused"], true);
    // Reads are open, but for the data of events.
    assert_eq!(get(&evoke.admin("/v1/jobs")).await.unwrap().status, 200);
    assert_eq!(get(&evoke.admin("/v1/dead-letters")).await.unwrap().status, 401);
    let foreign = home.path().join("foreign");
    fs::write(&foreign, "other").unwrap();
    for (file, code) in [(&foreign, Some(1)), (&token, Some(0))] {
        let args = ["dlq", "list", "--admin", &evoke.admin(""), "--token-file", file.to_str().unwrap()];
        let (got, text) = command(args).await;
        assert_eq!(got, code, "{text}");
        assert!(code == Some(0) || text.contains("--token-file"), "{text}");
        assert!(!text.contains("t0ken"), "{text}");
    }
    evoke.stop().await;
    assert!(!socket.exists(), "a clean end leaves no socket behind");

    let mut evoke = home.run().await;
    let url = evoke.admin("/v1/subscriptions/default/t/all/resume");
    let answer = request("POST", &url, &[("authorization", "Bearer ")], "").await.unwrap();
    assert!(answer.status == 403 && answer.text().contains("--admin-token-file"), "{}", answer.text());
    evoke.stop().await;
    let (status, log) = home.evoke().args(["--admin-token-file", "/nowhere"]).output(SOON).await;
    assert!(status.code() == Some(1) && log.count("/nowhere") == 1, "{}", log.text());
    Ok(())
}
