use std::time::{Duration, SystemTime};

use evoke_api::events::{
    DeliverySpec, EventBusSpec, EventSourceSpec, Input, Join, JoinMode, Reference, Reply, SinkSpec, Subscriber,
    WebhookSource,
};
use evoke_api::kubernetes::KnativeService;
use evoke_delivery::plan::{DeadLetterPlan, SinkPlan};
use evoke_eventbus::bus::{From, Position};
use evoke_eventbus::subscription::token::Token;

use super::*;

fn source(bus: Option<&str>, events: &[&str]) -> EventSourceSpec {
    EventSourceSpec {
        event_bus: bus.map(Into::into),
        webhook: events.iter().map(|event| ((*event).to_owned(), WebhookSource::default())).collect(),
        ..EventSourceSpec::default()
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog { default_bus: true, ..Catalog::default() };
    let mut add =
        |namespace: &str, name: &str, spec| catalog.event_sources.insert(ObjectName::new(namespace, name), spec);
    add("shop", "web", source(Some("default"), &["orders", "payments"]));
    add("shop", "other", source(Some("second"), &["refunds"]));
    add("shop", "direct", source(None, &["pings"]));
    add("bank", "teller", source(Some("default"), &["paid"]));
    // Of the Trigger's own name.
    let sink = Some(SinkSpec { uri: Some("http://there/".into()), ..SinkSpec::default() });
    add("shop", "t", EventSourceSpec { sink, ..source(Some("default"), &["ticks"]) });
    catalog.cluster_event_buses.insert("second".into(), EventBusSpec::default());
    catalog
}

fn input(event_source: &str, event: &str) -> Input {
    Input { event_source: Some(event_source.into()), event: Some(event.into()), ..Input::default() }
}

fn topic(topic: &str) -> Input {
    Input { topic: Some(topic.into()), ..Input::default() }
}

fn subscriber(name: &str, condition: &str) -> Subscriber {
    Subscriber {
        name: Some(name.into()),
        condition: condition.into(),
        topic: Some("out".into()),
        ..Subscriber::default()
    }
}

fn trigger(inputs: &[(&str, Input)], subscribers: Vec<Subscriber>) -> TriggerSpec {
    TriggerSpec {
        event_bus: "default".into(),
        inputs: inputs.iter().map(|(name, input)| ((*name).to_owned(), input.clone())).collect(),
        subscribers,
        ..TriggerSpec::default()
    }
}

fn planned(spec: &TriggerSpec) -> Planned<TriggerPlan> {
    plan(&ObjectName::new("shop", "t"), spec, &catalog())
}

#[track_caller]
fn problems(spec: &TriggerSpec, expected: &[&str]) {
    let Planned { plan, problems, .. } = planned(spec);
    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
    assert_eq!(plan.is_none(), problems.iter().any(Problem::is_error));
}

const AB: [&str; 2] = ["orders", "payments"];

fn both() -> Vec<(&'static str, Input)> {
    AB.map(|name| (name, input("web", name))).into()
}

#[test]
fn a_plan_says_what_is_read_and_where_it_goes() {
    let mut spec = trigger(
        &both(),
        vec![subscriber("a", "orders && orders.data.amount > 1"), subscriber("b", "orders && payments")],
    );
    spec.subscribers[0].sink = Some(SinkSpec { uri: Some("http://localhost:1/x".into()), reference: None });
    spec.subscribers[0].dead_letter_topic = Some("dead".into());
    spec.subscribers[1].start_at = Some("earliest".into());
    let planned = planned(&spec);
    assert_eq!(planned.problems, []);
    let plan = planned.plan.unwrap();
    assert_eq!(plan.bus, BusName::Default("shop".into()));
    let web = ObjectName::new("shop", "web");
    let topics = AB.map(|event| TopicName::event(&web, event));
    assert_eq!(plan.inputs.iter().map(|i| i.topic.clone()).collect::<Vec<_>>(), topics);
    let [a, b] = plan.subscribers.as_slice() else { panic!() };
    assert_eq!(a.subscription.id.to_string(), "shop/t/a");
    assert_eq!(a.subscription.topics, [topics[0].clone()]);
    assert!(matches!(&a.subscription.sink, Some(SinkPlan::Http(url)) if url.as_str() == "http://localhost:1/x"));
    assert_eq!(a.subscription.topic, Some(TopicName::named("shop", "out")));
    assert_eq!(a.subscription.dead_letter, DeadLetterPlan::Topic(TopicName::named("shop", "dead")));
    assert_eq!((&a.start, &b.start), (&From::Next.into(), &From::First.into()));
    assert_eq!(b.subscription.topics, topics);
    assert_eq!(b.inputs, [[0], [1]]);
    assert_eq!(
        plan.selectors(&Readings::default()).iter().map(|s| s.window().is_some()).collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn plans_are_equal_when_they_do_the_same() {
    let spec = trigger(&both(), vec![subscriber("a", "orders"), subscriber("b", "payments")]);
    let one = planned(&spec).plan.unwrap();
    assert_eq!(planned(&spec).plan.unwrap(), one);
    let mut other = spec.clone();
    other.subscribers[1].condition = "payments ".into();
    let two = planned(&other).plan.unwrap();
    assert_ne!(two, one);
    assert_eq!(two.subscribers[0], one.subscribers[0]);
    let mut other = spec;
    other.subscribers[0].delivery = Some(DeliverySpec { retry: Some(3), ..DeliverySpec::default() });
    assert_ne!(planned(&other).plan.unwrap(), one);
}

#[test]
fn only_the_topics_that_a_condition_needs_are_read() {
    let inputs = |condition: &str, letter: bool| {
        let mut spec = trigger(&both(), vec![subscriber("a", condition)]);
        spec.join = letter.then_some(Join { mode: Some(JoinMode::OpenFunction) });
        planned(&spec).plan.unwrap().subscribers[0].inputs.clone()
    };
    for (condition, expected) in [
        ("orders", vec![vec![0]]),
        ("payments.type == 'x'", vec![vec![1]]),
        ("orders || payments", vec![vec![0], vec![1]]),
        ("event.type == 'x'", vec![vec![0], vec![1]]),
        ("orders && event.type == 'x'", vec![vec![0], vec![1]]),
        ("true", vec![vec![0], vec![1]]),
    ] {
        assert_eq!(inputs(condition, false), expected, "{condition}");
        assert_eq!(inputs(condition, true), [vec![0], vec![1]], "{condition}");
    }
}

#[test]
fn two_inputs_on_one_event_are_one_topic() {
    let inputs = [("a", input("web", "orders")), ("b", input("web", "orders")), ("c", input("web", "payments"))];
    let plan = planned(&trigger(&inputs, vec![subscriber("s", "a && b && c")])).plan.unwrap();
    assert_eq!(plan.subscribers[0].inputs, vec![vec![0, 1], vec![2]]);
    assert_eq!(plan.subscribers[0].subscription.topics.len(), 2);
}

#[test]
fn everything_that_is_wrong_is_found_at_once() {
    let mut spec = trigger(
        &[
            ("orders", input("wbe", "orders")),
            ("payments", input("web", "payment")),
            ("far", input("teller", "paid")),
            ("refunds", input("other", "refunds")),
            ("pings", input("direct", "pings")),
            ("half", Input { event: Some("x".into()), ..Input::default() }),
            ("other-half", Input { event_source: Some("x".into()), ..Input::default() }),
            ("nothing", Input::default()),
            ("both", Input { topic: Some("x".into()), ..input("web", "orders") }),
            ("-bad", topic("x y")),
        ],
        vec![
            Subscriber { condition: "ordres &&".into(), ..Subscriber::default() },
            subscriber("a", "ordres && paymnts"),
            subscriber("a", "other-half"),
            Subscriber { start_at: Some("tuesday".into()), topic: Some("a b".into()), ..subscriber("-", "true") },
            subscriber("sink", "true"),
        ],
    );
    spec.event_bus = "secnd".into();
    problems(
        &spec,
        &[
            "spec.eventBus: there is no EventBus \"secnd\" in namespace shop, and no such ClusterEventBus; did you mean `second`",
            "spec.inputs.orders.eventSource: there is no EventSource \"wbe\" in namespace shop; did you mean `web`",
            "spec.inputs.payments.event: EventSource shop/web has no event \"payment\"; did you mean `payments`",
            "spec.inputs.far.eventSource: there is no EventSource \"teller\" in namespace shop; add `namespace: bank`",
            "spec.inputs.pings.eventSource: EventSource shop/direct publishes on no bus, only to its sink; give it an `eventBus`",
            "spec.inputs.half: `eventSource` is missing; name the EventSource that declares the event",
            "spec.inputs.other-half: `event` is missing; name the event under which the EventSource declares it",
            "spec.inputs.nothing: an input that is nothing; name an `eventSource` and its `event`, or a `topic`",
            "spec.inputs.both.topic: an input is an event or a topic: `topic` does not go with `eventSource`; keep one of them",
            "spec.inputs.-bad: \"-bad\" is no name for an input; letters, digits, and between them - and _, at most 63",
            "spec.inputs.-bad.topic: \"x y\" is no name for a topic",
            "spec.subscribers[0].name: this subscriber keeps its position under its place in the list, 0; give it a `name`, or it takes over another's position when the list changes",
            "spec.subscribers[0].condition: column 10: the condition ends too early",
            "spec.subscribers[0]: matching events would go nowhere; add a `sink`, a `topic`, or both",
            "spec.subscribers[1].condition: column 1: there is no input \"ordres\"; did you mean `orders`",
            "spec.subscribers[1].condition: column 11: there is no input \"paymnts\"; did you mean `payments`",
            "spec.subscribers[2].name: two subscribers are called \"a\", here and at spec.subscribers[1].name; they would share one position: rename one",
            "spec.subscribers[2].condition: column 1: a condition cannot name \"other-half\"; rename the input \"other-half\", whose name CEL cannot spell, to \"other_half\" for example",
            "spec.subscribers[3].name: \"-\" is no name for a subscriber; letters, digits, and between them - and _, at most 63",
            "spec.subscribers[3].topic: \"a b\" is no name for a topic; letters, digits, -, _ and dots",
            "spec.subscribers[3].startAt: \"tuesday\" is no place to start at; latest, earliest, a time such as 2026-01-02T03:04:05Z, or an offset that `evoke subscription list -o json` prints",
            "spec.subscribers[4].name: \"sink\" is what the EventSource of this Trigger's name calls its own sink; they would share one position: rename one",
        ],
    );
    problems(
        &trigger(&[], vec![]),
        &[
            "spec.inputs: a Trigger needs an input; add `name: {eventSource: ..., event: ...}`",
            "spec.subscribers: a Trigger needs a subscriber; add one with a `condition` and a `sink`",
        ],
    );
}

#[test]
fn a_subscriber_starts_at_offsets_of_its_topics() {
    let web = ObjectName::new("shop", "web");
    let token = |event: &str| Token { topic: TopicName::event(&web, event), positions: [(0, Position(7))].into() };
    let start = |at: String, expected: &[&str]| {
        let mut spec = trigger(&both(), vec![subscriber("a", "orders && payments")]);
        spec.subscribers[0].start_at = Some(at);
        problems(&spec, expected);
        planned(&spec).plan.map(|plan| plan.subscribers[0].start.clone())
    };
    let [orders, payments, other] = ["orders", "payments", "refunds"].map(token);
    let both = vec![orders.clone(), payments.clone()];
    assert_eq!(start(format!("{orders}, {payments}"), &[]), Some(Start::Offsets(both)));
    let warning = "spec.subscribers[0].startAt: there is no offset for the topic shop.web.payments, which starts at its tail; add its offset, after a comma";
    assert_eq!(start(orders.to_string(), &[warning]), Some(Start::Offsets(vec![orders.clone()])));
    let error = "spec.subscribers[0].startAt: an offset in the topic shop.web.refunds, which this subscriber does not read; take the offset of an input that it reads";
    assert_eq!(start(format!("{orders},{payments},{other}"), &[error]), None);
    assert_eq!(
        start("2026-01-02T03:04:05+01:00".into(), &[]),
        Some(From::Time(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_319_445)).into())
    );
}

#[test]
fn a_reply_needs_a_sink_that_answers_and_a_topic() {
    let with = |sink: bool, topic: Option<&str>, expected: &[&str]| {
        let mut spec = trigger(&both(), vec![subscriber("a", "orders || payments")]);
        spec.subscribers[0].sink = sink.then(|| SinkSpec { uri: Some("http://localhost:1/".into()), reference: None });
        spec.subscribers[0].reply = Some(Reply { topic: topic.map(Into::into) });
        problems(&spec, expected);
        planned(&spec).plan.and_then(|plan| plan.subscribers[0].subscription.reply.clone())
    };
    assert_eq!(with(true, Some("answers"), &[]), Some(TopicName::named("shop", "answers")));
    let nowhere = "spec.subscribers[0].reply: the reply goes nowhere; name the `topic` that it is published on";
    assert_eq!(with(true, None, &[nowhere]), None);
    let alone =
        "spec.subscribers[0].reply: only a `sink` answers, and there is none; add a `sink`, or take `reply` away";
    assert_eq!(with(false, Some("answers"), &[alone]), None);
    let bad = "spec.subscribers[0].reply.topic: \"a b\" is no name for a topic; letters, digits, -, _ and dots";
    assert_eq!(with(true, Some("a b"), &[bad]), None);
}

#[test]
fn a_trigger_reads_the_bus_that_its_sources_publish_on() {
    let spec = trigger(&[("refunds", input("other", "refunds"))], vec![subscriber("a", "refunds")]);
    problems(
        &spec,
        &[
            "spec.inputs.refunds.eventSource: EventSource shop/other publishes on ClusterEventBus second, and this Trigger reads the default bus of namespace shop; let both name the same bus",
        ],
    );
    problems(&TriggerSpec { event_bus: "second".into(), ..spec }, &[]);
    let far = Input { namespace: Some("bank".into()), ..input("teller", "paid") };
    problems(
        &trigger(&[("paid", far)], vec![subscriber("a", "paid")]),
        &[
            "spec.inputs.paid.eventSource: EventSource bank/teller publishes on the default bus of namespace bank, and this Trigger reads the default bus of namespace shop; let both name one ClusterEventBus",
        ],
    );
    problems(
        &TriggerSpec { event_bus: "none".into(), ..trigger(&both(), vec![subscriber("a", "orders || payments")]) },
        &[
            "spec.eventBus: there is no EventBus \"none\" in namespace shop, and no such ClusterEventBus; declare one, with `embedded: {}` for example",
        ],
    );
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let mut spec = trigger(
        &[("event", input("web", "orders")), ("spare", input("web", "payments")), ("looped", topic("out"))],
        vec![subscriber("a", "event"), Subscriber { name: None, ..subscriber("b", "true && looped") }],
    );
    spec.log_level = Some("2".into());
    spec.subscribers[0].transform = Some(serde_json::json!({}));
    let mut catalog = catalog();
    catalog.triggers.insert(ObjectName::new("shop", "t"), spec.clone());
    let planned = plan(&ObjectName::new("shop", "t"), &spec, &catalog);
    let found: Vec<String> = planned.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "spec.inputs.event: this input hides `event`, the event at hand, in conditions; rename the input if a condition is to read the event at hand",
            "spec.subscribers[0].transform: `transform` has no effect yet",
            "spec.subscribers[1].name: this subscriber keeps its position under its place in the list, 1; give it a `name`, or it takes over another's position when the list changes",
            "spec.subscribers[1].topic: this subscriber reads the topic shop.out that it publishes on; an event that always matches goes round for ever: let the condition tell them apart",
            "spec.inputs.spare: no condition names this input; take it away, or name it",
            "spec.logLevel: `logLevel` has no effect; use -v and --log-format of `evoke run`",
        ]
    );
    assert_eq!(planned.plan.unwrap().subscribers[1].subscription.id.subscriber.as_ref(), "1");
}

