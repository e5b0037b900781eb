//! Publishing: what is too large is refused, the rest waits for a place in the queue and for room in the log.

use std::sync::Arc;

use evoke_api::events::OnFull;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::core::Core;
use super::head::PublishOp;
use super::record;
use super::topic::TopicLog;
use crate::bus::{BusError, Health, Partition, PublishError, Receipt};
use crate::event::Event;
use crate::queued::{Place, Queued, Waiting};
use crate::sifted::sift;

/// Topics whose names begin so are the bus's own: they may go beyond `max_bytes` by an eighth and have a queue of their own, since
/// it is by way of the dead letters that a full bus gets empty again.
const OWN_TOPICS: &str = "_evoke.";

impl Core {
    pub(super) async fn publish(&self, to: &Partition, events: Vec<Event>) -> Result<Receipt, BusError> {
        let topic = self.topic(to)?;
        let (taken, refused) = sift(events, self.options.max_event_bytes, &topic.metrics.refused_events);
        if taken.is_empty() {
            return Ok(async move { refused.results(&Ok(())) }.boxed());
        }
        let place = self.accept(&topic, &taken).await?;
        let (reply, stored) = oneshot::channel();
        let op = PublishOp { events: taken, done: 0, reply, place };
        if !self.queue.push(topic, op) {
            return Err(BusError::Closed);
        }
        Ok(async move {
            let lost = || PublishError::Uncertain("the bus was closed before it could be written".into());
            refused.results(&stored.await.unwrap_or_else(|_| Err(lost())))
        }
        .boxed())
    }

    /// Waits for a place in the queue and for room in the log.
    async fn accept(&self, topic: &Arc<TopicLog>, events: &[Event]) -> Result<Place, BusError> {
        let own = topic.name.as_str().starts_with(OWN_TOPICS);
        let lane = if own { &self.own_events } else { &self.events };
        let weight: usize = events.iter().map(|e| Queued::weight(e.encoded_len())).sum();
        let bytes: u64 = events.iter().map(|e| record::record_len(e.encoded_len()) as u64).sum();
        let _waiting = Waiting::new(&self.env.metrics.waiting_publishes);
        self.unless_closed(async {
            let _turn = lane.turn().await;
            let place = lane.place(weight).await.ok_or(BusError::Closed)?;
            self.make_room(bytes, if own { self.env.room.max() / 8 } else { 0 }).await?;
            Ok(place)
        })
        .await
    }

    async fn make_room(&self, bytes: u64, extra: u64) -> Result<(), BusError> {
        let room = &self.env.room;
        if room.take(bytes, extra) {
            return Ok(());
        }
        let who: Arc<str> = if extra > 0 { "maxBytes of the bus's own topics" } else { "maxBytes" }.into();
        let full = Full { core: self, who };
        loop {
            let freed = room.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if room.take(bytes, extra) {
                return Ok(());
            }
            if self.options.on_full == OnFull::DropOldest && self.drop_oldest().await? {
                continue;
            }
            full.report();
            freed.await;
        }
    }

    /// Deletes the oldest segment of all, the bus's own topics last; false when there is none to delete yet.
    async fn drop_oldest(&self) -> Result<bool, BusError> {
        let mut topics: Vec<_> = self.topics.read().values().cloned().collect();
        topics.retain(|t| t.oldest().is_some());
        topics.sort_by_key(|t| (t.name.as_str().starts_with(OWN_TOPICS), t.oldest()));
        self.blocking(move || {
            for topic in topics {
                if topic.drop_oldest()? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }
}

/// Reports the bus as full for as long as somebody waits.
struct Full<'a> {
    core: &'a Core,
    who: Arc<str>,
}

impl Full<'_> {
    fn report(&self) {
        let Core { env, topics, .. } = self.core;
        let largest = topics.read().values().map(|t| (t.bytes(), t.name.clone())).max();
        let most = largest.map_or_else(String::new, |(bytes, topic)| format!("; topic {topic} holds {bytes} of them"));
        let text = format!("the log holds {} of maxBytes {} bytes{most}", env.room.used(), env.room.max());
        env.health.trouble(&self.who, Health::Full(text.into()));
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.core.env.health.clear(&self.who);
    }
}
