//! What is ready, what waits, and why: the answer of `/readyz`.

use std::collections::BTreeMap;
use std::fmt;

use evoke_eventbus::subscription::sharing::Allotment;

/// One part of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// `bus`, `source`, `sink`, `trigger` or `function`.
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
        Self { parts: vec![Part::new("evoke", "run".into(), Some("starting".into()))] }
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
