//! An operator of NATS with one account, which signs the credentials of users.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// Signs credentials.
pub struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").finish_non_exhaustive()
    }
}

impl Operator {
    /// A new operator.
    pub fn new() -> Self {
        Self { key: KeyPair::new_operator(), account: KeyPair::new_account(), system: KeyPair::new_account() }
    }

    /// The lines of a server's configuration that trust it.
    pub fn settings(&self) -> Vec<String> {
        let operator = sign(&self.key, &self.key, "operator", &json!({"type": "operator", "version": 2}), None);
        vec![
            format!("operator: {operator}"),
            format!("system_account: {}", self.system.public_key()),
            "resolver: MEMORY".to_owned(),
            self.accounts(&json!({})),
        ]
    }

    /// What takes the place of the line of [`Operator::settings`] that starts with `resolver_preload` once the user of some
    /// credentials is revoked.
    pub fn revoking(&self, credentials: &str) -> String {
        let (_, seed) = credentials.split_once("USER NKEY SEED-----\n").expect("credentials of an operator");
        let user = KeyPair::from_seed(seed.lines().next().unwrap_or_default()).unwrap().public_key();
        self.accounts(&json!({ user: seconds(SystemTime::now()) }))
    }

    fn accounts(&self, revocations: &Value) -> String {
        let without_end = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
        let account = sign(
            &self.key,
            &self.account,
            "account",
            &json!({"type": "account", "version": 2, "limits": without_end, "revocations": revocations}),
            None,
        );
        let system_limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": -1});
        let system = sign(
            &self.key,
            &self.system,
            "system",
            &json!({"type": "account", "version": 2, "limits": system_limits}),
            None,
        );
        format!(
            "resolver_preload {{ {}: {account}, {}: {system} }}",
            self.account.public_key(),
            self.system.public_key()
        )
    }

    /// The text of a new user's credentials file, good until `lifetime` from now.
    pub fn credentials(&self, lifetime: Duration) -> String {
        self.credentials_until(SystemTime::now() + lifetime)
    }

    /// The text of a new user's credentials file that has expired.
    pub fn expired_credentials(&self) -> String {
        self.credentials_until(SystemTime::now() - Duration::from_secs(3600))
    }

    fn credentials_until(&self, end: SystemTime) -> String {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        let jwt = sign(&self.account, &user, "user", &claims, Some(end));
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    }
}

impl Default for Operator {
    fn default() -> Self {
        Self::new()
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn sign(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: &Value, end: Option<SystemTime>) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut body = json!({
        "jti": subject.public_key(), "iat": seconds(SystemTime::now()) - 10, "iss": issuer.public_key(),
        "name": name, "sub": subject.public_key(), "nats": claims,
    });
    if let Some(end) = end {
        body["exp"] = seconds(end).into();
    }
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&body));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
