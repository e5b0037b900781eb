//! A validated source of any kind.
//!
//! The plans of the kinds that need a client are here, also of those that this evoke was built without: what is wrong with a manifest
//! does not depend on that.

mod clashes;
pub mod kafka;
pub mod mqtt;
pub mod nats;
pub mod redis;

use std::sync::Arc;

pub use self::clashes::{clashes, tell_apart};
use self::kafka::KafkaPlan;
use self::mqtt::MqttPlan;
use self::nats::NatsSourcePlan;
use self::redis::RedisPlan;
use crate::cron::{CronPlan, Turn};
use crate::marks::Marks;
use crate::metrics::SourceMetrics;
use crate::source::{Origin, Source, SourceError};
use crate::webhook::{Listeners, WebhookPlan};

/// Where an event comes from.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SourcePlan {
    Kafka(KafkaPlan),
    Cron(CronPlan),
    Redis(RedisPlan),
    Mqtt(MqttPlan),
    Nats(NatsSourcePlan),
    Webhook(WebhookPlan),
}

/// What a source is given when it is made.
pub struct Surroundings<'a> {
    /// What it counts.
    pub metrics: SourceMetrics,
    /// The name of this process to what is read from, the same after a restart and different from every other's: what was read and
    /// not finished is kept there under this name.
    pub instance: &'a str,
    /// Where a source remembers how far it got that has no upstream to do so; without, nothing is caught up after a restart.
    pub marks: Option<Arc<dyn Marks>>,
    /// Whom a source comes after, and takes turns with.
    pub turn: Option<Turn>,
    /// Where webhooks listen.
    pub listeners: &'a Listeners,
}

impl SourcePlan {
    /// The source of this plan.
    ///
    /// # Errors
    /// For a kind that this evoke was built without.
    pub fn source(&self, origin: &Origin, with: Surroundings<'_>) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self {
            Self::Cron(plan) => plan.source(origin, with.metrics, with.marks, with.turn),
            Self::Webhook(plan) => plan.clone().source(with.listeners),
            #[cfg(feature = "kafka")]
            Self::Kafka(plan) => plan.source(origin, with.metrics, with.instance),
            #[cfg(feature = "mqtt")]
            Self::Mqtt(plan) => plan.source(origin, with.metrics),
            #[cfg(feature = "nats")]
            Self::Nats(plan) => plan.source(origin, with.metrics),
            #[cfg(feature = "redis")]
            Self::Redis(plan) => plan.source(origin, with.metrics, with.instance),
            #[cfg(not(all(feature = "kafka", feature = "mqtt", feature = "nats", feature = "redis")))]
            _ => {
                use evoke_api::problem::{FieldPath, Problem};
                return Err(SourceError(Problem::not_built(FieldPath::root(), self.kind()).to_string().into()));
            }
        })
    }

    /// The cargo feature that has what it reads with, where this evoke was built without it.
    pub fn lacks(&self) -> Option<&'static str> {
        let is_built = match self {
            Self::Kafka(_) => cfg!(feature = "kafka"),
            Self::Redis(_) => cfg!(feature = "redis"),
            Self::Mqtt(_) => cfg!(feature = "mqtt"),
            Self::Nats(_) => cfg!(feature = "nats"),
            Self::Cron(_) | Self::Webhook(_) => true,
        };
        (!is_built).then_some(self.kind())
    }

    /// True for a source that would give every event once in each process: of several processes, one runs it at a time.
    pub fn takes_turns(&self) -> bool {
        match self {
            // A broker knows an MQTT session by the client's id, and ends the one that another client takes over.
            Self::Cron(_) | Self::Mqtt(_) => true,
            Self::Redis(plan) => plan.is_channel(),
            Self::Nats(plan) => plan.is_alone(),
            Self::Kafka(_) | Self::Webhook(_) => false,
        }
    }

    /// The kind, as manifests and metrics write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Cron(_) => "cron",
            Self::Redis(_) => "redis",
            Self::Mqtt(_) => "mqtt",
            Self::Nats(_) => "nats",
            Self::Webhook(_) => "webhook",
        }
    }
}

#[cfg(test)]
mod tests;
