//! Looks at the bus's state once a second, for all subscriptions together; decides; stores what changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use evoke_api::names::TopicName;
use futures_util::future::try_join;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::beats::Beat;
use super::board::{Agreed, Change, Found};
use super::document::Document;
use super::identity::Identity;
use super::{Group, Inner, PREFIX, Sharing, Terms, Timing};
use crate::arrival::Arrival;
use crate::bus::{BusError, Entry, Expect, Put};
use crate::subscription::control::{self, Control};
use crate::subscription::{KnownTopic, ledger};

/// How long leaving may take.
const LEAVE: Duration = Duration::from_secs(3);
/// After a round in which another process was faster.
const AGAIN: Duration = Duration::from_millis(20);

/// A topic that some process has declared: whoever trims has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Declared {
    topic: String,
    partitions: u16,
    keep: bool,
}

impl Sharing {
    /// Where there are no others: follows what is asked of subscriptions.
    pub(super) async fn follow(&self, leave: &CancellationToken) {
        let (bus, board) = (&self.0.bus, &self.0.board);
        let (mut arrival, mut said) = (Arrival::of(&**bus), false);
        loop {
            let is_news = arrival.has_come();
            let Some(loaded) = leave.run_until_cancelled(bus.load(control::PREFIX)).await else { return };
            let failing = match loaded.and_then(|entries| controls(&entries)) {
                Ok(controls) => {
                    said = false;
                    board.take_controls(controls);
                    false
                }
                Err(BusError::Closed) => return,
                Err(error) => {
                    if is_news && !std::mem::replace(&mut said, true) {
                        tracing::warn!(%error, "what is asked of subscriptions cannot be read, trying again");
                    }
                    true
                }
            };
            let rest = async {
                tokio::select! {
                    () = sleep(Timing::default().look) => {}
                    () = board.nudged(), if !failing => {}
                }
            };
            if leave.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    /// Takes part until `leave`, then gives everything back.
    pub(super) async fn take_part(&self, terms: &Terms, leave: &CancellationToken) {
        let inner = &*self.0;
        let session = format!("{:08x}{:016x}", std::process::id(), fresh());
        let beat = Beat { session: session.into(), count: 0, place: terms.place.clone(), pid: std::process::id() };
        let Terms { name, timing, .. } = terms;
        let mut identity = Identity { bus: &*inner.bus, name, timing: *timing, beat, revision: 0 };
        match leave.run_until_cancelled(identity.take()).await {
            None => return,
            Some(Err(taken)) => return self.refuse(taken.0),
            Some(Ok(sent)) => {
                let tenure = format!("{}.0", identity.beat.session);
                inner.board.beaten(sent, *timing, || tenure.into());
            }
        }
        let late = async {
            leave.cancelled().await;
            sleep(LEAVE).await;
        };
        tokio::select! {
            taken = inner.beat(&mut identity) => return self.refuse(taken.0),
            () = inner.watch_tenure() => {}
            () = self.rounds(*timing, leave) => {}
            () = late => {}
        }
        // What cannot be taken away now is taken for dead in a while.
        if let Ok(Err(error)) = timeout(LEAVE, identity.give_back()).await {
            tracing::debug!(%error, "the last beat stays on the bus");
        }
    }

    fn refuse(&self, why: Arc<str>) {
        tracing::error!(%why, "this process takes no part in the bus's work");
        self.0.board.end_tenure();
        self.0.refused.send_replace(Some(why));
    }

    async fn rounds(&self, timing: Timing, leave: &CancellationToken) {
        let board = &self.0.board;
        let (mut failing, mut leaving) = (false, false);
        loop {
            let again = match self.0.round(leaving).await {
                Ok(again) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("who works on what is known again");
                    }
                    again
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "who works on what cannot be agreed on, trying again");
                    }
                    false
                }
            };
            if leaving && !failing && board.has_left() {
                return;
            }
            // Nudges are for what changed here; a bus that fails is not asked more often for them.
            let rest = if again { AGAIN } else { timing.look };
            tokio::select! {
                () = sleep(rest) => {}
                () = board.nudged(), if !failing => {}
                () = leave.cancelled(), if !leaving => {
                    leaving = true;
                    board.release_all();
                }
            }
        }
    }
}

