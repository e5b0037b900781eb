//! What the end-to-end tests stand on: real servers on free ports, the evoke binary as a process, a recording HTTP sink, and a
//! count of every event by its id.
//!
//! | module | holds |
//! | --- | --- |
//! | [`bus`] | what a bus holds, read with evoke's own library |
//! | [`case`] | one test: its time limit, its logs, and how it is skipped by name and reason |
//! | [`clock`], [`disk`] | a wall clock that a test sets, a disk that it fills |
//! | [`docs`] | what the pages of the docs show |
//! | [`evoke`] | the evoke binary, its manifests and its data directory |
//! | [`function`] | a function that notes what it gets, and can be killed and frozen |
//! | [`servers`] | Kafka, Mosquitto, NATS and Redis as processes, certificates for their TLS |
//! | [`http`] | a sink that records and answers by script, and a client |
//! | [`ledger`] | what was sent against what arrived, by id |
//! | [`load`] | senders that post events until they are accepted, and load while something happens |
//! | [`manifests`] | manifests, written short |
//! | [`metrics`] | a scrape, parsed |
//! | [`proxy`] | a TCP proxy that delays, holds and cuts |
//! | [`process`], [`ports`], [`scratch`] | processes that cannot outlive the run, free ports, temporary folders |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test harness reports what it cannot go on from by panicking"
)]

pub mod bus;
pub mod case;
pub mod clock;
pub mod disk;
pub mod docs;
pub mod evoke;
pub mod function;
pub mod http;
pub mod ledger;
pub mod load;
pub mod manifests;
pub mod metrics;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod scratch;
pub mod servers;

use std::time::Duration;

/// How long anything may take that should take moments: long enough for two busy cores, short enough to notice.
pub const SOON: Duration = Duration::from_secs(60);

/// How long to wait before looking again at something that cannot tell by itself when it changes, such as another process.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks at something outside until `look` finds what it looks for.
///
/// # Panics
/// When it has not within `within`; says `what` was awaited.
pub async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
