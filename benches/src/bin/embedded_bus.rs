//! The embedded bus beside a plain append with fdatasync, on the same disk in the same run.
//!
//! `embedded_bus [DIR [SECONDS]]`: DIR is on the disk to measure (by default the system's folder for temporary files), SECONDS is how
//! long each figure of each round is measured (0.5 by default).

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evoke_api::names::TopicName;
use evoke_benches::measure::{Measured, Meter, Outcome, median, percentile, resident_kib};
use evoke_benches::promises::Promises;
use evoke_eventbus::bus::{EventBus, From, Partition, Position, TopicSpec};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::event::Event;
use evoke_eventbus::metrics::BusMetrics;

/// In turns, so that whatever else the machine does meets both.
const ROUNDS: usize = 5;
/// What the project promises of each batch, beside plain files, with several calls under way as sources have them.
const TARGET: f64 = 1.0;
const BATCHES: [usize; 5] = [1, 16, 64, 256, 1024];
const EVENT_BYTES: usize = 1024;
/// The log is kept below this, as trimming does in a running evoke.
const KEPT_BYTES: u64 = 1 << 30;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let span = Duration::from_secs_f64(args.next().map_or(Ok(0.5), |text| text.parse())?);
    let folder = tempfile::tempdir_in(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(folder.path(), span))
}

async fn run(dir: &Path, span: Duration) -> Outcome<()> {
    println!(
        "1 KiB events, fdatasync after each batch; {ROUNDS} rounds in turns, medians; CPU is of the whole process, user and system\n"
    );
    println!(
        "| batch | plain append/s | into zeroed file/s | bus, 1 call at a time/s | ratio | CPU us/event | 4 calls/s | ratio |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut ratios = Vec::new();
    for batch in BATCHES {
        let (mut plain, mut zeroed, mut one, mut four) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(append(&dir.join("plain"), batch, span, false)?);
            one.push(publish(&dir.join("bus"), batch, 1, span).await?);
            zeroed.push(append(&dir.join("zeroed"), batch, span, true)?);
            four.push(publish(&dir.join("bus"), batch, 4, span).await?);
        }
        // Of each round, so that what drifts from one to the next cancels out.
        let ratio =
            |ours: &[Measured]| median(ours.iter().zip(&plain).map(|(ours, plain)| ours.rate / plain).collect());
        let (ratio, ratio4) = (ratio(&one), ratio(&four));
        ratios.push((batch, ratio, ratio4));
        let (one, four) = (Measured::median(&one), Measured::median(&four));
        let (plain, zeroed, cpu) = (median(plain), median(zeroed), one.cpu * 1e6);
        println!(
            "| {batch} | {plain:.0} | {zeroed:.0} | {:.0} | {ratio:.2} | {cpu:.2} | {:.0} | {ratio4:.2} |",
            one.rate, four.rate
        );
    }
    println!();
    read_back(&dir.join("bus")).await?;
    latency(&dir.join("bus")).await?;
    idle(&dir.join("bus")).await?;
    println!();
    let mut promises = Promises::default();
    for (batch, one, four) in ratios {
        println!("batch {batch}, one call at a time, beside plain append + fdatasync: {one:.2}");
        promises.at_least(format!("batch {batch}, four calls under way, beside the same"), four, TARGET);
    }
    promises.end()
}

fn append(path: &Path, batch: usize, span: Duration, zeroed: bool) -> Outcome<f64> {
    let data = vec![7u8; batch * EVENT_BYTES];
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
    let room: u64 = 256 << 20;
    if zeroed {
        let zeros = vec![0; 1 << 20];
        for at in (0..room).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
    }
    file.sync_all()?;
    let (mut at, mut batches, started) = (0, 0, Instant::now());
    while started.elapsed() < span {
        if at + data.len() as u64 > room && zeroed {
            at = 0;
        }
        file.write_all_at(&data, at)?;
        file.sync_data()?;
        at += data.len() as u64;
        batches += 1;
    }
    let rate = f64::from(batches) * batch as f64 / started.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(rate)
}

fn partition() -> Partition {
    Partition { topic: TopicName::parse("bench.source.event"), index: 0 }
}

async fn open(dir: &Path) -> Outcome<Arc<EmbeddedBus>> {
    let metrics = BusMetrics::new(&prometheus::Registry::new())?;
    let bus = EmbeddedBus::open(dir, EmbeddedOptions::new("bench", metrics))?;
    bus.declare(&TopicSpec { name: partition().topic, partitions: 1 }).await?;
    Ok(bus)
}

fn event() -> Outcome<Event> {
    let builder = Event::builder(
        "0190f3c2-7c7e-7b7c-9d3e-0123456789ab",
        "/namespaces/default/eventsources/shop/orders",
        "io.evoke.webhook",
    );
    let builder = builder.attribute("datacontenttype", "application/json").attribute("time", "2026-11-23T15:53:00Z");
    let head = builder.clone().build()?.encoded_len();
    Ok(builder.data(vec![b'x'; EVENT_BYTES - head]).build()?)
}

