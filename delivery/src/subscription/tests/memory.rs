//! The smallest bus that keeps the contract: everything in memory, every call at once, time from tokio's clock so that it can be
//! paused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use evoke_api::names::TopicName;
use evoke_eventbus::bus::*;
use evoke_eventbus::event::Event;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct MemoryBus {
    logs: Mutex<HashMap<Partition, Arc<Log>>>,
    state: Mutex<State>,
    /// Stores wait while this is true.
    pub(super) frozen: watch::Sender<bool>,
    /// How long a store takes.
    pub(super) store_takes: Mutex<Duration>,
    pub(super) refuses_publish: AtomicBool,
    /// The one topic that takes nothing.
    pub(super) refused_topic: Mutex<Option<TopicName>>,
    start: (Instant, SystemTime),
    /// By how much the clock is ahead for now.
    pub(super) ahead: Mutex<Duration>,
    health: watch::Sender<Health>,
    limit: usize,
    sparse: bool,
}

/// The type of what is appended and is no event: readers pass it over.
pub(super) const NO_EVENT: &str = "no-event";

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, (bytes::Bytes, u64)>,
    /// Of all keys, so that none comes again when a key is deleted and made anew.
    last_revision: u64,
    losses: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    inner: Mutex<(u64, Vec<Record>)>,
    grown: watch::Sender<()>,
    sparse: bool,
    /// What is damaged.
    damaged: Mutex<Option<Range<u128>>>,
    /// What somebody has deleted.
    deleted: Mutex<BTreeSet<u128>>,
}

/// Where the event of a number is.
fn position(sparse: bool, number: u64) -> u128 {
    if sparse { (u128::from(number) + 1) << 70 } else { number.into() }
}

impl Log {
    /// Where it begins and ends, and how much was ever appended.
    fn span(&self, (base, records): &(u64, Vec<Record>)) -> (u128, u128, u64) {
        let appended = base + records.len() as u64;
        let end = appended.checked_sub(1).map_or(0, |last| position(self.sparse, last) + 1);
        (records.first().map_or(end, |record| record.at.0), end, appended)
    }

    /// Whether one can go on at a position without having lost anything.
    fn allows(&self, inner: &(u64, Vec<Record>), at: u128) -> Result<(), BusError> {
        let (first, end, _) = self.span(inner);
        if at < first && inner.0 > 0 {
            return Err(BusError::Trimmed { first: Position(first) });
        }
        if at > end { Err(BusError::Ahead { end: Position(end) }) } else { Ok(()) }
    }
}

impl MemoryBus {
    pub(super) fn new() -> Arc<Self> {
        Self::with_limit(1 << 20)
    }

    pub(super) fn with_limit(limit: usize) -> Arc<Self> {
        Self::make(limit, false)
    }

    /// One as Redis is: positions do not tell how many events are between them, but what is appended is counted; a count from the middle
    /// of a log is an estimate; a trim keeps the last event that is not needed.
    pub(super) fn sparse() -> Arc<Self> {
        Self::make(1 << 20, true)
    }

    fn make(limit: usize, sparse: bool) -> Arc<Self> {
        Arc::new(Self {
            logs: Mutex::default(),
            state: Mutex::default(),
            frozen: watch::Sender::new(false),
            store_takes: Mutex::default(),
            refuses_publish: AtomicBool::new(false),
            refused_topic: Mutex::default(),
            start: (Instant::now(), SystemTime::now()),
            ahead: Mutex::default(),
            health: watch::Sender::new(Health::Up),
            limit,
            sparse,
        })
    }

    /// Where the event of a number is, counted from the first that was ever appended.
    pub(super) fn position(&self, number: u64) -> Position {
        Position(position(self.sparse, number))
    }

    pub(super) fn now(&self) -> SystemTime {
        self.start.1 + self.start.0.elapsed() + *self.ahead.lock()
    }

    fn log(&self, partition: &Partition) -> Result<Arc<Log>, BusError> {
        self.logs.lock().get(partition).cloned().ok_or_else(|| BusError::NoTopic(partition.topic.clone()))
    }

    pub(super) fn append(&self, partition: &Partition, events: Vec<Event>) -> Vec<Result<(), PublishError>> {
        let log = self.log(partition).unwrap();
        let mut inner = log.inner.lock();
        let appended = self.now();
        let results = events
            .into_iter()
            .map(|event| {
                let bytes = event.encoded_len();
                if bytes > self.limit {
                    return Err(PublishError::TooLarge { bytes, limit: self.limit });
                }
                let at = self.position(inner.0 + inner.1.len() as u64);
                inner.1.push(Record::new(at, appended, event));
                Ok(())
            })
            .collect();
        log.grown.send_replace(());
        results
    }

