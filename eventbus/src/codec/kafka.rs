//! The Kafka binding of CloudEvents 1.0, binary and structured content, and records that are no CloudEvents.
//!
//! A header's name and value are borrowed, from whatever client brings them.

use chrono::{DateTime, SecondsFormat};
use evoke_api::limits;

use super::foreign::{self, TRACE, plain_text, text_or_base64};
use super::{Attributes, DecodeError, FORMAT, FORMAT_NOW, check_format, essence, is_event_format, json};
use crate::event::{Event, EventBuilder};

/// The prefix of the headers that carry a CloudEvent's attributes.
const CE: &str = "ce_";
/// A record with any of these claims to be a CloudEvent.
const CLAIMS: [&str; 4] = ["ce_specversion", "ce_id", "ce_source", "ce_type"];
const CONTENT_TYPE: &str = "content-type";
const FORMAT_HEADER: &str = "ce_evokeformat";

/// The name and value of a header.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// A record, borrowed from the client.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// The headers, in their order.
    pub headers: &'a [Header<'a>],
}

/// What a record is.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// A CloudEvent.
    Event(EventBuilder<'a>),
    /// No CloudEvent: somebody's data.
    Plain,
}

impl<'a> Raw<'a> {
    /// Where it is: the id of its event, where it brings none.
    pub fn position(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }

    fn data(&self) -> &'a [u8] {
        self.value.unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, value)| *value)
    }

    fn text_header(&self, name: &str) -> Option<&'a str> {
        plain_text(self.header(name)?)
    }
}

/// Reads a record. `traceparent` and `tracestate` headers become extensions of events that have none of their own, and the key
/// becomes `partitionkey`.
///
/// # Errors
/// [`DecodeError`] when it claims to be a CloudEvent and is not, or when evoke wrote it in a format newer than this one.
pub fn decode<'a>(record: &Raw<'a>) -> Result<Decoded<'a>, DecodeError> {
    if record.headers.is_empty() {
        return Ok(Decoded::Plain);
    }
    // Before all else, of which another format may have nothing. What evoke writes is binary content even where its data is an event,
    // whose media type would pass for that of structured content.
    if let Some((_, format)) = record.headers.iter().find(|(name, _)| *name == FORMAT_HEADER) {
        check_format(format.unwrap_or_default())?;
        return binary(record).map(Decoded::Event);
    }
    let media = essence(record.text_header(CONTENT_TYPE).unwrap_or_default());
    if media.eq_ignore_ascii_case(json::MEDIA_TYPE) {
        return structured(record).map(Decoded::Event);
    }
    if is_event_format(media) {
        return Err(DecodeError::Format(super::shortened(media).to_owned()));
    }
    if !record.headers.iter().any(|(name, _)| CLAIMS.contains(name)) {
        return Ok(Decoded::Plain);
    }
    binary(record).map(Decoded::Event)
}

fn binary<'a>(record: &Raw<'a>) -> Result<EventBuilder<'a>, DecodeError> {
    let mut attributes = Attributes::default();
    for &(name, value) in record.headers {
        let attribute = match name.strip_prefix(CE) {
            Some(FORMAT) => continue,
            Some(attribute) => attribute,
            None if name.eq_ignore_ascii_case(CONTENT_TYPE) => "datacontenttype",
            None => continue,
        };
        let value = value.and_then(|value| std::str::from_utf8(value).ok());
        attributes.set(attribute, value.ok_or_else(|| DecodeError::attribute(attribute, "is not UTF-8 text"))?)?;
    }
    for name in TRACE {
        if let (None, Some(context)) = (attributes.get(name), record.text_header(name)) {
            attributes.set(name, context)?;
        }
    }
    if let (None, Some(key)) = (attributes.get("partitionkey"), record.key) {
        attributes.set("partitionkey", text_or_base64(key))?;
    }
    attributes.finish(record.data())
}

