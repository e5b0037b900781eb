//! Free ports for functions.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what systems take for outgoing connections: a port from there could be taken between its choice and its use, and a
/// connection to it from this host could even meet itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// Gives out free ports, each of them once before any of them twice.
#[derive(Debug)]
pub(crate) struct Ports(AtomicU16);

impl Ports {
    /// Starts at a random place, so that two of them seldom meet.
    pub(crate) fn new() -> Self {
        let place = RandomState::new().build_hasher().finish() % u64::from(COUNT);
        Self(AtomicU16::new(u16::try_from(place).unwrap_or_default()))
    }

    /// A port that nobody listens on.
    pub(crate) fn pick(&self) -> io::Result<u16> {
        let mut error = io::Error::other("no free port");
        for _ in 0..COUNT {
            let port = FIRST + self.0.fetch_add(1, Ordering::Relaxed) % COUNT;
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
                Ok(_) => return Ok(port),
                Err(e) => error = e,
            }
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_are_left_out_and_no_port_is_given_twice() {
        let ports = Ports::new();
        let first = ports.pick().unwrap();
        let next = if first + 1 == FIRST + COUNT { FIRST } else { first + 1 };
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, next));
        let second = ports.pick().unwrap();
        assert_ne!(first, second);
        if held.is_ok() {
            assert_ne!(second, next);
        }
    }
}
