//! Which names a condition can spell, and which one was probably meant.

/// True for what CEL reads as one identifier.
pub(super) fn is_identifier(name: &str) -> bool {
    const RESERVED: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !RESERVED.contains(&name)
}

/// The candidate that `name` is most likely a slip of.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (name.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A name that CEL can spell, made from one that it cannot.
pub(super) fn spellable(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if is_identifier(&plain) { plain } else { format!("in_{plain}") }
}

/// The input whose name CEL cannot spell and that stands in `text` as a word, at byte `at` if that is given.
pub(super) fn unspellable<'a>(text: &str, at: Option<usize>, inputs: &[&'a str]) -> Option<&'a str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let stands = |name: &&str| {
        text.match_indices(*name).any(|(start, _)| {
            let end = start + name.len();
            let before = text.get(..start).and_then(|t| t.chars().next_back());
            let after = text.get(end..).and_then(|t| t.chars().next());
            !before.is_some_and(is_word)
                && !after.is_some_and(is_word)
                && at.is_none_or(|at| (start..end).contains(&at))
        })
    };
    inputs.iter().copied().filter(|name| !is_identifier(name)).filter(stands).max_by_key(|name| name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for name in ["a", "_a1", "orders", "Event", "int"] {
            assert!(is_identifier(name), "{name}");
        }
        for name in ["", "1a", "a-b", "in", "true", "namespace", "é", "a.b"] {
            assert!(!is_identifier(name), "{name}");
        }
    }

    #[test]
    fn the_likely_name() {
        assert_eq!(closest("ordres", ["orders", "payments"]), Some("orders"));
        assert_eq!(closest("Orders", ["orders"]), Some("orders"));
        assert_eq!(closest("x", ["orders", "payments"]), None);
        assert_eq!(closest("evnt", ["a", "event"]), Some("event"));
    }

    #[test]
    fn a_name_that_reads_as_subtraction() {
        let inputs = ["my-input", "my", "1st", "in"];
        assert_eq!(unspellable("my-input && x", Some(0), &inputs), Some("my-input"));
        assert_eq!(unspellable("x && my-input", Some(8), &inputs), Some("my-input"));
        assert_eq!(unspellable("x && my-inputs", None, &inputs), None);
        assert_eq!(unspellable("1st", None, &inputs), Some("1st"));
        assert_eq!(unspellable("x", None, &["y"]), None);
        assert_eq!(spellable("my-input"), "my_input");
        assert_eq!(spellable("1st"), "in_1st");
    }
}
