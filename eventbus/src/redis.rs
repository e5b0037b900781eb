//! The event bus on Redis Streams: a stream a partition, and hashes for the small state.
//!
//! | module | holds |
//! | --- | --- |
//! | `shared` | topics, their streams, how much they hold |
//! | `hub` | the connections that are shared |
//! | `lane`, `sending` | publishing on one stream |
//! | `bulk` | how long a string a server takes |
//! | `copies` | waiting until replicas have it |
//! | `reader` | reading one stream |
//! | `look` | where a stream begins and ends, how much lies ahead |
//! | `state` | the small state |
//! | `room` | who may publish |
//! | `keys`, `scripts` | what keys are called, what runs inside the server |
//!
//! ```text
//! publish -> queue (bytes) -> room (maxBytes) -> lane: MULTI, XADD.., EXEC, WAIT -> receipt
//! ```

mod bulk;
mod copies;
mod hub;
mod keys;
mod lane;
mod look;
mod reader;
mod room;
mod scripts;
mod sending;
mod shared;
mod state;

use std::fmt;
use std::sync::Arc;

use evoke_api::limits;
use evoke_connect::redis::link::Connector;
use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};

use self::hub::Hub;
use self::lane::{Op, with_later};
use self::reader::StreamReader;
use self::room::Room;
use self::shared::{Core, Log};
use crate::bus::{
    BusError, Entry, EventBus, From, Fut, Health, Mark, Partition, Point, Position, PublishError, Put, Reader, Receipt,
    Topic, TopicSpec,
};
use crate::event::Event;
use crate::health::HealthBoard;
use crate::metrics::BusMetrics;
use crate::plan::redis::RedisPlan;
use crate::queued::{Place, Queued, Waiting};
use crate::sifted::sift;

/// How a bus on Redis works.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// The bus's name, in logs and metrics.
    pub name: Arc<str>,
    /// The servers, and what is kept on them.
    pub plan: RedisPlan,
    /// The largest event taken, as encoded, in bytes.
    pub max_event_bytes: usize,
    /// What is accepted and not yet stored, at most, in bytes.
    pub queue_bytes: usize,
    /// Where to count.
    pub metrics: BusMetrics,
}

impl RedisOptions {
    /// The defaults, under this name.
    pub fn new(name: impl Into<Arc<str>>, plan: RedisPlan, metrics: BusMetrics) -> Self {
        Self { name: name.into(), plan, max_event_bytes: limits::EVENT_BYTES, queue_bytes: 16 << 20, metrics }
    }
}

/// See the module.
pub struct RedisBus(Arc<Core>);

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus").field("servers", &self.0.hub.connector.plan().addresses).finish_non_exhaustive()
    }
}

impl RedisBus {
    /// Opens a bus; it connects in the background. Must be called inside a runtime.
    ///
    /// # Errors
    /// In words: certificates that cannot be used.
    pub fn open(options: &RedisOptions) -> Result<Arc<Self>, String> {
        let connector = Connector::new(&options.plan.server).map_err(|cause| format!("TLS cannot be used: {cause}"))?;
        let metrics = options.metrics.bus(&options.name);
        let board = Arc::new(HealthBoard::new(options.name.clone(), metrics.clone()));
        let core = Arc::new(Core::new(Hub::new(connector, board, options.plan.replicas), options, metrics));
        let keeper = core.clone();
        core.keepers.spawn(async move { keeper.hub.keep(&keeper.ended).await });
        let meter = core.clone();
        core.keepers.spawn(async move { meter.measure().await });
        Ok(Arc::new(Self(core)))
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.0.closed.cancel();
        self.0.ended.cancel();
    }
}

impl Core {
    async fn publish(self: &Arc<Self>, to: &Partition, events: Vec<Event>) -> Result<Receipt, BusError> {
        let log = self.log(to).await?;
        let (taken, refused) = sift(events, self.largest_event(), &log.metrics.refused_events);
        if taken.is_empty() {
            return Ok(async move { refused.results(&Ok(())) }.boxed());
        }
        let place = self.accept(&log, &taken).await?;
        let (reply, stored) = oneshot::channel();
        if !log.lane.push(Op { events: taken, reply, place }) {
            return Err(BusError::Closed);
        }
        self.run_lane(&log);
        Ok(async move {
            match stored.await {
                Ok(too_large) => with_later(refused.results(&Ok(())), too_large),
                Err(_) => {
                    refused.results(&Err(PublishError::Uncertain("the bus was closed before it was stored".into())))
                }
            }
        }
        .boxed())
    }

    /// Waits for a place in the queue and for room on the server; not while the server is away.
    async fn accept(&self, log: &Log, events: &[Event]) -> Result<Place, BusError> {
        let queued = if log.own { &self.own_events } else { &self.events };
        let weight: usize = events.iter().map(|event| Queued::weight(event.encoded_len())).sum();
        let bytes: u64 = events.iter().map(|event| Room::need(event.encoded_len())).sum();
        let _waiting = Waiting::new(&self.metrics.waiting_publishes);
        self.unless_closed(async {
            let _turn = queued.turn().await;
            let place = queued.place(weight);
            let place = tokio::select! {
                biased;
                place = place => place.ok_or(BusError::Closed)?,
                error = self.hub.away(&log.key) => return Err(error),
            };
            self.hub.node(&log.key)?;
            self.make_room(log, bytes).await?;
            Ok(place)
        })
        .await
    }

