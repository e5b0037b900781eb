//! An EventSource's spec and what it refers to, as a validated plan, or as everything that is wrong with them.

use std::collections::BTreeMap;

use evoke_adapters::cron;
use evoke_adapters::plan::{SourcePlan, kafka, mqtt, nats, redis};
use evoke_adapters::source::{Origin, Place};
use evoke_adapters::webhook::{self, WebhookPlan};
use evoke_api::catalog::{BusName, Catalog};
use evoke_api::credentials::Vault;
use evoke_api::events::{Attributes, EventSourceSpec};
use evoke_api::names::{ObjectName, SubscriptionId, TopicName, is_event_name};
use evoke_api::problem::{FieldPath, Planned, Problem};
use evoke_delivery::plan::{DeadLetterPlan, SubscriptionPlan, plan_dead_letter, plan_policy, plan_sink};
use evoke_eventbus::event::Event;

/// An EventSource, validated. Two are equal when they do the same.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSourcePlan {
    /// The EventSource.
    pub name: ObjectName,
    /// The bus it publishes on.
    pub bus: Option<BusName>,
    /// Its events, in the order of the manifest.
    pub events: Vec<EventPlan>,
    /// Its own sink: a subscription to all its events where there is a bus, else what its sources deliver to.
    pub sink: Option<SubscriptionPlan>,
    /// Where what cannot be an event goes.
    pub dead_letter: DeadLetterPlan,
}

/// One event of an EventSource.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPlan {
    /// Which one.
    pub origin: Origin,
    /// Where it is published.
    pub topic: TopicName,
    /// Where it comes from.
    pub source: SourcePlan,
}

impl EventSourcePlan {
    /// Its sources, each with the event that it makes.
    pub fn sources(&self) -> impl Iterator<Item = (&Origin, &SourcePlan)> {
        self.events.iter().map(|event| (&event.origin, &event.source))
    }

    /// The webhooks among its sources.
    pub fn webhooks(&self) -> impl Iterator<Item = &WebhookPlan> {
        self.events.iter().filter_map(|event| match &event.source {
            SourcePlan::Webhook(plan) => Some(plan),
            SourcePlan::Kafka(_)
            | SourcePlan::Cron(_)
            | SourcePlan::Redis(_)
            | SourcePlan::Mqtt(_)
            | SourcePlan::Nats(_) => None,
        })
    }
}

/// Plans an EventSource. Everything that is wrong is found in one go.
pub fn plan(
    name: &ObjectName,
    spec: &EventSourceSpec,
    catalog: &Catalog,
    vault: &dyn Vault,
) -> Planned<EventSourcePlan> {
    let mut planning =
        Planning { name, catalog, vault, seen: BTreeMap::new(), problems: Vec::new(), not_here: Vec::new() };
    let bus = planning.bus(spec);
    let events = planning.events(spec);
    let (sink, dead_letter) = planning.sink(spec, bus.is_some(), &events);
    planning.without_effect(spec);
    let Planning { problems, not_here, .. } = planning;
    let plan = dead_letter.map(|dead_letter| EventSourcePlan { name: name.clone(), bus, events, sink, dead_letter });
    Planned::new(plan, problems).not_here(not_here)
}

struct Planning<'a> {
    name: &'a ObjectName,
    catalog: &'a Catalog,
    vault: &'a dyn Vault,
    seen: BTreeMap<String, &'static str>,
    problems: Vec<Problem>,
    not_here: Vec<Problem>,
}

