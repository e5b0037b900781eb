//! `$(NAME)` in a container's command, arguments and variables, as Kubernetes reads it.

/// Replaces each `$(NAME)` that `look_up` knows; leaves the others as they are; `$$` is one `$`, which keeps `$$(NAME)` from being
/// replaced.
pub(crate) fn expand<'a>(text: &str, look_up: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(tail) = tail.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        match tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            Some((name, after)) => {
                match look_up(name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest = after;
            }
            None => {
                out.push('$');
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;
    use proptest::prelude::*;

    fn known(name: &str) -> Option<&'static str> {
        match name {
            "PORT" => Some("20123"),
            "EMPTY" => Some(""),
            "NESTED" => Some("$(PORT)"),
            _ => None,
        }
    }

    #[test]
    fn reads_like_kubernetes() {
        for (text, expected) in [
            ("--port=$(PORT)", "--port=20123"),
            ("$(PORT)$(PORT)", "2012320123"),
            ("<$(EMPTY)>", "<>"),
            ("$(NESTED)", "$(PORT)"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$$(PORT)", "$(PORT)"),
            ("$$$(PORT)", "$20123"),
            ("$PORT ${PORT} 5$", "$PORT ${PORT} 5$"),
            ("$(PORT", "$(PORT"),
            ("$(A $(PORT)", "$(A $(PORT)"),
        ] {
            assert_eq!(expand(text, known), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_stays(text in "[^$]*") {
            prop_assert_eq!(expand(&text, known), text);
        }

        #[test]
        fn any_text_is_taken(text in "[$()A-Z ä]{0,40}") {
            expand(&text, known);
        }
    }
}
