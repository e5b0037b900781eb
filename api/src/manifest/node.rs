//! A marked tree: what a document says, with the place of every key and value.

use std::fmt;

use indexmap::IndexMap;

use super::scalar::Scalar;
use crate::limits;
use crate::problem::{FieldPath, Step};

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// The place of a value that no file holds.
    pub(super) const OVERRIDE: Self = Self { line: 0, column: 1 };
}

/// A value and its place. `Debug` prints no scalars, which may be secrets.
#[derive(Clone, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub(super) place: Place,
    /// What it is.
    pub(super) content: Content,
}

/// What a [`Node`] holds.
#[derive(Clone, PartialEq)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Object(IndexMap<String, Field>),
}

/// The value of a key, and the key's place.
#[derive(Clone, PartialEq)]
pub(super) struct Field {
    pub(super) key: Place,
    pub(super) value: Node,
}

impl Field {
    /// Where to point when something is wrong with this field: at its value, or at the key of what has none.
    pub(super) fn place(&self) -> Place {
        if self.value.is_null() { self.key } else { self.value.place }
    }
}

impl Node {
    pub(super) fn null(place: Place) -> Self {
        Self { place, content: Content::Scalar(Scalar::Null) }
    }

    /// The value of the field `name` of an object; absent where it is null, as for Kubernetes.
    pub(super) fn get(&self, name: &str) -> Option<&Field> {
        match &self.content {
            Content::Object(fields) => fields.get(name).filter(|field| !field.value.is_null()),
            _ => None,
        }
    }

    /// The text of a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(scalar) => scalar.as_str(),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Scalar::Null))
    }

    /// The place of what `path` names, or of its nearest ancestor that is there.
    pub(super) fn locate(&self, path: &FieldPath) -> Place {
        let (mut node, mut place) = (self, self.place);
        for step in path.steps() {
            (node, place) = match (&node.content, step) {
                (Content::Object(fields), Step::Key(key)) => match fields.get(key) {
                    Some(field) => (&field.value, field.place()),
                    None => break,
                },
                (Content::List(items), Step::Index(index)) => match items.get(*index) {
                    Some(item) => (item, item.place),
                    None => break,
                },
                _ => break,
            };
        }
        place
    }

    /// Takes the places away: the value comes from no file.
    pub(super) fn detach(&mut self) {
        self.place = Place::OVERRIDE;
        match &mut self.content {
            Content::Scalar(_) => {}
            Content::List(items) => items.iter_mut().for_each(Self::detach),
            Content::Object(fields) => fields.values_mut().for_each(|field| {
                field.key = Place::OVERRIDE;
                field.value.detach();
            }),
        }
    }

    /// What copying this value costs, in the unit of [`limits::MANIFEST_ALIAS_BYTES`].
    pub(super) fn weight(&self) -> usize {
        limits::MANIFEST_NODE_BYTES
            + match &self.content {
                Content::Scalar(scalar) => scalar.text_bytes(),
                Content::List(items) => items.iter().map(Self::weight).sum(),
                Content::Object(fields) => fields.iter().map(|(key, field)| key.len() + field.value.weight()).sum(),
            }
    }

    /// The value as JSON; a number that JSON does not have is null.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.content {
            Content::Scalar(scalar) => scalar.to_json(),
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Object(fields) => fields.iter().map(|(key, field)| (key.clone(), field.value.to_json())).collect(),
        }
    }

    /// What people call this type of value.
    pub(super) fn type_name(&self) -> &'static str {
        match &self.content {
            Content::Scalar(scalar) => scalar.type_name(),
            Content::List(_) => "a list",
            Content::Object(_) => "an object",
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Scalar(scalar) => f.write_str(scalar.type_name()),
            Content::List(items) => f.debug_list().entries(items).finish(),
            Content::Object(fields) => {
                f.debug_map().entries(fields.iter().map(|(key, field)| (key, &field.value))).finish()
            }
        }
    }
}
