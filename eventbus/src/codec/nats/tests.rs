use super::*;

fn event() -> Event {
    Event::builder("17", "/shop/orders?a=%20", "typ\u{e9}")
        .attribute("datacontenttype", "application/json")
        .attribute("subject", "o \"1\"")
        .attribute("partitionkey", "eu")
        .attribute("x9", "")
        .data("{\"a\":1.50}")
        .build()
        .unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (n.parse::<async_nats::HeaderName>().unwrap(), v.parse().unwrap())).collect()
}

fn read(pairs: &[(&str, &str)], payload: &'static str) -> Result<Event, String> {
    match decode(Some(&headers(pairs)), &Bytes::from_static(payload.as_bytes())) {
        Ok(Decoded::Event(event)) => Ok(event.build().unwrap()),
        Ok(Decoded::Plain(content_type)) => Err(format!("plain {content_type:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn an_event_comes_back_as_it_went() {
    let event = event();
    let headers = binary_headers(&event);
    assert_eq!(headers.get("ce-evokeformat").unwrap().as_str(), "1");
    assert_eq!(headers.get("ce-subject").unwrap().as_str(), "o%20%221%22");
    let data = event.data();
    let Ok(Decoded::Event(read)) = decode(Some(&headers), &data) else { panic!() };
    let read = read.build().unwrap();
    assert_eq!((read.id(), read.source(), read.ty()), (event.id(), event.source(), event.ty()));
    assert_eq!(read.attributes().count(), event.attributes().count(), "{read:?}");
    for (name, value) in event.attributes() {
        assert_eq!(read.attribute(name), Some(value), "{name}");
    }
    assert_eq!(read.data(), event.data());
}

#[test]
fn an_event_comes_back_where_its_data_is_an_event_or_it_has_a_mark_of_its_own() {
    let inner = r#"{"specversion":"1.0","id":"inner","source":"/i","type":"i"}"#;
    let event = Event::builder("outer", "/s", "t")
        .attribute("datacontenttype", "application/cloudevents+json")
        .attribute("evokeformat", "7")
        .data(inner)
        .build()
        .unwrap();
    let (headers, data) = (binary_headers(&event), event.data());
    assert_eq!(headers.get("ce-evokeformat").unwrap().as_str(), "1");
    let Ok(Decoded::Event(read)) = decode(Some(&headers), &data) else { panic!() };
    let read = read.build().unwrap();
    assert_eq!((read.id(), read.content_type()), ("outer", Some("application/cloudevents+json")));
    assert_eq!((read.attribute("evokeformat"), read.data_slice()), (None, inner.as_bytes()));
    let lines: usize = headers.iter().map(|(n, v)| AsRef::<str>::as_ref(n).len() + v[0].as_str().len() + 4).sum();
    assert_eq!(headers_len(&event), lines + "NATS/1.0\r\n\r\n".len());
}

#[test]
fn the_size_on_the_wire_is_known() {
    let event = event();
    let headers = binary_headers(&event);
    let lines: usize = headers.iter().map(|(n, v)| AsRef::<str>::as_ref(n).len() + v[0].as_str().len() + 4).sum();
    assert_eq!(headers_len(&event), lines + "NATS/1.0\r\n\r\n".len());
}

#[test]
fn events_of_other_programs_are_read() {
    let event = read(
        &[
            ("Ce-Id", "1"),
            ("ce-source", "urn:a"),
            ("ce-type", "t"),
            ("ce-specversion", "1.0"),
            ("Content-Type", "text/plain"),
            ("traceparent", "00-1"),
        ],
        "x",
    )
    .unwrap();
    assert_eq!(
        (event.id(), event.content_type(), event.attribute("traceparent")),
        ("1", Some("text/plain"), Some("00-1"))
    );
    for media in ["application/cloudevents+json", "application/cloudevents; charset=utf-8"] {
        let event = read(
            &[("content-type", media)],
            r#"{"specversion":"1.0","id":"2","source":"s","type":"t","data":{"b":1.0}}"#,
        )
        .unwrap();
        assert_eq!((event.id(), event.data_slice()), ("2", &b"{\"b\":1.0}"[..]));
    }
    assert_eq!(read(&[], "x"), Err("plain None".into()));
    assert_eq!(read(&[("Content-Type", "a/b")], "x"), Err("plain Some(\"a/b\")".into()));
}

#[test]
fn what_claims_to_be_an_event_and_is_none_is_named() {
    let wrong = |pairs: &[(&str, &str)], payload| read(pairs, payload).unwrap_err();
    assert_eq!(wrong(&[("ce-id", "1"), ("ce-specversion", "1.0")], "x"), "attribute \"source\" is missing or empty");
    assert!(wrong(&[("content-type", "application/cloudevents+avro")], "x").contains("cloudevents+avro"));
    assert!(!wrong(&[("content-type", "application/cloudevents+json")], "{").is_empty());
    assert!(wrong(&[("ce-id", "%ff")], "").contains("is percent-encoded, but not as UTF-8"));
    let newer =
        [("ce-id", "1"), ("ce-source", "s"), ("ce-type", "t"), ("ce-specversion", "1.0"), ("ce-evokeformat", "2")];
    assert!(wrong(&newer, "").contains("written by a newer evoke"));
}