impl Planning<'_> {
    fn bus(&mut self, spec: &EventSourceSpec) -> Option<BusName> {
        let Some(bus) = non_empty(spec.event_bus.as_ref()) else {
            if spec.sink.is_none() {
                let problem = Problem::error(
                    FieldPath::spec(),
                    "events would go nowhere: there is neither `eventBus` nor `sink`",
                );
                self.problems.push(problem.hint("add `eventBus: default`, or a `sink`"));
            }
            return None;
        };
        if let Some((found, _)) = self.catalog.find_bus(&self.name.namespace, bus) {
            return Some(found);
        }
        let message =
            format!("there is no EventBus {bus:?} in namespace {}, and no such ClusterEventBus", self.name.namespace);
        let path = FieldPath::spec().key("eventBus");
        let hint = "declare one, with `embedded: {}` for example";
        if self.catalog.partial {
            self.problems.push(Problem::warning(path, message).hint(hint));
            return Some(BusName::Namespaced(ObjectName::new(self.name.namespace.clone(), bus.as_str())));
        }
        self.problems.push(Problem::error(path, message).hint(hint));
        None
    }

    fn events(&mut self, spec: &EventSourceSpec) -> Vec<EventPlan> {
        let mut events = Vec::new();
        for (event, source) in &spec.kafka {
            let planned = self.event("kafka", event, &source.attributes, |place, problems| {
                kafka::plan(place, source, problems).map(SourcePlan::Kafka)
            });
            events.extend(planned);
        }
        for (event, source) in &spec.cron {
            let planned = self.event("cron", event, &source.attributes, |place, problems| {
                cron::plan(place, source, problems).map(SourcePlan::Cron)
            });
            if source.catch_up.is_some() && non_empty(spec.event_bus.as_ref()).is_none() {
                let path = FieldPath::spec().key("cron").key(event).key("catchUp");
                let warning = Problem::warning(path, "`catchUp` has no effect: the last tick is remembered on a bus");
                self.problems.push(warning.hint("add `eventBus`"));
            }
            events.extend(planned);
        }
        for (event, source) in &spec.redis {
            let planned = self.event("redis", event, &source.attributes, |place, problems| {
                redis::plan(place, source, problems).map(SourcePlan::Redis)
            });
            events.extend(planned);
        }
        for (event, source) in &spec.mqtt {
            let planned = self.event("mqtt", event, &source.attributes, |place, problems| {
                mqtt::plan(place, source, problems).map(SourcePlan::Mqtt)
            });
            events.extend(planned);
        }
        for (event, source) in &spec.nats {
            let planned = self.event("nats", event, &source.attributes, |place, problems| {
                nats::plan(place, source, problems).map(SourcePlan::Nats)
            });
            events.extend(planned);
        }
        for (event, source) in &spec.webhook {
            let planned = self.event("webhook", event, &source.attributes, |place, problems| {
                webhook::plan(place, source, problems).map(SourcePlan::Webhook)
            });
            events.extend(planned);
        }
        if self.seen.is_empty() {
            let problem = Problem::error(FieldPath::spec(), "the EventSource has no events");
            self.problems.push(problem.hint("add one under `kafka`, `cron`, `redis`, `mqtt`, `nats` or `webhook`"));
        }
        events
    }

    /// Checks what all kinds have in common, then has the kind plan its part.
    fn event(
        &mut self,
        kind: &'static str,
        event: &str,
        attributes: &Attributes,
        plan: impl FnOnce(&Place<'_>, &mut Vec<Problem>) -> Option<SourcePlan>,
    ) -> Option<EventPlan> {
        self.name_event(kind, event);
        let path = FieldPath::spec().key(kind).key(event);
        let origin = Origin { event_source: self.name.clone(), event: event.into(), attributes: attributes.clone() };
        self.attributes(attributes, &path.key("attributes"));
        let place = Place { origin: &origin, path: &path, vault: self.vault };
        let source = plan(&place, &mut self.problems)?;
        self.not_here.extend(source.lacks().map(|feature| Problem::not_built(path.clone(), feature)));
        let topic = TopicName::event(self.name, event);
        Some(EventPlan { origin, topic, source })
    }

    fn name_event(&mut self, kind: &'static str, event: &str) {
        let path = FieldPath::spec().key(kind).key(event);
        if !is_event_name(event) {
            let problem = Problem::error(path.clone(), format!("{event:?} is no name for an event"));
            self.problems.push(problem.hint("letters, digits, and between them - and _, at most 63"));
        }
        if let Some(other) = self.seen.insert(event.to_owned(), kind) {
            let problem = Problem::error(path, format!("the event {event:?} is also under `{other}`"));
            self.problems.push(problem.hint("Triggers name an event without its kind: rename one of the two"));
        }
    }

    fn attributes(&mut self, attributes: &Attributes, path: &FieldPath) {
        for (name, value) in attributes {
            if ["id", "specversion", "datacontenttype"].contains(&name.as_str()) {
                let hint = "use `contentType` for the content type; the others are the event's own";
                self.problems.push(Problem::error(path.key(name), format!("`{name}` cannot be set")).hint(hint));
            } else if let Err(error) = Event::builder("id", "/", "t").attribute(name, value).build() {
                self.problems.push(Problem::error(path.key(name), error.to_string()));
            }
        }
    }

    fn sink(
        &mut self,
        spec: &EventSourceSpec,
        has_bus: bool,
        events: &[EventPlan],
    ) -> (Option<SubscriptionPlan>, Option<DeadLetterPlan>) {
        let (namespace, path) = (&*self.name.namespace, FieldPath::spec());
        let dead_letter = plan_dead_letter(
            spec.dead_letter_sink.as_ref(),
            spec.dead_letter_topic.as_deref(),
            namespace,
            self.catalog,
            &path,
            &mut self.problems,
            &mut self.not_here,
        );
        let names_bus = non_empty(spec.event_bus.as_ref()).is_some();
        if non_empty(spec.dead_letter_topic.as_ref()).is_some() && !names_bus {
            let problem =
                Problem::error(path.key("deadLetterTopic"), "a topic needs a bus, and there is no `eventBus`");
            self.problems.push(problem.hint("add `eventBus`, or use `deadLetterSink`"));
        }
        let policy = plan_policy(spec.delivery.as_ref(), &path.key("delivery"), &mut self.problems);
        let Some(sink) = &spec.sink else {
            if spec.delivery.is_some() {
                let message = "`delivery` has no effect without `sink`";
                self.problems.push(Problem::warning(path.key("delivery"), message).hint("Triggers have their own"));
            }
            return (None, dead_letter);
        };
        if !has_bus && spec.dead_letter_sink.is_none() && !names_bus {
            let message = "without `eventBus` and `deadLetterSink`, an event that the sink refuses is tried for ever, and what \
                           cannot be an event is only logged";
            self.problems.push(Problem::warning(path.key("sink"), message).hint("add one of the two"));
        }
        if !has_bus {
            let set = [
                ("rateLimit", policy.rate_limit.is_some()),
                ("deduplicationWindow", policy.deduplication_window.is_some()),
            ];
            for (field, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
                let message = format!("`{field}` has no effect without `eventBus`");
                self.problems.push(Problem::warning(path.key("delivery").key(field), message));
            }
        }
        let path = path.key("sink");
        let sink = plan_sink(sink, namespace, self.catalog, &path, &mut self.problems, &mut self.not_here);
        let subscription = sink.zip(dead_letter.clone()).map(|(sink, dead_letter)| SubscriptionPlan {
            id: SubscriptionId { owner: self.name.clone(), subscriber: SubscriptionId::SINK.into() },
            topics: events.iter().map(|event| event.topic.clone()).collect(),
            sink: Some(sink),
            topic: None,
            reply: None,
            dead_letter,
            policy,
        });
        (subscription, dead_letter)
    }

    /// Warns of what OpenFunction accepts and neither it nor evoke acts on.
    fn without_effect(&mut self, spec: &EventSourceSpec) {
        let path = FieldPath::spec();
        if spec.log_level.is_some() {
            let warning = Problem::warning(path.key("logLevel"), "`logLevel` has no effect");
            self.problems.push(warning.hint("use -v and --log-format of `evoke run`"));
        }
        if spec.build.is_some() {
            self.problems.push(Problem::warning(path.key("build"), "`build` has no effect: sources are part of evoke"));
        }
    }
}

/// A text that is set. To OpenFunction, an empty one is not.
fn non_empty(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
