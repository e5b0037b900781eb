//! The two tasks of a feed: the head reader and the catch-up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::clock::Probe;
use super::{Ask, Entry, Feed, Gone, Slice, Slot, State};
use crate::bus::{Batch, BusError, From, Point, Position, Reader};
use crate::subscription::{regrown, scan};

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
async fn gone(feed: &Feed, error: BusError, trouble: &mut Trouble<'_>) -> Result<Gone, BusError> {
    let gone = match error {
        BusError::Trimmed { first } => place(feed, first).await.map(|first| Gone::Trimmed { first }),
        BusError::Damaged { first, next } => place(feed, next).await.map(|next| Gone::Damaged { first, next }),
        BusError::Ahead { end } => new_end(feed, end, trouble).await.map(|end| Gone::Ahead { end }),
        BusError::Closed | BusError::NoTopic(_) | BusError::Unavailable(_) | BusError::Broken(_) => Err(error),
    };
    match gone {
        Err(BusError::Closed) => Ok(Gone::Closed),
        gone => gone,
    }
}

async fn place(feed: &Feed, at: Position) -> Result<Point, BusError> {
    Ok(scan::locate(&*feed.shared.bus, &feed.partition, From::At(at)).await?.point())
}

/// Where a log goes on that has lost its end. It is asked for until somebody says: who opens a reader meanwhile may be given what others
/// have written by then, and never hear of the loss.
///
/// # Errors
/// [`BusError::Closed`].
async fn new_end(feed: &Feed, end: Position, trouble: &mut Trouble<'_>) -> Result<Point, BusError> {
    let newest = feed.state.lock().newest;
    loop {
        match find_end(feed, newest, end).await {
            Err(error) if error != BusError::Closed => trouble.wait(&error).await,
            found => return found,
        }
    }
}

/// A reader that had read nothing of what was lost says where the log ends by now, and what was appended since lies before.
async fn find_end(feed: &Feed, newest: Option<SystemTime>, end: Position) -> Result<Point, BusError> {
    match newer_before(feed, newest, end).await? {
        Some(newer) => Ok(newer),
        None => place(feed, end).await,
    }
}

async fn newer_before(feed: &Feed, newest: Option<SystemTime>, upto: Position) -> Result<Option<Point>, BusError> {
    match newest {
        Some(newest) => regrown::newer_before(&*feed.shared.bus, &feed.partition, newest.into(), upto).await,
        None => Ok(None),
    }
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
    let mut reader: Option<(Standing, Box<dyn Reader>)> = None;
    // Whether the reader has read no event yet, and whether the bus was away since it was known that the log is what it was.
    let (mut is_new, mut was_away) = (true, false);
    loop {
        let Some(here) = feed.state.lock().head_asked() else {
            feed.head_wanted.notified().await;
            continue;
        };
        let mut open = match reader.take() {
            Some((standing, open)) if standing == here => open,
            _ => match feed.shared.bus.read(&feed.partition, From::At(here.at), ahead(feed)).await {
                Ok(open) => {
                    is_new = true;
                    open
                }
                Err(error) => {
                    was_away |= matches!(error, BusError::Unavailable(_));
                    fail_head(feed, here, error, &mut trouble).await;
                    continue;
                }
            },
        };
        if is_new && was_away {
            let newest = feed.state.lock().newest;
            match newer_before(feed, newest, here.at).await {
                Ok(None) | Err(BusError::Closed) => was_away = false,
                Ok(Some(newer)) => {
                    feed.lose_end(newer, here.losses);
                    continue;
                }
                Err(error) => {
                    reader = Some((here, open));
                    trouble.wait(&error).await;
                    continue;
                }
            }
        }
        probe.ask().await;
        let next = tokio::select! {
            next = open.next(HEAD_BYTES) => next,
            () = feed.head_moved.notified() => {
                reader = Some((here, open));
                continue;
            }
        };
        match next {
            Ok(batch) => {
                trouble.over();
                (is_new, was_away) = (is_new && batch.records.is_empty(), false);
                read.inc_by(batch.bytes as u64);
                probe.read(&batch);
                reader = Some((Standing { at: batch.next, ..here }, open));
                feed.arrived(here, batch);
            }
            Err(error) => {
                if matches!(error, BusError::Unavailable(_)) {
                    // What it has read is what it knows the log again by.
                    reader = Some((here, open));
                    was_away = true;
                }
                fail_head(feed, here, error, &mut trouble).await;
            }
        }
    }
}

