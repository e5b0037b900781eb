//! Looks at a stream without reading it: where it begins and ends, and how much lies ahead of a position.

use std::collections::VecDeque;

use evoke_connect::redis::reply;
use redis::Value;

use super::shared::{Core, Log};
use super::{keys, scripts};
use crate::bus::{BusError, From, Mark, Position};

/// How much a look may count through, in bytes, which the server reads for it.
const COUNT_BYTES: usize = 256 << 10;
const COUNT_MOST: usize = 500;
const COUNT_LEAST: usize = 4;
/// Positions of which it is remembered how many entries were before them.
const POINTS: usize = 256;

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) length: u64,
    /// The last id that was given out, whether its entry is there or not.
    last: u128,
    /// How many entries were ever added; `None` before Redis 7.
    pub(super) added: Option<u64>,
    pub(super) first: Option<u128>,
    /// For each position that was asked for, the first entry there or later, and how many there are, counted so far.
    there: Vec<(Option<u128>, u64)>,
}

impl Seen {
    pub(super) fn read(value: Value) -> Option<Self> {
        let mut parts = reply::array(value)?.into_iter();
        let length = number(&parts.next()?)?;
        let last = keys::position(&reply::string(parts.next()?)?)?;
        let added = number(&parts.next()?);
        let first = parts.next().and_then(reply::string).and_then(|id| keys::position(&id));
        let mut there = Vec::new();
        while let (Some(id), Some(count)) = (parts.next(), parts.next()) {
            there.push((reply::string(id).and_then(|id| keys::position(&id)), number(&count)?));
        }
        Some(Self { length, last, added, first, there })
    }

    /// The position after the last entry.
    pub(super) fn end(&self) -> Position {
        keys::after(self.last)
    }

    /// The first position that is kept.
    fn begin(&self) -> Position {
        self.first.map_or(self.end(), Position)
    }

    /// Whether one can go on at a position without having lost anything.
    ///
    /// # Errors
    /// [`BusError::Ahead`] beyond the end. [`BusError::Trimmed`] where nothing at the position or before it is left and something
    /// was deleted: a trim of evoke's leaves the last entry below what is needed.
    pub(super) fn allows(&self, at: u128) -> Result<(), BusError> {
        let end = self.end();
        if at > end.0 {
            return Err(BusError::Ahead { end });
        }
        let deleted = self.added.map_or(at > 1, |added| added > self.length);
        if deleted && at < end.0 && self.first.is_none_or(|first| first > at) {
            return Err(BusError::Trimmed { first: self.begin() });
        }
        Ok(())
    }

