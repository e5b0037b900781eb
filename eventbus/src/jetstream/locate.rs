//! Start, end, times and positions of a topic's partitions, as marks. The sequences of a stream are those of all its partitions, so
//! what lies between two of them is counted by JetStream, not subtracted.

use std::collections::BTreeMap;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::core::Core;
use super::error::{ApiError, Refusal};
use super::stream::{self, Info};
use super::topic::Topic;
use crate::bus::{BusError, From, Mark, Partition, Position};

/// When a stream was made, in milliseconds since 1970. A position is this and a sequence, so that those of another stream of the
/// same name come before or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Epoch(u64);

impl Epoch {
    /// As the servers tell it.
    pub(super) fn of(created: &str) -> Self {
        let made = DateTime::parse_from_rfc3339(created).ok();
        Self(made.and_then(|made| u64::try_from(made.timestamp_millis()).ok()).unwrap_or_default())
    }

    /// The position of a sequence.
    pub(super) fn at(self, sequence: u64) -> Position {
        Position(u128::from(self.0) << 64 | u128::from(sequence))
    }
}

/// The parts of a position; one without an epoch is of whatever stream there is.
fn parts(Position(position): Position) -> (Option<Epoch>, u64) {
    let epoch = u64::try_from(position >> 64).unwrap_or(u64::MAX);
    let sequence = u64::try_from(position & u128::from(u64::MAX)).unwrap_or_default();
    (Some(Epoch(epoch)).filter(|_| epoch > 0), sequence)
}

/// The sequence of a position, whatever stream it is of.
pub(super) fn sequence(position: Position) -> u64 {
    parts(position).1
}

/// What a stream's log spans, for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) epoch: Epoch,
    /// The first sequence that is kept.
    pub(super) first: u64,
    /// The sequence that the next message gets.
    pub(super) end: u64,
}

impl Span {
    pub(super) fn of(info: &Info, topic: &Topic, partition: u16) -> Self {
        let end = info.state.last_seq + 1;
        let first = info.state.first_seq.max(1).max(topic.cut(partition)).min(end);
        Self { epoch: Epoch::of(&info.created), first, end }
    }

    /// The sequence of a position: of an older stream, one before all that there are, and of a newer one, one after.
    pub(super) fn sequence(self, position: Position) -> u64 {
        match parts(position) {
            (Some(epoch), _) if epoch < self.epoch => 0,
            (Some(epoch), _) if epoch > self.epoch => u64::MAX,
            (_, sequence) => sequence,
        }
    }

    /// The sequence of a position that can be read from.
    pub(super) fn check(self, position: Position) -> Result<u64, BusError> {
        let sequence = self.sequence(position);
        if sequence > self.end {
            return Err(BusError::Ahead { end: self.epoch.at(self.end) });
        }
        // No message has sequence 0.
        let is_older = parts(position).0.is_some_and(|epoch| epoch < self.epoch);
        if is_older || sequence.max(1) < self.first {
            return Err(BusError::Trimmed { first: self.epoch.at(self.first) });
        }
        Ok(sequence.max(1))
    }
}

/// A topic's stream, asked for now, with the cuts that other processes made known to this one.
pub(super) async fn look(core: &Core, topic: &Topic, partition: u16) -> Result<Info, BusError> {
    let info = info(core, topic).await?;
    if !core.agrees(topic, &info) {
        let text = format!("the stream {} has another number of partitions by now", topic.stream);
        return Err(BusError::Unavailable(text.into()));
    }
    topic.learn(&info.config);
    let cut = core.bucket.trimmed(&topic.stream, &info.created, partition).await?;
    topic.set_cut(partition, &info.created, cut);
    Ok(info)
}

/// The same without the cuts.
pub(super) async fn info(core: &Core, topic: &Topic) -> Result<Info, BusError> {
    let info = stream::info(&core.wire, &topic.stream).await?;
    info.ok_or_else(|| BusError::Unavailable(format!("the stream {} is gone", topic.stream).into()))
}

