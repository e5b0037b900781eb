//! The two tasks of a feed: the head reader and the catch-up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Probe;
use super::{Ask, Entry, Feed, Gone, Slice, Slot, State};
use crate::bus::{Batch, BusError, From, Position, Reader};
use crate::subscription::scan;

/// One read at the head, in bytes; also the least that its reader may have read ahead.
const HEAD_BYTES: usize = 512 << 10;
/// The most that one may, and about what those of all partitions may together.
const AHEAD_BYTES: usize = 2 << 20;
const AHEAD_BYTES_ALL: usize = 16 << 20;
/// One read for cursors that are behind. Each of them may hold one such batch of its own.
const CATCH_UP_BYTES: usize = 128 << 10;
/// Readers kept open for cursors that are behind at different positions.
const CATCH_UP_READERS: usize = 4;
/// Batches kept for cursors that are behind at nearly the same position.
const CATCH_UP_BATCHES: usize = 2;
/// How long a read for a cursor that is behind may take before the next one is served, at first and at most. On a slow bus no read
/// would ever return in the first of them once there are more cursors than readers that are kept open.
const HOLE: Duration = Duration::from_millis(20);
const HOLE_MAX: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What is common to both tasks when the bus fails.
struct Trouble<'a> {
    feed: &'a Feed,
    delay: Duration,
}

impl<'a> Trouble<'a> {
    fn new(feed: &'a Feed) -> Self {
        Self { feed, delay: RETRY_FIRST }
    }

    fn over(&mut self) {
        if self.delay > RETRY_FIRST {
            tracing::info!(topic = %self.feed.partition.topic, "reads again");
            self.delay = RETRY_FIRST;
        }
    }

    async fn wait(&mut self, error: &BusError) {
        if self.delay == RETRY_FIRST {
            let topic = &self.feed.partition.topic;
            if matches!(error, BusError::Broken(_)) {
                tracing::error!(%topic, %error, "cannot read");
            } else {
                tracing::warn!(%topic, %error, "cannot read, trying again");
            }
        }
        tokio::time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(RETRY_MAX);
    }
}

/// What an error means to the cursors that wait, if it is theirs to handle: they go on where the log is now.
///
/// # Errors
/// One that is not theirs.
async fn gone(feed: &Feed, error: BusError) -> Result<Gone, BusError> {
    let (to, lost_end) = match error {
        BusError::Trimmed { first } => (first, false),
        BusError::Ahead { end } => (end, true),
        BusError::Closed => return Ok(Gone::Closed),
        BusError::NoTopic(_) | BusError::Unavailable(_) | BusError::Broken(_) => return Err(error),
    };
    let place = match scan::locate(&*feed.shared.bus, &feed.partition, From::At(to)).await {
        Ok(mark) => mark.point(),
        Err(BusError::Closed) => return Ok(Gone::Closed),
        Err(error) => return Err(error),
    };
    Ok(if lost_end { Gone::Ahead { end: place } } else { Gone::Trimmed { first: place } })
}

/// What the reader of a partition may have read ahead.
fn ahead(feed: &Feed) -> usize {
    let partitions = feed.shared.feeds.lock().len().max(1);
    (AHEAD_BYTES_ALL / partitions).clamp(HEAD_BYTES, AHEAD_BYTES)
}

/// Reads at the head while somebody waits there.
pub(super) async fn head(feed: Arc<Feed>) {
    feed.cancel.run_until_cancelled(read_head(&feed)).await;
    feed.state.lock().wake_all();
}

