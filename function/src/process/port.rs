//! Free ports for functions.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::Mutex;

/// Below what systems take for outgoing connections: a port from there could be taken between its choice and its use, and a
/// connection to it from this host could even meet itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// Gives out free ports, each of them once before any of them twice.
#[derive(Debug)]
pub(crate) struct Ports {
    next: AtomicU16,
    reserved: Mutex<BTreeSet<u16>>,
}

impl Ports {
    /// Starts at a random place, so that two of them seldom meet.
    pub(crate) fn new() -> Self {
        let place = RandomState::new().build_hasher().finish() % u64::from(COUNT);
        Self { next: AtomicU16::new(u16::try_from(place).unwrap_or_default()), reserved: Mutex::default() }
    }

    /// Gives none of these out from now on, whether anybody listens there or not.
    pub(crate) fn reserve(&self, ports: BTreeSet<u16>) {
        *self.reserved.lock() = ports;
    }

    /// A port that nobody listens on, nor will.
    pub(crate) fn pick(&self) -> io::Result<u16> {
        let mut error = io::Error::other("no free port");
        for _ in 0..COUNT {
            let port = FIRST + self.next.fetch_add(1, Ordering::Relaxed) % COUNT;
            if self.reserved.lock().contains(&port) {
                continue;
            }
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

    #[test]
    fn reserved_ports_are_left_out_although_nobody_listens_there() {
        let ports = Ports::new();
        let free = ports.pick().unwrap();
        ports.reserve((FIRST..FIRST + COUNT).filter(|port| *port != free).collect());
        assert_eq!(ports.pick().unwrap(), free);
    }
}
