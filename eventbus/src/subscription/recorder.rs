//! Writes ledgers: one writer a process and bus, which puts all that changed, of all subscriptions, into one store at a time.
//!
//! A subscriber's [`Book`] is its ledgers and an account of its *places*: events settled (finished, or set aside for later) of
//! which the bus does not know yet. Together with what is being delivered they bound the duplicates of a kill. A book is written
//! when half of its places wait for it, or 100 ms after it changed; the next write starts when the last one returned. Once the bus has
//! lost its state, every book is written again, and what else is known of it here.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use evoke_api::limits;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{self, JobId};
use super::kept::Kept;
use super::ledger::{Ledger, LedgerName};
use super::metrics::Metrics;
use super::sharing::Hold;
use crate::bus::{BusError, EventBus, Expect, Put};

/// Above this rate, in bytes a second, large ledgers are written less often.
const PACE: usize = 32 << 20;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The books that wait to be written.
#[derive(Debug)]
pub(super) struct Queue {
    books: Mutex<Vec<Arc<Book>>>,
    arrived: Notify,
    urgent: AtomicBool,
    hurry: Notify,
    /// Every book, waiting or not.
    all: Mutex<Vec<Weak<Book>>>,
    pub(super) kept: Kept,
}

impl Queue {
    /// `losses` says how often the bus has lost what was written.
    pub(super) fn new(losses: watch::Receiver<u64>) -> Self {
        Self {
            books: Mutex::default(),
            arrived: Notify::new(),
            urgent: AtomicBool::new(false),
            hurry: Notify::new(),
            all: Mutex::default(),
            kept: Kept::new(losses),
        }
    }

    /// Has every book written again.
    fn lose(&self) {
        let all: Vec<_> = self.all.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(Book::lose);
        self.hurry();
    }

    fn hurry(&self) {
        if !self.urgent.swap(true, Ordering::AcqRel) {
            self.hurry.notify_one();
        }
    }
}

/// The ledgers of one subscriber. One task changes it; the recorder reads it.
#[derive(Debug)]
pub struct Book {
    queue: Arc<Queue>,
    half: usize,
    pages: Mutex<Pages>,
    unrecorded: AtomicUsize,
    written: AtomicWaker,
    /// The job that it belongs to, if it is one's.
    job: Option<JobId>,
    /// What of the subscription is this process's: given back once the book is retired and everything in it is durable.
    hold: Mutex<Option<Hold>>,
}

/// What is in a [`Book`].
#[derive(Debug)]
pub struct Pages {
    pages: Vec<Page>,
    /// Settled since the last snapshot.
    settled: usize,
    /// Settled as of the snapshot that is being written.
    writing: usize,
    queued: bool,
    /// Nobody changes it any more.
    retired: bool,
}

#[derive(Debug)]
struct Page {
    name: LedgerName,
    key: String,
    ledger: Ledger,
    dirty: bool,
    /// Also while a write of it is under way.
    unsure: bool,
    /// The bus has lost it, and it was not written since.
    lost: bool,
}

impl Pages {
    /// One ledger, by its place in the subscriber's list of inputs.
    pub fn ledger(&self, input: usize) -> Option<&Ledger> {
        self.pages.get(input).map(|page| &page.ledger)
    }

    /// The same, to be changed and then written.
    pub fn change(&mut self, input: usize) -> Option<&mut Ledger> {
        let page = self.pages.get_mut(input)?;
        page.dirty = true;
        Some(&mut page.ledger)
    }

    fn is_clean(&self) -> bool {
        self.pages.iter().all(|page| !page.dirty && !page.unsure)
    }

    /// The open events of all ledgers.
    pub fn open(&self) -> usize {
        self.pages.iter().map(|page| page.ledger.open().len()).sum()
    }
}

