use std::sync::LazyLock;

use super::*;
use crate::manifest::{Loaded, ObjectValue, Schemas, SourceFile, load};

const MANIFEST: &str = "\
apiVersion: events.openfunction.io/v1alpha1
kind: EventSource
metadata: {name: shop, namespace: a, labels: {x.y: old}}
spec:
  eventBus: default
  kafka:
    orders: {brokers: \"kafka:9092\", topic: orders}
---
apiVersion: events.openfunction.io/v1alpha1
kind: Trigger
metadata: {name: t, namespace: a}
spec: {eventBus: default, inputs: {}, subscribers: [{condition: \"true\", topic: x}]}
---
apiVersion: events.openfunction.io/v1alpha1
kind: Trigger
metadata: {name: t, namespace: b}
spec: {eventBus: default, inputs: {}, subscribers: []}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {password: old}
";

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::new);

fn loaded(overrides: &[&str]) -> Loaded {
    let overrides: Vec<_> = overrides.iter().map(|text| Override::parse(text).unwrap()).collect();
    load(&SCHEMAS, &[SourceFile::new("m.yaml", MANIFEST)], &overrides)
}

fn wrong(text: &str) -> Vec<String> {
    loaded(&[text]).diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn fields_are_changed_made_and_removed() {
    let loaded = loaded(&[
        "EventSource/shop:kafka.orders.brokers=127.0.0.1:9092",
        "es/a/shop:spec.kafka.orders.sasl.username=me",
        "EventSource/shop:kafka.orders.topic=",
        "EventSource/shop:kafka[\"more.dots\"]={brokers: b, startAt: earliest}",
        "eventsource/shop:metadata.labels[\"x.y\"]=new",
        "Trigger/a/t:subscribers[0].delivery.retry=3",
        "Trigger/a/t:subscribers[1]={condition: \"false\", topic: z}",
        "Secret/s:stringData.password='new: one'",
    ]);
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    let [source, trigger, _, secret] = loaded.objects.as_slice() else { panic!("{:?}", loaded.objects) };
    let ObjectValue::EventSource(spec) = &source.value else { panic!("{source:?}") };
    let orders = &spec.kafka["orders"];
    assert_eq!((orders.brokers.as_str(), orders.topic.as_deref()), ("127.0.0.1:9092", None));
    assert_eq!(orders.sasl.as_ref().unwrap().username.as_ref().unwrap().expose(), "me");
    assert_eq!(spec.kafka["more.dots"].brokers, "b");
    let ObjectValue::Trigger(spec) = &trigger.value else { panic!("{trigger:?}") };
    assert_eq!(spec.subscribers[0].delivery.as_ref().unwrap().retry, Some(3));
    assert_eq!(spec.subscribers[1].topic.as_deref(), Some("z"));
    let ObjectValue::Secret(data) = &secret.value else { panic!("{secret:?}") };
    assert_eq!(data.text("password").unwrap().expose(), "new: one");
    assert_eq!(source.locate(&FieldPath::spec().key("kafka").key("orders").key("brokers")), Place::OVERRIDE);
}

#[test]
fn what_the_schema_does_not_know_is_an_error() {
    assert_eq!(
        wrong("EventSource/shop:kafka.orders.broker=x"),
        ["--set: spec.kafka.orders.broker: unknown field; did you mean `brokers`"]
    );
    assert_eq!(
        wrong("EventSource/shop:kafka.orders.authRequired={a: 1}"),
        ["--set: spec.kafka.orders.authRequired: expected a boolean, found an object; write `true` or `false`"]
    );
    assert_eq!(
        wrong("EventSource/shop:webhook={in: {prot: 80}}"),
        ["--set: spec.webhook.in.prot: unknown field; did you mean `port`"]
    );
    assert_eq!(
        wrong("Trigger/a/t:subscribers[0].delivery.retry=many"),
        ["--set: spec.subscribers[0].delivery.retry: expected an integer, found a string"]
    );
    // The places of what the file says stay.
    assert!(
        wrong("EventSource/shop:kafka.orders.brokers=")[0]
            .starts_with("m.yaml:7:13: spec.kafka.orders.brokers: this field")
    );
}

#[test]
fn what_is_not_there_is_an_error() {
    let object = "--set: spec.eventBus: ";
    assert_eq!(
        wrong("EventSource/shob:eventBus=x"),
        [format!("{object}there is no EventSource shob; did you mean `shop`")]
    );
    assert_eq!(
        wrong("EventSource/b/shop:eventBus=x"),
        [format!("{object}there is no EventSource b/shop; did you mean `a/shop`")]
    );
    assert_eq!(
        wrong("Trigger/t:eventBus=x"),
        [format!("{object}there are 2 objects Trigger t; name its namespace as well")]
    );
    assert_eq!(wrong("Function/f:image=x"), ["--set: spec.image: there is no Function f"]);
    assert_eq!(
        wrong("Trigger/a/t:subscribers[7].topic=x"),
        ["--set: spec.subscribers[7]: the list has 1 items; write `[1]` to add one"]
    );
    assert_eq!(wrong("Trigger/a/t:eventBus.x=1"), ["--set: spec.eventBus: this is a string, and has no `x`"]);
    assert_eq!(wrong("Trigger/a/t:inputs[0]=1"), ["--set: spec.inputs: this is an object, and has no `[0]`"]);
}

#[test]
fn what_is_no_override_says_which_part() {
    let cases = [
        ("", "has no `:`"),
        ("Trigger/t", "has no `:`"),
        ("Trigger:a=b", "names no object"),
        ("Trigger/a/b/c:a=b", "names no object"),
        ("Trigger/:a=b", "names no object"),
        ("Trigger//t:a=b", "names no object"),
        ("Triger/t:a=b", "there is no kind \"Triger\", did you mean `Trigger`"),
        ("Pod/t:a=b", "there is no kind \"Pod\", the kinds are "),
        ("Trigger/t:a", "has no `=`"),
        ("Trigger/t:a[0]", "has no `=`"),
        ("Trigger/t:a[0]x=1", "has no `=`"),
        ("Trigger/t:a..b=1", "an empty step"),
        ("Trigger/t:=1", "an empty step"),
        ("Trigger/t:a[x]=1", "`[x]` is no place in a list"),
        ("Trigger/t:a[0=1", "no closing `]`"),
        ("Trigger/t:a[\"x=1", "no closing `\"]`"),
        ("Trigger/t:a=[1", "the value is no YAML: broken YAML"),
        ("Trigger/t:kind=x", "`kind` cannot be set"),
        ("Trigger/t:metadata.name=x", "`metadata.name` cannot be set"),
    ];
    for (text, part) in cases {
        let wrong = Override::parse(text).unwrap_err().to_string();
        assert!(wrong.contains(part) && wrong.contains("write it as KIND/"), "{text}: {wrong}");
    }
}

#[test]
fn paths_and_values() {
    let parse = |text: &str| Override::parse(text).unwrap();
    let over = parse("Trigger/t:subscribers[0].sink[\"a.b\"].c=a=b: 1");
    assert_eq!(over.path.to_string(), "spec.subscribers[0].sink[\"a.b\"].c");
    assert_eq!(over.value.to_json(), serde_json::json!({"a=b": 1}));
    assert_eq!(parse("Secret/s:data.x=y").path.to_string(), "data.x");
    assert_eq!(parse("svc/s:spec.clusterIP=None").to_string(), "Service s: spec.clusterIP");
    assert!(!format!("{:?}", parse("Secret/s:stringData.x=hunter2")).contains("hunter2"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(Trigger/a/t|Secret/s|EventSource/shop):[-a-z\\[\\]\"0-9.=:{} ]{0,30}") {
        if let Ok(over) = Override::parse(&text) {
            load(&SCHEMAS, &[SourceFile::new("m.yaml", MANIFEST)], &[over]);
        }
    }
}
