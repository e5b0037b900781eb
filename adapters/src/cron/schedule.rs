//! When a schedule fires.
//!
//! Two kinds of schedule meet a clock that is put forward or back differently, as in Vixie's cron. One that names its times
//! (`30 2,14 * * *`) fires once for each: at the first moment after a gap that swallowed the time, and at the earlier of two. One that
//! names a rhythm (a `*` among seconds, minutes and hours) follows the time that passes: nothing in a gap, both halves of
//! what happens twice.
//!
//! Fields mean what they mean to OpenFunction's scheduler, which is Go's `robfig/cron`, also where the parser here has it otherwise.

use std::time::Duration;

use chrono::{DateTime, DurationRound, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use evoke_api::problem::FieldPath;
use evoke_api::quantity;

/// A validated schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// At the multiples of a number of seconds since 1970, so that every process and every start agrees on the times.
    Every(u32),
    /// A cron line, on the clock of a zone.
    Line { cron: Box<Cron>, zone: Tz, names_times: bool },
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub(super) message: String,
    pub(super) hint: String,
}

const FORMS: &str = "write 5 fields (minute hour day month weekday), 6 with seconds first, or `@every 2s`, `@hourly`, `@daily`, \
                     `@weekly`, `@monthly`, `@yearly`";
const FIELDS: [(&str, &str); 6] = [
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of the month", "1-31, L or 15W"),
    ("month", "1-12 or JAN-DEC"),
    ("weekday", "0-7 or SUN-SAT, where 0 and 7 are Sunday"),
];
const DAY_OF_MONTH: usize = 3;
const WEEKDAY: usize = 5;
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// No clock skipped more than a day.
const GAP_MINUTES: i64 = 25 * 60;

impl Schedule {
    /// Reads `@every 2s`, a nickname, or a cron line.
    pub(super) fn parse(text: &str, zone: Tz) -> Result<Self, Invalid> {
        let text = text.trim();
        let Some(name) = text.strip_prefix('@') else {
            return line(text, zone);
        };
        let (name, rest) = name.split_once(char::is_whitespace).unwrap_or((name, ""));
        let expanded = match name.to_ascii_lowercase().as_str() {
            "every" => return every(rest.trim()),
            _ if !rest.is_empty() => None,
            "hourly" => Some("0 * * * *"),
            "daily" | "midnight" => Some("0 0 * * *"),
            "weekly" => Some("0 0 * * 0"),
            "monthly" => Some("0 0 1 * *"),
            "yearly" | "annually" => Some("0 0 1 1 *"),
            _ => None,
        };
        match expanded {
            Some(expanded) => line(expanded, zone),
            None => Err(invalid(format!("{text:?} is no schedule"), FORMS)),
        }
    }

    /// The first time after `time`, to the second; `None` if there is none in the years that can be computed.
    pub(super) fn after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(seconds) => {
                let period = i64::from(*seconds);
                let next = time.timestamp().div_euclid(period).checked_add(1)?.checked_mul(period)?;
                DateTime::from_timestamp(next, 0)
            }
            Self::Line { cron, zone, names_times: true } => named_after(cron, *zone, time),
            Self::Line { cron, zone, names_times: false } => {
                let next = cron.find_next_occurrence(&time.with_timezone(zone), false).ok()?;
                Some(next.to_utc())
            }
        }
    }
}

fn invalid(message: String, hint: impl Into<String>) -> Invalid {
    Invalid { message, hint: hint.into() }
}

fn every(text: &str) -> Result<Schedule, Invalid> {
    let hint = "write whole seconds, as in `@every 2s` or `@every 1h30m`";
    let period =
        quantity::duration(text, &FieldPath::root()).map_err(|p| invalid(format!("@every: {}", p.message), hint))?;
    if period.subsec_nanos() != 0 || period < Duration::from_secs(1) {
        return Err(invalid(format!("@every {text}: a schedule counts whole seconds, at least one"), hint));
    }
    let seconds = u32::try_from(period.as_secs()).map_err(|_| invalid(format!("@every {text}: never fires"), hint))?;
    Ok(Schedule::Every(seconds))
}

