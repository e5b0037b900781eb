//! Sources that take from one another what each of them is to have.

use std::collections::HashMap;
use std::hash::Hash;

use evoke_api::problem::{FieldPath, Problem};

use super::SourcePlan;
use crate::source::Origin;
use crate::webhook::Clash;

/// Finds MQTT sources that are one client of one broker, which is an error, and Kafka sources that share the records of a topic, of
/// which somebody should know.
pub fn clashes<'a>(sources: impl IntoIterator<Item = (&'a Origin, &'a SourcePlan)>) -> Vec<Clash> {
    let (mut clients, mut members) = (HashMap::new(), HashMap::new());
    let mut clashes = Vec::new();
    for (origin, source) in sources {
        let mut found = |field: &str, problem: fn(FieldPath, String) -> Problem, message: String, hint: &str| {
            let path = FieldPath::spec().key(source.kind()).key(&*origin.event).key(field);
            let problem = problem(path, message).hint(hint);
            clashes.push(Clash { event_source: origin.event_source.clone(), problem });
        };
        let named =
            |origin: &Origin| format!("{} {:?} of EventSource {}", source.kind(), origin.event, origin.event_source);
        match source {
            SourcePlan::Mqtt(plan) => {
                let (broker, id) = (plan.broker(), plan.client_id());
                if let Some(first) = first(&mut clients, (broker.to_ascii_lowercase(), id), origin) {
                    let (one, other) = (named(first), named(origin));
                    let message = format!(
                        "{other} is the client {id:?} of {broker}, as {one} is: whichever connects ends the other's session"
                    );
                    found("consumerID", Problem::error, message, "give each a `consumerID` of its own");
                }
            }
            SourcePlan::Kafka(plan) => {
                let (topic, group) = (plan.topic(), plan.group());
                let mut before = None;
                for server in plan.servers() {
                    before = first(&mut members, (server, topic, group), origin).or(before);
                }
                if let Some(first) = before {
                    let (one, other) = (named(first), named(origin));
                    let message = format!(
                        "{other} reads {topic:?} as the group {group:?}, as {one} does: each gets a part of it"
                    );
                    let hint = "give each a `consumerGroup` of its own where both are to have everything";
                    found("consumerGroup", Problem::warning, message, hint);
                }
            }
            SourcePlan::Cron(_) | SourcePlan::Redis(_) | SourcePlan::Nats(_) | SourcePlan::Webhook(_) => {}
        }
    }
    clashes
}

/// Who had this first, where that is another.
fn first<'a, K: Eq + Hash>(taken: &mut HashMap<K, &'a Origin>, key: K, origin: &'a Origin) -> Option<&'a Origin> {
    let first = *taken.entry(key).or_insert(origin);
    (!std::ptr::eq(first, origin)).then_some(first)
}

#[cfg(test)]
mod tests {
    use evoke_api::events::{Attributes, KafkaSource, MqttSource};
    use evoke_api::names::ObjectName;

    use super::*;
    use crate::plan::{kafka, mqtt, tests};

    type Source = (Origin, SourcePlan);

    fn source(event_source: &str, event: &str, plan: Option<SourcePlan>) -> Source {
        let event_source = ObjectName::new("ns", event_source);
        (Origin { event_source, event: event.into(), attributes: Attributes::default() }, plan.unwrap())
    }

    fn client(event_source: &str, event: &str, url: &str, id: Option<&str>) -> Source {
        let consumer_id = id.map(str::to_owned);
        let spec = MqttSource { url: url.into(), topic: "a".into(), consumer_id, ..MqttSource::default() };
        let (plan, _) = tests::planned("mqtt", (event_source, event), &spec, mqtt::plan);
        source(event_source, event, plan.map(SourcePlan::Mqtt))
    }

    fn member(event_source: &str, event: &str, brokers: &str, group: Option<&str>) -> Source {
        let (topic, consumer_group) = (Some("t".to_owned()), group.map(str::to_owned));
        let spec = KafkaSource { brokers: brokers.into(), topic, consumer_group, ..KafkaSource::default() };
        let (plan, _) = tests::planned("kafka", (event_source, event), &spec, kafka::plan);
        source(event_source, event, plan.map(SourcePlan::Kafka))
    }

    fn found(sources: &[Source]) -> Vec<(String, bool, String)> {
        let found = clashes(sources.iter().map(|(origin, plan)| (origin, plan)));
        let said = |Clash { event_source, problem }: Clash| {
            (event_source.to_string(), problem.is_error(), problem.to_string())
        };
        found.into_iter().map(said).collect()
    }

    #[test]
    fn one_client_of_a_broker_is_one_source() {
        let sources = [
            client("one", "a", "tcp://broker", Some("me")),
            client("one", "b", "tcp://broker", None),
            client("one", "c", "tcp://elsewhere", Some("me")),
            client("two", "a", "mqtt://Broker:1883", Some("me")),
        ];
        let expected = "spec.mqtt.a.consumerID: mqtt \"a\" of EventSource ns/two is the client \"me\" of Broker:1883, as mqtt \"a\" \
                        of EventSource ns/one is: whichever connects ends the other's session; give each a `consumerID` of its \
                        own";
        assert_eq!(found(&sources), [("ns/two".to_owned(), true, expected.to_owned())]);
    }

    #[test]
    fn members_of_a_group_get_a_part_each() {
        let sources = [
            member("one", "a", "k1,k2:9092,k2:9092", Some("g")),
            member("one", "b", "k1,k2", Some("other")),
            member("one", "c", "k3", Some("g")),
            member("two", "a", "k2,k4", Some("g")),
        ];
        let expected = "spec.kafka.a.consumerGroup: kafka \"a\" of EventSource ns/two reads \"t\" as the group \"g\", as kafka \
                        \"a\" of EventSource ns/one does: each gets a part of it; give each a `consumerGroup` of its own where \
                        both are to have everything";
        assert_eq!(found(&sources), [("ns/two".to_owned(), false, expected.to_owned())]);
    }
}
