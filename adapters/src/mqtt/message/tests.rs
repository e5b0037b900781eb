use bytes::Bytes;
use evoke_api::names::ObjectName;

use super::super::wire::Properties;
use super::*;
use crate::blank::tests::{event, malformed};
use crate::plan::mqtt::Qos;

fn mapper(content_type: Option<&str>) -> Mapper {
    let origin =
        Origin { event_source: ObjectName::new("ns", "es"), event: "orders".into(), attributes: Default::default() };
    Mapper::new(&origin, content_type)
}

fn message(payload: &'static [u8], properties: Properties) -> Publish {
    let payload = Bytes::from_static(payload);
    Publish { topic: "shop/orders".into(), qos: Qos::AtLeastOnce, payload, properties, ..Publish::default() }
}

fn user(properties: &[(&str, &str)]) -> Properties {
    let user = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Properties { user, ..Properties::default() }
}

#[test]
fn a_plain_message_keeps_everything_beside_it() {
    let properties = Properties {
        content_type: Some("text/plain".into()),
        response_topic: Some("answers".into()),
        correlation_data: Some(Bytes::from_static(&[0, 255])),
        ..user(&[("X-Tenant", "acme"), ("traceparent", "00-1-2-03"), ("bad", "a\u{7}")])
    };
    let message = Publish { retained: true, ..message(b"\0hello", properties) };
    let event = event(mapper(Some("application/json")).arrival(&message));
    assert_eq!((event.source(), event.ty()), ("/namespaces/ns/eventsources/es/orders", "io.evoke.mqtt"));
    assert_eq!(Uuid::parse_str(event.id()).unwrap().get_version_num(), 7);
    let attributes: Vec<_> = event.attributes().skip(3).collect();
    assert_eq!(
        attributes,
        [
            ("subject", "shop/orders"),
            ("datacontenttype", "text/plain"),
            ("mqttqos", "1"),
            ("mqttretained", "true"),
            ("mqttresponsetopic", "answers"),
            ("mqttcorrelationdata", "AP8="),
            ("mqttpropertyxtenant", "acme"),
            ("traceparent", "00-1-2-03"),
            ("mqttpropertybad", "YQc="),
        ]
    );
    assert_eq!(event.data_slice(), b"\0hello");
}

#[test]
fn a_cloud_event_in_binary_mode_is_taken_as_it_is() {
    let properties = Properties {
        content_type: Some("application/json".into()),
        ..user(&[
            ("specversion", "1.0"),
            ("id", "7"),
            ("source", "/s"),
            ("type", "t"),
            ("tenant", "acme"),
            ("X-Y", "z"),
        ])
    };
    let event = event(mapper(None).arrival(&message(b"{ }", properties)));
    let attributes: Vec<_> = event.attributes().collect();
    let expected = [
        ("id", "7"),
        ("source", "/s"),
        ("type", "t"),
        ("datacontenttype", "application/json"),
        ("tenant", "acme"),
        ("mqttpropertyxy", "z"),
    ];
    assert_eq!(attributes, expected);
    assert_eq!(event.data_slice(), b"{ }");
}

#[test]
fn a_cloud_event_in_structured_mode_by_its_content_type_or_the_manifests() {
    let body = br#"{"specversion":"1.0","id":"7","source":"/s","type":"t","data":{"a":1.50}}"#;
    let declared = Properties {
        content_type: Some("application/cloudevents+json; charset=utf-8".into()),
        ..Properties::default()
    };
    for (content_type, properties) in [(None, declared), (Some("application/cloudevents+json"), Properties::default())]
    {
        let event = event(mapper(content_type).arrival(&message(body, properties)));
        assert_eq!((event.id(), event.data_slice()), ("7", &br#"{"a":1.50}"#[..]));
    }
}

#[test]
fn what_claims_to_be_a_cloud_event_and_is_not_is_malformed() {
    for (properties, expected) in [
        (user(&[("specversion", "1.0"), ("id", "7"), ("type", "t")]), "\"source\" is missing"),
        (user(&[("specversion", "0.3"), ("id", "7"), ("type", "t"), ("source", "/s")]), "only 1.0 is supported"),
        (
            Properties { content_type: Some("application/cloudevents+json".into()), ..Properties::default() },
            "cannot be read as a JSON event",
        ),
        (
            Properties { content_type: Some("application/cloudevents+avro".into()), ..Properties::default() },
            "application/cloudevents+avro",
        ),
    ] {
        let malformed = malformed(mapper(None).arrival(&message(b"raw", properties)));
        assert!(malformed.cause.starts_with("a message of topic \"shop/orders\": it claims"), "{}", malformed.cause);
        assert!(malformed.cause.contains(expected), "{}", malformed.cause);
        assert_eq!(malformed.raw, "raw");
    }
    let control = Publish { topic: "a\u{7}".into(), ..message(b"raw", Properties::default()) };
    assert!(malformed(mapper(None).arrival(&control)).cause.contains("\"subject\""));
}
