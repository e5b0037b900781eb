//! A bus beside its broker's client used by hand, on one server in one run.

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::TopicName;
use evoke_eventbus::bus::EventBus;
use evoke_eventbus::event::Event;

use crate::bus_side;
use crate::loops::{WARM, closed, drain, open};
use crate::measure::{Measured, Outcome, median, percentile};
use crate::pipeline;
use crate::promises::Promises;
use crate::sides::{BATCH, Broker, Ends, events};
use crate::tool::Tooled;

/// Bytes of data, and how many such events a round has.
const SIZES: [(usize, usize); 3] = [(256, 150_000), (1024, 100_000), (16 << 10, 12_000)];
/// In turns, so that whatever else the machine does meets both sides.
const ROUNDS: usize = 3;
const OPEN_ROUNDS: usize = 2;
const OPEN_SPAN: Duration = Duration::from_secs(2);
/// What the project promises of the bus beside the client, and of the client beside the broker's tool.
const TARGET: f64 = 0.8;

/// Measures and prints everything. `scale` is how much more events there are than usually.
///
/// # Errors
/// Those of either side.
pub async fn run<B: Broker>(broker: &B, scale: f64) -> Outcome<()> {
    let bus = bus_side::up(broker.bus().await?).await?;
    let contest = Contest { broker, bus, scale, made: Cell::new(0) };
    println!(
        "calls of {BATCH} events, {} under way; one partition; {ROUNDS} rounds in turns, medians; CPU is seconds per 1,000 events, user and system",
        B::CALLS
    );
    let sizes = contest.closed().await?;
    contest.tool(&sizes).await?;
    contest.open(&sizes).await?;
    pipeline::subscribers(&contest.bus, Some(broker.server())).await?;
    let ordered = pipeline::ordered(&contest.bus).await?;
    contest.bus.close().await?;
    println!();
    let (client, mut promises) = (B::CLIENT, Promises::default());
    for Size { bytes, ratio, unacked_ratio, tool_ratio, .. } in &sizes {
        promises.at_least(format!("bus / {client}, publish + consume + ack of {bytes} bytes"), *ratio, TARGET);
        println!("bus / {client} that reads plainly, without acks, {bytes} bytes: {unacked_ratio:.2}");
        promises.at_least(format!("{client} / {}, {bytes} bytes", B::TOOL), tool_ratio.get(), TARGET);
    }
    ordered.promise(&mut promises);
    promises.end()
}

struct Contest<'a, B> {
    broker: &'a B,
    bus: Arc<dyn EventBus>,
    scale: f64,
    made: Cell<usize>,
}

/// What was found at one size of events.
struct Size {
    bytes: usize,
    events: usize,
    raw: Measured,
    ratio: f64,
    unacked_ratio: f64,
    /// Not a number where there is no tool.
    tool_ratio: Cell<f64>,
}

/// What the two sides reached in one round, and how fast both then read the log plainly.
#[derive(Default)]
struct Rounds {
    raw: Vec<Measured>,
    bus: Vec<Measured>,
    unacked: Vec<Measured>,
    raw_read: Vec<f64>,
    bus_read: Vec<f64>,
}

