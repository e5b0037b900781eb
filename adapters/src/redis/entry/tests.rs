use evoke_api::names::ObjectName;
use proptest::prelude::*;

use super::*;
use crate::blank::tests::{event, malformed};

fn mapper(content_type: Option<&str>) -> Mapper {
    let attributes = [("subject".to_owned(), "shop".to_owned())].into_iter().collect();
    let origin = Origin { event_source: ObjectName::new("ns", "es"), event: "orders".into(), attributes };
    Mapper::new(&origin, "orders", content_type)
}

fn fields(fields: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

const ID: &str = "1763892000123-4";

#[test]
fn an_entry_with_data_keeps_it_and_everything_else() {
    let binary = vec![0u8, 255, b'{'];
    let mut all = fields(&[("ce-datacontenttype", "image/png"), ("User-Id", "42"), ("traceparent", "00-a-b-01")]);
    all.push((b"data".to_vec(), binary.clone()));
    all.push((b"raw".to_vec(), vec![1, 2]));
    let event = event(mapper(Some("application/json")).entry(ID, all));
    assert_eq!(event.id(), "orders/1763892000123-4");
    assert_eq!((event.ty(), event.source()), ("io.evoke.redis", "/namespaces/ns/eventsources/es/orders"));
    assert_eq!(event.data_slice(), binary);
    assert_eq!(event.content_type(), Some("image/png"));
    assert_eq!(event.attribute("time"), Some("2025-11-23T10:00:00.123Z"));
    assert_eq!(event.attribute("redisfielduserid"), Some("42"));
    assert_eq!(event.attribute("redisfieldraw"), Some("AQI="));
    assert_eq!(event.attribute("traceparent"), Some("00-a-b-01"));
    assert_eq!(event.attribute("subject"), Some("shop"), "the manifest's attributes");
}

#[test]
fn an_entry_without_data_is_an_object_of_strings() {
    let entry =
        fields(&[("customer", "ä\"b"), ("amount", "12"), ("ce-type", "order.created"), ("ce-partitionkey", "7")]);
    let event = event(mapper(None).entry("5-1", entry));
    assert_eq!(event.data_slice(), r#"{"amount":"12","customer":"ä\"b"}"#.as_bytes());
    assert_eq!(event.content_type(), Some("application/json"));
    assert_eq!((event.ty(), event.partition_key()), ("order.created", Some("7")));
    assert_eq!(event.attribute("time"), None, "an id of somebody's own holds no time");
}

#[test]
fn attributes_of_the_entry_win_over_what_is_made_up_for_it() {
    let entry = fields(&[("ce-id", "o-1"), ("CE-Source", "/shop"), ("ce-time", "2020-01-01T00:00:00Z"), ("data", "x")]);
    let event = event(mapper(None).entry(ID, entry));
    assert_eq!((event.id(), event.source()), ("o-1", "/shop"));
    assert_eq!(event.attribute("time"), Some("2020-01-01T00:00:00Z"));
    assert_eq!(event.content_type(), None);
}

#[test]
fn a_cloud_event_in_the_data_is_taken_as_one() {
    let json =
        r#"{"specversion":"1.0","id":"7","source":"/dapr","type":"t","time":"2020-01-01T00:00:00Z","data":{"a":1}}"#;
    let with_type = fields(&[("ce-datacontenttype", "application/cloudevents+json; charset=utf-8"), ("data", json)]);
    for arrival in [
        mapper(Some("application/cloudevents+json")).entry(ID, fields(&[("data", json), ("traceparent", "00-a-b-01")])),
        mapper(Some("application/cloudevents+json")).item(Bytes::from(json)),
        mapper(Some("application/cloudevents+json")).message(b"c", json.as_bytes().to_vec()),
    ] {
        let event = event(arrival);
        assert_eq!((event.id(), event.source(), event.ty()), ("7", "/dapr", "t"));
        assert_eq!(event.attribute("time"), Some("2020-01-01T00:00:00Z"));
        assert_eq!(event.data_slice(), br#"{"a":1}"#);
    }
    assert_eq!(event(mapper(None).entry(ID, with_type)).id(), "7");
    let broken = malformed(mapper(Some("application/cloudevents+json")).item(Bytes::from("{")));
    assert!(broken.cause.starts_with("the data claims to be a CloudEvent and is not: "), "{broken:?}");
}

#[test]
fn messages_and_items_have_ids_of_their_own() {
    let mapper = mapper(Some("text/plain"));
    let (one, other) = (event(mapper.item("x".into())), event(mapper.item("x".into())));
    assert_ne!(one.id(), other.id());
    assert!(one.id().parse::<Uuid>().is_ok_and(|id| id.get_version_num() == 7));
    let message = event(mapper.message(b"news.eu", b"hi".to_vec()));
    assert_eq!(message.attribute("redischannel"), Some("news.eu"));
    assert_eq!((message.data_slice(), message.content_type()), (&b"hi"[..], Some("text/plain")));
}

#[test]
fn what_cannot_be_an_event_says_why_and_keeps_its_bytes() {
    for (entry, cause) in [
        (fields(&[("ce-specversion", "0.3"), ("data", "x")]), "specversion \"0.3\" is not supported: 1.0 is"),
        (fields(&[("ce-id", ""), ("data", "x")]), "attribute \"id\" is missing or empty"),
        (fields(&[("ce-my_ext", "1"), ("data", "x")]), "\"my_ext\" is no attribute name"),
        (
            fields(&[("ce-time", "yesterday"), ("data", "x")]),
            "attribute \"time\" is \"yesterday\", which is no timestamp",
        ),
        (
            fields(&[
                ("evokeformat", "1"),
                ("ce-id", "1"),
                ("ce-source", "s"),
                ("ce-type", "t"),
                ("ce-time", ""),
                ("data", "x"),
            ]),
            "attribute \"time\" is \"\"",
        ),
        (
            fields(&[
                ("evokeformat", "1"),
                ("ce-id", "1"),
                ("ce-source", "s"),
                ("ce-type", "t"),
                ("ce-a", "1"),
                ("ce-a", "2"),
                ("data", "x"),
            ]),
            "attribute \"a\" is given twice",
        ),
        (vec![(b"ce-a".to_vec(), vec![255]), (b"data".to_vec(), b"x".to_vec())], "field \"ce-a\" is no UTF-8 text"),
    ] {
        let malformed = malformed(mapper(None).entry(ID, entry));
        assert!(malformed.cause.starts_with(cause), "{malformed:?}");
        assert_eq!((malformed.position.as_str(), &malformed.raw[..]), ("orders/1763892000123-4", &b"x"[..]));
    }
    let binary = vec![(b"a".to_vec(), vec![255])];
    let malformed = malformed(mapper(None).entry(ID, binary));
    assert!(malformed.cause.contains("binary data goes into a field `data`"), "{malformed:?}");
    assert_eq!(&malformed.raw[..], b"a: \xff\n");
}

proptest! {
    #[test]
    fn any_entry_is_an_event_or_says_why_not(
        entry in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..12), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        data in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
    ) {
        let mut entry = entry;
        entry.extend(data.clone().map(|data| (b"data".to_vec(), data)));
        let names_are_text = entry.iter().all(|(name, _)| std::str::from_utf8(name).is_ok());
        match mapper(None).entry(ID, entry) {
            Arrival::Event(event) => {
                if let Some(data) = data {
                    prop_assert_eq!(event.data_slice(), data);
                }
            }
            Arrival::Malformed(malformed) => prop_assert!(!names_are_text || !malformed.cause.is_empty()),
        }
    }
}
