//! Reads a topic in order, from the files, a piece at a time. Events share the piece they were read in.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::disk::DiskFile;
use super::head::system_time;
use super::record::{self, Parsed, RECORD_HEADER};
use super::segment::{Scan, Segment, Sought, Spot};
use super::topic::TopicLog;
use crate::bus::{Batch, BusError, Fut, Position, Reader, Record};
use crate::event::Event;

/// How much is read into one buffer. An event that is kept keeps its buffer, so buffers are small.
const PIECE_BYTES: usize = 64 << 10;
/// How much is read at once at most, in several buffers.
const READ_BYTES: usize = 1 << 20;

/// See the module.
pub(super) struct LogReader {
    topic: Arc<TopicLog>,
    closed: CancellationToken,
    end: watch::Receiver<u64>,
    prefetch_bytes: usize,
    /// Read and not yet handed out.
    ready: VecDeque<Record>,
    /// The position after the last of `ready`, or the one to go on at.
    at: u64,
    /// Where `at` is, where known.
    place: Option<Place>,
    /// A read that was begun for a call that may have been cancelled.
    reading: Option<JoinHandle<Result<Piece, Trouble>>>,
}

#[derive(Clone)]
struct Place {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    offset: u64,
}

#[derive(Default)]
struct Piece {
    records: Vec<Record>,
    /// Where the record after the last one is.
    place: Option<Place>,
}

enum Trouble {
    Io(io::Error),
    Hole { segment: Arc<Segment>, from: Spot, to: u64 },
    Bus(BusError),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl LogReader {
    pub(super) fn new(topic: Arc<TopicLog>, closed: CancellationToken, at: u64, prefetch_bytes: usize) -> Self {
        let end = topic.watch_end();
        Self { topic, closed, end, prefetch_bytes, ready: VecDeque::new(), at, place: None, reading: None }
    }

    async fn next_batch(&mut self, max_bytes: usize) -> Result<Batch, BusError> {
        loop {
            if self.closed.is_cancelled() {
                return Err(BusError::Closed);
            }
            let next = self.ready.front().map_or(self.at.into(), |record| record.at.0);
            if next < u128::from(self.topic.first()) {
                return Err(self.topic.trimmed());
            }
            if !self.ready.is_empty() {
                return Ok(self.take(max_bytes));
            }
            if *self.end.borrow_and_update() <= self.at {
                tokio::select! {
                    biased;
                    () = self.closed.cancelled() => {}
                    _ = self.end.changed() => {}
                }
                continue;
            }
            self.fill(max_bytes.max(self.prefetch_bytes.min(PIECE_BYTES)).min(READ_BYTES)).await?;
        }
    }

    /// Hands out what is ready, up to `max_bytes`, but one record at least.
    fn take(&mut self, max_bytes: usize) -> Batch {
        let mut bytes = 0;
        let fits = |record: &Record| {
            bytes += record.event.encoded_len();
            bytes <= max_bytes
        };
        let count = self.ready.iter().map(fits).take_while(|fits| *fits).count().max(1);
        let records: Vec<Record> = if count == self.ready.len() {
            std::mem::take(&mut self.ready).into()
        } else {
            self.ready.drain(..count).collect()
        };
        let bytes = records.iter().map(|r| r.event.encoded_len()).sum();
        let next = self.ready.front().map_or(Position(self.at.into()), |r| r.at);
        Batch { records, bytes, next, ..Batch::default() }
    }

    /// Reads about `want` bytes: at once if they are in memory, else on a thread that may wait for the disk.
    async fn fill(&mut self, want: usize) -> Result<(), BusError> {
        if self.reading.is_none() {
            if let Some(place) = self.place.clone() {
                let read = Read { topic: &self.topic, want, cached: true };
                let piece = read.from(place, self.at);
                self.accept(piece)?;
                if !self.ready.is_empty() {
                    return Ok(());
                }
            }
            let (topic, place, at) = (self.topic.clone(), self.place.clone(), self.at);
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let read = Read { topic: &topic, want, cached: false };
                let place = place.map_or_else(|| read.seek(at), Ok)?;
                read.from(place, at)
            }));
        }
        let Some(reading) = &mut self.reading else {
            return Ok(());
        };
        let piece = reading.await;
        self.reading = None;
        let piece = piece.map_err(|_| BusError::Closed)?;
        self.accept(piece)
    }

    fn accept(&mut self, piece: Result<Piece, Trouble>) -> Result<(), BusError> {
        match piece {
            Ok(piece) => {
                self.at = piece.records.last().map_or(self.at, |_| self.at + piece.records.len() as u64);
                self.place = piece.place;
                self.ready = piece.records.into();
                Ok(())
            }
            Err(trouble) => {
                self.place = None;
                // A segment that was trimmed away while it was read is no trouble of the disk.
                if self.at < self.topic.first() {
                    return Err(self.topic.trimmed());
                }
                Err(match trouble {
                    Trouble::Io(error) => self.topic.unreadable(&error),
                    Trouble::Hole { segment, from, to } => self.topic.report_hole(&segment, from, to),
                    Trouble::Bus(error) => error,
                })
            }
        }
    }
}

