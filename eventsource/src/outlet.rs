//! Where a source's events go: a bus, or a sink alone.
//!
//! | module | holds |
//! | --- | --- |
//! | [`bus`] | publishes, and settles when it is durable |
//! | [`sink`] | delivers, and settles at the sink's 2xx |
//! | [`letters`] | where what cannot be an event goes |
//! | [`budget`] | how much a process may hold that is not settled |

pub mod budget;
pub mod bus;
pub mod letters;
pub mod sink;

#[cfg(test)]
mod tests;
