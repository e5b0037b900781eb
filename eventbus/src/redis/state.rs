//! The small state: hashes, one for what comes before the first `/` of a key, so that what belongs together is loaded together.

use std::collections::BTreeMap;

use evoke_connect::redis::reply;
use parking_lot::Mutex;
use redis::{Value, cmd};
use tokio::sync::watch;

use super::shared::Core;
use super::{keys, scripts};
use crate::bus::{BusError, Entry, Expect, Put};

const KEY_BYTES: usize = 512;
const VALUE_BYTES: usize = 16 << 20;

/// When the state was made, as it was last seen: once it is lost, whoever stores something first makes another one.
#[derive(Debug, Default)]
pub(super) struct Made {
    when: Mutex<Option<String>>,
    losses: watch::Sender<u64>,
}

impl Made {
    /// How often it was lost.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Compares the state that is there with the one that was there before. What older versions of evoke have made does not say when.
    fn found(&self, made: Option<String>) {
        let mut when = self.when.lock();
        if *when == made {
            return;
        }
        if std::mem::replace(&mut *when, made).is_some() {
            tracing::error!(
                key = keys::STATE,
                "the server has lost evoke's state: what the processes on the bus know of it is stored again"
            );
            self.losses.send_modify(|losses| *losses += 1);
        }
    }
}

impl Core {
    /// The largest value that is taken now.
    pub(super) fn largest_value(&self) -> usize {
        VALUE_BYTES.min(self.hub.longest())
    }

    pub(super) async fn load(&self, prefix: &str) -> Result<Vec<Entry>, BusError> {
        let node = self.hub.node(keys::STATE)?;
        let hashes = match prefix.contains('/') {
            true => vec![keys::state(prefix)],
            false => {
                let names = node.ask.ask(cmd("HKEYS").arg(keys::STATE)).await;
                let names = names.map_err(|trouble| self.hub.suspect(&trouble))?;
                let names = reply::array(names).unwrap_or_default().into_iter().filter_map(reply::string);
                names
                    .filter_map(|name| name.strip_prefix('/').filter(|n| n.starts_with(prefix)).map(keys::state))
                    .collect()
            }
        };
        let mut entries = Vec::new();
        for hash in hashes {
            let found = node.ask.ask(cmd("HGETALL").arg(&hash)).await.map_err(|trouble| self.hub.suspect(&trouble))?;
            let mut parts = reply::array(found).unwrap_or_default().into_iter();
            while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
                let unreadable = || BusError::Broken(format!("the key {hash} holds what evoke did not write").into());
                let key = reply::string(key).ok_or_else(unreadable)?;
                if key.starts_with(prefix) {
                    entries.push(entry(key, value).ok_or_else(unreadable)?);
                }
            }
        }
        // After all else, so that nobody hears of nothing without hearing why.
        let made = node.ask.ask(cmd("HGET").arg(keys::STATE).arg(scripts::MADE)).await;
        self.made.found(reply::string(made.map_err(|trouble| self.hub.suspect(&trouble))?));
        Ok(entries)
    }

    pub(super) async fn store(&self, puts: Vec<Put>) -> Result<Vec<Option<u64>>, BusError> {
        let most = self.largest_value();
        for put in &puts {
            put.check(KEY_BYTES, most)?;
        }
        let mut revisions = vec![None; puts.len()];
        if puts.is_empty() {
            return Ok(revisions);
        }
        let mut hashes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, put) in puts.iter().enumerate() {
            hashes.entry(keys::segment(&put.key)).or_default().push(index);
        }
        let node = self.hub.node(keys::STATE)?;
        for (name, indexes) in hashes {
            let mut store = scripts::store(&keys::state(name), keys::STATE, name);
            for put in indexes.iter().filter_map(|index| puts.get(*index)) {
                store.arg(&put.key);
                match put.expect {
                    Expect::Any => store.arg("*"),
                    Expect::Absent => store.arg(""),
                    Expect::Revision(revision) => store.arg(revision),
                };
                match &put.value {
                    Some(value) => store.arg("+").arg(&value[..]),
                    None => store.arg("-").arg(""),
                };
            }
            let done = node.ask.ask(&store).await.map_err(|trouble| self.hub.suspect(&trouble))?;
            for (index, revision) in indexes.into_iter().zip(reply::array(done).unwrap_or_default()) {
                if let Some(place) = revisions.get_mut(index) {
                    *place = reply::string(revision).and_then(|revision| revision.parse().ok());
                }
            }
        }
        if let Some(copies) = &node.copies {
            let have = copies.count(keys::STATE).await.map_err(|trouble| self.hub.suspect(&trouble))?;
            if have < copies.wanted {
                let text = format!("{have} of {} replicas have what was recorded", copies.wanted);
                return Err(BusError::Unavailable(text.into()));
            }
        }
        Ok(revisions)
    }
}

/// A field of a hash: the revision, then the value.
fn entry(key: String, value: Value) -> Option<Entry> {
    let value = bytes::Bytes::from(reply::bytes(value)?);
    let colon = value.iter().position(|b| *b == b':')?;
    let revision = std::str::from_utf8(value.get(..colon)?).ok()?.parse().ok()?;
    Some(Entry { key, value: value.slice(colon + 1..), revision })
}
