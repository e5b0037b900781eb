use async_nats::HeaderMap;
use evoke_api::names::ObjectName;
use evoke_eventbus::event::Event;

use super::*;
use crate::blank;

fn mapper(content_type: Option<&str>) -> Mapper {
    let origin =
        Origin { event_source: ObjectName::new("ns", "es"), event: "orders".into(), attributes: Default::default() };
    Mapper::new(&origin, content_type)
}

fn message(payload: &'static str, headers: &[(&str, &str)]) -> Message {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    Message {
        subject: "shop.orders".into(),
        reply: None,
        payload: payload.into(),
        headers: (!headers.is_empty()).then_some(map),
        status: None,
        description: None,
        length: payload.len(),
    }
}

fn event(mapper: &Mapper, message: &Message) -> Event {
    blank::tests::event(mapper.arrival(message, "S/7", Some("2026-05-04T03:02:01.000Z".into())))
}

#[test]
fn a_plain_message_keeps_everything_beside_it() {
    let headers = [("Content-Type", "text/plain"), ("X-Tenant", "acme"), ("traceparent", "00-1-2-03"), ("B", "\u{7}")];
    let reply = Some("answers".into());
    let message = Message { reply, ..message("hello", &headers) };
    let event = event(&mapper(Some("application/json")), &message);
    let attributes: Vec<_> = event.attributes().collect();
    assert_eq!(
        attributes,
        [
            ("id", "S/7"),
            ("source", "/namespaces/ns/eventsources/es/orders"),
            ("type", "io.evoke.nats"),
            ("subject", "shop.orders"),
            ("time", "2026-05-04T03:02:01.000Z"),
            ("datacontenttype", "text/plain"),
            ("natsreply", "answers"),
            ("natsheaderb", "Bw=="),
            ("natsheaderxtenant", "acme"),
            ("traceparent", "00-1-2-03"),
        ]
    );
    assert_eq!(event.data_slice(), b"hello");
}

#[test]
fn a_cloud_event_is_taken_as_one_in_both_modes() {
    let binary = [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-tenant", "a")];
    let found = event(&mapper(None), &message("{ }", &binary));
    assert_eq!((found.id(), found.source(), found.ty(), found.attribute("tenant")), ("7", "/s", "t", Some("a")));
    assert_eq!(found.data_slice(), b"{ }");
    let body = r#"{"specversion":"1.0","id":"8","source":"/s","type":"t","data":{"a":1.50}}"#;
    for (content_type, headers) in [
        (None, vec![("content-type", "application/cloudevents+json")]),
        (Some("application/cloudevents+json"), vec![]),
        (Some("application/cloudevents+json"), vec![("x", "y")]),
    ] {
        let found = event(&mapper(content_type), &message(body, &headers));
        assert_eq!((found.id(), found.data_slice()), ("8", &br#"{"a":1.50}"#[..]));
    }
}

#[test]
fn what_claims_to_be_a_cloud_event_and_is_not_is_malformed() {
    let message = message("raw", &[("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-type", "t")]);
    let Arrival::Malformed(malformed) = mapper(None).arrival(&message, "S/7", None) else { panic!("an event") };
    assert_eq!((malformed.position.as_str(), &*malformed.raw), ("S/7", &b"raw"[..]));
    assert!(malformed.cause.starts_with("a message of subject \"shop.orders\": it claims"), "{}", malformed.cause);
    assert!(malformed.cause.contains("\"source\" is missing"), "{}", malformed.cause);
}
