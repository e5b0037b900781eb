//! Where what cannot be an event goes: a sink, a topic, or the bus's own store.

use std::sync::Arc;
use std::time::Duration;

use evoke_adapters::source::Unsettled;
use evoke_api::names::TopicName;
use evoke_delivery::plan::DeliveryPolicy;
use evoke_delivery::schedule;
use evoke_delivery::sink::{Outcome, Sink};
use evoke_eventbus::bus::{EventBus, Partition, PublishError, Receipt};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::partition_of;
use tokio::time::sleep;

/// Takes dead letters durably.
#[derive(Clone)]
pub struct Letters {
    /// Tried first.
    pub sink: Option<Arc<dyn Sink>>,
    /// How it is tried.
    pub policy: DeliveryPolicy,
    /// Where they are published otherwise; `None` without a bus.
    pub topic: Option<(Arc<dyn EventBus>, TopicName, u16)>,
}

impl Letters {
    /// Settles `letters`: delivered to the sink, else durable on the topic.
    ///
    /// # Errors
    /// When neither took them.
    pub(crate) async fn settle(&self, letters: Vec<Event>) -> Result<(), Unsettled> {
        let mut left = Vec::new();
        for letter in letters {
            match &self.sink {
                Some(sink) => match attempt(&**sink, &self.policy, &letter).await {
                    Ok(()) => {}
                    Err(cause) => {
                        tracing::warn!(id = letter.id(), destination = sink.destination(), %cause, "the dead-letter sink refused");
                        left.push(letter);
                    }
                },
                None => left.push(letter),
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        let Some((bus, topic, partitions)) = &self.topic else {
            return Err(Unsettled("the dead-letter sink refused, and there is no bus to keep dead letters on".into()));
        };
        publish(&**bus, topic, *partitions, left).await
    }
}

/// Tries one event as often as the policy says.
///
/// # Errors
/// The last cause.
pub(crate) async fn attempt(sink: &dyn Sink, policy: &DeliveryPolicy, event: &Event) -> Result<(), String> {
    let mut tried = 0;
    loop {
        let (cause, after) = match sink.deliver(event).await {
            Outcome::Delivered => return Ok(()),
            Outcome::Refused { cause, .. } => return Err(cause),
            Outcome::Retry { cause, after, .. } => (cause, after),
        };
        tried += 1;
        if tried > policy.retry {
            return Err(cause);
        }
        sleep(schedule::delay(policy, tried, after, rand::random())).await;
    }
}

/// Publishes and waits until it is durable, each event in its partition.
pub(crate) async fn publish(
    bus: &dyn EventBus,
    topic: &TopicName,
    partitions: u16,
    events: Vec<Event>,
) -> Result<(), Unsettled> {
    let mut receipts = Vec::new();
    for (index, events) in by_partition(events, partitions) {
        let partition = Partition { topic: topic.clone(), index };
        receipts.push(bus.publish(&partition, events).await.map_err(unsettled)?);
    }
    settled(receipts).await
}

/// Waits for receipts.
pub(crate) async fn settled(receipts: Vec<Receipt>) -> Result<(), Unsettled> {
    for receipt in receipts {
        for result in receipt.await {
            result.map_err(unsettled)?;
        }
    }
    Ok(())
}

/// Waits until events are durable; gives back those that turned out too large for the bus, each with the cause.
pub(crate) async fn stored(published: Vec<(Vec<Event>, Receipt)>) -> Result<Vec<(Event, String)>, Unsettled> {
    let mut refused = Vec::new();
    for (events, receipt) in published {
        for (event, result) in events.into_iter().zip(receipt.await) {
            match result {
                Ok(_) => {}
                Err(error @ PublishError::TooLarge { .. }) => refused.push((event, error.to_string())),
                Err(error) => return Err(unsettled(error)),
            }
        }
    }
    Ok(refused)
}

/// Events by the partition they belong to, in their order.
pub(crate) fn by_partition(events: Vec<Event>, partitions: u16) -> Vec<(u16, Vec<Event>)> {
    if partitions <= 1 {
        return vec![(0, events)];
    }
    let mut parts: Vec<(u16, Vec<Event>)> = Vec::new();
    for event in events {
        let index = partition_of(&event, partitions);
        match parts.iter_mut().find(|(i, _)| *i == index) {
            Some((_, part)) => part.push(event),
            None => parts.push((index, vec![event])),
        }
    }
    parts
}

pub(crate) fn unsettled(error: impl std::fmt::Display) -> Unsettled {
    Unsettled(error.to_string().into())
}

/// How long a sink without a dead letter is left alone after it refused an event for good, before it is asked again.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(30);
