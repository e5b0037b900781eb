//! Work that goes beside a subscription: to deliver again what lies in a part of the log. A job is a document in the bus's state and
//! ledgers of its own, so that it outlives every process, the subscription's own position stays, and the trimmer keeps what the
//! job still needs.
//!
//! The ledgers are those of a subscription called `{subscriber}~{job}`, a name that no subscriber can have.

use std::fmt;
use std::sync::Arc;

use evoke_api::names::{ObjectName, SubscriptionId, TopicName};
use serde::{Deserialize, Serialize};

use super::intervals::Intervals;
use super::ledger::{self, Ledger, LedgerName, Millis};
use super::recorder::Book;
use super::{Input, Running, Subscription, Subscriptions};
use crate::bus::{BusError, EventBus, Expect, Partition, Position, Put};

/// Every job's key in the bus's state starts like this.
pub const PREFIX: &str = "job/";

const FORMAT: u32 = 1;
const MARK: char = '~';

/// A job's name: letters and digits, the same at every bus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub Arc<str>);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something to deliver again to one subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The version of this document.
    pub format: u32,
    /// Its name.
    pub id: JobId,
    /// Whose events they are.
    pub owner: ObjectName,
    /// The subscriber.
    pub subscriber: Arc<str>,
    /// What is delivered again.
    pub work: Work,
    /// Which part of the log it reads.
    pub ranges: Vec<Range>,
    /// When it was made.
    pub made: Time,
    /// How far it is.
    #[serde(default)]
    pub state: State,
    /// Who runs it, and shows that it is alive by counting up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<Runner>,
    /// What came of it so far. After a kill it counts what is repeated twice.
    #[serde(default)]
    pub counts: Counts,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
}

/// A time in milliseconds since 1970.
pub type Time = u64;

/// What a job delivers again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Work {
    /// Dead letters of the subscriber, as the events that they were.
    Redrive {
        /// Which: of this subscriber's dead letters, those that lie here.
        letters: Intervals,
    },
    /// What the subscriber's topics hold and its condition selects.
    Replay {
        /// Where to, instead of the subscriber's own sink; without user and password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// True where a user and a password belong to it, which only the process knows that was asked.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        login: bool,
        /// The only process that may run it, where it reaches only from there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        only: Option<Arc<str>>,
    },
}

impl Work {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Redrive { .. } => "redrive",
            Self::Replay { .. } => "replay",
        }
    }
}

/// A part of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// Where it starts.
    #[serde(with = "text")]
    pub from: Position,
    /// Where it ends: this position does not belong to it.
    #[serde(with = "text")]
    pub until: Position,
    /// The time that it starts from, for what lies in a window before it; zero when that does not matter.
    #[serde(default)]
    pub since: Time,
}

impl Range {
    /// The partition.
    pub fn partition(&self) -> Partition {
        Partition { topic: TopicName::parse(&self.topic), index: self.partition }
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase", content = "cause")]
pub enum State {
    /// Nobody has started it.
    #[default]
    Waiting,
    /// Somebody runs it.
    Running,
    /// Everything is delivered or a dead letter.
    Done,
    /// Somebody asked for its end.
    Cancelled,
    /// It cannot go on; says why.
    Failed(Arc<str>),
}

impl State {
    /// True when nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed(_))
    }
}

/// The process that runs a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Its name, the same after a restart.
    pub instance: Arc<str>,
    /// Counted up while it is alive.
    pub beat: u64,
}

/// What came of a job's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Looked at.
    pub read: u64,
    /// Of those, to be delivered.
    pub matched: u64,
    /// Taken by the sink.
    pub delivered: u64,
    /// Dead letters again; with another sink, given up.
    pub failed: u64,
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            read: self.read + other.read,
            matched: self.matched + other.matched,
            delivered: self.delivered + other.delivered,
            failed: self.failed + other.failed,
        }
    }
}

impl Job {
    /// A job that nobody has started yet.
    pub fn new(id: JobId, subscription: &SubscriptionId, work: Work, ranges: Vec<Range>) -> Self {
        Self {
            format: FORMAT,
            id,
            owner: subscription.owner.clone(),
            subscriber: Arc::clone(&subscription.subscriber),
            work,
            ranges,
            made: Millis::now().0,
            state: State::Waiting,
            runner: None,
            counts: Counts::default(),
            ended: None,
        }
    }

    /// Whose events they are.
    pub fn subscription(&self) -> SubscriptionId {
        SubscriptionId { owner: self.owner.clone(), subscriber: Arc::clone(&self.subscriber) }
    }

    /// The subscription that its ledgers are kept under.
    pub fn ledgers(&self) -> SubscriptionId {
        let subscriber = format!("{}{MARK}{}", self.subscriber, self.id).into();
        SubscriptionId { owner: self.owner.clone(), subscriber }
    }

