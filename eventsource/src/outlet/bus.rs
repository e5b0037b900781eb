//! Publishes on a bus, and settles when it is durable.

use evoke_adapters::metrics::SourceMetrics;
use evoke_adapters::source::{Arrival, Malformed, Origin, Outlet, Settled, Unsettled};
use evoke_api::names::TopicName;
use evoke_eventbus::bus::{Health, Partition};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::Subscriptions;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join};
use tokio::sync::watch;

use super::budget::Budget;
use super::letters::{Letters, by_partition, stored, unsettled};
use crate::malformed::letter;

/// The outlet of one event of an EventSource that has a bus.
pub struct BusOutlet {
    /// Whose events.
    pub origin: Origin,
    /// The bus, with how many partitions its topics have.
    pub subscriptions: Subscriptions,
    /// How it is doing.
    pub health: watch::Receiver<Health>,
    /// The topic, which is declared.
    pub topic: TopicName,
    /// Where what cannot be an event goes.
    pub letters: Letters,
    /// Shared with the other sources.
    pub budget: Budget,
    /// Of this source.
    pub metrics: SourceMetrics,
}

/// A batch, sorted.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) events: Vec<Event>,
    pub(super) bytes: usize,
    pub(super) letters: Vec<Event>,
}

/// Tells events from what cannot be one, or is too large for one, of which it makes letters; counts the latter.
///
/// # Errors
/// Does not happen: letters are made to fit.
pub(super) fn sort(
    arrivals: Vec<Arrival>,
    limit: usize,
    origin: &Origin,
    metrics: &SourceMetrics,
) -> Result<Sorted, Unsettled> {
    let mut sorted = Sorted { events: Vec::with_capacity(arrivals.len()), ..Sorted::default() };
    for arrival in arrivals {
        let malformed = match arrival {
            Arrival::Event(event) if event.encoded_len() <= limit => {
                sorted.bytes += event.encoded_len();
                sorted.events.push(event);
                continue;
            }
            Arrival::Event(event) => {
                metrics.too_large.inc();
                let cause = format!("the event has {} bytes as encoded, and the limit is {limit}", event.encoded_len());
                Malformed { position: event.id().to_owned(), cause, raw: event.data() }
            }
            Arrival::Malformed(malformed) => {
                metrics.malformed.inc();
                malformed
            }
        };
        let letter = letter(origin, &malformed).map_err(unsettled)?;
        let (source, cause) = (letter.source(), &*malformed.cause);
        tracing::warn!(
            source,
            position = malformed.position,
            cause,
            "a record that cannot be an event is dead-lettered"
        );
        sorted.bytes += letter.encoded_len();
        sorted.letters.push(letter);
    }
    Ok(sorted)
}

impl Outlet for BusOutlet {
    fn accept(&self, arrivals: Vec<Arrival>) -> BoxFuture<'_, Result<Settled, Unsettled>> {
        async move {
            let bus = self.subscriptions.bus();
            let Sorted { events, bytes, letters } = sort(arrivals, bus.max_event_bytes(), &self.origin, &self.metrics)?;
            let place = self.budget.take(bytes).await;
            let count = events.len();
            let mut receipts = Vec::new();
            for (index, events) in by_partition(events, self.subscriptions.partitions(&self.topic)) {
                if events.is_empty() {
                    continue;
                }
                let partition = Partition { topic: self.topic.clone(), index };
                // A broker may find larger what the bus did not: what a message takes is known when it is made.
                receipts.push((events.clone(), bus.publish(&partition, events).await.map_err(unsettled)?));
            }
            let in_flight = InFlight::start(&self.metrics, count, bytes);
            let (dead, metrics, origin) = (self.letters.clone(), self.metrics.clone(), self.origin.clone());
            let wait = async move {
                let _held = (place, in_flight);
                let letters = async { if letters.is_empty() { Ok(()) } else { dead.settle(letters).await } };
                let events = async {
                    let refused = stored(receipts).await?;
                    let mut letters = Vec::with_capacity(refused.len());
                    for (event, cause) in &refused {
                        metrics.too_large.inc();
                        let position = event.id().to_owned();
                        tracing::warn!(
                            source = event.source(),
                            position,
                            cause,
                            "an event that the bus does not take is dead-lettered"
                        );
                        let malformed = Malformed { position, cause: cause.clone(), raw: event.data() };
                        letters.push(letter(&origin, &malformed).map_err(unsettled)?);
                    }
                    if !letters.is_empty() {
                        dead.settle(letters).await?;
                    }
                    Ok(count - refused.len())
                };
                let result = try_join(events, letters).await.map(|(stored, ())| stored);
                match &result {
                    Ok(stored) => {
                        metrics.accepted.inc_by(*stored as u64);
                        metrics.bytes.inc_by(bytes as u64);
                    }
                    Err(_) => metrics.failed.inc_by(count as u64),
                }
                result.map(|_| ())
            };
            Ok(wait.boxed() as Settled)
        }
        .boxed()
    }

    fn has_room(&self) -> bool {
        self.budget.has_room() && matches!(*self.health.borrow(), Health::Up)
    }

    fn max_event_bytes(&self) -> usize {
        self.subscriptions.bus().max_event_bytes()
    }
}

/// Counts what is accepted and not settled, until dropped.
pub(super) struct InFlight {
    metrics: SourceMetrics,
    events: i64,
    bytes: i64,
}

impl InFlight {
    pub(super) fn start(metrics: &SourceMetrics, events: usize, bytes: usize) -> Self {
        let (events, bytes) = (i64::try_from(events).unwrap_or(i64::MAX), i64::try_from(bytes).unwrap_or(i64::MAX));
        metrics.in_flight.add(events);
        metrics.in_flight_bytes.add(bytes);
        Self { metrics: metrics.clone(), events, bytes }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.sub(self.events);
        self.metrics.in_flight_bytes.sub(self.bytes);
    }
}
