use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::credentials::{NatsAuth, Sasl, Secret, Tls, ValueFrom};
use crate::keda::{Advanced, AuthenticationRef};
use crate::quantity;

/// EventBus and ClusterEventBus: where events wait. At most one back-end is named; none is the embedded one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventBusSpec {
    /// OpenFunction's default topic; it never used it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The largest event this bus takes, as encoded, a Kubernetes quantity; `1Mi` by default.
    #[serde(default, deserialize_with = "quantity::text", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "quantity"))]
    pub max_event_bytes: Option<String>,
    /// The bus inside the process, in its data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedBus>,
    /// NATS JetStream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jet_stream: Option<JetStreamBus>,
    /// Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaBus>,
    /// Redis Streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisBus>,
    /// OpenFunction's only back-end, whose server is end of life: read as JetStream on the same URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_streaming: Option<NatsStreamingBus>,
}

/// `embedded`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmbeddedBus {
    /// How long events are kept, Go or ISO-8601, even where a subscription that is paused or orphaned still needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub max_age: Option<String>,
    /// How much the log may hold, a Kubernetes quantity.
    #[serde(default, deserialize_with = "quantity::text", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "quantity"))]
    pub max_bytes: Option<String>,
    /// When an event counts as durable; `always` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncMode>,
    /// What happens at `maxBytes`; `block` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
}

/// When the embedded bus calls an event durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SyncMode {
    /// Once it is synced to disk.
    #[default]
    Always,
    /// Once it is handed to the operating system: a crash of evoke loses nothing, a power cut may.
    Never,
}

/// What a full bus does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFull {
    /// Sources wait.
    #[default]
    Block,
    /// The oldest events go, counted for each subscription that had not read them.
    DropOldest,
}

/// `jetStream`: a stream for each topic, on servers that somebody runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JetStreamBus {
    /// Server addresses, `nats://host:port` or `tls://host:port`, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How to log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<NatsAuth>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How many servers keep each stream, 1 to 5; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u16>,
    /// Where the servers keep the streams; `file` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<JetStreamStorage>,
    /// How long events are kept, Go or ISO-8601, even where a subscription still needs them; for ever by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub max_age: Option<String>,
    /// How much each topic's stream may hold, a Kubernetes quantity; as much as the account by default.
    #[serde(default, deserialize_with = "quantity::text", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "quantity"))]
    pub max_bytes: Option<String>,
    /// How long the servers recognise an event that is published again, Go or ISO-8601; `2m` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub duplicate_window: Option<String>,
    /// How many partitions a topic is made with, 1 to 64; 8 by default. A topic keeps what it was made with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u16>,
    /// What happens at `maxBytes`; `block` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
    /// Runs the servers, in a cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native: Option<NativeJetStream>,
}

/// Where JetStream keeps its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum JetStreamStorage {
    /// On disk.
    #[default]
    File,
    /// In memory: a restart of the servers loses it.
    Memory,
}

/// `jetStream.native`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NativeJetStream {
    /// How many servers there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u16>,
}

/// `kafka` as a bus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaBus {
    /// Bootstrap servers, separated by commas.
    pub brokers: String,
    /// SASL over TLS, unless `tls.disabled`.
    #[serde(default)]
    pub auth_required: bool,
    /// SASL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How many partitions a topic is made with; 8 by default. A topic that is there keeps those it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u16>,
    /// How many brokers keep a copy of each topic that is made; the brokers' own default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<u16>,
    /// How long Kafka keeps events, Go or ISO-8601, read or not; when absent until every subscription has finished them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub max_age: Option<String>,
    /// How much Kafka keeps of each topic, a Kubernetes quantity, read or not; no limit when absent.
    #[serde(default, deserialize_with = "quantity::text", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "quantity"))]
    pub max_bytes: Option<String>,
}

/// `redis` as a bus: Redis Streams, or a server that speaks its protocol, from version 5 on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisBus {
    /// `host:port`; several, separated by commas, are the Sentinels or some servers of the cluster.
    pub address: String,
    /// The ACL user; the default one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Secret>,
    /// `username`, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_from: Option<ValueFrom>,
    /// The password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// `password`, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_from: Option<ValueFrom>,
    /// The user and the password, as all kinds of bus have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Encrypts the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The database; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db: Option<i64>,
    /// The name of the master that the Sentinels at `address` watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_master_name: Option<String>,
    /// True if the servers are a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<bool>,
    /// How many replicas must have an event before it counts as stored; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How many partitions topics are made with; 8 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u16>,
    /// How long events are kept, Go or ISO-8601, even where a subscription that is paused or orphaned still needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub max_age: Option<String>,
    /// How much all streams together may hold, a Kubernetes quantity; as much as the server's memory when absent.
    #[serde(default, deserialize_with = "quantity::text", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "quantity"))]
    pub max_bytes: Option<String>,
    /// What happens at `maxBytes`, or when the server's memory is full; `block` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
}

/// `natsStreaming`, as OpenFunction has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatsStreamingBus {
    /// The server's address.
    #[serde(rename = "natsURL")]
    pub nats_url: String,
    /// The cluster's id, which JetStream has no use for.
    #[serde(rename = "natsStreamingClusterID")]
    pub nats_streaming_cluster_id: String,
    /// `topic` or `queue`.
    pub subscription_type: String,
    /// The durable subscription's name.
    pub durable_subscription_name: String,
    /// Overwritten by OpenFunction.
    #[serde(rename = "consumerID", skip_serializing_if = "Option::is_none")]
    pub consumer_id: Option<String>,
    /// How long the server waits for an ack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_wait_time: Option<String>,
    /// Unacked messages at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<i64>,
    /// Starts at the tail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_new: Option<bool>,
    /// Starts at the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_all: Option<bool>,
    /// Starts at a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at_sequence: Option<i64>,
    /// Starts at the last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_with_last_received: Option<bool>,
    /// Starts so long ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at_time_delta: Option<String>,
    /// Starts at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at_time: Option<String>,
    /// How `startAtTime` is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at_time_format: Option<String>,
    /// KEDA's scaling on stan's lag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_option: Option<NatsStreamingScaleOption>,
}

/// `natsStreaming.scaleOption`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "KEDA's own fields, under KEDA's own names")]
pub struct NatsStreamingScaleOption {
    pub nats_server_monitoring_endpoint: String,
    pub lag_threshold: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polling_interval: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_period: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replica_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replica_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advanced: Option<Advanced>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_ref: Option<AuthenticationRef>,
}