fn structured<'a>(record: &Raw<'a>) -> Result<EventBuilder<'a>, DecodeError> {
    let value = record.value.ok_or_else(|| DecodeError::Content("the record has no value".to_owned()))?;
    let (mut attributes, data) = json::read(value)?;
    if let Some(format) = attributes.get(FORMAT) {
        check_format(format.as_bytes())?;
    }
    attributes.remove(FORMAT);
    for name in TRACE {
        if let (None, Some(context)) = (attributes.get(name), record.text_header(name)) {
            attributes.set(name, context)?;
        }
    }
    if let (None, Some(key)) = (attributes.get("partitionkey"), record.key) {
        attributes.set("partitionkey", text_or_base64(key))?;
    }
    attributes.finish(data)
}

/// The event of a record that is no CloudEvent: its value is the data, and everything else becomes attributes. `content_type` is
/// what the data is where the record does not say.
pub fn plain<'a>(record: &Raw<'a>, source: &'a str, ty: &'a str, content_type: Option<&'a str>) -> EventBuilder<'a> {
    let content_type = record.text_header(CONTENT_TYPE).or(content_type);
    let mut event = Event::builder(record.position(), source, ty)
        .attribute_if("time", record.timestamp.and_then(rfc3339))
        .attribute_if("datacontenttype", content_type)
        .attribute_if("partitionkey", record.key.map(text_or_base64))
        .attribute("kafkapartition", record.partition.to_string())
        .attribute("kafkaoffset", record.offset.to_string());
    for &(name, value) in record.headers {
        if name.eq_ignore_ascii_case(CONTENT_TYPE) {
            continue;
        }
        event = foreign::with_header(event, "kafkaheader", name, value.unwrap_or_default());
    }
    event.data(record.data())
}

/// The headers of an event in binary content mode, for a record whose value is the event's data and whose key is its
/// `partitionkey`. `header` is called with each name and value.
pub fn binary_headers(event: &Event, mut header: impl FnMut(&str, &[u8])) {
    header("ce_specversion", b"1.0");
    let mut name = String::with_capacity(CE.len() + limits::ATTRIBUTE_NAME_BYTES);
    for (attribute, value) in event.attributes() {
        match attribute {
            "datacontenttype" => header(CONTENT_TYPE, value.as_bytes()),
            FORMAT => {}
            other => {
                name.clear();
                name.push_str(CE);
                name.push_str(other);
                header(&name, value.as_bytes());
            }
        }
    }
    header(FORMAT_HEADER, FORMAT_NOW.as_bytes());
}

/// How many bytes the record of an event takes at most, beside what the batch around it takes.
pub fn record_bytes(event: &Event) -> usize {
    // Lengths are variable: five bytes are the most that any of them takes.
    const NUMBERS: usize = 5;
    let header = |name: usize, value: usize| name + value + 2 * NUMBERS;
    let attributes: usize = event.attributes().map(|(name, value)| header(CE.len() + name.len(), value.len())).sum();
    let key = event.partition_key().map_or(0, str::len);
    let own = header("ce_specversion".len(), 3) + header(FORMAT_HEADER.len(), 1) + header(CONTENT_TYPE.len(), 0);
    8 * NUMBERS + key + event.data_slice().len() + attributes + own
}

