//! Why an evaluation came to nothing, for people. Data is never quoted: it may be large, and it is not ours to log.

use cel_interpreter::{ExecutionError, Value};
use evoke_api::limits;

use super::{Evaluation, Slot};
use crate::reading::Unreadable;

/// Kept small and without text until somebody asks: the other side of an `||` may make it void.
#[derive(Debug)]
pub(super) enum Failure {
    /// An input has not arrived.
    Waiting,
    /// A slot could not be resolved.
    Unreadable { slot: usize, why: Unreadable },
    /// What should be true or false is something else.
    NotBool { slot: Option<usize>, kind: String },
    /// A method of strings was called on something else.
    NoText { slot: usize, method: &'static str, kind: String },
    /// The values have no order.
    NoOrder { sign: &'static str, left: String, right: String },
    /// The evaluation took too many steps.
    Exhausted,
    /// The interpreter's own error.
    Cel(Box<ExecutionError>),
    /// What should not happen did.
    Broken,
}

/// How much of a name or message is told.
const TOLD: usize = 200;

impl Evaluation<'_> {
    /// The failure in words.
    pub(super) fn explain(&self, failure: &Failure) -> String {
        match failure {
            Failure::Waiting => "an input has not arrived".to_owned(),
            Failure::Unreadable { slot, why: Unreadable::Missing } => match self.slot(*slot) {
                Some(Slot::Has(..) | Slot::Optional(..)) => {
                    let spelled = self.spelled(*slot);
                    format!("what {spelled} is looked for in is not there, or has no fields")
                }
                _ => format!("there is no {}", self.spelled(*slot)),
            },
            Failure::Unreadable { slot, why } => format!("{} cannot be read: {why}", self.spelled(*slot)),
            Failure::NotBool { slot: Some(slot), kind } => {
                format!("{} should be true or false and is of type {kind}", self.spelled(*slot))
            }
            Failure::NotBool { slot: None, kind } => {
                format!("the condition should be true or false and came to type {kind}")
            }
            Failure::NoText { slot, method, kind } => {
                format!("{method}() takes a string, and {} is of type {kind}", self.spelled(*slot))
            }
            Failure::NoOrder { sign, left, right } => format!("{sign} does not compare {left} with {right}"),
            Failure::Exhausted => {
                format!("the condition takes more than {} steps on this event", limits::CONDITION_STEPS)
            }
            Failure::Cel(error) => interpreter_error(error),
            Failure::Broken => "the CEL interpreter gave up on this event".to_owned(),
        }
    }
}

fn interpreter_error(error: &ExecutionError) -> String {
    let kind = |value: &Value| match value {
        Value::Float(_) => "double".to_owned(),
        other => other.type_of().to_string(),
    };
    let told = match error {
        ExecutionError::NoSuchKey(key) => format!("there is no key {:?}", shortened(key)),
        ExecutionError::NoSuchOverload(overload) => {
            let function = overload.function().trim_matches('_').replace("[_", "[").replace('@', "");
            format!("{function} does not take {}", overload.argument_types().join(", "))
        }
        ExecutionError::ValuesNotComparable(left, right) => {
            format!("{} does not compare with {}", kind(left), kind(right))
        }
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("{operator} does not take {} and {}", kind(left), kind(right))
        }
        ExecutionError::UnexpectedType { got, want } => format!("a value of type {got} where {want} is wanted"),
        ExecutionError::UnsupportedKeyType(value) => format!("a value of type {} is no key", kind(value)),
        ExecutionError::UnsupportedIndex(index, value) => {
            format!("{} has no item at a value of type {}", kind(value), kind(index))
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "a division by zero".to_owned(),
        ExecutionError::Overflow(operator, ..) => format!("a number too large, by {operator}"),
        ExecutionError::IndexOutOfBounds(_) => "a list has no item at the index asked for".to_owned(),
        ExecutionError::DuplicateKey(_) => "a map has one key twice".to_owned(),
        ExecutionError::FunctionError { function, .. } => format!("{function}() does not take its argument"),
        ExecutionError::InvalidArgumentCount { expected, actual } => {
            format!("{actual} arguments where {expected} are wanted")
        }
        ExecutionError::UndeclaredReference(name) => format!("nothing is called {:?}", shortened(name)),
        _ => "the CEL interpreter could not evaluate it".to_owned(),
    };
    shortened(&told).to_owned()
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(TOLD).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}
