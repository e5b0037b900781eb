//! A part of the log to a job, or to a count of what a job would deliver.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use evoke_api::names::TopicName;
use evoke_eventbus::bus::{BusError, EventBus, From, Position, Record};
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::job::{Counts, Range};
use evoke_eventbus::subscription::ledger::Millis;
use evoke_eventbus::subscription::scan::{Scan, locate};

use crate::subscription::{Selector, Verdict};

/// Appends that seem to be older than a window by this much are looked at too.
const SLACK: Duration = Duration::from_secs(1);

/// Where a replay starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first event appended at this time or later.
    Time(SystemTime),
    /// The first event that is kept.
    First,
    /// A position in each partition of each topic.
    Offsets(BTreeMap<TopicName, BTreeMap<u16, Position>>),
}

/// Which part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts.
    pub start: Start,
    /// The time that it ends before; everything there is now by default.
    pub until: Option<SystemTime>,
}

/// Why a part of the log is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSpan {
    /// The bus's.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// An offset is missing or does not fit.
    #[error("{0}")]
    Offset(String),
}

/// The part of every partition of some topics that lies in a span.
///
/// # Errors
/// [`BadSpan`].
pub async fn ranges(subscriptions: &Subscriptions, topics: &[TopicName], span: &Span) -> Result<Vec<Range>, BadSpan> {
    let bus = &**subscriptions.bus();
    let mut ranges = Vec::new();
    for topic in topics {
        let partitions = subscriptions.declare_topic(topic).await?.partitions;
        for index in 0..partitions {
            ranges.push(range(bus, topic, index, span).await?);
        }
        if let Start::Offsets(offsets) = &span.start
            && let Some(other) = offsets.get(topic).and_then(|of| of.keys().find(|index| **index >= partitions))
        {
            let text = format!("the offset speaks of partition {other} of topic {topic}, which has {partitions}");
            return Err(BadSpan::Offset(text));
        }
    }
    if topics.len() > 1 && !matches!(span.start, Start::Time(_)) {
        begin_together(bus, &mut ranges).await?;
    }
    Ok(ranges)
}

async fn range(bus: &dyn EventBus, topic: &TopicName, index: u16, span: &Span) -> Result<Range, BadSpan> {
    let partition = evoke_eventbus::bus::Partition { topic: topic.clone(), index };
    let (from, since) = match &span.start {
        Start::Time(time) => (From::Time(*time), Millis::from(*time).0),
        Start::First => (From::First, 0),
        Start::Offsets(offsets) => {
            let Some(of_topic) = offsets.get(topic) else {
                return Err(BadSpan::Offset(format!("there is no offset for the input on topic {topic}")));
            };
            let Some(at) = of_topic.get(&index) else {
                return Err(BadSpan::Offset(format!("the offset says nothing of partition {index} of topic {topic}")));
            };
            (From::At(*at), 0)
        }
    };
    let start = locate(bus, &partition, from).await?;
    let from = start.at.max(start.first).min(start.end);
    let until = match span.until {
        Some(time) => locate(bus, &partition, From::Time(time)).await?.at.min(start.end),
        None => start.end,
    };
    Ok(Range { topic: topic.as_str().into(), partition: index, from, until: until.max(from), since })
}

/// Several inputs are judged by each other's events from the time on at which the first of them starts.
async fn begin_together(bus: &dyn EventBus, ranges: &mut [Range]) -> Result<(), BusError> {
    let mut earliest: Option<SystemTime> = None;
    for range in &*ranges {
        let first = Scan::new(bus, range.partition(), range.from, range.until).next().await?;
        if let Some(record) = first.as_ref().and_then(|batch| batch.records.first()) {
            earliest = Some(earliest.map_or(record.appended, |time| time.min(record.appended)));
        }
    }
    for range in ranges {
        range.since = earliest.map_or(0, |time| Millis::from(time).0);
    }
    Ok(())
}

/// A count of what a replay would deliver.
pub struct Counting<'a> {
    /// The bus.
    pub bus: &'a dyn EventBus,
    /// The topics, in the order of the selector's.
    pub topics: &'a [TopicName],
    /// The part of them.
    pub ranges: &'a [Range],
}

/// Counts, telling `progress` how far it is; ends early when that says so.
///
/// # Errors
/// The bus's.
pub async fn count(
    counting: Counting<'_>,
    mut selector: Box<dyn Selector>,
    mut progress: impl FnMut(Counts) -> bool + Send,
) -> Result<Counts, BusError> {
    let mut counts = Counts::default();
    let mut inputs = Vec::with_capacity(counting.ranges.len());
    for range in counting.ranges {
        inputs.push(Input::open(&counting, range, selector.window()).await?);
    }
    loop {
        let mut earliest = None;
        for (index, input) in inputs.iter_mut().enumerate() {
            let Some(time) = input.peek().await? else { continue };
            if earliest.is_none_or(|(before, _)| time < before) {
                earliest = Some((time, index));
            }
        }
        let Some(input) = earliest.and_then(|(_, index)| inputs.get_mut(index)) else { return Ok(counts) };
        let Some(record) = input.records.pop_front() else { continue };
        if record.at < input.from {
            selector.observe(input.topic, &record);
            continue;
        }
        counts.read += 1;
        counts.matched += u64::from(selector.select(input.topic, &record) == Verdict::Match);
        if counts.read.is_multiple_of(1024) {
            if !progress(counts) {
                return Ok(counts);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// One partition, with what lies in the selector's window before it.
struct Input<'a> {
    topic: usize,
    from: Position,
    scan: Scan<'a>,
    records: VecDeque<Record>,
}

impl<'a> Input<'a> {
    async fn open(counting: &Counting<'a>, range: &Range, window: Option<Duration>) -> Result<Self, BusError> {
        let partition = range.partition();
        let mut start = range.from;
        if let Some(window) = window.filter(|_| range.since > 0) {
            let since = Millis(range.since).to_system().checked_sub(window + SLACK);
            let mark = locate(counting.bus, &partition, From::Time(since.unwrap_or(SystemTime::UNIX_EPOCH))).await?;
            start = mark.at.max(mark.first).min(range.from);
        }
        let topic = counting.topics.iter().position(|topic| *topic == partition.topic).unwrap_or_default();
        let scan = Scan::new(counting.bus, partition, start, range.until);
        Ok(Self { topic, from: range.from, scan, records: VecDeque::new() })
    }

    async fn peek(&mut self) -> Result<Option<SystemTime>, BusError> {
        while self.records.is_empty() {
            match self.scan.next().await? {
                Some(batch) => self.records = batch.records.into(),
                None => return Ok(None),
            }
        }
        Ok(self.records.front().map(|record| record.appended))
    }
}
