use std::collections::BTreeMap;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Attributes;
use crate::credentials::{NatsAuth, Sasl, Secret, Tls, ValueFrom};
use crate::keda::{Advanced, AuthenticationRef};

/// `kafka.{event}`: the records of a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaSource {
    /// Bootstrap servers, separated by commas.
    pub brokers: String,
    /// SASL over TLS, unless `tls.disabled`.
    #[serde(default)]
    pub auth_required: bool,
    /// The topic; by default the event's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The SASL user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_username: Option<Secret>,
    /// The SASL user, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_username_from: Option<ValueFrom>,
    /// The SASL password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_password: Option<Secret>,
    /// The SASL password, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_password_from: Option<ValueFrom>,
    /// OpenFunction's, for what Dapr published; has no effect: events are limited by `maxEventBytes` of the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<i64>,
    /// KEDA's scaling on the group's lag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_option: Option<KafkaScaleOption>,
    /// The consumer group; by default `scaleOption.consumerGroup`, else `{namespace}.{eventSource}.{event}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer_group: Option<String>,
    /// Where a group starts that is new; `latest` by default. A partition that is added later is read from its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<StartAt>,
    /// SASL with a choice of mechanism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The content type of records that carry none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Attributes that replace the source's own.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub attributes: Attributes,
}

/// `kafka.{event}.scaleOption`, as OpenFunction has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "KEDA's own fields, under KEDA's own names")]
pub struct KafkaScaleOption {
    pub lag_threshold: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer_group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
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

/// Where reading starts when nothing was read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StartAt {
    /// With what is there.
    Earliest,
    /// With what comes.
    #[default]
    Latest,
}

/// `cron.{event}`: the ticks of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CronSource {
    /// Five fields, six with seconds, `@every 2s`, or `@hourly` and friends.
    pub schedule: String,
    /// An IANA zone; UTC by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Whether and how far back ticks are fired that were missed while evoke was down.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub catch_up: Option<CatchUp>,
    /// The data of every event: text as it is, anything else as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// The content type of `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Attributes that replace the source's own.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub attributes: Attributes,
}

/// `catchUp`: a duration, Go or ISO-8601; missed ticks no older than this are fired.
pub type CatchUp = String;

/// `redis.{event}`: the entries of a stream, the messages of a channel, or the items of a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisSource {
    /// `host:port`; with `failover`, the Sentinels' addresses, separated by commas.
    pub redis_host: String,
    /// The password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_password: Option<Secret>,
    /// The password, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_password_from: Option<ValueFrom>,
    /// The ACL user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_username: Option<Secret>,
    /// The ACL user, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_username_from: Option<ValueFrom>,
    /// TLS, as an empty `tls` is.
    #[serde(rename = "enableTLS", skip_serializing_if = "Option::is_none")]
    pub enable_tls: Option<bool>,
    /// Finds the master through Sentinel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<bool>,
    /// The name that the Sentinels watch the master under; with `failover`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_master_name: Option<String>,
    /// How often a stream is searched for entries that a consumer does not finish; 30 s by default, 0 for never. Like every
    /// duration here it is in milliseconds where it has no unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redeliver_interval: Option<String>,
    /// How long a consumer of a stream or list may be silent before others take what it holds; 60 s by default, 0 for ever (a
    /// stream).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processing_timeout: Option<String>,
    /// `node` or `cluster`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_type: Option<String>,
    /// The database; 0 by default.
    #[serde(rename = "redisDB", skip_serializing_if = "Option::is_none")]
    pub redis_db: Option<i64>,
    /// Dapr's; has no effect, since evoke tries for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_max_retries: Option<i64>,
    /// The first wait before another connection; 200 ms by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_min_retry_interval: Option<String>,
    /// The longest wait before another connection; 30 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_max_retry_interval: Option<String>,
    /// How long a connection may take to come about; 5 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dial_timeout: Option<String>,
    /// How long an answer may take; 5 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout: Option<String>,
    /// Dapr's; has no effect, since `readTimeout` limits the whole exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<String>,
    /// Dapr's; has no effect, since a source has no pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<i64>,
    /// Dapr's; has no effect, since a source has no pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_timeout: Option<String>,
    /// Dapr's; has no effect, since a source has no pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_conn_age: Option<String>,
    /// Dapr's; has no effect, since a source has no pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_idle_conns: Option<i64>,
    /// Dapr's; has no effect, since a source has no pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_check_frequency: Option<String>,
    /// Dapr's; has no effect, since a source has no pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// A stream; by default one of the event's name, when neither `channel` nor `list` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The stream's consumer group; by default `{namespace}.{eventSource}.{event}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer_group: Option<String>,
    /// Where a new consumer group starts; `latest` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<StartAt>,
    /// A pub/sub channel, or a pattern with `*`, `?` or `[...]`; at most once by nature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// A list, taken from the left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// SASL-style user and password, as Kafka and MQTT sources have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The content type of data that carries none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Attributes that replace the source's own.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub attributes: Attributes,
}

