//! Times and offsets as places in the log: what `evoke replay` takes between two of them, and where `startAt` begins.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use evoke_api::names::{ObjectName, TopicName};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home, assert_has, json as read};
use evoke_tests::http::{Received, Sink};
use evoke_tests::ledger::{Counts, count};
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::{SOON, bus, eventually};
use serde_json::{Value, json};

use super::replay;

/// How far from a time between them the events on both sides of it are, at the least: buses know times to a millisecond.
const MARGIN: Duration = Duration::from_millis(10);

/// Events `0..4`, `4..8` and `8..12` that all subscribers have, and what lies between them.
struct Marked {
    home: Home,
    evoke: Evoke,
    sink: Sink,
    /// Behind the first four, as `subscription list` shows it.
    offset: String,
    /// A time behind the first four.
    begin: String,
    /// A time behind the first eight.
    end: String,
}

async fn marked(server: &BusServer) -> Marked {
    let sink = Sink::start().await;
    let home = server.home(replay::manifest(&sink));
    let evoke = home.run().await;
    for n in 0..4 {
        replay::send(&evoke, n).await;
    }
    let (offset, begin) = (replay::offset(&home, 4).await, between().await);
    for n in 4..8 {
        replay::send(&evoke, n).await;
    }
    let end = between().await;
    for n in 8..12 {
        replay::send(&evoke, n).await;
    }
    sink.wait_at("/all", 12, SOON).await;
    sink.wait_at("/even", 6, SOON).await;
    Marked { home, evoke, sink, offset, begin, end }
}

