//! One topic's log: its segments as readers see them, and its head as the writer does.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use evoke_api::names::TopicName;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::disk::DiskFile;
use super::env::Env;
use super::head::{Head, PublishOp, Tail, nanos};
use super::segment::{Scan, Segment, Spot, Step};
use super::writer::Log;
use crate::bus::{BusError, From, Mark, Position};
use crate::metrics::TopicMetrics;

/// The name of the file that says which topic a folder is of.
pub(super) const NAME_FILE: &str = "TOPIC";

/// See the module. Locks are taken in the order head, segments.
#[derive(Debug)]
pub(super) struct TopicLog {
    pub(super) name: TopicName,
    pub(super) dir: PathBuf,
    pub(super) env: Arc<Env>,
    pub(super) metrics: TopicMetrics,
    /// In order; never empty. The last one grows.
    segments: Mutex<VecDeque<Arc<Segment>>>,
    first: AtomicU64,
    end: watch::Sender<u64>,
    /// Where damage begins that was reported.
    holes: Mutex<BTreeSet<u64>>,
    pub(super) head: Mutex<Head>,
}

impl TopicLog {
    /// Takes over a folder's segments: the last of them is the tail's.
    pub(super) fn new(
        name: TopicName,
        dir: PathBuf,
        env: Arc<Env>,
        segments: VecDeque<Arc<Segment>>,
        tail: Tail,
    ) -> Self {
        let metrics = env.metrics.topic(name.as_str());
        let first = segments.front().map_or(0, |s| s.header.base);
        let end = tail.segment.end().position;
        let bytes = segments.iter().map(|s| s.bytes()).sum();
        env.room.add(bytes);
        metrics.stored_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        Self {
            name,
            dir,
            env,
            metrics,
            segments: Mutex::new(segments),
            first: AtomicU64::new(first),
            end: watch::Sender::new(end),
            holes: Mutex::default(),
            head: Mutex::new(Head::new(tail)),
        }
    }

    pub(super) fn segment_path(&self, seq: u64) -> PathBuf {
        segment_path(&self.dir, seq)
    }

