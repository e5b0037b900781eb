//! Partitions that others add to topics, taken up while evoke runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::TopicName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Topics;
use super::sharing::Sharing;
use crate::bus::EventBus;

/// How often topics are looked at.
const LOOK: Duration = Duration::from_secs(20);

/// Looks after the topics that are declared here.
pub(super) struct Growth {
    pub(super) bus: Arc<dyn EventBus>,
    pub(super) topics: Topics,
    pub(super) sharing: Sharing,
    /// Counts the times that one had grown.
    pub(super) grown: watch::Sender<u64>,
}

impl Growth {
    pub(super) async fn run(self, cancel: CancellationToken) {
        let mut seen = BTreeMap::new();
        while cancel.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            if cancel.run_until_cancelled(self.look(&mut seen)).await == Some(true) {
                self.grown.send_modify(|times| *times += 1);
                self.sharing.nudge();
            }
        }
    }

    /// True if a topic has more partitions than it was `seen` with. Those that cannot be asked for are asked for the next time.
    async fn look(&self, seen: &mut BTreeMap<TopicName, u16>) -> bool {
        let names: Vec<_> = self.topics.0.lock().topics.keys().cloned().collect();
        let mut has_grown = false;
        for name in names {
            let Ok(Some(partitions)) = self.bus.partitions(&name).await else { continue };
            let mut known = self.topics.0.lock();
            let first = known.first_partitions.get(&name).copied();
            let Some(topic) = known.topics.get_mut(&name) else { continue };
            let before = seen.get(&name).copied().or(first).unwrap_or(topic.partitions);
            // Whoever declared it anew may have found them first, and told nobody.
            topic.partitions = topic.partitions.max(partitions);
            has_grown |= before < topic.partitions;
            seen.insert(name, topic.partitions);
        }
        has_grown
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::subscription::metrics::Metrics;
    use crate::subscription::test_log::{TestLog, partition};
    use crate::subscription::{Settings, Subscriptions};

    #[tokio::test]
    async fn what_a_second_declaration_finds_first_is_growth_all_the_same() {
        let (log, topic) = (TestLog::new(), partition().topic);
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let subscriptions =
            Subscriptions::start(Arc::clone(&log) as _, Settings { trims: false, ..Settings::default() }, &metrics);
        subscriptions.declare_topic(&topic).await.unwrap();
        log.set_partitions(2);
        subscriptions.declare_topic(&topic).await.unwrap();
        let (topics, sharing) = (subscriptions.0.topics.clone(), subscriptions.0.sharing.clone());
        let growth = Growth { bus: Arc::clone(&log) as _, topics, sharing, grown: watch::Sender::new(0) };
        let mut seen = BTreeMap::new();
        assert!(growth.look(&mut seen).await);
        assert!(!growth.look(&mut seen).await);
        log.set_partitions(3);
        assert!(growth.look(&mut seen).await);
        assert_eq!(subscriptions.partitions(&topic), 3);
    }
}
