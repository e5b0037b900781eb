//! What a source has handed to its outlet and what of it is settled, in order.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesOrdered, StreamExt};

use crate::source::{Arrival, Outlet, Settled, Unsettled};

/// The batches of one source that are not settled. `T` is what a batch stands for upstream.
pub(crate) struct Flow<T> {
    outlet: Arc<dyn Outlet>,
    batches: VecDeque<T>,
    offer: Option<BoxFuture<'static, Result<Settled, Unsettled>>>,
    accepted: FuturesOrdered<Settled>,
}

/// What became of the batches.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress<T> {
    /// The batch that was offered is accepted: the next one may be offered.
    Accepted,
    /// The oldest batch is settled.
    Settled(T),
    /// The oldest batch is not known to be settled, and so none after it counts: these are all of them, in order, and the flow has
    /// forgotten them.
    Failed(Vec<T>, Unsettled),
}

impl<T> Flow<T> {
    pub(crate) fn new(outlet: Arc<dyn Outlet>) -> Self {
        Self { outlet, batches: VecDeque::new(), offer: None, accepted: FuturesOrdered::new() }
    }

    /// How many batches are not settled.
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether a batch may be offered.
    pub(crate) fn has_room(&self) -> bool {
        self.offer.is_none()
    }

    /// Offers a batch to the outlet; only where there is room.
    pub(crate) fn offer(&mut self, batch: T, arrivals: Vec<Arrival>) {
        debug_assert!(self.has_room(), "one batch is offered at a time, or their order is lost");
        let outlet = self.outlet.clone();
        self.batches.push_back(batch);
        self.offer = Some(async move { outlet.accept(arrivals).await }.boxed());
    }

    /// Waits for the next thing to happen, for ever if nothing is under way. Safe to cancel.
    pub(crate) async fn progress(&mut self) -> Progress<T> {
        let offered = async {
            match &mut self.offer {
                Some(offer) => offer.await,
                None => pending().await,
            }
        };
        let failed = tokio::select! {
            biased;
            Some(settled) = self.accepted.next() => match (settled, self.batches.pop_front()) {
                (Ok(()), Some(batch)) => return Progress::Settled(batch),
                (Ok(()), None) => return pending().await,
                (Err(error), head) => {
                    self.batches.extend(head);
                    self.batches.rotate_right(1);
                    error
                }
            },
            offered = offered => {
                self.offer = None;
                match offered {
                    Ok(settled) => {
                        self.accepted.push_back(settled);
                        return Progress::Accepted;
                    }
                    Err(error) => error,
                }
            }
        };
        Progress::Failed(self.abandon(), failed)
    }

    /// Forgets all batches that are not settled, and gives them back in order.
    pub(crate) fn abandon(&mut self) -> Vec<T> {
        self.offer = None;
        self.accepted = FuturesOrdered::new();
        self.batches.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_outlet::{Answer, TestOutlet};

    #[tokio::test]
    async fn batches_settle_in_the_order_they_were_offered() {
        let outlet = TestOutlet::new();
        let mut flow = Flow::new(outlet.clone() as Arc<dyn Outlet>);
        for batch in 0..3 {
            flow.offer(batch, Vec::new());
            assert!(!flow.has_room());
            assert_eq!(flow.progress().await, Progress::Accepted);
        }
        assert_eq!(flow.len(), 3);
        outlet.settle(1, Answer::Settled);
        assert!(flow.progress().now_or_never().is_none());
        outlet.settle(0, Answer::Settled);
        assert_eq!(flow.progress().await, Progress::Settled(0));
        assert_eq!(flow.progress().await, Progress::Settled(1));
        assert!(flow.progress().now_or_never().is_none());
        assert_eq!(flow.len(), 1);
    }

    #[tokio::test]
    async fn a_failure_gives_back_every_batch_from_there_on() {
        let outlet = TestOutlet::new();
        let mut flow = Flow::new(outlet.clone() as Arc<dyn Outlet>);
        for batch in 0..4 {
            flow.offer(batch, Vec::new());
            if batch < 3 {
                assert_eq!(flow.progress().await, Progress::Accepted);
            }
        }
        outlet.settle(0, Answer::Settled);
        outlet.settle(1, Answer::Unsettled("disk full"));
        outlet.settle(2, Answer::Settled);
        assert_eq!(flow.progress().await, Progress::Settled(0));
        assert_eq!(flow.progress().await, Progress::Failed(vec![1, 2, 3], Unsettled("disk full".into())));
        assert!(flow.has_room());
        assert_eq!(flow.len(), 0);
    }

    #[tokio::test]
    async fn a_refused_offer_is_a_failure_too() {
        let outlet = TestOutlet::new();
        let mut flow = Flow::new(outlet.clone() as Arc<dyn Outlet>);
        flow.offer("a", Vec::new());
        assert_eq!(flow.progress().await, Progress::Accepted);
        outlet.refuse("closed");
        flow.offer("b", Vec::new());
        assert_eq!(flow.progress().await, Progress::Failed(vec!["a", "b"], Unsettled("closed".into())));
    }
}
