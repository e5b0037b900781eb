//! Resident memory of `evoke run` with 100 triggers: idle, under load, and after 100,000 events.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench reports on standard output and ends at the first failure"
)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use evoke_benches::fast_sink::FastSink;
use evoke_benches::measure::Outcome;
use evoke_benches::promises::Promises;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::post;
use evoke_tests::manifests::{objects, source, trigger};
use tokio::task::JoinSet;

const TRIGGERS: usize = 100;
const EVENTS: usize = 100_000;
const SENDERS: usize = 64;
const LIMIT_MIB: f64 = 50.0;

#[tokio::main]
async fn main() -> Outcome<()> {
    let sink = FastSink::start(EVENTS, Duration::ZERO).await.unwrap();
    let mut manifests = vec![source("web", "webhook: {in: {}}")];
    for n in 0..TRIGGERS {
        manifests.push(trigger(
            &format!("t{n}"),
            &format!(
                "inputs: {{it: {{eventSource: web, event: in}}}}\n\
                 subscribers: [{{name: s, condition: 'event.type == \"t{n}\" && event.data.amount > 100.0', sink: {{uri: \"{}\"}}}}]",
                sink.url()
            ),
        ));
    }
    let home = Home::with(objects(&manifests));
    let mut evoke = home.run().await;
    // The allocator's first growth is over once something has gone through.
    send(&evoke, 0..100).await;
    sink.wait(100).await;
    let idle = resident_mib(&evoke, "VmRSS");
    println!("idle, {TRIGGERS} triggers: {idle:.1} MiB");
    let start = Instant::now();
    send(&evoke, 100..EVENTS).await;
    let sent = start.elapsed();
    sink.wait(EVENTS).await;
    let after = resident_mib(&evoke, "VmRSS");
    let peak = resident_mib(&evoke, "VmHWM");
    println!(
        "after {EVENTS} events of 1 KiB ({:.0}/s): {after:.1} MiB, {peak:.1} MiB at the most",
        EVENTS as f64 / sent.as_secs_f64()
    );
    evoke.stop().await;
    let mut promises = Promises::default();
    promises.at_most("MiB idle", idle, LIMIT_MIB);
    promises.at_most("MiB after the events", after, LIMIT_MIB);
    promises.end()
}

/// Posts events of all triggers' types over many connections.
async fn send(evoke: &Evoke, which: std::ops::Range<usize>) {
    let (url, next) = (evoke.webhook("/default/web/in"), Arc::new(AtomicUsize::new(which.start)));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (url, next, end) = (url.clone(), next.clone(), which.end);
        senders.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= end {
                    break;
                }
                let (id, ty) = (n.to_string(), format!("t{}", n % TRIGGERS));
                let headers = [
                    ("ce-specversion", "1.0"),
                    ("ce-id", &*id),
                    ("ce-source", "/bench"),
                    ("ce-type", &*ty),
                    ("content-type", "application/json"),
                ];
                let answer = post(&url, &headers, evoke_benches::fast_sink::payload(n)).await;
                assert_eq!(answer.status, 202);
            }
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }
}

fn resident_mib(evoke: &Evoke, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", evoke.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
