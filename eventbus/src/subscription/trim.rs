//! Gives up the beginning of the logs. What every subscription has finished stays for replay, by age and by bytes, and goes first
//! when space runs out; what some subscription still needs stays, but for one that runs nowhere: that holds space up to `maxAge`.
//! Of several processes on a bus, one does this for all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_api::names::{ObjectName, SubscriptionId, TopicName};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::State;
use super::ledger::{Ledger, PREFIX};
use super::metrics::Metrics;
use super::mirror::Positions;
use super::sharing::{Group, Hold, Part, Share, Sharing};
use super::{KnownTopic, Standing, Topics, job};
use crate::bus::{BusError, EventBus, From, Health, Mark, Partition, Position};
use crate::plan::{REPLAY_AGE, REPLAY_BYTES};

mod gauges;

pub(super) use gauges::Shown;

/// How often it looks, when nothing is full.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often it looks while the bus is full.
const INTERVAL_FULL: Duration = Duration::from_millis(250);
/// How long nothing is trimmed once the bus has lost its state: every process writes again by then where its subscriptions are.
const AFTER_LOSS: Duration = Duration::from_secs(60);
/// How long a subscription must have run nowhere before it counts as orphaned: longer than a start or a reload.
const ORPHANED_AFTER: Duration = Duration::from_secs(60);
/// From this share of `maxBytes` on, what is kept for replay goes, down to the second share.
const NEARLY_FULL: f64 = 0.85;
const RELIEVED: f64 = 0.7;

/// What `maxBytes` of a bus is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxBytes {
    /// All topics together may hold so much.
    Together(u64),
    /// Each topic may, with all of its partitions.
    EachTopic(u64),
}

/// How much of a bus's logs is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long events are kept for a subscription that runs nowhere; for ever when absent. Also the longest that anything is kept
    /// for replay.
    pub max_age: Option<Duration>,
    /// How much the logs may hold, as far as known here.
    pub max_bytes: Option<MaxBytes>,
    /// How long what every subscription has finished is kept.
    pub replay_age: Duration,
    /// How much of it.
    pub replay_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_age: None, max_bytes: None, replay_age: REPLAY_AGE, replay_bytes: REPLAY_BYTES }
    }
}

/// The subscription that holds the most space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which one.
    pub subscription: SubscriptionId,
    /// Of which partition.
    pub partition: Partition,
    /// How many events are kept for it.
    pub events: u64,
    /// False if it runs nowhere here.
    pub running: bool,
}

/// The task that trims.
pub(super) struct Trimmer {
    pub(super) bus: Arc<dyn EventBus>,
    pub(super) retention: Retention,
    pub(super) topics: Topics,
    pub(super) sharing: Sharing,
    pub(super) metrics: Metrics,
    pub(super) holder: watch::Sender<Option<Holder>>,
    /// Where subscriptions are that some process works on; `None` while another process trims.
    pub(super) positions: watch::Sender<Option<Positions>>,
    pub(super) shown: Shown,
}

/// One partition, as a pass sees it.
#[derive(Debug)]
struct Place {
    partition: Partition,
    keep: bool,
    stored: Option<u64>,
    log: Mark,
    needs: Vec<Need>,
    /// Space runs out here.
    tight: bool,
    /// How much of it should go if nobody needs it, as a share of what is stored.
    excess: f64,
}

/// What one subscription needs of it.
#[derive(Debug)]
struct Need {
    subscription: SubscriptionId,
    from: Mark,
    orphaned: bool,
}

