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
        if self.said.load(Ordering::Relaxed) || text.is_empty() || text.len() > self.most() {
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
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::plan::redis::RedisPlan;

    #[test]
    fn a_setting_is_read_where_the_server_has_it() {
        let text = |text: &str| Value::BulkString(text.into());
        assert_eq!(read(Value::Array(vec![text(SETTING), text("1048576")])), Some(1 << 20));
        assert_eq!(read(Value::Array(Vec::new())), None);
        assert_eq!(read(Value::Nil), None);
        assert_eq!(Bulk::default().most(), DEFAULT);
    }

    #[tokio::test]
    async fn what_redis_5_may_be_told_not_to_take_shows_too() {
        // Redis 6 and later can only be told to refuse more than 1 MiB.
        let text = vec![b'x'; 700 << 10];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = RedisPlan::at("127.0.0.1", listener.local_addr().unwrap().port());
        let refuses = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut buffer) = (0, vec![0; 64 << 10]);
            while read < text.len() {
                read += stream.read(&mut buffer).await.unwrap();
            }
            stream.write_all(b"-ERR Protocol error: invalid bulk length\r\n").await.unwrap();
            pending::<()>().await;
        };
        let bulk = Bulk::default();
        let connector = Connector::new(&plan.server).unwrap();
        tokio::select! {
            tried = bulk.try_out(&connector, &plan.server.addresses[0], &text) => tried.unwrap(),
            () = refuses => {}
        }
        assert_eq!(bulk.most(), text.len() - 1);
    }
}
