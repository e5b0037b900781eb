//! CloudEvents as entries of a Redis stream, in binary mode: the field `data` is the data, `ce-*` fields are attributes.
//!
//! ```text
//! evokeformat 1 | ce-specversion 1.0 | ce-id .. | ce-source .. | ce-type .. | ce-* .. | data ..
//! ```
//!
//! What other programs write needs none of it: what is missing follows from where the entry is.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use evoke_api::limits;
use serde_json::{Map, Value};

use super::foreign::{TRACE, extension, plain_text, text_or_base64};
use super::{DecodeError, FORMAT, FORMAT_NOW, check_format, essence, json, twice};
use crate::event::{Event, EventBuilder, InvalidEvent};

/// The field of an entry that is the data.
pub const DATA: &str = "data";
/// The prefix of the fields that are attributes.
const CE: &str = "ce-";
const JSON: &str = "application/json";
const STRUCTURED: &str = "application/cloudevents+json";
/// Entry ids made by Redis start with the time in milliseconds; smaller numbers are ids of somebody's own.
const TIMES: std::ops::Range<i64> = 1_000_000_000_000..253_402_300_800_000;

/// Names and values of an entry, in their order.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What an entry of another program is taken for where it does not say.
#[derive(Clone, Debug)]
pub struct Defaults<'a> {
    /// `id`: where the entry is.
    pub position: String,
    /// `source`.
    pub source: &'a str,
    /// `type`.
    pub ty: &'a str,
    /// `datacontenttype`.
    pub content_type: Option<&'a str>,
}

impl Defaults<'_> {
    fn plain<'a>(&'a self, content_type: Option<impl Into<Cow<'a, str>>>) -> EventBuilder<'a> {
        Event::builder(self.position.as_str(), self.source, self.ty).attribute_if("datacontenttype", content_type)
    }

    /// An event with this data, or the CloudEvent that the data says it is.
    ///
    /// # Errors
    /// [`DecodeError::Content`] for data that claims to be a CloudEvent and is not.
    pub fn with_data(&self, data: Bytes) -> Result<EventBuilder<'_>, DecodeError> {
        self.with_data_of(self.content_type, data)
    }

    fn with_data_of(&self, content_type: Option<&str>, data: Bytes) -> Result<EventBuilder<'_>, DecodeError> {
        if is_structured(content_type) {
            return json::decode(&data)
                .map(EventBuilder::into_owned)
                .map_err(|e| content(format!("the data claims to be a CloudEvent and is not: {e}")));
        }
        Ok(self.plain(content_type.map(str::to_owned)).data(data))
    }
}

/// The fields of an event, each name and value handed to `put`.
pub fn encode<'a>(event: &'a Event, mut put: impl FnMut(&[u8], &'a [u8])) {
    put(FORMAT.as_bytes(), FORMAT_NOW.as_bytes());
    put(b"ce-specversion", b"1.0");
    let mut field = Vec::with_capacity(CE.len() + limits::ATTRIBUTE_NAME_BYTES);
    for (name, value) in event.attributes() {
        field.clear();
        field.extend_from_slice(CE.as_bytes());
        field.extend_from_slice(name.as_bytes());
        put(&field, value.as_bytes());
    }
    put(DATA.as_bytes(), event.data_slice());
}

/// How many fields [`encode`] makes.
pub fn fields_of(event: &Event) -> usize {
    event.attributes().count() + 3
}

/// True for an entry that [`encode`] made, of this evoke or another one.
pub fn is_own(fields: &Fields) -> bool {
    fields.first().is_some_and(|(name, _)| name == FORMAT.as_bytes())
}

/// The event that the entry `id` is: one that evoke wrote, to the byte; of any other, `data` is the data, `ce-*` fields are
/// attributes and other fields extensions; without `data`, the other fields are the data, as a JSON object of strings.
///
/// # Errors
/// [`DecodeError`] says what keeps it from being an event, which is also that evoke wrote it in a format newer than this one.
pub fn decode<'a>(id: &str, fields: Fields, defaults: &'a Defaults<'_>) -> Result<EventBuilder<'a>, DecodeError> {
    if let Some((_, format)) = fields.iter().find(|(name, _)| name == FORMAT.as_bytes()) {
        check_format(format)?;
    }
    if is_own(&fields) {
        return decode_own(fields);
    }
    let mut attributes = Vec::new();
    let mut others = Vec::new();
    let mut data = None;
    for (name, value) in fields {
        let name = String::from_utf8(name)
            .map_err(|e| content(format!("field {:?} is no UTF-8 text", String::from_utf8_lossy(e.as_bytes()))))?;
        if name == DATA {
            data = Some(Bytes::from(value));
        } else if let Some(attribute) = strip_prefix_ignore_case(&name, CE) {
            let value = String::from_utf8(value).map_err(|_| content(format!("field {name:?} is no UTF-8 text")))?;
            attributes.push((attribute.to_ascii_lowercase(), value));
        } else if name != FORMAT {
            others.push((name, value));
        }
    }
    let own_type = attributes.iter().find(|(name, _)| name == "datacontenttype").map(|(_, value)| value.as_str());
    let content_type = own_type.or(if data.is_none() { Some(JSON) } else { defaults.content_type });
    let mut event = match data {
        None => defaults.plain(content_type.map(str::to_owned)).data(object(&others)?),
        Some(data) => {
            let event = defaults.with_data_of(content_type, data)?;
            let others = others.iter().filter(|(name, _)| !TRACE.contains(&name.as_str()));
            others.fold(event, |event, (name, value)| {
                event.attribute(extension("redisfield", name), text_or_base64(value).into_owned())
            })
        }
    };
    // A CloudEvent in the data may have brought these already.
    let brought = match is_structured(content_type) {
        true => Some(event.clone().build()?),
        false => None,
    };
    let missing = |name| brought.as_ref().is_none_or(|event| event.attribute(name).is_none());
    event = event.attribute_if("time", time(id).filter(|_| missing("time")));
    for name in TRACE.into_iter().filter(|name| missing(name)) {
        event = event.attribute_if(name, find(&others, name).and_then(plain_text).map(str::to_owned));
    }
    Ok(attributes.into_iter().fold(event, |event, (name, value)| event.attribute(name, value)))
}

