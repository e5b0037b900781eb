//! What a condition reads, each thing once.

use std::fmt;

use super::budget::Budget;
use super::library::Pattern;
use crate::json::Step;

/// Whose event is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The event at hand.
    Event,
    /// The latest event of an input.
    Input(usize),
}

/// What of it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An attribute or extension.
    Attribute(Box<str>),
    /// The data, at a path: its place in the condition's list of paths.
    Data(usize),
    /// All of it, as a map.
    Whole,
}

/// A variable of the rewritten condition.
#[derive(Debug)]
pub(super) enum Slot {
    /// Whether an input arrived.
    Arrived(usize),
    /// A value.
    Value(Subject, Part),
    /// Whether there is a value.
    Has(Subject, Part),
    /// A value, if there is one.
    Optional(Subject, Part),
    /// A regular expression that the condition spells out.
    Pattern(Pattern),
    /// What is left of the work that one evaluation may do.
    Budget,
}

impl Slot {
    /// Whose event the slot reads.
    pub(super) fn subject(&self) -> Option<Subject> {
        match self {
            Self::Value(subject, _) | Self::Has(subject, _) | Self::Optional(subject, _) => Some(*subject),
            Self::Arrived(_) | Self::Pattern(_) | Self::Budget => None,
        }
    }

    /// True when the slot is resolved from an event's data.
    pub(super) fn reads_data(&self) -> bool {
        match self {
            Self::Value(_, part) | Self::Has(_, part) | Self::Optional(_, part) => !matches!(part, Part::Attribute(_)),
            Self::Arrived(_) | Self::Pattern(_) | Self::Budget => false,
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Arrived(a), Self::Arrived(b)) => a == b,
            (Self::Value(a, p), Self::Value(b, q))
            | (Self::Has(a, p), Self::Has(b, q))
            | (Self::Optional(a, p), Self::Optional(b, q)) => a == b && p == q,
            (Self::Budget, Self::Budget) => true,
            _ => false,
        }
    }
}

/// The name of a slot as a CEL variable. No condition can spell it.
pub(super) fn variable(slot: usize) -> String {
    format!("@{slot}")
}

/// The slot of a variable, if it is one.
pub(super) fn slot_of(variable: &str) -> Option<usize> {
    variable.strip_prefix('@')?.parse().ok()
}

/// The slot of `slots` that is `slot`, added if need be.
pub(super) fn intern(slots: &mut Vec<Slot>, slot: Slot) -> usize {
    match slots.iter().position(|known| known.same(&slot)) {
        Some(place) => place,
        None => {
            slots.push(slot);
            slots.len() - 1
        }
    }
}

/// A slot as the condition spells it.
pub(super) struct Spelled<'a> {
    pub(super) slot: &'a Slot,
    pub(super) inputs: &'a [Box<str>],
    pub(super) paths: &'a [Vec<Step>],
}

impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let input = |input: usize| self.inputs.get(input).map_or("?", |name| name);
        let (subject, part) = match self.slot {
            Slot::Arrived(place) => return f.write_str(input(*place)),
            Slot::Value(subject, part) | Slot::Has(subject, part) | Slot::Optional(subject, part) => (subject, part),
            Slot::Pattern(pattern) => return write!(f, "{:?}", pattern.as_str()),
            Slot::Budget => return f.write_str(Budget::NAME),
        };
        f.write_str(match subject {
            Subject::Event => "event",
            Subject::Input(place) => input(*place),
        })?;
        match part {
            Part::Attribute(name) => write!(f, ".{name}"),
            Part::Data(path) => {
                f.write_str(".data")?;
                self.paths.get(*path).into_iter().flatten().try_for_each(|step| write!(f, "{step}"))
            }
            Part::Whole => Ok(()),
        }
    }
}
