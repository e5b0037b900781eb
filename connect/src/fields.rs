//! The fields of a part of a manifest that is being validated, and what is wrong with them.

use std::fmt;
use std::time::Duration;

use evoke_api::credentials::{Secret, ValueFrom, Vault, resolve};
use evoke_api::problem::{FieldPath, Problem, quoted};
use evoke_api::quantity;

/// A part of a manifest, and the problems of all of it, so that everything that is wrong is said at once.
pub struct Fields<'a> {
    namespace: &'a str,
    path: FieldPath,
    vault: &'a dyn Vault,
    problems: &'a mut Vec<Problem>,
    /// How many errors there were before this part.
    before: usize,
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fields").field("namespace", &self.namespace).field("path", &self.path).finish_non_exhaustive()
    }
}

impl<'a> Fields<'a> {
    /// The part at `path` of an object of `namespace`, which is empty for an object of the whole cluster. Credentials are looked up
    /// in `vault`.
    pub fn new(namespace: &'a str, path: FieldPath, vault: &'a dyn Vault, problems: &'a mut Vec<Problem>) -> Self {
        let before = errors(problems);
        Self { namespace, path, vault, problems, before }
    }

    /// The part under one of its fields.
    pub fn under(&mut self, field: &str) -> Fields<'_> {
        Fields::new(self.namespace, self.path.key(field), self.vault, self.problems)
    }

    /// The same part, whose soundness is judged by itself.
    pub fn part(&mut self) -> Fields<'_> {
        Fields::new(self.namespace, self.path.clone(), self.vault, self.problems)
    }

    /// The path of a field.
    pub fn path(&self, field: &str) -> FieldPath {
        self.path.key(field)
    }

    /// The path of the part itself.
    pub fn whole(&self) -> &FieldPath {
        &self.path
    }

    /// What is wrong so far, also with other parts.
    pub fn problems(&mut self) -> &mut Vec<Problem> {
        self.problems
    }

    /// True if no error was found in this part.
    pub fn is_sound(&self) -> bool {
        errors(self.problems) == self.before
    }

    /// Refuses a field.
    pub fn error(&mut self, field: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::error(self.path(field), message).hint(hint));
    }

    /// Warns of a field.
    pub fn warning(&mut self, field: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::warning(self.path(field), message).hint(hint));
    }

    /// What there is, unless it is a problem.
    pub fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    /// The credential `name`, or what `{name}From` stands for.
    pub fn secret(&mut self, name: &str, plain: Option<&Secret>, from: Option<&ValueFrom>) -> Option<Secret> {
        resolve(self.vault, self.namespace, &self.path, name, plain, from, self.problems)
    }

    /// Reads a duration.
    pub fn duration(&mut self, field: &str, text: Option<&str>) -> Option<Duration> {
        let duration = quantity::duration(text?, &self.path(field));
        self.keep(duration)
    }

    /// The media type in `contentType`, as an event and an HTTP header can hold it.
    pub fn content_type(&mut self, text: Option<&str>) -> Option<String> {
        let text = text?;
        if !is_media_type(text) {
            self.error("contentType", format!("{} is no media type", quoted(text)), "write it as application/json");
        }
        Some(text.to_owned())
    }

    /// Reads a number of bytes.
    pub fn bytes(&mut self, field: &str, text: Option<&str>) -> Option<u64> {
        let bytes = quantity::bytes(text?, &self.path(field));
        self.keep(bytes)
    }
}

/// Whether a text is `type/subtype`, with parameters or without.
fn is_media_type(text: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim_end_matches(' ');
    let is_printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    is_printable && essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

fn errors(problems: &[Problem]) -> usize {
    problems.iter().filter(|problem| problem.is_error()).count()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Holds `hunter2` under one name.
    struct OneSecret;

    impl Vault for OneSecret {
        fn look_up(&self, _: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
            match from.env.as_deref() {
                Some("KNOWN") => Ok(Secret::new("hunter2")),
                _ => Err(Problem::error(path.clone(), "there is no such secret")),
            }
        }
    }

    /// What the part at `path` comes to, and what is wrong with it.
    pub(crate) fn planned<T>(path: FieldPath, plan: impl FnOnce(Fields<'_>) -> T) -> (T, Vec<String>) {
        let mut problems = Vec::new();
        let plan = plan(Fields::new("ns", path, &OneSecret, &mut problems));
        (plan, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_media_type_is_what_a_header_can_say() {
        for text in ["application/json", "text/plain; charset=utf-8", "application/vnd.a+json;v=\"1, 2\""] {
            let (found, problems) = planned(FieldPath::spec(), |mut fields| fields.content_type(Some(text)));
            assert_eq!((found.as_deref(), problems), (Some(text), Vec::new()));
        }
        for text in ["", "json", "/", "a/", " text/plain", "text/ plain", "application/json\n", "text/plain; a=\u{e9}"]
        {
            let ((), problems) = planned(FieldPath::spec(), |mut fields| {
                fields.content_type(Some(text));
                assert!(!fields.is_sound(), "{text:?}");
            });
            let expected = format!("spec.contentType: {text:?} is no media type; write it as application/json");
            assert_eq!(problems, [expected]);
        }
        assert_eq!(planned(FieldPath::spec(), |mut fields| fields.content_type(None)), (None, Vec::new()));
    }

    #[test]
    fn each_part_is_judged_by_itself() {
        let (sound, problems) = planned(FieldPath::spec(), |mut fields| {
            fields.warning("a", "odd", "change it");
            let first = fields.is_sound();
            fields.under("b").error("c", "wrong", "mend it");
            (first, fields.part().is_sound(), fields.is_sound())
        });
        assert_eq!(sound, (true, true, false));
        assert_eq!(problems, ["spec.a: odd; change it", "spec.b.c: wrong; mend it"]);
    }
}
