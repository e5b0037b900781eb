//! From `v1beta1` to `v1beta2`, as OpenFunction's own conversion does it, less what that loses.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{BuildSpec, DaprIo, FunctionSpec, Runtime, ScaleOptions, Serving, Trigger};
use crate::functions::{self as v1beta2, Exporter, HookPolicy, Hooks, Tracing, TracingProvider, WorkloadType};
use crate::keda::ScaleTrigger;
use crate::manifest;
use crate::problem::{FieldPath, Problem, Severity};

/// The annotations in which `v1beta1` keeps what `v1beta2` has fields for.
const PLUGINS: &str = "plugins";
const TRACING: &str = "plugins.tracing";

/// The annotation `plugins`: `order` is run before the function, and backwards after it. In annotations all is optional, and what is
/// not known is passed over: nothing checks them before they are used.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Plugins {
    order: Vec<String>,
    pre: Vec<String>,
    post: Vec<String>,
}

/// The annotation `plugins.tracing`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OldTracing {
    enabled: String,
    provider: OldProvider,
    tags: BTreeMap<String, String>,
    baggage: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OldProvider {
    name: String,
    oap_server: Option<String>,
    exporter: Option<OldExporter>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OldExporter {
    name: String,
    endpoint: String,
    headers: Option<String>,
    compression: Option<String>,
    timeout: Option<String>,
    protocol: Option<String>,
}

impl FunctionSpec {
    /// The same function as `v1beta2` says it; `annotations` are the object's. `problems` takes what cannot be read or has no
    /// counterpart.
    pub fn convert(
        self,
        annotations: Option<&Map<String, Value>>,
        problems: &mut Vec<Problem>,
    ) -> v1beta2::FunctionSpec {
        let Self { version, image, image_credentials, workload_runtime, port, route, build, serving } = self;
        let build = build.map(convert_build);
        let serving = serving.map(|serving| {
            let http = v1beta2::HttpTrigger { port, route, ..Default::default() };
            let mut serving = convert_serving(serving, http, problems);
            serving.hooks = annotation(annotations, PLUGINS, problems).map(hooks);
            serving.tracing = annotation(annotations, TRACING, problems).map(tracing);
            serving
        });
        v1beta2::FunctionSpec { version, image, image_credentials, workload_runtime, build, serving }
    }
}

fn convert_build(old: BuildSpec) -> v1beta2::BuildSpec {
    let param = |(name, value)| v1beta2::BuildParam { name, value: Some(value), ..Default::default() };
    let params: Vec<_> = old.params.into_iter().map(param).collect();
    let shipwright = match old.shipwright {
        None if params.is_empty() => None,
        shipwright => {
            let old = shipwright.unwrap_or_default();
            Some(v1beta2::Shipwright { strategy: old.strategy, timeout: old.timeout, params })
        }
    };
    v1beta2::BuildSpec {
        src_repo: old.src_repo,
        builder: old.builder,
        builder_credentials: old.builder_credentials,
        dockerfile: old.dockerfile,
        env: old.env,
        shipwright,
        timeout: old.timeout,
        builder_max_age: old.builder_max_age,
        successful_builds_history_limit: old.successful_builds_history_limit,
        failed_builds_history_limit: old.failed_builds_history_limit,
    }
}

fn convert_serving(old: Serving, http: v1beta2::HttpTrigger, problems: &mut Vec<Problem>) -> v1beta2::Serving {
    let kind_of = |name: &str| old.bindings.get(name).or_else(|| old.pubsub.get(name)).map(|spec| spec.kind.clone());
    let dapr = |io: DaprIo| v1beta2::DaprTrigger {
        kind: kind_of(&io.component),
        name: io.component,
        topic: io.topic,
        input_name: Some(io.name),
    };
    let output = |io: DaprIo| v1beta2::Output {
        dapr: Some(v1beta2::DaprOutput {
            kind: kind_of(&io.component),
            name: io.component,
            topic: io.topic,
            metadata: io.params,
            operation: io.operation,
            output_name: Some(io.name),
        }),
    };
    let triggers = match old.runtime {
        Runtime::Knative => {
            if !old.inputs.is_empty() {
                let path = FieldPath::spec().key("serving").key("inputs");
                let message = "inputs of a function with `runtime: knative` are not read";
                problems.push(Problem::warning(path, message).hint("write `runtime: async` to be called by them"));
            }
            v1beta2::Triggers { http: Some(http), ..Default::default() }
        }
        Runtime::Async => {
            if http != v1beta2::HttpTrigger::default() {
                let path = FieldPath::spec().key(if http.route.is_some() { "route" } else { "port" });
                let message = "a function with `runtime: async` is not reached over HTTP";
                problems.push(Problem::warning(path, message).hint("take it away, or write `runtime: knative`"));
            }
            v1beta2::Triggers { dapr: old.inputs.into_iter().map(dapr).collect(), ..Default::default() }
        }
    };
    let outputs = old.outputs.into_iter().map(output).collect();
    let (scale_options, workload_type) = convert_scaling(old.scale_options, old.triggers);
    let state = |(name, spec)| (name, v1beta2::State { spec: Some(spec) });
    v1beta2::Serving {
        triggers: Some(triggers),
        outputs,
        states: old.states.into_iter().map(state).collect(),
        bindings: old.bindings,
        pubsub: old.pubsub,
        scale_options,
        hooks: None,
        tracing: None,
        workload_type,
        params: old.params,
        labels: old.labels,
        annotations: old.annotations,
        timeout: old.timeout,
        template: old.template,
    }
}

fn convert_scaling(
    old: Option<ScaleOptions>,
    triggers: Vec<Trigger>,
) -> (Option<v1beta2::ScaleOptions>, Option<WorkloadType>) {
    let triggers: Vec<_> = triggers.into_iter().map(ScaleTrigger::from).collect();
    if old.is_none() && triggers.is_empty() {
        return (None, None);
    }
    let ScaleOptions { min_replicas, max_replicas, knative, keda } = old.unwrap_or_default();
    let mut new = v1beta2::ScaleOptions { min_replicas, max_replicas, knative, keda: None };
    let mut workload_type = None;
    if keda.is_some() || !triggers.is_empty() {
        let super::Keda { scaled_object, scaled_job } = keda.unwrap_or_default();
        if let Some(object) = &scaled_object {
            new.max_replicas = object.max_replica_count.or(new.max_replicas);
            new.min_replicas = object.min_replica_count.or(new.min_replicas);
            workload_type = Some(object.workload_type.unwrap_or_default());
        }
        if let Some(job) = &scaled_job {
            new.max_replicas = job.max_replica_count.or(new.max_replicas);
            workload_type = Some(WorkloadType::Job);
        }
        let scaled_object = scaled_object.map(|old| v1beta2::ScaledObject {
            polling_interval: old.polling_interval,
            cooldown_period: old.cooldown_period,
            advanced: old.advanced,
            fallback: None,
        });
        let scaled_job = scaled_job.map(|old| v1beta2::ScaledJob {
            restart_policy: old.restart_policy,
            polling_interval: old.polling_interval,
            successful_jobs_history_limit: old.successful_jobs_history_limit,
            failed_jobs_history_limit: old.failed_jobs_history_limit,
            scaling_strategy: old.scaling_strategy,
        });
        new.keda = Some(v1beta2::Keda { http_scaled_object: None, scaled_object, scaled_job, triggers });
    }
    (Some(new), workload_type)
}

impl From<Trigger> for ScaleTrigger {
    fn from(old: Trigger) -> Self {
        let Trigger { kind, metadata, name, metric_type, use_cached_metrics, authentication_ref, target_kind: _ } = old;
        Self { kind, metadata, name, metric_type, use_cached_metrics, authentication_ref }
    }
}

fn hooks(plugins: Plugins) -> Hooks {
    let Plugins { order, pre, post } = plugins;
    let backwards = order.iter().rev().cloned().collect();
    Hooks {
        pre: if pre.is_empty() { order } else { pre },
        post: if post.is_empty() { backwards } else { post },
        policy: Some(HookPolicy::Override),
    }
}

fn tracing(old: OldTracing) -> Tracing {
    let OldTracing { enabled, provider, tags, baggage } = old;
    let OldProvider { name, oap_server, exporter } = provider;
    let exporter = exporter.map(|old| {
        let OldExporter { name, endpoint, headers, compression, timeout, protocol } = old;
        Exporter { name, endpoint, headers, compression, timeout, protocol }
    });
    let provider = TracingProvider { name, oap_server, exporter };
    Tracing { enabled: enabled.eq_ignore_ascii_case("true"), provider, tags, baggage }
}

/// What an annotation holds as YAML; `None` where it is not there, is empty, or cannot be read, which keeps nothing from running.
fn annotation<T: DeserializeOwned>(
    annotations: Option<&Map<String, Value>>,
    name: &str,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let text = annotations?.get(name)?.as_str()?;
    let path = FieldPath::root().key("metadata").key("annotations").key(name);
    let json = match manifest::document(text) {
        Ok(node) => node.to_json(),
        Err(problem) => {
            problems.push(Problem { path, severity: Severity::Warning, ..problem });
            return None;
        }
    };
    let read: Result<Option<T>, _> = serde_path_to_error::deserialize(texts(json));
    match read {
        Ok(read) => read,
        Err(e) => {
            let message = format!("`{}` cannot be read: {}", e.path(), e.inner());
            problems.push(Problem::warning(path, message));
            None
        }
    }
}

/// Every scalar as text, and nothing where there is null.
fn texts(json: Value) -> Value {
    match json {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| (name, texts(value))).collect()
        }
        Value::Array(items) => items.into_iter().filter(|item| !item.is_null()).map(texts).collect(),
        Value::Bool(value) => Value::String(value.to_string()),
        Value::Number(number) => Value::String(number.to_string()),
        other @ (Value::Null | Value::String(_)) => other,
    }
}