pub(super) async fn locate(core: &Core, asked: &[(Partition, From)]) -> Result<Vec<Mark>, BusError> {
    core.open()?;
    let mut marks = vec![None; asked.len()];
    let mut by_partition: BTreeMap<&Partition, Vec<(usize, From)>> = BTreeMap::new();
    for (place, (partition, from)) in asked.iter().enumerate() {
        by_partition.entry(partition).or_default().push((place, *from));
    }
    for (partition, asked) in by_partition {
        let topic = core.partition(partition).await?;
        let counter = Counter { core, topic: &topic, partition: partition.index };
        for (place, mark) in counter.marks(&asked).await? {
            if let Some(slot) = marks.get_mut(place) {
                *slot = Some(mark);
            }
        }
    }
    let found: Option<Vec<Mark>> = marks.into_iter().collect();
    found.ok_or_else(|| BusError::Unavailable("JetStream located only some of what was asked for".into()))
}

/// Counts in one partition.
struct Counter<'a> {
    core: &'a Core,
    topic: &'a Topic,
    partition: u16,
}

/// A consumer that was made to count, and was never read from.
#[derive(Deserialize)]
struct Counted {
    num_pending: u64,
    delivered: Delivered,
}

#[derive(Deserialize)]
struct Delivered {
    stream_seq: u64,
}

impl Counter<'_> {
    async fn marks(&self, asked: &[(usize, From)]) -> Result<Vec<(usize, Mark)>, BusError> {
        let info = look(self.core, self.topic, self.partition).await?;
        let span = Span::of(&info, self.topic, self.partition);
        let Span { epoch, first, end } = span;
        let mut places = Vec::with_capacity(asked.len());
        for (place, from) in asked {
            let (at, sequence) = match from {
                From::First => (epoch.at(first), first),
                From::Next => (epoch.at(end), end),
                From::At(position) => (*position, span.sequence(*position)),
                From::Time(time) => {
                    let since = self.since(*time).await?.clamp(first, end);
                    (epoch.at(since), since)
                }
            };
            places.push((*place, at, sequence));
        }
        let counts = self
            .counts(places.iter().map(|(_, _, sequence)| *sequence), first, end, info.config.num_replicas > 1)
            .await?;
        let mark = |at: Position, sequence: u64| Mark {
            at,
            first: epoch.at(first),
            end: epoch.at(end),
            ahead: counts.get(&sequence).copied().unwrap_or_default(),
            exact: true,
            appended: None,
        };
        Ok(places.into_iter().map(|(place, at, sequence)| (place, mark(at, sequence))).collect())
    }

    /// How many events lie from each of these positions on: the same number for two of them only if there is none in between.
    async fn counts(
        &self,
        at: impl Iterator<Item = u64>,
        first: u64,
        end: u64,
        replicated: bool,
    ) -> Result<BTreeMap<u64, u64>, BusError> {
        let mut counts: BTreeMap<u64, u64> = at.map(|at| (at, 0)).collect();
        // The next message at or after the position counted last, and the count.
        let (mut next, mut ahead) = (end, 0);
        for (at, count) in counts.iter_mut().rev() {
            if *at >= end {
                continue;
            }
            let from = (*at).max(first);
            // What counts may be a server that is behind; the leader says what is there.
            let found = if replicated { self.next(from).await?.unwrap_or(end) } else { from };
            if !replicated || found < next {
                let counted = self.count(json!({"deliver_policy": "by_start_sequence", "opt_start_seq": from})).await?;
                ahead = if replicated { counted.num_pending.max(ahead + 1) } else { counted.num_pending.max(ahead) };
            }
            next = found;
            *count = ahead;
        }
        Ok(counts)
    }

    /// The first message of the partition at or after a sequence.
    pub(super) async fn next(&self, from: u64) -> Result<Option<u64>, ApiError> {
        next_message(self.core, self.topic, self.partition, from).await
    }

    /// The first sequence that was stored at a time or later.
    async fn since(&self, time: SystemTime) -> Result<u64, BusError> {
        let time = DateTime::<Utc>::from(time).to_rfc3339();
        let counted = self.count(json!({"deliver_policy": "by_start_time", "opt_start_time": time})).await?;
        Ok(counted.delivered.stream_seq + 1)
    }

    async fn count(&self, start: serde_json::Value) -> Result<Counted, BusError> {
        let name = consumer_name();
        let counted = make_consumer::<Counted>(self.core, self.topic, self.partition, &name, start).await?;
        let delete = format!("CONSUMER.DELETE.{}.{name}", self.topic.stream);
        // One that stays ends by itself.
        if let Err(error) = self.core.wire.api::<serde_json::Value>(&delete, &json!({})).await {
            tracing::debug!(%error, "a consumer that counted was not deleted");
        }
        Ok(counted)
    }
}

