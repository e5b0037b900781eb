//! The JetStream bus beside a loop written by hand with async-nats (publish with acknowledgements under way, pull consumer, ack), and that
//! loop beside `nats bench`, on one server in one run.
//!
//! `cargo run --release -p evoke-benches --bin jetstream_bus [-- SCALE]`: how much more events each line is measured over (1 by default).

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::{Context, consumer, context, stream};
use evoke_api::names::TopicName;
use evoke_benches::contest;
use evoke_benches::measure::Outcome;
use evoke_benches::sides::{BATCH, Broker, Consumer, Publisher, Stored};
use evoke_benches::tool::{Tooled, nats_cli, number_before, output};
use evoke_connect::nats::NatsPlan;
use evoke_eventbus::bus::EventBus;
use evoke_eventbus::event::Event;
use evoke_eventbus::jetstream::JetStreamBus;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::jetstream::{DUPLICATE_WINDOW, JetStreamPlan};
use evoke_tests::process::{Pid, Program};
use evoke_tests::servers::nats::Nats;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};

/// Messages that one pull asks for at most, in messages and in bytes, since servers cut off who is so much behind; and messages that a
/// consumer may hold.
const PULL: usize = 10_000;
const PULL_BYTES: usize = 32 << 20;
const UNACKED: i64 = 100_000;
const MAX_EVENT_BYTES: usize = 1 << 20;

fn main() -> Outcome<()> {
    let scale = std::env::args().nth(1).map_or(Ok(1.0), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let nats = Nats::start().await.map_err(|skipped| skipped.0)?;
        println!("one replica, files, no sync before an acknowledgement; both sides set `Nats-Msg-Id`");
        let result = contest::run(&JetStream { nats: &nats }, scale).await;
        nats.kill().await;
        result
    })
}

struct JetStream<'a> {
    nats: &'a Nats,
}

impl JetStream<'_> {
    /// A client of its own, as a program has one.
    async fn context(&self) -> Context {
        context::ContextBuilder::new().max_ack_inflight(2 * BATCH * Self::CALLS).build(self.nats.client().await)
    }
}