async fn publish(dir: &Path, batch: usize, calls: usize, span: Duration) -> Outcome<Measured> {
    let bus = open(dir).await?;
    let (to, events) = (partition(), vec![event()?; batch]);
    // The first, small segments are behind it in a running evoke.
    for _ in 0..64 {
        bus.publish(&to, vec![event()?; 1024]).await?.await;
    }
    let (mut waiting, mut stored, mut published) = (VecDeque::new(), 0usize, 64 * 1024u64);
    let (meter, started) = (Meter::start(None)?, Instant::now());
    while started.elapsed() < span {
        while waiting.len() < calls {
            waiting.push_back(bus.publish(&to, events.clone()).await?);
        }
        let Some(receipt) = waiting.pop_front() else { break };
        for result in receipt.await {
            result?;
            (stored, published) = (stored + 1, published + 1);
        }
        if stored.is_multiple_of(65536) && published > KEPT_BYTES / EVENT_BYTES as u64 {
            let before = published - KEPT_BYTES / EVENT_BYTES as u64;
            bus.trim(&to, Position(before.into())).await?;
        }
    }
    let measured = meter.stop(stored)?;
    for receipt in waiting {
        receipt.await;
    }
    bus.close().await?;
    std::fs::remove_dir_all(dir)?;
    Ok(measured)
}

/// Reads what was just written, that is, from the page cache.
async fn read_back(dir: &Path) -> Outcome<()> {
    let bus = open(dir).await?;
    let to = partition();
    let events: usize = 512 << 10;
    for _ in 0..events / 1024 {
        bus.publish(&to, vec![event()?; 1024]).await?.await;
    }
    for max_bytes in [64 << 10, 256 << 10, 1 << 20] {
        let mut reader = bus.read(&to, From::First, 256 << 10).await?;
        let (mut read, meter) = (0, Meter::start(None)?);
        while read < events {
            read += reader.next(max_bytes).await?.records.len();
        }
        let Measured { rate, cpu, .. } = meter.stop(read)?;
        let (kib, cpu) = (max_bytes >> 10, cpu * 1e6);
        println!("read from the page cache, {kib:4} KiB a call: {rate:.0}/s, {cpu:.2} CPU us/event");
    }
    bus.close().await?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// From the call of `publish` to a waiting reader, one event at a time, and with everybody busy.
async fn latency(dir: &Path) -> Outcome<()> {
    let bus = open(dir).await?;
    let to = partition();
    let mut reader = bus.read(&to, From::Next, 0).await?;
    let mut took = Vec::new();
    for _ in 0..2000 {
        let started = Instant::now();
        drop(bus.publish(&to, vec![event()?]).await?);
        while reader.next(1 << 20).await?.records.is_empty() {}
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(&took, share));
    println!("publish to a waiting reader: p50 {p50:.0} us, p99 {p99:.0} us");
    let (events, meter) = (512usize << 10, Meter::start(None)?);
    let writer = async {
        let mut waiting = VecDeque::new();
        for _ in 0..events / 256 {
            waiting.push_back(bus.publish(&to, vec![event()?; 256]).await?);
            if waiting.len() > 4
                && let Some(receipt) = waiting.pop_front()
            {
                receipt.await;
            }
        }
        for receipt in waiting {
            receipt.await;
        }
        Outcome::Ok(())
    };
    let follower = async {
        let mut read = 0;
        while read < events {
            read += reader.next(256 << 10).await?.records.len();
        }
        Outcome::Ok(())
    };
    tokio::try_join!(writer, follower)?;
    let Measured { rate, cpu, .. } = meter.stop(events)?;
    println!("publish (256 a call, 4 calls) and read at the end: {rate:.0}/s, {:.2} CPU us/event", cpu * 1e6);
    bus.close().await?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// What 100 topics that do nothing cost.
async fn idle(dir: &Path) -> Outcome<()> {
    let before = resident_kib()?;
    let bus = open(dir).await?;
    let one = resident_kib()?;
    let mut readers = Vec::new();
    for i in 0..100 {
        let topic = Partition { topic: TopicName::parse(&format!("bench.idle.{i}")), index: 0 };
        bus.declare(&TopicSpec { name: topic.topic.clone(), partitions: 1 }).await?;
        readers.push(bus.read(&topic, From::Next, 64 << 10).await?);
    }
    let many = resident_kib()?;
    println!(
        "resident memory of an idle bus: {} KiB more; with 100 topics and readers: {} KiB more",
        one - before,
        many - before
    );
    drop(readers);
    bus.close().await?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
