//! What is refused, where, and with which fix.

use super::*;

#[track_caller]
fn refused(text: &str, expected: &str) {
    let errors = errors(text);
    assert!(errors.iter().any(|e| e == expected), "{text}\n  gave {errors:#?}\n  not {expected}");
}

#[test]
fn names_that_mean_nothing() {
    refused("ordres", "column 1: there is no input \"ordres\"; did you mean `orders`");
    refused("orders && paymnts.type == 'x'", "column 11: there is no input \"paymnts\"; did you mean `payments`");
    refused(
        "true ||\n  zzz",
        "line 2, column 3: there is no input \"zzz\"; the inputs are orders, payments, refunds, dashed-name; `event` is the event at hand",
    );
    refused("data.amount > 1", "column 1: there is no input \"data\"; did you mean `event.data`");
    refused("subject == 'x'", "column 1: there is no input \"subject\"; did you mean `event.subject`");
    refused("'é' == 'é' && ordres", "column 15: there is no input \"ordres\"; did you mean `orders`");
    refused("[1].exists(item, itm > 0)", "column 18: there is no input \"itm\"; did you mean `item`");
    assert_eq!(errors("aaaa && bbbb").len(), 2);
}

#[test]
fn inputs_that_cannot_be_spelled() {
    let rename = "rename the input \"dashed-name\", whose name CEL cannot spell, to \"dashed_name\" for example";
    refused("dashed-name", &format!("column 1: a condition cannot name \"dashed-name\"; {rename}"));
    refused(
        "orders && dashed-name.type == 'x'",
        &format!("column 11: a condition cannot name \"dashed-name\"; {rename}"),
    );
    assert_eq!(errors("dashed-name").len(), 1);
    assert_eq!(outcome("event.data['dashed-name'] == 1 || orders"), Outcome::True);
}

#[test]
fn functions_that_do_not_exist() {
    refused("sise(event.data.items) > 0", "column 1: there is no function sise(); did you mean `size()`");
    refused("event.type.startswith('o')", "column 12: there is no method startswith(); did you mean `startsWith()`");
    refused(
        "startsWith(event.type, 'o')",
        "column 1: there is no function startsWith(); it is written value.startsWith(...)",
    );
    refused(
        "event.data.exists(x)",
        "column 12: exists() is called with the wrong arguments; it is used like orders.data.items.exists(item, item.price > 10)",
    );
    refused(
        "frobnicate(1)",
        "column 1: there is no function frobnicate(); conditions have the standard functions of CEL",
    );
    refused("event.type.timestamp()", "column 12: there is no method timestamp(); it is written timestamp(value)");
    refused("Foo{a: 1} == 1", "column 4: there is no message type Foo; write a map, such as {\"key\": value}");
}

#[test]
fn what_can_never_be_true_or_false() {
    refused("event.type", "column 1: a condition is true or false, this is a string; compare it with something");
    refused("event", "column 1: a condition is true or false, this is a map");
    refused("1", "column 1: a condition is true or false, this is a number; compare it with something");
    refused("null", "column 1: a condition is true or false, this is null");
    refused(
        "event.data.?x",
        "column 1: a condition is true or false, this is an optional value; add .hasValue() or .orValue(false)",
    );
    refused("[1].map(x, x)", "column 8: a condition is true or false, this is a list");
    refused(
        "orders && event.type",
        "column 11: each side of && is true or false, this is a string; compare it with something",
    );
    refused("orders || 1", "column 11: each side of || is true or false, this is a number; compare it with something");
    refused("!event.type", "column 2: what ! negates is true or false, this is a string; compare it with something");
    refused(
        "1 ? true : false",
        "column 1: what stands before ? is true or false, this is a number; compare it with something",
    );
    for text in [
        "event.data",
        "event.data.x",
        "dyn(1) == 1",
        "event.data.a ? event.data.b : event.data.c",
        "event.data.f.orValue(true)",
    ] {
        assert!(Condition::compile(text, &INPUTS).is_ok(), "{text}");
    }
}

