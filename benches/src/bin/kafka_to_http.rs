//! Kafka -> bus -> condition -> HTTP through `evoke run`, beside a loop written by hand on rdkafka and hyper: the same broker, sink,
//! concurrency, acks and commits, in one run. Rates, CPU seconds and latencies of both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench reports on standard output and ends at the first failure"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use evoke_benches::fast_sink::{FastSink, payload};
use evoke_benches::measure::{Outcome, cpu_of, percentile};
use evoke_benches::promises::Promises;
use evoke_tests::evoke::Home;
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::process::{Pid, Process, Program};
use evoke_tests::servers::kafka::{Broker, Record, produce};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const IN_FLIGHT: usize = 64;
const PARTITIONS: i32 = 4;
const DRAIN: usize = 400_000;
const DRAIN_SLOW: usize = 40_000;
const SLOW: Duration = Duration::from_millis(10);
/// What the project promises beside the loop.
const TARGET: f64 = 0.8;
const OPEN_RATE: usize = 1_000;
const OPEN: usize = 20_000;
/// Events whose latency does not count: connections are made and code is warm after them.
const OPEN_WARM: usize = 2_000;
const ROUNDS: usize = 2;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, brokers, topic, sink] = &args[..] {
        assert_eq!(mode, "loop");
        by_hand(brokers, topic, sink.parse().unwrap()).await;
        return Ok(());
    }
    let broker = Broker::prepare().await.expect("Kafka is needed");
    broker.start().await;
    let fast = drain(&broker, "fast sink, 1 KiB records", DRAIN, Duration::ZERO).await;
    let slow = drain(&broker, "sink of 10 ms", DRAIN_SLOW, SLOW).await;
    open_loop(&broker).await;
    broker.stop().await;
    println!();
    let mut promises = Promises::default();
    promises.at_least("evoke / loop, fast sink", fast, TARGET);
    promises.at_least("evoke / loop, sink of 10 ms", slow, TARGET);
    promises.end()
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contender {
    Loop,
    Evoke,
}

/// A running contender; it ends when dropped.
struct Running {
    pid: Pid,
    _process: Box<dyn std::any::Any>,
}

impl Contender {
    async fn start(self, broker: &Broker, topic: &str, sink: &FastSink) -> Running {
        match self {
            Self::Loop => {
                let (brokers, sink) = (broker.listeners.plain.to_string(), sink.address().to_string());
                let program = Program::new("loop", std::env::current_exe().unwrap());
                let process: Process = program.args(["loop", &brokers, topic, &sink]).start().await;
                Running { pid: process.pid(), _process: Box::new(process) }
            }
            Self::Evoke => {
                // Every round reads the topic from its start, so every round is a group of its own.
                let home = Home::new();
                let group = home.data().to_string_lossy().replace('/', ".");
                let kafka = format!(
                    "kafka: {{orders: {{brokers: \"{}\", authRequired: false, topic: {topic}, startAt: earliest, \
                     consumerGroup: {group}}}}}",
                    broker.listeners.plain
                );
                let to = trigger(
                    "t",
                    &format!(
                        "inputs: {{orders: {{eventSource: kafka, event: orders}}}}\n\
                         subscribers: [{{name: f, condition: orders.data.amount > 100.0, sink: {{uri: \"{}\"}}, \
                         delivery: {{maxInFlight: {IN_FLIGHT}}}}}]",
                        sink.url()
                    ),
                );
                home.write("evoke.yaml", objects(&[source("kafka", &kafka), to]));
                let evoke = home.evoke().start().await;
                Running { pid: evoke.pid(), _process: Box::new((evoke, home)) }
            }
        }
    }
}

/// One drain of a topic that was filled before.
#[derive(Clone, Copy, Debug)]
struct Drained {
    per_second: f64,
    cpu_per_thousand: f64,
}

/// How many times the loop's rate evoke reaches.
async fn drain(broker: &Broker, what: &str, events: usize, delay: Duration) -> f64 {
    let topic = broker.topic(PARTITIONS).await;
    let producer = broker.producer();
    for chunk in (0..events).collect::<Vec<_>>().chunks(10_000) {
        produce(&producer, &topic, chunk.iter().map(|n| Record::new(payload(*n)))).await;
    }
    println!("\n{what}: drain of {events}, {IN_FLIGHT} in flight");
    let mut best: BTreeMap<Contender, Drained> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for contender in [Contender::Loop, Contender::Evoke] {
            let sink = FastSink::start(events, delay).await.unwrap();
            let running = contender.start(broker, &topic, &sink).await;
            // From the first tenth on: what a start costs is not what a rate is.
            let (from, count) = (events / 10, events - events / 10);
            sink.wait(from).await;
            let (start, cpu) = (Instant::now(), cpu_of(running.pid).unwrap());
            sink.wait(events).await;
            let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_of(running.pid).unwrap() - cpu);
            let drained = Drained { per_second: count as f64 / took, cpu_per_thousand: cpu / count as f64 * 1000.0 };
            println!(
                "  {contender:?}: {:.0}/s, {:.4} CPU s per 1,000 events, {} repeats",
                drained.per_second,
                drained.cpu_per_thousand,
                sink.repeats()
            );
            let kept = best.entry(contender).or_insert(drained);
            if drained.per_second > kept.per_second {
                *kept = drained;
            }
        }
    }
    let (by_hand, evoke) = (best[&Contender::Loop], best[&Contender::Evoke]);
    println!(
        "  evoke / loop: {:.2} x the rate, {:.1} x the CPU",
        evoke.per_second / by_hand.per_second,
        evoke.cpu_per_thousand / by_hand.cpu_per_thousand
    );
    evoke.per_second / by_hand.per_second
}

