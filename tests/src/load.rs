//! Load: senders that post one event after the other to a webhook source, each until it is accepted, and whatever else a test
//! sends while something happens.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::eventually;
use crate::http::request;

/// How many send at once, each one event after the other: as many may be under way when something fails.
pub const SENDERS: usize = 8;
/// How long a sender waits between two posts, at the least: deliveries keep up with that on a small machine too.
const PACE: Duration = Duration::from_millis(20);
/// How long [`during`] waits between two calls, at the least: one test is not to take all of a small machine.
const CALLS: Duration = Duration::from_millis(20);
/// How large the data of an event is.
const BYTES: usize = 500;

/// A running load. Events are called `{sender}-{number}`, and their `partitionkey` is the sender's, so that the numbers of a key rise.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    again: Arc<AtomicUsize>,
    senders: JoinSet<BTreeSet<String>>,
}

/// What a load sent.
#[derive(Debug)]
pub struct Sent {
    /// Every id that was accepted.
    pub ids: BTreeSet<String>,
    /// How often an event was posted again since there was no 202: no answer is no promise, so it may be there twice.
    pub again: usize,
}

impl Load {
    /// Starts to post to a URL.
    pub fn start(url: &str) -> Self {
        Self::start_on(&[url.to_owned()])
    }

    /// Starts to post to several URLs, each sender to one of them until that does not accept an event.
    pub fn start_on(urls: &[String]) -> Self {
        let mut load =
            Self { stop: Arc::default(), accepted: Arc::default(), again: Arc::default(), senders: JoinSet::new() };
        for sender in 0..SENDERS {
            let (urls, stop) = (urls.to_vec(), Arc::clone(&load.stop));
            let (accepted, again) = (Arc::clone(&load.accepted), Arc::clone(&load.again));
            load.senders.spawn(async move {
                let (mut ids, mut to) = (BTreeSet::new(), sender);
                let mut pace = interval(PACE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (id, key) = (format!("{sender}-{n}"), format!("k{sender}"));
                    let headers = [
                        ("ce-specversion", "1.0"),
                        ("ce-id", &*id),
                        ("ce-source", "/s"),
                        ("ce-type", "t"),
                        ("ce-partitionkey", &*key),
                    ];
                    loop {
                        pace.tick().await;
                        match request("POST", &urls[to % urls.len()], &headers, vec![b'x'; BYTES]).await {
                            Ok(answer) if answer.status == 202 => break,
                            _ => again.fetch_add(1, Ordering::Relaxed),
                        };
                        to += 1;
                    }
                    ids.insert(id);
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                ids
            });
        }
        load
    }

    /// How many events were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more events are accepted.
    ///
    /// # Panics
    /// When they are not within `within`.
    pub async fn more(&self, count: usize, within: Duration) {
        let target = self.accepted() + count;
        eventually("events are accepted", within, async || (self.accepted() >= target).then_some(())).await;
    }

    /// Ends it once every sender's last event is accepted.
    pub async fn end(mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let mut ids = BTreeSet::new();
        while let Some(more) = self.senders.join_next().await {
            ids.extend(more.unwrap());
        }
        Sent { ids, again: self.again.load(Ordering::Relaxed) }
    }
}

/// Calls `send` again and again, with the number of the call, until `between` is done. Returns what it says that it sent, and what
/// `between` came to.
pub async fn during<T>(
    mut send: impl AsyncFnMut(usize) -> Vec<String>,
    between: impl Future<Output = T>,
) -> (BTreeSet<String>, T) {
    let is_over = Cell::new(false);
    let sending = async {
        let (mut sent, mut pace) = (BTreeSet::new(), interval(CALLS));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for call in 0.. {
            pace.tick().await;
            // What was begun is finished: of a call that is broken off nobody knows what it sent.
            if is_over.get() {
                break;
            }
            sent.extend(send(call).await);
        }
        sent
    };
    let watching = async {
        let found = between.await;
        is_over.set(true);
        found
    };
    tokio::join!(sending, watching)
}
