//! What the client tells: partitions that come and go, commits, errors, statistics. What the thread that polls and the task that
//! settles share is here too, since a partition is only given up when the task is done with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use evoke_api::events::StartAt;
use evoke_connect::kafka::words::{shorten, text};
use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use serde::Deserialize;

use super::positions::{Mark, Positions};
use super::start;
use crate::metrics::SourceMetrics;

/// How long a rebalance waits for what is on its way to the outlet. Others of the group wait as long.
const REVOKE_WAIT: Duration = Duration::from_secs(5);

/// A client with [`Callbacks`].
pub(super) type Consumer = BaseConsumer<Callbacks>;

/// What the thread that polls and the task that settles share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) positions: Mutex<Positions>,
    settled: Condvar,
    notes: Mutex<Notes>,
    /// Nothing settles any more.
    closed: AtomicBool,
    joined: AtomicBool,
    commits_fail: AtomicBool,
    known_partitions: AtomicI32,
}

/// What callbacks leave for the thread to act on.
#[derive(Debug, Default)]
struct Notes {
    error: Option<String>,
    start_error: Option<String>,
    resets: Vec<Reset>,
    paused: bool,
}

/// An offset that was out of range, so that the client went on at the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reset {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Reset {
    /// Reads the client's log line, which is all that it tells.
    fn parse(message: &str) -> Option<Self> {
        let number = |after: &str, end: char| {
            let (_, rest) = message.split_once(after)?;
            rest.split(end).next()?.trim().parse::<i64>().ok()
        };
        let offset = number("offset reset (at offset ", ' ')?;
        Some(Self { partition: i32::try_from(number(" [", ']')?).ok()?, offset })
    }
}

impl Shared {
    /// Notes that a batch and all before it are settled.
    pub(super) fn settle(&self, marks: &[Mark]) {
        self.positions.lock().settle(marks);
        self.settled.notify_all();
    }

    /// Says that nothing settles any more, so that nobody waits for it.
    pub(super) fn close(&self) {
        let _positions = self.positions.lock();
        self.closed.store(true, Ordering::Release);
        self.settled.notify_all();
    }

    /// Waits until nothing of the partitions is on its way; false when that took too long.
    fn wait_idle(&self, partitions: &[i32], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut positions = self.positions.lock();
        while !positions.idle(partitions) {
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            if self.settled.wait_until(&mut positions, deadline).timed_out() {
                return positions.idle(partitions);
            }
        }
        true
    }

    /// True while this member has its part of the partitions, which may be none.
    pub(super) fn joined(&self) -> bool {
        self.joined.load(Ordering::Acquire)
    }

    /// The client's last error since the brokers were last found well.
    pub(super) fn last_error(&self) -> Option<String> {
        self.notes.lock().error.clone()
    }

    /// The brokers are well.
    pub(super) fn clear_error(&self) {
        self.notes.lock().error = None;
    }

    /// Why the partitions that were assigned last cannot be read.
    pub(super) fn take_start_error(&self) -> Option<String> {
        self.notes.lock().start_error.take()
    }

    /// The offsets that were out of range since this was asked.
    pub(super) fn take_resets(&self) -> Vec<Reset> {
        std::mem::take(&mut self.notes.lock().resets)
    }

    /// Whether partitions are paused as they are assigned.
    pub(super) fn set_paused(&self, paused: bool) {
        self.notes.lock().paused = paused;
    }

    /// Sets how many partitions the topic had when the group was new.
    pub(super) fn set_known_partitions(&self, known: i32) {
        self.known_partitions.store(known, Ordering::Release);
    }
}

/// Receives what the client tells. All but `log` and `error` is called by the thread that polls.
pub(super) struct Callbacks {
    pub(super) topic: String,
    pub(super) start_at: StartAt,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: SourceMetrics,
}

impl Callbacks {
    /// A list of offsets to commit. Each carries the note by which a member knows that a partition is new.
    pub(super) fn offsets(&self, at: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
        let note = start::note(self.shared.known_partitions.load(Ordering::Acquire));
        let mut list = TopicPartitionList::with_capacity(at.len());
        for (partition, next) in at {
            let mut entry = list.add_partition(&self.topic, *partition);
            entry.set_offset(Offset::Offset(*next))?;
            entry.set_metadata(&note);
        }
        Ok(list)
    }

    /// Commits all that is settled of some partitions, and waits for the broker's answer.
    pub(super) fn commit_now(&self, consumer: &Consumer, partitions: &[i32]) {
        let settled = self.shared.positions.lock().settled(partitions);
        if settled.is_empty() {
            return;
        }
        let committed = self.offsets(&settled).and_then(|list| consumer.commit(&list, CommitMode::Sync));
        if let Err(error) = committed {
            self.metrics.commit_failures.inc();
            tracing::warn!(topic = %self.topic, cause = %text(&error), "the last offsets could not be committed: what they stand for will be read again");
        }
    }

