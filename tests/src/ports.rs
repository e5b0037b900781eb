//! Free ports, below those that functions are given and those that outgoing connections are from.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const LAST: u16 = 20_000;

/// Two runs at once start in different places, so that neither takes what the other has just found free.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
    let start = u32::from(FIRST) + std::process::id() * 151 % u32::from(LAST - FIRST);
    AtomicU16::new(u16::try_from(start).unwrap_or(FIRST))
});

/// A loopback address that nothing listens on, never given out twice by this process until all others were.
pub fn free() -> SocketAddr {
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port >= LAST {
            NEXT.store(FIRST, Ordering::Relaxed);
            continue;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
