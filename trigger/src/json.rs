//! JSON as conditions need it: one pass over the text checks all of it and keeps the values at the paths that conditions name.
//!
//! The text is checked whole, so that what one condition sees never depends on which paths the others name. A key that is
//! repeated counts as last written, as it does for almost every other reader. Nothing recurses deeper than [`DEPTH`].

mod scan;
mod tree;

pub(crate) use scan::{Malformed, Scanner, Token};
pub(crate) use tree::{Node, Step, Tree};

/// How deeply arrays and objects may nest; deeper text counts as malformed.
pub(crate) const DEPTH: usize = 128;

/// What is at one node of a [`Tree`], in one text. Places are byte offsets into the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Datum {
    /// Nothing.
    #[default]
    Missing,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number that an `i64` holds.
    Int(i64),
    /// A larger whole number that a `u64` holds.
    UInt(u64),
    /// Any other number.
    Double(f64),
    /// A number that no `f64` holds.
    OutOfRange,
    /// A string without escapes: where its content starts and ends.
    Text(u32, u32),
    /// A string that had escapes.
    Unescaped(Box<str>),
    /// An object: where it starts and ends.
    Object(u32, u32),
    /// An array: where it starts and ends.
    Array(u32, u32),
}

impl Datum {
    /// What it holds beside itself, in bytes.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Unescaped(text) => text.len(),
            _ => 0,
        }
    }
}

/// Reads `text` once and gives what is at each node of `tree`, in the order of its nodes.
///
/// # Errors
/// [`Malformed`] for anything that is not exactly one JSON value.
pub(crate) fn read(text: &str, tree: &Tree) -> Result<Box<[Datum]>, Malformed> {
    if u32::try_from(text.len()).is_err() {
        return Err(Malformed { at: 0, what: "more than 4 GiB" });
    }
    let mut found = vec![Datum::Missing; tree.len()].into_boxed_slice();
    let mut scanner = Scanner::new(text);
    visit(&mut scanner, tree, Node::ROOT, &mut found, 0)?;
    scanner.end()?;
    Ok(found)
}

fn visit(
    scanner: &mut Scanner<'_>,
    tree: &Tree,
    node: Node,
    found: &mut [Datum],
    depth: usize,
) -> Result<(), Malformed> {
    if found.get(node.index()).is_some_and(|d| *d != Datum::Missing)
        && let Some(again) = found.get_mut(tree.subtree(node))
    {
        again.fill(Datum::Missing);
    }
    let token = scanner.token()?;
    let datum = match token {
        Token::Object => {
            let start = scanner.offset() - 1;
            scanner.object(depth, |scanner, key, depth| match tree.key(node, &key) {
                Some(child) => visit(scanner, tree, child, found, depth),
                None => scanner.skip(depth),
            })?;
            Datum::Object(start, scanner.offset())
        }
        Token::Array => {
            let start = scanner.offset() - 1;
            scanner.array(depth, |scanner, index, depth| match tree.item(node, index) {
                Some(child) => visit(scanner, tree, child, found, depth),
                None => scanner.skip(depth),
            })?;
            Datum::Array(start, scanner.offset())
        }
        scalar => scanner.datum(scalar),
    };
    if let Some(place) = found.get_mut(node.index()) {
        *place = datum;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
