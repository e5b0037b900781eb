//! The end of a topic's log, where the writer appends: what waits, what is written and not yet synced, and the next segment.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evoke_api::events::SyncMode;
use tokio::sync::oneshot;

use super::disk::{DiskFile, Fill};
use super::record::{self, Kind, RecordHeader, SEGMENT_HEADER, SegmentHeader};
use super::segment::{Mark, Segment, Spot};
use super::topic::TopicLog;
use crate::bus::PublishError;
use crate::event::Event;
use crate::queued::Place;

/// How much of one topic goes into one commit, about, in bytes.
const STAGE_BYTES: u64 = 8 << 20;
/// How much is handed to the operating system at once, in bytes.
const WRITE_BYTES: usize = 512 << 10;
/// Batches below this are faster into zeroed files; above it, writing the zeros costs more than it saves.
const ZEROS_PAY_BELOW: u64 = 128 << 10;
/// A clock that went back by more than this is worth a warning.
const SKEW: Duration = Duration::from_secs(1);

/// One call of `publish`, without the events that were refused. Never empty.
#[derive(Debug)]
pub(super) struct PublishOp {
    pub(super) events: Vec<Event>,
    /// How many of them are durable.
    pub(super) done: usize,
    pub(super) reply: oneshot::Sender<Result<(), PublishError>>,
    /// Freed with the op.
    pub(super) place: Place,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Head {
    /// None after a failed sync, until there is a new one.
    active: Option<Active>,
    /// The next position, after the last durable record.
    next: u64,
    /// Records before this are synced, as far as is known.
    synced: u64,
    last_time: u64,
    next_seq: u64,
    spare: Option<Spare>,
    asked_for_spare: bool,
    pub(super) pending: VecDeque<PublishOp>,
    staged: Option<Staged>,
    /// The time of records that may have been written in part: they are written again just as they were.
    rewrite: Option<u64>,
    batch_bytes: u64,
    skewed: bool,
}

#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    offset: u64,
    room: u64,
    /// The header is not written yet, and readers do not know the segment.
    fresh: bool,
}

/// A segment made ahead.
#[derive(Debug)]
pub(super) struct Spare {
    seq: u64,
    path: PathBuf,
    room: u64,
    file: Arc<dyn DiskFile>,
}

/// What a spare should be like.
#[derive(Debug)]
pub(super) struct SpareWanted {
    seq: u64,
    path: PathBuf,
    room: u64,
    fill: Fill,
}

#[derive(Debug)]
struct Staged {
    end: Spot,
    time: u64,
    marks: Vec<Mark>,
    /// The events' size as encoded, in bytes.
    payload: usize,
}

/// Where a log that was just opened or made goes on.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) room: u64,
    pub(super) last_time: u64,
    /// After every file of the folder.
    pub(super) next_seq: u64,
}

impl Head {
    pub(super) fn new(tail: Tail) -> Self {
        let end = tail.segment.end();
        tail.segment.share(&tail.file);
        let active =
            Active { segment: tail.segment, file: tail.file, offset: end.offset, room: tail.room, fresh: false };
        Self {
            active: Some(active),
            next: end.position,
            synced: end.position,
            last_time: tail.last_time,
            next_seq: tail.next_seq,
            spare: None,
            asked_for_spare: false,
            pending: VecDeque::new(),
            staged: None,
            rewrite: None,
            batch_bytes: 0,
            skewed: false,
        }
    }

    /// Writes as much of what waits as fits into the segment and a commit. False when nothing waits.
    ///
    /// # Errors
    /// Those of the disk. Nothing has happened then, as far as anybody can tell.
    pub(super) fn stage(&mut self, topic: &TopicLog, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let Some(first) = self.pending.front().and_then(|op| op.events.get(op.done)) else {
            return Ok(false);
        };
        let need = record::record_len(first.encoded_len()) as u64;
        let time = self.now(topic);
        if self.active.as_ref().is_none_or(|a| a.offset + need > a.room) {
            self.roll(topic, time, need)?;
        }
        let Some(active) = &self.active else {
            return Ok(false);
        };
        let time = *self.rewrite.get_or_insert(time);
        let base = active.segment.header.base;
        let mut written = if active.fresh { 0 } else { active.offset };
        let mut end = Spot { offset: active.offset, position: self.next };
        let limit = active.room.min(active.offset + STAGE_BYTES.max(need));
        let mut marks: Vec<Mark> = Vec::new();
        let mut payload = 0;
        buffer.clear();
        if active.fresh {
            buffer.extend_from_slice(&active.segment.header.encode().0);
        }
        for event in self.pending.iter().flat_map(|op| op.events.get(op.done..).unwrap_or_default()) {
            let frame = event.frame();
            let (Ok(len), Ok(index)) = (u32::try_from(frame.len()), u32::try_from(end.position - base)) else {
                break;
            };
            let next = end.offset + record::record_len(frame.len()) as u64;
            if next > limit {
                break;
            }
            if marks.last().is_none_or(|m| end.offset - m.spot.offset >= super::segment::MARK_EVERY) {
                marks.push(Mark { spot: end, time });
            }
            let unsynced = u32::try_from(end.position - self.synced).unwrap_or(u32::MAX);
            record::encode(buffer, active.segment.seed, RecordHeader { len, time, index, unsynced }, frame);
            end = Spot { offset: next, position: end.position + 1 };
            payload += frame.len();
            if buffer.len() >= WRITE_BYTES {
                active.file.write(buffer, written)?;
                written += buffer.len() as u64;
                buffer.clear();
            }
        }
        if !buffer.is_empty() {
            active.file.write(buffer, written)?;
        }
        self.staged = Some(Staged { end, time, marks, payload });
        Ok(true)
    }

