//! The small state beside the log: a table in memory, and a log of its changes that is written anew when it is full.
//!
//! A payload is `kind: u8 | key length: u16 | key | revision: u64 | value`. A new log begins with what the table holds; its
//! header is written once that is synced, so a log with a header is whole.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use evoke_api::events::SyncMode;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::OpenError;
use super::disk::{DiskFile, Fill};
use super::env::Env;
use super::head::nanos;
use super::record::{self, Kind, RecordHeader, SEGMENT_HEADER, SegmentHeader};
use super::recovery::{find_segments, recover};
use super::segment::Spot;
use super::topic::segment_path;
use super::writer::Log;
use crate::bus::{Entry, Expect, Put};
use crate::queued::Place;

/// A key's longest length, in bytes.
pub(super) const KEY_BYTES: usize = 512;
/// A value's longest length, in bytes.
pub(super) const VALUE_BYTES: usize = 16 << 20;
/// How long what need not be synced at once may wait for it.
const SYNC_SOON: Duration = Duration::from_millis(100);
/// A log has room for its table so many times over, so that it is rarely written anew.
const ROOM_PER_LIVE: u64 = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    bytes: Bytes,
    revision: u64,
}

/// What is durable, for everybody to read.
#[derive(Debug, Default)]
pub(super) struct StateTable(RwLock<BTreeMap<String, Value>>);

impl StateTable {
    /// All keys that begin with `prefix`.
    pub(super) fn under(&self, prefix: &str) -> Vec<Entry> {
        let table = self.0.read();
        table
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| Entry { key: key.clone(), value: value.bytes.clone(), revision: value.revision })
            .collect()
    }
}

/// One call of `store`.
#[derive(Debug)]
pub(super) struct StoreOp {
    pub(super) puts: Vec<Put>,
    /// Answered once written, before it is synced.
    pub(super) soon: bool,
    /// Gets the revisions; dropped when the bus closes before they are durable.
    pub(super) reply: oneshot::Sender<Vec<Option<u64>>>,
    /// Freed with the op.
    pub(super) place: Place,
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct StateLog {
    env: Arc<Env>,
    dir: PathBuf,
    table: Arc<StateTable>,
    /// None after a failed sync, until the table is written to a new file.
    file: Option<Active>,
    next_seq: u64,
    next_revision: u64,
    /// What the table would take as records, in bytes.
    live: u64,
    pending: VecDeque<StoreOp>,
    staged: Option<Staged>,
    /// When what was written without a sync is to be synced.
    sync_due: Option<Instant>,
}

#[derive(Debug)]
struct Active {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    seed: u32,
    offset: u64,
    index: u32,
    /// Records since the last sync.
    unsynced: u32,
    room: u64,
}

#[derive(Debug, Default)]
struct Staged {
    /// It is answered once it is synced, and not before.
    is_synced: bool,
    changes: HashMap<String, Option<Value>>,
    replies: Vec<Vec<Option<u64>>>,
    next_revision: u64,
    records: u32,
    bytes: u64,
}

impl StateLog {
    /// Opens the state's folder, or makes it.
    pub(super) fn open(env: &Arc<Env>, root: &Path, table: &Arc<StateTable>) -> Result<Self, OpenError> {
        let dir = root.join("state");
        let io = |source| OpenError::Io { path: dir.clone(), source };
        env.disk.create_dir(&dir).map_err(io)?;
        let (mut found, next_seq) = find_segments(&*env.disk, &dir, Kind::State)?;
        let mut log = Self {
            env: env.clone(),
            dir: dir.clone(),
            table: table.clone(),
            file: None,
            next_seq,
            next_revision: 1,
            live: 0,
            pending: VecDeque::new(),
            staged: None,
            sync_due: None,
        };
        let Some(last) = found.pop() else {
            log.compact(0).map_err(io)?;
            env.disk.sync_dir(root).map_err(io)?;
            return Ok(log);
        };
        for older in found {
            env.disk.remove(&older.path).map_err(io)?;
        }
        log.next_revision = last.header.base.max(1);
        let mut changes = Vec::new();
        let recovered = recover(&last, |_, payload| changes.push(decode(payload))).map_err(io)?;
        for change in changes {
            let Some((key, value)) = change else {
                return Err(OpenError::Damaged { path: last.path, what: "holds a change that is none".into() });
            };
            let revision = value.as_ref().map_or_else(|tombstone| *tombstone, |v| v.revision);
            log.next_revision = log.next_revision.max(revision + 1);
            log.apply(key, value.ok());
        }
        for (from, to) in recovered.holes {
            tracing::error!(
                file = %last.path.display(),
                offset = from.offset,
                changes = to - from.position,
                "stored state is damaged on disk: some keys have their value of before; check the disk"
            );
        }
        if recovered.cut > 0 {
            tracing::warn!(
                file = %last.path.display(),
                bytes = recovered.cut,
                "the state ended in an unfinished write, which was cut off: none of it had been acknowledged"
            );
        }
        let Spot { offset, position } = recovered.end;
        log.file = Some(Active {
            file: last.file,
            path: last.path,
            seed: last.seed,
            offset,
            index: u32::try_from(position - last.header.base).unwrap_or(u32::MAX),
            unsynced: 0,
            room: last.len,
        });
        Ok(log)
    }

