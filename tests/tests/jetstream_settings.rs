//! The settings of a stream: whoever changed them, they are what the manifest says after the next start, and what NATS does not
//! change is named with what to do.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::process::Signal;
use evoke_tests::servers::nats::Cluster;
use evoke_tests::{SOON, eventually};
use futures_util::TryStreamExt as _;

use crate::jetstream_site::{LATER, PER_OUTAGE, STREAM, Site, jetstream, manifests, send_all, send_all_again};

/// Where positions are kept.
const BUCKET: &str = "KV_evoke";
const CHANGED: &str = "the stream has the settings of the manifest now";
const LEFT_ALONE: &str = "the topic is not as declared and was left alone";

/// The settings of a stream, as the servers have them.
async fn config(context: &jetstream::Context, stream: &str) -> Config {
    context.get_stream(stream).await.unwrap().cached_info().config.clone()
}

/// How many servers keep a stream; nobody may say while that changes.
async fn replicas(context: &jetstream::Context, stream: &str) -> Option<usize> {
    Some(context.get_stream(stream).await.ok()?.cached_info().config.num_replicas)
}

/// The settings that NATS changes on one server: `maxAge` and `duplicateWindow` in seconds, `maxBytes`, `onFull`.
fn named(config: &Config) -> (u64, u64, i64, DiscardPolicy) {
    (config.max_age.as_secs(), config.duplicate_window.as_secs(), config.max_bytes, config.discard)
}

