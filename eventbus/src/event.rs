//! A CloudEvent as evoke carries it: attributes and data in one immutable buffer, encoded once at the source, written to disk as
//! it is, and read in place. Cloning is a reference count.
//!
//! The buffer (a *frame*, format 1; integers little-endian):
//!
//! ```text
//! head length: u32 | attribute count: u16 | count x (name length: u8 | value length: u16 | name | value) | data
//! ```
//!
//! The head length counts everything before the data. `id`, `source` and `type` come first, in this order. Every value is text,
//! in the CloudEvents canonical form of its type; `specversion` is always `1.0` and is not stored.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use chrono::DateTime;
use evoke_api::limits;

const HEAD_PREFIX: usize = 6;
/// So many attributes have most events at most.
const USUAL_ATTRIBUTES: usize = 10;

/// An immutable CloudEvent. Cheap to clone and to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    frame: Bytes,
    data_at: u32,
}

/// Why a frame or a set of attributes is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// `id`, `source` or `type` is missing or empty.
    #[error("attribute {0:?} is missing or empty")]
    Missing(&'static str),
    /// An attribute's name is not `[a-z0-9]+`, too long, or reserved.
    #[error("{0:?} is no attribute name: lower-case letters and digits only, at most 64 of them, and not \"data\"")]
    Name(String),
    /// An attribute's value is too long or holds a control character.
    #[error("the value of attribute {0:?} is longer than 32 KiB or holds a control character")]
    Value(String),
    /// `time` is no RFC 3339 timestamp; holds how it starts.
    #[error("attribute \"time\" is {0:?}, which is no timestamp such as 2026-05-04T03:02:01Z")]
    Time(String),
    /// There are more attributes than evoke takes.
    #[error("more than 128 attributes")]
    TooMany,
    /// A specversion other than 1.0.
    #[error("specversion {0:?} is not supported: 1.0 is")]
    SpecVersion(String),
    /// Bytes that are no frame.
    #[error("not an event frame")]
    Frame,
}

impl Event {
    /// Starts an event with its three required attributes. What is lent to the builder is copied once, by
    /// [`EventBuilder::build`].
    pub fn builder<'a>(
        id: impl Into<Cow<'a, str>>,
        source: impl Into<Cow<'a, str>>,
        ty: impl Into<Cow<'a, str>>,
    ) -> EventBuilder<'a> {
        let mut attributes = Vec::with_capacity(USUAL_ATTRIBUTES);
        attributes.extend([("id".into(), id.into()), ("source".into(), source.into()), ("type".into(), ty.into())]);
        EventBuilder { attributes, data: Data::default() }
    }

    /// Takes a frame in, checking its bounds and that its head is text.
    ///
    /// # Errors
    /// [`InvalidEvent::Frame`] for anything that [`Event::frame`] did not give out.
    pub fn from_frame(frame: Bytes) -> Result<Self, InvalidEvent> {
        let head = frame.get(..HEAD_PREFIX).ok_or(InvalidEvent::Frame)?;
        let head_len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let count = u16::from_le_bytes([head[4], head[5]]);
        let mut rest = frame.get(HEAD_PREFIX..head_len as usize).ok_or(InvalidEvent::Frame)?;
        for expected in ["id", "source", "type"].into_iter().map(Some).chain(std::iter::repeat(None)).take(count.into())
        {
            let (name, _, tail) = split_attribute(rest).ok_or(InvalidEvent::Frame)?;
            if expected.is_some_and(|e| e != name) {
                return Err(InvalidEvent::Frame);
            }
            rest = tail;
        }
        if count < 3 || !rest.is_empty() {
            return Err(InvalidEvent::Frame);
        }
        Ok(Self { frame, data_at: head_len })
    }

    /// The whole event as one buffer.
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The event's size as it counts against every limit, in bytes.
    pub fn encoded_len(&self) -> usize {
        self.frame.len()
    }

    /// `id`.
    pub fn id(&self) -> &str {
        self.attributes().next().map_or("", |(_, v)| v)
    }

    /// `source`.
    pub fn source(&self) -> &str {
        self.attributes().nth(1).map_or("", |(_, v)| v)
    }

    /// `type`.
    pub fn ty(&self) -> &str {
        self.attributes().nth(2).map_or("", |(_, v)| v)
    }

    /// `datacontenttype`.
    pub fn content_type(&self) -> Option<&str> {
        self.attribute("datacontenttype")
    }

    /// Any attribute or extension but `specversion`.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Attributes and extensions but `specversion`: `id`, `source`, `type`, then the others as they were set.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.frame[HEAD_PREFIX..self.data_at as usize];
        std::iter::from_fn(move || {
            let (name, value, tail) = split_attribute(rest)?;
            rest = tail;
            Some((name, value))
        })
    }

    /// The data, sharing the event's buffer. Empty when there is none.
    pub fn data(&self) -> Bytes {
        self.frame.slice(self.data_at as usize..)
    }

    /// The data, borrowed.
    pub fn data_slice(&self) -> &[u8] {
        &self.frame[self.data_at as usize..]
    }

    /// What decides the partition and the order: `partitionkey` if there is one.
    pub fn partition_key(&self) -> Option<&str> {
        self.attribute("partitionkey")
    }

    /// A builder that holds all of this event, to derive another from it.
    pub fn to_builder(&self) -> EventBuilder<'_> {
        EventBuilder {
            attributes: self.attributes().map(|(n, v)| (n.into(), v.into())).collect(),
            data: Data::Lent(self.data_slice()),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.attributes()).entry(&"data bytes", &self.data_slice().len()).finish()
    }
}

