//! Puts slots in place of what a condition reads of events.

use cel_interpreter::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators,
};

use super::CompileError;
use super::library::{self, CAP, FUNCTIONS, MACROS, MATCHES, METHODS, OPTIONALS, Pattern};
use super::names::{closest, unspellable};
use super::parse::{Places, rename, size};
use super::slot::{Part, Slot, Subject, intern, variable};
use crate::json::Step;

/// A condition whose variables are slots and nothing else.
pub(super) struct Rewritten {
    pub(super) expression: IdedExpr,
    pub(super) slots: Vec<Slot>,
    pub(super) paths: Vec<Vec<Step>>,
    /// The nodes that name a type of CEL.
    pub(super) types: Vec<u64>,
}

/// Rewrites a whole condition.
///
/// # Errors
/// Every name that means nothing, and every use of an event that can never work.
pub(super) fn rewrite(
    expression: IdedExpr,
    inputs: &[&str],
    places: &Places<'_>,
) -> Result<Rewritten, Vec<CompileError>> {
    let mut rewriter = Rewriter {
        inputs,
        places,
        scope: Vec::new(),
        slots: Vec::new(),
        paths: Vec::new(),
        types: Vec::new(),
        errors: Vec::new(),
    };
    let expression = rewriter.expression(expression);
    let Rewriter { slots, paths, types, mut errors, .. } = rewriter;
    errors.dedup_by(|b, a| a.message == b.message);
    if errors.is_empty() { Ok(Rewritten { expression, slots, paths, types }) } else { Err(errors) }
}

/// What people write without the `event.` before it.
const ATTRIBUTES: [&str; 8] =
    ["data", "id", "source", "specversion", "subject", "time", "datacontenttype", "dataschema"];

struct Rewriter<'a> {
    inputs: &'a [&'a str],
    places: &'a Places<'a>,
    /// The variables of the macros around the node at hand.
    scope: Vec<String>,
    slots: Vec<Slot>,
    paths: Vec<Vec<Step>>,
    types: Vec<u64>,
    errors: Vec<CompileError>,
}

/// A name and the fields read of it, as far as the text alone says which.
struct Chain {
    /// The node of the name.
    id: u64,
    base: Base,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Event,
    Input(usize),
}

impl From<Base> for Subject {
    fn from(base: Base) -> Self {
        match base {
            Base::Event => Self::Event,
            Base::Input(input) => Self::Input(input),
        }
    }
}

/// How a slot is asked for.
#[derive(Clone, Copy)]
enum Form {
    Value,
    Has,
    Optional,
}

