use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CronSource, DeliverySpec, KafkaSource, MqttSource, NatsSource, RedisSource, SinkSpec, WebhookSource};
use crate::functions::v1beta1::BuildSpec;

/// EventSource: what happens outside, as events. `eventBus`, `sink` or both must be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventSourceSpec {
    /// The EventBus of this namespace, else the ClusterEventBus, that events are published on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_bus: Option<String>,
    /// klog level, "1" by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Where events go directly, beside the bus or instead of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkSpec>,
    /// How the sink is delivered to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliverySpec>,
    /// Where a record goes that cannot be an event, or that the sink refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_sink: Option<SinkSpec>,
    /// The topic for the same, when no `deadLetterSink` is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    /// Kafka topics, by event name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub kafka: IndexMap<String, KafkaSource>,
    /// Schedules, by event name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub cron: IndexMap<String, CronSource>,
    /// Redis streams, channels and lists, by event name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub redis: IndexMap<String, RedisSource>,
    /// MQTT topics, by event name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub mqtt: IndexMap<String, MqttSource>,
    /// HTTP endpoints, by event name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub webhook: IndexMap<String, WebhookSource>,
    /// NATS subjects and JetStream streams, by event name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub nats: IndexMap<String, NatsSource>,
    /// How OpenFunction would build the event source's own image; accepted, never used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
}

/// Attributes that replace the ones a source gives: `type`, `source`, `subject`, `dataschema`, or any extension.
pub type Attributes = IndexMap<String, String>;
