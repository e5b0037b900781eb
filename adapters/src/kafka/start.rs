//! Where a partition starts that the group never committed.
//!
//! A group that is new starts where `startAt` says, at the end by default; a partition that came later starts at its beginning, since
//! all that it holds was written while the source was there. To tell the two apart every commit carries a note with the
//! number of partitions that the topic had when the group was new. Starts are committed before anything is read, so that
//! nothing is missed or read twice from then on, whichever member goes on.

use std::time::Duration;

use evoke_api::events::StartAt;
use evoke_connect::kafka::words::text;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::callbacks::Consumer;

/// How long each question to the brokers may take. The rest of the group waits.
const ANSWER: Duration = Duration::from_secs(5);
const NOTE: &str = "evoke partitions=";

/// The note in a commit: how many partitions there were when the group was new.
pub(super) fn note(known: i32) -> String {
    format!("{NOTE}{known}")
}

/// What the group has committed for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Committed {
    partition: i32,
    offset: Option<i64>,
    known: Option<i32>,
}

/// Where a partition is to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Here; only the note is missing.
    At(i64),
    First,
    End,
}

/// How many partitions there were when the group was new, and the starts to commit for the `assigned` ones.
fn decide(committed: &[Committed], assigned: &[i32], start_at: StartAt) -> (i32, Vec<(i32, Start)>) {
    let count = committed.iter().map(|c| c.partition + 1).max().unwrap_or(0);
    let known = committed.iter().filter_map(|c| c.known).min().unwrap_or(count);
    let starts = committed.iter().filter(|c| assigned.contains(&c.partition)).filter_map(|c| {
        let start = match (c.offset, c.known, start_at) {
            (Some(_), Some(_), _) => return None,
            (Some(offset), None, _) => Start::At(offset),
            (None, _, _) if c.partition >= known => Start::First,
            (None, _, StartAt::Earliest) => Start::First,
            (None, _, StartAt::Latest) => Start::End,
        };
        Some((c.partition, start))
    });
    (known, starts.collect())
}

/// Commits a start for each of the `assigned` partitions that has none.
///
/// # Errors
/// In words, when the brokers do not answer.
pub(super) fn commit_starts(consumer: &Consumer, assigned: &[i32]) -> Result<(), String> {
    if assigned.is_empty() {
        return Ok(());
    }
    let callbacks = consumer.context();
    let topic = callbacks.topic.as_str();
    let failed = |what: &str, error| format!("cannot {what} of topic {topic:?}: {}", text(&error));
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).map_err(|e| failed("list the partitions", e))?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
        list.add_partition(topic, partition.id());
    }
    let list = consumer.committed_offsets(list, ANSWER).map_err(|e| failed("read the group's offsets", e))?;
    let mut committed = Vec::with_capacity(list.count());
    for entry in list.elements() {
        entry.error().map_err(|e| failed("read the group's offsets", e))?;
        let offset = if let Offset::Offset(offset) = entry.offset() { Some(offset) } else { None };
        let known = entry.metadata().strip_prefix(NOTE).and_then(|known| known.parse().ok());
        committed.push(Committed { partition: entry.partition(), offset, known });
    }
    let (known, starts) = decide(&committed, assigned, callbacks.start_at);
    callbacks.shared.set_known_partitions(known);
    let mut offsets = Vec::with_capacity(starts.len());
    for (partition, start) in starts {
        let ends = || consumer.fetch_watermarks(topic, partition, ANSWER).map_err(|e| failed("find the start", e));
        let offset = match start {
            Start::At(offset) => offset,
            Start::First => ends()?.0,
            Start::End => ends()?.1,
        };
        if !matches!(start, Start::At(_)) {
            tracing::info!(topic, partition, offset, "the group starts here");
        }
        offsets.push((partition, offset));
    }
    if offsets.is_empty() {
        return Ok(());
    }
    let list = callbacks.offsets(&offsets).map_err(|e| failed("commit the start", e))?;
    consumer.commit(&list, CommitMode::Sync).map_err(|e| failed("commit the start", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(at: &[(Option<i64>, Option<i32>)]) -> Vec<Committed> {
        (0..)
            .zip(at)
            .map(|(partition, (offset, known))| Committed { partition, offset: *offset, known: *known })
            .collect()
    }

    #[test]
    fn a_new_group_starts_where_the_manifest_says() {
        let none = committed(&[(None, None), (None, None)]);
        assert_eq!(decide(&none, &[0, 1], StartAt::Latest), (2, vec![(0, Start::End), (1, Start::End)]));
        assert_eq!(decide(&none, &[1], StartAt::Earliest), (2, vec![(1, Start::First)]));
    }

    #[test]
    fn the_second_member_of_a_new_group_starts_like_the_first() {
        let half = committed(&[(Some(10), Some(2)), (None, None)]);
        assert_eq!(decide(&half, &[1], StartAt::Latest), (2, vec![(1, Start::End)]));
    }

    #[test]
    fn a_partition_that_came_later_is_read_from_its_beginning() {
        let grown = committed(&[(Some(10), Some(1)), (None, None), (Some(3), Some(1)), (None, None)]);
        assert_eq!(decide(&grown, &[1, 3], StartAt::Latest), (1, vec![(1, Start::First), (3, Start::First)]));
    }

    #[test]
    fn a_group_taken_over_keeps_its_offsets_and_gets_its_notes() {
        let foreign = committed(&[(Some(10), None), (None, None)]);
        assert_eq!(decide(&foreign, &[0, 1], StartAt::Latest), (2, vec![(0, Start::At(10)), (1, Start::End)]));
    }

    #[test]
    fn a_group_of_ours_is_left_alone() {
        let ours = committed(&[(Some(10), Some(2)), (Some(0), Some(2))]);
        assert_eq!(decide(&ours, &[0, 1], StartAt::Latest), (2, vec![]));
    }
}
