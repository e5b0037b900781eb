//! A Trigger's spec and what it refers to, as a validated plan, or as everything that is wrong with them.

use std::sync::Arc;

use evoke_api::catalog::{BusName, Catalog};
use evoke_api::events::TriggerSpec;
use evoke_api::names::{ObjectName, TopicName};
use evoke_api::problem::{FieldPath, Planned, Problem};
use evoke_delivery::plan::SubscriptionPlan;
use evoke_delivery::subscription::Selector;
use evoke_eventbus::subscription::start::Start;

use crate::condition::{Condition, closest};
use crate::selector::ConditionSelector;
use crate::shared::Readings;

mod inputs;
mod never;
mod subscribers;

/// A Trigger, validated. Two are equal when they do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerPlan {
    /// The Trigger.
    pub name: ObjectName,
    /// The bus it reads and publishes on.
    pub bus: BusName,
    /// Its inputs, in the order of the manifest.
    pub inputs: Vec<InputPlan>,
    /// Its subscribers, likewise.
    pub subscribers: Vec<SubscriberPlan>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPlan {
    /// What conditions call it.
    pub name: Arc<str>,
    /// The topic that its events are on.
    pub topic: TopicName,
}

/// One subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberPlan {
    /// Where its events come from and go to: of the inputs, only the topics that its condition needs.
    pub subscription: SubscriptionPlan,
    /// Which of them it gets.
    pub condition: Condition,
    /// For each of the subscription's topics, which inputs its events are, by their places in [`TriggerPlan::inputs`].
    pub inputs: Vec<Vec<usize>>,
    /// Where a new subscription starts.
    pub start: Start,
}

impl TriggerPlan {
    /// What decides for each subscriber which events it gets, in the order of [`TriggerPlan::subscribers`].
    pub fn selectors(&self, readings: &Readings) -> Vec<Box<dyn Selector>> {
        self.subscribers.iter().map(|subscriber| subscriber.selector(readings)).collect()
    }
}

impl SubscriberPlan {
    /// What decides which events it gets. An event's data is parsed once for all whose `readings` are the same.
    pub fn selector(&self, readings: &Readings) -> Box<dyn Selector> {
        let topics = self.subscription.topics.iter().zip(&self.inputs);
        Box::new(ConditionSelector::new(self.condition.clone(), topics, readings))
    }
}

/// Plans a Trigger. Everything that is wrong is found in one go.
pub fn plan(name: &ObjectName, spec: &TriggerSpec, catalog: &Catalog) -> Planned<TriggerPlan> {
    let (mut problems, mut not_here) = (Vec::new(), Vec::new());
    let bus = plan_bus(name, spec, catalog, &mut problems);
    let inputs = inputs::plan(name, spec, bus.as_ref(), catalog, &mut problems);
    let subscribers = subscribers::plan(name, spec, &inputs, catalog, &mut problems, &mut not_here);
    if spec.log_level.is_some() {
        let warning = Problem::warning(FieldPath::spec().key("logLevel"), "`logLevel` has no effect");
        problems.push(warning.hint("use -v and --log-format of `evoke run`"));
    }
    let inputs = inputs.into_iter().map(|input| Some(InputPlan { name: input.name.into(), topic: input.topic? }));
    let plan = bus.zip(inputs.collect::<Option<Vec<_>>>()).map(|(bus, inputs)| TriggerPlan {
        name: name.clone(),
        bus,
        inputs,
        subscribers,
    });
    Planned::new(plan, problems).not_here(not_here)
}

fn plan_bus(name: &ObjectName, spec: &TriggerSpec, catalog: &Catalog, problems: &mut Vec<Problem>) -> Option<BusName> {
    let path = FieldPath::spec().key("eventBus");
    if spec.event_bus.is_empty() {
        problems.push(Problem::error(path, "an empty name").hint("name an EventBus or a ClusterEventBus"));
        return None;
    }
    if let Some((bus, _)) = catalog.find_bus(&name.namespace, &spec.event_bus) {
        return Some(bus);
    }
    let local = catalog.event_buses.keys().filter(|bus| bus.namespace == name.namespace).map(|bus| &*bus.name);
    let undeclared = catalog.default_bus.then_some("default");
    let candidates = local.chain(catalog.cluster_event_buses.keys().map(String::as_str)).chain(undeclared);
    let message = format!(
        "there is no EventBus {:?} in namespace {}, and no such ClusterEventBus",
        spec.event_bus, name.namespace
    );
    let hint = match closest(&spec.event_bus, candidates) {
        Some(meant) => format!("did you mean `{meant}`"),
        None => "declare one, with `embedded: {}` for example".to_owned(),
    };
    problems.push(missing(catalog, path, message).hint(hint));
    catalog.partial.then(|| BusName::Namespaced(ObjectName::new(name.namespace.clone(), spec.event_bus.as_str())))
}

/// A reference to nothing, which is only a warning where the rest is elsewhere.
fn missing(catalog: &Catalog, path: FieldPath, message: String) -> Problem {
    if catalog.partial { Problem::warning(path, message) } else { Problem::error(path, message) }
}

#[cfg(test)]
mod tests;
