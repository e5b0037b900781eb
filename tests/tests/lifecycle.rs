//! How evoke starts, ends, and what its options do.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home, command};
use evoke_tests::http::{Answer, Sink, get, post, request};
use evoke_tests::ledger::{assert_conserved, count};
use evoke_tests::manifests::{bare_source, bus, objects, pass, python, source, trigger};
use evoke_tests::process::{Log, Signal};
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually, ports};
use serde_json::Value;

fn webhook_to(sink: &Sink) -> Home {
    Home::with(objects(&[source("web", "webhook: {in: {}}"), pass("t", "web", "in", &sink.url("/"))]))
}

async fn send(evoke: &Evoke, id: &str) {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
}

pub(crate) async fn wrong_usage_is_2_and_what_cannot_start_is_1() -> Verdict {
    for args in [&["run"][..], &["run", "x", "--nope"], &["fly"], &["validate"], &["run", "x", "--set", "nonsense"]] {
        let (code, text) = command(args).await;
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(!text.is_empty());
    }
    let home = Home::new();
    let (status, log) = home.evoke().paths(["/nowhere/at/all"]).output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert!(log.count("/nowhere/at/all") == 1, "one clear message: {}", log.text());

    home.write("evoke.yaml", source("web", "webhook: {in: {}}"));
    let (status, log) = home.evoke().args(["--set", "EventSource/web:webhook.in.pth=/x"]).output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert!(log.count("pth") > 0, "{}", log.text());
    Ok(())
}

pub(crate) async fn a_port_that_is_taken_is_named() -> Verdict {
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    let mut first = home.run().await;
    let data = home.path().join("other");
    let taken = first.admin("").replace("http://", "");
    let (status, log) = home.evoke().data(&data).admin_at(&taken).output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert!(log.count(&taken) > 0 && log.count("in use") > 0, "{}", log.text());
    // A webhook's port is waited for, as a broker is.
    let taken = first.webhook("").replace("http://", "");
    let mut second = home.evoke().data(&data).listen_at(&taken).start().await;
    second.waits_for(&["web/in", &taken], SOON).await;
    first.stop().await;
    second.ready(SOON).await;
    second.stop().await;
    Ok(())
}

pub(crate) async fn the_drain_finishes_what_is_under_way() -> Verdict {
    let sink = Sink::scripted(|_| Answer::After(Duration::from_millis(300), Box::new(Answer::Status(200)))).await;
    let home = webhook_to(&sink);
    let mut evoke = home.run().await;
    let sent: BTreeSet<String> = (0..400).map(|n| n.to_string()).collect();
    for id in &sent {
        send(&evoke, id).await;
    }
    evoke.stop().await;
    let at_stop = sink.delivered().len();
    assert!(at_stop > 0);
    let mut evoke = home.run().await;
    sink.wait_delivered(sent.len(), SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

/// A function that takes a moment to end when it is asked to.
const POLITE: &str = r#"
import os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
def leave(*_):
    time.sleep(0.5); print("good bye"); sys.exit(0)
signal.signal(signal.SIGTERM, leave)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), BaseHTTPRequestHandler).serve_forever()
"#;

pub(crate) async fn a_sink_that_hangs_takes_no_time_from_the_last_steps() -> Verdict {
    let (hanging, prompt) = (Sink::scripted(|_| Answer::Hang).await, Sink::start().await);
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers:\n  - {{name: hanging, condition: it, sink: {{uri: \"{}\"}}, delivery: {{timeout: PT10M}}}}\n  \
         - {{name: prompt, condition: it, sink: {{uri: \"{}\"}}}}",
        hanging.url("/"),
        prompt.url("/")
    );
    let objects = objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec), python("polite", "polite.py")]);
    let home = Home::with(objects);
    home.write("polite.py", POLITE);
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    hanging.wait(1, SOON).await;
    prompt.wait_delivered(1, SOON).await;
    // Within the deadline: the hanging delivery is cut short, then the function ends by itself, and the bus is closed.
    evoke.stop_short().await;
    let log = evoke.log().text();
    let place = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part} is not in the log"));
    let last = "not all that was under way ended in time; what was not finished is delivered again at the next start";
    let steps = ["draining", "deliveries are cut short", "default/polite | good bye", last].map(place);
    assert!(steps.is_sorted(), "{steps:?}");

    // What was recorded is not delivered again, what was cut short is.
    hanging.script(|_| Answer::Status(200));
    let mut evoke = home.run().await;
    send(&evoke, "2").await;
    hanging.wait_delivered(2, SOON).await;
    prompt.wait_delivered(2, SOON).await;
    evoke.stop().await;
    assert_eq!(hanging.delivered(), count(["1", "2"]));
    assert_eq!(prompt.attempts(), count(["1", "2"]));
    Ok(())
}

