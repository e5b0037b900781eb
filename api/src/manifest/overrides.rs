//! `--set KIND/[NAMESPACE/]NAME:PATH=VALUE`: one field of one object, changed before it is checked.

use std::fmt;

use indexmap::IndexMap;

use super::load::Draft;
use super::node::{Content, Field};
use super::{Kind, Node, Place, did_you_mean, read};
use crate::names::ObjectName;
use crate::problem::{FieldPath, Problem, Step};

/// A change of one field. Paths begin at the object; of kinds that have a `spec`, `spec.` may be left out. The value is YAML, and
/// none removes the field. `[n]` of a list that has n items adds one.
#[derive(Clone, Debug)]
pub struct Override {
    kind: Kind,
    namespace: Option<String>,
    name: String,
    path: FieldPath,
    value: Node,
}

/// Why a text is no override.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{message}; write it as KIND/[NAMESPACE/]NAME:FIELD.PATH=VALUE, such as Trigger/orders:subscribers[0].condition=orders"
)]
pub struct InvalidOverride {
    message: String,
}

impl Override {
    /// Reads `KIND/[NAMESPACE/]NAME:a.b[0]["x.y"]=YAML`.
    ///
    /// # Errors
    /// Says which part is wrong, and shows how to write it.
    pub fn parse(text: &str) -> Result<Self, InvalidOverride> {
        let wrong = |message: String| InvalidOverride { message };
        let (target, rest) =
            text.split_once(':').ok_or_else(|| wrong(format!("{text:?} has no `:` before the path")))?;
        let parts: Vec<_> = target.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [kind, name] => (*kind, None, *name),
            [kind, namespace, name] => (*kind, Some((*namespace).to_owned()), *name),
            _ => return Err(wrong(format!("{target:?} names no object"))),
        };
        let kind = Kind::from_name(kind).ok_or_else(|| {
            let hint = did_you_mean::hint(kind, Kind::ALL.map(Kind::as_str), "kind").unwrap_or_default();
            wrong(format!("there is no kind {kind:?}, {hint}"))
        })?;
        if name.is_empty() || namespace.as_deref() == Some("") {
            return Err(wrong(format!("{target:?} names no object")));
        }
        let (steps, value) = steps(rest).map_err(wrong)?;
        let has_spec = !matches!(kind, Kind::Secret);
        let path = match steps.first() {
            Some(Step::Key(first)) if first == "apiVersion" || first == "kind" => {
                return Err(wrong(format!("`{first}` cannot be set")));
            }
            Some(Step::Key(first)) if !has_spec || matches!(first.as_str(), "spec" | "metadata" | "status") => steps,
            _ => [vec![Step::Key("spec".to_owned())], steps].concat(),
        };
        if let [Step::Key(first), Step::Key(second), ..] = path.as_slice()
            && first == "metadata"
            && matches!(second.as_str(), "name" | "namespace")
        {
            return Err(wrong(format!("`metadata.{second}` cannot be set")));
        }
        let mut value = read::document(value).map_err(|problem| wrong(format!("the value is no YAML: {problem}")))?;
        value.detach();
        Ok(Self { kind, namespace, name: name.to_owned(), path: FieldPath::new(path), value })
    }

    /// The object that is changed, as people name it.
    pub(super) fn target(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// Changes the object among `drafts`.
    ///
    /// # Errors
    /// The object is not there or not the only one, or the path leads through something that has no fields.
    pub(super) fn apply(&self, drafts: &mut [Draft]) -> Result<(), Problem> {
        let of_name = |draft: &Draft| {
            let Some(name) = draft.name.as_ref().filter(|_| draft.kind == self.kind) else { return false };
            *name.name == *self.name && self.namespace.as_deref().is_none_or(|namespace| *name.namespace == *namespace)
        };
        let found: Vec<_> = (0..).zip(drafts.iter()).filter(|(_, draft)| of_name(draft)).map(|(at, _)| at).collect();
        let draft = match found.as_slice() {
            [only] => drafts.get_mut::<usize>(*only),
            [] => return Err(self.not_there(drafts)),
            [..] => {
                let message = format!("there are {} objects {}", found.len(), self.target());
                return Err(Problem::error(self.path.clone(), message).hint("name its namespace as well"));
            }
        };
        draft.map_or(Ok(()), |draft| set(&mut draft.tree, self.path.steps(), &self.value, &FieldPath::root()))
    }

    fn not_there(&self, drafts: &[Draft]) -> Problem {
        let problem = Problem::error(self.path.clone(), format!("there is no {}", self.target()));
        let names = drafts.iter().filter(|draft| draft.kind == self.kind).filter_map(|draft| draft.name.as_ref());
        let written_name = |name: &ObjectName| match &self.namespace {
            Some(_) => name.to_string(),
            None => name.name.to_string(),
        };
        let names: Vec<_> = names.map(written_name).collect();
        let written = match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        };
        match did_you_mean::hint(&written, names.iter().map(String::as_str), self.kind.as_str()) {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target(), self.path)
    }
}

