//! What NATS deletes by its own limits before it was read, which is counted for whom it is lost, and a server whose disk is full.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use async_nats::jetstream;
use async_nats::jetstream::stream::Stream;
use evoke_tests::bus::{counted, jetstream as bus_on};
use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::disk::SmallDisk;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::{self, assert_conserved};
use evoke_tests::load::Load;
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::nats::Nats;
use evoke_tests::{SOON, eventually};

use crate::jetstream_site::{
    LATER, PER_OUTAGE, STREAM, Site, TOPIC, all_arrive, jetstream, send, send_all, send_all_again,
};

const DROPPED: &str = "evoke_subscription_dropped_total";
const OF_LATE: [(&str, &str); 1] = [("trigger", "late")];
/// How the bus shows in `/readyz` while it does not work.
const BUS_WAITS: &str = "bus default.default: ";

/// One webhook and two Triggers: one that keeps up, and one that is paused before anything is sent.
struct Two {
    _nats: Nats,
    context: jetstream::Context,
    prompt: Sink,
    late: Sink,
    home: Home,
    evoke: Evoke,
}

impl Two {
    async fn start(fields: &str) -> Result<Self, Skipped> {
        let nats = Nats::start().await?;
        let (prompt, late) = (Sink::start().await, Sink::start().await);
        let home = Home::with(objects(&[
            bus("default", &format!("maxEventBytes: 32Ki\n{}", jetstream(&nats.url(), fields))),
            source("web", "webhook: {in: {}}"),
            pass("prompt", "web", "in", &prompt.url("/")),
            pass("late", "web", "in", &late.url("/")),
        ]));
        home.run().await.stop().await;
        let (code, text) = home.tool_without_evoke(&["subscription", "pause", "late/all"]).await;
        assert_eq!(code, Some(0), "{text}");
        let (context, evoke) = (jetstream::new(nats.client().await), home.run().await);
        Ok(Self { _nats: nats, context, prompt, late, home, evoke })
    }

    /// Sends events of so many bytes, each once the prompt Trigger has delivered the one before.
    async fn send(&self, ids: Range<usize>, bytes: usize) -> BTreeSet<String> {
        let ids: BTreeSet<String> = ids.map(|n| format!("d-{n}")).collect();
        for id in &ids {
            assert_eq!(send(&self.evoke, id, vec![b'x'; bytes]).await, 202);
            self.prompt.wait_all(&[id.clone()].into(), SOON).await;
        }
        ids
    }

    async fn resume(&self) {
        let (code, text) = self.home.tool(&["subscription", "resume", "late/all"]).await;
        assert_eq!(code, Some(0), "{text}");
    }

    async fn stream(&self) -> Stream {
        self.context.get_stream(STREAM).await.unwrap()
    }

    /// The ids that the stream holds.
    async fn held(&self) -> BTreeSet<String> {
        let stream = self.stream().await;
        let state = &stream.cached_info().state;
        let mut ids = BTreeSet::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            ids.insert(message.headers.get("ce-id").expect("evoke wrote it").as_str().to_owned());
        }
        ids
    }

    /// How many events the bus deleted before a Trigger had read them, and how many it has judged.
    async fn accounts(&self, trigger: &str) -> (f64, f64) {
        let (scrape, labels) = (self.evoke.metrics().await, [("trigger", trigger)]);
        (scrape.sum(DROPPED, &labels), scrape.sum("evoke_verdicts_total", &labels))
    }
}

/// Sends several times what the stream keeps before the late Trigger reads any of it, which gets exactly what is left. Says how many
/// events were sent, and how many were left.
async fn overfilled(partitions: u16) -> Result<(Two, usize, usize), Skipped> {
    let two = Two::start(&format!("partitions: {partitions}, maxBytes: 256Ki, onFull: dropOldest")).await?;
    let sent = two.send(0..60, 16 << 10).await;
    let left = two.held().await;
    assert!(!left.is_empty() && left.len() < 20, "256 KiB hold {} events of 16 KiB", left.len());
    two.resume().await;
    two.late.wait_all(&left, SOON).await;
    assert_eq!(two.late.delivered(), ledger::count(left.iter().cloned()));
    assert_conserved(&sent, [&two.prompt.delivered()], 0);
    Ok((two, sent.len(), left.len()))
}

pub(crate) async fn what_a_full_stream_drops_is_counted_for_whom_it_is_lost() -> Verdict {
    let (mut two, sent, left) = overfilled(1).await?;
    assert_eq!(two.accounts("late").await, ((sent - left) as f64, left as f64));
    assert_eq!(two.accounts("prompt").await, (0.0, sent as f64));
    two.evoke.stop().await;
    Ok(())
}

