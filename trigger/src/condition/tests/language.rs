//! What conditions mean, case by case, on the scene of [`super::INPUTS`].

use super::Outcome::{False, True, Waiting};
use super::*;

fn all(expected: &Outcome, texts: &[&str]) {
    for text in texts {
        assert_eq!(outcome(text), *expected, "{text}");
    }
}

#[test]
fn an_input_alone_is_true_or_false() {
    all(
        &True,
        &[
            "orders",
            "payments",
            "!refunds",
            "orders && payments",
            "orders || refunds",
            "orders == true",
            "refunds == false",
            "refunds != true",
            "orders ? true : false",
            "refunds ? false : true",
            "!(refunds && orders)",
            "(orders)",
            "orders && (payments || refunds)",
            "[orders, payments].all(x, x)",
            "[orders, refunds].exists(x, x)",
            "orders == payments",
            "orders != refunds",
            "orders in [true]",
            "{'a': orders}.a",
            "type(orders) == bool",
            "true",
            "string(orders) == 'true'",
            ".orders",
            "orders && !refunds && payments",
            "orders || refunds.data.x == 1",
        ],
    );
    all(
        &False,
        &[
            "refunds",
            "!orders",
            "orders && refunds",
            "refunds || !payments",
            "refunds == true",
            "orders == false",
            "false",
            "orders && payments && refunds",
            "refunds && refunds.data.x == 1",
            "refunds ? true : false",
        ],
    );
}

#[test]
fn attributes() {
    all(
        &True,
        &[
            "event.type == 'order.created'",
            "event['type'] == \"order.created\"",
            "orders.type == event.type",
            "payments.type == 'paid'",
            "event.source == '/shop'",
            "event.id == 'o-1'",
            "event.subject == 'orders/1'",
            "event.specversion == '1.0'",
            "event.partitionkey == 'k1'",
            "int(event.kafkapartition) == 3",
            "has(event.subject)",
            "!has(event.dataschema)",
            "has(event.data)",
            "has(payments.data)",
            "has(event.specversion)",
            "event.type.startsWith('order.')",
            "event.type.endsWith('.created')",
            "event.type.contains('r.c')",
            "event.type.matches('^order\\\\.(created|paid)$')",
            "matches(event.type, 'order')",
            "event.type in ['a', 'order.created']",
            "!(event.type in ['a', 'b'])",
            "event.type != payments.type",
            "event.type > 'a'",
            "event.type <= 'z'",
            "event.type.size() == 13",
            "size(event.type) == 13",
            "event.type + 'x' == 'order.createdx'",
            ".event.id == 'o-1'",
            "event.type.matches(event.type)",
            "event.?subject.orValue('') == 'orders/1'",
            "event.?dataschema.orValue('-') == '-'",
            "!event.?dataschema.hasValue()",
            "event[?'subject'].hasValue()",
            "event.?data.hasValue()",
        ],
    );
    all(
        &False,
        &["event.type == 'x'", "has(event.nosuch)", "event.type.matches('^paid')", "event.type == payments.type"],
    );
}

#[test]
fn time_is_a_timestamp() {
    all(
        &True,
        &[
            "event.time == timestamp('2024-05-06T07:08:09Z')",
            "event.time > timestamp('2024-01-01T00:00:00Z')",
            "event.time < timestamp('2030-01-01T00:00:00+02:00')",
            "event.time.getFullYear() == 2024",
            "event.time.getHours() == 7",
            "event.time - timestamp('2024-05-06T07:08:00Z') == duration('9s')",
            "event.time + duration('1h') > event.time",
            "timestamp(event.data.when) < event.time",
            "event.time.getDayOfWeek() == 1",
            "type(event.time) == google.protobuf.Timestamp",
        ],
    );
}

