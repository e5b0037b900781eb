//! The tools where the bus is a broker: what is true of them on the embedded bus is true there too, and several processes may look
//! at once.

use std::fs;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, assert_has, command, json as read};
use evoke_tests::http::{Answer, Received, Sink, get};
use evoke_tests::ledger;
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::{SOON, eventually};
use serde_json::{Value, json};

use super::{dead_letters, replay, subscriptions};

pub(crate) async fn they_work_on_jetstream() -> Verdict {
    let bus = BusServer::jetstream().await?;
    on_every_broker(&bus).await?;
    subscriptions::deletes(&bus).await?;
    bus.clear().await;
    replay::replays_elsewhere(&bus).await
}

pub(crate) async fn they_work_on_kafka() -> Verdict {
    let bus = BusServer::kafka().await?;
    on_every_broker(&bus).await?;
    dead_letters::redrives(&bus).await?;
    bus.clear().await;
    replay::cancels(&bus).await
}

pub(crate) async fn they_work_on_redis() -> Verdict {
    let bus = BusServer::redis().await?;
    on_every_broker(&bus).await?;
    subscriptions::pauses(&bus).await?;
    bus.clear().await;
    dead_letters::redrives_without_evoke(&bus).await
}

async fn on_every_broker(bus: &BusServer) -> Verdict {
    subscriptions::lists(bus).await?;
    bus.clear().await;
    dead_letters::lists_and_purges(bus).await?;
    bus.clear().await;
    replay::replays(bus).await?;
    bus.clear().await;
    over_the_admin_address_and_beside_an_evoke(bus).await?;
    bus.clear().await;
    Ok(())
}

pub(crate) async fn send(evoke: &Evoke, id: &str) {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
}

/// How often each event came, as a replay or otherwise.
pub(crate) fn delivered(sink: &Sink, is_replay: bool) -> ledger::Counts {
    let came = |request: &Received| request.status == Some(200) && request.ce("evokereplay").is_empty() != is_replay;
    ledger::count(sink.received().iter().filter(|request| came(request)).map(Received::id))
}

pub(crate) fn once<const N: usize>(ids: [&str; N]) -> ledger::Counts {
    ledger::count(ids)
}

async fn over_the_admin_address_and_beside_an_evoke(bus: &BusServer) -> Verdict {
    let (sink, laptop) = (
        Sink::scripted(|request| Answer::Status(if request.id() == "2" { 400 } else { 200 })).await,
        Sink::start().await,
    );
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers: [{{name: all, condition: it, sink: {{uri: \"{}\"}}, delivery: {{retry: 0}}}}]",
        sink.url("/")
    );
    let home = bus.home(objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)]));
    let token = home.path().join("token");
    fs::write(&token, "t0ken").unwrap();
    let token = token.to_str().unwrap();
    let mut evoke = home.evoke().args(["--admin-token-file", token]).ready().await;
    let admin = evoke.admin("");
    let ask = async |args: &[&str]| -> Value {
        let way = ["-o", "json", "--admin", &admin, "--token-file", token];
        let (code, text) = command([args, &way].concat()).await;
        assert_eq!(code, Some(0), "{args:?}: {text}");
        read(&text)
    };
    for id in ["1", "2", "3"] {
        send(&evoke, id).await;
    }
    let letter = eventually("a dead letter is listed", SOON, async || {
        let listed = ask(&["dlq", "list"]).await;
        listed["deadLetters"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_has(&letter, &json!({ "eventId": "2", "status": 400, "trigger": "t", "subscriber": "all" }));
    let shown = ask(&["dlq", "show", letter["id"].as_str().unwrap()]).await;
    assert_has(&shown["deadLetters"][0]["event"], &json!({ "id": "2", "data_base64": "eA==" }));
    sink.wait_all(&["1", "3"].map(str::to_owned).into(), SOON).await;

    let counted = ask(&["replay", "--trigger", "t", "--from", "earliest", "--dry-run"]).await;
    assert_eq!(counted["dryRun"], json!([{ "subscription": "default/t/all", "read": 3, "matched": 3 }]));
    let url = laptop.url("/");
    let replayed = ask(&["replay", "--trigger", "t", "--since", "1h", "--to", &url]).await;
    assert_has(&replayed["jobs"][0], &json!({ "kind": "replay", "state": "done", "to": url }));
    assert_eq!(delivered(&laptop, true), once(["1", "2", "3"]));
    sink.script(|_| Answer::Status(200));
    let redriven = ask(&["dlq", "redrive", "--event", "2"]).await;
    assert_has(&redriven["jobs"][0]["counts"], &json!({ "delivered": 1, "failed": 0 }));
    assert_eq!((delivered(&sink, false), delivered(&sink, true)), (once(["1", "2", "3"]), once([])));
    let jobs = ask(&["job", "list"]).await;
    let mut kinds: Vec<_> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["kind"].clone()).collect();
    kinds.sort_by_key(ToString::to_string);
    assert_eq!(kinds, ["redrive", "replay"]);
    let over = jobs["jobs"][0]["id"].as_str().unwrap();
    let (code, text) = command(["job", "cancel", over, "--admin", &admin, "--token-file", token]).await;
    assert!(code == Some(1) && text.contains("is over"), "{text}");

    // A tool that goes to the bus by itself is followed by the evoke that runs there.
    let (code, text) = home.tool_without_evoke(&["subscription", "pause", "t/all"]).await;
    assert_eq!(code, Some(0), "{text}");
    let paused = async || {
        let status: Value = serde_json::from_str(&get(&evoke.admin("/v1/status")).await.ok()?.text()).ok()?;
        let trigger = status["parts"].as_array()?.iter().find(|part| part["kind"] == "trigger")?.clone();
        trigger["subscribers"]["all"]["paused"].as_bool()
    };
    eventually("the pause is followed", SOON, async || (paused().await == Some(true)).then_some(())).await;
    let (code, text) = home.tool_without_evoke(&["subscription", "list", "-o", "json"]).await;
    assert_eq!(code, Some(0), "{text}");
    let expected = json!({ "bus": "default.default", "paused": true, "running": false, "lag": 0, "evaluated": 3 });
    assert_has(&read(&text)["subscriptions"][0], &expected);
    send(&evoke, "4").await;
    let resumed = ask(&["subscription", "resume", "t/all"]).await;
    assert_has(&resumed["subscriptions"][0], &json!({ "name": "default/t/all", "paused": false }));
    sink.wait_all(&["4".to_owned()].into(), SOON).await;
    let (code, text) = home.tool_without_evoke(&["subscription", "delete", "t/all", "--yes"]).await;
    assert!(code == Some(1) && text.contains("default/t/all"), "what runs is not deleted: {text}");
    evoke.stop().await;
    assert_eq!(delivered(&sink, false), once(["1", "2", "3", "4"]));
    Ok(())
}
