//! `url`, `auth` and `tls` of a manifest, validated and with their secrets looked up.

use evoke_api::credentials::{NatsAuth, Secret, Tls};
use evoke_api::problem::Problem;
use url::Url;

use crate::fields::Fields;
use crate::tls::TlsPlan;

/// How to reach NATS. Everything secret prints as `***`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsPlan {
    /// Addresses, `nats://host:port` or `tls://host:port`.
    pub servers: Vec<String>,
    /// How to log in.
    pub login: Login,
    /// TLS, where it is asked for.
    pub tls: Option<TlsPlan>,
}

/// How to log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// Not at all, or by a client certificate alone.
    #[default]
    None,
    /// With a password.
    User {
        /// The user.
        username: Secret,
        /// The password.
        password: Secret,
    },
    /// With a token.
    Token(Secret),
    /// With the seed of an NKey.
    Nkey(Secret),
    /// With the text of a credentials file.
    Credentials(Secret),
}

/// The parts of a spec that say how to reach NATS.
#[derive(Clone, Copy, Debug)]
pub struct NatsSpec<'a> {
    /// The field that holds the addresses.
    pub url_field: &'a str,
    /// Addresses, separated by commas.
    pub url: &'a str,
    /// `auth`.
    pub auth: Option<&'a NatsAuth>,
    /// `tls`.
    pub tls: Option<&'a Tls>,
}

impl NatsPlan {
    /// Validates what a spec says. `None` when an error was pushed.
    pub fn plan(mut fields: Fields<'_>, spec: NatsSpec<'_>) -> Option<Self> {
        let (servers, encrypted) = servers(&mut fields, spec.url_field, spec.url);
        let disabled = spec.tls.is_some_and(|tls| tls.disabled == Some(true));
        if encrypted && disabled {
            let message = format!("`{}` asks for TLS, `tls` disables it", spec.url_field);
            fields.under("tls").error("disabled", message, "write `nats://`, or remove it");
        }
        let tls = TlsPlan::plan(&mut fields, spec.tls, encrypted);
        let login = spec.auth.map_or(Some(Login::None), |auth| login(fields.under("auth"), auth));
        let plan = Self { servers, login: login.unwrap_or_default(), tls };
        fields.is_sound().then_some(plan)
    }
}

/// Addresses, and whether one of them asks for TLS.
fn servers(fields: &mut Fields<'_>, field: &str, text: &str) -> (Vec<String>, bool) {
    let mut servers = Vec::new();
    let mut encrypted = false;
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match server(part) {
            Ok((server, tls)) => {
                encrypted |= tls;
                if !servers.contains(&server) {
                    servers.push(server);
                }
            }
            Err((message, hint)) => fields.error(field, message, hint),
        }
    }
    if text.split(',').all(|part| part.trim().is_empty()) {
        fields.error(field, "names no server", "write `nats://host:4222`");
    }
    (servers, encrypted)
}

/// One address, made whole, and whether it asks for TLS. What is wrong with it quotes no user and no password.
fn server(text: &str) -> Result<(String, bool), (String, &'static str)> {
    const EXAMPLE: &str = "write it as `nats://host:4222` or `tls://host:4222`";
    let whole = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let url = Url::parse(&whole).map_err(|error| (format!("holds no address of a server: {error}"), EXAMPLE))?;
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "move them to `auth`, where they can come from a secret and are never shown";
        return Err(("holds credentials".to_owned(), hint));
    }
    let encrypted = match url.scheme() {
        "nats" => false,
        "tls" => true,
        other => return Err((format!("has the scheme {other:?}, which is not one of NATS"), EXAMPLE)),
    };
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err(("holds an address without a host".to_owned(), EXAMPLE));
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err((format!("has more than a host and a port for {host:?}"), EXAMPLE));
    }
    Ok((format!("{}://{host}:{}", url.scheme(), url.port().unwrap_or(4222)), encrypted))
}

fn login(mut fields: Fields<'_>, auth: &NatsAuth) -> Option<Login> {
    let username = fields.secret("username", auth.username.as_ref(), auth.username_from.as_ref());
    let password = fields.secret("password", auth.password.as_ref(), auth.password_from.as_ref());
    let token = fields.secret("token", auth.token.as_ref(), auth.token_from.as_ref());
    let nkey = fields.secret("nkey", auth.nkey.as_ref(), auth.nkey_from.as_ref());
    let credentials = fields.secret("credentials", auth.credentials.as_ref(), auth.credentials_from.as_ref());
    if !fields.is_sound() {
        return None;
    }
    let ways = [
        ("username", username.is_some() || password.is_some()),
        ("token", token.is_some()),
        ("nkey", nkey.is_some()),
        ("credentials", credentials.is_some()),
    ];
    let ways: Vec<&str> = ways.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect();
    if let [_, second, ..] = ways[..] {
        fields.error(second, format!("has several ways to log in: {}", ways.join(", ")), "keep one of them");
        return None;
    }
    match (username, password) {
        (Some(username), Some(password)) => return Some(Login::User { username, password }),
        (Some(_), None) => {
            fields.error("username", "a user needs a password", "add `password` or `passwordFrom`");
            return None;
        }
        (None, Some(_)) => {
            fields.error("password", "a password needs its user", "add `username`; a token alone is `token`");
            return None;
        }
        (None, None) => {}
    }
    if let Some(token) = token {
        return Some(Login::Token(token));
    }
    if let Some(seed) = nkey {
        let seed = Secret::new(seed.expose().trim());
        if !is_seed(&seed) {
            let hint = "it starts with `SU` and has 58 letters and digits";
            fields.error("nkey", "is no seed of a user's NKey", hint);
            return None;
        }
        return Some(Login::Nkey(seed));
    }
    if let Some(text) = credentials {
        // What could log in with it is the one that knows its form.
        #[cfg(feature = "nats")]
        if !text.expose().is_empty() && !super::client::is_credentials(&text) {
            let hint = "it holds `-----BEGIN NATS USER JWT-----` and `-----BEGIN USER NKEY SEED-----`";
            fields.error("credentials", "is no credentials file of a NATS user", hint);
            return None;
        }
        return Some(Login::Credentials(text));
    }
    let problem = Problem::error(fields.whole().clone(), "names no way to log in");
    let hint = "set `username` and `password`, `token`, `nkey` or `credentials`";
    fields.problems().push(problem.hint(hint));
    None
}

/// An empty value stands for a secret that is elsewhere; a connection that gets one fails and says so.
fn is_seed(seed: &Secret) -> bool {
    let seed = seed.expose();
    let base32 = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
    seed.is_empty() || (seed.len() == 58 && seed.starts_with("SU") && seed.bytes().all(base32))
}

#[cfg(test)]
mod tests;
