//! The few objects of others that plans look at: Secrets for credentials, Services and Knative Services for sinks.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Secret as KubernetesSecret, ServiceSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::credentials::Secret;

/// What a Secret holds: `data` decoded, with `stringData` over it. `Debug` prints the keys only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData(BTreeMap<String, Vec<u8>>);

impl SecretData {
    /// The bytes under `key`.
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// The text under `key`; `None` where there is none, or no UTF-8.
    pub fn text(&self, key: &str) -> Option<Secret> {
        self.bytes(key).and_then(|bytes| std::str::from_utf8(bytes).ok()).map(Secret::new)
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl From<KubernetesSecret> for SecretData {
    fn from(secret: KubernetesSecret) -> Self {
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        let text = secret.string_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        Self(data.chain(text).collect())
    }
}

impl<K: Into<String>, V: Into<Vec<u8>>> FromIterator<(K, V)> for SecretData {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretData").field(&self.keys().collect::<Vec<_>>()).finish()
    }
}

/// What a Service says about its ports.
pub type Service = ServiceSpec;

/// What a Knative Service says about its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct KnativeService {
    /// `status.url`, once the service has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_its_values() {
        let data: SecretData = [("password", "hunter2"), ("binary", "ok")].into_iter().collect();
        assert_eq!(format!("{data:?}"), r#"SecretData(["binary", "password"])"#);
        assert_eq!(data.text("password").unwrap().expose(), "hunter2");
        assert_eq!(data.bytes("absent"), None);
        let broken: SecretData = [("k", vec![0xff])].into_iter().collect();
        assert_eq!(broken.text("k"), None);
    }

    #[test]
    fn string_data_goes_over_data() {
        let secret: KubernetesSecret = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {},
            "data": {"a": "b25l", "b": "dHdv"}, "stringData": {"b": "three"},
        }))
        .unwrap();
        let data = SecretData::from(secret);
        assert_eq!(data.text("a").unwrap().expose(), "one");
        assert_eq!(data.text("b").unwrap().expose(), "three");
    }
}
