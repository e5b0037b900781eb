//! What one process takes from senders at once, and how long it waits for them.

use std::time::Duration;

use evoke_api::limits::IN_FLIGHT_BYTES;

/// The limits of all listeners of a process together.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Open connections; further ones wait in the operating system's queue.
    pub(super) connections: usize,
    /// Requests that are read or not settled; further ones get 503.
    pub(super) requests: usize,
    /// Bytes of request bodies that are read and not accepted; what would exceed them gets 503.
    pub(super) body_bytes: usize,
    /// The head of a request, in bytes.
    pub(super) head_bytes: usize,
    /// The headers of a request: the attributes of an event and what clients and proxies add.
    pub(super) headers: usize,
    /// The body of a batch, in bytes, where one event may not be larger.
    pub(super) batch_bytes: usize,
    /// How long a connection may take to send the head of a request, or stay idle.
    pub(super) head_time: Duration,
    /// How long a request may take to send its body.
    pub(super) body_time: Duration,
    /// How long a sender waits for the events to be settled before it is told to send them again.
    pub(super) settle_time: Duration,
    /// How long a path answers 503 after its webhook went, and an address is listened at after its last one went: a webhook that
    /// is only being changed is back by then.
    pub(super) linger: Duration,
    /// The longest wait before a port that is in use is tried again.
    pub(super) bind_retry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            requests: 16 * 1024,
            body_bytes: IN_FLIGHT_BYTES,
            head_bytes: 64 * 1024,
            headers: 192,
            batch_bytes: 16 * 1024 * 1024,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            settle_time: Duration::from_secs(30),
            linger: Duration::from_secs(5),
            bind_retry: Duration::from_secs(5),
        }
    }
}