#[test]
fn data_is_what_the_json_says() {
    all(
        &True,
        &[
            "event.data.amount == 150.5",
            "event.data.amount > 100.0",
            "event.data.amount > 100",
            "event.data.count == 3",
            "event.data.count == 3.0",
            "event.data.count == 3u",
            "event.data.count < 3.5",
            "event.data.count >= 3u",
            "event.data.big == 18446744073709551615u",
            "event.data.big > 1",
            "event.data.neg == -7",
            "event.data.neg < 0u",
            "event.data.flag",
            "!event.data.off",
            "event.data.flag == true",
            "event.data.nothing == null",
            "event.data.name != null",
            "event.data.name == 'Ada'",
            "event.data.empty == ''",
            "event.data.accented == 'éé'",
            "event.data.customer.tier == 'gold'",
            "event.data['customer']['tier'] == 'gold'",
            "event['data'].customer.id == 42",
            "event.data.customer.tags[1] == 'b'",
            "event.data.customer.tags[0u] == 'a'",
            "event.data.items[1].price == 99.5",
            "event.data.nested[1][0] == 3",
            "event.data['dashed-key'] == 'd'",
            "event.data.`dashed-key` == 'd'",
            "event.data['quote\"key'] == 1",
            "orders.data.customer.id == payments.data.order",
            "orders.data.amount == payments.data.amount",
            "payments.data.ok",
            "orders && payments && orders.data.amount > 100.0 && payments.type == 'paid'",
            "event.data.count + 1 == 4",
            "event.data.count * 2 > 5",
            "event.data.amount * 2.0 == 301.0",
            "double(event.data.count) / 2.0 == 1.5",
            "event.data.count % 2 == 1",
            "-event.data.neg == 7",
            "event.data.name + '!' == 'Ada!'",
            "event.data.name.startsWith('A')",
            "event.data.zero == 0",
            "event.data.name < 'B'",
            "event.data.count > 2 ? event.data.flag : event.data.off",
            "event.data.amount != 'x'",
            "event.data.items != 1",
            "event.data.customer == {'tier':'gold','tags':['a','b'],'id':42}",
            "event.data.numbers == [1, 2, 3]",
            "[1, 2, 3] == event.data.numbers",
            "event.data.numbers + [4] == [1, 2, 3, 4]",
            "event.data.none == []",
            "event.data.blank == {}",
            "size(event.data.numbers) == 3",
            "event.data.numbers.size() == 3",
            "2 in event.data.numbers",
            "'tier' in event.data.customer",
            "!('x' in event.data.customer)",
            "event.data.name in ['Ada', 'Bob']",
            "event.data.count in [1, 2, 3]",
            "event.data.count in [3.0]",
            "event.data.name in {'Ada': 1}",
            "event.data.count in event.data.numbers",
            "type(event.data.count) == int",
            "type(event.data.big) == uint",
            "type(event.data.amount) == double",
            "type(event.data.customer) == map",
            "type(event.data.numbers) == list",
            "type(event.data.nothing) == null_type",
            "string(event.data.count) == '3'",
            "int(event.data.amount) == 150",
            "event.data.name.matches('^A.a$')",
        ],
    );
    all(
        &False,
        &[
            "event.data.amount < 100.0",
            "event.data.off",
            "event.data.customer.tier == 'silver'",
            "event.data.nothing == 0",
            "event.data.count == '3'",
            "event.data.items == 1",
            "event.data.name == 5",
            "event.data.numbers == [1, 2]",
            "event.type == 'order.created' && event.data.amount > 1000.0 && event.data.customer.tier == 'gold'",
        ],
    );
}

#[test]
fn presence() {
    all(
        &True,
        &[
            "has(event.data.count)",
            "!has(event.data.missing)",
            "has(event.data.nothing)",
            "has(event.data.customer.tier)",
            "!has(event.data.customer.nick)",
            "has(event.data.items[0].sku)",
            "!has(event.data.blank.x)",
            "has(orders.data.flag)",
            "!has(payments.data.flag)",
            "has(event.data.missing) || orders",
            "!has(event.data.missing) && orders",
            "event.data.?missing.orValue(5) == 5",
            "event.data.?count.orValue(0) == 3",
            "event.data.?customer.?tier.orValue('') == 'gold'",
            "event.data.?customer.tier.orValue('') == 'gold'",
            "event.data.?nope.?tier.orValue('none') == 'none'",
            "!event.data.?missing.hasValue()",
            "event.data.?customer.hasValue()",
            "event.data.items[?0].sku.orValue('') == 'x1'",
            "!event.data.items[?9].hasValue()",
            "event.data.?count == optional.of(3)",
            "event.data.?missing == optional.none()",
            "event.data.?count.optMap(c, c + 1).orValue(0) == 4",
            "event.data[?'count'].hasValue()",
            "!event.data.numbers.?x.hasValue()",
            "event.data.?missing == event.data.?other",
            "optional.ofNonZeroValue(event.data.zero) == optional.none()",
            "orders.?subject.orValue('') == 'orders/1'",
        ],
    );
}

