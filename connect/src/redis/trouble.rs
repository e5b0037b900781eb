//! What goes wrong with Redis, in words that say what to do.

use std::io;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use super::reply::Garbled;
use super::server::Words;
use crate::address::Address;

/// Why Redis does not do what it is asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    /// Redis refused, or the connection broke.
    #[error("{}", told(.0, .1))]
    Redis(RedisError, &'static Words),
    /// An answer that makes no sense.
    #[error("{0}")]
    Garbled(#[from] Garbled),
    /// A server that is not what is needed, in words.
    #[error("{0}")]
    Refused(String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl Trouble {
    /// A server that does not answer.
    pub fn silent(address: &Address, limit: Duration) -> Self {
        Self::Other(format!("{address} did not answer within {} s", limit.as_secs_f64()))
    }

    /// The code that Redis put in front of its refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Redis(error, _) => error.code(),
            _ => None,
        }
    }

    /// True for a command that this version of Redis has not.
    pub fn is_unknown_command(&self) -> bool {
        matches!(self, Self::Redis(error, _) if error.detail().is_some_and(|detail| detail.contains("unknown command")))
    }
}

fn told(error: &RedisError, words: &Words) -> String {
    let Words { username, password, .. } = words;
    let detail = error.detail().unwrap_or_default();
    let code = error.code().unwrap_or_default();
    match code {
        "NOAUTH" => format!("the server wants a password: set {password}, and {username} where it has users"),
        "WRONGPASS" => format!("the server refuses the user or the password: correct {username} and {password}"),
        "NOPERM" => format!("the user may not do this: {detail}; give it the commands and keys that the docs list"),
        "WRONGTYPE" => format!("the key holds something else: {}", words.wrong_type),
        "NOGROUP" => "the consumer group is gone: it is made again".into(),
        "UNBLOCKED" => "the stream is gone: it is made again".into(),
        "LOADING" => "the server is still loading its data".into(),
        "READONLY" | "MASTERDOWN" => {
            format!("the server is a replica: name its master, or set {} and name its Sentinels", words.sentinel)
        }
        "MOVED" | "ASK" => format!("the server is part of a cluster: set {}", words.cluster),
        "CLUSTERDOWN" => "the cluster is down".into(),
        "MISCONF" | "OOM" => format!("the server takes no writes: {detail}"),
        _ if detail.contains("without any password configured") || detail.contains("no password is set") => {
            format!("the server has no password: remove {password}")
        }
        _ if detail.contains("unknown command") => {
            format!("the server is too old: {detail}; Redis {} has it", words.version)
        }
        _ if error.kind() == ErrorKind::AuthenticationFailed => {
            format!("the server refuses the user or the password: correct {username} and {password}")
        }
        _ if error.is_connection_dropped() || error.is_io_error() => format!("the connection broke: {error}"),
        _ => error.to_string(),
    }
}

/// An error of a connection attempt, shorter than the system tells it.
pub(super) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
        _ => error.to_string(),
    }
}