impl Reader for LogReader {
    fn next(&mut self, max_bytes: usize) -> Fut<'_, Batch> {
        self.next_batch(max_bytes).boxed()
    }
}

/// How to read.
struct Read<'a> {
    topic: &'a TopicLog,
    want: usize,
    /// Only what is in memory.
    cached: bool,
}

impl Read<'_> {
    fn seek(&self, position: u64) -> Result<Place, Trouble> {
        let segment = self.topic.segment_of(position).map_err(Trouble::Bus)?;
        let file = segment.file()?;
        match segment.seek(position)? {
            Sought::At(spot) => Ok(Place { segment, file, offset: spot.offset }),
            Sought::Hole { from, resume } => Err(Trouble::Hole { segment, from, to: resume.position }),
        }
    }

    /// Reads records from `place`, where `position` is, on. Stops early at a segment's end and, when only `cached`, where the disk
    /// would have to be waited for.
    fn from(&self, mut place: Place, position: u64) -> Result<Piece, Trouble> {
        let mut piece = Piece::default();
        let mut at = position;
        let mut left = self.want;
        while left > 0 {
            let end = place.segment.end();
            if at >= end.position {
                let Some(segment) = self.topic.segment_after(&place.segment) else { break };
                if segment.header.base != at || segment.end().position <= at {
                    break;
                }
                let offset = segment.start().offset;
                place = Place { file: segment.file()?, segment, offset };
                continue;
            }
            let read = match self.piece(&place, at, end, left.min(PIECE_BYTES), &mut piece.records) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                // What was read before the trouble is handed out first.
                Err(_) if !piece.records.is_empty() => break,
                Err(trouble) => return Err(trouble),
            };
            at = position + piece.records.len() as u64;
            left = left.saturating_sub(usize::try_from(read - place.offset).unwrap_or(usize::MAX));
            place.offset = read;
        }
        piece.place = Some(place);
        Ok(piece)
    }

    /// Reads one buffer, and gives the offset after the last whole record in it; `None` where the disk must be waited for.
    fn piece(
        &self,
        place: &Place,
        at: u64,
        end: Spot,
        want: usize,
        into: &mut Vec<Record>,
    ) -> Result<Option<u64>, Trouble> {
        let Place { segment, file, offset } = place;
        let room = usize::try_from(end.offset - offset).unwrap_or(usize::MAX);
        let mut len = want.max(RECORD_HEADER).min(room);
        loop {
            let mut buffer = Vec::with_capacity(len);
            if !self.cached {
                file.read(&mut buffer, *offset, len)?;
            } else if !file.read_cached(&mut buffer, *offset, len)? {
                return Ok(None);
            }
            let whole = buffer.len() >= len;
            let buffer = Bytes::from(buffer);
            let mut next = 0;
            let mut position = at;
            let stopped = loop {
                if position >= end.position {
                    break None;
                }
                let index = u32::try_from(position - segment.header.base).unwrap_or(u32::MAX);
                match record::parse(&buffer, next, segment.seed, index) {
                    Parsed::Record { header, next: after } => {
                        let start = next + RECORD_HEADER;
                        let frame = buffer.slice(start..start + header.len as usize);
                        let Ok(event) = Event::from_frame(frame) else { break Some(Parsed::Invalid) };
                        let appended = system_time(header.time);
                        into.push(Record::new(Position(position.into()), appended, event));
                        position += 1;
                        next = after;
                    }
                    other => break Some(other),
                }
            };
            return match stopped {
                Some(Parsed::Short(need)) if position == at && len < need.min(room) && whole => {
                    len = need.min(room);
                    continue;
                }
                Some(_) if position > at => Ok(Some(offset + next as u64)),
                None => Ok(Some(offset + next as u64)),
                Some(_) if self.cached => Ok(None),
                Some(_) => Err(self.hole(place, at, end)?),
            };
        }
    }

    /// What stands at `place` is no record: finds where records go on.
    fn hole(&self, place: &Place, at: u64, end: Spot) -> Result<Trouble, Trouble> {
        let from = Spot { offset: place.offset, position: at };
        let segment = place.segment.clone();
        let mut scan = Scan::new(&*place.file, segment.seed, segment.header.base, from, end.offset);
        let to = scan.resync()?.map_or(end.position, |(spot, _)| spot.position);
        Ok(Trouble::Hole { segment, from, to: to.max(at + 1) })
    }
}
