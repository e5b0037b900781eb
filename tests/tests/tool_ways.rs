//! Every tool by every way to a bus: through the socket of an evoke, through its admin address, and by the tool itself, beside an
//! evoke and without one.

use std::fs;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, assert_has, command, json as read};
use evoke_tests::http::{Answer, Sink};
use evoke_tests::manifests::{bare_source, bus, objects, pass, source, trigger};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::{SOON, eventually};
use serde_json::{Value, json};

use super::tools::{delivered, once, send};

/// How a tool gets to a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `--data-dir`
    Socket,
    /// `--admin` with `--token-file`
    Admin,
    /// `-f`, while an evoke runs on the bus.
    Beside,
    /// `-f`, while none does.
    Alone,
}

/// The tools by one way.
struct Tools<'a> {
    way: Way,
    home: &'a Home,
    admin: String,
    token: &'a str,
}

impl Tools<'_> {
    async fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let admin = ["--admin", &self.admin, "--token-file", self.token];
        match self.way {
            Way::Socket => self.home.tool(args).await,
            Way::Admin => command([args, &admin].concat()).await,
            Way::Beside | Way::Alone => self.home.tool_without_evoke(args).await,
        }
    }

    /// Asserts what a tool prints as JSON at a place, and returns it.
    async fn show(&self, args: &[&str], at: &str, expected: &Value) -> Value {
        let (code, text) = self.run(&[args, &["-o", "json"]].concat()).await;
        assert_eq!(code, Some(0), "{:?}, {args:?}: {text}", self.way);
        let found = read(&text).pointer(at).cloned();
        let found = found.unwrap_or_else(|| panic!("{:?}, {args:?}: nothing at {at}: {text}", self.way));
        assert_has(&found, expected);
        found
    }
}

pub(crate) async fn every_tool_works_by_every_way_on_the_embedded_bus() -> Verdict {
    for way in [Way::Socket, Way::Admin, Way::Alone] {
        every_tool_works(&BusServer::Embedded, way).await?;
    }
    Ok(())
}

pub(crate) async fn every_tool_works_by_every_way_on_jetstream() -> Verdict {
    by_every_way(&BusServer::jetstream().await?).await
}

pub(crate) async fn every_tool_works_by_every_way_on_kafka() -> Verdict {
    by_every_way(&BusServer::kafka().await?).await
}

pub(crate) async fn every_tool_works_by_every_way_on_redis() -> Verdict {
    by_every_way(&BusServer::redis().await?).await
}

async fn by_every_way(server: &BusServer) -> Verdict {
    for way in [Way::Socket, Way::Admin, Way::Beside, Way::Alone] {
        every_tool_works(server, way).await?;
        server.clear().await;
    }
    Ok(())
}

