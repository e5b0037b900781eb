//! `kill -9` under load, again and again: every event arrives, and repeats stay within what is promised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use evoke_tests::bus::stored_ids;
use evoke_tests::case::Verdict;
use evoke_tests::eventually;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Sink, request};
use evoke_tests::ledger::{Counts, assert_conserved, count, repeats};
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::servers::kafka::{self, Record, produce};
use tokio::task::JoinSet;

const KILLS: usize = 20;
/// Deliveries between two kills, at the least.
const BETWEEN: usize = 300;
/// What one kill may repeat for one subscriber, at the default `maxInFlight` of 100.
const PER_KILL: usize = 2 * 100;

/// How long the slow subscriber takes: at its 100 places, it falls behind the load.
const SLOW: Duration = Duration::from_millis(200);

/// Two subscribers at default limits: one as fast as it can, one that falls behind.
fn subscribers(fast: &Sink, slow: &Sink, event_source: &str, event: &str) -> String {
    trigger(
        "t",
        &format!(
            "inputs: {{it: {{eventSource: {event_source}, event: {event}}}}}\n\
             subscribers:\n  - {{name: fast, condition: it, sink: {{uri: \"{}\"}}}}\n  \
             - {{name: slow, condition: it, sink: {{uri: \"{}\"}}}}",
            fast.url("/"),
            slow.url("/")
        ),
    )
}

/// How far the load may run ahead of the slow subscriber.
const AHEAD: usize = 2_000;

async fn sinks() -> (Arc<Sink>, Arc<Sink>) {
    let slowly = |_: &_| Answer::After(SLOW, Box::new(Answer::Status(200)));
    (Arc::new(Sink::start().await), Arc::new(Sink::scripted(slowly).await))
}

