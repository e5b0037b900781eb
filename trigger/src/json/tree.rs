//! The paths that conditions name, as one tree.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::size_of;
use std::ops::Range;

use super::Datum;

/// One step of a path into JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    /// The member of an object.
    Key(Box<str>),
    /// The item of an array, from 0.
    Item(u64),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) if is_plain(key) => write!(f, ".{key}"),
            Self::Key(key) => write!(f, "[{key:?}]"),
            Self::Item(index) => write!(f, "[{index}]"),
        }
    }
}

fn is_plain(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A place in a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node(u32);

impl Node {
    /// The whole text.
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Paths merged at their common beginnings. Nodes are numbered so that everything below a node follows it directly.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Branch>,
}

#[derive(Debug, Default)]
struct Branch {
    /// By key.
    keys: Vec<(Box<str>, Node)>,
    /// By index.
    items: Vec<(u64, Node)>,
    /// The node after the last one below this one.
    end: u32,
}

#[derive(Default)]
struct Trie(BTreeMap<Step, Trie>);

impl Tree {
    /// Merges `paths`.
    pub(crate) fn new<'a>(paths: impl IntoIterator<Item = &'a [Step]>) -> Self {
        let mut root = Trie::default();
        for path in paths {
            let mut at = &mut root;
            for step in path {
                at = at.0.entry(step.clone()).or_default();
            }
        }
        let mut tree = Self { nodes: Vec::new() };
        tree.grow(root);
        tree
    }

    fn grow(&mut self, trie: Trie) -> Node {
        let index = self.nodes.len();
        self.nodes.push(Branch::default());
        let (mut keys, mut items) = (Vec::new(), Vec::new());
        for (step, below) in trie.0 {
            let child = self.grow(below);
            match step {
                Step::Key(key) => keys.push((key, child)),
                Step::Item(index) => items.push((index, child)),
            }
        }
        let end = number(self.nodes.len());
        if let Some(branch) = self.nodes.get_mut(index) {
            *branch = Branch { keys, items, end };
        }
        Node(number(index))
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The size of what is read along it, in bytes, without what its values hold elsewhere.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * size_of::<Datum>()
    }

    /// The node at the end of `path`, which must have been one of those that this tree was made of.
    pub(crate) fn find(&self, path: &[Step]) -> Option<Node> {
        path.iter().try_fold(Node::ROOT, |at, step| match step {
            Step::Key(key) => self.key(at, key),
            Step::Item(index) => self.item(at, *index),
        })
    }

    /// The child of `node` at a key.
    pub(crate) fn key(&self, node: Node, key: &str) -> Option<Node> {
        let keys = &self.nodes.get(node.index())?.keys;
        if keys.len() > 8 {
            let place = keys.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
            return keys.get(place).map(|(_, child)| *child);
        }
        keys.iter().find(|(k, _)| k.as_ref() == key).map(|(_, child)| *child)
    }

    /// The child of `node` at an index.
    pub(crate) fn item(&self, node: Node, index: u64) -> Option<Node> {
        let items = &self.nodes.get(node.index())?.items;
        let place = items.binary_search_by_key(&index, |(i, _)| *i).ok()?;
        items.get(place).map(|(_, child)| *child)
    }

    /// The indices of `node` and everything below it.
    pub(crate) fn subtree(&self, node: Node) -> Range<usize> {
        let end = self.nodes.get(node.index()).map_or(0, |b| b.end as usize);
        node.index()..end.max(node.index())
    }
}

/// Conditions have 4 KiB, so there are never more nodes than a `u32` counts.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
