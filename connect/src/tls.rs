//! How evoke trusts a server and logs in to it: `tls` and `sasl` of a manifest, validated and with their secrets looked up.

use evoke_api::credentials::{Sasl, Secret, Tls, ValueFrom};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::fields::Fields;

/// A validated `tls`. Its being there means that the connection is encrypted. Everything secret prints as `***`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPlan {
    /// PEM: the authorities to trust instead of the system's.
    pub ca: Option<Secret>,
    /// Who this client is.
    pub identity: Option<Identity>,
    /// The name the server's certificate must carry, where it is not the host of its address.
    pub server_name: Option<String>,
    /// Trusts any certificate.
    pub insecure_skip_verify: bool,
}

/// A client certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The chain, the client's own certificate first.
    pub cert: Secret,
    /// The private key, not encrypted.
    pub key: Secret,
}

impl TlsPlan {
    /// Validates the `tls` of a source or bus. `implied` is true where another field (`authRequired`, `enableTLS`) already asks for
    /// TLS. `None` is plain text, or a problem that was pushed.
    pub fn plan(fields: &mut Fields<'_>, spec: Option<&Tls>, implied: bool) -> Option<Self> {
        let Some(spec) = spec else { return implied.then(Self::default) };
        let mut fields = fields.under("tls");
        if spec.disabled == Some(true) {
            if *spec != (Tls { disabled: Some(true), ..Tls::default() }) {
                let message = "`tls` is disabled, so its other fields are ignored";
                fields.warning("disabled", message, "remove `disabled` to use TLS");
            }
            return None;
        }
        let ca = fields.secret("ca", spec.ca.as_ref(), spec.ca_from.as_ref());
        let cert = fields.secret("cert", spec.cert.as_ref(), spec.cert_from.as_ref());
        let key = fields.secret("key", spec.key.as_ref(), spec.key_from.as_ref());
        let ca = ca.filter(|ca| certificates(&mut fields, "ca", ca));
        let named = |plain: Option<&Secret>, from: Option<&ValueFrom>| plain.is_some() || from.is_some();
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => {
                let sound = certificates(&mut fields, "cert", &cert) & private_key(&mut fields, &key);
                sound.then_some(Identity { cert, key })
            }
            (Some(_), None) if !named(spec.key.as_ref(), spec.key_from.as_ref()) => {
                fields.error("cert", "a client certificate needs its key", "add `key` or `keyFrom`");
                None
            }
            (None, Some(_)) if !named(spec.cert.as_ref(), spec.cert_from.as_ref()) => {
                fields.error("key", "a client key needs its certificate", "add `cert` or `certFrom`");
                None
            }
            _ => None,
        };
        if let Some(name) = &spec.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            fields.error("serverName", format!("{name:?} is no host name"), "write it without scheme and port");
        }
        let insecure_skip_verify = spec.insecure_skip_verify.unwrap_or(false);
        if insecure_skip_verify {
            let message = "any certificate is trusted, so anyone in between can read and change events and credentials";
            fields.warning("insecureSkipVerify", message, "name the server's authority in `tls.ca` instead");
        }
        Some(Self { ca, identity, server_name: spec.server_name.clone(), insecure_skip_verify })
    }
}

/// An empty value stands for a secret that is elsewhere; a connection that gets one fails and says so.
fn certificates(fields: &mut Fields<'_>, field: &str, pem: &Secret) -> bool {
    if pem.expose().is_empty() {
        return true;
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.expose().as_bytes()).collect();
    let sound = found.is_ok_and(|certificates| !certificates.is_empty());
    if !sound {
        fields.error(field, "holds no PEM certificate", "it starts with `-----BEGIN CERTIFICATE-----`");
    }
    sound
}

fn private_key(fields: &mut Fields<'_>, pem: &Secret) -> bool {
    if pem.expose().is_empty() {
        return true;
    }
    let sound = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).is_ok();
    if !sound {
        let hint = "it starts with `-----BEGIN PRIVATE KEY-----` and is not encrypted";
        fields.error("key", "holds no PEM private key", hint);
    }
    sound
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mechanism {
    /// `PLAIN`.
    #[default]
    Plain,
    /// `SCRAM-SHA-256`.
    ScramSha256,
    /// `SCRAM-SHA-512`.
    ScramSha512,
}

impl Mechanism {
    /// The name it is registered under.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// Reads a name, also in lower case.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Plain, Self::ScramSha256, Self::ScramSha512].into_iter().find(|m| name.eq_ignore_ascii_case(m.as_str()))
    }
}

/// A validated `sasl`, as far as it is set: which of the fields must be there is the caller's matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaslPlan {
    /// The mechanism, where one is named.
    pub mechanism: Option<Mechanism>,
    /// The user.
    pub username: Option<Secret>,
    /// The password.
    pub password: Option<Secret>,
}

