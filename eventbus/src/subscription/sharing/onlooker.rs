//! Who works on a subscription, as somebody sees it who takes no part. What a process says of itself may be all that is left of it:
//! a beat that goes on is life, and one that stands still for long enough is death.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use evoke_api::names::SubscriptionId;
use tokio::time::{Instant, sleep};

use super::beats::{Beat, Beats};
use super::document::{Document, Name};
use super::{Group, PREFIX, Timing};
use crate::bus::{BusError, Entry, EventBus};

/// A process that works on a subscription, or would but for its pause, in words; `None` where there is none. Where there may be one,
/// this takes as long as its next beat takes to come, or not to.
///
/// # Errors
/// The bus's, and [`BusError::Broken`] for what a newer evoke wrote.
pub async fn worker(
    bus: &dyn EventBus,
    subscription: &SubscriptionId,
    timing: Timing,
) -> Result<Option<String>, BusError> {
    let mut beats = Beats::default();
    let mut before: BTreeMap<Name, Option<Bytes>> = BTreeMap::new();
    loop {
        let asked = Instant::now();
        let (members, found) = look(bus, subscription).await?;
        for name in &members {
            let beat = found.get(name);
            let first = before.entry(Name::clone(name)).or_insert_with(|| beat.cloned());
            if let Some(beat) = beat.filter(|beat| first.as_ref() != Some(*beat)) {
                return Ok(Some(described(name, beat)));
            }
        }
        beats.observe(Instant::now(), &found, &members);
        if !members.iter().any(|name| beats.alive(name, timing.dead, asked)) {
            return Ok(None);
        }
        sleep(timing.look).await;
    }
}

/// Who is there for a subscription, and every beat.
async fn look(
    bus: &dyn EventBus,
    subscription: &SubscriptionId,
) -> Result<(BTreeSet<Name>, BTreeMap<Name, Bytes>), BusError> {
    let groups = [Group::trigger(&subscription.owner), Group::event_source(&subscription.owner)];
    let (mut members, mut beats) = (BTreeSet::new(), BTreeMap::new());
    for Entry { key, value, .. } in bus.load(PREFIX).await? {
        let Some(rest) = key.strip_prefix(PREFIX) else { continue };
        if let Some(name) = rest.strip_prefix("beats/") {
            beats.insert(Name::from(name), value);
        } else if let Some(group) = rest.strip_prefix("groups/")
            && groups.iter().any(|of| *of.0 == *group)
        {
            let document =
                Document::decode(&value).map_err(|error| BusError::Broken(format!("{key}: {error}").into()))?;
            let works = document.members.into_iter().filter(|(_, member)| member.work.has(&subscription.subscriber));
            members.extend(works.map(|(name, _)| name));
        }
    }
    Ok((members, beats))
}

fn described(name: &Name, beat: &[u8]) -> String {
    match serde_json::from_slice::<Beat>(beat) {
        Ok(beat) => format!("{name}, which is {beat}"),
        Err(_) => name.to_string(),
    }
}
