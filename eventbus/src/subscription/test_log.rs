//! A log in memory that can be put back to an older copy, for tests: one partition, of which every reader but a new one notices it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use evoke_api::names::TopicName;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::ledger::Millis;
use crate::bus::{
    Batch, BusError, Entry, EventBus, From, Fut, Health, Mark, Partition, Position, Put, Reader, Receipt, Record,
    Topic, TopicSpec,
};
use crate::event::Event;

/// Records of one batch.
const BATCH: usize = 50;

#[derive(Debug)]
pub(super) struct TestLog {
    shared: Arc<Shared>,
    /// How often it was asked where something is.
    located: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    first: u128,
    end: u128,
    records: Vec<Record>,
    partitions: u16,
    /// A reader there fails once.
    read_fails: Option<u128>,
    /// So many questions where something is are not answered.
    locates_fail: usize,
}

/// A moment, in milliseconds.
pub(super) fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(millis)
}

pub(super) fn millis(millis: u64) -> Millis {
    Millis::from(time(millis))
}

pub(super) fn partition() -> Partition {
    Partition { topic: TopicName::parse("default.orders.created"), index: 0 }
}

impl TestLog {
    pub(super) fn new() -> Arc<Self> {
        let inner = Mutex::new(Inner { partitions: 1, ..Inner::default() });
        let shared = Arc::new(Shared { inner, changed: watch::Sender::new(()) });
        Arc::new(Self { shared, located: AtomicUsize::new(0) })
    }

    /// Appends events whose ids are `name` and their position.
    pub(super) fn append(&self, name: &str, count: usize, millis: u64) {
        let end = self.shared.inner.lock().end;
        self.replace(end, name, count, millis);
    }

    /// The log ends at `end`, and was written to since.
    pub(super) fn replace(&self, end: u128, name: &str, count: usize, millis: u64) {
        let mut inner = self.shared.inner.lock();
        inner.records.retain(|record| record.at.0 < end);
        inner.end = end;
        for _ in 0..count {
            let event = Event::builder(format!("{name}{}", inner.end), "/test", "t").build().unwrap();
            let record = Record::new(Position(inner.end), time(millis), event);
            inner.records.push(record);
            inner.end += 1;
        }
        drop(inner);
        self.shared.changed.send_replace(());
    }

    /// The log ends at `end`, without events up to there that it did not have. No reader hears of it.
    pub(super) fn move_end(&self, end: u128) {
        let mut inner = self.shared.inner.lock();
        inner.records.retain(|record| record.at.0 < end);
        inner.end = end;
    }

    /// What lies below is gone.
    pub(super) fn trim_to(&self, first: u128) {
        let mut inner = self.shared.inner.lock();
        inner.records.retain(|record| record.at.0 >= first);
        inner.first = first;
    }

    /// The reader that is at `at` cannot reach the log, once.
    pub(super) fn fail_read(&self, at: u128) {
        self.shared.inner.lock().read_fails = Some(at);
    }

    /// Nobody says where something is, so many times.
    pub(super) fn fail_locates(&self, times: usize) {
        self.shared.inner.lock().locates_fail = times;
    }

    /// The topic has so many partitions, of which others than the first one are none of this log.
    pub(super) fn set_partitions(&self, partitions: u16) {
        self.shared.inner.lock().partitions = partitions;
    }

