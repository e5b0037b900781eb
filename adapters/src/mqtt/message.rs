//! A message as an event. One that says it is a CloudEvent (MQTT protocol binding, binary or structured) is taken as one; of any
//! other the payload becomes the data, the topic the subject, and what else there is attributes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evoke_api::limits;
use evoke_eventbus::codec::foreign::{TRACE, extension, plain_text, text_or_base64, with_header};
use evoke_eventbus::codec::{Attributes, DecodeError, essence, json};
use evoke_eventbus::event::EventBuilder;
use uuid::Uuid;

use super::wire::Publish;
use crate::blank::Blank;
use crate::source::{Arrival, Malformed, Origin};

/// The user property that every CloudEvent in binary mode has, and little else.
const CLAIM: &str = "specversion";
/// What the extensions start with that other user properties become.
const PREFIX: &str = "mqttproperty";

/// Makes events of the messages of one source.
#[derive(Clone, Debug)]
pub(super) struct Mapper(Blank);

impl Mapper {
    pub(super) fn new(origin: &Origin, content_type: Option<&str>) -> Self {
        Self(Blank::new(origin, "mqtt", content_type))
    }

    pub(super) fn origin(&self) -> &Origin {
        self.0.origin()
    }

    /// The event, or why there is none.
    pub(super) fn arrival(&self, message: &Publish) -> Arrival {
        let position = Uuid::now_v7().to_string();
        let content_type = message.properties.content_type.as_deref().or(self.0.content_type.as_deref());
        let event = match Claim::of(message, content_type) {
            Claim::None => Ok(self.plain(&position, message, content_type)),
            Claim::Binary => binary(message, content_type),
            Claim::Structured => structured(message),
            Claim::Unknown(format) => Err(DecodeError::Format(format.to_owned())),
        };
        let event = event.map_err(|e| format!("it claims to be a CloudEvent and is not: {e}"));
        self.0.arrival(event, |cause| Malformed {
            position: position.clone(),
            cause: format!("a message of topic {:?}: {cause}", message.topic),
            raw: message.payload.clone(),
        })
    }

    fn plain<'a>(&'a self, id: &'a str, message: &'a Publish, content_type: Option<&'a str>) -> EventBuilder<'a> {
        let properties = &message.properties;
        let event = self
            .0
            .event(id)
            .attribute("subject", message.topic.as_str())
            .attribute_if("datacontenttype", content_type)
            .attribute("mqttqos", message.qos.as_str())
            .attribute_if("mqttretained", message.retained.then_some("true"))
            .attribute_if("mqttresponsetopic", properties.response_topic.as_deref())
            .attribute_if(
                "mqttcorrelationdata",
                properties.correlation_data.as_ref().map(|data| STANDARD.encode(data)),
            );
        let with = |event, (name, value): &'a (String, String)| with_header(event, PREFIX, name, value.as_bytes());
        properties.user.iter().fold(event, with).data(&message.payload[..])
    }
}

/// Whether a message says that it is a CloudEvent, and in which form.
enum Claim<'a> {
    None,
    Binary,
    Structured,
    /// In an event format that evoke does not read.
    Unknown(&'a str),
}

impl<'a> Claim<'a> {
    fn of(message: &Publish, content_type: Option<&'a str>) -> Self {
        let media = essence(content_type.unwrap_or_default());
        if media.get(..23).is_some_and(|start| start.eq_ignore_ascii_case("application/cloudevents")) {
            return if media.eq_ignore_ascii_case(json::MEDIA_TYPE) { Self::Structured } else { Self::Unknown(media) };
        }
        match message.properties.user.iter().any(|(name, _)| name == CLAIM) {
            true => Self::Binary,
            false => Self::None,
        }
    }
}

/// In binary mode attributes are user properties of the same name. Others that can be no attribute's are kept under a name of their own.
fn binary<'a>(message: &'a Publish, content_type: Option<&'a str>) -> Result<EventBuilder<'a>, DecodeError> {
    let mut attributes = Attributes::default();
    if let Some(content_type) = content_type {
        attributes.set("datacontenttype", content_type)?;
    }
    let mut others = Vec::new();
    for (name, value) in &message.properties.user {
        if name == "datacontenttype" && content_type.is_some() {
            continue;
        }
        if is_attribute(name) {
            attributes.set(name.as_str(), value.as_str())?;
        } else {
            others.push((extension(PREFIX, name), text_or_base64(value.as_bytes())));
        }
    }
    let event = attributes.finish(&message.payload[..])?;
    Ok(others.into_iter().fold(event, |event, (name, value)| event.attribute(name, value)))
}

fn structured(message: &Publish) -> Result<EventBuilder<'_>, DecodeError> {
    let mut event = json::decode(&message.payload)?;
    for (name, value) in &message.properties.user {
        let trace = TRACE.into_iter().find(|trace| name.eq_ignore_ascii_case(trace));
        if let Some(trace) = trace.filter(|trace| event.get(trace).is_none()) {
            event = event.attribute_if(trace, plain_text(value.as_bytes()));
        }
    }
    Ok(event)
}

fn is_attribute(name: &str) -> bool {
    !name.is_empty()
        && name != "data"
        && name.len() <= limits::ATTRIBUTE_NAME_BYTES
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// The bytes that a message takes while it waits.
pub(super) fn weight(message: &Publish) -> usize {
    let user = message.properties.user.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    message.payload.len() + message.topic.len() + user
}

#[cfg(test)]
mod tests;
