//! How far the sources of one event got that ran in this process, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

/// Where the last source of an event left off, for the one that takes its place. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct LeftOff(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    since: Option<DateTime<Utc>>,
    looked: Option<DateTime<Utc>>,
    /// The oldest first.
    owed: VecDeque<DateTime<Utc>>,
}

impl LeftOff {
    /// Since when this process has run the event, or waited for its turn to: since this was first asked.
    pub fn since(&self) -> DateTime<Utc> {
        *self.0.lock().since.get_or_insert_with(Utc::now)
    }

    /// Up to when all ticks that were due have been found; `None` before the first look.
    pub(super) fn looked(&self) -> Option<DateTime<Utc>> {
        self.0.lock().looked
    }

    /// The ticks that were found and are not settled, but for those up to `fired`.
    pub(super) fn owed(&self, fired: Option<DateTime<Utc>>) -> VecDeque<DateTime<Utc>> {
        let mut state = self.0.lock();
        state.owed.retain(|tick| fired.is_none_or(|fired| *tick > fired));
        state.owed.clone()
    }

    /// Up to `looked`, these ticks were due and no others.
    pub(super) fn found(&self, looked: DateTime<Utc>, ticks: &[DateTime<Utc>]) {
        let mut state = self.0.lock();
        state.looked = Some(looked);
        state.owed.extend(ticks);
    }

    /// A tick is settled, and so is every one before it.
    pub(super) fn settled(&self, tick: DateTime<Utc>) {
        let mut state = self.0.lock();
        while state.owed.front().is_some_and(|owed| *owed <= tick) {
            state.owed.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn what_is_found_is_owed_until_it_is_settled() {
        let (left_off, next) = (LeftOff::default(), LeftOff::default());
        assert_eq!((left_off.looked(), left_off.owed(None).len()), (None, 0));
        left_off.found(at(3), &[at(1), at(2), at(3)]);
        left_off.found(at(5), &[]);
        left_off.settled(at(2));
        let same = left_off.clone();
        assert_eq!(same.looked(), Some(at(5)));
        assert_eq!(same.owed(Some(at(2))), [at(3)]);
        assert!(same.owed(Some(at(3))).is_empty() && left_off.owed(None).is_empty(), "another process has fired it");
        assert!(same.since() == left_off.since() && next.since() >= left_off.since());
    }
}
