//! One attempt for one event: sink, then its reply, then topic; or, once that failed for good, its dead letter.

use std::sync::Arc;
use std::time::Duration;

use evoke_api::limits;
use evoke_api::names::{SubscriptionId, TopicName};
use evoke_eventbus::bus::{EventBus, Partition, Position, PublishError};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::{Millis, Open};
use evoke_eventbus::subscription::partition_of;
use tokio::time::Instant;

use crate::dead_letter::{self, Failure};
use crate::metrics::ReplyMetrics;
use crate::plan::DeliveryPolicy;
use crate::reply::{Onward, onward};
use crate::sink::{Outcome, Sink};

/// Where the events of one subscription go.
pub(super) struct Route {
    pub(super) id: SubscriptionId,
    /// The name under which losses are counted: the same, but for a job.
    pub(super) counted_as: SubscriptionId,
    pub(super) bus: Arc<dyn EventBus>,
    /// Who passes events on, and what for.
    pub(super) by: Arc<str>,
    pub(super) policy: DeliveryPolicy,
    pub(super) sink: Option<Arc<dyn Sink>>,
    pub(super) reply: Option<Target>,
    pub(super) replies: ReplyMetrics,
    pub(super) topic: Option<Target>,
    pub(super) letter_sink: Option<Arc<dyn Sink>>,
    pub(super) letter_topic: Option<Target>,
    pub(super) store: Target,
}

/// A topic to publish on.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) topic: TopicName,
    pub(super) partitions: u16,
}

/// Where an event is: of which input, at which position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) input: usize,
    pub(super) at: Position,
}

/// An event on its way.
pub(super) struct Flight {
    pub(super) place: Place,
    pub(super) event: Event,
    /// What the ledger says of it, or is to say.
    pub(super) open: Open,
    /// True once the ledger has it.
    pub(super) recorded: bool,
    pub(super) stage: Stage,
    pub(super) started: Instant,
    /// How often the log had lost its end when it started: what it says of a position that was lost since is not to be recorded.
    pub(super) epoch: usize,
    /// Where it was before it became the dead letter that is redriven, where that says so.
    pub(super) origin: Option<Arc<str>>,
}

/// What is to be done next; what is done already is not done again as long as this process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Sink,
    Reply(Event),
    Topic,
    Letter(Box<Letter>),
}

/// A dead letter on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) failure: Failure,
    /// What is put away instead of the event.
    pub(super) instead: Option<Event>,
    pub(super) to: Mailbox,
    /// Attempts at the place it goes to now.
    pub(super) attempts: u32,
}

/// Where a dead letter is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mailbox {
    Sink,
    Topic,
    Store,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Landing {
    /// All of it is done.
    Delivered,
    /// The dead letter is where it belongs.
    Lettered(Mailbox),
    /// To be tried again later.
    Retry(Setback),
    /// Failed for good: time for a dead letter.
    Refused(Setback),
}

impl Landing {
    /// For logs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Lettered(_) => "dead-lettered",
            Self::Retry(_) => "failed",
            Self::Refused(_) => "refused",
        }
    }

    /// What went wrong, for logs.
    pub(super) fn cause(&self) -> Option<&str> {
        match self {
            Self::Delivered | Self::Lettered(_) => None,
            Self::Retry(setback) | Self::Refused(setback) => Some(&setback.cause),
        }
    }
}

/// What went wrong.
#[derive(Debug)]
pub(super) struct Setback {
    pub(super) cause: String,
    pub(super) status: Option<u16>,
    pub(super) after: Option<Duration>,
    pub(super) body: Vec<u8>,
    /// What becomes a dead letter instead of the event.
    pub(super) instead: Option<Event>,
}

impl Setback {
    fn new(cause: String) -> Self {
        Self { cause, status: None, after: None, body: Vec::new(), instead: None }
    }
}

impl Route {
    /// The place that dead letters go to first.
    pub(super) fn first_mailbox(&self) -> Mailbox {
        match (&self.letter_sink, &self.letter_topic) {
            (Some(_), _) => Mailbox::Sink,
            (None, Some(_)) => Mailbox::Topic,
            (None, None) => Mailbox::Store,
        }
    }