impl<B: Broker> Contest<'_, B> {
    fn next(&self) -> usize {
        self.made.set(self.made.get() + 1);
        self.made.get()
    }

    async fn by_hand(&self, events: &Arc<[Event]>, bytes: usize, acks: bool) -> Outcome<(Measured, f64)> {
        let name = format!("raw-{}", self.next());
        let measured = closed(self.raw_ends(&name, bytes, acks).await?, events, B::CALLS, self.broker.server()).await?;
        let mut reader = self.broker.consumer(&name, bytes, false).await?;
        let read = drain(&mut *reader, events.len()).await?;
        drop(reader);
        self.broker.forget(&name).await?;
        Ok((measured, read))
    }

    async fn raw_ends(&self, name: &str, bytes: usize, acks: bool) -> Outcome<Ends> {
        self.broker.make(name).await?;
        let publisher = self.broker.publisher(name).await?;
        Ok(Ends { publisher, consumer: self.broker.consumer(name, bytes, acks).await? })
    }

    async fn by_bus(&self, events: &Arc<[Event]>) -> Outcome<(Measured, f64)> {
        let topic = TopicName::parse(&format!("bench.run.n{}", self.next()));
        let at = bus_side::partition(&self.bus, &topic).await?;
        let ends = bus_side::ends(&self.bus, &at).await?;
        let measured = closed(ends, events, B::CALLS, self.broker.server()).await?;
        let mut reader = bus_side::consumer(&self.bus, &at, false).await?;
        let read = drain(&mut *reader, events.len()).await?;
        drop(reader);
        self.broker.forget(&self.broker.wire_name(&topic)).await?;
        Ok((measured, read))
    }

    async fn closed(&self) -> Outcome<Vec<Size>> {
        let client = B::CLIENT;
        println!("\npublish + consume + ack, as fast as it goes");
        println!(
            "| bytes | {client}/s | bus/s | ratio | {client} without acks/s | ratio | CPU {client} | CPU bus | server's CPU, {client} | server's CPU, bus |"
        );
        println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        let (mut sizes, mut reads) = (Vec::new(), Vec::new());
        for (bytes, count) in SIZES {
            let events = events(((count as f64 * self.scale) as usize).max(4 * WARM), bytes)?;
            let mut rounds = Rounds::default();
            for _ in 0..ROUNDS {
                let (raw, raw_read) = self.by_hand(&events, bytes, true).await?;
                let (bus, bus_read) = self.by_bus(&events).await?;
                let (unacked, _) = self.by_hand(&events, bytes, false).await?;
                rounds.raw.push(raw);
                rounds.bus.push(bus);
                rounds.unacked.push(unacked);
                rounds.raw_read.push(raw_read);
                rounds.bus_read.push(bus_read);
            }
            let [raw, bus, unacked] = [&rounds.raw, &rounds.bus, &rounds.unacked].map(|all| Measured::median(all));
            // Of each round, so that what drifts from one to the next cancels out.
            let beside =
                |other: &[Measured]| median(rounds.bus.iter().zip(other).map(|(b, o)| b.rate / o.rate).collect());
            let (ratio, unacked_ratio) = (beside(&rounds.raw), beside(&rounds.unacked));
            println!(
                "| {bytes} | {:.0} | {:.0} | {ratio:.2} | {:.0} | {unacked_ratio:.2} | {:.4} | {:.4} | {:.4} | {:.4} |",
                raw.rate,
                bus.rate,
                unacked.rate,
                raw.cpu * 1e3,
                bus.cpu * 1e3,
                raw.server_cpu * 1e3,
                bus.server_cpu * 1e3
            );
            let tool_ratio = Cell::new(f64::NAN);
            sizes.push(Size { bytes, events: events.len(), raw, ratio, unacked_ratio, tool_ratio });
            reads.push((bytes, median(rounds.raw_read), median(rounds.bus_read)));
        }
        println!("\na plain read of the same log from its start, without acks");
        println!("| bytes | {client}/s | bus/s | ratio |\n| ---: | ---: | ---: | ---: |");
        for (bytes, raw, bus) in reads {
            println!("| {bytes} | {raw:.0} | {bus:.0} | {:.2} |", bus / raw);
        }
        Ok(sizes)
    }

    async fn tool(&self, sizes: &[Size]) -> Outcome<()> {
        println!("\n{}", B::TOOL);
        for size in sizes {
            let like = events(1, size.bytes)?;
            let Some(like) = like.first() else { continue };
            match self.broker.tool(like, size.events).await? {
                Tooled::Rate(rate, how) => {
                    size.tool_ratio.set(size.raw.rate / rate);
                    println!(
                        "{} bytes: {rate:.0}/s ({how}); {} reaches {:.2} of it",
                        size.bytes,
                        B::CLIENT,
                        size.raw.rate / rate
                    );
                }
                Tooled::Skipped(why) => {
                    println!("skipped: {why}");
                    break;
                }
            }
        }
        Ok(())
    }

    async fn open(&self, sizes: &[Size]) -> Outcome<()> {
        let client = B::CLIENT;
        println!("\nopen loop at half of {client}'s rate: ms from when an event is due to when it is delivered");
        println!("| bytes | events/s | {client} p50 | bus p50 | added | {client} p99 | bus p99 | added |");
        println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        for size in sizes {
            let rate = size.raw.rate / 2.0;
            let events = events(((rate * OPEN_SPAN.as_secs_f64()) as usize).max(1) + WARM, size.bytes)?;
            let (mut raw, mut bus) = (Vec::new(), Vec::new());
            for _ in 0..OPEN_ROUNDS {
                let name = format!("raw-{}", self.next());
                raw.extend(open(self.raw_ends(&name, size.bytes, true).await?, &events, rate, OPEN_SPAN).await?);
                self.broker.forget(&name).await?;
                let topic = TopicName::parse(&format!("bench.run.n{}", self.next()));
                let at = bus_side::partition(&self.bus, &topic).await?;
                bus.extend(open(bus_side::ends(&self.bus, &at).await?, &events, rate, OPEN_SPAN).await?);
                self.broker.forget(&self.broker.wire_name(&topic)).await?;
            }
            raw.sort_by(f64::total_cmp);
            bus.sort_by(f64::total_cmp);
            let [p50, p99] = [0.5, 0.99].map(|share| {
                let (raw, bus) = (percentile(&raw, share), percentile(&bus, share));
                format!("{raw:.2} | {bus:.2} | {:+.2}", bus - raw)
            });
            println!("| {} | {rate:.0} | {p50} | {p99} |", size.bytes);
        }
        Ok(())
    }
}
