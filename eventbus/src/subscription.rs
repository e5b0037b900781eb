//! What stands above every bus alike: who has read and finished what, reading once a process, and giving up what nobody needs.
//!
//! | module | holds |
//! | --- | --- |
//! | [`control`] | what people ask of a subscription: to pause |
//! | [`job`] | what is delivered again beside a subscription |
//! | [`report`] | how every subscription is, and how one is deleted |
//! | [`scan`], [`intervals`] | a part of a log read without a subscription, positions as intervals |
//! | [`ledger`] | what one subscriber has finished of one partition |
//! | [`recorder`] | writes the ledgers of all subscribers together |
//! | `kept` | what else of the state is known here, should the bus lose it |
//! | [`start`] | where a new subscription starts |
//! | [`token`] | an offset as people see it |
//! | [`feed`] | one reader a partition, shared by its subscribers |
//! | `regrown` | a log that lost its end, and has grown again by the time that somebody looks |
//! | `growth` | partitions that others add |
//! | `mirror` | how far Triggers are, for the broker's own tools |
//! | [`sharing`] | which process works on what, where several share a bus |
//! | [`trim`] | gives up the beginning of the logs, keeps track of lag and of who holds space |
//! | [`metrics`] | the metrics of all of it |

use std::collections::BTreeMap;
use std::sync::Arc;

use evoke_api::names::{SubscriptionId, TopicName};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::{BusError, EventBus, Expect, From, Mark, Partition, Point, Put, Topic, TopicSpec};
use crate::event::Event;

pub mod control;
pub mod feed;
mod growth;
pub mod intervals;
pub mod job;
mod kept;
pub mod ledger;
pub mod metrics;
mod mirror;
pub mod recorder;
mod regrown;
pub mod report;
pub mod scan;
pub mod sharing;
pub mod start;
#[cfg(test)]
mod test_log;
pub mod token;
pub mod trim;

use feed::{Cursor, Feeds, Window};
use growth::Growth;
use ledger::{Ledger, LedgerName};
use metrics::Metrics;
use mirror::Mirror;
use recorder::{Book, Queue};
use regrown::Regrown;
use sharing::{Group, Share, Sharing, Terms};
use start::Start;
use trim::{Holder, Retention};

/// Why a position goes back, and what was put aside beyond it is lost: servers came back with an older copy.
pub const LOST_END: &str = "the bus has lost the end of its log";

/// How a process uses a bus.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many partitions topics are made with.
    pub partitions: u16,
    /// What is kept of what was read.
    pub window: Window,
    /// What is kept of the log.
    pub retention: Retention,
    /// Whether this process trims: one that only looks does not.
    pub trims: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { partitions: 1, window: Window::default(), retention: Retention::default(), trims: true }
    }
}

/// The subscriptions of one bus in this process: their positions, readers and recorder. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Subscriptions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bus: Arc<dyn EventBus>,
    partitions: u16,
    feeds: Feeds,
    queue: Arc<Queue>,
    regrown: Regrown,
    topics: Topics,
    grown: watch::Receiver<u64>,
    holder: watch::Receiver<Option<Holder>>,
    metrics: Metrics,
    cancel: CancellationToken,
    readers: TaskTracker,
    recording: CancellationToken,
    recorder: TaskTracker,
    sharing: Sharing,
    leave: CancellationToken,
    /// Ends sharing without leaving, as a kill does.
    abandon: CancellationToken,
    sharer: TaskTracker,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.recording.cancel();
        self.abandon.cancel();
    }
}