/// A time after what is on the bus by now, and before what comes there later.
async fn between() -> String {
    let time = Utc::now() + MARGIN;
    eventually("the clock goes on", SOON, async || (Utc::now() > time + MARGIN).then_some(())).await;
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// What a replay has delivered at a path, by id.
fn replayed(sink: &Sink, path: &str, job: &Value) -> Counts {
    let requests = sink.received_at(path);
    count(requests.iter().filter(|request| job["id"] == *request.ce("evokereplay")).map(Received::id))
}

pub(crate) async fn a_time_and_an_offset_are_places_on_the_embedded_bus() -> Verdict {
    are_places(&BusServer::Embedded).await
}

pub(crate) async fn a_time_and_an_offset_are_places_on_jetstream() -> Verdict {
    are_places(&BusServer::jetstream().await?).await
}

pub(crate) async fn a_time_and_an_offset_are_places_on_kafka() -> Verdict {
    are_places(&BusServer::kafka().await?).await
}

pub(crate) async fn a_time_and_an_offset_are_places_on_redis() -> Verdict {
    are_places(&BusServer::redis().await?).await
}

async fn are_places(server: &BusServer) -> Verdict {
    let mut marked = marked(server).await;
    bound_replays(&marked).await;
    start_subscriptions(&marked).await;
    marked.evoke.stop().await;
    Ok(())
}

/// A replay delivers what lies between its bounds, and a dry run counts the same.
async fn bound_replays(Marked { home, sink, offset, begin, end, .. }: &Marked) {
    for (part, ids) in [
        (&["--since", begin, "--until", end][..], 4_usize..8),
        (&["--from", offset, "--until", end], 4..8),
        (&["--from", "earliest", "--until", begin], 0..4),
        (&["--since", end], 8..12),
        (&["--since", end, "--until", end], 8..8),
    ] {
        let all: Vec<String> = ids.clone().map(|n| n.to_string()).collect();
        let even: Vec<String> = ids.filter(|n| n.is_multiple_of(2)).map(|n| n.to_string()).collect();
        let args = [&["replay", "--trigger", "t"][..], part].concat();
        let counted = home.json(&[&args[..], &["--dry-run"]].concat()).await;
        let expected = json!([
            { "subscription": "default/t/all", "read": all.len(), "matched": all.len() },
            { "subscription": "default/t/even", "read": all.len(), "matched": even.len() },
        ]);
        assert_eq!(counted["dryRun"], expected, "{part:?}");

        let done = home.json(&args).await;
        for (subscriber, ids) in [("all", &all), ("even", &even)] {
            let subscription = format!("default/t/{subscriber}");
            let jobs = done["jobs"].as_array().unwrap();
            let job = jobs.iter().find(|job| job["subscription"] == *subscription).unwrap();
            assert_has(job, &json!({ "kind": "replay", "state": "done" }));
            let counts = json!({ "read": all.len(), "matched": ids.len(), "delivered": ids.len(), "failed": 0 });
            assert_has(&job["counts"], &counts);
            assert_eq!(replayed(sink, &format!("/{subscriber}"), job), count(ids.iter().cloned()), "{part:?}");
        }
    }
    // As an offset may go on where nothing is, what is still to come is asked for, and how often what came has come.
    replay::offset(home, 12).await;
    let delivered = sink.received_at("/all").into_iter().filter(|request| request.ce("evokereplay").is_empty());
    assert_eq!(count(delivered.map(|request| request.id().to_owned())), count((0..12).map(|n| n.to_string())));
}

/// A new subscription starts at its place, and gets all that comes later.
async fn start_subscriptions(Marked { home, evoke, sink, offset, begin, end }: &Marked) {
    let starts = [
        ("earliest", "earliest", 0),
        ("offset", &**offset, 4),
        ("time", &**begin, 4),
        ("later", &**end, 8),
        ("latest", "latest", 12),
    ];
    let line = |(name, at, _): &(&str, &str, usize)| {
        let url = sink.url(&format!("/{name}"));
        format!("\n  - {{name: {name}, condition: it, startAt: \"{at}\", sink: {{uri: \"{url}\"}}}}")
    };
    let lines: String = starts.iter().map(line).collect();
    let spec = format!("inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers:{lines}");
    home.write("new.yaml", trigger("new", &spec));
    eventually("every new subscription runs", SOON, async || {
        let listed = home.json(&["subscription", "list", "--trigger", "new"]).await;
        let rows = listed["subscriptions"].as_array().unwrap();
        (rows.len() == starts.len() && rows.iter().all(|row| row["running"] == true)).then_some(())
    })
    .await;
    for n in 12..14 {
        replay::send(evoke, n).await;
    }
    for (name, _, first) in starts {
        let received = sink.wait_at(&format!("/{name}"), 14 - first, SOON).await;
        let expected = count((first..14).map(|n| n.to_string()));
        assert_eq!(count(received.iter().map(Received::id)), expected, "{name}");
    }
}

pub(crate) async fn a_replay_is_exact_to_the_event() -> Verdict {
    let Marked { home, mut evoke, sink: _sink, .. } = marked(&BusServer::Embedded).await;
    evoke.stop().await;
    let topic = TopicName::event(&ObjectName::new("default", "web"), "in");
    let records = bus::records(&home.data(), &topic).await;
    let time =
        |index: usize| DateTime::<Utc>::from(records[index].appended).to_rfc3339_opts(SecondsFormat::Nanos, true);
    // What came at the first time belongs to it, what came at the last does not.
    let (since, until) = (time(3), time(9));
    let expected = count(records[3..9].iter().map(|record| record.event.id()));
    let part = ["replay", "--trigger", "t", "--subscriber", "all", "--since", &since, "--until", &until, "-o", "json"];
    let (code, text) = home.tool_without_evoke(&[&part[..], &["--dry-run"]].concat()).await;
    assert_eq!(code, Some(0), "{text}");
    assert_has(&read(&text)["dryRun"][0], &json!({ "read": 6, "matched": 6 }));
    let laptop = Sink::start().await;
    let url = laptop.url("/");
    let (code, text) = home.tool_without_evoke(&[&part[..], &["--to", &url]].concat()).await;
    assert_eq!(code, Some(0), "{text}");
    assert_has(&read(&text)["jobs"][0]["counts"], &json!({ "read": 6, "delivered": 6 }));
    assert_eq!(laptop.attempts(), expected);
    Ok(())
}

pub(crate) async fn each_input_has_an_offset_of_its_own() -> Verdict {
    let sink = Sink::start().await;
    let spec = format!(
        "inputs: {{a: {{eventSource: web, event: a}}, b: {{eventSource: web, event: b}}}}\n\
         subscribers: [{{name: either, condition: \"a || b\", sink: {{uri: \"{}\"}}}}]",
        sink.url("/")
    );
    let home = Home::with(objects(&[source("web", "webhook: {a: {}, b: {}}"), trigger("t", &spec)]));
    let mut evoke = home.run().await;
    let send_both = async |n: usize| {
        for input in ["a", "b"] {
            let id = format!("{input}{n}");
            let headers = [("ce-specversion", "1.0"), ("ce-id", &*id), ("ce-source", "/s"), ("ce-type", "t")];
            assert_eq!(evoke.post(&format!("/default/web/{input}"), &headers, "x").await.status, 202);
        }
    };
    let evaluated = async |events: usize| {
        eventually("the position is recorded", SOON, async || {
            let row = home.json(&["subscription", "list"]).await["subscriptions"][0].clone();
            (row["evaluated"] == events).then_some(row)
        })
        .await
    };
    send_both(0).await;
    let before = evaluated(2).await;
    send_both(1).await;
    let until = between().await;
    send_both(2).await;
    evaluated(6).await;
    sink.wait_delivered(6, SOON).await;

    let inputs = before["inputs"].as_array().unwrap();
    let [one, other] = &inputs[..] else { panic!("two inputs: {before}") };
    let (one, other) = (one["offset"].as_str().unwrap(), other["offset"].as_str().unwrap());
    let part = ["replay", "--trigger", "t", "--from", one, "--from", other, "--until", &until];
    let counted = home.json(&[&part[..], &["--dry-run"]].concat()).await;
    assert_eq!(counted["dryRun"], json!([{ "subscription": "default/t/either", "read": 2, "matched": 2 }]));
    let done = home.json(&part).await;
    assert_has(&done["jobs"][0]["counts"], &json!({ "matched": 2, "delivered": 2, "failed": 0 }));
    assert_eq!(replayed(&sink, "/", &done["jobs"][0]), count(["a1", "b1"]));
    let (code, text) = home.tool(&["replay", "--trigger", "t", "--from", one]).await;
    assert!(code == Some(1) && text.contains("there is no offset for the input on topic default.web."), "{text}");
    evoke.stop().await;
    Ok(())
}
