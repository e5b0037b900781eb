//! Decides for one subscriber which events are delivered.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_api::limits::JOIN_WINDOW;
use evoke_api::names::TopicName;
use evoke_delivery::subscription::{Selector, Verdict};
use evoke_eventbus::bus::Record;
use evoke_eventbus::subscription::ledger::hash;

use crate::condition::{AtHand, Binding, Condition, Evaluation, Inputs, Outcome, Presence};
use crate::join::Window;
use crate::json::Tree;
use crate::shared::{Member, Readings};

/// A condition with the memory that it needs: none where it only speaks of the event at hand.
pub(crate) struct ConditionSelector {
    condition: Condition,
    topics: Vec<Topic>,
    /// For the events in the window.
    binding: Binding,
    window: Option<Window>,
}

struct Topic {
    /// Which inputs its events are.
    inputs: Vec<usize>,
    member: Member,
}

impl ConditionSelector {
    /// A selector over topics, of each of which `topics` says which inputs its events are.
    pub(crate) fn new<'a>(
        condition: Condition,
        topics: impl IntoIterator<Item = (&'a TopicName, &'a Vec<usize>)>,
        readings: &Readings,
    ) -> Self {
        let tree = Arc::new(Tree::new(condition.paths().iter().map(Vec::as_slice)));
        let binding = Binding::new(&condition, &tree);
        let topic = |(name, inputs): (&TopicName, &Vec<usize>)| Topic {
            inputs: inputs.clone(),
            member: readings.join(name, &condition),
        };
        let topics: Vec<_> = topics.into_iter().map(topic).collect();
        let named = condition.named_inputs();
        let window = needs_window(&named, topics.len()).then(|| {
            let inputs = named.last().map_or(0, |last| last + 1);
            Window::new(JOIN_WINDOW, &tree, (0..inputs).map(|input| condition.reads_input(input)))
        });
        Self { condition, topics, binding, window }
    }

    fn arrive(&mut self, topic: usize, record: &Record) {
        if let (Some(window), Some(topic)) = (&mut self.window, self.topics.get(topic)) {
            topic.inputs.iter().for_each(|input| window.arrive(*input, record));
        }
    }
}

/// True when an event of one topic can be judged by an event of another.
fn needs_window(named: &BTreeSet<usize>, topics: usize) -> bool {
    topics > 1 && !named.is_empty()
}

struct Standing<'a> {
    here: &'a [usize],
    window: Option<&'a Window>,
    at: SystemTime,
}

impl Inputs for Standing<'_> {
    fn presence(&self, input: usize) -> Presence<'_> {
        if self.here.contains(&input) {
            return Presence::AtHand;
        }
        match self.window {
            Some(window) if window.has_arrived(input, self.at) => {
                window.reading(input).map_or(Presence::Unread, Presence::Earlier)
            }
            _ => Presence::Absent,
        }
    }
}

impl Selector for ConditionSelector {
    fn select(&mut self, topic: usize, record: &Record) -> Verdict {
        self.arrive(topic, record);
        let Some(Topic { inputs: here, member }) = self.topics.get_mut(topic) else {
            return Verdict::Error("it is of a topic that the subscription does not read".to_owned());
        };
        member.follow(&self.condition);
        let inputs = Standing { here, window: self.window.as_ref(), at: record.appended };
        let obtain = || member.reading(record);
        let at_hand = AtHand::new(&record.event, member.binding(), &obtain);
        match Evaluation::new(&self.condition, &at_hand, &self.binding, &inputs).run() {
            Outcome::True => Verdict::Match,
            Outcome::False => Verdict::NoMatch,
            Outcome::Waiting => Verdict::Waiting,
            Outcome::Error(why) => Verdict::Error(why),
        }
    }

    fn window(&self) -> Option<Duration> {
        self.window.as_ref().map(|_| JOIN_WINDOW)
    }

    fn fingerprint(&self) -> u64 {
        let inputs: Vec<_> = self.topics.iter().map(|topic| &topic.inputs).collect();
        hash(format!("{} {inputs:?}", self.condition.text()).as_bytes())
    }

    fn observe(&mut self, topic: usize, record: &Record) {
        self.arrive(topic, record);
    }
}

impl fmt::Debug for ConditionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionSelector").field("condition", &self.condition).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
