//! A wall clock that is set back an hour while evoke runs: windows, retries and positions do not follow it.

use std::sync::atomic::{AtomicBool, Ordering};

use evoke_tests::case::Verdict;
use evoke_tests::clock::FakeClock;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::manifests::{bus, objects, pass, source, trigger};
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};

async fn send(evoke: &Evoke, event: &str, id: &str) {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    let answer = evoke.post(&format!("/default/web/{event}"), &headers, "{}").await;
    assert_eq!(answer.status, 202, "{id}");
}

pub(crate) async fn a_clock_that_steps_back_holds_up_nothing() -> Verdict {
    let home = Home::new();
    let clock = FakeClock::new(home.path())?;
    let failed = AtomicBool::new(false);
    let sink = Sink::scripted(move |request| match request.path == "/all" && !failed.swap(true, Ordering::Relaxed) {
        true => Answer::Status(503),
        false => Answer::Status(200),
    })
    .await;
    let spec = format!(
        "inputs:\n  a: {{eventSource: web, event: a}}\n  b: {{eventSource: web, event: b}}\n\
         subscribers:\n  \
         - {{name: join, condition: a && b, sink: {{uri: \"{0}\"}}}}\n  \
         - {{name: all, condition: b, sink: {{uri: \"{1}\"}}, delivery: {{backoffDelay: PT2S}}}}",
        sink.url("/join"),
        sink.url("/all")
    );
    home.write("evoke.yaml", objects(&[source("web", "webhook: {a: {}, b: {}}"), trigger("t", &spec)]));
    let run = clock.wear(home.evoke());
    let mut evoke = run.clone().ready().await;
    send(&evoke, "a", "a1").await;
    clock.set("-1h");
    send(&evoke, "b", "b1").await;
    evoke.log().wait_for(&["the clock went back"], SOON).await;
    let joined = sink.wait_at("/join", 1, SOON).await;
    assert_eq!(joined[0].id(), "b1", "both inputs lie within a minute, whatever the clock says in between");
    // Its retry is due by the clock that goes on, not by the one that was set back.
    let all = sink.wait_at("/all", 2, SOON).await;
    assert_eq!(all.iter().map(Received::id).collect::<Vec<_>>(), ["b1", "b1"]);

    // Nor does what is on disk confuse a start under the earlier clock.
    evoke.kill().await;
    let mut evoke = run.ready().await;
    send(&evoke, "b", "b2").await;
    // What was not recorded before the kill comes again beside it.
    for path in ["/join", "/all"] {
        let has_come = async || sink.received_at(path).iter().any(|request| request.id() == "b2").then_some(());
        eventually(&format!("b2 comes to {path}"), SOON, has_come).await;
    }
    evoke.stop().await;
    Ok(())
}

/// A process whose clock is ahead of the broker's says so, once, and shows by how much.
pub(crate) async fn a_clock_that_is_not_the_broker_s_is_a_warning() -> Verdict {
    const WARNING: &str = "the bus's clock is not this machine's";
    let (server, sink, home) = (Redis::start().await?, Sink::start().await, Home::new());
    let clock = FakeClock::new(home.path())?;
    let on = format!("redis: {{address: \"{}\", partitions: 1}}", server.address);
    let manifests = [bus("default", &on), source("web", "webhook: {a: {}}"), pass("t", "web", "a", &sink.url("/"))];
    home.write("evoke.yaml", objects(&manifests));
    let run = clock.wear(home.evoke());
    let mut sent = 0;
    for (offset, range, warnings) in [("+20", -21.0..-18.0, 1), ("-20", 18.0..21.0, 1), ("+0", -1.0..1.0, 0)] {
        clock.set(offset);
        let mut evoke = run.clone().ready().await;
        let least = sent + 5;
        // What was slow to be stored says less than what comes after it.
        eventually(&format!("{range:?} is shown at {offset}"), SOON, async || {
            sent += 1;
            send(&evoke, "a", &sent.to_string()).await;
            sink.wait_delivered(sent, SOON).await;
            let shown = evoke.metrics().await.sum("evoke_bus_clock_skew_seconds", &[("bus", "default.default")]);
            (sent >= least && range.contains(&shown)).then_some(())
        })
        .await;
        evoke.stop().await;
        assert_eq!(evoke.log().count(WARNING), warnings, "at {offset}");
    }
    Ok(())
}
