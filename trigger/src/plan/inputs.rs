//! Inputs: names to topics.

use std::collections::BTreeSet;

use evoke_api::catalog::{BusName, Catalog};
use evoke_api::events::{EventSourceSpec, Input, TriggerSpec};
use evoke_api::names::{ObjectName, TopicName, is_event_name};
use evoke_api::problem::{FieldPath, Problem};

use super::missing;
use crate::condition::closest;

/// One input as far as it could be planned. The name alone is enough for conditions to be checked.
pub(super) struct PlannedInput<'a> {
    pub(super) name: &'a str,
    pub(super) topic: Option<TopicName>,
}

/// Plans the inputs, in their order.
pub(super) fn plan<'a>(
    trigger: &ObjectName,
    spec: &'a TriggerSpec,
    bus: Option<&BusName>,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> Vec<PlannedInput<'a>> {
    let path = FieldPath::spec().key("inputs");
    if spec.inputs.is_empty() {
        let error = Problem::error(path.clone(), "a Trigger needs an input");
        problems.push(error.hint("add `name: {eventSource: ..., event: ...}`"));
    }
    let mut planned = Vec::with_capacity(spec.inputs.len());
    for (name, input) in &spec.inputs {
        let path = path.key(name);
        check_name(name, &path, problems);
        let mut planning = Planning { trigger, bus, catalog, path: &path, problems };
        planned.push(PlannedInput { name, topic: planning.topic(input) });
    }
    planned
}

fn check_name(name: &str, path: &FieldPath, problems: &mut Vec<Problem>) {
    if !is_event_name(name) {
        let error = Problem::error(path.clone(), format!("{name:?} is no name for an input"));
        problems.push(error.hint("letters, digits, and between them - and _, at most 63"));
    } else if name == "event" {
        let warning = Problem::warning(path.clone(), "this input hides `event`, the event at hand, in conditions");
        problems.push(warning.hint("rename the input if a condition is to read the event at hand"));
    }
}

struct Planning<'a> {
    trigger: &'a ObjectName,
    bus: Option<&'a BusName>,
    catalog: &'a Catalog,
    path: &'a FieldPath,
    problems: &'a mut Vec<Problem>,
}

