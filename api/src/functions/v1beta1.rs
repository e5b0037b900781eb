//! `core.openfunction.io/v1beta1` Function, the version before. It is read, and converted to `v1beta2` at once.

mod convert;
mod moved;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BuildStrategy, ComponentSpec, LocalReference, Route, SourceRepo};
use crate::functions::{RestartPolicy, WorkloadType};
use crate::keda::{Advanced, AuthenticationRef, ScalingStrategy};

pub(crate) use moved::written;

/// The API group and version of this module's kind.
pub const API_VERSION: &str = "core.openfunction.io/v1beta1";

/// Function v1beta1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FunctionSpec {
    /// The function's version; `latest` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The image that is built or served. A function that gives its container a `command` needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The Secret with the credentials of the image's registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_credentials: Option<LocalReference>,
    /// `OCIContainer` (the default) or `WasmEdge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_runtime: Option<String>,
    /// The port the function listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<i32>,
    /// The hosts and paths that lead to the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// How the image is built from source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
    /// How the function is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
}

/// `build`; also `EventSource.spec.build`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as in v1beta2")]
pub struct BuildSpec {
    pub src_repo: SourceRepo,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder_credentials: Option<LocalReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The strategy's parameters, which v1beta2 has below `shipwright`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shipwright: Option<Shipwright>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub builder_max_age: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successful_builds_history_limit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_builds_history_limit: Option<i32>,
}

/// `build.shipwright`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as in v1beta2")]
pub struct Shipwright {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<BuildStrategy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
}

/// `serving`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as in v1beta2")]
pub struct Serving {
    /// Whether HTTP requests call the function, or messages.
    pub runtime: Runtime,
    /// What KEDA measures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// What calls an asynchronous function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<DaprIo>,
    /// What the function may send to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<DaprIo>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bindings: BTreeMap<String, ComponentSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pubsub: BTreeMap<String, ComponentSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, ComponentSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_options: Option<ScaleOptions>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PodSpec>,
}

/// `serving.runtime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// HTTP requests.
    Knative,
    /// Messages.
    Async,
}

/// One item of `serving.triggers`: a KEDA trigger, and what it scales.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as KEDA's own")]
pub struct Trigger {
    #[serde(rename = "type")]
    pub kind: String,
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_cached_metrics: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_ref: Option<AuthenticationRef>,
    /// The ScaledObject or the ScaledJob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_kind: Option<TargetKind>,
}

/// What a KEDA trigger scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum TargetKind {
    Object,
    Job,
}

/// An input or an output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DaprIo {
    /// The name that the function knows it by.
    pub name: String,
    /// The component's name.
    pub component: String,
    /// The topic of a pub/sub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The operation of a binding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Metadata sent along with every message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

/// `serving.scaleOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as in v1beta2")]
pub struct ScaleOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub knative: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keda: Option<Keda>,
}

/// `scaleOptions.keda`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as in v1beta2")]
pub struct Keda {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled_object: Option<ScaledObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled_job: Option<ScaledJob>,
}

/// `keda.scaledObject`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as in v1beta2")]
pub struct ScaledObject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_type: Option<WorkloadType>,
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
}

/// `keda.scaledJob`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as in v1beta2")]
pub struct ScaledJob {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polling_interval: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successful_jobs_history_limit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_jobs_history_limit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replica_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_strategy: Option<ScalingStrategy>,
}
