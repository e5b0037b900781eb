//! Subscribers: conditions to topics, and where events go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use chrono::DateTime;
use evoke_api::catalog::Catalog;
use evoke_api::events::{EventSourceSpec, JoinMode, Subscriber, TriggerSpec};
use evoke_api::limits::REPLY_HOPS;
use evoke_api::names::{ObjectName, SubscriptionId, TopicName, is_event_name};
use evoke_api::problem::{FieldPath, Problem};
use evoke_delivery::plan::{DeadLetterPlan, SubscriptionPlan, plan_dead_letter, plan_policy, plan_sink};
use evoke_eventbus::bus::From;
use evoke_eventbus::subscription::start::Start;
use evoke_eventbus::subscription::token::Token;

use super::inputs::{PlannedInput, aliased};
use super::{SubscriberPlan, never};
use crate::condition::Condition;

/// Plans the subscribers, in their order; those that cannot be are left out, with an error each.
pub(super) fn plan(
    trigger: &ObjectName,
    spec: &TriggerSpec,
    inputs: &[PlannedInput<'_>],
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
    not_here: &mut Vec<Problem>,
) -> Vec<SubscriberPlan> {
    let path = FieldPath::spec().key("subscribers");
    if spec.subscribers.is_empty() {
        let error = Problem::error(path.clone(), "a Trigger needs a subscriber");
        problems.push(error.hint("add one with a `condition` and a `sink`"));
    }
    let to_the_letter = spec.join.and_then(|join| join.mode) == Some(JoinMode::OpenFunction);
    let mut planning = Planning { trigger, inputs, catalog, to_the_letter, names: BTreeMap::new(), problems, not_here };
    let mut planned = Vec::with_capacity(spec.subscribers.len());
    for (index, subscriber) in spec.subscribers.iter().enumerate() {
        let alone = spec.subscribers.len() == 1;
        planned.push(planning.subscriber(index, alone, subscriber, &path.index(index)));
    }
    let planned: Vec<SubscriberPlan> = planned.into_iter().flatten().collect();
    // Where a subscriber could not be planned, what it would have read is not known.
    if planned.len() == spec.subscribers.len() {
        planning.unused_inputs(&planned);
    }
    planned
}

struct Planning<'a> {
    trigger: &'a ObjectName,
    inputs: &'a [PlannedInput<'a>],
    catalog: &'a Catalog,
    to_the_letter: bool,
    names: BTreeMap<String, FieldPath>,
    problems: &'a mut Vec<Problem>,
    not_here: &'a mut Vec<Problem>,
}

