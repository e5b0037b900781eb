//! The small state, in a key-value bucket of NATS. Everything is read from the leader of its stream: what an answered change wrote,
//! every later read sees. A bucket that somebody deletes is made anew, by whoever notices first; when it was made tells the others.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use evoke_api::events::JetStreamStorage;
use futures_util::future::try_join_all;
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::error::{ApiError, Refusal, WireError};
use super::stream;
use super::wire::Wire;
use crate::bus::{BusError, Entry, Expect, Health, Put};
use crate::health::HealthBoard;
use crate::plan::jetstream::JetStreamPlan;

const STREAM: &str = "KV_evoke";
const SUBJECTS: &str = "$KV.evoke";
/// Where evoke keeps what is not the state of subscriptions: no key is written like this.
const OWN: &str = "=own";
const KEY_BYTES: usize = 512;
/// What a message takes beside a value, at most: its subject and its headers.
const VALUE_OVERHEAD: usize = 1 << 10;
/// Values read at once.
const READS: usize = 64;
/// The servers have long synced what was deleted before; they do so every two minutes unless told otherwise.
const SYNCED: TimeDelta = TimeDelta::hours(1);
/// How often a change that expects no key looks again at what a deletion left behind.
const LOOKS: usize = 8;
/// How many subjects NATS names in one answer.
const PAGE: usize = 100_000;
/// Who has the trouble, for the bus's health.
const STATE: &str = "state";

/// The bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    wire: Arc<Wire>,
    replicas: Option<u16>,
    storage: JetStreamStorage,
    /// It was said that NATS does not let it have its replicas.
    is_named: AtomicBool,
    is_there: AtomicBool,
    board: Arc<HealthBoard>,
    /// When the bucket was made, as it was last seen.
    made: Mutex<Option<String>>,
    losses: watch::Sender<u64>,
}

/// The last message of a key.
struct Last {
    revision: u64,
    /// `None` where the key was deleted.
    value: Option<Bytes>,
    /// True for a deletion so long ago that no crash of a server brings back what was deleted.
    forgotten: bool,
}

impl Bucket {
    pub(super) fn new(wire: Arc<Wire>, plan: &JetStreamPlan, board: Arc<HealthBoard>) -> Self {
        let (replicas, storage) = (plan.replicas, plan.storage.unwrap_or_default());
        let (is_named, is_there) = (AtomicBool::new(false), AtomicBool::new(false));
        let (made, losses) = (Mutex::default(), watch::Sender::new(0));
        Self { wire, replicas, storage, is_named, is_there, board, made, losses }
    }

