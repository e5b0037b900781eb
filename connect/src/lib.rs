//! How evoke reaches the servers that it reads from and writes to: one client a file, shared by sources and buses.
//!
//! | module | holds |
//! | --- | --- |
//! | [`address`] | where a server is |
//! | [`backoff`] | how long to wait before something is tried again |
//! | [`redis`] | Redis servers |
//! | [`kafka`] | Kafka brokers: addresses, logging in, what is wrong with them |
//! | [`nats`] | a client of NATS |
//! | [`fields`] | a part of a manifest that is being validated |
//! | [`tls`] | `tls` and `sasl` of a manifest, validated |
//! | [`tls_client`] | a validated `tls` as the configuration of a client |

pub mod address;
pub mod backoff;
pub mod fields;
pub mod kafka;
pub mod nats;
pub mod redis;
pub mod tls;
pub mod tls_client;
