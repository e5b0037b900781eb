//! What becomes of an event whose delivery failed for good: the same event, with what happened as extension attributes.

use evoke_api::names::SubscriptionId;
use evoke_eventbus::bus::{Partition, Position};
use evoke_eventbus::event::{Event, EventBuilder, InvalidEvent};
use evoke_eventbus::subscription::ledger::Millis;

/// How much of a subscriber's answer, and of a cause, a dead letter keeps, in bytes.
const TEXT_BYTES: usize = 1024;

/// The extension attribute that says where the event was on the bus.
pub const POSITION: &str = "evokeposition";

/// The extension attributes of a dead letter; redrive takes them away again.
pub const ATTRIBUTES: [&str; 11] = [
    "knativeerrordest",
    "knativeerrorcode",
    "knativeerrordata",
    "evokecause",
    "evokeattempts",
    "evokefirsttime",
    "evokelasttime",
    "evoketrigger",
    "evokesubscriber",
    POSITION,
    "evoketruncated",
];

/// Why and how a delivery failed for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Why, for people.
    pub cause: String,
    /// Where it was to go, without credentials.
    pub destination: String,
    /// The last HTTP status, if there was one.
    pub status: Option<u16>,
    /// The start of the last answer's body.
    pub body: Vec<u8>,
    /// How many attempts were made.
    pub attempts: u32,
    /// When the first one ended.
    pub first: Millis,
    /// When the last one ended.
    pub last: Millis,
    /// Where the event was on the bus, for people; see [`position`]. Absent where there is no bus.
    pub position: Option<String>,
}

/// A place on the bus, with its position as the tools print it.
pub fn position(partition: &Partition, at: Position) -> String {
    let Partition { topic, index } = partition;
    format!("{topic}/{index}/{at}")
}

/// The dead letter of an event: data and attributes unchanged, and [`ATTRIBUTES`].
///
/// # Errors
/// When the event has too many attributes to take more; see [`shortened`].
pub fn letter(event: &Event, subscription: &SubscriptionId, failure: &Failure) -> Result<Event, InvalidEvent> {
    let told = describe(event.to_builder().without("evoketruncated"), subscription, failure);
    if told.get(POSITION).is_none() {
        return told.build();
    }
    // An event with almost as many attributes as there may be keeps all of its own.
    told.clone().build().or_else(|_| told.without(POSITION).build())
}

/// The dead letter of an event that is too large or has too many attributes for the bus: `id`, `source` and `type`, as many other
/// attributes and as many bytes of data as fit into `limit` bytes, and `evoketruncated` with the data's full size in bytes.
pub fn shortened(event: &Event, subscription: &SubscriptionId, failure: &Failure, limit: usize) -> Option<Event> {
    let data = event.data();
    let bare = Event::builder(event.id(), event.source(), event.ty());
    let note = |builder| describe(builder, subscription, failure).attribute("evoketruncated", data.len().to_string());
    let kept = evoke_api::limits::ATTRIBUTES - 3 - ATTRIBUTES.len();
    let with_attributes = event
        .attributes()
        .skip(3)
        .filter(|(name, _)| !ATTRIBUTES.contains(name))
        .take(kept)
        .fold(bare.clone(), |builder, (name, value)| builder.attribute(name, value));
    [with_attributes, bare].into_iter().find_map(|builder| {
        let head = note(builder.clone()).build().ok()?;
        // What is left may still be cut by the bus's own overhead: half of it always fits.
        let room = limit.checked_sub(head.encoded_len())? / 2;
        note(builder).data(data.slice(..data.len().min(room))).build().ok()
    })
}

fn describe<'a>(builder: EventBuilder<'a>, subscription: &'a SubscriptionId, failure: &Failure) -> EventBuilder<'a> {
    let builder = match failure.status {
        Some(status) => builder.attribute("knativeerrorcode", status.to_string()),
        None => builder.without("knativeerrorcode"),
    };
    let builder = match text(&String::from_utf8_lossy(&failure.body)) {
        data if data.is_empty() => builder.without("knativeerrordata"),
        data => builder.attribute("knativeerrordata", data),
    };
    let builder = match &failure.position {
        Some(position) => builder.attribute(POSITION, text(position)),
        None => builder.without(POSITION),
    };
    builder
        .attribute("knativeerrordest", text(&failure.destination))
        .attribute("evokecause", text(&failure.cause))
        .attribute("evokeattempts", failure.attempts.to_string())
        .attribute("evokefirsttime", time(failure.first))
        .attribute("evokelasttime", time(failure.last))
        .attribute("evoketrigger", subscription.owner.to_string())
        .attribute("evokesubscriber", &*subscription.subscriber)
}

