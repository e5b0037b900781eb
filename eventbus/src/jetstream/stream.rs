//! The stream of a topic: its name and subjects, how it is made, and what of it differs from the manifest.

use std::collections::{BTreeMap, HashMap};
use std::slice;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use chrono::{DateTime, Utc};
use evoke_api::events::{JetStreamStorage, OnFull};
use evoke_api::names::TopicName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{ApiError, Refusal};
use super::wire::Wire;
use crate::bus::{BusError, TopicSpec};
use crate::plan::jetstream::{DUPLICATE_WINDOW, JetStreamPlan};

const PREFIX: &str = "evoke";
/// Says in a stream's metadata that evoke made it, so that it may change all of its settings.
const MADE_BY: &str = "evoke.format";

/// A stream as JetStream tells of it.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) config: Config,
    /// When it was made: another time is another stream of the same name.
    pub(super) created: String,
    pub(super) state: State,
    /// The time there.
    #[serde(default)]
    pub(super) ts: Option<DateTime<Utc>>,
}

/// What a stream holds.
#[derive(Debug, Deserialize)]
pub(super) struct State {
    pub(super) bytes: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    /// How many messages each subject has, where that was asked for.
    #[serde(default)]
    pub(super) subjects: Option<BTreeMap<String, u64>>,
}

/// The name of a topic's stream. `+` is in no part of a topic.
pub(super) fn name(topic: &TopicName) -> String {
    topic.parts().fold(PREFIX.to_owned(), |name, part| name + "+" + part)
}

/// The subject of one partition: the topic's own for the first, so that other programs find it.
pub(super) fn subject(topic: &TopicName, partition: u16) -> String {
    match partition {
        0 => format!("{PREFIX}.{topic}"),
        other => format!("{PREFIX}.{topic}.{other}"),
    }
}

/// How many partitions a stream has for this topic.
pub(super) fn partitions(config: &Config, topic: &TopicName) -> u16 {
    (0..u16::MAX).take_while(|p| config.subjects.contains(&subject(topic, *p))).last().map_or(0, |last| last + 1)
}

/// Asks for a stream.
pub(super) async fn info(wire: &Wire, stream: &str) -> Result<Option<Info>, ApiError> {
    found(wire.api(&format!("STREAM.INFO.{stream}"), &json!({})).await)
}

fn found<T>(answer: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is(Refusal::NO_STREAM) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A topic's stream that was made or adopted.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) partitions: u16,
    pub(super) drift: Vec<String>,
    pub(super) info: Info,
}

/// Makes the stream of a topic, or adopts the one that is there, with the settings that it can be given.
pub(super) async fn declare(wire: &Wire, plan: &JetStreamPlan, spec: &TopicSpec) -> Result<Adopted, BusError> {
    let stream = name(&spec.name);
    let info = match info(wire, &stream).await? {
        Some(info) => info,
        None => {
            let made = wire.api::<Info>(&format!("STREAM.CREATE.{stream}"), &made(plan, spec)).await;
            match made {
                // Another process was faster.
                Err(error) if error.is(Refusal::NAME_IN_USE) => info(wire, &stream)
                    .await?
                    .ok_or_else(|| BusError::Unavailable(format!("the stream {stream} comes and goes").into()))?,
                made => made.map_err(|error| cannot_make(&stream, error))?,
            }
        }
    };
    adopt(wire, plan, spec, info).await
}

fn cannot_make(stream: &str, error: ApiError) -> BusError {
    match error {
        ApiError::Refused(refusal) => {
            let text = format!("JetStream does not make the stream {stream}: {refusal}{}", hint(&refusal));
            BusError::Unavailable(text.into())
        }
        other => other.into(),
    }
}

/// What helps against a refusal.
fn hint(refusal: &Refusal) -> &'static str {
    match refusal.err_code {
        10065 => "; another stream takes its subject: remove one of the two",
        10074 => "; the servers are no cluster: set `replicas: 1`",
        10047 | 10023 | 10002 | 10028 => "; give the account more room, or set a smaller `maxBytes`",
        10005 => "; there are fewer servers than `replicas`",
        _ => "",
    }
}

/// The settings of a new stream.
fn made(plan: &JetStreamPlan, spec: &TopicSpec) -> Config {
    let window = plan.duplicate_window.unwrap_or(DUPLICATE_WINDOW);
    Config {
        name: name(&spec.name),
        description: Some(format!("evoke: the topic {}", spec.name)),
        subjects: (0..spec.partitions.max(1)).map(|p| subject(&spec.name, p)).collect(),
        retention: RetentionPolicy::Limits,
        discard: discard(plan),
        storage: storage(plan.storage.unwrap_or_default()),
        num_replicas: plan.replicas.unwrap_or(1).into(),
        max_age: plan.max_age.unwrap_or_default(),
        max_bytes: limit(plan.max_bytes),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        duplicate_window: plan.max_age.map_or(window, |age| window.min(age)),
        allow_batch_publish: true,
        metadata: HashMap::from([(MADE_BY.to_owned(), "1".to_owned())]),
        ..Config::default()
    }
}

