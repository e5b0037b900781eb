use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keda::{Advanced, ScaleTrigger, ScalingStrategy};

/// `serving.scaleOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaleOptions {
    /// The fewest instances; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// The most instances; 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// Knative's autoscaling annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub knative: BTreeMap<String, String>,
    /// KEDA's options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keda: Option<Keda>,
}

/// `scaleOptions.keda`: at most one of the three objects, and what they measure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keda {
    /// Scaling by pending HTTP requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_scaled_object: Option<HttpScaledObject>,
    /// Scaling of a long-running workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled_object: Option<ScaledObject>,
    /// A Job for each piece of work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled_job: Option<ScaledJob>,
    /// What is measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<ScaleTrigger>,
}

/// `keda.httpScaledObject`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpScaledObject {
    /// Pending requests for each instance; 100 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_pending_requests: Option<i32>,
    /// Seconds without requests before scaling to zero; 300 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_period: Option<i32>,
}

/// `keda.scaledObject`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaledObject {
    /// Seconds between measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polling_interval: Option<i32>,
    /// Seconds without work before scaling to zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_period: Option<i32>,
    /// The behaviour of the HorizontalPodAutoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advanced: Option<Advanced>,
    /// What to scale to when measuring fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// `scaledObject.fallback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fallback {
    /// Failed measurements in a row before it holds.
    pub failure_threshold: i32,
    /// The number of instances then.
    pub replicas: i32,
}

/// `keda.scaledJob`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaledJob {
    /// When a Job's container is started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Seconds between measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polling_interval: Option<i32>,
    /// How many successful Jobs are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successful_jobs_history_limit: Option<i32>,
    /// How many failed Jobs are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_jobs_history_limit: Option<i32>,
    /// How the number of Jobs is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_strategy: Option<ScalingStrategy>,
}

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "Kubernetes' own policies")]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}