pub(crate) async fn what_is_dropped_of_several_partitions_is_not_counted_too_low() -> Verdict {
    const PARTITIONS: u16 = 4;
    let (mut two, sent, left) = overfilled(PARTITIONS).await?;
    let lost = (sent - left) as f64;
    let dropped = two.evoke.metric(DROPPED, &OF_LATE, lost, SOON).await;
    // Of the sequences that a partition passes over, all may have been its own.
    assert!(dropped <= lost * f64::from(PARTITIONS), "{dropped} counted of {lost}");
    assert_eq!(two.accounts("late").await.1, left as f64);
    two.evoke.stop().await;
    Ok(())
}

pub(crate) async fn what_grows_too_old_on_the_server_is_counted_for_whom_it_is_lost() -> Verdict {
    let mut two = Two::start("partitions: 1, maxAge: 5s").await?;
    let old = two.send(0..10, 16).await;
    eventually("NATS has deleted what is too old", LATER, async || {
        (two.stream().await.cached_info().state.messages == 0).then_some(())
    })
    .await;
    two.resume().await;
    assert_eq!(two.evoke.metric(DROPPED, &OF_LATE, 10.0, SOON).await, 10.0);
    let new = two.send(10..15, 16).await;
    // On a machine that stands still, some of them may grow too old as well.
    eventually("every event is delivered or counted", SOON, async || {
        let dropped = two.accounts("late").await.0;
        (dropped + two.late.delivered_count() as f64 == (old.len() + new.len()) as f64).then_some(())
    })
    .await;
    assert!(two.late.delivered().keys().all(|id| new.contains(id)), "{:?}", two.late.delivered());
    assert_eq!(two.accounts("prompt").await, (0.0, 15.0));
    two.evoke.stop().await;
    assert_conserved(&(&old | &new), [&two.prompt.delivered()], 0);
    Ok(())
}

/// A pipeline whose server has its streams on a small disk.
async fn on_a_small_disk(fields: &str) -> Result<(Site, SmallDisk), Skipped> {
    let site = Site::on(Nats::prepare(&[]).await?, fields).await;
    let disk = SmallDisk::mount(site.home.path().join("disk"), "64m").await?;
    site.nats.reconfigure("jetstream", &format!("jetstream {{ store_dir: {:?} }}", disk.path().join("data")));
    site.nats.resume().await;
    Ok((site, disk))
}

/// Makes space. NATS stores nothing more in a stream of which a write failed, or has turned JetStream off altogether, until it is started
/// again: whoever makes space has to do that as well.
async fn make_space(site: &Site, filler: &Path) {
    fs::remove_file(filler).unwrap();
    site.nats.kill().await;
    site.nats.resume().await;
}

pub(crate) async fn a_full_disk_of_the_server_pauses_sources_and_loses_nothing() -> Verdict {
    let (site, disk) = on_a_small_disk("").await?;
    let mut evoke = site.home.run().await;
    let mut taken = send_all(&evoke, 0..20).await;
    site.sink.wait_all(&taken, SOON).await;
    let filler = disk.fill();
    let body = vec![b'x'; 64 << 10];
    let (held, ()) = tokio::join!(send(&evoke, "held", body.clone()), async {
        let why = evoke.waits_for(&[BUS_WAITS], LATER).await;
        assert_eq!(send(&evoke, "refused", body.clone()).await, 503, "{why}");
        make_space(&site, &filler).await;
    });
    let mut perhaps = BTreeSet::from(["refused".to_owned()]);
    match held {
        202 => taken.insert("held".to_owned()),
        503 => perhaps.insert("held".to_owned()),
        other => panic!("answered {other}"),
    };
    evoke.ready(LATER).await;
    taken.extend(send_all_again(&evoke, 20..40).await);
    site.sink.wait_all(&taken, LATER).await;
    evoke.stop().await;
    let delivered = site.sink.delivered();
    assert_conserved(&ledger::sent(&taken, &perhaps, &delivered), [&delivered], PER_OUTAGE);
    let stored = counted(bus_on(&site.nats.url()).await, TOPIC).await;
    assert_conserved(&ledger::sent(&taken, &perhaps, &stored), [&stored], 0);
    Ok(())
}

pub(crate) async fn a_disk_that_fills_up_under_load_is_named_and_loses_nothing() -> Verdict {
    // Of one partition, events that come together go to the servers as a batch.
    let (site, disk) = on_a_small_disk("partitions: 1").await?;
    let mut evoke = site.home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    load.more(200, LATER).await;
    let filler = disk.fill();
    evoke.waits_for(&[BUS_WAITS], LATER).await;
    assert_eq!(send(&evoke, "refused", "x").await, 503);
    make_space(&site, &filler).await;
    evoke.ready(LATER).await;
    load.more(200, LATER).await;
    all_arrive(load, &site.sink, &mut evoke, bus_on(&site.nats.url()).await, 1).await;
    Ok(())
}