impl Trimmer {
    pub(super) async fn run(self, cancel: CancellationToken) {
        let (mut health, mut losses) = (self.bus.health(), self.bus.losses());
        let mut idle_since = BTreeMap::new();
        let (mut failing, mut lost) = (false, None::<Instant>);
        let mut turn = Turn::new(&self.sharing);
        loop {
            let full = matches!(*health.borrow_and_update(), Health::Full(_));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(if full { INTERVAL_FULL } else { INTERVAL }) => {}
                changed = health.changed() => if changed.is_err() {
                    return;
                } else if !matches!(*health.borrow(), Health::Full(_)) {
                    continue;
                }
            }
            if !turn.is_here() {
                // What the other process shows must not be counted twice.
                self.shown.show(&self.metrics, &[]);
                self.blame(&[]);
                self.positions.send_if_modified(|positions| positions.take().is_some());
                idle_since.clear();
                continue;
            }
            if losses.has_changed().is_ok_and(|changed| changed) {
                losses.mark_unchanged();
                lost = Some(Instant::now());
            }
            let full = matches!(*health.borrow_and_update(), Health::Full(_));
            let pass = async {
                match lost {
                    Some(lost) if lost.elapsed() < AFTER_LOSS => self.look(full, &mut idle_since).await.map(drop),
                    _ => self.pass(full, &mut idle_since).await,
                }
            };
            match cancel.run_until_cancelled(pass).await {
                None | Some(Err(BusError::Closed)) => return,
                Some(Ok(())) => failing = false,
                Some(Err(error)) => {
                    if !failing {
                        tracing::warn!(%error, "the bus cannot be trimmed, trying again");
                    }
                    failing = true;
                }
            }
        }
    }

    async fn pass(&self, full: bool, idle_since: &mut BTreeMap<SubscriptionId, Instant>) -> Result<(), BusError> {
        let losses = self.bus.losses();
        let before = *losses.borrow();
        let places = self.look(full, idle_since).await?;
        // Who was not found since the state is lost may need something all the same.
        if *losses.borrow() == before {
            for place in &places {
                self.trim(place).await?;
            }
        }
        Ok(())
    }

    /// Every partition with who needs what of it, and how much of it should go. Shows it.
    async fn look(
        &self,
        full: bool,
        idle_since: &mut BTreeMap<SubscriptionId, Instant>,
    ) -> Result<Vec<Place>, BusError> {
        let mut standings = standings(&*self.bus, &self.topics, &self.sharing).await?;
        // Which process runs a job is not shared as subscriptions are: its document says that one does.
        let jobs = job::list(&*self.bus).await?.into_iter().map(|stored| stored.job);
        let at_work: BTreeSet<_> = jobs.filter(|job| job.state == State::Running).map(|job| job.id).collect();
        for standing in &mut standings {
            let job = job::of_ledgers(&standing.name.subscription);
            standing.running |= job.is_some_and(|id| at_work.contains(&id));
        }
        self.shown.show(&self.metrics, &standings);
        self.positions.send_replace(Some(self.worked_on(&standings)));
        idle_since.retain(|id, _| standings.iter().any(|s| !s.running && s.name.subscription == *id));
        for standing in standings.iter().filter(|standing| !standing.running) {
            idle_since.entry(standing.name.subscription.clone()).or_insert_with(Instant::now);
        }
        let orphaned = |id: &SubscriptionId| idle_since.get(id).is_some_and(|since| since.elapsed() >= ORPHANED_AFTER);
        let mut places = self.places(&standings, orphaned).await?;
        self.weigh(&mut places, full);
        self.blame(&places);
        Ok(places)
    }

    /// Finds out where space runs out, and how much should go for that and of what is kept for replay.
    fn weigh(&self, places: &mut [Place], full: bool) {
        let mut topics: BTreeMap<TopicName, u64> = BTreeMap::new();
        for place in &*places {
            *topics.entry(place.partition.topic.clone()).or_default() += place.stored.unwrap_or(0);
        }
        let total: u64 = topics.values().sum();
        let for_replay = excess(total, if full { 0 } else { self.retention.replay_bytes });
        for place in places {
            let for_space = match self.retention.max_bytes {
                Some(MaxBytes::Together(max)) => relief(total, max),
                Some(MaxBytes::EachTopic(max)) => relief(topics.get(&place.partition.topic).copied().unwrap_or(0), max),
                None => None,
            };
            place.tight = full || for_space.is_some();
            place.excess = for_replay.max(for_space.unwrap_or(0.0));
        }
    }

    async fn places(
        &self,
        standings: &[Standing],
        orphaned: impl Fn(&SubscriptionId) -> bool,
    ) -> Result<Vec<Place>, BusError> {
        let mut partitions: BTreeMap<Partition, bool> = BTreeMap::new();
        let mut topics = self.sharing.topics();
        for (topic, known) in &self.topics.0.lock().topics {
            let keep = known.keep || topics.get(topic).is_some_and(|topic| topic.keep);
            topics.insert(topic.clone(), KnownTopic { keep, ..*known });
        }
        for (topic, KnownTopic { partitions: count, keep }) in topics {
            partitions.extend((0..count).map(|index| (Partition { topic: topic.clone(), index }, keep)));
        }
        for standing in standings.iter().filter(|standing| standing.mark.is_some()) {
            partitions.entry(standing.name.partition.clone()).or_insert(false);
        }
        let starts: Vec<_> = partitions.keys().map(|partition| (partition.clone(), From::First)).collect();
        let logs = self.bus.locate(&starts).await?;
        let mut places = Vec::with_capacity(partitions.len());
        for ((partition, keep), log) in partitions.into_iter().zip(logs) {
            let stored = self.bus.stored_bytes(&partition).await?;
            let readers: Vec<_> = standings.iter().filter(|standing| standing.name.partition == partition).collect();
            let at: Vec<_> =
                readers.iter().map(|reader| (partition.clone(), From::At(reader.ledger.needs()))).collect();
            let needs = self.bus.locate(&at).await?.into_iter().zip(readers).map(|(from, reader)| Need {
                subscription: reader.name.subscription.clone(),
                from,
                orphaned: orphaned(&reader.name.subscription),
            });
            let needs = needs.collect();
            places.push(Place { partition, keep, stored, log, needs, tight: false, excess: 0.0 });
        }
        Ok(places)
    }

    /// Trims one partition.
    async fn trim(&self, place: &Place) -> Result<(), BusError> {
        let Place { partition, log, .. } = place;
        let aged_out = match self.retention.max_age {
            Some(age) => Some(self.since(partition, age).await?),
            None => None,
        };
        let needed = |by_jobs: bool| {
            let needs = place.needs.iter().filter(|need| job::of_ledgers(&need.subscription).is_some() == by_jobs);
            needs.map(|need| need.floor(aged_out)).min()
        };
        // A job says nothing of what it was not asked for: it only keeps, and nobody else reads the dead-letter store.
        let is_store = partition.topic == TopicName::dead_letters();
        let floor = match needed(false).filter(|_| !is_store) {
            Some(floor) => floor,
            None if place.keep || is_store => aged_out.map_or(log.first, |mark| mark.at),
            None => log.end,
        };
        let floor = needed(true).map_or(floor, |needed| needed.min(floor));
        if floor <= log.first {
            return Ok(());
        }
        let age = self.retention.max_age.map_or(self.retention.replay_age, |age| age.min(self.retention.replay_age));
        let mut cut = self.since(partition, age).await?.at.min(floor);
        if place.excess > 0.0 {
            let left = (log.ahead as f64 * (1.0 - place.excess)) as u64;
            cut = cut.max(self.leaving(partition, left, floor).await?);
        }
        if cut <= log.first {
            return Ok(());
        }
        self.bus.trim(partition, cut).await?;
        let left = self.mark(partition, From::First).await?;
        if left.first > log.first {
            self.metrics.trims.inc();
            tracing::debug!(topic = %partition.topic, partition = partition.index, first = %left.first, "trimmed");
        }
        Ok(())
    }

    async fn since(&self, partition: &Partition, age: Duration) -> Result<Mark, BusError> {
        let time = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        self.mark(partition, From::Time(time)).await
    }

    async fn mark(&self, partition: &Partition, from: From) -> Result<Mark, BusError> {
        let marks = self.bus.locate(&[(partition.clone(), from)]).await?;
        marks.first().copied().ok_or_else(|| BusError::Unavailable("the bus located nothing".into()))
    }

    /// The latest position, at most `floor`, that leaves at least `left` events: found by time, since positions have holes.
    async fn leaving(&self, partition: &Partition, left: u64, floor: Position) -> Result<Position, BusError> {
        let at_floor = self.mark(partition, From::At(floor)).await?;
        if at_floor.ahead >= left {
            return Ok(floor);
        }
        let (mut young, mut old) = (Duration::ZERO, self.retention.replay_age.max(Duration::from_secs(3600)));
        let mut best = at_floor.first;
        for _ in 0..32 {
            let age = (young + old) / 2;
            let mark = self.since(partition, age).await?;
            if mark.ahead < left {
                young = age;
            } else {
                (old, best) = (age, best.max(mark.at));
            }
        }
        Ok(best.min(floor))
    }

    /// The frontiers of what some process works on: what was renamed or taken away does not hold back the others.
    fn worked_on(&self, standings: &[Standing]) -> Positions {
        let is_worked_on = |standing: &&Standing| {
            let id = &standing.name.subscription;
            job::of_ledgers(id).is_none() && self.sharing.has_workers(id) != Some(false)
        };
        let there = standings.iter().filter(|standing| standing.mark.is_some()).filter(is_worked_on);
        there.map(|standing| (standing.name.clone(), standing.ledger.upto())).collect()
    }

    /// Names the subscription that holds the most space where it runs out.
    fn blame(&self, places: &[Place]) {
        let held = |place: &Place, need: &Need| {
            let all = place.log.ahead.max(1) as f64;
            (need.from.ahead as f64 / all * place.stored.unwrap_or(place.log.ahead) as f64) as u64
        };
        let most = places
            .iter()
            .filter(|place| place.tight)
            .flat_map(|place| place.needs.iter().map(move |need| (held(place, need), place, need)))
            .filter(|(bytes, ..)| *bytes > 0)
            .max_by_key(|(bytes, ..)| *bytes);
        let holder = most.map(|(_, place, need)| Holder {
            subscription: need.subscription.clone(),
            partition: place.partition.clone(),
            events: need.from.ahead,
            running: is_running(&self.topics, &self.sharing, &need.subscription),
        });
        self.holder.send_if_modified(|current| {
            let same = |holder: &Option<Holder>| holder.as_ref().map(|h| (h.subscription.clone(), h.partition.clone()));
            let new = same(current) != same(&holder);
            if let Some(Holder { subscription, partition, events, running }) = holder.as_ref().filter(|_| new) {
                let topic = &partition.topic;
                tracing::warn!(%subscription, %topic, events, running, "the bus is full or nearly so; this subscription holds the most of it");
            }
            *current = holder;
            new
        });
    }
}