async fn read_head(feed: &Feed) {
    let read = feed.shared.metrics.read.with_label_values(&["head"]);
    let (mut trouble, mut probe) = (Trouble::new(feed), Probe::new(feed));
    let mut reader: Option<(Position, Box<dyn Reader>)> = None;
    loop {
        let Some(at) = feed.state.lock().head_asked() else {
            feed.head_wanted.notified().await;
            continue;
        };
        let mut open = match reader.take() {
            Some((position, open)) if position == at => open,
            _ => match feed.shared.bus.read(&feed.partition, From::At(at), ahead(feed)).await {
                Ok(open) => open,
                Err(error) => {
                    fail_head(feed, at, error, &mut trouble).await;
                    continue;
                }
            },
        };
        probe.ask().await;
        let next = tokio::select! {
            next = open.next(HEAD_BYTES) => next,
            () = feed.head_moved.notified() => {
                reader = Some((at, open));
                continue;
            }
        };
        match next {
            Ok(batch) => {
                trouble.over();
                read.inc_by(batch.bytes as u64);
                probe.read(&batch);
                reader = Some((batch.next, open));
                feed.arrived(at, batch);
            }
            Err(error) => fail_head(feed, at, error, &mut trouble).await,
        }
    }
}

async fn fail_head(feed: &Feed, at: Position, error: BusError, trouble: &mut Trouble<'_>) {
    let gone = match gone(feed, error).await {
        Ok(gone) => gone,
        Err(error) => return trouble.wait(&error).await,
    };
    let mut state = feed.state.lock();
    if state.head == Some(at) {
        state.head = None;
        state.clear();
        feed.account(&state);
        state.fail(at, gone);
    }
}

impl State {
    /// Where the head reader goes on, if somebody waits for it.
    fn head_asked(&self) -> Option<Position> {
        self.head.filter(|_| self.cursors.values().any(|slot| matches!(slot.ask, Ask::Head(_))))
    }

    /// Tells the cursors that wait at `at`; those that wait elsewhere ask again.
    fn fail(&mut self, at: Position, gone: Gone) {
        for slot in self.cursors.values_mut() {
            if let Ask::Head(waker) = std::mem::replace(&mut slot.ask, Ask::Nothing) {
                if slot.at == at {
                    slot.ask = Ask::Answer(Err(gone));
                }
                waker.wake();
            }
        }
    }
}

impl Feed {
    /// Takes in what the head reader read from `at` on.
    fn arrived(&self, at: Position, batch: Batch) {
        let mut state = self.state.lock();
        if state.head != Some(at) || batch.next <= at {
            return;
        }
        state.push(at, Arc::new(batch));
        self.account(&state);
        self.fit(&mut state);
        state.wake_head();
    }
}

/// Serves the cursors that are behind, in the order in which they ask.
pub(super) async fn catch_up(feed: Arc<Feed>) {
    feed.cancel.run_until_cancelled(serve_behind(&feed)).await;
}

async fn serve_behind(feed: &Feed) {
    let read = feed.shared.metrics.read.with_label_values(&["catch_up"]);
    let mut trouble = Trouble::new(feed);
    let mut readers: VecDeque<(Position, Box<dyn Reader>)> = VecDeque::new();
    let mut recent: VecDeque<Entry> = VecDeque::new();
    let mut patience = HOLE;
    loop {
        let Some((id, at)) = feed.state.lock().next_behind() else {
            if feed.state.lock().nobody_behind() {
                readers.clear();
                recent.clear();
            }
            feed.behind_wanted.notified().await;
            continue;
        };
        if let Some(entry) = recent.iter().find(|entry| (entry.from..entry.batch.next).contains(&at)) {
            feed.serve(entry);
            continue;
        }
        match read_behind(feed, at, &mut readers, patience).await {
            Ok(None) => {
                let was_hole = skip_hole(feed, id, at).await;
                patience = if was_hole { HOLE } else { (patience * 2).min(HOLE_MAX) };
            }
            Ok(Some(batch)) => {
                trouble.over();
                patience = HOLE;
                read.inc_by(batch.bytes as u64);
                let entry = Entry { from: at, batch: Arc::new(batch) };
                feed.serve(&entry);
                // An empty batch may have brought it no further.
                feed.state.lock().ask_again(id);
                recent.truncate(CATCH_UP_BATCHES - 1);
                recent.push_front(entry);
            }
            Err(error) => match gone(feed, error).await {
                Ok(gone) => feed.state.lock().answer(id, |_| Err(gone)),
                Err(error) => {
                    trouble.wait(&error).await;
                    feed.state.lock().ask_again(id);
                }
            },
        }
    }
}