    /// Writes what waits, as far as it fits into one file. False when nothing waits and nothing is to be synced.
    fn stage(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let is_sync_due = self.sync_due.is_some_and(|due| due <= Instant::now());
        let need: usize = self.pending.front().map_or(0, |first| first.puts.iter().map(put_len).sum());
        if self.file.as_ref().is_none_or(|f| f.offset + need as u64 > f.room) {
            self.compact(need as u64)?;
        }
        let Some(active) = self.file.as_ref().filter(|_| !self.pending.is_empty() || is_sync_due) else {
            return Ok(false);
        };
        let time = nanos(self.env.now());
        let mut staged = Staged { next_revision: self.next_revision, ..Staged::default() };
        buffer.clear();
        let mut payload = Vec::new();
        let table = self.table.0.read();
        for op in &self.pending {
            let most: usize = op.puts.iter().map(put_len).sum();
            if active.offset + (buffer.len() + most) as u64 > active.room {
                break;
            }
            staged.is_synced |= !op.soon;
            let mut reply = Vec::with_capacity(op.puts.len());
            for put in &op.puts {
                let now = match staged.changes.get(&put.key) {
                    Some(changed) => changed.as_ref(),
                    None => table.get(&put.key),
                };
                let holds = match put.expect {
                    Expect::Any => true,
                    Expect::Absent => now.is_none(),
                    Expect::Revision(revision) => now.is_some_and(|v| v.revision == revision),
                };
                if !holds {
                    reply.push(None);
                    continue;
                }
                let revision = staged.next_revision;
                staged.next_revision += 1;
                payload.clear();
                encode(&mut payload, &put.key, revision, put.value.as_deref());
                let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                let (index, unsynced) = (active.index + staged.records, active.unsynced + staged.records);
                let header = RecordHeader { len, time, index, unsynced };
                record::encode(buffer, active.seed, header, &payload);
                staged.records += 1;
                staged.changes.insert(put.key.clone(), put.value.clone().map(|bytes| Value { bytes, revision }));
                reply.push(Some(revision));
            }
            staged.replies.push(reply);
        }
        drop(table);
        staged.is_synced |= is_sync_due;
        staged.bytes = buffer.len() as u64;
        if !buffer.is_empty() {
            active.file.write(buffer, active.offset)?;
        }
        self.staged = Some(staged);
        Ok(true)
    }

    /// The file to sync for what is staged, if that has to be.
    fn staged_file(&self) -> Option<Arc<dyn DiskFile>> {
        let staged = self.staged.as_ref().filter(|staged| staged.is_synced)?;
        self.file.as_ref().filter(|active| staged.bytes > 0 || active.unsynced > 0).map(|active| active.file.clone())
    }

    /// When there is something to write or to sync.
    fn due(&self, now: Instant) -> Option<Instant> {
        let has_work = !self.pending.is_empty() || self.file.is_none();
        if has_work { Some(now) } else { self.sync_due }
    }

    /// What was staged is as durable as it was asked to be: shows it, and answers.
    fn publish(&mut self) {
        let (Some(staged), Some(active)) = (self.staged.take(), &mut self.file) else {
            return;
        };
        active.offset += staged.bytes;
        active.index += staged.records;
        if staged.is_synced {
            (active.unsynced, self.sync_due) = (0, None);
        } else if staged.records > 0 && self.env.sync == SyncMode::Always {
            active.unsynced += staged.records;
            self.sync_due.get_or_insert_with(|| Instant::now() + SYNC_SOON);
        }
        self.next_revision = staged.next_revision;
        for (key, value) in staged.changes {
            self.apply(key, value);
        }
        for reply in staged.replies {
            let Some(op) = self.pending.pop_front() else { break };
            drop(op.place);
            drop(op.reply.send(reply));
        }
    }

    /// The sync of what was staged failed: the table is written to a new file next.
    fn abandon(&mut self) {
        (self.staged, self.file, self.sync_due) = (None, None, None);
    }

    /// Syncs what was written without a sync.
    pub(super) fn close(&mut self) -> io::Result<()> {
        match &self.file {
            Some(active) if self.env.sync == SyncMode::Never || self.sync_due.is_some() => active.file.sync(),
            _ => Ok(()),
        }
    }

