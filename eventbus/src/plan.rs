//! A validated EventBus: which back-end, how large its events, how long they are kept.
//!
//! The plans of all back-ends are here, also of those that this evoke was built without: what is wrong with a manifest does not
//! depend on that.

pub mod jetstream;
pub mod kafka;
pub mod redis;

use std::time::Duration;

use evoke_api::credentials::Vault;
use evoke_api::events::{EmbeddedBus, EventBusSpec, OnFull, SyncMode};
use evoke_api::limits;
use evoke_api::problem::{FieldPath, Planned, Problem};
use evoke_connect::fields::Fields;

use self::jetstream::JetStreamPlan;
use self::kafka::KafkaPlan;
use self::redis::RedisPlan;

/// How long what every subscription has finished stays for replay.
pub const REPLAY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How much of it.
pub const REPLAY_BYTES: u64 = 4 << 30;

/// Larger events than this are refused: a record of the log must fit the memory budgets above it.
const EVENT_BYTES_MAX: u64 = 16 << 20;
const EVENT_BYTES_MIN: u64 = 1 << 10;

/// One bus, with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusPlan {
    /// The largest event taken, as encoded.
    pub max_event_bytes: usize,
    /// The back-end.
    pub kind: BusKind,
}

impl BusPlan {
    /// Whether the two differ in no more than how evoke logs in, and in TLS.
    pub fn is_renewal_of(&self, other: &Self) -> bool {
        self != other && self.without_credentials() == other.without_credentials()
    }

    fn without_credentials(&self) -> Self {
        let mut plan = self.clone();
        match &mut plan.kind {
            BusKind::Embedded(_) => {}
            BusKind::JetStream(JetStreamPlan { nats, .. }) => (nats.login, nats.tls) = Default::default(),
            BusKind::Kafka(KafkaPlan { brokers, .. }) => (brokers.login, brokers.tls) = (None, None),
            BusKind::Redis(RedisPlan { server, .. }) => {
                (server.username, server.password, server.tls) = (None, None, None);
            }
        }
        plan
    }
}

/// The back-end of a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusKind {
    /// The bus inside the process.
    Embedded(EmbeddedPlan),
    /// NATS JetStream.
    JetStream(JetStreamPlan),
    /// Kafka.
    Kafka(KafkaPlan),
    /// Redis Streams.
    Redis(RedisPlan),
}

impl BusKind {
    /// The word that names it in a manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::JetStream(_) => "jetStream",
            Self::Kafka(_) => "kafka",
            Self::Redis(_) => "redis",
        }
    }

    /// The cargo feature that has what it runs on, where this evoke was built without it.
    pub fn lacks(&self) -> Option<&'static str> {
        let (feature, is_built) = match self {
            Self::Embedded(_) => return None,
            Self::JetStream(_) => ("nats", cfg!(feature = "nats")),
            Self::Kafka(_) => ("kafka", cfg!(feature = "kafka")),
            Self::Redis(_) => ("redis", cfg!(feature = "redis")),
        };
        (!is_built).then_some(feature)
    }
}

/// `embedded`, with its defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddedPlan {
    /// How long events are kept that some subscription still needs; for ever when absent.
    pub max_age: Option<Duration>,
    /// How much the log may hold; as much as the disk when absent.
    pub max_bytes: Option<u64>,
    /// When an event counts as durable.
    pub sync: SyncMode,
    /// What happens at `max_bytes`.
    pub on_full: OnFull,
}

/// Plans the spec of an EventBus, or of a ClusterEventBus, which has no namespace.
pub fn plan(namespace: &str, spec: &EventBusSpec, vault: &dyn Vault) -> Planned<BusPlan> {
    let mut problems = Vec::new();
    let mut not_here = Vec::new();
    let mut fields = Fields::new(namespace, FieldPath::spec(), vault, &mut problems);
    let named: Vec<&str> = [
        ("embedded", spec.embedded.is_some()),
        ("jetStream", spec.jet_stream.is_some()),
        ("kafka", spec.kafka.is_some()),
        ("redis", spec.redis.is_some()),
        ("natsStreaming", spec.nats_streaming.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is_set)| is_set.then_some(name))
    .collect();
    if let [_, second, ..] = named[..] {
        let both = format!("one bus cannot be {} at once", named.join(" and "));
        fields.error(second, both, "keep one of them");
    }
    if spec.topic.is_some() {
        let message = "`topic` has no effect, as in OpenFunction: topics follow from EventSources and events";
        let problem = Problem::warning(fields.path("topic"), message);
        fields.problems().push(problem);
    }
    let max_event_bytes = event_bytes(&mut fields, spec.max_event_bytes.as_deref()).unwrap_or(limits::EVENT_BYTES);
    let kind = if let Some(spec) = &spec.jet_stream {
        jetstream::plan(fields.under("jetStream"), spec, max_event_bytes, &mut not_here).map(BusKind::JetStream)
    } else if let Some(spec) = &spec.nats_streaming {
        jetstream::plan_stan(fields.under("natsStreaming"), spec).map(BusKind::JetStream)
    } else if let Some(spec) = &spec.kafka {
        kafka::plan(fields.under("kafka"), spec).map(BusKind::Kafka)
    } else if let Some(spec) = &spec.redis {
        redis::plan(fields.under("redis"), spec).map(BusKind::Redis)
    } else {
        let embedded = plan_embedded(fields.under("embedded"), spec.embedded.as_ref(), max_event_bytes);
        Some(BusKind::Embedded(embedded))
    };
    if let (Some(field), Some(feature)) = (named.first(), kind.as_ref().and_then(BusKind::lacks)) {
        let hint = format!("build it with `--features {feature}`, or use the embedded bus: `evoke run --bus embedded`");
        not_here.push(Problem::not_built(fields.path(field), feature).hint(hint));
    }
    Planned::new(kind.map(|kind| BusPlan { max_event_bytes, kind }), problems).not_here(not_here)
}

