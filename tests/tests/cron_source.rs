//! Cron sources: ticks on time, once each, those that were missed, and those of a reload.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use cloudevents::AttributesReader;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::manifests::{bare_source, bus, objects, pass, source};
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use serde_json::json;
use tokio::sync::watch;

fn ticks(received: &[Received]) -> BTreeSet<DateTime<Utc>> {
    let tick =
        |r: &Received| DateTime::parse_from_rfc3339(r.id()).unwrap_or_else(|e| panic!("{}: {e}", r.id())).to_utc();
    received.iter().map(tick).collect()
}

fn home(events: &str, names: &[&str], sink: &Sink) -> Home {
    let mut all = vec![source("clock", &format!("cron:\n{events}"))];
    all.extend(names.iter().map(|event| pass(event, "clock", event, &sink.url(&format!("/{event}")))));
    Home::with(objects(&all))
}

/// Fails unless the ticks are the seconds from the first to the last, each once.
fn assert_every_second(received: &[Received]) {
    let found = ticks(received);
    let (first, last) = (found.first().unwrap(), found.last().unwrap());
    let expected = usize::try_from((*last - *first).num_seconds()).unwrap() + 1;
    assert_eq!(found.len(), expected, "a tick is missing: {found:?}");
    assert_eq!(received.len(), expected, "a tick came twice: {found:?}");
}

pub(crate) async fn ticks_come_on_time_and_once() -> Verdict {
    let sink = Sink::start().await;
    let events = "  seconds: {schedule: \"* * * * * *\", timeZone: Europe/Berlin, data: {job: sweep, n: 1.50}}\n  \
                    every: {schedule: \"@every 1s\", data: plain text, attributes: {type: tick}}\n  \
                    never: {schedule: \"0 0 1 1 *\"}";
    let home = home(events, &["seconds", "every", "never"], &sink);
    let mut evoke = home.run().await;
    sink.wait_at("/seconds", 4, SOON).await;
    sink.wait_at("/every", 3, SOON).await;
    evoke.stop().await;
    // One tick may overtake another on its way to the sink.
    let (seconds, every) = (sink.received_at("/seconds"), sink.received_at("/every"));
    assert_every_second(&seconds);
    for tick in &seconds {
        assert_eq!(tick.ce("type"), "io.evoke.cron");
        assert_eq!(tick.ce("source"), "/namespaces/default/eventsources/clock/seconds");
        assert_eq!(tick.json()["job"], json!("sweep"));
        assert_eq!(tick.header("content-type"), "application/json");
        let due = DateTime::parse_from_rfc3339(tick.id()).unwrap();
        assert_eq!(due.nanosecond(), 0, "the scheduled time: {}", tick.id());
        let time = *tick.event().time().unwrap();
        assert!((time - due.to_utc()).abs() < TimeDelta::seconds(5), "{} came at {time}", tick.id());
    }
    assert_eq!(every[0].ce("type"), "tick");
    assert_eq!(every[0].body, "plain text");
    assert_eq!(ticks(&every).len(), every.len());
    assert!(sink.received_at("/never").is_empty());
    Ok(())
}

pub(crate) async fn missed_ticks_are_caught_up_where_asked() -> Verdict {
    let sink = Sink::start().await;
    let events = "  kept: {schedule: \"* * * * * *\", catchUp: 1h}\n  lost: {schedule: \"* * * * * *\"}";
    let home = home(events, &["kept", "lost"], &sink);
    let mut evoke = home.run().await;
    sink.wait_at("/kept", 2, SOON).await;
    sink.wait_at("/lost", 2, SOON).await;
    evoke.stop().await;
    let stopped = ticks(&sink.received_at("/kept")).len();
    // Ticks are missed by time passing, and by nothing else.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut evoke = home.run().await;
    sink.wait_at("/kept", stopped + 6, SOON).await;
    sink.wait_at("/lost", 4, SOON).await;
    // The same after a kill, which may repeat what was not recorded.
    evoke.kill().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let killed = sink.received_at("/kept").len();
    let mut evoke = home.run().await;
    sink.wait_at("/kept", killed + 3, SOON).await;
    evoke.stop().await;
    let kept = sink.received_at("/kept");
    let found = ticks(&kept);
    let span = (*found.last().unwrap() - *found.first().unwrap()).num_seconds();
    assert_eq!(i64::try_from(found.len()).unwrap(), span + 1, "a tick is missing: {found:?}");
    assert!(kept.len() - found.len() <= 2, "{} ticks came twice", kept.len() - found.len());
    let lost = ticks(&sink.received_at("/lost"));
    let span = (*lost.last().unwrap() - *lost.first().unwrap()).num_seconds();
    assert!(i64::try_from(lost.len()).unwrap() < span, "ticks were caught up that nobody asked for: {lost:?}");
    Ok(())
}

