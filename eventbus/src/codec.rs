//! CloudEvents' protocol bindings over raw bytes: data is never re-encoded.
//!
//! | module | holds |
//! | --- | --- |
//! | [`foreign`] | what other programs write beside the data |
//! | [`http`] | the HTTP binding: binary, structured and batched content |
//! | [`json`] | the JSON format, structured and batched |
//! | [`redis`] | entries of a Redis stream |
//! | [`kafka`] | the Kafka binding: binary and structured content, and plain records |
//! | `nats` | the NATS binding: binary and structured content |
//!
//! What every binding shares is here: the attributes of an event that is read, checked one by one, and why it is none.

pub mod foreign;
pub mod http;
pub mod json;
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
pub mod redis;

#[cfg(test)]
mod interop;

use std::borrow::Cow;

use evoke_api::limits;

use crate::event::{self, Data, Event, EventBuilder, InvalidEvent};

/// The attribute that marks an event as one that evoke put on a bus, and says in which format; taken off when it is read.
const FORMAT: &str = "evokeformat";
/// The format that is written, and the latest that is read.
const FORMAT_NOW: &str = "1";

/// What the media types start with by which a receiver tells structured content and batches from binary content.
const EVENT_FORMATS: &str = "application/cloudevents";

/// Why something that claims to be a CloudEvent is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// One attribute is missing or not what CloudEvents allows.
    #[error("attribute {name:?} {problem}")]
    Attribute {
        /// The attribute.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The content as a whole cannot be read.
    #[error("{0}")]
    Content(String),
    /// An event format that evoke does not read.
    #[error("media type {0:?} is no CloudEvents format that is read here: send application/cloudevents+json")]
    Format(String),
    /// A batch of more events than [`json::BATCH_EVENTS`].
    #[error("the batch has more than {} events: send it in parts", json::BATCH_EVENTS)]
    BatchTooLarge,
    /// One event of a batch; none of them is taken.
    #[error("event {index} of the batch: {error}")]
    InBatch {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        error: Box<DecodeError>,
    },
}

impl DecodeError {
    /// What is wrong with one attribute.
    pub fn attribute(name: &str, problem: impl Into<String>) -> Self {
        Self::Attribute { name: shortened(name).to_owned(), problem: problem.into() }
    }

    /// The same error, of the event at `index` of a batch.
    #[must_use]
    pub fn in_batch(self, index: usize) -> Self {
        Self::InBatch { index, error: Box::new(self) }
    }

    /// The attribute that is at fault, if one is.
    pub fn attribute_name(&self) -> Option<&str> {
        match self {
            Self::Attribute { name, .. } => Some(name),
            Self::InBatch { error, .. } => error.attribute_name(),
            Self::Content(_) | Self::Format(_) | Self::BatchTooLarge => None,
        }
    }
}

impl From<InvalidEvent> for DecodeError {
    fn from(error: InvalidEvent) -> Self {
        match error {
            InvalidEvent::Missing(name) => Self::attribute(name, "is missing or empty"),
            InvalidEvent::Value(name) => Self::attribute(
                &name,
                format!("is longer than {} KiB or holds a control character", limits::ATTRIBUTE_VALUE_BYTES / 1024),
            ),
            InvalidEvent::Time(time) => {
                Self::attribute("time", format!("is {time:?}, which is no timestamp such as 2026-05-04T03:02:01Z"))
            }
            InvalidEvent::Name(name) => Self::attribute(
                &name,
                format!(
                    "is no attribute name: lower-case letters and digits only, at most {} of them, and not \"data\"",
                    limits::ATTRIBUTE_NAME_BYTES
                ),
            ),
            InvalidEvent::SpecVersion(version) => {
                Self::attribute("specversion", format!("is {:?}: only 1.0 is supported", shortened(&version)))
            }
            InvalidEvent::TooMany | InvalidEvent::Frame => Self::Content(error.to_string()),
        }
    }
}

/// The attributes of an event that is being read, in the CloudEvents canonical form of their types. Each is checked as it is set,
/// so that what [`Attributes::finish`] gives can be built.
#[derive(Debug, Default)]
pub struct Attributes<'a> {
    version: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    ty: Option<Cow<'a, str>>,
    others: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Attributes<'a> {
    /// Sets an attribute or extension.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`] for a name or a value that CloudEvents or a limit forbids, a second value for a name, a `time`
    /// that is no RFC 3339 timestamp; [`DecodeError::Content`] for too many attributes.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Result<(), DecodeError> {
        let (name, value) = (name.into(), value.into());
        event::check(&name, &value)?;
        let required = match &*name {
            "specversion" => &mut self.version,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.ty,
            other => {
                if self.get(other).is_some() {
                    return Err(twice(other));
                }
                if self.others.len() + 3 >= limits::ATTRIBUTES {
                    return Err(InvalidEvent::TooMany.into());
                }
                self.others.push((name, value));
                return Ok(());
            }
        };
        match required {
            Some(_) => Err(twice(&name)),
            None => {
                *required = Some(value);
                Ok(())
            }
        }
    }

    /// An attribute that was set, but for the four that every event has.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.others.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// Takes an attribute away that [`Attributes::get`] finds.
    pub(crate) fn remove(&mut self, name: &str) {
        self.others.retain(|(n, _)| n != name);
    }

    /// The event, to be completed and built.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`] when one of the four that every event has is missing or empty, or `specversion` is not 1.0.
    pub fn finish(self, data: impl Into<Data<'a>>) -> Result<EventBuilder<'a>, DecodeError> {
        let required = |name, value: Option<Cow<'a, str>>| match value {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(InvalidEvent::Missing(name)),
        };
        let version = required("specversion", self.version)?;
        if version != "1.0" {
            return Err(InvalidEvent::SpecVersion(version.into_owned()).into());
        }
        let event =
            Event::builder(required("id", self.id)?, required("source", self.source)?, required("type", self.ty)?);
        Ok(event.with_others(self.others).data(data))
    }
}

