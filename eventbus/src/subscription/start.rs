//! Where a new subscription starts.

use super::ledger::LedgerName;
use super::token::Token;
use crate::bus::{self, Mark, Partition, Position};

/// Where a subscription starts in a partition in which it has no position yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Everywhere alike.
    At(bus::From),
    /// At the offsets of these topics; any other topic is read from its tail.
    Offsets(Vec<Token>),
}

impl From<bus::From> for Start {
    fn from(at: bus::From) -> Self {
        Self::At(at)
    }
}

impl Start {
    /// Where in a partition.
    pub(super) fn of(&self, partition: &Partition) -> bus::From {
        match self {
            Self::At(at) => *at,
            Self::Offsets(tokens) => tokens
                .iter()
                .find(|token| token.topic == partition.topic)
                .map_or(bus::From::Next, |token| token.start(partition.index)),
        }
    }

    /// The position of a new ledger. An offset that the log does not hold any more, or never did, gives way to the log.
    pub(super) fn place(&self, name: &LedgerName, mark: &Mark) -> Position {
        let at = mark.at.min(mark.end).max(mark.first);
        if at != mark.at {
            let (subscription, topic, partition) = (&name.subscription, &name.partition.topic, name.partition.index);
            tracing::warn!(%subscription, %topic, partition, asked = %mark.at, starts = %at, "the log does not hold the place to start at");
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::names::{ObjectName, SubscriptionId, TopicName};

    use super::*;

    fn partition(topic: &str, index: u16) -> Partition {
        Partition { topic: TopicName::parse(topic), index }
    }

    #[test]
    fn an_offset_counts_for_its_own_topic() {
        let token = Token { topic: TopicName::parse("a"), positions: [(1, Position(7))].into() };
        let start = Start::Offsets(vec![token]);
        let of = |topic, index| start.of(&partition(topic, index));
        assert_eq!(of("a", 1), bus::From::At(Position(7)));
        assert_eq!((of("a", 0), of("b", 1)), (bus::From::First, bus::From::Next));
        assert_eq!(Start::from(bus::From::First).of(&partition("b", 1)), bus::From::First);
    }

    #[test]
    fn a_place_outside_of_the_log_gives_way_to_it() {
        let subscription = SubscriptionId { owner: ObjectName::new("n", "t"), subscriber: "s".into() };
        let name = LedgerName { subscription, partition: partition("a", 0) };
        let place = |at| {
            let [at, first, end] = [at, 10, 20].map(Position);
            Start::At(bus::From::Next).place(&name, &Mark { at, first, end, ahead: 0, exact: true })
        };
        assert_eq!([5, 10, 15, 20, 25].map(place), [10, 10, 15, 20, 20].map(Position));
    }
}
