//! A CEL condition: compiled once, when the manifest is read, into a plan that reads of each event only what it needs.
//!
//! ```text
//! text -> parse -> check limits -> rewrite: `event.data.a.b` becomes slot @0 -> check types -> lower to nodes
//! ```
//!
//! A slot is resolved when the evaluation comes to it, from the event itself or from the one pass over its JSON that all
//! conditions over its topic share. The common shapes (logic, comparisons of a slot) are evaluated here; everything else is
//! left to the `cel` crate, with the slots as its variables.

mod budget;
mod check;
mod evaluate;
mod library;
mod names;
mod node;
mod parse;
mod rewrite;
mod slot;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use evoke_api::limits;

pub(crate) use evaluate::{AtHand, Binding, Evaluation, Inputs, Outcome, Presence};
pub(crate) use names::closest;
use node::Node;
use slot::{Slot, Subject};

use crate::json::Step;

/// A compiled condition. Cloning shares it; two are equal when their text and their inputs are.
#[derive(Clone)]
pub struct Condition(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    inputs: Box<[Box<str>]>,
    program: Program,
}

/// What is evaluated.
struct Program {
    root: Node,
    slots: Vec<Slot>,
    paths: Vec<Vec<Step>>,
}

/// One thing that keeps a text from being a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// The line and column in the text, both from 1; `None` when the text as a whole is wrong.
    pub place: Option<(usize, usize)>,
    /// What is wrong, lowercase, without a full stop.
    pub message: String,
    /// The likely fix, likewise.
    pub hint: Option<String>,
}

impl CompileError {
    fn new(place: Option<(usize, usize)>, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The place and what is wrong there, without the likely fix.
    pub fn headline(&self) -> String {
        match self.place {
            Some((1, column)) => format!("column {column}: {}", self.message),
            Some((line, column)) => format!("line {line}, column {column}: {}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CompileError {}

impl Condition {
    /// Compiles a condition that may name `inputs`. The inputs are known by their places in this list from here on.
    ///
    /// # Errors
    /// Everything that is wrong with the text, at least one thing.
    pub fn compile(text: &str, inputs: &[&str]) -> Result<Self, Vec<CompileError>> {
        if text.trim().is_empty() {
            let hint = "write `true` for every event of the inputs";
            return Err(vec![CompileError::new(None, "an empty condition").hint(hint)]);
        }
        if text.len() > limits::CONDITION_BYTES {
            let message = format!("{} bytes, at most {} are allowed", text.len(), limits::CONDITION_BYTES);
            return Err(vec![CompileError::new(None, message).hint("split it over several subscribers")]);
        }
        let program = parse::on_a_large_stack(|| compile(text, inputs))?;
        let inputs = inputs.iter().map(|&name| name.into()).collect();
        Ok(Self(Arc::new(Compiled { text: text.into(), inputs, program })))
    }

    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The places of the inputs that the condition names.
    pub fn named_inputs(&self) -> BTreeSet<usize> {
        let named = |slot: &Slot| match slot {
            Slot::Arrived(input) => Some(*input),
            other => match other.subject() {
                Some(Subject::Input(input)) => Some(input),
                _ => None,
            },
        };
        self.0.program.slots.iter().filter_map(named).collect()
    }

    /// True when the condition reads `event`.
    pub fn reads_event(&self) -> bool {
        self.0.program.slots.iter().any(|slot| slot.subject() == Some(Subject::Event))
    }

    /// True when the condition reads anything of an input's latest event, beyond whether it arrived.
    pub(crate) fn reads_input(&self, input: usize) -> bool {
        self.0.program.slots.iter().any(|slot| slot.subject() == Some(Subject::Input(input)))
    }

    /// True when the condition reads the data of any event.
    pub(crate) fn reads_data(&self) -> bool {
        self.0.program.slots.iter().any(Slot::reads_data)
    }

    /// The paths into JSON that the condition names.
    pub(crate) fn paths(&self) -> &[Vec<Step>] {
        &self.0.program.paths
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.text == other.0.text && self.0.inputs == other.0.inputs)
    }
}

impl Eq for Condition {}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.0.text).finish()
    }
}

fn compile(text: &str, inputs: &[&str]) -> Result<Program, Vec<CompileError>> {
    let (expression, places) = parse::parse(text, inputs)?;
    let rewritten = rewrite::rewrite(expression, inputs, &places)?;
    check::check(&rewritten, inputs, &places)?;
    let root = node::lower(rewritten.expression, &rewritten.slots);
    Ok(Program { root, slots: rewritten.slots, paths: rewritten.paths })
}

#[cfg(test)]
mod tests;
