//! A Kafka record as an event. A record that says it is a CloudEvent (Kafka protocol binding, binary or structured) is taken as
//! one; of any other the value becomes the data, and everything else attributes.

use bytes::Bytes;
use evoke_eventbus::codec::kafka::{Decoded, decode, plain};

use crate::blank::Blank;
use crate::source::{Arrival, Malformed, Origin};

pub(super) use evoke_eventbus::codec::kafka::{Header, Raw};

/// What is handed over in place of an event.
pub(super) fn malformed(record: &Raw<'_>, cause: impl Into<String>) -> Malformed {
    let raw = Bytes::copy_from_slice(record.value.unwrap_or_default());
    Malformed { position: record.position(), cause: cause.into(), raw }
}

/// Makes events of the records of one source.
#[derive(Clone, Debug)]
pub(super) struct Mapper(Blank);

impl Mapper {
    pub(super) fn new(origin: &Origin, content_type: Option<&str>) -> Self {
        Self(Blank::new(origin, "kafka", content_type))
    }

    /// The event, or why there is none.
    pub(super) fn arrival(&self, record: &Raw<'_>) -> Arrival {
        let Blank { source, ty, content_type, .. } = &self.0;
        let event = match decode(record) {
            Ok(Decoded::Event(event)) => Ok(event),
            Ok(Decoded::Plain) => Ok(plain(record, source, ty, content_type.as_deref())),
            Err(cause) => Err(format!("the record claims to be a CloudEvent and is not: {cause}")),
        };
        self.0.arrival(event, |cause| malformed(record, cause))
    }
}

#[cfg(test)]
mod tests;