fn line(text: &str, zone: Tz) -> Result<Schedule, Invalid> {
    let mut fields: Vec<&str> = text.split_whitespace().collect();
    match fields.len() {
        5 => fields.insert(0, "0"),
        6 => {}
        0 => return Err(invalid("the schedule is empty".into(), FORMS)),
        count => return Err(invalid(format!("{text:?} has {count} fields"), FORMS)),
    }
    let parse = |fields: &[&str]| {
        let parser = CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).sloppy_ranges(true);
        parser.build().parse(&fields.join(" "))
    };
    let reworded: Vec<String> = fields.iter().enumerate().map(|(index, field)| reworded(index, field)).collect();
    let checked: Vec<&str> = reworded.iter().map(String::as_str).collect();
    let meant: Vec<&str> = checked.iter().enumerate().map(|(index, field)| unless_every_day(index, field)).collect();
    let cron = parse(&checked).and_then(|_| parse(&meant)).map_err(|error| {
        for (index, (name, range)) in FIELDS.iter().enumerate() {
            let mut alone = ["*"; 6];
            alone[index] = checked[index];
            if parse(&alone).is_err() {
                let hint = format!("values are {range}; `*`, `1,2`, `1-5` and `*/5` combine them");
                return invalid(format!("{:?} is no {name}", fields[index]), hint);
            }
        }
        invalid(format!("{text:?} is no schedule: {error}"), FORMS)
    })?;
    let names_times = !fields[..3].iter().any(|field| field.contains(['*', '?']) || field.starts_with('/'));
    // Every date that exists at all exists within the years that this looks at.
    if cron.find_next_occurrence(&DateTime::UNIX_EPOCH.naive_utc(), true).is_err() {
        let message = format!("{text:?} never fires: there is no such day");
        return Err(invalid(message, "correct the day of the month or the month; `L` is the last day of a month"));
    }
    Ok(Schedule::Line { cron: Box::new(cron), zone, names_times })
}

/// A field in words that the parser takes, and takes as they are meant: to it, a `?` is a `*` among days alone, a `*` is none in a list, and
/// the steps of a weekday go on to the Sunday after Saturday.
fn reworded(index: usize, field: &str) -> String {
    let is_weekday = |text: &str| {
        let number = text.parse::<usize>().is_ok_and(|number| number < WEEKDAYS.len());
        number || WEEKDAYS.iter().any(|name| name.eq_ignore_ascii_case(text))
    };
    let item = |item: &str| match item.split_once('/') {
        None if item == "*" => "*/1".to_owned(),
        Some((first, step)) if index == WEEKDAY && is_weekday(first.trim_start_matches('+')) => {
            format!("{first}-6/{step}")
        }
        _ => item.to_owned(),
    };
    let items: Vec<String> = field.replace('?', "*").split(',').map(item).collect();
    items.join(",")
}

/// A field of days, or `*` for one that leaves no day out: the parser takes that alone for no restriction, beside which the other field of
/// days decides.
fn unless_every_day(index: usize, field: &str) -> &str {
    let is_every = |item: &str| {
        let stepped = item.trim_start_matches('+').split_once('/');
        stepped.is_some_and(|(first, step)| matches!(first, "*" | "") && step.parse::<u16>() == Ok(1))
    };
    let is_of_days = matches!(index, DAY_OF_MONTH | WEEKDAY);
    if is_of_days && field.split(',').any(is_every) { "*" } else { field }
}

/// The next of the times that `cron` names on the clock of `zone`.
fn named_after(cron: &Cron, zone: Tz, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut clock = time.with_timezone(&zone).naive_local();
    loop {
        clock = cron.find_next_occurrence(&clock, false).ok()?;
        let moment = match zone.from_local_datetime(&clock) {
            LocalResult::Single(moment) | LocalResult::Ambiguous(moment, _) => moment,
            LocalResult::None => after_gap(zone, clock)?,
        };
        // What a clock that was put back names again is behind.
        if moment > time {
            return Some(moment.to_utc());
        }
    }
}

/// The first moment after the gap that `clock` lies in. Clocks change on the minute.
fn after_gap(zone: Tz, clock: NaiveDateTime) -> Option<DateTime<Tz>> {
    let minute = clock.duration_trunc(TimeDelta::minutes(1)).ok()?;
    (1..GAP_MINUTES).find_map(|past| {
        let clock = minute.checked_add_signed(TimeDelta::minutes(past))?;
        zone.from_local_datetime(&clock).earliest()
    })
}

#[cfg(test)]
mod tests;
