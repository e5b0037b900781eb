//! The Redis bus beside a loop written by hand with redis-rs (pipelines of XADD; XREADGROUP and XACK), and that loop beside
//! `redis-benchmark`, on one server in one run.
//!
//! `cargo run --release -p evoke-benches --bin redis_bus [-- SCALE]`: how much more events each line is measured over (1 by default).

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::sync::Arc;

use evoke_api::names::TopicName;
use evoke_benches::bus_side::READ_BYTES;
use evoke_benches::contest;
use evoke_benches::measure::Outcome;
use evoke_benches::sides::{BATCH, Broker, Consumer, Publisher, Stored};
use evoke_benches::tool::{Tooled, output};
use evoke_eventbus::bus::EventBus;
use evoke_eventbus::codec::redis as codec;
use evoke_eventbus::event::Event;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::redis::RedisPlan;
use evoke_eventbus::redis::{RedisBus, RedisOptions};
use evoke_tests::process::{Pid, Program, is_installed};
use evoke_tests::servers::redis::Redis;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value, cmd};

/// An append-only file that is rewritten in between would cost one side alone.
const SETTINGS: [&str; 2] = ["appendfsync everysec", "auto-aof-rewrite-percentage 0"];
const GROUP: &str = "g";
/// How long the server may let a read wait, in milliseconds.
const BLOCK: usize = 1000;
/// Reads of `redis-benchmark` that are under way.
const READS: usize = 2;

fn main() -> Outcome<()> {
    let scale = std::env::args().nth(1).map_or(Ok(1.0), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Redis::with(&SETTINGS).await.map_err(|skipped| skipped.0)?;
        println!("standalone, {}", SETTINGS.join(", "));
        let result = contest::run(&OnRedis { server: &server }, scale).await;
        server.kill().await;
        result
    })
}

struct OnRedis<'a> {
    server: &'a Redis,
}

impl OnRedis<'_> {
    /// Requests a second, over so many connections and with so many under way on each.
    async fn benchmark(
        &self,
        requests: usize,
        (connections, pipelined): (usize, usize),
        command: &[String],
    ) -> Outcome<f64> {
        let option = |name: &str, value: usize| [name.to_owned(), value.to_string()];
        let program = Program::new("redis-benchmark", "redis-benchmark")
            .args(option("-p", self.server.address.port().into()))
            .args(option("-n", requests))
            .args(option("-c", connections))
            .args(option("-P", pipelined))
            .args(["--csv"]);
        let text = output(program.args(command)).await?;
        // The command, requests a second, and six latencies, all in quotes.
        let rate = text.lines().last().unwrap_or_default().rsplit("\",\"").nth(6).and_then(|rate| rate.parse().ok());
        rate.ok_or_else(|| "redis-benchmark says no rate".into())
    }
}

impl Broker for OnRedis<'_> {
    const CLIENT: &'static str = "redis-rs";
    const TOOL: &'static str = "redis-benchmark";
    const CALLS: usize = 4;

    fn server(&self) -> Pid {
        self.server.pid()
    }

    async fn bus(&self) -> Outcome<Arc<dyn EventBus>> {
        let plan = RedisPlan::at(&self.server.address.ip().to_string(), self.server.address.port());
        let options = RedisOptions::new("bench", plan, BusMetrics::new(&prometheus::Registry::new())?);
        let bus: Arc<RedisBus> = RedisBus::open(&options)?;
        Ok(bus)
    }

    fn wire_name(&self, topic: &TopicName) -> String {
        topic.parts().fold("evoke".to_owned(), |key, part| key + ":" + part)
    }

    async fn make(&self, name: &str) -> Outcome<()> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(name).arg(GROUP).arg("0").arg("MKSTREAM");
        Ok(create.exec_async(&mut self.server.connection().await).await?)
    }

    async fn forget(&self, name: &str) -> Outcome<()> {
        Ok(cmd("UNLINK").arg(name).exec_async(&mut self.server.connection().await).await?)
    }

    async fn publisher(&self, name: &str) -> Outcome<Box<dyn Publisher>> {
        Ok(Box::new(RawPublisher { redis: self.server.connection().await, stream: name.to_owned() }))
    }

    async fn consumer(&self, name: &str, bytes: usize, acks: bool) -> Outcome<Box<dyn Consumer>> {
        let redis = self.server.connection().await;
        // As much at once as the bus asks for.
        let count = (READ_BYTES / bytes.max(1)).clamp(16, 4096);
        let (stream, read) = (name.to_owned(), Vec::new());
        Ok(Box::new(RawConsumer { redis, stream, count, acks, read, last: "0".to_owned() }))
    }

    async fn tool(&self, event: &Event, events: usize) -> Outcome<Tooled> {
        if !is_installed("redis-benchmark") {
            return Ok(Tooled::Skipped("no redis-benchmark command (apt-get install redis-tools)".to_owned()));
        }
        let name = format!("tool-{}", event.data_slice().len());
        self.make(&name).await?;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut add = words(&["XADD", &name, "*"]);
        codec::encode(event, |field, value| {
            add.extend([field, value].map(|text| String::from_utf8_lossy(text).into_owned()));
        });
        // So many are there that both sides have something to do to the end.
        self.benchmark(events, (Self::CALLS, BATCH), &add).await?;
        let (batch, reads) = (BATCH.to_string(), (events / BATCH).max(1));
        let read = words(&["XREADGROUP", "GROUP", GROUP, "c", "COUNT", &batch, "STREAMS", &name, ">"]);
        let (added, read) = tokio::try_join!(
            self.benchmark(events, (Self::CALLS, BATCH), &add),
            self.benchmark(reads, (1, READS), &read)
        )?;
        let read = read * BATCH as f64;
        let mut ack = words(&["XACK", &name, GROUP]);
        ack.extend((1..=BATCH).map(|id| format!("1-{id}")));
        let acked = self.benchmark(reads, (1, READS), &ack).await? * BATCH as f64;
        self.forget(&name).await?;
        // What is read is acknowledged by the same side.
        let rate = added.min(1.0 / (1.0 / read + 1.0 / acked));
        let how = format!(
            "the slower of XADD {added:.0}/s and XREADGROUP {read:.0}/s side by side, the latter with XACK {acked:.0}/s, in batches of {BATCH}"
        );
        Ok(Tooled::Rate(rate, how))
    }
}