fn split_attribute(rest: &[u8]) -> Option<(&str, &str, &[u8])> {
    let name_len = usize::from(*rest.first()?);
    let value_len = usize::from(u16::from_le_bytes([*rest.get(1)?, *rest.get(2)?]));
    let name = rest.get(3..3 + name_len)?;
    let value = rest.get(3 + name_len..3 + name_len + value_len)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?, &rest[3 + name_len + value_len..]))
}

/// The data of an event that is being built.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// Copied when the event is built.
    Lent(&'a [u8]),
    /// The same, kept until then.
    Shared(Bytes),
}

/// Collects an event's attributes and data; [`EventBuilder::build`] checks them.
#[derive(Clone, Debug)]
pub struct EventBuilder<'a> {
    attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    data: Data<'a>,
}

impl<'a> EventBuilder<'a> {
    /// Sets an attribute or extension, replacing one of the same name. `specversion` is checked and dropped by `build`.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.attributes.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.attributes.push((name, value)),
        }
        self
    }

    /// Sets an attribute if there is a value for it.
    #[must_use]
    pub fn attribute_if(self, name: &'a str, value: Option<impl Into<Cow<'a, str>>>) -> Self {
        match value {
            Some(value) => self.attribute(name, value),
            None => self,
        }
    }

    /// An attribute or extension that is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// Adds attributes whose names are not set yet.
    #[must_use]
    pub(crate) fn with_others(mut self, attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>) -> Self {
        self.attributes.extend(attributes);
        self
    }

    /// Takes an attribute away; the three required ones stay.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let mut place = 0;
        self.attributes.retain(|(n, _)| {
            place += 1;
            place <= 3 || n != name
        });
        self
    }

    /// Sets the data, untouched from here to the sink.
    #[must_use]
    pub fn data(mut self, data: impl Into<Data<'a>>) -> Self {
        self.data = data.into();
        self
    }

    /// The same, with copies of what was lent.
    pub fn into_owned(self) -> EventBuilder<'static> {
        let own = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        let attributes = self.attributes.into_iter().map(|(name, value)| (own(name), own(value))).collect();
        let data = match self.data {
            Data::Lent(data) => Data::Shared(Bytes::copy_from_slice(data)),
            Data::Shared(data) => Data::Shared(data),
        };
        EventBuilder { attributes, data }
    }

    /// Encodes the event.
    ///
    /// # Errors
    /// [`InvalidEvent`] names the first attribute that CloudEvents or a limit forbids.
    pub fn build(self) -> Result<Event, InvalidEvent> {
        for (name, required) in self.attributes.iter().zip(["id", "source", "type"]) {
            if name.1.is_empty() {
                return Err(InvalidEvent::Missing(required));
            }
        }
        let mut head = HEAD_PREFIX;
        let mut count: u16 = 0;
        for (name, value) in &self.attributes {
            if name == "specversion" {
                if value != "1.0" {
                    return Err(InvalidEvent::SpecVersion(value.clone().into_owned()));
                }
                continue;
            }
            check(name, value)?;
            head += 3 + name.len() + value.len();
            count += 1;
            if usize::from(count) > limits::ATTRIBUTES {
                return Err(InvalidEvent::TooMany);
            }
        }
        let head_len = u32::try_from(head).map_err(|_| InvalidEvent::TooMany)?;
        let data = self.data.as_slice();
        let mut frame = BytesMut::with_capacity(head + data.len());
        frame.put_u32_le(head_len);
        frame.put_u16_le(count);
        for (name, value) in self.attributes.iter().filter(|(n, _)| n != "specversion") {
            // `check` holds both lengths well below what their fields can say.
            frame.put_u8(u8::try_from(name.len()).map_err(|_| InvalidEvent::Name(name.to_string()))?);
            frame.put_u16_le(u16::try_from(value.len()).map_err(|_| InvalidEvent::Value(name.to_string()))?);
            frame.put_slice(name.as_bytes());
            frame.put_slice(value.as_bytes());
        }
        frame.put_slice(data);
        Ok(Event { frame: frame.freeze(), data_at: head_len })
    }
}

impl Data<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Lent(data) => data,
            Self::Shared(data) => data,
        }
    }
}

impl Default for Data<'_> {
    fn default() -> Self {
        Self::Lent(&[])
    }
}

impl<'a> From<&'a [u8]> for Data<'a> {
    fn from(data: &'a [u8]) -> Self {
        Self::Lent(data)
    }
}

impl<'a> From<&'a str> for Data<'a> {
    fn from(data: &'a str) -> Self {
        Self::Lent(data.as_bytes())
    }
}

impl From<Bytes> for Data<'_> {
    fn from(data: Bytes) -> Self {
        Self::Shared(data)
    }
}

impl From<Vec<u8>> for Data<'_> {
    fn from(data: Vec<u8>) -> Self {
        Self::Shared(data.into())
    }
}

impl From<String> for Data<'_> {
    fn from(data: String) -> Self {
        Self::Shared(data.into())
    }
}

/// What an event is refused for by whoever makes one and by whoever reads one, so that every bus gives back what it took.
pub(crate) fn check(name: &str, value: &str) -> Result<(), InvalidEvent> {
    let lawful = !name.is_empty()
        && name.len() <= limits::ATTRIBUTE_NAME_BYTES
        && name != "data"
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !lawful {
        return Err(InvalidEvent::Name(name.to_owned()));
    }
    // Nearly every value is plain ASCII, which is seen at a glance.
    let plain = value.bytes().all(|b| (0x20..0x7f).contains(&b));
    if value.len() > limits::ATTRIBUTE_VALUE_BYTES || !plain && value.chars().any(char::is_control) {
        return Err(InvalidEvent::Value(name.to_owned()));
    }
    if name == "time" && DateTime::parse_from_rfc3339(value).is_err() {
        return Err(InvalidEvent::Time(value.chars().take(limits::ATTRIBUTE_NAME_BYTES).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
