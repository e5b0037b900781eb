//! One evaluation: slots are resolved as they are come to.

use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use cel_interpreter::common::ast::LiteralValue;
use cel_interpreter::common::types::{CelBool, CelOptional};
use cel_interpreter::common::value::{CowVal, Val};
use cel_interpreter::context::VariableResolver;
use cel_interpreter::{Context, ExecutionError};
use evoke_eventbus::event::Event;

use super::Condition;
use super::budget::Budget;
use super::library::environment;
use super::node::{Node, Operand};
use super::slot::{Part, Slot, Spelled, Subject, slot_of};
use crate::json::{self, Tree};
use crate::reading::{Reading, Unreadable, attribute, has_attribute};
use crate::value::Value;

mod failure;

use failure::Failure;

/// What a condition says of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    True,
    False,
    /// It reads an input that has not arrived, and could not be decided without it.
    Waiting,
    /// It could not be decided; says why, without quoting data.
    Error(String),
}

/// A condition's paths as places in a tree of those of several.
#[derive(Debug)]
pub(crate) struct Binding {
    tree: Arc<Tree>,
    places: Box<[Place]>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    node: json::Node,
    parent: json::Node,
}

impl Binding {
    /// Finds the paths of `condition` in `tree`, which was made of them among others.
    pub(crate) fn new(condition: &Condition, tree: &Arc<Tree>) -> Self {
        let find = |path: &[json::Step]| tree.find(path).unwrap_or(json::Node::ROOT);
        let place = |path: &Vec<json::Step>| Place {
            node: find(path),
            parent: path.split_last().map_or(json::Node::ROOT, |(_, above)| find(above)),
        };
        Self { tree: Arc::clone(tree), places: condition.paths().iter().map(place).collect() }
    }

    /// The tree.
    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    fn place(&self, path: usize) -> Place {
        self.places.get(path).copied().unwrap_or(Place { node: json::Node::ROOT, parent: json::Node::ROOT })
    }
}

/// The event at hand, of which nothing is read until a slot asks for it.
pub(crate) struct AtHand<'a> {
    event: &'a Event,
    binding: &'a Binding,
    obtain: &'a (dyn Fn() -> Arc<Reading> + Sync),
    reading: OnceLock<Arc<Reading>>,
}

impl<'a> AtHand<'a> {
    /// `obtain` gives the event's reading, along the tree of `binding`. It is asked at most once.
    pub(crate) fn new(event: &'a Event, binding: &'a Binding, obtain: &'a (dyn Fn() -> Arc<Reading> + Sync)) -> Self {
        Self { event, binding, obtain, reading: OnceLock::new() }
    }

    fn reading(&self) -> &Reading {
        self.reading.get_or_init(|| (self.obtain)())
    }
}

/// Whether an input arrived, and with which event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Presence<'a> {
    /// Not within the window.
    Absent,
    /// With the event at hand.
    AtHand,
    /// With an earlier event.
    Earlier(&'a Reading),
    /// With an earlier event of which nothing is read.
    Unread,
}

/// The inputs as they stand when an event is judged.
pub(crate) trait Inputs: Sync {
    /// Whether an input arrived, by its place.
    fn presence(&self, input: usize) -> Presence<'_>;
}

#[derive(Clone, Copy)]
enum Source<'a> {
    AtHand(&'a AtHand<'a>),
    Earlier(&'a Reading),
}

impl<'a> Source<'a> {
    fn event(self) -> &'a Event {
        match self {
            Self::AtHand(at_hand) => at_hand.event,
            Self::Earlier(reading) => reading.event(),
        }
    }

    fn reading(self) -> &'a Reading {
        match self {
            Self::AtHand(at_hand) => at_hand.reading(),
            Self::Earlier(reading) => reading,
        }
    }
}

/// A condition, the event at hand, and the inputs as they stand.
pub(crate) struct Evaluation<'a> {
    condition: &'a Condition,
    at_hand: &'a AtHand<'a>,
    /// For earlier events.
    binding: &'a Binding,
    inputs: &'a dyn Inputs,
    budget: Budget,
    waited: AtomicBool,
}

impl<'a> Evaluation<'a> {
    /// `inputs` are in the order that the condition was compiled with; their earlier events are read along the tree of `binding`.
    pub(crate) fn new(
        condition: &'a Condition,
        at_hand: &'a AtHand<'a>,
        binding: &'a Binding,
        inputs: &'a dyn Inputs,
    ) -> Self {
        Self { condition, at_hand, binding, inputs, budget: Budget::new(), waited: AtomicBool::new(false) }
    }

