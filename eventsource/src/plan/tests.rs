use evoke_api::credentials::{Secret, ValueFrom};
use evoke_api::events::{CronSource, EventBusSpec, KafkaSource, SinkSpec, WebhookSource};
use evoke_delivery::plan::SinkPlan;

use super::*;

struct NoVault;

impl Vault for NoVault {
    fn look_up(&self, _: &str, _: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
        Err(Problem::error(path.clone(), "no vault"))
    }
}

fn planned(spec: &EventSourceSpec) -> Planned<EventSourcePlan> {
    let mut catalog = Catalog { default_bus: true, ..Catalog::default() };
    catalog.event_buses.insert(ObjectName::new("ns", "bus"), EventBusSpec::default());
    plan(&ObjectName::new("ns", "shop"), spec, &catalog, &NoVault)
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn webhook() -> EventSourceSpec {
    EventSourceSpec {
        event_bus: Some("bus".into()),
        webhook: [("orders".to_owned(), WebhookSource::default())].into(),
        ..EventSourceSpec::default()
    }
}

#[test]
fn events_get_their_topics_and_origins() {
    let mut spec = webhook();
    spec.cron.insert("tick".into(), CronSource { schedule: "@hourly".into(), ..CronSource::default() });
    let Planned { plan, problems, .. } = planned(&spec);
    let plan = plan.unwrap();
    assert_eq!(texts(&problems), [""; 0]);
    let topics: Vec<_> = plan.events.iter().map(|event| (event.source.kind(), event.topic.to_string())).collect();
    assert_eq!(topics, [("cron", "ns.shop.tick".to_owned()), ("webhook", "ns.shop.orders".to_owned())]);
    assert_eq!(plan.bus, Some(BusName::Namespaced(ObjectName::new("ns", "bus"))));
    assert_eq!((plan.sink, plan.dead_letter), (None, DeadLetterPlan::Store));
}

#[test]
fn everything_that_is_wrong_is_found_in_one_go() {
    let mut spec = webhook();
    spec.event_bus = Some("buss".into());
    spec.kafka.insert("orders".into(), KafkaSource { brokers: "k:9092".into(), ..KafkaSource::default() });
    spec.cron.insert("-bad".into(), CronSource { schedule: "0 0 30 2 *".into(), ..CronSource::default() });
    spec.webhook["orders"].attributes.insert("id".into(), "1".into());
    spec.webhook["orders"].attributes.insert("Type".into(), "t".into());
    spec.webhook["orders"].attributes.insert("time".into(), "yesterday".into());
    spec.dead_letter_sink = Some(SinkSpec { uri: Some("ftp://x".into()), ..SinkSpec::default() });
    let Planned { plan, problems, .. } = planned(&spec);
    assert_eq!(plan, None);
    let texts = texts(&problems);
    for start in [
        "spec.eventBus: there is no EventBus \"buss\" in namespace ns",
        "spec.cron.-bad: \"-bad\" is no name for an event",
        "spec.cron.-bad.schedule: \"0 0 30 2 *\" never fires",
        "spec.webhook.orders: the event \"orders\" is also under `kafka`",
        "spec.webhook.orders.attributes.id: `id` cannot be set",
        "spec.webhook.orders.attributes.Type: \"Type\" is no attribute name",
        "spec.webhook.orders.attributes.time: attribute \"time\" is \"yesterday\", which is no timestamp such as 2026-05-04T03:02:01Z",
        "spec.deadLetterSink.uri:",
    ] {
        assert!(texts.iter().any(|text| text.starts_with(start)), "{start} in {texts:#?}");
    }
}

#[test]
fn events_must_go_somewhere() {
    let spec = EventSourceSpec { event_bus: None, ..webhook() };
    assert_eq!(
        texts(&planned(&spec).problems),
        ["spec: events would go nowhere: there is neither `eventBus` nor `sink`; add `eventBus: default`, or a `sink`"]
    );
    let empty = EventSourceSpec { event_bus: Some("default".into()), ..EventSourceSpec::default() };
    assert!(texts(&planned(&empty).problems)[0].starts_with("spec: the EventSource has no events"));
}

#[test]
fn dead_letters_go_where_the_spec_says() {
    let topic = EventSourceSpec { dead_letter_topic: Some("broken".into()), ..webhook() };
    let Planned { plan, problems, .. } = planned(&topic);
    assert_eq!(texts(&problems), [""; 0]);
    let broken = DeadLetterPlan::Topic(TopicName::named("ns", "broken"));
    assert_eq!(plan.unwrap().dead_letter, broken);

    // What its own sink refuses goes there too.
    let sink = SinkSpec { uri: Some("http://localhost:1/x".into()), ..SinkSpec::default() };
    let sunk = EventSourceSpec { sink: Some(sink.clone()), ..topic.clone() };
    assert_eq!(planned(&sunk).plan.unwrap().sink.unwrap().dead_letter, broken);

    let both = EventSourceSpec { dead_letter_sink: Some(sink), ..topic };
    let Planned { plan, problems, .. } = planned(&both);
    assert!(matches!(plan.unwrap().dead_letter, DeadLetterPlan::Sink(SinkPlan::Http(_))));
    let warned = "spec.deadLetterTopic: `deadLetterTopic` has no effect beside `deadLetterSink`";
    assert!(problems.len() == 1 && texts(&problems)[0].starts_with(warned), "{problems:?}");

    let alone = EventSourceSpec { event_bus: None, ..sunk };
    let refused = "spec.deadLetterTopic: a topic needs a bus, and there is no `eventBus`; add `eventBus`, or use `deadLetterSink`";
    assert!(texts(&planned(&alone).problems).iter().any(|text| text == refused), "{:?}", planned(&alone).problems);
}

#[test]
fn a_sink_beside_a_bus_subscribes_to_every_event() {
    let sink = SinkSpec { uri: Some("http://localhost:1/x".into()), ..SinkSpec::default() };
    let spec = EventSourceSpec { sink: Some(sink.clone()), ..webhook() };
    let sunk = planned(&spec).plan.unwrap().sink.unwrap();
    assert_eq!(sunk.id.to_string(), "ns/shop/sink");
    assert_eq!(sunk.topics.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ns.shop.orders"]);
    assert!(matches!(sunk.sink, Some(SinkPlan::Http(_))));

    let alone = EventSourceSpec { event_bus: None, sink: Some(sink), ..webhook() };
    let Planned { plan, problems, .. } = planned(&alone);
    assert_eq!(plan.unwrap().bus, None);
    assert!(texts(&problems)[0].contains("is tried for ever"), "{problems:?}");
}

#[test]
fn an_empty_text_is_one_that_is_not_set() {
    let sink = Some(SinkSpec { uri: Some("http://localhost:1/x".into()), ..SinkSpec::default() });
    let empty = EventSourceSpec { event_bus: Some(String::new()), ..webhook() };
    assert!(texts(&planned(&empty).problems)[0].starts_with("spec: events would go nowhere"));
    let to_its_sink = EventSourceSpec { sink: sink.clone(), dead_letter_topic: Some(String::new()), ..empty };
    let absent = EventSourceSpec { event_bus: None, dead_letter_topic: None, ..to_its_sink.clone() };
    let (Planned { plan, problems, .. }, expected) = (planned(&to_its_sink), planned(&absent));
    assert!(plan.is_some() && plan == expected.plan);
    assert_eq!(problems, expected.problems);

    let on_a_bus = EventSourceSpec { sink, dead_letter_topic: Some(String::new()), ..webhook() };
    let Planned { plan, problems, .. } = planned(&on_a_bus);
    assert_eq!((texts(&problems), plan.unwrap().dead_letter), (vec![], DeadLetterPlan::Store));
}
