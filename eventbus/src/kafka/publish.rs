//! Publishing events: which are taken, room for them, and what their receipts say.

use std::sync::Arc;

use evoke_api::names::TopicName;
use futures_util::FutureExt as _;

use super::topics::Known;
use super::{Core, publisher, record};
use crate::bus::{BusError, Health, Partition, PublishError, Receipt};
use crate::event::Event;
use crate::queued::{self, Queued, Waiting};

impl Core {
    pub(super) async fn publish(&self, to: &Partition, events: Vec<Event>) -> Result<Receipt, BusError> {
        self.gate()?;
        let known = self.known(to)?;
        let place = self.place(to);
        let metrics = self.topic_metrics(&to.topic);
        let mut verdicts = self.verdicts(&events, known);
        // Somebody may have had the topic take more since.
        if verdicts.iter().any(|verdict| is_refused_by(known.batch_limit, verdict))
            && let Some(known) = self.topics.look_up(&to.topic, &place.0).await
        {
            verdicts = self.verdicts(&events, known);
        }
        let taken: Vec<Event> =
            events.into_iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(event, _)| event).collect();
        metrics.refused_events.inc_by((verdicts.len() - taken.len()) as u64);
        if taken.is_empty() {
            return Ok(async move { fill(verdicts, Vec::new()) }.boxed());
        }
        let sizes: Vec<usize> = taken.iter().map(Event::encoded_len).collect();
        let room = self.wait_for_room(&sizes).await?;
        let wire = Arc::clone(&place.0);
        let stored = self.publisher.publish(place, taken, room);
        let (topics, topic) = (Arc::clone(&self.topics), to.topic.clone());
        Ok(async move {
            let mut stored = stored.await.unwrap_or_default();
            let durable = sizes.iter().zip(&stored).filter(|(_, stored)| stored.is_ok()).map(|(size, _)| *size as u64);
            let (count, bytes) = durable.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
            metrics.published_events.inc_by(count);
            metrics.published_bytes.inc_by(bytes);
            let refused: Vec<usize> = stored.iter().filter_map(refused_bytes).collect();
            metrics.refused_events.inc_by(refused.len() as u64);
            if let Some(smallest) = refused.into_iter().min()
                && let Some(found) = topics.limit_below(smallest, &topic, &wire).await
            {
                for stored in &mut stored {
                    if let Err(PublishError::TooLarge { limit, .. }) = stored {
                        *limit = found;
                    }
                }
            }
            fill(verdicts, stored)
        }
        .boxed())
    }

    /// Which events are taken, as far as is known of the topic.
    fn verdicts(&self, events: &[Event], known: Known) -> Vec<Result<(), PublishError>> {
        events.iter().map(|event| self.verdict(event, known)).collect()
    }

    fn verdict(&self, event: &Event, known: Known) -> Result<(), PublishError> {
        let (bytes, limit) = (event.encoded_len(), self.options.max_event_bytes);
        if bytes > limit {
            return Err(PublishError::TooLarge { bytes, limit });
        }
        // A topic that takes less than it should, which its drift says.
        let (bytes, limit) = (record::batch_bytes(event), known.batch_limit);
        if bytes > limit { Err(PublishError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Waits for a place in the queue, unless the brokers go away.
    async fn wait_for_room(&self, sizes: &[usize]) -> Result<queued::Place, BusError> {
        let weight = sizes.iter().map(|size| Queued::weight(*size)).sum();
        let _waiting = Waiting::new(&self.metrics.waiting_publishes);
        let mut health = self.health.subscribe();
        let room = async {
            tokio::select! {
                biased;
                slot = self.events.place(weight) => slot.ok_or(BusError::Closed),
                _ = health.wait_for(|health| matches!(health, Health::Down(_))) => {
                    Err(self.gate().err().unwrap_or_else(|| BusError::Unavailable("the brokers were away".into())))
                }
            }
        };
        self.closed.run_until_cancelled(room).await.unwrap_or(Err(BusError::Closed))
    }
}

/// Looks into topics of which the brokers refuse batches, until the bus is closed.
pub(super) async fn look_into_refusals(core: Arc<Core>) {
    while let Some(topics) = core.closed.run_until_cancelled(core.publisher.refused()).await {
        for wire in topics {
            let Some(topic) = wire.strip_prefix(&*core.options.prefix).map(TopicName::parse) else { continue };
            core.closed.run_until_cancelled(core.topics.look_again(&topic, &wire)).await;
        }
    }
}

/// Whether this limit is why an event is not taken.
fn is_refused_by(by: usize, verdict: &Result<(), PublishError>) -> bool {
    matches!(verdict, Err(PublishError::TooLarge { limit, .. }) if *limit == by)
}

/// The size of a record that the brokers refused.
fn refused_bytes(stored: &publisher::Stored) -> Option<usize> {
    match stored {
        Err(PublishError::TooLarge { bytes, .. }) => Some(*bytes),
        _ => None,
    }
}

/// One result for each event: why it was refused, or what became of it.
fn fill(verdicts: Vec<Result<(), PublishError>>, stored: Vec<publisher::Stored>) -> Vec<Result<(), PublishError>> {
    let mut stored = stored.into_iter().map(|stored| stored.map(|_| ()));
    let lost = || Err(PublishError::Uncertain("the bus ended before the brokers had it".into()));
    verdicts.into_iter().map(|verdict| verdict.and_then(|()| stored.next().unwrap_or_else(lost))).collect()
}