fn discard(plan: &JetStreamPlan) -> DiscardPolicy {
    match plan.on_full {
        OnFull::Block => DiscardPolicy::New,
        OnFull::DropOldest => DiscardPolicy::Old,
    }
}

fn storage(storage: JetStreamStorage) -> StorageType {
    match storage {
        JetStreamStorage::File => StorageType::File,
        JetStreamStorage::Memory => StorageType::Memory,
    }
}

fn limit(bytes: Option<u64>) -> i64 {
    bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1)
}

async fn adopt(wire: &Wire, plan: &JetStreamPlan, spec: &TopicSpec, mut info: Info) -> Result<Adopted, BusError> {
    let stream = name(&spec.name);
    let partitions = partitions(&info.config, &spec.name);
    if partitions == 0 {
        let subject = subject(&spec.name, 0);
        let text = format!(
            "the stream {stream} does not take the subject {subject}: add it to the stream, or remove the stream, whose events evoke cannot read"
        );
        return Err(BusError::Broken(text.into()));
    }
    let mut drift = Vec::new();
    if partitions != spec.partitions {
        drift.push(format!(
            "it has {partitions} partitions, not {}: it keeps what it was made with; delete the stream {stream} to make it anew, without its events",
            spec.partitions
        ));
    }
    if info.config.retention != RetentionPolicy::Limits {
        let text = "its retention is not `limits`, so that events go before evoke has read them; delete the stream to make it anew";
        drift.push(text.to_owned());
    }
    if let Some(asked) = plan.storage
        && storage(asked) != info.config.storage
    {
        drift.push(format!(
            "it is kept in {}, which NATS does not change; delete the stream {stream} to make it anew, without its events",
            if info.config.storage == StorageType::File { "files" } else { "memory" }
        ));
    }
    let wanted = changes(plan, &info.config);
    let refused = make(wire, &stream, &wanted, &mut info).await?;
    drift.extend(refused.iter().map(|(change, refusal)| change.refused(&stream, refusal)));
    // What the servers refuse or do not know is as it was.
    let left: Vec<_> = changes(plan, &info.config).iter().map(|change| change.field).collect();
    let changed = wanted.iter().filter(|change| !left.contains(&change.field));
    let changed: Vec<_> = changed.map(|change| change.said.as_str()).collect();
    if !changed.is_empty() {
        tracing::info!(topic = %spec.name, changed = changed.join(", "), "the stream has the settings of the manifest now");
    }
    if !info.config.allow_batch_publish {
        drift.push(
            "the servers do not know batches, so that events are stored one after the other: NATS 2.14 is faster"
                .to_owned(),
        );
    }
    Ok(Adopted { partitions, drift, info })
}

/// A setting that is not as the manifest has it.
struct Change {
    field: &'static str,
    value: Value,
    said: String,
}

impl Change {
    fn replicas(now: &Config, asked: u16) -> Option<Self> {
        let said = format!("it has {} replicas, not {asked}", now.num_replicas);
        (now.num_replicas != usize::from(asked)).then(|| Self { field: "num_replicas", value: asked.into(), said })
    }

    /// In words, that NATS does not make it, and what to do.
    fn refused(&self, stream: &str, refusal: &Refusal) -> String {
        let (said, hint) = (&self.said, hint(refusal));
        format!(
            "{said}: NATS refuses to change it ({refusal}{hint}); change the manifest, or the stream {stream} by hand"
        )
    }
}

fn changes(plan: &JetStreamPlan, now: &Config) -> Vec<Change> {
    let mut changes: Vec<_> = plan.replicas.and_then(|asked| Change::replicas(now, asked)).into_iter().collect();
    let mut change = |field, value: Value, said: String| changes.push(Change { field, value, said });
    if !now.allow_batch_publish {
        change("allow_batched", true.into(), "`allow_batched` is off".to_owned());
    }
    let policy = discard(plan);
    // Without a limit there is nothing to discard.
    if now.discard != policy && (plan.max_bytes.is_some() || now.max_bytes > 0) {
        let value = if policy == DiscardPolicy::New { "new" } else { "old" };
        change("discard", value.into(), format!("`discard` is not `{value}` (onFull)"));
    }
    if let Some(age) = plan.max_age
        && now.max_age != age
    {
        change("max_age", nanos(age), format!("its maxAge is {:?}, not {age:?}", now.max_age));
    }
    if let Some(bytes) = plan.max_bytes
        && now.max_bytes != limit(Some(bytes))
    {
        change("max_bytes", limit(Some(bytes)).into(), format!("its maxBytes is {}, not {bytes}", now.max_bytes));
    }
    let window = plan.duplicate_window.map(|window| plan.max_age.map_or(window, |age| window.min(age)));
    if let Some(window) = window
        && now.duplicate_window != window
    {
        let said = format!("its duplicateWindow is {:?}, not {window:?}", now.duplicate_window);
        change("duplicate_window", nanos(window), said);
    } else if let Some(age) = plan.max_age
        && now.duplicate_window > age
    {
        change("duplicate_window", nanos(age), "its duplicateWindow is longer than maxAge".to_owned());
    }
    changes
}

