//! What goes wrong with a broker, in words that say what to do.

use std::io;

use evoke_connect::address::Address;

use super::wire::{Goodbye, Refusal, WireError};
use crate::plan::mqtt::MqttPlan;

/// Why a source does not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The broker may not speak the version of MQTT that was tried.
    #[error("{0}")]
    Version(String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl Trouble {
    /// A broker that refuses the connection.
    pub(super) fn refused(plan: &MqttPlan, refusal: Refusal) -> Self {
        let id = &plan.client_id;
        Self::Other(match refusal {
            Refusal::Version => {
                return Self::Version("the broker does not speak this version of MQTT: set protocolVersion".to_owned());
            }
            Refusal::ClientId => {
                format!("the broker refuses the client id {id:?}: set consumerID to one that it takes")
            }
            Refusal::Credentials | Refusal::NotAuthorized if plan.username.is_none() && plan.password.is_none() => {
                "the broker wants a user and a password: set username and password".to_owned()
            }
            Refusal::Credentials => {
                "the broker refuses the user or the password: correct username and password".to_owned()
            }
            Refusal::NotAuthorized => {
                format!("the broker does not let this user in as client {id:?}: correct username and password")
            }
            Refusal::Other(reason) => format!("the broker refuses the connection: {reason}"),
        })
    }

    /// A broker that grants no subscription.
    pub(super) fn not_subscribed(topic: &str, reason: &str) -> Self {
        Self::Other(format!(
            "the broker refuses the subscription to {topic:?} ({reason}): let the user read it, or correct topic"
        ))
    }

    /// A broker that ends the connection.
    pub(super) fn goodbye(plan: &MqttPlan, goodbye: Goodbye) -> Self {
        Self::Other(match goodbye {
            Goodbye::TakenOver => format!(
                "another client with the client id {:?} took the session over: each needs a consumerID of its own",
                plan.client_id
            ),
            Goodbye::Other(reason) => format!("the broker ended the connection: {reason}"),
        })
    }

    /// A connection that is no more.
    pub(super) fn broken(plan: &MqttPlan, error: Option<WireError>) -> Self {
        let (address, id) = (&plan.address, &plan.client_id);
        Self::Other(match error {
            None => format!(
                "{address} closed the connection; it does so when another client has the client id {id:?}, or may not read the topic"
            ),
            Some(WireError::Io(error)) => format!("the connection to {address} broke: {error}"),
            Some(error) => format!("{address}: {error}"),
        })
    }

    /// A broker that does not answer.
    pub(super) fn silent(address: &Address, seconds: u64) -> Self {
        Self::Other(format!("{address} did not answer within {seconds} s"))
    }

    /// A broker that cannot be reached.
    pub(super) fn unreachable(address: &Address, error: &io::Error) -> Self {
        Self::Other(match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("cannot connect to {address}: nobody listens there"),
            _ => format!("cannot connect to {address}: {error}"),
        })
    }
}
