use proptest::prelude::*;

use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")] {
        map.insert(name, value.parse().unwrap());
    }
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn one(headers: &HeaderMap, body: &'static [u8]) -> Result<Event, DecodeError> {
    match decode(headers, body)? {
        Decoded::One(event) => Ok(event.build()?),
        other => panic!("{other:?}"),
    }
}

fn fault(pairs: &[(&'static str, &str)]) -> String {
    one(&headers(pairs), b"").unwrap_err().to_string()
}

#[test]
fn writes_every_attribute_as_the_binding_says() {
    let event = Event::builder("id 1", "/s?a=%20", "io.test")
        .attribute("datacontenttype", "text/plain; charset=utf-8")
        .attribute("subject", "Euro \u{20ac} \u{1f600}")
        .attribute("quoted", "say \"hi\"~!")
        .attribute("traceparent", PARENT)
        .attribute("tracestate", "a=b c")
        .attribute("other9", "plain")
        .build()
        .unwrap();
    let mut map = HeaderMap::new();
    map.insert("ce-id", "stale".parse().unwrap());
    binary_headers(&event, &mut map);
    let mut written: Vec<_> = map.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    written.sort_unstable();
    let mut expected = [
        ("ce-specversion", "1.0"),
        ("ce-id", "id%201"),
        ("ce-source", "/s?a=%2520"),
        ("ce-type", "io.test"),
        ("content-type", "text/plain; charset=utf-8"),
        ("ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("ce-quoted", "say%20%22hi%22~!"),
        ("ce-traceparent", PARENT),
        ("traceparent", PARENT),
        ("ce-tracestate", "a=b%20c"),
        ("tracestate", "a=b c"),
        ("ce-other9", "plain"),
    ];
    expected.sort_unstable();
    assert_eq!(written, expected);
}

#[test]
fn values_that_need_no_escaping_are_not_copied() {
    let event = Event::builder("the-id", "/s", "t").build().unwrap();
    let shared = escaped(&event, event.id());
    assert_eq!(shared.as_ptr(), event.id().as_ptr());
}

#[test]
fn a_message_is_read_as_the_event_that_it_carries() {
    let inner = r#"{"specversion":"1.0","id":"inner","source":"/i","type":"i"}"#;
    for (content_type, sent_as, data) in [
        ("application/json", "application/json", inner),
        ("application/cloudevents+json; charset=utf-8", json::MEDIA_TYPE, inner),
        ("Application/CloudEvents-batch+json", json::MEDIA_TYPE, "[]"),
        ("application/cloudevents+avro", json::MEDIA_TYPE, "\u{1}avro"),
        ("application/cloudevents+json", json::MEDIA_TYPE, "{ no JSON"),
    ] {
        let event = Event::builder("outer", "/s", "t")
            .attribute("datacontenttype", content_type)
            .attribute("traceparent", PARENT)
            .attribute("subject", "a \"b\"")
            .data(data)
            .build()
            .unwrap();
        let mut map = HeaderMap::new();
        let body = message(&event, &mut map);
        assert_eq!(map[CONTENT_TYPE], sent_as);
        assert_eq!(map[TRACEPARENT], PARENT);
        let Ok(Decoded::One(read)) = decode(&map, &body) else { panic!("{content_type}") };
        let read = read.build().unwrap();
        assert_eq!(read.data_slice(), event.data_slice());
        assert_eq!(read.attributes().count(), event.attributes().count());
        for (name, value) in event.attributes() {
            assert_eq!(read.attribute(name), Some(value), "{name}");
        }
    }
}

#[test]
fn reads_binary_content() {
    let map = headers(&[
        ("content-type", "application/json"),
        ("ce-subject", "Euro%20%e2%82%AC%20%F0%9F%98%80"),
        ("ce-old", "\"a \\\"quoted\\\" \\\\ %41\""),
        ("ce-bare", "100% of %zz"),
        ("ce-raw", "über"),
        ("host", "example.org"),
    ]);
    let event = one(&map, b"{ \"a\" : 1.10 }").unwrap();
    assert_eq!(event.attribute("subject"), Some("Euro \u{20ac} \u{1f600}"));
    assert_eq!(event.attribute("old"), Some("a \"quoted\" \\ A"));
    assert_eq!(event.attribute("bare"), Some("100% of %zz"));
    assert_eq!(event.attribute("raw"), Some("über"));
    assert_eq!(event.content_type(), Some("application/json"));
    assert_eq!(event.data_slice(), b"{ \"a\" : 1.10 }");
    assert_eq!(event.attributes().count(), 8);
}

#[test]
fn names_what_is_wrong_with_binary_content() {
    assert_eq!(fault(&[("ce-subject", "%C0%A0")]), "attribute \"subject\" is percent-encoded, but not as UTF-8");
    assert_eq!(fault(&[("ce-id", "2")]), "attribute \"id\" is given twice");
    assert!(fault(&[("ce-not-a-name", "x")]).starts_with("attribute \"not-a-name\" is no attribute name"));
    assert!(fault(&[("ce-time", "now")]).starts_with("attribute \"time\" is \"now\", which is no timestamp"));
    assert!(fault(&[("ce-x", "%00")]).starts_with("attribute \"x\" is longer than 32 KiB or holds a control"));
    let mut without = headers(&[]);
    without.remove("ce-specversion");
    assert_eq!(one(&without, b"").unwrap_err().attribute_name(), Some("specversion"));
    let mut latin1 = headers(&[]);
    latin1.insert("ce-subject", HeaderValue::from_bytes(b"\xfcber").unwrap());
    assert_eq!(one(&latin1, b"").unwrap_err().to_string(), "attribute \"subject\" is not UTF-8");
}

#[test]
fn a_repeated_content_type_must_agree() {
    let same = headers(&[("content-type", "text/plain"), ("ce-datacontenttype", "text/plain")]);
    assert_eq!(one(&same, b"x").unwrap().content_type(), Some("text/plain"));
    let only = headers(&[("ce-datacontenttype", "text/plain")]);
    assert_eq!(one(&only, b"x").unwrap().content_type(), Some("text/plain"));
    let other = [("content-type", "text/plain"), ("ce-datacontenttype", "application/json")];
    assert_eq!(fault(&other), "attribute \"datacontenttype\" is given twice");
}

#[test]
fn takes_the_trace_of_the_message_unless_the_event_has_one() {
    let event = one(&headers(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]), b"").unwrap();
    assert_eq!(event.attribute("traceparent"), Some(PARENT));
    assert_eq!(event.attribute("tracestate"), Some("a=1,b=2"));
    let own = headers(&[("ce-traceparent", "own"), ("traceparent", PARENT), ("tracestate", "a=1")]);
    let event = one(&own, b"").unwrap();
    assert_eq!(event.attribute("traceparent"), Some("own"));
    assert_eq!(event.attribute("tracestate"), None);
    assert_eq!(trace_context(&headers(&[("traceparent", "a"), ("traceparent", "b"), ("tracestate", "c")])).count(), 0);
}

#[test]
fn recognises_the_modes_by_their_media_type() {
    let of = |content_type: &str| {
        let mut map = HeaderMap::new();
        map.insert(CONTENT_TYPE, content_type.parse().unwrap());
        map.insert("traceparent", PARENT.parse().unwrap());
        map
    };
    let event = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":[1]}"#;
    let map = of("Application/CloudEvents+JSON; charset=UTF-8");
    let Ok(Decoded::One(one)) = decode(&map, event) else { panic!() };
    let one = one.build().unwrap();
    assert_eq!((one.data_slice(), one.attribute("traceparent")), (&b"[1]"[..], Some(PARENT)));

    let batch = br#" [{"specversion":"1.0","id":"1","source":"/s","type":"t"}, {"id":"2","source":"/s","type":"t","specversion":"1.0","traceparent":"own"}]"#;
    let map = of("application/cloudevents-batch+json");
    let Ok(Decoded::Batch(events)) = decode(&map, batch) else { panic!() };
    let events: Vec<_> = events.into_iter().map(|e| e.build().unwrap()).collect();
    assert_eq!(events.iter().map(Event::id).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(events[0].attribute("traceparent"), Some(PARENT));
    assert_eq!(events[1].attribute("traceparent"), Some("own"));

    assert!(
        matches!(decode(&of("application/cloudevents+avro"), b""), Err(DecodeError::Format(f)) if f.ends_with("avro"))
    );
    assert!(matches!(decode(&of("application/json"), b"{}"), Ok(Decoded::Plain)));
    assert!(matches!(decode(&HeaderMap::new(), b""), Ok(Decoded::Plain)));
}

proptest! {
    #[test]
    fn binary_content_round_trips(
        id in "[^\\p{Cc}]{1,40}",
        extensions in prop::collection::btree_map("x[a-z0-9]{1,20}", "[^\\p{Cc}]{0,40}", 0..6),
        content_type in prop::option::of("[a-z]{1,8}/[a-z+]{1,8}( ?; ?charset=utf-8)?"),
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let builder = Event::builder(id, "/s", "t").attribute_if("datacontenttype", content_type).data(data.clone());
        let event = extensions.into_iter().fold(builder, |e, (n, v)| e.attribute(n, v)).build().unwrap();
        let mut map = HeaderMap::new();
        binary_headers(&event, &mut map);
        let Decoded::One(back) = decode(&map, &data).unwrap() else { panic!("not one event") };
        let back = back.build().unwrap();
        let sorted = |e: &Event| {
            let mut all: Vec<_> = e.attributes().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            all.sort_unstable();
            all
        };
        prop_assert_eq!(sorted(&event), sorted(&back));
        prop_assert_eq!(event.data_slice(), back.data_slice());
    }

    #[test]
    fn any_header_value_is_read_or_refused(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
        content_type in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let mut map = headers(&[]);
        for (n, value) in values.iter().enumerate() {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                map.append(HeaderName::try_from(format!("ce-x{n}")).unwrap(), value);
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(&content_type) {
            map.insert(CONTENT_TYPE, value);
        }
        if let Ok(Decoded::One(event)) = decode(&map, b"") {
            prop_assert!(event.build().is_ok());
        }
    }
}