pub(crate) async fn kafka_records_survive_twenty_kills() -> Verdict {
    let broker = kafka::shared().await?;
    let (topic, group) = (broker.topic(4).await, broker.name("group"));
    let (fast, slow) = sinks().await;
    let spec = format!(
        "kafka: {{orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, consumerGroup: {group}}}}}",
        broker.listeners.plain
    );
    let home = Home::with(objects(&[source("kafka", &spec), subscribers(&fast, &slow, "kafka", "orders")]));
    // The load runs ahead of the slow sink, so that every kill finds a backlog.
    let (stop, produced) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (mut load, stopped, counter) = (JoinSet::new(), stop.clone(), produced.clone());
    let (producer, to, behind) = (broker.producer(), topic.clone(), slow.clone());
    load.spawn(async move {
        let mut ids = BTreeSet::new();
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while !stopped.load(Ordering::Relaxed) {
            pace.tick().await;
            if ids.len() > behind.delivered_count() + AHEAD {
                continue;
            }
            let records = (0..40).map(|n| Record::new(vec![b'x'; 1024]).partition(n % 4));
            ids.extend(produce(&producer, &to, records).await.into_iter().map(|placed| placed.id));
            counter.store(ids.len(), Ordering::Relaxed);
        }
        ids
    });
    let (mut reread, mut deliveries) = (0, Deliveries::default());
    for kill in 0..KILLS {
        let mut evoke = home.run().await;
        let target = slow.delivered_count() + BETWEEN;
        slow.wait_delivered(target, Duration::from_secs(60)).await;
        let waiting = produced.load(Ordering::Relaxed).saturating_sub(slow.delivered_count());
        assert!(kill == 0 || waiting > 100, "kill {kill} found a backlog of {waiting}");
        deliveries.note(&fast, &slow);
        evoke.kill().await;
        let committed: i64 = broker.committed(&group, &topic, 4).await.values().sum();
        // What was read and maybe stored, but not committed, is read again.
        let seen = fast.delivered_count().max(slow.delivered_count());
        reread += seen.saturating_sub(usize::try_from(committed).unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    let sent = load.join_next().await.unwrap().unwrap();
    let mut evoke = home.run().await;
    fast.wait_delivered(sent.len(), Duration::from_secs(60)).await;
    slow.wait_delivered(sent.len(), Duration::from_secs(120)).await;
    evoke.stop().await;
    deliveries.note(&fast, &slow);
    let stored = count(stored_ids(&home.data(), "default.kafka.orders").await);
    let twice = repeats(&stored);
    println!("kill loop, Kafka: {} sent, {twice} stored twice, at least {reread} read again", sent.len());
    report("fast", &sent, &stored, &deliveries.fast);
    report("slow", &sent, &stored, &deliveries.slow);
    Ok(())
}

/// How often each event had been delivered before each kill, and at the end.
#[derive(Default)]
struct Deliveries {
    fast: Vec<Counts>,
    slow: Vec<Counts>,
}

impl Deliveries {
    fn note(&mut self, fast: &Sink, slow: &Sink) {
        self.fast.push(fast.delivered());
        self.slow.push(slow.delivered());
    }
}

/// The deliveries beyond one for each time that an event is on the bus: one that was read or sent again is there twice, and is to be
/// delivered twice.
fn beyond(delivered: &Counts, stored: &Counts) -> usize {
    delivered.iter().map(|(id, times)| times.saturating_sub(stored.get(id).copied().unwrap_or(0))).sum()
}

/// Holds each kill by itself to what it may repeat, whatever the others cost.
fn report(subscriber: &str, sent: &BTreeSet<String>, stored: &Counts, delivered: &[Counts]) {
    let again = repeats(stored);
    assert_conserved(sent, [stored], again);
    let (first, last) = (delivered.first().unwrap(), delivered.last().unwrap());
    assert_eq!(beyond(first, stored), 0, "{subscriber}: repeats before the first kill");
    let between = delivered.windows(2).map(|both| beyond(&both[1], stored) - beyond(&both[0], stored));
    let costs: Vec<usize> = between.collect();
    for (kill, cost) in costs.iter().enumerate() {
        assert!(*cost <= PER_KILL, "{subscriber}: kill {kill} cost {cost} repeats, {PER_KILL} are allowed: {costs:?}");
    }
    let found = assert_conserved(sent, [last], KILLS * PER_KILL + again);
    println!(
        "kill loop: {subscriber} got {} events, {} repeats; a kill cost at most {} of {PER_KILL}, and {again} were stored twice",
        sent.len(),
        found.repeats,
        costs.iter().max().unwrap()
    );
}

pub(crate) async fn webhook_events_survive_twenty_kills() -> Verdict {
    let (fast, slow) = sinks().await;
    let home = Home::with(objects(&[source("web", "webhook: {in: {}}"), subscribers(&fast, &slow, "web", "in")]));
    // The port stays the same over all restarts, as a client's does.
    let run = home.evoke();
    let url = run.webhook("/default/web/in");
    let stop = Arc::new(AtomicBool::new(false));
    let (taken, resent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for sender in 0..8 {
        let (url, stopped, taken, resent) = (url.clone(), stop.clone(), taken.clone(), resent.clone());
        let behind = slow.clone();
        load.spawn(async move {
            let mut ids = BTreeSet::new();
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("{sender}-{n}");
                let headers = [("ce-specversion", "1.0"), ("ce-id", &*id), ("ce-source", "/s"), ("ce-type", "t")];
                let mut pace = tokio::time::interval(Duration::from_millis(5));
                loop {
                    pace.tick().await;
                    if taken.load(Ordering::Relaxed) > behind.delivered_count() + AHEAD {
                        continue;
                    }
                    match request("POST", &url, &headers, vec![b'x'; 1024]).await {
                        Ok(answer) if answer.status == 202 => break,
                        // No answer is no promise: it is sent again, and may be there twice.
                        _ => resent.fetch_add(1, Ordering::Relaxed),
                    };
                }
                ids.insert(id);
                taken.fetch_add(1, Ordering::Relaxed);
            }
            ids
        });
    }
    let mut deliveries = Deliveries::default();
    for kill in 0..KILLS {
        let mut evoke = run.clone().start().await;
        evoke.ready(Duration::from_secs(30)).await;
        let target = slow.delivered_count() + BETWEEN;
        slow.wait_delivered(target, Duration::from_secs(60)).await;
        eventually(&format!("a backlog before kill {kill}"), Duration::from_secs(60), async || {
            let waiting = taken.load(Ordering::Relaxed).saturating_sub(slow.delivered_count());
            (waiting > 100).then_some(())
        })
        .await;
        deliveries.note(&fast, &slow);
        evoke.kill().await;
    }
    let mut evoke = run.clone().ready().await;
    stop.store(true, Ordering::Relaxed);
    let mut sent = BTreeSet::new();
    while let Some(ids) = load.join_next().await {
        sent.extend(ids.unwrap());
    }
    fast.wait_delivered(sent.len(), Duration::from_secs(60)).await;
    slow.wait_delivered(sent.len(), Duration::from_secs(120)).await;
    evoke.stop().await;
    deliveries.note(&fast, &slow);
    let stored = count(stored_ids(&home.data(), "default.web.in").await);
    let (twice, resent) = (repeats(&stored), resent.load(Ordering::Relaxed));
    println!("kill loop, webhook: {} sent, {resent} sent again, {twice} stored twice", sent.len());
    assert!(twice <= resent, "evoke itself stores nothing twice");
    report("fast", &sent, &stored, &deliveries.fast);
    report("slow", &sent, &stored, &deliveries.slow);
    Ok(())
}
