//! Cron sources: ticks on time, once each, and those that were missed.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use cloudevents::AttributesReader;
use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Received, Sink};
use evoke_tests::manifests::{objects, pass, source};
use serde_json::json;

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
    let seconds = sink.wait_at("/seconds", 4, SOON).await;
    let every = sink.wait_at("/every", 3, SOON).await;
    evoke.stop().await;
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
