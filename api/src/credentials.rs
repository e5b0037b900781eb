//! Secrets: where a manifest says they come from, and a type that never prints them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{FieldPath, Problem};

/// Text that must never reach a log, a status, an event or `Debug` output.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("writeOnly" = true))]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Where a credential comes from: the value of any `...From` field. Exactly one of the three is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueFrom {
    /// A key of a Secret in the object's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// An environment variable (on a laptop only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// A file whose text, less one trailing newline, is the value; relative to the manifest (on a laptop only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// One key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    /// The Secret's name.
    pub name: String,
    /// The key in its `data` or `stringData`.
    pub key: String,
    /// The Secret's namespace: a ClusterEventBus, which is in none, must name it; others have the Secrets of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// `sasl`: how to log in to a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; `PLAIN` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Secret>,
    /// The user, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_from: Option<ValueFrom>,
    /// The password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The password, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_from: Option<ValueFrom>,
}

/// `auth` of NATS: one of a user with a password, a token, an NKey, or a credentials file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatsAuth {
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Secret>,
    /// The user, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_from: Option<ValueFrom>,
    /// The password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The password, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_from: Option<ValueFrom>,
    /// A token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// The token, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_from: Option<ValueFrom>,
    /// The seed of a user's NKey, which starts with `SU`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<Secret>,
    /// The seed of a user's NKey, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey_from: Option<ValueFrom>,
    /// The text of a credentials file: a user's JWT and the seed of its NKey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Secret>,
    /// A credentials file, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_from: Option<ValueFrom>,
}

/// `tls`: how to trust a server and be trusted by it. PEM text, or from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Certificate authorities to trust instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Secret>,
    /// `ca`, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<ValueFrom>,
    /// The client's certificate chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<Secret>,
    /// `cert`, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_from: Option<ValueFrom>,
    /// The client's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// `key`, from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_from: Option<ValueFrom>,
    /// The name the server's certificate must carry, where it is not the host of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Trusts any certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
    /// Speaks plain text where a field such as `authRequired` would imply TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// Where credentials are looked up while an object is planned: Secret manifests, variables and files on a laptop, mounted
/// files in a cluster. The one thing of planning that differs between the two.
pub trait Vault {
    /// The value that `from`, found at `path` in an object of `namespace`, stands for; the problem if there is none.
    fn look_up(&self, namespace: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem>;
}

/// The value of a credential field `name` beside its `{name}From`: both set, or a source that is not there, is a problem.
pub fn resolve(
    vault: &dyn Vault,
    namespace: &str,
    path: &FieldPath,
    name: &str,
    plain: Option<&Secret>,
    from: Option<&ValueFrom>,
    problems: &mut Vec<Problem>,
) -> Option<Secret> {
    match (plain, from) {
        (Some(_), Some(_)) => {
            let both = format!("`{name}` and `{name}From` are both set");
            problems.push(Problem::error(path.key(format!("{name}From")), both).hint("keep one of the two"));
            None
        }
        (Some(secret), None) => Some(secret.clone()),
        (None, Some(from)) => {
            let path = path.key(format!("{name}From"));
            match within_reach(namespace, from, &path).and_then(|()| vault.look_up(namespace, from, &path)) {
                Ok(secret) => Some(secret),
                Err(problem) => {
                    problems.push(problem);
                    None
                }
            }
        }
        (None, None) => None,
    }
}

/// Whether an object of `namespace`, which is empty for a ClusterEventBus, may have the Secret of `from`.
fn within_reach(namespace: &str, from: &ValueFrom, path: &FieldPath) -> Result<(), Problem> {
    let Some(key) = &from.secret_key_ref else { return Ok(()) };
    let path = path.key("secretKeyRef").key("namespace");
    match key.namespace.as_deref() {
        None if namespace.is_empty() => {
            let message = "must be set: a ClusterEventBus is in no namespace where the Secret could be looked for";
            Err(Problem::error(path, message).hint("name the namespace of the Secret"))
        }
        Some(other) if !namespace.is_empty() && other != namespace => {
            let message =
                format!("the Secrets of namespace {other:?} are not for an object of namespace {namespace:?}");
            let hint =
                "keep the Secret in the object's namespace and leave this out; only a ClusterEventBus names another";
            Err(Problem::error(path, message).hint(hint))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Env;

    impl Vault for Env {
        fn look_up(&self, namespace: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
            match from.env.as_deref() {
                Some("SET") => Ok(Secret::new(format!("of {namespace}"))),
                _ => Err(Problem::error(path.clone(), "there is no such variable")),
            }
        }
    }

    /// What `password` and `passwordFrom` come to.
    fn password(plain: Option<&str>, from: Option<&str>) -> Result<Option<String>, String> {
        let plain = plain.map(Secret::new);
        let from = from.map(|name| ValueFrom { env: Some(name.to_owned()), ..ValueFrom::default() });
        let mut problems = Vec::new();
        let path = FieldPath::spec();
        let found = resolve(&Env, "ns", &path, "password", plain.as_ref(), from.as_ref(), &mut problems);
        match problems.pop() {
            Some(problem) => Err(problem.to_string()),
            None => Ok(found.map(|secret| secret.expose().to_owned())),
        }
    }

    #[test]
    fn a_credential_comes_from_one_place() {
        assert_eq!(password(None, None), Ok(None));
        assert_eq!(password(Some("a"), None), Ok(Some("a".to_owned())));
        assert_eq!(password(None, Some("SET")), Ok(Some("of ns".to_owned())));
        assert_eq!(password(None, Some("UNSET")), Err("spec.passwordFrom: there is no such variable".to_owned()));
        let both = "spec.passwordFrom: `password` and `passwordFrom` are both set; keep one of the two";
        assert_eq!(password(Some("a"), Some("SET")), Err(both.to_owned()));
    }

    #[test]
    fn a_secret_of_another_namespace_is_for_a_cluster_event_bus_alone() {
        let reach = |of: &str, named: Option<&str>| {
            let namespace = named.map(str::to_owned);
            let key = SecretKeyRef { name: "s".to_owned(), key: "k".to_owned(), namespace };
            let from = ValueFrom { secret_key_ref: Some(key), ..ValueFrom::default() };
            within_reach(of, &from, &FieldPath::spec()).map_err(|problem| problem.to_string())
        };
        for (of, named) in [("a", None), ("a", Some("a")), ("", Some("a"))] {
            assert_eq!(reach(of, named), Ok(()), "{of:?} {named:?}");
        }
        let missing = "spec.secretKeyRef.namespace: must be set: a ClusterEventBus is in no namespace where the Secret could be \
                       looked for; name the namespace of the Secret";
        assert_eq!(reach("", None), Err(missing.to_owned()));
        let foreign = "spec.secretKeyRef.namespace: the Secrets of namespace \"b\" are not for an object of namespace \"a\"; keep \
                       the Secret in the object's namespace and leave this out; only a ClusterEventBus names another";
        assert_eq!(reach("a", Some("b")), Err(foreign.to_owned()));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let sasl = Sasl { password: Some(Secret::new("hunter2")), ..Sasl::default() };
        assert!(!format!("{sasl:?}").contains("hunter2"));
        assert_eq!(serde_json::to_value(&sasl).unwrap(), serde_json::json!({"password": "hunter2"}));
    }
}
