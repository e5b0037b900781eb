//! One file of a log as readers see it: how far it may be read, and where in it a position or a time is.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};
use super::record::{self, Parsed, RecordHeader, SEGMENT_HEADER, SegmentHeader};

/// One place of a segment is remembered for each stretch of this many bytes, so a seek reads at most so much.
pub(super) const MARK_EVERY: u64 = 256 * 1024;
/// How much a scan reads at once.
const SCAN_BYTES: usize = 256 * 1024;

/// A place before a record, or after the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// In the file, in bytes.
    pub(super) offset: u64,
    /// In the log.
    pub(super) position: u64,
}

/// A remembered place, and when the record there was appended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) spot: Spot,
    pub(super) time: u64,
}

/// What a seek found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    /// The record, or the end of the segment.
    At(Spot),
    /// The position lies among damaged records, which begin and end here.
    Hole { from: Spot, resume: Spot },
}

/// A segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) seed: u32,
    pub(super) path: PathBuf,
    disk: Arc<dyn Disk>,
    file: Mutex<Option<Weak<dyn DiskFile>>>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// After the last record that may be read.
    end: Spot,
    marks: Vec<Mark>,
    /// Marks are complete up to here.
    marked: Spot,
}

impl Segment {
    /// A segment without records, or one whose records up to `end` are readable and not yet marked.
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, header: SegmentHeader, seed: u32, end: Option<Spot>) -> Self {
        let start = Spot { offset: SEGMENT_HEADER as u64, position: header.base };
        let inner = Inner { end: end.unwrap_or(start), marks: Vec::new(), marked: start };
        Self { header, seed, path, disk, file: Mutex::new(None), inner: Mutex::new(inner) }
    }

    /// The first record's place.
    pub(super) fn start(&self) -> Spot {
        Spot { offset: SEGMENT_HEADER as u64, position: self.header.base }
    }

    /// After the last record that may be read.
    pub(super) fn end(&self) -> Spot {
        self.inner.lock().end
    }

    /// What its records take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.end().offset - SEGMENT_HEADER as u64
    }

    /// The file, opened if nobody has it open.
    pub(super) fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        let mut slot = self.file.lock();
        if let Some(open) = slot.as_ref().and_then(Weak::upgrade) {
            return Ok(open);
        }
        let file = self.disk.open(&self.path)?;
        *slot = Some(Arc::downgrade(&file));
        Ok(file)
    }

    /// Lets others share a file that is open already.
    pub(super) fn share(&self, file: &Arc<dyn DiskFile>) {
        *self.file.lock() = Some(Arc::downgrade(file));
    }

    /// More records may be read. `marks` are in order.
    pub(super) fn extend(&self, end: Spot, marks: &[Mark]) {
        let mut inner = self.inner.lock();
        if inner.marked == inner.end {
            for mark in marks {
                inner.mark(*mark);
            }
            inner.marked = end;
        }
        inner.end = end;
    }

    /// Where `position` is, which lies in this segment or at its end. Reads from the file.
    pub(super) fn seek(&self, position: u64) -> io::Result<Sought> {
        self.find(|at, _| at.position >= position, |mark| mark.spot.position <= position)
    }

    /// Where the first record is that was appended at `time` or later, or the end. Reads from the file.
    pub(super) fn seek_time(&self, time: u64) -> io::Result<Spot> {
        match self.find(|_, header| header.time >= time, |mark| mark.time < time)? {
            Sought::At(spot) | Sought::Hole { resume: spot, .. } => Ok(spot),
        }
    }

    fn find(&self, wanted: impl Fn(Spot, RecordHeader) -> bool, before: impl Fn(&Mark) -> bool) -> io::Result<Sought> {
        let (from, end) = {
            let inner = self.inner.lock();
            let passed = inner.marks.partition_point(&before);
            let from = passed.checked_sub(1).and_then(|i| inner.marks.get(i)).map_or_else(|| self.start(), |m| m.spot);
            (from, inner.end)
        };
        let file = self.file()?;
        let mut scan = Scan::new(&*file, self.seed, self.header.base, from, end.offset);
        loop {
            match scan.step(end.position)? {
                Step::Record(spot, header) => {
                    self.remember(spot, header.time, scan.at());
                    if wanted(spot, header) {
                        return Ok(Sought::At(spot));
                    }
                }
                Step::End(_) => return Ok(Sought::At(end)),
                Step::Invalid(from) => {
                    let found = scan.resync()?.map(|(spot, _)| spot);
                    let resume = found.unwrap_or(end);
                    // Whether the place is in the hole shows by the last position in it, which has no header and no time.
                    let nothing = RecordHeader { len: 0, time: 0, index: 0, unsynced: 0 };
                    let last = Spot { offset: from.offset, position: resume.position.saturating_sub(1) };
                    if wanted(last, nothing) {
                        return Ok(Sought::Hole { from, resume });
                    }
                    if found.is_none() {
                        return Ok(Sought::At(end));
                    }
                }
            }
        }
    }

    fn remember(&self, spot: Spot, time: u64, next: Spot) {
        let mut inner = self.inner.lock();
        if inner.marked == spot {
            inner.mark(Mark { spot, time });
            inner.marked = next;
        }
    }
}

