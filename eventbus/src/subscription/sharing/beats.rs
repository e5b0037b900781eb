//! Signs of life: each process changes its own key every few seconds, and each watches the others' by its own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::document::Name;

/// A member whose beat is not there has taken it away, or the answer was put together while it was being written.
const MISSING: Duration = Duration::from_secs(2);

/// What a process says of itself with every beat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Another one after every start.
    pub session: Arc<str>,
    /// Goes up.
    pub count: u64,
    /// Where it runs.
    pub place: Place,
    /// Its process id there.
    pub pid: u32,
}

/// Where a process runs: one data directory of one machine is locked by one process at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The machine's name.
    pub host: Arc<str>,
    /// The data directory.
    pub directory: Arc<str>,
}

impl std::fmt::Display for Beat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { host, directory } = &self.place;
        write!(f, "process {} on {host} with the data directory {directory}", self.pid)
    }
}

/// What was seen of every process's beat.
#[derive(Clone, Debug, Default)]
pub struct Beats {
    seen: BTreeMap<Name, Seen>,
    /// When all beats were lost, if they were.
    lost: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Seen {
    /// `None` where there was none.
    value: Option<Bytes>,
    /// When this was seen first.
    since: Instant,
}

impl Beats {
    /// Takes in all beats there are, as an answer gave them that came at `now`. `members` are those who should beat.
    pub fn observe(&mut self, now: Instant, found: &BTreeMap<Name, Bytes>, members: &BTreeSet<Name>) {
        self.seen.retain(|name, _| found.contains_key(name) || members.contains(name));
        for name in found.keys().chain(members) {
            let value = found.get(name);
            match self.seen.get(name) {
                Some(seen) if seen.value.as_ref() == value => {}
                _ => {
                    self.seen.insert(Arc::clone(name), Seen { value: value.cloned(), since: now });
                }
            }
        }
    }

    /// The bus had lost all beats at `now`: one that is missing says nothing before its process has had the time to beat again.
    pub fn lose(&mut self, now: Instant) {
        self.lost = Some(now);
    }

    /// False for a process whose beat has not changed for `dead`. `now` must lie before the last answer was asked for: what has
    /// changed since then is not known.
    pub fn alive(&self, name: &str, dead: Duration, now: Instant) -> bool {
        let Some(Seen { value, since }) = self.seen.get(name) else { return true };
        let says_nothing = self.lost.is_some_and(|lost| now.saturating_duration_since(lost) < dead);
        let limit = if value.is_some() || says_nothing { dead } else { MISSING.min(dead) };
        now.saturating_duration_since(*since) < limit
    }

    /// Who has not beaten for so long that nobody waits for it any more.
    pub fn forgotten(&self, after: Duration, now: Instant) -> impl Iterator<Item = &Name> {
        let old = move |seen: &Seen| seen.value.is_some() && now.saturating_duration_since(seen.since) >= after;
        self.seen.iter().filter(move |(_, seen)| old(seen)).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Duration = Duration::from_secs(10);

    fn beats(values: &[(&str, &'static str)]) -> BTreeMap<Name, Bytes> {
        values.iter().map(|(name, value)| ((*name).into(), Bytes::from_static(value.as_bytes()))).collect()
    }

    #[test]
    fn a_beat_that_stands_still_for_ten_seconds_is_death_and_one_that_goes_on_is_life() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut seen, members) = (Beats::default(), BTreeSet::from(["a".into(), "b".into()]));
        assert!(seen.alive("a", DEAD, at(0)), "who was never looked at is not dead");
        seen.observe(at(0), &beats(&[("a", "1"), ("b", "1")]), &members);
        seen.observe(at(9), &beats(&[("a", "1"), ("b", "2")]), &members);
        assert!(seen.alive("a", DEAD, at(9)) && seen.alive("b", DEAD, at(9)));
        seen.observe(at(10), &beats(&[("a", "1"), ("b", "2")]), &members);
        assert!(!seen.alive("a", DEAD, at(10)) && seen.alive("b", DEAD, at(10)));
        seen.observe(at(11), &beats(&[("a", "2"), ("b", "2")]), &members);
        assert!(seen.alive("a", DEAD, at(20)));
    }

    #[test]
    fn a_member_without_a_beat_is_gone_but_not_at_the_first_look() {
        let start = Instant::now();
        let (mut seen, members) = (Beats::default(), BTreeSet::from(["a".into()]));
        seen.observe(start, &BTreeMap::new(), &members);
        assert!(seen.alive("a", DEAD, start));
        assert!(!seen.alive("a", DEAD, start + MISSING));
        seen.observe(start + MISSING, &beats(&[("a", "1")]), &members);
        assert!(seen.alive("a", DEAD, start + MISSING));
    }

    #[test]
    fn a_beat_that_was_lost_with_all_others_is_waited_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut seen, members) = (Beats::default(), BTreeSet::from(["a".into(), "b".into()]));
        seen.observe(at(0), &beats(&[("a", "1"), ("b", "1")]), &members);
        seen.lose(at(5));
        seen.observe(at(5), &BTreeMap::new(), &members);
        seen.observe(at(8), &beats(&[("b", "2")]), &members);
        assert!(seen.alive("a", DEAD, at(14)) && seen.alive("b", DEAD, at(14)));
        assert!(!seen.alive("a", DEAD, at(15)), "it never came again");
        seen.observe(at(16), &BTreeMap::new(), &members);
        assert!(!seen.alive("b", DEAD, at(18)), "it was taken away");
    }
}
