//! The HTTP binding of CloudEvents 1.0: binary, structured and batched content.

use std::borrow::Cow;

use bytes::Bytes;
use evoke_api::limits;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use smallvec::SmallVec;

use super::{Attributes, DecodeError, essence, is_event_format, json, shortened};
use crate::event::{Data, Event, EventBuilder};

/// What the binding escapes in a header's value, beside everything that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

const PREFIX: &str = "ce-";
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Sets the headers of a request that carries an event, and gives its body: the event's data, in binary content mode. A receiver tells
/// the modes apart by the content type, so that binary content whose data is an event or a batch of them would be read as that:
/// an event of such a `datacontenttype` goes as structured content.
pub fn message(event: &Event, headers: &mut HeaderMap) -> Bytes {
    let is_nested = event.content_type().is_some_and(|content_type| is_event_format(essence(content_type)));
    if !is_nested {
        binary_headers(event, headers);
        return event.data();
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(json::MEDIA_TYPE));
    for (name, header) in [("traceparent", TRACEPARENT), ("tracestate", TRACESTATE)] {
        if let Some(value) = event.attribute(name)
            && let Ok(value) = HeaderValue::from_maybe_shared(shared(event, value))
        {
            headers.insert(header, value);
        }
    }
    json::encode(event)
}

/// Sets the headers of an event in binary content mode, for a request whose body is the event's data: `ce-*`, `content-type`, and
/// the event's `traceparent` and `tracestate` as the headers of W3C Trace Context too. Headers of the same names are replaced.
/// Values that need no escaping share the event's buffer.
pub fn binary_headers(event: &Event, headers: &mut HeaderMap) {
    headers.insert(HeaderName::from_static("ce-specversion"), HeaderValue::from_static("1.0"));
    for (name, value) in event.attributes() {
        let plain = match name {
            "datacontenttype" => Some(CONTENT_TYPE),
            "traceparent" => Some(TRACEPARENT),
            "tracestate" => Some(TRACESTATE),
            _ => None,
        };
        if let Some(header) = plain
            && let Ok(value) = HeaderValue::from_maybe_shared(shared(event, value))
        {
            headers.insert(header, value);
        }
        if name != "datacontenttype"
            && let Some(header) = header_name(name)
            && let Ok(value) = HeaderValue::from_maybe_shared(escaped(event, value))
        {
            headers.insert(header, value);
        }
    }
}

fn shared(event: &Event, value: &str) -> Bytes {
    event.frame().slice_ref(value.as_bytes())
}

fn escaped(event: &Event, value: &str) -> Bytes {
    if value.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'"' && b != b'%') {
        shared(event, value)
    } else {
        Bytes::from(utf8_percent_encode(value, ESCAPED).to_string())
    }
}

/// The header of an attribute, without an allocation for those that most events have.
fn header_name(attribute: &str) -> Option<HeaderName> {
    let known = match attribute {
        "id" => "ce-id",
        "source" => "ce-source",
        "type" => "ce-type",
        "subject" => "ce-subject",
        "time" => "ce-time",
        "dataschema" => "ce-dataschema",
        "partitionkey" => "ce-partitionkey",
        "traceparent" => "ce-traceparent",
        "tracestate" => "ce-tracestate",
        "kafkapartition" => "ce-kafkapartition",
        "kafkaoffset" => "ce-kafkaoffset",
        other => {
            let mut name = SmallVec::<[u8; 72]>::from_slice(PREFIX.as_bytes());
            name.extend_from_slice(other.as_bytes());
            return HeaderName::from_bytes(&name).ok();
        }
    };
    Some(HeaderName::from_static(known))
}

