//! The MQTT source: the messages of a topic, of MQTT 3.1.1 or 5.
//!
//! A message is acknowledged (PUBACK, or PUBREC at QoS 2) once its event is settled, in the order in which messages came. What was taken
//! in outlives a connection: a message that the broker sends again because it was not acknowledged in time is recognised, and
//! not made an event twice. Back-pressure is not to read; signs of life are sent all the same.
//!
//! | module | holds |
//! | --- | --- |
//! | [`wire`] | packets |
//! | [`message`] | a message as an event |
//! | [`link`] | a connection: TCP, TLS, log-in |
//! | [`acks`] | which message is acknowledged when, and on which connection |
//! | [`source`] | one connection after the other, with back-off |
//! | [`trouble`] | what goes wrong, in words |

mod acks;
mod link;
mod message;
mod source;
mod trouble;
mod wire;

use self::source::MqttReader;
use crate::metrics::SourceMetrics;
use crate::plan::mqtt::MqttPlan;
use crate::source::{Origin, Source};

impl MqttPlan {
    /// The source of this plan.
    pub(crate) fn source(&self, origin: &Origin, metrics: SourceMetrics) -> Box<dyn Source> {
        Box::new(MqttReader::new(self.clone(), origin.clone(), metrics))
    }
}
