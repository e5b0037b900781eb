//! Which entries of a stream its group was given, as far as a source knows, and which of those are not settled: where a group goes
//! on that was lost.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

/// An entry's id, in the order of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId {
    millis: u64,
    sequence: u64,
}

impl EntryId {
    fn parse(text: &str) -> Option<Self> {
        let (millis, sequence) = text.split_once('-')?;
        Some(Self { millis: millis.parse().ok()?, sequence: sequence.parse().ok()? })
    }

    /// The greatest id that is less.
    fn before(self) -> Self {
        let Self { millis, sequence } = self;
        match (millis.checked_sub(1), sequence.checked_sub(1)) {
            (_, Some(sequence)) => Self { millis, sequence },
            (Some(millis), None) => Self { millis, sequence: u64::MAX },
            (None, None) => self,
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

/// What the group was given. The unsettled entries are bounded by what a source may have under way.
#[derive(Debug, Default)]
pub(super) struct Given {
    last: Option<EntryId>,
    unsettled: BTreeSet<EntryId>,
}

impl Given {
    /// The group has given out everything up to this entry.
    pub(super) fn up_to(&mut self, id: &str) {
        self.last = EntryId::parse(id).or(self.last);
    }

    /// The same, where nothing else is known.
    pub(super) fn at_first(&mut self, id: &str) {
        self.last = self.last.or(EntryId::parse(id));
    }

    /// The group was made again and goes on after this entry.
    pub(super) fn goes_on_after(&mut self, id: EntryId) {
        self.last = Some(id);
    }

    /// An entry is under way.
    pub(super) fn took(&mut self, id: &str) {
        self.unsettled.extend(EntryId::parse(id));
    }

    /// An entry is settled.
    pub(super) fn settled(&mut self, id: &str) {
        if let Some(id) = EntryId::parse(id) {
            self.unsettled.remove(&id);
        }
    }

    /// Forgets what is not under way.
    pub(super) fn keep(&mut self, under_way: &HashSet<String>) {
        self.unsettled.retain(|id| under_way.contains(&id.to_string()));
    }

    /// After which entry a group goes on that was lost, so that nothing is passed by that is not settled; `None` where nothing is
    /// known.
    pub(super) fn restart(&self) -> Option<EntryId> {
        let before = self.unsettled.first().map(|first| first.before());
        match (self.last, before) {
            (Some(last), Some(before)) => Some(last.min(before)),
            (last, before) => last.or(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restart(given: &Given) -> Option<String> {
        given.restart().map(|id| id.to_string())
    }

    #[test]
    fn a_lost_group_goes_on_before_the_first_entry_that_is_not_settled() {
        let mut given = Given::default();
        assert_eq!(restart(&given), None);
        given.at_first("4-7");
        given.at_first("9-9");
        assert_eq!(restart(&given).as_deref(), Some("4-7"));
        for id in ["5-0", "5-1", "10-0"] {
            given.took(id);
            given.up_to(id);
        }
        assert_eq!(restart(&given).as_deref(), Some("4-18446744073709551615"));
        given.settled("5-0");
        given.settled("10-0");
        assert_eq!(restart(&given).as_deref(), Some("5-0"), "an earlier entry is not settled yet");
        given.settled("5-1");
        assert_eq!(restart(&given).as_deref(), Some("10-0"));
    }

    #[test]
    fn what_another_consumer_was_given_is_not_passed_by() {
        let mut given = Given::default();
        given.up_to("10-0");
        // Taken over from one that was given the entries before it too.
        given.took("15-0");
        assert_eq!(restart(&given).as_deref(), Some("10-0"));
    }

    #[test]
    fn what_others_took_over_holds_nothing_back() {
        let mut given = Given::default();
        for id in ["1-0", "2-0", "3-0"] {
            given.took(id);
        }
        given.up_to("3-0");
        given.keep(&HashSet::from(["3-0".to_owned()]));
        assert_eq!(restart(&given).as_deref(), Some("2-18446744073709551615"));
        given.goes_on_after(EntryId { millis: 2, sequence: 5 });
        given.keep(&HashSet::new());
        assert_eq!(restart(&given).as_deref(), Some("2-5"));
    }

    #[test]
    fn what_is_no_id_changes_nothing() {
        let mut given = Given::default();
        given.up_to("1-2");
        for text in ["", "7", "a-b", "-1"] {
            given.up_to(text);
            given.took(text);
        }
        assert_eq!(restart(&given).as_deref(), Some("1-2"));
        assert_eq!(EntryId { millis: 0, sequence: 0 }.before().to_string(), "0-0");
    }
}