    /// Everything in a partition.
    pub(super) fn events(&self, partition: &Partition) -> Vec<Event> {
        self.log(partition).unwrap().inner.lock().1.iter().map(|record| record.event.clone()).collect()
    }

    /// Somebody deletes all state.
    pub(super) fn lose_state(&self) {
        let mut state = self.state.lock();
        state.entries.clear();
        state.losses.send_modify(|losses| *losses += 1);
    }

    /// The log loses its end.
    pub(super) fn cut(&self, partition: &Partition, keep: usize) {
        self.log(partition).unwrap().inner.lock().1.truncate(keep);
    }

    /// What lies there cannot be read any more.
    pub(super) fn damage(&self, partition: &Partition, positions: Range<u128>) {
        *self.log(partition).unwrap().damaged.lock() = Some(positions);
    }

    /// Somebody deletes an event.
    pub(super) fn delete(&self, partition: &Partition, at: Position) {
        self.log(partition).unwrap().deleted.lock().insert(at.0);
    }

    fn mark(&self, partition: &Partition, from: From) -> Result<Mark, BusError> {
        let log = self.log(partition)?;
        let inner = log.inner.lock();
        let ((first, end, appended), records) = (log.span(&inner), &inner.1);
        let at = match from {
            From::First => first,
            From::Next => end,
            From::At(at) => at.0,
            From::Time(time) => {
                let since = records.partition_point(|record| record.appended < time);
                records.get(since).map_or(end, |record| record.at.0)
            }
        };
        let deleted = log.deleted.lock().range(at..).count();
        let ahead = (records.len() - records.partition_point(|record| record.at.0 < at) - deleted) as u64;
        let exact = !self.sparse || at <= first || ahead < 4;
        let ahead = if exact { ahead } else { ahead / 2 };
        let appended = self.sparse.then_some(appended);
        Ok(Mark { at: Position(at), first: Position(first), end: Position(end), ahead, exact, appended })
    }
}

struct MemoryReader {
    log: Arc<Log>,
    at: u128,
}

impl Reader for MemoryReader {
    fn next(&mut self, max_bytes: usize) -> Fut<'_, Batch> {
        async move {
            let mut grown = self.log.grown.subscribe();
            loop {
                grown.borrow_and_update();
                {
                    let inner = self.log.inner.lock();
                    self.log.allows(&inner, self.at)?;
                    let mut bytes = 0;
                    let rest = &inner.1[inner.1.partition_point(|record| record.at.0 < self.at)..];
                    let damaged = self.log.damaged.lock().clone().unwrap_or_default();
                    if damaged.contains(&self.at) && !rest.is_empty() {
                        let [first, next] = [damaged.start, damaged.end].map(Position);
                        return Err(BusError::Damaged { first, next });
                    }
                    let fits = |record: &&Record| {
                        bytes += record.event.encoded_len();
                        let is_whole = !damaged.contains(&record.at.0);
                        is_whole && (bytes <= max_bytes || bytes == record.event.encoded_len())
                    };
                    let deleted = self.log.deleted.lock();
                    let there = rest.iter().filter(|record| !deleted.contains(&record.at.0));
                    let mut records: Vec<_> = there.take_while(fits).cloned().collect();
                    if let Some(last) = records.last() {
                        self.at = last.at.0 + 1;
                        let is_all = self.log.sparse && records.len() == rest.len();
                        let before = is_all.then_some(self.log.span(&inner).2);
                        records.retain(|record| record.event.ty() != NO_EVENT);
                        let bytes = records.iter().map(|record| record.event.encoded_len()).sum();
                        return Ok(Batch { records, bytes, next: Position(self.at), before, ..Batch::default() });
                    }
                }
                grown.changed().await.map_err(|_| BusError::Closed)?;
            }
        }
        .boxed()
    }
}