    /// Writes the table to a new file with room for `need` bytes more, and goes on there.
    fn compact(&mut self, need: u64) -> io::Result<()> {
        let disk = &*self.env.disk;
        let room = (ROOM_PER_LIVE * (self.live + need)).next_power_of_two().max(self.env.segments.first);
        let room = room.max(SEGMENT_HEADER as u64 + self.live + need);
        let seq = self.next_seq;
        self.next_seq += 1;
        let path = segment_path(&self.dir, seq);
        let file = disk.create(&path, room, Fill::Zeros)?;
        match self.write_table(&*file, seq) {
            Ok((seed, offset, index)) => {
                let fresh = Active { file, path, seed, offset, index, unsynced: 0, room };
                self.sync_due = None;
                if let Some(old) = self.file.replace(fresh) {
                    // If it stays, the next opening deletes it.
                    drop(disk.remove(&old.path));
                }
                Ok(())
            }
            Err(error) => {
                drop(file);
                drop(disk.remove(&path));
                Err(error)
            }
        }
    }

    fn write_table(&self, file: &dyn DiskFile, seq: u64) -> io::Result<(u32, u64, u32)> {
        let time = nanos(self.env.now());
        let header = SegmentHeader { kind: Kind::State, seq, base: self.next_revision, base_time: time };
        let (bytes, seed) = header.encode();
        let (mut buffer, mut payload, mut index) = (Vec::new(), Vec::new(), 0);
        let mut offset = SEGMENT_HEADER as u64;
        for (key, value) in self.table.0.read().iter() {
            payload.clear();
            encode(&mut payload, key, value.revision, Some(&value.bytes));
            let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            record::encode(&mut buffer, seed, RecordHeader { len, time, index, unsynced: index }, &payload);
            index += 1;
            if buffer.len() > 1 << 20 {
                file.write(&buffer, offset)?;
                offset += buffer.len() as u64;
                buffer.clear();
            }
        }
        file.write(&buffer, offset)?;
        offset += buffer.len() as u64;
        file.sync()?;
        file.write(&bytes, 0)?;
        file.sync()?;
        self.env.disk.sync_dir(&self.dir)?;
        Ok((seed, offset, index))
    }

    fn apply(&mut self, key: String, value: Option<Value>) {
        let mut table = self.table.0.write();
        let key_len = key.len();
        let size = |v: &Value| entry_len(key_len, v.bytes.len()) as u64;
        self.live += value.as_ref().map_or(0, size);
        let old = match value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        };
        self.live = self.live.saturating_sub(old.as_ref().map_or(0, size));
    }
}

impl Log for Mutex<StateLog> {
    type Op = StoreOp;

    fn name(&self) -> Arc<str> {
        "state".into()
    }

    fn enqueue(&self, op: StoreOp) {
        self.lock().pending.push_back(op);
    }

    fn due(&self, now: Instant) -> Option<Instant> {
        self.lock().due(now)
    }

    fn stage(&self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        self.lock().stage(buffer)
    }

    fn staged_file(&self) -> Option<Arc<dyn DiskFile>> {
        self.lock().staged_file()
    }

    fn publish(self: &Arc<Self>) {
        self.lock().publish();
    }

    fn abandon(&self) {
        self.lock().abandon();
    }

    fn give_up(&self, _cause: &Arc<str>) {
        // Whoever waits sees that the bus is closed.
        self.lock().pending.clear();
    }
}

fn put_len(put: &Put) -> usize {
    entry_len(put.key.len(), put.value.as_ref().map_or(0, Bytes::len))
}

fn entry_len(key: usize, value: usize) -> usize {
    record::record_len(1 + 2 + key + 8 + value)
}

fn encode(out: &mut Vec<u8>, key: &str, revision: u64, value: Option<&[u8]>) {
    out.put_u8(u8::from(value.is_none()));
    out.put_u16_le(u16::try_from(key.len()).unwrap_or(u16::MAX));
    out.put_slice(key.as_bytes());
    out.put_u64_le(revision);
    out.put_slice(value.unwrap_or_default());
}

/// A key, and its value or the revision of its deletion.
fn decode(payload: &[u8]) -> Option<(String, Result<Value, u64>)> {
    let (kind, rest) = payload.split_first()?;
    let (key_len, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*key_len).into())?;
    let (revision, value) = rest.split_first_chunk()?;
    let (key, revision) = (std::str::from_utf8(key).ok()?, u64::from_le_bytes(*revision));
    let value = match kind {
        0 => Ok(Value { bytes: Bytes::copy_from_slice(value), revision }),
        1 => Err(revision),
        _ => return None,
    };
    Some((key.to_owned(), value))
}
