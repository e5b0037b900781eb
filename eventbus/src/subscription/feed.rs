//! Reading, per process and partition and not per subscriber.
//!
//! ```text
//!                 lagging cursors              window                head reader
//!   log: ---------^-----^----------[ batch | batch | batch | batch ]^------>
//!                 one catch-up task          cursors at the head share these
//! ```
//!
//! The head reader reads when a cursor that has everything asks for more, and at no other time: not asking is the back-pressure.
//! What it reads stays in the window until every cursor that was there has taken it, or until the window's bytes run out; a
//! cursor that is left behind is fed by the catch-up task, which serves the cursors that ask in turn and never waits for one.
//!
//! Where a reader finds that the log has lost its end, all that was read of that end is forgotten, and every cursor that lies beyond it is told,
//! whatever it is doing: a new reader at its place would not know that other events are there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ledger::Millis;
use super::metrics::Metrics;
use crate::bus::{Batch, EventBus, Partition, Point, Position, Record};

mod clock;
mod readers;

use clock::Skew;

/// How much of what was read is kept for cursors that have not taken it yet.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// By one partition, in bytes.
    pub partition: usize,
    /// By all partitions of a bus, in bytes. A partition always keeps the last batch it read.
    pub total: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { partition: 4 << 20, total: 16 << 20 }
    }
}

/// Some consecutive records of one partition, shared with whoever else reads them.
#[derive(Clone, Debug)]
pub struct Slice {
    batch: Arc<Batch>,
    range: Range<usize>,
    from: Position,
    next: Position,
}

impl Slice {
    /// What of `batch` lies from `at` to `limit`, exclusively.
    fn new(batch: &Arc<Batch>, at: Position, limit: Position) -> Self {
        let start = batch.records.partition_point(|record| record.at < at);
        let (end, next) = if batch.next <= limit {
            (batch.records.len(), batch.next)
        } else {
            (batch.records.partition_point(|record| record.at < limit), limit)
        };
        Self { batch: Arc::clone(batch), range: start..end.max(start), from: at, next }
    }

    /// How many events the bus may have deleted between the records before they were read, at most.
    pub fn lost(&self) -> u64 {
        let inside = |gap: &Range<Position>| gap.end.min(self.next).0.saturating_sub(gap.start.max(self.from).0);
        let lost: u128 = self.batch.gaps.iter().map(inside).sum();
        u64::try_from(lost).unwrap_or(u64::MAX)
    }

    /// The records, in order; there may be none.
    pub fn records(&self) -> &[Record] {
        self.batch.records.get(self.range.clone()).unwrap_or_default()
    }

    /// `count` of these records, from the one at `start` on.
    #[must_use]
    pub fn part(&self, start: usize, count: usize) -> Self {
        let end = self.range.end;
        let start = (self.range.start + start).min(end);
        let range = start..(start + count).min(end);
        Self { batch: Arc::clone(&self.batch), range, from: self.from, next: self.next }
    }

    /// Where to go on when all records are done.
    pub fn next(&self) -> Position {
        self.next
    }

    /// As [`Point::before`], of a place that reading has come to: known where a read has ended.
    pub fn before(&self, upto: Position) -> Option<u64> {
        self.batch.before.filter(|_| upto == self.batch.next)
    }

    /// When the latest of all up to a place that reading has come to was appended: known where a read has ended.
    pub fn latest(&self, upto: Position) -> Option<SystemTime> {
        self.batch.latest.filter(|_| upto == self.batch.next)
    }
}

/// Why a cursor cannot go on where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The log now begins after it.
    Trimmed {
        /// Where.
        first: Point,
    },
    /// What lies there is damaged.
    Damaged {
        /// Where that begins, at the cursor or before.
        first: Position,
        /// Where the log goes on.
        next: Point,
    },
    /// The log now ends before it, or is another one from a place before it on.
    Ahead {
        /// Where.
        end: Point,
    },
    /// The bus is closed.
    Closed,
}

/// The feeds of a bus in this process, each made with its first cursor and ended with its last.
#[derive(Clone, Debug)]
pub(super) struct Feeds(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bus: Arc<dyn EventBus>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    window: Window,
    window_bytes: AtomicUsize,
    feeds: Mutex<HashMap<Partition, Arc<Feed>>>,
    skew: Skew,
    metrics: Metrics,
}

