//! Decides for one subscriber which events are delivered.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_api::limits::JOIN_WINDOW;
use evoke_delivery::subscription::{Selector, Verdict};
use evoke_eventbus::bus::Record;
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::hash;

use crate::condition::{AtHand, Binding, Condition, Evaluation, Inputs, Outcome, Presence};
use crate::join::Window;
use crate::shared::Shared;

/// A condition with the memory that it needs: none where it only speaks of the event at hand.
pub(crate) struct ConditionSelector {
    condition: Condition,
    binding: Binding,
    shared: Arc<Shared>,
    topics: Vec<Vec<usize>>,
    window: Option<Window>,
}

impl ConditionSelector {
    /// A selector over topics, of each of which `topics` says which inputs its events are.
    pub(crate) fn new(condition: Condition, topics: Vec<Vec<usize>>, shared: Arc<Shared>) -> Self {
        let binding = Binding::new(&condition, shared.tree());
        let named = condition.named_inputs();
        let window = needs_window(&named, &topics).then(|| {
            let inputs = named.last().map_or(0, |last| last + 1);
            Window::new(JOIN_WINDOW, (0..inputs).map(|input| condition.reads_input(input)))
        });
        Self { condition, binding, shared, topics, window }
    }

    fn arrive(&mut self, topic: usize, record: &Record) {
        if let (Some(window), Some(inputs)) = (&mut self.window, self.topics.get(topic)) {
            inputs.iter().for_each(|input| window.arrive(*input, record));
        }
    }
}

/// True when an event of one topic can be judged by an event of another.
fn needs_window(named: &BTreeSet<usize>, topics: &[Vec<usize>]) -> bool {
    topics.len() > 1 && !named.is_empty()
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
        let here = self.topics.get(topic).map_or(&[][..], Vec::as_slice);
        let inputs = Standing { here, window: self.window.as_ref(), at: record.appended };
        let obtain = |event: &Event| self.shared.reading(event);
        let at_hand = AtHand::new(&record.event, &obtain);
        match Evaluation::new(&self.condition, &self.binding, &at_hand, &inputs).run() {
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
        hash(format!("{} {:?}", self.condition.text(), self.topics).as_bytes())
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
