//! What a Redis bus gives up: the oldest events where room is needed, and old ones. What a subscription loses by that is counted. And a
//! server whose disk is full.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::disk::SmallDisk;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::{assert_conserved, balance};
use evoke_tests::load::Load;
use evoke_tests::manifests::{bus, objects, pass, source, trigger};
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually, scratch};
use tempfile::TempDir;

use super::bus_redis;

const LONG: Duration = Duration::from_secs(60);
/// Longer than it takes until a subscription counts as one that runs nowhere, and is trimmed.
const ORPHANED: Duration = Duration::from_secs(120);
const PARTITIONS: usize = 4;
const KEYS: usize = 8;
/// What is more than `maxBytes`, by far.
const EVENTS: usize = 240;
const EVENT_BYTES: usize = 32 << 10;

/// Webhook, and a Trigger with a subscriber that takes everything at once and one that a test keeps from it. The event `other` is
/// read by one that takes everything, too.
fn home(server: &Redis, spec: &str, fast: &Sink, slow: &Sink) -> Home {
    let spec = format!("redis: {{address: \"{}\", partitions: {PARTITIONS}, {spec}}}", server.address);
    // What is tried again so late has to be read again from the bus.
    let retry = "retry: 1000, backoffPolicy: linear, backoffDelay: PT2S";
    let subscribers = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers:\n  \
         - {{name: fast, condition: it, sink: {{uri: \"{}\"}}}}\n  \
         - {{name: slow, condition: it, sink: {{uri: \"{}\"}}, delivery: {{{retry}}}}}",
        fast.url("/"),
        slow.url("/")
    );
    Home::with(objects(&[
        bus("default", &spec),
        source("web", "webhook: {in: {}, other: {}}"),
        trigger("t", &subscribers),
        pass("others", "web", "other", &fast.url("/other")),
    ]))
}

/// Posts events one after the other, of all keys in turn, and waits now and then until the fast one has them.
async fn send(evoke: &Evoke, event: &str, numbers: Range<usize>, bytes: usize, fast: &Sink) -> BTreeSet<String> {
    let (path, last) = (format!("/default/web/{event}"), numbers.end - 1);
    let mut sent = BTreeSet::new();
    for n in numbers {
        let key = format!("{event}{}", n % KEYS);
        let id = format!("{key}-{}", n / KEYS);
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", &*id),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-partitionkey", &*key),
        ];
        let answer = evoke.post(&path, &headers, vec![b'x'; bytes]).await;
        assert_eq!(answer.status, 202, "{id}: {}", answer.text());
        sent.insert(id);
        if n % 16 == 15 || n == last {
            fast.wait_all(&sent, SOON).await;
        }
    }
    sent
}

/// What is in the streams of an event.
async fn stored(server: &Redis, event: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for index in 0..PARTITIONS {
        let partition = if index == 0 { String::new() } else { format!(":{index}") };
        ids.extend(server.stream_ids(&format!("evoke:default:web:{event}{partition}")).await);
    }
    ids
}

async fn steer(home: &Home, how: &str) {
    let (code, text) = home.tool(&["subscription", how, "t/slow"]).await;
    assert_eq!(code, Some(0), "{text}");
}

async fn pause(home: &Home, evoke: &Evoke) {
    steer(home, "pause").await;
    evoke.log().wait_for(&["paused", "subscriber=default/t/slow"], SOON).await;
}

async fn dropped(evoke: &Evoke, subscriber: &str) -> f64 {
    evoke.metrics().await.sum("evoke_subscription_dropped_total", &[("subscriber", subscriber)])
}

/// Publishes more than the bus may hold, and shows that the sources do not notice and that the oldest made room. Gives what was
/// published and what is left.
async fn overflow(server: &Redis, evoke: &mut Evoke, fast: &Sink) -> (BTreeSet<String>, BTreeSet<String>) {
    let sent = send(evoke, "in", 0..EVENTS, EVENT_BYTES, fast).await;
    let left = stored(server, "in").await;
    let gone = sent.len() - left.len();
    assert!(gone > EVENTS / 4, "{gone} of {EVENTS} events of 32 KiB made room in 4 MiB");
    let labels = [("topic", "default.web.in")];
    assert_eq!(evoke.metrics().await.sum("evoke_bus_dropped_events_total", &labels), gone as f64);
    for key in 0..KEYS {
        let prefix = format!("in{key}-");
        let numbers: BTreeSet<usize> = left.iter().filter_map(|id| id.strip_prefix(&prefix)?.parse().ok()).collect();
        let newest: BTreeSet<usize> = (EVENTS / KEYS - numbers.len()..EVENTS / KEYS).collect();
        assert_eq!(numbers, newest, "what is left of in{key}");
    }
    evoke.ready(SOON).await;
    assert_eq!(evoke.log().count("publishers wait"), 0, "the sources were held up");
    assert_eq!(dropped(evoke, "fast").await, 0.0);
    assert_conserved(&sent, [&fast.delivered()], 0);
    (sent, left)
}

/// Everything that was sent was delivered once to the slow one or is counted as lost to it, and `left` is not lost. Gives what is.
async fn accounted(evoke: &Evoke, slow: &Sink, sent: &BTreeSet<String>, left: &BTreeSet<String>) -> BTreeSet<String> {
    slow.wait_all(left, LONG).await;
    eventually("nothing is under way", LONG, async || {
        let scrape = evoke.metrics().await;
        let under_way = ["evoke_deliveries_parked", "evoke_deliveries_in_flight"]
            .map(|name| scrape.sum(name, &[("subscriber", "slow")]));
        (under_way == [0.0, 0.0]).then_some(())
    })
    .await;
    let found = balance(sent, [&slow.delivered()]);
    assert_eq!((found.made_up, found.repeats), (Vec::new(), 0));
    let counted = dropped(evoke, "slow").await;
    assert_eq!(counted, found.lost.len() as f64, "of {} events, {} are left", sent.len(), left.len());
    found.lost.into_iter().collect()
}

pub(crate) async fn drop_oldest_counts_what_a_paused_subscription_loses() -> Verdict {
    let server = Redis::start().await?;
    let (fast, slow) = (Sink::start().await, Sink::start().await);
    let home = home(&server, "maxBytes: 4Mi, onFull: dropOldest", &fast, &slow);
    let mut evoke = home.run().await;
    pause(&home, &evoke).await;
    let (sent, left) = overflow(&server, &mut evoke, &fast).await;
    assert_eq!(slow.count(), 0, "it is paused");
    steer(&home, "resume").await;
    let lost = accounted(&evoke, &slow, &sent, &left).await;
    assert_eq!(lost, &sent - &left, "it gets what is left, and nothing else");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn drop_oldest_counts_what_waited_for_a_retry() -> Verdict {
    let server = Redis::start().await?;
    let (fast, slow) = (Sink::start().await, Sink::scripted(|_| Answer::Status(503)).await);
    let home = home(&server, "maxBytes: 4Mi, onFull: dropOldest", &fast, &slow);
    let mut evoke = home.run().await;
    let (sent, left) = overflow(&server, &mut evoke, &fast).await;
    slow.script(|_| Answer::Status(200));
    let lost = accounted(&evoke, &slow, &sent, &left).await;
    assert!(!lost.is_empty(), "the oldest waited for their retry when they were dropped");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn max_age_takes_what_all_have_finished_and_nothing_that_one_needs() -> Verdict {
    let server = Redis::start().await?;
    let (fast, slow) = (Sink::start().await, Sink::scripted(|_| Answer::Status(503)).await);
    let home = home(&server, "maxAge: 2s", &fast, &slow);
    let mut evoke = home.run().await;
    let sent = send(&evoke, "in", 0..20, 10, &fast).await;
    eventually("the slow one was given all", SOON, async || (slow.attempts().len() == sent.len()).then_some(())).await;
    // What was published later has aged and is gone by then, but for the last one of each stream. One round may have caught only that.
    for round in 0..2 {
        send(&evoke, "other", round * 20..(round + 1) * 20, 10, &fast).await;
        eventually("what all have finished is trimmed", LONG, async || {
            (stored(&server, "other").await.len() <= PARTITIONS).then_some(())
        })
        .await;
    }
    assert_eq!(stored(&server, "in").await, sent, "the slow one needs all of it");
    slow.script(|_| Answer::Status(200));
    slow.wait_all(&sent, LONG).await;
    eventually("what is finished by now is trimmed too", LONG, async || {
        (stored(&server, "in").await.len() <= PARTITIONS).then_some(())
    })
    .await;
    assert_eq!((dropped(&evoke, "slow").await, dropped(&evoke, "fast").await), (0.0, 0.0));
    evoke.stop().await;
    assert_conserved(&sent, [&slow.delivered()], 0);
    Ok(())
}

pub(crate) async fn max_age_takes_what_a_paused_subscription_needs_and_counts_it() -> Verdict {
    let server = Redis::start().await?;
    let (fast, slow) = (Sink::start().await, Sink::start().await);
    let home = home(&server, "maxAge: 30s", &fast, &slow);
    let mut evoke = home.run().await;
    pause(&home, &evoke).await;
    let mut sent = send(&evoke, "in", 0..40, 10, &fast).await;
    eventually("what has aged is trimmed", ORPHANED, async || {
        (stored(&server, "in").await.len() <= PARTITIONS).then_some(())
    })
    .await;
    sent.extend(send(&evoke, "in", 40..56, 10, &fast).await);
    let left = stored(&server, "in").await;
    assert!(left.len() >= 16, "what is young is kept: {left:?}");
    assert_eq!(slow.count(), 0, "it is paused");
    let gone = (sent.len() - left.len()) as f64;
    let shown = evoke.metric("evoke_subscription_lost_events", &[("subscriber", "slow")], gone, SOON).await;
    assert_eq!((shown, dropped(&evoke, "slow").await), (gone, 0.0), "it is dropped when it passes them");
    steer(&home, "resume").await;
    let lost = accounted(&evoke, &slow, &sent, &left).await;
    assert_eq!(lost, &sent - &left, "it gets what is left, and nothing else");
    assert_eq!(dropped(&evoke, "fast").await, 0.0);
    evoke.stop().await;
    Ok(())
}

/// A server whose append-only file is on a small disk, in a folder that has to outlive both.
async fn on_a_small_disk(appendfsync: &str) -> Result<(TempDir, SmallDisk, Redis), Skipped> {
    let folder = scratch::dir("full");
    let disk = SmallDisk::mount(folder.path().join("disk"), "64m").await?;
    let dir = format!("dir {}", disk.path().display());
    let server = Redis::with(&[&dir, &format!("appendfsync {appendfsync}")]).await?;
    Ok((folder, disk, server))
}

pub(crate) async fn a_full_disk_is_named_and_loses_nothing() -> Verdict {
    let (_folder, disk, server) = on_a_small_disk("everysec").await?;
    let sink = Sink::start().await;
    let home = bus_redis::home(&bus_redis::at(&server), &sink);
    let mut evoke = home.run().await;
    let url = evoke.webhook("/default/web/in");
    let load = Load::start(&url);
    load.more(200, LONG).await;
    let filler = disk.fill();
    let says = ["bus default.default: down", "takes no writes", "AOF file", "No space left on device"];
    evoke.waits_for(&says, LONG).await;
    assert_eq!(bus_redis::send(&url, "refused", b"x").await, Some(503));
    // Redis tries again by itself, and has in memory what it could not write.
    fs::remove_file(filler).unwrap();
    evoke.ready(LONG).await;
    load.more(200, LONG).await;
    bus_redis::all_arrive(load, &sink, evoke, &[server.address], 1).await;
    Ok(())
}

pub(crate) async fn a_server_that_ends_on_a_full_disk_is_waited_for_and_loses_nothing() -> Verdict {
    let (_folder, disk, server) = on_a_small_disk("always").await?;
    let sink = Sink::start().await;
    let home = bus_redis::home(&bus_redis::at(&server), &sink);
    let mut evoke = home.run().await;
    let url = evoke.webhook("/default/web/in");
    let load = Load::start(&url);
    load.more(200, LONG).await;
    let filler = disk.fill();
    // What Redis cannot write at once it has no way to take back: it ends itself, and whoever makes space has to start it again.
    server.ended(LONG).await;
    evoke.waits_for(&["bus default.default: down", "nobody listens there"], LONG).await;
    assert_eq!(bus_redis::send(&url, "refused", b"x").await, Some(503));
    fs::remove_file(filler).unwrap();
    server.resume().await;
    evoke.ready(LONG).await;
    load.more(200, LONG).await;
    bus_redis::all_arrive(load, &sink, evoke, &[server.address], 1).await;
    Ok(())
}
