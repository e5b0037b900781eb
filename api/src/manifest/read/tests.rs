use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn json_of(text: &str) -> Value {
    match document(text) {
        Ok(node) => node.to_json(),
        Err(problem) => panic!("{problem}:\n{text}"),
    }
}

/// What is wrong with a text, as `line:column: message; hint`.
fn wrong(text: &str) -> Vec<String> {
    let problems = documents(text).problems.into_iter();
    problems.map(|(place, problem)| format!("{}:{}: {problem}", place.line, place.column)).collect()
}

fn place(text: &str, path: &[&str]) -> (u32, u32) {
    let path = path.iter().fold(FieldPath::root(), |path, step| match step.parse() {
        Ok(index) => path.index(index),
        Err(_) => path.key(*step),
    });
    let Place { line, column } = document(text).unwrap().locate(&path);
    (line, column)
}

#[test]
fn block_and_flow_and_json_are_one_language() {
    let expected = json!({"a": {"b": [1, "two", true, null, 1.5]}, "c": "x\ny\n"});
    assert_eq!(json_of("a:\n  b:\n  - 1\n  - two\n  - true\n  -\n  - 1.5\nc: |\n  x\n  y\n"), expected);
    assert_eq!(json_of("{a: {b: [1, two, true, ~, 1.5]}, c: \"x\\ny\\n\"}"), expected);
    assert_eq!(json_of(&expected.to_string()), expected);
    assert_eq!(json_of(&serde_json::to_string_pretty(&expected).unwrap().replace("  ", "\t")), expected);
}

#[test]
fn quotes_and_tags_make_strings() {
    assert_eq!(json_of("['1', \"true\", !!str 2, ! 3, !!int 4, !!null '']"), json!(["1", "true", "2", "3", 4, null]));
    assert_eq!(json_of("a: |-\n  1\nb: >-\n  true\n"), json!({"a": "1", "b": "true"}));
    assert_eq!(wrong("a: !!int x\n"), ["1:4: this is no int; take the tag away"]);
    assert_eq!(wrong("a: !custom x\n"), ["1:4: the tag `!custom` means nothing here; take it away"]);
    assert_eq!(wrong("a: !!set {}\n").len(), 1);
}

