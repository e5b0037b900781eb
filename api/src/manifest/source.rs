//! A manifest file's text.

use std::sync::Arc;

use super::Diagnostic;
use super::read::number;
use crate::limits;

/// A manifest file: its name, as it is shown to people, and its text.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The name.
    pub name: Arc<str>,
    /// The text.
    pub text: String,
}

impl SourceFile {
    /// Takes a text as it is.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// Takes what a file holds.
    ///
    /// # Errors
    /// The diagnostic names the place of the first byte that is not UTF-8, or says that the file is too large.
    pub fn from_bytes(name: impl Into<Arc<str>>, bytes: Vec<u8>) -> Result<Self, Diagnostic> {
        let name = name.into();
        if bytes.len() > limits::MANIFEST_BYTES {
            let message = format!("the file has {} bytes, a manifest at most {}", bytes.len(), limits::MANIFEST_BYTES);
            return Err(Diagnostic { hint: Some("split it".to_owned()), ..Diagnostic::file(name, message) });
        }
        String::from_utf8(bytes).map(|text| Self { name: name.clone(), text }).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            let before = e.as_bytes().get(..at).map(String::from_utf8_lossy).unwrap_or_default();
            let message = format!("not UTF-8: the byte at position {at} is not part of a character");
            Diagnostic {
                line: number(before.matches('\n').count() + 1),
                column: number(before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1),
                hint: Some("save the file as UTF-8".to_owned()),
                ..Diagnostic::file(name, message)
            }
        })
    }
}

impl std::fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SourceFile({}, {} bytes)", self.name, self.text.len())
    }
}
