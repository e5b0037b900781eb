//! What this process knows of the others, what it takes part in, and what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evoke_api::names::{SubscriptionId, TopicName};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::beats::Beats;
use super::document::{Document, Name, Unit, Work};
use super::step::{Me, granted, step};
use super::tenure::Tenure;
use super::{Allotment, Group, Part, Timing, control_of};
use crate::bus::BusError;
use crate::subscription::control::Control;
use crate::subscription::{KnownTopic, Topics};

#[derive(Debug)]
pub(super) struct Board {
    topics: Topics,
    /// `None` where there are no others.
    me: Option<(Name, Timing)>,
    state: Mutex<State>,
    nudged: Notify,
    renewed: Notify,
}

#[derive(Debug, Default)]
struct State {
    shares: BTreeMap<SubscriptionId, Registered>,
    holds: BTreeMap<u64, Holding>,
    last_serial: u64,
    tenure: Option<Tenure>,
    /// When the first tenure began.
    began: Option<Instant>,
    /// The groups that this process has taken part in since its start.
    joined: BTreeSet<Group>,
    /// `None` until they were loaded once.
    controls: Option<BTreeMap<String, Control>>,
    documents: BTreeMap<Group, Agreed>,
    declared: BTreeMap<TopicName, KnownTopic>,
    beats: Beats,
    /// How often the bus had lost its state when it was last looked at.
    losses: u64,
    lost: Lost,
    /// When the state was asked for that is known.
    asked: Option<Instant>,
}

/// What the bus has lost and nobody has stored again yet. It holds as if it were there.
#[derive(Debug, Default)]
struct Lost {
    /// Those that name this process.
    documents: BTreeMap<Group, Arc<Document>>,
    controls: BTreeMap<String, Control>,
}

impl State {
    /// What was agreed on last.
    fn document(&self, group: &Group) -> Option<&Arc<Document>> {
        let stored = self.documents.get(group).map(|agreed| &agreed.document);
        stored.or_else(|| self.lost.documents.get(group))
    }

    /// Keeps what was known before and is not there any more.
    fn lose(&mut self, me: &Name, found: &Found) {
        let gone = |group: &Group| !found.documents.contains_key(group);
        let mine = |document: &Document| document.members.contains_key(me);
        let documents = self.documents.iter().filter(|(group, agreed)| gone(group) && mine(&agreed.document));
        self.lost.documents.extend(documents.map(|(group, agreed)| (group.clone(), Arc::clone(&agreed.document))));
        self.lost.controls.extend(self.controls.iter().flatten().map(|(key, control)| (key.clone(), *control)));
        self.beats.lose(Instant::now());
    }
}

#[derive(Debug)]
struct Registered {
    serial: u64,
    group: Group,
    whole: bool,
    topics: Vec<TopicName>,
    allotment: watch::Sender<Allotment>,
}

#[derive(Debug)]
struct Holding {
    id: SubscriptionId,
    group: Option<Group>,
    part: Part,
    units: BTreeSet<Unit>,
}

/// A document as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Agreed {
    pub(super) revision: u64,
    pub(super) document: Arc<Document>,
}

/// What a look at the state found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) beats: BTreeMap<Name, (bytes::Bytes, u64)>,
    pub(super) documents: BTreeMap<Group, Agreed>,
    pub(super) topics: BTreeMap<TopicName, KnownTopic>,
    pub(super) controls: BTreeMap<String, Control>,
}

/// A change of a document that is to be stored.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) group: Group,
    /// The revision that it replaces.
    pub(super) from: Option<u64>,
    pub(super) document: Document,
}

impl Board {
    pub(super) fn new(topics: Topics, me: Option<(Name, Timing)>) -> Self {
        Self { topics, me, state: Mutex::default(), nudged: Notify::new(), renewed: Notify::new() }
    }

    pub(super) fn nudge(&self) {
        self.nudged.notify_one();
    }

    pub(super) async fn nudged(&self) {
        self.nudged.notified().await;
    }

    pub(super) fn register(
        &self,
        group: Group,
        id: &SubscriptionId,
        topics: &[TopicName],
        whole: bool,
    ) -> (u64, watch::Receiver<Allotment>) {
        let mut state = self.state.lock();
        state.last_serial += 1;
        let (serial, topics) = (state.last_serial, topics.to_vec());
        let (allotment, seen) = watch::channel(Allotment::default());
        state.joined.insert(group.clone());
        state.shares.insert(id.clone(), Registered { serial, group, whole, topics, allotment });
        self.publish(&state);
        drop(state);
        self.nudge();
        (serial, seen)
    }

    pub(super) fn unregister(&self, id: &SubscriptionId, serial: u64) {
        let mut state = self.state.lock();
        if state.shares.get(id).is_some_and(|share| share.serial == serial) {
            state.shares.remove(id);
            drop(state);
            self.nudge();
        }
    }

