//! Whose turn it is. Two redrives that were asked for at once, of different processes, may want the same dead letters: they go one
//! after the other, and the later one finds taken off the list what the earlier one has delivered. A job says durably that it runs
//! before it looks at the others, so that of two at least one sees the other; who sees that another has begun gives way.

use std::collections::BTreeSet;

use evoke_eventbus::bus::{BusError, EventBus};
use evoke_eventbus::subscription::intervals::Intervals;
use evoke_eventbus::subscription::job::{self, Job, JobId, State, Stored, Work};

/// The jobs that others go before.
pub(super) fn waiting(jobs: &[Stored]) -> BTreeSet<JobId> {
    let goes_first = |job: &Job, other: &Job| {
        let is_older = (other.made, &other.id) < (job.made, &job.id);
        !other.state.is_over() && contend(job, other) && (has_begun(other) || is_older && !has_begun(job))
    };
    let waits = |job: &Job| jobs.iter().any(|other| goes_first(job, &other.job));
    jobs.iter()
        .map(|stored| &stored.job)
        .filter(|job| !job.state.is_over() && waits(job))
        .map(|job| job.id.clone())
        .collect()
}

/// True if another job may be delivering what this one wants, which is written to run.
///
/// # Errors
/// The bus's.
pub(super) async fn is_taken(bus: &dyn EventBus, job: &Job) -> Result<bool, BusError> {
    for Stored { job: other, .. } in job::list(bus).await? {
        let holds = !other.state.is_over() && has_begun(&other);
        if contend(job, &other) && (holds || job::is_unsettled(bus, &other).await?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True for a job that has delivered something, or may have.
fn has_begun(job: &Job) -> bool {
    job.state == State::Running || job.counts.read > 0
}

fn contend(job: &Job, other: &Job) -> bool {
    let both = letters(job).zip(letters(other));
    job.id != other.id
        && job.subscription() == other.subscription()
        && both.is_some_and(|(letters, others)| letters.meets(others))
}

fn letters(job: &Job) -> Option<&Intervals> {
    match &job.work {
        Work::Redrive { letters } => Some(letters),
        Work::Replay { .. } => None,
    }
}
