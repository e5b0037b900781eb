//! The Kafka source: reads one topic as a member of a consumer group.
//!
//! Each source has one client and one thread that polls it. The thread makes events of records and hands batches to a task of the
//! runtime, which gives them to the outlet and tells the thread what has settled; the thread commits that, a few times a
//! second and before it gives a partition up.
//!
//! | module | holds |
//! | --- | --- |
//! | [`record`] | a record as an event |
//! | [`positions`] | what is handed over, settled, committed |
//! | [`client`] | the client's settings |
//! | [`callbacks`] | what the client tells: partitions that come and go, errors, lag |
//! | [`start`] | where a partition starts that the group never committed |
//! | [`reader`] | the thread: polls, batches, commits |
//! | [`session`] | the task: hands batches to the outlet, and starts over when a session ends |

mod callbacks;
mod client;
mod positions;
mod reader;
mod record;
mod session;
mod start;

use crate::metrics::SourceMetrics;
use crate::plan::kafka::KafkaPlan;
use crate::source::{Origin, Source};

impl KafkaPlan {
    /// The source of this plan. `instance` names this process, the same after a restart and nowhere else: by it the group gives
    /// a process that comes back the partitions that it had.
    pub(crate) fn source(&self, origin: &Origin, metrics: SourceMetrics, instance: &str) -> Box<dyn Source> {
        Box::new(session::KafkaSource::new(self.clone(), origin.clone(), metrics, instance))
    }
}