/// The topics that are declared here, and the subscriptions that run here; shared with the trimmer.
#[derive(Clone, Debug, Default)]
struct Topics(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    topics: BTreeMap<TopicName, KnownTopic>,
    /// How many partitions they had when they were first declared here.
    first_partitions: BTreeMap<TopicName, u16>,
    running: BTreeMap<SubscriptionId, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KnownTopic {
    partitions: u16,
    /// Nothing is given up before somebody subscribes.
    keep: bool,
}

/// One partition that a subscriber reads.
#[derive(Debug)]
pub struct Input {
    /// The topic's index in the subscriber's list.
    pub topic: usize,
    /// Where it reads; [`Book`] has the ledger at the same place as the list of inputs has this.
    pub cursor: Cursor,
}

/// A subscription, or this process's part of it, that is open here: no other process writes its ledgers.
#[derive(Debug)]
pub struct Subscription {
    /// Its ledgers, one for each input.
    pub book: Arc<Book>,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// To be kept for as long as it is worked on.
    pub running: Running,
}

impl Subscription {
    /// Lets its ledgers learn from marks of their frontiers, one for each input, how many events were ever appended before: what an older
    /// evoke wrote does not say, nor may what began in the middle of a log.
    pub fn correct(&self, marks: &[Mark]) {
        self.book.update(|pages| {
            for (input, mark) in marks.iter().enumerate() {
                if let Some(before) = pages.ledger(input).and_then(|ledger| ledger.corrected(mark))
                    && let Some(ledger) = pages.change(input)
                {
                    ledger.counted(before);
                }
            }
            0
        });
    }
}

/// Says that a subscription is worked on in this process. Once it is dropped and the last position is durable, another process may
/// be given it.
#[derive(Debug)]
pub struct Running(Arc<Book>);

impl Running {
    /// False once this process has not reached the bus for so long that another may have taken over: no delivery may be started
    /// any more.
    pub fn may_start(&self, now: Instant) -> bool {
        self.0.may_start(now)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// Where a subscription stands in one partition, as anybody can see it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Whose, and of what.
    pub name: LedgerName,
    /// The ledger as it was last written.
    pub ledger: Ledger,
    /// Its frontier in the log; `None` for a partition that is not there.
    pub mark: Option<Mark>,
    /// True if some process works on it.
    pub running: bool,
}

impl Subscriptions {
    /// Starts the recorder and the trimmer of a bus that no other process uses. Must be called inside a runtime;
    /// [`Subscriptions::close`] ends them.
    pub fn start(bus: Arc<dyn EventBus>, settings: Settings, metrics: &Metrics) -> Self {
        Self::start_on(bus, settings, None, metrics)
    }

    /// The same on a bus that other processes may use as well: the work is shared with them.
    pub fn start_shared(bus: Arc<dyn EventBus>, settings: Settings, terms: Terms, metrics: &Metrics) -> Self {
        Self::start_on(bus, settings, Some(terms), metrics)
    }

    fn start_on(bus: Arc<dyn EventBus>, settings: Settings, terms: Option<Terms>, metrics: &Metrics) -> Self {
        let (cancel, recording) = (CancellationToken::new(), CancellationToken::new());
        let (readers, recorder) = (TaskTracker::new(), TaskTracker::new());
        let (queue, topics) = (Arc::new(Queue::new(bus.losses())), Topics::default());
        let recorded = CancellationToken::new();
        let record = recorder::run(Arc::clone(&bus), Arc::clone(&queue), metrics.clone(), recording.clone());
        let until_recorded = recorded.clone().drop_guard();
        recorder.spawn(async move {
            record.await;
            drop(until_recorded);
        });
        let (leave, abandon, sharer) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let sharing = Sharing::new(Arc::clone(&bus), topics.clone(), terms);
        sharer.spawn(abandon.clone().run_until_cancelled_owned(sharing.clone().run(leave.clone())));
        let (grown_is, grown) = watch::channel(0);
        if sharing.is_shared() {
            let (bus, topics, sharing) = (Arc::clone(&bus), topics.clone(), sharing.clone());
            readers.spawn(Growth { bus, topics, sharing, grown: grown_is }.run(cancel.clone()));
        }
        let (holder_is, holder) = watch::channel(None);
        let (positions_are, positions) = watch::channel(None);
        let trimmer = trim::Trimmer {
            bus: Arc::clone(&bus),
            retention: settings.retention,
            topics: topics.clone(),
            sharing: sharing.clone(),
            metrics: metrics.clone(),
            holder: holder_is,
            positions: positions_are,
            shown: trim::Shown::default(),
        };
        if settings.trims {
            recorder.spawn(Mirror::new(Arc::clone(&bus), positions).run(recorded));
            readers.spawn(trimmer.run(cancel.clone()));
        }
        let feeds = Feeds::new(Arc::clone(&bus), settings.window, metrics.clone(), readers.clone(), cancel.clone());
        Self(Arc::new(Inner {
            bus,
            partitions: settings.partitions,
            feeds,
            queue,
            regrown: Regrown::new(),
            topics,
            grown,
            holder,
            metrics: metrics.clone(),
            cancel,
            readers,
            recording,
            recorder,
            sharing,
            leave,
            abandon,
            sharer,
        }))
    }

    /// The bus itself.
    pub fn bus(&self) -> &Arc<dyn EventBus> {
        &self.0.bus
    }

    /// Declares a topic, so that it can be published on, and is trimmed.
    ///
    /// # Errors
    /// The bus's.
    pub async fn declare_topic(&self, topic: &TopicName) -> Result<Topic, BusError> {
        self.declare_kept(topic, false).await
    }

    /// Declares a topic of which nothing is given up while it has no subscriptions: dead letters.
    ///
    /// # Errors
    /// The bus's.
    pub async fn declare_store(&self, topic: &TopicName) -> Result<Topic, BusError> {
        self.declare_kept(topic, true).await
    }

    async fn declare_kept(&self, topic: &TopicName, keep: bool) -> Result<Topic, BusError> {
        // The dead-letter store is one partition everywhere: what was redriven is intervals of its positions.
        let partitions = if *topic == TopicName::dead_letters() { 1 } else { self.0.partitions };
        let made = self.0.bus.declare(&TopicSpec { name: topic.clone(), partitions }).await?;
        for drift in &made.drift {
            tracing::warn!(%topic, %drift, "the topic is not as declared and was left alone");
        }
        let mut known = self.0.topics.0.lock();
        known.first_partitions.entry(topic.clone()).or_insert(made.partitions);
        let topic = known.topics.entry(topic.clone()).or_insert(KnownTopic { partitions: 1, keep });
        (topic.partitions, topic.keep) = (made.partitions, topic.keep || keep);
        Ok(made)
    }

    /// How many partitions of a topic that is declared here events are to be published on, those among them that others have added. The
    /// dead-letter store is one, whoever made it: nobody reads another of it.
    pub fn partitions(&self, topic: &TopicName) -> u16 {
        if *topic == TopicName::dead_letters() {
            return 1;
        }
        self.0.topics.0.lock().topics.get(topic).map_or(1, |known| known.partitions)
    }

    /// Changes whenever others have given a topic more partitions: what is opened anew then reads them too.
    pub fn grown(&self) -> watch::Receiver<u64> {
        let mut grown = self.0.grown.clone();
        // What was before is no news to whoever follows it from now on.
        grown.mark_unchanged();
        grown
    }

    /// Makes sure that a subscription has a durable position in every partition of its topics: `start` where it has none yet. To
    /// be called before any source of the topics starts.
    ///
    /// # Errors
    /// The bus's, and [`BusError::Broken`] for a ledger of a newer evoke.
    pub async fn declare(
        &self,
        subscription: &SubscriptionId,
        topics: &[TopicName],
        start: impl Into<Start>,
    ) -> Result<(), BusError> {
        self.ledgers(subscription, topics, &start.into()).await.map(|_| ())
    }

    /// Takes part in the work of a subscription until the share is dropped, and follows what people ask of it. `whole` is for one
    /// that must have a single owner; others are split by the partitions of their topics, which are declared.
    pub fn share(&self, group: Group, subscription: &SubscriptionId, topics: &[TopicName], whole: bool) -> Share {
        self.0.sharing.share(group, subscription, topics, whole)
    }

    /// Asks something of a subscription, in all processes; here it is followed at once.
    ///
    /// # Errors
    /// The bus's.
    pub async fn control(&self, subscription: &SubscriptionId, control: control::Control) -> Result<(), BusError> {
        control::store(&*self.0.bus, subscription, control).await?;
        self.0.sharing.nudge();
        Ok(())
    }

    /// True if some process that shares this bus works on a subscription, or would but for its pause. A bus inside the process is
    /// shared with none.
    pub fn is_worked_on(&self, subscription: &SubscriptionId) -> bool {
        self.0.sharing.has_workers(subscription) == Some(true)
    }

    /// True on a bus that other processes may use as well.
    pub fn is_shared(&self) -> bool {
        self.0.sharing.is_shared()
    }

    /// Why this process takes no part in the bus's work, once that is for good: another one has its name.
    pub fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.sharing.refused()
    }

    /// Opens what of a subscription is this process's: its ledgers, and a cursor at each frontier. `places` is how many events may
    /// be settled without being recorded before a write becomes urgent. A partition where it has no position yet starts at the
    /// tail; one whose log holds other events by now than those that were judged is gone back in, and what is lost is counted.
    ///
    /// # Errors
    /// As [`Subscriptions::declare`], and [`BusError::Unavailable`] while nothing of it is this process's.
    pub async fn open(
        &self,
        subscription: &SubscriptionId,
        topics: &[TopicName],
        places: usize,
    ) -> Result<Subscription, BusError> {
        let (part, hold) = self.0.sharing.hold(subscription)?;
        // A series that is there from the start can be compared with what comes.
        self.dropped(subscription);
        // Whoever held it before has written its ledgers by now.
        let mut ledgers = self.ledgers(subscription, topics, &Start::At(From::Next)).await?;
        ledgers.retain(|(_, name, _)| part.contains(name.partition.index));
        let logs: Vec<_> = ledgers.iter().map(|(_, name, ledger)| (&name.partition, ledger)).collect();
        let regrown = self.0.regrown.look(&*self.0.bus, &logs).await?;
        let inputs = ledgers
            .iter()
            .enumerate()
            .map(|(input, (topic, name, ledger))| {
                let at = regrown.get(&input).map_or(ledger.upto(), |newer| newer.at);
                Input { topic: *topic, cursor: self.0.feeds.cursor(&name.partition, at, ledger.seen()) }
            })
            .collect();
        let gone_back: Vec<_> = regrown
            .into_iter()
            .filter_map(|(input, newer)| Some((input, ledgers.get(input)?.1.partition.clone(), newer)))
            .collect();
        let ledgers = ledgers.into_iter().map(|(_, name, ledger)| (name, ledger)).collect();
        let book = Book::new(&self.0.queue, ledgers, places, hold);
        for (input, partition, newer) in gone_back {
            self.go_back(&book, subscription, input, &partition, newer);
        }
        Ok(Subscription { running: Running(Arc::clone(&book)), book, inputs })
    }

    /// Takes a frontier back to where a log holds what was not judged.
    fn go_back(
        &self,
        book: &Arc<Book>,
        subscription: &SubscriptionId,
        input: usize,
        partition: &Partition,
        newer: Point,
    ) {
        let Partition { topic, index } = partition;
        let mut lost = 0;
        book.update(|pages| {
            if let Some(ledger) = pages.change(input) {
                let from = ledger.upto();
                lost = ledger.ahead(newer).events();
                tracing::warn!(%subscription, %topic, partition = index, %from, to = %newer.at, "the position moves to where the log is: {LOST_END}");
            }
            0
        });
        if lost > 0 {
            self.count_dropped(subscription, partition, lost, LOST_END);
        }
    }

    /// The ledgers of a subscription in the order of its topics, those made that are missing. A partition that a topic was given
    /// later is read from its first event: what was published on it before anybody noticed is the subscription's too.
    async fn ledgers(
        &self,
        subscription: &SubscriptionId,
        topics: &[TopicName],
        start: &Start,
    ) -> Result<Vec<(usize, LedgerName, Ledger)>, BusError> {
        let bus = &self.0.bus;
        let mut wanted = Vec::new();
        for (index, topic) in topics.iter().enumerate() {
            let partitions = self.declare_topic(topic).await?.partitions;
            wanted.extend((0..partitions).map(|p| (index, Partition { topic: topic.clone(), index: p })));
        }
        let kept = &self.0.queue.kept;
        loop {
            let losses = kept.losses();
            let mut stored = BTreeMap::new();
            for entry in bus.load(&ledger::prefix(subscription)).await? {
                let (name, ledger) = Ledger::decode(&entry.value)
                    .map_err(|error| BusError::Broken(format!("{}: {error}", entry.key).into()))?;
                stored.insert(name, ledger);
            }
            let (mut found, mut missing, mut lost) = (Vec::new(), Vec::new(), Vec::new());
            for (topic, partition) in &wanted {
                let name = LedgerName { subscription: subscription.clone(), partition: partition.clone() };
                match stored.remove(&name) {
                    Some(ledger) => found.push((*topic, name, ledger)),
                    None => match kept.lost(&name.key()) {
                        Some(put) => lost.push(put),
                        None => missing.push(name),
                    },
                }
            }
            if !lost.is_empty() {
                // It was somewhere, and goes on there rather than where a new one starts.
                bus.store(lost).await?;
                continue;
            }
            if missing.is_empty() {
                let known = found.iter().map(|(_, name, ledger)| (name.key(), ledger.encode(name)));
                if kept.keep(known, losses) {
                    return Ok(found);
                }
                continue;
            }
            let mut highest: BTreeMap<&TopicName, u16> = BTreeMap::new();
            for (_, LedgerName { partition, .. }, _) in &found {
                let index = highest.entry(&partition.topic).or_default();
                *index = partition.index.max(*index);
            }
            let (grown, mut new): (Vec<_>, Vec<_>) = missing.into_iter().partition(|name| {
                let topic = &name.partition.topic;
                highest.get(&topic).is_some_and(|highest| name.partition.index > *highest)
            });
            // A process may end when half of them are made, and the next one must not take what was new for growth, nor growth for
            // what was new: the former is made from its last partition down, the latter from its first one up.
            new.reverse();
            let mut counts: BTreeMap<&TopicName, usize> = BTreeMap::new();
            grown.iter().for_each(|name| *counts.entry(&name.partition.topic).or_default() += 1);
            for (topic, partitions) in counts {
                tracing::warn!(%subscription, %topic, partitions, "the topic has more partitions than before: the new ones are read from their start");
            }
            let new = new.iter().map(|name| (name, start.of(&name.partition)));
            let made: Vec<_> = new.chain(grown.iter().map(|name| (name, From::First))).collect();
            let at: Vec<_> = made.iter().map(|(name, from)| (name.partition.clone(), *from)).collect();
            let marks = bus.locate(&at).await?;
            let puts = made.iter().zip(marks).map(|((name, _), mark)| Put {
                key: name.key(),
                value: Some(Start::ledger(name, &mark).encode(name)),
                expect: Expect::Absent,
            });
            // Whoever was faster decides; the next round reads what there is.
            bus.store(puts.collect()).await?;
        }
    }

    /// Forgets where a subscription was that is deleted: should the bus lose its state, it must not come back.
    pub fn forget(&self, subscription: &SubscriptionId) {
        self.0.queue.kept.forget_all(&ledger::prefix(subscription));
    }

    /// Counts events that a subscription will never see, and says so.
    pub fn count_dropped(&self, subscription: &SubscriptionId, partition: &Partition, events: u64, cause: &str) {
        self.dropped(subscription).inc_by(events);
        let topic = &partition.topic;
        tracing::warn!(%subscription, %topic, partition = partition.index, events, cause, "events are lost to a subscription");
    }

    fn dropped(&self, subscription: &SubscriptionId) -> IntCounter {
        let owner = &subscription.owner;
        self.0.metrics.dropped.with_label_values(&[&*owner.namespace, &*owner.name, &*subscription.subscriber])
    }

    /// Every subscription that has a position on this bus, running or not, and how far it is.
    ///
    /// # Errors
    /// The bus's.
    pub async fn list(&self) -> Result<Vec<Standing>, BusError> {
        trim::standings(&*self.0.bus, &self.0.topics, &self.0.sharing).await
    }

    /// Who holds the most space while the bus is full or nearly so.
    pub fn holder(&self) -> watch::Receiver<Option<Holder>> {
        self.0.holder.clone()
    }

    /// Ends readers and trimmer, then the recorder once it has written what is left. Lanes are to be ended first.
    pub async fn close(&self) {
        self.0.cancel.cancel();
        self.0.readers.close();
        self.0.readers.wait().await;
        self.0.recording.cancel();
        self.0.recorder.close();
        self.0.recorder.wait().await;
        // Nothing is recorded any more: what this process owned is the others'.
        self.0.leave.cancel();
        self.0.sharer.close();
        self.0.sharer.wait().await;
    }
}

/// The partition that an event belongs to: by its `partitionkey`, else by `source` and `id`. The same on every back-end.
pub fn partition_of(event: &Event, partitions: u16) -> u16 {
    if partitions <= 1 {
        return 0;
    }
    let hash = match event.partition_key() {
        Some(key) => ledger::hash(key.as_bytes()),
        None => ledger::hash(event.source().as_bytes()).rotate_left(32) ^ ledger::hash(event.id().as_bytes()),
    };
    // Below `partitions`, which is a u16.
    (hash % u64::from(partitions)) as u16
}
