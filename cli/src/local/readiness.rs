//! What is ready, what waits, and why: the answer of `/readyz`.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;

use evoke_eventbus::subscription::sharing::Allotment;

/// The kind of the part that all others are parts of.
const WHOLE: &str = "evoke";

/// One part of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// `bus`, `source`, `sink`, `trigger` or `function`; `evoke` for what is done to all of it.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What it waits for; `None` when it is up.
    pub waits: Option<String>,
    /// How each subscriber is divided between processes, and whether it is paused.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subscribers: BTreeMap<String, Allotment>,
}

impl Part {
    /// One without subscribers.
    pub fn new(kind: &'static str, name: String, waits: Option<String>) -> Self {
        Self { kind, name, waits, subscribers: BTreeMap::new() }
    }
}

/// Every part, in the order of the data path.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Readiness {
    /// The parts.
    pub parts: Vec<Part>,
}

impl Readiness {
    /// Before anything is known.
    pub fn starting() -> Self {
        Self { parts: vec![Part::new(WHOLE, "run".into(), Some("starting".into()))] }
    }

    /// The same while it is changed by `what`, which is at `doing`. What is known of the parts is from before, so that it is not
    /// ready.
    #[must_use]
    pub fn during(&self, what: &str, doing: &str) -> Self {
        let change = Part::new(WHOLE, what.to_owned(), Some(doing.to_owned()));
        let parts = self.parts.iter().filter(|part| part.kind != WHOLE).cloned();
        Self { parts: iter::once(change).chain(parts).collect() }
    }

    /// True when no part waits.
    pub fn is_ready(&self) -> bool {
        self.parts.iter().all(|part| part.waits.is_none())
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ready() {
            return writeln!(f, "ready");
        }
        for Part { kind, name, waits, .. } in &self.parts {
            if let Some(waits) = waits {
                writeln!(f, "{kind} {name}: {waits}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_ready_while_it_changes() {
        let up = Readiness { parts: vec![Part::new("bus", "default.default".into(), None)] };
        let during = up.during("reload", "opening bus default.second").during("reload", "changing trigger default/t");
        assert!(up.is_ready() && !during.is_ready());
        assert_eq!(during.to_string(), "evoke reload: changing trigger default/t\n");
        assert_eq!(during.parts[1..], up.parts);
    }
}
