//! Reads one stream in order, on a connection of its own: a read that waits on the server would hold up all others.
//!
//! With every read the stream is looked at, in the same exchange: a read alone passes over what was trimmed away, and what a server
//! that lost its end appends below the position.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use evoke_connect::backoff::Backoff;
use evoke_connect::redis::link::Link;
use evoke_connect::redis::reply::{self, Entry, Garbled};
use evoke_connect::redis::trouble::Trouble;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::{Pipeline, Value, cmd};
use tokio::time::sleep;

use super::look::Seen;
use super::shared::{Core, Log};
use super::{keys, scripts};
use crate::bus::{Batch, BusError, Fut, Health, Point, Position, Reader, Record};
use crate::codec::redis::{self as codec, Defaults};

/// How long the server may let a read wait for something to read.
const BLOCK: Duration = Duration::from_secs(5);
/// How much is asked for at once, in bytes, as far as it can be guessed.
const READ_BYTES: usize = 1 << 20;
const READ_COUNT: usize = 4096;
/// What a read may bring should every entry be as large as any may be, but for the few that are always asked for. Entries that suddenly
/// are large must not fill the memory.
const READ_BYTES_MAX: usize = 64 << 20;
const READ_COUNT_MIN: usize = 16;
/// What an entry is taken to have before one was seen.
const FIRST_GUESS: usize = 16 << 10;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// What a read brought: the connection, if it still works.
type Read = (Option<Link>, Result<Vec<Value>, Trouble>);

/// See the module.
pub(super) struct StreamReader {
    core: Arc<Core>,
    log: Arc<Log>,
    prefetch: usize,
    /// Read and not handed out, and how many bytes that is.
    ready: VecDeque<Record>,
    ready_bytes: usize,
    /// Where the next read begins.
    at: u128,
    /// How many entries were ever added before, those that are no events too; `None` where that is not known.
    before: Option<u64>,
    /// Where whoever reads was told to go on.
    told: u128,
    link: Option<Link>,
    /// A read that was begun for a call that may have been cancelled, or ahead of one.
    reading: Option<BoxFuture<'static, Read>>,
    portion: Portion,
    backoff: Backoff,
    /// How long the next read waits first.
    pause: Duration,
    /// Who this reader is where it has trouble, if it has.
    trouble: Option<Arc<str>>,
}

impl StreamReader {
    pub(super) fn new(core: Arc<Core>, log: Arc<Log>, from: Point, prefetch: usize) -> Self {
        Self {
            prefetch,
            ready: VecDeque::new(),
            ready_bytes: 0,
            at: from.at.0,
            before: from.before,
            told: from.at.0,
            link: None,
            reading: None,
            portion: Portion::starting_with(log.mean(), most(core.max_event_bytes)),
            backoff: Backoff::between(RETRY_FIRST, RETRY_LONGEST),
            pause: Duration::ZERO,
            trouble: None,
            log,
            core,
        }
    }

    async fn next_batch(&mut self, max_bytes: usize) -> Result<Batch, BusError> {
        let core = self.core.clone();
        loop {
            if core.closed.is_cancelled() {
                return Err(BusError::Closed);
            }
            if !self.ready.is_empty() {
                let batch = self.take(max_bytes);
                self.read_ahead(0);
                return Ok(batch);
            }
            let want = max_bytes.max(self.prefetch.min(64 << 10)).min(self.half());
            if self.reading.is_none() {
                self.reading = Some(self.read(want));
            }
            let Some(reading) = &mut self.reading else { continue };
            let read = tokio::select! {
                read = reading.as_mut() => read,
                () = core.closed.cancelled() => return Err(BusError::Closed),
            };
            self.reading = None;
            self.found(read)?;
            // What cannot be an event needs not be passed again, should nothing follow it.
            if self.ready.is_empty() && self.at > self.told {
                return Ok(self.take(max_bytes));
            }
        }
    }

