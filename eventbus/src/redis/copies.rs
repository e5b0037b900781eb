//! Waits until replicas have what was published: one `WAIT` at a time, over a connection of its own, for everybody who asked before it was
//! sent.
//!
//! A `WAIT` holds up its connection, and waits for what that connection wrote last. So it follows a write that leaves nothing behind and
//! comes after all that the server had taken by then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use evoke_connect::redis::link::Link;
use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble;
use redis::{Pipeline, Value};
use tokio::sync::Mutex;

use super::{keys, scripts};

/// How long replicas are waited for before it is said that they are late.
const PATIENCE: Duration = Duration::from_secs(1);

/// The replicas of one server.
#[derive(Debug)]
pub(super) struct Copies {
    link: Link,
    /// How many must have what was published.
    pub(super) wanted: u32,
    asked: AtomicU64,
    last: Mutex<Option<Answer>>,
    broken: AtomicBool,
}

/// What came of one `WAIT`.
#[derive(Debug)]
struct Answer {
    /// It answers who asked up to this number.
    upto: u64,
    have: Result<u32, Trouble>,
}

impl Copies {
    pub(super) fn new(link: Link, wanted: u32) -> Self {
        Self { link, wanted, asked: AtomicU64::new(0), last: Mutex::default(), broken: AtomicBool::new(false) }
    }

    /// How many replicas have all that the server had taken before this call, after at most two waits of a second. `key` is one of
    /// this server's.
    ///
    /// # Errors
    /// [`Trouble`] where it is not known.
    pub(super) async fn count(&self, key: &str) -> Result<u32, Trouble> {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut last = self.last.lock().await;
        if let Some(answer) = last.as_ref().filter(|answer| answer.upto >= number) {
            return answer.have.clone();
        }
        let upto = self.asked.load(Ordering::Acquire);
        let have = self.wait(key).await;
        if have.as_ref().is_err_and(|trouble| trouble.code().is_none()) {
            self.broken.store(true, Ordering::Release);
        }
        *last = Some(Answer { upto, have: have.clone() });
        have
    }

    async fn wait(&self, key: &str) -> Result<u32, Trouble> {
        let mut wait = Pipeline::with_capacity(2);
        wait.add_command(scripts::touch(&keys::touched(key)));
        wait.cmd("WAIT").arg(self.wanted).arg(PATIENCE.as_millis() as u64);
        match self.link.ask_all_blocking(&wait, PATIENCE).await?.last() {
            Some(Value::Int(have)) => Ok(u32::try_from(*have).unwrap_or_default()),
            _ => Err(reply::Garbled("WAIT").into()),
        }
    }

    /// The connection, to see whether it works; `None` while it waits for replicas, which shows it as well.
    ///
    /// # Errors
    /// Where it is known not to.
    pub(super) fn idle(&self) -> Result<Option<&Link>, Broken> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Broken);
        }
        Ok(self.last.try_lock().is_ok().then_some(&self.link))
    }
}

/// The connection is to be made again.
#[derive(Debug)]
pub(super) struct Broken;