impl Planning<'_> {
    fn topic(&mut self, input: &Input) -> Option<TopicName> {
        match (&input.event_source, &input.event, &input.topic) {
            (Some(event_source), Some(event), None) => self.event(input, event_source, event),
            (None, None, Some(topic)) => self.named(input, topic),
            (_, _, Some(_)) => {
                let other = if input.event_source.is_some() { "eventSource" } else { "event" };
                let message = format!("an input is an event or a topic: `topic` does not go with `{other}`");
                self.problems.push(Problem::error(self.path.key("topic"), message).hint("keep one of them"));
                None
            }
            (None, None, None) => {
                let error = Problem::error(self.path.clone(), "an input that is nothing");
                self.problems.push(error.hint("name an `eventSource` and its `event`, or a `topic`"));
                None
            }
            (Some(_), None, None) => {
                self.problems.push(
                    Problem::error(self.path.clone(), "`event` is missing")
                        .hint("name the event under which the EventSource declares it"),
                );
                None
            }
            (None, Some(_), None) => {
                let error = Problem::error(self.path.clone(), "`eventSource` is missing");
                self.problems.push(error.hint("name the EventSource that declares the event"));
                None
            }
        }
    }

    fn namespace<'b>(&'b self, input: &'b Input) -> &'b str {
        // To OpenFunction, an empty text is one that is not set.
        input.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(&self.trigger.namespace)
    }

    fn event(&mut self, input: &Input, event_source: &str, event: &str) -> Option<TopicName> {
        let name = ObjectName::new(self.namespace(input), event_source);
        let topic = TopicName::event(&name, event);
        let Some(spec) = self.catalog.event_sources.get(&name) else {
            let known = self.catalog.event_sources.keys();
            let there = known.clone().filter(|known| known.namespace == name.namespace).map(|known| &*known.name);
            let elsewhere = known.clone().find(|known| *known.name == *event_source);
            let path = self.path.key("eventSource");
            let message = format!("there is no EventSource {event_source:?} in namespace {}", name.namespace);
            let problem = missing(self.catalog, path, message);
            let written = self.written(&name, event);
            self.problems.push(match (written, closest(event_source, there), elsewhere) {
                (Some(written), ..) => problem.hint(written),
                (None, _, Some(elsewhere)) => problem.hint(format!("add `namespace: {}`", elsewhere.namespace)),
                (None, Some(meant), None) => problem.hint(format!("did you mean `{meant}`")),
                (None, None, None) => problem.hint("declare it, or name one that is declared"),
            });
            return self.catalog.partial.then_some(topic);
        };
        let events = events(spec);
        if !events.contains(event) {
            let message = format!("EventSource {name} has no event {event:?}");
            let hint = match (self.written(&name, event), closest(event, events.iter().copied())) {
                (Some(written), _) => written,
                (None, Some(meant)) => format!("did you mean `{meant}`"),
                (None, None) => format!("it has {}", listed(&events)),
            };
            self.problems.push(Problem::error(self.path.key("event"), message).hint(hint));
            return None;
        }
        self.check_bus(&name, spec, "eventSource");
        Some(topic)
    }

    /// How to read what a Trigger publishes under OpenFunction's name of an event's topic: to OpenFunction, that is the event's topic.
    fn written(&self, event_source: &ObjectName, event: &str) -> Option<String> {
        let alias = alias(event_source, event);
        let writes =
            |spec: &TriggerSpec| spec.subscribers.iter().any(|subscriber| subscriber.topic.as_ref() == Some(&alias));
        let (writer, _) = self.catalog.triggers.iter().find(|(_, spec)| writes(spec))?;
        let namespace = match writer.namespace == self.trigger.namespace {
            true => String::new(),
            false => format!(", namespace: {}", writer.namespace),
        };
        Some(format!(
            "Trigger {writer} publishes on a topic of that name, which is read as `{{topic: {alias}{namespace}}}`"
        ))
    }

    /// A Trigger reads one bus, so that is where its events have to be.
    fn check_bus(&mut self, name: &ObjectName, spec: &EventSourceSpec, field: &str) {
        let path = self.path.key(field);
        let Some(source_bus) = spec.event_bus.as_deref().filter(|bus| !bus.is_empty()) else {
            let error = Problem::error(path, format!("EventSource {name} publishes on no bus, only to its sink"));
            self.problems.push(error.hint("give it an `eventBus`"));
            return;
        };
        let found = self.catalog.find_bus(&name.namespace, source_bus).map(|(bus, _)| bus);
        let (Some(theirs), Some(ours)) = (found, self.bus) else { return };
        // Where the rest is elsewhere, what is declared nowhere here may be one ClusterEventBus.
        let may_be_one = self.catalog.partial && matches!((&theirs, ours), (BusName::Default(_), BusName::Default(_)));
        if theirs != *ours && !may_be_one {
            let message = format!(
                "EventSource {name} publishes on {}, and this Trigger reads {}",
                spelled(&theirs),
                spelled(ours)
            );
            let hint = match name.namespace == self.trigger.namespace {
                true => "let both name the same bus",
                false => "let both name one ClusterEventBus",
            };
            self.problems.push(Problem::error(path, message).hint(hint));
        }
    }

    /// A topic by its name; OpenFunction's alias of an event's topic is taken as well.
    fn named(&mut self, input: &Input, topic: &str) -> Option<TopicName> {
        let path = self.path.key("topic");
        if topic.is_empty() || topic.chars().any(|c| c.is_whitespace() || c.is_control()) {
            self.problems.push(Problem::error(path, format!("{topic:?} is no name for a topic")));
            return None;
        }
        let aliased = aliased(self.catalog, topic);
        let namespace = self.namespace(input);
        let named = TopicName::named(namespace, topic);
        let written = written_topics(self.catalog).contains(&named);
        let mut meanings: Vec<(String, TopicName)> = aliased
            .iter()
            .map(|(name, event)| (format!("event {event} of EventSource {name}"), TopicName::event(name, event)))
            .collect();
        if written || meanings.is_empty() {
            meanings.push((format!("the topic {topic} of namespace {namespace}"), named));
        }
        match meanings.as_slice() {
            [(_, topic)] => {
                for (name, _) in &aliased {
                    if let Some(spec) = self.catalog.event_sources.get(*name) {
                        self.check_bus(name, spec, "topic");
                    }
                }
                if !written && aliased.is_empty() && !self.catalog.partial {
                    let warning = Problem::warning(path, format!("nothing here publishes on the topic {topic}"));
                    self.problems.push(warning.hint("a subscriber's `topic`, a `deadLetterTopic` or a `reply` does"));
                }
                Some(topic.clone())
            }
            several => {
                let several: Vec<&str> = several.iter().map(|(meaning, _)| meaning.as_str()).collect();
                let error = Problem::error(path, format!("{topic:?} means {}", several.join(", and ")));
                self.problems.push(error.hint("name the `eventSource` and its `event` instead"));
                None
            }
        }
    }
}