async fn read_behind(
    feed: &Feed,
    at: Position,
    readers: &mut VecDeque<(Position, Box<dyn Reader>)>,
    patience: Duration,
) -> Result<Option<Batch>, BusError> {
    let kept = readers.iter().position(|(position, _)| *position == at).and_then(|place| readers.remove(place));
    let mut reader = match kept {
        Some((_, reader)) => reader,
        None => feed.shared.bus.read(&feed.partition, From::At(at), CATCH_UP_BYTES).await?,
    };
    let batch = tokio::time::timeout(patience, reader.next(CATCH_UP_BYTES)).await.ok().transpose()?;
    readers.truncate(CATCH_UP_READERS - 1);
    readers.push_front((batch.as_ref().map_or(at, |batch| batch.next), reader));
    Ok(batch)
}

/// A read that does not return may be slow, or there may be no event between the cursor and the head; nobody else waits for it.
/// True if there was no event.
async fn skip_hole(feed: &Feed, id: u64, at: Position) -> bool {
    let head = feed.state.lock().begin();
    if let Some(head) = head
        && let Ok(marks) = feed.shared.bus.locate(&[at, head].map(|at| (feed.partition.clone(), From::At(at)))).await
        && let [here, there] = marks[..]
        && here.exact
        && here.ahead == there.ahead
    {
        // What was there and is gone by now is no hole.
        let gone = match feed.shared.bus.read(&feed.partition, From::At(at), 0).await {
            Ok(_) => Ok(Arc::new(Batch { next: head, ..Batch::default() })),
            Err(error) => Err(gone(feed, error).await),
        };
        match gone {
            Ok(hole) => feed.state.lock().answer(id, |at| Ok(Slice::new(&hole, at, head.max(at)))),
            Err(Ok(gone)) => feed.state.lock().answer(id, |_| Err(gone)),
            Err(Err(_)) => feed.state.lock().ask_again(id),
        }
        true
    } else {
        feed.state.lock().ask_again(id);
        false
    }
}

impl State {
    /// The cursor that has waited longest, and where it is.
    fn next_behind(&mut self) -> Option<(u64, Position)> {
        loop {
            let id = self.behind.pop_front()?;
            if let Some(Slot { at, ask: Ask::Behind(_) }) = self.cursors.get(&id) {
                return Some((id, *at));
            }
        }
    }

    /// Puts a cursor back in the line if it has no answer yet.
    fn ask_again(&mut self, id: u64) {
        if self.cursors.get(&id).is_some_and(|slot| matches!(slot.ask, Ask::Behind(_))) {
            self.behind.push_back(id);
        }
    }

    fn nobody_behind(&self) -> bool {
        let begin = self.begin();
        self.cursors.values().all(|slot| begin.is_none_or(|begin| slot.at >= begin))
    }
}

impl Feed {
    /// Gives a batch to every waiting cursor that lies in it, up to where the window or the head begins.
    fn serve(&self, entry: &Entry) {
        let mut state = self.state.lock();
        let limit = state.head.unwrap_or(entry.batch.next).max(entry.from);
        let inside =
            |slot: &Slot| matches!(slot.ask, Ask::Behind(_)) && (entry.from..entry.batch.next).contains(&slot.at);
        let ids: Vec<u64> = state.cursors.iter().filter(|(_, slot)| inside(slot)).map(|(id, _)| *id).collect();
        for id in ids {
            state.answer(id, |at| Ok(Slice::new(&entry.batch, at, limit.max(at))));
        }
    }
}
