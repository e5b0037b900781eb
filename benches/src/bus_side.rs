//! The bus as one of the two sides: read as evoke reads, and recorded as often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evoke_api::names::TopicName;
use evoke_eventbus::bus::{BusError, EventBus, Expect, From, Health, Partition, Position, Put, Reader, TopicSpec};
use evoke_eventbus::event::Event;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use crate::measure::Outcome;
use crate::sides::{Consumer, Ends, Publisher, Stored};

/// What evoke asks a bus for at once, and has read ahead of one partition, in bytes.
pub const READ_BYTES: usize = 512 << 10;
const AHEAD_BYTES: usize = 2 << 20;
/// How often positions are recorded.
pub const RECORD: Duration = Duration::from_millis(100);

/// Waits until a bus is there.
///
/// # Errors
/// When it ends first.
pub async fn up(bus: Arc<dyn EventBus>) -> Outcome<Arc<dyn EventBus>> {
    bus.health().wait_for(|health| *health == Health::Up).await?;
    Ok(bus)
}

/// The only partition of a topic, which is made if need be.
///
/// # Errors
/// The bus's.
pub async fn partition(bus: &Arc<dyn EventBus>, topic: &TopicName) -> Outcome<Partition> {
    bus.declare(&TopicSpec { name: topic.clone(), partitions: 1 }).await?;
    Ok(Partition { topic: topic.clone(), index: 0 })
}

/// Both ends of a partition.
///
/// # Errors
/// The bus's.
pub async fn ends(bus: &Arc<dyn EventBus>, at: &Partition) -> Outcome<Ends> {
    let publisher = Box::new(BusPublisher { bus: Arc::clone(bus), to: at.clone() });
    Ok(Ends { publisher, consumer: consumer(bus, at, true).await? })
}

/// Reads a partition from its start, and records where it is, if asked to.
///
/// # Errors
/// The bus's.
pub async fn consumer(bus: &Arc<dyn EventBus>, at: &Partition, records: bool) -> Outcome<Box<dyn Consumer>> {
    Ok(Box::new(BusConsumer {
        reader: bus.read(at, From::First, AHEAD_BYTES).await?,
        bus: Arc::clone(bus),
        key: format!("ledger/{}", at.topic),
        records,
        next: Position::default(),
        recorded: Instant::now(),
        recording: JoinSet::new(),
    }))
}

struct BusPublisher {
    bus: Arc<dyn EventBus>,
    to: Partition,
}

impl Publisher for BusPublisher {
    fn publish<'a>(&'a mut self, events: &'a [Event]) -> BoxFuture<'a, Outcome<Stored>> {
        async move {
            let receipt = self.bus.publish(&self.to, events.to_vec()).await?;
            Ok(receipt.map(|results| Ok(results.into_iter().try_for_each(|stored| stored.map(drop))?)).boxed())
        }
        .boxed()
    }
}

struct BusConsumer {
    bus: Arc<dyn EventBus>,
    reader: Box<dyn Reader>,
    key: String,
    records: bool,
    next: Position,
    recorded: Instant,
    /// One at a time, beside the reading.
    recording: JoinSet<Result<(), BusError>>,
}

impl BusConsumer {
    fn record(&mut self) {
        let value = Some(self.next.to_string().into());
        let put = Put { key: self.key.clone(), value, expect: Expect::Any };
        let bus = Arc::clone(&self.bus);
        self.recording.spawn(async move { bus.store(vec![put]).await.map(drop) });
        self.recorded = Instant::now();
    }
}

impl Consumer for BusConsumer {
    fn consume<'a>(&'a mut self, each: &'a mut (dyn FnMut(&[u8]) + Send)) -> BoxFuture<'a, Outcome<()>> {
        async move {
            let batch = self.reader.next(READ_BYTES).await?;
            batch.records.iter().for_each(|record| each(record.event.data_slice()));
            self.next = batch.next;
            while let Some(recorded) = self.recording.try_join_next() {
                recorded??;
            }
            if self.records && self.recorded.elapsed() >= RECORD && self.recording.is_empty() {
                self.record();
            }
            Ok(())
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Outcome<()>> {
        async move {
            while let Some(recorded) = self.recording.join_next().await {
                recorded??;
            }
            if self.records {
                self.record();
            }
            while let Some(recorded) = self.recording.join_next().await {
                recorded??;
            }
            Ok(())
        }
        .boxed()
    }
}
