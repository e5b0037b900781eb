//! A validated NATS source.

use evoke_api::events::{NatsSource, StartAt};
use evoke_api::problem::Problem;
use evoke_connect::fields::Fields;
use evoke_connect::nats::NatsPlan;
use evoke_connect::nats::plan::NatsSpec;

use crate::source::{Origin, Place};

/// A validated NATS source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSourcePlan {
    pub(crate) nats: NatsPlan,
    pub(crate) read: Read,
    pub(crate) content_type: Option<String>,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Subject(SubjectPlan),
    Stream(StreamPlan),
}

/// A subject to listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubjectPlan {
    pub(crate) subject: String,
    pub(crate) queue_group: Option<String>,
}

/// A stream to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamPlan {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    /// Which messages of the stream; all where there is none.
    pub(crate) subject: Option<String>,
    pub(crate) start_at: StartAt,
}

impl NatsSourcePlan {
    /// What is read, for people.
    pub fn reads(&self) -> String {
        match &self.read {
            Read::Subject(SubjectPlan { subject, queue_group: None }) => format!("subject {subject}"),
            Read::Subject(SubjectPlan { subject, queue_group: Some(group) }) => {
                format!("subject {subject}, queue group {group}")
            }
            Read::Stream(plan) => format!("stream {}, consumer {}", plan.stream, plan.consumer),
        }
    }

    /// True where every process that reads it would get every message: a subject without a queue group.
    pub fn is_alone(&self) -> bool {
        matches!(&self.read, Read::Subject(SubjectPlan { queue_group: None, .. }))
    }

    /// The servers, separated by commas.
    pub fn servers(&self) -> String {
        self.nats.servers.join(",")
    }
}

/// Validates `nats.{event}`. `None` when an error was pushed.
pub fn plan(place: &Place<'_>, spec: &NatsSource, problems: &mut Vec<Problem>) -> Option<NatsSourcePlan> {
    let mut fields = place.fields(problems);
    let connection = NatsSpec { url_field: "url", url: &spec.url, auth: spec.auth.as_ref(), tls: spec.tls.as_ref() };
    let nats = NatsPlan::plan(fields.part(), connection);
    let mut planning = Planning { origin: place.origin, spec, fields };
    let read = if spec.stream.is_some() { planning.stream() } else { planning.subject() };
    let content_type = planning.fields.content_type(spec.content_type.as_deref());
    let nats = nats.filter(|_| planning.fields.is_sound())?;
    Some(NatsSourcePlan { nats, read, content_type })
}

struct Planning<'a> {
    origin: &'a Origin,
    spec: &'a NatsSource,
    fields: Fields<'a>,
}

impl Planning<'_> {
    fn subject(&mut self) -> Read {
        let spec = self.spec;
        for (field, is_set) in [("consumer", spec.consumer.is_some()), ("startAt", spec.start_at.is_some())] {
            if is_set {
                let message = format!("`{field}` has no effect on a subject");
                self.fields.warning(field, message, "add `stream`, or remove it");
            }
        }
        let subject = spec.subject.clone().unwrap_or_default();
        if subject.is_empty() {
            self.fields.error("subject", "nothing to read is named", "write a `subject`, or a JetStream `stream`");
        } else {
            self.check_subject(&subject);
        }
        if let Some(group) = &spec.queue_group
            && (group.is_empty() || group.contains(char::is_whitespace))
        {
            self.fields.error("queueGroup", format!("{group:?} is no queue group"), "write a name without spaces");
        }
        Read::Subject(SubjectPlan { subject, queue_group: spec.queue_group.clone() })
    }

    fn stream(&mut self) -> Read {
        let spec = self.spec;
        if spec.queue_group.is_some() {
            let message = "`queueGroup` has no effect on a stream: those who read with one `consumer` share it";
            self.fields.warning("queueGroup", message, "remove it");
        }
        let stream = spec.stream.clone().unwrap_or_default();
        if !is_name(&stream) {
            self.fields.error("stream", format!("{stream:?} is no name of a stream"), NAME);
        }
        let source = &self.origin.event_source;
        // Dots separate a subject's parts, and no part of the name but the event's may hold `_`.
        let own = || format!("{}_{}_{}", source.namespace, source.name, self.origin.event).replace('.', "__");
        let consumer = spec.consumer.clone().unwrap_or_else(own);
        if !is_name(&consumer) {
            self.fields.error("consumer", format!("{consumer:?} is no name of a consumer"), NAME);
        }
        if let Some(subject) = &spec.subject {
            self.check_subject(subject);
        }
        let (subject, start_at) = (spec.subject.clone(), spec.start_at.unwrap_or_default());
        Read::Stream(StreamPlan { stream, consumer, subject, start_at })
    }

    fn check_subject(&mut self, subject: &str) {
        let mut tokens = subject.split('.').peekable();
        let mut sound = !subject.contains(|c: char| c.is_whitespace() || c.is_control());
        while let Some(token) = tokens.next() {
            sound &= !token.is_empty() && (token != ">" || tokens.peek().is_none());
        }
        if !sound {
            let hint = "tokens between dots; `*` stands for one, `>` at the end for all that follow";
            self.fields.error("subject", format!("{subject:?} is no subject"), hint);
        }
    }
}

const NAME: &str = "letters, digits, `-` and `_`";

/// Whether JetStream takes a name.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.contains(|c: char| ".*>/\\".contains(c) || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests;