async fn every_tool_works(server: &BusServer, way: Way) -> Verdict {
    let sink =
        Sink::scripted(|request| Answer::Status(if matches!(request.id(), "2" | "4") { 400 } else { 200 })).await;
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers: [{{name: all, condition: it, sink: {{uri: \"{}\"}}, delivery: {{retry: 0}}}}]",
        sink.url("/")
    );
    let home = server.home(objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)]));
    // What a Trigger leaves behind that is in no manifest any more is what may be deleted.
    home.write("old.yaml", pass("old", "web", "in", &sink.url("/old")));
    home.run().await.stop().await;
    home.remove("old.yaml");
    let token = home.path().join("token");
    fs::write(&token, "t0ken").unwrap();
    let token = token.to_str().unwrap();
    let mut evoke = home.evoke().args(["--admin-token-file", token]).ready().await;
    for id in ["1", "2", "3", "4"] {
        send(&evoke, id).await;
    }
    let letters = eventually("two of four are dead letters", SOON, async || {
        let row = home.json(&["subscription", "list", "--trigger", "t"]).await["subscriptions"][0].clone();
        let letters = home.json(&["dlq", "list"]).await["deadLetters"].as_array().unwrap().clone();
        (row["evaluated"] == 4 && row["inFlight"] == 0 && letters.len() == 2).then_some(letters)
    })
    .await;
    let letter = letters.iter().find(|letter| letter["eventId"] == "2").unwrap()["id"].as_str().unwrap();
    sink.script(|_| Answer::Status(200));
    if way == Way::Alone {
        evoke.stop().await;
    }
    let tools = Tools { way, home: &home, admin: evoke.admin(""), token };
    look_and_steer(&tools, letter).await;
    deliver_and_purge(&tools, letter, &sink).await;
    delete(&tools).await;

    if way == Way::Alone {
        evoke = home.run().await;
    }
    send(&evoke, "5").await;
    sink.wait_all(&["5".to_owned()].into(), SOON).await;
    evoke.stop().await;
    assert_eq!(delivered(&sink, false), once(["1", "2", "3", "5"]), "{way:?}");
    assert_eq!(delivered(&sink, true), once(["1", "2", "3", "4"]), "{way:?}");
    Ok(())
}

/// What shows how things are, a pause and a resumption, and a job that is cancelled before it delivers anything.
async fn look_and_steer(tools: &Tools<'_>, letter: &str) {
    let name = "default/t/all";
    let is_asked = matches!(tools.way, Way::Socket | Way::Admin);
    for (args, at, expected) in [
        (
            &["subscription", "list", "--trigger", "t"][..],
            "/subscriptions/0",
            json!({ "name": name, "running": is_asked, "paused": false, "evaluated": 4, "lag": 0, "jobs": [] }),
        ),
        (&["dlq", "list", "--event", "2"], "/deadLetters/0", json!({ "id": letter, "eventId": "2", "status": 400 })),
        (&["dlq", "show", letter], "/deadLetters/0/event", json!({ "id": "2", "data_base64": "eA==" })),
        (
            &["replay", "--trigger", "t", "--from", "earliest", "--dry-run"],
            "/dryRun/0",
            json!({ "subscription": name, "read": 4, "matched": 4 }),
        ),
        (&["job", "list"], "", json!({ "jobs": [] })),
        (
            &["subscription", "pause", "t/all"],
            "/subscriptions/0",
            json!({ "name": name, "bus": "default.default", "paused": true }),
        ),
        (&["subscription", "list", "--trigger", "t"], "/subscriptions/0", json!({ "name": name, "paused": true })),
    ] {
        tools.show(args, at, &expected).await;
    }
    let waiting = json!({ "kind": "replay", "subscription": name, "state": "waiting" });
    let replay = ["replay", "--trigger", "t", "--since", "1h", "--detach"];
    let job = tools.show(&replay, "/jobs/0", &waiting).await["id"].as_str().unwrap().to_owned();
    for (args, at, expected) in [
        (&["job", "list"][..], "/jobs/0", json!({ "id": job, "state": "waiting" })),
        (&["job", "cancel", &job], "/jobs/0", json!({ "id": job, "state": "cancelled" })),
        (&["subscription", "resume", "t/all"], "/subscriptions/0", json!({ "name": name, "paused": false })),
    ] {
        tools.show(args, at, &expected).await;
    }
    let (code, text) = tools.run(&["dlq", "list", "-o", "wide"]).await;
    assert!(code == Some(0) && text.contains("DESTINATION") && text.contains("http://127.0.0.1:"), "{text}");
}

/// What delivers again, and what gives up a dead letter.
async fn deliver_and_purge(tools: &Tools<'_>, letter: &str, sink: &Sink) {
    let done = |kind: &str| json!({ "kind": kind, "state": "done", "subscription": "default/t/all" });
    let job = tools.show(&["replay", "--trigger", "t", "--since", "1h"], "/jobs/0", &done("replay")).await;
    assert_has(&job["counts"], &json!({ "read": 4, "matched": 4, "delivered": 4, "failed": 0 }));
    assert_eq!(delivered(sink, false), once(["1", "3"]), "{:?}: a replay says that it is one", tools.way);
    let job = tools.show(&["dlq", "redrive", letter], "/jobs/0", &done("redrive")).await;
    assert_has(&job["counts"], &json!({ "delivered": 1, "failed": 0 }));
    for (args, expected) in [
        (&["dlq", "purge", "--event", "4", "--yes"][..], json!({ "purged": 1, "busy": 0, "dryRun": false })),
        (&["dlq", "list"], json!({ "deadLetters": [], "next": null })),
    ] {
        tools.show(args, "", &expected).await;
    }
    let jobs = tools.show(&["job", "list"], "", &json!({})).await;
    let text = |job: &Value| format!("{} {}", job["kind"].as_str().unwrap(), job["state"].as_str().unwrap());
    let mut jobs: Vec<String> = jobs["jobs"].as_array().unwrap().iter().map(text).collect();
    jobs.sort();
    assert_eq!(jobs, ["redrive done", "replay cancelled", "replay done"], "{:?}", tools.way);
}

/// What nobody runs is deleted, and nothing else.
async fn delete(tools: &Tools<'_>) {
    if tools.way != Way::Alone {
        let (code, text) = tools.run(&["subscription", "delete", "t/all", "--yes", "-o", "json"]).await;
        assert!(code == Some(1) && text.contains("default/t/all"), "{:?}: {text}", tools.way);
    }
    let deleted = json!({ "name": "default/old/all", "bus": "default.default", "deleted": true });
    tools.show(&["subscription", "delete", "old/all", "--yes"], "/subscriptions/0", &deleted).await;
    let listed = tools.show(&["subscription", "list"], "", &json!({})).await;
    let names: Vec<_> = listed["subscriptions"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["default/t/all"], "{:?}", tools.way);
}

pub(crate) async fn one_bus_of_several_is_named() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(objects(&[
        bus("second", "embedded: {}"),
        source("web", "webhook: {in: {}}"),
        bare_source("more", "eventBus: second\nwebhook: {in: {}}"),
    ]));
    home.write("t.yaml", pass("t", "web", "in", &sink.url("/")));
    home.run().await.stop().await;
    // A Trigger that moves to another bus leaves its position on the first one.
    let moved = pass("t", "more", "in", &sink.url("/")).replace("eventBus: default", "eventBus: second");
    home.write("t.yaml", moved);
    let mut evoke = home.run().await;
    let buses = async |of: &[&str]| -> Vec<String> {
        let listed = home.json(&[&["subscription", "list"][..], of].concat()).await;
        let rows = listed["subscriptions"].as_array().unwrap().iter();
        rows.map(|row| row["bus"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(buses(&[]).await, ["default.default", "default.second"]);
    for name in ["second", "default/second"] {
        assert_eq!(buses(&["--event-bus", name]).await, ["default.second"], "{name}");
    }
    // The one that it runs on is meant where none is named.
    for (more, expected) in [(&[] as &[&str], "default.second"), (&["--event-bus", "default"], "default.default")] {
        let paused = home.json(&[&["subscription", "pause", "t/all"][..], more].concat()).await;
        assert_has(&paused["subscriptions"][0], &json!({ "bus": expected, "paused": true }));
    }
    // A replay is of the bus that the Trigger reads.
    let replay = ["replay", "--trigger", "t", "--from", "earliest", "--dry-run"];
    for (bus, expected, said) in [
        ("second", Some(0), "default/t/all: 0 of 0 match"),
        ("default", Some(1), "default/t/all reads bus default.second, not default.default"),
        ("third", Some(1), "there is no bus third here: there is default.default, default.second"),
    ] {
        let (code, text) = home.tool(&[&replay[..], &["--event-bus", bus]].concat()).await;
        assert!(code == expected && text.contains(said), "{bus}: {text}");
    }
    home.remove("t.yaml");
    let delete = ["subscription", "delete", "t/all", "--yes"];
    eventually("it is asked which one is meant", SOON, async || {
        let (code, text) = home.tool(&delete).await;
        assert_eq!(code, Some(1), "{text}");
        text.contains("is on several buses: name one of default.default, default.second").then_some(())
    })
    .await;
    // Lanes end before the plan is the new one.
    eventually("the one that is named is deleted", SOON, async || {
        let (code, text) = home.tool(&[&delete[..], &["--event-bus", "default"]].concat()).await;
        let text = text.trim();
        assert!(text == "default/t/all deleted" || text.contains("is in the manifests that run"), "{text}");
        (code == Some(0)).then_some(())
    })
    .await;
    assert_eq!(buses(&[]).await, ["default.second"]);
    evoke.stop().await;
    Ok(())
}
