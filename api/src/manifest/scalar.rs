//! Scalars: what a plain text means by the core schema.

use serde_json::{Number, Value};

/// A scalar's value.
#[derive(Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    /// A whole number or one with a fraction, with its text.
    Number(Number, String),
    /// A number that JSON does not have: infinite, or none at all.
    NoNumber(String),
    /// Text that was quoted, or that is nothing else.
    String {
        text: String,
        /// True when it was written without quotes.
        plain: bool,
    },
}

impl Scalar {
    /// What a text without quotes means.
    pub(super) fn plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        match unsigned {
            ".inf" | ".Inf" | ".INF" => return Self::NoNumber(text.to_owned()),
            ".nan" | ".NaN" | ".NAN" if unsigned.len() == text.len() => return Self::NoNumber(text.to_owned()),
            _ => {}
        }
        match number(text, unsigned) {
            Some(Some(number)) => Self::Number(number, text.to_owned()),
            Some(None) => Self::NoNumber(text.to_owned()),
            None => Self::String { text: text.to_owned(), plain: true },
        }
    }

    /// Text that is a string whatever it looks like.
    pub(super) fn quoted(text: impl Into<String>) -> Self {
        Self::String { text: text.into(), plain: false }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String { text, .. } => Some(text),
            _ => None,
        }
    }

    /// For text that YAML 1.1, and so Kubernetes, reads as a boolean: which one.
    pub(super) fn as_old_bool(&self) -> Option<bool> {
        let Self::String { text, plain: true } = self else { return None };
        match text.as_str() {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 0,
            Self::Number(_, text) | Self::NoNumber(text) | Self::String { text, .. } => text.len(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Null | Self::NoNumber(_) => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value, _) => Value::Number(value.clone()),
            Self::String { text, .. } => Value::String(text.clone()),
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(number, _) if !number.is_f64() => "an integer",
            Self::Number(..) | Self::NoNumber(_) => "a number",
            Self::String { .. } => "a string",
        }
    }
}

/// The number that a plain text is, `Some(None)` for one that JSON does not have, `None` for text that is no number.
fn number(text: &str, unsigned: &str) -> Option<Option<Number>> {
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let based = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'));
    let signed = |value: u64| {
        if text.starts_with('-') { 0i64.checked_sub_unsigned(value).map(Number::from) } else { Some(value.into()) }
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return based(digits, 16).map(|value| Some(value.into()));
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return based(digits, 8).map(|value| Some(value.into()));
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        // Kubernetes' tools read `0644`, as file modes are written, as octal.
        let octal = unsigned.strip_prefix('0').filter(|rest| !rest.is_empty()).and_then(|rest| based(rest, 8));
        if let Some(number) = octal.or_else(|| unsigned.parse().ok()).and_then(signed) {
            return Some(Some(number));
        }
    }
    let looks = unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value: f64 = looks.then(|| text.parse().ok()).flatten()?;
    Some(Number::from_f64(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_of_the_core_schema() {
        let cases = [
            ("", json!(null)),
            ("~", json!(null)),
            ("Null", json!(null)),
            ("TRUE", json!(true)),
            ("false", json!(false)),
            ("12", json!(12)),
            ("-12", json!(-12)),
            ("+12", json!(12)),
            ("0", json!(0)),
            ("0644", json!(0o644)),
            ("089", json!(89)),
            ("0o17", json!(15)),
            ("0xfF", json!(255)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1e6", json!(1e6)),
            ("-1.5E-3", json!(-1.5e-3)),
            ("99999999999999999999999", json!(1e23)),
        ];
        for (text, expected) in cases {
            assert_eq!(Scalar::plain(text).to_json(), expected, "{text}");
        }
        for text in
            ["yes", "on", "1m", "1_000", "0x", "0xg", "0o8", "1.2.3", "-", ".", "1e", "e5", "infinity", "NaN", "nul"]
        {
            assert_eq!(Scalar::plain(text).as_str(), Some(text), "{text}");
        }
        for text in [".inf", "-.Inf", ".nan", "1e999"] {
            assert!(matches!(Scalar::plain(text), Scalar::NoNumber(_)), "{text}");
        }
        assert_eq!(Scalar::quoted("12").as_str(), Some("12"));
        assert_eq!(Scalar::plain("Yes").as_old_bool(), Some(true));
        assert_eq!(Scalar::quoted("Yes").as_old_bool(), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+.0-9a-fxoenEI_]{0,30}|\\PC{0,10}") {
            let _: Value = Scalar::plain(&text).to_json();
        }

        #[test]
        fn integers_read_back(n in any::<i64>()) {
            prop_assert_eq!(Scalar::plain(&n.to_string()).to_json(), json!(n));
        }
    }
}
