//! Text to marked trees: one for every document, and what is wrong where there is none.

use std::borrow::Cow;
use std::collections::HashMap;

use indexmap::IndexMap;
use indexmap::map::Entry;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::node::{Content, Field};
use super::scalar::Scalar;
use super::{Node, Place};
use crate::limits;
use crate::problem::{FieldPath, Problem};

/// What a text holds.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// The documents that could be read; an empty one is none.
    pub(super) trees: Vec<Node>,
    /// What is wrong with the text itself.
    pub(super) problems: Vec<(Place, Problem)>,
}

/// Reads every document. A broken one is reported, and reading goes on with the next.
pub(super) fn documents(text: &str) -> Documents {
    let mut documents = Documents::default();
    let text = joined_surrogates(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut rest = Some((&*text, 0));
    let mut broken = 0;
    while let Some((chunk, lines_before)) = rest {
        let mut reader = Reader::new(lines_before, &mut documents);
        let Err(stopped) = reader.read(chunk) else { break };
        let Stopped { place, started, message, hint } = stopped;
        broken += 1;
        documents.problems.push((place, problem(message, hint)));
        // The marker that ends the broken document may be the very line where the reader noticed.
        rest = next_document(chunk, lines_before, place.line.max(started + 1) as usize);
        if broken == limits::MANIFEST_BROKEN && rest.is_some() {
            let message = format!("{broken} documents of this file are broken, and the rest of it is not read");
            documents.problems.push((place, problem(message, None)));
            break;
        }
    }
    documents
}

/// Reads a text that is one document.
///
/// # Errors
/// What is wrong, without a place: the text comes from a flag or an annotation.
pub(crate) fn document(text: &str) -> Result<Node, Problem> {
    let Documents { mut trees, problems } = documents(text);
    if let Some((_, problem)) = problems.into_iter().next() {
        return Err(problem);
    }
    if trees.len() > 1 {
        return Err(problem("this is more than one document".to_owned(), Some("take out the line `---`".to_owned())));
    }
    Ok(trees.pop().unwrap_or(Node::null(Place { line: 1, column: 1 })))
}

fn problem(message: String, hint: Option<String>) -> Problem {
    Problem { hint, ..Problem::error(FieldPath::root(), message) }
}

/// A line's or column's number, which no text that is small enough to be a manifest makes too large.
pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The first document that starts at line `from` or later, and how many lines lie before it. No content of YAML may start a line
/// with `---`.
fn next_document(text: &str, lines_before: usize, from: usize) -> Option<(&str, usize)> {
    let mut rest = text;
    for line in lines_before + 1.. {
        if line >= from && line > lines_before + 1 && is_marker(rest) {
            return Some((rest, line - 1));
        }
        (_, rest) = rest.split_at(rest.find('\n')? + 1);
    }
    None
}

/// JSON writes a character beyond 16 bits as two escapes, which YAML does not know: makes them one.
fn joined_surrogates(text: &str) -> Cow<'_, str> {
    if !text.trim_start().starts_with(['{', '[']) || !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let unit = |escape: &str| u16::from_str_radix(escape.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let pair = [unit(escape), escape.get(6..).and_then(unit)];
        let joined = match pair {
            [Some(high), Some(low)] => char::decode_utf16([high, low]).next().and_then(Result::ok),
            _ => None,
        };
        let length = match joined.filter(|c| c.len_utf16() == 2) {
            Some(c) => {
                out.push_str(&format!("\\U{:08x}", u32::from(c)));
                12
            }
            None => {
                let length = 1 + escape.chars().nth(1).map_or(0, char::len_utf8);
                out.push_str(escape.get(..length).unwrap_or_default());
                length
            }
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Why a document could not be read to its end.
struct Stopped {
    place: Place,
    /// The line that the document starts in.
    started: u32,
    message: String,
    hint: Option<String>,
}

/// Builds trees from the parser's events.
struct Reader<'a> {
    lines_before: usize,
    documents: &'a mut Documents,
    /// The line that the current document starts in.
    started: u32,
    /// The lists and objects that are not finished, from the outside in.
    open: Vec<Open>,
    /// What anchors stand for, by the parser's number.
    anchors: HashMap<usize, Node>,
    /// What the aliases of this document may still add.
    budget: usize,
}

/// A list or an object that is not finished.
struct Open {
    place: Place,
    anchor: usize,
    content: Content,
    /// The key whose value comes next.
    key: Option<(String, Place)>,
    /// What `<<` merges into the object.
    merged: Vec<Node>,
}

impl<'a> Reader<'a> {
    fn new(lines_before: usize, documents: &'a mut Documents) -> Self {
        let (open, anchors) = (Vec::new(), HashMap::new());
        Self { lines_before, documents, started: number(lines_before + 1), open, anchors, budget: 0 }
    }

    fn read(&mut self, text: &str) -> Result<(), Stopped> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            match event {
                Ok((event, span)) => self.take(event, span)?,
                Err(e) => {
                    let (message, hint) = explain(e.info());
                    return Err(self.stopped(self.place(e.marker()), message, hint));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stopped> {
        let place = self.place(&span.start);
        match event {
            Event::DocumentStart(_) => {
                self.started = place.line;
                self.anchors.clear();
                self.budget = limits::MANIFEST_ALIAS_BYTES;
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let content = Content::Scalar(self.scalar(&text, plain, tag.as_deref(), place)?);
                self.finish(Node { place, content }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.expect_tag(tag.as_deref(), "seq", place)?;
                self.start(place, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.expect_tag(tag.as_deref(), "map", place)?;
                self.start(place, anchor, Content::Object(IndexMap::new()))
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.end(open),
                None => Ok(()),
            },
            Event::Alias(anchor) => self.alias(anchor, place),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn place(&self, marker: &Marker) -> Place {
        Place { line: number(self.lines_before + marker.line().max(1)), column: number(marker.col() + 1) }
    }

    fn stopped(&self, place: Place, message: String, hint: Option<String>) -> Stopped {
        Stopped { place, started: self.started, message, hint }
    }

    /// Reports what is wrong with a part of the document, and reads on.
    fn report(&mut self, place: Place, message: String, hint: &str) {
        let problems = &mut self.documents.problems;
        if problems.len() < limits::MANIFEST_PROBLEMS {
            problems.push((place, problem(message, Some(hint.to_owned()))));
        }
    }

    fn start(&mut self, place: Place, anchor: usize, content: Content) -> Result<(), Stopped> {
        if self.open.len() == limits::MANIFEST_DEPTH {
            let message = format!("more than {} lists and objects inside each other", limits::MANIFEST_DEPTH);
            return Err(self.stopped(place, message, None));
        }
        self.open.push(Open { place, anchor, content, key: None, merged: Vec::new() });
        Ok(())
    }

    fn end(&mut self, open: Open) -> Result<(), Stopped> {
        let Open { place, anchor, mut content, merged, .. } = open;
        if let Content::Object(fields) = &mut content {
            // What is written in the object itself goes before what is merged in, and the first of several before the next.
            for node in merged {
                let Content::Object(more) = node.content else { continue };
                for (key, field) in more {
                    fields.entry(key).or_insert(field);
                }
            }
        }
        self.finish(Node { place, content }, anchor)
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Stopped> {
        let Some(node) = self.anchors.get(&anchor) else {
            let message = "an alias inside of what its own anchor marks".to_owned();
            return Err(self.stopped(place, message, Some("write the value out".to_owned())));
        };
        match self.budget.checked_sub(node.weight()) {
            Some(budget) => self.budget = budget,
            None => {
                let message = format!("aliases add more than {} bytes", limits::MANIFEST_ALIAS_BYTES);
                return Err(self.stopped(place, message, Some("write the values out".to_owned())));
            }
        }
        let node = Node { place, content: node.content.clone() };
        self.finish(node, 0)
    }

    /// Puts a finished value where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Stopped> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
            match self.budget.checked_sub(node.weight()) {
                Some(budget) => self.budget = budget,
                None => {
                    let message = format!("anchors mark more than {} bytes", limits::MANIFEST_ALIAS_BYTES);
                    return Err(self.stopped(node.place, message, None));
                }
            }
        }
        let Some(Open { content, key, merged, .. }) = self.open.last_mut() else {
            if !node.is_null() {
                self.documents.trees.push(node);
            }
            return Ok(());
        };
        match (content, key.take()) {
            (Content::List(items), _) => items.push(node),
            (Content::Object(_), None) => match key_text(&node) {
                Some(text) => *key = Some((text, node.place)),
                None => {
                    let message = format!("a key must be text, this is {}", node.type_name());
                    return Err(self.stopped(node.place, message, Some("put the key in quotes".to_owned())));
                }
            },
            (Content::Object(_), Some((name, _))) if name == "<<" => match node.content {
                Content::Object(_) => merged.push(node),
                Content::List(items) if items.iter().all(|item| matches!(item.content, Content::Object(_))) => {
                    merged.extend(items);
                }
                _ => self.report(node.place, "`<<` merges objects".to_owned(), "give it an alias of an object"),
            },
            (Content::Object(fields), Some((name, place))) => match fields.entry(name) {
                Entry::Vacant(entry) => _ = entry.insert(Field { key: place, value: node }),
                Entry::Occupied(entry) => {
                    let (first, name) = (entry.get().key, entry.key().clone());
                    let message = format!("`{name}` is given twice, first in line {}", first.line);
                    self.report(place, message, "keep one of the two");
                }
            },
            (Content::Scalar(_), _) => {}
        }
        Ok(())
    }

    /// What a scalar means by its tag, its style and its text.
    fn scalar(&mut self, text: &str, plain: bool, tag: Option<&Tag>, place: Place) -> Result<Scalar, Stopped> {
        let Some(tag) = tag else {
            return Ok(if plain { Scalar::plain(text) } else { Scalar::quoted(text) });
        };
        let read = match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
            (true, "str") => return Ok(Scalar::quoted(text)),
            (false, "!") if tag.handle.is_empty() => return Ok(Scalar::quoted(text)),
            (true, "int" | "float" | "bool" | "null") => Scalar::plain(text),
            _ => return Err(self.unknown_tag(tag, place)),
        };
        if read.as_str().is_some() {
            self.report(place, format!("this is no {}", tag.suffix), "take the tag away");
        }
        Ok(read)
    }

    fn expect_tag(&self, tag: Option<&Tag>, suffix: &str, place: Place) -> Result<(), Stopped> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == suffix) => Err(self.unknown_tag(tag, place)),
            _ => Ok(()),
        }
    }

    fn unknown_tag(&self, tag: &Tag, place: Place) -> Stopped {
        self.stopped(place, format!("the tag `{tag}` means nothing here"), Some("take it away".to_owned()))
    }
}

/// The text of a key; numbers and booleans count as text, as for Kubernetes' tools.
fn key_text(node: &Node) -> Option<String> {
    match &node.content {
        Content::Scalar(Scalar::String { text, .. } | Scalar::Number(_, text) | Scalar::NoNumber(text)) => {
            Some(text.clone())
        }
        Content::Scalar(Scalar::Bool(value)) => Some(value.to_string()),
        _ => None,
    }
}

/// The parser's words, and the likely fix for what people get wrong most.
fn explain(info: &str) -> (String, Option<String>) {
    let lower = info.to_lowercase();
    let hint = if lower.contains("tab") {
        Some("indent with spaces")
    } else if lower.contains("quot") {
        Some("close the quotes")
    } else if lower.contains("mapping values") || lower.contains("simple key") || lower.contains("block mapping") {
        Some("check the indentation, and put a text that holds `: ` in quotes")
    } else if lower.contains("flow") || lower.contains("','") {
        Some("close the bracket")
    } else if lower.contains("anchor") || lower.contains("alias") {
        Some("mark the value with `&name` before it is used")
    } else {
        None
    };
    (format!("broken YAML: {}", info.trim_end_matches('.')), hint.map(str::to_owned))
}

#[cfg(test)]
mod tests;
