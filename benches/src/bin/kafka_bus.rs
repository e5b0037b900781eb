//! The bus on Kafka beside a loop written by hand with rdkafka (idempotent producer with `acks=all`, consumer with committed offsets),
//! and that loop beside Kafka's own perf tests, on one broker in one run.
//!
//! `cargo run --release -p evoke-benches --bin kafka_bus [-- SCALE]`: how much more events each line is measured over (1 by default).

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::sync::Arc;
use std::time::Instant;

use evoke_api::names::TopicName;
use evoke_benches::bus_side::RECORD;
use evoke_benches::contest;
use evoke_benches::measure::Outcome;
use evoke_benches::sides::{BATCH, Broker, Consumer, Publisher, Stored};
use evoke_benches::tool::{Tooled, kafka_tools, number_before, output};
use evoke_connect::kafka::Brokers;
use evoke_eventbus::bus::EventBus;
use evoke_eventbus::codec::kafka::binary_headers;
use evoke_eventbus::event::Event;
use evoke_eventbus::kafka::{KafkaBus, KafkaOptions};
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::kafka::KafkaPlan;
use evoke_tests::process::{Pid, Program};
use evoke_tests::servers::kafka::{Broker as Kafka, shared};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, try_join_all};
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message as _, Offset, TopicPartitionList};

const PREFIX: &str = "bus.";
const MAX_EVENT_BYTES: usize = 1 << 20;
/// What the lengths of a header's name and value take, where both are short.
const HEADER_LENGTHS: usize = 2;

fn main() -> Outcome<()> {
    let scale = std::env::args().nth(1).map_or(Ok(1.0), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = shared().await.map_err(|skipped| skipped.0)?;
        println!("one broker, idempotent producers, acks=all, no flush before an acknowledgement, no compression");
        let result = contest::run(&OnKafka { broker: &broker }, scale).await;
        evoke_tests::servers::stop_shared().await;
        result
    })
}

struct OnKafka<'a> {
    broker: &'a Kafka,
}

impl Broker for OnKafka<'_> {
    const CLIENT: &'static str = "rdkafka";
    const TOOL: &'static str = "Kafka's producer and consumer perf tests";
    const CALLS: usize = 4;

    fn server(&self) -> Pid {
        self.broker.pid()
    }

    async fn bus(&self) -> Outcome<Arc<dyn EventBus>> {
        let brokers = Brokers { addresses: self.broker.listeners.plain.to_string(), ..Brokers::default() };
        let plan = KafkaPlan { brokers, partitions: 1, ..KafkaPlan::default() };
        let metrics = BusMetrics::new(&prometheus::Registry::new())?;
        let options = KafkaOptions { prefix: PREFIX.to_owned(), ..KafkaOptions::new("bench", plan, metrics) };
        let bus: Arc<KafkaBus> = KafkaBus::open(options)?;
        Ok(bus)
    }

    fn wire_name(&self, topic: &TopicName) -> String {
        format!("{PREFIX}{topic}")
    }

    async fn make(&self, name: &str) -> Outcome<()> {
        self.broker.make_topic(name, 1).await;
        Ok(())
    }

    async fn forget(&self, name: &str) -> Outcome<()> {
        self.broker.delete_topic(name).await;
        Ok(())
    }

    async fn publisher(&self, name: &str) -> Outcome<Box<dyn Publisher>> {
        let mut config = self.broker.client();
        config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "1");
        config.set("message.max.bytes", (2 * MAX_EVENT_BYTES).to_string());
        Ok(Box::new(RawPublisher { producer: config.create()?, topic: name.to_owned() }))
    }

    async fn consumer(&self, name: &str, _: usize, acks: bool) -> Outcome<Box<dyn Consumer>> {
        let mut config = self.broker.client();
        config.set("group.id", self.broker.name("group")).set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest").set("fetch.queue.backoff.ms", "1");
        let consumer: StreamConsumer = config.create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(name, 0, Offset::Beginning)?;
        consumer.assign(&list)?;
        Ok(Box::new(RawConsumer { consumer, topic: name.to_owned(), acks, next: 0, committed: Instant::now() }))
    }

    async fn tool(&self, event: &Event, events: usize) -> Outcome<Tooled> {
        let tools = match kafka_tools().await? {
            Ok(tools) => tools,
            Err(why) => return Ok(Tooled::Skipped(why)),
        };
        let (bytes, events) = (event.data_slice().len(), (4 * events).to_string());
        let name = format!("tool-{bytes}");
        self.make(&name).await?;
        let address = self.broker.listeners.plain.to_string();
        let class = |name: &str| {
            let program = Program::new(name, "java").args(["-Xmx512m", "-cp"]).args([&tools]);
            program.args([format!("org.apache.kafka.tools.{name}")])
        };
        // The tool writes no headers: its records are as large as those with them.
        let mut size = bytes;
        binary_headers(event, |key, value| size += key.len() + value.len() + HEADER_LENGTHS);
        let (servers, size) = (format!("bootstrap.servers={address}"), size.to_string());
        let publish = class("ProducerPerformance")
            .args(["--topic", &name, "--num-records", &events, "--record-size", &size, "--throughput", "-1"])
            .args(["--producer-props", &servers, "acks=all", "enable.idempotence=true", "linger.ms=1"])
            .args(["batch.size=262144", "buffer.memory=67108864"]);
        let consume = class("ConsumerPerformance")
            .args(["--bootstrap-server", &address, "--topic", &name, "--messages", &events, "--hide-header"])
            .args(["--timeout", "30000"]);
        let (published, consumed) = tokio::try_join!(output(publish), output(consume))?;
        self.forget(&name).await?;
        let published = number_before(&published, " records/sec")?;
        let consumed = consumed_per_second(&consumed)?;
        let how = format!(
            "records of {size} bytes; the slower of producer {published:.0}/s and consumer {consumed:.0}/s, side by side"
        );
        Ok(Tooled::Rate(published.min(consumed), how))
    }
}

