//! Conditions that no event meets, as far as it depends on nothing but which inputs have arrived.

use std::sync::Arc;

use evoke_api::problem::{FieldPath, Problem};
use evoke_eventbus::event::Event;

use crate::condition::{AtHand, Binding, Condition, Evaluation, Inputs, Outcome, Presence};
use crate::json::Tree;
use crate::reading::Reading;

/// Of more topics, there are too many ways to have arrived to try them all.
const TOPICS: usize = 12;

/// When a condition is true that no event meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Never {
    /// While none of the inputs has arrived, which they have with the first event.
    BeforeTheFirst,
    /// At no time.
    AtAll,
}

/// Warns of a condition at `path` that no event meets; `topics` says of each topic that is read which inputs its events are, and
/// `are_others` whether the Trigger has further ones.
pub(super) fn warning(
    condition: &Condition,
    topics: &[Vec<usize>],
    are_others: bool,
    path: &FieldPath,
) -> Option<Problem> {
    let (why, hint) = match (never(condition, topics)?, are_others) {
        (Never::BeforeTheFirst, true) => (
            "it is true only while none of its inputs has arrived, and gets their events alone",
            "name the other input as well, whose events it is to get, or set `join: {mode: openFunction}`",
        ),
        (Never::BeforeTheFirst, false) => (
            "it is true only while none of its inputs has arrived, and gets their events alone",
            "add the input whose events it is to get, and name it",
        ),
        (Never::AtAll, _) => ("it is true of no inputs that have arrived", "correct it, or take the subscriber away"),
    };
    Some(Problem::warning(path.clone(), format!("this condition can never match: {why}")).hint(hint))
}

/// When a condition is true that no event meets. `None` for one that some event meets, that reads more than which inputs have
/// arrived, or that names none.
fn never(condition: &Condition, topics: &[Vec<usize>]) -> Option<Never> {
    let named = condition.named_inputs();
    let reads_more = condition.reads_event() || named.iter().any(|input| condition.reads_input(*input));
    // Without a dot there is no macro, and so no evaluation that takes long.
    if named.is_empty() || reads_more || topics.len() > TOPICS || condition.text().contains('.') {
        return None;
    }
    let event = Event::builder("any", "/", "any").build().ok()?;
    let tree = Arc::new(Tree::new(condition.paths().iter().map(Vec::as_slice)));
    let binding = Binding::new(condition, &tree);
    let obtain = || Arc::new(Reading::new(event.clone(), &tree));
    let at_hand = AtHand::new(&event, &binding, &obtain);
    let holds = |arrived: usize| {
        let inputs = Supposed { topics, arrived };
        Evaluation::new(condition, &at_hand, &binding, &inputs).run() == Outcome::True
    };
    if (1..1_usize << topics.len()).any(&holds) {
        return None;
    }
    Some(if holds(0) { Never::BeforeTheFirst } else { Never::AtAll })
}

/// The inputs as they would stand.
struct Supposed<'a> {
    topics: &'a [Vec<usize>],
    /// A bit for each topic of which an event has come.
    arrived: usize,
}

impl Inputs for Supposed<'_> {
    fn presence(&self, input: usize) -> Presence<'_> {
        let mut topics = self.topics.iter().enumerate().filter(|(_, inputs)| inputs.contains(&input));
        match topics.any(|(topic, _)| (self.arrived >> topic) & 1 == 1) {
            true => Presence::AtHand,
            false => Presence::Absent,
        }
    }
}