/// An entry that [`encode`] made.
fn decode_own(fields: Fields) -> Result<EventBuilder<'static>, DecodeError> {
    let mut required = [const { None }; 3];
    let mut others: Vec<(Cow<'static, str>, Cow<'static, str>)> = Vec::with_capacity(fields.len());
    let mut data = Bytes::new();
    let text = |bytes| String::from_utf8(bytes).map_err(|_| content("an attribute is no UTF-8 text".into()));
    for (mut name, value) in fields {
        if name == DATA.as_bytes() {
            data = value.into();
            continue;
        }
        match name.strip_prefix(CE.as_bytes()) {
            None | Some(b"specversion") => {}
            Some(b"id") => required[0] = Some(text(value)?),
            Some(b"source") => required[1] = Some(text(value)?),
            Some(b"type") => required[2] = Some(text(value)?),
            Some(_) => {
                name.drain(..CE.len());
                let name = text(name)?;
                if others.len() >= limits::ATTRIBUTES {
                    return Err(InvalidEvent::TooMany.into());
                }
                // No event has an attribute twice: another bus would not give it back.
                if others.iter().any(|(other, _)| *other == name) {
                    return Err(twice(&name));
                }
                others.push((name.into(), text(value)?.into()));
            }
        }
    }
    let [id, source, ty] = required.map(Option::unwrap_or_default);
    Ok(Event::builder(id, source, ty).with_others(others).data(data))
}

fn content(text: String) -> DecodeError {
    DecodeError::Content(text)
}

fn is_structured(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|ty| essence(ty).eq_ignore_ascii_case(STRUCTURED))
}

fn object(fields: &[(String, Vec<u8>)]) -> Result<Vec<u8>, DecodeError> {
    let mut object = Map::new();
    for (name, value) in fields {
        let value = std::str::from_utf8(value)
            .map_err(|_| content(format!("field {name:?} is no UTF-8 text; binary data goes into a field `{DATA}`")))?;
        object.insert(name.clone(), Value::String(value.to_owned()));
    }
    Ok(Value::Object(object).to_string().into_bytes())
}

fn find<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

/// The time in an entry's id.
fn time(id: &str) -> Option<String> {
    let millis = id.split('-').next()?.parse().ok().filter(|millis| TIMES.contains(millis))?;
    Some(DateTime::from_timestamp_millis(millis)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(event: &Event) -> Fields {
        let mut fields = Fields::new();
        encode(event, |name, value| fields.push((name.to_vec(), value.to_vec())));
        fields
    }

    const NOWHERE: Defaults<'_> =
        Defaults { position: String::new(), source: "/elsewhere", ty: "else", content_type: None };

    #[test]
    fn what_is_written_is_read_to_the_byte() {
        let event = Event::builder("1", "/s", "t").attribute("x", "").attribute("tracestate", "a=b").data(vec![0, 255]);
        let event = event.build().unwrap();
        let fields = encoded(&event);
        assert_eq!(fields.len(), fields_of(&event));
        assert_eq!(fields[0], (b"evokeformat".to_vec(), b"1".to_vec()));
        assert_eq!(decode("1763892000123-0", fields, &NOWHERE).unwrap().build().unwrap(), event);
    }

    #[test]
    fn what_is_written_is_read_where_its_data_is_an_event() {
        let event = Event::builder("outer", "/s", "t")
            .attribute("datacontenttype", "application/cloudevents+json")
            .data(r#"{"specversion":"1.0","id":"inner","source":"/i","type":"i"}"#)
            .build()
            .unwrap();
        assert_eq!(decode("1763892000123-0", encoded(&event), &NOWHERE).unwrap().build().unwrap(), event);
    }

    #[test]
    fn what_a_newer_evoke_wrote_is_refused_by_name() {
        let event = Event::builder("1", "/s", "t").data("x").build().unwrap();
        let newer = "attribute \"evokeformat\" is \"2\", written by a newer evoke: this one reads \"1\"";
        let refused = |fields: Fields| decode("1763892000123-0", fields, &NOWHERE).unwrap_err().to_string();
        let mut fields = encoded(&event);
        fields[0].1 = b"2".to_vec();
        assert_eq!(refused(fields.clone()), newer);
        // Its fields may have another order, and other names.
        fields.rotate_left(1);
        assert_eq!(refused(fields), newer);
        assert_eq!(refused(vec![(b"evokeformat".to_vec(), b"2".to_vec())]), newer);
        assert!(refused(vec![(b"evokeformat".to_vec(), vec![0xff])]).contains("evokeformat"));
    }

    #[test]
    fn a_foreign_entry_says_what_it_says_and_no_more() {
        let defaults = Defaults { position: "s/1763892000123-0".into(), ..NOWHERE };
        let fields = [("ce-id", "7"), ("ce-source", "urn:x"), ("ce-specversion", "1.0"), ("data", "{}")];
        let fields = fields.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        let event = decode("1763892000123-0", fields, &defaults).unwrap().build().unwrap();
        assert_eq!((event.id(), event.source(), event.ty()), ("7", "urn:x", "else"));
        assert_eq!(event.attribute("time"), Some("2025-11-23T10:00:00.123Z"));
    }
}
