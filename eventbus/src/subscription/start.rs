//! Where a new subscription starts.

use super::ledger::{Ledger, LedgerName};
use super::token::Token;
use crate::bus::{self, Mark, Partition};

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

    /// A new ledger. An offset that the log does not hold any more, or never did, gives way to the log.
    pub(super) fn ledger(name: &LedgerName, mark: &Mark) -> Ledger {
        let place = mark.point();
        if place.at != mark.at {
            let (subscription, topic, partition) = (&name.subscription, &name.partition.topic, name.partition.index);
            tracing::warn!(%subscription, %topic, partition, asked = %mark.at, starts = %place.at, "the log does not hold the place to start at");
        }
        Ledger::starting_at(place)
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::names::{ObjectName, SubscriptionId, TopicName};

    use super::*;
    use crate::bus::{Point, Position};

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
        let start = |at: u64| {
            let ahead = 20 - at.clamp(10, 20);
            let [at, first, end] = [at, 10, 20].map(|at| Position(at.into()));
            Start::ledger(&name, &Mark { at, first, end, ahead, exact: true, appended: Some(1020) })
        };
        let ledger = |at: u64| Ledger::starting_at(Point { at: Position(at.into()), before: Some(1000 + at) });
        assert_eq!([5, 10, 15, 20, 25].map(start), [10, 10, 15, 20, 20].map(ledger));
    }
}
