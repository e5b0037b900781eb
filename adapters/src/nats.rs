//! The NATS source: the messages of a subject, at most once, or of a JetStream stream, acknowledged once their events are settled.
//!
//! | module | holds |
//! | --- | --- |
//! | [`message`] | a message as an event |
//! | [`connection`] | the client, and what it says of its connection |
//! | [`subject`] | a subject |
//! | [`stream`] | a stream: sessions with its consumer, and what is acknowledged |
//! | [`consumer`] | the durable consumer: found, made, checked |

mod connection;
mod consumer;
mod message;
mod stream;
mod subject;

use self::stream::StreamReader;
use self::subject::SubjectReader;
use crate::metrics::SourceMetrics;
use crate::plan::nats::{NatsSourcePlan, Read};
use crate::source::{Origin, Source};

impl NatsSourcePlan {
    /// The source of this plan.
    pub(crate) fn source(&self, origin: &Origin, metrics: SourceMetrics) -> Box<dyn Source> {
        match &self.read {
            Read::Subject(plan) => Box::new(SubjectReader::new(self.clone(), plan.clone(), origin.clone(), metrics)),
            Read::Stream(plan) => Box::new(StreamReader::new(self.clone(), plan.clone(), origin.clone(), metrics)),
        }
    }
}
