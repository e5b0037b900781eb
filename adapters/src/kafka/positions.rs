//! Which records of which partition are handed over, settled and committed. Pure: it knows neither client nor clock.

use std::collections::BTreeMap;

/// The end of what one batch holds of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) partition: i32,
    /// The assignment that the records were read under.
    pub(super) epoch: u64,
    /// The offset after the last record.
    pub(super) next: i64,
}

/// The partitions that this member reads.
#[derive(Debug, Default)]
pub(super) struct Positions {
    epoch: u64,
    partitions: BTreeMap<i32, Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    epoch: u64,
    /// Batches handed over and not settled.
    in_flight: usize,
    /// The offset after the last record that settled. It goes back when the topic was made anew.
    settled: Option<i64>,
    /// The offset that was sent to the broker last, whether it has answered or not.
    requested: Option<i64>,
}

impl Positions {
    /// Starts afresh with partitions that were just assigned.
    pub(super) fn assign(&mut self, partitions: impl IntoIterator<Item = i32>) {
        self.epoch += 1;
        let epoch = self.epoch;
        let fresh = partitions.into_iter().map(|p| (p, Progress { epoch, ..Progress::default() }));
        self.partitions.extend(fresh);
    }

    /// Forgets partitions that are no longer this member's; what of them settles later changes nothing.
    pub(super) fn revoke(&mut self, partitions: &[i32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
    }

    /// The assignment under which the partition is read now; `None` when it is not.
    pub(super) fn epoch(&self, partition: i32) -> Option<u64> {
        self.partitions.get(&partition).map(|progress| progress.epoch)
    }

    /// The partitions that this member has.
    pub(super) fn assigned(&self) -> impl Iterator<Item = i32> {
        self.partitions.keys().copied()
    }

    fn current(&mut self, mark: &Mark) -> Option<&mut Progress> {
        self.partitions.get_mut(&mark.partition).filter(|progress| progress.epoch == mark.epoch)
    }

    /// Notes that a batch went to the outlet.
    pub(super) fn hand_over(&mut self, marks: &[Mark]) {
        for mark in marks {
            if let Some(progress) = self.current(mark) {
                progress.in_flight += 1;
            }
        }
    }

    /// Notes that a batch is settled, and every batch before it.
    pub(super) fn settle(&mut self, marks: &[Mark]) {
        for mark in marks {
            if let Some(progress) = self.current(mark) {
                progress.in_flight = progress.in_flight.saturating_sub(1);
                progress.settled = Some(mark.next);
            }
        }
    }

    /// True when nothing of these partitions is on its way.
    pub(super) fn idle(&self, partitions: &[i32]) -> bool {
        let mut of = partitions.iter().filter_map(|partition| self.partitions.get(partition));
        of.all(|progress| progress.in_flight == 0)
    }

    /// What is settled and not yet sent to the broker; from here on it counts as sent.
    pub(super) fn due(&mut self) -> Vec<(i32, i64)> {
        let due = self.partitions.iter_mut().filter_map(|(partition, progress)| {
            let next = progress.settled.filter(|_| progress.settled != progress.requested)?;
            progress.requested = Some(next);
            Some((*partition, next))
        });
        due.collect()
    }

    /// All that is settled of some partitions, sent before or not.
    pub(super) fn settled(&self, partitions: &[i32]) -> Vec<(i32, i64)> {
        let of = partitions.iter().filter_map(|partition| Some((*partition, self.partitions.get(partition)?.settled?)));
        of.collect()
    }

    /// Notes that the broker did not take a commit, which is then due again.
    pub(super) fn refused(&mut self, partition: i32) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.requested = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(positions: &Positions, partition: i32, next: i64) -> Mark {
        Mark { partition, epoch: positions.epoch(partition).unwrap(), next }
    }

    #[test]
    fn only_what_is_settled_is_due_and_only_once() {
        let mut positions = Positions::default();
        positions.assign([0, 1]);
        let (first, second) = (mark(&positions, 0, 10), mark(&positions, 0, 20));
        positions.hand_over(&[first]);
        positions.hand_over(&[second]);
        assert_eq!(positions.due(), []);
        positions.settle(&[first]);
        assert!(!positions.idle(&[0]) && positions.idle(&[1]));
        assert_eq!(positions.due(), [(0, 10)]);
        assert_eq!(positions.due(), []);
        positions.settle(&[second]);
        assert!(positions.idle(&[0, 1]));
        assert_eq!(positions.due(), [(0, 20)]);
        assert_eq!(positions.settled(&[0, 1]), [(0, 20)]);
    }

    #[test]
    fn offsets_go_back_with_a_topic_that_was_made_anew() {
        let mut positions = Positions::default();
        positions.assign([0]);
        for next in [10, 3] {
            let mark = mark(&positions, 0, next);
            positions.hand_over(&[mark]);
            positions.settle(&[mark]);
            assert_eq!(positions.due(), [(0, next)]);
        }
    }

    #[test]
    fn a_refused_commit_is_due_again() {
        let mut positions = Positions::default();
        positions.assign([3]);
        let mark = mark(&positions, 3, 7);
        positions.hand_over(&[mark]);
        positions.settle(&[mark]);
        assert_eq!(positions.due(), [(3, 7)]);
        positions.refused(3);
        assert_eq!(positions.due(), [(3, 7)]);
    }

    #[test]
    fn what_settles_after_the_partition_went_away_and_came_back_is_ignored() {
        let mut positions = Positions::default();
        positions.assign([0]);
        let old = mark(&positions, 0, 50);
        positions.hand_over(&[old]);
        positions.revoke(&[0]);
        assert!(positions.idle(&[0]));
        positions.settle(&[old]);
        positions.assign([0]);
        positions.settle(&[old]);
        assert_eq!(positions.due(), []);
    }

    proptest! {
        /// Whatever happens in whatever order, nothing is committed that did not settle under the present assignment.
        #[test]
        fn commits_never_run_ahead(steps in prop::collection::vec((0..4u8, 0..3i32), 0..200)) {
            let mut positions = Positions::default();
            let mut in_flight: std::collections::VecDeque<Mark> = Default::default();
            let mut settled = BTreeMap::<(i32, u64), i64>::new();
            let mut next = 0;
            for (step, partition) in steps {
                match step {
                    0 => positions.assign([partition]),
                    1 => positions.revoke(&[partition]),
                    2 => if let Some(epoch) = positions.epoch(partition) {
                        next += 1;
                        let mark = Mark { partition, epoch, next };
                        positions.hand_over(&[mark]);
                        in_flight.push_back(mark);
                    },
                    _ => if let Some(mark) = in_flight.pop_front() {
                        positions.settle(&[mark]);
                        settled.insert((mark.partition, mark.epoch), mark.next);
                    },
                }
                for (partition, offset) in positions.due() {
                    let epoch = positions.epoch(partition).unwrap();
                    prop_assert_eq!(settled.get(&(partition, epoch)), Some(&offset));
                }
            }
        }
    }
}