impl Inner {
    fn mark(&mut self, mark: Mark) {
        let due = self.marks.last().is_none_or(|last| mark.spot.offset >= last.spot.offset + MARK_EVERY);
        if due {
            self.marks.push(mark);
        }
    }
}

/// What a scan met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record, and where it is.
    Record(Spot, RecordHeader),
    /// Nothing more was written, or the limit.
    End(Spot),
    /// Something that is no record.
    Invalid(Spot),
}

/// Goes over a segment's records in order, checking each.
pub(super) struct Scan<'a> {
    file: &'a dyn DiskFile,
    seed: u32,
    base: u64,
    limit: u64,
    at: Spot,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<'a> Scan<'a> {
    /// Starts at `from` and stops before byte `limit`.
    pub(super) fn new(file: &'a dyn DiskFile, seed: u32, base: u64, from: Spot, limit: u64) -> Self {
        Self { file, seed, base, limit, at: from, buffer: Vec::new(), buffer_at: from.offset }
    }

    /// Where the next record is.
    pub(super) fn at(&self) -> Spot {
        self.at
    }

    /// The payload of the record that the last step gave.
    pub(super) fn payload(&self, spot: Spot, header: RecordHeader) -> &[u8] {
        let start = usize::try_from(spot.offset - self.buffer_at).unwrap_or(usize::MAX);
        let start = start.saturating_add(record::RECORD_HEADER);
        self.buffer.get(start..start.saturating_add(header.len as usize)).unwrap_or_default()
    }

    /// The next record. `end` is the position after the last one, where known: an end before that is `Invalid`.
    pub(super) fn step(&mut self, end: u64) -> io::Result<Step> {
        if self.at.position >= end || self.at.offset >= self.limit {
            let whole = self.at.position >= end || end == u64::MAX;
            return Ok(if whole { Step::End(self.at) } else { Step::Invalid(self.at) });
        }
        let Ok(index) = u32::try_from(self.at.position - self.base) else {
            return Ok(Step::Invalid(self.at));
        };
        let mut need = record::RECORD_HEADER;
        loop {
            let whole = self.fill(need)?;
            let start = usize::try_from(self.at.offset - self.buffer_at).unwrap_or(usize::MAX);
            return Ok(match record::parse(&self.buffer, start, self.seed, index) {
                Parsed::Record { header, next } => {
                    let spot = self.at;
                    self.at = Spot { offset: self.buffer_at + next as u64, position: spot.position + 1 };
                    Step::Record(spot, header)
                }
                Parsed::Short(more) if !whole && more > need => {
                    need = more;
                    continue;
                }
                // The last bytes of a file may be too few for a header.
                Parsed::Short(more) if more <= record::RECORD_HEADER && end == u64::MAX => Step::End(self.at),
                Parsed::Empty if end == u64::MAX => Step::End(self.at),
                Parsed::Empty | Parsed::Short(_) | Parsed::Invalid => Step::Invalid(self.at),
            });
        }
    }

    /// Goes on at the next record that is whole, if there is one before the limit.
    pub(super) fn resync(&mut self) -> io::Result<Option<(Spot, RecordHeader)>> {
        self.buffer.clear();
        self.buffer_at = self.at.offset;
        let rest = usize::try_from(self.limit.saturating_sub(self.at.offset)).unwrap_or(usize::MAX);
        self.file.read(&mut self.buffer, self.at.offset, rest)?;
        let least = u32::try_from(self.at.position - self.base).unwrap_or(u32::MAX);
        let found = record::resync(&self.buffer, self.buffer_at, self.seed, least);
        let found = found.map(|(at, header)| {
            (Spot { offset: self.buffer_at + at as u64, position: self.base + u64::from(header.index) }, header)
        });
        self.at = found.map_or(Spot { offset: self.limit, ..self.at }, |(spot, _)| spot);
        Ok(found)
    }

    /// The offset after the last byte, from here to the limit, that is not zero.
    pub(super) fn dirty_until(&self) -> io::Result<Option<u64>> {
        let mut buffer = Vec::new();
        let (mut at, mut dirty) = (self.at.offset, None);
        while at < self.limit {
            buffer.clear();
            self.file.read(&mut buffer, at, SCAN_BYTES)?;
            if buffer.is_empty() {
                break;
            }
            if let Some(last) = buffer.iter().rposition(|b| *b != 0) {
                dirty = Some(at + last as u64 + 1);
            }
            at += buffer.len() as u64;
        }
        Ok(dirty)
    }

    /// Makes the buffer hold `need` bytes from here on; true when it holds all up to the limit.
    fn fill(&mut self, need: usize) -> io::Result<bool> {
        let have = (self.buffer_at + self.buffer.len() as u64).saturating_sub(self.at.offset);
        let buffer_end = self.buffer_at + self.buffer.len() as u64;
        if have < need as u64 && buffer_end < self.limit {
            self.buffer.clear();
            self.buffer_at = self.at.offset;
            let rest = usize::try_from(self.limit - self.at.offset).unwrap_or(usize::MAX);
            self.file.read(&mut self.buffer, self.at.offset, need.max(SCAN_BYTES).min(rest))?;
            return Ok(self.buffer.len() < need.max(SCAN_BYTES));
        }
        Ok(buffer_end >= self.limit)
    }
}
