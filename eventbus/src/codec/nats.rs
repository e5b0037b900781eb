//! The NATS binding of CloudEvents 1.0: binary and structured content, and messages that are no events at all.

use std::borrow::Cow;

use async_nats::HeaderMap;
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use super::{Attributes, DecodeError, EVENT_FORMATS, FORMAT, FORMAT_NOW, check_format, essence, is_event_format, json};
use crate::event::{Data, Event, EventBuilder};

/// What the binding escapes in a header's value, beside everything that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

const PREFIX: &str = "ce-";

/// The type of an event that is made of a message that is none.
pub const PLAIN_TYPE: &str = "io.evoke.nats";

/// The headers of an event in binary content mode, for a message whose payload is the event's data.
pub fn binary_headers(event: &Event) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-evokeformat", FORMAT_NOW);
    for (name, value) in attributes(event) {
        headers.insert(header_name(name).as_ref(), &*escaped(value));
    }
    headers
}

/// The attributes that are headers: one of the name of evoke's own mark would stand in its place, and be read as a format.
fn attributes(event: &Event) -> impl Iterator<Item = (&str, &str)> {
    event.attributes().filter(|(name, _)| *name != FORMAT)
}

/// The bytes that [`binary_headers`] take on the wire.
pub fn headers_len(event: &Event) -> usize {
    const LINE: usize = ": \r\n".len();
    let fixed = "NATS/1.0\r\n\r\n".len() + "ce-specversion: 1.0\r\n".len() + "ce-evokeformat: 1\r\n".len();
    attributes(event)
        .map(|(name, value)| PREFIX.len() + name.len() + LINE + escaped(value).len())
        .fold(fixed, |sum, line| sum + line)
}

/// The header of an attribute, without an allocation for those that most events have.
fn header_name(attribute: &str) -> Cow<'static, str> {
    Cow::Borrowed(match attribute {
        "id" => "ce-id",
        "source" => "ce-source",
        "type" => "ce-type",
        "subject" => "ce-subject",
        "time" => "ce-time",
        "dataschema" => "ce-dataschema",
        "datacontenttype" => "ce-datacontenttype",
        "partitionkey" => "ce-partitionkey",
        "traceparent" => "ce-traceparent",
        "tracestate" => "ce-tracestate",
        other => return Cow::Owned(format!("{PREFIX}{other}")),
    })
}

fn escaped(value: &str) -> Cow<'_, str> {
    if value.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'"' && b != b'%') {
        Cow::Borrowed(value)
    } else {
        Cow::from(utf8_percent_encode(value, ESCAPED))
    }
}

/// What a message carries.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// An event, from binary or structured content.
    Event(EventBuilder<'a>),
    /// No CloudEvent: the payload is somebody's data, of this content type.
    Plain(Option<String>),
}

/// Reads a message. Structured content is recognised by its media type, binary content by any of the four headers that every event
/// has. `traceparent` and `tracestate` headers become extensions of events that have none of their own.
///
/// # Errors
/// [`DecodeError`] when it claims to be a CloudEvent and is not, or when evoke wrote it in a format newer than this one.
pub fn decode<'a>(headers: Option<&'a HeaderMap>, payload: &'a Bytes) -> Result<Decoded<'a>, DecodeError> {
    let Some(headers) = headers else { return Ok(Decoded::Plain(None)) };
    let mut content_type = None;
    let mut trace = [None, None];
    let mut attributes = Attributes::default();
    let mut binary = false;
    for (header, values) in headers.iter() {
        let header: &str = header.as_ref();
        let Some(value) = values.last().map(async_nats::HeaderValue::as_str) else { continue };
        if let Some(name) = attribute_name(header) {
            binary |= matches!(&*name, "id" | "source" | "type" | "specversion");
            if name == FORMAT {
                check_format(value.as_bytes())?;
                continue;
            }
            let value = unescaped(&name, value)?;
            attributes.set(name, value)?;
        } else if header.eq_ignore_ascii_case("content-type") {
            content_type = Some(value);
        } else if header.eq_ignore_ascii_case("traceparent") {
            trace[0] = Some(("traceparent", value));
        } else if header.eq_ignore_ascii_case("tracestate") {
            trace[1] = Some(("tracestate", value));
        }
    }
    let media = content_type.map_or("", essence);
    if is_event_format(media) {
        let json = media.len() == EVENT_FORMATS.len() || media.eq_ignore_ascii_case(json::MEDIA_TYPE);
        if !json {
            return Err(DecodeError::Format(media.chars().take(64).collect()));
        }
        let (attributes, data) = json::read(payload)?;
        return finish(attributes, trace, data);
    }
    if !binary {
        return Ok(Decoded::Plain(content_type.map(str::to_owned)));
    }
    if let Some(content_type) = content_type
        && attributes.get("datacontenttype").is_none()
    {
        attributes.set("datacontenttype", content_type)?;
    }
    finish(attributes, trace, &payload[..])
}

fn finish<'a>(
    mut attributes: Attributes<'a>,
    trace: [Option<(&'static str, &'a str)>; 2],
    data: impl Into<Data<'a>>,
) -> Result<Decoded<'a>, DecodeError> {
    if attributes.get("traceparent").is_none() && attributes.get("tracestate").is_none() {
        for (name, value) in trace.into_iter().flatten() {
            attributes.set(name, value)?;
        }
    }
    attributes.finish(data).map(Decoded::Event)
}

/// The attribute that a header carries, if it is one.
fn attribute_name(header: &str) -> Option<Cow<'_, str>> {
    let (prefix, name) = header.split_at_checked(PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    Some(if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() })
}

fn unescaped<'a>(name: &str, value: &'a str) -> Result<Cow<'a, str>, DecodeError> {
    if !value.contains('%') {
        return Ok(Cow::Borrowed(value));
    }
    percent_decode(value.as_bytes())
        .decode_utf8()
        .map_err(|_| DecodeError::attribute(name, "is percent-encoded, but not as UTF-8"))
}

#[cfg(test)]
mod tests;
