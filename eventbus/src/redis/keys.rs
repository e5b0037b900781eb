//! What the bus calls its keys, and positions as the ids of entries.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evoke_api::names::TopicName;

use crate::bus::Position;

/// Which stream belongs to which partition of which topic. No namespace starts with `_`.
pub(super) const STREAMS: &str = "evoke:_streams";
/// The counter of revisions, and which hashes of state there are. All state is in one slot of a cluster.
pub(super) const STATE: &str = "evoke:{_state}";

/// The stream of a partition.
pub(super) fn stream(topic: &TopicName, index: u16) -> String {
    let mut key = "evoke".to_owned();
    for part in topic.parts() {
        key.push(':');
        key.push_str(part);
    }
    if index > 0 {
        // Writing to a string cannot fail.
        _ = write!(key, ":{index}");
    }
    key
}

/// A key that the server of this one has too, and under which nothing stays.
pub(super) fn touched(key: &str) -> String {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or(key, |(tag, _)| tag);
    format!("evoke:_wait:{{{tag}}}")
}

/// The hash that a key of state is in: one for what comes before its first `/`.
pub(super) fn state(key: &str) -> String {
    format!("{STATE}:{}", segment(key))
}

pub(super) fn segment(key: &str) -> &str {
    key.split_once('/').map_or(key, |(segment, _)| segment)
}

/// An entry's id as a position: milliseconds, then a number within them.
pub(super) fn position(id: &str) -> Option<u128> {
    let (millis, number) = id.split_once('-')?;
    let (millis, number): (u64, u64) = (millis.parse().ok()?, number.parse().ok()?);
    Some(u128::from(millis) << 64 | u128::from(number))
}

/// The id at a position.
pub(super) fn id(position: u128) -> String {
    format!("{}-{}", position >> 64, position & u128::from(u64::MAX))
}

/// When the entry at a position was appended.
pub(super) fn time(position: u128) -> SystemTime {
    let millis = u64::try_from(position >> 64).unwrap_or(u64::MAX);
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// The first position that an entry of this time or later may have.
pub(super) fn at_time(time: SystemTime) -> u128 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u128::from(u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)) << 64
}

/// The position after this one.
pub(super) fn after(position: u128) -> Position {
    Position(position.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use evoke_connect::redis::slots::slot;

    use super::*;

    #[test]
    fn streams_are_named_after_topics() {
        let topic = TopicName::parse("shop.orders.a_-b");
        assert_eq!(stream(&topic, 0), "evoke:shop:orders:a_-b");
        assert_eq!(stream(&topic, 12), "evoke:shop:orders:a_-b:12");
        assert_eq!(stream(&TopicName::dead_letters(), 0), "evoke:_evoke:deadletters");
        assert_eq!(state("ledger/ns/t"), "evoke:{_state}:ledger");
        assert_eq!(state("doc"), "evoke:{_state}:doc");
    }

    #[test]
    fn what_is_touched_is_on_the_same_server() {
        for key in ["evoke:shop:orders:a:12", STATE, STREAMS] {
            assert_eq!(slot(&touched(key)), slot(key), "{key}");
        }
        assert_eq!(touched(STATE), "evoke:_wait:{_state}");
    }

    #[test]
    fn positions_are_ids_and_order_like_them() {
        let at = position("1763892000123-7").unwrap();
        assert_eq!(id(at), "1763892000123-7");
        assert_eq!(id(at - 8), "1763892000122-18446744073709551615");
        assert!(position("1763892000123-18446744073709551615") < position("1763892000124-0"));
        assert_eq!(at_time(time(at)) >> 64, 1_763_892_000_123);
        for none in ["", "1", "a-1", "1-", "-1", "1-2-3"] {
            assert_eq!(position(none), None, "{none}");
        }
    }
}
