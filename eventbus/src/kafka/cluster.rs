//! What is asked of the brokers: whether they are there, which topics and offsets there are. The client's calls block, and run where
//! blocking is allowed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_connect::kafka::Brokers;
use evoke_connect::kafka::words::text;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::client::{self, Consumer, Ears, Told};
use crate::bus::BusError;

/// How long one question may take.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long a reader's may take that asks for the first time after a cut.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Questions that are asked at once.
const QUESTIONS: usize = 8;
/// Those of readers that look after a cut, for the first time and for another one: there may be many, and a silent broker keeps each waiting.
const CHECKS: usize = 32;

/// One partition as Kafka names it.
pub(super) type Place = (Arc<str>, i32);

/// Who asks. Nobody waits for the turn of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Whoever has a question.
    Any,
    /// A reader that looks after a cut whether its log is what it was.
    Check,
    /// The same, after it had no answer: its broker may be silent for long.
    CheckAgain,
}

impl Turn {
    fn patience(self) -> Duration {
        if self == Self::Check { FIRST_ANSWER } else { ANSWER }
    }
}

/// The brokers, to be asked.
pub(super) struct Cluster {
    asker: Arc<Consumer>,
    brokers: Brokers,
    turns: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    checks_again: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) first: i64,
    pub(super) end: i64,
}

impl Cluster {
    pub(super) fn new(
        brokers: &Brokers,
        name: &str,
        told: &Arc<Told>,
        tasks: &TaskTracker,
    ) -> Result<Self, KafkaError> {
        let asker = client::asking(brokers, name).create_with_context(Ears::new(told))?;
        let turns = |count| Arc::new(Semaphore::new(count));
        Ok(Self {
            asker: Arc::new(asker),
            brokers: brokers.clone(),
            turns: turns(QUESTIONS),
            checks: turns(CHECKS),
            checks_again: turns(CHECKS),
            tasks: tasks.clone(),
        })
    }

    /// Takes in what the client has to say.
    pub(super) fn listen(&self) {
        client::listen(&self.asker);
    }

    fn turns(&self, turn: Turn) -> &Arc<Semaphore> {
        match turn {
            Turn::Any => &self.turns,
            Turn::Check => &self.checks,
            Turn::CheckAgain => &self.checks_again,
        }
    }

    /// Runs what waits for the brokers.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        self.ask_in(Turn::Any, question).await
    }

    async fn ask_in<T: Send + 'static>(
        &self,
        turn: Turn,
        question: impl FnOnce(&Consumer) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        let turn = Arc::clone(self.turns(turn)).acquire_owned().await.map_err(|_| BusError::Closed)?;
        let asker = Arc::clone(&self.asker);
        let asked = self.tasks.spawn_blocking(move || {
            let answer = question(&asker);
            drop(turn);
            answer
        });
        asked.await.unwrap_or(Err(BusError::Closed))
    }

    /// Whether a broker answers within `patience`, and, where it was `away`, is the one that it should be. Says whether it knows a topic.
    ///
    /// # Errors
    /// The cause, and whether the client knows one.
    pub(super) async fn look(
        &self,
        topic: &str,
        patience: Duration,
        away: bool,
        told: Arc<Told>,
    ) -> Result<bool, (String, bool)> {
        let (topic, brokers) = (topic.to_owned(), self.brokers.clone());
        let looked = self.ask(move |asker| {
            if away && let Err(cause) = brokers.check_server_name() {
                return Ok(Err((cause, true)));
            }
            if let Ok(metadata) = asker.fetch_metadata(Some(&topic), patience) {
                let error = metadata.topics().first().and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
                return Ok(Ok(!error.is_some_and(is_missing)));
            }
            // The reason comes as an event of its own, which only a poll brings.
            client::listen(asker);
            let told = told.cause();
            Ok(Err((brokers.unreachable(told.as_deref()), told.is_some())))
        });
        looked.await.unwrap_or_else(|error| Err((error.to_string(), false)))
    }

    /// How many partitions a topic has; `None` if it is not there.
    pub(super) async fn partitions(&self, topic: &str) -> Result<Option<usize>, BusError> {
        let topic = topic.to_owned();
        self.ask(move |asker| {
            let metadata = asker
                .fetch_metadata(Some(&topic), ANSWER)
                .map_err(|e| unavailable("list the partitions", &topic, &e))?;
            let Some(found) = metadata.topics().first() else { return Ok(None) };
            match found.error().map(RDKafkaErrorCode::from) {
                None => {}
                Some(error) if is_missing(error) => return Ok(None),
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => return Err(forbidden(&topic)),
                Some(error) => return Err(BusError::Unavailable(format!("topic {topic:?}: {error}").into())),
            }
            let led = found.partitions().iter().all(|partition| partition.leader() >= 0);
            if !led || found.partitions().is_empty() {
                return Err(BusError::Unavailable(format!("topic {topic:?} has partitions without a leader").into()));
            }
            Ok(Some(found.partitions().len()))
        })
        .await
    }

    /// The ends of partitions, in the order asked.
    pub(super) async fn ends(&self, places: Vec<Place>) -> Result<Vec<Ends>, BusError> {
        self.ends_in(Turn::Any, places).await
    }

    /// The same, in a turn of this kind.
    pub(super) async fn ends_in(&self, turn: Turn, places: Vec<Place>) -> Result<Vec<Ends>, BusError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        self.ask_in(turn, move |asker| {
            let at = |offset: Offset| {
                let asked: Vec<_> = places.iter().map(|place| (place.clone(), offset)).collect();
                offsets(asker, &asked, turn.patience())
            };
            // In this order: what is trimmed in between cannot put the first behind the end.
            let (first, end) = (at(Offset::Beginning)?, at(Offset::End)?);
            Ok(first.into_iter().zip(end).map(|(first, end)| Ends { first, end: end.max(first) }).collect())
        })
        .await
    }

    /// The offset of the first record appended at `time` or later, for each partition; `None` where there is none.
    pub(super) async fn since(&self, asked: Vec<(Place, SystemTime)>) -> Result<Vec<Option<i64>>, BusError> {
        self.ask(move |asker| {
            let mut found = vec![None; asked.len()];
            let mut left: Vec<usize> = (0..asked.len()).collect();
            // One question names each partition once.
            while !left.is_empty() {
                let mut round = BTreeMap::new();
                left.retain(|index| match asked.get(*index) {
                    Some((place, time)) => match round.entry(place.clone()) {
                        std::collections::btree_map::Entry::Vacant(vacant) => {
                            vacant.insert((*index, *time));
                            false
                        }
                        std::collections::btree_map::Entry::Occupied(_) => true,
                    },
                    None => false,
                });
                let times: Vec<_> =
                    round.iter().map(|(place, (_, time))| (place.clone(), Offset::Offset(millis_up(*time)))).collect();
                for ((index, _), offset) in round.values().zip(offsets(asker, &times, ANSWER)?) {
                    if let Some(found) = found.get_mut(*index) {
                        *found = (offset >= 0).then_some(offset);
                    }
                }
            }
            Ok(found)
        })
        .await
    }
}

