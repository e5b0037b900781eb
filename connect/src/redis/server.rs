//! Which servers to connect to and how to log in, validated.

use std::time::Duration;

use evoke_api::credentials::{Sasl, Secret, Tls, ValueFrom};

use crate::address::{Address, holds_login};
use crate::fields::Fields;
use crate::tls::{SaslPlan, TlsPlan};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// How long a connection may take to come about, where nothing else is said.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take, where nothing else is said.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The servers that a source or a bus uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlan {
    /// Where they, or their Sentinels, are.
    pub addresses: Vec<Address>,
    /// How the right one is found.
    pub mode: Mode,
    /// The user; the default one when absent.
    pub username: Option<Secret>,
    /// The password.
    pub password: Option<Secret>,
    /// The database.
    pub db: i64,
    /// How the connection is encrypted, if it is.
    pub tls: Option<TlsPlan>,
    /// How long a connection may take to come about.
    pub dial_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
    /// What the manifest calls the fields that errors name.
    pub words: &'static Words,
}

/// What a manifest calls the fields that errors name.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// The addresses.
    pub address: &'static str,
    /// The user.
    pub username: &'static str,
    /// The password.
    pub password: &'static str,
    /// What to do where a user has no password.
    pub add_password: &'static str,
    /// The database.
    pub db: &'static str,
    /// What switches TLS on, as it is written.
    pub tls: &'static str,
    /// What says that a server is part of a cluster, as it is written.
    pub cluster: &'static str,
    /// What says that a server has Sentinels, as it is written.
    pub sentinel: &'static str,
    /// What to do where a key holds something else.
    pub wrong_type: &'static str,
    /// The first version that has all commands.
    pub version: &'static str,
}

/// How the server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The addresses are the server's.
    Node,
    /// The addresses are Sentinels, which know the master of this name.
    Sentinel {
        /// The name.
        master: String,
    },
    /// The addresses are some servers of a cluster.
    Cluster,
}

/// The parts of a spec that say which servers to connect to and how to log in.
#[derive(Clone, Copy, Debug)]
pub struct ServerSpec<'a> {
    /// What its fields are called.
    pub words: &'static Words,
    /// Addresses, separated by commas.
    pub addresses: &'a str,
    /// The user.
    pub username: (Option<&'a Secret>, Option<&'a ValueFrom>),
    /// The password.
    pub password: (Option<&'a Secret>, Option<&'a ValueFrom>),
    /// `sasl`.
    pub sasl: Option<&'a Sasl>,
    /// `tls`.
    pub tls: Option<&'a Tls>,
    /// Whether another field asks for TLS.
    pub encrypted: bool,
    /// The database.
    pub db: Option<i64>,
}

impl ServerPlan {
    /// Validates what a spec says of servers that are found in this way. What is wrong goes to `fields`.
    pub fn plan(fields: &mut Fields<'_>, spec: ServerSpec<'_>, mode: Mode) -> Self {
        let addresses = addresses(fields, &spec, &mode);
        let (username, password) = login(fields, &spec);
        let tls = TlsPlan::plan(fields, spec.tls, spec.encrypted);
        let db = db(fields, &spec, &mode);
        let (dial_timeout, response_timeout) = (DIAL_TIMEOUT, RESPONSE_TIMEOUT);
        let words = spec.words;
        Self { addresses, mode, username, password, db, tls, dial_timeout, response_timeout, words }
    }
}

fn addresses(fields: &mut Fields<'_>, spec: &ServerSpec<'_>, mode: &Mode) -> Vec<Address> {
    let (field, text) = (spec.words.address, spec.addresses);
    let port = if matches!(mode, Mode::Sentinel { .. }) { SENTINEL_PORT } else { PORT };
    let mut addresses = Vec::new();
    if holds_login(text) {
        let Words { username, password, .. } = spec.words;
        let hint = format!("write host:port alone, the user as {username} and the password as {password}From");
        fields.error(field, "a user or a password is no part of an address", hint);
        return addresses;
    }
    for host in text.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        match Address::parse(host, port) {
            Some(address) => addresses.push(address),
            None => {
                let hint = "write host:port, without a scheme; TLS, user and database have fields of their own";
                fields.error(field, format!("{host:?} is no address"), hint);
            }
        }
    }
    if text.split(',').all(|host| host.trim().is_empty()) {
        fields.error(field, "no server is named", "write host:port");
    }
    if *mode == Mode::Node && addresses.len() > 1 {
        let Words { sentinel, cluster, .. } = spec.words;
        let hint = format!("set {sentinel} where these are Sentinels, or `{cluster}`");
        fields.error(field, "several addresses for one server", hint);
    }
    addresses
}

fn login(fields: &mut Fields<'_>, spec: &ServerSpec<'_>) -> (Option<Secret>, Option<Secret>) {
    let sasl = SaslPlan::plan_login(fields, spec.sasl, "Redis has no SASL");
    let words = spec.words;
    let (user, pass) = (spec.username, spec.password);
    let username = fields.secret(words.username, user.0, user.1);
    let password = fields.secret(words.password, pass.0, pass.1);
    let mut only = |field: &str, own: Option<Secret>, sasl: Option<Secret>| {
        if own.is_some() && sasl.is_some() {
            fields.error(field, format!("`{field}` is set here and in `sasl`"), "keep one of the two");
        }
        // OpenFunction's own field is required there, and empty where there is none.
        own.or(sasl).filter(|secret| !secret.expose().is_empty())
    };
    let username = only(words.username, username, sasl.username);
    let password = only(words.password, password, sasl.password);
    let unknown = pass.1.is_some() || spec.sasl.is_some_and(|sasl| sasl.password_from.is_some());
    if username.is_some() && password.is_none() && !unknown {
        fields.error(words.username, "a user needs a password", words.add_password);
    }
    (username, password)
}

fn db(fields: &mut Fields<'_>, spec: &ServerSpec<'_>, mode: &Mode) -> i64 {
    let db = spec.db.unwrap_or_default();
    if db < 0 {
        fields.error(spec.words.db, format!("{db} is no database"), "databases count from 0");
    }
    if db > 0 && *mode == Mode::Cluster {
        fields.error(spec.words.db, "a cluster has only database 0", "remove it");
    }
    db
}
