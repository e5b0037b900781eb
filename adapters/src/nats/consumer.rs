//! The durable consumer: found, made, checked. It is never deleted.

use std::iter;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, FromConsumer as _, pull};
use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamErrorKind};
use async_nats::jetstream::{Context, ErrorCode};

use async_nats::jetstream::stream::Stream;
use evoke_api::events::StartAt;

use crate::plan::nats::StreamPlan;

/// How long the server waits for an acknowledgement, or for word that one is to come, before it sends a message again.
const ACK_WAIT: Duration = Duration::from_secs(15);
/// Messages that may be on their way, over all who read with the consumer.
const ACK_PENDING: i64 = 1024;

/// What tells consumers that evoke made from others.
const DESCRIPTION: &str = "an event source of evoke";

/// A consumer, ready to be asked for messages.
pub(super) struct Consumer {
    pub(super) stream: Stream,
    /// When the stream was made, which tells it from another of its name.
    pub(super) made: i128,
    pub(super) ack_wait: Duration,
    /// What one request may ask for, where the consumer limits it.
    pub(super) max_batch: Option<usize>,
    pub(super) max_bytes: Option<usize>,
    pub(super) max_expires: Option<Duration>,
}

/// Where a consumer starts that has to be made again, since it is gone: after what was settled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reached {
    /// The stream that it was reached in.
    pub(super) made: i128,
    pub(super) sequence: Option<u64>,
}

/// Finds the stream and its consumer, and makes the consumer where it is not there.
///
/// # Errors
/// What is wrong, in words that say what to do.
pub(super) async fn prepare(context: &Context, plan: &StreamPlan, reached: Reached) -> Result<Consumer, String> {
    let name = &plan.stream;
    let stream = context.get_stream(name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            format!("there is no stream {name:?}: make it, or correct stream")
        }
        GetStreamErrorKind::JetStream(error) => format!("JetStream does not give the stream {name:?}: {error}"),
        _ => format!(
            "JetStream does not answer about the stream {name:?}: {error}; is it enabled, and may the user ask?"
        ),
    })?;
    let info = stream.cached_info();
    let (made, last) = (info.created.unix_timestamp_nanos(), info.state.last_sequence);
    let config = match stream.consumer_info(&plan.consumer).await {
        Ok(info) => info.config,
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {
            let reached = reached.sequence.filter(|sequence| reached.made == made && *sequence <= last);
            return make(stream, made, plan, reached).await;
        }
        Err(error) => return Err(format!("JetStream does not answer about the consumer {:?}: {error}", plan.consumer)),
    };
    check(plan, &config)?;
    let consumer = |config: &Config| Consumer {
        stream: stream.clone(),
        made,
        ack_wait: if config.ack_wait.is_zero() { ACK_WAIT } else { config.ack_wait },
        max_batch: usize::try_from(config.max_batch).ok().filter(|max| *max > 0),
        max_bytes: usize::try_from(config.max_bytes).ok().filter(|max| *max > 0),
        max_expires: Some(config.max_expires).filter(|max| !max.is_zero()),
    };
    let found = consumer(&config);
    // Who made a consumer for evoke may have limited it, and names no subject then.
    let is_own = config.description.as_deref() == Some(DESCRIPTION);
    if (is_own || plan.subject.is_some()) && !filters(&config).eq(plan.subject.as_deref()) {
        let mut changed = pull::Config::try_from_consumer_config(config).map_err(|e| e.to_string())?;
        (changed.filter_subject, changed.filter_subjects) = (plan.subject.clone().unwrap_or_default(), Vec::new());
        stream.create_consumer(changed).await.map_err(|error| {
            let what = plan.subject.as_ref().map_or("all subjects".to_owned(), |subject| format!("{subject:?}"));
            format!("the consumer {:?} cannot be made to read {what}: {error}; name another", plan.consumer)
        })?;
    }
    Ok(found)
}

/// The subjects that a consumer is limited to; none where it reads all.
fn filters(config: &Config) -> impl Iterator<Item = &str> {
    let several = config.filter_subjects.iter();
    iter::once(&config.filter_subject).chain(several).map(String::as_str).filter(|subject| !subject.is_empty())
}

async fn make(stream: Stream, made: i128, plan: &StreamPlan, reached: Option<u64>) -> Result<Consumer, String> {
    let deliver_policy = match (reached, plan.start_at) {
        (Some(sequence), _) => DeliverPolicy::ByStartSequence { start_sequence: sequence.saturating_add(1) },
        (None, StartAt::Earliest) => DeliverPolicy::All,
        (None, StartAt::Latest) => DeliverPolicy::New,
    };
    let config = pull::Config {
        durable_name: Some(plan.consumer.clone()),
        description: Some(DESCRIPTION.to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: ACK_PENDING,
        filter_subject: plan.subject.clone().unwrap_or_default(),
        ..pull::Config::default()
    };
    stream
        .create_consumer(config)
        .await
        .map_err(|error| format!("the consumer {:?} cannot be made: {error}", plan.consumer))?;
    Ok(Consumer { stream, made, ack_wait: ACK_WAIT, max_batch: None, max_bytes: None, max_expires: None })
}

/// A consumer that somebody else made may not do.
fn check(plan: &StreamPlan, config: &Config) -> Result<(), String> {
    let name = &plan.consumer;
    if config.deliver_subject.is_some() {
        return Err(format!("the consumer {name:?} pushes messages, and evoke pulls them: name another in consumer"));
    }
    if config.ack_policy != AckPolicy::Explicit {
        return Err(format!(
            "the consumer {name:?} does not want each message acknowledged, so that messages would be lost: name another in consumer"
        ));
    }
    Ok(())
}
