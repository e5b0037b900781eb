//! The state topic as a table. Pure: what a log of records comes to, for every reader the same, compacted or not.
//!
//! A put without a condition decides its key by itself. An attempt is judged by what the key is when its turn in the log comes.
//! Compaction may take away what an attempt was judged by; therefore an attempt stays in the log until a settlement says what the key
//! is once all attempts up to some offset are judged, and a reader keeps the attempts it saw until then: after a settlement it
//! judges those behind it again, from what the settlement says.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::record::{AttemptId, Change, attempt_key, settlement_key};
use crate::bus::{Entry, Expect};

/// What the records so far come to.
#[derive(Debug, Default)]
pub(super) struct Table {
    keys: BTreeMap<String, Cell>,
}

#[derive(Debug)]
struct Cell {
    now: Option<(u64, Bytes)>,
    /// What comes at or before this offset in the log changes the key no more.
    through: i64,
    attempts: Vec<Attempt>,
    /// The settlements that are in the log, by what they settle.
    settlements: BTreeSet<i64>,
}

impl Default for Cell {
    fn default() -> Self {
        Self { now: None, through: -1, attempts: Vec::new(), settlements: BTreeSet::new() }
    }
}

#[derive(Debug)]
struct Attempt {
    offset: i64,
    id: AttemptId,
    expect: Expect,
    value: Option<Bytes>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) id: AttemptId,
    /// The new revision, if its condition held.
    pub(super) revision: Option<u64>,
}

/// The revision that a record at this offset makes. Never 0, and rising.
pub(super) fn revision_at(offset: i64) -> u64 {
    offset.unsigned_abs().saturating_add(1)
}

impl Cell {
    fn judge(&mut self, attempt: &Attempt) -> Option<u64> {
        let holds = match attempt.expect {
            Expect::Any => true,
            Expect::Absent => self.now.is_none(),
            Expect::Revision(revision) => self.now.as_ref().is_some_and(|(now, _)| *now == revision),
        };
        let revision = revision_at(attempt.offset);
        if holds {
            self.now = attempt.value.clone().map(|value| (revision, value));
        }
        holds.then_some(revision)
    }

    /// Takes over what the key is at `through`, and judges again what came after it.
    fn settle(&mut self, through: i64, settled: Option<(u64, Bytes)>) {
        if through < self.through {
            return;
        }
        self.through = through;
        self.attempts.retain(|attempt| attempt.offset > through);
        self.now = settled;
        let attempts = std::mem::take(&mut self.attempts);
        for attempt in &attempts {
            self.judge(attempt);
        }
        self.attempts = attempts;
    }
}

impl Table {
    /// Takes in the record at `offset`; how it ended, if it was an attempt.
    pub(super) fn apply(&mut self, offset: i64, key: String, change: Change) -> Option<Judged> {
        let cell = self.keys.entry(key).or_default();
        match change {
            Change::Put { value } => {
                cell.settle(offset, value.map(|value| (revision_at(offset), value)));
                None
            }
            // Made for another topic of this name, which is gone: what is settled lies before its settlement.
            Change::Settled { through, .. } if through >= offset => None,
            Change::Settled { value, revision, through } => {
                cell.settlements.insert(through);
                cell.settle(through, value.map(|value| (revision, value)));
                None
            }
            Change::Replaced { through } => {
                cell.settlements.remove(&through);
                None
            }
            Change::Attempt { id, expect, value } => {
                let attempt = Attempt { offset, id, expect, value };
                let revision = cell.judge(&attempt);
                cell.attempts.push(attempt);
                Some(Judged { id, revision })
            }
        }
    }