/// At most 1,024 bytes, without the control characters that no attribute may have.
fn text(raw: &str) -> String {
    let mut text: String = raw.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.floor_char_boundary(TEXT_BYTES));
    text
}

fn time(at: Millis) -> String {
    chrono::DateTime::<chrono::Utc>::from(at.to_system()).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use evoke_api::names::ObjectName;

    use super::*;

    fn subscription() -> SubscriptionId {
        SubscriptionId { owner: ObjectName::new("shop", "orders"), subscriber: "billing".into() }
    }

    fn failure() -> Failure {
        Failure {
            cause: "answered 400 Bad Request".into(),
            destination: "http://billing/".into(),
            status: Some(400),
            body: b"no\x00 amount\n".to_vec(),
            attempts: 1,
            first: Millis(1_000),
            last: Millis(2_500),
            position: Some("shop.web.in/3/17".into()),
        }
    }

    #[test]
    fn keeps_the_event_and_says_what_happened() {
        let event = Event::builder("1", "/web", "order")
            .attribute("partitionkey", "k")
            .attribute("datacontenttype", "application/json")
            .attribute("evokecause", "an older one")
            .data(&b"{\"a\": 1}"[..])
            .build()
            .unwrap();
        let letter = letter(&event, &subscription(), &failure()).unwrap();
        assert_eq!(letter.data(), event.data());
        let got: Vec<_> = letter.attributes().collect();
        for expected in [
            ("id", "1"),
            ("source", "/web"),
            ("type", "order"),
            ("partitionkey", "k"),
            ("datacontenttype", "application/json"),
            ("knativeerrordest", "http://billing/"),
            ("knativeerrorcode", "400"),
            ("knativeerrordata", "no  amount"),
            ("evokecause", "answered 400 Bad Request"),
            ("evokeattempts", "1"),
            ("evokefirsttime", "1970-01-01T00:00:01.000Z"),
            ("evokelasttime", "1970-01-01T00:00:02.500Z"),
            ("evoketrigger", "shop/orders"),
            ("evokesubscriber", "billing"),
            ("evokeposition", "shop.web.in/3/17"),
        ] {
            assert!(got.contains(&expected), "{expected:?} in {got:?}");
        }
        assert_eq!(got.len(), 15);
    }

    #[test]
    fn what_was_on_no_bus_has_no_position() {
        let event = Event::builder("1", "/web", "order").attribute("evokeposition", "of another").build().unwrap();
        let letter = letter(&event, &subscription(), &Failure { position: None, ..failure() }).unwrap();
        assert_eq!(letter.attribute("evokeposition"), None);
    }

    #[test]
    fn a_letter_that_does_not_fit_keeps_what_does() {
        let event = Event::builder("1", "/web", "order").attribute("subject", "s").data(vec![7; 4096]).build().unwrap();
        let short = shortened(&event, &subscription(), &failure(), 2048).unwrap();
        assert!(short.encoded_len() <= 2048);
        assert!(short.data_slice().len() > 500 && short.data_slice().iter().all(|b| *b == 7));
        assert_eq!(short.attribute("evoketruncated"), Some("4096"));
        assert_eq!(short.attribute("subject"), Some("s"));
        assert_eq!(short.attribute("evokecause"), Some("answered 400 Bad Request"));
    }

    #[test]
    fn an_event_with_as_many_attributes_as_there_may_be_still_gets_a_letter() {
        let full = (0..125).fold(Event::builder("1", "/web", "t"), |event, n| event.attribute(format!("x{n}"), "v"));
        let event = full.build().unwrap();
        assert_eq!(letter(&event, &subscription(), &failure()), Err(InvalidEvent::TooMany));
        let short = shortened(&event, &subscription(), &failure(), 1 << 20).unwrap();
        assert_eq!(short.attributes().count(), 128);
        assert_eq!(short.attribute("evokeposition"), Some("shop.web.in/3/17"));
    }

    #[test]
    fn an_event_gives_up_none_of_its_attributes_for_its_position() {
        let full = (0..116).fold(Event::builder("1", "/web", "t"), |event, n| event.attribute(format!("x{n}"), "v"));
        let letter = letter(&full.build().unwrap(), &subscription(), &failure()).unwrap();
        assert_eq!((letter.attributes().count(), letter.attribute("evokeposition")), (128, None));
        assert_eq!(letter.attribute("x115"), Some("v"));
    }
}
