//! Sources that take from one another what each of them is to have.

use std::collections::HashMap;
use std::hash::Hash;

use evoke_api::problem::{FieldPath, Problem};

use super::SourcePlan;
use super::mqtt::MqttPlan;
use crate::source::Origin;
use crate::webhook::Clash;

/// Finds MQTT sources that would be one client of one broker, and Kafka sources that share the records of a topic: somebody should
/// know of both.
pub fn clashes<'a>(sources: impl IntoIterator<Item = (&'a Origin, &'a SourcePlan)>) -> Vec<Clash> {
    let sources: Vec<_> = sources.into_iter().collect();
    let mut clashes = Vec::new();
    let mut found = |origin: &Origin, kind: &str, field: &str, message: String, hint: &str| {
        let path = FieldPath::spec().key(kind).key(&*origin.event).key(field);
        let problem = Problem::warning(path, message).hint(hint);
        clashes.push(Clash { event_source: origin.event_source.clone(), problem });
    };
    let named =
        |kind: &str, origin: &Origin| format!("{kind} {:?} of EventSource {}", origin.event, origin.event_source);
    for Renamed { origin, plan, holder } in renamed(&sources) {
        let (other, one) = (named("mqtt", origin), named("mqtt", holder));
        let message = format!(
            "{other} connects as {:?}: {one} is the client {:?} of {}, and a broker ends one's session for the other's",
            origin.own_name(),
            plan.client_id(),
            plan.broker()
        );
        found(origin, "mqtt", "consumerID", message, "give each a `consumerID` of its own");
    }
    let mut members = HashMap::new();
    for &(origin, source) in &sources {
        let SourcePlan::Kafka(plan) = source else { continue };
        let (topic, group) = (plan.topic(), plan.group());
        let mut before = None;
        for server in plan.servers() {
            before = first(&mut members, (server, topic, group), origin).or(before);
        }
        if let Some(first) = before {
            let (other, one) = (named("kafka", origin), named("kafka", first));
            let message =
                format!("{other} reads {topic:?} as the group {group:?}, as {one} does: each gets a part of it");
            let hint = "give each a `consumerGroup` of its own where both are to have everything";
            found(origin, "kafka", "consumerGroup", message, hint);
        }
    }
    clashes
}

/// Has the MQTT sources that [`clashes`] finds connect by their own names, so that each has a session of its own.
pub fn tell_apart<'a>(sources: impl IntoIterator<Item = (&'a Origin, &'a mut SourcePlan)>) {
    let sources: Vec<_> = sources.into_iter().collect();
    let seen: Vec<_> = sources.iter().map(|(origin, source)| (*origin, &**source)).collect();
    let renamed: Vec<Origin> = renamed(&seen).iter().map(|renamed| renamed.origin.clone()).collect();
    for (origin, source) in sources {
        if let SourcePlan::Mqtt(plan) = source
            && renamed.contains(origin)
        {
            plan.client_id = origin.own_name();
        }
    }
}

/// An MQTT source that connects by its own name, and who has the client id that is written.
struct Renamed<'a> {
    origin: &'a Origin,
    plan: &'a MqttPlan,
    holder: &'a Origin,
}

/// Who has a client id is the source whose own name it is, else the first one by name, in whatever order they were read.
fn renamed<'a>(sources: &[(&'a Origin, &'a SourcePlan)]) -> Vec<Renamed<'a>> {
    let mut clients: Vec<(&'a Origin, &'a MqttPlan)> = Vec::new();
    for &(origin, source) in sources {
        if let SourcePlan::Mqtt(plan) = source {
            clients.push((origin, plan));
        }
    }
    clients.sort_by_key(|&(origin, plan)| {
        (plan.client_id() != origin.own_name(), origin.event_source.clone(), origin.event.clone())
    });
    let broker = |plan: &MqttPlan| plan.broker().to_ascii_lowercase();
    let mut renamed: Vec<Renamed<'a>> = Vec::new();
    // Another one may have written the name that a source falls back to, so that this goes on until all have settled.
    loop {
        let known = renamed.len();
        let own = |it: &Renamed<'a>| ((broker(it.plan), it.origin.own_name()), it.origin);
        let mut holders: HashMap<(String, String), &'a Origin> = renamed.iter().map(own).collect();
        clients.retain(|&(origin, plan)| {
            let holder = first(&mut holders, (broker(plan), plan.client_id().to_owned()), origin);
            renamed.extend(holder.map(|holder| Renamed { origin, plan, holder }));
            holder.is_none()
        });
        if renamed.len() == known {
            return renamed;
        }
    }
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

    /// Which ids the clients among these connect with, by their names.
    fn ids(sources: &[Source]) -> Vec<String> {
        let mut sources = sources.to_vec();
        tell_apart(sources.iter_mut().map(|(origin, plan)| (&*origin, plan)));
        assert_eq!(found(&sources), [], "nothing clashes any more");
        let mut ids = Vec::new();
        for (origin, plan) in &sources {
            let SourcePlan::Mqtt(plan) = plan else { continue };
            ids.push(format!("{}/{} {}", origin.event_source.name, origin.event, plan.client_id));
        }
        ids.sort();
        ids
    }

    #[test]
    fn one_client_of_a_broker_is_one_source() {
        let mut sources = [
            client("two", "a", "mqtt://Broker:1883", Some("me")),
            client("one", "a", "tcp://broker", Some("me")),
            client("one", "b", "tcp://broker", None),
            client("one", "c", "tcp://elsewhere", Some("me")),
        ];
        let expected = "spec.mqtt.a.consumerID: mqtt \"a\" of EventSource ns/two connects as \"ns.two.a\": mqtt \"a\" of \
                        EventSource ns/one is the client \"me\" of Broker:1883, and a broker ends one's session for the other's; \
                        give each a `consumerID` of its own";
        for _ in 0..2 {
            assert_eq!(found(&sources), [("ns/two".to_owned(), false, expected.to_owned())]);
            assert_eq!(ids(&sources), ["one/a me", "one/b ns.one.b", "one/c me", "two/a ns.two.a"]);
            sources.reverse();
        }
    }

    #[test]
    fn a_name_to_fall_back_to_is_nobody_elses() {
        let mut sources = [
            client("a", "e", "b", Some("ns.z.e")),
            client("b", "e", "b", Some("me")),
            client("c", "e", "b", Some("me")),
            client("z", "e", "b", Some("ns.z.e")),
            client("y", "e", "b", Some("ns.c.e")),
        ];
        for _ in 0..2 {
            assert_eq!(ids(&sources), ["a/e ns.a.e", "b/e me", "c/e ns.c.e", "y/e ns.y.e", "z/e ns.z.e"]);
            let told: Vec<_> = found(&sources).into_iter().map(|(event_source, ..)| event_source).collect();
            assert_eq!(told, ["ns/a", "ns/c", "ns/y"]);
            sources.reverse();
        }
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
