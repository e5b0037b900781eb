//! How far a source got that has no upstream to remember it.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use evoke_api::names::ObjectName;
use evoke_eventbus::bus::{BusError, EventBus, Expect, Put};
use futures_util::future::{BoxFuture, FutureExt};

use crate::source::{Origin, Unsettled};

/// Remembers, durably, one time for each event of an EventSource.
pub trait Marks: Send + Sync {
    /// The time that was stored last.
    fn load<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Option<DateTime<Utc>>, Unsettled>>;

    /// Stores a time; durable when it resolves.
    fn store<'a>(&'a self, origin: &'a Origin, mark: DateTime<Utc>) -> BoxFuture<'a, Result<(), Unsettled>>;
}

/// Marks in the state of a bus, under `marks/{namespace}/{eventSource}/{event}`.
#[derive(Clone, Debug)]
pub struct BusMarks(pub Arc<dyn EventBus>);

impl Marks for BusMarks {
    fn load<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Option<DateTime<Utc>>, Unsettled>> {
        async move {
            let key = key(origin);
            let entries = self.0.load(&key).await.map_err(|e| unsettled(&e))?;
            let Some(entry) = entries.into_iter().find(|entry| entry.key == key) else { return Ok(None) };
            let text = String::from_utf8_lossy(&entry.value);
            let mark = DateTime::parse_from_rfc3339(&text);
            Ok(Some(mark.map_err(|e| Unsettled(format!("{key} holds {text:?}: {e}").into()))?.to_utc()))
        }
        .boxed()
    }

    fn store<'a>(&'a self, origin: &'a Origin, mark: DateTime<Utc>) -> BoxFuture<'a, Result<(), Unsettled>> {
        async move {
            let value = mark.to_rfc3339_opts(SecondsFormat::Secs, true).into_bytes();
            let put = Put { key: key(origin), value: Some(value.into()), expect: Expect::Any };
            self.0.store(vec![put]).await.map_err(|e| unsettled(&e))?;
            Ok(())
        }
        .boxed()
    }
}

fn unsettled(error: &BusError) -> Unsettled {
    Unsettled(error.to_string().into())
}

fn key(origin: &Origin) -> String {
    let ObjectName { namespace, name } = &origin.event_source;
    format!("marks/{namespace}/{name}/{}", origin.event)
}
