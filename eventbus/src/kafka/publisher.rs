//! The producer: what is accepted, on its way, and stored.
//!
//! | module | holds |
//! | --- | --- |
//! | `call` | the records of one call |
//! | `line` | one client |
//! | `trials` | partitions in which a client has stored nothing yet |
//! | `fate` | what an error means for a record |
//!
//! Accepted is what has a place in a bounded queue. What is accepted is tried until the brokers have it, so that nothing that comes
//! later overtakes it. There is a client that publishes in batches, and where it is needed a second one, for topics of which the brokers
//! refused a batch: it publishes one record at a time, so that of a topic that takes less than it should only that fails which is too
//! large by itself. Events and the state have a publisher each, so that a client that ends takes nothing of the other with it.
//!
//! A client gives up where it would have to leave something out: when it lost count of what the brokers have, and when they refuse a
//! batch. Then it is given nothing more. What it has not sent is taken back, and of what it has sent the end is awaited. Only then another
//! takes its place, which is given what is left of the events, in the order in which they were accepted, and before any that come later.

mod call;
mod fate;
mod line;
mod trials;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evoke_connect::kafka::words::text;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use tokio::sync::{Notify, oneshot};

use self::call::Call;
pub(super) use self::call::{Outgoing, Stored};
use self::line::{Line, Mode};
use super::client::Told;
use super::cluster::{ANSWER, Cluster, Place, unavailable};
use crate::bus::{BusError, Position};
use crate::event::Event;
use crate::metrics::OneBusMetrics;
use crate::queued;

/// How long clients may take to report what they give up then.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long what a client had sent when it gave up may take, before it is published again though it may be stored.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before a client is made again: where none can be made, and after one that could do nothing.
const MAKE_AGAIN: Duration = Duration::from_secs(1);
/// How late a thread that waits sees that it is to end.
const STEP: Duration = Duration::from_millis(10);

/// The position of a record at this offset.
pub(super) fn position(offset: i64) -> Position {
    Position(offset.max(0).unsigned_abs().into())
}

/// Which client publishes what.
struct Routes {
    in_batches: Arc<Line>,
    singly: Option<Arc<Line>>,
    /// The topics that are published singly, for good: an event that went back could overtake another.
    apart: HashSet<Arc<str>>,
}

impl Routes {
    fn of(&self, topic: &str) -> &Arc<Line> {
        match &self.singly {
            Some(singly) if self.apart.contains(topic) => singly,
            _ => &self.in_batches,
        }
    }

    fn line(&self, mode: Mode) -> Option<&Arc<Line>> {
        match mode {
            Mode::InBatches => Some(&self.in_batches),
            Mode::Singly => self.singly.as_ref(),
        }
    }

    fn put(&mut self, mode: Mode, line: Arc<Line>) {
        match mode {
            Mode::InBatches => self.in_batches = line,
            Mode::Singly => self.singly = Some(line),
        }
    }

    fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        std::iter::once(&self.in_batches).chain(&self.singly)
    }
}

