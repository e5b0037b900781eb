//! A problem with its place in a file, as people and tools read it.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Place;
use crate::problem::{FieldPath, Problem, Severity};

/// The name of the file that stands for values given by `--set`.
const OVERRIDES: &str = "--set";

/// Something that is wrong at a place of a file. `Display` is `file:line:column: field.path: what is wrong; likely fix`, with
/// `warning: ` in front of the path of a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the manifest can be used all the same.
    pub severity: Severity,
    /// The file, as it is shown to people.
    pub file: Arc<str>,
    /// The line, from 1; 0 where the whole file is meant, or a value that no file holds.
    pub line: u32,
    /// The column in characters, from 1; 0 like the line.
    pub column: u32,
    /// The object's kind and name, where it has them.
    pub object: Option<Arc<str>>,
    /// The field in the object.
    pub path: FieldPath,
    /// What is wrong, lowercase, without a full stop.
    pub message: String,
    /// The likely fix, likewise.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Something that is wrong with a whole file, such as that it cannot be read.
    pub fn file(file: impl Into<Arc<str>>, message: impl Into<String>) -> Self {
        let problem = Problem::error(FieldPath::root(), message);
        Self { file: file.into(), ..Self::new(Arc::from(""), Place { line: 0, column: 0 }, None, problem) }
    }

    /// Puts a problem at its place.
    pub(super) fn new(file: Arc<str>, place: Place, object: Option<Arc<str>>, problem: Problem) -> Self {
        let Problem { severity, path, message, hint } = problem;
        let Place { line, column } = place;
        let file = if place == Place::OVERRIDE { Arc::from(OVERRIDES) } else { file };
        Self { severity, file, line, column, object, path, message, hint }
    }

    /// True for what keeps the manifest from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Orders diagnostics by file, line and column.
    pub fn sort(diagnostics: &mut [Self]) {
        diagnostics.sort_by(|a, b| {
            let key = |d: &Self| (d.line, d.column);
            a.file.cmp(&b.file).then_with(|| key(a).cmp(&key(b)))
        });
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.steps().is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}
