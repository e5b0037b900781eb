//! Several `evoke run` processes on one bus: they share its work, and take over from one that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::{Load, Sent};
use evoke_tests::manifests::{bus, objects, source, trigger};
use evoke_tests::process::Signal;
use evoke_tests::servers::bus::BusServer;
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use serde_json::Value;

/// Longer than it takes to be taken for dead and replaced.
const TAKEOVER: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_secs(90);
const PARTITIONS: u64 = 8;
/// What one kill may repeat for one subscriber, at the default `maxInFlight` of 100.
const PER_KILL: usize = 2 * 100;

/// Webhook, bus, and a Trigger with one subscriber that is split and one that is a join.
fn manifest(server: &BusServer, split: &Sink, join: &Sink) -> String {
    objects(&[
        bus("default", &server.spec(PARTITIONS)),
        source("web", "webhook: {in: {}, other: {}}"),
        trigger(
            "t",
            &format!(
                "inputs: {{it: {{eventSource: web, event: in}}, other: {{eventSource: web, event: other}}}}\n\
                 subscribers:\n  - {{name: split, condition: it, sink: {{uri: \"{}\"}}}}\n  \
                 - {{name: join, condition: \"it || other\", sink: {{uri: \"{}\"}}}}",
                split.url("/"),
                join.url("/")
            ),
        ),
    ])
}