struct RawPublisher {
    redis: MultiplexedConnection,
    stream: String,
}

impl Publisher for RawPublisher {
    fn publish<'a>(&'a mut self, events: &'a [Event]) -> BoxFuture<'a, Outcome<Stored>> {
        let mut adds = Pipeline::with_capacity(events.len());
        for event in events {
            let fields = codec::fields_of(event);
            let mut add = Cmd::with_capacity(3 + 2 * fields, event.encoded_len() + self.stream.len() + 8 * fields);
            add.arg("XADD").arg(&self.stream).arg("*");
            codec::encode(event, |field, value| {
                add.arg(field).arg(value);
            });
            adds.add_command(add);
        }
        let mut redis = self.redis.clone();
        let stored = async move {
            let ids: Vec<Value> = adds.query_async(&mut redis).await?;
            drop(ids);
            Ok(())
        };
        std::future::ready(Ok(stored.boxed())).boxed()
    }
}

struct RawConsumer {
    redis: MultiplexedConnection,
    stream: String,
    count: usize,
    acks: bool,
    /// Not acknowledged yet.
    read: Vec<Vec<u8>>,
    /// Where a plain read goes on.
    last: String,
}

impl RawConsumer {
    async fn read_group(&mut self) -> Outcome<Value> {
        let mut pipeline = Pipeline::with_capacity(2);
        if !self.read.is_empty() {
            pipeline.cmd("XACK").arg(&self.stream).arg(GROUP).arg(&self.read).ignore();
        }
        let read = pipeline.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg("c").arg("COUNT").arg(self.count);
        read.arg("BLOCK").arg(BLOCK).arg("STREAMS").arg(&self.stream).arg(">");
        let answers: Vec<Value> = pipeline.query_async(&mut self.redis).await?;
        self.read.clear();
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    async fn read_plainly(&mut self) -> Outcome<Value> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(self.count).arg("BLOCK").arg(BLOCK).arg("STREAMS").arg(&self.stream).arg(&self.last);
        Ok(read.query_async(&mut self.redis).await?)
    }
}

impl Consumer for RawConsumer {
    fn consume<'a>(&'a mut self, each: &'a mut (dyn FnMut(&[u8]) + Send)) -> BoxFuture<'a, Outcome<()>> {
        async move {
            let answer = if self.acks { self.read_group().await? } else { self.read_plainly().await? };
            let mut last = None;
            for (id, fields) in entries(answer) {
                let data = fields.chunks(2).find_map(|pair| match pair {
                    [Value::BulkString(name), Value::BulkString(data)] if name == codec::DATA.as_bytes() => Some(data),
                    _ => None,
                });
                each(data.map(Vec::as_slice).unwrap_or_default());
                if self.acks {
                    self.read.push(id);
                } else {
                    last = Some(id);
                }
            }
            if let Some(id) = last {
                self.last = String::from_utf8(id)?;
            }
            Ok(())
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Outcome<()>> {
        async move {
            if !self.read.is_empty() {
                let mut ack = cmd("XACK");
                ack.arg(&self.stream).arg(GROUP).arg(&self.read).exec_async(&mut self.redis).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// The entries of the only stream in an answer: ids, and names and values by turns.
fn entries(answer: Value) -> Vec<(Vec<u8>, Vec<Value>)> {
    let array = |value: Value| match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    };
    let streams = array(answer).into_iter().next().map(array).unwrap_or_default();
    let entries = streams.into_iter().nth(1).map(array).unwrap_or_default();
    let entry = |entry: Value| {
        let mut parts = array(entry).into_iter();
        let Some(Value::BulkString(id)) = parts.next() else { return None };
        Some((id, parts.next().map(array).unwrap_or_default()))
    };
    entries.into_iter().filter_map(entry).collect()
}