#[test]
fn a_reference_to_nothing_is_a_warning_where_the_rest_is_elsewhere() {
    let spec = trigger(&[("x", input("far", "x")), ("y", topic("y"))], vec![subscriber("a", "x && y")]);
    let spec = TriggerSpec { event_bus: "far".into(), ..spec };
    let catalog = Catalog { partial: true, ..Catalog::default() };
    let planned = plan(&ObjectName::new("shop", "t"), &spec, &catalog);
    assert!(planned.problems.iter().all(|problem| !problem.is_error()), "{:?}", planned.problems);
    assert_eq!(planned.problems.len(), 2);
    assert_eq!(planned.plan.unwrap().subscribers[0].subscription.topics.len(), 2);
}

#[test]
fn topics_are_read_by_name_or_by_openfunctions_alias() {
    let with = |name: &str, catalog: &Catalog| {
        let spec = trigger(&[("x", topic(name))], vec![subscriber("a", "x")]);
        let planned = plan(&ObjectName::new("shop", "t"), &spec, catalog);
        let problems: Vec<String> = planned.problems.iter().map(ToString::to_string).collect();
        (planned.plan.map(|plan| plan.inputs[0].topic.to_string()), problems)
    };
    let mut catalog = catalog();
    assert_eq!(with("shop-web-orders", &catalog), (Some("shop.web.orders".into()), vec![]));
    assert_eq!(with("nobody", &catalog), (Some("shop.nobody".into()), vec![
        "spec.inputs.x.topic: nothing here publishes on the topic shop.nobody; a subscriber's `topic`, a `deadLetterTopic` or a `reply` does".into()
    ]));
    let writer =
        trigger(&both(), vec![Subscriber { dead_letter_topic: Some("dead".into()), ..subscriber("a", "orders") }]);
    catalog.triggers.insert(ObjectName::new("shop", "writer"), writer);
    assert_eq!(with("dead", &catalog), (Some("shop.dead".into()), vec![]));
    catalog.event_sources.insert(ObjectName::new("shop", "web-orders"), source(Some("default"), &["x"]));
    catalog.event_sources.insert(ObjectName::new("shop", "web"), source(Some("default"), &["orders-x"]));
    let (topic, problems) = with("shop-web-orders-x", &catalog);
    assert_eq!((topic, problems.len()), (None, 1));
    assert!(
        problems[0].contains("event orders-x of EventSource shop/web, and event x of EventSource shop/web-orders"),
        "{problems:?}"
    );
}

