//! Lanes on the embedded bus, in real time.

use std::path::Path;

use evoke_eventbus::bus::{EventBus, TopicSpec};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::faulty::{Faults, FaultyBus};
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::subscription::Settings;
use evoke_eventbus::subscription::sharing::beats::Place;
use evoke_eventbus::subscription::sharing::{Group, Terms, Timing};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::sinks::Outputs;

fn open(dir: &Path) -> Arc<EmbeddedBus> {
    let metrics = BusMetrics::new(&Registry::new()).unwrap();
    EmbeddedBus::open(dir, EmbeddedOptions::new("test", metrics)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_delivered_over_kills_with_a_backlog_and_while_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan("a");
    plan.policy.max_in_flight = 20;
    plan.policy.delay = MS;
    let sink = Script::new(|event, before| {
        let n: usize = event.id().parse().unwrap();
        (
            MS * u32::from(n.is_multiple_of(50)),
            if n.is_multiple_of(7) && before == 0 { failure(503) } else { Outcome::Delivered },
        )
    });
    let (mut published, kills) = (0, 5);
    for life in 0..=kills {
        let bus = open(dir.path());
        let process = Process::on(Arc::clone(&bus) as _, CancellationToken::new());
        bus.declare(&TopicSpec { name: topic("order"), partitions: 1 }).await.unwrap();
        process.declare(&plan).await;
        let lane = process.run(&plan, &sink);
        if life < kills {
            for _ in 0..10 {
                let batch = (published..published + 100).map(event).collect();
                let receipt = bus.publish(&partition("order"), batch).await.unwrap();
                assert!(receipt.await.iter().all(Result::is_ok));
                published += 100;
            }
            sink.attempts(published - 500).await;
            lane.kill().await;
        } else {
            while sink.delivered().len() < published {
                sleep(5 * MS).await;
            }
            lane.drain().await;
            let standing = &process.subscriptions.list().await.unwrap()[0];
            assert_eq!((standing.mark.unwrap().ahead, standing.ledger.open().len()), (0, 0));
        }
        process.subscriptions.close().await;
        bus.close().await.unwrap();
    }
    let duplicates: usize = sink.delivered().values().map(|count| count - 1).sum();
    assert!(duplicates <= kills * 2 * plan.policy.max_in_flight, "{duplicates}");
}

/// Damages the data of the event of a number in the first file of the topic.
fn damage(dir: &Path, number: usize) {
    let path = dir.join("topics/shop.web.order/0000000001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let mut end = 0;
    for _ in 0..=number {
        let data = bytes[end..].windows(100).position(|window| window.iter().all(|byte| *byte == b'x'));
        end += data.unwrap() + 100;
    }
    bytes[end - 50] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_takes_no_event_that_waits_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan("a");
    plan.policy.delay = 10 * MS;
    plan.policy.delay_max = 10 * MS;
    plan.policy.retry = u32::MAX;
    let publish = async |bus: &Arc<EmbeddedBus>, numbers: std::ops::Range<usize>| {
        let receipt = bus.publish(&partition("order"), numbers.map(event).collect()).await.unwrap();
        assert!(receipt.await.iter().all(Result::is_ok));
    };
    let bus = open(dir.path());
    let process = Process::on(Arc::clone(&bus) as _, CancellationToken::new());
    bus.declare(&TopicSpec { name: topic("order"), partitions: 1 }).await.unwrap();
    process.declare(&plan).await;
    let fails = Script::new(|event, _| (MS, if event.id() == "1" { failure(503) } else { Outcome::Delivered }));
    publish(&bus, 0..3).await;
    let lane = process.run(&plan, &fails);
    while fails.delivered().len() < 2 {
        sleep(5 * MS).await;
    }
    lane.drain().await;
    // The last one tells that those before it were synced: what is damaged is no unfinished write.
    publish(&bus, 3..5).await;
    publish(&bus, 5..6).await;
    process.subscriptions.close().await;
    bus.close().await.unwrap();
    drop((process, bus));

    damage(dir.path(), 4);
    let bus = open(dir.path());
    let process = Process::on(Arc::clone(&bus) as _, CancellationToken::new());
    let sink = Script::takes(Duration::ZERO);
    let lane = process.run(&plan, &sink);
    sink.attempts(3).await;
    assert_eq!(sink.delivered().into_iter().collect::<Vec<_>>(), [(1, 1), (3, 1), (5, 1)]);
    assert_eq!(process.metric("evoke_subscription_dropped_total", "a"), 1.0);
    lane.drain().await;
    process.subscriptions.close().await;
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_subscribers_of_one_topic_each_get_everything_once() {
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path());
    let process = Process::on(Arc::clone(&bus) as _, CancellationToken::new());
    let mut lanes = Vec::new();
    for n in 0..20 {
        let plan = plan(&format!("s{n}"));
        process.declare(&plan).await;
        let sink = Script::takes(if n == 0 { MS } else { Duration::ZERO });
        lanes.push((process.run(&plan, &sink), sink));
    }
    for chunk in 0..20 {
        let batch = (chunk * 100..(chunk + 1) * 100).map(event).collect();
        bus.publish(&partition("order"), batch).await.unwrap().await;
    }
    for (lane, sink) in lanes {
        sink.attempts(2000).await;
        lane.drain().await;
        let delivered = sink.delivered();
        assert!(delivered.len() == 2000 && delivered.values().all(|count| *count == 1));
    }
    process.subscriptions.close().await;
    bus.close().await.unwrap();
}

/// Twenty-five times as fast as in earnest.
fn quick() -> Timing {
    let [beat, look, lapse, grace, dead] = [120, 40, 280, 80, 400].map(Duration::from_millis);
    Timing { beat, look, lapse, grace, dead, ..Timing::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_share_a_bus_that_fails_lose_nothing_when_one_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, plan) = (open(dir.path()), Arc::new(plan("a")));
    bus.declare(&TopicSpec { name: topic("order"), partitions: 1 }).await.unwrap();
    let sink = Script::takes(MS);
    let start = async |name: &str, seed| {
        let faulty = FaultyBus::new(Arc::clone(&bus) as _, seed, Faults::OFTEN);
        let place = Place { host: "test".into(), directory: name.into() };
        let terms = Terms { name: name.into(), place, timing: quick() };
        let process = Process::sharing(faulty, CancellationToken::new(), Settings::default(), terms);
        while declare(&process.subscriptions, &plan, From::Next).await.is_err() {}
        let supervisor = Supervisor::new(
            process.subscriptions.clone(),
            Arc::clone(&plan),
            Outputs { sink: Some(Arc::clone(&sink) as _), dead_letter: None, bucket: None },
            Box::new(|| Box::new(All)),
            &process.metrics,
            (Group::trigger(&plan.id.owner), false),
        );
        let stop = CancellationToken::new();
        #[allow(clippy::disallowed_methods, reason = "a test's own task")]
        let task = tokio::spawn(supervisor.run(stop.clone(), CancellationToken::new()));
        (process, stop, task)
    };
    let mut running = vec![start("one", 1).await, start("two", 2).await];
    let mut published = 0;
    for (seed, name) in ["one", "two", "one", "two"].into_iter().enumerate() {
        for _ in 0..5 {
            let batch = (published..published + 100).map(event).collect();
            let receipt = bus.publish(&partition("order"), batch).await.unwrap();
            assert!(receipt.await.iter().all(Result::is_ok));
            published += 100;
        }
        sink.attempts(published - 300).await;
        let (process, _, task) = running.remove(0);
        task.abort();
        drop((task.await, process));
        running.push(start(name, 10 + seed as u64).await);
    }
    while sink.delivered().len() < published {
        sleep(5 * MS).await;
    }
    for (process, stop, task) in running {
        stop.cancel();
        task.await.unwrap().unwrap();
        process.subscriptions.close().await;
    }
    bus.close().await.unwrap();
}
