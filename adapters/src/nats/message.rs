//! A message as an event. One that says it is a CloudEvent is taken as one; of any other the payload becomes the data, the subject
//! the subject, and what else there is attributes.

use async_nats::Message;
use evoke_eventbus::codec::foreign::with_header;
use evoke_eventbus::codec::nats::{Decoded, decode};
use evoke_eventbus::codec::{DecodeError, essence, json};
use evoke_eventbus::event::EventBuilder;

use crate::blank::Blank;
use crate::source::{Arrival, Malformed, Origin};

/// Makes events of the messages of one source.
#[derive(Clone, Debug)]
pub(super) struct Mapper(Blank);

impl Mapper {
    pub(super) fn new(origin: &Origin, content_type: Option<&str>) -> Self {
        Self(Blank::new(origin, "nats", content_type))
    }

    pub(super) fn origin(&self) -> &Origin {
        self.0.origin()
    }

    /// The event of a message at `position`, or why there is none. `time` is when a stream took it in.
    pub(super) fn arrival(&self, message: &Message, position: &str, time: Option<String>) -> Arrival {
        let event = match self.decoded(message) {
            Ok(Decoded::Event(event)) => Ok(event),
            Ok(Decoded::Plain(content_type)) => Ok(self.plain(message, position, time, content_type)),
            Err(error) => Err(format!("it claims to be a CloudEvent and is not: {error}")),
        };
        self.0.arrival(event, |cause| Malformed {
            position: position.to_owned(),
            cause: format!("a message of subject {:?}: {cause}", message.subject.as_str()),
            raw: message.payload.clone(),
        })
    }

    /// The manifest's content type stands in for one that is not there, so that it may declare events in structured mode.
    fn decoded<'a>(&'a self, message: &'a Message) -> Result<Decoded<'a>, DecodeError> {
        let decoded = decode(message.headers.as_ref(), &message.payload)?;
        let (Decoded::Plain(None), Some(content_type)) = (&decoded, &self.0.content_type) else { return Ok(decoded) };
        let media = essence(content_type);
        if media.eq_ignore_ascii_case(json::MEDIA_TYPE) {
            return json::decode(&message.payload).map(Decoded::Event);
        }
        Ok(Decoded::Plain(Some(content_type.clone())))
    }

    fn plain<'a>(
        &'a self,
        message: &'a Message,
        id: &'a str,
        time: Option<String>,
        content_type: Option<String>,
    ) -> EventBuilder<'a> {
        let event = self
            .0
            .event(id)
            .attribute("subject", message.subject.as_str())
            .attribute_if("time", time)
            .attribute_if("datacontenttype", content_type)
            .attribute_if("natsreply", message.reply.as_deref().filter(|reply| !reply.starts_with("$JS.")));
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        let mut headers: Vec<(&str, &str)> =
            headers.filter_map(|(name, values)| Some((name.as_ref(), values.last()?.as_str()))).collect();
        // The client keeps them in no order.
        headers.sort_unstable();
        let headers = headers.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        let with = |event, (name, value): (&'a str, &'a str)| with_header(event, "natsheader", name, value.as_bytes());
        headers.fold(event, with).data(&message.payload[..])
    }
}

#[cfg(test)]
mod tests;
