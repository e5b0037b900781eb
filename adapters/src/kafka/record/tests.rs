use std::sync::Arc;

use evoke_api::names::ObjectName;
use evoke_api::{events, limits};
use proptest::prelude::*;

use super::*;
use crate::blank::tests::{event, malformed as refused};

const CLAIMS: [&str; 4] = ["ce_specversion", "ce_id", "ce_source", "ce_type"];

fn mapper(attributes: &[(&str, &str)], content_type: Option<&str>) -> Mapper {
    let attributes: events::Attributes = attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let origin = Origin { event_source: ObjectName::new("shop", "orders"), event: Arc::from("created"), attributes };
    Mapper::new(&origin, content_type)
}

fn raw<'a>(value: Option<&'a [u8]>, headers: &'a [Header<'a>]) -> Raw<'a> {
    Raw { topic: "in", partition: 3, offset: 42, key: Some(b"k1"), value, timestamp: Some(1_777_863_721_500), headers }
}

#[test]
fn a_plain_record_keeps_everything_as_attributes() {
    let headers: [Header<'_>; 5] = [
        ("X-Tenant_Id", Some(b"acme")),
        ("bin", Some(&[0xff, 0x00])),
        ("none", None),
        ("Content-Type", Some(b"text/plain")),
        ("traceparent", Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
    ];
    let event = event(mapper(&[], Some("application/json")).arrival(&raw(Some(b"hello\0\xff"), &headers)));
    let attributes: Vec<_> = event.attributes().collect();
    assert_eq!(
        attributes,
        [
            ("id", "in/3/42"),
            ("source", "/namespaces/shop/eventsources/orders/created"),
            ("type", "io.evoke.kafka"),
            ("time", "2026-05-04T03:02:01.500Z"),
            ("datacontenttype", "text/plain"),
            ("partitionkey", "k1"),
            ("kafkapartition", "3"),
            ("kafkaoffset", "42"),
            ("kafkaheaderxtenantid", "acme"),
            ("kafkaheaderbin", "/wA="),
            ("kafkaheadernone", ""),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ]
    );
    assert_eq!(event.data_slice(), b"hello\0\xff");
}

#[test]
fn a_tombstone_without_key_and_time_is_an_event_too() {
    let record = Raw { key: None, timestamp: None, ..raw(None, &[]) };
    let event = event(mapper(&[], None).arrival(&record));
    let names: Vec<_> = event.attributes().map(|(name, _)| name).collect();
    assert_eq!(names, ["id", "source", "type", "kafkapartition", "kafkaoffset"]);
    assert!(event.data_slice().is_empty());
}

#[test]
fn a_binary_key_is_base64() {
    let record = Raw { key: Some(&[0, 1, 2]), ..raw(Some(b"x"), &[]) };
    assert_eq!(event(mapper(&[], None).arrival(&record)).partition_key(), Some("AAEC"));
}

#[test]
fn the_manifest_replaces_attributes() {
    let attributes =
        [("source", "/mine"), ("type", "mine.created"), ("dataschema", "https://example.org/mine"), ("tenant", "acme")];
    let mapper = mapper(&attributes, Some("application/json"));
    // It does so for records that come as events too.
    let records: [(&[Header<'_>], &str); 2] = [(&[], "in/3/42"), (&BINARY, "abc")];
    for (headers, id) in records {
        let event = event(mapper.arrival(&raw(Some(b"{}"), headers)));
        for (name, value) in attributes {
            assert_eq!(event.attribute(name), Some(value), "{name} of {id}");
        }
        assert_eq!(event.id(), id);
    }
    let event = event(mapper.arrival(&raw(Some(b"{}"), &[])));
    assert_eq!(event.content_type(), Some("application/json"));
}

const BINARY: [Header<'static>; 6] = [
    ("ce_specversion", Some(b"1.0")),
    ("ce_id", Some(b"abc")),
    ("ce_source", Some(b"/shop")),
    ("ce_type", Some(b"order.created")),
    ("ce_tenant", Some("Zürich".as_bytes())),
    ("content-type", Some(b"application/json")),
];

#[test]
fn a_binary_cloud_event_stays_itself() {
    let event = event(mapper(&[], Some("text/plain")).arrival(&raw(Some(b"{\"a\": 1}"), &BINARY)));
    let attributes: Vec<_> = event.attributes().collect();
    assert_eq!(
        attributes,
        [
            ("id", "abc"),
            ("source", "/shop"),
            ("type", "order.created"),
            ("tenant", "Zürich"),
            ("datacontenttype", "application/json"),
            ("partitionkey", "k1"),
        ]
    );
    assert_eq!(event.data_slice(), b"{\"a\": 1}");
}

#[test]
fn a_structured_cloud_event_stays_itself() {
    let headers: [Header<'_>; 2] =
        [("content-type", Some(b"application/cloudevents+json; charset=UTF-8")), ("tracestate", Some(b"a=b"))];
    let value =
        br#"{"specversion":"1.0","id":"abc","source":"/shop","type":"t","partitionkey":"own","data":{"a": 1.0}}"#;
    let event = event(mapper(&[("type", "mine")], None).arrival(&raw(Some(value), &headers)));
    assert_eq!((event.id(), event.source(), event.ty()), ("abc", "/shop", "mine"));
    assert_eq!((event.partition_key(), event.attribute("tracestate")), (Some("own"), Some("a=b")));
    assert_eq!(event.data_slice(), br#"{"a": 1.0}"#);
}

#[test]
fn a_claim_that_does_not_hold_is_malformed_and_says_why() {
    let cause = |value: Option<&[u8]>, headers: &[Header<'_>]| {
        let malformed = refused(mapper(&[], None).arrival(&raw(value, headers)));
        assert_eq!(malformed.position, "in/3/42");
        assert_eq!(malformed.raw, value.unwrap_or_default());
        malformed.cause
    };
    let claim = "the record claims to be a CloudEvent and is not: ";
    let without_type: Vec<_> = BINARY.into_iter().filter(|(name, _)| *name != "ce_type").collect();
    assert_eq!(cause(Some(b"x"), &without_type), format!("{claim}attribute \"type\" is missing or empty"));
    assert!(cause(Some(b"x"), &[("ce_id", Some(b"1"))]).starts_with(claim));
    assert_eq!(
        cause(Some(b"x"), &[("ce_type", Some(&[0xff]))]),
        format!("{claim}attribute \"type\" is not UTF-8 text")
    );
    let structured: [Header<'_>; 1] = [("content-type", Some(b"application/cloudevents+json"))];
    assert!(cause(Some(b"{not json"), &structured).starts_with(claim));
    assert_eq!(cause(None, &structured), format!("{claim}the record has no value"));
    let avro: [Header<'_>; 1] = [("content-type", Some(b"application/cloudevents+avro"))];
    assert!(cause(Some(b"x"), &avro).contains("application/cloudevents+avro"));
}

#[test]
fn a_plain_record_beyond_the_limits_of_an_event_is_malformed() {
    let long = vec![b'x'; limits::ATTRIBUTE_VALUE_BYTES + 1];
    let record = Raw { key: Some(&long), ..raw(Some(b"x"), &[]) };
    assert!(refused(mapper(&[], None).arrival(&record)).cause.contains("partitionkey"));
    let names: Vec<String> = (0..limits::ATTRIBUTES).map(|n| format!("h{n}")).collect();
    let headers: Vec<Header<'_>> = names.iter().map(|name| (name.as_str(), None)).collect();
    assert_eq!(refused(mapper(&[], None).arrival(&raw(None, &headers))).cause, "more than 128 attributes");
}

#[test]
fn a_long_header_name_is_cut_to_what_an_attribute_may_be_called() {
    let name = "N".repeat(100);
    let headers: [Header<'_>; 1] = [(&name, Some(b"v"))];
    let event = event(mapper(&[], None).arrival(&raw(None, &headers)));
    assert_eq!(event.attribute(&format!("kafkaheader{}", "n".repeat(53))), Some("v"));
}

fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..40))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,80}",
        prop::sample::select(vec![
            "content-type",
            "ce_id",
            "ce_source",
            "ce_type",
            "ce_specversion",
            "ce_time",
            "traceparent"
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    /// Any record is an event with its value untouched, or malformed with its position; never a panic, never lost.
    #[test]
    fn every_record_arrives(
        key in bytes(),
        value in bytes(),
        timestamp in prop::option::of(any::<i64>()),
        headers in prop::collection::vec((name(), bytes()), 0..8),
    ) {
        let headers: Vec<Header<'_>> = headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
        let record = Raw {
            topic: "in", partition: 0, offset: 1, key: key.as_deref(), value: value.as_deref(), timestamp, headers: &headers,
        };
        let claims = headers.iter().any(|(name, _)| CLAIMS.contains(name));
        match mapper(&[], None).arrival(&record) {
            Arrival::Event(event) => {
                prop_assert_eq!(event.data_slice(), value.as_deref().unwrap_or_default());
                prop_assert!(claims || event.id() == "in/0/1");
            }
            Arrival::Malformed(malformed) => {
                prop_assert!(claims, "{}", malformed.cause);
                prop_assert_eq!(malformed.position, "in/0/1");
                prop_assert_eq!(malformed.raw, value.unwrap_or_default());
            }
        }
    }
}
