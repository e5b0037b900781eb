//! The cron source: the ticks of a schedule.
//!
//! | module | holds |
//! | --- | --- |
//! | [`schedule`] | when a schedule fires |
//! | [`ticks`] | which ticks are due, given what fired before and what the clock says |
//! | [`source`] | waits for ticks and hands them over |
//! | [`left_off`] | how far the sources of one event got that ran in this process, one after the other |

mod left_off;
mod schedule;
mod source;
mod ticks;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use evoke_api::events::CronSource;
use evoke_api::problem::{FieldPath, Problem};
use evoke_api::quantity;
use evoke_eventbus::event::{Event, InvalidEvent};
use serde_json::Value;

use crate::marks::Marks;
use crate::metrics::SourceMetrics;
use crate::source::{Origin, Place, Source};
pub use left_off::LeftOff;
use schedule::Schedule;

/// A validated cron source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronPlan {
    /// The schedule as it is written.
    text: String,
    schedule: Schedule,
    catch_up: Option<Duration>,
    data: Option<Bytes>,
    content_type: Option<String>,
}

/// The turn of a source to fire the ticks of an event.
#[derive(Clone, Default)]
pub struct Turn {
    /// After those that had it before in this process, where they left off.
    pub left_off: LeftOff,
    /// Among the processes that share a bus.
    pub lease: Option<Lease>,
}

/// A turn among several processes of which one fires each tick.
#[derive(Clone)]
pub struct Lease {
    /// Since when this process has waited for turns or had one: ticks that nobody fired since then are due.
    pub since: DateTime<Utc>,
    /// False as soon as another process may have the turn.
    pub lasts: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl CronPlan {
    /// The source of this plan. `marks` is where it remembers its last tick; without, nothing is caught up after a restart. `turn`
    /// is for one that is not the first or not the only one of its event.
    pub fn source(
        &self,
        origin: &Origin,
        metrics: SourceMetrics,
        marks: Option<Arc<dyn Marks>>,
        turn: Option<Turn>,
    ) -> Box<dyn Source> {
        let Turn { left_off, lease } = turn.unwrap_or_default();
        Box::new(source::CronSource::new(self.clone(), origin.clone(), metrics, marks, left_off, lease))
    }

    /// When it fires, as it is written.
    pub fn schedule(&self) -> &str {
        &self.text
    }

    /// How old a tick may be that is fired after a restart; `None` when none is. Needs marks, and so a bus.
    pub fn catch_up(&self) -> Option<Duration> {
        self.catch_up
    }

    /// The schedule in marks, which outlive a change of the manifest: the line, and the zone that it means.
    fn marked(&self) -> Arc<str> {
        match &self.schedule {
            Schedule::Every(seconds) => format!("@every {seconds}s").into(),
            Schedule::Line { zone, .. } => {
                // No field has a `=`, but what names the zone in front of them.
                let fields: Vec<&str> = self.text.split_whitespace().filter(|part| !part.contains('=')).collect();
                format!("{} {zone}", fields.join(" ")).into()
            }
        }
    }

    /// The event of the tick at `time`.
    fn event(&self, origin: &Origin, time: DateTime<Utc>) -> Result<Event, InvalidEvent> {
        let time = rfc3339(time);
        let event = origin
            .event("cron", time.clone())
            .attribute("time", time)
            .attribute_if("datacontenttype", self.content_type.as_deref())
            .data(self.data.clone().unwrap_or_default());
        origin.finish(event)
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Validates `cron.{event}`. `None` when an error was pushed.
pub fn plan(place: &Place<'_>, spec: &CronSource, problems: &mut Vec<Problem>) -> Option<CronPlan> {
    let path = place.path;
    let (zone, line) = zone(spec, path, problems)?;
    let schedule = Schedule::parse(line, zone).map_err(|invalid| {
        problems.push(Problem::error(path.key("schedule"), invalid.message).hint(invalid.hint));
    });
    let catch_up = match &spec.catch_up {
        Some(text) => match quantity::duration(text, &path.key("catchUp")) {
            Ok(catch_up) => Some(Some(catch_up)),
            Err(problem) => {
                problems.push(problem);
                None
            }
        },
        None => Some(None),
    };
    let schedule = schedule.ok()?;
    if matches!(schedule, Schedule::Every(_)) && spec.time_zone.is_some() {
        let message = "a time zone has no effect on `@every`, which counts the seconds since 1970";
        problems.push(Problem::warning(path.key("timeZone"), message).hint("remove it, or write a cron line"));
    }
    let (data, own_type) = match &spec.data {
        None => (None, None),
        Some(Value::String(text)) => (Some(Bytes::from(text.clone())), Some("text/plain; charset=utf-8")),
        Some(other) => (Some(Bytes::from(other.to_string())), Some("application/json")),
    };
    let given_type = place.fields(problems).content_type(spec.content_type.as_deref());
    let content_type = given_type.or_else(|| own_type.map(str::to_owned));
    let text = spec.schedule.trim().to_owned();
    let plan = CronPlan { text, schedule, catch_up: catch_up?, data, content_type };
    if let Err(error) = plan.event(place.origin, DateTime::UNIX_EPOCH) {
        problems.push(Problem::error(path.clone(), format!("the event cannot be built: {error}")));
        return None;
    }
    Some(plan)
}

/// The zone, and the schedule without the prefix that OpenFunction's scheduler takes for it (`CRON_TZ=Asia/Tokyo 0 9 * * *`).
fn zone<'a>(spec: &'a CronSource, path: &FieldPath, problems: &mut Vec<Problem>) -> Option<(Tz, &'a str)> {
    let prefixed = ["CRON_TZ=", "TZ="].iter().find_map(|prefix| spec.schedule.trim_start().strip_prefix(prefix));
    let (name, line, field) = match (prefixed, &spec.time_zone) {
        (Some(_), Some(_)) => {
            let message = "the schedule names a time zone as well";
            let hint = "keep `timeZone`, and remove the `TZ=` in front of the schedule";
            problems.push(Problem::error(path.key("timeZone"), message).hint(hint));
            return None;
        }
        (Some(rest), None) => {
            let (name, line) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            (name, line, "schedule")
        }
        (None, Some(name)) => (name.as_str(), spec.schedule.as_str(), "timeZone"),
        (None, None) => return Some((Tz::UTC, &spec.schedule)),
    };
    let zone = name.parse::<Tz>().ok();
    if zone.is_none() {
        let problem = Problem::error(path.key(field), format!("{name:?} is no time zone"));
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).find(|zone| zone.eq_ignore_ascii_case(name));
        problems.push(problem.hint(match known {
            Some(known) => format!("did you mean {known}?"),
            None => "write a name of the IANA database, such as Europe/Berlin, or UTC".to_owned(),
        }));
    }
    Some((zone?, line))
}

#[cfg(test)]
mod tests;
