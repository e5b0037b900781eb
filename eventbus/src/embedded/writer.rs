//! The threads that write, one for the topics and one for the state: each takes everything that waits for it, writes it, syncs each file
//! once, and answers everybody.
//!
//! Most changes of state are answered once they are written. They have a thread of their own, so as not to wait for the syncs of
//! the topics.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evoke_api::events::SyncMode;
use evoke_api::names::TopicName;
use parking_lot::{Condvar, Mutex, RwLock};

use super::disk::DiskFile;
use super::env::Env;
use super::topic::TopicLog;
use crate::bus::Health;

/// How long a writer that had something to do a moment ago looks for more before it sleeps. To be woken takes about as long, and one
/// who publishes batch after batch would wait for that each time.
const LOOK: Duration = Duration::from_micros(100);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// A buffer that grew beyond this is given back when there is nothing to do, in bytes.
const BUFFER_KEPT: usize = 64 << 10;

/// The topics of a bus.
pub(super) type Topics = RwLock<HashMap<TopicName, Arc<TopicLog>>>;

/// What a writer appends to. It writes in three steps: stage, sync of the staged file, publish or abandon.
pub(super) trait Log: Send + Sync + 'static {
    /// Something to write.
    type Op: Send;

    /// What it is called where its troubles are told.
    fn name(&self) -> Arc<str>;

    /// Takes an op, to be staged.
    fn enqueue(&self, op: Self::Op);

    /// When there is something to stage next, if that is known; `now` where there is already.
    fn due(&self, now: Instant) -> Option<Instant>;

    /// Writes as much of what waits as fits into one commit. False when there was nothing.
    ///
    /// # Errors
    /// Those of the disk. Nothing has happened then, as far as anybody can tell.
    fn stage(&self, buffer: &mut Vec<u8>) -> io::Result<bool>;

    /// The file to sync for what is staged, unless it is answered without.
    fn staged_file(&self) -> Option<Arc<dyn DiskFile>>;

    /// What was staged is as durable as it was asked to be: shows it, and answers.
    fn publish(self: &Arc<Self>);

    /// The sync of what was staged failed: the file is not to be trusted, nor synced, again.
    fn abandon(&self);

    /// The bus ends with ops that could not be written, for this cause.
    fn give_up(&self, cause: &Arc<str>);
}

/// What waits for a writer. Its size is bounded by the places that each op holds.
pub(super) struct Queue<L: Log> {
    inner: Mutex<Inner<L>>,
    changed: Condvar,
    /// That there is something to take; changes while `inner` is locked.
    ready: AtomicBool,
}

struct Inner<L: Log> {
    ops: VecDeque<(Arc<L>, L::Op)>,
    closing: bool,
    /// Space was freed: what failed is worth another try.
    retry: bool,
}

impl<L: Log> Queue<L> {
    pub(super) fn new() -> Self {
        let inner = Inner { ops: VecDeque::new(), closing: false, retry: false };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), ready: AtomicBool::new(false) }
    }

    /// Hands an op over; false when the bus is closing.
    pub(super) fn push(&self, log: Arc<L>, op: L::Op) -> bool {
        let mut inner = self.inner.lock();
        if inner.closing {
            return false;
        }
        inner.ops.push_back((log, op));
        self.ready.store(true, Ordering::Release);
        self.changed.notify_one();
        true
    }

    /// The writer ends once all that is queued was written.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closing = true;
        self.ready.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Has the writer try again at once what failed.
    pub(super) fn retry(&self) {
        let mut inner = self.inner.lock();
        inner.retry = true;
        self.ready.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn is_empty(&self) -> bool {
        self.inner.lock().ops.is_empty()
    }

    /// Looks for something to take for a moment, without sleeping.
    fn look(&self) {
        let begun = Instant::now();
        while !self.ready.load(Ordering::Acquire) && begun.elapsed() < LOOK {
            std::thread::yield_now();
        }
    }

    /// Everything that is queued, after waiting for something until `until`.
    fn take(&self, wait: bool, until: Option<Instant>) -> Inner<L> {
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
        self.ready.store(false, Ordering::Release);
        std::mem::replace(&mut *inner, Inner { ops: VecDeque::new(), closing, retry: false })
    }
}

