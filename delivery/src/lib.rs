//! Where events leave evoke: sinks, the retry schedule, dead letters, and the subscription that drives them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`plan`] | a validated sink, dead letter and delivery policy, from manifests |
//! | [`sink`] | `trait Sink`: one attempt to deliver one event |
//! | [`http`] | posts CloudEvents over HTTP |
//! | [`function`] | posts them to a function, wherever it listens |
//! | [`sinks`] | makes sinks from plans |
//! | [`endpoints`] | where functions listen, as they come and go |
//! | [`reply`] | what becomes of an answer that is an event |
//! | [`rate`] | at most so many deliveries in a while |
//! | [`schedule`] | when a failed delivery is tried again |
//! | [`dead_letter`] | what becomes of an event whose delivery failed for good |
//! | [`dead_letters`] | the bus's own store of them, as operators see it |
//! | [`jobs`] | redrive and replay |
//! | [`subscription`] | reads a bus, selects, delivers, records: one durable position a subscriber |
//! | [`running`] | a subscription at work in a task, which its owner ends |
//! | `panic` | what a panic says that a subscription ended with |
//! | [`metrics`] | the metrics of all of it |

pub mod dead_letter;
pub mod dead_letters;
pub mod endpoints;
pub mod function;
pub mod http;
pub mod jobs;
pub mod metrics;
mod panic;
pub mod plan;
pub mod rate;
pub mod reply;
pub mod running;
pub mod schedule;
pub mod sink;
pub mod sinks;
pub mod subscription;