impl Broker for JetStream<'_> {
    const CLIENT: &'static str = "async-nats";
    const TOOL: &'static str = "nats bench";
    const CALLS: usize = 8;

    fn server(&self) -> Pid {
        self.nats.pid()
    }

    async fn bus(&self) -> Outcome<Arc<dyn EventBus>> {
        let plan = JetStreamPlan::on(NatsPlan { servers: vec![self.nats.url()], ..NatsPlan::default() });
        let metrics = BusMetrics::new(&prometheus::Registry::new())?;
        Ok(Arc::new(JetStreamBus::open("bench", plan, MAX_EVENT_BYTES, &metrics).await?))
    }

    fn wire_name(&self, topic: &TopicName) -> String {
        topic.parts().fold("evoke".to_owned(), |name, part| name + "+" + part)
    }

    async fn make(&self, name: &str) -> Outcome<()> {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![name.to_owned()],
            duplicate_window: DUPLICATE_WINDOW,
            ..stream::Config::default()
        };
        self.context().await.create_stream(config).await?;
        Ok(())
    }

    async fn forget(&self, name: &str) -> Outcome<()> {
        self.context().await.delete_stream(name).await?;
        Ok(())
    }

    async fn publisher(&self, name: &str) -> Outcome<Box<dyn Publisher>> {
        Ok(Box::new(RawPublisher { context: self.context().await, subject: name.to_owned().into() }))
    }

    async fn consumer(&self, name: &str, bytes: usize, acks: bool) -> Outcome<Box<dyn Consumer>> {
        let stream = self.context().await.get_stream(name).await?;
        let (ack_policy, max_ack_pending) =
            if acks { (consumer::AckPolicy::Explicit, UNACKED) } else { (consumer::AckPolicy::None, 0) };
        let config = consumer::pull::Config { ack_policy, max_ack_pending, ..consumer::pull::Config::default() };
        let consumer = stream.create_consumer(config).await?;
        let pull = PULL.min(PULL_BYTES / bytes.max(1));
        let messages = consumer.stream().max_messages_per_batch(pull).messages().await?;
        Ok(Box::new(RawConsumer { messages, acks }))
    }

    async fn tool(&self, event: &Event, events: usize) -> Outcome<Tooled> {
        let nats = match nats_cli().await? {
            Ok(nats) => nats,
            Err(why) => return Ok(Tooled::Skipped(why)),
        };
        let (bytes, events) = (event.data_slice().len(), (2 * events).to_string());
        let name = format!("tool-{bytes}");
        self.make(&name).await?;
        let stream = self.context().await.get_stream(&name).await?;
        let durable_name = Some("tool".to_owned());
        let config =
            consumer::pull::Config { durable_name, max_ack_pending: UNACKED, ..consumer::pull::Config::default() };
        stream.create_consumer(config).await?;
        let bench = |what: &[&str]| {
            let url = self.nats.url();
            let program = Program::new("nats bench", &nats).args(["--no-context", "-s", url.as_str(), "bench", "js"]);
            program.args(what).args(["--stream", name.as_str(), "--msgs", events.as_str(), "--no-progress"])
        };
        let (size, under_way) = (format!("{bytes}B"), (BATCH * Self::CALLS).to_string());
        let headers = headers(event);
        let headers = headers.iter().flat_map(|(header, values)| {
            values.iter().map(move |value| format!("{header}:{value}")).filter(|header| !header.starts_with("Nats-"))
        });
        let publish = bench(&["pub", "async", &name, "--dedup", "--size", &size, "--batch", &under_way])
            .args(headers.flat_map(|header| ["-H".to_owned(), header]));
        let pull = PULL.to_string();
        let consume = bench(&["consume", "--consumer", "tool", "--acks", "explicit", "--batch", &pull]);
        let (published, consumed) = tokio::try_join!(output(publish), output(consume))?;
        self.forget(&name).await?;
        let (published, consumed) = (number_before(&published, " msgs/sec")?, number_before(&consumed, " msgs/sec")?);
        let how = format!("the slower of pub async {published:.0}/s and consume {consumed:.0}/s, side by side");
        Ok(Tooled::Rate(published.min(consumed), how))
    }
}

/// As the CloudEvents binding for NATS says.
fn headers(event: &Event) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", event.id());
    headers.insert("ce-specversion", "1.0");
    for (name, value) in event.attributes() {
        let header = match name {
            "id" => "ce-id",
            "source" => "ce-source",
            "type" => "ce-type",
            "time" => "ce-time",
            _ => "ce-datacontenttype",
        };
        headers.insert(header, value);
    }
    headers
}

struct RawPublisher {
    context: Context,
    subject: async_nats::Subject,
}

impl Publisher for RawPublisher {
    fn publish<'a>(&'a mut self, events: &'a [Event]) -> BoxFuture<'a, Outcome<Stored>> {
        async move {
            let mut acks = Vec::with_capacity(events.len());
            for event in events {
                let subject = self.subject.clone();
                acks.push(self.context.publish_with_headers(subject, headers(event), event.data()).await?);
            }
            Ok(async move {
                for ack in acks {
                    ack.await?;
                }
                Ok(())
            }
            .boxed())
        }
        .boxed()
    }
}

struct RawConsumer {
    messages: consumer::pull::Stream,
    acks: bool,
}

impl Consumer for RawConsumer {
    fn consume<'a>(&'a mut self, each: &'a mut (dyn FnMut(&[u8]) + Send)) -> BoxFuture<'a, Outcome<()>> {
        async move {
            let mut next = Some(self.messages.next().await);
            // What is there already is taken at once.
            let mut taken = 0;
            while let Some(message) = next.take() {
                let message = message.ok_or("the stream of messages ended")??;
                each(&message.payload);
                if self.acks {
                    message.ack().await?;
                }
                taken += 1;
                if taken < BATCH {
                    next = self.messages.next().now_or_never();
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Outcome<()>> {
        std::future::ready(Ok(())).boxed()
    }
}
