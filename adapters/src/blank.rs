//! An event of a source before anything is known of it: what all of them share.

use evoke_eventbus::event::{Event, EventBuilder};

use crate::source::{Arrival, Malformed, Origin};

/// What every event of one source shares, written once: only the id differs.
#[derive(Clone, Debug)]
pub struct Blank {
    origin: Origin,
    /// `source` of an event that brings none.
    pub source: String,
    /// `type`, likewise.
    pub ty: String,
    /// What the manifest says that data is, where nothing else does.
    pub content_type: Option<String>,
}

impl Blank {
    /// The event of a source of this kind.
    pub fn new(origin: &Origin, kind: &str, content_type: Option<&str>) -> Self {
        let (source, ty) = match origin.event(kind, "-").build() {
            Ok(sample) => (sample.source().to_owned(), sample.ty().to_owned()),
            Err(_) => (String::new(), String::new()),
        };
        Self { origin: origin.clone(), source, ty, content_type: content_type.map(str::to_owned) }
    }

    /// The event of the EventSource that it is one of.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// An event of this id.
    pub fn event<'a>(&'a self, id: &'a str) -> EventBuilder<'a> {
        Event::builder(id, self.source.as_str(), self.ty.as_str())
    }

    /// The event with the manifest's say, or what there is in place of one, with the cause.
    pub fn arrival(
        &self,
        event: Result<EventBuilder<'_>, String>,
        malformed: impl FnOnce(String) -> Malformed,
    ) -> Arrival {
        match event.and_then(|event| self.origin.finish(event).map_err(|e| e.to_string())) {
            Ok(event) => Arrival::Event(event),
            Err(cause) => Arrival::Malformed(malformed(cause)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What arrived as an event.
    pub(crate) fn event(arrival: Arrival) -> Event {
        match arrival {
            Arrival::Event(event) => event,
            Arrival::Malformed(malformed) => panic!("{malformed:?}"),
        }
    }

    /// What arrived and is none.
    pub(crate) fn malformed(arrival: Arrival) -> Malformed {
        match arrival {
            Arrival::Malformed(malformed) => malformed,
            Arrival::Event(event) => panic!("{event:?}"),
        }
    }
}