pub(crate) async fn a_second_signal_ends_at_once_and_loses_nothing() -> Verdict {
    let sink = Sink::scripted(|_| Answer::Hang).await;
    let home = webhook_to(&sink);
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    sink.wait(1, SOON).await;
    evoke.signal(Signal::TERM);
    evoke.log().wait_for(&["SIGTERM"], SOON).await;
    assert!(evoke.is_running(), "it drains");
    evoke.signal(Signal::INT);
    let status = evoke.ended(Duration::from_secs(15)).await;
    assert_ne!(status.code(), Some(0), "it was no clean drain");
    sink.script(|_| Answer::Status(200));
    let _evoke = home.run().await;
    sink.wait_delivered(1, SOON).await;
    Ok(())
}

pub(crate) async fn ctrl_c_drains_as_sigterm_does() -> Verdict {
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    sink.wait(1, SOON).await;
    evoke.signal(Signal::INT);
    assert_eq!(evoke.ended(SOON).await.code(), Some(0));
    Ok(())
}

/// Starts evoke, and in vain another one with the same options.
async fn first_of_two(home: &Home) -> Evoke {
    let run = home.evoke();
    let first = run.clone().ready().await;
    let (status, log) = run.output(SOON).await;
    assert_eq!(status.code(), Some(1));
    let (text, pid) = (log.text(), first.pid().as_raw_nonzero());
    assert!(text.contains(&format!("in use by another evoke (process {pid})")), "{text}");
    assert!(text.contains("--data-dir"), "names the way out: {text}");
    first
}

pub(crate) async fn one_evoke_uses_a_data_directory() -> Verdict {
    let sink = Sink::start().await;
    // Also where no bus is kept in it.
    let sinks_only = bare_source("web", &format!("webhook: {{in: {{}}}}\nsink: {{uri: \"{}\"}}", sink.url("/")));
    first_of_two(&Home::with(sinks_only)).await.stop().await;
    let home = webhook_to(&sink);
    let mut first = first_of_two(&home).await;
    send(&first, "1").await;
    sink.wait_delivered(1, SOON).await;
    first.kill().await;
    // A dead one holds nothing.
    let mut second = home.run().await;
    second.stop().await;
    Ok(())
}

pub(crate) async fn a_log_that_was_cut_off_is_taken_up() -> Verdict {
    let sink = Sink::scripted(|_| Answer::Status(503)).await;
    let home = webhook_to(&sink);
    let mut evoke = home.run().await;
    for n in 0..200 {
        send(&evoke, &n.to_string()).await;
    }
    evoke.kill().await;
    // The largest file is the newest segment, or as old as it: its last used bytes become what a torn write leaves.
    let mut files = Vec::new();
    walk(&home.data(), &mut files);
    let segment = files.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let torn = used.saturating_sub(20)..=used;
    bytes[torn].fill(0xA5);
    fs::write(&segment, bytes).unwrap();
    sink.script(|_| Answer::Status(200));
    let mut evoke = home.run().await;
    // Only the last write can be torn by a crash: at most the state or the events of one batch are gone.
    sink.wait_delivered(199, Duration::from_secs(120)).await;
    send(&evoke, "after").await;
    eventually("the next one", SOON, async || sink.delivered().contains_key("after").then_some(())).await;
    evoke.stop().await;
    Ok(())
}

fn walk(dir: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else if entry.file_type().unwrap().is_file() {
            files.push(path);
        }
    }
}