    /// Where an event was to go, for people.
    pub(super) fn destination(&self, stage: &Stage) -> String {
        match (stage, &self.sink, &self.reply, &self.topic) {
            (Stage::Sink, Some(sink), ..) => sink.destination().to_owned(),
            (Stage::Reply(_), _, Some(target), _) | (_, _, _, Some(target)) => format!("topic {}", target.topic),
            (_, Some(sink), ..) => sink.destination().to_owned(),
            (_, None, ..) => String::new(),
        }
    }

    async fn deliver(&self, flight: &mut Flight) -> Landing {
        if flight.stage == Stage::Sink
            && let Some(sink) = &self.sink
        {
            let (outcome, reply) = match &self.reply {
                Some(_) => sink.ask(&flight.event, self.bus.max_event_bytes()).await,
                None => (sink.deliver(&flight.event).await, None),
            };
            match outcome {
                Outcome::Delivered => {}
                Outcome::Retry { cause, status, after, body } => {
                    return Landing::Retry(Setback { status, after, body, ..Setback::new(cause) });
                }
                Outcome::Refused { cause, status, body } => {
                    return Landing::Refused(Setback { status, body, ..Setback::new(cause) });
                }
            }
            match reply.map(|reply| onward(&flight.event, reply)) {
                None => {}
                Some(Ok(Onward::Goes(reply))) => flight.stage = Stage::Reply(reply),
                Some(Ok(Onward::Cut { reply, hops })) => return self.cut(flight, reply, hops),
                Some(Err(error)) => {
                    return Landing::Retry(Setback::new(format!("a reply that cannot be passed on: {error}")));
                }
            }
        }
        if let (Stage::Reply(reply), Some(target)) = (&flight.stage, &self.reply) {
            match self.publish(target, reply.clone()).await {
                Ok(()) => self.replies.published.inc(),
                Err(Unpublished::TooLarge(cause)) => {
                    return Landing::Refused(Setback::new(format!("the reply cannot be published: {cause}")));
                }
                Err(Unpublished::Unknown(cause)) => return Landing::Retry(Setback::new(cause)),
            }
        }
        let Some(topic) = &self.topic else { return Landing::Delivered };
        flight.stage = Stage::Topic;
        match self.publish(topic, flight.event.clone()).await {
            Ok(()) => Landing::Delivered,
            Err(Unpublished::TooLarge(cause)) => Landing::Refused(Setback::new(cause)),
            Err(Unpublished::Unknown(cause)) => Landing::Retry(Setback::new(cause)),
        }
    }

    /// A reply that has gone round too often: it, and not what it replies to, is what nobody gets.
    fn cut(&self, flight: &mut Flight, reply: Event, hops: u32) -> Landing {
        self.replies.cut.inc();
        flight.stage = Stage::Reply(reply.clone());
        let limit = limits::REPLY_HOPS;
        let cause = format!(
            "reply number {hops} in a row, and at most {limit} may follow each other: they go round in circles"
        );
        Landing::Refused(Setback { instead: Some(reply), ..Setback::new(cause) })
    }

    async fn put_away(&self, event: &Event, letter: &mut Letter) -> Landing {
        let instead = letter.instead.clone();
        let event = instead.as_ref().unwrap_or(event);
        let full = dead_letter::letter(event, &self.id, &letter.failure);
        loop {
            let (target, is_last) = match (letter.to, &self.letter_sink, &self.letter_topic) {
                (Mailbox::Sink, Some(sink), _) => {
                    let outcome = match &full {
                        Ok(full) => sink.deliver(full).await,
                        Err(error) => Outcome::Refused { cause: error.to_string(), status: None, body: Vec::new() },
                    };
                    match outcome {
                        Outcome::Delivered => return Landing::Lettered(Mailbox::Sink),
                        Outcome::Retry { cause, status, after, body } if letter.attempts < self.policy.retry => {
                            return Landing::Retry(Setback { status, after, body, ..Setback::new(cause) });
                        }
                        Outcome::Retry { cause, .. } | Outcome::Refused { cause, .. } => self.give_up(letter, &cause),
                    }
                    continue;
                }
                (Mailbox::Topic, _, Some(topic)) => (topic, false),
                _ => (&self.store, true),
            };
            let published = match &full {
                Ok(full) => self.publish(target, full.clone()).await,
                Err(error) => Err(Unpublished::TooLarge(error.to_string())),
            };
            match published {
                Ok(()) => return Landing::Lettered(letter.to),
                Err(Unpublished::TooLarge(_)) if is_last => return self.put_away_short(event, letter).await,
                // Nothing comes after the store: it is tried until it takes the letter, however long the whole bus is away.
                Err(Unpublished::Unknown(cause)) if is_last || letter.attempts < self.policy.retry => {
                    return Landing::Retry(Setback::new(cause));
                }
                Err(Unpublished::TooLarge(cause) | Unpublished::Unknown(cause)) => self.give_up(letter, &cause),
            }
        }
    }