#[test]
fn what_never_compares() {
    let alone = "\"orders\" alone says whether it arrived: name a field, such as orders.type";
    refused("orders == 'x'", &format!("column 8: true or false never compares with a string; {alone}"));
    refused("'x' != orders", &format!("column 5: a string never compares with true or false; {alone}"));
    refused("orders.startsWith('x')", &format!("column 8: true or false has no method startsWith(); {alone}"));
    refused("orders.all(x, true)", &format!("column 11: a macro takes a list or a map, not true or false; {alone}"));
    refused(
        "event.time > '2024'",
        "column 12: a timestamp never compares with a string; write timestamp(\"2026-01-02T03:04:05Z\")",
    );
    refused(
        "event.kafkapartition == 1",
        "column 22: a string never compares with a number; attributes are strings: int(...) or double(...) makes numbers of them",
    );
    refused("type == 'x'", "column 6: a type never compares with a string; did you mean `event.type`");
    refused("event.type.exists(x, true)", "column 18: a macro takes a list or a map, not a string");
    refused("'a'.b == 1", "column 4: a string has no field \"b\"");
    refused("event.data.a.matches('(')", "column 22: no regular expression: unclosed group");
    for text in [
        "event.type == null",
        "[type(1)].exists(type, type == int)",
        "1 == 1.0",
        "orders == (1 > 2)",
        "event.time - event.time == duration('0s')",
    ] {
        assert!(Condition::compile(text, &INPUTS).is_ok(), "{text}");
    }
}

#[test]
fn fields_that_no_event_has() {
    refused(
        "event.customerId == 1",
        "column 1: \"customerId\" is no attribute: those have lower-case letters and digits only; did you mean `event.data.customerId`",
    );
    refused(
        "orders.customer.tier == 'gold'",
        "column 1: the attribute \"customer\" is text and has no fields; did you mean `orders.data.customer.tier`",
    );
    refused("event[0] == 1", "column 1: an event has attributes and data, no item 0; its data is read as .data");
    refused(
        "has(orders.customer.tier)",
        "column 5: the attribute \"customer\" is text and has no fields; did you mean `orders.data.customer.tier`",
    );
    refused(
        "has(orders)",
        "column 5: has() takes a field, such as has(orders.data.amount); the name of an input alone is already true or false",
    );
}

#[test]
fn what_is_no_expression() {
    refused("orders &&", "column 10: the condition ends too early");
    refused("(orders", "column 8: missing ')' at the end");
    refused("orders)", "column 7: ) cannot stand here");
    refused("a ? b", "column 1: the condition is not complete");
    refused("orders & payments", "column 8: & cannot stand here; and is written &&");
    refused("orders and payments", "column 8: and cannot stand here; and is written &&");
    refused("orders = true", "column 8: = cannot stand here; equality is written ==");
    refused("'abc", "column 1: 'abc cannot stand here; a string ends with the quote it starts with, on the same line");
    refused("true &&\n  orders;", "line 2, column 9: ; cannot stand here");
    refused("'é' == 'é' &&& x", "column 14: & cannot stand here; and is written &&");
    refused("namespace", "column 1: reserved identifier: namespace");
    refused("event.data.in == 1", "column 12: .in cannot stand here");
    for text in ["orders &&", "é", "\"a\nb\"", "{", "$a", "1 2 3 4"] {
        assert_eq!(errors(text).len(), 1, "{text}");
    }
}

#[test]
fn limits_come_before_the_parser() {
    assert_eq!(errors(" "), ["an empty condition; write `true` for every event of the inputs"]);
    assert_eq!(errors(""), ["an empty condition; write `true` for every event of the inputs"]);
    let long = format!("true || {}", "orders || ".repeat(500)) + "true";
    assert_eq!(errors(&long), ["5012 bytes, at most 4096 are allowed; split it over several subscribers"]);
    let deep = "nested deeper than 64 levels; use a list and `in`, or split it over several subscribers";
    let at_most = |text: String| text.chars().take(4096).collect::<String>();
    for text in [
        at_most("(".repeat(200_000)),
        format!("{}true{}", "(".repeat(2_000), ")".repeat(2_000)),
        format!("{}1{} == [1]", "[".repeat(1_900), "]".repeat(1_900)),
        format!("1{} > 0", "+1".repeat(2_000)),
        format!("event{} == 1", ".a".repeat(2_000)),
        format!("event.data{} == 1", "[0]".repeat(1_300)),
        format!("{}true", "!(".repeat(1_500)),
        format!("{}1 > 0", "-(".repeat(1_500)),
        format!("{}true", "true ? true : ".repeat(280)),
        format!("{}1{} > 0", "size([".repeat(400), "])".repeat(400)),
        format!("event.data{}", ".map(x, x)".repeat(390)),
        format!("event.data{} == 1", ".?a".repeat(1_300)),
    ] {
        let errors = errors(&text);
        assert!(errors == [deep], "{text:.40}: {errors:?}");
    }
    assert!(Condition::compile(&format!("true{}", " && orders".repeat(400)), &INPUTS).is_ok());
    assert!(Condition::compile(&format!("orders{}", " || payments".repeat(330)), &INPUTS).is_ok());
}