fn nanos(duration: Duration) -> Value {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).into()
}

/// Has a stream kept by so many servers. In words, what NATS refuses of that.
pub(super) async fn replicate(
    wire: &Wire,
    stream: &str,
    mut info: Info,
    replicas: u16,
) -> Result<Option<String>, ApiError> {
    let Some(change) = Change::replicas(&info.config, replicas) else { return Ok(None) };
    let refusal = update(wire, stream, slice::from_ref(&change), &mut info).await?;
    if refusal.is_none() {
        tracing::info!(stream, replicas, "the stream is kept by as many servers as the manifest says now");
    }
    Ok(refusal.map(|refusal| change.refused(stream, &refusal)))
}

/// Makes these changes, and gives those that NATS refuses. One update takes all of them; if NATS refuses it, each is made by itself,
/// and once more after others were: a shorter `maxAge` has to wait for a shorter `duplicateWindow`.
async fn make<'a>(
    wire: &Wire,
    stream: &str,
    changes: &'a [Change],
    info: &mut Info,
) -> Result<Vec<(&'a Change, Refusal)>, ApiError> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let Some(refusal) = update(wire, stream, changes, info).await? else { return Ok(Vec::new()) };
    if let [change] = changes {
        return Ok(vec![(change, refusal)]);
    }
    let mut left: Vec<_> = changes.iter().collect();
    loop {
        let (asked, mut refused) = (left.len(), Vec::new());
        for change in left {
            if let Some(refusal) = update(wire, stream, slice::from_ref(change), info).await? {
                refused.push((change, refusal));
            }
        }
        if refused.is_empty() || refused.len() == asked {
            return Ok(refused);
        }
        left = refused.into_iter().map(|(change, _)| change).collect();
    }
}

/// Changes some settings and leaves all others as the servers have them, those that this version does not know too. Gives the refusal,
/// if NATS refuses to.
async fn update(wire: &Wire, stream: &str, changes: &[Change], info: &mut Info) -> Result<Option<Refusal>, ApiError> {
    #[derive(Deserialize)]
    struct Raw {
        config: serde_json::Map<String, Value>,
    }
    let mut raw: Raw = wire.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
    for change in changes {
        raw.config.insert(change.field.to_owned(), change.value.clone());
    }
    match wire.api(&format!("STREAM.UPDATE.{stream}"), &raw.config).await {
        Ok(updated) => *info = updated,
        Err(ApiError::Refused(refusal)) => return Ok(Some(refusal)),
        Err(error) => return Err(error),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use evoke_connect::nats::NatsPlan;

    use super::*;

    #[test]
    fn topics_have_streams_and_subjects_of_their_own() {
        let topic = TopicName::parse("ns.a_-b.c");
        assert_eq!(name(&topic), "evoke+ns+a_-b+c");
        assert_eq!([subject(&topic, 0), subject(&topic, 7)], ["evoke.ns.a_-b.c", "evoke.ns.a_-b.c.7"]);
        let config = Config { subjects: (0..3).map(|p| subject(&topic, p)).collect(), ..Config::default() };
        assert_eq!(partitions(&config, &topic), 3);
        assert_eq!(partitions(&config, &TopicName::parse("ns.a_-b")), 0);
    }

    #[test]
    fn what_the_manifest_does_not_name_is_no_change() {
        let batches = Config { allow_batch_publish: true, ..Config::default() };
        let now = Config { num_replicas: 3, max_age: Duration::from_secs(9), ..batches };
        let plan = JetStreamPlan::on(NatsPlan::default());
        assert!(changes(&plan, &now).is_empty());
        let plan = JetStreamPlan { replicas: Some(3), max_age: Some(now.max_age), ..plan };
        assert!(changes(&plan, &now).is_empty());
        let plan = JetStreamPlan { replicas: Some(5), max_age: Some(Duration::from_secs(5)), ..plan };
        let found = changes(&plan, &Config { duplicate_window: now.max_age, ..now });
        let fields: Vec<_> = found.iter().map(|change| (change.field, &change.value)).collect();
        let (replicas, age) = (json!(5), json!(5_000_000_000_u64));
        assert_eq!(fields, [("num_replicas", &replicas), ("max_age", &age), ("duplicate_window", &age)]);
    }

    #[test]
    fn a_refusal_says_what_is_asked_why_not_and_what_helps() {
        let change = Change::replicas(&Config { num_replicas: 1, ..Config::default() }, 3).unwrap();
        let refusal = Refusal { code: 500, err_code: 10074, description: "no cluster".to_owned() };
        assert_eq!(
            change.refused("s", &refusal),
            "it has 1 replicas, not 3: NATS refuses to change it (no cluster (code 10074); the servers are no cluster: \
             set `replicas: 1`); change the manifest, or the stream s by hand"
        );
    }
}
