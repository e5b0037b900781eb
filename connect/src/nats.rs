//! NATS: a validated way to reach it, and a client that is connected again for as long as it is held.
//!
//! | module | holds |
//! | --- | --- |
//! | [`plan`] | `url`, `auth` and `tls` of a manifest, validated |
//! | `client` | a client, and what it says of its connection |

#[cfg(feature = "nats")]
pub mod client;
pub mod plan;

pub use self::plan::{Login, NatsPlan};
