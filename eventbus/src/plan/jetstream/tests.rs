use evoke_api::events::{EventBusSpec, NatsStreamingBus};
use evoke_api::problem::Planned;
use evoke_connect::nats::Login;

use super::*;
use crate::plan::tests::OneSecret;
use crate::plan::{BusKind, BusPlan};

fn planned(yaml: serde_json::Value) -> (Option<JetStreamPlan>, Vec<String>, Vec<String>) {
    let spec = EventBusSpec { jet_stream: Some(serde_json::from_value(yaml).unwrap()), ..EventBusSpec::default() };
    taken(crate::plan::plan("ns", &spec, &OneSecret))
}

fn taken(planned: Planned<BusPlan>) -> (Option<JetStreamPlan>, Vec<String>, Vec<String>) {
    let Planned { plan, problems, not_here } = planned;
    let plan = plan.and_then(|plan| match plan.kind {
        BusKind::JetStream(plan) => Some(plan),
        _ => None,
    });
    let said = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    (plan, said(problems), said(not_here))
}

#[test]
fn every_field_is_read() {
    let (plan, problems, _) = planned(serde_json::json!({
        "url": "nats://a,nats://b:1", "replicas": 3, "storage": "file", "maxAge": "P1D", "maxBytes": "64Mi",
        "duplicateWindow": "30s", "partitions": 16, "onFull": "dropOldest",
    }));
    assert_eq!(problems, [""; 0]);
    let plan = plan.unwrap();
    assert_eq!(plan.nats.servers, ["nats://a:4222", "nats://b:1"]);
    assert_eq!((plan.replicas, plan.storage, plan.partitions), (Some(3), Some(JetStreamStorage::File), 16));
    assert_eq!(
        (plan.max_age, plan.duplicate_window),
        (Some(Duration::from_secs(86400)), Some(Duration::from_secs(30)))
    );
    assert_eq!((plan.max_bytes, plan.on_full), (Some(64 << 20), OnFull::DropOldest));
    let (plan, problems, _) = planned(serde_json::json!({"url": "a"}));
    assert_eq!((plan.unwrap().partitions, problems.len()), (8, 0));
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    for (spec, problem) in [
        (serde_json::json!({}), "spec.jetStream.url: names no server"),
        (serde_json::json!({"url": "http://a"}), "spec.jetStream.url: has the scheme"),
        (serde_json::json!({"url": "a", "replicas": 6}), "spec.jetStream.replicas: 6 is out of range"),
        (serde_json::json!({"url": "a", "partitions": 0}), "spec.jetStream.partitions: 0 is out of range"),
        (serde_json::json!({"url": "a", "maxAge": "1ms"}), "spec.jetStream.maxAge: is shorter than NATS takes"),
        (serde_json::json!({"url": "a", "maxBytes": "1Mi"}), "spec.jetStream.maxBytes: 1048576 bytes is too small"),
        (
            serde_json::json!({"url": "a", "maxAge": "1m", "duplicateWindow": "2m"}),
            "spec.jetStream.duplicateWindow: is longer than `maxAge`",
        ),
        (serde_json::json!({"url": "a", "native": {}}), "spec.jetStream.native: `url` and `native` are both set"),
    ] {
        let (plan, problems, _) = planned(spec);
        assert_eq!(plan, None, "{problem}");
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{problems:?}");
    }
}

#[test]
fn servers_of_ones_own_are_for_clusters() {
    let (plan, problems, not_here) = planned(serde_json::json!({"native": {"replicas": 3}}));
    assert_eq!((plan, problems), (None, vec![]));
    assert!(not_here[0].contains("spec.jetStream.native") && not_here[0].contains("--bus embedded"), "{not_here:?}");
}

#[test]
fn nats_streaming_takes_its_log_in_from_the_url() {
    let planned = |nats_url: &str| {
        let stan = NatsStreamingBus { nats_url: nats_url.into(), ..NatsStreamingBus::default() };
        let spec = EventBusSpec { nats_streaming: Some(stan), ..EventBusSpec::default() };
        let (plan, problems, _) = taken(crate::plan::plan("ns", &spec, &OneSecret));
        assert!(!format!("{plan:?} {problems:?}").contains("s3"), "{plan:?} {problems:?}");
        let of_url: Vec<String> =
            problems.into_iter().filter(|p| p.starts_with("spec.natsStreaming.natsURL: ")).collect();
        (plan.map(|plan| plan.nats), of_url)
    };
    let (username, password) = (Secret::new("me"), Secret::new("s3@cret"));
    let (plan, problems) = planned("nats://me:s3%40cret@a:4222, nats://me:s3%40cret@b, c");
    let plan = plan.unwrap();
    assert_eq!(plan.servers, ["nats://a:4222", "nats://b:4222", "nats://c:4222"]);
    assert_eq!(plan.login, Login::User { username, password });
    let warning = "spec.natsStreaming.natsURL: the log-in is part of the url, where whoever reads the manifest sees it; \
                   write `jetStream: {url, auth}` instead, with `passwordFrom` or `tokenFrom`";
    assert_eq!(problems, [warning]);
    let (plan, problems) = planned("tls://s3cret@a");
    assert_eq!(plan.unwrap().login, Login::Token(Secret::new("s3cret")));
    assert_eq!(problems, [warning]);
    let (plan, problems) = planned("nats://me:s3cret@a, nats://you:s3cret@b");
    assert_eq!(plan, None);
    let expected = "spec.natsStreaming.natsURL: logs in to each server as somebody else; keep one of them";
    assert_eq!(problems, [warning, expected]);
    let (plan, problems) = planned("nats://me:s3/cret@a");
    assert_eq!((plan, problems.len()), (None, 1), "{problems:?}");
}

#[test]
fn nats_streaming_is_read_as_jetstream_and_names_what_it_drops() {
    let stan = NatsStreamingBus {
        nats_url: "nats://nats.default:4222".into(),
        nats_streaming_cluster_id: "stan".into(),
        subscription_type: "queue".into(),
        durable_subscription_name: "ImDurable".into(),
        max_in_flight: Some(1),
        deliver_new: Some(true),
        deliver_all: Some(true),
        ..NatsStreamingBus::default()
    };
    let spec = EventBusSpec { nats_streaming: Some(stan), ..EventBusSpec::default() };
    let (plan, problems, _) = taken(crate::plan::plan("ns", &spec, &OneSecret));
    assert_eq!(plan.unwrap().nats.servers, ["nats://nats.default:4222"]);
    let named: Vec<_> = problems.iter().map(|p| p.split(": ").next().unwrap()).collect();
    let expected =
        ["", ".natsStreamingClusterID", ".subscriptionType", ".durableSubscriptionName", ".maxInFlight", ".deliverAll"];
    assert_eq!(named, expected.map(|field| format!("spec.natsStreaming{field}")));
}
