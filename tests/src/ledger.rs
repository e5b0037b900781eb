//! What was sent against what arrived, by id: nothing lost, nothing made up, and no more repeats than are allowed.

use std::collections::{BTreeMap, BTreeSet};

/// Ids and how often each arrived.
pub type Counts = BTreeMap<String, usize>;

/// Counts ids.
pub fn count(ids: impl IntoIterator<Item = impl Into<String>>) -> Counts {
    let mut counts = Counts::new();
    for id in ids {
        *counts.entry(id.into()).or_default() += 1;
    }
    counts
}

/// How many arrivals were not the first of their id.
pub fn repeats(arrived: &Counts) -> usize {
    arrived.values().map(|count| count - 1).sum()
}

/// What was sent for certain, and of what may have been (there was no answer, or 503) all that arrived.
pub fn sent(certain: &BTreeSet<String>, perhaps: &BTreeSet<String>, arrived: &Counts) -> BTreeSet<String> {
    certain.iter().chain(perhaps.iter().filter(|id| arrived.contains_key(*id))).cloned().collect()
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Sent, and arrived nowhere.
    pub lost: Vec<String>,
    /// Arrived, and never sent.
    pub made_up: Vec<String>,
    /// Arrivals beyond the first of an id.
    pub repeats: usize,
}

/// Compares what was sent with everywhere it may have arrived: delivered, dead-lettered.
pub fn balance<'a>(sent: &BTreeSet<String>, arrived: impl IntoIterator<Item = &'a Counts>) -> Balance {
    let mut total = Counts::new();
    for counts in arrived {
        for (id, count) in counts {
            *total.entry(id.clone()).or_default() += count;
        }
    }
    Balance {
        lost: sent.iter().filter(|id| !total.contains_key(*id)).cloned().collect(),
        made_up: total.keys().filter(|id| !sent.contains(*id)).cloned().collect(),
        repeats: repeats(&total),
    }
}

/// Asserts that everything that was sent arrived somewhere, nothing else did, and at most `repeats` arrivals were repeats.
///
/// # Panics
/// When it does not hold.
pub fn assert_conserved<'a>(
    sent: &BTreeSet<String>,
    arrived: impl IntoIterator<Item = &'a Counts>,
    repeats: usize,
) -> Balance {
    let found = balance(sent, arrived);
    let some = |ids: &[String]| ids.iter().take(10).cloned().collect::<Vec<_>>().join(" ");
    assert!(found.lost.is_empty(), "{} of {} are lost: {} ...", found.lost.len(), sent.len(), some(&found.lost));
    assert!(found.made_up.is_empty(), "{} were never sent: {} ...", found.made_up.len(), some(&found.made_up));
    assert!(found.repeats <= repeats, "{} repeats, {repeats} are allowed", found.repeats);
    found
}

/// Asserts that events called `{key}-{number}` came first in the order of their numbers, key by key: a repeat may follow later, but
/// nothing is overtaken.
///
/// # Panics
/// When it does not hold.
pub fn assert_ordered(ids: impl IntoIterator<Item = impl Into<String>>) {
    let (mut last, mut seen) = (BTreeMap::<String, u64>::new(), BTreeSet::new());
    for id in ids {
        let id = id.into();
        let (key, number) = id.split_once('-').expect("a key and a number");
        let number: u64 = number.parse().expect("a number");
        if seen.insert(id.clone()) {
            let before = last.insert(key.to_owned(), number);
            assert!(before.is_none_or(|before| before < number), "{id} came after number {before:?} of its key");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balance_names_what_is_lost_made_up_and_repeated() {
        let sent: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let delivered = count(["a", "a", "x"]);
        let dead = count(["b"]);
        let found = balance(&sent, [&delivered, &dead]);
        assert_eq!(found, Balance { lost: vec!["c".into()], made_up: vec!["x".into()], repeats: 1 });
    }

    #[test]
    fn repeats_are_in_order_and_what_is_overtaken_is_not() {
        assert_ordered(["a-1", "b-1", "a-2", "a-1", "a-2", "a-10"]);
        assert!(std::panic::catch_unwind(|| assert_ordered(["a-1", "b-2", "a-3", "a-2"])).is_err());
    }
}
