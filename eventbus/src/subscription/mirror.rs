//! Shows how far every Trigger is to the broker's own tools, where those have a place for it. For people to look at: nothing is read
//! back from there. Of several processes on a bus, the one that trims does this for all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::ObjectName;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, LedgerName, PREFIX};
use crate::bus::{BusError, EventBus, Partition, Position};

/// How often what has not changed is shown again: a broker may forget what is old.
const REFRESH: Duration = Duration::from_secs(60 * 60);
/// How long the last positions may take to be shown.
const LAST: Duration = Duration::from_secs(3);

/// The frontiers of all subscriptions that some process works on.
pub(super) type Positions = BTreeMap<LedgerName, Position>;

/// The task that shows them.
pub(super) struct Mirror {
    bus: Arc<dyn EventBus>,
    /// `None` while another process shows them.
    positions: watch::Receiver<Option<Positions>>,
    shown: BTreeMap<ObjectName, BTreeMap<Partition, Position>>,
    refreshed: Instant,
    failing: bool,
}

impl Mirror {
    pub(super) fn new(bus: Arc<dyn EventBus>, positions: watch::Receiver<Option<Positions>>) -> Self {
        Self { bus, positions, shown: BTreeMap::new(), refreshed: Instant::now(), failing: false }
    }

    /// Shows what comes until everything is `recorded`, then what was recorded last.
    pub(super) async fn run(mut self, recorded: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = recorded.cancelled() => break,
                changed = self.positions.changed() => if changed.is_err() {
                    recorded.cancelled().await;
                    break;
                }
            }
            let Some(positions) = self.positions.borrow_and_update().clone() else {
                self.shown.clear();
                continue;
            };
            match recorded.run_until_cancelled(self.show(&positions)).await {
                Some(true) => {}
                Some(false) => return,
                None => break,
            }
        }
        let last = self.positions.borrow().clone();
        if let Some(positions) = last {
            // It is only shown late if it is not shown now.
            drop(timeout(LAST, self.show_last(positions)).await);
        }
    }

    async fn show_last(&mut self, mut positions: Positions) -> Result<(), BusError> {
        for entry in self.bus.load(PREFIX).await? {
            if let Ok((name, ledger)) = Ledger::decode(&entry.value)
                && let Some(at) = positions.get_mut(&name)
            {
                *at = ledger.upto();
            }
        }
        self.show(&positions).await;
        Ok(())
    }

    /// Shows what is not shown yet; what fails is tried again with the next positions. False where there is no place for it.
    async fn show(&mut self, positions: &Positions) -> bool {
        if self.refreshed.elapsed() >= REFRESH {
            self.refreshed = Instant::now();
            self.shown.clear();
        }
        let mut failed = None;
        for (reader, at) in slowest(positions) {
            if self.shown.get(&reader) == Some(&at) {
                continue;
            }
            match self.bus.mirror(&reader, &at).await {
                Ok(true) => _ = self.shown.insert(reader, at),
                Ok(false) => return false,
                Err(error) => failed = Some((reader, error)),
            }
        }
        match failed {
            Some((trigger, error)) if !self.failing => {
                tracing::warn!(%trigger, %error, "the broker's own tools do not see how far it is, trying again; deliveries are not affected");
                self.failing = true;
            }
            None if self.failing => {
                tracing::info!("the broker's own tools see again how far Triggers are");
                self.failing = false;
            }
            _ => {}
        }
        true
    }
}

/// For each Trigger and partition, where the subscriber is that is furthest behind.
fn slowest(positions: &Positions) -> BTreeMap<ObjectName, BTreeMap<Partition, Position>> {
    let mut slowest: BTreeMap<ObjectName, BTreeMap<Partition, Position>> = BTreeMap::new();
    for (LedgerName { subscription, partition }, at) in positions {
        let of_trigger = slowest.entry(subscription.owner.clone()).or_default();
        of_trigger.entry(partition.clone()).and_modify(|slowest| *slowest = (*at).min(*slowest)).or_insert(*at);
    }
    slowest
}

#[cfg(test)]
mod tests {
    use evoke_api::names::{SubscriptionId, TopicName};

    use super::*;

    #[test]
    fn the_subscriber_furthest_behind_counts() {
        let partition = |index| Partition { topic: TopicName::parse("shop.web.orders"), index };
        let name = |trigger: &str, subscriber: &str, index| LedgerName {
            subscription: SubscriptionId { owner: ObjectName::new("shop", trigger), subscriber: subscriber.into() },
            partition: partition(index),
        };
        let positions = [
            (name("t", "a", 0), Position(7)),
            (name("t", "b", 0), Position(5)),
            (name("t", "a", 1), Position(3)),
            (name("t", "b", 1), Position(9)),
            (name("u", "a", 0), Position(8)),
        ];
        assert_eq!(
            slowest(&positions.into()),
            [
                (ObjectName::new("shop", "t"), [(partition(0), Position(5)), (partition(1), Position(3))].into()),
                (ObjectName::new("shop", "u"), [(partition(0), Position(8))].into()),
            ]
            .into()
        );
    }
}