    /// How often the bucket was lost.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    pub(super) async fn load(&self, prefix: &str) -> Result<Vec<Entry>, BusError> {
        let read = self.keys(prefix).await?.into_iter().map(async |(key, subject)| {
            let last = self.last(&subject).await?;
            if let Some(Last { revision, value: None, forgotten: true }) = last {
                self.forget(&subject, revision).await;
            }
            let entry = last.and_then(|last| Some(Entry { key, value: last.value?, revision: last.revision }));
            Ok::<_, BusError>(entry)
        });
        let entries: Vec<_> = futures_util::stream::iter(read).buffered(READS).try_collect().await?;
        Ok(entries.into_iter().flatten().collect())
    }

    /// The largest value that the servers take.
    pub(super) fn largest(&self) -> usize {
        self.wire.client.max_payload().saturating_sub(VALUE_OVERHEAD)
    }

    pub(super) async fn store(&self, puts: Vec<Put>) -> Result<Vec<Option<u64>>, BusError> {
        if let Some(long) = puts.iter().find(|put| put.key.len() > KEY_BYTES) {
            let text = format!("a key of {} bytes is longer than {KEY_BYTES}", long.key.len());
            return Err(BusError::Broken(text.into()));
        }
        if puts.is_empty() {
            return Ok(Vec::new());
        }
        self.there().await?;
        // Tried again it would be refused again.
        let size = |put: &Put| put.value.as_ref().map_or(0, Bytes::len);
        let (server, limit) = (self.wire.client.max_payload(), self.largest());
        if let Some(large) = puts.iter().find(|put| size(put) > limit) {
            let text = format!(
                "a value of {} bytes at {} is larger than the {limit} bytes that the NATS servers take: raise their `max_payload` of \
                 {server} bytes",
                size(large),
                large.key
            );
            return Err(BusError::Broken(text.into()));
        }
        try_join_all(puts.into_iter().map(|put| self.put(subject(&put.key), put.value, put.expect))).await
    }

    /// How far evoke has trimmed a partition of the stream that was made then.
    pub(super) async fn trimmed(&self, stream: &str, created: &str, partition: u16) -> Result<u64, BusError> {
        self.there().await?;
        let last = self.last(&own(stream, partition)).await?;
        let text = last.and_then(|last| last.value).and_then(|value| String::from_utf8(value.to_vec()).ok());
        let cut = text.as_deref().and_then(|text| text.split_once(' '));
        Ok(cut.filter(|(_, of)| *of == created).and_then(|(before, _)| before.parse().ok()).unwrap_or_default())
    }

    /// Says how far evoke has trimmed a partition, before it does.
    pub(super) async fn set_trimmed(
        &self,
        stream: &str,
        created: &str,
        partition: u16,
        before: u64,
    ) -> Result<(), BusError> {
        self.there().await?;
        let value = format!("{before} {created}");
        self.put(own(stream, partition), Some(value.into()), Expect::Any).await.map(|_| ())
    }

    async fn put(&self, subject: String, value: Option<Bytes>, expect: Expect) -> Result<Option<u64>, BusError> {
        let mut expected = match expect {
            Expect::Any => None,
            Expect::Absent => Some(0),
            Expect::Revision(revision) => Some(revision),
        };
        for _ in 0..LOOKS {
            match self.write(&subject, value.clone(), expected).await {
                Ok(revision) => return Ok(Some(revision)),
                Err(ApiError::Refused(r)) if Refusal::WRONG_LAST_SEQUENCE.contains(&r.err_code) => {
                    if expect != Expect::Absent {
                        return Ok(None);
                    }
                    expected = match self.last(&subject).await? {
                        Some(Last { value: Some(_), .. }) => return Ok(None),
                        Some(Last { revision, value: None, .. }) => Some(revision),
                        None => Some(0),
                    };
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(None)
    }

    async fn write(&self, subject: &str, value: Option<Bytes>, expected: Option<u64>) -> Result<u64, ApiError> {
        #[derive(Deserialize)]
        struct Ack {
            seq: u64,
        }
        let mut headers = HeaderMap::new();
        if let Some(expected) = expected {
            headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        }
        if value.is_none() {
            headers.insert("KV-Operation", "DEL");
        }
        let answer = self.wire.ask(subject, headers, value.unwrap_or_default()).await?;
        Refusal::check(&answer.payload)?;
        let ack: Ack = serde_json::from_slice(&answer.payload).map_err(|e| ApiError::Garbage(e.to_string()))?;
        Ok(ack.seq)
    }

    /// Removes what a deletion left behind. The mark of a deletion that the servers have not synced yet must stay: without it, a
    /// server that crashes finds the value again. One that stays does no harm.
    async fn forget(&self, subject: &str, revision: u64) {
        let body = json!({"filter": subject, "seq": revision + 1});
        if let Err(error) = self.wire.api::<serde_json::Value>(&format!("STREAM.PURGE.{STREAM}"), &body).await {
            tracing::debug!(%subject, %error, "the mark of a deleted key stays");
        }
    }

    /// The keys that start with `prefix`, and their subjects.
    async fn keys(&self, prefix: &str) -> Result<Vec<(String, String)>, BusError> {
        self.there().await?;
        #[derive(Deserialize)]
        struct Page {
            created: String,
            state: stream::State,
            #[serde(default)]
            total: usize,
        }
        let (mut keys, mut seen) = (Vec::new(), 0);
        loop {
            let body = json!({"subjects_filter": filter(prefix), "offset": seen});
            let page = self.wire.api::<Page>(&format!("STREAM.INFO.{STREAM}"), &body).await;
            let page = page.map_err(|error| self.lost(error))?;
            // Before anybody hears what is in it: another process may have made it anew.
            self.found(page.created);
            let subjects = page.state.subjects.unwrap_or_default();
            seen += subjects.len();
            let last = subjects.len() < PAGE || seen >= page.total;
            let found = subjects.into_keys().filter_map(|subject| Some((key(&subject)?, subject)));
            keys.extend(found.filter(|(key, _)| key.starts_with(prefix)));
            if last {
                return Ok(keys);
            }
        }
    }

    async fn last(&self, subject: &str) -> Result<Option<Last>, BusError> {
        #[derive(Deserialize)]
        struct Got {
            message: Message,
        }
        #[derive(Deserialize)]
        struct Message {
            seq: u64,
            #[serde(default)]
            hdrs: String,
            #[serde(default)]
            data: String,
            #[serde(default)]
            time: Option<DateTime<Utc>>,
        }
        let body = json!({"last_by_subj": subject});
        let message = match self.wire.api::<Got>(&format!("STREAM.MSG.GET.{STREAM}"), &body).await {
            Ok(got) => got.message,
            Err(error) if error.is(Refusal::NO_MESSAGE) => return Ok(None),
            Err(error) => return Err(self.lost(error)),
        };
        let decoded = |text: &str| {
            STANDARD
                .decode(text)
                .map_err(|e| BusError::Broken(format!("NATS gives {subject} as no base64: {e}").into()))
        };
        let headers = decoded(&message.hdrs)?;
        let deleted = String::from_utf8_lossy(&headers).lines().any(|line| line.starts_with("KV-Operation:"));
        let value = if deleted { None } else { Some(decoded(&message.data)?.into()) };
        let forgotten = message.time.is_some_and(|time| time + SYNCED < Utc::now());
        Ok(Some(Last { revision: message.seq, value, forgotten }))
    }

    /// Makes the bucket if it is not there.
    async fn there(&self) -> Result<(), BusError> {
        if self.is_there.load(Ordering::Acquire) {
            return Ok(());
        }
        let created = match stream::info(&self.wire, STREAM).await? {
            Some(info) => {
                let created = info.created.clone();
                self.replicate(info).await?;
                created
            }
            None => {
                if self.made.lock().is_some() {
                    let text = format!("the stream {STREAM} is gone, and with it evoke's state: it is made anew");
                    self.board.trouble(&STATE.into(), Health::Down(text.into()));
                }
                self.make().await?.created
            }
        };
        self.found(created);
        self.board.clear(STATE);
        self.is_there.store(true, Ordering::Release);
        Ok(())
    }

    async fn make(&self) -> Result<stream::Info, BusError> {
        let config = Config {
            name: STREAM.to_owned(),
            description: Some("evoke: positions of subscriptions".to_owned()),
            subjects: vec![format!("{SUBJECTS}.>")],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            storage: match self.storage {
                JetStreamStorage::File => StorageType::File,
                JetStreamStorage::Memory => StorageType::Memory,
            },
            num_replicas: self.replicas.unwrap_or(1).into(),
            max_messages_per_subject: 1,
            max_messages: -1,
            max_bytes: -1,
            max_message_size: -1,
            max_consumers: -1,
            allow_rollup: true,
            deny_delete: true,
            ..Config::default()
        };
        match self.wire.api::<stream::Info>(&format!("STREAM.CREATE.{STREAM}"), &config).await {
            // Another process was faster.
            Err(error) if error.is(Refusal::NAME_IN_USE) => stream::info(&self.wire, STREAM)
                .await?
                .ok_or_else(|| BusError::Unavailable(format!("the stream {STREAM} comes and goes").into())),
            made => made.map_err(BusError::from),
        }
    }

    /// Compares the bucket that is there with the one that was there before.
    fn found(&self, made: String) {
        let mut known = self.made.lock();
        if known.as_ref() == Some(&made) {
            return;
        }
        if known.replace(made).is_some() {
            tracing::error!(
                stream = STREAM,
                "the servers have lost evoke's state: what the processes on the bus know of it is stored again"
            );
            self.losses.send_modify(|losses| *losses += 1);
        }
    }

    /// Has the bucket kept by as many servers as the manifest says, if it says so and NATS lets it.
    async fn replicate(&self, info: stream::Info) -> Result<(), ApiError> {
        let Some(replicas) = self.replicas else { return Ok(()) };
        let drift = stream::replicate(&self.wire, STREAM, info, replicas).await?;
        if let Some(drift) = drift
            && !self.is_named.swap(true, Ordering::AcqRel)
        {
            tracing::warn!(stream = STREAM, %drift, "positions are not kept as declared, which was left alone");
        }
        Ok(())
    }

    /// Looks for the bucket again after it was found missing.
    fn lost(&self, error: ApiError) -> BusError {
        if error.is(Refusal::NO_STREAM) || matches!(error, ApiError::Wire(WireError::Nobody)) {
            self.is_there.store(false, Ordering::Release);
        }
        error.into()
    }
}

fn own(stream: &str, partition: u16) -> String {
    format!("{SUBJECTS}.{OWN}.trimmed.{stream}.{partition}")
}

/// The subject of a key: `/` parts it as it parts the key, and what a subject cannot hold is written as `=` and two digits.
fn subject(key: &str) -> String {
    let mut out = SUBJECTS.to_owned();
    for part in key.split('/') {
        out.push('.');
        if part.is_empty() {
            out.push('=');
        }
        for byte in part.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                out.push(byte.into());
            } else {
                // Writing into a string does not fail.
                write!(out, "={byte:02X}").unwrap_or_default();
            }
        }
    }
    out
}

