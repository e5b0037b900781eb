//! The bus's own dead-letter store, as operators see it. It is a topic of one partition, and a log forgets nothing in its middle: what
//! was redriven or purged is intervals of positions in the bus's state, kept for each subscriber by itself, so that one interval
//! says "all of mine" however the letters of others lie between. Where nothing before a place is listed any more, the log is
//! trimmed up to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use chrono::DateTime;
use evoke_api::limits;
use evoke_api::names::{ObjectName, SubscriptionId, TopicName, is_event_name, is_namespace, is_object_name};
use evoke_eventbus::bus::{BusError, EventBus, Expect, From, Partition, Position, Put, Record};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::intervals::Intervals;
use evoke_eventbus::subscription::job::{self, JobId, Work};
use evoke_eventbus::subscription::ledger::Ledger;
use evoke_eventbus::subscription::scan::{Scan, locate};
use serde::{Deserialize, Serialize};

/// What was redriven or purged is kept under keys that start like this.
const PREFIX: &str = "deadletters/";
/// The letters that no subscriber failed to take: what a source could not turn into an event.
const SOURCES: &str = "-";
const FORMAT: u32 = 1;
/// The most intervals of one selection, and half of the most of what was removed of one subscriber, where the bus's state takes as much.
const INTERVALS: usize = 4_000;
/// What one takes at most: two positions of 39 digits and what is around them.
const INTERVAL_BYTES: usize = 80;
/// What is beside the intervals in a value of the bus's state.
const DOCUMENT_BYTES: usize = 4 << 10;
const _: () = assert!(intervals_within(limits::STATE_VALUE_BYTES) == INTERVALS);
/// How much one page may read.
const PAGE_BYTES: usize = 64 << 20;

/// Which dead letters, as people say it; all of it has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// The Trigger's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Trigger's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// The subscriber's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<String>,
    /// A part of the cause, in upper or lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The time from which on they became dead letters, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Their own ids, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
    /// The `id` of the event that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// A filter, read.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    filter: Filter,
    cause: Option<String>,
    since: Option<SystemTime>,
    ids: Option<BTreeSet<Position>>,
}

/// A filter that cannot be read; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFilter(String);

impl Wanted {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn new(filter: Filter) -> Result<Self, BadFilter> {
        let time = |text: &String| {
            let hint = || BadFilter(format!("{text:?} is no time: write it as 2026-01-02T03:04:05Z"));
            DateTime::parse_from_rfc3339(text).map(SystemTime::from).map_err(|_| hint())
        };
        let id = |text: &str| {
            let hint = || BadFilter(format!("{text:?} is no dead letter's id: take one from `evoke dlq list`"));
            text.trim().parse().map(Position).map_err(|_| hint())
        };
        let ids = |ids: &String| ids.split(',').filter(|text| !text.trim().is_empty()).map(id).collect();
        Ok(Self {
            since: filter.since.as_ref().map(time).transpose()?,
            ids: filter.ids.as_ref().map(ids).transpose()?,
            cause: filter.cause.as_ref().map(|cause| cause.to_lowercase()),
            filter,
        })
    }

    /// The ids that it names, if it does.
    pub fn ids(&self) -> Option<&BTreeSet<Position>> {
        self.ids.as_ref()
    }

    fn meets(&self, record: &Record, origin: Option<&SubscriptionId>) -> bool {
        let same = |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|text| Some(text) == is);
        let cause = || record.event.attribute("evokecause").unwrap_or_default().to_lowercase();
        same(&self.filter.namespace, origin.map(|id| &*id.owner.namespace))
            && same(&self.filter.trigger, origin.map(|id| &*id.owner.name))
            && same(&self.filter.subscriber, origin.map(|id| &*id.subscriber))
            && same(&self.filter.event, Some(record.event.id()))
            && self.since.is_none_or(|since| record.appended >= since)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&record.at))
            && self.cause.as_ref().is_none_or(|part| cause().contains(part))
    }
}

/// A dead letter that is listed.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Its place in the store, which is its id, and the event with what happened to it.
    pub record: &'a Record,
    /// The subscriber that did not take it; none where a source could not read it.
    pub origin: Option<&'a SubscriptionId>,
    /// The job that is to deliver it again.
    pub job: Option<&'a JobId>,
}

/// Which dead letters a filter selects, of each subscriber.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// For each subscriber, what of its letters.
    pub of: BTreeMap<Option<SubscriptionId>, Letters>,
    /// How many others are being delivered again just now.
    pub busy: u64,
    /// True if there are more than one selection can hold.
    pub more: bool,
}

