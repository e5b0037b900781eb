//! The functions that conditions may call: CEL's standard library, and what rewriting puts in place of parts of it.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use cel_interpreter::common::types::{CelBool, CelString, CelUInt, DYN_TYPE, Type, UINT_TYPE};
use cel_interpreter::common::value::{CowVal, StaticVal, Val};
use cel_interpreter::{Env, ExecutionError};
use regex::Regex;

use super::budget::Budget;
use crate::value::weight;

/// The function that wraps the list of every macro: `@cap(list, budget, size of the body)`.
pub(super) const CAP: &str = "@cap";
/// `matches` with a regular expression that was compiled beforehand.
pub(super) const MATCHES: &str = "@matches";

/// The functions of the standard library, by how they are called.
pub(super) const FUNCTIONS: [&str; 12] =
    ["size", "int", "uint", "double", "string", "bytes", "bool", "type", "dyn", "duration", "timestamp", "matches"];
/// Those called on a value.
pub(super) const METHODS: [&str; 19] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "value",
    "hasValue",
    "or",
    "orValue",
];
/// Those of the namespace `optional`.
pub(super) const OPTIONALS: [&str; 3] = ["of", "none", "ofNonZeroValue"];
/// What the parser expands, if it is called with a number of arguments that it knows.
pub(super) const MACROS: [&str; 9] =
    ["has", "all", "exists", "exists_one", "existsOne", "map", "filter", "optMap", "optFlatMap"];

/// The environment of every condition. It is the same for all of them and never changes.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    let added = env
        .add_overload(CAP, "evoke_cap", vec![DYN_TYPE, DYN_TYPE, UINT_TYPE], cap)
        .and_then(|()| env.add_overload(MATCHES, "evoke_matches", vec![DYN_TYPE, DYN_TYPE], matches));
    debug_assert!(added.is_ok(), "the names are evoke's own");
    Arc::new(env)
});

/// See [`ENVIRONMENT`].
pub(super) fn environment() -> &'static Arc<Env> {
    &ENVIRONMENT
}

fn cap<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    if let [range, budget, cost] = args.as_slice()
        && let (Some(budget), Some(cost)) = (budget.downcast_ref::<Budget>(), cost.downcast_ref::<CelUInt>())
        && !budget.is_exhausted()
        && budget.charge(weight(range.as_ref()).saturating_mul(*cost.inner()))
    {
        return Ok(args.swap_remove(0));
    }
    Err(ExecutionError::function_error(CAP, "too many steps"))
}

#[expect(clippy::needless_pass_by_value, reason = "overloads have this signature")]
fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    if let [text, pattern] = args.as_slice() {
        if let (Some(text), Some(pattern)) = (text.downcast_ref::<CelString<'_>>(), pattern.downcast_ref::<Pattern>()) {
            return Ok(CowVal::owned(CelBool::from(pattern.is_match(text.inner()))));
        }
        let types = vec![text.get_type().name().to_owned(), "string".to_owned()];
        return Err(ExecutionError::no_such_overload("matches", types));
    }
    Err(ExecutionError::missing_argument_or_target())
}

static PATTERN: Type = Type::new_unspecified_type("evoke.pattern");

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Compiles one.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("it compiles to more than {limit} bytes"),
            other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        })
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN
    }

    fn cel_type() -> &'static Type {
        &PATTERN
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}
