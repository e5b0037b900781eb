use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Dapr component: a binding, a pub/sub or a state store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentSpec {
    /// Dapr's name of the component's type, such as `pubsub.kafka`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The type's version, such as `v1`.
    pub version: String,
    /// Whether the function starts without the component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_errors: Option<bool>,
    /// How long the component may take to start, Go or ISO-8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration"))]
    pub init_timeout: Option<String>,
    /// The component's settings.
    pub metadata: Vec<ComponentMetadata>,
}

/// One setting of a component: a value, or a key of a Secret. `Debug` does not print the value, which may be a password.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentMetadata {
    /// The setting's name.
    pub name: String,
    /// Its value, of any type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Its value, from a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKey>,
}

impl fmt::Debug for ComponentMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ComponentMetadata");
        out.field("name", &self.name).field("secret_key_ref", &self.secret_key_ref).finish_non_exhaustive()
    }
}

/// A key of a Secret in the function's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// `serving.states.{name}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// The state store; without one, a component of that name must exist already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<ComponentSpec>,
}