impl Inner {
    /// One look, one decision; true if another look is due at once.
    async fn round(&self, leaving: bool) -> Result<bool, BusError> {
        let asked = Instant::now();
        let losses_are = self.bus.losses();
        let losses = *losses_are.borrow();
        let (shared, asked_of) = try_join(self.bus.load(PREFIX), self.bus.load(control::PREFIX)).await?;
        if *losses_are.borrow() != losses {
            // What was found may be of before the loss, or of after it.
            return Ok(true);
        }
        let found = self.read(shared, &asked_of, losses)?;
        let beats: BTreeMap<_, _> = found.beats.iter().map(|(name, (_, revision))| (name.clone(), *revision)).collect();
        let topics = if leaving { Vec::new() } else { self.undeclared(&found.topics) };
        let mut changes = self.board.decide(found, asked, losses, leaving);
        let limit = self.bus.max_value_bytes();
        let mut refused = None;
        changes.retain(|change| match change.document.encode().len() {
            bytes if bytes > limit => {
                refused = Some(too_large(&change.group, bytes, limit));
                false
            }
            _ => true,
        });
        let mut puts: Vec<Put> = changes.iter().map(put).collect();
        puts.extend(topics);
        let (groups, names) = self.board.forgotten();
        puts.extend(groups.into_iter().map(|(group, revision)| Put {
            key: key(&group),
            value: None,
            expect: Expect::Revision(revision),
        }));
        puts.extend(names.into_iter().filter_map(|name| {
            let expect = Expect::Revision(*beats.get(&name)?);
            Some(Put { key: Identity::key(&name), value: None, expect })
        }));
        let lost = self.board.lost_controls();
        puts.extend(lost.iter().filter_map(|(key, control)| {
            let value = serde_json::to_vec(control).ok()?;
            Some(Put { key: key.clone(), value: Some(value.into()), expect: Expect::Absent })
        }));
        if puts.is_empty() {
            return refused.map_or(Ok(false), Err);
        }
        let stored = self.bus.store(puts).await?;
        let count = changes.len();
        let made: Vec<_> = changes.into_iter().zip(stored).filter_map(|(change, to)| Some((change, to?))).collect();
        let again = made.len() < count;
        self.board.stored(made);
        self.board.controls_are_stored(&lost);
        refused.map_or(Ok(again), Err)
    }

    fn read(&self, shared: Vec<Entry>, asked_of: &[Entry], losses: u64) -> Result<Found, BusError> {
        let mut found = Found { controls: controls(asked_of)?, ..Found::default() };
        for Entry { key, value, revision } in shared {
            let broken = |error: &dyn std::fmt::Display| BusError::Broken(format!("{key}: {error}").into());
            let Some(rest) = key.strip_prefix(PREFIX) else { continue };
            if let Some(name) = rest.strip_prefix("beats/") {
                found.beats.insert(name.into(), (value, revision));
            } else if let Some(group) = rest.strip_prefix("groups/") {
                let group = Group(group.into());
                let document = match self.board.known(&group, revision, losses) {
                    Some(document) => document,
                    None => Arc::new(Document::decode(&value).map_err(|error| broken(&error))?),
                };
                found.documents.insert(group, Agreed { revision, document });
            } else if rest.starts_with("topics/") {
                let declared: Declared = serde_json::from_slice(&value).map_err(|error| broken(&error))?;
                let known = KnownTopic { partitions: declared.partitions, keep: declared.keep };
                found.topics.insert(TopicName::parse(&declared.topic), known);
            }
        }
        Ok(found)
    }

    /// Topics that were declared here and that the others do not know of yet.
    fn undeclared(&self, found: &BTreeMap<TopicName, KnownTopic>) -> Vec<Put> {
        let put = |(topic, known): (TopicName, KnownTopic)| {
            let keep = known.keep || found.get(&topic).is_some_and(|found| found.keep);
            if found.get(&topic).is_some_and(|found| found.partitions >= known.partitions && found.keep == keep) {
                return None;
            }
            let declared = Declared { topic: topic.to_string(), partitions: known.partitions, keep };
            let value: Bytes = serde_json::to_vec(&declared).ok()?.into();
            let key = format!("{PREFIX}topics/{:016x}", ledger::hash(topic.as_str().as_bytes()));
            Some(Put { key, value: Some(value), expect: Expect::Any })
        };
        self.board.own_topics().into_iter().filter_map(put).collect()
    }
}

fn key(group: &Group) -> String {
    format!("{PREFIX}groups/{group}")
}

fn put(change: &Change) -> Put {
    let value = (!change.document.members.is_empty()).then(|| change.document.encode());
    let expect = change.from.map_or(Expect::Absent, Expect::Revision);
    Put { key: key(&change.group), value, expect }
}

/// The others' work goes on as it was agreed on before.
fn too_large(group: &Group, bytes: usize, limit: usize) -> BusError {
    let text = format!(
        "what the processes of {group} agree on takes {bytes} bytes, and the bus takes {limit}: run fewer processes, or give the \
         object fewer subscribers"
    );
    BusError::Broken(text.into())
}

fn controls(entries: &[Entry]) -> Result<BTreeMap<String, Control>, BusError> {
    let read = |entry: &Entry| {
        let control = serde_json::from_slice(&entry.value);
        let control = control.map_err(|error| BusError::Broken(format!("{}: {error}", entry.key).into()))?;
        Ok((entry.key.clone(), control))
    };
    entries.iter().map(read).collect()
}

/// A number that no other start of a process gets.
fn fresh() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The keys of a new hasher are random.
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher
        .write_u128(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos());
    hasher.finish()
}
