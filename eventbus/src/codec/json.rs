//! The JSON format of CloudEvents 1.0. Data is cut out of the text and put into it as it is: its key order, its white space and
//! its numbers stay what they were.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use evoke_api::limits;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Attributes, DecodeError, charset, is_json, shortened};
use crate::event::{Data, Event, EventBuilder};

/// The media type of one event.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// The media type of several.
pub const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";
/// The most events of one batch.
pub const BATCH_EVENTS: usize = 10_000;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads one event. JSON data stays the text it is, sharing `text`; such an event without `datacontenttype` gets
/// `application/json`, as the format says.
///
/// # Errors
/// [`DecodeError`] when it is no JSON object, or not one that is a CloudEvent.
pub fn decode(text: &[u8]) -> Result<EventBuilder<'_>, DecodeError> {
    read(text).and_then(|(attributes, data)| attributes.finish(data))
}

/// Reads a batch, all or nothing.
///
/// # Errors
/// [`DecodeError`] when it is no JSON array, has more than [`BATCH_EVENTS`] items, or names the first that is no CloudEvent.
pub fn decode_batch(text: &[u8]) -> Result<Vec<EventBuilder<'_>>, DecodeError> {
    read_batch(text, |(attributes, data)| attributes.finish(data))
}

/// Reads an event's attributes and data without asking whether all are there.
pub(super) fn read(text: &[u8]) -> Result<(Attributes<'_>, Data<'_>), DecodeError> {
    let members: Members<'_> = serde_json::from_slice(text).map_err(|e| unreadable("a JSON event", &e))?;
    members.read()
}

/// Reads a batch, each event finished by `finish`.
pub(super) fn read_batch<'a, E>(
    text: &'a [u8],
    finish: impl Fn((Attributes<'a>, Data<'a>)) -> Result<E, DecodeError>,
) -> Result<Vec<E>, DecodeError> {
    let items: Vec<&'a RawValue> = serde_json::from_slice(text).map_err(|e| unreadable("a JSON batch", &e))?;
    if items.len() > BATCH_EVENTS {
        return Err(DecodeError::BatchTooLarge);
    }
    let event = |item: &'a RawValue| read(item.get().as_bytes()).and_then(&finish);
    items.into_iter().enumerate().map(|(index, item)| event(item).map_err(|e| e.in_batch(index))).collect()
}

fn unreadable(what: &str, error: &serde_json::Error) -> DecodeError {
    DecodeError::Content(format!("the content cannot be read as {what}: {error}"))
}

/// The members of a JSON object, their values as they stand in the text.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

        let mut members = Vec::with_capacity(8);
        while let Some((Key(name), value)) = map.next_entry()? {
            // Absent members may be there as null, and data beside the attributes.
            if members.len() > 2 * limits::ATTRIBUTES {
                return Err(de::Error::custom(format_args!("more than {} attributes", limits::ATTRIBUTES)));
            }
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

impl<'a> Members<'a> {
    fn read(self) -> Result<(Attributes<'a>, Data<'a>), DecodeError> {
        let mut attributes = Attributes::default();
        let (mut data, mut data_base64) = (None, None);
        for (name, value) in self.0 {
            let place = match &*name {
                "data" => &mut data,
                "data_base64" if is_null(value) => continue,
                "data_base64" => &mut data_base64,
                _ => {
                    if let Some(value) = attribute_value(&name, value)? {
                        attributes.set(name, value)?;
                    }
                    continue;
                }
            };
            if place.replace(value).is_some() {
                return Err(super::twice(&name));
            }
        }
        let data = match (data, data_base64) {
            (None, None) => Data::default(),
            (Some(data), None) => match attributes.get("datacontenttype") {
                Some(other) if !is_json(other) => text_data(data, other)?,
                declared => {
                    if declared.is_none() {
                        attributes.set("datacontenttype", "application/json")?;
                    }
                    data.get().into()
                }
            },
            (None, Some(encoded)) => base64_data(encoded)?,
            (Some(_), Some(_)) => {
                return Err(DecodeError::attribute("data_base64", "is given beside data: send one of the two"));
            }
        };
        Ok((attributes, data))
    }
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

fn string<'a>(name: &str, value: &'a RawValue) -> Result<Cow<'a, str>, DecodeError> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    match serde_json::from_str(value.get()) {
        Ok(Text(text)) => Ok(text),
        Err(error) => Err(DecodeError::attribute(name, format!("cannot be read: {error}"))),
    }
}

