//! Partitions that others add to topics, taken up while evoke runs.

use std::sync::Arc;
use std::time::Duration;

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
        while cancel.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            if cancel.run_until_cancelled(self.look()).await == Some(true) {
                self.grown.send_modify(|times| *times += 1);
                self.sharing.nudge();
            }
        }
    }

    /// True if a topic has more partitions than it was known to have. Those that cannot be asked for are asked for the next time.
    async fn look(&self) -> bool {
        let names: Vec<_> = self.topics.0.lock().topics.keys().cloned().collect();
        let mut has_grown = false;
        for name in names {
            let Ok(Some(partitions)) = self.bus.partitions(&name).await else { continue };
            let mut known = self.topics.0.lock();
            if let Some(topic) = known.topics.get_mut(&name).filter(|topic| topic.partitions < partitions) {
                topic.partitions = partitions;
                has_grown = true;
            }
        }
        has_grown
    }
}
