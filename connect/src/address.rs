//! Where a server is.

use std::fmt;

/// A server's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or a number.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Address {
    /// Reads `host`, `host:port` or `[v6]:port`.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let is_sound = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b));
        let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|port| *port != 0))?;
        is_sound.then(|| Self { host: host.to_owned(), port })
    }
}

/// Whether a text that is to name servers has a user or a password in it, so that no message may quote it.
pub(crate) fn holds_login(text: &str) -> bool {
    text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_version_6_are_in_brackets() {
        assert_eq!(Address::parse("[::1]:7000", 1), Some(Address { host: "::1".into(), port: 7000 }));
        assert_eq!(Address::parse("[::1]", 1).unwrap().to_string(), "[::1]:1");
        for text in ["::1", "[::1]7", "h:", "h:0", "h p", ""] {
            assert_eq!(Address::parse(text, 1), None, "{text}");
        }
    }
}