#[test]
fn macros() {
    all(
        &True,
        &[
            "event.data.items.exists(i, i.price > 50)",
            "event.data.items.all(i, i.qty > 0)",
            "event.data.items.exists_one(i, i.sku == 'x1')",
            "event.data.items.existsOne(i, i.sku == 'x1')",
            "event.data.items.filter(i, i.qty > 1).size() == 1",
            "event.data.items.map(i, i.sku) == ['x1', 'y2']",
            "event.data.items.map(i, i.qty > 1, i.sku) == ['x1']",
            "event.data.customer.all(k, k in ['tier', 'tags', 'id'])",
            "event.data.customer.exists(k, k == 'tier')",
            "event.data.none.all(x, false)",
            "!event.data.none.exists(x, true)",
            "[1, 2].exists(x, x == event.data.count - 1)",
            "event.data.items.exists(i, event.data.customer.tags.exists(t, t == 'a') && i.sku == 'x1')",
            "event.data.items.exists(i, i.sku.matches('^y[0-9]$'))",
            "event.data.items.all(i, i.sku.matches('^[a-z]\\\\d$'))",
            "[1, 2, 3].exists(orders, orders == 2)",
            "[{'type': 'z'}].exists(event, event.type == 'z')",
            "[1].exists(payments, payments == 1 && orders)",
            "[1, 2].exists(x, x > 1 || event.data.missing == 1)",
            "[0].map(x, event.data.numbers[x])[0] == 1",
            "['count', 'nope'].exists(k, k in event.data && event.data[k] == 3)",
            "[.orders].all(orders, .orders)",
            "['type', 'id'].all(a, a in event)",
            "event[['type'][0]] == 'order.created'",
            "payments[['type'][0]] == 'paid'",
            "event.data[event.data.customer.tier == 'gold' ? 'count' : 'zero'] == 3",
            "size(event) == 10",
            "event.data.map(k, k).size() > 3",
        ],
    );
    all(&False, &["event.data.items.exists(i, i.price > 500)", "event.data.items.all(i, i.qty > 1)"]);
}

#[test]
fn one_side_can_decide() {
    all(
        &True,
        &[
            "orders || event.data.missing",
            "event.data.missing == 1 || orders",
            "refunds.data.x == 1 || orders",
            "event.data.missing > 1 || event.data.count == 3",
            "true || 1 / 0 > 0",
            "1 / event.data.zero > 0 || true",
            "event.data.name || orders",
            "orders ? true : event.data.missing == 1",
        ],
    );
    all(
        &False,
        &[
            "refunds && event.data.missing",
            "event.data.missing == 1 && refunds",
            "refunds.data.x == 1 && false",
            "refunds.data.x == 1 && refunds",
            "event.data.name && false",
            "false && refunds.data.x",
        ],
    );
}

#[test]
fn what_has_not_arrived_is_waited_for() {
    all(
        &Waiting,
        &[
            "refunds.type == 'x'",
            "refunds.data.x == 1",
            "orders && refunds.data.x == 1",
            "has(refunds.data.x)",
            "refunds.?type.hasValue()",
            "refunds[event.type] == 1",
            "orders.data.amount == refunds.data.amount",
            "[1].exists(x, refunds.data.x == x)",
            "refunds.data.items.all(i, true)",
            "event.data.missing == 1 || refunds.data.x == 1",
            "refunds.data.x == 1 || event.data.missing == 1",
            "has(refunds.type) && orders",
            "!has(refunds.data)",
            "event.data.flag ? refunds.data.x == 1 : false",
        ],
    );
}

