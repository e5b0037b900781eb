use std::sync::Arc;

use evoke_eventbus::event::Event;
use proptest::prelude::*;

use super::*;
use crate::json::Tree;
use crate::reading::Reading;

mod language;
mod refusals;

const ORDER: &str = r#"{"amount":150.5,"count":3,"big":18446744073709551615,"neg":-7,"zero":0,"flag":true,"off":false,
    "nothing":null,"name":"Ada","empty":"","accented":"é\u00e9","customer":{"tier":"gold","tags":["a","b"],"id":42},
    "items":[{"sku":"x1","price":10,"qty":2},{"sku":"y2","price":99.5,"qty":1}],"none":[],"blank":{},
    "numbers":[1,2,3],"dashed-key":"d","quote\"key":1,"nested":[[1,2],[3]],"when":"2024-01-02T03:04:05Z"}"#;

fn order() -> Event {
    Event::builder("o-1", "/shop", "order.created")
        .attribute("datacontenttype", "application/json")
        .attribute("subject", "orders/1")
        .attribute("time", "2024-05-06T07:08:09Z")
        .attribute("partitionkey", "k1")
        .attribute("kafkapartition", "3")
        .data(ORDER)
        .build()
        .unwrap()
}

fn payment() -> Event {
    Event::builder("p-1", "/bank", "paid")
        .attribute("datacontenttype", "application/json")
        .data(r#"{"order":42,"ok":true,"amount":150.5}"#)
        .build()
        .unwrap()
}

/// The inputs of every test: `orders` is the event at hand, `payments` came before it, `refunds` did not come.
const INPUTS: [&str; 4] = ["orders", "payments", "refunds", "dashed-name"];

impl<const N: usize> Inputs for [Presence<'_>; N] {
    fn presence(&self, input: usize) -> Presence<'_> {
        self.get(input).copied().unwrap_or(Presence::Absent)
    }
}

fn evaluate(condition: &Condition, event: &Event, earlier: &Event) -> Outcome {
    let tree = Arc::new(Tree::new(condition.paths().iter().map(Vec::as_slice)));
    let binding = Binding::new(condition, &tree);
    let obtain = || Arc::new(Reading::new(event.clone(), &tree));
    let at_hand = AtHand::new(event, &binding, &obtain);
    let earlier = Reading::new(earlier.clone(), &tree);
    let inputs = [Presence::AtHand, Presence::Earlier(&earlier), Presence::Absent, Presence::Absent];
    Evaluation::new(condition, &at_hand, &binding, &inputs).run()
}

fn compiled(text: &str) -> Condition {
    Condition::compile(text, &INPUTS).unwrap_or_else(|errors| panic!("{text}: {}", errors[0]))
}

/// The same condition with nothing lowered: the interpreter alone evaluates it.
fn interpreted(text: &str) -> Condition {
    let program = parse::on_a_large_stack(|| {
        let (expression, places) = parse::parse(text, &INPUTS)?;
        let rewritten = rewrite::rewrite(expression, &INPUTS, &places)?;
        let root = Node::Cel(Box::new(rewritten.expression));
        Ok(Program { root, slots: rewritten.slots, paths: rewritten.paths })
    })
    .unwrap();
    Condition(Arc::new(Compiled { text: text.into(), inputs: INPUTS.map(Into::into).into(), program }))
}

fn outcome(text: &str) -> Outcome {
    outcome_on(text, &order())
}

/// Evaluates twice, lowered and not, which must come to the same.
fn outcome_on(text: &str, event: &Event) -> Outcome {
    let lowered = evaluate(&compiled(text), event, &payment());
    let interpreted = evaluate(&interpreted(text), event, &payment());
    match (&lowered, &interpreted) {
        (Outcome::Error(_), Outcome::Error(_)) => {}
        (a, b) => assert_eq!(a, b, "{text}"),
    }
    lowered
}

