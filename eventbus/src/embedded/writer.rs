//! The one thread that writes: it takes everything that waits, writes it, syncs each file once, and answers everybody.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evoke_api::events::SyncMode;
use evoke_api::names::TopicName;
use parking_lot::{Condvar, Mutex, RwLock};

use super::env::Env;
use super::head::PublishOp;
use super::lock::DirLock;
use super::state::{StateLog, StoreOp};
use super::topic::TopicLog;
use crate::bus::Health;

const RETRY_LAST: Duration = Duration::from_secs(1);
/// A buffer that grew beyond this is given back when there is nothing to do, in bytes.
const BUFFER_KEPT: usize = 64 << 10;

/// The topics of a bus.
pub(super) type Topics = RwLock<HashMap<TopicName, Arc<TopicLog>>>;

/// Something to write.
#[derive(Debug)]
pub(super) enum Op {
    Publish(Arc<TopicLog>, PublishOp),
    Store(StoreOp),
}

/// What waits for the writer. Its size is bounded by the places that each op holds.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    ops: VecDeque<Op>,
    closing: bool,
    /// Space was freed: what failed is worth another try.
    retry: bool,
}

impl Queue {
    /// Hands an op over; false when the bus is closing.
    pub(super) fn push(&self, op: Op) -> bool {
        let mut inner = self.inner.lock();
        if inner.closing {
            return false;
        }
        inner.ops.push_back(op);
        self.changed.notify_one();
        true
    }

    /// The writer ends once all that is queued was written.
    pub(super) fn close(&self) {
        self.inner.lock().closing = true;
        self.changed.notify_one();
    }

    /// Has the writer try again at once what failed.
    pub(super) fn retry(&self) {
        self.inner.lock().retry = true;
        self.changed.notify_one();
    }

    /// Everything that is queued, after waiting for something until `until`.
    fn take(&self, wait: bool, until: Option<Instant>) -> Inner {
        let mut inner = self.inner.lock();
        while wait && inner.ops.is_empty() && !inner.closing && !inner.retry {
            match until {
                None => self.changed.wait(&mut inner),
                Some(until) => {
                    if self.changed.wait_until(&mut inner, until).timed_out() {
                        break;
                    }
                }
            }
        }
        let closing = inner.closing;
        std::mem::replace(&mut *inner, Inner { closing, ..Inner::default() })
    }
}

/// See the module.
pub(super) struct Writer {
    pub(super) env: Arc<Env>,
    pub(super) queue: Arc<Queue>,
    pub(super) state: StateLog,
    pub(super) topics: Arc<Topics>,
    /// Shared by everything that changes files, and freed when the last of it ends.
    pub(super) lock: Option<Arc<DirLock>>,
}

/// A log that has something to write.
struct Busy {
    log: Log,
    retry: Option<Retry>,
}

enum Log {
    Topic(Arc<TopicLog>),
    State,
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    delay: Duration,
    /// Segments that had been asked for when it first failed: space that they take may be this log's, or given back.
    spares: u64,
}

impl Writer {
    /// Runs until the queue is closed and all that can be written is.
    pub(super) fn run(mut self) {
        let mut busy: Vec<Busy> = Vec::new();
        let mut buffer = Vec::new();
        loop {
            let now = Instant::now();
            let ready = busy.iter().any(|b| b.retry.is_none_or(|r| r.at <= now)) || self.state.is_sync_due();
            let until = busy.iter().filter_map(|b| b.retry.map(|r| r.at)).chain(self.state.sync_due()).min();
            let Inner { ops, closing, retry } = self.queue.take(!ready, until);
            for op in ops {
                self.enqueue(op, &mut busy);
            }
            if retry || closing {
                let now = Instant::now();
                busy.iter_mut().filter_map(|b| b.retry.as_mut()).for_each(|r| r.at = now);
            }
            self.commit(&mut busy, &mut buffer);
            if closing && busy.iter().all(|b| b.retry.is_some()) {
                break;
            }
            if busy.is_empty() && buffer.capacity() > BUFFER_KEPT && self.queue.inner.lock().ops.is_empty() {
                buffer = Vec::new();
            }
        }
        self.end(busy);
    }

    fn enqueue(&mut self, op: Op, busy: &mut Vec<Busy>) {
        let log = match op {
            Op::Publish(topic, op) => {
                topic.head.lock().pending.push_back(op);
                Log::Topic(topic)
            }
            Op::Store(op) => {
                self.state.pending.push_back(op);
                Log::State
            }
        };
        if !busy.iter().any(|b| b.log.is(&log)) {
            busy.push(Busy { log, retry: None });
        }
    }