#[track_caller]
fn fails(text: &str, expected: &str) {
    match outcome(text) {
        Outcome::Error(why) => assert_eq!(why, expected, "{text}"),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn what_cannot_be_evaluated_says_why() {
    fails("event.data.missing == 1", "there is no event.data.missing");
    fails("event.dataschema == 'x'", "there is no event.dataschema");
    fails("event.data.customer.nick.first == 'x'", "there is no event.data.customer.nick.first");
    fails("event.data.items[7].sku == 'x'", "there is no event.data.items[7].sku");
    fails("event.data['dashed-keys'] == 1", "there is no event.data[\"dashed-keys\"]");
    fails("payments.data.nope > 1", "there is no payments.data.nope");
    fails("event.data.name", "event.data.name should be true or false and is of type string");
    fails("event.data.customer", "event.data.customer should be true or false and is of type map");
    fails("!event.data.count", "event.data.count should be true or false and is of type int");
    fails("event.data.name > 5", "> does not compare string with int");
    fails("event.data.nothing > 5", "> does not compare null_type with int");
    fails("event.data.customer < 5", "< does not compare map with int");
    fails("event.data.amount.startsWith('1')", "startsWith() takes a string, and event.data.amount is of type double");
    fails("event.data.count.matches('1')", "matches() takes a string, and event.data.count is of type int");
    fails("event.data.name + 1 == 'x'", "add does not take string and int");
    fails("event.data.count * 1.5 > 1.0", "mul does not take int and double");
    fails("event.data.count / event.data.zero == 1", "a division by zero");
    fails("event.data.items.all(i, i.nope == 1)", "there is no key \"nope\"");
    fails("event.data.count.exists(x, true)", "a value of type int where iterable is wanted");
    fails("has(event.data.missing.x)", "what event.data.missing.x is looked for in is not there, or has no fields");
    fails("has(event.data.name.x)", "what event.data.name.x is looked for in is not there, or has no fields");
    fails(
        "event.data.missing.?x.hasValue()",
        "what event.data.missing.x is looked for in is not there, or has no fields",
    );
    fails("event[event.id] == 1", "there is no key \"o-1\"");
    fails("int(event.data.name) == 1", "int() does not take its argument");
    fails("event.data.big + 1u > 0u", "a number too large, by add");
    fails("event.data.numbers[event.data.count] == 1", "a list has no item at the index asked for");
    fails("event.data.name.matches(event.data.empty + '(')", "matches() does not take its argument");
    fails("dyn(event.data.count)", "the condition should be true or false and came to type int");
    fails("size(event.data.count) == 1", "size does not take int");
}

#[test]
fn malformed_data_is_an_error_wherever_it_is_broken() {
    let with = |data: &str| order().to_builder().data(data.to_owned()).build().unwrap();
    for data in ["{\"a\":1", "{\"a\":1}}", "{\"a\":1,\"b\":tru}", "nope", "{\"a\":1,\"b\":\"\\ud800\"}"] {
        let Outcome::Error(why) = outcome_on("event.data.a == 1", &with(data)) else { panic!("{data}") };
        assert!(why.starts_with("event.data.a cannot be read: the data is no JSON: "), "{why}");
        assert!(matches!(outcome_on("has(event.data.a)", &with(data)), Outcome::Error(_)), "{data}");
        assert!(matches!(outcome_on("event.data.?a.hasValue()", &with(data)), Outcome::Error(_)), "{data}");
        assert!(matches!(outcome_on("event[event.type] == 1", &with(data)), Outcome::Error(_)), "{data}");
        assert_eq!(outcome_on("event.type == 'x' && event.data.a == 1", &with(data)), False);
        assert_eq!(outcome_on("event.data.a == 1 || true", &with(data)), True);
        assert_eq!(outcome_on("has(event.data)", &with(data)), True);
    }
    assert!(matches!(outcome_on("event.data.a > 1", &with("{\"a\":1e999}")), Outcome::Error(_)));
    assert_eq!(outcome_on("event.data.b == 1", &with("{\"a\":1e999,\"b\":1}")), True);
    assert!(matches!(outcome_on("event.data.all(k, true)", &with("{\"a\":1e999}")), Outcome::Error(_)));
}

#[test]
fn the_last_of_a_repeated_key_counts_however_it_is_read() {
    let event = order().to_builder().data(r#"{"a":1,"a":2}"#).build().unwrap();
    for text in
        ["event.data.a == 2", "event.data[['a'][0]] == 2", "event.data == {'a': 2}", "event.data.?a.orValue(0) == 2"]
    {
        assert_eq!(outcome_on(text, &event), True, "{text}");
    }
}

#[test]
fn data_that_is_no_json() {
    let with = |content_type: Option<&str>, data: &'static [u8]| {
        let order = order();
        let event = order.to_builder().without("datacontenttype").attribute_if("datacontenttype", content_type);
        event.data(data).build().unwrap()
    };
    for (content_type, data, text, expected) in [
        (Some("text/plain"), b"hello".as_slice(), "event.data == 'hello'", True),
        (Some("text/plain"), b"hello", "event.data.startsWith('he') && size(event.data) == 5", True),
        (Some("text/csv; charset=utf-8"), b"a,b", "event.data.contains(',')", True),
        (Some("application/octet-stream"), b"\x00\xff", "event.data == b'\\x00\\xff'", True),
        (Some("application/octet-stream"), b"abc", "event.data == 'abc'", False),
        (Some("application/octet-stream"), b"abc", "string(event.data) == 'abc'", True),
        (Some("application/octet-stream"), b"abc", "size(event.data) == 3", True),
        (Some("application/json"), b"", "event.data == null && !has(event.data)", True),
        (Some("application/json"), b"", "event.data.?a.hasValue()", False),
        (Some("application/json"), b"[1,2]", "event.data[1] == 2 && event.data.exists(x, x == 1)", True),
        (Some("application/json"), b"7", "event.data == 7", True),
        (Some("application/json"), b"true", "event.data", True),
        (Some("application/cloudevents+json"), b"{\"a\":1}", "event.data.a == 1", True),
        (None, b"{\"a\":1}", "event.data.a == 1", True),
        (None, b"hello", "event.data == b'hello'", True),
        (None, b"", "event.data == null", True),
    ] {
        assert_eq!(outcome_on(text, &with(content_type, data)), expected, "{content_type:?} {data:?} {text}");
    }
}

#[test]
fn a_time_that_is_none_is_an_error() {
    // No event is built with one, but a frame may hold it.
    let time = b"2024-05-06T07:08:09Z";
    let mut frame = order().frame().to_vec();
    let at = frame.windows(time.len()).position(|bytes| bytes == time).unwrap();
    frame[at] = b'x';
    let event = Event::from_frame(frame.into()).unwrap();
    let Outcome::Error(why) = outcome_on("event.time > timestamp('2024-01-01T00:00:00Z')", &event) else { panic!() };
    assert_eq!(why, "event.time cannot be read: it is no RFC 3339 time");
    assert_eq!(outcome_on("has(event.time)", &event), True);
}

/// The conditions of OpenFunction's documents and samples, and their like: nothing but names.
#[test]
fn conditions_written_for_openfunction() {
    type Rule = fn(bool, bool) -> bool;
    let truth: [(&str, Rule); 12] = [
        ("A", |a, _| a),
        ("B", |_, b| b),
        ("A || B", |a, b| a || b),
        ("A && B", |a, b| a && b),
        ("!A", |a, _| !a),
        ("A && !B", |a, b| a && !b),
        ("!A && !B", |a, b| !a && !b),
        ("(A && B) || (!A && !B)", |a, b| a == b),
        ("A == B", |a, b| a == b),
        ("A != B", |a, b| a != b),
        ("A ? B : !B", |a, b| if a { b } else { !b }),
        ("A == true && B == false", |a, b| a && !b),
    ];
    let event = order();
    for (text, expected) in truth {
        let condition = Condition::compile(text, &["A", "B"]).unwrap();
        let tree = Arc::new(Tree::new([]));
        let binding = Binding::new(&condition, &tree);
        let obtain = || Arc::new(Reading::new(event.clone(), &tree));
        for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
            let inputs = [a, b].map(|arrived| if arrived { Presence::Unread } else { Presence::Absent });
            let at_hand = AtHand::new(&event, &binding, &obtain);
            let outcome = Evaluation::new(&condition, &at_hand, &binding, &inputs).run();
            assert_eq!(outcome, if expected(a, b) { True } else { False }, "{text} with A={a} B={b}");
        }
    }
}