    /// Counts a commit that failed, and tells when commits start and stop to fail.
    pub(super) fn committed(&self, failure: Option<&KafkaError>) {
        let failed_before = self.shared.commits_fail.swap(failure.is_some(), Ordering::AcqRel);
        if let Some(error) = failure {
            self.metrics.commit_failures.inc();
            if !failed_before {
                tracing::warn!(topic = %self.topic, cause = %text(error), "commits fail and are tried again");
            }
        } else if failed_before {
            tracing::info!(topic = %self.topic, "commits work again");
        }
    }

    fn give_up(&self, consumer: &Consumer, partitions: &[i32]) {
        if consumer.assignment_lost() {
            self.shared.joined.store(false, Ordering::Release);
            tracing::warn!(topic = %self.topic, ?partitions, "partitions were taken away: what is on its way will be read again");
        } else {
            if !self.shared.wait_idle(partitions, REVOKE_WAIT) {
                tracing::warn!(topic = %self.topic, ?partitions, "partitions go to another member before all that was read of them has settled: it will be read again");
            }
            self.commit_now(consumer, partitions);
        }
        self.shared.positions.lock().revoke(partitions);
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        // Whatever matters of this reaches the status, or a line of ours; the rest comes in floods.
        tracing::debug!(target: "librdkafka", ?level, fac, "{message}");
        if fac == "OFFSET"
            && let Some(reset) = Reset::parse(message)
        {
            self.shared.notes.lock().resets.push(reset);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", topic = %self.topic, error = %text(&error), "{reason}");
        // That all brokers are down says less than what went wrong before.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.shared.notes.lock().error = Some(shorten(reason));
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Ok(Statistics { mut topics }) = serde_json::from_slice(statistics)
            && let Some(topic) = topics.remove(&self.topic)
        {
            let positions = self.shared.positions.lock();
            let assigned = positions.assigned().filter_map(|partition| topic.partitions.get(&partition.to_string()));
            self.metrics.lag.set(assigned.map(PartitionStatistics::lag).sum());
        }
    }
}

impl ConsumerContext for Callbacks {
    fn pre_rebalance(&self, consumer: &Consumer, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = partitions(list);
                if let Err(cause) = start::commit_starts(consumer, &partitions) {
                    self.shared.notes.lock().start_error = Some(cause);
                }
                tracing::info!(topic = %self.topic, ?partitions, "partitions assigned");
                self.shared.positions.lock().assign(partitions);
            }
            Rebalance::Revoke(list) => {
                let partitions = partitions(list);
                self.give_up(consumer, &partitions);
                tracing::info!(topic = %self.topic, ?partitions, "partitions given up");
            }
            Rebalance::Error(error) => self.shared.notes.lock().start_error = Some(text(error)),
        }
    }

    fn post_rebalance(&self, consumer: &Consumer, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        if self.shared.notes.lock().paused
            && let Err(error) = consumer.pause(list)
        {
            tracing::debug!(topic = %self.topic, cause = %text(&error), "cannot pause");
        }
        self.shared.joined.store(true, Ordering::Release);
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let mut failure = None;
        let mut positions = self.shared.positions.lock();
        for entry in offsets.elements() {
            if let Err(error) = result.as_ref().map_err(Clone::clone).and(entry.error()) {
                positions.refused(entry.partition());
                failure = Some(error);
            }
        }
        drop(positions);
        self.committed(failure.as_ref());
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(TopicPartitionListElem::partition).collect()
}

#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    ls_offset: i64,
    committed_offset: i64,
}

impl PartitionStatistics {
    fn lag(&self) -> i64 {
        if self.committed_offset < 0 { 0 } else { (self.ls_offset - self.committed_offset).max(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_the_client_started_over() {
        let line = "in [3]: offset reset (at offset 17 (leader epoch 0), broker 1) to cached BEGINNING offset 20 \
                    (leader epoch -1): fetch failed due to requested offset not available on the broker: Broker: Offset out of range";
        assert_eq!(Reset::parse(line), Some(Reset { partition: 3, offset: 17 }));
        assert_eq!(Reset::parse("in [3]: something else"), None);
    }

    #[test]
    fn reads_the_lag_from_statistics() {
        let text = r#"{"name":"x","topics":{"in":{"topic":"in","partitions":{"0":{"ls_offset":30,"committed_offset":10,"x":1},
                       "-1":{"ls_offset":-1001,"committed_offset":-1001}}}}}"#;
        let mut statistics: Statistics = serde_json::from_str(text).unwrap();
        let topic = statistics.topics.remove("in").unwrap();
        assert_eq!(topic.partitions["0"].lag(), 20);
        assert_eq!(topic.partitions["-1"].lag(), 0);
    }
}
