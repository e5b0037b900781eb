//! Publish -> deliver -> ack on the embedded bus with a sink that does nothing, beside plain append + fdatasync of the same batches
//! in the same run; then 1, 10 and 100 subscribers of one topic, and order by key.
//!
//! `bus_to_sink [DIR]`: where to write, by default the system's folder for temporary files.

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use evoke_benches::measure::{Measured, Outcome, median};
use evoke_benches::pipeline::{Work, delivered, ordered, subscribers};
use evoke_benches::promises::Promises;
use evoke_delivery::plan::DeliveryPolicy;
use evoke_eventbus::bus::EventBus;
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::metrics::BusMetrics;
use tempfile::TempDir;

const EVENT_BYTES: usize = 1024;
/// Events of one call, and how many events a round has.
const BATCHES: [(usize, usize); 5] = [(1, 4_000), (16, 40_000), (64, 150_000), (256, 250_000), (1024, 300_000)];
/// In turns, so that whatever else the machine does meets both.
const ROUNDS: usize = 3;
/// What the project promises of each batch, beside plain files.
const TARGET: f64 = 0.5;

fn main() -> Outcome<()> {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(&dir))
}

async fn run(dir: &Path) -> Outcome<()> {
    let default = DeliveryPolicy::default().max_in_flight;
    println!(
        "1 KiB events, 4 batches under way; {ROUNDS} rounds in turns, medians; CPU us per event at maxInFlight {default}\n"
    );
    println!(
        "| batch | plain append + fdatasync/s | maxInFlight {default}/s | ratio | CPU | maxInFlight 4096/s | ratio |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut ratios = Vec::new();
    for (batch, events) in BATCHES {
        let (mut plain, mut few, mut many) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(append(dir, batch, events)?);
            for (max_in_flight, found) in [(default, &mut few), (4096, &mut many)] {
                let (bus, _kept) = open(dir)?;
                let work = Work { subscribers: 1, events, batch, max_in_flight, reads_data: false };
                found.push(delivered(&bus, "bench", work, None).await?);
                bus.close().await?;
            }
        }
        // Of each round, so that what drifts from one to the next cancels out.
        let ratio =
            |ours: &[Measured]| median(ours.iter().zip(&plain).map(|(ours, plain)| ours.rate / plain).collect());
        let (few_ratio, many_ratio) = (ratio(&few), ratio(&many));
        let (few, many) = (Measured::median(&few), Measured::median(&many));
        ratios.push((batch, few_ratio));
        println!(
            "| {batch} | {:.0} | {:.0} | {few_ratio:.2} | {:.2} | {:.0} | {many_ratio:.2} |",
            median(plain),
            few.rate,
            few.cpu * 1e6,
            many.rate
        );
    }
    let (bus, _kept) = open(dir)?;
    subscribers(&bus, None).await?;
    let ordered = ordered(&bus).await?;
    bus.close().await?;
    println!();
    let mut promises = Promises::default();
    for (batch, ratio) in ratios {
        promises.at_least(
            format!("batch {batch}, maxInFlight {default}, beside plain append + fdatasync"),
            ratio,
            TARGET,
        );
    }
    ordered.promise(&mut promises);
    promises.end()
}

fn open(dir: &Path) -> Outcome<(Arc<dyn EventBus>, TempDir)> {
    let folder = tempfile::tempdir_in(dir)?;
    let options = EmbeddedOptions::new("bench", BusMetrics::new(&prometheus::Registry::new())?);
    let bus: Arc<EmbeddedBus> = EmbeddedBus::open(folder.path(), options)?;
    Ok((bus, folder))
}

/// What a program would do that only wants its records on disk.
fn append(dir: &Path, batch: usize, events: usize) -> Outcome<f64> {
    let dir = tempfile::tempdir_in(dir)?;
    let mut file = File::create(dir.path().join("log"))?;
    let record = vec![b'x'; EVENT_BYTES * batch];
    let begin = Instant::now();
    for _ in 0..events / batch {
        file.write_all(&record)?;
        file.sync_data()?;
    }
    Ok((events / batch * batch) as f64 / begin.elapsed().as_secs_f64())
}