    async fn make_room(&self, log: &Log, bytes: u64) -> Result<(), BusError> {
        let room = &self.room;
        if room.take(bytes, log.own) {
            return Ok(());
        }
        let who: Arc<str> = if log.own { "maxBytes of the bus's own topics" } else { "maxBytes" }.into();
        let mut full = None;
        loop {
            let changed = room.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if room.take(bytes, log.own) {
                return Ok(());
            }
            if self.drops_oldest() {
                match self.drop_oldest().await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(trouble) => return Err(self.hub.suspect(&trouble)),
                }
            }
            full.get_or_insert_with(|| Full::report(self, who.clone()));
            room.ask();
            tokio::select! {
                () = changed => {}
                error = self.hub.away(&log.key) => return Err(error),
            }
        }
    }

    async fn read(
        self: &Arc<Self>,
        partition: &Partition,
        from: From,
        prefetch: usize,
    ) -> Result<Box<dyn Reader>, BusError> {
        let log = self.log(partition).await?;
        let (seen, marks) = self.look(&log, &[from]).await?;
        let (at, before) = marks.first().map_or((seen.end(), None), |mark| (mark.at, mark.point().before));
        seen.allows(at.0)?;
        Ok(Box::new(StreamReader::new(self.clone(), log, Point { at, before }, prefetch)))
    }

    async fn locate(&self, at: &[(Partition, From)]) -> Result<Vec<Mark>, BusError> {
        let mut marks: Vec<Option<Mark>> = vec![None; at.len()];
        for (index, (partition, _)) in at.iter().enumerate() {
            if marks.get(index).copied().flatten().is_some() {
                continue;
            }
            let log = self.log(partition).await?;
            // What is asked of one partition is answered by one look.
            let same: Vec<usize> =
                (index..at.len()).filter(|i| at.get(*i).is_some_and(|(p, _)| p == partition)).collect();
            let asked: Vec<From> = same.iter().filter_map(|i| at.get(*i)).map(|(_, from)| *from).collect();
            let (_, found) = self.look(&log, &asked).await?;
            for (i, mark) in same.into_iter().zip(found) {
                if let Some(place) = marks.get_mut(i) {
                    *place = Some(mark);
                }
            }
        }
        Ok(marks.into_iter().flatten().collect())
    }

    async fn trim(&self, partition: &Partition, before: Position) -> Result<(), BusError> {
        let log = self.log(partition).await?;
        let Some(below) = before.0.checked_sub(1) else { return Ok(()) };
        let node = self.hub.node(&log.key)?;
        let trimmed = node.ask.ask(&scripts::trim(&log.key, &keys::id(below))).await;
        trimmed.map_err(|trouble| self.hub.suspect(&trouble))?;
        self.room.ask();
        Ok(())
    }
}

/// Reports the bus as full for as long as somebody waits.
struct Full<'a> {
    core: &'a Core,
    who: Arc<str>,
}

impl<'a> Full<'a> {
    fn report(core: &'a Core, who: Arc<str>) -> Self {
        let Core { hub, room, .. } = core;
        let max = room.max.map_or_else(|| "the server's memory".to_owned(), |max| format!("maxBytes {max} bytes"));
        let text = format!("the streams hold {} of {max}", room.used());
        hub.board.trouble(&who, Health::Full(text.into()));
        Self { core, who }
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.core.hub.board.clear(&self.who);
    }
}

impl EventBus for RedisBus {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic> {
        self.0.unless_closed(self.0.declare(topic)).boxed()
    }

    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt> {
        self.0.unless_closed(self.0.publish(to, events)).boxed()
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch_bytes: usize) -> Fut<'a, Box<dyn Reader>> {
        self.0.unless_closed(self.0.read(partition, from, prefetch_bytes)).boxed()
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        self.0.unless_closed(self.0.locate(at)).boxed()
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        self.0.unless_closed(self.0.trim(partition, before)).boxed()
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        self.0.unless_closed(self.0.load(prefix)).boxed()
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        self.0.unless_closed(self.0.store(puts)).boxed()
    }

    fn losses(&self) -> watch::Receiver<u64> {
        self.0.made.losses()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.0.hub.board.subscribe()
    }

    fn stored_bytes<'a>(&'a self, partition: &'a Partition) -> Fut<'a, Option<u64>> {
        async move {
            let log = self.0.log(partition).await?;
            let bytes = self.0.unless_closed(self.0.stored_in(&log.key)).await?;
            log.metrics.stored_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            Ok(Some(bytes))
        }
        .boxed()
    }

    fn max_event_bytes(&self) -> usize {
        self.0.largest_event()
    }

    fn max_value_bytes(&self) -> usize {
        self.0.largest_value()
    }

    fn close(&self) -> Fut<'_, ()> {
        async move {
            self.0.closed.cancel();
            self.0.lanes.close();
            self.0.lanes.wait().await;
            self.0.ended.cancel();
            self.0.keepers.close();
            self.0.keepers.wait().await;
            Ok(())
        }
        .boxed()
    }
}