    /// Hands out what is ready, up to `max_bytes`, but one record at least where there is one.
    fn take(&mut self, max_bytes: usize) -> Batch {
        let mut bytes = 0;
        let fits = |record: &Record| {
            bytes += record.event.encoded_len();
            bytes <= max_bytes
        };
        let count = self.ready.iter().map(fits).take_while(|fits| *fits).count().max(1).min(self.ready.len());
        let records: Vec<Record> = if count == self.ready.len() {
            std::mem::take(&mut self.ready).into()
        } else {
            self.ready.drain(..count).collect()
        };
        let bytes = records.iter().map(|record| record.event.encoded_len()).sum();
        self.ready_bytes = self.ready_bytes.saturating_sub(bytes);
        let (next, before) = match self.ready.front() {
            // What is passed over on the way there is not known any more.
            Some(record) => (record.at, None),
            None => (Position(self.at), self.before),
        };
        self.told = next.0;
        let latest = Some(keys::time(next.0.saturating_sub(1)));
        Batch { records, bytes, next, before, latest, ..Batch::default() }
    }

    /// What one read asks for at most: half of what may be read ahead, so that the server is busy with one half while events are made
    /// of the other.
    fn half(&self) -> usize {
        (self.prefetch / 2).clamp(64 << 10, READ_BYTES)
    }

    /// Begins a read of what fits into the prefetch beside `bytes` more, so that it is there when it is asked for.
    fn read_ahead(&mut self, bytes: usize) {
        let room = self.prefetch.saturating_sub(self.ready_bytes + bytes).min(self.half());
        if self.reading.is_none() && room >= self.portion.mean {
            let mut reading = self.read(room);
            // Polled once, so that it is under way.
            self.reading = Some(match (&mut reading).now_or_never() {
                Some(read) => std::future::ready(read).boxed(),
                None => reading,
            });
        }
    }

    /// Reads about `want` bytes, connecting first if need be.
    fn read(&mut self, want: usize) -> BoxFuture<'static, Read> {
        let (core, log, at) = (self.core.clone(), self.log.clone(), self.at);
        let count = self.portion.count(want);
        let (link, pause) = (self.link.take(), std::mem::take(&mut self.pause));
        async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let link = match link {
                Some(link) => link,
                None => {
                    let node = core.hub.wait_for(&log.key).await;
                    match core.hub.connector.open(&node.ask.address).await {
                        Ok(link) => link,
                        Err(trouble) => return (None, Err(trouble)),
                    }
                }
            };
            let mut read = cmd("XREAD");
            read.arg("COUNT").arg(count).arg("BLOCK").arg(BLOCK.as_millis() as u64);
            read.arg("STREAMS").arg(&*log.key).arg(keys::id(at.saturating_sub(1)));
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.add_command(read).add_command(scripts::look(&log.key, 0, []));
            let answers = link.ask_all_blocking(&pipeline, BLOCK).await;
            (answers.is_ok().then_some(link), answers)
        }
        .boxed()
    }

    /// Takes in what a read brought, or waits a little where it failed.
    fn found(&mut self, (link, answers): Read) -> Result<(), BusError> {
        let found = answers.and_then(|answers| {
            let mut answers = answers.into_iter();
            let (Some(entries), Some(look)) = (answers.next(), answers.next()) else {
                return Err(Garbled("a read").into());
            };
            Ok((reply::read(entries)?, Seen::read(look).ok_or(Garbled("a look"))?))
        });
        let (entries, seen) = match found {
            Ok(found) => found,
            Err(trouble) => {
                self.failed(&trouble);
                return Ok(());
            }
        };
        self.link = link;
        self.backoff.reset();
        if let Some(who) = self.trouble.take() {
            self.core.hub.board.clear(&who);
        }
        seen.allows(self.at)?;
        let bytes = entries.iter().map(Entry::bytes).sum();
        self.portion.learn(entries.len(), bytes);
        self.log.learn(entries.len(), bytes);
        if let Some(last) = entries.iter().rev().find_map(|entry| keys::position(&entry.id)) {
            self.at = last.saturating_add(1);
            self.before = self.before.map(|before| before.saturating_add(entries.len() as u64));
            self.read_ahead(bytes);
        }
        if seen.end() == Position(self.at) {
            self.before = seen.added;
        }
        let key = &*self.log.key;
        let mut defaults = Defaults { position: String::new(), source: key, ty: FOREIGN, content_type: None };
        for entry in entries {
            let (Some(at), Some(fields)) = (keys::position(&entry.id), entry.fields) else { continue };
            if !codec::is_own(&fields) {
                defaults.position = format!("{key}/{}", entry.id);
            }
            let event = codec::decode(&entry.id, fields, &defaults).and_then(|event| Ok(event.build()?));
            match event {
                Ok(event) => {
                    self.ready_bytes += event.encoded_len();
                    self.ready.push_back(Record::new(Position(at), keys::time(at), event));
                }
                Err(error) => {
                    self.log.metrics.skipped_events.inc();
                    tracing::warn!(stream = key, entry = entry.id, %error, "an entry that is no event is passed over");
                }
            }
        }
        Ok(())
    }

    /// The next read waits, and connects again.
    fn failed(&mut self, trouble: &Trouble) {
        drop(self.core.hub.suspect(trouble));
        if trouble.code().is_some_and(|code| REFUSALS.contains(&code)) {
            let who = self.trouble.get_or_insert_with(|| format!("reading {}", self.log.key).into());
            self.core.hub.board.trouble(who, Health::Down(format!("{}: {trouble}", self.log.key).into()));
        }
        self.pause = self.backoff.wait();
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        if let Some(who) = &self.trouble {
            self.core.hub.board.clear(who);
        }
    }
}

