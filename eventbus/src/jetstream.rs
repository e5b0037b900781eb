//! The event bus on NATS JetStream.
//!
//! A topic is a stream, a partition one of its subjects, a position a sequence of the stream, with when the stream was made. Events are sent in batches, of which
//! the servers take nothing more after the first that they miss or refuse, and read over consumers that leave nothing behind. State is a key-value bucket.
//!
//! | module | holds |
//! | --- | --- |
//! | `core` | what all parts share |
//! | `wire`, `error` | requests and their answers |
//! | `stream` | the stream of a topic, and its settings |
//! | `topic` | a topic as this process knows it |
//! | `writer`, `batch` | events on their way to the servers |
//! | `reader`, `gaps` | and back, and what was deleted before that |
//! | `locate` | positions, and counting what lies between them |
//! | `state` | the key-value bucket |

mod batch;
mod core;
mod error;
mod gaps;
mod locate;
mod reader;
mod state;
mod stream;
mod topic;
mod wire;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evoke_connect::nats::client::{self, Link};
use futures_util::future::ready;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::batch::Outgoing;
use self::core::{Core, Room};
use self::locate::Span;
use self::reader::JetReader;
use self::state::Bucket;
use self::topic::Topic;
use self::wire::{Standing, Wire};
use self::writer::{Item, Job};
use crate::bus::Topic as Declared;
use crate::bus::{
    BusError, Entry, EventBus, From, Fut, Health, Mark, Partition, Position, PublishError, Put, Reader, Receipt,
    TopicSpec,
};
use crate::codec;
use crate::event::Event;
use crate::health::HealthBoard;
use crate::metrics::BusMetrics;
use crate::plan::jetstream::JetStreamPlan;
use crate::queued::Waiting;

/// How long closing waits for events that were accepted.
const DRAIN: Duration = Duration::from_secs(10);
/// What an event takes as a message beside its size as encoded, at most, but for attributes full of what headers must escape.
const HEADERS: usize = 8 << 10;
const CONNECTION: &str = "connection";

/// A bus on JetStream.
pub struct JetStreamBus {
    core: Arc<Core>,
    max_event_bytes: usize,
}

impl fmt::Debug for JetStreamBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamBus").field("servers", &self.core.plan.nats.servers).finish_non_exhaustive()
    }
}

