//! How long a string a server takes, which bounds the data of an event: its `proto-max-bulk-len`. Of a longer one it reads no more than
//! the length, and ends the connection. What it says to that is lost in the middle of a transaction, which would be sent for ever.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use evoke_connect::address::Address;
use evoke_connect::redis::link::{Connector, Link};
use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble;
use redis::{Value, cmd};

use super::scripts;

const SETTING: &str = "proto-max-bulk-len";
/// What a server says of a string that is too long, where it does.
const REFUSAL: &str = "invalid bulk length";
/// What a server takes that was told nothing else.
const DEFAULT: usize = 512 << 20;
/// What every server takes: from Redis 6 on, none can be told to take less.
const LEAST: usize = 1 << 20;

/// What one server takes, as far as it is known.
#[derive(Debug)]
pub(super) struct Bulk {
    /// In bytes.
    most: AtomicUsize,
    /// It said so when it was asked. A service, or one of its users, may be forbidden to.
    said: AtomicBool,
}

impl Default for Bulk {
    fn default() -> Self {
        Self { most: AtomicUsize::new(DEFAULT), said: AtomicBool::new(false) }
    }
}

impl Bulk {
    /// The longest string that it takes, in bytes.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Asks the server.
    pub(super) async fn ask(&self, link: &Link) -> Result<(), Trouble> {
        let said = match link.ask(cmd("CONFIG").arg("GET").arg(SETTING)).await {
            Ok(answer) => read(answer),
            Err(trouble) if trouble.code().is_some() => None,
            Err(trouble) => return Err(trouble),
        };
        self.said.store(said.is_some(), Ordering::Relaxed);
        if let Some(most) = said
            && self.most.swap(most, Ordering::Relaxed) != most
        {
            tracing::info!(server = %link.address, bytes = most, "how large an event may be is bounded by {SETTING}");
        }
        Ok(())
    }

    /// Asks again, since it can be set while the server runs. One that did not say is left alone, since it may take note of who asks
    /// what they may not.
    pub(super) async fn follow(&self, link: &Link) -> Result<(), Trouble> {
        if self.said.load(Ordering::Relaxed) { self.ask(link).await } else { Ok(()) }
    }

    /// Finds out whether a server that does not say takes a string of this length, by sending it one: on a connection of its own, since
    /// that ends with a refusal.
    pub(super) async fn try_out(&self, connector: &Connector, address: &Address, text: &[u8]) -> Result<(), Trouble> {
        if self.said.load(Ordering::Relaxed) || text.len() <= LEAST || text.len() > self.most() {
            return Ok(());
        }
        let link = connector.open(address).await?;
        match link.ask(&scripts::only_take(text)).await {
            Err(Trouble::Redis(error, _)) if error.detail().is_some_and(|detail| detail.contains(REFUSAL)) => {
                self.most.fetch_min(text.len() - 1, Ordering::Relaxed);
                let bytes = text.len();
                tracing::warn!(server = %address, bytes, "the server takes no string of this length: its {SETTING} is lower");
                Ok(())
            }
            Err(trouble) if trouble.code().is_none() => Err(trouble),
            // Whatever it answers, it has read it.
            _ => Ok(()),
        }
    }
}

/// The answer to `CONFIG GET` of one setting.
fn read(answer: Value) -> Option<usize> {
    let value = reply::array(answer)?.into_iter().nth(1)?;
    reply::string(value)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_where_the_server_has_it() {
        let text = |text: &str| Value::BulkString(text.into());
        assert_eq!(read(Value::Array(vec![text(SETTING), text("1048576")])), Some(LEAST));
        assert_eq!(read(Value::Array(Vec::new())), None);
        assert_eq!(read(Value::Nil), None);
        assert_eq!(Bulk::default().most(), DEFAULT);
    }
}