/// What a request or an answer carries.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// One event, from binary or structured content.
    One(EventBuilder<'a>),
    /// Several, in order.
    Batch(Vec<EventBuilder<'a>>),
    /// No CloudEvent: the body is somebody's data.
    Plain,
}

/// Reads a message. Structured content and batches are recognised by their media type, binary content by any of the four headers
/// that every event has. `traceparent` and `tracestate` headers become extensions of events that have none of their own.
///
/// # Errors
/// [`DecodeError`] when it claims to be a CloudEvent and is not. A batch is all or nothing.
pub fn decode<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Result<Decoded<'a>, DecodeError> {
    let content_type = headers.get(CONTENT_TYPE).map(|value| text("datacontenttype", value)).transpose()?;
    let media = content_type.map_or("", essence);
    let event = |(mut attributes, data): (Attributes<'a>, Data<'a>)| {
        if attributes.get("traceparent").is_none() && attributes.get("tracestate").is_none() {
            trace_context(headers).try_for_each(|(name, value)| attributes.set(name, value))?;
        }
        attributes.finish(data)
    };
    if media.eq_ignore_ascii_case(json::MEDIA_TYPE) {
        return json::read(body).and_then(event).map(Decoded::One);
    }
    if media.eq_ignore_ascii_case(json::BATCH_MEDIA_TYPE) {
        return json::read_batch(body, event).map(Decoded::Batch);
    }
    if is_event_format(media) {
        return Err(DecodeError::Format(shortened(media).to_owned()));
    }
    if !["ce-id", "ce-source", "ce-type", "ce-specversion"].into_iter().any(|name| headers.contains_key(name)) {
        return Ok(Decoded::Plain);
    }
    binary(headers, content_type).and_then(|attributes| event((attributes, body.into()))).map(Decoded::One)
}

fn binary<'a>(headers: &'a HeaderMap, content_type: Option<&'a str>) -> Result<Attributes<'a>, DecodeError> {
    let mut attributes = Attributes::default();
    if let Some(content_type) = content_type {
        attributes.set("datacontenttype", content_type)?;
    }
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix(PREFIX) else { continue };
        let value = unescape(name, value)?;
        // Some senders repeat the content type as an attribute, which the binding has no place for.
        if name == "datacontenttype" && content_type == Some(&*value) {
            continue;
        }
        attributes.set(name, value)?;
    }
    Ok(attributes)
}

/// Undoes the quoting of older versions of the binding, then its percent-encoding.
fn unescape<'a>(name: &str, value: &'a HeaderValue) -> Result<Cow<'a, str>, DecodeError> {
    let text = text(name, value)?;
    let unquoted = match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if inner.contains('\\') => Cow::Owned(unquote(inner)),
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Borrowed(text),
    };
    if !unquoted.contains('%') {
        return Ok(unquoted);
    }
    match percent_decode(unquoted.as_bytes()).decode_utf8() {
        Ok(decoded) => Ok(Cow::Owned(decoded.into_owned())),
        Err(_) => Err(DecodeError::attribute(name, "is percent-encoded, but not as UTF-8")),
    }
}

fn unquote(quoted: &str) -> String {
    let mut plain = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(c) = characters.next() {
        plain.push(if c == '\\' { characters.next().unwrap_or(c) } else { c });
    }
    plain
}

fn text<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| DecodeError::attribute(name, "is not UTF-8"))
}

/// The W3C Trace Context of a message, as the extension attributes that carry it: `traceparent`, then `tracestate`. What is not
/// readable is left out, since a trace is no reason to refuse an event.
pub fn trace_context(headers: &HeaderMap) -> impl Iterator<Item = (&'static str, String)> {
    let mut parents = headers.get_all(&TRACEPARENT).iter();
    let parent = match (parents.next().and_then(|value| value.to_str().ok()), parents.next()) {
        (Some(parent), None) if !parent.is_empty() => Some(parent.to_owned()),
        _ => None,
    };
    let states: Vec<&str> = headers.get_all(&TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let state = (parent.is_some() && !states.is_empty()).then(|| states.join(","));
    [("traceparent", parent), ("tracestate", state)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .filter(|(_, value)| value.len() <= limits::ATTRIBUTE_VALUE_BYTES && !value.contains('\t'))
}

#[cfg(test)]
mod tests;