impl Feeds {
    pub(super) fn new(
        bus: Arc<dyn EventBus>,
        window: Window,
        metrics: Metrics,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (window_bytes, feeds) = (AtomicUsize::new(0), Mutex::new(HashMap::new()));
        let skew = Skew::new(Arc::clone(&metrics.bus), metrics.skew.with_label_values(&[&*metrics.bus]));
        Self(Arc::new(Shared { bus, tasks, cancel, window, window_bytes, feeds, skew, metrics }))
    }

    /// A cursor that goes on at `at`. Nothing that it has passed was appended after `seen`; zero if it has passed nothing.
    pub(super) fn cursor(&self, partition: &Partition, at: Position, seen: Millis) -> Cursor {
        let mut feeds = self.0.feeds.lock();
        let feed = feeds.entry(partition.clone()).or_insert_with(|| {
            let feed = Arc::new(Feed {
                partition: partition.clone(),
                shared: Arc::clone(&self.0),
                state: Mutex::new(State::default()),
                head_wanted: Notify::new(),
                head_moved: Notify::new(),
                behind_wanted: Notify::new(),
                cancel: self.0.cancel.child_token(),
                counted: AtomicUsize::new(0),
            });
            self.0.tasks.spawn(readers::head(Arc::clone(&feed)));
            self.0.tasks.spawn(readers::catch_up(Arc::clone(&feed)));
            feed
        });
        let id = feed.state.lock().add(at, seen);
        Cursor { feed: Arc::clone(feed), id }
    }
}

/// One partition, read once.
#[derive(Debug)]
struct Feed {
    partition: Partition,
    shared: Arc<Shared>,
    state: Mutex<State>,
    head_wanted: Notify,
    head_moved: Notify,
    behind_wanted: Notify,
    cancel: CancellationToken,
    /// What of the total is this feed's; changed under the lock of `state`.
    counted: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    cursors: BTreeMap<u64, Slot>,
    last_id: u64,
    /// Consecutive batches up to `head`.
    window: VecDeque<Entry>,
    bytes: usize,
    /// How many cursors have not taken the window's first batch; those before the window do not count.
    at_front: usize,
    /// Where the head reader goes on.
    head: Option<Position>,
    /// When the latest of what was read or passed was appended, as far as known: nothing that any cursor has read is newer.
    newest: Option<SystemTime>,
    /// How often the log has lost its end.
    losses: u64,
    /// Cursors before the window that ask, first come first served.
    behind: VecDeque<u64>,
}

#[derive(Debug)]
struct Slot {
    at: Position,
    /// What it had passed when it was made is no newer.
    seen: Millis,
    ask: Ask,
}

#[derive(Debug)]
enum Ask {
    Nothing,
    Head(Waker),
    Behind(Waker),
    Answer(Result<Slice, Gone>),
}

#[derive(Debug)]
struct Entry {
    from: Position,
    batch: Arc<Batch>,
}

impl State {
    fn add(&mut self, at: Position, seen: Millis) -> u64 {
        self.last_id += 1;
        self.cursors.insert(self.last_id, Slot { at, seen, ask: Ask::Nothing });
        self.at_front += usize::from(self.is_at_front(at));
        self.last_id
    }

    fn remove(&mut self, id: u64) {
        if let Some(slot) = self.cursors.remove(&id) {
            self.left(slot.at);
        }
    }

    fn ask(&mut self, id: u64, ask: Ask) {
        if let Some(slot) = self.cursors.get_mut(&id) {
            slot.ask = ask;
        }
    }

    fn place(&mut self, id: u64, to: Position) {
        let Some(slot) = self.cursors.get_mut(&id) else { return };
        let from = std::mem::replace(&mut slot.at, to);
        let back = self.is_at_front(to);
        if back != self.is_at_front(from) {
            if back {
                self.at_front += 1;
            } else {
                self.left(from);
            }
        }
    }

    fn is_at_front(&self, at: Position) -> bool {
        self.window.front().is_some_and(|front| (front.from..front.batch.next).contains(&at))
    }

    /// A cursor went away from `at`; batches that nobody waits for any more are let go.
    fn left(&mut self, at: Position) {
        if self.is_at_front(at) {
            self.at_front = self.at_front.saturating_sub(1);
            self.shed();
        }
    }