async fn fail_head(feed: &Feed, here: Standing, error: BusError, trouble: &mut Trouble<'_>) {
    let gone = match gone(feed, error, trouble).await {
        Ok(Gone::Ahead { end }) => return feed.lose_end(end, here.losses),
        Ok(gone) => gone,
        Err(error) => return trouble.wait(&error).await,
    };
    let mut state = feed.state.lock();
    if state.is_head(here) {
        state.head = None;
        state.clear();
        feed.account(&state);
        state.fail(here.at, gone);
    }
}

/// Where a reader stands, and in which log: how often that had lost its end. One that was opened before takes what it reads for the rest of
/// what was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    at: Position,
    losses: u64,
}

impl State {
    /// Where the head reader goes on, if somebody waits for it.
    fn head_asked(&self) -> Option<Standing> {
        let is_asked = || self.cursors.values().any(|slot| matches!(slot.ask, Ask::Head(_)));
        self.head.filter(|_| is_asked()).map(|at| Standing { at, losses: self.losses })
    }

    fn is_head(&self, here: Standing) -> bool {
        self.losses == here.losses && self.head == Some(here.at)
    }

    /// Tells the cursors that wait at `at`; those that wait at the head of a moment ago ask again, and who is behind stays there.
    fn fail(&mut self, at: Position, gone: Gone) {
        for slot in self.cursors.values_mut().filter(|slot| matches!(slot.ask, Ask::Head(_))) {
            let ask = if slot.at == at { Ask::Answer(Err(gone)) } else { Ask::Nothing };
            if let Ask::Head(waker) = std::mem::replace(&mut slot.ask, ask) {
                waker.wake();
            }
        }
    }
}

impl Feed {
    /// A reader found that the log has lost its end. Others that were open then find the same, each as far as it has read: the first one is
    /// believed.
    fn lose_end(&self, end: Point, losses: u64) {
        let mut state = self.state.lock();
        if state.losses == losses {
            state.lose_end(end);
            self.account(&state);
            self.head_moved.notify_one();
        }
    }