/// See the module.
pub(super) struct Writer<L: Log> {
    pub(super) env: Arc<Env>,
    pub(super) queue: Arc<Queue<L>>,
}

/// A log that has something to write, or will have.
struct Busy<L> {
    log: Arc<L>,
    retry: Option<Retry>,
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    delay: Duration,
    /// Segments that had been asked for when it first failed: space that they take may be this log's, or given back.
    spares: u64,
}

impl<L: Log> Writer<L> {
    /// Runs until the queue is closed and all that can be written is.
    pub(super) fn run(self) {
        let mut busy: Vec<Busy<L>> = Vec::new();
        let mut buffer = Vec::new();
        let mut is_brisk = false;
        loop {
            let now = Instant::now();
            let next = busy.iter().filter_map(|b| b.due(now)).min();
            let wait = next.is_none_or(|at| at > now);
            if wait && is_brisk {
                self.queue.look();
            }
            let Inner { ops, closing, retry } = self.queue.take(wait, next);
            is_brisk = now.elapsed() < 2 * LOOK;
            for (log, op) in ops {
                log.enqueue(op);
                if !busy.iter().any(|b| Arc::ptr_eq(&b.log, &log)) {
                    busy.push(Busy { log, retry: None });
                }
            }
            if retry || closing {
                let now = Instant::now();
                busy.iter_mut().filter_map(|b| b.retry.as_mut()).for_each(|r| r.at = now);
            }
            self.commit(&mut busy, &mut buffer);
            let now = Instant::now();
            busy.retain(|b| b.log.due(now).is_some());
            if closing && busy.iter().all(|b| b.retry.is_some() || b.due(now).is_some_and(|at| at > now)) {
                break;
            }
            if busy.is_empty() && buffer.capacity() > BUFFER_KEPT && self.queue.is_empty() {
                buffer = Vec::new();
            }
        }
        let cause: Arc<str> = "the bus was closed before it could be written".into();
        for b in busy {
            b.log.give_up(&cause);
        }
    }

    /// One group commit: each log that is due writes what it has, each file is synced once, then everybody is answered.
    fn commit(&self, busy: &mut [Busy<L>], buffer: &mut Vec<u8>) {
        let started = Instant::now();
        let spares = self.env.spares.done();
        let mut staged: Vec<usize> = Vec::with_capacity(busy.len());
        for (i, b) in busy.iter_mut().enumerate() {
            if b.due(started).is_none_or(|at| at > started) {
                continue;
            }
            match b.log.stage(buffer) {
                Ok(true) => staged.push(i),
                Ok(false) => b.succeeded(&self.env),
                Err(error) => b.failed(&self.env, &error, spares),
            }
        }
        let mut is_durable = false;
        for i in staged {
            let Some(b) = busy.get_mut(i) else { continue };
            let file = b.log.staged_file();
            is_durable |= file.is_some();
            match file.filter(|_| self.env.sync == SyncMode::Always).map_or(Ok(()), |file| file.sync()) {
                Ok(()) => {
                    b.log.publish();
                    b.succeeded(&self.env);
                }
                Err(error) => {
                    b.log.abandon();
                    b.failed(&self.env, &error, spares);
                }
            }
        }
        if is_durable {
            self.env.metrics.committed(started.elapsed());
        }
    }
}

impl<L: Log> Busy<L> {
    fn due(&self, now: Instant) -> Option<Instant> {
        self.retry.map(|retry| retry.at).or_else(|| self.log.due(now))
    }

    fn succeeded(&mut self, env: &Env) {
        if self.retry.take().is_some() {
            env.health.clear(&self.log.name());
        }
    }

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

/// True for errors that pass once somebody makes space.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