impl EventBus for MemoryBus {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic> {
        async move {
            let mut logs = self.logs.lock();
            for index in 0..topic.partitions {
                let log = || Arc::new(Log { sparse: self.sparse, ..Log::default() });
                logs.entry(Partition { topic: topic.name.clone(), index }).or_insert_with(log);
            }
            let partitions = logs.keys().filter(|partition| partition.topic == topic.name).count() as u16;
            Ok(Topic { partitions, drift: Vec::new() })
        }
        .boxed()
    }

    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt> {
        async move {
            let is_refused = self.refused_topic.lock().as_ref() == Some(&to.topic);
            if is_refused || self.refuses_publish.load(Ordering::Relaxed) {
                return Err(BusError::Unavailable("no room".into()));
            }
            self.log(to)?;
            let results = self.append(to, events);
            Ok(async move { results }.boxed() as Receipt)
        }
        .boxed()
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, _prefetch: usize) -> Fut<'a, Box<dyn Reader>> {
        async move {
            let (log, at) = (self.log(partition)?, self.mark(partition, from)?.at.0);
            log.allows(&log.inner.lock(), at)?;
            Ok(Box::new(MemoryReader { log, at }) as Box<dyn Reader>)
        }
        .boxed()
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        async move { at.iter().map(|(partition, from)| self.mark(partition, *from)).collect() }.boxed()
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        async move {
            let log = self.log(partition)?;
            let (base, records) = &mut *log.inner.lock();
            let below = records.partition_point(|record| record.at < before);
            let gone = if self.sparse { below.saturating_sub(1) } else { below };
            records.drain(..gone);
            *base += gone as u64;
            Ok(())
        }
        .boxed()
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        async move {
            let state = self.state.lock();
            let under = state.entries.iter().filter(|(key, _)| key.starts_with(prefix));
            let entry = |(key, (value, revision)): (&String, &(bytes::Bytes, u64))| Entry {
                key: key.clone(),
                value: value.clone(),
                revision: *revision,
            };
            Ok(under.map(entry).collect())
        }
        .boxed()
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        async move {
            let takes = *self.store_takes.lock();
            if takes > Duration::ZERO {
                tokio::time::sleep(takes).await;
            }
            let mut frozen = self.frozen.subscribe();
            _ = frozen.wait_for(|frozen| !*frozen).await;
            let mut state = self.state.lock();
            let mut put = |put: Put| {
                let revision = state.entries.get(&put.key).map(|(_, revision)| *revision);
                let holds = match put.expect {
                    Expect::Any => true,
                    Expect::Absent => revision.is_none(),
                    Expect::Revision(expected) => revision == Some(expected),
                };
                if !holds {
                    return None;
                }
                state.last_revision += 1;
                let next = state.last_revision;
                match put.value {
                    Some(value) => state.entries.insert(put.key, (value, next)),
                    None => state.entries.remove(&put.key),
                };
                Some(next)
            };
            Ok(puts.into_iter().map(&mut put).collect())
        }
        .boxed()
    }

    fn losses(&self) -> watch::Receiver<u64> {
        self.state.lock().losses.subscribe()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn stored_bytes<'a>(&'a self, _partition: &'a Partition) -> Fut<'a, Option<u64>> {
        async move { Ok(None) }.boxed()
    }

    fn max_event_bytes(&self) -> usize {
        self.limit
    }

    fn max_value_bytes(&self) -> usize {
        evoke_api::limits::STATE_VALUE_BYTES
    }

    fn close(&self) -> Fut<'_, ()> {
        async move { Ok(()) }.boxed()
    }
}

/// A process's connection to the bus. Once it is cut, nothing of what was asked happens any more.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) bus: Arc<MemoryBus>,
    pub(super) cut: tokio_util::sync::CancellationToken,
    /// While this is true, questions are lost, and answers are late. What is being read already goes on.
    pub(super) stalled: watch::Sender<bool>,
}

impl Link {
    pub(super) fn new(bus: &Arc<MemoryBus>, cut: &tokio_util::sync::CancellationToken) -> Arc<Self> {
        Arc::new(Self { bus: Arc::clone(bus), cut: cut.clone(), stalled: watch::Sender::new(false) })
    }

    async fn passes(&self) {
        _ = self.stalled.subscribe().wait_for(|stalled| !*stalled).await;
    }

    fn whole<'a, T: Send + 'a>(&'a self, asked: Fut<'a, T>) -> Fut<'a, T> {
        async move {
            let whole = async {
                if *self.stalled.borrow() {
                    self.passes().await;
                    return Err(BusError::Unavailable("the question was lost".into()));
                }
                let answer = asked.await;
                self.passes().await;
                answer
            };
            match self.cut.run_until_cancelled(whole).await {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl EventBus for Link {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic> {
        self.whole(self.bus.declare(topic))
    }

    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt> {
        self.whole(self.bus.publish(to, events))
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch: usize) -> Fut<'a, Box<dyn Reader>> {
        self.whole(self.bus.read(partition, from, prefetch))
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        self.whole(self.bus.locate(at))
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        self.whole(self.bus.trim(partition, before))
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        self.whole(self.bus.load(prefix))
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        self.whole(self.bus.store(puts))
    }

    fn losses(&self) -> watch::Receiver<u64> {
        self.bus.losses()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.bus.health()
    }

    fn stored_bytes<'a>(&'a self, partition: &'a Partition) -> Fut<'a, Option<u64>> {
        self.bus.stored_bytes(partition)
    }

    fn max_event_bytes(&self) -> usize {
        self.bus.max_event_bytes()
    }

    fn max_value_bytes(&self) -> usize {
        self.bus.max_value_bytes()
    }

    fn close(&self) -> Fut<'_, ()> {
        self.bus.close()
    }
}