    /// The file to sync for what is staged.
    pub(super) fn staged_file(&self) -> Option<Arc<dyn DiskFile>> {
        self.staged.as_ref().and(self.active.as_ref()).map(|active| active.file.clone())
    }

    /// What was staged is as durable as was asked for: shows it to readers and answers its publishers.
    pub(super) fn publish(&mut self, topic: &Arc<TopicLog>) {
        let (Some(staged), Some(active)) = (self.staged.take(), &mut self.active) else {
            return;
        };
        self.rewrite = None;
        let bytes = staged.end.offset - active.offset;
        active.segment.extend(staged.end, &staged.marks);
        if std::mem::take(&mut active.fresh) {
            topic.append_segment(active.segment.clone());
        }
        active.offset = staged.end.offset;
        let appended = staged.end.position - self.next;
        self.next = staged.end.position;
        self.last_time = staged.time;
        if topic.env.sync == SyncMode::Always {
            self.synced = self.next;
        }
        self.batch_bytes = (self.batch_bytes * 7 + bytes) / 8;
        // Readers first: whoever has a receipt finds the event.
        topic.committed(bytes, staged.payload, self.next);
        self.answer(appended);
        let Some(active) = &self.active else { return };
        let half = active.offset > active.room / 2;
        if half && self.spare.is_none() && !self.asked_for_spare {
            self.asked_for_spare = topic.env.spares.ask(topic);
        }
    }

    /// Answers the publishers of so many events that were appended.
    fn answer(&mut self, appended: u64) {
        let mut appended = usize::try_from(appended).unwrap_or(usize::MAX);
        while appended > 0
            && let Some(op) = self.pending.front_mut()
        {
            let taken = appended.min(op.events.len() - op.done);
            op.done += taken;
            appended -= taken;
            if op.done < op.events.len() {
                break;
            }
            let Some(op) = self.pending.pop_front() else { break };
            drop(op.place);
            // A publisher that does not wait for its receipt is no error.
            drop(op.reply.send(Ok(())));
        }
    }

    /// The sync of what was staged failed. What the file holds beyond its durable end cannot be trusted, and must not be synced
    /// again: the kernel may have forgotten that it was never written. It goes into a new segment.
    pub(super) fn abandon(&mut self, topic: &TopicLog) {
        self.staged = None;
        self.rewrite = None;
        let Some(active) = self.active.take() else {
            return;
        };
        if active.fresh {
            drop(topic.env.disk.remove(&active.segment.path));
            return;
        }
        // Only tidies up: a reader and the next opening go by where the next segment begins.
        drop(active.file.set_len(active.offset));
        active.file.drop_cache();
        drop(active.file);
        topic.verify(&active.segment);
    }

    /// Answers everybody who waits that their events may not be stored.
    pub(super) fn give_up(&mut self, cause: &Arc<str>) {
        self.staged = None;
        for op in self.pending.drain(..) {
            drop(op.reply.send(Err(PublishError::Uncertain(cause.clone()))));
        }
    }

    /// Begins a new segment if this one holds records, so that a trim can delete it. Not while a commit is under way.
    pub(super) fn rotate(&mut self, topic: &TopicLog) -> io::Result<()> {
        if self.staged.is_some() || self.active.as_ref().is_none_or(|a| a.fresh || a.segment.bytes() == 0) {
            return Ok(());
        }
        let time = self.now(topic);
        self.roll(topic, time, 0)?;
        if let Some(active) = &mut self.active {
            active.file.write(&active.segment.header.encode().0, 0)?;
            if let Err(error) = active.file.sync() {
                self.abandon(topic);
                return Err(error);
            }
            active.fresh = false;
            topic.append_segment(active.segment.clone());
        }
        Ok(())
    }