    /// Evaluates the condition.
    pub(crate) fn run(&self) -> Outcome {
        match self.node(&self.condition.0.program.root) {
            Ok(true) => Outcome::True,
            Ok(false) => Outcome::False,
            Err(_) if self.waited.load(Ordering::Relaxed) => Outcome::Waiting,
            Err(failure) => Outcome::Error(self.explain(&failure)),
        }
    }

    fn node(&self, node: &Node) -> Result<bool, Failure> {
        match node {
            Node::Constant(value) => Ok(*value),
            Node::Slot(slot) => match self.value(*slot)? {
                Value::Bool(value) => Ok(value),
                other => Err(Failure::NotBool { slot: Some(*slot), kind: other.kind() }),
            },
            Node::Not(inner) => self.node(inner).map(|value| !value),
            Node::All(terms) => self.logic(terms, false),
            Node::Any(terms) => self.logic(terms, true),
            Node::If(parts) => {
                let [question, yes, no] = parts.as_ref();
                if self.node(question)? { self.node(yes) } else { self.node(no) }
            }
            Node::Compare(comparison, left, right) => {
                let compared = self.operand(left, |a| {
                    self.operand(right, |b| {
                        comparison.apply(a, b).ok_or((a.get_type().name().to_owned(), b.get_type().name().to_owned()))
                    })
                })??;
                compared.map_err(|(left, right)| Failure::NoOrder { sign: comparison.sign(), left, right })
            }
            Node::OneOf(value, literals) => {
                self.operand(value, |value| literals.iter().any(|literal| literal.to_val().equals(value)))
            }
            Node::Text(test, text, part) => {
                let method = test.name();
                self.text(text, method, |text| test.apply(text, part))
            }
            Node::Matches(text, pattern) => match self.slot(*pattern) {
                Some(Slot::Pattern(pattern)) => self.text(text, "matches", |text| pattern.is_match(text)),
                _ => Err(Failure::Broken),
            },
            Node::Cel(expression) => self.interpret(expression),
        }
    }

    /// `&&` and `||` as CEL has them: one side can decide, whatever the other comes to.
    fn logic(&self, terms: &[Node], decisive: bool) -> Result<bool, Failure> {
        let mut failed = None;
        for term in terms {
            match self.node(term) {
                Ok(value) if value == decisive => return Ok(decisive),
                Ok(_) => {}
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        failed.map_or(Ok(!decisive), Err)
    }

    fn operand<R>(&self, operand: &Operand, use_it: impl FnOnce(&dyn Val) -> R) -> Result<R, Failure> {
        match operand {
            Operand::Slot(slot) => Ok(self.value(*slot)?.with(use_it)),
            Operand::Literal(literal) => Ok(use_it(literal.to_val().as_ref())),
        }
    }

    fn text(&self, operand: &Operand, method: &'static str, test: impl FnOnce(&str) -> bool) -> Result<bool, Failure> {
        match operand {
            Operand::Slot(slot) => match self.value(*slot)? {
                Value::Text(text) => Ok(test(text)),
                other => Err(Failure::NoText { slot: *slot, method, kind: other.kind() }),
            },
            Operand::Literal(LiteralValue::String(text)) => Ok(test(text.inner())),
            Operand::Literal(_) => Err(Failure::Broken),
        }
    }

    fn interpret(&self, expression: &cel_interpreter::IdedExpr) -> Result<bool, Failure> {
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(environment()));
            context.set_variable_resolver(self);
            let value = cel_interpreter::Value::resolve_val(expression, &context).map_err(|e| self.failure(e))?;
            match value.downcast_ref::<CelBool>() {
                Some(value) => Ok(*value.inner()),
                None => Err(Failure::NotBool { slot: None, kind: value.get_type().name().to_owned() }),
            }
        };
        // The interpreter has a few panics of its own; none of them may take other subscribers along.
        panic::catch_unwind(panic::AssertUnwindSafe(evaluate)).unwrap_or(Err(Failure::Broken))
    }