    pub(super) fn hold(&self, id: &SubscriptionId) -> Result<(Part, u64, Option<Tenure>), BusError> {
        let mut state = self.state.lock();
        let unavailable = |why: &str| BusError::Unavailable(format!("subscription {id} {why}").into());
        if self.me.is_some() && state.holds.values().any(|hold| hold.id == *id) {
            return Err(unavailable("still records its last positions"));
        }
        let (group, part, units) = match state.shares.get(id) {
            None => (None, Part::All, BTreeSet::new()),
            Some(share) => {
                let part = share.allotment.borrow().work().clone();
                let units = match &part {
                    Part::Nothing => return Err(unavailable("has nothing to do in this process")),
                    Part::All => BTreeSet::from([Unit::Whole(Arc::clone(&id.subscriber))]),
                    Part::Partitions(indices) => indices.iter().copied().map(Unit::Partition).collect(),
                };
                (Some(share.group.clone()), part, units)
            }
        };
        // A job has no share, and yet another process takes it over from one that has stood still.
        let tenure = match (&self.me, &state.tenure) {
            (None, _) => None,
            (Some(_), Some(tenure)) if tenure.may_start(Instant::now()) => Some(tenure.clone()),
            (Some(_), _) => return Err(unavailable("may belong to another process by now")),
        };
        state.last_serial += 1;
        let serial = state.last_serial;
        state.holds.insert(serial, Holding { id: id.clone(), group, part: part.clone(), units });
        *self.topics.0.lock().running.entry(id.clone()).or_default() += 1;
        Ok((part, serial, tenure))
    }

