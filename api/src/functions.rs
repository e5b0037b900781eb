//! `core.openfunction.io`: Function. `v1beta2` is the type that everything works with; `v1beta1` is read and converted to it.

mod build;
mod component;
mod route;
mod scaling;
mod serving;
pub mod v1beta1;

use k8s_openapi::api::core::v1::Container;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use build::{
    BuildParam, BuildSpec, BuildStrategy, BuildStrategyKind, BundleContainer, KeyReference, Shipwright, SourceRepo,
    Value,
};
pub use component::{ComponentMetadata, ComponentSpec, SecretKey, State};
pub use route::{
    BackendRef, GatewayRef, HeaderMatch, HttpHeader, HttpMethod, HttpRule, MatchType, ObjectRef, PathMatch,
    PathMatchType, RedirectCode, RedirectScheme, RequestHeaderModifier, RequestMirror, RequestRedirect, Route,
    RouteFilter, RouteFilterType, RouteMatch,
};
pub use scaling::{Fallback, HttpScaledObject, Keda, RestartPolicy, ScaleOptions, ScaledJob, ScaledObject};
pub use serving::{
    DaprInput, DaprOutput, DaprTrigger, Exporter, HookPolicy, Hooks, HttpEngine, HttpTrigger, Input, Output, Serving,
    Tracing, TracingProvider, Triggers, WorkloadType,
};

/// The API group and version of Function as evoke works with it.
pub const API_VERSION: &str = "core.openfunction.io/v1beta2";

/// The container of `serving.template` that is the function itself.
pub const CONTAINER: &str = "function";

/// Function v1beta2: what is built, and how it is served.
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
    /// How the image is built from source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
    /// How the function is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
}

impl FunctionSpec {
    /// The container called `function` of `serving.template`.
    pub fn container(&self) -> Option<&Container> {
        let template = self.serving.as_ref()?.template.as_ref()?;
        template.containers.iter().find(|container| container.name == CONTAINER)
    }
}

/// A reference to an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalReference {
    /// The object's name.
    #[serde(default)]
    pub name: String,
}