/// The key of a subject; `None` for what is none.
fn key(subject: &str) -> Option<String> {
    let rest = subject.strip_prefix(SUBJECTS)?.strip_prefix('.')?;
    if rest.starts_with(OWN) {
        return None;
    }
    let part = |part: &str| -> Option<String> {
        if part == "=" {
            return Some(String::new());
        }
        let mut pieces = part.split('=');
        let mut out = pieces.next()?.as_bytes().to_vec();
        for piece in pieces {
            let (byte, plain) = piece.split_at_checked(2)?;
            out.push(u8::from_str_radix(byte, 16).ok()?);
            out.extend_from_slice(plain.as_bytes());
        }
        String::from_utf8(out).ok()
    };
    rest.split('.').map(part).collect::<Option<Vec<_>>>().map(|parts| parts.join("/"))
}

/// The subjects among which all keys with a prefix are.
fn filter(prefix: &str) -> String {
    match prefix.rsplit_once('/') {
        Some((parts, _)) => format!("{}.>", subject(parts)),
        None => format!("{SUBJECTS}.>"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_readable_subjects() {
        assert_eq!(subject("l/default/t_1/a.b"), "$KV.evoke.l.default.t_1.a=2Eb");
        assert_eq!(subject("//x"), "$KV.evoke.=.=.x");
        assert_eq!(filter("l/default/t"), "$KV.evoke.l.default.>");
        assert_eq!([filter(""), filter("doc")], ["$KV.evoke.>", "$KV.evoke.>"]);
        assert_eq!(key(&own("s", 1)), None);
    }

    proptest! {
        #[test]
        fn every_key_comes_back(text in "\\PC{1,20}|[/=.a ]{1,9}") {
            let subject = subject(&text);
            prop_assert!(!subject.contains(' ') && !subject.contains("..") && !subject.contains('*'));
            prop_assert_eq!(key(&subject), Some(text));
        }
    }
}