    /// Lets go of what no cursor in the window has still to take.
    fn shed(&mut self) {
        while self.at_front == 0 && !self.window.is_empty() {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(entry) = self.window.pop_front() {
            self.bytes -= entry.batch.bytes;
        }
        self.at_front = self.cursors.values().filter(|slot| self.is_at_front(slot.at)).count();
    }

    fn push(&mut self, from: Position, batch: Arc<Batch>) {
        self.bytes += batch.bytes;
        self.head = Some(batch.next);
        self.newest = self.newest.max(batch.latest).max(batch.records.last().map(|record| record.appended));
        self.window.push_back(Entry { from, batch });
        if self.window.len() == 1 {
            self.at_front = self.cursors.values().filter(|slot| self.is_at_front(slot.at)).count();
            self.shed();
        }
    }

    /// The head reader goes on at a place that it has not read up to.
    fn begin_at(&mut self, head: Position) {
        let seen = self.cursors.values().map(|slot| slot.seen).max().filter(|seen| *seen > Millis(0));
        self.newest = self.newest.max(seen.map(Millis::to_system));
        self.head = Some(head);
        self.clear();
    }

    fn clear(&mut self) {
        self.window.clear();
        (self.bytes, self.at_front) = (0, 0);
    }

    /// Where the window begins; below it, cursors are behind.
    fn begin(&self) -> Option<Position> {
        self.window.front().map(|front| front.from).or(self.head)
    }

    fn take(&self, at: Position) -> Option<Slice> {
        let entry = self.window.get(self.window.partition_point(|entry| entry.batch.next <= at))?;
        Some(Slice::new(&entry.batch, at, entry.batch.next))
    }

    fn wake_head(&mut self) {
        for slot in self.cursors.values_mut().filter(|slot| matches!(slot.ask, Ask::Head(_))) {
            if let Ask::Head(waker) = std::mem::replace(&mut slot.ask, Ask::Nothing) {
                waker.wake();
            }
        }
    }

    fn wake_all(&mut self) {
        for slot in self.cursors.values_mut() {
            if let Ask::Head(waker) | Ask::Behind(waker) = std::mem::replace(&mut slot.ask, Ask::Nothing) {
                waker.wake();
            }
        }
    }

    /// Answers a cursor that is behind, if it still is at `at`.
    fn answer(&mut self, id: u64, at: Position, answer: Result<Slice, Gone>) {
        if let Some(slot) = self.cursors.get_mut(&id).filter(|slot| slot.at == at && slot.is_behind()) {
            slot.answer(answer);
        }
    }

    /// The log has lost what lay from `end` on. Whoever has read beyond it is to go back; all others ask again.
    fn lose_end(&mut self, end: Point) {
        self.losses += 1;
        (self.head, self.newest) = (None, None);
        self.clear();
        self.behind.clear();
        for slot in self.cursors.values_mut() {
            // One that has not heard of an earlier loss yet goes back as far as that says.
            let earlier = match &slot.ask {
                Ask::Answer(Err(Gone::Ahead { end: earlier })) => Some(*earlier).filter(|earlier| earlier.at <= end.at),
                _ => None,
            };
            let back = earlier.or((slot.at > end.at).then_some(end));
            let ask = back.map_or(Ask::Nothing, |end| Ask::Answer(Err(Gone::Ahead { end })));
            if let Ask::Head(waker) | Ask::Behind(waker) = std::mem::replace(&mut slot.ask, ask) {
                waker.wake();
            }
        }
    }
}

impl Slot {
    fn is_behind(&self) -> bool {
        matches!(self.ask, Ask::Behind(_))
    }

    /// Answers what was asked from behind.
    fn answer(&mut self, answer: Result<Slice, Gone>) {
        if let Ask::Behind(waker) = std::mem::replace(&mut self.ask, Ask::Answer(answer)) {
            waker.wake();
        }
    }
}

/// The waker to wake from now on, without a clone where it is the same.
fn renewed(waker: Waker, cx: &Context<'_>) -> Waker {
    if waker.will_wake(cx.waker()) { waker } else { cx.waker().clone() }
}

/// Where one subscriber reads one partition. Bounded: it holds nothing but what it was last given.
#[derive(Debug)]
pub struct Cursor {
    feed: Arc<Feed>,
    id: u64,
}

/// What a cursor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For an event to be appended.
    Head,
    /// For events that are there to be read.
    Behind,
}

impl Cursor {
    /// The partition.
    pub fn partition(&self) -> &Partition {
        &self.feed.partition
    }

