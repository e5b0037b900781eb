//! What a source read and could not turn into an event, as an event of its own, of type `io.evoke.malformed`.

use std::fmt::Write;

use chrono::{SecondsFormat, Utc};
use evoke_adapters::source::{Malformed, Origin};
use evoke_api::limits;
use evoke_eventbus::event::{Event, InvalidEvent};
use sha2::{Digest, Sha256};

/// A position or cause longer than this is cut, in bytes.
const TEXT_BYTES: usize = 1024;

/// The event that tells of `malformed`: where it was read (`id`, `evokeposition`), why it is none (`evokecause`), its SHA-256 and
/// size, and its first 16 KiB as data.
///
/// # Errors
/// None that its parts could cause: they are made to fit.
pub(crate) fn letter(origin: &Origin, malformed: &Malformed) -> Result<Event, InvalidEvent> {
    let Malformed { position, cause, raw } = malformed;
    let position = text(position);
    let id = if position.is_empty() { "unknown".to_owned() } else { position.clone() };
    origin
        .event("malformed", id)
        .attribute("time", Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true))
        .attribute("datacontenttype", "application/octet-stream")
        .attribute("evokeposition", position)
        .attribute("evokecause", text(cause))
        .attribute("evokesha256", hex(&Sha256::digest(raw)))
        .attribute("evokebytes", raw.len().to_string())
        .data(raw.slice(..raw.len().min(limits::MALFORMED_KEPT_BYTES)))
        .build()
}

fn text(raw: &str) -> String {
    let mut text: String = raw.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.floor_char_boundary(TEXT_BYTES));
    text
}

/// In hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a string cannot fail.
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use evoke_api::names::ObjectName;

    use super::*;

    #[test]
    fn tells_where_why_and_what() {
        let origin = Origin {
            event_source: ObjectName::new("ns", "shop"),
            event: "orders".into(),
            attributes: Default::default(),
        };
        let raw = Bytes::from(vec![b'x'; 20_000]);
        let malformed = Malformed { position: "t/0/7".into(), cause: "no\nevent".into(), raw };
        let letter = letter(&origin, &malformed).unwrap();
        assert_eq!((letter.id(), letter.ty()), ("t/0/7", "io.evoke.malformed"));
        assert_eq!(letter.source(), "/namespaces/ns/eventsources/shop/orders");
        assert_eq!(letter.attribute("evokecause"), Some("no event"));
        assert_eq!(letter.attribute("evokebytes"), Some("20000"));
        let sha = letter.attribute("evokesha256").unwrap();
        assert_eq!((sha.len(), letter.data_slice().len()), (64, 16 * 1024));
        assert!(sha.bytes().all(|b| b.is_ascii_hexdigit()));
    }
}
