//! Both directions against the CloudEvents project's own SDK.

use ::http::{HeaderMap, HeaderName, HeaderValue};
use cloudevents::binding::http::{Builder, Serializer, to_event};
use cloudevents::message::BinaryDeserializer;
use cloudevents::{AttributesReader, Data, EventBuilder as _, EventBuilderV10};

use super::{http, json};
use crate::event::Event;

fn ours() -> Event {
    Event::builder("17", "/shop/orders", "order.created")
        .attribute("datacontenttype", "application/json")
        .attribute("subject", "o-1")
        .attribute("time", "2026-05-04T03:02:01.5Z")
        .attribute("dataschema", "https://example.org/order")
        .attribute("partitionkey", "eu")
        .data(r#"{"amount":100.5,"tier":"gold"}"#)
        .build()
        .unwrap()
}

fn theirs(data: Data, content_type: &str) -> cloudevents::Event {
    EventBuilderV10::new()
        .id("17")
        .source("/shop/orders")
        .ty("order.created")
        .subject("o-1")
        .time("2026-05-04T03:02:01.500Z")
        .extension("number", 7)
        .extension("flag", true)
        .extension("word", "x y")
        .data(content_type, data)
        .build()
        .unwrap()
}

/// Collects the message that the SDK writes.
#[derive(Default)]
struct Message(HeaderMap);

impl Builder<(HeaderMap, Vec<u8>)> for Message {
    fn header(&mut self, name: &str, value: HeaderValue) {
        self.0.insert(HeaderName::try_from(name).unwrap(), value);
    }

    fn body(&mut self, body: Vec<u8>) -> cloudevents::message::Result<(HeaderMap, Vec<u8>)> {
        Ok((std::mem::take(&mut self.0), body))
    }

    fn finish(&mut self) -> cloudevents::message::Result<(HeaderMap, Vec<u8>)> {
        self.body(Vec::new())
    }
}

fn same(event: &Event, theirs: &cloudevents::Event) {
    assert_eq!(event.id(), theirs.id());
    assert_eq!(event.source(), theirs.source());
    assert_eq!(event.ty(), theirs.ty());
    assert_eq!(event.attribute("subject"), theirs.subject());
    assert_eq!(event.content_type(), theirs.datacontenttype());
    let time = chrono::DateTime::parse_from_rfc3339(event.attribute("time").unwrap()).unwrap();
    assert_eq!(Some(&time.to_utc()), theirs.time());
    let extensions: Vec<_> = theirs.iter_extensions().collect();
    assert!(!extensions.is_empty());
    for (name, value) in extensions {
        assert_eq!(event.attribute(name), Some(value.to_string().as_str()), "{name}");
    }
    let data: Vec<u8> = theirs.data().cloned().unwrap().try_into().unwrap();
    if event.content_type().is_some_and(super::is_json) {
        let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(value(event.data_slice()), value(&data));
    } else {
        assert_eq!(event.data_slice(), data);
    }
}

#[test]
fn the_sdk_reads_our_binary_content() {
    let event = ours();
    let mut headers = HeaderMap::new();
    http::binary_headers(&event, &mut headers);
    same(&event, &to_event(&headers, event.data().to_vec()).unwrap());
}

#[test]
fn the_sdk_reads_our_structured_content() {
    for (content_type, data) in
        [("application/json", &br#"{"a":[1,2.5,"x"]}"#[..]), ("text/plain", b"plain \"text\""), ("a/b", b"\x00\xff")]
    {
        let event = ours().to_builder().attribute("datacontenttype", content_type).data(data).build().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", json::MEDIA_TYPE.parse().unwrap());
        same(&event, &to_event(&headers, json::encode(&event).to_vec()).unwrap());
        let batch: Vec<cloudevents::Event> =
            serde_json::from_slice(&json::encode_batch(&[event.clone(), event.clone()])).unwrap();
        batch.iter().for_each(|theirs| same(&event, theirs));
    }
}

#[test]
fn we_read_the_sdks_binary_content() {
    let event = theirs(Data::Binary(b"\x00\xff".to_vec()), "a/b");
    let (headers, body) = event.clone().deserialize_binary(Serializer::new(Message::default())).unwrap();
    let Ok(http::Decoded::One(read)) = http::decode(&headers, &body) else { panic!() };
    same(&read.build().unwrap(), &event);
}

#[test]
fn we_read_the_sdks_structured_content() {
    for event in [
        theirs(Data::Json(serde_json::json!({"b": [1, 2.5], "a": null})), "application/json"),
        theirs(Data::String("plain".into()), "text/plain"),
        theirs(Data::Binary(b"\x00\xff".to_vec()), "a/b"),
    ] {
        let read = json::decode(&serde_json::to_vec(&event).unwrap()).unwrap().build().unwrap();
        same(&read, &event);
        let text = serde_json::to_vec(std::slice::from_ref(&event)).unwrap();
        let batch = json::decode_batch(&text).unwrap();
        same(&batch.into_iter().next().unwrap().build().unwrap(), &event);
    }
}
