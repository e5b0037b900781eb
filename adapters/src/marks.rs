//! How far a source got that has no upstream to remember it.

use std::sync::Arc;

use chrono::{DateTime, ParseError, SecondsFormat, Utc};
use evoke_api::names::ObjectName;
use evoke_eventbus::bus::{BusError, Entry, EventBus, Expect, Put};
use futures_util::future::{BoxFuture, FutureExt};

use crate::source::{Origin, Unsettled};

/// How far a source got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What was due by then is done.
    pub time: DateTime<Utc>,
    /// The schedule by which it was due; `None` in a mark from before schedules were written down.
    pub schedule: Option<Arc<str>>,
}

/// Remembers, durably, one mark for each event of an EventSource.
pub trait Marks: Send + Sync {
    /// The mark that was stored last.
    fn load<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Option<Mark>, Unsettled>>;

    /// Stores a mark, its time to the second; durable when it resolves.
    fn store<'a>(&'a self, origin: &'a Origin, mark: Mark) -> BoxFuture<'a, Result<(), Unsettled>>;

    /// Removes the mark, where there is one; durable when it resolves.
    fn forget<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<(), Unsettled>>;
}

/// Marks in the state of a bus, under `marks/{namespace}/{eventSource}/{event}`: the time in RFC 3339, and the schedule behind a space.
#[derive(Clone, Debug)]
pub struct BusMarks(pub Arc<dyn EventBus>);

impl BusMarks {
    async fn entry(&self, key: &str) -> Result<Option<Entry>, Unsettled> {
        let entries = self.0.load(key).await.map_err(|e| unsettled(&e))?;
        Ok(entries.into_iter().find(|entry| entry.key == key))
    }

    async fn put(&self, key: String, value: Option<String>) -> Result<(), Unsettled> {
        let put = Put { key, value: value.map(Into::into), expect: Expect::Any };
        self.0.store(vec![put]).await.map_err(|e| unsettled(&e))?;
        Ok(())
    }
}

impl Marks for BusMarks {
    fn load<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Option<Mark>, Unsettled>> {
        async move {
            let key = key(origin);
            let Some(entry) = self.entry(&key).await? else { return Ok(None) };
            let text = String::from_utf8_lossy(&entry.value);
            let mark = read(&text);
            Ok(Some(mark.map_err(|e| Unsettled(format!("{key} holds {text:?}: {e}").into()))?))
        }
        .boxed()
    }

    fn store<'a>(&'a self, origin: &'a Origin, mark: Mark) -> BoxFuture<'a, Result<(), Unsettled>> {
        async move { self.put(key(origin), Some(written(&mark))).await }.boxed()
    }

    fn forget<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<(), Unsettled>> {
        async move {
            let key = key(origin);
            match self.entry(&key).await? {
                Some(_) => self.put(key, None).await,
                None => Ok(()),
            }
        }
        .boxed()
    }
}

fn written(mark: &Mark) -> String {
    let time = mark.time.to_rfc3339_opts(SecondsFormat::Secs, true);
    match &mark.schedule {
        Some(schedule) => format!("{time} {schedule}"),
        None => time,
    }
}

fn read(text: &str) -> Result<Mark, ParseError> {
    let (time, schedule) = text.split_once(' ').map_or((text, None), |(time, schedule)| (time, Some(schedule.into())));
    Ok(Mark { time: DateTime::parse_from_rfc3339(time)?.to_utc(), schedule })
}

fn unsettled(error: &BusError) -> Unsettled {
    Unsettled(error.to_string().into())
}

fn key(origin: &Origin) -> String {
    let ObjectName { namespace, name } = &origin.event_source;
    format!("marks/{namespace}/{name}/{}", origin.event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_an_older_one_too() {
        let time = "2026-11-23T02:00:00Z".parse().unwrap();
        let mark = Mark { time, schedule: Some("0 2 * * * Europe/Berlin".into()) };
        assert_eq!(written(&mark), "2026-11-23T02:00:00Z 0 2 * * * Europe/Berlin");
        assert_eq!(read(&written(&mark)), Ok(mark));
        assert_eq!(read("2026-11-23T02:00:00Z"), Ok(Mark { time, schedule: None }));
        assert!(read("yesterday @every 2s").is_err());
    }
}