/// OpenFunction's name of an event's topic.
fn alias(event_source: &ObjectName, event: &str) -> String {
    format!("{}-{}-{event}", event_source.namespace, event_source.name)
}

/// The events that are declared whose topic OpenFunction calls so.
pub(super) fn aliased<'a>(catalog: &'a Catalog, topic: &str) -> BTreeSet<(&'a ObjectName, &'a str)> {
    let sources = catalog.event_sources.iter();
    let declared = sources.flat_map(|(name, spec)| events(spec).into_iter().map(move |event| (name, event)));
    declared.filter(|(name, event)| alias(name, event) == topic).collect()
}

/// The names of an EventSource's events.
fn events(spec: &EventSourceSpec) -> BTreeSet<&str> {
    // Every field is named, so that a new kind of source cannot be left out.
    let EventSourceSpec {
        kafka,
        cron,
        redis,
        mqtt,
        webhook,
        nats,
        event_bus: _,
        log_level: _,
        sink: _,
        delivery: _,
        dead_letter_sink: _,
        dead_letter_topic: _,
        build: _,
    } = spec;
    let names = kafka.keys().chain(cron.keys()).chain(redis.keys()).chain(mqtt.keys()).chain(webhook.keys());
    names.chain(nats.keys()).map(String::as_str).collect()
}

/// The topics that manifests write by name.
fn written_topics(catalog: &Catalog) -> BTreeSet<TopicName> {
    let triggers = catalog.triggers.iter().flat_map(|(name, spec)| {
        spec.subscribers.iter().flat_map(move |subscriber| {
            let reply = subscriber.reply.as_ref().and_then(|reply| reply.topic.as_ref());
            let named = [subscriber.topic.as_ref(), subscriber.dead_letter_topic.as_ref(), reply];
            let named = named.into_iter().flatten().filter(|topic| !topic.is_empty());
            named.map(|topic| TopicName::named(&name.namespace, topic))
        })
    });
    let sources = catalog.event_sources.iter().filter_map(|(name, spec)| {
        let named = spec.dead_letter_topic.as_ref().filter(|topic| !topic.is_empty());
        named.map(|topic| TopicName::named(&name.namespace, topic))
    });
    triggers.chain(sources).collect()
}

fn listed(names: &BTreeSet<&str>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.iter().copied().collect::<Vec<_>>().join(", ") }
}

fn spelled(bus: &BusName) -> String {
    match bus {
        BusName::Namespaced(name) => format!("EventBus {name}"),
        BusName::Cluster(name) => format!("ClusterEventBus {name}"),
        BusName::Default(namespace) => format!("the default bus of namespace {namespace}"),
    }
}
