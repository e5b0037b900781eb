use evoke_api::credentials::{Sasl, Tls, ValueFrom};
use evoke_api::events::KafkaScaleOption;
use evoke_connect::tls::{Mechanism, TlsPlan};

use super::*;
use crate::plan::tests;

fn planned(spec: &KafkaSource) -> (Option<KafkaPlan>, Vec<String>) {
    let (plan, problems) = tests::planned("kafka", ("orders", "created"), spec, plan);
    (plan, problems.iter().map(|p| format!("{:?} {p}", p.severity)).collect())
}

fn spec() -> KafkaSource {
    KafkaSource { brokers: "k1:9092, k2".into(), ..KafkaSource::default() }
}

#[test]
fn fills_in_the_defaults() {
    let (plan, problems) = planned(&spec());
    assert_eq!(problems, [""; 0]);
    let plan = plan.unwrap();
    assert_eq!((plan.brokers(), plan.topic(), plan.group()), ("k1:9092,k2", "created", "ns.orders.created"));
    assert_eq!((plan.start_at, plan.brokers.login, plan.brokers.tls), (StartAt::Latest, None, None));
}

#[test]
fn the_group_is_ours_before_keda_s() {
    let keda = KafkaScaleOption { consumer_group: Some("keda".into()), ..KafkaScaleOption::default() };
    let of_keda = KafkaSource { scale_option: Some(keda), ..spec() };
    let (plan, problems) = planned(&of_keda);
    assert_eq!(plan.unwrap().group(), "keda");
    assert_eq!(problems.len(), 1, "{problems:?}");
    let both = KafkaSource { consumer_group: Some("own".into()), ..of_keda };
    let (plan, problems) = planned(&both);
    assert_eq!(plan.unwrap().group(), "own");
    assert!(problems[0].contains("scaleOption.consumerGroup: ignored: `consumerGroup` is \"own\""), "{problems:?}");
    let empty = KafkaScaleOption { consumer_group: Some(String::new()), ..KafkaScaleOption::default() };
    let (plan, _) = planned(&KafkaSource { scale_option: Some(empty), ..spec() });
    assert_eq!(plan.unwrap().group(), "ns.orders.created");
    let (plan, problems) = planned(&KafkaSource { consumer_group: Some(" ".into()), ..spec() });
    assert_eq!(plan, None);
    assert!(problems[0].starts_with("Error spec.kafka.created.consumerGroup: "), "{problems:?}");
}

#[test]
fn names_what_it_does_not_act_on() {
    let option = KafkaScaleOption {
        lag_threshold: "10".into(),
        topic: Some("t".into()),
        max_replica_count: Some(4),
        ..KafkaScaleOption::default()
    };
    let (plan, problems) =
        planned(&KafkaSource { scale_option: Some(option), max_message_bytes: Some(1024), ..spec() });
    assert!(plan.is_some());
    let fields: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
    assert_eq!(
        fields,
        [
            "Warning spec.kafka.created.maxMessageBytes",
            "Warning spec.kafka.created.scaleOption.lagThreshold",
            "Warning spec.kafka.created.scaleOption.maxReplicaCount",
            "Warning spec.kafka.created.scaleOption.topic",
        ]
    );
}

#[test]
fn auth_required_is_sasl_over_tls_unless_tls_is_disabled() {
    let required = KafkaSource {
        auth_required: true,
        sasl_username: Some(Secret::new("u")),
        sasl_password_from: Some(ValueFrom { env: Some("KNOWN".into()), ..ValueFrom::default() }),
        ..spec()
    };
    let (plan, problems) = planned(&required);
    assert_eq!(problems, [""; 0]);
    let plan = plan.unwrap();
    assert!(!format!("{plan:?}").contains("hunter2"));
    assert_eq!(plan.brokers.tls, Some(TlsPlan::default()));
    let login = plan.brokers.login.unwrap();
    assert_eq!((login.mechanism, login.password.expose()), (Mechanism::Plain, "hunter2"));

    let plain = KafkaSource { tls: Some(Tls { disabled: Some(true), ..Tls::default() }), ..required };
    let (plan, problems) = planned(&plain);
    assert_eq!(plan.unwrap().brokers.tls, None);
    assert!(
        problems[0].starts_with("Warning spec.kafka.created.tls: the password crosses the network"),
        "{problems:?}"
    );
}