pub(crate) async fn what_changes_in_the_manifest_or_on_the_server_is_as_the_manifest_says() -> Verdict {
    let fields = "partitions: 2, maxAge: 72h, duplicateWindow: 30s, maxBytes: 64Mi, onFull: block";
    let site = Site::start(fields).await?;
    let context = jetstream::new(site.nats.client().await);
    let mut evoke = site.home.run().await;
    assert_eq!(named(&config(&context, STREAM).await), (72 * 3600, 30, 64 << 20, DiscardPolicy::New));
    let mut sent = send_all(&evoke, 0..5).await;
    site.sink.wait_all(&sent, SOON).await;
    evoke.stop().await;

    site.set("partitions: 2, maxAge: 1h, duplicateWindow: 10s, maxBytes: 32Mi, onFull: dropOldest");
    let as_set = (3600, 10, 32 << 20, DiscardPolicy::Old);
    let every_setting = [CHANGED, "topic=default.web.in", "maxAge", "duplicateWindow", "maxBytes", "onFull"];
    let mut evoke = site.home.run().await;
    evoke.log().wait_for(&every_setting, SOON).await;
    assert_eq!(named(&config(&context, STREAM).await), as_set);
    sent.extend(send_all(&evoke, 5..10).await);

    // Somebody else changes all of them while evoke runs: it goes on, and puts them right at its next start.
    let theirs = Config {
        max_age: Duration::from_secs(300),
        duplicate_window: Duration::from_secs(60),
        max_bytes: 99 << 20,
        discard: DiscardPolicy::New,
        description: Some("theirs".to_owned()),
        ..config(&context, STREAM).await
    };
    context.update_stream(theirs).await.unwrap();
    sent.extend(send_all(&evoke, 10..15).await);
    site.sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    let mut evoke = site.home.run().await;
    evoke.log().wait_for(&every_setting, SOON).await;
    let found = config(&context, STREAM).await;
    assert_eq!(named(&found), as_set);
    assert_eq!(found.description.as_deref(), Some("theirs"), "a setting that manifests do not have is left alone");
    sent.extend(send_all(&evoke, 15..20).await);
    site.sink.wait_all(&sent, SOON).await;
    evoke.stop().await;

    // What the manifest does not name any more stays as it is, but for `onFull`, which has a default.
    site.set("partitions: 2");
    let mut evoke = site.home.run().await;
    assert_eq!(named(&config(&context, STREAM).await), (3600, 10, 32 << 20, DiscardPolicy::New));
    sent.extend(send_all(&evoke, 20..25).await);
    site.sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&site.sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_stream_with_other_settings_is_changed_or_named() -> Verdict {
    let site = Site::start("storage: file, partitions: 2, maxAge: 72h, duplicateWindow: 30s").await?;
    let context = jetstream::new(site.nats.client().await);
    let theirs = Config {
        name: STREAM.to_owned(),
        subjects: vec!["evoke.default.web.in".to_owned()],
        storage: StorageType::Memory,
        ..Config::default()
    };
    context.create_stream(theirs).await.unwrap();
    let mut evoke = site.home.run().await;
    let sent = send_all(&evoke, 0..5).await;
    site.sink.wait_all(&sent, SOON).await;
    let found = config(&context, STREAM).await;
    assert_eq!((found.max_age.as_secs(), found.duplicate_window.as_secs()), (72 * 3600, 30));
    assert!(found.allow_batch_publish);
    assert_eq!((found.storage, found.subjects.len()), (StorageType::Memory, 1));
    evoke.log().wait_for(&[LEFT_ALONE, "it has 1 partitions, not 2", STREAM], SOON).await;
    evoke.log().wait_for(&[LEFT_ALONE, "it is kept in memory, which NATS does not change"], SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_retention_that_loses_events_is_named() -> Verdict {
    let site = Site::start("partitions: 1").await?;
    let context = jetstream::new(site.nats.client().await);
    let mut evoke = site.home.run().await;
    let sent = send_all(&evoke, 0..5).await;
    site.sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    let theirs = Config { retention: RetentionPolicy::Interest, ..config(&context, STREAM).await };
    context.update_stream(theirs).await.unwrap();
    let mut evoke = site.home.run().await;
    let parts = [LEFT_ALONE, "its retention is not `limits`", "delete the stream to make it anew"];
    evoke.log().wait_for(&parts, SOON).await;
    evoke.stop().await;

    // What the line says helps.
    context.delete_stream(STREAM).await.unwrap();
    let mut evoke = site.home.run().await;
    assert_eq!(config(&context, STREAM).await.retention, RetentionPolicy::Limits);
    let sent = send_all(&evoke, 5..10).await;
    site.sink.wait_all(&sent, LATER).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("its retention"), 0);
    Ok(())
}

pub(crate) async fn more_replicas_than_there_are_servers_are_named() -> Verdict {
    let site = Site::start("replicas: 3").await?;
    let mut evoke = site.home.evoke().start().await;
    let no_stream = "trigger default/all: JetStream does not make the stream";
    evoke.waits_for(&[no_stream, "set `replicas: 1`", "source default/web: "], SOON).await;
    evoke.signal(Signal::TERM);
    evoke.ended(LATER).await;

    // The stream of one replica is there now, so that it is used as it is.
    site.set("replicas: 1");
    let mut evoke = site.home.run().await;
    let mut sent = send_all(&evoke, 0..5).await;
    site.sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    site.set("replicas: 3");
    let mut evoke = site.home.run().await;
    let by_hand = format!("change the manifest, or the stream {STREAM} by hand");
    let parts = [LEFT_ALONE, "it has 1 replicas, not 3", "NATS refuses to change it", by_hand.as_str()];
    evoke.log().wait_for(&parts, SOON).await;
    sent.extend(send_all(&evoke, 5..10).await);
    site.sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    let context = jetstream::new(site.nats.client().await);
    assert_eq!(config(&context, STREAM).await.num_replicas, 1);
    assert_conserved(&sent, [&site.sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_change_that_nats_refuses_holds_up_no_other() -> Verdict {
    let site = Site::start("partitions: 1, maxAge: 72h").await?;
    site.home.run().await.stop().await;
    site.set("partitions: 1, maxAge: 1h, replicas: 3");
    let mut evoke = site.home.run().await;
    evoke.log().wait_for(&[LEFT_ALONE, "it has 1 replicas, not 3", STREAM], SOON).await;
    let context = jetstream::new(site.nats.client().await);
    assert_eq!(config(&context, STREAM).await.max_age, Duration::from_secs(3600));
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_change_that_waits_for_another_is_made_beside_one_that_nats_refuses() -> Verdict {
    let site = Site::start("partitions: 1, maxAge: 72h, duplicateWindow: 2m").await?;
    site.home.run().await.stop().await;
    // NATS takes no `maxAge` below the window, which evoke makes shorter too.
    site.set("partitions: 1, maxAge: 1m, replicas: 3");
    let mut evoke = site.home.run().await;
    evoke.log().wait_for(&[LEFT_ALONE, "it has 1 replicas, not 3", "set `replicas: 1`", STREAM], SOON).await;
    evoke.log().wait_for(&["positions are not kept as declared", "it has 1 replicas, not 3", BUCKET], SOON).await;
    let found = config(&jetstream::new(site.nats.client().await), STREAM).await;
    assert_eq!((found.max_age.as_secs(), found.duplicate_window.as_secs()), (60, 60));
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn replicas_follow_the_manifest_as_far_as_there_are_servers() -> Verdict {
    let cluster = Cluster::start().await?;
    let sink = Sink::start().await;
    let context = jetstream::new(cluster.nodes[0].client().await);
    let home = Home::new();
    let mut sent = BTreeSet::new();
    for (round, asked, found) in [(0, 1, 1), (1, 3, 3), (2, 5, 3)] {
        let fields = format!("partitions: 2, replicas: {asked}");
        home.write("evoke.yaml", manifests(&jetstream(&cluster.url(), &fields), &sink));
        let mut evoke = home.evoke().start().await;
        evoke.ready(LATER).await;
        eventually(&format!("{found} replicas where {asked} are asked for"), SOON, async || {
            (replicas(&context, STREAM).await? == found).then_some(())
        })
        .await;
        if asked > found {
            let parts = [LEFT_ALONE, "it has 3 replicas, not 5: NATS refuses to change it", STREAM];
            evoke.log().wait_for(&parts, SOON).await;
        }
        sent.extend(send_all(&evoke, 5 * round..5 * round + 5).await);
        sink.wait_all(&sent, LATER).await;
        evoke.stop().await;
    }
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn positions_are_kept_as_often_as_the_events() -> Verdict {
    let cluster = Cluster::start().await?;
    let sink = Sink::start().await;
    let context = jetstream::new(cluster.nodes[0].client().await);
    let home = Home::new();
    for asked in [1, 3] {
        let fields = format!("partitions: 1, replicas: {asked}");
        home.write("evoke.yaml", manifests(&jetstream(&cluster.url(), &fields), &sink));
        let mut evoke = home.evoke().start().await;
        evoke.ready(LATER).await;
        for stream in [STREAM, BUCKET] {
            eventually(&format!("{stream} has {asked} replicas"), SOON, async || {
                (replicas(&context, stream).await? == asked).then_some(())
            })
            .await;
        }
        evoke.stop().await;
    }
    Ok(())
}

/// Waits until the servers have the events and the positions, and says where they keep each stream.
async fn kept(context: &jetstream::Context) -> Vec<(String, StorageType)> {
    let names = eventually("the servers have everything", SOON, async || {
        let names: Vec<String> = context.stream_names().try_collect().await.ok()?;
        [STREAM, BUCKET].iter().all(|stream| names.iter().any(|name| name == stream)).then_some(names)
    })
    .await;
    let mut kept = Vec::new();
    for name in names {
        let storage = config(context, &name).await.storage;
        kept.push((name, storage));
    }
    kept
}

pub(crate) async fn everything_is_kept_in_memory_where_asked() -> Verdict {
    for (asked, storage) in [("file", StorageType::File), ("memory", StorageType::Memory)] {
        let site = Site::start(&format!("partitions: 1, storage: {asked}")).await?;
        let context = jetstream::new(site.nats.client().await);
        let mut evoke = site.home.run().await;
        let mut sent = send_all(&evoke, 0..5).await;
        site.sink.wait_all(&sent, SOON).await;
        let is_kept = |kept: &[(String, StorageType)]| kept.iter().all(|(_, found)| *found == storage);
        let found = kept(&context).await;
        assert!(is_kept(&found), "{asked}: {found:?}");

        // What is in memory is gone with the server, and is made anew as it was.
        site.nats.kill().await;
        evoke.waits_for(&["bus default.default"], SOON).await;
        site.nats.resume().await;
        evoke.ready(LATER).await;
        sent.extend(send_all_again(&evoke, 5..10).await);
        site.sink.wait_all(&sent, LATER).await;
        let found = kept(&jetstream::new(site.nats.client().await)).await;
        assert!(is_kept(&found), "{asked}, made anew: {found:?}");
        evoke.stop().await;
        let says = ["the stream was gone and is made anew", "the bus has lost the end of its log"];
        let said = says.iter().any(|line| evoke.log().count(line) > 0);
        assert_eq!(said, storage == StorageType::Memory, "{asked}: a loss is said, and nothing else is");
        assert_conserved(&sent, [&site.sink.delivered()], PER_OUTAGE);
    }
    Ok(())
}
