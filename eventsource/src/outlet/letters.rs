//! Where what cannot be an event goes: a sink, a topic, or the bus's own store.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use evoke_adapters::source::Unsettled;
use evoke_api::names::TopicName;
use evoke_delivery::dead_letters;
use evoke_delivery::plan::DeliveryPolicy;
use evoke_delivery::schedule;
use evoke_delivery::sink::{Outcome, Sink};
use evoke_eventbus::bus::{BusError, EventBus, Partition, PublishError, Receipt};
use evoke_eventbus::event::{Event, InvalidEvent};
use evoke_eventbus::subscription::{Subscriptions, partition_of};
use futures_util::future::join_all;
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use crate::malformed::hex;

/// What a letter that is too large without any data keeps of each attribute, in bytes: as much as fits. With none of them, and what is
/// left of its id, source and type, it is smaller than the largest event of any bus.
const KEPT_BYTES: [usize; 3] = [128, 32, 0];
/// The attributes of which the beginning says something; others are kept as they are or left out.
const TEXTS: [&str; 2] = ["evokeposition", "evokecause"];
/// A longer id is replaced by its SHA-256, which has so many hexadecimal digits.
const ID_BYTES: usize = 64;
const SOURCE_BYTES: usize = 256;
const TYPE_BYTES: usize = 64;

/// Takes dead letters durably.
#[derive(Clone)]
pub struct Letters {
    /// Tried first.
    pub sink: Option<Arc<dyn Sink>>,
    /// How the sink is tried, and the topic.
    pub policy: DeliveryPolicy,
    /// Where they are published otherwise, on which bus: a topic, which is declared, or the bus's own store, which also gets what a
    /// topic does not take. `None` without a bus.
    pub topic: Option<(Subscriptions, TopicName)>,
}

impl Letters {
    /// Settles `letters`: delivered to the sink, else durable on the topic, else in the bus's own store.
    ///
    /// # Errors
    /// When the store did not take them, or there is none.
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
        let Some((subscriptions, topic)) = &self.topic else {
            return Err(Unsettled("the dead-letter sink refused, and there is no bus to keep dead letters on".into()));
        };
        let (bus, store) = (&**subscriptions.bus(), dead_letters::partition());
        if *topic != store.topic {
            left = self.publish(bus, topic, subscriptions.partitions(topic), left).await;
        }
        keep(bus, &store, left).await
    }

    /// Publishes on a topic, each letter in its partition. Gives back those that it did not take.
    async fn publish(&self, bus: &dyn EventBus, topic: &TopicName, partitions: u16, letters: Vec<Event>) -> Vec<Event> {
        let parts = by_partition(letters, partitions).into_iter().map(|(index, letters)| async move {
            let partition = Partition { topic: topic.clone(), index };
            offer(bus, &partition, &self.policy, letters).await
        });
        let mut left = Vec::new();
        for (letter, cause) in join_all(parts).await.into_iter().flatten() {
            let (source, id) = (letter.source(), letter.id());
            tracing::warn!(source, id, %topic, %cause, "the dead-letter topic failed, trying the store");
            left.push(letter);
        }
        left
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

/// Publishes letters as often as the policy says. Gives back those that are not known to be stored, each with the last cause.
async fn offer(
    bus: &dyn EventBus,
    to: &Partition,
    policy: &DeliveryPolicy,
    mut letters: Vec<Event>,
) -> Vec<(Event, PublishError)> {
    let (mut late, mut tried, mut refused): (Option<Receipt>, u32, _) = (None, 0, Vec::new());
    loop {
        let attempt = async {
            // A bus tries by itself what it has accepted: while that takes long, it is not given the same once more.
            let receipt = match late.take() {
                Some(receipt) => receipt,
                None => bus.publish(to, letters.clone()).await?,
            };
            Ok::<_, BusError>(late.insert(receipt).await)
        };
        let answer = timeout(policy.timeout, attempt).await;
        let none = |cause: String| vec![Err(PublishError::Uncertain(cause.into())); letters.len()];
        let results = match answer {
            Ok(Ok(results)) => {
                late = None;
                results
            }
            Ok(Err(error)) => none(error.to_string()),
            Err(_) => none(format!("it took nothing within {:?}", policy.timeout)),
        };
        tried += 1;
        let is_last = tried > policy.retry;
        let mut again = Vec::new();
        for (letter, result) in letters.into_iter().zip(results) {
            let Err(cause) = result else { continue };
            match cause {
                PublishError::Uncertain(_) if !is_last => again.push(letter),
                _ => refused.push((letter, cause)),
            }
        }
        if again.is_empty() {
            return refused;
        }
        letters = again;
        sleep(schedule::delay(policy, tried, None, rand::random())).await;
    }
}

/// Publishes in the bus's own store, and waits until it is durable. What is too large even there keeps less of its data, and
/// then less of its attributes.
async fn keep(bus: &dyn EventBus, store: &Partition, mut letters: Vec<Event>) -> Result<(), Unsettled> {
    while !letters.is_empty() {
        let receipt = bus.publish(store, letters.clone()).await.map_err(unsettled)?;
        let mut again = Vec::new();
        for (letter, result) in letters.into_iter().zip(receipt.await) {
            let Err(error) = result else { continue };
            let shorter = match &error {
                PublishError::TooLarge { limit, .. } => shortened(&letter, *limit),
                PublishError::Uncertain(_) => None,
            };
            again.push(shorter.ok_or_else(|| unsettled(error))?);
        }
        letters = again;
    }
    Ok(())
}

/// The same letter with less data, half of what fits into `limit` bytes: the bus may add to it. Where there is none left, the same with less
/// in its attributes, and `None` where that is no less.
fn shortened(letter: &Event, limit: usize) -> Option<Event> {
    let data = letter.data();
    if data.is_empty() {
        let limit = limit.min(letter.encoded_len() - 1);
        let mut forms = KEPT_BYTES.into_iter().filter_map(|bytes| bare(letter, bytes).ok());
        return forms.find(|form| form.encoded_len() <= limit);
    }
    let head = letter.encoded_len() - data.len();
    let kept = limit.saturating_sub(head).min(data.len()) / 2;
    letter.to_builder().data(data.slice(..kept)).build().ok()
}

/// A letter without data, and with at most so many bytes of each attribute but `id`, `source` and `type`: what is longer is cut or left out.
fn bare(letter: &Event, bytes: usize) -> Result<Event, InvalidEvent> {
    let id = match letter.id() {
        id if id.len() > ID_BYTES => Cow::Owned(hex(&Sha256::digest(id))),
        id => Cow::Borrowed(id),
    };
    let bare = Event::builder(id, begin(letter.source(), SOURCE_BYTES), begin(letter.ty(), TYPE_BYTES));
    let others = letter.attributes().skip(3).filter_map(|(name, value)| {
        let value = if TEXTS.contains(&name) { begin(value, bytes) } else { value };
        (!value.is_empty() && value.len() <= bytes).then_some((name, value))
    });
    others.fold(bare, |letter, (name, value)| letter.attribute(name, value)).build()
}

fn begin(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
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

#[cfg(test)]
mod tests;
