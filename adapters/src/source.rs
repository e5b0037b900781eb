//! `trait Source`, and the outlet that every source hands its events to.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use evoke_api::credentials::Vault;
use evoke_api::events::Attributes;
use evoke_api::names::ObjectName;
use evoke_api::problem::{FieldPath, Problem};
use evoke_connect::fields::Fields;
use evoke_eventbus::event::{Event, EventBuilder, InvalidEvent};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One event of an EventSource: where its events say they come from, and what the manifest sets on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The EventSource.
    pub event_source: ObjectName,
    /// The event's name in it.
    pub event: Arc<str>,
    /// What replaces the attributes that the source gives.
    pub attributes: Attributes,
}

impl Origin {
    /// Starts an event of a source kind (`kafka`, `cron`, ...) with evoke's own `source` and `type`.
    pub fn event<'a>(&self, kind: &str, id: impl Into<Cow<'a, str>>) -> EventBuilder<'a> {
        let ObjectName { namespace, name } = &self.event_source;
        let source = format!("/namespaces/{namespace}/eventsources/{name}/{}", self.event);
        Event::builder(id, source, format!("io.evoke.{kind}"))
    }

    /// `{namespace}.{eventSource}.{event}`: what a source is called upstream where the manifest does not say.
    pub fn own_name(&self) -> String {
        let ObjectName { namespace, name } = &self.event_source;
        format!("{namespace}.{name}.{}", self.event)
    }

    /// Puts the manifest's `attributes` over what the source gave, and encodes the event.
    ///
    /// # Errors
    /// What [`EventBuilder::build`] refuses.
    pub fn finish(&self, event: EventBuilder<'_>) -> Result<Event, InvalidEvent> {
        self.attributes.iter().fold(event, |event, (name, value)| event.attribute(name, value)).build()
    }
}

/// Where in a manifest a source is planned: what the `plan` function of every kind is given beside its spec.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The event that is planned.
    pub origin: &'a Origin,
    /// The path of its spec.
    pub path: &'a FieldPath,
    /// Where its credentials are looked up.
    pub vault: &'a dyn Vault,
}

impl Place<'_> {
    /// The fields of the spec; what is wrong with them goes to `problems`.
    pub fn fields<'p>(&'p self, problems: &'p mut Vec<Problem>) -> Fields<'p> {
        Fields::new(&self.origin.event_source.namespace, self.path.clone(), self.vault, problems)
    }
}

/// Something outside that was read.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// As an event.
    Event(Event),
    /// As something that cannot be one. The outlet makes a dead letter of it.
    Malformed(Malformed),
}

/// What a source read and could not turn into an event.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// Where it was: the id that its event would have had.
    pub position: String,
    /// What is wrong with it, for people.
    pub cause: String,
    /// The raw bytes.
    pub raw: Bytes,
}

/// Resolves once everything handed over is settled: durable on the bus, delivered where there is only a sink, or durably dead
/// lettered. An error means that it is not known to be, and the upstream must not be told that it is.
pub type Settled = BoxFuture<'static, Result<(), Unsettled>>;

/// Why events are not settled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsettled(pub Arc<str>);

/// Takes the events of one source.
pub trait Outlet: Send + Sync {
    /// Resolves when the batch is accepted, which is the back-pressure; what it resolves to, when the batch is settled. Batches are
    /// stored in the order of the calls. What is too large becomes a dead letter here.
    fn accept(&self, arrivals: Vec<Arrival>) -> BoxFuture<'_, Result<Settled, Unsettled>>;

    /// True when `accept` would resolve at once: a webhook answers 503 where it would not.
    fn has_room(&self) -> bool;

    /// The largest event taken, as encoded.
    fn max_event_bytes(&self) -> usize;
}

/// How a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not reading yet; says what it waits for.
    Connecting(Arc<str>),
    /// Reading.
    Up,
    /// Not reading; says why. It goes on trying.
    Down(Arc<str>),
}

/// What a source is given to run with.
#[derive(Clone)]
pub struct Context {
    /// Where its events go.
    pub outlet: Arc<dyn Outlet>,
    /// Where it says how it is doing.
    pub status: watch::Sender<Status>,
    /// Cancelled when it is to stop reading, settle what it read, commit, and return.
    pub cancel: CancellationToken,
}

/// Reads one outside system. A source commits upstream (Kafka offset, XACK, HTTP 2xx) only for the settled head of its ordered
/// in-flight queue. It reconnects for ever with back-off and reports through `Context::status`, one log line a change.
pub trait Source: Send {
    /// Runs until cancelled and drained.
    ///
    /// # Errors
    /// Only what no retry can mend.
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>>;
}

/// Why a source ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub Arc<str>);