/// The partitions that a process owns.
async fn owned(evoke: &Evoke) -> BTreeSet<u64> {
    let subscriber = evoke.subscriber("default/t", "split").await.unwrap_or_default();
    subscriber["mine"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

async fn owns_join(evoke: &Evoke) -> bool {
    evoke.subscriber("default/t", "join").await.is_some_and(|subscriber| subscriber["mine"] == "all")
}

/// Waits until these processes own everything between them, each at least `least`.
async fn divided(processes: &[&Evoke], least: usize) {
    eventually("everything has an owner", TAKEOVER, async || {
        let (mut all, mut sum, mut joins) = (BTreeSet::new(), 0, 0);
        for evoke in processes {
            let owned = owned(evoke).await;
            if owned.len() < least {
                return None;
            }
            sum += owned.len();
            all.extend(owned);
            joins += usize::from(owns_join(evoke).await);
        }
        (all.len() as u64 == PARTITIONS && sum == all.len() && joins == 1).then_some(())
    })
    .await;
}

async fn sink() -> Sink {
    Sink::scripted(|_| Answer::After(Duration::from_millis(30), Box::new(Answer::Status(200)))).await
}

/// Everything that was sent has arrived at both subscribers, `repeats` of it again at most.
async fn settled(sent: &BTreeSet<String>, sinks: [&Sink; 2], repeats: usize) {
    for sink in sinks {
        sink.wait_delivered(sent.len(), LONG).await;
        let found = assert_conserved(sent, [&sink.delivered()], repeats);
        println!("sharing: {} events, {} repeats of at most {repeats}", sent.len(), found.repeats);
    }
}

pub(crate) async fn processes_come_and_go_and_nothing_is_repeated() -> Verdict {
    come_and_go(&BusServer::redis().await?).await
}

pub(crate) async fn processes_come_and_go_on_jetstream() -> Verdict {
    come_and_go(&BusServer::jetstream().await?).await
}

pub(crate) async fn processes_come_and_go_on_kafka() -> Verdict {
    come_and_go(&BusServer::kafka().await?).await
}

async fn come_and_go(server: &BusServer) -> Verdict {
    let (split, join) = (sink().await, sink().await);
    let homes: Vec<_> = (0..3).map(|_| Home::with(manifest(server, &split, &join))).collect();
    let mut one = homes[0].run().await;
    divided(&[&one], 8).await;
    let load = Load::start(&one.webhook("/default/web/in"));
    let mut two = homes[1].run().await;
    divided(&[&one, &two], 4).await;
    load.more(300, LONG).await;
    let mut three = homes[2].run().await;
    divided(&[&one, &two, &three], 2).await;
    load.more(300, LONG).await;
    two.stop().await;
    divided(&[&one, &three], 4).await;
    load.more(100, LONG).await;
    let Sent { ids: sent, again } = load.end().await;
    assert_eq!(again, 0);
    settled(&sent, [&split, &join], 0).await;
    three.stop().await;
    one.stop().await;
    Ok(())
}

pub(crate) async fn a_killed_process_is_replaced_under_load() -> Verdict {
    kill_one(&BusServer::redis().await?).await
}

pub(crate) async fn a_killed_process_is_replaced_on_jetstream() -> Verdict {
    kill_one(&BusServer::jetstream().await?).await
}

pub(crate) async fn a_killed_process_is_replaced_on_kafka() -> Verdict {
    kill_one(&BusServer::kafka().await?).await
}

async fn kill_one(server: &BusServer) -> Verdict {
    let (split, join) = (sink().await, sink().await);
    let homes: Vec<_> = (0..3).map(|_| Home::with(manifest(server, &split, &join))).collect();
    let mut all = BTreeMap::new();
    for (n, home) in homes.iter().enumerate() {
        all.insert(n, home.run().await);
    }
    divided(&all.values().collect::<Vec<_>>(), 2).await;
    let urls: Vec<_> = all.values().map(|evoke| evoke.webhook("/default/web/in")).collect();
    let load = Load::start_on(&urls);
    load.more(200, LONG).await;
    // The one that has the join has the most to lose.
    let mut victim = 0;
    for (n, evoke) in &all {
        if owns_join(evoke).await {
            victim = *n;
        }
    }
    all.remove(&victim).unwrap().kill().await;
    divided(&all.values().collect::<Vec<_>>(), 4).await;
    load.more(200, LONG).await;
    // A restart takes part again, under its old name.
    let back = homes[victim].run().await;
    all.insert(victim, back);
    divided(&all.values().collect::<Vec<_>>(), 2).await;
    load.more(100, LONG).await;
    let Sent { ids: sent, again } = load.end().await;
    settled(&sent, [&split, &join], PER_KILL + again).await;
    for evoke in all.values_mut() {
        evoke.stop().await;
    }
    Ok(())
}

pub(crate) async fn a_stopped_process_is_replaced_and_comes_back_harmless() -> Verdict {
    stop_one(&BusServer::redis().await?).await
}

pub(crate) async fn a_stopped_process_is_replaced_and_comes_back_harmless_on_jetstream() -> Verdict {
    stop_one(&BusServer::jetstream().await?).await
}

pub(crate) async fn a_stopped_process_is_replaced_and_comes_back_harmless_on_kafka() -> Verdict {
    stop_one(&BusServer::kafka().await?).await
}

async fn stop_one(server: &BusServer) -> Verdict {
    let (split, join) = (sink().await, sink().await);
    let homes: Vec<_> = (0..2).map(|_| Home::with(manifest(server, &split, &join))).collect();
    let (mut one, mut two) = (homes[0].run().await, homes[1].run().await);
    divided(&[&one, &two], 4).await;
    let load = Load::start(&one.webhook("/default/web/in"));
    load.more(200, LONG).await;
    two.signal(Signal::STOP);
    divided(&[&one], 8).await;
    load.more(200, LONG).await;
    two.signal(Signal::CONT);
    divided(&[&one, &two], 4).await;
    load.more(200, LONG).await;
    let Sent { ids: sent, again } = load.end().await;
    settled(&sent, [&split, &join], PER_KILL + again).await;
    two.stop().await;
    one.stop().await;
    Ok(())
}

pub(crate) async fn a_copied_data_directory_is_refused() -> Verdict {
    copy_data(&BusServer::redis().await?).await
}

pub(crate) async fn a_copied_data_directory_is_refused_on_jetstream() -> Verdict {
    copy_data(&BusServer::jetstream().await?).await
}

pub(crate) async fn a_copied_data_directory_is_refused_on_kafka() -> Verdict {
    copy_data(&BusServer::kafka().await?).await
}

async fn copy_data(server: &BusServer) -> Verdict {
    let (split, join) = (sink().await, sink().await);
    let (home, copy) = (Home::with(manifest(server, &split, &join)), Home::with(manifest(server, &split, &join)));
    let mut one = home.run().await;
    fs::create_dir_all(copy.data()).unwrap();
    fs::copy(home.data().join("INSTANCE"), copy.data().join("INSTANCE")).unwrap();
    let (status, log) = copy.evoke().output(TAKEOVER).await;
    assert_eq!(status.code(), Some(1));
    let name = fs::read_to_string(home.data().join("INSTANCE")).unwrap();
    let (first, second) = (home.data().display().to_string(), copy.data().display().to_string());
    for part in [name.trim(), &first, &second, "delete the file INSTANCE"] {
        assert!(log.text().contains(part), "{part} in {}", log.text());
    }
    let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    assert_eq!(one.post("/default/web/in", &headers, "x").await.status, 202);
    split.wait_delivered(1, SOON).await;
    fs::remove_file(copy.data().join("INSTANCE")).unwrap();
    let mut two = copy.run().await;
    divided(&[&one, &two], 4).await;
    two.stop().await;
    one.stop().await;
    Ok(())
}

/// When a tick was due.
fn time(tick: &str) -> DateTime<Utc> {
    tick.parse().unwrap()
}

/// Waits for three ticks that are due from now on. What was late, and fired all at once, is delivered and recorded by then.
async fn ticks_come_on_time(sink: &Sink) {
    let before = sink.delivered_count();
    sink.wait_delivered(before + 1, TAKEOVER).await;
    let now = Utc::now();
    eventually("ticks come on time", TAKEOVER, async || {
        let on_time = sink.delivered().keys().filter(|tick| time(tick) > now).count();
        (on_time >= 3).then_some(())
    })
    .await;
}

pub(crate) async fn a_tick_is_fired_once_over_all_processes() -> Verdict {
    let server = Redis::start().await?;
    let sink = sink().await;
    let manifest = objects(&[
        bus("default", &format!("redis: {{address: \"{}\", partitions: 2}}", server.address)),
        source("clock", "cron: {tick: {schedule: \"@every 1s\"}}"),
        trigger(
            "t",
            &format!(
                "inputs: {{it: {{eventSource: clock, event: tick}}}}\n\
                 subscribers: [{{name: all, condition: it, sink: {{uri: \"{}\"}}}}]",
                sink.url("/")
            ),
        ),
    ]);
    let homes: Vec<_> = (0..3).map(|_| Home::with(&manifest)).collect();
    let mut all = Vec::new();
    for home in &homes {
        all.push(home.run().await);
    }
    ticks_come_on_time(&sink).await;
    // Whoever fires it: two deaths, and somebody goes on.
    for _ in 0..2 {
        all.remove(0).kill().await;
        ticks_come_on_time(&sink).await;
    }
    // A tick may wait in a partition of the dead until another takes it over.
    let waited = Instant::now();
    eventually("no tick is lost", 2 * TAKEOVER, async || {
        let times: Vec<_> = sink.delivered().keys().map(|id| time(id)).collect();
        let lost: Vec<_> = times.windows(2).filter(|pair| (pair[1] - pair[0]).num_seconds() != 1).collect();
        assert!(lost.is_empty() || waited.elapsed() < TAKEOVER, "nothing came between {lost:?}, of {times:?}");
        lost.is_empty().then_some(())
    })
    .await;
    for mut evoke in all {
        evoke.stop().await;
    }
    let delivered = sink.delivered();
    let repeats: usize = delivered.values().map(|count| count - 1).sum();
    assert!(repeats <= 2 * 2, "a kill repeats at most what was not yet recorded: {delivered:?}");
    Ok(())
}