impl SaslPlan {
    /// Validates the `sasl` of a source or bus; empty where there is none.
    pub fn plan(fields: &mut Fields<'_>, spec: Option<&Sasl>) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let mut fields = fields.under("sasl");
        let username = fields.secret("username", spec.username.as_ref(), spec.username_from.as_ref());
        let password = fields.secret("password", spec.password.as_ref(), spec.password_from.as_ref());
        let mechanism = spec.mechanism.as_deref().and_then(|name| {
            let mechanism = Mechanism::parse(name);
            if mechanism.is_none() {
                let message = format!("{name:?} is no SASL mechanism that evoke has");
                fields.error("mechanism", message, "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
            }
            mechanism
        });
        Self { mechanism, username, password }
    }

    /// The same for servers that take a user and a password and know no mechanisms: `has_none` says so, to whoever names one.
    pub fn plan_login(fields: &mut Fields<'_>, spec: Option<&Sasl>, has_none: &str) -> Self {
        let sasl = Self::plan(fields, spec);
        if sasl.mechanism.is_some_and(|mechanism| mechanism != Mechanism::Plain) {
            let message = format!("{has_none}: only the user and the password are used");
            fields.warning("sasl", message, "remove it, and use TLS so that the password is not seen");
        }
        sasl
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::problem::FieldPath;

    use super::*;
    use crate::fields::tests;

    fn planned<T>(plan: impl FnOnce(&mut Fields<'_>) -> T) -> (T, Vec<String>) {
        tests::planned(FieldPath::spec().key("kafka").key("ev"), |mut fields| plan(&mut fields))
    }

    const CERT: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

    fn tls(spec: &Tls) -> (Option<TlsPlan>, Vec<String>) {
        planned(|fields| TlsPlan::plan(fields, Some(spec), false))
    }

    #[test]
    fn absent_tls_is_what_is_implied() {
        assert_eq!(planned(|fields| TlsPlan::plan(fields, None, true)).0, Some(TlsPlan::default()));
        assert_eq!(planned(|fields| TlsPlan::plan(fields, None, false)).0, None);
    }

    #[test]
    fn disabled_wins_and_says_what_it_ignores() {
        assert_eq!(tls(&Tls { disabled: Some(true), ..Tls::default() }), (None, vec![]));
        let spec = Tls { disabled: Some(true), server_name: Some("k".into()), ..Tls::default() };
        let (plan, problems) = tls(&spec);
        assert_eq!(plan, None);
        assert!(problems[0].starts_with("spec.kafka.ev.tls.disabled: `tls` is disabled"), "{problems:?}");
    }

    #[test]
    fn a_certificate_and_its_key_need_each_other() {
        let (plan, problems) = tls(&Tls { cert: Some(Secret::new(CERT)), ..Tls::default() });
        assert_eq!(plan.and_then(|p| p.identity), None);
        assert_eq!(problems, ["spec.kafka.ev.tls.cert: a client certificate needs its key; add `key` or `keyFrom`"]);
        let spec = Tls { cert: Some(Secret::new(CERT)), key: Some(Secret::new(KEY)), ..Tls::default() };
        let (plan, problems) = tls(&spec);
        assert!(plan.is_some_and(|p| p.identity.is_some()) && problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn a_key_that_is_nowhere_is_one_problem() {
        let from = ValueFrom { env: Some("NOPE".into()), ..ValueFrom::default() };
        let (_, problems) = tls(&Tls { cert: Some(Secret::new(CERT)), key_from: Some(from), ..Tls::default() });
        assert_eq!(problems, ["spec.kafka.ev.tls.keyFrom: there is no such secret"]);
    }

    #[test]
    fn text_that_is_no_certificate_or_name_is_refused() {
        let (_, problems) = tls(&Tls { ca: Some(Secret::new("hello")), ..Tls::default() });
        assert!(problems[0].starts_with("spec.kafka.ev.tls.ca: holds no PEM certificate"), "{problems:?}");
        let (_, problems) = tls(&Tls { server_name: Some("https://k:9".into()), ..Tls::default() });
        assert!(
            problems[0].starts_with("spec.kafka.ev.tls.serverName: \"https://k:9\" is no host name"),
            "{problems:?}"
        );
    }

    #[test]
    fn mechanisms_are_read_in_any_case_and_refused_by_name() {
        let plan = |mechanism: &str| {
            let spec = Sasl { mechanism: Some(mechanism.into()), ..Sasl::default() };
            planned(|fields| SaslPlan::plan(fields, Some(&spec)))
        };
        assert_eq!(plan("scram-sha-512").0.mechanism, Some(Mechanism::ScramSha512));
        let (_, problems) = plan("GSSAPI");
        assert!(problems[0].contains("\"GSSAPI\" is no SASL mechanism that evoke has; use PLAIN"), "{problems:?}");
    }

    #[test]
    fn secrets_never_print() {
        let spec = Tls { ca: Some(Secret::new(CERT)), ..Tls::default() };
        let sasl = Sasl { password: Some(Secret::new("hunter2")), ..Sasl::default() };
        let (sasl, _) = planned(|fields| SaslPlan::plan(fields, Some(&sasl)));
        let printed = format!("{:?} {sasl:?}", tls(&spec).0);
        assert!(!printed.contains("MAA=") && !printed.contains("hunter2"), "{printed}");
    }
}
