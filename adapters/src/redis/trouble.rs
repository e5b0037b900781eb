//! Why a source does not read.

use std::time::Duration;

use evoke_connect::address::Address;
use evoke_connect::redis::trouble as server;

use crate::source::Unsettled;

/// Why a source does not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The server's.
    #[error("{0}")]
    Server(#[from] server::Trouble),
    /// What was read is not stored.
    #[error("what was read could not be stored: {0}")]
    Unsettled(#[from] Unsettled),
}

impl Trouble {
    /// A server that does not answer.
    pub(super) fn silent(address: &Address, limit: Duration) -> Self {
        server::Trouble::silent(address, limit).into()
    }

    /// Anything else, in words.
    pub(super) fn other(text: impl Into<String>) -> Self {
        server::Trouble::Other(text.into()).into()
    }
}
