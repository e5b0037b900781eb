//! Redis servers: where they are, how to log in, and connections to them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`server`] | the validated part of a manifest that names servers |
//! | `link` | connections: Sentinel, cluster, TLS, log-in |
//! | `reply` | Redis' answers, taken apart |
//! | [`slots`] | which part of a cluster a key belongs to |
//! | `trouble` | what goes wrong, in words |

#[cfg(feature = "redis")]
pub mod link;
#[cfg(feature = "redis")]
pub mod reply;
pub mod server;
pub mod slots;
#[cfg(feature = "redis")]
pub mod trouble;