/// `mqtt.{event}`: the messages of a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MqttSource {
    /// The broker: `tcp://host:port`, or `ssl://host:port` for TLS. `mqtt`, `mqtts` and `tls` are understood as well.
    pub url: String,
    /// The topic, which may hold the wildcards `+` and `#`, or a shared subscription, `$share/{group}/{topic}`.
    pub topic: String,
    /// The client id, under which the broker keeps the session; by default `{namespace}.{eventSource}.{event}`.
    #[serde(rename = "consumerID", skip_serializing_if = "Option::is_none")]
    pub consumer_id: Option<String>,
    /// The quality of service that is subscribed with: 0, 1 or 2; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<i64>,
    /// OpenFunction's; it is about publishing, and has no effect on a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// `true`: the broker keeps nothing for this client while it is away; `false` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_session: Option<bool>,
    /// Certificate authorities to trust instead of the system's, as `tls.ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<Secret>,
    /// The same, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert_from: Option<ValueFrom>,
    /// The client's certificate chain, as `tls.cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<Secret>,
    /// The same, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_from: Option<ValueFrom>,
    /// The client's private key, as `tls.key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<Secret>,
    /// The same, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_from: Option<ValueFrom>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Secret>,
    /// The user, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_from: Option<ValueFrom>,
    /// The password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The password, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_from: Option<ValueFrom>,
    /// SASL-style user and password, as Kafka and Redis sources have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The version of MQTT that is spoken; by default `v5`, or `v3.1.1` where the broker does not speak it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<MqttVersion>,
    /// The content type of messages that carry none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Attributes that replace the source's own.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub attributes: Attributes,
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    /// MQTT 3.1.1.
    #[serde(rename = "v3.1.1")]
    V3,
    /// MQTT 5.0.
    #[serde(rename = "v5")]
    V5,
}

/// `nats.{event}`: the messages of a subject, or of a JetStream stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatsSource {
    /// Servers, `nats://host:port` or `tls://host:port`, separated by commas.
    pub url: String,
    /// How to log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<NatsAuth>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The subject, which may hold the wildcards `*` and `>`; with `stream`, which of its messages are read, all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The queue group that shares the messages of a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_group: Option<String>,
    /// A JetStream stream, which is read instead of a bare subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The stream's durable consumer; by default `{namespace}_{eventSource}_{event}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Where a new consumer starts; `latest` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<StartAt>,
    /// The content type of messages that carry none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Attributes that replace the source's own.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub attributes: Attributes,
}

/// `webhook.{event}`: requests to an HTTP endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookSource {
    /// The path; `/{namespace}/{eventSource}/{event}` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The one method taken; `POST` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A port of its own, instead of the shared listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Who may send; anyone by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<WebhookAuth>,
    /// The content type of bodies that carry none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Attributes that replace the source's own.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub attributes: Attributes,
}

/// `webhook.{event}.auth`: a bearer token, or a user and a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookAuth {
    /// The token that requests must bring, as `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// The token, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token_from: Option<ValueFrom>,
    /// The user of basic authentication, without a colon; with a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Secret>,
    /// The user, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_from: Option<ValueFrom>,
    /// The password of basic authentication; with a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The password, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_from: Option<ValueFrom>,
}
