//! Two sides on one broker: its client used by hand, and the bus.

use std::sync::Arc;

use evoke_api::names::TopicName;
use evoke_eventbus::bus::EventBus;
use evoke_eventbus::event::Event;
use evoke_tests::process::Pid;
use futures_util::future::BoxFuture;

use crate::measure::Outcome;
use crate::tool::Tooled;

/// Events of one call, on both sides.
pub const BATCH: usize = 256;

/// Resolves when the events of a call are stored. It must be polled to get there.
pub type Stored = BoxFuture<'static, Outcome<()>>;

/// Publishes on one topic.
pub trait Publisher: Send {
    /// Hands over the events of one call.
    fn publish<'a>(&'a mut self, events: &'a [Event]) -> BoxFuture<'a, Outcome<Stored>>;
}

/// Reads one topic.
pub trait Consumer: Send {
    /// Waits for events, shows the data of each and acknowledges them, at the latest in a moment.
    fn consume<'a>(&'a mut self, each: &'a mut (dyn FnMut(&[u8]) + Send)) -> BoxFuture<'a, Outcome<()>>;

    /// Acknowledges whatever is not acknowledged yet.
    fn finish(&mut self) -> BoxFuture<'_, Outcome<()>>;
}

/// Both ends of one topic.
pub struct Ends {
    /// One end.
    pub publisher: Box<dyn Publisher>,
    /// The other.
    pub consumer: Box<dyn Consumer>,
}

/// A running server, and how its own client is used by hand. Both sides write the same: the CloudEvent's attributes beside its data, in
/// the protocol's binary mode, and durable in the same way.
pub trait Broker {
    /// What its client is called.
    const CLIENT: &'static str;
    /// What its own perf tool is called.
    const TOOL: &'static str;
    /// How many calls of [`BATCH`] events are under way, on both sides.
    const CALLS: usize;

    /// The process of the server.
    fn server(&self) -> Pid;

    /// A bus on it.
    fn bus(&self) -> impl Future<Output = Outcome<Arc<dyn EventBus>>>;

    /// What a topic of the bus is called on the server.
    fn wire_name(&self, topic: &TopicName) -> String;

    /// Makes a topic for the client.
    fn make(&self, name: &str) -> impl Future<Output = Outcome<()>>;

    /// Removes a topic of either side with all that is in it.
    fn forget(&self, name: &str) -> impl Future<Output = Outcome<()>>;

    /// The client as a publisher.
    fn publisher(&self, name: &str) -> impl Future<Output = Outcome<Box<dyn Publisher>>>;

    /// The client as a consumer of events of so many bytes of data, from the first on; without acknowledgements it reads plainly.
    fn consumer(&self, name: &str, bytes: usize, acks: bool) -> impl Future<Output = Outcome<Box<dyn Consumer>>>;

    /// The broker's own perf tool with `events` like this one.
    fn tool(&self, event: &Event, events: usize) -> impl Future<Output = Outcome<Tooled>>;
}

/// Events that differ in their ids, with so many bytes of data that start with the event's number.
///
/// # Errors
/// When one would be no event.
pub fn events(count: usize, bytes: usize) -> Outcome<Arc<[Event]>> {
    let made = (0..count).map(|n| {
        let mut data = format!("{n:016}").into_bytes();
        data.resize(bytes, b'x');
        Event::builder(
            format!("0190f3c2-7c7e-7b7c-9d3e-{n:012x}"),
            "/namespaces/default/eventsources/shop/orders",
            "io.evoke.webhook",
        )
        .attribute("datacontenttype", "text/plain")
        .attribute("time", "2026-11-23T15:53:00Z")
        .data(data)
        .build()
    });
    Ok(made.collect::<Result<_, _>>()?)
}

/// The number that an event's data starts with.
pub fn number(data: &[u8]) -> Option<usize> {
    std::str::from_utf8(data.get(..16)?).ok()?.parse().ok()
}