impl JetStreamBus {
    /// Opens the bus that metrics and logs call `name`. Servers that are away are no error: the bus is unavailable until they come.
    ///
    /// # Errors
    /// In words: credentials that no client takes.
    pub async fn open(
        name: &str,
        plan: JetStreamPlan,
        max_event_bytes: usize,
        metrics: &BusMetrics,
    ) -> Result<Self, String> {
        let metrics = metrics.bus(name);
        let board = Arc::new(HealthBoard::new(name.into(), metrics.clone()));
        let who: Arc<str> = CONNECTION.into();
        let servers = plan.nats.servers.join(", ");
        board.trouble(&who, Health::Connecting(format!("connecting to NATS at {servers}").into()));
        let down = Standing::Down(format!("not connected to NATS at {servers} yet").into());
        let (standing_is, standing) = watch::channel(down);
        let on_change = {
            let (board, bus, connections) = (board.clone(), name.to_owned(), AtomicU64::new(0));
            move |link| match link {
                Link::Up => {
                    standing_is.send_replace(Standing::Up(connections.fetch_add(1, Ordering::Relaxed)));
                    board.clear(&who);
                }
                Link::Down { cause, .. } => {
                    standing_is.send_replace(Standing::Down(cause.clone()));
                    board.trouble(&who, Health::Down(cause));
                }
                Link::Denied(what) => {
                    tracing::error!(bus, %what, "NATS denies evoke something it needs; give its user the permission");
                }
            }
        };
        let client =
            client::connect(&plan.nats, &format!("evoke {name}"), on_change).await.map_err(|e| e.to_string())?;
        if plan.replicas.unwrap_or(1) == 1 {
            tracing::info!(
                bus = name,
                "JetStream acknowledges an event before it is synced to disk, unless the servers' `sync_interval` is `always`"
            );
        }
        let (closing, closed, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let (wire, answers) = Wire::new(client, standing, closed.clone()).await.map_err(|e| e.to_string())?;
        tasks.spawn(wire.clone().deliver(answers));
        let core = Core {
            bucket: Bucket::new(wire.clone(), &plan, board.clone()),
            wire,
            plan,
            board,
            metrics,
            room: Room::new(),
            tasks,
            closing,
            closed,
            drained: Notify::new(),
            topics: parking_lot::Mutex::default(),
        };
        Ok(Self { core: Arc::new(core), max_event_bytes })
    }

    async fn publish_events(
        &self,
        to: &Partition,
        events: Vec<Event>,
        by: Option<&Arc<str>>,
    ) -> Result<Receipt, BusError> {
        let core = &self.core;
        core.open()?;
        core.wire.up_soon().await?;
        let topic = core.partition(to).await?;
        let results: Vec<_> = events.iter().map(|event| self.too_large(&topic, event).map(Err)).collect();
        let refused = results.iter().flatten().count();
        topic.metrics.refused_events.inc_by(refused as u64);
        if refused == events.len() {
            return Ok(Box::pin(ready(results.into_iter().flatten().collect())));
        }
        let cost: usize = events.iter().map(|event| Topic::cost(event.encoded_len())).sum();
        let (room, size) = core.room.of(&topic.name);
        // What is larger than the whole queue waits for all of it.
        let cost = u32::try_from(cost.min(size)).unwrap_or(u32::MAX);
        let waiting = Waiting::new(&core.metrics.waiting_publishes);
        let room = tokio::select! {
            // In this order: who finds room when the bus is closed must not take it.
            biased;
            () = core.closing.cancelled() => return Err(BusError::Closed),
            room = room.acquire_many_owned(cost) => room.map_err(|_| BusError::Closed)?,
        };
        core.show_queue();
        let places: Vec<_> = results.iter().map(Option::is_none).collect();
        let (job, mut receipt) = Job::new(results, room);
        let (Some(queue), unaccepted) = (topic.queue(to.index), job.guard()) else { return Err(BusError::Closed) };
        let items = events.into_iter().zip(places).enumerate().filter(|(_, (_, takes))| *takes);
        queue.push(items.map(|(slot, (event, _))| {
            let outgoing = Outgoing { event, by: by.cloned() };
            Item { outgoing, job: job.clone(), slot }
        }))?;
        core.write(&topic, to.index);
        if topic.is_near_full() {
            let results = tokio::select! {
                results = &mut receipt => results,
                () = core.closing.cancelled() => return Err(BusError::Closed),
            };
            receipt = Box::pin(ready(results));
        }
        unaccepted.accepted();
        drop(waiting);
        Ok(receipt)
    }

    /// Why an event is too large, if it is: for the bus, or for the servers, in its headers alone or with all that a message has.
    fn too_large(&self, topic: &Topic, event: &Event) -> Option<PublishError> {
        let bytes = event.encoded_len();
        if bytes > self.max_event_bytes {
            return Some(PublishError::TooLarge { bytes, limit: self.max_event_bytes });
        }
        let headers = codec::nats::headers_len(event) + batch::OVERHEAD;
        if headers > batch::HEADER_BYTES {
            return Some(PublishError::TooLarge { bytes: headers, limit: batch::HEADER_BYTES });
        }
        let limit = self.core.wire.client.max_payload().min(topic.max_message());
        let message = headers + event.data_slice().len();
        (message > limit).then_some(PublishError::TooLarge { bytes: message, limit })
    }

    async fn cut(&self, partition: &Partition, before: Position) -> Result<(), BusError> {
        let topic = self.core.partition(partition).await?;
        let info = locate::look(&self.core, &topic, partition.index).await?;
        let before = Span::of(&info, &topic, partition.index).check(before).unwrap_or_default();
        let created = info.created;
        if before > topic.cut(partition.index) {
            // Said before it is done, so that no reader passes silently over what is gone.
            self.core.bucket.set_trimmed(&topic.stream, &created, partition.index, before).await?;
            topic.set_cut(partition.index, &created, before);
        }
        // What was said and then failed, or was said by a process that then died, is done now.
        let Some(cut) = topic.unpurged(partition.index) else { return Ok(()) };
        let body = json!({"filter": topic.subject(partition.index).as_str(), "seq": cut});
        let purged = self.core.wire.api::<serde_json::Value>(&format!("STREAM.PURGE.{}", topic.stream), &body).await?;
        topic.set_purged(partition.index, &created, cut);
        tracing::trace!(topic = %topic.name, %purged, "trimmed");
        topic.trimmed.notify_waiters();
        Ok(())
    }

    async fn stored(&self, partition: &Partition) -> Result<Option<u64>, BusError> {
        let topic = self.core.partition(partition).await?;
        // The stream is that of all partitions, and is counted once.
        if partition.index > 0 {
            return Ok(Some(0));
        }
        let Some(info) = stream::info(&self.core.wire, &topic.stream).await? else { return Ok(None) };
        topic.holds(info.state.bytes);
        Ok(Some(info.state.bytes))
    }

    async fn end(&self) -> Result<(), BusError> {
        let core = &self.core;
        core.closing.cancel();
        let idle = || core.topics.lock().values().all(|topic| topic.is_idle());
        let drained = async {
            loop {
                let drained = core.drained.notified();
                tokio::pin!(drained);
                drained.as_mut().enable();
                if idle() {
                    return;
                }
                drained.await;
            }
        };
        let in_time = tokio::time::timeout(DRAIN, drained).await;
        core.closed.cancel();
        core.tasks.close();
        core.tasks.wait().await;
        // What is left says in its receipt that it is not known.
        core.forget_topics();
        in_time.map_err(|_| BusError::Unavailable("NATS did not take all events in time; their receipts say so".into()))
    }
}

impl Drop for JetStreamBus {
    fn drop(&mut self) {
        self.core.closing.cancel();
        self.core.closed.cancel();
        // Readers may keep the topics, and with them what waits, for as long as they like.
        self.core.forget_topics();
    }
}

impl EventBus for JetStreamBus {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Declared> {
        Box::pin(async {
            let (topic, drift) = self.core.declare(topic).await?;
            Ok(Declared { partitions: topic.partitions(), drift })
        })
    }

    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt> {
        Box::pin(self.publish_events(to, events, None))
    }

