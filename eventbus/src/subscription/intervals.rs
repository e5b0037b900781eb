//! A set of positions as the intervals it is made of. Positions are not dense, so that an interval speaks of whatever lies in it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bus::Position;

/// Positions, as disjoint closed intervals. Written as text: `3-7,9-9`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Intervals {
    /// First to last.
    of: BTreeMap<u128, u128>,
}

impl Intervals {
    /// One interval, both ends included; empty when they are the wrong way round.
    pub fn between(first: Position, last: Position) -> Self {
        let mut one = Self::default();
        one.insert(first, last);
        one
    }

    /// Adds an interval, both ends included. What touches it becomes one with it.
    pub fn insert(&mut self, first: Position, last: Position) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first.0, last.0);
        while let Some((from, to)) = self.of.range(..=last.saturating_add(1)).next_back().map(|(f, t)| (*f, *t)) {
            if to.saturating_add(1) < first {
                break;
            }
            self.of.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.of.insert(first, last);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        for (first, last) in other.iter() {
            self.insert(first, last);
        }
    }

    /// True if `at` lies in it.
    pub fn contains(&self, at: Position) -> bool {
        self.of.range(..=at.0).next_back().is_some_and(|(_, last)| at.0 <= *last)
    }

    /// True if a position may lie in both.
    pub fn meets(&self, other: &Self) -> bool {
        let begins_in = |a: &Self, b: &Self| a.iter().any(|(first, _)| b.contains(first));
        begins_in(self, other) || begins_in(other, self)
    }

    /// The first and last position of each interval, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Position, Position)> {
        self.of.iter().map(|(first, last)| (Position(*first), Position(*last)))
    }

    /// The lowest position.
    pub fn first(&self) -> Option<Position> {
        self.of.first_key_value().map(|(first, _)| Position(*first))
    }

    /// The highest position.
    pub fn last(&self) -> Option<Position> {
        self.of.last_key_value().map(|(_, last)| Position(*last))
    }

    /// How many intervals there are.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// True if nothing lies in it.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// What of it lies below `end`.
    #[must_use]
    pub fn below(&self, end: Position) -> Self {
        let Some(last) = end.0.checked_sub(1) else { return Self::default() };
        let cut = |(from, to): (&u128, &u128)| (*from, (*to).min(last));
        Self { of: self.of.range(..=last).map(cut).collect() }
    }

    /// Forgets what lies below `first`.
    pub fn forget_below(&mut self, first: Position) {
        let kept = self.of.iter().filter(|(_, last)| **last >= first.0);
        self.of = kept.map(|(from, last)| ((*from).max(first.0), *last)).collect();
    }

    /// Takes one position out.
    pub fn remove(&mut self, at: Position) {
        let Some((from, to)) = self.of.range(..=at.0).next_back().map(|(from, to)| (*from, *to)) else { return };
        if to < at.0 {
            return;
        }
        self.of.remove(&from);
        if from < at.0 {
            self.of.insert(from, at.0 - 1);
        }
        if at.0 < to {
            self.of.insert(at.0 + 1, to);
        }
    }
}

impl fmt::Display for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.of.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{first}-{last}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

impl Serialize for Intervals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Intervals {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut intervals = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let ends = part.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
            let (first, last) = ends.ok_or_else(|| serde::de::Error::custom(format!("{part:?} is no interval")))?;
            intervals.insert(Position(first), Position(last));
        }
        Ok(intervals)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn positions(intervals: &Intervals) -> BTreeSet<u128> {
        intervals.iter().flat_map(|(first, last)| first.0..=last.0).collect()
    }

    #[test]
    fn what_touches_is_one() {
        let mut set = Intervals::between(Position(3), Position(5));
        set.insert(Position(9), Position(9));
        set.insert(Position(6), Position(7));
        assert_eq!(set.to_string(), "3-7,9-9");
        set.insert(Position(0), Position(u128::MAX));
        assert_eq!((set.len(), set.first(), set.last()), (1, Some(Position(0)), Some(Position(u128::MAX))));
        assert!(Intervals::between(Position(2), Position(1)).is_empty());
    }

    #[test]
    fn is_read_as_it_was_written() {
        let mut set = Intervals::between(Position(3), Position(u128::MAX));
        set.insert(Position(0), Position(0));
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<Intervals>(&text).unwrap(), set);
        assert!(serde_json::from_str::<Intervals>("\"3\"").is_err());
        assert!(serde_json::from_str::<Intervals>("\"\"").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn does_as_a_set_of_positions(steps in prop::collection::vec((0..5u8, 0..40u128, 0..10u128), 0..40)) {
            let (mut set, mut model) = (Intervals::default(), BTreeSet::new());
            for (step, at, more) in steps {
                match step {
                    0 | 1 => {
                        set.insert(Position(at), Position(at + more));
                        model.extend(at..=at + more);
                    }
                    2 => {
                        set.remove(Position(at));
                        model.remove(&at);
                    }
                    3 => {
                        set = set.below(Position(at + 20));
                        model.retain(|p| *p < at + 20);
                    }
                    _ => {
                        set.forget_below(Position(more));
                        model.retain(|p| *p >= more);
                    }
                }
                prop_assert_eq!(positions(&set), model.clone());
                prop_assert!(set.iter().zip(set.iter().skip(1)).all(|((_, last), (next, _))| last.0 + 1 < next.0));
            }
            for at in 0..60 {
                prop_assert_eq!(set.contains(Position(at)), model.contains(&at));
            }
        }
    }
}