/// Refuses a format that is not known here: what it writes would be read as another event than it is.
fn check_format(format: &[u8]) -> Result<(), DecodeError> {
    if format == FORMAT_NOW.as_bytes() {
        return Ok(());
    }
    let format = String::from_utf8_lossy(format);
    let problem = format!("is {:?}, written by a newer evoke: this one reads {FORMAT_NOW:?}", shortened(&format));
    Err(DecodeError::attribute(FORMAT, problem))
}

fn twice(name: &str) -> DecodeError {
    DecodeError::attribute(name, "is given twice")
}

/// The start of what a message quotes from outside, so that no message is as long as a hostile input.
fn shortened(text: &str) -> &str {
    match text.char_indices().nth(limits::ATTRIBUTE_NAME_BYTES) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

/// True for a content type that declares JSON, as CloudEvents defines it: subtype `json`, or one that ends in `+json`.
pub fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    let tail = subtype.len().checked_sub("+json".len()).and_then(|at| subtype.get(at..));
    subtype.eq_ignore_ascii_case("json") || tail.is_some_and(|tail| tail.eq_ignore_ascii_case("+json"))
}

/// A content type without its parameters.
pub fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// True for a media type of structured content or of a batch, whatever the format.
fn is_event_format(media: &str) -> bool {
    media.get(..EVENT_FORMATS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENT_FORMATS))
}

/// The `charset` of a content type, without quotes.
fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Attributes<'static> {
        let mut attributes = Attributes::default();
        for (name, value) in [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t")] {
            attributes.set(name, value).unwrap();
        }
        attributes
    }

    #[test]
    fn names_the_attribute_that_is_wrong() {
        let wrong = |name: &'static str, value: &'static str| minimal().set(name, value).unwrap_err().to_string();
        assert_eq!(wrong("id", "2"), "attribute \"id\" is given twice");
        assert_eq!(
            wrong("time", "yesterday"),
            "attribute \"time\" is \"yesterday\", which is no timestamp such as 2026-05-04T03:02:01Z"
        );
        assert!(wrong("Upper", "x").starts_with("attribute \"Upper\" is no attribute name"));
        assert!(wrong("data", "x").starts_with("attribute \"data\" is no attribute name"));
        assert!(
            wrong("subject", "a\u{7}b").starts_with("attribute \"subject\" is longer than 32 KiB or holds a control")
        );

        let missing = Attributes::default().finish("").unwrap_err();
        assert_eq!(missing.attribute_name(), Some("specversion"));
        let mut old = Attributes::default();
        old.set("specversion", "0.3").unwrap();
        assert_eq!(
            old.finish("").unwrap_err().in_batch(3).to_string(),
            "event 3 of the batch: attribute \"specversion\" is \"0.3\": only 1.0 is supported"
        );
    }

    #[test]
    fn what_it_accepts_can_be_built() {
        let mut attributes = minimal();
        for n in 0..limits::ATTRIBUTES - 3 {
            attributes.set(format!("x{n}"), "v").unwrap();
        }
        assert!(matches!(attributes.set("onemore", "v"), Err(DecodeError::Content(_))));
        let event = attributes.finish("d").unwrap().build().unwrap();
        assert_eq!(event.attributes().count(), limits::ATTRIBUTES);
    }

    #[test]
    fn knows_json_by_its_content_type() {
        for json in ["application/json", "text/JSON; charset=utf-8", "application/vnd.x+json", "a/b+JSON ;x=y"] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "json", "application/jsonl", "text/plain", "application/xml; x=+json", "a/é+jso"] {
            assert!(!is_json(other), "{other}");
        }
        for format in ["application/cloudevents", "Application/CloudEvents-batch+json", "application/cloudevents+avro"]
        {
            assert!(is_event_format(format), "{format}");
        }
        assert!(!is_event_format("application/cloud") && !is_event_format("application/json"));
        assert_eq!(charset("text/plain; a=b; Charset=\"UTF-8\""), Some("UTF-8"));
        assert_eq!(charset("text/plain"), None);
    }
}
