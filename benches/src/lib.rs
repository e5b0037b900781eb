//! What the benches share.
//!
//! | module | holds |
//! | --- | --- |
//! | [`measure`] | time and CPU of this process and of a server; medians and percentiles |
//! | [`sides`] | what publishes, what reads, and the broker that both sides have in common |
//! | [`bus_side`] | the side of the bus |
//! | [`loops`] | what both sides are put through |
//! | [`contest`] | everything that is said of a bus beside its broker's client |
//! | [`pipeline`] | events through Triggers and lanes: many subscribers, order by key |
//! | [`promises`] | what is promised beside what was found |
//! | [`tool`] | the brokers' own perf tools |
//! | [`fast_sink`] | an HTTP sink that costs little |

pub mod bus_side;
pub mod contest;
pub mod fast_sink;
pub mod loops;
pub mod measure;
pub mod pipeline;
pub mod promises;
pub mod sides;
pub mod tool;
