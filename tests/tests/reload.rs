//! Reload: all or nothing, only what changed, and nothing lost on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Sink, post, request};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{bare_source, bus, objects, pass, python, source, trigger};
use evoke_tests::servers::kafka::{self, Record};
use tokio::task::JoinSet;

const FUNCTION: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
print("started", os.getpid())
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), BaseHTTPRequestHandler).serve_forever()
"#;

pub(crate) async fn a_reload_under_load_loses_nothing() -> Verdict {
    let (kept, edited) = (Sink::start().await, Sink::start().await);
    let edit = |n: usize| {
        trigger(
            "edited",
            &format!(
                "inputs: {{it: {{eventSource: web, event: in}}}}\n\
                 subscribers: [{{name: s, condition: 'it && {n} == {n}', sink: {{uri: \"{}\"}}}}]",
                edited.url(&format!("/{n}"))
            ),
        )
    };
    let sources = |n: usize| source("web", &format!("webhook: {{in: {{attributes: {{round: r{n}}}}}}}"));
    let home = Home::with(pass("kept", "web", "in", &kept.url("/")));
    home.write("source.yaml", sources(0));
    home.write("edited.yaml", edit(0));
    let mut evoke = home.run().await;
    let (url, stop) = (evoke.webhook("/default/web/in"), Arc::new(AtomicBool::new(false)));
    let (mut load, stopped) = (JoinSet::new(), stop.clone());
    load.spawn(async move {
        let mut sent = BTreeSet::new();
        for n in 0.. {
            let id = n.to_string();
            let headers = [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-source", "/s"), ("ce-type", "t")];
            // A source that is being replaced may refuse for a moment; what it answered 202 for must arrive.
            if post(&url, &headers, "x").await.status == 202 {
                sent.insert(id);
            }
            if stopped.load(Ordering::Relaxed) {
                break;
            }
        }
        sent
    });
    for n in 1..=6 {
        if n % 3 == 0 {
            home.write("source.yaml", sources(n));
        } else {
            home.write("edited.yaml", edit(n));
        }
        if n % 3 == 0 {
            wait_for_round(&kept, n).await;
        } else {
            edited.wait_at(&format!("/{n}"), 50, SOON).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let sent = load.join_next().await.unwrap().unwrap();
    kept.wait_delivered(sent.len(), SOON).await;
    edited.wait_delivered(sent.len(), SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&kept.delivered()], 0);
    assert_conserved(&sent, [&edited.delivered()], 0);
    assert!(sent.len() >= 200, "{}", sent.len());
    Ok(())
}

/// Waits until one of the last events is of a round.
pub(crate) async fn wait_for_round(sink: &Sink, n: usize) {
    let round = format!("r{n}");
    evoke_tests::eventually(&format!("events of round {n}"), SOON, async || {
        sink.received().iter().rev().take(200).any(|r| r.ce("round") == round).then_some(())
    })
    .await;
}

pub(crate) async fn an_error_keeps_the_running_pipeline() -> Verdict {
    let sink = Sink::start().await;
    let home =
        Home::with(objects(&[source("web", "webhook: {in: {}, two: {}}"), pass("t", "web", "in", &sink.url("/a"))]));
    let mut evoke = home.run().await;
    let broken = [
        ("broken YAML", "apiVersion: [\n".to_owned()),
        ("unknown field", source("other", "webhok: {in: {}}")),
        (
            "bad condition",
            trigger("x", "inputs: {it: {eventSource: web, event: in}}\nsubscribers: [{condition: 'it &&', topic: x}]"),
        ),
        ("reference to nothing", pass("y", "web", "nothing", &sink.url("/"))),
    ];
    for (what, text) in broken {
        home.write("broken.yaml", text);
        // A change that is right by itself is not taken while another file has an error.
        home.write(
            "evoke.yaml",
            objects(&[source("web", "webhook: {in: {}, two: {}}"), pass("t", "web", "in", &sink.url("/b"))]),
        );
        evoke.metric("evoke_reload_failed", &[], 1.0, SOON).await;
        evoke.log().wait_for(&["broken.yaml"], SOON).await;
        let before = sink.count();
        assert_eq!(evoke.post("/default/web/in", &[], what).await.status, 202);
        sink.wait(before + 1, SOON).await;
        let last = sink.received().pop().unwrap();
        assert_eq!((last.path.as_str(), last.body.as_ref()), ("/a", what.as_bytes()));
        home.write(
            "evoke.yaml",
            objects(&[source("web", "webhook: {in: {}, two: {}}"), pass("t", "web", "in", &sink.url("/a"))]),
        );
        home.remove("broken.yaml");
        evoke_tests::eventually("the error is gone", SOON, async || {
            (evoke.metrics().await.sum("evoke_reload_failed", &[]) == 0.0).then_some(())
        })
        .await;
    }
    evoke.ready(SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_change_that_cannot_run_is_taken_back() -> Verdict {
    let sink = Sink::start().await;
    let to = |path: &str| objects(&[source("web", "webhook: {in: {}}"), pass("t", "web", "in", &sink.url(path))]);
    let home = Home::with(to("/a"));
    let mut evoke = home.run().await;
    // Nothing is wrong with the manifest: the folder of the new bus is a file.
    std::fs::write(home.data().join("bus/default.second"), "").unwrap();
    home.write(
        "evoke.yaml",
        objects(&[to("/b"), bus("second", "embedded: {}"), bare_source("more", "eventBus: second\nwebhook: {in: {}}")]),
    );
    evoke.log().wait_for(&["cannot run, and what ran before does again", "bus default.second"], SOON).await;
    evoke.metric("evoke_reload_failed", &[], 1.0, SOON).await;
    evoke.ready(SOON).await;
    assert_eq!(evoke.post("/default/web/in", &[], "x").await.status, 202);
    assert_eq!(sink.wait(1, SOON).await[0].path, "/a");

    std::fs::remove_file(home.data().join("bus/default.second")).unwrap();
    home.write("evoke.yaml", to("/b"));
    evoke_tests::eventually("the change is taken", SOON, async || {
        let before = sink.count();
        (evoke.post("/default/web/in", &[], "y").await.status == 202).then_some(())?;
        (sink.wait(before + 1, SOON).await.pop()?.path == "/b").then_some(())
    })
    .await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn only_what_changed_is_touched() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(2).await, broker.name("group"));
    let sink = Sink::start().await;
    let kafka = format!(
        "kafka: {{orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, consumerGroup: {group}}}}}",
        broker.listeners.plain
    );
    let home = Home::with(objects(&[
        source("kafka", &kafka),
        python("f", "f.py"),
        pass("t", "kafka", "orders", &sink.url("/1")),
    ]));
    home.write("f.py", FUNCTION);
    let mut evoke = home.run().await;
    broker.produce(&topic, [Record::new("a")]).await;
    sink.wait(1, SOON).await;
    let is_in = async || broker.members(&group).await.filter(|members| !members.is_empty());
    let joined = evoke_tests::eventually("the source is in its group", SOON, is_in).await;
    let started = evoke.log().count("started ");
    home.write(
        "evoke.yaml",
        objects(&[
            source("kafka", &kafka),
            python("f", "f.py"),
            pass("t", "kafka", "orders", &sink.url("/2")),
            source("web", "webhook: {in: {}}"),
        ]),
    );
    evoke_tests::eventually("the new source listens", SOON, async || {
        let answer = request("POST", &evoke.webhook("/default/web/in"), &[], "x").await.ok()?;
        (answer.status == 202).then_some(())
    })
    .await;
    broker.produce(&topic, [Record::new("b")]).await;
    let second = sink.wait_at("/2", 1, SOON).await;
    assert_eq!(second[0].body, "b");
    let members = async || broker.members(&group).await;
    let members = evoke_tests::eventually("the broker says who is in the group", SOON, members).await;
    assert_eq!(members, joined, "the group did not rebalance");
    assert_eq!(evoke.log().count("started "), started, "the function was not restarted");
    assert_eq!(sink.count(), 2);
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn what_goes_and_comes_back_keeps_its_position() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(source("web", "webhook: {in: {}}"));
    home.write("t.yaml", pass("t", "web", "in", &sink.url("/")));
    let mut evoke = home.run().await;
    assert_eq!(evoke.post("/default/web/in", &[], "1").await.status, 202);
    sink.wait(1, SOON).await;
    home.remove("t.yaml");
    evoke_tests::eventually("the trigger is gone", SOON, async || {
        let status = evoke_tests::http::get(&evoke.admin("/v1/status")).await.ok()?.text();
        (!status.contains("default/t")).then_some(())
    })
    .await;
    assert_eq!(evoke.post("/default/web/in", &[], "2").await.status, 202);
    home.write("t.yaml", pass("t", "web", "in", &sink.url("/")));
    let received = sink.wait(2, SOON).await;
    assert_eq!(received[1].body, "2");
    evoke.stop().await;
    assert_eq!(sink.count(), 2);
    Ok(())
}

pub(crate) async fn a_bus_cannot_change_while_it_runs() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(objects(&[source("web", "webhook: {in: {}}"), pass("t", "web", "in", &sink.url("/"))]));
    home.write("bus.yaml", bus("default", "embedded: {maxBytes: 1Gi}"));
    let mut evoke = home.run().await;
    home.write("bus.yaml", bus("default", "embedded: {maxBytes: 2Gi}"));
    let reloaded = evoke.metric("evoke_reload_failed", &[], 1.0, Duration::from_secs(10));
    reloaded.await;
    evoke.log().wait_for(&["bus"], SOON).await;
    assert_eq!(evoke.post("/default/web/in", &[], "1").await.status, 202);
    sink.wait(1, SOON).await;
    evoke.stop().await;
    Ok(())
}
