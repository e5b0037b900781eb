use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ComponentSpec, Route, ScaleOptions, State};

/// `serving`: what starts the function, what it writes to, and how it runs and scales.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Serving {
    /// What the function is called by; HTTP on port 8080 when no Dapr trigger is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggers: Option<Triggers>,
    /// What the function may send to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// Dapr bindings, by the name that triggers and outputs use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bindings: BTreeMap<String, ComponentSpec>,
    /// Dapr pub/sub components, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pubsub: BTreeMap<String, ComponentSpec>,
    /// Dapr state stores, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, State>,
    /// From how few to how many instances, and by what measure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_options: Option<ScaleOptions>,
    /// Plugins of the functions framework around each call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Traces of the functions framework.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// What an asynchronous function runs as; `Deployment` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_type: Option<WorkloadType>,
    /// Environment variables of the function.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// Labels of the workload.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the workload.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// How long the function may take to become ready, Go or ISO-8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    /// The pod; its container `function` is the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PodSpec>,
}

/// `serving.triggers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Triggers {
    /// HTTP requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTrigger>,
    /// Messages of Dapr components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dapr: Vec<DaprTrigger>,
    /// What the function may read beside what triggers it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
}

/// `triggers.http`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpTrigger {
    /// The port the function listens on; 8080 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<i32>,
    /// What scales the function by its requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<HttpEngine>,
    /// The hosts and paths that lead to the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
}

/// `triggers.http.engine`; evoke's own scaling stands in for either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum HttpEngine {
    #[default]
    Knative,
    Keda,
}

/// One item of `triggers.dapr`: a component, and the topic where it is a pub/sub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DaprTrigger {
    /// The component's name.
    pub name: String,
    /// The component's type, such as `bindings.kafka`; needed where `bindings` and `pubsub` do not hold it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The topic of a pub/sub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The name that the function knows the input by (deprecated by OpenFunction).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_name: Option<String>,
}

/// One item of `triggers.inputs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// The component that is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dapr: Option<DaprInput>,
}

/// `inputs[].dapr`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DaprInput {
    /// The component's name.
    pub name: String,
    /// The component's type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The topic of a pub/sub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// One item of `serving.outputs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// The component that is written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dapr: Option<DaprOutput>,
}

/// `outputs[].dapr`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DaprOutput {
    /// The component's name.
    pub name: String,
    /// The component's type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The topic of a pub/sub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Metadata sent along with every message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The operation of a binding, such as `create`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The name that the function knows the output by (deprecated by OpenFunction).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_name: Option<String>,
}

/// `serving.hooks`: plugins of the functions framework, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hooks {
    /// Run before the function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre: Vec<String>,
    /// Run after the function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post: Vec<String>,
    /// How they relate to the global hooks; `Append` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<HookPolicy>,
}

/// How a function's hooks relate to the global ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HookPolicy {
    /// They are run as well.
    #[default]
    Append,
    /// They are run instead.
    Override,
}

/// `serving.tracing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// Whether the function is traced.
    pub enabled: bool,
    /// What receives the traces.
    pub provider: TracingProvider,
    /// Tags of every span.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Baggage of every span.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baggage: BTreeMap<String, String>,
}

/// `tracing.provider`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingProvider {
    /// `skywalking` or `opentelemetry`.
    pub name: String,
    /// SkyWalking's collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oap_server: Option<String>,
    /// OpenTelemetry's exporter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exporter: Option<Exporter>,
}

/// `tracing.provider.exporter`, as OpenTelemetry's own variables have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "OpenTelemetry's own settings")]
pub struct Exporter {
    pub name: String,
    pub endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// What an asynchronous function runs as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "Kubernetes' own kinds")]
pub enum WorkloadType {
    #[default]
    Deployment,
    StatefulSet,
    Job,
}