    fn pass_on<'a>(&'a self, to: &'a Partition, events: Vec<Event>, by: &'a Arc<str>) -> Fut<'a, Receipt> {
        Box::pin(self.publish_events(to, events, Some(by)))
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch_bytes: usize) -> Fut<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let topic = self.core.partition(partition).await?;
            let reader = JetReader::open(self.core.clone(), topic, partition.index, from, prefetch_bytes).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        Box::pin(locate::locate(&self.core, at))
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        Box::pin(self.cut(partition, before))
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        Box::pin(async {
            self.core.open()?;
            self.core.bucket.load(prefix).await
        })
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        Box::pin(async {
            self.core.open()?;
            self.core.bucket.store(puts).await
        })
    }

    fn losses(&self) -> watch::Receiver<u64> {
        self.core.bucket.losses()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.core.board.subscribe()
    }

    fn stored_bytes<'a>(&'a self, partition: &'a Partition) -> Fut<'a, Option<u64>> {
        Box::pin(self.stored(partition))
    }

    fn max_event_bytes(&self) -> usize {
        self.max_event_bytes.min(self.core.wire.client.max_payload().saturating_sub(HEADERS))
    }

    fn max_value_bytes(&self) -> usize {
        self.core.bucket.largest()
    }

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(self.end())
    }
}