/// The time of a record, unless it lies outside the years that RFC 3339 can write.
fn rfc3339(millis: i64) -> Option<String> {
    const END: i64 = 253_402_300_800_000;
    let millis = Some(millis).filter(|millis| (0..END).contains(millis))?;
    Some(DateTime::from_timestamp_millis(millis)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: &Event, key: Option<&[u8]>, more: &[Header<'_>]) -> Event {
        let mut headers = Vec::new();
        binary_headers(event, |name, value| headers.push((name.to_owned(), value.to_vec())));
        let mut listed: Vec<Header<'_>> = headers.iter().map(|(n, v)| (n.as_str(), Some(v.as_slice()))).collect();
        listed.extend_from_slice(more);
        let value = event.data();
        let raw =
            Raw { topic: "t", partition: 0, offset: 1, key, value: Some(&value), timestamp: None, headers: &listed };
        match decode(&raw).unwrap() {
            Decoded::Event(event) => event.build().unwrap(),
            Decoded::Plain => panic!("it is an event"),
        }
    }

    fn event() -> Event {
        Event::builder("1", "/s", "t")
            .attribute("datacontenttype", "application/json")
            .attribute("tenant", "Z\u{fc}rich")
            .data("{\"a\": 1.0}")
            .build()
            .unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&event(), None, &[]), event());
        let keyed = read(&event(), Some(b"k"), &[("other", Some(b"x"))]);
        assert_eq!(keyed, event().to_builder().attribute("partitionkey", "k").build().unwrap());
    }

    #[test]
    fn what_is_written_is_read_where_its_data_is_an_event() {
        for content_type in [
            "application/cloudevents+json; charset=utf-8",
            "APPLICATION/cloudevents-batch+json",
            "application/cloudevents+avro",
        ] {
            let inner = r#"{"specversion":"1.0","id":"inner","source":"/i","type":"i"}"#;
            let outer = event().to_builder().attribute("datacontenttype", content_type).data(inner).build().unwrap();
            assert_eq!(read(&outer, None, &[]), outer);
        }
    }

    #[test]
    fn structured_content_of_another_program_may_repeat_its_attributes_as_headers() {
        let headers: [Header<'_>; 3] = [
            ("content-type", Some(b"application/cloudevents+json")),
            ("ce_specversion", Some(b"1.0")),
            ("ce_id", Some(b"inner")),
        ];
        let value = br#"{"specversion":"1.0","id":"inner","source":"/i","type":"i","data":[1]}"#;
        let value = Some(&value[..]);
        let raw = Raw { topic: "t", partition: 0, offset: 1, key: None, value, timestamp: None, headers: &headers };
        let Ok(Decoded::Event(event)) = decode(&raw) else { panic!("it is an event") };
        assert_eq!(event.build().unwrap().data_slice(), b"[1]");
    }

    #[test]
    fn the_mark_is_written_once_and_taken_off() {
        let marked = event().to_builder().attribute("evokeformat", "7").build().unwrap();
        let mut headers = Vec::new();
        binary_headers(&marked, |name, value| headers.push((name.to_owned(), value.to_vec())));
        assert_eq!(headers.iter().filter(|(name, _)| name == "ce_evokeformat").count(), 1);
        assert_eq!(headers.last().unwrap().1, b"1");
        assert_eq!(read(&marked, None, &[]), event());
    }

    #[test]
    fn what_a_newer_evoke_wrote_is_refused_by_name() {
        let refused = |headers: &[Header<'_>], value: &[u8]| {
            let value = Some(value);
            let raw = Raw { topic: "t", partition: 0, offset: 1, key: None, value, timestamp: None, headers };
            decode(&raw).unwrap_err().to_string()
        };
        let newer = "attribute \"evokeformat\" is \"2\", written by a newer evoke: this one reads \"1\"";
        let mut headers: [Header<'_>; 5] = [
            ("ce_specversion", Some(b"1.0")),
            ("ce_id", Some(b"1")),
            ("ce_source", Some(b"/s")),
            ("ce_type", Some(b"t")),
            ("ce_evokeformat", Some(b"2")),
        ];
        assert_eq!(refused(&headers, b"{}"), newer);
        // It is recognised whatever else it has, or has not.
        assert_eq!(refused(&[("ce_evokeformat", Some(b"2"))], b"?"), newer);
        headers[1] = ("ce_id", Some(&[0xff]));
        assert_eq!(refused(&headers, b"{}"), newer);
        let structured: [Header<'_>; 1] = [("content-type", Some(b"application/cloudevents+json"))];
        let value = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","evokeformat":"2"}"#;
        assert_eq!(refused(&structured, value), newer);
        let none: [Header<'_>; 1] = [("ce_evokeformat", None)];
        assert!(refused(&none, b"").contains("evokeformat"));
    }

    #[test]
    fn a_record_is_no_larger_than_said() {
        let event = event().to_builder().attribute("partitionkey", "k").build().unwrap();
        let mut bytes = event.data_slice().len() + 1;
        binary_headers(&event, |name, value| bytes += name.len() + value.len() + 2);
        assert!((bytes..bytes + 250).contains(&record_bytes(&event)), "{bytes} {}", record_bytes(&event));
    }
}