/// Selected letters of one subscriber.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    /// Where they are. It may pass over what is not listed any more.
    pub places: Intervals,
    /// How many they are.
    pub count: u64,
    /// The revision of what was kept of the subscriber's letters before they were selected; `None` where nothing was.
    seen: Option<u64>,
}

/// Where the store is.
pub fn partition() -> Partition {
    Partition { topic: TopicName::dead_letters(), index: 0 }
}

/// The subscriber that did not take an event, as its dead letter says.
pub fn origin(letter: &Event) -> Option<SubscriptionId> {
    let (namespace, name) = letter.attribute("evoketrigger")?.split_once('/')?;
    let subscriber = letter.attribute("evokesubscriber")?;
    let lawful = is_namespace(namespace) && is_object_name(name) && is_event_name(subscriber);
    lawful.then(|| SubscriptionId { owner: ObjectName::new(namespace, name), subscriber: subscriber.into() })
}

/// What became of dead letters.
struct Fates {
    removed: BTreeMap<String, Intervals>,
    jobs: Vec<Busy>,
}

/// A redrive that is not over.
struct Busy {
    job: JobId,
    of: SubscriptionId,
    letters: Intervals,
    ledger: Ledger,
}

enum Fate {
    Listed,
    Removed,
    Busy(usize),
}

impl Fates {
    async fn load(bus: &dyn EventBus) -> Result<Self, BusError> {
        // Jobs first: one that ends meanwhile has written what it removed before it says that it is over.
        let mut jobs = Vec::new();
        for stored in job::list(bus).await? {
            let Work::Redrive { letters } = &stored.job.work else { continue };
            if stored.job.state.is_over() && !job::is_unsettled(bus, &stored.job).await? {
                continue;
            }
            let ledger = job::ledgers(bus, &stored.job).await?.into_iter().next().map(|(_, ledger)| ledger);
            jobs.push(Busy {
                letters: letters.clone(),
                of: stored.job.subscription(),
                ledger: ledger.unwrap_or_default(),
                job: stored.job.id,
            });
        }
        let mut removed = BTreeMap::new();
        for entry in bus.load(PREFIX).await? {
            removed.insert(entry.key.clone(), decode(&entry.key, &entry.value)?.removed);
        }
        Ok(Self { removed, jobs })
    }

    fn of(&self, at: Position, origin: Option<&SubscriptionId>) -> Fate {
        if self.removed.get(&key(origin)).is_some_and(|removed| removed.contains(at)) {
            return Fate::Removed;
        }
        let busy = |busy: &Busy| origin == Some(&busy.of) && busy.letters.contains(at);
        match self.jobs.iter().position(busy) {
            Some(index) if self.jobs.get(index).is_some_and(|job| is_finished(&job.ledger, at)) => Fate::Removed,
            Some(index) => Fate::Busy(index),
            None => Fate::Listed,
        }
    }
}

fn is_finished(ledger: &Ledger, at: Position) -> bool {
    at < ledger.upto() && !ledger.open().contains_key(&at)
}