/// The last of the consumer's ten figures: messages a second without the time it took to join its group.
fn consumed_per_second(text: &str) -> Outcome<f64> {
    let found = text.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(", ").collect();
        if fields.len() == 10 { fields.last()?.trim().parse::<f64>().ok() } else { None }
    });
    found.ok_or_else(|| format!("the consumer's perf test says no rate: {text}").into())
}

struct RawPublisher {
    producer: FutureProducer,
    topic: String,
}

impl Publisher for RawPublisher {
    fn publish<'a>(&'a mut self, events: &'a [Event]) -> BoxFuture<'a, Outcome<Stored>> {
        let sent = events.iter().map(|event| {
            let mut headers = Some(OwnedHeaders::new_with_capacity(8));
            binary_headers(event, |key, value| {
                headers = headers.take().map(|headers| headers.insert(Header { key, value: Some(value) }));
            });
            let record = FutureRecord {
                topic: &self.topic,
                partition: Some(0),
                payload: Some(event.data_slice()),
                key: None::<&[u8]>,
                timestamp: None,
                headers,
            };
            self.producer.send_result(record).map_err(|(error, _)| error)
        });
        let sent = sent.collect::<Result<Vec<_>, _>>();
        std::future::ready(sent.map_err(Into::into).map(|sent| {
            async move {
                for delivery in try_join_all(sent).await? {
                    delivery.map_err(|(error, _)| error)?;
                }
                Ok(())
            }
            .boxed()
        }))
        .boxed()
    }
}

struct RawConsumer {
    consumer: StreamConsumer,
    topic: String,
    acks: bool,
    next: i64,
    committed: Instant,
}

impl RawConsumer {
    /// Waits for a message, and takes what is there already at once.
    async fn take(&mut self, each: &mut (dyn FnMut(&[u8]) + Send)) -> Outcome<()> {
        let mut next = Some(self.consumer.recv().await);
        let mut taken = 0;
        while let Some(message) = next.take() {
            let message = message?;
            each(message.payload().unwrap_or_default());
            self.next = message.offset() + 1;
            taken += 1;
            if taken < BATCH {
                next = self.consumer.recv().now_or_never();
            }
        }
        Ok(())
    }

    fn commit(&mut self, mode: CommitMode) -> Outcome<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, Offset::Offset(self.next))?;
        self.consumer.commit(&list, mode)?;
        self.committed = Instant::now();
        Ok(())
    }
}

impl Consumer for RawConsumer {
    fn consume<'a>(&'a mut self, each: &'a mut (dyn FnMut(&[u8]) + Send)) -> BoxFuture<'a, Outcome<()>> {
        async move {
            self.take(each).await?;
            if self.acks && self.committed.elapsed() >= RECORD {
                self.commit(CommitMode::Async)?;
            }
            Ok(())
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Outcome<()>> {
        let done = if self.acks { self.commit(CommitMode::Sync) } else { Ok(()) };
        std::future::ready(done).boxed()
    }
}