#[test]
fn undeclared_buses_may_be_one_elsewhere() {
    let far = Input { namespace: Some("bank".into()), ..input("teller", "paid") };
    let spec = trigger(&[("paid", far)], vec![subscriber("a", "paid")]);
    let said = |catalog: &Catalog| -> Vec<String> {
        plan(&ObjectName::new("shop", "t"), &spec, catalog).problems.iter().map(ToString::to_string).collect()
    };
    let mut partial = Catalog { partial: true, ..catalog() };
    assert_eq!(said(&partial), [""; 0]);
    // An EventBus is that of its own namespace, whatever there is elsewhere.
    partial.event_buses.insert(ObjectName::new("bank", "default"), EventBusSpec::default());
    let error = "spec.inputs.paid.eventSource: EventSource bank/teller publishes on EventBus bank/default, and this Trigger reads the default bus of namespace shop; let both name one ClusterEventBus";
    assert_eq!(said(&partial), [error]);
    partial.event_buses.clear();
    partial.cluster_event_buses.insert("default".into(), EventBusSpec::default());
    assert_eq!(said(&partial), [""; 0]);
}

#[test]
fn what_is_written_under_openfunctions_name_of_an_event_is_read_by_that_name() {
    let to = |topic: &str| Subscriber { topic: Some(topic.into()), ..subscriber("a", "orders || payments") };
    problems(
        &trigger(&both(), vec![to("bank-teller-paid")]),
        &[
            "spec.subscribers[0].topic: inputs that name event paid of EventSource bank/teller do not get what is published here; give the topic another name, and those that are to read it an input `{topic: NAME}`",
        ],
    );
    problems(&trigger(&both(), vec![to("bank-teller-refused")]), &[]);

    let mut catalog = catalog();
    let writers = [("large", to("shop-sorter-large")), ("small", to("shop-web-small")), ("far", to("bank-sorter-x"))];
    for (name, subscriber) in writers {
        catalog.triggers.insert(ObjectName::new("shop", name), trigger(&both(), vec![subscriber]));
    }
    for (read, reader, expected) in [
        (
            input("sorter", "large"),
            "shop",
            "spec.inputs.x.eventSource: there is no EventSource \"sorter\" in namespace shop; Trigger shop/large publishes on a topic of that name, which is read as `{topic: shop-sorter-large}`",
        ),
        (
            input("web", "small"),
            "shop",
            "spec.inputs.x.event: EventSource shop/web has no event \"small\"; Trigger shop/small publishes on a topic of that name, which is read as `{topic: shop-web-small}`",
        ),
        (
            input("sorter", "x"),
            "bank",
            "spec.inputs.x.eventSource: there is no EventSource \"sorter\" in namespace bank; Trigger shop/far publishes on a topic of that name, which is read as `{topic: bank-sorter-x, namespace: shop}`",
        ),
        (
            input("sorter", "other"),
            "shop",
            "spec.inputs.x.eventSource: there is no EventSource \"sorter\" in namespace shop; declare it, or name one that is declared",
        ),
    ] {
        let spec = trigger(&[("x", read)], vec![subscriber("a", "x")]);
        let planned = plan(&ObjectName::new(reader, "t"), &spec, &catalog);
        assert_eq!(planned.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
    // So it is read.
    let spec = trigger(&[("x", topic("shop-sorter-large"))], vec![subscriber("a", "x")]);
    let planned = plan(&ObjectName::new("shop", "t"), &spec, &catalog);
    assert_eq!(planned.problems, []);
    assert_eq!(planned.plan.unwrap().inputs[0].topic, TopicName::named("shop", "shop-sorter-large"));
}

#[test]
fn a_condition_that_no_event_meets_is_a_warning() {
    const BEFORE: &str = "spec.subscribers[0].condition: this condition can never match: it is true only while none of its inputs has arrived, and gets their events alone";
    let name = format!(
        "{BEFORE}; name the other input as well, whose events it is to get, or set `join: {{mode: openFunction}}`"
    );
    let add = format!("{BEFORE}; add the input whose events it is to get, and name it");
    let correct = "spec.subscribers[0].condition: this condition can never match: it is true of no inputs that have arrived; correct it, or take the subscriber away";
    let (name, add, correct) = (Some(name.as_str()), Some(add.as_str()), Some(correct));
    let warning = |inputs: &[(&str, Input)], condition: &str, letter: bool| {
        let mut spec = trigger(inputs, vec![subscriber("a", condition)]);
        spec.join = letter.then_some(Join { mode: Some(JoinMode::OpenFunction) });
        let planned = planned(&spec);
        assert!(planned.plan.is_some(), "{condition}: {:?}", planned.problems);
        planned.problems.iter().map(ToString::to_string).find(|text| text.contains("can never match"))
    };
    let one = [("orders", input("web", "orders"))];
    let two_of_one_event = [("a", input("web", "orders")), ("b", input("web", "orders"))];
    for (inputs, condition, expected, to_the_letter) in [
        (&both()[..], "!orders", name, None),
        (&both(), "orders == false", name, None),
        (&both(), "(orders) ? false : true", name, None),
        (&both(), "!orders && !payments", add, add),
        (&both(), "!(orders || payments)", add, add),
        (&both(), "payments && !payments", correct, correct),
        (&both(), "false && orders", correct, correct),
        (&one, "!orders", add, add),
        (&two_of_one_event, "a && !b", correct, correct),
        (&two_of_one_event, "a && b", None, None),
        (&both(), "orders", None, None),
        (&both(), "orders && payments", None, None),
        (&both(), "payments && !orders", None, None),
        (&both(), "!orders || payments", None, None),
        (&both(), "orders != payments", None, None),
        (&both(), "orders == false && payments == true", None, None),
        (&both(), "!orders && event.type == 'x'", None, None),
        (&both(), "!orders && payments.data.n == 1", None, None),
        (&both(), "!orders.data.flag", None, None),
        (&both(), "false", None, None),
    ] {
        assert_eq!(warning(inputs, condition, false).as_deref(), expected, "{condition}");
        assert_eq!(warning(inputs, condition, true).as_deref(), to_the_letter, "{condition}, to the letter");
    }
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("i{n}")).collect();
        let inputs: Vec<(&str, Input)> = names.iter().map(|name| (name.as_str(), topic(name))).collect();
        warning(&inputs, &format!("!{}", names.join(" && !")), false)
    };
    assert_eq!(many(12).as_deref(), add);
    assert_eq!(many(13), None, "they are not tried");
}

