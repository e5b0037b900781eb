//! Delivers straight to a sink, without a bus: settled at the sink's 2xx, or when the dead letter has it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use evoke_adapters::metrics::SourceMetrics;
use evoke_adapters::source::{Arrival, Origin, Outlet, Settled, Unsettled};
use evoke_api::limits;
use evoke_api::names::SubscriptionId;
use evoke_delivery::dead_letter::{self, Failure};
use evoke_delivery::plan::{DeliveryPolicy, Ordering};
use evoke_delivery::schedule;
use evoke_delivery::sink::{Outcome, Sink};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::Millis;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::sleep;

use super::budget::Budget;
use super::bus::{InFlight, Sorted, sort};
use super::letters::{Letters, REFUSED_PAUSE, unsettled};

/// The outlet of one event of an EventSource that has a sink and no bus.
pub struct SinkOutlet {
    /// Whose events.
    pub origin: Origin,
    /// What delivers them.
    pub delivery: Arc<Delivery>,
    /// Shared with the other sources.
    pub budget: Budget,
    /// Of this source.
    pub metrics: SourceMetrics,
}

/// How events are delivered.
pub struct Delivery {
    /// Who is named in dead letters.
    pub subscription: SubscriptionId,
    /// Where they go.
    pub sink: Arc<dyn Sink>,
    /// How often, how long, how many at once.
    pub policy: DeliveryPolicy,
    /// Where they go that the sink does not take; `None` makes it try for ever.
    pub letters: Option<Letters>,
    places: Semaphore,
    /// Held by one batch after the other where events of a key keep their order.
    turn: Arc<Mutex<()>>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("destination", &self.sink.destination()).finish_non_exhaustive()
    }
}

impl Delivery {
    /// What delivers the events of one EventSource, whatever their source.
    pub fn new(
        subscription: SubscriptionId,
        sink: Arc<dyn Sink>,
        policy: DeliveryPolicy,
        letters: Option<Letters>,
    ) -> Self {
        let places = Semaphore::new(policy.max_in_flight.clamp(1, Semaphore::MAX_PERMITS));
        Self { subscription, sink, policy, letters, places, turn: Arc::default() }
    }
}

impl Outlet for SinkOutlet {
    fn accept(&self, arrivals: Vec<Arrival>) -> BoxFuture<'_, Result<Settled, Unsettled>> {
        async move {
            let Sorted { events, bytes, letters } =
                sort(arrivals, self.max_event_bytes(), &self.origin, &self.metrics)?;
            let place = self.budget.take(bytes).await;
            let (ordered, turn) = (self.delivery.policy.ordering != Ordering::None, &self.delivery.turn);
            let turn = if ordered { Some(Arc::clone(turn).lock_owned().await) } else { None };
            let (delivery, metrics) = (self.delivery.clone(), self.metrics.clone());
            let in_flight = InFlight::start(&metrics, events.len(), bytes);
            let wait = async move {
                let _held = (place, in_flight, turn);
                let count = events.len() as u64;
                if !letters.is_empty() {
                    delivery.bury(letters).await.inspect_err(|_| metrics.failed.inc_by(count))?;
                }
                let at_once = delivery.policy.max_in_flight;
                stream::iter(sequences(events, ordered))
                    .for_each_concurrent(at_once, |sequence| delivery.settle(sequence))
                    .await;
                metrics.accepted.inc_by(count);
                metrics.bytes.inc_by(bytes as u64);
                Ok(())
            };
            Ok(wait.boxed() as Settled)
        }
        .boxed()
    }

    fn has_room(&self) -> bool {
        self.budget.has_room()
    }

    fn max_event_bytes(&self) -> usize {
        limits::EVENT_BYTES
    }
}

impl Delivery {
    /// What cannot be an event goes to the dead letter. Without one it is only logged, which `sort` has done.
    async fn bury(&self, letters: Vec<Event>) -> Result<(), Unsettled> {
        match &self.letters {
            Some(dead) => dead.settle(letters).await,
            None => Ok(()),
        }
    }

    /// Delivers events one after the other, for as long as it takes.
    async fn settle(&self, sequence: Vec<Event>) {
        for event in sequence {
            self.settle_one(event).await;
        }
    }

    async fn settle_one(&self, event: Event) {
        let mut failure = Failure { destination: self.sink.destination().to_owned(), ..Failure::default() };
        loop {
            // The semaphore is never closed. A retry that waits gives its place to others.
            let place = self.places.acquire().await;
            let outcome = self.sink.deliver(&event).await;
            drop(place);
            let now = Millis::now();
            failure.attempts = failure.attempts.saturating_add(1);
            failure.last = now;
            if failure.attempts == 1 {
                failure.first = now;
            }
            let (refused, after) = match outcome {
                Outcome::Delivered => return,
                Outcome::Refused { cause, status, body } => {
                    (failure.cause, failure.status, failure.body) = (cause, status, body);
                    (true, None)
                }
                Outcome::Retry { cause, status, after, body } => {
                    (failure.cause, failure.status, failure.body) = (cause, status, body);
                    (false, after)
                }
            };
            let (subscriber, id, cause) = (&self.subscription, event.id(), &*failure.cause);
            tracing::debug!(%subscriber, id, attempt = failure.attempts, cause, "not delivered");
            if !refused && failure.attempts <= self.policy.retry {
                sleep(schedule::delay(&self.policy, failure.attempts, after, rand::random())).await;
                continue;
            }
            match self.dead_letter(&event, &failure).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%subscriber, id, cause, %error, "not delivered, and tried again");
                    sleep(self.policy.delay_max.min(REFUSED_PAUSE)).await;
                }
            }
        }
    }

    async fn dead_letter(&self, event: &Event, failure: &Failure) -> Result<(), Unsettled> {
        let Some(letters) = &self.letters else {
            return Err(Unsettled(
                "the EventSource has neither a deadLetterSink nor a bus to keep dead letters on".into(),
            ));
        };
        let letter = dead_letter::letter(event, &self.subscription, failure).or_else(|error| {
            let short = dead_letter::shortened(event, &self.subscription, failure, limits::EVENT_BYTES);
            short.ok_or_else(|| unsettled(error))
        })?;
        letters.settle(vec![letter]).await
    }
}

/// The events that must be delivered one after the other: where they are `ordered`, those that share their `partitionkey`.
fn sequences(events: Vec<Event>, ordered: bool) -> Vec<Vec<Event>> {
    if !ordered {
        return events.into_iter().map(|event| vec![event]).collect();
    }
    let mut sequences: Vec<Vec<Event>> = Vec::new();
    let mut by_key: HashMap<String, usize> = HashMap::new();
    for event in events {
        let known = event.partition_key().and_then(|key| by_key.get(key)).copied();
        match known.and_then(|at| sequences.get_mut(at)) {
            Some(sequence) => sequence.push(event),
            None => {
                if let Some(key) = event.partition_key() {
                    by_key.insert(key.to_owned(), sequences.len());
                }
                sequences.push(vec![event]);
            }
        }
    }
    sequences
}