impl Book {
    pub(super) fn new(queue: &Arc<Queue>, ledgers: Vec<(LedgerName, Ledger)>, half: usize, hold: Hold) -> Arc<Self> {
        let job = ledgers.first().and_then(|(name, _)| job::of_ledgers(&name.subscription));
        let page = |(name, ledger): (LedgerName, _)| Page {
            key: name.key(),
            name,
            ledger,
            dirty: false,
            unsure: false,
            lost: false,
        };
        let pages = ledgers.into_iter().map(page).collect();
        let book = Arc::new(Self {
            queue: Arc::clone(queue),
            half: half.max(1),
            pages: Mutex::new(Pages { pages, settled: 0, writing: 0, queued: false, retired: false }),
            unrecorded: AtomicUsize::new(0),
            written: AtomicWaker::new(),
            job,
            hold: Mutex::new(Some(hold)),
        });
        let mut all = queue.all.lock();
        all.retain(|book| book.strong_count() > 0);
        all.push(Arc::downgrade(&book));
        drop(all);
        book
    }

    /// Looks at the ledgers.
    pub fn view<T>(&self, look: impl FnOnce(&Pages) -> T) -> T {
        look(&self.pages.lock())
    }

    /// Changes the ledgers, all at once for whoever reads them. `change` returns how many more events are settled: finished, or
    /// set aside with their state in the ledger.
    pub fn update(self: &Arc<Self>, change: impl FnOnce(&mut Pages) -> usize) {
        let (join, urgent) = {
            let mut pages = self.pages.lock();
            pages.settled += change(&mut pages);
            self.unrecorded.store(pages.settled + pages.writing, Ordering::Release);
            let join = !pages.queued && pages.pages.iter().any(|page| page.dirty);
            pages.queued |= join;
            (join, pages.settled >= self.half)
        };
        if join {
            self.queue.books.lock().push(Arc::clone(self));
            self.queue.arrived.notify_one();
        }
        if urgent {
            self.queue.hurry();
        }
    }

    /// How many events are settled without the bus knowing it yet.
    pub fn unrecorded(&self) -> usize {
        self.unrecorded.load(Ordering::Acquire)
    }

    /// Wakes the task of `cx` when a write is done. One task at a time.
    pub fn wake_on_write(&self, cx: &Context<'_>) {
        self.written.register(cx.waker());
    }

    /// Resolves when everything that changed before this call is durable.
    pub async fn flush(&self) {
        self.queue.hurry();
        std::future::poll_fn(|cx| {
            self.wake_on_write(cx);
            if self.view(Pages::is_clean) {
                return Poll::Ready(());
            }
            self.queue.hurry();
            Poll::Pending
        })
        .await;
    }

    /// True while deliveries may be started: no other process can have taken over.
    pub(super) fn may_start(&self, now: Instant) -> bool {
        self.hold.lock().as_ref().is_some_and(|hold| hold.may_start(now))
    }

    /// The subscription is not worked on any more. What it held is given back as soon as its positions are durable: all of them are
    /// written once more where another process may be next, lest a write that was under way in a dead one is the last.
    pub(super) fn retire(self: &Arc<Self>) {
        let is_shared = self.hold.lock().as_ref().is_some_and(Hold::is_shared);
        self.update(|pages| {
            pages.retired = true;
            pages.pages.iter_mut().for_each(|page| page.dirty |= is_shared);
            0
        });
        if self.view(Pages::is_clean) {
            self.release();
        }
    }

    /// Nobody works on it, and everything in it is durable.
    fn release(&self) {
        if let Some(id) = &self.job {
            self.queue.kept.forget(&job::key(id));
        }
        drop(self.hold.lock().take());
    }

    /// The bus has lost all of it. What is given back already is kept by the queue.
    fn lose(self: &Arc<Self>) {
        if self.hold.lock().is_none() {
            return;
        }
        self.update(|pages| {
            pages.pages.iter_mut().for_each(|page| (page.dirty, page.lost) = (true, true));
            0
        });
    }

    /// What is to be written, as of now. Once another process may have taken over, that is nothing, since it has positions of its own;
    /// or what the bus has lost, as long as nobody has written anything there since.
    fn snapshot(&self, puts: &mut Vec<Put>) {
        let may_record = self.hold.lock().as_ref().is_some_and(|hold| hold.may_record(Instant::now()));
        let expect = if may_record { Expect::Any } else { Expect::Absent };
        let mut pages = self.pages.lock();
        pages.queued = false;
        pages.writing = std::mem::take(&mut pages.settled);
        if !may_record {
            pages.pages.iter_mut().for_each(|page| page.dirty &= page.lost);
        }
        for page in pages.pages.iter_mut().filter(|page| page.dirty) {
            (page.dirty, page.unsure) = (false, true);
            let value = Some(page.ledger.encode(&page.name));
            puts.push(Put { key: page.key.clone(), value, expect });
        }
    }