    /// One group commit: each log that is due writes what it has, each file is synced once, then everybody is answered.
    fn commit(&mut self, busy: &mut Vec<Busy>, buffer: &mut Vec<u8>) {
        let started = Instant::now();
        let spares = self.env.spares.done();
        let mut staged: Vec<usize> = Vec::with_capacity(busy.len());
        for (i, b) in busy.iter_mut().enumerate() {
            if b.retry.is_some_and(|r| r.at > started) {
                continue;
            }
            let result = match &b.log {
                Log::Topic(topic) => topic.head.lock().stage(topic, buffer),
                Log::State => self.state.stage(buffer),
            };
            match result {
                Ok(true) => staged.push(i),
                Ok(false) if b.retry.take().is_some() => self.env.health.clear(&b.log.name()),
                Ok(false) => {}
                Err(error) => {
                    match &b.log {
                        Log::Topic(topic) => topic.head.lock().unstage(),
                        Log::State => self.state.unstage(),
                    }
                    b.failed(&self.env, &error, spares);
                }
            }
        }
        // What is answered without a sync does not wait for the others'.
        let is_quick =
            |i: &usize| busy.get(*i).is_some_and(|b| matches!(b.log, Log::State)) && self.state.staged_file().is_none();
        if let Some(quick) = staged.iter().position(is_quick) {
            staged.swap(0, quick);
        }
        for i in staged.iter().copied() {
            let Some(b) = busy.get_mut(i) else { continue };
            let file = match &b.log {
                Log::Topic(topic) => topic.head.lock().staged_file(),
                Log::State => self.state.staged_file(),
            };
            let synced = match file {
                Some(file) if self.env.sync == SyncMode::Always => file.sync(),
                _ => Ok(()),
            };
            match (&b.log, synced) {
                (Log::Topic(topic), Ok(())) => topic.head.lock().publish(topic),
                (Log::State, Ok(())) => self.state.publish(),
                (Log::Topic(topic), Err(error)) => {
                    topic.head.lock().abandon(topic);
                    b.failed(&self.env, &error, spares);
                    continue;
                }
                (Log::State, Err(error)) => {
                    self.state.abandon();
                    b.failed(&self.env, &error, spares);
                    continue;
                }
            }
            if b.retry.take().is_some() {
                self.env.health.clear(&b.log.name());
            }
        }
        if self.state.is_sync_due() && self.env.sync == SyncMode::Always {
            self.sync_state(busy);
        }
        if !staged.is_empty() {
            self.env.metrics.committed(started.elapsed());
        }
        busy.retain(|b| match &b.log {
            Log::Topic(topic) => !topic.head.lock().pending.is_empty(),
            Log::State => self.state.has_work(),
        });
    }

    /// Syncs what was answered before it was synced, and for which no commit came by since.
    fn sync_state(&mut self, busy: &mut Vec<Busy>) {
        let Err(error) = self.state.sync() else { return };
        let mut failed = match busy.iter().position(|b| b.log.is(&Log::State)) {
            Some(index) => busy.swap_remove(index),
            None => Busy { log: Log::State, retry: None },
        };
        failed.failed(&self.env, &error, self.env.spares.done());
        busy.push(failed);
    }

    fn end(mut self, busy: Vec<Busy>) {
        let cause: Arc<str> = "the bus was closed before it could be written".into();
        for b in busy {
            match b.log {
                Log::Topic(topic) => topic.head.lock().give_up(&cause),
                Log::State => self.state.pending.clear(),
            }
        }
        if let Err(error) = self.state.close() {
            tracing::error!(%error, "the state could not be synced at the end");
        }
        for topic in self.topics.read().values() {
            if let Err(error) = topic.head.lock().close(topic) {
                tracing::error!(topic = %topic.name, %error, "the log could not be synced at the end");
            }
        }
        drop(self.lock);
    }
}

impl Busy {
    /// To be tried again. `spares_done` is as of before it was tried.
    fn failed(&mut self, env: &Env, error: &io::Error, spares_done: u64) {
        let delay = self.retry.map_or(env.retry, |r| (r.delay * 2).min(RETRY_LAST));
        let spares = self.retry.map_or_else(|| env.spares.asked(), |r| r.spares);
        self.retry = Some(Retry { at: Instant::now() + delay, delay, spares });
        if is_full(error) && spares > spares_done {
            return;
        }
        env.metrics.disk_errors.inc();
        let name = self.log.name();
        let text: Arc<str> = format!("{name}: {error}").into();
        env.health.trouble(&name, if is_full(error) { Health::Full(text) } else { Health::Down(text) });
    }
}

impl Log {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Topic(a), Self::Topic(b)) => Arc::ptr_eq(a, b),
            (Self::State, Self::State) => true,
            _ => false,
        }
    }

    fn name(&self) -> Arc<str> {
        match self {
            Self::Topic(topic) => topic.name.as_str().into(),
            Self::State => "state".into(),
        }
    }
}

/// True for errors that pass once somebody makes space.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
