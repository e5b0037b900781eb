//! The suite on NATS JetStream: a server a site, which is killed and started again on its data.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream;
use evoke_connect::nats::NatsPlan;
use evoke_eventbus::bus::{EventBus, Partition};
use evoke_eventbus::conformance::{Harness, Limits};
use evoke_eventbus::event::Event;
use evoke_eventbus::jetstream::JetStreamBus;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::jetstream::JetStreamPlan;
use evoke_tests::case::Skipped;
use evoke_tests::servers::nats::Nats;
use prometheus::Registry;

pub(crate) struct JetStream;

pub(crate) async fn harness() -> Result<JetStream, Skipped> {
    // Whether there is a server to be had is known before the first test asks for one that must be there.
    Nats::prepare(&[]).await.map(|_| JetStream)
}

pub(crate) struct Site {
    nats: Nats,
    limits: Limits,
}

impl Harness for JetStream {
    type Site = Site;

    async fn site(&self, limits: Limits) -> Site {
        Site { nats: Nats::start().await.expect("harness() has made sure"), limits }
    }

    async fn open(&self, site: &Site) -> Arc<dyn EventBus> {
        let mut plan = JetStreamPlan::on(NatsPlan { servers: vec![site.nats.url()], ..NatsPlan::default() });
        plan.max_bytes = Some(site.limits.max_bytes);
        let metrics = BusMetrics::new(&Registry::new()).unwrap();
        Arc::new(JetStreamBus::open("test", plan, site.limits.max_event_bytes, &metrics).await.unwrap())
    }

    async fn cut(&self, site: &Site, bus: Arc<dyn EventBus>) -> Arc<dyn EventBus> {
        site.nats.kill().await;
        site.nats.resume().await;
        bus
    }

    async fn lose_tail(&self, site: &Site, bus: Arc<dyn EventBus>, partition: &Partition) -> Arc<dyn EventBus> {
        let context = jetstream::new(site.nats.client().await);
        let (name, subject) = (stream_of(partition), subject_of(partition));
        let stream = context.get_stream(&name).await.unwrap();
        let mut kept = Vec::new();
        for sequence in 1..=50 {
            kept.push(stream.get_raw_message(sequence).await.unwrap());
        }
        let config = stream.cached_info().config.clone();
        context.delete_stream(&name).await.unwrap();
        context.create_stream(config).await.unwrap();
        for message in kept {
            let headers: HeaderMap = message.headers;
            let ce = headers.iter().filter(|(name, _)| AsRef::<str>::as_ref(*name).starts_with("ce-"));
            let headers = ce.map(|(name, values)| (name.clone(), values[0].clone())).collect();
            context.publish_with_headers(subject.clone(), headers, message.payload).await.unwrap().await.unwrap();
        }
        bus
    }

    async fn publish_foreign(&self, site: &Site, _: &Arc<dyn EventBus>, to: &Partition, event: Event) {
        let client = site.nats.client().await;
        let mut headers = HeaderMap::new();
        headers.insert("ce-specversion", "1.0");
        for (name, value) in event.attributes() {
            headers.insert(format!("ce-{name}"), value);
        }
        let context = jetstream::new(client);
        context.publish_with_headers(subject_of(to), headers, event.data()).await.unwrap().await.unwrap();
    }
}

fn stream_of(partition: &Partition) -> String {
    partition.topic.parts().fold("evoke".to_owned(), |name, part| format!("{name}+{part}"))
}

fn subject_of(partition: &Partition) -> String {
    format!("evoke.{}", partition.topic)
}
