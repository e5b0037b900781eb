//! EventSources: planned, started, fed into a bus or straight into a sink.
//!
//! | module | holds |
//! | --- | --- |
//! | [`plan`] | an EventSource's spec as a validated plan, or everything that is wrong with it |
//! | [`runtime`] | its sources at work, and in step with a plan that changes |
//! | [`outlet`] | where a source's events go: a bus, or a sink alone |
//! | `malformed` | what cannot be an event, as an event |
//! | `turns` | sources of which one process runs one at a time |

mod malformed;
pub mod outlet;
pub mod plan;
pub mod runtime;
mod turns;