    /// The last resort: what fits of it, in the bus's own store.
    async fn put_away_short(&self, event: &Event, letter: &Letter) -> Landing {
        let limit = self.bus.max_event_bytes();
        let Some(short) = dead_letter::shortened(event, &self.id, &letter.failure, limit) else {
            return Landing::Retry(Setback::new(format!("a dead letter does not fit into {limit} bytes")));
        };
        tracing::warn!(subscriber = %self.id, id = event.id(), "the dead letter is shortened to what the bus takes");
        match self.publish(&self.store, short).await {
            Ok(()) => Landing::Lettered(Mailbox::Store),
            Err(Unpublished::TooLarge(cause) | Unpublished::Unknown(cause)) => Landing::Retry(Setback::new(cause)),
        }
    }

    fn give_up(&self, letter: &mut Letter, cause: &str) {
        let to = match letter.to {
            Mailbox::Sink if self.letter_topic.is_some() => Mailbox::Topic,
            _ => Mailbox::Store,
        };
        tracing::warn!(subscriber = %self.id, cause, "the dead-letter {} failed, trying the {}", letter.to.name(), to.name());
        (letter.to, letter.attempts) = (to, 0);
    }

    async fn publish(&self, to: &Target, event: Event) -> Result<(), Unpublished> {
        let partition = Partition { topic: to.topic.clone(), index: partition_of(&event, to.partitions) };
        let stored = async {
            let receipt = self.bus.pass_on(&partition, vec![event], &self.by).await.map_err(|e| e.to_string())?;
            receipt.await.pop().ok_or_else(|| "the bus gave no receipt".to_owned())
        };
        match tokio::time::timeout(self.policy.timeout, stored).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error @ PublishError::TooLarge { .. }))) => Err(Unpublished::TooLarge(error.to_string())),
            Ok(Ok(Err(error @ PublishError::Uncertain(_)))) => Err(Unpublished::Unknown(error.to_string())),
            Ok(Err(cause)) => Err(Unpublished::Unknown(cause)),
            Err(_) => {
                Err(Unpublished::Unknown(format!("topic {} took nothing within {:?}", to.topic, self.policy.timeout)))
            }
        }
    }
}

enum Unpublished {
    TooLarge(String),
    Unknown(String),
}

impl Mailbox {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Topic => "topic",
            Self::Store => "store",
        }
    }
}

impl Stage {
    /// What it holds beside the event, as encoded.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Reply(reply) => reply.encoded_len(),
            Self::Letter(letter) => letter.instead.as_ref().map_or(0, Event::encoded_len),
            Self::Sink | Self::Topic => 0,
        }
    }
}

impl Flight {
    /// An event that was just matched.
    pub(super) fn new(place: Place, event: Event, key: u64, started: Instant) -> Self {
        let open = Open { key, ..Open::default() };
        Self { place, event, open, recorded: false, stage: Stage::Sink, started, epoch: 0, origin: None }
    }

    /// Notes a failed attempt.
    pub(super) fn failed(&mut self, now: Millis) {
        self.open.attempts = self.open.attempts.saturating_add(1);
        if self.open.first == Millis(0) {
            self.open.first = now;
        }
        self.open.last = now;
    }
}

/// One attempt, from start to landing.
pub(super) async fn fly(route: Arc<Route>, mut flight: Flight) -> (Flight, Landing) {
    let landing = match std::mem::take(&mut flight.stage) {
        Stage::Letter(mut letter) => {
            let landing = route.put_away(&flight.event, &mut letter).await;
            flight.stage = Stage::Letter(letter);
            landing
        }
        stage => {
            flight.stage = stage;
            route.deliver(&mut flight).await
        }
    };
    (flight, landing)
}
