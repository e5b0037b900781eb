//! Addresses, `sasl` and `tls` of a manifest that names Kafka brokers.

use evoke_api::credentials::{Sasl, Tls};

use super::Login;
use crate::address::{Address, holds_login};
use crate::fields::Fields;
use crate::tls::{Mechanism, SaslPlan, TlsPlan};

/// The port of a broker that is named without one.
pub const PORT: u16 = 9092;

/// Validates `brokers`.
pub fn addresses(fields: &mut Fields<'_>, text: &str) -> String {
    if holds_login(text) {
        let hint = "write host:port alone, and the log-in as `sasl: {username, passwordFrom}`";
        fields.error("brokers", "a user or a password is no part of an address", hint);
        return String::new();
    }
    let brokers: Vec<&str> = text.split(',').map(str::trim).filter(|broker| !broker.is_empty()).collect();
    if brokers.is_empty() {
        fields.error("brokers", "no broker is named", "write host:port, separated by commas");
    }
    for broker in brokers.iter().filter(|broker| Address::parse(broker, PORT).is_none()) {
        fields.error("brokers", format!("{broker:?} is no broker's address"), "write host:port, without a scheme");
    }
    brokers.join(",")
}

/// Validates `sasl`: used when it is there or `auth_required` asks for it, and then both of its fields are needed.
pub fn login(fields: &mut Fields<'_>, spec: Option<&Sasl>, auth_required: bool) -> Option<Login> {
    if spec.is_none() && !auth_required {
        return None;
    }
    let sasl = SaslPlan::plan(fields, spec);
    let named = spec.cloned().unwrap_or_default();
    let needed = [
        ("username", sasl.username.is_none() && named.username_from.is_none()),
        ("password", sasl.password.is_none() && named.password_from.is_none()),
    ];
    for (field, _) in needed.into_iter().filter(|(_, missing)| *missing) {
        let message = format!("SASL needs a user and a password: `{field}` is missing");
        fields.under("sasl").error(field, message, "or use `...From`");
    }
    Some(Login { mechanism: sasl.mechanism.unwrap_or_default(), username: sasl.username?, password: sasl.password? })
}

/// Validates `tls`, and says where a password would cross the network as plain text.
pub fn tls(fields: &mut Fields<'_>, spec: Option<&Tls>, auth_required: bool, login: Option<&Login>) -> Option<TlsPlan> {
    let tls = TlsPlan::plan(fields, spec, auth_required);
    if let Some(tls) = &tls
        && let Some(name) = &tls.server_name
    {
        check_server_name(&mut fields.under("tls"), name, tls.ca.is_some());
    }
    if login.is_some_and(|login| login.mechanism == Mechanism::Plain) && tls.is_none() {
        let message = "the password crosses the network as plain text";
        let hint = "use TLS, or the mechanism SCRAM-SHA-256 or SCRAM-SHA-512";
        fields.warning(if spec.is_some() { "tls" } else { "sasl" }, message, hint);
    }
    tls
}

fn check_server_name(tls: &mut Fields<'_>, name: &str, has_ca: bool) {
    if has_ca {
        let message =
            format!("brokers are checked to have a certificate of `ca`, and the bootstrap brokers one for {name:?}");
        let hint = "leave it out where brokers advertise the names they have certificates for";
        tls.warning("serverName", message, hint);
    } else {
        let message = "a server name needs `ca`: with the system's authorities any of their certificates would pass";
        tls.error("serverName", message, "name the brokers' authority in `tls.ca`");
    }
}
