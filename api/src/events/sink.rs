use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where events are delivered: a URL or an object; the URL wins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinkSpec {
    /// An `http` or `https` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// A Function, a Service or a Knative Service.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
}

/// A reference to an object that has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// Group and version; may be left out where the kind says it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `Function` or `Service`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The object's namespace; by default the referrer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// `delivery`: Knative's DeliverySpec with evoke's additions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeliverySpec {
    /// How often to try again after the first attempt; 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<u32>,
    /// `exponential` (the default) or `linear`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_policy: Option<String>,
    /// The delay before the first retry, Go or ISO-8601; `PT0.2S` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub backoff_delay: Option<String>,
    /// How long one attempt may take; `PT30S` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    /// The longest `Retry-After` that is honoured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub retry_after_max: Option<String>,
    /// Deliveries under way at once, for this subscriber and process; 100 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Whether events of one key keep their order; by default they need not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering: Option<Ordering>,
    /// How many deliveries may start in a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How long a delivered event is remembered, so that a repeat of it is not delivered, Go or ISO-8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub deduplication_window: Option<String>,
}

/// `rateLimit`: at most `events` deliveries start `per` duration, `burst` of them at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// How many.
    pub events: u32,
    /// In how long, Go or ISO-8601; a second by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub per: Option<String>,
    /// How many may start at once; `events` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Which events keep their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Ordering {
    /// None: concurrent up to `maxInFlight`.
    #[default]
    None,
    /// Those that share their `partitionkey`: the next waits until the one before is finished.
    PartitionKey,
}