pub(crate) async fn only_what_was_missed_is_caught_up() -> Verdict {
    let sink = Sink::start().await;
    let clock = |tick: &str| {
        let source = source("clock", &format!("cron: {{tick: {{{tick}}}}}"));
        objects(&[source, pass("t", "clock", "tick", &sink.url("/"))])
    };
    let home = Home::new();
    let run = async |tick: &str| {
        home.write("evoke.yaml", clock(tick));
        let before = sink.count();
        let mut evoke = home.run().await;
        sink.wait(before + 2, SOON).await;
        evoke.stop().await;
    };
    // What fires while nothing is to be caught up is not missed.
    for tick in
        ["catchUp: 1h, schedule: \"@every 1s\"", "schedule: \"@every 1s\"", "catchUp: 1h, schedule: \"@every 1s\""]
    {
        run(tick).await;
    }
    let received = sink.received();
    let found = ticks(&received);
    assert_eq!(received.len(), found.len(), "a tick came twice: {found:?}");
    // Nor is what a schedule would have fired that was not there yet.
    let stopped = *found.last().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let back = Utc::now();
    run("catchUp: 1h, schedule: \"* * * * * *\"").await;
    let found = ticks(&sink.received());
    assert!(found.iter().all(|tick| *tick <= stopped || *tick > back), "{stopped} to {back}: {found:?}");
    Ok(())
}

/// Waits for a tick with this data.
async fn wait_for_data(sink: &Sink, data: &str) {
    let has_come = async || sink.received().iter().any(|tick| tick.body == data).then_some(());
    eventually(&format!("a tick with {data}"), SOON, has_come).await;
}

pub(crate) async fn a_reload_that_waits_loses_no_tick() -> Verdict {
    let (tell, told) = watch::channel(false);
    let sink = Sink::scripted(move |_| Answer::When(told.clone(), Box::new(Answer::Status(200)))).await;
    let clock = |data: &str| {
        let uri = sink.url("/");
        let tick = format!("{{schedule: \"@every 1s\", data: {data}}}");
        bare_source("clock", &format!("sink: {{uri: \"{uri}\"}}\ncron: {{tick: {tick}}}"))
    };
    let home = Home::with(clock("before"));
    let mut evoke = home.run().await;
    sink.wait(1, SOON).await;
    home.write("evoke.yaml", clock("after"));
    evoke.waits_for(&["evoke reload: changing source default/clock"], SOON).await;
    // Ticks are missed by time passing, and by nothing else.
    tokio::time::sleep(Duration::from_secs(3)).await;
    tell.send_replace(true);
    wait_for_data(&sink, "after").await;
    sink.wait_more(2, SOON).await;
    evoke.stop().await;
    assert_every_second(&sink.received());
    Ok(())
}

pub(crate) async fn a_reload_loses_no_tick_on_a_shared_bus() -> Verdict {
    let (server, sink) = (Redis::start().await?, Sink::start().await);
    let clock = |tick: &str| {
        objects(&[
            bus("default", &format!("redis: {{address: \"{}\", partitions: 1}}", server.address)),
            source("clock", &format!("cron: {{tick: {{{tick}}}}}")),
            pass("t", "clock", "tick", &sink.url("/")),
        ])
    };
    let home = Home::with(clock("data: first, schedule: \"@every 1s\""));
    let mut evoke = home.run().await;
    wait_for_data(&sink, "first").await;
    for (data, tick) in [
        ("edited", "data: edited, schedule: \"@every 1s\""),
        ("other", "data: other, schedule: \"* * * * * *\""),
        ("caught", "data: caught, schedule: \"* * * * * *\", catchUp: 1h"),
        ("last", "data: last, schedule: \"@every 1s\", catchUp: 1h"),
    ] {
        home.write("evoke.yaml", clock(tick));
        wait_for_data(&sink, data).await;
    }
    evoke.stop().await;
    assert_every_second(&sink.received());
    Ok(())
}
