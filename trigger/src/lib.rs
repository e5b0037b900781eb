//! Triggers: which events of a bus go to whom.
//!
//! | module | holds |
//! | --- | --- |
//! | [`plan`] | a Trigger, validated, or everything that is wrong with it |
//! | [`condition`] | a CEL condition, compiled once and evaluated lazily |
//! | [`shared`] | what conditions over one topic share, so that an event's data is parsed once |
//! | `join` | which inputs count as arrived when an event is judged |
//! | [`runtime`] | a Trigger at work: one lane a subscriber |

pub mod condition;
mod join;
mod json;
pub mod plan;
mod reading;
pub mod runtime;
mod selector;
pub mod shared;
mod value;