impl Need {
    fn floor(&self, aged_out: Option<Mark>) -> Position {
        match aged_out {
            Some(mark) if self.orphaned => self.from.at.max(mark.at),
            _ => self.from.at,
        }
    }
}

/// The share of `held` that is more than `target`.
fn excess(held: u64, target: u64) -> f64 {
    held.saturating_sub(target) as f64 / held.max(1) as f64
}

/// The share of `held` that should go for space, where it is nearly `max`.
fn relief(held: u64, max: u64) -> Option<f64> {
    (held as f64 > max as f64 * NEARLY_FULL).then(|| excess(held, (max as f64 * RELIEVED) as u64))
}

fn labels(subscription: &SubscriptionId) -> [&str; 3] {
    [&subscription.owner.namespace, &subscription.owner.name, &subscription.subscriber]
}

/// True for a subscription that some process works on.
fn is_running(topics: &Topics, sharing: &Sharing, id: &SubscriptionId) -> bool {
    let here = topics.0.lock().running.contains_key(id);
    here || sharing.runs(id).unwrap_or(false)
}

/// Whether it is this process that trims.
struct Turn {
    share: Share,
    hold: Option<Hold>,
}

impl Turn {
    fn new(sharing: &Sharing) -> Self {
        let id = SubscriptionId { owner: ObjectName::new("_evoke", "bus"), subscriber: "trim".into() };
        Self { share: sharing.share(Group::bus(), &id, &[], true), hold: None }
    }

