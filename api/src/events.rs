//! `events.openfunction.io/v1alpha1`, every field of OpenFunction v1.2 and evoke's additions, all of them optional.

mod event_bus;
mod event_source;
mod sink;
mod sources;
mod trigger;

pub use event_bus::{
    EmbeddedBus, EventBusSpec, JetStreamBus, JetStreamStorage, KafkaBus, NativeJetStream, NatsStreamingBus,
    NatsStreamingScaleOption, OnFull, RedisBus, SyncMode,
};
pub use event_source::{Attributes, EventSourceSpec};
pub use sink::{DeliverySpec, Ordering, RateLimit, Reference, SinkSpec};
pub use sources::{
    CatchUp, CronSource, KafkaScaleOption, KafkaSource, MqttSource, MqttVersion, NatsSource, RedisSource, StartAt,
    WebhookAuth, WebhookSource,
};
pub use trigger::{Input, Join, JoinMode, Reply, Subscriber, TriggerSpec};

/// The API group and version of this module's kinds.
pub const API_VERSION: &str = "events.openfunction.io/v1alpha1";
