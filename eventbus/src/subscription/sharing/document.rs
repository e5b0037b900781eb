//! Who works on what of one object: what the processes on a bus agree on, one compare-and-set at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// A process, by the name that its data directory holds.
pub type Name = Arc<str>;

/// What has one owner at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// One partition of every topic, for all subscribers that can be split.
    Partition(u16),
    /// Something that cannot be split: a subscriber with several inputs, or a source that must run once.
    Whole(Arc<str>),
}

/// What a process would work on if it were alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Work {
    /// How many partitions the topics of its split subscribers have.
    pub partitions: u16,
    /// The subscribers that are split by partition.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub split: BTreeSet<Arc<str>>,
    /// What cannot be split.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub whole: BTreeSet<Arc<str>>,
}

impl Work {
    /// True for a subscriber that it is there for.
    pub fn has(&self, subscriber: &str) -> bool {
        self.split.contains(subscriber) || self.whole.contains(subscriber)
    }

    /// True for what it names.
    pub fn includes(&self, unit: &Unit) -> bool {
        match unit {
            Unit::Partition(index) => *index < self.partitions,
            Unit::Whole(name) => self.whole.contains(name),
        }
    }
}

/// A process that takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Since when it does: another one after every start, and after every time it could not beat for too long.
    pub tenure: Arc<str>,
    /// What it is there for.
    pub work: Work,
}

/// The processes that take part in one object's work, and who owns what of it. No unit can have two owners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// By name.
    pub members: BTreeMap<Name, Member>,
    /// Each is a member.
    pub owners: BTreeMap<Unit, Name>,
}

/// Bytes that are no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDocument {
    /// Written by a newer evoke.
    #[error("it has version {0}, this evoke knows version {VERSION}: run the newer evoke in all processes")]
    Version(u32),
    /// Damaged.
    #[error("it cannot be read: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    #[serde(default)]
    members: BTreeMap<Name, StoredMember>,
}

#[derive(Serialize, Deserialize)]
struct StoredMember {
    tenure: Arc<str>,
    work: Work,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owns_partitions: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owns_whole: Vec<Arc<str>>,
}

impl Document {
    /// The bytes that state holds.
    pub fn encode(&self) -> Bytes {
        let member = |(name, member): (&Name, &Member)| {
            let owned = self.owners.iter().filter(|(_, owner)| *owner == name).map(|(unit, _)| unit);
            let mut stored = StoredMember {
                tenure: Arc::clone(&member.tenure),
                work: member.work.clone(),
                owns_partitions: Vec::new(),
                owns_whole: Vec::new(),
            };
            for unit in owned {
                match unit {
                    Unit::Partition(index) => stored.owns_partitions.push(*index),
                    Unit::Whole(name) => stored.owns_whole.push(Arc::clone(name)),
                }
            }
            (Arc::clone(name), stored)
        };
        let stored = Stored { version: VERSION, members: self.members.iter().map(member).collect() };
        // Maps with text as keys and plain values cannot fail to be JSON.
        serde_json::to_vec(&stored).unwrap_or_default().into()
    }

    /// Reads what [`Document::encode`] wrote.
    ///
    /// # Errors
    /// [`BadDocument`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadDocument> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |error: serde_json::Error| BadDocument::Damaged(error.to_string());
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(BadDocument::Version(version));
        }
        let stored: Stored = serde_json::from_slice(bytes).map_err(damaged)?;
        let mut document = Self::default();
        for (name, StoredMember { tenure, work, owns_partitions, owns_whole }) in stored.members {
            let owned = owns_partitions.into_iter().map(Unit::Partition).chain(owns_whole.into_iter().map(Unit::Whole));
            for unit in owned {
                if document.owners.insert(unit.clone(), Arc::clone(&name)).is_some() {
                    return Err(BadDocument::Damaged(format!("{unit:?} has two owners")));
                }
            }
            document.members.insert(name, Member { tenure, work });
        }
        Ok(document)
    }

    /// What a process owns.
    pub fn owned_by<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Unit> {
        self.owners.iter().filter(move |(_, owner)| &***owner == name).map(|(unit, _)| unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_what_it_was_after_a_round_trip() {
        let work = Work { partitions: 3, split: ["a".into()].into(), whole: ["join".into()].into() };
        let mut document = Document::default();
        document.members.insert("one".into(), Member { tenure: "t1".into(), work: work.clone() });
        document.members.insert("two".into(), Member { tenure: "t2".into(), work });
        document.owners.insert(Unit::Partition(0), "one".into());
        document.owners.insert(Unit::Partition(2), "two".into());
        document.owners.insert(Unit::Whole("join".into()), "two".into());
        assert_eq!(Document::decode(&document.encode()), Ok(document));
    }

    #[test]
    fn what_is_newer_or_damaged_is_refused() {
        assert_eq!(Document::decode(br#"{"version":2,"members":7}"#), Err(BadDocument::Version(2)));
        let twice = br#"{"version":1,"members":{
            "a":{"tenure":"1","work":{},"owns_partitions":[1]},"b":{"tenure":"1","work":{},"owns_partitions":[1]}}}"#;
        assert!(matches!(Document::decode(twice), Err(BadDocument::Damaged(text)) if text.contains("two owners")));
        assert!(matches!(Document::decode(b"{"), Err(BadDocument::Damaged(_))));
    }
}