    /// The name under which its deliveries are counted: bounded, and apart from the subscriber's own.
    pub fn counted_as(&self) -> SubscriptionId {
        let subscriber = format!("{}{MARK}{}", self.subscriber, self.work.name()).into();
        SubscriptionId { owner: self.owner.clone(), subscriber }
    }

    fn key(&self) -> String {
        key(&self.id)
    }

    fn encode(&self) -> Result<bytes::Bytes, BusError> {
        let text = serde_json::to_vec(self).map_err(|error| BusError::Broken(error.to_string().into()))?;
        Ok(text.into())
    }

    fn ledger(&self, range: &Range) -> (LedgerName, Ledger) {
        let ledger = Ledger::starting_at(range.from).since(Millis(range.since));
        (LedgerName { subscription: self.ledgers(), partition: range.partition() }, ledger)
    }
}

/// The key of a job's document.
pub(super) fn key(id: &JobId) -> String {
    format!("{PREFIX}{id}")
}

/// The job whose ledgers are kept under this name, if it is a job's.
pub fn of_ledgers(subscription: &SubscriptionId) -> Option<JobId> {
    subscription.subscriber.split_once(MARK).map(|(_, job)| JobId(job.into()))
}

/// A job and the revision of its document.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The job.
    pub job: Job,
    /// Changes with every change.
    pub revision: u64,
}

/// Makes a job durable, with ledgers at the start of its ranges.
///
/// # Errors
/// The bus's.
pub async fn create(bus: &dyn EventBus, job: &Job) -> Result<(), BusError> {
    let mut puts = vec![Put { key: job.key(), value: Some(job.encode()?), expect: Expect::Absent }];
    for range in &job.ranges {
        let (name, ledger) = job.ledger(range);
        puts.push(Put { key: name.key(), value: Some(ledger.encode(&name)), expect: Expect::Absent });
    }
    bus.store(puts).await.map(|_| ())
}

/// Every job on a bus, in the order in which they were made.
///
/// # Errors
/// The bus's, and [`BusError::Broken`] for what a newer evoke wrote.
pub async fn list(bus: &dyn EventBus) -> Result<Vec<Stored>, BusError> {
    let mut jobs = Vec::new();
    for entry in bus.load(PREFIX).await? {
        let job = decode(&entry.value).map_err(|why| BusError::Broken(format!("{}: {why}", entry.key).into()))?;
        jobs.push(Stored { job, revision: entry.revision });
    }
    jobs.sort_by(|a, b| (a.job.made, &a.job.id).cmp(&(b.job.made, &b.job.id)));
    Ok(jobs)
}

fn decode(value: &[u8]) -> Result<Job, String> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }

    let Versioned { format } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if format > FORMAT {
        return Err(format!("a job of version {format}, this evoke knows {FORMAT}: run the newer evoke that wrote it"));
    }
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

/// Writes a job's document if it is still as it was read; `None` if it is not.
///
/// # Errors
/// The bus's.
pub async fn update(bus: &dyn EventBus, job: &Job, revision: u64) -> Result<Option<u64>, BusError> {
    let put = Put { key: job.key(), value: Some(job.encode()?), expect: Expect::Revision(revision) };
    Ok(bus.store(vec![put]).await?.into_iter().next().flatten())
}

/// Asks for a job's end; false if there is no such job, or it is over.
///
/// # Errors
/// The bus's.
pub async fn cancel(bus: &dyn EventBus, id: &JobId) -> Result<bool, BusError> {
    loop {
        let Some(Stored { mut job, revision }) = list(bus).await?.into_iter().find(|stored| stored.job.id == *id)
        else {
            return Ok(false);
        };
        if job.state.is_over() {
            return Ok(false);
        }
        (job.state, job.ended) = (State::Cancelled, Some(Millis::now().0));
        if update(bus, &job, revision).await?.is_some() {
            return Ok(true);
        }
    }
}

/// Takes a job's ledgers away, so that nothing is kept for it any more.
///
/// # Errors
/// The bus's.
pub async fn forget_ledgers(bus: &dyn EventBus, job: &Job) -> Result<(), BusError> {
    delete(bus, &ledger::prefix(&job.ledgers())).await
}

/// Takes a job away as if it had never been.
///
/// # Errors
/// The bus's.
pub async fn forget(bus: &dyn EventBus, job: &Job) -> Result<(), BusError> {
    forget_ledgers(bus, job).await?;
    bus.store(vec![Put { key: job.key(), value: None, expect: Expect::Any }]).await.map(|_| ())
}

/// Deletes every key under a prefix.
pub(super) async fn delete(bus: &dyn EventBus, prefix: &str) -> Result<(), BusError> {
    let entries = bus.load(prefix).await?;
    if entries.is_empty() {
        return Ok(());
    }
    let puts = entries.into_iter().map(|entry| Put { key: entry.key, value: None, expect: Expect::Any });
    bus.store(puts.collect()).await.map(|_| ())
}