fn errors(text: &str) -> Vec<String> {
    match Condition::compile(text, &INPUTS) {
        Ok(_) => panic!("compiles: {text}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_a_condition_names() {
    let condition = compiled("orders && payments.data.ok && has(payments.data.x)");
    assert_eq!(condition.named_inputs(), [0, 1].into());
    assert!(!condition.reads_event() && condition.reads_input(1) && !condition.reads_input(0));
    assert!(condition.reads_data());
    let condition = compiled("event.type == 'x' && [1].exists(orders, orders > 0)");
    assert!(condition.named_inputs().is_empty() && condition.reads_event() && !condition.reads_data());
    assert!(compiled("true").named_inputs().is_empty());
    assert_eq!(compiled("true"), compiled("true"));
    assert_ne!(compiled("true"), compiled("true "));
}

#[test]
fn an_input_called_event_hides_the_event_at_hand() {
    let condition = Condition::compile("event && event.type == 'paid'", &["event"]).unwrap();
    assert_eq!(condition.named_inputs(), [0].into());
    assert!(!condition.reads_event());
}

#[test]
fn paths_are_read_once() {
    let condition = compiled("event.data.a.b == 1 || event['data'].a['b'] == 2 || orders.data.a.b == 3");
    assert_eq!(condition.paths().len(), 1);
    assert_eq!(condition.0.program.slots.len(), 2);
}

#[test]
fn a_full_tree_is_evaluated_on_a_small_stack() {
    let deep = |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let run = |text: String| {
        std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(move || outcome(&text)).unwrap().join().unwrap()
    };
    assert_eq!(run(deep("!(true == ", "event.data.flag", ")", 30)), Outcome::True);
    assert_eq!(run(deep("[1].exists(x, ", "event.data.flag", ")", 12)), Outcome::True);
    assert_eq!(run(deep("[", "event.data.flag", "]", 60) + " == [1]"), Outcome::False);
}

#[test]
fn work_is_limited() {
    let over = |text: &str| match outcome(text) {
        Outcome::Error(why) => assert!(why.contains("more than 2000000 steps"), "{text}: {why}"),
        other => panic!("{text}: {other:?}"),
    };
    let many = "[0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9]";
    over(&format!("{many}.all(a, {many}.all(b, {many}.all(c, {many}.all(d, a + b + c + d >= 0))))"));
    over(&format!("[1]{}.size() > 0", ".map(x, [x,x,x,x,x,x,x,x])".repeat(9)));
    over(&format!("['abcdefgh']{}.size() > 0", ".map(x, x+x+x+x+x+x+x+x)".repeat(9)));
    let items = vec!["1"; 20_000].join(",");
    let event = order().to_builder().data(format!("{{\"items\":[{items}]}}")).build().unwrap();
    assert_eq!(outcome_on("event.data.items.all(i, i == 1)", &event), Outcome::True);
    let copies = vec!["event.data.items"; 200].join(",");
    assert!(matches!(outcome_on(&format!("[{copies}].size() == 200"), &event), Outcome::Error(_)));
    assert!(matches!(outcome_on("event.data.items.all(i, i in event.data.items)", &event), Outcome::Error(_)));
}

/// Text that is made of the pieces of conditions, well formed or not.
fn scraps() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "orders",
        "payments",
        "refunds",
        "event",
        ".data",
        ".type",
        ".amount",
        "[0]",
        "['a']",
        "[",
        "]",
        "(",
        ")",
        "&&",
        "||",
        "!",
        "==",
        "!=",
        "<",
        ">=",
        "+",
        "-",
        "*",
        "/",
        "%",
        "?",
        ":",
        "true",
        "false",
        "null",
        "1",
        "2.5",
        "3u",
        "'x'",
        "b'y'",
        ".exists(x, ",
        ".all(y, ",
        ".map(z, ",
        "x",
        "y",
        "has(",
        "size(",
        ".?a",
        "[?0]",
        "in",
        "{",
        "}",
        ",",
        ".",
        "`a-b`",
        "\"",
        "é",
        "\n",
        "dashed-name",
        ".startsWith('o')",
        ".matches('a+')",
        "string(",
        "0x1F",
        "1e400",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.join(" "))
}

/// Expressions that are well formed, over everything that the scene has.
fn expressions() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "orders",
        "payments",
        "refunds",
        "true",
        "false",
        "event.type",
        "event.data.amount",
        "event.data.count",
        "event.data.flag",
        "event.data.off",
        "event.data.customer.tier",
        "event.data.missing",
        "event.data.customer",
        "event.data.items",
        "event.data.nothing",
        "payments.data.order",
        "refunds.data.x",
        "event.time",
        "event.data.big",
        "has(event.data.count)",
        "has(event.data.missing)",
        "has(refunds.data.x)",
        "has(event.data.missing.x)",
        "1",
        "3",
        "150.5",
        "3u",
        "'gold'",
        "null",
        "-7",
        "event.data.neg",
        "event",
        "event.data.items[0].price",
        "event.nosuch",
        "event.data.?count",
        "[1, 2]",
        "{'a': 1}",
        "b'x'",
        "event.data.numbers",
        "event.data.items[5]",
        "event.id",
    ]);
    value.prop_map(str::to_owned).prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone(), prop::sample::select(vec!["&&", "||"]))
                .prop_map(|(a, b, op)| format!("({a} {op} {b})")),
            (
                inner.clone(),
                inner.clone(),
                prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "in"])
            )
                .prop_map(|(a, b, op)| format!("({a} {op} {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}].exists(x, {b} == x)")),
            (inner.clone(), prop::sample::select(vec!["'gold'", "3", "null"]))
                .prop_map(|(a, b)| format!("{a} in [{b}, 'silver', 2.0]")),
            (inner.clone(), prop::sample::select(vec!["startsWith", "endsWith", "contains", "matches"]))
                .prop_map(|(a, method)| format!("({a}).{method}('o')")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_text_is_the_end_of_the_process(text in scraps()) {
        if let Ok(condition) = Condition::compile(&text, &INPUTS) {
            evaluate(&condition, &order(), &payment());
        }
    }

    #[test]
    fn lowering_changes_no_outcome(text in expressions()) {
        if Condition::compile(&text, &INPUTS).is_ok() {
            outcome(&text);
        }
    }

    #[test]
    fn any_data_is_read_or_refused(data in any::<Vec<u8>>(), json: bool) {
        let order = order();
        let event = order.to_builder();
        let event = if json { event } else { event.without("datacontenttype") };
        let event = event.data(data).build().unwrap();
        outcome_on("event.data.a == 1 || event.data[0] == 'x' || event[event.type] == 1", &event);
    }
}
