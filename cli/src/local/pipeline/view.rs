//! How a pipeline is doing, for those who ask.

use std::collections::BTreeMap;

use evoke_adapters::source::Status;
use evoke_api::names::SubscriptionId;
use evoke_eventbus::bus::Health;
use evoke_function::runtime as function;
use evoke_trigger::runtime::SubscriberStatus;
use tokio::sync::watch;

use super::{NotNow, Pipeline, Refused, RunningTrigger, Waiting, label};
use crate::api::board::Live;
use crate::local::readiness::{Part, Readiness};

impl Pipeline {
    /// What a change of it is at, while one is made.
    pub(crate) fn doing(&self) -> watch::Receiver<String> {
        self.doing.subscribe()
    }

    /// Shows those who ask how every subscription is that runs here.
    pub(crate) fn show(&self) {
        let mut live = BTreeMap::new();
        for (owner, running) in &self.triggers {
            for SubscriberStatus { subscriber, lane, ended, .. } in running.trigger.status() {
                let id = SubscriptionId { owner: owner.clone(), subscriber };
                live.insert(id, Live { lane, ended });
            }
        }
        for source in self.event_sources.values() {
            if let Some(sink) = source.sink() {
                live.insert(sink.of.id.clone(), Live { lane: sink.progress().snapshot(), ended: sink.over() });
            }
        }
        self.site.board.show(live);
    }

    /// Why this process cannot go on beside another one on a bus; `None` while it can.
    pub(crate) fn turned_away(&self) -> Option<Refused> {
        self.buses.iter().find_map(|(name, bus)| {
            let cause = bus.subscriptions.refused().borrow().as_deref()?.to_owned();
            Some(Refused { part: format!("bus {}", label(name)), cause })
        })
    }

    /// How every part is doing.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut parts = Vec::new();
        for (name, bus) in &self.buses {
            let waits = match &*bus.bus().health().borrow() {
                Health::Up => None,
                Health::Connecting(what) => Some(format!("connecting: {what}")),
                Health::Down(why) => Some(format!("down: {why}")),
                Health::Full(what) => Some(match &*bus.subscriptions.holder().borrow() {
                    Some(holder) => format!("full: {what}; subscription {} holds the most", holder.subscription),
                    None => format!("full: {what}"),
                }),
            };
            let waits = bus.subscriptions.refused().borrow().as_deref().map(str::to_owned).or(waits);
            parts.push(Part::new("bus", label(name), waits));
        }
        for source in self.event_sources.values() {
            for (plan, status) in source.sources() {
                let waits = match status {
                    Status::Up => None,
                    Status::Connecting(what) => Some(format!("connecting: {what}")),
                    Status::Down(why) => Some(format!("down: {why}")),
                };
                let name = format!("{}/{}", plan.origin.event_source, plan.origin.event);
                parts.push(Part::new("source", name, waits));
            }
            if let Some(sink) = source.sink() {
                let name = source.plan().name.to_string();
                let waits = sink.waits_for();
                let subscribers = [(SubscriptionId::SINK.to_owned(), sink.progress().allotment())].into();
                parts.push(Part { subscribers, ..Part::new("sink", name, waits) });
            }
        }
        for (name, RunningTrigger { trigger, .. }) in &self.triggers {
            let status = trigger.status().into_iter();
            let subscribers = status.map(|status| (status.subscriber.to_string(), status.allotment)).collect();
            parts.push(Part { subscribers, ..Part::new("trigger", name.to_string(), trigger.waits_for()) });
        }
        for Waiting { kind, name, cause } in &self.waiting {
            let (NotNow::Away(cause) | NotNow::Refused(cause)) = cause;
            parts.push(Part::new(kind, name.to_string(), Some(cause.clone())));
        }
        for (name, function) in &self.functions {
            let waits = match &function.handle.status().borrow().state {
                function::State::Ready { .. } => None,
                function::State::Starting { why } => Some(format!("starting: {why}")),
                function::State::Failed { cause } => Some(format!("failed: {cause}")),
                function::State::Stopped => Some("stopped".to_owned()),
            };
            parts.push(Part::new("function", name.to_string(), waits));
        }
        Readiness { parts }
    }
}