/// A job's ledgers as they were last written.
///
/// # Errors
/// The bus's.
pub async fn ledgers(bus: &dyn EventBus, job: &Job) -> Result<Vec<(LedgerName, Ledger)>, BusError> {
    let mut ledgers = Vec::new();
    for entry in bus.load(&ledger::prefix(&job.ledgers())).await? {
        let read = Ledger::decode(&entry.value);
        ledgers.push(read.map_err(|error| BusError::Broken(format!("{}: {error}", entry.key).into()))?);
    }
    Ok(ledgers)
}

/// True for a job that was ended while somebody ran it, until it is known what it has delivered: its deliveries may still be under
/// way.
///
/// # Errors
/// The bus's.
pub async fn is_unsettled(bus: &dyn EventBus, job: &Job) -> Result<bool, BusError> {
    let was_ended = matches!(job.state, State::Cancelled | State::Failed(_)) && job.runner.is_some();
    Ok(was_ended && !bus.load(&ledger::prefix(&job.ledgers())).await?.is_empty())
}

impl Subscriptions {
    /// Opens a job as the subscription that it is, with inputs in the order of its ranges. Ranges name `topics`. Nobody else may
    /// have it open.
    ///
    /// # Errors
    /// The bus's.
    pub async fn open_job(&self, job: &Job, topics: &[TopicName], places: usize) -> Result<Subscription, BusError> {
        let (_, hold) = self.0.sharing.hold(&job.ledgers())?;
        let (kept, losses) = (&self.0.queue.kept, self.0.queue.kept.losses());
        let stored = ledgers(&**self.bus(), job).await?;
        let (mut inputs, mut pages) = (Vec::new(), Vec::new());
        for range in &job.ranges {
            let (name, start) = job.ledger(range);
            let known = stored.iter().find(|(other, _)| *other == name).map(|(_, ledger)| ledger.clone());
            let ledger = known.unwrap_or(start);
            let Some(topic) = topics.iter().position(|topic| *topic == name.partition.topic) else { continue };
            // Where it starts says nothing of what lies before.
            let seen = if ledger.count() > 0 { ledger.seen() } else { Millis(0) };
            inputs.push(Input { topic, cursor: self.0.feeds.cursor(&name.partition, ledger.upto(), seen) });
            pages.push((name, ledger));
        }
        // Until the book is done: without its document nobody would know whose ledgers they are.
        if !pages.is_empty() && !kept.keep([(job.key(), job.encode()?)], losses) {
            return Err(BusError::Unavailable("the bus has lost its state meanwhile".into()));
        }
        let book = Book::new(&self.0.queue, pages, places, hold);
        Ok(Subscription { running: Running(Arc::clone(&book)), book, inputs })
    }
}

/// A position as text, since not every reader of JSON knows numbers of its size.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::bus::Position;

    pub(super) fn serialize<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(position)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        String::deserialize(deserializer)?.parse().map(Position).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let subscription = SubscriptionId { owner: ObjectName::new("shop", "orders"), subscriber: "billing".into() };
        let range = Range {
            topic: "shop.web.in".into(),
            partition: 3,
            from: Position(7),
            until: Position(u128::MAX),
            since: 1_000,
        };
        let letters = Intervals::between(Position(1), Position(9));
        Job::new(JobId("j1".into()), &subscription, Work::Redrive { letters }, vec![range])
    }

    #[test]
    fn is_read_as_it_was_written() {
        let mut written = job();
        written.state = State::Failed("gone".into());
        written.runner = Some(Runner { instance: "evoke-1".into(), beat: 2 });
        assert_eq!(decode(&written.encode().unwrap()).unwrap(), written);
        written.work = Work::Replay { to: Some("http://localhost/".into()), login: true, only: None };
        assert_eq!(decode(&written.encode().unwrap()).unwrap(), written);
    }

    #[test]
    fn one_of_a_newer_evoke_is_refused() {
        let newer = Job { format: FORMAT + 1, ..job() };
        assert!(decode(&newer.encode().unwrap()).unwrap_err().contains("newer evoke"));
    }

    #[test]
    fn its_ledgers_are_nobody_else_s_and_start_at_its_ranges() {
        let job = job();
        assert_eq!(job.ledgers().to_string(), "shop/orders/billing~j1");
        assert_eq!(job.counted_as().to_string(), "shop/orders/billing~redrive");
        assert_eq!(of_ledgers(&job.ledgers()), Some(job.id.clone()));
        assert_eq!(of_ledgers(&job.subscription()), None);
        let (name, ledger) = job.ledger(&job.ranges[0]);
        assert_eq!((ledger.upto(), ledger.seen(), name.partition.index), (Position(7), Millis(1_000), 3));
    }
}
