use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeliverySpec, SinkSpec};

/// Trigger: which events go to whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TriggerSpec {
    /// The EventBus of this namespace, else the ClusterEventBus, that is read.
    pub event_bus: String,
    /// What conditions speak of, by the name they use.
    pub inputs: IndexMap<String, Input>,
    /// Who gets what.
    pub subscribers: Vec<Subscriber>,
    /// How conditions over several inputs are met; by default as evoke's own rules say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// klog level, "1" by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

/// `join`: how conditions over several inputs are met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Join {
    /// The rules; evoke's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<JoinMode>,
}

/// Rules other than evoke's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum JoinMode {
    /// OpenFunction's, to the letter: every condition is evaluated for every event, whichever inputs it names.
    OpenFunction,
}

/// One input: an event of an EventSource, or a topic that something else writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// The EventSource; with `event`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_source: Option<String>,
    /// The event's name in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The EventSource's namespace; by default the Trigger's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A named topic instead, such as a `deadLetterTopic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// One subscriber: a condition, and where the events go that meet it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subscriber {
    /// The name its position is kept under; by default its index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// CEL over the inputs and `event`.
    pub condition: String,
    /// Where matching events are delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkSpec>,
    /// The topic that matching events are published on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Where an event goes whose delivery failed for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_sink: Option<SinkSpec>,
    /// The topic for the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    /// Retries, time limits, concurrency and order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliverySpec>,
    /// Where a new subscription starts: `latest` (the default), `earliest`, an RFC 3339 time, or an offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<String>,
    /// Where an event goes that the sink answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// What is made of an event before it is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<serde_json::Value>,
}

/// `reply`: where an event goes that the sink answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reply {
    /// The topic it is published on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}