    pub(super) fn release(&self, serial: u64) {
        let Some(Holding { id, .. }) = self.state.lock().holds.remove(&serial) else { return };
        let mut known = self.topics.0.lock();
        if let Some(count) = known.running.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                known.running.remove(&id);
            }
        }
        drop(known);
        self.nudge();
    }

    /// Everything that was held is over, recorded or not.
    pub(super) fn release_all(&self) {
        let serials: Vec<_> = self.state.lock().holds.keys().copied().collect();
        serials.into_iter().for_each(|serial| self.release(serial));
    }

    pub(super) fn held(&self, id: &SubscriptionId) -> Option<Part> {
        self.state.lock().holds.values().find(|hold| hold.id == *id).map(|hold| hold.part.clone())
    }

    /// Whether some process is there for a subscription and does not have it paused.
    pub(super) fn runs(&self, id: &SubscriptionId) -> Option<bool> {
        let has_workers = self.has_workers(id)?;
        let state = self.state.lock();
        let paused = state.controls.as_ref().is_some_and(|controls| control_of(controls, id).paused);
        Some(has_workers && !paused)
    }

    /// Whether some process is there for a subscription, paused or not.
    pub(super) fn has_workers(&self, id: &SubscriptionId) -> Option<bool> {
        let (_, timing) = self.me.as_ref()?;
        let state = self.state.lock();
        let asked = state.asked?;
        let works = |group: &Group| {
            state.document(group).is_some_and(|document| {
                document.members.iter().any(|(name, member)| {
                    member.work.has(&id.subscriber) && state.beats.alive(name, timing.dead, asked)
                })
            })
        };
        Some(works(&Group::trigger(&id.owner)) || works(&Group::event_source(&id.owner)))
    }

    pub(super) fn topics(&self) -> BTreeMap<TopicName, KnownTopic> {
        self.state.lock().declared.clone()
    }

    /// The topics that were declared here.
    pub(super) fn own_topics(&self) -> BTreeMap<TopicName, KnownTopic> {
        self.topics.0.lock().topics.clone()
    }

    pub(super) fn tenure(&self) -> Option<Tenure> {
        self.state.lock().tenure.clone()
    }

    /// The bus took a beat that was sent at `sent`: this process may act until that lapses. True if a new tenure begins, of the name
    /// that `name` gives.
    pub(super) fn beaten(&self, sent: Instant, timing: Timing, name: impl FnOnce() -> Arc<str>) -> bool {
        let (mut state, until) = (self.state.lock(), sent + timing.lapse);
        let now = Instant::now();
        if state.tenure.as_ref().is_some_and(|tenure| tenure.extend(until, now)) {
            return false;
        }
        // One that would be over before the next beat is known of is not worth beginning: what is started in it ends at once.
        if until <= now + timing.beat {
            return false;
        }
        state.tenure = Some(Tenure::new(name(), until, timing.grace));
        state.began.get_or_insert(now);
        self.publish(&state);
        drop(state);
        self.renewed.notify_one();
        self.nudge();
        true
    }

    /// Resolves when a new tenure begins.
    pub(super) async fn renewed(&self) {
        self.renewed.notified().await;
    }

    /// Ends what this process may do, for good.
    pub(super) fn end_tenure(&self) {
        let state = self.state.lock();
        if let Some(tenure) = &state.tenure {
            tenure.end();
        }
        self.publish(&state);
    }

    /// Has whoever works see that the tenure has lapsed.
    pub(super) fn lapsed(&self) {
        self.publish(&self.state.lock());
    }

    /// Takes in what is asked of subscriptions, where there are no others.
    pub(super) fn take_controls(&self, controls: BTreeMap<String, Control>) {
        let mut state = self.state.lock();
        state.controls = Some(controls);
        self.publish(&state);
    }

    /// The documents that are known, to be kept where they have not changed, after so many losses: revisions may come again after
    /// another one.
    pub(super) fn known(&self, group: &Group, revision: u64, losses: u64) -> Option<Arc<Document>> {
        let state = self.state.lock();
        let agreed = state.documents.get(group).filter(|agreed| agreed.revision == revision)?;
        (state.losses == losses).then(|| Arc::clone(&agreed.document))
    }

    /// Takes in what a look found that was asked for at `asked`, of a bus that had lost its state so often, and decides what is to be
    /// changed. Nothing is, while this process may not act.
    pub(super) fn decide(&self, mut found: Found, asked: Instant, losses: u64, leaving: bool) -> Vec<Change> {
        let Some((name, timing)) = &self.me else { return Vec::new() };
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if std::mem::replace(&mut state.losses, losses) != losses {
            state.lose(name, &found);
        }
        // Whoever was faster has stored it again.
        state.lost.documents.retain(|group, _| !found.documents.contains_key(group));
        state.lost.controls.retain(|key, _| !found.controls.contains_key(key));
        found.controls.extend(state.lost.controls.iter().map(|(key, control)| (key.clone(), *control)));
        let agreed_on = found.documents.values().map(|agreed| &agreed.document).chain(state.lost.documents.values());
        let members = agreed_on.flat_map(|document| document.members.keys().cloned()).collect();
        let values = found.beats.into_iter().map(|(name, (value, _))| (name, value)).collect();
        state.beats.observe(Instant::now(), &values, &members);
        (state.documents, state.declared, state.asked) = (found.documents, found.topics, Some(asked));
        state.controls = Some(found.controls);
        let mut changes = Vec::new();
        if let Some(tenure) = state.tenure.clone().filter(|tenure| tenure.may_start(Instant::now())) {
            let works = if leaving { BTreeMap::new() } else { self.works(state) };
            let settled = leaving || state.began.is_some_and(|began| asked >= began + timing.dead);
            for group in self.involved(state, name) {
                // What a restart left is its own again once its part has started; until then nobody else needs it.
                if !settled && !state.joined.contains(&group) {
                    continue;
                }
                let held: BTreeSet<Unit> = state
                    .holds
                    .values()
                    .filter(|hold| hold.group.as_ref() == Some(&group))
                    .flat_map(|hold| hold.units.iter().cloned())
                    .collect();
                let me = Me { name, tenure: tenure.name(), work: works.get(&group), held: &held };
                let from = state.documents.get(&group).map(|agreed| agreed.revision);
                let empty = Document::default();
                let old = state.document(&group).map_or(&empty, |document| &**document);
                let new = step(old, &group.0, &state.beats, timing.dead, &me, asked);
                if new != *old || state.lost.documents.contains_key(&group) {
                    changes.push(Change { from, group, document: new });
                }
            }
        }
        self.publish(state);
        changes
    }

    /// The groups that this process has to do with.
    fn involved(&self, state: &State, name: &Name) -> BTreeSet<Group> {
        let member_of = state.documents.iter().filter(|(_, agreed)| agreed.document.members.contains_key(name));
        let member_of = member_of.map(|(group, _)| group).chain(state.lost.documents.keys());
        let shares = state.shares.values().map(|share| &share.group);
        let holds = state.holds.values().filter_map(|hold| hold.group.as_ref());
        shares.chain(holds).chain(member_of).cloned().collect()
    }

    /// What this process is there for.
    fn works(&self, state: &State) -> BTreeMap<Group, Work> {
        let known = self.topics.0.lock();
        let mut works: BTreeMap<Group, Work> = BTreeMap::new();
        for (id, share) in &state.shares {
            let work = works.entry(share.group.clone()).or_default();
            if share.whole {
                work.whole.insert(Arc::clone(&id.subscriber));
                continue;
            }
            let partitions = share.topics.iter().filter_map(|topic| Some(known.topics.get(topic)?.partitions)).max();
            work.partitions = work.partitions.max(partitions.unwrap_or(1));
            work.split.insert(Arc::clone(&id.subscriber));
        }
        works
    }

    /// Changes are stored, each as a revision.
    pub(super) fn stored(&self, changes: Vec<(Change, u64)>) {
        let mut state = self.state.lock();
        for (Change { group, document, .. }, revision) in changes {
            state.lost.documents.remove(&group);
            if document.members.is_empty() {
                state.documents.remove(&group);
            } else {
                state.documents.insert(group, Agreed { revision, document: Arc::new(document) });
            }
        }
        self.publish(&state);
    }

    /// What was asked of subscriptions and is to be stored again.
    pub(super) fn lost_controls(&self) -> BTreeMap<String, Control> {
        self.state.lock().lost.controls.clone()
    }

    /// It is.
    pub(super) fn controls_are_stored(&self, stored: &BTreeMap<String, Control>) {
        self.state.lock().lost.controls.retain(|key, _| !stored.contains_key(key));
    }

    /// Groups of which every member is dead for so long that nobody waits for them, and likewise beats.
    pub(super) fn forgotten(&self) -> (Vec<(Group, u64)>, Vec<Name>) {
        let (Some((me, timing)), state) = (&self.me, self.state.lock()) else { return Default::default() };
        let Some(asked) = state.asked else { return Default::default() };
        let dead: BTreeSet<&Name> = state.beats.forgotten(timing.forget, asked).filter(|name| *name != me).collect();
        let gone = |name: &Name| dead.contains(name) || !state.beats.alive(name, timing.dead, asked);
        let groups = state
            .documents
            .iter()
            .filter(|(_, agreed)| {
                let mut members = agreed.document.members.keys();
                !agreed.document.members.contains_key(me) && members.all(gone)
            })
            .map(|(group, agreed)| (group.clone(), agreed.revision))
            .collect();
        let member = |name: &Name| state.documents.values().any(|agreed| agreed.document.members.contains_key(name));
        (groups, dead.into_iter().filter(|name| !member(name)).cloned().collect())
    }

    /// True once no document names this process.
    pub(super) fn has_left(&self) -> bool {
        let state = self.state.lock();
        let Some((name, _)) = &self.me else { return true };
        !state.documents.values().any(|agreed| agreed.document.members.contains_key(name))
    }

    /// Tells every share how it is divided.
    fn publish(&self, state: &State) {
        let tenure = state.tenure.as_ref().filter(|tenure| tenure.may_start(Instant::now()));
        let mut grants: BTreeMap<&Group, BTreeSet<Unit>> = BTreeMap::new();
        for (id, share) in &state.shares {
            let paused = state.controls.as_ref().is_some_and(|controls| control_of(controls, id).paused);
            let new = match (&self.me, tenure, state.document(&share.group)) {
                (None, _, _) => {
                    Allotment { known: state.controls.is_some(), paused, mine: Part::All, others: BTreeMap::new() }
                }
                (Some((name, _)), Some(tenure), Some(document)) => {
                    let granted = grants
                        .entry(&share.group)
                        .or_insert_with(|| granted(document, &share.group.0, name, tenure.name()));
                    let known = document.members.get(name).is_some_and(|member| member.tenure == *tenure.name());
                    let others = document.owners.iter().filter(|(_, owner)| *owner != name);
                    let mut theirs: BTreeMap<Name, Vec<&Unit>> = BTreeMap::new();
                    others.for_each(|(unit, owner)| theirs.entry(Arc::clone(owner)).or_default().push(unit));
                    let all_of_it = Unit::Whole(Arc::clone(&id.subscriber));
                    let mine = if !share.whole && document.owners.contains_key(&all_of_it) {
                        Part::Nothing
                    } else {
                        share.part(id, granted.iter())
                    };
                    let others = theirs
                        .into_iter()
                        .map(|(name, units)| (name, share.part(id, units.into_iter())))
                        .filter(|(_, part)| *part != Part::Nothing)
                        .collect();
                    Allotment { known, paused, mine, others }
                }
                _ => Allotment { paused, ..Allotment::default() },
            };
            share.allotment.send_if_modified(|old| {
                let changed = *old != new;
                *old = new;
                changed
            });
        }
    }
}

impl Registered {
    /// What some units are of this subscription.
    fn part<'a>(&self, id: &SubscriptionId, mut units: impl Iterator<Item = &'a Unit>) -> Part {
        if self.whole {
            let is_all = units.any(|unit| matches!(unit, Unit::Whole(name) if *name == id.subscriber));
            return if is_all { Part::All } else { Part::Nothing };
        }
        let index = |unit: &Unit| match unit {
            Unit::Partition(index) => Some(*index),
            Unit::Whole(_) => None,
        };
        let indices: BTreeSet<u16> = units.filter_map(index).collect();
        if indices.is_empty() { Part::Nothing } else { Part::Partitions(indices) }
    }
}