    /// Where something is: of all that was asked for, the one at `index`. The server has counted up to `counted` entries from there on.
    fn mark(&self, samples: &Samples, index: usize, from: From, counted: usize) -> Mark {
        let (there, count) = self.there.get(index).copied().unwrap_or_default();
        let end = self.end();
        let at = match from {
            From::First => self.begin(),
            From::Next => end,
            From::At(at) => at,
            From::Time(_) => there.map_or(end, Position),
        };
        let (ahead, exact) = match there {
            _ if at >= end => (0, true),
            None => (0, true),
            Some(there) if self.first == Some(there) => (self.length, true),
            Some(_) if count < counted as u64 => (count, true),
            Some(_) => (samples.guess(self, at.0).max(count), false),
        };
        Mark { at, first: self.begin(), end, ahead, exact, appended: self.added }
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// How many entries were ever added before some positions, from earlier looks: what lies between is guessed from these.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(u128, u64)>);

impl Samples {
    fn learn(&mut self, seen: &Seen) {
        let Some(added) = seen.added else { return };
        let end = seen.end().0;
        // A log that was made anew has other counts.
        while self.0.back().is_some_and(|(at, count)| *at > end || *count > added) {
            self.0.pop_back();
        }
        if self.0.back().is_none_or(|(at, _)| *at < end) {
            if self.0.len() >= POINTS {
                let mut keep = false;
                self.0.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.0.push_back((end, added));
        }
    }

    /// About how many entries lie from `at` to the end.
    fn guess(&self, seen: &Seen, at: u128) -> u64 {
        let added = seen.added.unwrap_or(seen.length);
        let first = (seen.begin().0, added.saturating_sub(seen.length));
        let last = (seen.end().0, added);
        let below = self.0.iter().rev().find(|(point, _)| *point <= at).copied().filter(|point| *point > first);
        let above = self.0.iter().find(|(point, _)| *point >= at).copied().filter(|point| *point < last);
        let (low, high) = (below.unwrap_or(first), above.unwrap_or(last));
        let (whole, part) = (high.0.saturating_sub(low.0) as f64, at.saturating_sub(low.0) as f64);
        let share = if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 };
        let before = low.1 + ((high.1.saturating_sub(low.1)) as f64 * share) as u64;
        added.saturating_sub(before).clamp(1, seen.length.max(1))
    }
}

impl Core {
    /// Looks at one stream.
    pub(super) async fn look(&self, log: &Log, at: &[From]) -> Result<(Seen, Vec<Mark>), BusError> {
        let count = (COUNT_BYTES / log.mean().max(1)).clamp(COUNT_LEAST, COUNT_MOST);
        let ids = at.iter().map(|from| match from {
            From::First => keys::id(0),
            From::Next => keys::id(u128::MAX),
            From::At(at) => keys::id(at.0),
            From::Time(time) => keys::id(keys::at_time(*time)),
        });
        let node = self.hub.node(&log.key)?;
        let found = node.ask.ask(&scripts::look(&log.key, count, ids)).await;
        let found = found.map_err(|trouble| self.hub.suspect(&trouble))?;
        let seen = Seen::read(found).ok_or_else(|| BusError::Unavailable("a look cannot be read".into()))?;
        let marks = {
            let mut samples = log.samples.lock();
            samples.learn(&seen);
            at.iter().enumerate().map(|(index, from)| seen.mark(&samples, index, *from, count)).collect()
        };
        Ok((seen, marks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Point;
    use crate::subscription::ledger::{Ledger, Lost, Millis};

    fn seen(first: Option<u128>, last: u128, length: u64, added: Option<u64>) -> Seen {
        Seen { length, last, added, first, there: Vec::new() }
    }

    #[test]
    fn a_position_is_lost_only_if_something_was() {
        let never_trimmed = seen(Some(100), 200, 5, Some(5));
        assert_eq!(never_trimmed.allows(1), Ok(()));
        let trimmed = seen(Some(100), 200, 5, Some(9));
        assert_eq!(trimmed.allows(100), Ok(()));
        assert_eq!(trimmed.allows(150), Ok(()));
        assert_eq!(trimmed.allows(99), Err(BusError::Trimmed { first: Position(100) }));
        assert_eq!(trimmed.allows(201), Ok(()));
        assert_eq!(trimmed.allows(202), Err(BusError::Ahead { end: Position(201) }));
        let emptied = seen(None, 200, 0, Some(9));
        assert_eq!(emptied.allows(201), Ok(()));
        assert_eq!(emptied.allows(150), Err(BusError::Trimmed { first: Position(201) }));
        let gone = seen(None, 0, 0, Some(0));
        assert_eq!((gone.allows(1), gone.allows(2)), (Ok(()), Err(BusError::Ahead { end: Position(1) })));
        let old = seen(Some(100), 200, 5, None);
        assert_eq!(old.allows(99), Err(BusError::Trimmed { first: Position(100) }));
        assert_eq!(old.allows(1), Ok(()));
    }

    /// The mark of one place, from which on there is `there` and so many entries, of up to 10 that were counted.
    fn mark(seen: &Seen, from: From, there: Option<u128>, count: u64) -> Mark {
        let seen = Seen { there: vec![(there, count)], ..seen.clone() };
        seen.mark(&Samples::default(), 0, from, 10)
    }

    #[test]
    fn how_many_entries_were_before_a_place_is_known_to_one_wherever_they_can_be_counted() {
        let trimmed = seen(Some(100), 299, 50, Some(90));
        let before = |from, there, count| mark(&trimmed, from, there, count).point().before;
        assert_eq!(before(From::First, Some(100), 10), Some(40));
        assert_eq!(before(From::Next, None, 0), Some(90));
        assert_eq!(before(From::At(Position(280)), Some(281), 9), Some(81));
        assert_eq!(before(From::At(Position(150)), Some(151), 10), None, "an estimate");
        let below = mark(&trimmed, From::At(Position(7)), Some(100), 10);
        assert_eq!(below.begin(), Point { at: Position(100), before: Some(40) });
        assert_eq!(below.point(), below.begin());
        let beyond = mark(&trimmed, From::At(Position(1000)), None, 0).point();
        assert_eq!(beyond, Point { at: Position(300), before: Some(90) });
        let emptied = seen(None, 299, 0, Some(90));
        assert_eq!(mark(&emptied, From::First, None, 0).point().before, Some(90));
        let never_there = seen(None, 0, 0, Some(0));
        assert_eq!(mark(&never_there, From::Next, None, 0).point(), Point { at: Position(1), before: Some(0) });
        let old = seen(Some(100), 299, 50, None);
        assert_eq!(mark(&old, From::First, Some(100), 10).point(), Point { at: Position(100), before: None });
    }

    #[test]
    fn a_position_below_a_stream_tells_what_it_lost_to_one() {
        // It began when the stream was empty, and has evaluated 3 entries.
        let start = mark(&seen(None, 0, 0, Some(0)), From::Next, None, 0);
        let mut ledger = Ledger::starting_at(start.point());
        let wrote = seen(Some(100 << 64), 900 << 64, 9, Some(9));
        let waiting = mark(&wrote, From::At(ledger.upto()), Some(100 << 64), 9);
        assert_eq!((ledger.lost(waiting.begin()).unread, ledger.lag(&waiting)), (Some(0), (9, true)));
        ledger.advance(Position(301 << 64), 3, Millis(1));
        let trimmed = seen(Some(800 << 64), 900 << 64, 2, Some(9));
        let found = mark(&trimmed, From::At(ledger.upto()), Some(800 << 64), 2);
        assert_eq!(ledger.lost(found.begin()), Lost { open: 0, unread: Some(4) });
        assert_eq!(ledger.trimmed(found.begin()), Lost { open: 0, unread: Some(4) });
        assert_eq!((ledger.upto(), ledger.lost(found.begin()).events()), (Position(800 << 64), 0));
        let rest = mark(&trimmed, From::At(ledger.upto()), Some(800 << 64), 2);
        assert_eq!((ledger.lag(&rest), ledger.corrected(&rest)), ((2, true), None));
    }

    #[test]
    fn what_lies_ahead_is_guessed_between_what_was_seen() {
        let mut samples = Samples::default();
        samples.learn(&seen(Some(1000), 1999, 10, Some(10)));
        samples.learn(&seen(Some(1000), 2999, 1010, Some(1010)));
        let now = seen(Some(1000), 3999, 1110, Some(1110));
        assert_eq!(samples.guess(&now, 2000), 1100);
        assert_eq!(samples.guess(&now, 2500), 600);
        assert_eq!(samples.guess(&now, 3500), 50);
        assert_eq!(samples.guess(&now, 1000), 1110);
        for n in 0..10 * POINTS {
            let n = n as u64;
            samples.learn(&seen(Some(1000), 5000 + u128::from(n), 2000 + n, Some(2000 + n)));
        }
        assert!(samples.0.len() <= POINTS);
        samples.learn(&seen(None, 0, 0, Some(0)));
        assert_eq!(samples.0.len(), 1, "a log that was made anew");
    }
}