    fn is_here(&mut self) -> bool {
        let wanted = *self.share.allotment().work() != Part::Nothing;
        let may = self.hold.as_ref().is_some_and(|hold| hold.may_start(Instant::now()));
        if !wanted || !may {
            self.hold = None;
        }
        if wanted && self.hold.is_none() {
            self.hold = self.share.hold().ok();
        }
        self.hold.is_some()
    }
}

/// Every ledger on the bus, with its frontier's mark.
pub(super) async fn standings(
    bus: &dyn EventBus,
    topics: &Topics,
    sharing: &Sharing,
) -> Result<Vec<Standing>, BusError> {
    let mut standings = Vec::new();
    for entry in bus.load(PREFIX).await? {
        // A position that cannot be read may be anywhere: nothing is trimmed before somebody has looked.
        let (name, ledger) =
            Ledger::decode(&entry.value).map_err(|error| BusError::Broken(format!("{}: {error}", entry.key).into()))?;
        standings.push(Standing { name, ledger, mark: None, running: false });
    }
    let mut missing = BTreeSet::new();
    for standing in &mut standings {
        let topic = &standing.name.partition.topic;
        standing.running = is_running(topics, sharing, &standing.name.subscription);
        if missing.contains(topic) {
            continue;
        }
        let at = (standing.name.partition.clone(), From::At(standing.ledger.upto()));
        match bus.locate(&[at]).await {
            Ok(marks) => standing.mark = marks.first().copied(),
            Err(BusError::NoTopic(_)) => {
                missing.insert(topic.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(standings)
}

#[cfg(test)]
mod tests;