#[test]
fn json_escapes_beyond_16_bits() {
    assert_eq!(json_of(r#"{"a": "\ud83d\ude00\u00e9\\ud83d\\\ud83d\ude00"}"#), json!({"a": "😀é\\ud83d\\😀"}));
    assert_eq!(json_of(r"a: '\ud83d\ude00'"), json!({"a": r"\ud83d\ude00"}));
    assert_eq!(wrong(r#"{"a": "\ud83d"}"#).len(), 1);
}

#[test]
fn keys_of_any_length() {
    let key = "k".repeat(5000);
    assert_eq!(json_of(&format!("{{\"{key}\": 1}}")), json!({ key: 1 }));
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let text =
        "base: &base {a: 1, b: 2}\nuse:\n  <<: *base\n  b: 3\nlist: [*base, *base]\nboth: {<<: [{a: 7}, *base]}\n";
    let base = json!({"a": 1, "b": 2});
    let expected = json!({"base": base, "use": {"b": 3, "a": 1}, "list": [base, base], "both": {"a": 7, "b": 2}});
    assert_eq!(json_of(text), expected);
    assert_eq!(place(text, &["use", "a"]), (1, 17), "what is merged is where it is written");
    assert_eq!(place(text, &["list", "1"]), (5, 15));
    assert_eq!(wrong("a: *b\n").len(), 1);
    assert_eq!(wrong("a: {<<: 1}\n"), ["1:9: `<<` merges objects; give it an alias of an object"]);
    assert_eq!(wrong("a: &a [*a]\n"), ["1:8: an alias inside of what its own anchor marks; write the value out"]);
    assert_eq!(wrong("a: &x 1\n---\nb: *x\n").len(), 1, "anchors end with their document");
}

#[test]
fn places_are_those_of_values() {
    let text = "a:\n  b:\n    - c: 1\n    - \"d\"\n  e: |\n    text\n  f:\nü: x\n";
    assert_eq!(place(text, &["a"]), (2, 3));
    assert_eq!(place(text, &["a", "b"]), (3, 5));
    assert_eq!(place(text, &["a", "b", "0", "c"]), (3, 10));
    assert_eq!(place(text, &["a", "b", "1"]), (4, 7));
    assert_eq!(place(text, &["a", "b", "7"]), (3, 5), "the nearest that is there");
    assert_eq!(place(text, &["a", "e"]), (6, 5), "the text itself");
    assert_eq!(place(text, &["a", "f"]), (7, 3), "a key without a value");
    assert_eq!(place(text, &["a", "nothing", "at", "all"]), (2, 3));
    assert_eq!(place(text, &["ü"]), (8, 4), "columns count characters");
    assert_eq!(place("\u{feff}a: 1\n", &["a"]), (1, 4));
    assert_eq!(place("a: 1\r\nb: 2\r\n", &["b"]), (2, 4));
}

#[test]
fn keys_given_twice_are_errors_and_the_first_stays() {
    assert_eq!(wrong("a: 1\nb: 2\na: 3\n"), ["3:1: `a` is given twice, first in line 1; keep one of the two"]);
    assert_eq!(documents("a: 1\na: 3\n").trees[0].to_json(), json!({"a": 1}));
    assert_eq!(json_of("1: a\ntrue: b\n"), json!({"1": "a", "true": "b"}));
    assert_eq!(wrong("? [a]\n: b\n"), ["1:3: a key must be text, this is a list; put the key in quotes"]);
    assert_eq!(wrong("~: b\n").len(), 1);
}

#[test]
fn a_broken_document_hides_no_other() {
    let text = "a: 1\n---\nb: \"open\n---\nc: [1\n--- # comment\nd: 4\n---\ne:\n\tg: 5\n---\nf: 6\n";
    let documents = documents(text);
    let trees: Vec<_> = documents.trees.iter().map(Node::to_json).collect();
    assert_eq!(trees, [json!({"a": 1}), json!({"d": 4}), json!({"f": 6})]);
    let lines: Vec<_> = documents.problems.iter().map(|(place, _)| place.line).collect();
    assert_eq!(lines, [3, 6, 10], "{:?}", documents.problems);
    let messages: Vec<_> = documents.problems.iter().map(|(_, problem)| problem.to_string()).collect();
    assert!(messages.iter().all(|message| message.starts_with("broken YAML: ")), "{messages:?}");
    assert!(messages[0].ends_with("close the quotes") && messages[2].ends_with("indent with spaces"), "{messages:?}");
}

#[test]
fn empty_documents_are_none() {
    for text in ["", "\n", "---\n", "# only a comment\n", "---\n---\n...\n", "~"] {
        let Documents { trees, problems } = documents(text);
        assert!(trees.is_empty() && problems.is_empty(), "{text:?}");
    }
    assert_eq!(document("a: 1\n---\nb: 2\n").unwrap_err().hint.unwrap(), "take out the line `---`");
    assert_eq!(documents("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n").trees.len(), 2);
}

#[test]
fn nesting_is_limited() {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    assert!(wrong(&deep(64)).is_empty());
    assert_eq!(wrong(&deep(65)), ["1:65: more than 64 lists and objects inside each other"]);
    for text in ["[".repeat(500_000), "{a: ".repeat(200_000), "- ".repeat(300_000), "? ".repeat(300_000)] {
        assert_eq!(wrong(&text).len(), 1, "{}", &text[..4]);
    }
}

#[test]
fn aliases_are_limited() {
    let bomb = (1..30).fold("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        let before = n - 1;
        format!("{text}a{n}: &a{n} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n")
    });
    let problems = wrong(&bomb);
    assert!(problems.len() == 1 && problems[0].contains("add more than"), "{problems:?}");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000_000), ["*a"; 1000].join(", "));
    assert_eq!(wrong(&long).len(), 1);
    let merges = format!("a: &a {{{}}}\nb: {{<<: [{}]}}\n", "k: v", ["*a"; 100_000].join(", "));
    assert_eq!(wrong(&merges).len(), 1);
}

#[test]
fn broken_documents_are_reported_up_to_a_limit() {
    let problems = wrong(&"---\n\"\n".repeat(100_000));
    assert_eq!(problems.len(), limits::MANIFEST_BROKEN + 1);
    assert!(problems.last().unwrap().contains("the rest of it is not read"));
}

#[test]
fn a_megabyte_of_anything_takes_no_time() {
    let texts = [
        "a: b\n".repeat(200_000),
        "- {a: [b, c], d: \"e\"}\n".repeat(50_000),
        format!("a: \"{}\"\n", "\\u00e9".repeat(170_000)),
        format!("a: |\n{}", "  line\n".repeat(150_000)),
        "x".repeat(1_000_000),
        ": ".repeat(500_000),
        "\"".repeat(1_000_000),
        "&a ".repeat(300_000),
        "!".repeat(1_000_000),
        "%".repeat(1_000_000),
        "a:\n ".repeat(250_000),
        "#\n".repeat(500_000),
        format!("{{{}}}", "\"k\": 1, ".repeat(120_000)),
        format!("[{}]", "a: b, ".repeat(160_000)),
        (0..60_000).map(|n| format!("&a{n} x{n}: *a{n}\n")).collect(),
    ];
    for text in texts {
        let start = std::time::Instant::now();
        let documents = documents(&text);
        assert!(documents.trees.len() <= 1);
        assert!(start.elapsed().as_secs() < 20, "{:?} took {:?}", text.get(..10), start.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_panics(text in "[-a:\\[\\]{},&*!|>'\"%@`#?~<.0-9 \t\n\r\u{feff}\u{85}\u{2028}\\\\]{0,200}") {
        documents(&text);
    }

    #[test]
    fn no_characters_panic(text in "\\PC{0,60}") {
        documents(&text);
    }

    #[test]
    fn json_reads_back(value in value()) {
        prop_assert_eq!(json_of(&serde_json::to_string(&value).unwrap()), value.clone());
        prop_assert_eq!(json_of(&serde_json::to_string_pretty(&value).unwrap()), value);
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = "[a-z :#'\"\\\\/\u{e9}\u{1f600}{}\\[\\],&*!|>%@?-]{0,12}";
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let tree = leaf.prop_recursive(4, 30, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..5).prop_map(Value::from),
            prop::collection::hash_map("[a-z.-]{1,8}", inner, 1..5).prop_map(|map| map.into_iter().collect()),
        ]
    });
    tree.prop_filter("an empty document is none", |value| !value.is_null())
}
