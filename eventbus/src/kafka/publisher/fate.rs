//! What an error means for a record, and for what was published after it.

use evoke_connect::kafka::words::text;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::bus::PublishError;

/// What is to become of a record that a client did not get stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Published by another client: this one cannot go on, or was told to end.
    Again,
    /// The brokers do not take a batch of this size.
    TooLarge,
    /// The brokers do not take the batch, or the topic.
    Refused,
    /// There is no such topic or partition.
    NoTopic,
    /// Whoever published it is told.
    Failed,
}

/// What an error means.
pub(super) fn of(error: &KafkaError) -> Fate {
    let Some(code) = error.rdkafka_error_code() else { return Fate::Failed };
    match code {
        // The client lost count of what the brokers have.
        Code::Fatal
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::Fenced
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        // It was ended.
        | Code::PurgeQueue
        | Code::PurgeInflight
        // Its connection was.
        | Code::BrokerTransportFailure
        | Code::Resolve
        | Code::SSL
        | Code::Authentication
        | Code::BadMessage => Fate::Again,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Fate::TooLarge,
        Code::InvalidDifferentRecord => Fate::Refused,
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => Fate::NoTopic,
        // The brokers' own codes; below are those of the client.
        _ if code as i32 >= Code::Unknown as i32 => Fate::Refused,
        _ => Fate::Failed,
    }
}

/// An error, for whoever published the record.
pub(super) fn uncertain(error: &KafkaError) -> PublishError {
    PublishError::Uncertain(
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
                "the topic is no longer there: make it again, or start evoke again".to_owned()
            }
            _ => text(error),
        }
        .into(),
    )
}

/// The same for a record that a client left which gave up.
pub(super) fn given_up(cause: &str) -> PublishError {
    PublishError::Uncertain(format!("the Kafka client gave up: {cause}").into())
}

/// The same for a record that was under way when the bus was closed.
pub(super) fn closed() -> PublishError {
    PublishError::Uncertain("the bus was closed before the brokers had it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_loses_is_published_again_and_what_brokers_refuse_is_not_by_the_same() {
        let fate = |code| of(&KafkaError::MessageProduction(code));
        for code in [Code::Fatal, Code::PurgeQueue, Code::PurgeInflight, Code::OutOfOrderSequenceNumber] {
            assert_eq!(fate(code), Fate::Again, "{code}");
        }
        for code in [Code::MessageSizeTooLarge, Code::MessageBatchTooLarge] {
            assert_eq!(fate(code), Fate::TooLarge, "{code}");
        }
        for code in [Code::InvalidRecord, Code::InvalidDifferentRecord, Code::TopicAuthorizationFailed, Code::Unknown] {
            assert_eq!(fate(code), Fate::Refused, "{code}");
        }
        for code in [Code::UnknownTopic, Code::UnknownPartition, Code::UnknownTopicOrPartition] {
            assert_eq!(fate(code), Fate::NoTopic, "{code}");
        }
        assert_eq!(fate(Code::QueueFull), Fate::Failed);
        assert_eq!(of(&KafkaError::Canceled), Fate::Failed);
    }
}
