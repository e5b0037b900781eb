//! Readiness, as it is told.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::READINESS_INTERVAL;
use crate::local::pipeline::Pipeline;
use crate::local::readiness::Readiness;

/// How long a change may take before readiness says what it is at: until then what it said before is new enough.
const MOMENT: Duration = Duration::from_millis(500);

/// Tells those who look at it, if it is news.
pub(super) fn publish(readiness: &watch::Sender<Arc<Readiness>>, now: Readiness) {
    readiness.send_if_modified(|old| {
        let is_new = **old != now;
        if is_new {
            *old = Arc::new(now);
        }
        is_new
    });
}

/// What readiness says while the pipeline is changed, which keeps everybody else from looking at it.
pub(super) struct Shown {
    what: &'static str,
    doing: watch::Receiver<String>,
    readiness: watch::Sender<Arc<Readiness>>,
}

impl Shown {
    /// For a change called `what`.
    pub(super) fn new(what: &'static str, pipeline: &Pipeline, readiness: &watch::Sender<Arc<Readiness>>) -> Self {
        Self { what, doing: pipeline.doing(), readiness: readiness.clone() }
    }

    /// Makes the change, and says what it is at once it takes longer than a moment.
    pub(super) async fn during<T>(self, change: impl Future<Output = T>) -> T {
        let mut change = pin!(change);
        let before = self.readiness.borrow().clone();
        let mut look = tokio::time::interval_at(Instant::now() + MOMENT, READINESS_INTERVAL);
        loop {
            tokio::select! {
                biased;
                changed = &mut change => return changed,
                _ = look.tick() => {
                    let now = before.during(self.what, &self.doing.borrow());
                    publish(&self.readiness, now);
                }
            }
        }
    }
}