impl Reader for StreamReader {
    fn next(&mut self, max_bytes: usize) -> Fut<'_, Batch> {
        self.next_batch(max_bytes).boxed()
    }
}

/// The `type` of an entry that names none.
const FOREIGN: &str = "io.evoke.redis";
/// Refusals that do not pass by themselves.
const REFUSALS: [&str; 3] = ["NOPERM", "WRONGTYPE", "NOAUTH"];

/// Guesses how many entries make up a read of the size that is wanted, from the sizes of those before.
#[derive(Clone, Copy, Debug)]
struct Portion {
    mean: usize,
    /// What the last read asked for.
    last: usize,
    /// What no read asks for more than.
    most: usize,
}

/// How many entries may be asked for at once where events may have so many bytes.
fn most(max_event_bytes: usize) -> usize {
    (READ_BYTES_MAX / max_event_bytes.max(1)).clamp(READ_COUNT_MIN, READ_COUNT)
}

impl Portion {
    /// `mean` is what entries of this stream were seen to have, or 0; `most` is what no read asks for more than.
    fn starting_with(mean: usize, most: usize) -> Self {
        Self { mean: if mean == 0 { FIRST_GUESS } else { mean }, last: 16, most }
    }

    /// It grows fourfold at most from one read to the next, since those before may have been smaller than what comes.
    fn count(&mut self, want: usize) -> usize {
        self.last = (want / self.mean.max(1)).clamp(1, self.most).min(self.last.saturating_mul(4));
        self.last
    }

    /// Learns from a read: at once from large entries, little by little from small ones.
    fn learn(&mut self, entries: usize, bytes: usize) {
        if let Some(seen) = bytes.checked_div(entries) {
            self.mean = if seen > self.mean { seen } else { self.mean - (self.mean - seen) / 2 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_small_where_entries_are_large() {
        let mut portion = Portion::starting_with(0, READ_COUNT);
        assert_eq!(portion.count(16 << 10), 1);
        portion.learn(1, 1 << 20);
        assert_eq!(portion.count(1 << 20), 1);
        for _ in 0..30 {
            portion.learn(10, 1000);
        }
        assert_eq!(portion.count(1 << 20), 4, "no leap");
        for _ in 0..10 {
            portion.count(1 << 20);
        }
        assert_eq!(portion.count(1 << 20), READ_COUNT);
        assert_eq!(Portion::starting_with(512, READ_COUNT).count(16 << 10), 32);
        let most = [1 << 10, 1 << 20, 32 << 20].map(most);
        assert_eq!(most, [READ_COUNT, 64, READ_COUNT_MIN]);
        assert_eq!(Portion::starting_with(1, 16).count(1 << 20), 16);
    }
}