    /// Where it goes on.
    pub fn position(&self) -> Position {
        self.feed.state.lock().cursors.get(&self.id).map_or(Position::default(), |slot| slot.at)
    }

    /// The next records. While there are none, the task of `cx` is woken as soon as there are.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Result<Slice, Gone>> {
        self.poll_or_wait(cx).map_or_else(|_| Poll::Pending, Poll::Ready)
    }

    /// [`Cursor::poll_next`] that says what it waits for.
    ///
    /// # Errors
    /// What it waits for.
    pub fn poll_or_wait(&mut self, cx: &Context<'_>) -> Result<Result<Slice, Gone>, Wait> {
        if self.feed.cancel.is_cancelled() {
            return Ok(Err(Gone::Closed));
        }
        let mut guard = self.feed.state.lock();
        let state = &mut *guard;
        let Some(slot) = state.cursors.get_mut(&self.id) else { return Ok(Err(Gone::Closed)) };
        match std::mem::replace(&mut slot.ask, Ask::Nothing) {
            Ask::Answer(Ok(slice)) => {
                state.place(self.id, slice.next);
                return Ok(Ok(slice));
            }
            Ask::Answer(Err(gone)) => return Ok(Err(gone)),
            Ask::Behind(waker) => {
                slot.ask = Ask::Behind(renewed(waker, cx));
                return Err(Wait::Behind);
            }
            Ask::Head(waker) if state.head == Some(slot.at) => {
                slot.ask = Ask::Head(renewed(waker, cx));
                return Err(Wait::Head);
            }
            Ask::Nothing | Ask::Head(_) => {}
        }
        let at = slot.at;
        if state.begin().is_some_and(|begin| at < begin) {
            state.ask(self.id, Ask::Behind(cx.waker().clone()));
            state.behind.push_back(self.id);
            self.feed.behind_wanted.notify_one();
            return Err(Wait::Behind);
        }
        if let Some(slice) = state.take(at) {
            state.place(self.id, slice.next);
            self.feed.account(state);
            return Ok(Ok(slice));
        }
        if state.head != Some(at) {
            // The first cursor to ask, or one that is further than the head reader: it reads from here on, and who is behind
            // catches up.
            state.begin_at(at);
            state.wake_head();
            self.feed.account(state);
            self.feed.head_moved.notify_one();
        }
        state.ask(self.id, Ask::Head(cx.waker().clone()));
        self.feed.head_wanted.notify_one();
        Err(Wait::Head)
    }

    /// Goes on at `to`, forward or back.
    pub fn seek(&mut self, to: Position) {
        let mut state = self.feed.state.lock();
        state.place(self.id, to);
        // A loss that it has not heard of yet concerns the new place, too.
        if let Some(slot) = state.cursors.get_mut(&self.id)
            && !matches!(slot.ask, Ask::Answer(Err(Gone::Ahead { end })) if end.at < to)
        {
            slot.ask = Ask::Nothing;
        }
        state.behind.retain(|id| *id != self.id);
        self.feed.account(&state);
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let mut feeds = self.feed.shared.feeds.lock();
        let mut state = self.feed.state.lock();
        state.remove(self.id);
        state.behind.retain(|id| *id != self.id);
        if state.cursors.is_empty() {
            state.clear();
            self.feed.cancel.cancel();
            feeds.remove(&self.feed.partition);
        }
        self.feed.account(&state);
    }
}

impl Feed {
    /// Carries a change of the window's bytes over to the total.
    fn account(&self, state: &State) {
        let before = self.counted.swap(state.bytes, Ordering::AcqRel);
        let total = &self.shared.window_bytes;
        if state.bytes >= before {
            total.fetch_add(state.bytes - before, Ordering::AcqRel);
        } else {
            total.fetch_sub(before - state.bytes, Ordering::AcqRel);
        }
        self.shared.metrics.window_bytes.add(state.bytes as i64 - before as i64);
    }

    /// Lets go of the oldest batches until the window is within its limits, and of those that only cursors would take that have
    /// fallen behind by this: they catch up from the bus, however slow they are.
    fn fit(&self, state: &mut State) {
        let Window { partition, total } = self.shared.window;
        while state.window.len() > 1
            && (state.bytes > partition || self.shared.window_bytes.load(Ordering::Acquire) > total)
        {
            state.pop();
            state.shed();
            self.account(state);
        }
    }
}

#[cfg(test)]
mod tests;