    /// Every key that begins with `prefix`.
    pub(super) fn load(&self, prefix: &str) -> Vec<Entry> {
        let from = self.keys.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, cell)| {
                let (revision, value) = cell.now.clone()?;
                Some(Entry { key: key.clone(), value, revision })
            })
            .collect()
    }

    /// The settlement of all attempts on a key that are judged, and the record keys of what it replaces; `None` if there are none.
    pub(super) fn settlement(&self, key: &str) -> Option<(Change, Vec<Vec<u8>>)> {
        let cell = self.keys.get(key)?;
        let through = cell.attempts.last()?.offset;
        let (revision, value) = cell.now.clone().map_or((0, None), |(revision, value)| (revision, Some(value)));
        let attempts = cell.attempts.iter().map(|attempt| attempt_key(key, &attempt.id));
        let settlements = cell.settlements.range(..through).map(|through| settlement_key(key, *through));
        Some((Change::Settled { value, revision, through }, attempts.chain(settlements).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::record::{read, record_key, record_value};
    use super::*;

    type Log = Vec<(i64, Vec<u8>, Option<Vec<u8>>)>;

    fn append(log: &mut Log, key: &str, change: &Change) -> i64 {
        let offset = log.len() as i64;
        log.push((offset, record_key(key, change), record_value(change)));
        offset
    }

    fn replay(log: &Log) -> Table {
        let mut table = Table::default();
        for (offset, key, value) in log {
            if let Some((key, change)) = read(key, value.as_deref()).unwrap() {
                table.apply(*offset, key, change);
            }
        }
        table
    }

    /// What may be left of a log: of each record key the last one always, of those before `dirty` no other.
    fn compacted(log: &Log, dirty: i64, drop_tombstones: bool) -> Log {
        let last: HashMap<&Vec<u8>, i64> =
            log.iter().filter(|(o, ..)| *o < dirty).map(|(offset, key, _)| (key, *offset)).collect();
        let kept = log.iter().filter(|(offset, key, value)| {
            *offset >= dirty || (last[key] == *offset && (value.is_some() || !drop_tombstones))
        });
        kept.cloned().collect()
    }

    #[test]
    fn one_of_many_attempts_wins() {
        let mut table = Table::default();
        let attempt = |n: u8, expect| Change::Attempt { id: [n; 16], expect, value: Some(Bytes::from(vec![n])) };
        let won = |judged: Option<Judged>| judged.unwrap().revision;
        assert_eq!(won(table.apply(0, "k".into(), attempt(1, Expect::Absent))), Some(1));
        assert_eq!(won(table.apply(1, "k".into(), attempt(2, Expect::Absent))), None);
        assert_eq!(won(table.apply(2, "k".into(), attempt(3, Expect::Revision(1)))), Some(3));
        assert_eq!(won(table.apply(3, "k".into(), attempt(4, Expect::Revision(1)))), None);
        assert_eq!(table.load(""), [Entry { key: "k".into(), value: Bytes::from_static(&[3]), revision: 3 }]);
        let (settlement, replaced) = table.settlement("k").unwrap();
        assert_eq!(replaced.len(), 4);
        table.apply(5, "k".into(), settlement);
        assert_eq!(table.load("k")[0].revision, 3);
        assert_eq!(table.settlement("k"), None);
    }

    #[test]
    fn a_settlement_of_a_topic_that_is_gone_settles_nothing() {
        let (mut table, value) = (Table::default(), |text: &'static str| Some(Bytes::from_static(text.as_bytes())));
        table.apply(0, "k".into(), Change::Put { value: value("new") });
        table.apply(1, "k".into(), Change::Settled { value: value("old"), revision: 90, through: 89 });
        table.apply(2, "k".into(), Change::Put { value: value("newer") });
        assert_eq!(table.load(""), [Entry { key: "k".into(), value: Bytes::from_static(b"newer"), revision: 3 }]);
    }

    #[test]
    fn what_is_not_evokes_is_refused() {
        assert!(read(b"", None).is_err());
        assert!(read(b"x", None).is_err());
        assert!(read(b"a123", None).is_err());
        assert!(read(b"kk", Some(&[2, 1])).unwrap_err().contains("later evoke"));
        assert_eq!(read(b"aaaaaaaaaaaaaaaaak", None), Ok(None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, bool),
        Attempt(u8, Option<u8>, bool),
        /// Publishes the settlement that some reader found earlier, and then takes the attempts off.
        Settle(u8, bool, bool),
        Find(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2u8, any::<bool>()).prop_map(|(key, there)| Step::Put(key, there)),
            (0..2u8, prop::option::of(0..3u8), any::<bool>())
                .prop_map(|(k, back, there)| Step::Attempt(k, back, there)),
            (0..2u8, any::<bool>(), any::<bool>()).prop_map(|(key, whole, last)| Step::Settle(key, whole, last)),
            (0..2u8).prop_map(Step::Find),
        ]
    }

    /// A change, and what the readers made of it.
    type Found = (Change, Vec<Vec<u8>>);

    proptest! {
        /// Whoever reads the log, whenever, and however much of it was compacted away, comes to the same table.
        #[test]
        fn compaction_changes_nothing(steps in prop::collection::vec(step(), 1..60), dirty in 0..60i64, gone in any::<bool>()) {
            let mut log = Log::new();
            let mut found: HashMap<u8, Vec<Found>> = HashMap::new();
            let mut revisions: HashMap<u8, Vec<u64>> = HashMap::new();
            let mut next = 0u8;
            for step in steps {
                let name = |key: u8| key.to_string();
                match step {
                    Step::Put(key, there) => {
                        let offset = append(&mut log, &name(key), &Change::Put { value: there.then(|| Bytes::from(vec![key])) });
                        revisions.entry(key).or_default().push(revision_at(offset));
                    }
                    Step::Attempt(key, back, there) => {
                        let of = revisions.entry(key).or_default();
                        let expect = match back {
                            None => Expect::Absent,
                            Some(back) => Expect::Revision(of.iter().rev().nth(back.into()).copied().unwrap_or(9999)),
                        };
                        next += 1;
                        let change = Change::Attempt { id: [next; 16], expect, value: there.then(|| Bytes::from(vec![next])) };
                        let offset = append(&mut log, &name(key), &change);
                        of.push(revision_at(offset));
                    }
                    Step::Find(key) => {
                        if let Some(settlement) = replay(&log).settlement(&name(key)) {
                            found.entry(key).or_default().push(settlement);
                        }
                    }
                    Step::Settle(key, whole, last) => {
                        let found = found.entry(key).or_default();
                        if !found.is_empty() {
                            let (change, replaced) = found.remove(if last { found.len() - 1 } else { 0 });
                            append(&mut log, &name(key), &change);
                            for record in replaced.into_iter().take(if whole { usize::MAX } else { 1 }) {
                                log.push((log.len() as i64, record, None));
                            }
                        }
                    }
                }
            }
            let whole = replay(&log).load("");
            prop_assert_eq!(replay(&compacted(&log, dirty, gone)).load(""), whole);
        }
    }
}