fn key(origin: Option<&SubscriptionId>) -> String {
    match origin {
        Some(id) => format!("{PREFIX}{}/{}/{}", id.owner.namespace, id.owner.name, id.subscriber),
        None => format!("{PREFIX}{SOURCES}"),
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    format: u32,
    removed: Intervals,
    /// The redrive that began last: what was decided before it began is decided anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redrive: Option<JobId>,
}

impl Document {
    fn new() -> Self {
        Self { format: FORMAT, removed: Intervals::default(), redrive: None }
    }
}

const fn intervals_within(value_bytes: usize) -> usize {
    let most = value_bytes.saturating_sub(DOCUMENT_BYTES) / (2 * INTERVAL_BYTES);
    if most < INTERVALS { most } else { INTERVALS }
}

fn decode(key: &str, value: &[u8]) -> Result<Document, BusError> {
    let document: Document =
        serde_json::from_slice(value).map_err(|error| BusError::Broken(format!("{key}: {error}").into()))?;
    if document.format > FORMAT {
        let text = format!("{key} has version {}, this evoke knows {FORMAT}: run the newer one", document.format);
        return Err(BusError::Broken(text.into()));
    }
    Ok(document)
}

/// What of a subscriber's letters was redriven or purged.
///
/// # Errors
/// The bus's.
pub async fn removed(bus: &dyn EventBus, origin: Option<&SubscriptionId>) -> Result<Intervals, BusError> {
    Ok(stored(bus, &key(origin)).await?.map(|(document, _)| document.removed).unwrap_or_default())
}

async fn stored(bus: &dyn EventBus, key: &str) -> Result<Option<(Document, u64)>, BusError> {
    let entry = bus.load(key).await?.into_iter().find(|entry| entry.key == key);
    entry.map(|entry| Ok((decode(key, &entry.value)?, entry.revision))).transpose()
}

/// Takes letters of one subscriber off the list, durably.
///
/// # Errors
/// The bus's.
pub async fn remove(bus: &dyn EventBus, origin: Option<&SubscriptionId>, letters: &Intervals) -> Result<(), BusError> {
    change(bus, &key(origin), |document| document.removed.extend(letters)).await
}

/// The same for letters that were selected; false if somebody has taken letters of this subscriber since, so that it has to be
/// decided anew.
///
/// # Errors
/// The bus's.
pub async fn take(bus: &dyn EventBus, origin: Option<&SubscriptionId>, letters: &Letters) -> Result<bool, BusError> {
    let key = key(origin);
    let before = stored(bus, &key).await?;
    if before.as_ref().map(|(_, revision)| *revision) != letters.seen {
        return Ok(false);
    }
    let take = |document: &mut Document| document.removed.extend(&letters.places);
    try_change(bus, &key, before, take).await
}

/// Says that a redrive of a subscriber's letters begins, to whoever has selected some and not taken them yet.
///
/// # Errors
/// The bus's.
pub async fn begin(bus: &dyn EventBus, origin: &SubscriptionId, job: &JobId) -> Result<(), BusError> {
    change(bus, &key(Some(origin)), |document| document.redrive = Some(job.clone())).await
}

async fn change(bus: &dyn EventBus, key: &str, change: impl Fn(&mut Document)) -> Result<(), BusError> {
    while !try_change(bus, key, stored(bus, key).await?, &change).await? {}
    Ok(())
}

/// Changes what was there before; false if it is not any more.
async fn try_change(
    bus: &dyn EventBus,
    key: &str,
    before: Option<(Document, u64)>,
    change: impl Fn(&mut Document),
) -> Result<bool, BusError> {
    let (old, expect) = match before {
        Some((document, revision)) => (document, Expect::Revision(revision)),
        None => (Document::new(), Expect::Absent),
    };
    let mut document = old.clone();
    change(&mut document);
    if document == old {
        return Ok(true);
    }
    if document.removed.len() > 2 * intervals_within(bus.max_value_bytes()) {
        let text = "too many single dead letters were taken off the list: purge or redrive all of the subscriber's";
        return Err(BusError::Broken(text.into()));
    }
    let value = serde_json::to_vec(&document).map_err(|error| BusError::Broken(error.to_string().into()))?;
    // What says nothing any more stays, so that nobody takes it for what was there before anything was taken.
    let stored = bus.store(vec![Put { key: key.to_owned(), value: Some(value.into()), expect }]).await?;
    Ok(stored.into_iter().flatten().next().is_some())
}

/// The whole store as it is now, or the part of it where `wanted` can be.
async fn scan<'a>(bus: &'a dyn EventBus, wanted: &Wanted, after: Option<Position>) -> Result<Scan<'a>, BusError> {
    let partition = partition();
    let start = match wanted.since {
        Some(since) => From::Time(since),
        None => From::First,
    };
    let (start, end) = match bus.locate(&[start, From::Next].map(|from| (partition.clone(), from))).await {
        Ok(marks) => match marks[..] {
            [start, end] => (start.at.max(start.first), end.end),
            _ => return Err(BusError::Unavailable("the bus located nothing".into())),
        },
        // Nothing ever failed.
        Err(BusError::NoTopic(_)) => (Position(0), Position(0)),
        Err(error) => return Err(error),
    };
    let next = |at: Position| Position(at.0.saturating_add(1));
    let ends = wanted.ids.as_ref().and_then(|ids| Some((*ids.first()?, *ids.last()?)));
    let (start, end) = match (ends, &wanted.ids) {
        (Some((first, last)), _) => (start.max(first), end.min(next(last))),
        (None, Some(_)) => (end, end),
        (None, None) => (start, end),
    };
    Ok(Scan::new(bus, partition, after.map_or(start, |after| start.max(next(after))), end))
}