/// The first sequence of a partition that was stored at a time or later.
pub(super) async fn since(core: &Core, topic: &Topic, partition: u16, time: SystemTime) -> Result<u64, BusError> {
    Counter { core, topic, partition }.since(time).await
}

/// When the message at a sequence was stored, if there is one.
pub(super) async fn stored_at(core: &Core, topic: &Topic, sequence: u64) -> Result<Option<SystemTime>, ApiError> {
    let message = message(core, topic, json!({"seq": sequence})).await?;
    Ok(message.map(|message| message.time.into()))
}

/// The first message of a partition at or after a sequence.
pub(super) async fn next_message(
    core: &Core,
    topic: &Topic,
    partition: u16,
    from: u64,
) -> Result<Option<u64>, ApiError> {
    let subject = topic.subject(partition).as_str();
    let message = message(core, topic, json!({"seq": from, "next_by_subj": subject})).await?;
    Ok(message.map(|message| message.seq))
}

/// A message that is stored.
#[derive(Deserialize)]
struct Message {
    seq: u64,
    time: DateTime<Utc>,
}

/// The message that is asked for, as the stream's leader knows it.
async fn message(core: &Core, topic: &Topic, asked: serde_json::Value) -> Result<Option<Message>, ApiError> {
    #[derive(Deserialize)]
    struct Got {
        message: Message,
    }
    match core.wire.api::<Got>(&format!("STREAM.MSG.GET.{}", topic.stream), &asked).await {
        Ok(got) => Ok(Some(got.message)),
        Err(error) if error.is(Refusal::NO_MESSAGE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name that no other consumer has.
pub(super) fn consumer_name() -> String {
    format!("evoke-{}", uuid::Uuid::now_v7().simple())
}

/// Makes a consumer that nobody acknowledges to and that is forgotten when nobody uses it.
pub(super) async fn make_consumer<T: serde::de::DeserializeOwned>(
    core: &Core,
    topic: &Topic,
    partition: u16,
    name: &str,
    start: serde_json::Value,
) -> Result<T, ApiError> {
    let subject = topic.subject(partition).as_str();
    let mut config = json!({
        "name": name,
        "description": "evoke reads or counts",
        "ack_policy": "none",
        "filter_subject": subject,
        "mem_storage": true,
        "num_replicas": 1,
        "inactive_threshold": 60_000_000_000_u64,
        "max_waiting": 16,
    });
    if let (Some(config), serde_json::Value::Object(start)) = (config.as_object_mut(), start) {
        config.extend(start);
    }
    let body = json!({"stream_name": topic.stream, "config": config});
    core.wire.api(&format!("CONSUMER.CREATE.{}.{name}.{subject}", topic.stream), &body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_says_which_stream_it_is_of() {
        let made = |created| Epoch::of(created);
        let (old, now) = (made("2026-11-25T10:00:00.25Z"), made("2026-11-25T10:00:00.251000001Z"));
        assert!(old < now && old.at(u64::MAX) < now.at(1));
        let span = Span { epoch: now, first: 5, end: 9 };
        assert_eq!([4, 5, 9, 10].map(|n| span.check(now.at(n)).ok()), [None, Some(5), Some(9), None]);
        assert_eq!(span.check(now.at(4)), Err(BusError::Trimmed { first: now.at(5) }));
        assert_eq!(span.check(now.at(10)), Err(BusError::Ahead { end: now.at(9) }));
        // Whatever their sequences are.
        assert_eq!(span.check(old.at(7)), Err(BusError::Trimmed { first: now.at(5) }));
        let back = Span { epoch: old, first: 1, end: 9 };
        assert_eq!(back.check(now.at(7)), Err(BusError::Ahead { end: old.at(9) }));
        assert_eq!(Span { first: 1, ..span }.check(old.at(1)), Err(BusError::Trimmed { first: now.at(1) }));
        // Without a stream it is of this one.
        assert_eq!(span.check(Position(7)), Ok(7));
        assert_eq!((span.sequence(old.at(7)), span.sequence(now.at(7)), back.sequence(now.at(7))), (0, 7, u64::MAX));
    }
}
