//! Events of one partition on their way to its stream: as one batch that is stored as a whole or not at all, so that what fails can
//! be sent again without coming after what followed it.

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::{Refusal, WireError};
use super::wire::Wire;
use crate::codec::nats;
use crate::event::Event;

/// As many messages as NATS takes in one batch.
pub(super) const EVENTS: usize = 1000;
/// What a message takes beside its subject, its event's headers and its data: the headers of batches and of repeats.
pub(super) const OVERHEAD: usize = 512;
/// What the servers take of headers, all of a message together.
pub(super) const HEADER_BYTES: usize = 65_535;
/// Longer identities are hashed: the servers keep each of them in memory for as long as they recognise it.
const IDENTITY_BYTES: usize = 200;

/// What separates the parts of an identity, and what a header cannot hold.
const SEPARATED: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%');

/// What became of some events.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Each is stored, at these sequences; `true` for one that had been before.
    Stored(Vec<(u64, bool)>),
    /// There is no room; none is stored.
    Full(Refusal),
    /// One of them is larger than the stream takes, or its headers are; none is stored.
    TooLarge,
    /// One of them had been stored before; the others are not stored.
    Repeated,
    /// It is not known.
    Unknown(WireError),
    /// JetStream refuses; none is stored.
    Refused(Refusal),
}

#[derive(Debug, Deserialize)]
struct Ack {
    #[serde(default)]
    error: Option<Refusal>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// Events as the messages of one batch.
pub(super) struct Messages {
    before: Vec<(HeaderMap, Bytes)>,
    last: (HeaderMap, Bytes),
}

impl Messages {
    /// The messages of a batch, of which `wire` knows a name that no other one has; `None` if there are no events.
    pub(super) fn of(events: &[Event], wire: &Wire) -> Option<Self> {
        let batch = if events.len() < 2 { String::new() } else { wire.client.new_inbox() };
        let message = |(event, number): (&Event, usize)| {
            let mut headers = nats::binary_headers(event);
            headers.insert("Nats-Msg-Id", identity(event));
            if events.len() > 1 {
                headers.insert("Nats-Batch-Id", batch.as_str());
                headers.insert("Nats-Batch-Sequence", number.to_string());
            }
            (headers, event.data())
        };
        let mut before: Vec<_> = events.iter().zip(1..).map(message).collect();
        let mut last = before.pop()?;
        if !before.is_empty() {
            last.0.insert("Nats-Batch-Commit", "1");
        }
        Some(Self { before, last })
    }

    /// Stores them, all or none.
    pub(super) async fn store(self, wire: &Wire, subject: &Subject) -> Outcome {
        let Self { before, last } = self;
        let events = before.len() + 1;
        match wire.ask_last(subject, before.into_iter(), last).await {
            Ok(answer) => outcome(&answer.payload, events),
            Err(error) => Outcome::Unknown(error),
        }
    }
}

fn outcome(answer: &Bytes, events: usize) -> Outcome {
    match serde_json::from_slice(answer) {
        Ok(Ack { error: Some(refusal), .. }) if refusal.is_full() => Outcome::Full(refusal),
        Ok(Ack { error: Some(refusal), .. }) if refusal.is_too_large() => Outcome::TooLarge,
        Ok(Ack { error: Some(refusal), .. }) if refusal.is(Refusal::DUPLICATE) => Outcome::Repeated,
        Ok(Ack { error: Some(refusal), .. }) => Outcome::Refused(refusal),
        // A batch has consecutive sequences, and its answer names the last.
        Ok(Ack { seq, duplicate, .. }) if seq >= events as u64 => {
            Outcome::Stored((0..events as u64).rev().map(|back| (seq - back, duplicate)).collect())
        }
        _ => Outcome::Unknown(WireError::Client(format!("an answer of {} bytes is no acknowledgement", answer.len()))),
    }
}

/// What the servers recognise an event by that is published again: its source and id, and what makes another use of the same event
/// another event, such as the dead letter of one subscriber.
pub(super) fn identity(event: &Event) -> String {
    let mut identity = String::with_capacity(64);
    let uses = ["evoketrigger", "evokesubscriber", "evokelasttime", "evokehops"].map(|name| event.attribute(name));
    for part in [Some(event.source()), Some(event.id())].into_iter().chain(uses).flatten() {
        if !identity.is_empty() {
            identity.push('#');
        }
        identity.extend(utf8_percent_encode(part, SEPARATED));
    }
    if identity.len() > IDENTITY_BYTES {
        let hash = Sha256::digest(identity.as_bytes());
        return hash.iter().map(|byte| format!("{byte:02x}")).collect();
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_of(source: &str, id: &str, attributes: &[(&str, &str)]) -> String {
        let event = Event::builder(id, source, "t");
        identity(&attributes.iter().fold(event, |event, (n, v)| event.attribute(*n, *v)).build().unwrap())
    }

    #[test]
    fn an_identity_is_source_id_and_use() {
        assert_eq!(identity_of("/a/b", "7", &[("subject", "x")]), "/a/b#7");
        let dead = [("evoketrigger", "ns/t"), ("evokesubscriber", "0")];
        assert_eq!(identity_of("/a/b", "7", &dead), "/a/b#7#ns/t#0");
        assert_ne!(identity_of("a#b", "c", &[]), identity_of("a", "b#c", &[]));
        assert!(identity_of("é \u{1f980}", "1", &[]).is_ascii());
        assert_eq!(identity_of(&"s".repeat(500), "1", &[]).len(), 64);
    }

    #[test]
    fn an_answer_says_where_each_event_is() {
        let read = |answer: &'static str, events| outcome(&Bytes::from_static(answer.as_bytes()), events);
        assert!(matches!(read(r#"{"stream":"s","seq":9,"batch":"b","count":3}"#, 3),
            Outcome::Stored(places) if places == [(7, false), (8, false), (9, false)]));
        assert!(
            matches!(read(r#"{"stream":"s","seq":2,"duplicate":true}"#, 1), Outcome::Stored(places) if places == [(2, true)])
        );
        assert!(matches!(
            read(r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"seq":0}"#, 1),
            Outcome::Full(_)
        ));
        assert!(matches!(
            read(r#"{"error":{"code":400,"err_code":10201,"description":"d"},"seq":0}"#, 1),
            Outcome::Repeated
        ));
        for answer in [r#"{"error":{"code":400,"err_code":10054}}"#, r#"{"error":{"code":400,"err_code":10097}}"#] {
            assert!(matches!(read(answer, 1), Outcome::TooLarge));
        }
        assert!(matches!(read(r#"{"error":{"code":400,"err_code":1,"description":"d"}}"#, 1), Outcome::Refused(_)));
        assert!(matches!(read("+OK", 1), Outcome::Unknown(_)));
    }
}
