//! A validated sink, dead letter and delivery policy.

use std::time::Duration;

use evoke_api::names::{ObjectName, SubscriptionId, TopicName};
use url::Url;

mod policy;
mod sink;

pub use policy::{plan_dead_letter, plan_policy};
pub use sink::plan_sink;

/// Where events are posted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SinkPlan {
    /// An HTTP endpoint.
    Http(Url),
    /// A function that evoke serves, with the path after its address.
    Function {
        /// Which one.
        name: ObjectName,
        /// Path and query, starting with `/`.
        path: String,
    },
}

/// Where an event goes whose delivery failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterPlan {
    /// Another sink; the bus's own store if that fails too.
    Sink(SinkPlan),
    /// A topic of the bus; the bus's own store if that takes nothing.
    Topic(TopicName),
    /// The bus's own store.
    Store,
}

/// How delays between attempts grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// `delay * 2^(n - 1)` before retry n.
    Exponential,
    /// `delay * n` before retry n.
    Linear,
}

/// `rateLimit`, with its defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many deliveries may start...
    pub events: u32,
    /// ...in how long.
    pub per: Duration,
    /// How many of them at once.
    pub burst: u32,
}

/// Which events wait for which.
pub use evoke_api::events::Ordering;

/// `delivery`, with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// Attempts after the first one.
    pub retry: u32,
    /// How delays grow.
    pub backoff: Backoff,
    /// The first delay.
    pub delay: Duration,
    /// The longest delay.
    pub delay_max: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// The longest `Retry-After` that is honoured.
    pub retry_after_max: Duration,
    /// Deliveries under way at once.
    pub max_in_flight: usize,
    /// Which events keep their order.
    pub ordering: Ordering,
    /// How many deliveries may start in a while, in one process.
    pub rate_limit: Option<RateLimit>,
    /// How long a delivered event is remembered, so that a repeat of it is not delivered.
    pub deduplication_window: Option<Duration>,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            retry: 10,
            backoff: Backoff::Exponential,
            delay: Duration::from_millis(200),
            delay_max: Duration::from_secs(60),
            timeout: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(300),
            max_in_flight: 100,
            ordering: Ordering::None,
            rate_limit: None,
            deduplication_window: None,
        }
    }
}

/// One subscriber: everything of it but how events are selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionPlan {
    /// The name its position is kept under.
    pub id: SubscriptionId,
    /// The topics it reads, in the order of the selector's inputs, each once.
    pub topics: Vec<TopicName>,
    /// Where matching events are posted, first.
    pub sink: Option<SinkPlan>,
    /// Where matching events are published, then.
    pub topic: Option<TopicName>,
    /// Where an event is published that the sink answered with.
    pub reply: Option<TopicName>,
    /// Where an event goes whose delivery failed for good.
    pub dead_letter: DeadLetterPlan,
    /// Retries, time limits, concurrency and order.
    pub policy: DeliveryPolicy,
}

#[cfg(test)]
mod tests;
