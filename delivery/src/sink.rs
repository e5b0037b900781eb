//! `trait Sink`: one attempt to deliver one event.

use std::time::Duration;

use evoke_eventbus::event::Event;
use futures_util::future::BoxFuture;

/// What one attempt came to. The mapping from HTTP follows Knative's data-plane specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The subscriber has it.
    Delivered,
    /// It may work later: 404, 408, 409, 429, 5xx, no connection, no answer in time, no HTTP.
    Retry {
        /// Why, for people.
        cause: String,
        /// The HTTP status, if there was one.
        status: Option<u16>,
        /// `Retry-After`, as sent.
        after: Option<Duration>,
        /// The start of the answer's body, for the dead letter.
        body: Vec<u8>,
    },
    /// It will never work: any other answer.
    Refused {
        /// Why, for people.
        cause: String,
        /// The HTTP status, if there was one.
        status: Option<u16>,
        /// The start of the answer's body, for the dead letter.
        body: Vec<u8>,
    },
}

/// Somewhere events can be delivered to. An implementation makes exactly one attempt a call, within the time limit it was made
/// with, and never logs data or credentials.
pub trait Sink: Send + Sync {
    /// Makes one attempt.
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome>;

    /// Makes one attempt and takes an answer that is an event, of at most `limit` bytes, beside [`Outcome::Delivered`] alone.
    /// Most sinks have no answers.
    fn ask<'a>(&'a self, event: &'a Event, limit: usize) -> BoxFuture<'a, (Outcome, Option<Event>)> {
        _ = limit;
        Box::pin(async move { (self.deliver(event).await, None) })
    }

    /// The destination without credentials, for `knativeerrordest` and logs.
    fn destination(&self) -> &str;
}
