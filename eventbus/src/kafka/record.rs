//! An event as a record, and a record as an event. What other programs published is read too: CloudEvents as they are, anything else
//! as the data of one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use evoke_api::names::TopicName;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};

use super::publisher::Outgoing;
use crate::codec::kafka::{self as codec, Decoded, Raw};
use crate::event::Event;
use crate::metrics::TopicMetrics;

/// What a batch takes around its records.
const BATCH_OVERHEAD: usize = 128;

/// The size of a batch with this event alone, at the most, in bytes.
pub(super) fn batch_bytes(event: &Event) -> usize {
    codec::record_bytes(event) + BATCH_OVERHEAD
}

/// The record of an event.
pub(super) fn outgoing(event: &Event) -> Outgoing<'_> {
    let mut headers = Some(OwnedHeaders::new_with_capacity(event.attributes().count() + 2));
    codec::binary_headers(event, |key, value| {
        headers = headers.take().map(|headers| headers.insert(Header { key, value: Some(value) }));
    });
    Outgoing { key: event.partition_key().map(str::as_bytes), value: Some(event.data_slice()), headers }
}

/// Makes events of the records of one topic.
pub(super) struct Decoder {
    /// The source of what is no CloudEvent.
    source: String,
    metrics: TopicMetrics,
}

impl Decoder {
    pub(super) fn new(topic: &TopicName, metrics: TopicMetrics) -> Self {
        Self { source: source(topic), metrics }
    }

    /// The event of a record; `None`, counted and said, for one that claims to be an event and is none.
    pub(super) fn event(&self, message: &BorrowedMessage<'_>) -> Option<Event> {
        let decoded = match message.headers() {
            None => self.decode(&raw(message, &[])),
            Some(headers) => {
                // The client panics on a header whose name is not UTF-8.
                let list = || headers.iter().map(|h| (h.key, h.value)).collect::<Vec<codec::Header<'_>>>();
                match catch_unwind(AssertUnwindSafe(list)) {
                    Ok(headers) => self.decode(&raw(message, &headers)),
                    Err(_) => Err("the name of a header is not UTF-8 text".to_owned()),
                }
            }
        };
        match decoded {
            Ok(event) => Some(event),
            Err(cause) => {
                self.metrics.skipped_events.inc();
                let position = raw(message, &[]).position();
                tracing::warn!(position, cause, "a record on the bus that is no event is passed by");
                None
            }
        }
    }

    fn decode(&self, record: &Raw<'_>) -> Result<Event, String> {
        let event = match codec::decode(record).map_err(|cause| cause.to_string())? {
            Decoded::Event(event) => event,
            Decoded::Plain => codec::plain(record, &self.source, "io.evoke.kafka", None),
        };
        event.build().map_err(|cause| cause.to_string())
    }
}

fn raw<'a>(message: &'a BorrowedMessage<'_>, headers: &'a [codec::Header<'a>]) -> Raw<'a> {
    Raw {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key(),
        value: message.payload(),
        timestamp: message.timestamp().to_millis(),
        headers,
    }
}

fn source(topic: &TopicName) -> String {
    let parts: Vec<&str> = topic.parts().collect();
    match parts[..] {
        [namespace, event_source, event] => format!("/namespaces/{namespace}/eventsources/{event_source}/{event}"),
        [namespace, name] => format!("/namespaces/{namespace}/topics/{name}"),
        _ => format!("/topics/{topic}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_source_has_the_topics() {
        let source = |topic: &str| source(&TopicName::parse(topic));
        assert_eq!(source("shop.orders.created"), "/namespaces/shop/eventsources/orders/created");
        assert_eq!(source("shop.letters"), "/namespaces/shop/topics/letters");
        assert_eq!(source("odd"), "/topics/odd");
    }
}
