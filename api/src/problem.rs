//! What is wrong with a manifest: which field, why, and the likely fix.

use std::fmt;

/// The path of a field inside one object, as people write it: `spec.subscribers[0].condition`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Step>);

/// One step of a [`FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A key of a mapping.
    Key(String),
    /// A place in a sequence, from 0.
    Index(usize),
}

impl FieldPath {
    /// The path of these steps from the object down.
    pub fn new(steps: Vec<Step>) -> Self {
        Self(steps)
    }

    /// The object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The `spec` of the object.
    pub fn spec() -> Self {
        Self::root().key("spec")
    }

    /// The field `name` of what this path names.
    #[must_use]
    pub fn key(&self, name: impl Into<String>) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(name.into()));
        Self(steps)
    }

    /// The item at `index` of what this path names.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// The steps from the object down.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The path one step up; `None` for the object itself.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, head) = self.0.split_last()?;
        Some(Self(head.to_vec()))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key)
                    if !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') =>
                {
                    write!(f, "{}{key}", if i == 0 { "" } else { "." })?;
                }
                Step::Key(key) => write!(f, "[{key:?}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl serde::Serialize for FieldPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a problem keeps a manifest from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The manifest is refused.
    Error,
    /// The manifest is used; somebody should know.
    Warning,
}

/// One thing that is wrong with one field of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the object can be used all the same.
    pub severity: Severity,
    /// The field, inside its object.
    pub path: FieldPath,
    /// What is wrong, lowercase, without a full stop.
    pub message: String,
    /// The likely fix, likewise.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem that keeps the object from being used.
    pub fn error(path: FieldPath, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path, message: message.into(), hint: None }
    }

    /// A problem that somebody should know of.
    pub fn warning(path: FieldPath, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, path, message: message.into(), hint: None }
    }

    /// A part of a manifest that would run if evoke had been built with the cargo feature `feature`.
    pub fn not_built(path: FieldPath, feature: &str) -> Self {
        let message = format!("this evoke was built without `{feature}`");
        Self::error(path, message).hint(format!("build it with `--features {feature}`"))
    }

    /// The same problem with its likely fix.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// True for what keeps the object from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// A value as messages show it: in quotes, and cut where it is long.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// What planning one object came to: the plan if there was no error, and every problem there was.
#[derive(Clone, Debug)]
pub struct Planned<P> {
    /// The validated plan; `None` when one of `problems` is an error.
    pub plan: Option<P>,
    /// Errors and warnings, in the order of the manifest.
    pub problems: Vec<Problem>,
    /// What is right but cannot run here (a source, bus or function kind that is not there yet, a field for clusters only), with
    /// the way out: an error where it is to run, a warning where it is only checked.
    pub not_here: Vec<Problem>,
}

impl<P> Planned<P> {
    /// Drops `plan` when any of `problems` is an error.
    pub fn new(plan: Option<P>, problems: Vec<Problem>) -> Self {
        let plan = if problems.iter().any(Problem::is_error) { None } else { plan };
        Self { plan, problems, not_here: Vec::new() }
    }

    /// The same with what cannot run here.
    #[must_use]
    pub fn not_here(mut self, not_here: Vec<Problem>) -> Self {
        self.not_here = not_here;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_people_write_them() {
        let path = FieldPath::spec().key("subscribers").index(0).key("a.b").key("").key("c-d_e");
        assert_eq!(path.to_string(), r#"spec.subscribers[0]["a.b"][""].c-d_e"#);
        assert_eq!(path.parent().unwrap().to_string(), r#"spec.subscribers[0]["a.b"][""]"#);
        assert_eq!(FieldPath::root().parent(), None);
        assert_eq!(serde_json::to_value(FieldPath::spec().index(3)).unwrap(), "spec[3]");
    }

    #[test]
    fn problems_say_where_what_and_how() {
        let problem = Problem::error(FieldPath::spec().key("retry"), "-1 is too small");
        assert_eq!(problem.to_string(), "spec.retry: -1 is too small");
        assert_eq!(problem.hint("write 0 or more").to_string(), "spec.retry: -1 is too small; write 0 or more");
        assert_eq!(Problem::warning(FieldPath::root(), "ignored").to_string(), "ignored");
    }

    #[test]
    fn an_error_leaves_no_plan() {
        let warning = Problem::warning(FieldPath::root(), "w");
        let error = Problem::error(FieldPath::root(), "e");
        assert_eq!(Planned::new(Some(1), vec![warning.clone()]).plan, Some(1));
        assert_eq!(Planned::new(Some(1), vec![warning, error]).plan, None);
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(quoted("a\n"), r#""a\n""#);
        assert_eq!(quoted(&"é".repeat(1000)), format!("\"{}\"...", "é".repeat(80)));
    }
}