/// An attribute in the canonical form of its type; `None` for null, which stands for an absent one.
fn attribute_value<'a>(name: &str, value: &'a RawValue) -> Result<Option<Cow<'a, str>>, DecodeError> {
    let text = value.get();
    let of_any_type = !matches!(
        name,
        "specversion" | "id" | "source" | "type" | "subject" | "time" | "dataschema" | "datacontenttype"
    );
    match text.as_bytes().first() {
        Some(b'"') => string(name, value).map(Some),
        Some(b'n') => Ok(None),
        Some(b't' | b'f') if of_any_type => Ok(Some(text.into())),
        Some(b'-' | b'0'..=b'9') if of_any_type => match text.parse::<i32>() {
            Ok(number) => Ok(Some(number.to_string().into())),
            Err(_) => Err(DecodeError::attribute(
                name,
                format!(
                    "is a number that is not whole or not of 32 bits, which CloudEvents has no type for: send it as \"{}\"",
                    shortened(text)
                ),
            )),
        },
        Some(b'{') => Err(DecodeError::attribute(name, "is an object: attributes are text, whole numbers or booleans")),
        Some(b'[') => Err(DecodeError::attribute(name, "is an array: attributes are text, whole numbers or booleans")),
        _ => Err(DecodeError::attribute(name, "is no text, and has to be")),
    }
}

/// Data whose content type is not JSON: the text of a JSON string.
fn text_data<'a>(data: &'a RawValue, content_type: &str) -> Result<Data<'a>, DecodeError> {
    if is_null(data) {
        return Ok(Data::default());
    }
    if !data.get().starts_with('"') {
        let problem = format!("is no string, and datacontenttype {:?} is not JSON", shortened(content_type));
        return Err(DecodeError::attribute("data", problem));
    }
    Ok(match string("data", data)? {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(text) => text.into(),
    })
}

fn base64_data(encoded: &RawValue) -> Result<Data<'static>, DecodeError> {
    let text = string("data_base64", encoded)?;
    match BASE64.decode(text.as_bytes()) {
        Ok(data) => Ok(data.into()),
        Err(error) => Err(DecodeError::attribute("data_base64", format!("is not base64: {error}"))),
    }
}

/// Writes one event. Data goes in as it is where its content type is JSON and it is, as a string where its content type is text
/// and it is UTF-8, and in base64 otherwise.
pub fn encode(event: &Event) -> Bytes {
    let mut out = Vec::with_capacity(event.encoded_len() + 128);
    write_event(&mut out, event);
    out.into()
}

/// Writes a batch.
pub fn encode_batch(events: &[Event]) -> Bytes {
    let mut out = Vec::with_capacity(events.iter().map(|event| event.encoded_len() + 128).sum());
    for (place, event) in events.iter().enumerate() {
        out.push(if place == 0 { b'[' } else { b',' });
        write_event(&mut out, event);
    }
    if events.is_empty() {
        out.push(b'[');
    }
    out.push(b']');
    out.into()
}

fn write_event(out: &mut Vec<u8>, event: &Event) {
    out.extend_from_slice(br#"{"specversion":"1.0""#);
    for (name, value) in event.attributes() {
        write_name(out, name);
        write_string(out, value);
    }
    let data = event.data_slice();
    if !data.is_empty() {
        write_data(out, event.content_type(), data);
    }
    out.push(b'}');
}

fn write_data(out: &mut Vec<u8>, content_type: Option<&str>, data: &[u8]) {
    let json = content_type.is_some_and(is_json);
    if json && serde_json::from_slice::<&RawValue>(data).is_ok() {
        write_name(out, "data");
        out.extend_from_slice(data);
    } else if !json
        && content_type.is_some_and(is_utf8_text)
        && let Ok(text) = std::str::from_utf8(data)
    {
        write_name(out, "data");
        write_string(out, text);
    } else {
        write_name(out, "data_base64");
        write_string(out, &BASE64.encode(data));
    }
}

fn is_utf8_text(content_type: &str) -> bool {
    content_type.trim_start().get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"))
        && charset(content_type).is_none_or(|c| c.eq_ignore_ascii_case("utf-8") || c.eq_ignore_ascii_case("us-ascii"))
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    write_string(out, name);
    out.push(b':');
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b < 0x20 || matches!(b, b'"' | b'\\')) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, tail)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend([byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]));
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests;
