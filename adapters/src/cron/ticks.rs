//! Which ticks are due, given what fired before and what the clock says. No tick is due twice.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::schedule::Schedule;

/// How late a tick fires at all while evoke runs and `catchUp` does not say more: a slow bus, a short suspend or a clock that is
/// corrected loses nothing.
const LATE: TimeDelta = TimeDelta::seconds(10);
/// A clock that is put back by less does not fire again what fired; one that is put back by more was wrong before, and what it says
/// now counts.
const CORRECTION: TimeDelta = TimeDelta::hours(3);
/// How many ticks are found at once.
const BATCH: usize = 256;
/// How many skipped ticks are counted one by one.
const COUNTED: u64 = 10_000;

/// The ticks of one schedule, in order.
#[derive(Clone, Debug)]
pub(super) struct Ticks {
    schedule: Schedule,
    catch_up: TimeDelta,
    /// How late a tick may be as well, until all that are due have been found.
    gap: TimeDelta,
    /// The tick that was due last, or the time from which ticks count.
    last: DateTime<Utc>,
    /// The tick after it.
    next: Option<DateTime<Utc>>,
}

/// What the clock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// These are due, the oldest first; there may be more.
    Due(Vec<DateTime<Utc>>),
    /// The next one is due then.
    At(DateTime<Utc>),
    /// None is left.
    Over,
}

/// What else the clock brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// How many ticks were too old to fire; a lower bound from 10,000 on.
    pub(super) skipped: u64,
    /// The clock was put back so far that its times count anew.
    pub(super) put_back: bool,
}

impl Ticks {
    /// Ticks after `last`, as far back as `catch_up`.
    pub(super) fn new(schedule: Schedule, catch_up: Option<Duration>, last: DateTime<Utc>) -> Self {
        let catch_up = catch_up.map_or(TimeDelta::zero(), |age| TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX));
        let next = schedule.after(last);
        Self { schedule, catch_up, gap: TimeDelta::zero(), last, next }
    }

    /// The same after nobody has looked at the clock for so long: what came due meanwhile is not too late for that.
    pub(super) fn after_gap(self, gap: TimeDelta) -> Self {
        Self { gap: gap + LATE, ..self }
    }

    /// The tick that was due last, or the time from which ticks count.
    pub(super) fn last(&self) -> DateTime<Utc> {
        self.last
    }

    /// Looks at the clock.
    pub(super) fn turn(&mut self, now: DateTime<Utc>) -> (Turn, Noted) {
        let mut noted = Noted::default();
        if self.last - now > CORRECTION {
            noted.put_back = true;
            self.pass(now);
        }
        let late = self.catch_up.max(LATE).max(self.gap);
        let oldest = now.checked_sub_signed(late).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let mut due = Vec::new();
        while let Some(next) = self.next.filter(|next| *next <= now && due.len() < BATCH) {
            if next >= oldest {
                due.push(next);
                self.pass(next);
            } else if noted.skipped < COUNTED {
                noted.skipped += 1;
                self.pass(next);
            } else {
                self.pass(oldest);
            }
        }
        if !due.is_empty() {
            return (Turn::Due(due), noted);
        }
        self.gap = TimeDelta::zero();
        (self.next.map_or(Turn::Over, Turn::At), noted)
    }

    fn pass(&mut self, time: DateTime<Utc>) {
        self.last = time;
        self.next = self.schedule.after(time);
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn ticks(schedule: &str, catch_up: Option<u64>, last: i64) -> Ticks {
        let schedule = Schedule::parse(schedule, Tz::UTC).unwrap();
        Ticks::new(schedule, catch_up.map(Duration::from_secs), at(last))
    }

    #[test]
    fn ticks_come_one_by_one_and_once() {
        let mut ticks = ticks("@every 10s", None, 3);
        assert_eq!(ticks.turn(at(3)), (Turn::At(at(10)), Noted::default()));
        assert_eq!(ticks.turn(at(9)).0, Turn::At(at(10)));
        assert_eq!(ticks.turn(at(10)).0, Turn::Due(vec![at(10)]));
        assert_eq!(ticks.turn(at(10)).0, Turn::At(at(20)));
        assert_eq!(ticks.turn(at(21)).0, Turn::Due(vec![at(20)]));
    }

    #[test]
    fn a_clock_put_back_fires_nothing_twice() {
        let mut ticks = ticks("@every 10s", None, 0);
        assert_eq!(ticks.turn(at(10)).0, Turn::Due(vec![at(10)]));
        assert_eq!(ticks.turn(at(-3000)).0, Turn::At(at(20)));
        assert_eq!(ticks.turn(at(19)).0, Turn::At(at(20)));
        assert_eq!(ticks.turn(at(20)).0, Turn::Due(vec![at(20)]));
        let noted = Noted { skipped: 0, put_back: true };
        assert_eq!(ticks.turn(at(-20_000)), (Turn::At(at(-19_990)), noted));
    }

    #[test]
    fn a_clock_put_forward_fires_what_is_not_too_late() {
        let mut ticks = ticks("@every 5s", None, 0);
        let noted = Noted { skipped: 197, put_back: false };
        assert_eq!(ticks.turn(at(1000)), (Turn::Due(vec![at(990), at(995), at(1000)]), noted));
        assert_eq!(ticks.turn(at(1000)), (Turn::At(at(1005)), Noted::default()));
    }

    #[test]
    fn missed_ticks_are_caught_up_oldest_first() {
        let mut ticks = ticks("@every 60s", Some(180), 0);
        let (turn, noted) = ticks.turn(at(305));
        assert_eq!(turn, Turn::Due(vec![at(180), at(240), at(300)]));
        assert_eq!(noted.skipped, 2);
        assert_eq!(ticks.turn(at(305)).0, Turn::At(at(360)));
    }

    #[test]
    fn nothing_is_caught_up_from_before_ticks_count() {
        let mut ticks = ticks("@every 60s", Some(3600), 305);
        assert_eq!(ticks.turn(at(305)).0, Turn::At(at(360)));
    }

    #[test]
    fn what_came_due_in_a_gap_is_late_once() {
        let mut ticks = ticks("@every 10s", None, 5).after_gap(TimeDelta::seconds(30));
        assert_eq!(ticks.turn(at(45)), (Turn::Due(vec![at(10), at(20), at(30), at(40)]), Noted::default()));
        assert_eq!((ticks.last(), ticks.turn(at(45)).0), (at(40), Turn::At(at(50))));
        let noted = Noted { skipped: 4, put_back: false };
        assert_eq!(ticks.turn(at(95)), (Turn::Due(vec![at(90)]), noted));
    }

    #[test]
    fn many_missed_ticks_come_in_batches_and_skipping_is_bounded() {
        let mut ticks = ticks("@every 1s", Some(600), -2_000_000);
        let (turn, noted) = ticks.turn(at(0));
        let Turn::Due(due) = turn else { panic!("{turn:?}") };
        assert_eq!((due[0], due.len()), (at(-599), BATCH));
        assert_eq!(noted.skipped, COUNTED);
        let mut fired = due.len();
        while let (Turn::Due(due), Noted { skipped: 0, .. }) = ticks.turn(at(0)) {
            fired += due.len();
        }
        assert_eq!(fired, 600);
    }

    #[test]
    fn a_mark_from_a_wrong_future_is_ignored() {
        let mut ticks = ticks("@every 10s", Some(60), 90_000);
        assert_eq!(ticks.turn(at(0)), (Turn::At(at(10)), Noted { skipped: 0, put_back: true }));
    }
}