    /// Takes in what the head reader read from where it stood on.
    fn arrived(&self, here: Standing, batch: Batch) {
        let at = here.at;
        let mut state = self.state.lock();
        if !state.is_head(here) || batch.next <= at {
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
    let mut losses = 0;
    loop {
        let (next, losses_now) = {
            let mut state = feed.state.lock();
            (state.next_behind(), state.losses)
        };
        if losses_now != losses {
            // What was read of the end that is lost is not what is there by now.
            losses = losses_now;
            readers.clear();
            recent.clear();
        }
        let Some((id, at)) = next else {
            if feed.state.lock().nobody_behind() {
                readers.clear();
                recent.clear();
            }
            feed.behind_wanted.notified().await;
            continue;
        };
        if let Some(entry) = recent.iter().find(|entry| (entry.from..entry.batch.next).contains(&at)) {
            feed.serve(entry, losses);
            continue;
        }
        match read_behind(feed, at, &mut readers, patience).await {
            Ok(None) => {
                let was_hole = skip_hole(feed, id, Standing { at, losses }, &mut trouble).await;
                patience = if was_hole { HOLE } else { (patience * 2).min(HOLE_MAX) };
            }
            Ok(Some(batch)) => {
                trouble.over();
                patience = HOLE;
                read.inc_by(batch.bytes as u64);
                let entry = Entry { from: at, batch: Arc::new(batch) };
                feed.serve(&entry, losses);
                // An empty batch may have brought it no further.
                feed.state.lock().ask_again(id);
                recent.truncate(CATCH_UP_BATCHES - 1);
                recent.push_front(entry);
            }
            Err(error) => match gone(feed, error, &mut trouble).await {
                Ok(Gone::Ahead { end }) => feed.lose_end(end, losses),
                Ok(gone) => feed.state.lock().answer(id, at, Err(gone)),
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
    let batch = tokio::time::timeout(patience, reader.next(CATCH_UP_BYTES)).await.ok().transpose();
    let position = match &batch {
        Ok(Some(batch)) => batch.next,
        // What it has read is what it knows the log again by.
        Ok(None) | Err(BusError::Unavailable(_)) => at,
        Err(_) => return batch,
    };
    readers.truncate(CATCH_UP_READERS - 1);
    readers.push_front((position, reader));
    batch
}

/// A read that does not return may be slow, or there may be no event between the cursor and the head; nobody else waits for it.
/// True if there was no event.
async fn skip_hole(feed: &Feed, id: u64, here: Standing, trouble: &mut Trouble<'_>) -> bool {
    let at = here.at;
    let head = feed.state.lock().begin();
    if let Some(head) = head
        && let Ok(marks) = feed.shared.bus.locate(&[at, head].map(|at| (feed.partition.clone(), From::At(at)))).await
        && let [from, to] = marks[..]
        && from.exact
        && from.ahead == to.ahead
        // Where the log has lost its end, there is no such place by now, and the head reader will hear of it.
        && at < head.min(to.end)
    {
        let next = head.min(to.end);
        // What was there and is gone by now is no hole.
        let gone = match feed.shared.bus.read(&feed.partition, From::At(at), 0).await {
            Ok(_) => Ok(Arc::new(Batch { next, ..Batch::default() })),
            Err(error) => Err(gone(feed, error, trouble).await),
        };
        match gone {
            Ok(hole) => feed.skip(id, here, &hole),
            Err(Ok(Gone::Ahead { end })) => feed.lose_end(end, here.losses),
            Err(Ok(gone)) => feed.state.lock().answer(id, at, Err(gone)),
            Err(Err(_)) => feed.state.lock().ask_again(id),
        }
        true
    } else {
        feed.state.lock().ask_again(id);
        false
    }
}

impl State {
    /// The cursor that has waited longest, and where it is. Those that are not behind any more, since the head reader has failed, ask again.
    fn next_behind(&mut self) -> Option<(u64, Position)> {
        loop {
            let id = self.behind.pop_front()?;
            let begin = self.begin();
            let Some(slot) = self.cursors.get_mut(&id).filter(|slot| slot.is_behind()) else { continue };
            if begin.is_some_and(|begin| slot.at < begin) {
                return Some((id, slot.at));
            }
            if let Ask::Behind(waker) = std::mem::replace(&mut slot.ask, Ask::Nothing) {
                waker.wake();
            }
        }
    }

    /// Puts a cursor back in the line if it has no answer yet.
    fn ask_again(&mut self, id: u64) {
        if self.cursors.get(&id).is_some_and(Slot::is_behind) {
            self.behind.push_back(id);
        }
    }

    fn nobody_behind(&self) -> bool {
        let begin = self.begin();
        self.cursors.values().all(|slot| begin.is_none_or(|begin| slot.at >= begin))
    }
}

impl Feed {
    /// Gives a batch to every waiting cursor that lies in it, up to where the window or the head begins. It was read after so many losses.
    fn serve(&self, entry: &Entry, losses: u64) {
        let mut state = self.state.lock();
        if state.losses != losses {
            return;
        }
        let limit = state.head.unwrap_or(entry.batch.next).max(entry.from);
        let range = entry.from..entry.batch.next;
        for slot in state.cursors.values_mut().filter(|slot| slot.is_behind() && range.contains(&slot.at)) {
            let slice = Slice::new(&entry.batch, slot.at, limit.max(slot.at));
            slot.answer(Ok(slice));
        }
    }

    /// Lets a cursor pass a hole, unless the log has lost its end since.
    fn skip(&self, id: u64, here: Standing, hole: &Arc<Batch>) {
        let mut state = self.state.lock();
        if state.losses == here.losses {
            state.answer(id, here.at, Ok(Slice::new(hole, here.at, hole.next)));
        }
    }
}

#[cfg(test)]
mod tests;
