//! One name, one process: a process takes its name on the bus before it takes part, and ends when another takes it away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::beats::Beat;
use super::document::Name;
use super::{PREFIX, Timing};
use crate::arrival::Arrival;
use crate::bus::{BusError, Entry, EventBus, Expect, Put};

/// How long the bus is left alone after it failed.
const RETRY: Duration = Duration::from_millis(500);

/// The beat of this process on the bus.
#[derive(Debug)]
pub(super) struct Identity<'a> {
    pub(super) bus: &'a dyn EventBus,
    pub(super) name: &'a Name,
    pub(super) timing: Timing,
    /// As it was stored last, or will be next.
    pub(super) beat: Beat,
    pub(super) revision: u64,
}

/// Another process has this one's name; says what to do.
#[derive(Debug)]
pub(super) struct Taken(pub(super) Arc<str>);

/// What is under this process's name.
enum Found {
    Nothing,
    Own(u64),
    Other(Beat, u64),
}

impl Identity<'_> {
    /// The key of a process's beat.
    pub(super) fn key(name: &str) -> String {
        format!("{PREFIX}beats/{name}")
    }

    /// Takes the name, as soon as it is certain that no other process has it: at once after a restart in the same place, since a
    /// data directory is locked by one process; elsewhere once its last beat is old. Says when the beat was sent.
    pub(super) async fn take(&mut self) -> Result<Instant, Taken> {
        let mut waiting: Option<(u64, Instant)> = None;
        let (mut arrival, mut failing) = (Arrival::of(self.bus), false);
        loop {
            let is_news = arrival.has_come();
            let asked = Instant::now();
            let found = match self.look().await {
                Ok(found) => found,
                Err(error) => {
                    if is_news && !std::mem::replace(&mut failing, true) {
                        tracing::warn!(name = %self.name, %error, "this process cannot take its name on the bus, trying again");
                    }
                    sleep(RETRY.min(self.timing.look)).await;
                    continue;
                }
            };
            let expect = match found {
                Found::Nothing => Expect::Absent,
                Found::Own(revision) => Expect::Revision(revision),
                Found::Other(other, revision) if other.place == self.beat.place => Expect::Revision(revision),
                Found::Other(other, revision) => match waiting {
                    Some((seen, _)) if seen != revision => return Err(self.taken(&other)),
                    Some((_, since)) if asked.saturating_duration_since(since) >= self.timing.dead => {
                        Expect::Revision(revision)
                    }
                    Some(_) => {
                        sleep(self.timing.look).await;
                        continue;
                    }
                    None => {
                        tracing::info!(name = %self.name, last = %other, "the name was used elsewhere: waiting to see that it is not any more");
                        waiting = Some((revision, Instant::now()));
                        sleep(self.timing.look).await;
                        continue;
                    }
                },
            };
            let sent = Instant::now();
            match self.store(expect).await {
                Ok(true) => return Ok(sent),
                // Somebody was faster, or the answer was lost: the next look tells.
                Ok(false) => sleep(RETRY.min(self.timing.look)).await,
                Err(_) => sleep(RETRY.min(self.timing.look)).await,
            }
        }
    }

    /// Beats once; says when the beat was sent, or `None` where it is not known to be stored.
    pub(super) async fn beat(&mut self) -> Result<Option<Instant>, Taken> {
        self.beat.count += 1;
        let sent = Instant::now();
        match self.store(Expect::Revision(self.revision)).await {
            Ok(true) => return Ok(Some(sent)),
            Ok(false) => {}
            Err(_) => return Ok(None),
        }
        match self.look().await {
            Ok(Found::Own(revision)) => self.revision = revision,
            Ok(Found::Other(other, _)) => return Err(self.taken(&other)),
            Ok(Found::Nothing) => {
                let sent = Instant::now();
                return Ok(matches!(self.store(Expect::Absent).await, Ok(true)).then_some(sent));
            }
            Err(_) => {}
        }
        Ok(None)
    }

    /// Takes the beat away, so that nobody waits for it.
    pub(super) async fn give_back(&self) -> Result<(), BusError> {
        if let Found::Own(revision) = self.look().await? {
            let put = Put { key: Self::key(self.name), value: None, expect: Expect::Revision(revision) };
            self.bus.store(vec![put]).await?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<Found, BusError> {
        let key = Self::key(self.name);
        // A prefix also finds keys that are longer.
        let entry = self.bus.load(&key).await?.into_iter().find(|entry| entry.key == key);
        let Some(Entry { value, revision, .. }) = entry else { return Ok(Found::Nothing) };
        let beat: Beat =
            serde_json::from_slice(&value).map_err(|error| BusError::Broken(format!("{key}: {error}").into()))?;
        Ok(if beat.session == self.beat.session { Found::Own(revision) } else { Found::Other(beat, revision) })
    }

    async fn store(&mut self, expect: Expect) -> Result<bool, BusError> {
        let value = serde_json::to_vec(&self.beat).map_err(|error| BusError::Broken(error.to_string().into()))?;
        let put = Put { key: Self::key(self.name), value: Some(value.into()), expect };
        // A store that hangs must not keep the next beat from being tried.
        let stored = tokio::time::timeout(self.timing.lapse, self.bus.store(vec![put])).await;
        let revisions = stored.map_err(|_| BusError::Unavailable("the bus did not answer".into()))??;
        let revision = revisions.first().copied().flatten();
        self.revision = revision.unwrap_or(self.revision);
        Ok(revision.is_some())
    }

    fn taken(&self, other: &Beat) -> Taken {
        let text = format!(
            "two running processes are called {}: {}, and {other}; the data directory of one is a copy of the other's: \
             delete the file INSTANCE in one of them, then start it again",
            self.name, self.beat
        );
        Taken(text.into())
    }
}
