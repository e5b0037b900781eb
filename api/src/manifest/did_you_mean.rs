//! The name that somebody probably meant.

/// Names longer than this are compared with nothing: they are no typing mistakes.
const LONGEST: usize = 128;

/// The one of `known` that `written` is most likely a misspelling of.
pub(super) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > LONGEST {
        return None;
    }
    let written = written.to_lowercase();
    let near = |name: &'a str| {
        let folded = name.to_lowercase();
        let distance = strsim::damerau_levenshtein(&written, &folded);
        // A third of the letters may be wrong; or more, towards the end of a word that begins alike.
        let is_near = distance <= written.chars().count().max(3) / 3 || strsim::jaro_winkler(&written, &folded) >= 0.87;
        is_near.then_some((distance, name))
    };
    known.into_iter().filter(|name| name.len() <= LONGEST).filter_map(near).min().map(|(_, name)| name)
}

/// The hint for a name that is not among `known`: the nearest one, else all of them.
pub(super) fn hint<'a>(written: &str, known: impl IntoIterator<Item = &'a str> + Clone, what: &str) -> Option<String> {
    if let Some(name) = did_you_mean(written, known.clone()) {
        return Some(format!("did you mean `{name}`"));
    }
    let mut names: Vec<_> = known.into_iter().map(|name| format!("`{name}`")).collect();
    names.sort();
    match names.as_slice() {
        [] => None,
        [only] => Some(format!("the only {what} is {only}")),
        [..] => Some(format!("the {what}s are {}", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_and_other_words() {
        let known = ["retry", "retryAfterMax", "topic", "brokers", "redisDB", "startAt", "stream", "sink", "eventBus"];
        let cases = [
            ("retries", Some("retry")),
            ("topics", Some("topic")),
            ("tpoic", Some("topic")),
            ("broker", Some("brokers")),
            ("brok", Some("brokers")),
            ("redisDb", Some("redisDB")),
            ("startat", Some("startAt")),
            ("eventbuss", Some("eventBus")),
            ("sin", Some("sink")),
            ("x", None),
            ("url", None),
            ("password", None),
            ("steam", Some("stream")),
            ("", None),
        ];
        for (written, meant) in cases {
            assert_eq!(did_you_mean(written, known), meant, "{written}");
        }
    }

    #[test]
    fn hints_name_what_there_is() {
        assert_eq!(hint("tpoic", ["topic"], "field").unwrap(), "did you mean `topic`");
        assert_eq!(hint("x", ["topic"], "field").unwrap(), "the only field is `topic`");
        assert_eq!(hint("x", ["b0", "a0"], "field").unwrap(), "the fields are `a0`, `b0`");
        assert_eq!(hint("x", [], "field"), None);
    }
}
