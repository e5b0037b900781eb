//! The shapes that almost every condition is made of, evaluated without the interpreter. Values compare by CEL's own
//! operators all the same.

use std::cmp::Ordering;

use cel_interpreter::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use cel_interpreter::common::types::CelString;
use cel_interpreter::common::value::Val;

use super::library::MATCHES;
use super::slot::{Slot, slot_of};

/// A part of a condition that is true or false.
#[derive(Debug)]
pub(super) enum Node {
    /// Always the same.
    Constant(bool),
    /// What a slot holds.
    Slot(usize),
    /// `!a`
    Not(Box<Node>),
    /// `a && b && ...`
    All(Vec<Node>),
    /// `a || b || ...`
    Any(Vec<Node>),
    /// `a ? b : c`
    If(Box<[Node; 3]>),
    /// `a == b` and its like.
    Compare(Comparison, Operand, Operand),
    /// `a in ["b", "c"]`
    OneOf(Operand, Vec<LiteralValue>),
    /// `a.startsWith("b")` and its like.
    Text(TextTest, Operand, Box<str>),
    /// `a.matches("b")`, and the slot of the expression.
    Matches(Operand, usize),
    /// Anything else.
    Cel(Box<IdedExpr>),
}

/// One side of a comparison.
#[derive(Debug)]
pub(super) enum Operand {
    Slot(usize),
    Literal(LiteralValue),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

impl Comparison {
    fn of(operator: &str) -> Option<Self> {
        Some(match operator {
            operators::EQUALS => Self::Equal,
            operators::NOT_EQUALS => Self::NotEqual,
            operators::LESS => Self::Less,
            operators::LESS_EQUALS => Self::LessOrEqual,
            operators::GREATER => Self::Greater,
            operators::GREATER_EQUALS => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// As it is written.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// What CEL says of two values; `None` where they have no order.
    pub(super) fn apply(self, left: &dyn Val, right: &dyn Val) -> Option<bool> {
        let order = || left.as_comparer()?.compare(right).ok();
        Some(match self {
            Self::Equal => left.equals(right),
            Self::NotEqual => !left.equals(right),
            Self::Less => order()? == Ordering::Less,
            Self::LessOrEqual => order()? != Ordering::Greater,
            Self::Greater => order()? == Ordering::Greater,
            Self::GreaterOrEqual => order()? != Ordering::Less,
        })
    }
}

impl TextTest {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "startsWith" => Self::StartsWith,
            "endsWith" => Self::EndsWith,
            "contains" => Self::Contains,
            _ => return None,
        })
    }

    /// As it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
            Self::Contains => "contains",
        }
    }

    pub(super) fn apply(self, text: &str, part: &str) -> bool {
        match self {
            Self::StartsWith => text.starts_with(part),
            Self::EndsWith => text.ends_with(part),
            Self::Contains => text.contains(part),
        }
    }
}

/// Takes a rewritten expression apart as far as it has known shapes.
pub(super) fn lower(expression: IdedExpr, slots: &[Slot]) -> Node {
    match expression.expr {
        Expr::Literal(LiteralValue::Boolean(value)) => Node::Constant(*value.inner()),
        Expr::Ident(ref name) => match plain_slot(name, slots) {
            Some(slot) => Node::Slot(slot),
            None => Node::Cel(Box::new(expression)),
        },
        Expr::Call(call) => lower_call(expression.id, call, slots),
        _ => Node::Cel(Box::new(expression)),
    }
}

fn lower_call(id: u64, mut call: CallExpr, slots: &[Slot]) -> Node {
    match (call.func_name.as_str(), call.args.len()) {
        (operators::LOGICAL_AND, 2) => {
            let mut terms = Vec::new();
            flatten(IdedExpr { id, expr: Expr::Call(call) }, operators::LOGICAL_AND, slots, &mut terms);
            Node::All(terms)
        }
        (operators::LOGICAL_OR, 2) => {
            let mut terms = Vec::new();
            flatten(IdedExpr { id, expr: Expr::Call(call) }, operators::LOGICAL_OR, slots, &mut terms);
            Node::Any(terms)
        }
        (operators::LOGICAL_NOT, 1) => match call.args.pop() {
            Some(inner) => Node::Not(Box::new(lower(inner, slots))),
            None => Node::Constant(false),
        },
        (operators::CONDITIONAL, 3) => match <[IdedExpr; 3]>::try_from(call.args) {
            Ok(parts) => Node::If(Box::new(parts.map(|part| lower(part, slots)))),
            Err(args) => {
                call.args = args;
                Node::Cel(Box::new(IdedExpr { id, expr: Expr::Call(call) }))
            }
        },
        _ => simple(&call, slots).unwrap_or_else(|| Node::Cel(Box::new(IdedExpr { id, expr: Expr::Call(call) }))),
    }
}

/// The parser balances chains of one operator into a tree, which reads faster as a list.
fn flatten(expression: IdedExpr, operator: &str, slots: &[Slot], terms: &mut Vec<Node>) {
    match expression.expr {
        Expr::Call(call) if call.func_name == operator && call.args.len() == 2 => {
            call.args.into_iter().for_each(|arg| flatten(arg, operator, slots, terms));
        }
        expr => terms.push(lower(IdedExpr { id: expression.id, expr }, slots)),
    }
}

fn simple(call: &CallExpr, slots: &[Slot]) -> Option<Node> {
    let operand = |expression| operand(expression, slots);
    let text = |expression: &IdedExpr| match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(Box::from(CelString::inner(text))),
        _ => None,
    };
    match (&call.target, call.args.as_slice()) {
        (Some(target), [part]) => Some(Node::Text(TextTest::of(&call.func_name)?, operand(target)?, text(part)?)),
        (None, [value, pattern]) if call.func_name == MATCHES => match &pattern.expr {
            Expr::Ident(name) => Some(Node::Matches(operand(value)?, slot_of(name)?)),
            _ => None,
        },
        (None, [value, list]) if call.func_name == operators::IN => {
            let Expr::List(list) = &list.expr else { return None };
            let literal = |element: &IdedExpr| match &element.expr {
                Expr::Literal(literal) => Some(literal.clone()),
                _ => None,
            };
            let literals = list.elements.iter().map(literal).collect::<Option<Vec<_>>>()?;
            list.optional_indices.is_empty().then_some(Node::OneOf(operand(value)?, literals))
        }
        (None, [left, right]) => Some(Node::Compare(Comparison::of(&call.func_name)?, operand(left)?, operand(right)?)),
        _ => None,
    }
}

fn operand(expression: &IdedExpr, slots: &[Slot]) -> Option<Operand> {
    match &expression.expr {
        Expr::Literal(literal) => Some(Operand::Literal(literal.clone())),
        Expr::Ident(name) => plain_slot(name, slots).map(Operand::Slot),
        _ => None,
    }
}

/// The slot of a variable, if it holds a value that needs no interpreter.
fn plain_slot(variable: &str, slots: &[Slot]) -> Option<usize> {
    let place = slot_of(variable)?;
    matches!(slots.get(place)?, Slot::Arrived(_) | Slot::Value(..) | Slot::Has(..)).then_some(place)
}