pub(crate) async fn set_and_bus_run_a_cluster_s_manifests() -> Verdict {
    let sink = Sink::start().await;
    let cluster = objects(&[
        bus("default", "jetStream: {native: {replicas: 3}}"),
        source("web", "webhook: {in: {path: /in}}"),
        pass("t", "web", "in", "http://billing.example/"),
        bare_source("team-a/other", "eventBus: default\nwebhook: {in: {path: /other}}")
            .replace("{name: team-a/other}", "{name: other, namespace: team-a}"),
    ]);
    let home = Home::with(cluster);
    let (status, log) = home.evoke().output(SOON).await;
    assert_eq!(status.code(), Some(1));
    assert!(log.count("--bus embedded") > 0, "names the way out: {}", log.text());
    let to = format!("Trigger/t:subscribers[0].sink.uri={}", sink.url("/x"));
    let mut evoke = home
        .evoke()
        .args(["--bus", "embedded", "--set", &to, "--set", "EventSource/team-a/other:webhook.in.path=/another"])
        .ready()
        .await;
    assert_eq!(evoke.post("/in", &[], "x").await.status, 202);
    assert_eq!(evoke.post("/another", &[], "x").await.status, 202);
    assert_eq!(sink.wait(1, SOON).await[0].path, "/x");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn the_admin_address_answers_this_machine_only() -> Verdict {
    let sink = Sink::start().await;
    let evoke = webhook_to(&sink).run().await;
    assert_eq!(get(&evoke.admin("/healthz")).await.unwrap().status, 200);
    for path in ["/metrics", "/readyz", "/v1/status"] {
        let foreign = [("host", "evil.example:9490")];
        assert_eq!(request("GET", &evoke.admin(path), &foreign, "").await.unwrap().status, 403, "{path}");
        let origin = [("origin", "https://evil.example")];
        assert_eq!(request("GET", &evoke.admin(path), &origin, "").await.unwrap().status, 403, "{path}");
        assert_eq!(request("POST", &evoke.admin(path), &[], "").await.unwrap().status, 405, "{path}");
    }
    Ok(())
}

pub(crate) async fn pages_of_elsewhere_read_no_admin_address() -> Verdict {
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    let mut evoke = home.evoke().admin_at(&format!("0.0.0.0:{}", ports::free().port())).ready().await;
    let own = evoke.admin("");
    for (header, value, status) in [
        // Nobody knows here by which names the machine goes.
        ("host", "evoke.example:9490", 200_u16),
        ("origin", &*own, 200),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
    ] {
        let answer = request("GET", &evoke.admin("/metrics"), &[(header, value)], "").await.unwrap();
        assert_eq!(answer.status, status, "{header}: {value}");
    }
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_port_that_the_system_chooses_is_told_once_it_is_known() -> Verdict {
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    let mut evoke = home.evoke().listen_at("127.0.0.1:0").ready().await;
    assert_eq!(evoke.log().count("POST /default/web/in, on a free port"), 1, "{}", evoke.log().text());
    let line = evoke.log().wait_for(&["webhooks listen", "127.0.0.1:"], SOON).await;
    let port: String = line.split("127.0.0.1:").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    let answer = post(&format!("http://127.0.0.1:{port}/default/web/in"), &[], "x").await;
    assert_eq!(answer.status, 202, "{line}");
    sink.wait(1, SOON).await;
    evoke.stop().await;
    Ok(())
}

/// All lines, of which each is to be an object.
fn json_lines(log: &Log) -> Vec<Value> {
    let object = |line: &str| serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
    log.text().lines().map(|line| object(line).unwrap_or_else(|| panic!("no JSON: {line}"))).collect()
}

pub(crate) async fn logs_are_json_where_asked() -> Verdict {
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    home.write("foreign.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: foreign}\n");
    // What is on standard output is for people.
    let run = home.evoke().args(["--log-format", "json", "-v"]).below(["sh", "-c", r#"exec "$0" "$@" >/dev/null"#]);
    let mut evoke = run.clone().ready().await;
    send(&evoke, "line-of-a-delivery").await;
    sink.wait_delivered(1, SOON).await;
    evoke.log().wait_for(&["line-of-a-delivery"], SOON).await;
    home.write("wrong.yaml", source("other", "webhok: {in: {}}"));
    evoke.log().wait_for(&["the changed manifests are refused"], SOON).await;
    evoke.stop().await;
    let lines = json_lines(evoke.log());
    let delivery = lines.iter().filter(|line| line.to_string().contains("line-of-a-delivery")).count();
    assert_eq!(delivery, 1, "one line per delivery");
    let of = |name: &str| lines.iter().find(|line| line["file"].as_str().is_some_and(|file| file.ends_with(name)));
    let (foreign, wrong) = (of("foreign.yaml").unwrap(), of("wrong.yaml").unwrap());
    assert_eq!((&foreign["level"], &foreign["line"]), (&"WARN".into(), &2.into()), "{foreign}");
    assert_eq!((&wrong["level"], &wrong["line"], &wrong["column"]), (&"ERROR".into(), &6.into(), &3.into()), "{wrong}");
    assert_eq!((&wrong["field"], &wrong["hint"]), (&"spec.webhok".into(), &"did you mean `webhook`".into()), "{wrong}");
    assert!(wrong["message"].as_str().unwrap().contains("unknown field"), "{wrong}");

    let (status, log) = run.output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    let last = json_lines(&log).pop().unwrap();
    assert_eq!(last["level"], "ERROR", "{last}");
    assert!(last["message"].as_str().unwrap().contains("nothing was started"), "{last}");
    Ok(())
}

pub(crate) async fn a_bus_becomes_another_kind_when_nothing_waits_or_it_is_abandoned() -> Verdict {
    let server = Redis::start().await?;
    let sink = Sink::start().await;
    let home = webhook_to(&sink);
    let embedded = bus("default", "embedded: {}");
    let redis = bus("default", &format!("redis: {{address: \"{}\"}}", server.address));
    home.write("bus.yaml", &embedded);
    home.run().await.stop().await;
    let (code, text) = home.tool_without_evoke(&["subscription", "pause", "t/all"]).await;
    assert_eq!(code, Some(0), "{text}");
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    send(&evoke, "2").await;
    home.write("bus.yaml", &redis);
    evoke.log().wait_for(&["default.default", "is embedded and cannot become redis while it runs"], SOON).await;
    evoke.stop().await;

    let (status, log) = home.evoke().output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    for part in ["was embedded and would become redis", "2 of default/t/all", "--abandon default/default"] {
        assert_eq!(log.count(part), 1, "{part}: {}", log.text());
    }
    let (status, log) = home.evoke().args(["--abandon", "default/other"]).output(SOON).await;
    assert!(status.code() == Some(1) && log.count("default/other") == 1, "{}", log.text());

    let abandon = ["--abandon", "default/default"];
    let mut evoke = home.evoke().args(abandon).ready().await;
    evoke.log().wait_for(&["abandoned"], SOON).await;
    assert_eq!(evoke.log().count("abandoned"), 1, "{}", evoke.log().text());
    send(&evoke, "3").await;
    assert_eq!(sink.wait(1, SOON).await[0].id(), "3");
    evoke.stop().await;

    // What a broker holds is not known, also when it is nothing. On the embedded bus all is as it was.
    home.write("bus.yaml", &embedded);
    let (status, log) = home.evoke().output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert_eq!(log.count("was redis and would become embedded"), 1, "{}", log.text());
    let mut evoke = home.evoke().args(abandon).ready().await;
    let (code, text) = home.tool(&["subscription", "resume", "t/all"]).await;
    assert_eq!(code, Some(0), "{text}");
    sink.wait_all(&["1".to_owned(), "2".to_owned(), "3".to_owned()].into(), SOON).await;
    evoke.stop().await;

    home.write("bus.yaml", &redis);
    let mut evoke = home.run().await;
    send(&evoke, "4").await;
    sink.wait_all(&["4".to_owned()].into(), SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("abandoned"), 0, "{}", evoke.log().text());
    assert_eq!(sink.count(), 4);
    Ok(())
}