#[test]
fn an_empty_text_is_one_that_is_not_set() {
    let orders = Input { namespace: Some(String::new()), ..input("web", "orders") };
    let mut spec = trigger(&[("orders", orders)], vec![subscriber("a", "orders")]);
    spec.subscribers[0].sink = Some(SinkSpec { uri: Some("http://localhost:1/".into()), reference: None });
    spec.subscribers[0].topic = Some(String::new());
    spec.subscribers[0].dead_letter_topic = Some(String::new());
    let Planned { plan: planned, problems: said, .. } = planned(&spec);
    assert_eq!(said, []);
    let planned = planned.unwrap();
    let subscription = &planned.subscribers[0].subscription;
    assert_eq!(subscription.topics, [TopicName::event(&ObjectName::new("shop", "web"), "orders")]);
    assert_eq!((&subscription.topic, &subscription.dead_letter), (&None, &DeadLetterPlan::Store));
    spec.subscribers[0].sink = None;
    problems(&spec, &["spec.subscribers[0]: matching events would go nowhere; add a `sink`, a `topic`, or both"]);

    let mut catalog = catalog();
    catalog.event_sources.insert(ObjectName::new("shop", "web"), source(Some(""), &["orders"]));
    let spec = trigger(&[("orders", input("web", "orders"))], vec![subscriber("a", "orders")]);
    let said = plan(&ObjectName::new("shop", "t"), &spec, &catalog).problems;
    assert_eq!(
        said.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "spec.inputs.orders.eventSource: EventSource shop/web publishes on no bus, only to its sink; give it an `eventBus`"
        ]
    );
}

#[test]
fn a_sink_that_has_no_address_yet_cannot_run_here() {
    let mut catalog = catalog();
    catalog.knative_services.insert(ObjectName::new("shop", "starting"), KnativeService::default());
    let reference = Reference { api_version: None, kind: "Service".into(), name: "starting".into(), namespace: None };
    let sink = SinkSpec { uri: None, reference: Some(reference) };
    let mut spec = trigger(&both(), vec![subscriber("a", "orders || payments")]);
    spec.subscribers[0].sink = Some(sink.clone());
    spec.subscribers[0].dead_letter_sink = Some(sink);
    let planned = plan(&ObjectName::new("shop", "t"), &spec, &catalog);
    assert_eq!((planned.problems, planned.plan.is_some()), (vec![], true));
    let fields: Vec<String> = planned.not_here.iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!(fields, ["spec.subscribers[0].sink.ref.name", "spec.subscribers[0].deadLetterSink.ref.name"]);
}