impl Planning<'_> {
    fn subscriber(&mut self, index: usize, alone: bool, spec: &Subscriber, path: &FieldPath) -> Option<SubscriberPlan> {
        let name = self.name(index, alone, spec, path);
        let condition = self.condition(spec, path);
        // To OpenFunction, an empty text is one that is not set.
        let topic = spec.topic.as_deref().filter(|topic| !topic.is_empty());
        if spec.sink.is_none() && topic.is_none() {
            let error = Problem::error(path.clone(), "matching events would go nowhere");
            self.problems.push(error.hint("add a `sink`, a `topic`, or both"));
        }
        let namespace = &*self.trigger.namespace;
        let sink = spec
            .sink
            .as_ref()
            .map(|sink| plan_sink(sink, namespace, self.catalog, &path.key("sink"), self.problems, self.not_here));
        let topic = topic.and_then(|topic| {
            self.warn_of_alias(topic, &path.key("topic"));
            self.topic(topic, &path.key("topic"))
        });
        let dead_letter = plan_dead_letter(
            spec.dead_letter_sink.as_ref(),
            spec.dead_letter_topic.as_deref(),
            namespace,
            self.catalog,
            path,
            self.problems,
            self.not_here,
        );
        let policy = plan_policy(spec.delivery.as_ref(), &path.key("delivery"), self.problems);
        let start = self.start(spec, path);
        let reply = self.reply(spec, path);
        if spec.transform.is_some() {
            self.problems.push(Problem::warning(path.key("transform"), "`transform` has no effect yet"));
        }
        let condition = condition?;
        let (topics, inputs) = self.topics(&condition)?;
        let is_other = |input: &PlannedInput<'_>| input.topic.as_ref().is_some_and(|topic| !topics.contains(topic));
        let are_others = self.inputs.iter().any(is_other);
        self.problems.extend(never::warning(&condition, &inputs, are_others, &path.key("condition")));
        self.warn_of_loops(&topics, topic.as_ref(), &dead_letter, path);
        if let Some(reply) = reply.as_ref().filter(|reply| topics.contains(reply)) {
            let message = format!("this subscriber reads the topic {reply} that its replies go to");
            let hint =
                format!("let the condition tell them apart: after {REPLY_HOPS} replies in a row the next is cut");
            self.problems.push(Problem::warning(path.key("reply").key("topic"), message).hint(hint));
        }
        self.check_offsets(&start, &topics, path);
        let id = SubscriptionId { owner: self.trigger.clone(), subscriber: name? };
        let sink = match sink {
            Some(planned) => Some(planned?),
            None => None,
        };
        let subscription = SubscriptionPlan { id, topics, sink, topic, reply, dead_letter: dead_letter?, policy };
        Some(SubscriberPlan { subscription, condition, inputs, start })
    }

    fn name(&mut self, index: usize, alone: bool, spec: &Subscriber, path: &FieldPath) -> Option<Arc<str>> {
        let path = path.key("name");
        let Some(name) = &spec.name else {
            if !alone {
                let message = format!("this subscriber keeps its position under its place in the list, {index}");
                let hint = "give it a `name`, or it takes over another's position when the list changes";
                self.problems.push(Problem::warning(path.clone(), message).hint(hint));
            }
            return self.unique(index.to_string(), path);
        };
        if !is_event_name(name) {
            let error = Problem::error(path, format!("{name:?} is no name for a subscriber"));
            self.problems.push(error.hint("letters, digits, and between them - and _, at most 63"));
            return None;
        }
        self.unique(name.clone(), path)
    }

    fn unique(&mut self, name: String, path: FieldPath) -> Option<Arc<str>> {
        if let Some(other) = self.names.get(&name) {
            let message = format!("two subscribers are called {name:?}, here and at {other}");
            self.problems.push(Problem::error(path, message).hint("they would share one position: rename one"));
            return None;
        }
        let namesake = self.catalog.event_sources.get(self.trigger).filter(|_| name == SubscriptionId::SINK);
        let has_bus = |source: &EventSourceSpec| source.event_bus.as_ref().is_some_and(|bus| !bus.is_empty());
        if namesake.is_some_and(|source| source.sink.is_some() && has_bus(source)) {
            let message = format!("{name:?} is what the EventSource of this Trigger's name calls its own sink");
            self.problems.push(Problem::error(path, message).hint("they would share one position: rename one"));
            return None;
        }
        let shared = name.as_str().into();
        self.names.insert(name, path);
        Some(shared)
    }

    fn condition(&mut self, spec: &Subscriber, path: &FieldPath) -> Option<Condition> {
        let names: Vec<&str> = self.inputs.iter().map(|input| input.name).collect();
        match Condition::compile(&spec.condition, &names) {
            Ok(condition) => Some(condition),
            Err(errors) => {
                self.problems.extend(errors.into_iter().map(|error| {
                    let problem = Problem::error(path.key("condition"), error.headline());
                    match error.hint {
                        Some(hint) => problem.hint(hint),
                        None => problem,
                    }
                }));
                None
            }
        }
    }

    /// The topics that a condition needs, each once, and which inputs each of them is. `None` where an input has no topic.
    fn topics(&self, condition: &Condition) -> Option<(Vec<TopicName>, Vec<Vec<usize>>)> {
        let named = condition.named_inputs();
        let all = self.to_the_letter || condition.reads_event() || named.is_empty();
        let (mut topics, mut of_topics) = (Vec::new(), Vec::<Vec<usize>>::new());
        for (index, input) in self.inputs.iter().enumerate() {
            if !all && !named.contains(&index) {
                continue;
            }
            let topic = input.topic.clone()?;
            match topics.iter().position(|known| *known == topic) {
                Some(place) => of_topics.get_mut(place)?.push(index),
                None => {
                    topics.push(topic);
                    of_topics.push(vec![index]);
                }
            }
        }
        Some((topics, of_topics))
    }

    fn topic(&mut self, topic: &str, path: &FieldPath) -> Option<TopicName> {
        if topic.is_empty() || topic.len() > 200 || topic.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let error = Problem::error(path.clone(), format!("{topic:?} is no name for a topic"));
            self.problems.push(error.hint("letters, digits, -, _ and dots"));
            return None;
        }
        Some(TopicName::named(&self.trigger.namespace, topic))
    }

    /// OpenFunction has one topic where evoke has two: that of an event, and the one that is called so.
    fn warn_of_alias(&mut self, topic: &str, path: &FieldPath) {
        for (event_source, event) in aliased(self.catalog, topic) {
            let message = format!(
                "inputs that name event {event} of EventSource {event_source} do not get what is published here"
            );
            let hint = "give the topic another name, and those that are to read it an input `{topic: NAME}`";
            self.problems.push(Problem::warning(path.clone(), message).hint(hint));
        }
    }

    fn reply(&mut self, spec: &Subscriber, path: &FieldPath) -> Option<TopicName> {
        let reply = spec.reply.as_ref()?;
        let path = path.key("reply");
        if spec.sink.is_none() {
            let error = Problem::error(path.clone(), "only a `sink` answers, and there is none");
            self.problems.push(error.hint("add a `sink`, or take `reply` away"));
        }
        let Some(topic) = &reply.topic else {
            let error = Problem::error(path, "the reply goes nowhere");
            self.problems.push(error.hint("name the `topic` that it is published on"));
            return None;
        };
        self.topic(topic, &path.key("topic"))
    }

    fn start(&mut self, spec: &Subscriber, path: &FieldPath) -> Start {
        let text = match spec.start_at.as_deref().map(str::trim) {
            None | Some("latest") => return From::Next.into(),
            Some("earliest") => return From::First.into(),
            Some(text) => text,
        };
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return From::Time(SystemTime::from(time)).into();
        }
        let tokens: Result<Vec<Token>, _> = text.split(',').map(|token| token.trim().parse()).collect();
        tokens.map(Start::Offsets).unwrap_or_else(|_| {
            let message = format!("{text:?} is no place to start at");
            let hint = "latest, earliest, a time such as 2026-01-02T03:04:05Z, or an offset that \
                        `evoke subscription list -o json` prints";
            self.problems.push(Problem::error(path.key("startAt"), message).hint(hint));
            From::Next.into()
        })
    }

    /// Offsets are of topics, which should be the ones that are read.
    fn check_offsets(&mut self, start: &Start, topics: &[TopicName], path: &FieldPath) {
        let Start::Offsets(tokens) = start else { return };
        let path = path.key("startAt");
        for Token { topic, .. } in tokens.iter().filter(|token| !topics.contains(&token.topic)) {
            let message = format!("an offset in the topic {topic}, which this subscriber does not read");
            self.problems.push(Problem::error(path.clone(), message).hint("take the offset of an input that it reads"));
        }
        for topic in topics.iter().filter(|topic| !tokens.iter().any(|token| token.topic == **topic)) {
            let message = format!("there is no offset for the topic {topic}, which starts at its tail");
            self.problems.push(Problem::warning(path.clone(), message).hint("add its offset, after a comma"));
        }
    }

    fn warn_of_loops(
        &mut self,
        topics: &[TopicName],
        topic: Option<&TopicName>,
        dead_letter: &Option<DeadLetterPlan>,
        path: &FieldPath,
    ) {
        let dead = match dead_letter {
            Some(DeadLetterPlan::Topic(topic)) => Some(topic),
            _ => None,
        };
        for (field, written) in [("topic", topic), ("deadLetterTopic", dead)] {
            if let Some(written) = written
                && topics.contains(written)
            {
                let message = format!("this subscriber reads the topic {written} that it publishes on");
                let hint = "an event that always matches goes round for ever: let the condition tell them apart";
                self.problems.push(Problem::warning(path.key(field), message).hint(hint));
            }
        }
    }

    fn unused_inputs(&mut self, planned: &[SubscriberPlan]) {
        for (index, input) in self.inputs.iter().enumerate() {
            let used = planned.iter().any(|subscriber| subscriber.inputs.iter().any(|inputs| inputs.contains(&index)));
            if !used {
                let path = FieldPath::spec().key("inputs").key(input.name);
                self.problems
                    .push(Problem::warning(path, "no condition names this input").hint("take it away, or name it"));
            }
        }
    }
}
