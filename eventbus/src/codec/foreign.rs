//! What a record of another program has beside its data, as attributes of an event.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evoke_api::limits;

use crate::event::EventBuilder;

/// Tracing context travels as extensions of the same name.
pub const TRACE: [&str; 2] = ["traceparent", "tracestate"];

/// The event with one more header: tracing context under its own name, anything else as the extension that starts with `prefix`.
pub fn with_header<'a>(event: EventBuilder<'a>, prefix: &str, name: &str, value: &'a [u8]) -> EventBuilder<'a> {
    let trace = TRACE.into_iter().find(|trace| name.eq_ignore_ascii_case(trace));
    match trace.zip(plain_text(value)) {
        Some((trace, context)) => event.attribute(trace, context),
        None => event.attribute(extension(prefix, name), text_or_base64(value)),
    }
}

/// The extension that a header or field becomes: `prefix`, and what CloudEvents allows of its name, in lower case.
pub fn extension(prefix: &str, name: &str) -> String {
    let mut extension = String::with_capacity(limits::ATTRIBUTE_NAME_BYTES);
    extension.push_str(prefix);
    let kept = name.bytes().filter(u8::is_ascii_alphanumeric).map(|b| char::from(b.to_ascii_lowercase()));
    extension.extend(kept.take(limits::ATTRIBUTE_NAME_BYTES - prefix.len()));
    extension
}

/// The bytes as text, where they are text that an attribute can hold.
pub fn plain_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

/// The bytes as text, or in base64 where they are none.
pub fn text_or_base64(bytes: &[u8]) -> Cow<'_, str> {
    plain_text(bytes).map_or_else(|| STANDARD.encode(bytes).into(), Cow::from)
}
