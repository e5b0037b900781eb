//! The one decision of sharing, without a clock or a bus: what a process makes of a document.
//!
//! ```text
//!   owner dead, or none  -> the rightful one takes it
//!   owner alive          -> it alone gives it to the rightful one, once it holds it no more
//! ```
//!
//! Who is rightful follows from the members alone, so all processes agree on it, and for all objects alike: partition p of every
//! Trigger goes to the same process, as long as the same processes run it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::beats::Beats;
use super::document::{Document, Member, Name, Unit, Work};
use crate::subscription::ledger::hash;

/// The process that decides.
#[derive(Clone, Copy, Debug)]
pub struct Me<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Its present tenure.
    pub tenure: &'a Arc<str>,
    /// What it is there for; `None` when it is about to leave.
    pub work: Option<&'a Work>,
    /// What it still works on, or has not recorded.
    pub held: &'a BTreeSet<Unit>,
}

/// What `me` makes of a document: those who are dead leave, it takes what is rightfully its own and free, and gives what it does
/// not hold any more to whom it belongs. The same as before when there is nothing to change.
pub fn step(document: &Document, object: &str, beats: &Beats, dead: Duration, me: &Me<'_>, now: Instant) -> Document {
    let mut new = document.clone();
    new.members.retain(|name, _| name == me.name || beats.alive(name, dead, now));
    let holds_nothing = !document.owned_by(me.name).any(|unit| me.held.contains(unit));
    match me.work {
        None if holds_nothing => drop(new.members.remove(me.name)),
        None => {
            let member = Member { tenure: Arc::clone(me.tenure), work: Work::default() };
            new.members.insert(Arc::clone(me.name), member);
        }
        Some(work) => {
            let member = Member { tenure: Arc::clone(me.tenure), work: work.clone() };
            new.members.insert(Arc::clone(me.name), member);
        }
    }
    let rightful = rightful(&new.members, object);
    new.owners = document
        .owners
        .iter()
        .filter_map(|(unit, owner)| {
            let mine = owner == me.name;
            if mine && !me.held.contains(unit) {
                let wanted = me.work.is_some_and(|work| work.includes(unit));
                let next = rightful.get(unit).or(wanted.then_some(owner))?;
                return Some((unit.clone(), Arc::clone(next)));
            }
            new.members.contains_key(owner).then(|| (unit.clone(), Arc::clone(owner)))
        })
        .collect();
    for (unit, owner) in rightful.into_iter().filter(|(_, owner)| owner == me.name) {
        new.owners.entry(unit).or_insert(owner);
    }
    new
}

/// What a process may work on: what it owns in this tenure and does not have to give to another.
pub fn granted(document: &Document, object: &str, name: &Name, tenure: &str) -> BTreeSet<Unit> {
    let Some(member) = document.members.get(name).filter(|member| &*member.tenure == tenure) else {
        return BTreeSet::new();
    };
    let rightful = rightful(&document.members, object);
    let keeps = |unit: &&Unit| rightful.get(*unit).map_or(member.work.includes(unit), |owner| owner == name);
    document.owned_by(name).filter(keeps).cloned().collect()
}

/// To whom everything belongs: by rendezvous hashing, but none gets more partitions than its even share.
fn rightful(members: &BTreeMap<Name, Member>, object: &str) -> BTreeMap<Unit, Name> {
    let mut rightful = BTreeMap::new();
    let partitions = members.values().map(|member| member.work.partitions).max().unwrap_or_default();
    let sharers = members.values().filter(|member| member.work.partitions > 0).count().max(1);
    let even = usize::from(partitions).div_ceil(sharers);
    let mut loads: BTreeMap<&Name, usize> = BTreeMap::new();
    for index in 0..partitions {
        let able = || members.iter().filter(|(_, member)| member.work.partitions > index).map(|(name, _)| name);
        let score = |name: &&Name| (mix(name, &index.to_be_bytes()), Arc::clone(name));
        let roomy = able().filter(|name| loads.get(*name).is_none_or(|load| *load < even)).max_by_key(score);
        if let Some(owner) = roomy.or_else(|| able().max_by_key(score)) {
            *loads.entry(owner).or_default() += 1;
            rightful.insert(Unit::Partition(index), Arc::clone(owner));
        }
    }
    let wholes: BTreeSet<_> = members.values().flat_map(|member| &member.work.whole).collect();
    for whole in wholes {
        // Where one process would split it, another must not have all of it: their manifests differ.
        if members.values().any(|member| member.work.split.contains(whole)) {
            continue;
        }
        let able = members.iter().filter(|(_, member)| member.work.whole.contains(whole)).map(|(name, _)| name);
        let what = format!("{object}/{whole}");
        if let Some(owner) = able.max_by_key(|name| (mix(name, what.as_bytes()), Arc::clone(name))) {
            rightful.insert(Unit::Whole(Arc::clone(whole)), Arc::clone(owner));
        }
    }
    rightful
}

/// A hash of two parts of which every bit depends on every bit.
fn mix(name: &str, what: &[u8]) -> u64 {
    let mut z = hash(name.as_bytes()) ^ hash(what).rotate_left(32);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
