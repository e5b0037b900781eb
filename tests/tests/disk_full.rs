//! A full disk under the embedded bus: sources wait, nothing is acknowledged, and it goes on when there is space.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::disk::SmallDisk;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Sink, post};
use evoke_tests::ledger::{self, assert_conserved};
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::kafka::{self, Record};
use evoke_tests::{SOON, eventually};

pub(crate) async fn a_full_disk_pauses_sources_and_loses_nothing() -> Verdict {
    let broker = kafka::shared().await?;
    let topic = broker.topic(1).await;
    let sink = Sink::start().await;
    let spec = format!(
        "kafka: {{orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest}}}}\nwebhook: {{in: {{}}}}",
        broker.listeners.plain
    );
    let passes = ["orders", "in"].map(|event| pass(event, "s", event, &sink.url(&format!("/{event}"))));
    let home = Home::with(objects(&[&[source("s", &spec)], &passes[..]].concat()));
    let disk = SmallDisk::mount(home.path().join("disk"), "256m").await?;
    let mut evoke = home.evoke().data(disk.path().join("data")).ready().await;
    let mut sent: BTreeSet<String> =
        broker.produce(&topic, (0..50).map(|n| Record::new(n.to_string()))).await.into_iter().map(|p| p.id).collect();
    sink.wait_at("/orders", 50, SOON).await;
    let filler = disk.fill();

    // What segments there are may still take some; then nothing more is accepted.
    let url = evoke.webhook("/default/s/in");
    let body = vec![b'x'; 512 * 1024];
    let mut refused = BTreeSet::new();
    for n in 0..400 {
        let id = format!("web-{n}");
        let headers = [("ce-specversion", "1.0"), ("ce-id", &*id), ("ce-source", "/s"), ("ce-type", "t")];
        let answer = post(&url, &headers, body.clone()).await;
        match answer.status.as_u16() {
            202 => assert!(sent.insert(id)),
            503 => {
                refused.insert(id);
                break;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(!refused.is_empty(), "a full disk took 200 MiB");
    let committed = async || broker.committed("default.s.orders", &topic, 1).await.get(&0).copied().unwrap_or(0);
    let before = committed().await;
    let more = broker.produce(&topic, (0..200).map(|_| Record::new(vec![b'y'; 256 * 1024]))).await;
    sent.extend(more.into_iter().map(|placed| placed.id));
    let why = evoke.waits_for(&["bus"], SOON).await;
    assert!(why.to_lowercase().contains("space") || why.to_lowercase().contains("full"), "{why}");
    let stored = sink.received_at("/orders").len();
    assert!(stored < 250, "a full disk took everything");
    assert!(usize::try_from(committed().await - before).unwrap() <= stored, "more is committed than is stored");
    assert!(evoke.is_running());

    fs::remove_file(filler).unwrap();
    evoke.ready(Duration::from_secs(60)).await;
    sink.wait_all(&sent, Duration::from_secs(60)).await;
    eventually("the commit", SOON, async || (committed().await == 250).then_some(())).await;
    evoke.stop().await;
    let delivered = sink.delivered();
    assert_conserved(&ledger::sent(&sent, &refused, &delivered), [&delivered], 0);
    Ok(())
}