impl Rewriter<'_> {
    fn expression(&mut self, expression: IdedExpr) -> IdedExpr {
        let id = expression.id;
        if let Some(chain) = self.chain(&expression) {
            return match (chain.base, chain.steps.is_empty()) {
                (Base::Input(input), true) => self.slot(id, Slot::Arrived(input)),
                _ => self.read(&chain, Form::Value),
            };
        }
        match expression.expr {
            Expr::Ident(name) => self.identifier(id, name),
            Expr::Select(select) => self.select(id, select),
            Expr::Call(call) => self.call(id, call),
            Expr::Comprehension(comprehension) => self.comprehension(id, *comprehension),
            Expr::List(mut list) => {
                list.elements = list.elements.into_iter().map(|element| self.expression(element)).collect();
                IdedExpr { id, expr: Expr::List(list) }
            }
            Expr::Map(mut map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        entry.key = self.expression(std::mem::take(&mut entry.key));
                        entry.value = self.expression(std::mem::take(&mut entry.value));
                    }
                }
                IdedExpr { id, expr: Expr::Map(map) }
            }
            Expr::Struct(message) => {
                let error = self.places.error(id, format!("there is no message type {}", message.type_name));
                self.errors.push(error.hint("write a map, such as {\"key\": value}"));
                IdedExpr { id, expr: Expr::Struct(message) }
            }
            literal @ (Expr::Literal(_) | Expr::Unspecified) => IdedExpr { id, expr: literal },
        }
    }

    /// Like [`Self::expression`], where something is read of the value: the name of an input means its event there.
    fn container(&mut self, expression: IdedExpr) -> IdedExpr {
        match self.chain(&expression) {
            Some(chain) => self.read(&chain, Form::Value),
            None => self.expression(expression),
        }
    }

    fn chain(&self, expression: &IdedExpr) -> Option<Chain> {
        match &expression.expr {
            Expr::Ident(name) => {
                let base = self.base(name)?;
                Some(Chain { id: expression.id, base, steps: Vec::new() })
            }
            Expr::Select(select) if !select.test => {
                let mut chain = self.chain(&select.operand)?;
                chain.steps.push(Step::Key(select.field.as_str().into()));
                Some(chain)
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [operand, index] = call.args.as_slice() else { return None };
                let step = literal_step(index)?;
                let mut chain = self.chain(operand)?;
                chain.steps.push(step);
                Some(chain)
            }
            _ => None,
        }
    }

    fn base(&self, name: &str) -> Option<Base> {
        let (name, absolute) = match name.strip_prefix('.') {
            Some(name) => (name, true),
            None => (name, false),
        };
        if !absolute && self.scope.iter().any(|variable| variable == name) {
            return None;
        }
        match self.inputs.iter().position(|input| *input == name) {
            Some(input) => Some(Base::Input(input)),
            None => (name == "event").then_some(Base::Event),
        }
    }

    fn identifier(&mut self, id: u64, name: String) -> IdedExpr {
        let plain = name.trim_start_matches('.');
        if !name.starts_with('@') && !self.scope.contains(&name) {
            if library::environment().types().find_type(plain).is_some() {
                self.types.push(id);
            } else {
                let error = self.unknown_name(id, plain);
                self.errors.push(error);
            }
        }
        IdedExpr { id, expr: Expr::Ident(name) }
    }

    fn unknown_name(&self, id: u64, name: &str) -> CompileError {
        let offset = self.places.offset(id);
        if let Some(input) = unspellable(self.places.text(), offset, self.inputs) {
            return self.places.error(id, format!("a condition cannot name {input:?}")).hint(rename(input));
        }
        let error = self.places.error(id, format!("there is no input {name:?}"));
        if ATTRIBUTES.contains(&name) {
            return error.hint(format!("did you mean `event.{name}`"));
        }
        let known = || self.inputs.iter().copied().chain(["event"]).chain(self.scope.iter().map(String::as_str));
        match closest(name, known()) {
            Some(meant) => error.hint(format!("did you mean `{meant}`")),
            None if self.inputs.is_empty() => error.hint("there are no inputs; `event` is the event at hand"),
            None => error.hint(format!("the inputs are {}; `event` is the event at hand", self.inputs.join(", "))),
        }
    }

    fn select(&mut self, id: u64, select: SelectExpr) -> IdedExpr {
        if select.test
            && let Some(mut chain) = self.chain(&select.operand)
        {
            chain.steps.push(Step::Key(select.field.into()));
            return self.read(&chain, Form::Has);
        }
        if let Some(name) = qualified_name(&select)
            && !self.scope.iter().any(|variable| name.split('.').next() == Some(variable))
            && library::environment().types().find_type(&name).is_some()
        {
            return IdedExpr { id, expr: Expr::Select(select) };
        }
        let operand = Box::new(self.container(*select.operand));
        IdedExpr { id, expr: Expr::Select(SelectExpr { operand, ..select }) }
    }

    /// The slot of a chain that names more than an input.
    fn read(&mut self, chain: &Chain, form: Form) -> IdedExpr {
        let id = chain.id;
        let subject = Subject::from(chain.base);
        let part = match chain.steps.split_first() {
            None => Part::Whole,
            Some((Step::Key(key), [])) if **key == *"data" && !matches!(form, Form::Value) => {
                Part::Attribute(key.clone())
            }
            Some((Step::Key(key), rest)) if **key == *"data" => Part::Data(self.path(rest)),
            Some((Step::Key(name), rest)) => {
                self.check_attribute(chain, name, rest);
                Part::Attribute(name.clone())
            }
            Some((Step::Item(index), _)) => {
                let error = self.places.error(chain.id, format!("an event has attributes and data, no item {index}"));
                self.errors.push(error.hint("its data is read as .data"));
                Part::Whole
            }
        };
        self.slot(
            id,
            match form {
                Form::Value => Slot::Value(subject, part),
                Form::Has => Slot::Has(subject, part),
                Form::Optional => Slot::Optional(subject, part),
            },
        )
    }

    fn check_attribute(&mut self, chain: &Chain, name: &str, rest: &[Step]) {
        let subject = match chain.base {
            Base::Event => "event",
            Base::Input(input) => self.inputs.get(input).copied().unwrap_or("?"),
        };
        let data: String = chain.steps.iter().map(ToString::to_string).collect();
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) || name.is_empty() {
            let message = format!("{name:?} is no attribute: those have lower-case letters and digits only");
            self.errors.push(self.places.error(chain.id, message).hint(format!("did you mean `{subject}.data{data}`")));
        } else if !rest.is_empty() {
            let error = self.places.error(chain.id, format!("the attribute {name:?} is text and has no fields"));
            self.errors.push(error.hint(format!("did you mean `{subject}.data{data}`")));
        }
    }

    fn path(&mut self, steps: &[Step]) -> usize {
        match self.paths.iter().position(|path| path == steps) {
            Some(place) => place,
            None => {
                self.paths.push(steps.to_vec());
                self.paths.len() - 1
            }
        }
    }

    fn slot(&mut self, id: u64, slot: Slot) -> IdedExpr {
        let place = intern(&mut self.slots, slot);
        IdedExpr { id, expr: Expr::Ident(variable(place)) }
    }

    fn call(&mut self, id: u64, mut call: CallExpr) -> IdedExpr {
        let name = call.func_name.as_str();
        if let operators::OPT_SELECT | operators::OPT_INDEX = name
            && let [operand, field] = call.args.as_slice()
            && let (Some(mut chain), Some(step)) = (self.chain(operand), literal_step(field))
            && (chain.steps.is_empty() || is_data(chain.steps.first()))
        {
            chain.steps.push(step);
            return self.read(&chain, Form::Optional);
        }
        if let operators::INDEX | operators::OPT_SELECT | operators::OPT_INDEX = name {
            let mut args = call.args.into_iter();
            call.args = args.next().map(|operand| self.container(operand)).into_iter().collect();
            call.args.extend(args.map(|index| self.expression(index)));
            return IdedExpr { id, expr: Expr::Call(call) };
        }
        let optional = is_optional_namespace(&call);
        self.check_function(id, &call, optional);
        if !optional {
            call.target = call.target.map(|target| Box::new(self.expression(*target)));
        }
        call.args = call.args.into_iter().map(|arg| self.expression(arg)).collect();
        self.precompile_pattern(&mut call);
        IdedExpr { id, expr: Expr::Call(call) }
    }

    fn check_function(&mut self, id: u64, call: &CallExpr, optional: bool) {
        let name = call.func_name.trim_start_matches('.');
        let known: &[&str] = match &call.target {
            // Operators are written with signs.
            None if !name.starts_with(|c: char| c.is_ascii_alphabetic()) => return,
            None => &FUNCTIONS,
            Some(_) if optional => &OPTIONALS,
            Some(_) => &METHODS,
        };
        if known.contains(&name) {
            return;
        }
        if MACROS.contains(&name) {
            let usage = match name {
                "has" => "has(orders.data.amount)",
                "optMap" | "optFlatMap" => "orders.data.?amount.optMap(a, a + 1)",
                _ => "orders.data.items.exists(item, item.price > 10)",
            };
            let error = self.places.error_at_name(id, name, format!("{name}() is called with the wrong arguments"));
            self.errors.push(error.hint(format!("it is used like {usage}")));
            return;
        }
        let error = match &call.target {
            None => self.places.error_at_name(id, name, format!("there is no function {name}()")),
            Some(_) => self.places.error_at_name(id, name, format!("there is no method {name}()")),
        };
        let others: &[&str] = if call.target.is_some() { &FUNCTIONS } else { &METHODS };
        let candidates = known.iter().chain(&MACROS).copied().filter(|known| !known.starts_with('@'));
        let error = if others.contains(&name) {
            let way = if call.target.is_some() { format!("{name}(value)") } else { format!("value.{name}(...)") };
            error.hint(format!("it is written {way}"))
        } else if let Some(meant) = closest(name, candidates) {
            error.hint(format!("did you mean `{meant}()`"))
        } else {
            error.hint("conditions have the standard functions of CEL")
        };
        self.errors.push(error);
    }

    /// `x.matches("...")` and `matches(x, "...")` would compile the expression at every evaluation.
    fn precompile_pattern(&mut self, call: &mut CallExpr) {
        if call.func_name != "matches" || call.target.iter().count() + call.args.len() != 2 {
            return;
        }
        let Some(IdedExpr { id, expr: Expr::Literal(LiteralValue::String(text)) }) = call.args.last() else { return };
        match Pattern::new(text.inner()) {
            Ok(pattern) => {
                self.slots.push(Slot::Pattern(pattern));
                let pattern = IdedExpr { id: *id, expr: Expr::Ident(variable(self.slots.len() - 1)) };
                call.args.pop();
                call.args.extend(call.target.take().map(|target| *target));
                call.args.push(pattern);
                call.func_name = MATCHES.into();
            }
            Err(why) => self.errors.push(self.places.error(*id, format!("no regular expression: {why}"))),
        }
    }

    fn comprehension(&mut self, id: u64, mut comprehension: ComprehensionExpr) -> IdedExpr {
        let range = self.expression(comprehension.iter_range);
        comprehension.accu_init = self.expression(comprehension.accu_init);
        let outer = self.scope.len();
        self.scope.push(comprehension.iter_var.clone());
        self.scope.push(comprehension.accu_var.clone());
        self.scope.extend(comprehension.iter_var2.clone());
        comprehension.loop_cond = self.expression(comprehension.loop_cond);
        comprehension.loop_step = self.expression(comprehension.loop_step);
        comprehension.result = self.expression(comprehension.result);
        self.scope.truncate(outer);
        let cost = size(&comprehension.loop_cond).saturating_add(size(&comprehension.loop_step));
        comprehension.iter_range = self.capped(range, cost);
        IdedExpr { id, expr: Expr::Comprehension(Box::new(comprehension)) }
    }

    fn capped(&mut self, range: IdedExpr, cost: u64) -> IdedExpr {
        let id = range.id;
        let budget = self.slot(id, Slot::Budget);
        let cost = IdedExpr { id, expr: Expr::Literal(LiteralValue::UInt(cost.into())) };
        let call = CallExpr { func_name: CAP.into(), target: None, args: vec![range, budget, cost] };
        IdedExpr { id, expr: Expr::Call(call) }
    }
}

fn is_data(step: Option<&Step>) -> bool {
    matches!(step, Some(Step::Key(key)) if **key == *"data")
}

/// What an index picks, if it is a literal that can pick anything.
fn literal_step(index: &IdedExpr) -> Option<Step> {
    match &index.expr {
        Expr::Literal(LiteralValue::String(key)) => Some(Step::Key(key.inner().into())),
        Expr::Literal(LiteralValue::Int(index)) => u64::try_from(*index.inner()).ok().map(Step::Item),
        Expr::Literal(LiteralValue::UInt(index)) => Some(Step::Item(*index.inner())),
        _ => None,
    }
}

/// True for `optional.of(x)` and its like, whose target is no variable.
fn is_optional_namespace(call: &CallExpr) -> bool {
    matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "optional")
        && OPTIONALS.contains(&call.func_name.as_str())
}

/// `a.b.c`, if that is all a select spells.
fn qualified_name(select: &SelectExpr) -> Option<String> {
    let operand = match &select.operand.expr {
        Expr::Ident(name) => name.trim_start_matches('.').to_owned(),
        Expr::Select(inner) if !inner.test => qualified_name(inner)?,
        _ => return None,
    };
    (!select.test).then(|| format!("{operand}.{}", select.field))
}
