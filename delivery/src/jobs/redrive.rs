//! Dead letters to jobs: one for each subscriber that is to get its own again.

use std::sync::Arc;

use evoke_api::names::{SubscriptionId, TopicName};
use evoke_eventbus::bus::{BusError, EventBus, Position};
use evoke_eventbus::subscription::job::{self, Job, Range, Work};

use super::new_id;
use crate::dead_letters::{self, Letters, Selection, Wanted};

/// What a redrive comes to.
#[derive(Clone, Debug, Default)]
pub struct Redriven {
    /// The jobs, and how many letters each has.
    pub jobs: Vec<(Job, u64)>,
    /// Subscribers that run nowhere here, and how many letters they have; none for what a source could not read.
    pub skipped: Vec<(Option<SubscriptionId>, u64)>,
    /// How many letters are being delivered again already.
    pub busy: u64,
    /// True if there are more than one redrive can take.
    pub more: bool,
}

/// Makes the jobs that deliver the wanted letters again to those who did not take them, of whom `runs` says who can be delivered
/// to.
///
/// # Errors
/// The bus's.
pub async fn redrive(
    bus: &dyn EventBus,
    wanted: &Wanted,
    runs: impl Fn(&SubscriptionId) -> bool,
) -> Result<Redriven, BusError> {
    let Selection { of, busy, more } = dead_letters::select(bus, wanted).await?;
    let mut redriven = Redriven { busy, more, ..Redriven::default() };
    for (origin, Letters { places: letters, count, .. }) in of {
        let Some(subscription) = origin.as_ref().filter(|id| runs(id)) else {
            redriven.skipped.push((origin, count));
            continue;
        };
        let (Some(from), Some(last)) = (letters.first(), letters.last()) else { continue };
        let until = Position(last.0.saturating_add(1));
        let topic = Arc::from(TopicName::dead_letters().as_str());
        let range = Range { topic, partition: 0, from, until, since: 0 };
        let job = Job::new(new_id(), subscription, Work::Redrive { letters }, vec![range]);
        job::create(bus, &job).await?;
        redriven.jobs.push((job, count));
    }
    Ok(redriven)
}