/// The steps of `a.b[0]["x.y"]=`, and what follows the `=`.
fn steps(text: &str) -> Result<(Vec<Step>, &str), String> {
    let mut steps = Vec::new();
    let mut rest = text;
    loop {
        if let Some(inner) = rest.strip_prefix("[\"") {
            let (key, after) = inner.split_once("\"]").ok_or_else(|| format!("{rest:?} has no closing `\"]`"))?;
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (index, after) = inner.split_once(']').ok_or_else(|| format!("{rest:?} has no closing `]`"))?;
            let index = index.parse().map_err(|_| format!("`[{index}]` is no place in a list"))?;
            steps.push(Step::Index(index));
            rest = after;
        } else {
            let end = rest.find(['.', '[', '=']).ok_or_else(|| format!("{text:?} has no `=` before the value"))?;
            let (key, after) = rest.split_at(end);
            if key.is_empty() {
                return Err(format!("{text:?} has an empty step in its path"));
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        }
        if let Some(value) = rest.strip_prefix('=') {
            return Ok((steps, value));
        }
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None if rest.starts_with('[') => {}
            None => return Err(format!("{text:?} has no `=` before the value")),
        }
    }
}

/// Puts `value` at the end of `steps`, making the objects and lists on the way.
fn set(node: &mut Node, steps: &[Step], value: &Node, at: &FieldPath) -> Result<(), Problem> {
    let Some((step, rest)) = steps.split_first() else {
        node.clone_from(value);
        return Ok(());
    };
    if node.is_null() {
        node.content = match step {
            Step::Key(_) => Content::Object(IndexMap::new()),
            Step::Index(_) => Content::List(Vec::new()),
        };
    }
    let kind = node.type_name();
    match (&mut node.content, step) {
        (Content::Object(fields), Step::Key(key)) => {
            let missing = || Field { key: Place::OVERRIDE, value: Node::null(Place::OVERRIDE) };
            let field = fields.entry(key.clone()).or_insert_with(missing);
            if rest.is_empty() {
                field.key = Place::OVERRIDE;
            }
            set(&mut field.value, rest, value, &at.key(key.clone()))
        }
        (Content::List(items), Step::Index(index)) => {
            if *index == items.len() {
                items.push(Node::null(Place::OVERRIDE));
            }
            let there = items.len();
            match items.get_mut(*index) {
                Some(item) => set(item, rest, value, &at.index(*index)),
                None => Err(Problem::error(at.index(*index), format!("the list has {there} items"))
                    .hint(format!("write `[{there}]` to add one"))),
            }
        }
        (_, Step::Key(key)) => Err(Problem::error(at.clone(), format!("this is {kind}, and has no `{key}`"))),
        (_, Step::Index(index)) => Err(Problem::error(at.clone(), format!("this is {kind}, and has no `[{index}]`"))),
    }
}

#[cfg(test)]
mod tests;
