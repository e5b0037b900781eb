//! Limits and memory of a subscriber: `rateLimit`, `deduplicationWindow`, `startAt`.

use std::time::Instant;

use evoke_api::names::{ObjectName, TopicName};
use evoke_eventbus::subscription::token::Token;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Received, Sink};
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::{SOON, bus, eventually};

const WEB: &str = "webhook: {in: {}}";

async fn send(evoke: &Evoke, ids: impl IntoIterator<Item = u32>) {
    for id in ids {
        let id = id.to_string();
        let headers = [("ce-specversion", "1.0"), ("ce-id", &*id), ("ce-source", "/test"), ("ce-type", "t")];
        assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
    }
}

/// Subscribers of `web/in` by name and whatever else they have, each posted to at the path of its name.
fn to(sink: &Sink, subscribers: &[(&str, &str)]) -> String {
    let line = |(name, more): &(&str, &str)| {
        let uri = sink.url(&format!("/{name}"));
        format!("\n  - {{name: {name}, condition: it, sink: {{uri: \"{uri}\"}}, {more}}}")
    };
    let lines: String = subscribers.iter().map(line).collect();
    let spec = format!("inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers:{lines}");
    objects(&[source("web", WEB), trigger("t", &spec)])
}

fn ids(received: &[Received]) -> Vec<u32> {
    let mut ids: Vec<u32> = received.iter().map(|request| request.id().parse().unwrap()).collect();
    ids.sort_unstable();
    ids
}

pub(crate) async fn a_rate_is_kept_over_a_reload_and_holds_nobody_else_back() -> Verdict {
    let sink = Sink::start().await;
    let limit = "rateLimit: {events: 4, per: PT1S, burst: 2}";
    let home = Home::with(to(&sink, &[("slow", &format!("delivery: {{{limit}}}")), ("fast", "")]));
    let evoke = home.run().await;
    let begun = Instant::now();
    send(&evoke, 0..24).await;
    sink.wait_at("/fast", 24, SOON).await;
    let before = sink.wait_at("/slow", 6, SOON).await.len();
    home.write("evoke.yaml", to(&sink, &[("slow", &format!("delivery: {{retry: 3, {limit}}}")), ("fast", "")]));
    evoke.metric("evoke_reloads_total", &[("outcome", "applied")], 1.0, SOON).await;
    let slow = sink.wait_at("/slow", 24, SOON).await;
    assert!(before < 24, "the reload comes in the middle");
    assert_eq!(ids(&slow), (0..24).collect::<Vec<_>>());
    let mut starts: Vec<_> = slow.iter().map(|request| request.at).collect();
    starts.sort();
    // Any stretch of deliveries takes as long as its tokens do. The first may be late, and the next then seems early.
    for (n, start) in starts.iter().enumerate().skip(2) {
        let took = (*start - begun).as_secs_f64();
        assert!(took >= (n - 1) as f64 / 4.0, "the {n}th came after {took} s");
    }
    let waited = evoke.metric("evoke_rate_limit_wait_seconds_total", &[("subscriber", "slow")], 0.5, SOON).await;
    assert!(waited < 60.0, "{waited}");
    Ok(())
}

pub(crate) async fn a_repeat_is_not_delivered_over_a_restart_and_a_kill() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(to(&sink, &[("once", "delivery: {deduplicationWindow: PT1H}"), ("all", "")]));
    let mut evoke = home.run().await;
    let duplicates = [("subscriber", "once"), ("outcome", "duplicate")];
    send(&evoke, [1, 2, 1]).await;
    evoke.metric("evoke_deliveries_total", &duplicates, 1.0, SOON).await;
    sink.wait_at("/all", 3, SOON).await;
    evoke.stop().await;
    let mut evoke = home.run().await;
    send(&evoke, [2, 3, 1]).await;
    evoke.metric("evoke_deliveries_total", &duplicates, 2.0, SOON).await;
    // All of it is recorded, so that the kill itself repeats nothing.
    evoke.metric("evoke_deliveries_total", &[("subscriber", "once"), ("outcome", "delivered")], 1.0, SOON).await;
    sink.wait_at("/all", 6, SOON).await;
    evoke.stop().await;
    let mut evoke = home.run().await;
    send(&evoke, [4]).await;
    sink.wait_at("/once", 4, SOON).await;
    evoke.kill().await;
    let mut evoke = home.run().await;
    send(&evoke, [1, 2, 3, 5]).await;
    evoke.metric("evoke_deliveries_total", &duplicates, 3.0, SOON).await;
    let has_last = async || sink.received_at("/once").iter().any(|request| request.id() == "5").then_some(());
    eventually("the last event comes", SOON, has_last).await;
    evoke.stop().await;
    let mut once = ids(&sink.received_at("/once"));
    // What was under way at the kill may come twice, as ever.
    once.dedup_by(|a, b| a == b && *a == 4);
    assert_eq!(once, [1, 2, 3, 4, 5]);
    Ok(())
}

pub(crate) async fn a_new_subscription_starts_where_it_says_and_an_old_one_goes_on() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(to(&sink, &[("first", "")]));
    let mut evoke = home.run().await;
    send(&evoke, 0..6).await;
    sink.wait_at("/first", 6, SOON).await;
    evoke.stop().await;
    let topic = TopicName::event(&ObjectName::new("default", "web"), "in");
    let records = bus::records(&home.data(), &topic).await;
    let token = Token { topic, positions: [(0, records[2].at)].into() };
    let time =
        chrono::DateTime::<chrono::Utc>::from(records[4].appended).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let from_time = records.iter().filter(|record| record.appended >= records[4].appended).count();
    let all = [
        ("first", "startAt: earliest".to_owned()),
        ("earliest", "startAt: earliest".to_owned()),
        ("latest", "startAt: latest".to_owned()),
        ("offset", format!("startAt: {token}")),
        ("time", format!("startAt: \"{time}\"")),
    ];
    let with = |subscribers: &[(&str, String)]| {
        to(&sink, &subscribers.iter().map(|(name, more)| (*name, &**more)).collect::<Vec<_>>())
    };
    home.write("evoke.yaml", with(&all));
    let mut evoke = home.run().await;
    send(&evoke, 6..8).await;
    for (path, from) in [("/earliest", 0), ("/offset", 2), ("/latest", 6)] {
        let received = sink.wait_at(path, 8 - from as usize, SOON).await;
        assert_eq!(ids(&received), (from..8).collect::<Vec<_>>(), "{path}");
    }
    // Times are of a millisecond, in which more than one event may have been appended.
    assert!(sink.wait_at("/time", from_time + 2, SOON).await.len() <= 8);
    sink.wait_at("/first", 8, SOON).await;
    evoke.stop().await;
    // Taken away, edited and made again: the position stays, whatever `startAt` says.
    home.write("evoke.yaml", with(&all[..1]));
    let mut evoke = home.run().await;
    evoke.stop().await;
    home.write("evoke.yaml", with(&all.map(|(name, _)| (name, "startAt: earliest, delivery: {retry: 1}".to_owned()))));
    let mut evoke = home.run().await;
    send(&evoke, 8..9).await;
    for (path, count) in [("/first", 9), ("/earliest", 9), ("/offset", 7), ("/latest", 3)] {
        assert_eq!(sink.wait_at(path, count, SOON).await.len(), count, "{path}");
    }
    evoke.stop().await;
    assert_eq!(sink.received_at("/first").len(), 9);
    Ok(())
}