    fn slot(&self, slot: usize) -> Option<&'a Slot> {
        self.condition.0.program.slots.get(slot)
    }

    fn source(&self, subject: Subject) -> Result<Source<'a>, Failure> {
        let Subject::Input(input) = subject else { return Ok(Source::AtHand(self.at_hand)) };
        match self.inputs.presence(input) {
            Presence::AtHand => Ok(Source::AtHand(self.at_hand)),
            Presence::Earlier(reading) => Ok(Source::Earlier(reading)),
            Presence::Absent | Presence::Unread => {
                self.waited.store(true, Ordering::Relaxed);
                Err(Failure::Waiting)
            }
        }
    }

    /// What a slot holds, other than the ones that only the interpreter asks for.
    fn value(&self, place: usize) -> Result<Value<'a>, Failure> {
        let unreadable = |why| Failure::Unreadable { slot: place, why };
        match self.slot(place).ok_or(Failure::Broken)? {
            Slot::Arrived(input) => Ok(Value::Bool(!matches!(self.inputs.presence(*input), Presence::Absent))),
            Slot::Value(subject, part) => {
                let source = self.source(*subject)?;
                let value = self.part(source, part).map_err(unreadable)?;
                if let Value::Container(container) = value
                    && !self.budget.charge(container.weight)
                {
                    return Err(Failure::Exhausted);
                }
                Ok(value)
            }
            Slot::Has(subject, part) => {
                let source = self.source(*subject)?;
                match part {
                    Part::Attribute(name) => Ok(Value::Bool(has_attribute(source.event(), name))),
                    Part::Data(path) => {
                        let Place { node, parent } = self.place(source, *path);
                        let has = source.reading().has_data(node, parent);
                        has.map(Value::Bool).map_err(unreadable)
                    }
                    Part::Whole => Ok(Value::Bool(true)),
                }
            }
            Slot::Optional(..) | Slot::Pattern(_) | Slot::Budget => Err(Failure::Broken),
        }
    }

    fn place(&self, source: Source<'a>, path: usize) -> Place {
        let binding = match source {
            Source::AtHand(at_hand) => at_hand.binding,
            Source::Earlier(_) => self.binding,
        };
        binding.place(path)
    }

    fn part(&self, source: Source<'a>, part: &Part) -> Result<Value<'a>, Unreadable> {
        match part {
            Part::Attribute(name) => attribute(source.event(), name),
            Part::Data(path) => source.reading().data(self.place(source, *path).node),
            Part::Whole => source.reading().whole(),
        }
    }

    /// What `.?` makes of a slot: nothing is there, or something is, or that cannot be said.
    fn optional(&self, place: usize, subject: Subject, part: &Part) -> Result<Option<Value<'a>>, Failure> {
        let unreadable = |why| Failure::Unreadable { slot: place, why };
        let source = self.source(subject)?;
        let read = match part {
            Part::Attribute(name) if **name == *"data" => match has_attribute(source.event(), name) {
                true => source.reading().data(json::Node::ROOT).map(Some),
                false => Ok(None),
            },
            Part::Data(path) => {
                let Place { node, parent } = self.place(source, *path);
                match source.reading().data(node) {
                    Err(Unreadable::Missing) => source.reading().data(parent).map(|_| None),
                    other => other.map(Some),
                }
            }
            Part::Attribute(_) | Part::Whole => match self.part(source, part) {
                Err(Unreadable::Missing) => Ok(None),
                other => other.map(Some),
            },
        };
        match read.map_err(unreadable)? {
            Some(Value::Container(container)) if !self.budget.charge(container.weight) => Err(Failure::Exhausted),
            value => Ok(value),
        }
    }

    fn lend(&self, place: usize) -> Result<CowVal<'_, '_>, Failure> {
        match self.slot(place) {
            Some(Slot::Pattern(pattern)) => Ok(CowVal::Borrowed(pattern)),
            Some(Slot::Budget) => Ok(CowVal::Borrowed(&self.budget)),
            Some(Slot::Optional(subject, part)) => Ok(CowVal::owned(match self.optional(place, *subject, part)? {
                Some(value) => CelOptional::of(value.lend().into_owned()),
                None => CelOptional::none(),
            })),
            _ => self.value(place).map(|value| value.lend()),
        }
    }

    fn spelled(&self, slot: usize) -> String {
        let program = &self.condition.0.program;
        match self.slot(slot) {
            Some(slot) => Spelled { slot, inputs: &self.condition.0.inputs, paths: &program.paths }.to_string(),
            None => String::new(),
        }
    }

    /// What the interpreter's error says. A slot that could not be resolved is, to it, an unknown variable.
    fn failure(&self, error: ExecutionError) -> Failure {
        if self.budget.is_exhausted() {
            return Failure::Exhausted;
        }
        let ExecutionError::UndeclaredReference(name) = &error else { return Failure::Cel(Box::new(error)) };
        match slot_of(name).map(|slot| self.lend(slot).err()) {
            Some(Some(failure)) => failure,
            _ => Failure::Cel(Box::new(error)),
        }
    }
}

impl VariableResolver for Evaluation<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        self.lend(slot_of(variable)?).ok()
    }
}
