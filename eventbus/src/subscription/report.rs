//! How every subscription of a bus is, from what its state and its logs say: no process needs to run for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evoke_api::names::{SubscriptionId, TopicName};

use super::control::{self, Control};
use super::job::{self, JobId};
use super::ledger::{self, Ledger};
use crate::bus::{BusError, EventBus, Expect, From, Mark, Put};

/// A subscription, as the bus knows it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which one.
    pub subscription: SubscriptionId,
    /// What is asked of it.
    pub control: Control,
    /// Its inputs: a topic, and where it stands in each of its partitions.
    pub inputs: Vec<InputReport>,
    /// The jobs beside it that are not over.
    pub jobs: Vec<JobId>,
}

/// One topic that a subscription reads.
#[derive(Clone, Debug)]
pub struct InputReport {
    /// The topic.
    pub topic: TopicName,
    /// Partition, ledger, and the frontier's mark; no mark where the topic is not there.
    pub partitions: Vec<(u16, Ledger, Option<Mark>)>,
}

impl Report {
    /// How many events it has not evaluated yet, and whether that is exact.
    pub fn lag(&self) -> (u64, bool) {
        let lags = self.inputs.iter().flat_map(InputReport::lags);
        lags.fold((0, true), |(lag, exact), (events, is_exact)| (lag + events, exact && is_exact))
    }

    /// How many matched events are not finished.
    pub fn open(&self) -> usize {
        let ledgers = self.inputs.iter().flat_map(|input| &input.partitions);
        ledgers.map(|(_, ledger, _)| ledger.open().len()).sum()
    }
}

impl InputReport {
    fn lags(&self) -> impl Iterator<Item = (u64, bool)> {
        self.partitions.iter().filter_map(|(_, ledger, mark)| mark.as_ref().map(|mark| ledger.lag(mark)))
    }

    /// How many events of it were not evaluated yet.
    pub fn lag(&self) -> u64 {
        self.lags().map(|(events, _)| events).sum()
    }
}

/// Every subscription that has a position on the bus, by name.
///
/// # Errors
/// The bus's, and [`BusError::Broken`] for what a newer evoke wrote.
pub async fn reports(bus: &dyn EventBus) -> Result<Vec<Report>, BusError> {
    let mut ledgers: BTreeMap<SubscriptionId, BTreeMap<TopicName, BTreeMap<u16, Ledger>>> = BTreeMap::new();
    for entry in bus.load(ledger::PREFIX).await? {
        let (name, ledger) =
            Ledger::decode(&entry.value).map_err(|error| BusError::Broken(format!("{}: {error}", entry.key).into()))?;
        if job::of_ledgers(&name.subscription).is_none() {
            let topics = ledgers.entry(name.subscription).or_default();
            topics.entry(name.partition.topic).or_default().insert(name.partition.index, ledger);
        }
    }
    let controls = control::load_all(bus).await?;
    let jobs = job::list(bus).await?;
    let mut missing = BTreeSet::new();
    let mut reports = Vec::with_capacity(ledgers.len());
    for (subscription, topics) in ledgers {
        let mut inputs = Vec::with_capacity(topics.len());
        for (topic, partitions) in topics {
            inputs.push(input(bus, topic, partitions, &mut missing).await?);
        }
        let control = controls.get(&control::key(&subscription)).copied().unwrap_or_default();
        let beside = jobs.iter().filter(|stored| !stored.job.state.is_over());
        let jobs = beside.filter(|stored| stored.job.subscription() == subscription);
        let jobs = jobs.map(|stored| stored.job.id.clone()).collect();
        reports.push(Report { subscription, control, inputs, jobs });
    }
    Ok(reports)
}

async fn input(
    bus: &dyn EventBus,
    topic: TopicName,
    partitions: BTreeMap<u16, Ledger>,
    missing: &mut BTreeSet<TopicName>,
) -> Result<InputReport, BusError> {
    let at: Vec<_> = partitions
        .iter()
        .map(|(index, ledger)| (crate::bus::Partition { topic: topic.clone(), index: *index }, From::At(ledger.upto())))
        .collect();
    let marks = match missing.contains(&topic) {
        true => Vec::new(),
        false => match bus.locate(&at).await {
            Ok(marks) => marks,
            Err(BusError::NoTopic(_)) => {
                missing.insert(topic.clone());
                Vec::new()
            }
            Err(error) => return Err(error),
        },
    };
    let marks = marks.into_iter().map(Some).chain(std::iter::repeat(None));
    let partitions = partitions.into_iter().zip(marks).map(|((index, ledger), mark)| (index, ledger, mark)).collect();
    Ok(InputReport { topic, partitions })
}

/// Takes a subscription off the bus: its positions, what is asked of it, what it remembers, and the jobs beside it. Nothing may run it. False if the
/// bus knows no such subscription.
///
/// # Errors
/// The bus's.
pub async fn delete(bus: &dyn EventBus, subscription: &SubscriptionId) -> Result<bool, BusError> {
    let prefix = ledger::prefix(subscription);
    let known = !bus.load(&prefix).await?.is_empty();
    for stored in job::list(bus).await? {
        if stored.job.subscription() == *subscription {
            job::forget(bus, &stored.job).await?;
        }
    }
    // Whatever a job left behind whose document is gone goes with it.
    let stray = SubscriptionId {
        owner: subscription.owner.clone(),
        subscriber: Arc::from(format!("{}~", subscription.subscriber)),
    };
    let stray = ledger::prefix(&stray);
    job::delete(bus, stray.trim_end_matches('/')).await?;
    let put = Put { key: control::key(subscription), value: None, expect: Expect::Any };
    bus.store(vec![put]).await?;
    job::delete(bus, &ledger::recent_prefix(subscription)).await?;
    // The positions come last: as long as there is one, the subscription is listed and can be deleted again.
    job::delete(bus, &prefix).await?;
    Ok(known)
}