async fn open_loop(broker: &Broker) {
    println!("\n{OPEN_RATE}/s, open loop, from produce to the sink");
    for contender in [Contender::Loop, Contender::Evoke] {
        let topic = broker.topic(PARTITIONS).await;
        let sink = FastSink::start(OPEN, Duration::ZERO).await.unwrap();
        let running = contender.start(broker, &topic, &sink).await;
        // The first event shows that it reads.
        let producer = broker.producer();
        let mut sent = vec![Duration::ZERO; OPEN];
        sent[0] = sink.started().elapsed();
        produce(&producer, &topic, [Record::new(payload(0))]).await;
        sink.wait(1).await;
        let cpu = cpu_of(running.pid).unwrap();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(OPEN_RATE).unwrap());
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut under_way = JoinSet::new();
        for (n, at) in sent.iter_mut().enumerate().skip(1) {
            pace.tick().await;
            *at = sink.started().elapsed();
            let (producer, topic) = (producer.clone(), topic.clone());
            under_way.spawn(async move { produce(&producer, &topic, [Record::new(payload(n))]).await });
            while under_way.try_join_next().is_some() {}
        }
        sink.wait(OPEN).await;
        let cpu = cpu_of(running.pid).unwrap() - cpu;
        let mut latencies: Vec<f64> =
            (OPEN_WARM..OPEN).map(|n| (sink.arrival(n).unwrap() - sent[n]).as_secs_f64() * 1e3).collect();
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| percentile(&latencies, share);
        println!(
            "  {contender:?}: p50 {:.2} ms, p90 {:.2}, p99 {:.2}, p99.9 {:.2}; {:.4} CPU s per 1,000 events",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            cpu / OPEN as f64 * 1000.0
        );
    }
}

/// The loop: each record is posted as a CloudEvent in binary mode, and its offset committed once it and all before it in its
/// partition were answered with 2xx.
async fn by_hand(brokers: &str, topic: &str, sink: SocketAddr) {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("by-hand-{}", std::process::id()))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "1000")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let mut drivers = JoinSet::new();
    let mut idle = Vec::with_capacity(IN_FLIGHT);
    for _ in 0..IN_FLIGHT {
        let stream = TcpStream::connect(sink).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        drivers.spawn(connection);
        idle.push(sender);
    }
    let host = sink.to_string();
    let mut posts = FuturesUnordered::new();
    let mut windows: BTreeMap<i32, Window> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            Some((connection, partition, offset)) = posts.next() => {
                idle.push(connection);
                if let Some(done) = windows.get_mut(&partition).and_then(|window: &mut Window| window.finish(offset)) {
                    let mut offsets = TopicPartitionList::with_capacity(1);
                    offsets.add_partition_offset(topic, partition, Offset::Offset(done)).unwrap();
                    consumer.store_offsets(&offsets).unwrap();
                }
            }
            message = consumer.recv(), if !idle.is_empty() => {
                let message = message.unwrap();
                let (partition, offset) = (message.partition(), message.offset());
                windows.entry(partition).or_insert_with(|| Window::new(offset)).begin();
                posts.push(post(idle.pop().unwrap(), request(&message, &host), partition, offset));
            }
        }
    }
}

fn request(message: &BorrowedMessage<'_>, host: &str) -> Request<Full<Bytes>> {
    Request::post("/")
        .header("host", host)
        .header("ce-specversion", "1.0")
        .header("ce-id", format!("{}/{}/{}", message.topic(), message.partition(), message.offset()))
        .header("ce-source", "/loop")
        .header("ce-type", "kafka")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(message.payload().unwrap_or_default())))
        .unwrap()
}

async fn post(
    mut connection: SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    partition: i32,
    offset: i64,
) -> (SendRequest<Full<Bytes>>, i32, i64) {
    connection.ready().await.unwrap();
    let response = connection.send_request(request).await.unwrap();
    assert!(response.status().is_success());
    response.into_body().collect().await.unwrap();
    (connection, partition, offset)
}

/// What is under way in one partition, in order.
struct Window {
    first: i64,
    done: std::collections::VecDeque<bool>,
}

impl Window {
    fn new(first: i64) -> Self {
        Self { first, done: std::collections::VecDeque::new() }
    }

    fn begin(&mut self) {
        self.done.push_back(false);
    }

    /// The offset to commit now, if that moved.
    fn finish(&mut self, offset: i64) -> Option<i64> {
        let place = usize::try_from(offset - self.first).ok()?;
        *self.done.get_mut(place)? = true;
        let before = self.first;
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.first += 1;
        }
        (self.first > before).then_some(self.first)
    }
}