    /// How full the segment is, as a fraction of its room.
    pub(super) fn fullness(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a rough fraction")]
        self.active.as_ref().map_or(0.0, |a| a.offset as f64 / a.room.max(1) as f64)
    }

    /// Syncs what was written without a sync, and deletes a segment that was made ahead in vain.
    pub(super) fn close(&mut self, topic: &TopicLog) -> io::Result<()> {
        if let Some(spare) = self.spare.take() {
            topic.env.disk.remove(&spare.path)?;
        }
        match &self.active {
            Some(active) if self.synced < self.next => active.file.sync(),
            _ => Ok(()),
        }
    }

    /// What the next segment should be like, for whoever makes it ahead.
    pub(super) fn spare_wanted(&mut self, topic: &TopicLog) -> SpareWanted {
        let fill = if self.batch_bytes < ZEROS_PAY_BELOW { Fill::Zeros } else { Fill::Reserve };
        let seq = self.take_seq();
        SpareWanted { seq, path: topic.segment_path(seq), room: self.next_room(topic, 0), fill }
    }

    /// A spare is ready. One that came too late is given back, to be deleted.
    pub(super) fn offer_spare(&mut self, spare: Spare) -> Option<Spare> {
        let late = self.active.as_ref().is_none_or(|a| a.segment.header.seq > spare.seq) || self.spare.is_some();
        if late {
            return Some(spare);
        }
        self.spare = Some(spare);
        None
    }

    /// Puts a new segment in the active one's place. The old one stays as it is when that fails.
    fn roll(&mut self, topic: &TopicLog, time: u64, need: u64) -> io::Result<()> {
        let env = &topic.env;
        if let Some(active) = &self.active
            && self.synced < self.next
        {
            // Only the last segment may be torn, even where commits are not synced.
            active.file.sync()?;
            self.synced = self.next;
        }
        let least = need + SEGMENT_HEADER as u64;
        let spare = match self.spare.take() {
            Some(spare) if spare.room >= least => spare,
            unfit => {
                if let Some(spare) = unfit {
                    env.disk.remove(&spare.path)?;
                }
                let seq = self.take_seq();
                let room = self.next_room(topic, least);
                SpareWanted { seq, path: topic.segment_path(seq), room, fill: Fill::Reserve }.make(topic)?
            }
        };
        self.asked_for_spare = false;
        self.rewrite = None;
        let header = SegmentHeader { kind: Kind::Events, seq: spare.seq, base: self.next, base_time: time };
        let (_, seed) = header.encode();
        let segment = Arc::new(Segment::new(env.disk.clone(), spare.path, header, seed, None));
        segment.share(&spare.file);
        let offset = SEGMENT_HEADER as u64;
        let fresh = Active { segment, file: spare.file, offset, room: spare.room, fresh: true };
        if let Some(old) = self.active.replace(fresh) {
            // What was made ahead and not used is given back; if not now, it is no harm.
            drop(old.file.set_len(old.offset));
        }
        Ok(())
    }

    fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    fn next_room(&self, topic: &TopicLog, least: u64) -> u64 {
        let sizes = topic.env.segments;
        let grown = self.active.as_ref().map_or(sizes.first, |a| {
            // One that was ended early says that little is needed.
            if a.offset > a.room / 2 { a.room.saturating_mul(4) } else { a.room }
        });
        grown.clamp(sizes.first, sizes.largest.max(sizes.first)).max(least)
    }

    /// The time of append, which never goes back.
    fn now(&mut self, topic: &TopicLog) -> u64 {
        let now = nanos(topic.env.now());
        if now >= self.last_time {
            self.skewed = false;
            return now;
        }
        let behind = Duration::from_nanos(self.last_time - now);
        if behind > SKEW && !std::mem::replace(&mut self.skewed, true) {
            tracing::warn!(
                topic = %topic.name,
                behind_seconds = behind.as_secs_f64(),
                "the clock went back: events get the time of the last one until it has caught up"
            );
        }
        self.last_time
    }
}

impl SpareWanted {
    /// Makes it, durably but for its content. Slow.
    pub(super) fn make(self, topic: &TopicLog) -> io::Result<Spare> {
        let Self { seq, path, room, fill } = self;
        let file = topic.env.disk.create(&path, room, fill)?;
        topic.env.disk.sync_dir(&topic.dir)?;
        Ok(Spare { seq, path, room, file })
    }
}

impl Spare {
    /// Deletes it; what cannot be deleted now is when the bus is opened next.
    pub(super) fn discard(self, topic: &TopicLog) {
        drop(topic.env.disk.remove(&self.path));
    }
}

/// As nanoseconds since 1970, the years 1970 to 2554.
pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The other way round.
pub(super) fn system_time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}
