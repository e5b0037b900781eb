//! The event bus: events, the contract of a bus, its back-ends, and what is built above every back-end alike.
//!
//! | module | holds |
//! | --- | --- |
//! | [`event`] | a CloudEvent as evoke carries it: one buffer, read in place |
//! | [`codec`] | CloudEvents over HTTP, Kafka, NATS and JSON, without re-encoding data |
//! | [`bus`] | `trait EventBus`, its contract, and the words it uses |
//! | [`note`] | what the readers of a record share beside it |
//! | [`arrival`] | whether a bus has been there yet |
//! | [`subscription`] | who has read and finished what, shared reading, trimming |
//! | [`embedded`] | the bus inside the process, on the local disk |
//! | `jetstream`, `kafka`, `redis` | the bus on a broker, each where its feature is on: `nats`, `kafka`, `redis` |
//! | `health` | what keeps a bus from working, as one state |
//! | `queued`, `sifted` | how much may be accepted and not stored yet; what is refused before |
//! | `conformance`, `faulty` | for tests: the suite that every back-end passes, and a bus that fails by seed |
//! | [`metrics`] | what a bus counts |
//! | [`plan`] | a validated EventBus |
//! | [`open`](mod@open) | a plan to a bus |

pub mod arrival;
pub mod bus;
pub mod codec;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod event;
#[cfg(any(test, feature = "conformance"))]
pub mod faulty;
mod health;
#[cfg(feature = "nats")]
pub mod jetstream;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod metrics;
pub mod note;
pub mod open;
pub mod plan;
mod queued;
#[cfg(feature = "redis")]
pub mod redis;
mod sifted;
pub mod subscription;