/// Shows up to `limit` letters after `after` that are listed, in order; says after which to go on, if there may be more. Reads a
/// bounded part of the store, so that there may be more when few were shown.
///
/// # Errors
/// The bus's.
pub async fn page(
    bus: &dyn EventBus,
    wanted: &Wanted,
    after: Option<Position>,
    limit: usize,
    mut show: impl FnMut(Letter<'_>),
) -> Result<Option<Position>, BusError> {
    let fates = Fates::load(bus).await?;
    let mut scan = scan(bus, wanted, after).await?;
    let (mut shown, mut bytes) = (0, 0);
    while let Some(batch) = scan.next().await? {
        for record in &batch.records {
            let origin = origin(&record.event);
            if !wanted.meets(record, origin.as_ref()) {
                continue;
            }
            let job = match fates.of(record.at, origin.as_ref()) {
                Fate::Removed => continue,
                Fate::Busy(index) => fates.jobs.get(index).map(|busy| &busy.job),
                Fate::Listed => None,
            };
            if shown == limit {
                return Ok(Some(Position(record.at.0.saturating_sub(1))));
            }
            show(Letter { record, origin: origin.as_ref(), job });
            shown += 1;
        }
        bytes += batch.bytes;
        if bytes >= PAGE_BYTES {
            return Ok(Some(Position(scan.at().0.saturating_sub(1))));
        }
    }
    Ok(None)
}

/// Selects all letters that are listed and not being delivered again.
///
/// # Errors
/// The bus's.
pub async fn select(bus: &dyn EventBus, wanted: &Wanted) -> Result<Selection, BusError> {
    // Before the jobs: one that begins later changes what is seen here.
    let entries = bus.load(PREFIX).await?.into_iter();
    let seen: BTreeMap<String, u64> = entries.map(|entry| (entry.key, entry.revision)).collect();
    let fates = Fates::load(bus).await?;
    let mut scan = scan(bus, wanted, None).await?;
    let most = intervals_within(bus.max_value_bytes());
    let mut selection = Selection::default();
    // The last selected letter of each subscriber, as long as none that stays has come after it.
    let mut runs: BTreeMap<Option<SubscriptionId>, Position> = BTreeMap::new();
    while let Some(batch) = scan.next().await? {
        for record in &batch.records {
            let origin = origin(&record.event);
            let wanted = wanted.meets(record, origin.as_ref());
            match fates.of(record.at, origin.as_ref()) {
                // An interval may pass over what is removed already.
                Fate::Removed => {}
                Fate::Listed if wanted => {
                    let new = || Letters { seen: seen.get(&key(origin.as_ref())).copied(), ..Letters::default() };
                    let letters = selection.of.entry(origin.clone()).or_insert_with(new);
                    let first = runs.get(&origin).copied().unwrap_or(record.at);
                    if letters.places.len() >= most && first == record.at {
                        selection.more = true;
                        continue;
                    }
                    letters.places.insert(first, record.at);
                    letters.count += 1;
                    runs.insert(origin, record.at);
                }
                Fate::Listed => {
                    runs.remove(&origin);
                }
                Fate::Busy(_) => {
                    selection.busy += u64::from(wanted);
                    runs.remove(&origin);
                }
            }
        }
    }
    Ok(selection)
}

/// One letter that is listed, by its id.
///
/// # Errors
/// The bus's.
pub async fn find(bus: &dyn EventBus, at: Position) -> Result<Option<(Record, Option<JobId>)>, BusError> {
    let wanted = Wanted { ids: Some(BTreeSet::from([at])), ..Wanted::default() };
    let mut found = None;
    page(bus, &wanted, None, 1, |letter| found = Some((letter.record.clone(), letter.job.cloned()))).await?;
    Ok(found)
}

/// Gives up the beginning of the store up to the first letter that is still listed, and forgets what was said of it.
///
/// # Errors
/// The bus's.
pub async fn give_up_removed(bus: &dyn EventBus) -> Result<(), BusError> {
    let fates = Fates { jobs: Vec::new(), ..Fates::load(bus).await? };
    let partition = partition();
    let mut scan = scan(bus, &Wanted::default(), None).await?;
    let start = scan.at();
    let kept = loop {
        let Some(batch) = scan.next().await? else { break scan.at() };
        let is_kept = |record: &&Record| !matches!(fates.of(record.at, origin(&record.event).as_ref()), Fate::Removed);
        if let Some(record) = batch.records.iter().find(is_kept) {
            break record.at;
        }
    };
    if kept <= start {
        return Ok(());
    }
    bus.trim(&partition, kept).await?;
    // The bus may keep more than was asked: what is still there must not come back to the list.
    let first = locate(bus, &partition, From::First).await?.first;
    for key in fates.removed.keys() {
        change(bus, key, |document| document.removed.forget_below(first)).await?;
    }
    Ok(())
}
