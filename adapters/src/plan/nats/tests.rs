use evoke_api::credentials::Secret;
use evoke_connect::nats::Login;
use serde_json::{Value, json};

use super::*;
use crate::plan::tests;

fn planned(spec: Value) -> (Option<NatsSourcePlan>, Vec<String>) {
    tests::planned_text("nats", ("my.es", "orders_eu"), (spec, json!({ "url": "nats://127.0.0.1" })), plan)
}

fn sound(spec: Value) -> NatsSourcePlan {
    tests::sound(planned(spec))
}

#[test]
fn a_subject_or_a_stream() {
    let plan = sound(json!({ "subject": "orders.*.>", "queueGroup": "g" }));
    let (subject, queue_group) = ("orders.*.>".to_owned(), Some("g".to_owned()));
    assert_eq!(plan.read, Read::Subject(SubjectPlan { subject, queue_group }));
    assert_eq!(plan.reads(), "subject orders.*.>, queue group g");
    let plan = sound(json!({ "stream": "ORDERS" }));
    let (stream, consumer) = ("ORDERS".to_owned(), "ns_my__es_orders_eu".to_owned());
    assert_eq!(plan.read, Read::Stream(StreamPlan { stream, consumer, subject: None, start_at: StartAt::Latest }));
    assert_eq!(plan.servers(), "nats://127.0.0.1:4222");
}

#[test]
fn credentials_are_those_of_every_use_of_nats() {
    let plan = sound(json!({ "subject": "a", "auth": { "tokenFrom": { "env": "KNOWN" } } }));
    assert_eq!(plan.nats.login, Login::Token(Secret::new("hunter2")));
    assert!(!format!("{plan:?}").contains("hunter2"));
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    for (spec, expected) in [
        (json!({}), "subject: nothing to read is named; write a `subject`"),
        (json!({ "subject": "a..b" }), "subject: \"a..b\" is no subject"),
        (json!({ "subject": "a.>.b" }), "subject: \"a.>.b\" is no subject"),
        (json!({ "subject": "a b" }), "subject: \"a b\" is no subject"),
        (json!({ "subject": "a", "queueGroup": "" }), "queueGroup: \"\" is no queue group"),
        (json!({ "stream": "a.b" }), "stream: \"a.b\" is no name of a stream"),
        (json!({ "stream": "" }), "stream: \"\" is no name of a stream"),
        (json!({ "stream": "s", "consumer": "a b" }), "consumer: \"a b\" is no name of a consumer"),
        (json!({ "stream": "s", "subject": "a." }), "subject: \"a.\" is no subject"),
        (json!({ "subject": "a", "url": "http://h" }), "url: "),
        (json!({ "subject": "a", "contentType": "json" }), "contentType: \"json\" is no media type"),
        (
            json!({ "subject": "a", "auth": { "tokenFrom": { "env": "NO" } } }),
            "auth.tokenFrom: there is no such secret",
        ),
    ] {
        let (plan, problems) = planned(spec);
        assert_eq!(plan, None);
        let expected = format!("spec.nats.orders_eu.{expected}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
    }
}

#[test]
fn what_has_no_effect_is_named() {
    for (spec, expected) in [
        (json!({ "subject": "a", "consumer": "c" }), "consumer: `consumer` has no effect on a subject"),
        (json!({ "subject": "a", "startAt": "earliest" }), "startAt: `startAt` has no effect on a subject"),
        (json!({ "stream": "s", "queueGroup": "g" }), "queueGroup: `queueGroup` has no effect on a stream"),
    ] {
        let (plan, problems) = planned(spec);
        assert!(plan.is_some());
        let expected = format!("spec.nats.orders_eu.{expected}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
    }
}
