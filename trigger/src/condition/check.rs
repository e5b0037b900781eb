//! What the text alone says about types: a condition that can never be true or false is refused.

use std::fmt;

use cel_interpreter::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::CompileError;
use super::library::MATCHES;
use super::parse::{Places, children};
use super::rewrite::Rewritten;
use super::slot::{Part, Slot, slot_of};

/// What is known of a value before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Number,
    Text,
    Bytes,
    Time,
    Duration,
    List,
    Map,
    Type,
    Optional,
    Null,
    Unknown,
}

impl Kind {
    /// True unless both are known and no value of one ever equals a value of the other.
    fn compares_with(self, other: Self) -> bool {
        self == other || matches!(self, Self::Unknown | Self::Null) || matches!(other, Self::Unknown | Self::Null)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::Bytes => "bytes",
            Self::Time => "a timestamp",
            Self::Duration => "a duration",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Type => "a type",
            Self::Optional => "an optional value",
            Self::Null => "null",
            Self::Unknown => "a value",
        })
    }
}

/// Checks a whole condition.
///
/// # Errors
/// Every place where what is wanted and what is there are both known, and differ.
pub(super) fn check(rewritten: &Rewritten, inputs: &[&str], places: &Places<'_>) -> Result<(), Vec<CompileError>> {
    let mut checker = Checker { rewritten, inputs, places, errors: Vec::new() };
    checker.boolean(&rewritten.expression, "a condition");
    checker.node(&rewritten.expression);
    if checker.errors.is_empty() { Ok(()) } else { Err(checker.errors) }
}

struct Checker<'a> {
    rewritten: &'a Rewritten,
    inputs: &'a [&'a str],
    places: &'a Places<'a>,
    errors: Vec<CompileError>,
}