    /// The snapshot, which was taken after so many losses, is durable, or it is not and has to be taken again.
    fn settle(&self, durable: bool, losses: u64) {
        let mut pages = self.pages.lock();
        let writing = std::mem::take(&mut pages.writing);
        if !durable {
            pages.settled += writing;
        }
        for page in pages.pages.iter_mut().filter(|page| page.unsure) {
            page.unsure = false;
            page.dirty |= !durable;
            page.lost &= !durable;
        }
        self.unrecorded.store(pages.settled, Ordering::Release);
        let done = pages.retired && pages.is_clean();
        if done && self.job.is_none() {
            let known = pages.pages.iter().map(|page| (page.key.clone(), page.ledger.encode(&page.name)));
            self.queue.kept.keep_recorded(known, losses);
        }
        drop(pages);
        if done {
            self.release();
        }
        self.written.wake();
    }
}

/// Writes until cancelled, then what is left.
pub(super) async fn run(bus: Arc<dyn EventBus>, queue: Arc<Queue>, metrics: Metrics, cancel: CancellationToken) {
    let mut losses = bus.losses();
    let mut stopping = false;
    while !stopping {
        tokio::select! {
            () = queue.arrived.notified() => {}
            Ok(()) = losses.changed() => queue.lose(),
            () = cancel.cancelled() => stopping = true,
        }
        let due = Instant::now() + limits::LEDGER_INTERVAL;
        if !stopping {
            tokio::select! {
                biased;
                () = queue.hurry.notified() => {}
                () = cancel.cancelled() => stopping = true,
                () = tokio::time::sleep_until(due) => {}
            }
        }
        queue.urgent.store(false, Ordering::Release);
        if stopping && losses.has_changed().is_ok_and(|lost| lost) {
            queue.lose();
        }
        let books = std::mem::take(&mut *queue.books.lock());
        let is_wanted = !books.is_empty() || queue.kept.all_lost().is_some();
        if is_wanted && !write(&*bus, &queue, &books, &metrics, &cancel).await {
            return;
        }
        if !queue.books.lock().is_empty() {
            queue.arrived.notify_one();
        }
    }
}

/// One store, tried until it works; false when the bus is closed.
async fn write(
    bus: &dyn EventBus,
    queue: &Queue,
    books: &[Arc<Book>],
    metrics: &Metrics,
    cancel: &CancellationToken,
) -> bool {
    let mut delay = RETRY_FIRST;
    loop {
        let losses = queue.kept.losses();
        let mut puts = Vec::with_capacity(books.len());
        books.iter().for_each(|book| book.snapshot(&mut puts));
        let lost = queue.kept.all_lost();
        let lost_keys: Option<Vec<_>> = lost.as_ref().map(|lost| lost.iter().map(|put| put.key.clone()).collect());
        puts.extend(lost.into_iter().flatten());
        let bytes: usize = puts.iter().filter_map(|put| put.value.as_ref()).map(bytes::Bytes::len).sum();
        let stored = bus.store_soon(puts).await;
        books.iter().for_each(|book| book.settle(stored.is_ok(), losses));
        match stored {
            Ok(_) => {
                if let Some(keys) = &lost_keys {
                    queue.kept.made_good(keys, losses);
                }
                if delay > RETRY_FIRST {
                    tracing::info!("positions are recorded again");
                }
                metrics.ledger_writes.inc();
                metrics.ledger_bytes.inc_by(bytes as u64);
                if bytes > PACE / 1000 {
                    tokio::time::sleep(Duration::from_secs(1).mul_f64(bytes as f64 / PACE as f64)).await;
                }
                return true;
            }
            Err(BusError::Closed) => return false,
            Err(error) => {
                metrics.ledger_failures.inc();
                if delay == RETRY_FIRST {
                    tracing::warn!(%error, "positions cannot be recorded, trying again; deliveries pause when their places run out");
                }
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = cancel.cancelled() => return false,
                }
                delay = (delay * 2).min(RETRY_MAX);
            }
        }
    }
}