fn event_bytes(fields: &mut Fields<'_>, text: Option<&str>) -> Option<usize> {
    let bytes = fields.bytes("maxEventBytes", text)?;
    if !(EVENT_BYTES_MIN..=EVENT_BYTES_MAX).contains(&bytes) {
        fields.error("maxEventBytes", format!("{bytes} bytes is out of range"), "choose between 1Ki and 16Mi");
        return None;
    }
    usize::try_from(bytes).ok()
}

fn plan_embedded(mut fields: Fields<'_>, spec: Option<&EmbeddedBus>, max_event_bytes: usize) -> EmbeddedPlan {
    let Some(spec) = spec else { return EmbeddedPlan::default() };
    // Space is given back a segment at a time, and the smallest log is a few of them.
    let least = (8 << 20).max(4 * max_event_bytes as u64);
    let max_bytes = max_bytes(&mut fields, spec.max_bytes.as_deref(), least, &format!("at least {}Mi", least >> 20));
    let max_age = max_age(&mut fields, spec.max_age.as_deref());
    EmbeddedPlan { max_age, max_bytes, sync: spec.sync.unwrap_or_default(), on_full: spec.on_full.unwrap_or_default() }
}

/// `maxAge` of a bus that keeps events for any length of time.
fn max_age(fields: &mut Fields<'_>, text: Option<&str>) -> Option<Duration> {
    let age = fields.duration("maxAge", text)?;
    if age.is_zero() {
        fields.error("maxAge", "zero would keep nothing", "leave it out to keep all");
        return None;
    }
    Some(age)
}

/// `maxBytes`, which `hint` says the least of.
fn max_bytes(fields: &mut Fields<'_>, text: Option<&str>, least: u64, hint: &str) -> Option<u64> {
    let bytes = fields.bytes("maxBytes", text)?;
    if bytes < least {
        fields.error("maxBytes", format!("{bytes} bytes is too small"), hint);
        return None;
    }
    Some(bytes)
}

/// `partitions` of a bus that divides its topics.
fn partitions(fields: &mut Fields<'_>, given: Option<u16>, default: u16, most: u16, hint: &str) -> u16 {
    let partitions = given.unwrap_or(default);
    if !(1..=most).contains(&partitions) {
        fields.error("partitions", format!("{partitions} partitions are out of range"), hint);
    }
    partitions
}

#[cfg(test)]
mod tests {
    use evoke_api::credentials::{Secret, ValueFrom};

    use super::*;

    /// Holds `hunter2` under one name.
    pub(super) struct OneSecret;

    impl Vault for OneSecret {
        fn look_up(&self, _: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
            match from.env.as_deref() {
                Some("KNOWN") => Ok(Secret::new("hunter2")),
                _ => Err(Problem::error(path.clone(), "there is no such secret")),
            }
        }
    }

    /// What a part of a bus's spec comes to, and what is wrong with it.
    pub(super) fn planned<P>(field: &str, plan: impl FnOnce(Fields<'_>) -> Option<P>) -> (Option<P>, Vec<String>) {
        let mut problems = Vec::new();
        let plan = plan(Fields::new("ns", FieldPath::spec().key(field), &OneSecret, &mut problems));
        (plan, problems.iter().map(ToString::to_string).collect())
    }

    fn bus(spec: serde_json::Value) -> (Option<BusPlan>, Vec<String>) {
        let Planned { plan, problems, .. } = super::plan("ns", &serde_json::from_value(spec).unwrap(), &OneSecret);
        (plan, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_field_of_the_embedded_bus_is_read() {
        let fields = serde_json::json!({"maxAge": "168h", "maxBytes": "1Gi", "sync": "never", "onFull": "dropOldest"});
        let (plan, problems) = bus(serde_json::json!({"maxEventBytes": "64Ki", "embedded": fields}));
        let embedded = EmbeddedPlan {
            max_age: Some(Duration::from_secs(168 * 3600)),
            max_bytes: Some(1 << 30),
            sync: SyncMode::Never,
            on_full: OnFull::DropOldest,
        };
        assert_eq!(problems, [""; 0]);
        assert_eq!(plan, Some(BusPlan { max_event_bytes: 64 << 10, kind: BusKind::Embedded(embedded) }));
        let (plan, _) = bus(serde_json::json!({}));
        let default = BusKind::Embedded(EmbeddedPlan::default());
        assert_eq!(plan, Some(BusPlan { max_event_bytes: 1 << 20, kind: default }));
    }

    #[test]
    fn what_no_bus_can_be_is_named() {
        let redis = serde_json::json!({"address": "a:6379"});
        for (spec, expected) in [
            (
                serde_json::json!({"embedded": {}, "redis": redis}),
                "spec.redis: one bus cannot be embedded and redis at once",
            ),
            (serde_json::json!({"maxEventBytes": "1"}), "spec.maxEventBytes: 1 bytes is out of range"),
            (
                serde_json::json!({"embedded": {"maxBytes": "1Mi"}}),
                "spec.embedded.maxBytes: 1048576 bytes is too small",
            ),
            (serde_json::json!({"embedded": {"maxAge": "0s"}}), "spec.embedded.maxAge: zero would keep nothing"),
        ] {
            let (_, problems) = bus(spec);
            assert!(problems.len() == 1 && problems[0].starts_with(expected), "{expected}: {problems:?}");
        }
    }
}
