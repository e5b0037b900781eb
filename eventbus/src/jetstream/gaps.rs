//! What a reader passes over: sequences of other partitions, or of messages that the servers deleted before it came to them. The two
//! look alike, but servers delete from the front: what lies behind the first message that is kept was not deleted.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::locate::Epoch;
use crate::bus::Position;

/// Sequences between two messages of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    from: u64,
    to: u64,
    /// When the message before was appended; what lies here came later.
    after: SystemTime,
}

/// What was passed over and not judged yet, in order.
#[derive(Debug, Default)]
pub(super) struct Gaps(Vec<Gap>);

impl Gaps {
    /// The message after `from`, exclusively, is at `to`.
    pub(super) fn pass(&mut self, from: u64, to: u64, after: SystemTime) {
        if from < to {
            self.0.push(Gap { from, to, after });
        }
    }

    /// It is passed over again from here on.
    pub(super) fn forget_from(&mut self, next: u64) {
        self.0.retain(|gap| gap.from < next);
    }

    /// Those before `end`, to be judged.
    pub(super) fn take(&mut self, end: u64) -> Passed {
        let count = self.0.partition_point(|gap| gap.from < end);
        Passed(self.0.drain(..count).collect())
    }
}

/// What one batch passes over.
#[derive(Debug, Default)]
pub(super) struct Passed(Vec<Gap>);

impl Passed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where nothing of it can have come to its age by `now`. A leader's clock may differ from that of the one before by half of
    /// `age`.
    pub(super) fn is_younger(&self, age: Duration, now: SystemTime) -> bool {
        self.0.first().is_none_or(|gap| now.duration_since(gap.after).is_ok_and(|old| old < age / 2))
    }

    /// What of it may have been deleted, where the stream begins at `first` after all of it was passed.
    pub(super) fn before(&self, first: u64, epoch: Epoch) -> Vec<Range<Position>> {
        let cut = |gap: &Gap| epoch.at(gap.from)..epoch.at(gap.to.min(first));
        self.0.iter().filter(|gap| gap.from < first).map(cut).collect()
    }
}

/// The servers' clock, as an answer of theirs told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) said: SystemTime,
    /// When they were asked: they said it later.
    pub(super) asked: Instant,
}

impl Clock {
    /// The time there now, at the latest.
    pub(super) fn now(&self) -> SystemTime {
        self.said + self.asked.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn range(from: u64, to: u64) -> Range<Position> {
        Position(from.into())..Position(to.into())
    }

    #[test]
    fn what_the_stream_begins_behind_may_be_lost() {
        let mut gaps = Gaps::default();
        for (from, to) in [(3, 5), (6, 6), (7, 10), (12, 14)] {
            gaps.pass(from, to, at(100));
        }
        let passed = gaps.take(12);
        assert_eq!(passed.before(3, Epoch::default()), []);
        assert_eq!(passed.before(4, Epoch::default()), [range(3, 4)]);
        assert_eq!(passed.before(9, Epoch::default()), [range(3, 5), range(7, 9)]);
        assert_eq!(passed.before(99, Epoch::default()), [range(3, 5), range(7, 10)]);
        gaps.pass(20, 30, at(100));
        gaps.forget_from(20);
        assert_eq!(gaps.take(u64::MAX).before(99, Epoch::default()), [range(12, 14)]);
    }

    #[test]
    fn what_has_not_come_to_its_age_is_not_deleted() {
        let mut gaps = Gaps::default();
        gaps.pass(3, 5, at(100));
        gaps.pass(6, 8, at(160));
        let (passed, minute) = (gaps.take(9), Duration::from_secs(60));
        assert!(passed.is_younger(minute, at(129)) && !passed.is_younger(minute, at(130)));
        assert!(!passed.is_younger(minute, at(99)), "a clock that cannot be");
        assert!(Passed::default().is_younger(Duration::ZERO, at(0)));
    }
}