    /// The first position that is kept.
    pub(super) fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire)
    }

    /// The position after the last durable record.
    pub(super) fn end(&self) -> u64 {
        *self.end.borrow()
    }

    /// Follows `end`.
    pub(super) fn watch_end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// What its records take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.lock().iter().map(|s| s.bytes()).sum()
    }

    /// The segment that holds `position`, or whose end it is.
    pub(super) fn segment_of(&self, position: u64) -> Result<Arc<Segment>, BusError> {
        let segments = self.segments.lock();
        let after = segments.partition_point(|s| s.header.base <= position);
        let found = after.checked_sub(1).and_then(|i| segments.get(i));
        found.cloned().ok_or_else(|| self.trimmed())
    }

    /// The segment after this one, if there is one.
    pub(super) fn segment_after(&self, segment: &Segment) -> Option<Arc<Segment>> {
        let segments = self.segments.lock();
        segments.get(segments.partition_point(|s| s.header.seq <= segment.header.seq)).cloned()
    }

    /// The error for a position below the log.
    pub(super) fn trimmed(&self) -> BusError {
        BusError::Trimmed { first: Position(self.first().into()) }
    }

    /// The position that `from` means now. Reads from the disk for a time.
    pub(super) fn resolve(&self, from: From) -> Result<u128, BusError> {
        Ok(match from {
            From::First => self.first().into(),
            From::Next => self.end().into(),
            From::At(position) => position.0,
            From::Time(time) => self.position_at(time).map_err(|e| self.unreadable(&e))?.into(),
        })
    }

    /// A mark for `from`. Reads from the disk for a time.
    pub(super) fn mark(&self, from: From) -> Result<Mark, BusError> {
        let at = self.resolve(from)?;
        let (first, end) = (u128::from(self.first()), u128::from(self.end()));
        let ahead = u64::try_from(end.saturating_sub(at.max(first))).unwrap_or(u64::MAX);
        Ok(Mark { at: Position(at), first: Position(first), end: Position(end), ahead, exact: true, appended: None })
    }

    /// The first position that was appended at `time` or later, or the end.
    fn position_at(&self, time: SystemTime) -> io::Result<u64> {
        let time = nanos(time);
        let segment = {
            let segments = self.segments.lock();
            let after = segments.partition_point(|s| s.header.base_time < time);
            after.checked_sub(1).and_then(|i| segments.get(i)).cloned()
        };
        match segment {
            Some(segment) => Ok(segment.seek_time(time)?.position),
            None => Ok(self.first()),
        }
    }

    /// Deletes whole segments below `before`. Slow.
    pub(super) fn trim(&self, before: u64) -> Result<(), BusError> {
        let before = before.min(self.end());
        self.make_trimmable(before);
        let gone = self.take_below(before);
        self.delete(&gone)
    }

    /// Deletes the oldest segment, read or not, to make room; false when there is nothing to delete. Slow.
    pub(super) fn drop_oldest(&self) -> Result<bool, BusError> {
        if self.segments.lock().len() < 2
            && let Err(error) = self.head.lock().rotate(self)
        {
            return Err(self.unreadable(&error));
        }
        let before = self.segments.lock().get(1).map(|s| s.header.base);
        let gone = before.map(|before| self.take_below(before)).unwrap_or_default();
        let events: u64 = gone.iter().map(|s| s.end().position - s.header.base).sum();
        self.metrics.dropped_events.inc_by(events);
        self.delete(&gone)?;
        Ok(!gone.is_empty())
    }

    /// When the oldest record that another segment follows was appended.
    pub(super) fn oldest(&self) -> Option<u64> {
        let segments = self.segments.lock();
        segments.front().filter(|s| s.bytes() > 0).map(|s| s.header.base_time)
    }

    /// Only whole segments can be deleted, so the last one is ended where that would free much, or is called for.
    fn make_trimmable(&self, before: u64) {
        let in_last = self.segments.lock().back().is_some_and(|s| s.header.base < before);
        if !in_last {
            return;
        }
        let room = &self.env.room;
        let tight = room.used() > room.max() / 2;
        let mut head = self.head.lock();
        if (tight || (before == self.end() && head.fullness() > 0.5))
            && let Err(error) = head.rotate(self)
        {
            tracing::debug!(topic = %self.name, %error, "the last segment could not be ended to trim it");
        }
    }

    fn take_below(&self, before: u64) -> Vec<Arc<Segment>> {
        let mut segments = self.segments.lock();
        let mut gone = Vec::new();
        while segments.get(1).is_some_and(|second| second.header.base <= before) {
            gone.extend(segments.pop_front());
        }
        if let Some(first) = segments.front() {
            self.first.store(first.header.base, Ordering::Release);
        }
        gone
    }

    fn delete(&self, gone: &[Arc<Segment>]) -> Result<(), BusError> {
        for segment in gone {
            let bytes = segment.bytes();
            self.metrics.stored_bytes.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
            let removed = self.env.disk.remove(&segment.path);
            self.env.room.give(bytes);
            removed.map_err(|e| self.unreadable(&e))?;
        }
        Ok(())
    }

    /// Readers may go on into a new segment.
    pub(super) fn append_segment(&self, segment: Arc<Segment>) {
        self.segments.lock().push_back(segment);
    }

    /// Records up to `end` are durable.
    pub(super) fn committed(&self, bytes: u64, payload: usize, end: u64) {
        let before = self.end.send_replace(end);
        self.metrics.published_events.inc_by(end - before);
        self.metrics.published_bytes.inc_by(payload as u64);
        self.metrics.stored_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Reads all of a segment again and reports what its disk no longer has.
    pub(super) fn verify(&self, segment: &Segment) {
        if let Err(error) = self.try_verify(segment) {
            tracing::error!(topic = %self.name, file = %segment.path.display(), %error, "a segment cannot be read");
        }
    }

    fn try_verify(&self, segment: &Segment) -> io::Result<()> {
        let (file, end) = (segment.file()?, segment.end());
        let mut scan = Scan::new(&*file, segment.seed, segment.header.base, segment.start(), end.offset);
        loop {
            match scan.step(end.position)? {
                Step::Record(..) => {}
                Step::End(_) => return Ok(()),
                Step::Invalid(from) => {
                    let resume = scan.resync()?.map(|(spot, _)| spot.position);
                    self.report_hole(segment, from, resume.unwrap_or(end.position));
                    if resume.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Records from `from` to `to` are damaged: they are counted and named once, and readers are told to go on behind them.
    pub(super) fn report_hole(&self, segment: &Segment, from: Spot, to: u64) -> BusError {
        if self.holes.lock().insert(from.position) {
            self.metrics.damaged_events.inc_by(to.saturating_sub(from.position));
            tracing::error!(
                topic = %self.name,
                file = %segment.path.display(),
                offset = from.offset,
                first = from.position,
                next = to,
                "stored events are damaged on disk and are skipped: check the disk"
            );
        }
        BusError::Damaged { first: Position(from.position.into()), next: Position(to.into()) }
    }

    /// The error for a disk that cannot be read.
    pub(super) fn unreadable(&self, error: &io::Error) -> BusError {
        BusError::Unavailable(format!("{}: {error}", self.dir.display()).into())
    }
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, seq: u64) -> PathBuf {
    dir.join(format!("{seq:010}.log"))
}

/// The opposite of [`segment_path`].
pub(super) fn segment_seq(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

impl Log for TopicLog {
    type Op = PublishOp;

    fn name(&self) -> Arc<str> {
        self.name.as_str().into()
    }

    fn enqueue(&self, op: PublishOp) {
        self.head.lock().pending.push_back(op);
    }

    fn due(&self, now: Instant) -> Option<Instant> {
        (!self.head.lock().pending.is_empty()).then_some(now)
    }

    fn stage(&self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        self.head.lock().stage(self, buffer)
    }

    fn staged_file(&self) -> Option<Arc<dyn DiskFile>> {
        self.head.lock().staged_file()
    }

    fn publish(self: &Arc<Self>) {
        self.head.lock().publish(self);
    }

    fn abandon(&self) {
        self.head.lock().abandon(self);
    }

    fn give_up(&self, cause: &Arc<str>) {
        self.head.lock().give_up(cause);
    }
}
