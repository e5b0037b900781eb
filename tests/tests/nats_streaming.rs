//! `natsStreaming`, OpenFunction's only bus, which is read as JetStream: no field of it is passed over in silence, and events flow.

use std::collections::BTreeSet;

use async_nats::jetstream;
use evoke_api::events::{NatsStreamingBus, NatsStreamingScaleOption};
use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, command, json as read};
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{bus, objects};
use evoke_tests::servers::nats::Nats;
use serde_json::{Map, Value, json};

use crate::jetstream_site::{STREAM, jetstream, manifests, send_all};

/// What a manifest must have.
const REQUIRED: [&str; 4] = ["natsURL", "natsStreamingClusterID", "subscriptionType", "durableSubscriptionName"];
const NAME: &str = "position under the subscriber's own name";
const START: &str = "`startAt` of the Trigger's subscriber";
/// Every field, and where the warning of it sends people; without one it is honoured.
const FIELDS: [(&str, Option<&str>); 15] = [
    ("natsURL", None),
    ("natsStreamingClusterID", Some("JetStream has no such id")),
    ("subscriptionType", Some("shared among all processes of a Trigger")),
    ("durableSubscriptionName", Some(NAME)),
    ("consumerID", Some(NAME)),
    ("ackWaitTime", Some("`delivery.timeout` of the subscriber")),
    ("maxInFlight", Some("`delivery.maxInFlight` of the subscriber")),
    ("deliverNew", None),
    ("deliverAll", Some(START)),
    ("startAtSequence", Some(START)),
    ("startWithLastReceived", Some(START)),
    ("startAtTimeDelta", Some(START)),
    ("startAtTime", Some(START)),
    ("startAtTimeFormat", Some(START)),
    ("scaleOption", Some("scales by the lag that it reads itself")),
];

/// The spec with every field. One that evoke comes to know has to be named here, or this does not compile.
fn every_field() -> Value {
    let spec = NatsStreamingBus {
        nats_url: "nats://nats.default:4222".to_owned(),
        nats_streaming_cluster_id: "stan".to_owned(),
        subscription_type: "queue".to_owned(),
        durable_subscription_name: "ImDurable".to_owned(),
        consumer_id: Some("me".to_owned()),
        ack_wait_time: Some("30s".to_owned()),
        max_in_flight: Some(1),
        deliver_new: Some(true),
        deliver_all: Some(true),
        start_at_sequence: Some(7),
        start_with_last_received: Some(true),
        start_at_time_delta: Some("1h".to_owned()),
        start_at_time: Some("2026-01-02 03:04:05".to_owned()),
        start_at_time_format: Some("2006-01-02 15:04:05".to_owned()),
        scale_option: Some(NatsStreamingScaleOption {
            nats_server_monitoring_endpoint: "nats.default:8222".to_owned(),
            lag_threshold: "10".to_owned(),
            ..NatsStreamingScaleOption::default()
        }),
    };
    serde_json::to_value(spec).unwrap()
}

/// What `validate` says of a field of the bus with this number.
fn said_of<'a>(found: &'a Value, bus: usize, path: &str) -> Vec<&'a Value> {
    let object = format!("EventBus default/b{bus}");
    let diagnostics = found["diagnostics"].as_array().unwrap();
    diagnostics.iter().filter(|about| about["object"] == object && about["path"] == path).collect()
}

pub(crate) async fn every_field_is_honoured_or_warned_of() -> Verdict {
    let every = every_field();
    let known: BTreeSet<&str> = every.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(known, BTreeSet::from(FIELDS.map(|(field, _)| field)));
    let mut cases: Vec<(&str, Value, Option<&str>)> =
        FIELDS.iter().map(|(field, said)| (*field, every[*field].clone(), *said)).collect();
    // At the end is where a new subscription starts unless it says otherwise.
    cases.push(("deliverNew", json!(false), Some(START)));
    cases.push(("deliverAll", json!(false), None));
    cases.push(("startWithLastReceived", json!(false), None));
    let buses: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(n, (field, value, _))| {
            let mut spec: Map<String, Value> =
                REQUIRED.iter().map(|name| ((*name).to_owned(), every[*name].clone())).collect();
            spec.insert((*field).to_owned(), value.clone());
            bus(&format!("b{n}"), &format!("natsStreaming: {}", Value::Object(spec)))
        })
        .collect();
    let home = Home::with(objects(&buses));
    let args = ["validate".into(), home.manifests().into_os_string(), "-o".into(), "json".into()];
    let (code, text) = command(args).await;
    assert_eq!(code, Some(0), "{text}");
    let found = read(&text);
    assert_eq!(found["errors"], 0, "{found}");
    let hints = |about: &Value, part: &str| about["hint"].as_str().is_some_and(|hint| hint.contains(part));
    for (n, (field, value, said)) in cases.iter().enumerate() {
        let whole = said_of(&found, n, "spec.natsStreaming");
        assert!(whole.len() == 1 && hints(whole[0], "write `jetStream: {url: ...}` instead"), "{whole:?}");
        match (said, &said_of(&found, n, &format!("spec.natsStreaming.{field}"))[..]) {
            (None, []) => {}
            (Some(said), [about]) => assert!(hints(about, said), "{about} lacks {said:?}"),
            (said, about) => panic!("{field}: {value} is to be {said:?}, and is {about:?}"),
        }
    }
    Ok(())
}

pub(crate) async fn events_flow_and_the_warnings_are_printed() -> Verdict {
    let nats = Nats::start().await?;
    let sink = Sink::start().await;
    let fields = "natsStreamingClusterID: stan, subscriptionType: queue, durableSubscriptionName: ImDurable";
    let stan = format!("natsStreaming: {{natsURL: \"{}\", {fields}, maxInFlight: 1, deliverNew: true}}", nats.url());
    let home = Home::with(manifests(&stan, &sink));
    let mut evoke = home.run().await;
    let whole = ["warning: spec.natsStreaming: ", "end of life", "write `jetStream: {url: ...}` instead"];
    evoke.log().wait_for(&whole, SOON).await;
    for field in ["natsStreamingClusterID", "subscriptionType", "durableSubscriptionName", "maxInFlight"] {
        let warning = format!("warning: spec.natsStreaming.{field}: has no effect on JetStream");
        evoke.log().wait_for(&[&warning], SOON).await;
        assert_eq!(evoke.log().count(&warning), 1, "{field}");
    }
    let mut sent = send_all(&evoke, 0..20).await;
    sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    let context = jetstream::new(nats.client().await);
    assert_eq!(context.get_stream(STREAM).await.unwrap().cached_info().state.messages, 20);

    // Written as the warning says, it is the same bus with the same positions, and nothing is left to warn of.
    home.write("evoke.yaml", manifests(&jetstream(&nats.url(), ""), &sink));
    let mut evoke = home.run().await;
    sent.extend(send_all(&evoke, 20..40).await);
    sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("natsStreaming"), 0);
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}