impl Checker<'_> {
    fn node(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Call(call) => self.call(expression.id, call),
            Expr::Comprehension(comprehension) => {
                let range = match &comprehension.iter_range.expr {
                    Expr::Call(cap) => cap.args.first().unwrap_or(&comprehension.iter_range),
                    _ => &comprehension.iter_range,
                };
                match self.kind(range) {
                    Kind::Unknown | Kind::List | Kind::Map => {}
                    kind => {
                        let error =
                            self.places.error(expression.id, format!("a macro takes a list or a map, not {kind}"));
                        let error = self.with_field_hint(error, range);
                        self.errors.push(error);
                    }
                }
            }
            Expr::Select(select) if self.kind(&select.operand) != Kind::Unknown => match self.kind(&select.operand) {
                Kind::Map | Kind::Optional => {}
                kind => {
                    let message = format!("{kind} has no field {:?}", select.field);
                    self.errors.push(self.places.error(expression.id, message));
                }
            },
            _ => {}
        }
        for child in children(expression) {
            self.node(child);
        }
    }

    fn call(&mut self, id: u64, call: &CallExpr) {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, args) => args.iter().for_each(|arg| self.boolean(arg, "each side of &&")),
            (operators::LOGICAL_OR, args) => args.iter().for_each(|arg| self.boolean(arg, "each side of ||")),
            (operators::LOGICAL_NOT, args) => args.iter().for_each(|arg| self.boolean(arg, "what ! negates")),
            (operators::CONDITIONAL, [question, ..]) => self.boolean(question, "what stands before ?"),
            (
                operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS,
                [left, right],
            ) => {
                let (a, b) = (self.kind(left), self.kind(right));
                if !a.compares_with(b) {
                    let error = self.places.error(id, format!("{a} never compares with {b}"));
                    let error = match (a, b) {
                        (Kind::Time, Kind::Text) | (Kind::Text, Kind::Time) => {
                            error.hint("write timestamp(\"2026-01-02T03:04:05Z\")")
                        }
                        (Kind::Bool, _) => self.with_field_hint(error, left),
                        (_, Kind::Bool) => self.with_field_hint(error, right),
                        (Kind::Type, _) | (_, Kind::Type) => error.hint("did you mean `event.type`"),
                        (Kind::Text, Kind::Number) | (Kind::Number, Kind::Text) => {
                            error.hint("attributes are strings: int(...) or double(...) makes numbers of them")
                        }
                        _ => error,
                    };
                    self.errors.push(error);
                }
            }
            (name, _) => {
                if let Some(target) = call.target.as_deref()
                    && self.kind(target) == Kind::Bool
                {
                    let error = self.places.error_at_name(id, name, format!("true or false has no method {name}()"));
                    let error = self.with_field_hint(error, target);
                    self.errors.push(error);
                }
            }
        }
    }

    fn boolean(&mut self, expression: &IdedExpr, what: &str) {
        let kind = self.kind(expression);
        if !matches!(kind, Kind::Bool | Kind::Unknown) {
            let error = self.places.error(expression.id, format!("{what} is true or false, this is {kind}"));
            let error = match kind {
                Kind::Optional => error.hint("add .hasValue() or .orValue(false)"),
                Kind::Number | Kind::Text | Kind::Time => error.hint("compare it with something"),
                _ => error,
            };
            self.errors.push(error);
        }
    }

    /// The name of an input alone is true or false; people mean a field of its event.
    fn with_field_hint(&self, error: CompileError, expression: &IdedExpr) -> CompileError {
        let Expr::Ident(name) = &expression.expr else { return error };
        match slot_of(name).and_then(|slot| self.rewritten.slots.get(slot)) {
            Some(Slot::Arrived(input)) => {
                let name = self.inputs.get(*input).copied().unwrap_or("?");
                error.hint(format!("{name:?} alone says whether it arrived: name a field, such as {name}.type"))
            }
            _ => error,
        }
    }

    fn kind(&self, expression: &IdedExpr) -> Kind {
        match &expression.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Kind::Bool,
                LiteralValue::Bytes(_) => Kind::Bytes,
                LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Kind::Number,
                LiteralValue::Null => Kind::Null,
                LiteralValue::String(_) => Kind::Text,
            },
            Expr::Ident(name) => match slot_of(name).and_then(|slot| self.rewritten.slots.get(slot)) {
                Some(slot) => slot_kind(slot),
                None if self.rewritten.types.contains(&expression.id) => Kind::Type,
                None => Kind::Unknown,
            },
            Expr::Select(select) if select.test => Kind::Bool,
            Expr::List(_) => Kind::List,
            Expr::Map(_) => Kind::Map,
            Expr::Call(call) => self.call_kind(call),
            Expr::Comprehension(comprehension) => match &comprehension.result.expr {
                Expr::Ident(name) if *name == comprehension.accu_var => self.kind(&comprehension.accu_init),
                _ => self.kind(&comprehension.result),
            },
            Expr::Select(_) | Expr::Struct(_) | Expr::Unspecified => Kind::Unknown,
        }
    }

    fn call_kind(&self, call: &CallExpr) -> Kind {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (
                operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | operators::IN
                | operators::NOT_STRICTLY_FALSE
                | "startsWith"
                | "endsWith"
                | "contains"
                | "matches"
                | MATCHES
                | "bool"
                | "hasValue",
                _,
            ) => Kind::Bool,
            ("size" | "int" | "uint" | "double" | operators::MULTIPLY | operators::DIVIDE | operators::MODULO, _) => {
                Kind::Number
            }
            (name, _) if name.starts_with("get") => Kind::Number,
            ("string", _) => Kind::Text,
            ("bytes", _) => Kind::Bytes,
            ("timestamp", _) => Kind::Time,
            ("duration", _) => Kind::Duration,
            ("type", _) => Kind::Type,
            ("dyn" | operators::NEGATE, [inner]) => self.kind(inner),
            (operators::ADD, [left, right]) if self.kind(left) == self.kind(right) => match self.kind(left) {
                kind @ (Kind::Number | Kind::Text | Kind::Bytes | Kind::List | Kind::Duration) => kind,
                _ => Kind::Unknown,
            },
            (operators::SUBSTRACT, [left, right])
                if self.kind(left) == Kind::Number && self.kind(right) == Kind::Number =>
            {
                Kind::Number
            }
            (operators::CONDITIONAL, [_, yes, no]) if self.kind(yes) == self.kind(no) => self.kind(yes),
            (operators::OPT_SELECT | operators::OPT_INDEX | "none" | "of" | "ofNonZeroValue", _) => Kind::Optional,
            _ => Kind::Unknown,
        }
    }
}

fn slot_kind(slot: &Slot) -> Kind {
    match slot {
        Slot::Arrived(_) | Slot::Has(..) => Kind::Bool,
        Slot::Value(_, Part::Attribute(name)) if **name == *"time" => Kind::Time,
        Slot::Value(_, Part::Attribute(_)) => Kind::Text,
        Slot::Value(_, Part::Whole) => Kind::Map,
        Slot::Optional(..) => Kind::Optional,
        Slot::Value(_, Part::Data(_)) | Slot::Pattern(_) | Slot::Budget => Kind::Unknown,
    }
}
