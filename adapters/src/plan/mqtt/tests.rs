use serde_json::{Value, json};

use super::*;
use crate::plan::tests;

const CERT: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

fn planned(spec: Value) -> (Option<MqttPlan>, Vec<String>) {
    let rest = json!({ "url": "tcp://127.0.0.1", "topic": "a/b" });
    tests::planned_text("mqtt", ("es", "orders"), (spec, rest), plan)
}

fn sound(spec: Value) -> MqttPlan {
    tests::sound(planned(spec))
}

#[test]
fn by_default_a_persistent_session_at_qos_1() {
    let plan = sound(json!({}));
    assert_eq!((plan.broker(), plan.topic()), ("127.0.0.1:1883".to_owned(), "a/b"));
    assert_eq!((plan.client_id.as_str(), plan.qos, plan.clean), ("ns.es.orders", Qos::AtLeastOnce, false));
    assert_eq!((plan.version, plan.tls, plan.username, plan.password), (None, None, None, None));
}

#[test]
fn urls_of_every_form() {
    for (url, broker, encrypted) in [
        ("mqtt://broker:1884", "broker:1884", false),
        ("broker.example:1884", "broker.example:1884", false),
        ("broker", "broker:1883", false),
        ("ssl://broker/", "broker:8883", true),
        ("mqtts://[::1]:1", "[::1]:1", true),
        ("tls://broker", "broker:8883", true),
    ] {
        let plan = sound(json!({ "url": url }));
        assert_eq!((plan.broker().as_str(), plan.tls.is_some()), (broker, encrypted), "{url}");
    }
}

#[test]
fn openfunctions_certificates_are_those_of_tls() {
    let plan = sound(
        json!({ "url": "ssl://b", "caCert": CERT, "clientCert": CERT, "clientKey": KEY, "consumerID": "me", "qos": 2 }),
    );
    let tls = plan.tls.clone().unwrap();
    assert_eq!(tls.ca, Some(Secret::new(CERT)));
    assert_eq!(tls.identity.unwrap().key, Secret::new(KEY));
    assert_eq!((plan.client_id.as_str(), plan.qos), ("me", Qos::ExactlyOnce));
}

#[test]
fn a_log_in_comes_from_the_fields_from_sasl_or_from_the_url() {
    for spec in [
        json!({ "url": "ssl://b", "username": "u", "passwordFrom": { "env": "KNOWN" } }),
        json!({ "url": "ssl://b", "sasl": { "username": "u", "password": "hunter2" } }),
    ] {
        let plan = sound(spec);
        assert_eq!(
            (plan.username.clone(), plan.password.clone()),
            (Some(Secret::new("u")), Some(Secret::new("hunter2")))
        );
        assert!(!format!("{plan:?}").contains("hunter2"));
    }
    let (plan, problems) = planned(json!({ "url": "ssl://u:p%40ss@b:1" }));
    assert_eq!(plan.unwrap().password, Some(Secret::new("p@ss")));
    assert!(problems[0].starts_with("spec.mqtt.orders.url: the password is part of the url"), "{problems:?}");
    assert!(!problems[0].contains("ss@"), "{problems:?}");
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    for (spec, expected) in [
        (json!({ "url": "ws://b" }), "url: MQTT over WebSocket is not supported"),
        (json!({ "url": "http://b" }), "url: \"http\" is no scheme of MQTT; write tcp://host:port"),
        (json!({ "url": "tcp://b/path" }), "url: something follows the address"),
        (json!({ "url": "" }), "url: no"),
        (json!({ "url": "tcp://:x:y" }), "url: no broker's address"),
        (json!({ "topic": "" }), "topic: no topic is named"),
        (json!({ "topic": "a/#/b" }), "topic: \"a/#/b\" is no topic; `+` stands for"),
        (json!({ "topic": "a+/b" }), "topic: \"a+/b\" is no topic"),
        (json!({ "topic": "$share/g" }), "topic: \"$share/g\" is no shared subscription"),
        (json!({ "topic": "$share/g/a#" }), "topic: \"$share/g/a#\" is no topic"),
        (json!({ "contentType": "json" }), "contentType: \"json\" is no media type; write it as application/json"),
        (json!({ "qos": 3 }), "qos: 3 is no quality of service; write 0, 1 or 2"),
        (json!({ "consumerID": "a\u{0}" }), "consumerID: no client id"),
        (json!({ "passwordFrom": { "env": "NO" } }), "passwordFrom: there is no such secret"),
        (json!({ "url": "ssl://b", "password": "p" }), "password: a password needs a user"),
        (
            json!({ "url": "ssl://b", "username": "u", "sasl": { "username": "v" } }),
            "username: `username` is set twice",
        ),
        (json!({ "url": "ssl://b", "caCert": "PEM" }), "caCert: holds no PEM certificate"),
        (json!({ "url": "ssl://b", "caCertFrom": { "env": "KNOWN" } }), "caCert: holds no PEM certificate"),
        (json!({ "url": "ssl://b", "clientKeyFrom": { "env": "UNKNOWN" } }), "clientKeyFrom"),
        (json!({ "url": "ssl://b", "clientCert": CERT }), "clientCert: a client certificate needs its key"),
        (
            json!({ "url": "ssl://b", "caCert": CERT, "tls": { "ca": CERT } }),
            "caCert: `caCert` is set here and in `tls`; keep one",
        ),
    ] {
        let (plan, problems) = planned(spec);
        assert_eq!(plan, None, "{expected}");
        let expected = format!("spec.mqtt.orders.{expected}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
    }
}

#[test]
fn what_has_no_effect_is_named() {
    for (spec, expected) in [
        (json!({ "retain": true }), "retain: not acted on"),
        (json!({ "caCert": CERT }), "caCert: ignored, since the url does not ask for TLS; write ssl://"),
        (json!({ "username": "u", "password": "p" }), "password: the password crosses the network as plain text"),
    ] {
        let (plan, problems) = planned(spec);
        assert!(plan.is_some());
        let expected = format!("spec.mqtt.orders.{expected}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
    }
}
