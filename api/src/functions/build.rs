use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LocalReference;

/// `build`: from source to an image, with `builder` (buildpacks) or `dockerfile`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildSpec {
    /// Where the source comes from.
    pub src_repo: SourceRepo,
    /// The image of the Cloud Native Buildpacks builder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// The Secret with the credentials of the builder's registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder_credentials: Option<LocalReference>,
    /// The Dockerfile's path in the source, instead of a builder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// Environment variables of the build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How Shipwright builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shipwright: Option<Shipwright>,
    /// How long a build may take, Go or ISO-8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    /// How long finished builds are kept, Go or ISO-8601; for ever by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub builder_max_age: Option<String>,
    /// How many successful builds are kept; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successful_builds_history_limit: Option<i32>,
    /// How many failed builds are kept; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_builds_history_limit: Option<i32>,
}

/// `build.srcRepo`: a git repository (`url`) or an image that holds the source (`bundleContainer`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceRepo {
    /// The repository's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A branch, tag or commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The function's folder in the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_sub_path: Option<String>,
    /// The Secret with the repository's credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<LocalReference>,
    /// An image that holds the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_container: Option<BundleContainer>,
}

/// An image that holds source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleContainer {
    /// The image.
    pub image: String,
}

/// `build.shipwright`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shipwright {
    /// The strategy that builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<BuildStrategy>,
    /// How long the build may take, Go or ISO-8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    /// The strategy's parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<BuildParam>,
}

/// A reference to a Shipwright strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildStrategy {
    /// The strategy's name.
    pub name: String,
    /// Whether it belongs to the namespace or to the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<BuildStrategyKind>,
}

/// Whose strategy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "Shipwright's own kinds")]
pub enum BuildStrategyKind {
    BuildStrategy,
    ClusterBuildStrategy,
}

/// One parameter of a strategy: a single value, or `values`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildParam {
    /// The parameter's name.
    pub name: String,
    /// The value itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value, from a ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_value: Option<KeyReference>,
    /// The value, from a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_value: Option<KeyReference>,
    /// The values of a list parameter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Value>,
}

/// One value of a list parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Value {
    /// The value itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value, from a ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_value: Option<KeyReference>,
    /// The value, from a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_value: Option<KeyReference>,
}

/// One key of a ConfigMap or Secret, and how its value is put into the parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyReference {
    /// The object's name.
    pub name: String,
    /// The key in it.
    pub key: String,
    /// Text around the value, which stands for `${SECRET_VALUE}` or `${CONFIGMAP_VALUE}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}
