//! What makes a lane a job's: it ends, and it delivers events as they were or marked.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use evoke_eventbus::bus::{BusError, EventBus, Partition, Position};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::job::{Job, Work};
use evoke_eventbus::subscription::scan;
use futures_util::future::BoxFuture;

use crate::dead_letter;

/// The extension attribute that a replayed event carries: the job's name.
pub const REPLAY: &str = "evokereplay";

/// How often it is asked whether there is anything left where nothing arrives: positions have holes.
const LOOK: Duration = Duration::from_millis(500);

/// An event as a job delivers it.
pub(super) fn prepare(job: &Job, event: &Event) -> Event {
    let builder = match &job.work {
        Work::Redrive { .. } => {
            dead_letter::ATTRIBUTES.iter().fold(event.to_builder(), |event, name| event.without(name))
        }
        Work::Replay { .. } => event.to_builder().attribute(REPLAY, &*job.id.0),
    };
    // An event that has as many attributes as there may be is delivered without the mark.
    builder.build().unwrap_or_else(|_| event.clone())
}

/// A job at work.
pub(super) struct Errand {
    pub(super) job: Arc<Job>,
    /// Where each input ends.
    pub(super) until: Vec<Position>,
    look: Option<BoxFuture<'static, Result<Vec<usize>, BusError>>>,
}

impl Errand {
    pub(super) fn new(job: Arc<Job>, partitions: &[Partition]) -> Self {
        let until = |partition: &Partition| {
            let range = job.ranges.iter().find(|range| range.partition() == *partition);
            range.map_or(Position::default(), |range| range.until)
        };
        let until = partitions.iter().map(until).collect();
        Self { job, until, look: None }
    }

    /// True if it reads dead letters.
    pub(super) fn is_redrive(&self) -> bool {
        matches!(self.job.work, Work::Redrive { .. })
    }

    /// Where the event of a dead letter was before, where it says so.
    pub(super) fn origin(&self, letter: &Event) -> Option<Arc<str>> {
        letter.attribute(dead_letter::POSITION).filter(|_| self.is_redrive()).map(Arc::from)
    }

    /// The inputs that have nothing left up to their end, as of a moment ago. `waiting` are those that seem to have something left,
    /// and where they are.
    pub(super) fn poll_over(
        &mut self,
        bus: &Arc<dyn EventBus>,
        waiting: impl FnOnce() -> Vec<(usize, Partition, Position)>,
        cx: &mut Context<'_>,
    ) -> Vec<usize> {
        let until = &self.until;
        let look = self.look.get_or_insert_with(|| {
            let asked: Vec<_> = waiting()
                .into_iter()
                .filter_map(|(input, partition, at)| Some((input, partition, at, *until.get(input)?)))
                .collect();
            let bus = Arc::clone(bus);
            let look: BoxFuture<'static, _> = Box::pin(async move {
                tokio::time::sleep(LOOK).await;
                let mut over = Vec::new();
                for (input, partition, at, until) in asked {
                    if scan::is_over(&*bus, &partition, at, until).await? {
                        over.push(input);
                    }
                }
                Ok(over)
            });
            look
        });
        let Poll::Ready(over) = look.as_mut().poll(cx) else { return Vec::new() };
        self.look = None;
        cx.waker().wake_by_ref();
        // What the bus cannot say now it is asked again.
        over.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::names::{ObjectName, SubscriptionId};
    use evoke_eventbus::subscription::intervals::Intervals;
    use evoke_eventbus::subscription::job::JobId;

    use super::*;
    use crate::dead_letter::{Failure, letter};

    fn job(work: Work) -> (Job, SubscriptionId) {
        let id = SubscriptionId { owner: ObjectName::new("shop", "orders"), subscriber: "billing".into() };
        (Job::new(JobId("j1".into()), &id, work, Vec::new()), id)
    }

    #[test]
    fn a_redriven_event_is_the_one_that_it_was() {
        let (job, id) = job(Work::Redrive { letters: Intervals::default() });
        let event = Event::builder("1", "/web", "t").attribute("subject", "s").data("x").build().unwrap();
        let (cause, position) = ("c".to_owned(), Some("shop.web.in/0/1".to_owned()));
        let failure = Failure { cause, status: Some(500), body: b"b".to_vec(), position, ..Failure::default() };
        assert_eq!(prepare(&job, &letter(&event, &id, &failure).unwrap()), event);
    }

    #[test]
    fn a_replayed_event_says_so() {
        let (job, _) = job(Work::Replay { to: None, login: false, only: None });
        let event = Event::builder("1", "/web", "t").data("x").build().unwrap();
        let got = prepare(&job, &event);
        assert_eq!((got.attribute(REPLAY), got.data()), (Some("j1"), event.data()));
        let full = (0..125).fold(event.to_builder(), |event, n| event.attribute(format!("x{n}"), "v")).build().unwrap();
        assert_eq!(prepare(&job, &full), full);
    }
}
