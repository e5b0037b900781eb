//! What Redis gives, as an event: a stream's entry, a channel's message, a list's item.

use bytes::Bytes;
use evoke_api::limits;
use evoke_eventbus::codec::foreign::text_or_base64;
use evoke_eventbus::codec::redis::{DATA, Defaults};
use evoke_eventbus::codec::{self, DecodeError};
use evoke_eventbus::event::EventBuilder;
use uuid::Uuid;

use crate::blank::Blank;
use crate::source::{Arrival, Malformed, Origin};

/// Makes events of what one source reads.
#[derive(Clone, Debug)]
pub(super) struct Mapper {
    blank: Blank,
    key: String,
}

impl Mapper {
    /// `key` is the stream, the list, or the channel or pattern.
    pub(super) fn new(origin: &Origin, key: &str, content_type: Option<&str>) -> Self {
        Self { blank: Blank::new(origin, "redis", content_type), key: key.to_owned() }
    }

    pub(super) fn origin(&self) -> &Origin {
        self.blank.origin()
    }

    /// An entry of a stream. Its `data` is the data, its `ce-*` fields are attributes and its other fields extensions; without
    /// `data`, the other fields are the data, as a JSON object of strings.
    pub(super) fn entry(&self, id: &str, fields: Vec<(Vec<u8>, Vec<u8>)>) -> Arrival {
        let position = format!("{}/{id}", self.key);
        let raw = raw(&fields);
        let defaults = self.defaults(position.clone());
        let event = codec::redis::decode(id, fields, &defaults);
        self.arrival(event, position, raw)
    }

    /// A message of a channel, with the channel's name as an extension: a pattern reads several.
    pub(super) fn message(&self, channel: &[u8], payload: Vec<u8>) -> Arrival {
        let position = Uuid::now_v7().to_string();
        let payload = Bytes::from(payload);
        let defaults = self.defaults(position.clone());
        let event =
            defaults.with_data(payload.clone()).map(|event| event.attribute("redischannel", text_or_base64(channel)));
        self.arrival(event, position, payload)
    }

    /// An item of a list.
    pub(super) fn item(&self, item: Bytes) -> Arrival {
        let position = Uuid::now_v7().to_string();
        let defaults = self.defaults(position.clone());
        let event = defaults.with_data(item.clone());
        self.arrival(event, position, item)
    }

    fn defaults(&self, position: String) -> Defaults<'_> {
        let Blank { source, ty, content_type, .. } = &self.blank;
        Defaults { position, source, ty, content_type: content_type.as_deref() }
    }

    fn arrival(&self, event: Result<EventBuilder<'_>, DecodeError>, position: String, raw: Bytes) -> Arrival {
        self.blank.arrival(event.map_err(|e| e.to_string()), |cause| Malformed { position, cause, raw })
    }
}

/// An entry for people: its data, or all its fields.
fn raw(fields: &[(Vec<u8>, Vec<u8>)]) -> Bytes {
    if let Some((_, data)) = fields.iter().find(|(name, _)| name == DATA.as_bytes()) {
        return Bytes::copy_from_slice(data);
    }
    let kept = fields.iter().flat_map(|(name, value)| [name, b": ".as_slice(), value, b"\n"].concat());
    kept.take(limits::MALFORMED_KEPT_BYTES).collect()
}

#[cfg(test)]
mod tests;
