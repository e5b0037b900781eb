//! A validated `kafka`.

use std::time::Duration;

use evoke_api::events::KafkaBus;
use evoke_connect::fields::Fields;
use evoke_connect::kafka::{Brokers, plan as brokers};

/// How many partitions a topic is made with.
const PARTITIONS: u16 = 8;
/// More than this no process could own in any sensible way, and each costs memory on every broker.
const PARTITIONS_MAX: u16 = 1024;
/// Kafka rolls files when they are this old or full, and deletes whole ones.
const LEAST_BYTES: u64 = 1 << 20;
/// Below this a restart of a broker takes longer than events are kept.
const LEAST_AGE: Duration = Duration::from_secs(60);

/// `kafka`, with its defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaPlan {
    /// The cluster, and how to log in.
    pub brokers: Brokers,
    /// How many partitions topics are made with.
    pub partitions: u16,
    /// How many copies of them there are; the brokers' default when absent.
    pub replication: Option<u16>,
    /// How long Kafka keeps events; for ever when absent.
    pub max_age: Option<Duration>,
    /// How much it keeps of a topic; everything when absent.
    pub max_bytes: Option<u64>,
}

/// Plans `kafka`. `None` when an error was found.
pub fn plan(mut fields: Fields<'_>, spec: &KafkaBus) -> Option<KafkaPlan> {
    let addresses = brokers::addresses(&mut fields, &spec.brokers);
    let login = brokers::login(&mut fields, spec.sasl.as_ref(), spec.auth_required);
    let tls = brokers::tls(&mut fields, spec.tls.as_ref(), spec.auth_required, login.as_ref());
    let hint = format!("choose between 1 and {PARTITIONS_MAX}; {PARTITIONS} is the default");
    let partitions = super::partitions(&mut fields, spec.partitions, PARTITIONS, PARTITIONS_MAX, &hint);
    if spec.replication == Some(0) || spec.replication.is_some_and(|copies| copies > i16::MAX.unsigned_abs()) {
        let message = "a topic needs at least one copy, and no cluster has so many brokers";
        let hint = "write 3 for a cluster, or leave it out for the brokers' default";
        fields.error("replication", message, hint);
    }
    let max_age = age(&mut fields, spec.max_age.as_deref());
    let max_bytes = bytes(&mut fields, spec.max_bytes.as_deref(), partitions.max(1).into());
    let (brokers, replication) = (Brokers { addresses, login, tls }, spec.replication);
    fields.is_sound().then_some(KafkaPlan { brokers, partitions, replication, max_age, max_bytes })
}

fn age(fields: &mut Fields<'_>, text: Option<&str>) -> Option<Duration> {
    let age = fields.duration("maxAge", text)?;
    if age < LEAST_AGE {
        let hint = "at least 1m, or leave it out to keep what some subscription still needs";
        fields.error("maxAge", format!("{} is too short", text.unwrap_or_default()), hint);
        return None;
    }
    Some(age)
}

fn bytes(fields: &mut Fields<'_>, text: Option<&str>, partitions: u64) -> Option<u64> {
    let bytes = fields.bytes("maxBytes", text)?;
    if bytes / partitions < LEAST_BYTES {
        let least = partitions * (LEAST_BYTES >> 20);
        let message = format!("{bytes} bytes are too few for {partitions} partitions");
        fields.error("maxBytes", message, format!("at least {least}Mi"));
        return None;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use evoke_api::credentials::{Sasl, Secret, Tls};
    use evoke_connect::tls::Mechanism;

    use super::*;
    use crate::plan::tests;

    fn planned(spec: &KafkaBus) -> (Option<KafkaPlan>, Vec<String>) {
        tests::planned("kafka", |fields| plan(fields, spec))
    }

    fn spec() -> KafkaBus {
        KafkaBus { brokers: "k1:9092, k2".into(), ..KafkaBus::default() }
    }

    #[test]
    fn fills_in_the_defaults() {
        let (plan, problems) = planned(&spec());
        assert_eq!(problems, [""; 0]);
        let plan = plan.unwrap();
        assert_eq!((&*plan.brokers.addresses, plan.partitions), ("k1:9092,k2", 8));
        assert_eq!((plan.replication, plan.max_age, plan.max_bytes), (None, None, None));
        assert_eq!((plan.brokers.login, plan.brokers.tls), (None, None));
    }

    #[test]
    fn every_field_is_taken() {
        let sasl = Sasl {
            mechanism: Some("SCRAM-SHA-256".into()),
            username: Some(Secret::new("u")),
            password: Some(Secret::new("hunter2")),
            ..Sasl::default()
        };
        let (plan, problems) = planned(&KafkaBus {
            sasl: Some(sasl),
            tls: Some(Tls { disabled: Some(true), ..Tls::default() }),
            partitions: Some(3),
            replication: Some(2),
            max_age: Some("72h".into()),
            max_bytes: Some("3Gi".into()),
            ..spec()
        });
        assert_eq!(problems, [""; 0]);
        let plan = plan.unwrap();
        assert!(!format!("{plan:?}").contains("hunter2"));
        assert_eq!(plan.brokers.login.unwrap().mechanism, Mechanism::ScramSha256);
        assert_eq!((plan.partitions, plan.replication), (3, Some(2)));
        assert_eq!((plan.max_age, plan.max_bytes), (Some(Duration::from_secs(72 * 3600)), Some(3 << 30)));
    }

    #[test]
    fn what_is_wrong_is_named_all_at_once() {
        let (plan, problems) = planned(&KafkaBus {
            brokers: "kafka://k".into(),
            auth_required: true,
            partitions: Some(0),
            replication: Some(0),
            max_age: Some("1s".into()),
            max_bytes: Some("1Ki".into()),
            ..KafkaBus::default()
        });
        assert_eq!(plan, None);
        let fields: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
        assert_eq!(
            fields,
            [
                "spec.kafka.brokers",
                "spec.kafka.sasl.username",
                "spec.kafka.sasl.password",
                "spec.kafka.partitions",
                "spec.kafka.replication",
                "spec.kafka.maxAge",
                "spec.kafka.maxBytes",
            ]
        );
    }
}