#[test]
fn sasl_asks_for_itself_and_the_older_fields_do_not() {
    let sasl = Sasl {
        mechanism: Some("SCRAM-SHA-512".into()),
        username: Some(Secret::new("u")),
        password: Some(Secret::new("p")),
        ..Sasl::default()
    };
    let (plan, problems) = planned(&KafkaSource { sasl: Some(sasl.clone()), ..spec() });
    assert_eq!(problems, [""; 0]);
    assert_eq!(plan.unwrap().brokers.login.unwrap().mechanism, Mechanism::ScramSha512);

    let (plan, problems) = planned(&KafkaSource { sasl_username: Some(Secret::new("u")), ..spec() });
    assert_eq!(plan.unwrap().brokers.login, None);
    assert!(problems[0].starts_with("Warning spec.kafka.created.saslUsername: ignored, since `authRequired` is false"));

    let (plan, problems) = planned(&KafkaSource { sasl: Some(sasl), sasl_username: Some(Secret::new("v")), ..spec() });
    assert_eq!(plan, None);
    assert!(problems[0].contains("saslUsername: `saslUsername` is set here and in `sasl`"), "{problems:?}");
}

#[test]
fn missing_credentials_are_one_error_each() {
    let (plan, problems) = planned(&KafkaSource { auth_required: true, ..spec() });
    assert_eq!(plan, None);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("saslUsername: SASL needs a user and a password: `saslUsername` is missing"));
    let nowhere = Some(ValueFrom { env: Some("NOPE".into()), ..ValueFrom::default() });
    let (plan, problems) = planned(&KafkaSource {
        auth_required: true,
        sasl_username: Some(Secret::new("u")),
        sasl_password_from: nowhere,
        ..spec()
    });
    assert_eq!(plan, None);
    assert_eq!(problems, ["Error spec.kafka.created.saslPasswordFrom: there is no such secret"]);
}

#[test]
fn bad_addresses_and_topics_are_refused() {
    for bad in ["", " , ", "kafka://k:9092", "k:port", "k:0", "k:99999", "a b:1"] {
        let (plan, problems) = planned(&KafkaSource { brokers: bad.into(), ..spec() });
        assert!(plan.is_none() && problems[0].starts_with("Error spec.kafka.created.brokers: "), "{bad} {problems:?}");
    }
    let (plan, problems) = planned(&KafkaSource { brokers: "k1:9092,u:s3c,ret@k2:9092".into(), ..spec() });
    assert_eq!(plan, None);
    let expected = "Error spec.kafka.created.brokers: a user or a password is no part of an address; write host:port alone, \
                    and the log-in as `sasl: {username, passwordFrom}`";
    assert_eq!(problems, [expected]);
    let (plan, problems) = planned(&KafkaSource { content_type: Some("application/json\n".into()), ..spec() });
    assert_eq!(plan, None);
    assert!(problems[0].starts_with("Error spec.kafka.created.contentType: "), "{problems:?}");
    for good in ["k", "k.ns.svc:9092", "[::1]:9092", "10.0.0.1:1"] {
        assert!(planned(&KafkaSource { brokers: good.into(), ..spec() }).0.is_some(), "{good}");
    }
    for bad in ["^in.*", "a b", "", "..", "a,b"] {
        let (plan, problems) = planned(&KafkaSource { topic: Some(bad.into()), ..spec() });
        assert!(plan.is_none() && problems[0].starts_with("Error spec.kafka.created.topic: "), "{bad} {problems:?}");
    }
}

#[test]
fn a_server_name_needs_an_authority_of_its_own() {
    let tls = Tls { server_name: Some("kafka.internal".into()), ..Tls::default() };
    let (plan, problems) = planned(&KafkaSource { tls: Some(tls), ..spec() });
    assert_eq!(plan, None);
    assert!(
        problems[0].starts_with("Error spec.kafka.created.tls.serverName: a server name needs `ca`"),
        "{problems:?}"
    );
}
