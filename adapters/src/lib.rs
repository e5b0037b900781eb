//! What happens outside, as CloudEvents: one outside system a file.
//!
//! | module | holds |
//! | --- | --- |
//! | [`source`] | `trait Source`, and the outlet that every source hands its events to |
//! | [`plan`] | a validated source of any kind |
//! | [`blank`] | what all events of a source share |
//! | [`cron`] | the ticks of a schedule |
//! | [`webhook`] | requests to an HTTP endpoint, as events |
//! | `kafka` | the records of a Kafka topic |
//! | `mqtt` | the messages of an MQTT topic |
//! | `nats` | the messages of a NATS subject or of a JetStream stream |
//! | `redis` | a Redis stream, channel or list |
//! | [`marks`] | how far a source got that has no upstream to remember it |
//! | [`metrics`] | what all sources count |
//!
//! The four that need a client are there where the feature of the same name is on; their plans always are.

pub mod blank;
pub mod cron;
mod flow;
#[cfg(any(feature = "mqtt", feature = "nats"))]
mod intake;
#[cfg(feature = "kafka")]
mod kafka;
pub mod marks;
pub mod metrics;
#[cfg(feature = "mqtt")]
mod mqtt;
#[cfg(feature = "nats")]
mod nats;
pub mod plan;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "mqtt", feature = "nats"))]
mod report;
pub mod source;
pub mod webhook;

#[cfg(test)]
mod test_outlet;
