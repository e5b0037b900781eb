//! A client, connected again for as long as it is held.

mod link;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use evoke_api::credentials::Secret;
use parking_lot::Mutex;

pub use self::link::Link;
use self::link::Watcher;
use super::plan::{Login, NatsPlan};
use crate::backoff::Backoff;
use crate::tls_client;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A server that is frozen is noticed after three of these.
const PING: Duration = Duration::from_secs(5);
/// A connection that lasted so long was one.
const STANDS: Duration = Duration::from_secs(1);
const WAIT_FIRST: Duration = Duration::from_millis(200);
/// An attempt is one small connection, so that it can be made often: work waits for it.
const WAIT_LONGEST: Duration = Duration::from_secs(5);

/// Why no client could be made: nothing that waiting would cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NatsError {
    /// Credentials that cannot be used, in words.
    #[error("{0}")]
    Credentials(String),
    /// Addresses or options that the client refuses.
    #[error("no NATS client can be made of this: {0}")]
    Client(String),
}

/// Makes a client at once. It connects in the background, and again whenever the connection breaks, for ever, with waits that grow
/// to five seconds. `on_change` hears of every new connection, and once of each time that there is none, with the cause; it must not block.
///
/// `name` is what the server lists the connection as.
///
/// # Errors
/// [`NatsError`] for credentials that no client takes. A server that is away is no error.
pub async fn connect(
    plan: &NatsPlan,
    name: &str,
    on_change: impl Fn(Link) + Send + Sync + 'static,
) -> Result<Client, NatsError> {
    let watcher = Arc::new(Watcher::new(plan, Box::new(on_change)));
    let mut options = log_in(ConnectOptions::new(), &plan.login)?
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(CONNECT_WITHIN)
        .ping_interval(PING)
        .reconnect_delay_callback(delays(plan.servers.len()));
    if let Some(tls) = &plan.tls {
        options = options.require_tls(true).tls_client_config(tls_client::config(tls).map_err(NatsError::Credentials)?);
    }
    let heard = watcher.clone();
    let options = options
        .event_callback(move |event| {
            heard.event(&event);
            std::future::ready(())
        })
        // Not to choose a server: this is where the client tells why the attempts before failed.
        .reconnect_to_server_callback(move |servers, _| {
            watcher.attempt(&servers);
            std::future::ready(None)
        });
    let servers: Vec<_> = plan
        .servers
        .iter()
        .map(|url| url.parse::<async_nats::ServerAddr>())
        .collect::<Result<_, _>>()
        .map_err(|e| NatsError::Client(e.to_string()))?;
    options.connect(servers).await.map_err(|e| NatsError::Client(e.to_string()))
}

fn log_in(options: ConnectOptions, login: &Login) -> Result<ConnectOptions, NatsError> {
    Ok(match login {
        Login::None => options,
        Login::User { username, password } => {
            options.user_and_password(username.expose().to_owned(), password.expose().to_owned())
        }
        Login::Token(token) => options.token(token.expose().to_owned()),
        Login::Nkey(seed) => options.nkey(seed.expose().to_owned()),
        Login::Credentials(text) => options.credentials(&whole(text)).map_err(|error| {
            NatsError::Credentials(format!("`auth.credentials` is no credentials file of a NATS user: {error}"))
        })?,
    })
}

/// Whether the client takes the text for a credentials file.
pub(super) fn is_credentials(text: &Secret) -> bool {
    ConnectOptions::with_credentials(&whole(text)).is_ok()
}

/// A credentials file as the client reads it, which wants the last line to end; a value from a file or a Secret often does not.
fn whole(credentials: &Secret) -> String {
    format!("{}\n", credentials.expose().trim_end())
}

/// How long to wait before an attempt: not at all until every server had one, then longer and longer. A connection that ends as soon
/// as it is made is no end of an outage.
fn delays(servers: usize) -> impl Fn(usize) -> Duration + Send + Sync + 'static {
    let outage = Mutex::new((Backoff::between(WAIT_FIRST, WAIT_LONGEST), None::<Instant>));
    move |attempt| {
        let (backoff, last) = &mut *outage.lock();
        let stood = last.replace(Instant::now()).is_none_or(|last| last.elapsed() >= STANDS);
        if attempt == 1 && stood {
            backoff.reset();
        }
        if attempt <= servers.max(1) && (attempt > 1 || stood) { Duration::ZERO } else { backoff.wait() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_is_tried_before_waits_grow() {
        let delay = delays(2);
        assert_eq!([delay(1), delay(2)], [Duration::ZERO; 2]);
        assert!(delay(3) >= WAIT_FIRST * 8 / 10);
        let longest = (4..60).map(&delay).max();
        assert!(longest.is_some_and(|wait| wait <= WAIT_LONGEST && wait > WAIT_LONGEST * 7 / 10), "{longest:?}");
        assert!(delay(1) > Duration::ZERO, "a connection that ends at once is no connection");
        assert_eq!(super::delays(1)(1), Duration::ZERO, "a new outage starts over");
    }
}
