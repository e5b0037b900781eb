//! Credentials on a laptop: Secret manifests, variables of the environment, and files beside the manifest.

use std::collections::BTreeSet;
use std::env::VarError;
use std::path::{Path, PathBuf};

use evoke_api::catalog::Catalog;
use evoke_api::credentials::{Secret, SecretKeyRef, ValueFrom, Vault};
use evoke_api::manifest::{Object, ObjectValue};
use evoke_api::names::ObjectName;
use evoke_api::problem::{FieldPath, Problem};
use serde_json::Value;

/// Looks credentials up for the objects of one manifest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalVault<'a> {
    /// Where Secret manifests are.
    pub(crate) catalog: &'a Catalog,
    /// What relative files are relative to.
    pub(crate) manifest_dir: &'a Path,
    /// True where a missing secret may be elsewhere: it is then empty, which plans take for one they cannot check.
    pub(crate) lenient: bool,
}

impl Vault for LocalVault<'_> {
    fn look_up(&self, namespace: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
        let found = match (&from.secret_key_ref, &from.env, &from.file) {
            (Some(key), None, None) => self.secret(namespace, key, &path.key("secretKeyRef")),
            (None, Some(name), None) => std::env::var(name).map(Secret::new).map_err(|error| {
                // The error would print the value, which is a secret.
                let message = match error {
                    VarError::NotPresent => format!("variable {name}: {error}"),
                    VarError::NotUnicode(_) => format!("variable {name} is no UTF-8 text"),
                };
                Problem::error(path.key("env"), message).hint("set it where evoke is started")
            }),
            (None, None, Some(file)) => self.file(file, &path.key("file")),
            _ => {
                let message = "exactly one of `secretKeyRef`, `env` and `file` must be set";
                return Err(Problem::error(path.clone(), message));
            }
        };
        match found {
            Err(_) if self.lenient => Ok(Secret::default()),
            found => found,
        }
    }
}

impl LocalVault<'_> {
    fn secret(&self, namespace: &str, from: &SecretKeyRef, path: &FieldPath) -> Result<Secret, Problem> {
        let name = ObjectName::new(from.namespace.as_deref().unwrap_or(namespace), from.name.as_str());
        let Some(keys) = self.catalog.secrets.get(&name) else {
            let hint = "add a Secret manifest of that name, or take the value from `env` or `file`";
            return Err(Problem::error(path.key("name"), format!("there is no Secret {name}")).hint(hint));
        };
        if keys.bytes(&from.key).is_none() {
            let known: Vec<_> = keys.keys().map(|key| format!("`{key}`")).collect();
            let hint = format!("it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
            return Err(Problem::error(path.key("key"), format!("Secret {name} has no key `{}`", from.key)).hint(hint));
        }
        keys.text(&from.key).ok_or_else(|| {
            Problem::error(path.key("key"), format!("`{}` of Secret {name} is no UTF-8 text", from.key))
                .hint("credentials are text; certificates are PEM")
        })
    }

    fn file(&self, file: &str, path: &FieldPath) -> Result<Secret, Problem> {
        let full = self.manifest_dir.join(file);
        match std::fs::read_to_string(&full) {
            Ok(text) => {
                let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
                Ok(Secret::new(text))
            }
            Err(error) => {
                let message = format!("{} cannot be read: {error}", full.display());
                Err(Problem::error(path.clone(), message).hint("paths are relative to the manifest"))
            }
        }
    }
}

/// The files that these objects have credentials from.
pub(crate) fn files(objects: &[Object]) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for object in objects {
        let spec = match &object.value {
            ObjectValue::EventSource(spec) => serde_json::to_value(spec),
            ObjectValue::EventBus(spec) | ObjectValue::ClusterEventBus(spec) => serde_json::to_value(spec),
            // Only what connects to a server, or lets somebody in, has credentials that may be in a file.
            ObjectValue::Trigger(_)
            | ObjectValue::Function(_)
            | ObjectValue::Secret(_)
            | ObjectValue::Service(_)
            | ObjectValue::KnativeService(_) => continue,
        };
        let manifest_dir = Path::new(&*object.file).parent().unwrap_or(Path::new(""));
        collect(&spec.unwrap_or_default(), manifest_dir, &mut files);
    }
    files
}

fn collect(value: &Value, manifest_dir: &Path, files: &mut BTreeSet<PathBuf>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.get("file").and_then(Value::as_str) {
                    Some(file) if name.ends_with("From") => _ = files.insert(manifest_dir.join(file)),
                    _ => collect(value, manifest_dir, files),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, manifest_dir, files)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::manifest::{Schemas, SourceFile, load};

    use super::*;

    #[test]
    fn files_are_found_wherever_a_credential_may_be() {
        let text = "
apiVersion: events.openfunction.io/v1alpha1
kind: EventSource
metadata: {name: s}
spec:
  eventBus: default
  kafka:
    k:
      brokers: a:9092
      sasl: {username: u, passwordFrom: {file: secrets/password}}
      tls: {caFrom: {file: /etc/ca.pem}}
  webhook:
    w: {auth: {bearerTokenFrom: {file: ../token}}}
    x: {auth: {bearerTokenFrom: {env: TOKEN}}}
---
apiVersion: events.openfunction.io/v1alpha1
kind: EventBus
metadata: {name: default}
spec:
  jetStream: {url: 'nats://n:4222', auth: {credentialsFrom: {file: user.creds}}}
";
        let loaded = load(&Schemas::new(), &[SourceFile::new("m/all.yaml", text)], &[]);
        assert_eq!(loaded.diagnostics, []);
        let files = files(&loaded.objects);
        let files: Vec<_> = files.iter().map(|file| file.to_str().unwrap()).collect();
        assert_eq!(files, ["/etc/ca.pem", "m/../token", "m/secrets/password", "m/user.creds"]);
    }
}
