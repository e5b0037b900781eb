//! Text to syntax tree, on a thread that no text can overflow.

use std::panic;
use std::thread;

use cel_interpreter::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo};
use cel_interpreter::parser::ParseError;
use evoke_api::limits;

use super::CompileError;
use super::library::environment;
use super::names::{spellable, unspellable};

/// What a parse of the longest allowed text needs several times over. Only the pages that are touched become memory.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Runs `work` where deep recursion is safe, and makes an error of a panic.
pub(super) fn on_a_large_stack<T: Send>(
    work: impl FnOnce() -> Result<T, Vec<CompileError>> + Send,
) -> Result<T, Vec<CompileError>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("cel-compile".into()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, || panic::catch_unwind(panic::AssertUnwindSafe(work))) {
            Ok(running) => match running.join() {
                Ok(Ok(result)) => result,
                Ok(Err(_)) | Err(_) => Err(vec![CompileError::new(None, "the CEL parser gave up on this text")]),
            },
            Err(error) => Err(vec![CompileError::new(None, format!("no thread to compile on: {error}"))]),
        }
    })
}

/// Where the nodes of a syntax tree stand in the text.
pub(super) struct Places<'a> {
    text: &'a str,
    source: SourceInfo,
}

impl<'a> Places<'a> {
    /// The text.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The byte at which a node starts.
    pub(super) fn offset(&self, id: u64) -> Option<usize> {
        let (start, _) = self.source.offset_for(id)?;
        Some(start as usize)
    }

    /// The line and column at which a node starts.
    pub(super) fn of(&self, id: u64) -> Option<(usize, usize)> {
        self.text.get(..self.offset(id)?).map(line_and_column)
    }

    /// An error at the name of a function that is called at a node, whose place is that of its parenthesis.
    pub(super) fn error_at_name(&self, id: u64, name: &str, message: impl Into<String>) -> CompileError {
        let before = self.offset(id).and_then(|offset| self.text.get(..offset)).unwrap_or_default().trim_end();
        match before.strip_suffix(name) {
            Some(before) => CompileError::new(Some(line_and_column(before)), message),
            None => self.error(id, message),
        }
    }

    /// An error at a node.
    pub(super) fn error(&self, id: u64, message: impl Into<String>) -> CompileError {
        CompileError::new(self.of(id), message)
    }
}

/// The line and column after a text, both from 1.
fn line_and_column(before: &str) -> (usize, usize) {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// Parses a text that is not too long, and checks that the tree is not too deep.
pub(super) fn parse<'a>(text: &'a str, inputs: &[&str]) -> Result<(IdedExpr, Places<'a>), Vec<CompileError>> {
    let parser = environment()
        .parser()
        .enable_ident_escape_syntax(true)
        .max_recursion_depth(u16::try_from(limits::CONDITION_DEPTH * 2).unwrap_or(u16::MAX));
    let (expression, source) = parser.parse_with_source_info(text).map_err(|parse_errors| {
        // One mistake makes the parser report several; those after the first say nothing new.
        let first = parse_errors.errors.first().map(|error| explain(error, text, inputs));
        vec![first.unwrap_or_else(|| CompileError::new(None, "not a CEL expression"))]
    })?;
    if depth(&expression) > limits::CONDITION_DEPTH {
        return Err(vec![too_deep()]);
    }
    Ok((expression, Places { text, source }))
}

fn too_deep() -> CompileError {
    let message = format!("nested deeper than {} levels", limits::CONDITION_DEPTH);
    CompileError::new(None, message).hint("use a list and `in`, or split it over several subscribers")
}

fn explain(error: &ParseError, text: &str, inputs: &[&str]) -> CompileError {
    let source = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
    if [&error.msg, &source].iter().any(|text| text.contains("Recursion limit")) {
        return too_deep();
    }
    let place = match error.pos {
        (line, column) if line > 0 && column > 0 => Some((line.unsigned_abs(), column.unsigned_abs())),
        _ => None,
    };
    if error.msg.contains("invalid argument to has()") {
        return CompileError::new(place, "has() takes a field, such as has(orders.data.amount)")
            .hint("the name of an input alone is already true or false");
    }
    let (message, found) = plainly(&error.msg);
    let error = CompileError::new(place, message);
    if let Some(name) = unspellable(text, None, inputs) {
        return error.hint(rename(name));
    }
    match found {
        "and" | "AND" | "&" => error.hint("and is written &&"),
        "or" | "OR" | "|" => error.hint("or is written ||"),
        "not" | "NOT" => error.hint("not is written !"),
        "=" => error.hint("equality is written =="),
        text if text.starts_with(['\'', '"']) => {
            error.hint("a string ends with the quote it starts with, on the same line")
        }
        _ => error,
    }
}

/// What ANTLR says, as people would, and the token that it stumbled over.
fn plainly(message: &str) -> (String, &str) {
    let message = message.trim_start_matches("Syntax error: ");
    // The list of every token that could stand there is longer than the condition.
    let message = message.split(" expecting ").next().unwrap_or_default();
    const STUMBLES: [&str; 4] =
        ["mismatched input ", "extraneous input ", "no viable alternative at input ", "token recognition error at: "];
    let stumbled = STUMBLES.iter().find_map(|start| message.strip_prefix(start));
    if let Some(quoted) = stumbled {
        let found = quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\'')).unwrap_or(quoted).trim();
        return match found {
            "<EOF>" => ("the condition ends too early".to_owned(), found),
            found => (format!("{} cannot stand here", found.lines().next().unwrap_or_default()), found),
        };
    }
    let plain = message.replace("'<EOF>'", "the end");
    let plain = if plain.starts_with("Incomplete") { "the condition is not complete".to_owned() } else { plain };
    (plain, "")
}

/// How to make an input's name one that a condition can spell.
pub(super) fn rename(name: &str) -> String {
    format!("rename the input {name:?}, whose name CEL cannot spell, to {:?} for example", spellable(name))
}

/// How deep a tree is, macros expanded.
pub(super) fn depth(expression: &IdedExpr) -> usize {
    1 + children(expression).into_iter().map(depth).max().unwrap_or(0)
}

/// How many nodes a tree has.
pub(super) fn size(expression: &IdedExpr) -> u64 {
    children(expression).into_iter().map(size).fold(1, u64::saturating_add)
}

/// What stands directly below a node.
pub(super) fn children(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Struct(message) => message.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Comprehension(c) => vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result],
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}
