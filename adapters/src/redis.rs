//! The Redis source: the entries of a stream, the messages of a channel, or the items of a list.
//!
//! | module | holds |
//! | --- | --- |
//! | [`entry`] | what Redis gives, as an event |
//! | [`trouble`] | what goes wrong, in words |
//! | [`source`] | runs one session after the other, with back-off |
//! | [`desk`] | one session that gives back what is settled: what streams and lists have in common |
//! | [`stream`], [`list`], [`channel`] | one session of each kind |
//! | [`given`] | where a stream's group goes on that was lost |
//! | [`consumers`] | who takes from a list, and what the dead ones hold |
//! | [`removal`] | what is settled of a list, and removed from it once |

mod channel;
mod consumers;
mod desk;
mod entry;
mod given;
mod list;
mod removal;
mod source;
mod stream;
mod trouble;

use self::source::RedisReader;
use crate::metrics::SourceMetrics;
use crate::plan::redis::RedisPlan;
use crate::source::{Origin, Source};

impl RedisPlan {
    /// The source of this plan. `instance` names this process, the same after a restart and different from every other's: what it
    /// read and did not finish is kept in Redis under this name.
    pub(crate) fn source(&self, origin: &Origin, metrics: SourceMetrics, instance: &str) -> Box<dyn Source> {
        Box::new(RedisReader::new(self.clone(), origin.clone(), metrics, instance))
    }
}