/// A time in milliseconds since 1970, a fraction rounded up.
fn millis_up(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

/// Asks for one offset a partition: its beginning, its end, or the first at a time in milliseconds; below 0 for none.
fn offsets(asker: &Consumer, asked: &[(Place, Offset)], patience: Duration) -> Result<Vec<i64>, BusError> {
    let what = "find offsets";
    let topic = asked.first().map_or("", |((topic, _), _)| topic);
    let mut list = TopicPartitionList::with_capacity(asked.len());
    for ((topic, partition), offset) in asked {
        list.add_partition_offset(topic, *partition, *offset).map_err(|e| unavailable(what, topic, &e))?;
    }
    let list = asker.offsets_for_times(list, patience).map_err(|error| match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition,
        ) => no_topic(topic),
        _ => unavailable(what, topic, &error),
    })?;
    asked
        .iter()
        .map(|((topic, partition), _)| {
            let found = list.find_partition(topic, *partition).ok_or_else(|| no_topic(topic))?;
            match found.error().map_err(|error| (error.rdkafka_error_code(), error)) {
                Ok(()) => {}
                Err((Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic), _)) => {
                    return Err(no_topic(topic));
                }
                Err((Some(RDKafkaErrorCode::TopicAuthorizationFailed), _)) => return Err(forbidden(topic)),
                Err((_, error)) => return Err(unavailable(what, topic, &error)),
            }
            Ok(found.offset().to_raw().unwrap_or(-1))
        })
        .collect()
}

fn is_missing(error: RDKafkaErrorCode) -> bool {
    matches!(error, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)
}

/// A topic that is not there, by the name that Kafka has it under; who asked puts the bus's own name in its place.
fn no_topic(topic: &str) -> BusError {
    BusError::NoTopic(evoke_api::names::TopicName::parse(topic))
}

fn forbidden(topic: &str) -> BusError {
    BusError::Broken(
        format!("the brokers do not let this user use topic {topic:?}: allow it to describe, read and write topics")
            .into(),
    )
}

/// A topic that this user may not read.
pub(super) fn unreadable(topic: &str) -> BusError {
    BusError::Broken(format!("the brokers do not let this user read topic {topic}").into())
}

/// An answer that did not come.
pub(super) fn unavailable(what: &str, topic: &str, error: &KafkaError) -> BusError {
    BusError::Unavailable(format!("cannot {what} of topic {topic:?}: {}", text(error)).into())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_asks_a_silent_broker_again_holds_up_nobody_else() {
        let brokers = Brokers { addresses: "127.0.0.1:1".to_owned(), ..Brokers::default() };
        let cluster = Cluster::new(&brokers, "b", &Arc::default(), &TaskTracker::new()).unwrap();
        for (turn, others) in [(Turn::CheckAgain, vec![Turn::Any, Turn::Check]), (Turn::Check, vec![Turn::Any])] {
            assert_eq!(cluster.turns(turn).forget_permits(CHECKS), CHECKS);
            assert_eq!(cluster.ask_in(turn, |_| Ok(())).now_or_never(), None);
            for other in others {
                assert_eq!(cluster.ask_in(other, |_| Ok(())).await, Ok(()));
            }
        }
    }
}
