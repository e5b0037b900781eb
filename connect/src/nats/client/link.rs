//! What a client says of its connection, as changes: each is told once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_nats::{Event, Server};
use parking_lot::Mutex;

use crate::nats::plan::{Login, NatsPlan};

/// So many different denials are told of one connection.
const DENIALS: usize = 16;

/// A change of a client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// There is a new connection.
    Up,
    /// There is none. It is tried again.
    Down {
        /// Why, and what to do about it.
        cause: Arc<str>,
        /// True where the server is there and does not let this client in.
        refused: bool,
    },
    /// The connection is there, but the server does not allow something; says what.
    Denied(Arc<str>),
}

/// What is known of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Up,
    Away,
    Refused,
}

pub(super) struct Watcher {
    state: Mutex<State>,
    /// What the server has denied over this connection, so that each is told once.
    denied: Mutex<BTreeSet<String>>,
    servers: String,
    login: &'static str,
    tls: bool,
    on_change: Box<dyn Fn(Link) + Send + Sync>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Watcher {
    pub(super) fn new(plan: &NatsPlan, on_change: Box<dyn Fn(Link) + Send + Sync>) -> Self {
        let login = match plan.login {
            Login::None => "the server wants credentials; name them in `auth`",
            Login::User { .. } => "check `auth.username` and `auth.password`",
            Login::Token(_) => "check `auth.token`",
            Login::Nkey(_) => "check that the server knows the public key of `auth.nkey`",
            Login::Credentials(_) => "check that `auth.credentials` has neither expired nor been revoked",
        };
        let servers = plan.servers.join(", ");
        Self {
            state: Mutex::new(State::New),
            denied: Mutex::default(),
            servers,
            login,
            tls: plan.tls.is_some(),
            on_change,
        }
    }

    pub(super) fn event(&self, event: &Event) {
        match event {
            Event::Connected => {
                *self.state.lock() = State::Up;
                self.denied.lock().clear();
                (self.on_change)(Link::Up);
            }
            Event::Disconnected => self.down(State::Away, || format!("lost the connection to {}", self.servers)),
            Event::ServerError(error) => {
                let text = error.to_string();
                let text = text.trim_start_matches("nats: ");
                // A login that ends is told before the connection does.
                if lower(text).contains("authentication") || lower(text).contains("authorization") {
                    self.refused(text);
                } else if lower(text).contains("permissions violation") {
                    self.denied(text);
                }
            }
            // Everything else a client says of an attempt, it says in more words at the next one.
            Event::ClientError(_) | Event::LameDuckMode | Event::Draining | Event::Closed | Event::SlowConsumer(_) => {}
        }
    }

    /// Called before each attempt, with what became of those before.
    pub(super) fn attempt(&self, servers: &[Server]) {
        let failed = || servers.iter().filter_map(|server| Some((server, server.last_error.as_deref()?)));
        if let Some((_, error)) = failed().find(|(_, error)| is_refusal(error)) {
            self.refused(error.rsplit("nats: ").next().unwrap_or(error));
        } else if failed().next().is_some() {
            self.down(State::Away, || {
                let each: Vec<_> =
                    failed().map(|(server, error)| format!("{server}: {}", self.explain(error))).collect();
                format!("cannot connect to {}", each.join("; "))
            });
        }
    }

    fn denied(&self, what: &str) {
        let mut denied = self.denied.lock();
        let is_new = denied.len() < DENIALS && denied.insert(what.to_owned());
        drop(denied);
        if is_new {
            (self.on_change)(Link::Denied(what.into()));
        }
    }

    fn refused(&self, error: &str) {
        self.down(State::Refused, || format!("NATS refuses to log evoke in ({}): {}", lower(error), self.login));
    }

    /// Tells that there is no connection, if that or the kind of its cause is new.
    fn down(&self, now: State, cause: impl FnOnce() -> String) {
        let mut state = self.state.lock();
        // Losing the connection is what a refusal leads to.
        if *state == now || (now == State::Away && *state == State::Refused) {
            return;
        }
        *state = now;
        drop(state);
        (self.on_change)(Link::Down { cause: cause().into(), refused: now == State::Refused });
    }

    fn explain(&self, error: &str) -> String {
        let error = error.trim_start_matches("IO error: ");
        match lower(error) {
            e if e.contains("certificate") || e.contains("tls") || e.contains("handshake") => {
                format!("TLS failed: {error}; check `tls`, and that the server speaks TLS")
            }
            e if !self.tls && (e.contains("broken pipe") || e.contains("reset")) => {
                format!("{error}; if the server wants TLS, write `tls://` in `url`")
            }
            _ => error.to_owned(),
        }
    }
}

fn is_refusal(error: &str) -> bool {
    let error = lower(error);
    ["authorization violation", "authentication", "signing nonce", "account", "revoked"]
        .iter()
        .any(|word| error.contains(word))
}

fn lower(text: &str) -> String {
    text.to_lowercase()
}