struct Inner {
    in_batches: ClientConfig,
    singly: ClientConfig,
    told: Arc<Told>,
    metrics: OneBusMetrics,
    /// Read while records are handed to a client, written to put another in its place.
    routes: RwLock<Routes>,
    /// The number of the next call.
    next: AtomicU64,
    /// Topics of which a batch was refused, for whoever looks into it.
    refused: Mutex<Vec<Arc<str>>>,
    heard: Notify,
    /// Every call holds it that is not over.
    open: Arc<()>,
    /// Nothing more is taken, and no more clients are made: what a client leaves has failed. Set while `routes` is written.
    closing: Arc<AtomicBool>,
    stop: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// See the module.
pub(super) struct Publisher {
    inner: Arc<Inner>,
}

impl Publisher {
    /// A publisher whose clients have these settings.
    pub(super) fn new(
        in_batches: ClientConfig,
        singly: ClientConfig,
        told: &Arc<Told>,
        metrics: &OneBusMetrics,
    ) -> Result<Self, KafkaError> {
        let closing = Arc::new(AtomicBool::new(false));
        let first = Arc::new(Line::new(&in_batches, Mode::InBatches, told, &closing)?);
        let inner = Arc::new(Inner {
            in_batches,
            singly,
            told: Arc::clone(told),
            metrics: metrics.clone(),
            routes: RwLock::new(Routes { in_batches: first, singly: None, apart: HashSet::new() }),
            next: AtomicU64::new(0),
            refused: Mutex::default(),
            heard: Notify::new(),
            open: Arc::default(),
            closing,
            stop: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        inner.start(Mode::InBatches)?;
        Ok(Self { inner })
    }

    /// Has a topic published one record at a time, before anything of it is published.
    pub(super) fn singly(&self, topic: &str) -> Result<(), KafkaError> {
        self.inner.add_singly()?;
        self.inner.routes.write().apart.insert(topic.into());
        Ok(())
    }

    /// How many partitions of a topic the client knows that publishes on it.
    pub(super) async fn partitions(&self, cluster: &Cluster, topic: &str) -> Result<usize, BusError> {
        let (line, topic) = (Arc::clone(self.inner.routes.read().of(topic)), topic.to_owned());
        let known = cluster.ask(move |_| {
            let known = line.partitions(&topic, ANSWER);
            known.map_err(|error| unavailable("list the partitions", &topic, &error))
        });
        known.await
    }

    /// Publishes events in their order; resolves with one result for each. Does not wait.
    pub(super) fn publish(&self, to: Place, events: Vec<Event>, room: queued::Place) -> oneshot::Receiver<Vec<Stored>> {
        self.hand_over(to, events.len(), events, room, |line, call| line.take(&call.to, call.events()))
    }

    /// Publishes records that are no events; resolves with one result for each. Those that a client leaves when it gives up fail. Does not
    /// wait.
    pub(super) fn send<'a>(
        &self,
        topic: &str,
        partition: i32,
        records: impl ExactSizeIterator<Item = Outgoing<'a>>,
        room: queued::Place,
    ) -> oneshot::Receiver<Vec<Stored>> {
        self.hand_over((topic.into(), partition), records.len(), Vec::new(), room, |line, call| {
            for (index, record) in records.enumerate() {
                line.take_once(call.pending(index), record);
            }
        })
    }

    /// Makes a call of so many records, which `give` gives to the client of their topic.
    fn hand_over(
        &self,
        to: Place,
        records: usize,
        events: Vec<Event>,
        room: queued::Place,
        give: impl FnOnce(&Line, &Arc<Call>),
    ) -> oneshot::Receiver<Vec<Stored>> {
        // No other client takes the place of this one meanwhile, and none is ended.
        let routes = self.inner.routes.read();
        if self.inner.is_closing() {
            // Nobody listens to the clients any more.
            return oneshot::channel().1;
        }
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let open = Arc::clone(&self.inner.open);
        let (call, stored) = Call::new(to, number, records, events, &self.inner.metrics, room, open);
        give(routes.of(&call.to.0), &call);
        call.handed_over();
        stored
    }

    /// Has other clients take the place of those there are: what they know of a topic is of no use for another one of the same name.
    pub(super) fn renew(&self) {
        for line in self.inner.routes.read().lines() {
            line.give_up();
        }
    }

    /// Waits for topics of which the brokers refused a batch.
    pub(super) async fn refused(&self) -> Vec<Arc<str>> {
        loop {
            let topics = std::mem::take(&mut *self.inner.refused.lock());
            if !topics.is_empty() {
                return topics;
            }
            self.inner.heard.notified().await;
        }
    }

    /// Waits for what is on its way, gives up what is not stored by then, and ends the threads. Blocks.
    pub(super) fn close(&self, until: Instant) {
        while !self.inner.is_idle() && Instant::now() < until {
            std::thread::sleep(STEP);
        }
        self.stop();
    }

    /// Gives up what is on its way, and ends the threads. Blocks for a moment.
    pub(super) fn stop(&self) {
        {
            // Who hands something over has done so by now, or is told that it is too late.
            let _routes = self.inner.routes.write();
            self.inner.closing.store(true, Ordering::Release);
        }
        self.inner.stop.store(true, Ordering::Release);
        while let Some(thread) = self.inner.any_thread() {
            if thread.join().is_err() {
                tracing::error!("a thread that publishes on Kafka panicked");
            }
        }
        let until = Instant::now() + LAST_WORDS;
        for line in self.inner.lines() {
            // The reports of what is taken back are all there is left.
            while !line.take_back(true) && Instant::now() < until {}
            for pending in line.leave().records {
                pending.resolve(Err(fate::closed()));
            }
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn line(&self, mode: Mode) -> Result<Line, KafkaError> {
        let config = match mode {
            Mode::InBatches => &self.in_batches,
            Mode::Singly => &self.singly,
        };
        Line::new(config, mode, &self.told, &self.closing)
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        self.routes.read().lines().cloned().collect()
    }

    /// Whether no call is left to be over, wherever its records are.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.open) == 1
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn any_thread(&self) -> Option<JoinHandle<()>> {
        self.threads.lock().pop()
    }

    /// Starts the thread that looks after the client of this mode.
    fn start(self: &Arc<Self>, mode: Mode) -> Result<(), KafkaError> {
        let inner = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("evoke-bus-kafka".to_owned())
            .spawn(move || inner.run(mode))
            .map_err(|error| KafkaError::ClientCreation(format!("cannot start a thread: {error}")))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Makes the client that publishes singly, unless there is one.
    fn add_singly(self: &Arc<Self>) -> Result<(), KafkaError> {
        if self.routes.read().singly.is_some() {
            return Ok(());
        }
        let line = Arc::new(self.line(Mode::Singly)?);
        {
            let mut routes = self.routes.write();
            if routes.singly.is_some() {
                return Ok(());
            }
            routes.singly = Some(line);
        }
        let started = self.start(Mode::Singly);
        if started.is_err() {
            self.routes.write().singly = None;
        }
        started
    }

    /// Polls the client of this mode for its reports.
    fn run(self: &Arc<Self>, mode: Mode) {
        let mut helpless = false;
        while !self.stop.load(Ordering::Acquire) {
            let Some(line) = self.routes.read().line(mode).cloned() else { return };
            line.poll();
            if line.gave_up() && !self.is_closing() {
                helpless = self.replace(mode, &line, helpless);
            }
        }
    }

    /// Puts another client in the place of one that gave up, and gives it what that one leaves. Says whether that one was helpless: it
    /// could do nothing, so that the next may do no better. What two in a row could do nothing with has failed.
    fn replace(self: &Arc<Self>, mode: Mode, dead: &Line, was_helpless: bool) -> bool {
        if was_helpless {
            self.pause(MAKE_AGAIN);
        }
        let Some((next, mut routes)) = self.settled(mode, dead) else { return was_helpless };
        let (left, fatal) = (dead.leave(), dead.fatal());
        let helpless = fatal.is_some() && !dead.works() && left.refused.is_empty();
        let cause = fatal.unwrap_or_else(|| "it lost count of what the brokers have".to_owned());
        routes.put(mode, next);
        if routes.singly.is_some() {
            routes.apart.extend(left.refused.keys().cloned());
        }
        for pending in left.records {
            if helpless && was_helpless {
                pending.resolve(Err(fate::given_up(&cause)));
            } else {
                let to = pending.to().clone();
                routes.of(&to.0).take(&to, [pending]);
            }
        }
        drop(routes);
        for (topic, cause) in &left.refused {
            tracing::warn!(
                %topic,
                cause,
                "the brokers refuse events of this topic together: they are published one at a time until evoke starts again"
            );
        }
        if helpless && !was_helpless {
            tracing::error!(
                cause,
                "the Kafka client gave up before it had published anything; another is tried until one does"
            );
        } else if !helpless && left.refused.is_empty() {
            tracing::warn!(cause, "the Kafka client gave up: another publishes again what it had on its way");
        }
        self.refused.lock().extend(left.refused.into_keys());
        self.heard.notify_one();
        helpless
    }

    /// Waits until a client that gave up has settled, and makes the next. Nothing is handed to any client while the guard is held. `None`
    /// when the bus ends.
    fn settled<'a>(self: &'a Arc<Self>, mode: Mode, dead: &Line) -> Option<(Arc<Line>, RwLockWriteGuard<'a, Routes>)> {
        self.settle(dead)?;
        let next = Arc::new(self.until_made(|| self.line(mode))?);
        if dead.was_refused() {
            self.until_made(|| self.add_singly())?;
        }
        loop {
            let routes = self.routes.write();
            // Whoever took it for alive may have handed it something since.
            if dead.has_settled() {
                return Some((next, routes));
            }
            drop(routes);
            self.settle(dead)?;
        }
    }

    /// Takes back what a client has not sent, and waits for what it has.
    fn settle(&self, dead: &Line) -> Option<()> {
        let until = Instant::now() + PATIENCE;
        while !self.is_closing() {
            if dead.take_back(Instant::now() >= until) {
                return Some(());
            }
        }
        None
    }

    /// Tries until it works, with one line in the log; `None` when the bus ends.
    fn until_made<T>(&self, mut make: impl FnMut() -> Result<T, KafkaError>) -> Option<T> {
        let mut said = false;
        while !self.is_closing() {
            match make() {
                Ok(made) => return Some(made),
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        let cause = text(&error);
                        tracing::error!(cause, "no Kafka client can be made: nothing is published until one can");
                    }
                    self.pause(MAKE_AGAIN);
                }
            }
        }
        None
    }

    /// Waits, unless the bus ends.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_closing() && Instant::now() < until {
            std::thread::sleep(STEP);
        }
    }
}

#[cfg(test)]
mod tests;