    pub(super) fn located(&self) -> usize {
        self.located.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn place(&self, from: From) -> u128 {
        match from {
            From::First => self.first,
            From::Next => self.end,
            From::At(at) => at.0,
            From::Time(time) => {
                let since = self.records.iter().find(|record| record.appended >= time);
                since.map_or(self.end, |record| record.at.0)
            }
        }
    }

    fn allows(&self, at: u128) -> Result<(), BusError> {
        if at < self.first {
            return Err(BusError::Trimmed { first: Position(self.first) });
        }
        if at > self.end { Err(BusError::Ahead { end: Position(self.end) }) } else { Ok(()) }
    }
}

struct TestReader {
    shared: Arc<Shared>,
    at: u128,
    /// The last record, as it was.
    last: Option<Record>,
    newest: SystemTime,
}

impl TestReader {
    /// What there is; `None` for nothing.
    fn take(&mut self) -> Result<Option<Batch>, BusError> {
        let mut inner = self.shared.inner.lock();
        if inner.read_fails.take_if(|at| *at == self.at).is_some() {
            return Err(BusError::Unavailable("the connection is lost".into()));
        }
        inner.allows(self.at)?;
        if let Some(last) = &self.last
            && !inner.records.iter().any(|record| record.at == last.at && record.event.id() == last.event.id())
        {
            let newer = inner.records.iter().find(|record| record.appended > last.appended);
            return Err(BusError::Ahead { end: newer.map_or(Position(inner.end), |record| record.at).min(last.at) });
        }
        let rest = inner.records.iter().skip_while(|record| record.at.0 < self.at);
        let mut records: Vec<Record> = rest.take(BATCH).cloned().collect();
        let Some(last) = records.last().cloned() else { return Ok(None) };
        for record in &mut records {
            self.newest = self.newest.max(record.appended);
            record.appended = self.newest;
        }
        self.at = last.at.0 + 1;
        self.last = Some(last);
        Ok(Some(Batch { records, next: Position(self.at), ..Batch::default() }))
    }
}

impl Reader for TestReader {
    fn next(&mut self, _: usize) -> Fut<'_, Batch> {
        async move {
            let mut changed = self.shared.changed.subscribe();
            loop {
                changed.borrow_and_update();
                if let Some(batch) = self.take()? {
                    return Ok(batch);
                }
                changed.changed().await.map_err(|_| BusError::Closed)?;
            }
        }
        .boxed()
    }
}

impl EventBus for TestLog {
    fn declare<'a>(&'a self, _: &'a TopicSpec) -> Fut<'a, Topic> {
        async move { Ok(Topic { partitions: self.shared.inner.lock().partitions, drift: Vec::new() }) }.boxed()
    }

    fn publish<'a>(&'a self, _: &'a Partition, _: Vec<Event>) -> Fut<'a, Receipt> {
        async { Err(BusError::Closed) }.boxed()
    }

    fn read<'a>(&'a self, _: &'a Partition, from: From, _: usize) -> Fut<'a, Box<dyn Reader>> {
        async move {
            let at = {
                let inner = self.shared.inner.lock();
                let at = inner.place(from);
                inner.allows(at)?;
                at
            };
            let shared = Arc::clone(&self.shared);
            Ok(Box::new(TestReader { shared, at, last: None, newest: SystemTime::UNIX_EPOCH }) as Box<dyn Reader>)
        }
        .boxed()
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        async move {
            self.located.fetch_add(1, Ordering::Relaxed);
            let mut inner = self.shared.inner.lock();
            if inner.locates_fail > 0 {
                inner.locates_fail -= 1;
                return Err(BusError::Unavailable("the question is lost".into()));
            }
            let mark = |(_, from): &(Partition, From)| {
                let at = inner.place(*from);
                let ahead = inner.records.iter().filter(|record| record.at.0 >= at).count() as u64;
                let (first, end) = (Position(inner.first), Position(inner.end));
                Mark { at: Position(at), first, end, ahead, exact: true, appended: None }
            };
            Ok(at.iter().map(mark).collect())
        }
        .boxed()
    }

    fn partitions<'a>(&'a self, _: &'a TopicName) -> Fut<'a, Option<u16>> {
        async move { Ok(Some(self.shared.inner.lock().partitions)) }.boxed()
    }

    fn trim<'a>(&'a self, _: &'a Partition, before: Position) -> Fut<'a, ()> {
        async move {
            self.trim_to(before.0);
            Ok(())
        }
        .boxed()
    }

    fn load<'a>(&'a self, _: &'a str) -> Fut<'a, Vec<Entry>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        async move { Ok(vec![None; puts.len()]) }.boxed()
    }

    fn health(&self) -> watch::Receiver<Health> {
        watch::channel(Health::Up).1
    }

    fn stored_bytes<'a>(&'a self, _: &'a Partition) -> Fut<'a, Option<u64>> {
        async { Ok(None) }.boxed()
    }

    fn max_event_bytes(&self) -> usize {
        1 << 20
    }

    fn max_value_bytes(&self) -> usize {
        1 << 20
    }

    fn close(&self) -> Fut<'_, ()> {
        async { Ok(()) }.boxed()
    }
}
