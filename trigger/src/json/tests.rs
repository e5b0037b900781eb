use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn key(key: &str) -> Step {
    Step::Key(key.into())
}

fn at(text: &str, path: &[Step]) -> Datum {
    let tree = Tree::new([path]);
    let node = tree.find(path).unwrap();
    read(text, &tree).unwrap()[node.index()].clone()
}

fn text_of(text: &str, datum: &Datum) -> String {
    match datum {
        Datum::Text(from, to) => text[*from as usize..*to as usize].to_owned(),
        Datum::Unescaped(s) => s.to_string(),
        other => panic!("no text: {other:?}"),
    }
}

#[test]
fn reads_what_is_at_a_path() {
    let text = r#" { "a" : {"b":[10, -1.5e3, {"c":"\u00e9\n"}], "big": 18446744073709551615, "bigger": 18446744073709551616},
        "t":true,"f":false,"n":null,"s":"plain", "z": -0, "e": 1e999 } "#;
    assert_eq!(at(text, &[key("a"), key("b"), Step::Item(0)]), Datum::Int(10));
    assert_eq!(at(text, &[key("a"), key("b"), Step::Item(1)]), Datum::Double(-1500.0));
    assert_eq!(at(text, &[key("a"), key("b"), Step::Item(2), key("c")]), Datum::Unescaped("é\n".into()));
    assert_eq!(at(text, &[key("a"), key("b"), Step::Item(3)]), Datum::Missing);
    assert_eq!(at(text, &[key("a"), key("big")]), Datum::UInt(u64::MAX));
    assert_eq!(at(text, &[key("a"), key("bigger")]), Datum::Double(18446744073709551616.0));
    assert_eq!(at(text, &[key("t")]), Datum::Bool(true));
    assert_eq!(at(text, &[key("f")]), Datum::Bool(false));
    assert_eq!(at(text, &[key("n")]), Datum::Null);
    assert_eq!(text_of(text, &at(text, &[key("s")])), "plain");
    assert_eq!(at(text, &[key("z")]), Datum::Double(-0.0));
    assert_eq!(at(text, &[key("e")]), Datum::OutOfRange);
    assert_eq!(at(text, &[key("s"), key("x")]), Datum::Missing);
    assert!(matches!(at(text, &[key("a")]), Datum::Object(..)));
}

#[test]
fn the_last_of_a_repeated_key_counts_with_all_below_it() {
    let tree = Tree::new([[key("a"), key("b")].as_slice(), &[key("a"), key("c")]]);
    let found = read(r#"{"a":{"b":1,"c":2},"a":{"b":3}}"#, &tree).unwrap();
    assert_eq!(found[tree.find(&[key("a"), key("b")]).unwrap().index()], Datum::Int(3));
    assert_eq!(found[tree.find(&[key("a"), key("c")]).unwrap().index()], Datum::Missing);
    let found = read(r#"{"a":{"b":1},"a":7}"#, &tree).unwrap();
    assert_eq!(found[tree.find(&[key("a"), key("b")]).unwrap().index()], Datum::Missing);
}

#[test]
fn keys_and_items_share_a_node_without_harm() {
    let tree = Tree::new([[key("a"), key("0")].as_slice(), &[key("a"), Step::Item(0)]]);
    let found = read(r#"{"a":[5]}"#, &tree).unwrap();
    assert_eq!(found[tree.find(&[key("a"), Step::Item(0)]).unwrap().index()], Datum::Int(5));
    assert_eq!(found[tree.find(&[key("a"), key("0")]).unwrap().index()], Datum::Missing);
    let found = read(r#"{"a":{"0":6}}"#, &tree).unwrap();
    assert_eq!(found[tree.find(&[key("a"), key("0")]).unwrap().index()], Datum::Int(6));
}

#[test]
fn refuses_what_is_no_json() {
    let tree = Tree::new([]);
    for text in [
        "",
        " ",
        "{",
        "[",
        "}",
        "{]",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "tru",
        "nul",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\u{1}\"",
        "1 2",
        "{} x",
        "NaN",
        "Infinity",
        "'a'",
        "[1 2]",
        "{\"a\":1 \"b\":2}",
        "\u{feff}1",
        "00",
        "-01",
        "1.e3",
    ] {
        assert!(read(text, &tree).is_err(), "{text:?}");
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_million_brackets_are_an_error_and_128_are_not() {
    let tree = Tree::new([]);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        assert!(read(&open.repeat(1_000_000), &tree).is_err());
        let nested = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        assert!(read(&nested(DEPTH), &tree).is_ok());
        assert_eq!(read(&nested(DEPTH + 1), &tree).unwrap_err().what, "nested deeper than 128 levels");
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-d\\\\\"é]{0,2}", inner, 0..6).prop_map(|m| json!(m)),
        ]
    })
}

fn paths(value: &Value, prefix: &mut Vec<Step>, out: &mut Vec<(Vec<Step>, Value)>) {
    out.push((prefix.clone(), value.clone()));
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                prefix.push(Step::Item(i as u64));
                paths(item, prefix, out);
                prefix.pop();
            }
        }
        Value::Object(members) => {
            for (k, member) in members {
                prefix.push(key(k));
                paths(member, prefix, out);
                prefix.pop();
            }
        }
        _ => {}
    }
}

/// True when `text` spells `value`, one way or the other.
fn is_spelled(text: &str, value: &Value) -> bool {
    let without_space = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    without_space(text) == without_space(&value.to_string())
}

proptest! {
    #[test]
    fn agrees_with_serde_json(value in values(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let mut expected = Vec::new();
        paths(&value, &mut Vec::new(), &mut expected);
        let tree = Tree::new(expected.iter().map(|(p, _)| p.as_slice()));
        let found = read(&text, &tree).unwrap();
        for (path, value) in &expected {
            let datum = &found[tree.find(path).unwrap().index()];
            match value {
                Value::Null => prop_assert_eq!(datum, &Datum::Null),
                Value::Bool(b) => prop_assert_eq!(datum, &Datum::Bool(*b)),
                Value::Number(n) if n.is_i64() => prop_assert_eq!(datum, &Datum::Int(n.as_i64().unwrap())),
                Value::Number(n) if n.is_u64() => prop_assert_eq!(datum, &Datum::UInt(n.as_u64().unwrap())),
                Value::Number(n) => prop_assert_eq!(datum, &Datum::Double(n.as_f64().unwrap())),
                Value::String(s) => prop_assert_eq!(&text_of(&text, datum), s),
                Value::Array(_) => {
                    let Datum::Array(from, to) = datum else { panic!("{datum:?}") };
                    prop_assert!(is_spelled(&text[*from as usize..*to as usize], value));
                }
                Value::Object(_) => {
                    let Datum::Object(from, to) = datum else { panic!("{datum:?}") };
                    prop_assert!(is_spelled(&text[*from as usize..*to as usize], value));
                }
            }
        }
    }

    /// The same texts are JSON to both, except for numbers that only we carry on with until they are read.
    #[test]
    fn refuses_what_serde_json_refuses(text in "[\\[\\]{}:,\"\\\\a-fu0-9eE+. \\-tr]{0,24}") {
        let ours = read(&text, &Tree::new([])).is_ok();
        let theirs = serde_json::from_str::<Value>(&text);
        let too_large = theirs.as_ref().is_err_and(|e| e.to_string().starts_with("number out of range"));
        prop_assert_eq!(ours, theirs.is_ok() || too_large, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        drop(read(&text, &Tree::new([])));
    }
}
