//! Kafka brokers: their addresses, how to log in to them, and how to say what is wrong with them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`plan`] | addresses, `sasl` and `tls` of a manifest, validated |
//! | `client` | them as the settings of a client |
//! | `words` | what the client reports, in few words |

#[cfg(feature = "kafka")]
mod client;
pub mod plan;
#[cfg(feature = "kafka")]
pub mod words;

use evoke_api::credentials::Secret;

use crate::tls::{Mechanism, TlsPlan};

/// A Kafka cluster, and how to log in to it. Everything secret prints as `***`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brokers {
    /// The bootstrap servers, separated by commas.
    pub addresses: String,
    /// Who logs in, where somebody does.
    pub login: Option<Login>,
    /// TLS; plain text when absent.
    pub tls: Option<TlsPlan>,
}

/// How to log in to the brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The SASL mechanism.
    pub mechanism: Mechanism,
    /// The user.
    pub username: Secret,
    /// The password.
    pub password: Secret,
}

impl Brokers {
    /// What to say of brokers that cannot be reached, with the likely fix; `told` is what the client said last.
    pub fn unreachable(&self, told: Option<&str>) -> String {
        let hint = match (told, self.login.is_some(), self.tls.is_some()) {
            (Some(cause), _, _) if cause.contains("Connect to") || cause.contains("resolve") => "",
            (Some(cause), _, _) if cause.contains("uthentication") => {
                "; check the user, the password and the mechanism"
            }
            (_, true, true) => {
                "; authRequired means SASL over TLS: for brokers without TLS set `tls: {disabled: true}`, for a private \
                 authority `tls.ca`"
            }
            (_, false, true) => "; for brokers without TLS leave `tls` out, for a private authority set `tls.ca`",
            // A client that does not speak the broker's protocol is disconnected without a word.
            (_, true, false) => "; brokers that speak TLS need `tls: {}`",
            (_, false, false) => "; brokers that speak TLS need `tls: {}`, brokers that ask who is there `sasl`",
        };
        format!("cannot reach {}: {}{hint}", self.addresses, told.unwrap_or("no broker answers"))
    }
}
