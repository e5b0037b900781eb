//! How much all sources of a process may hold that is not settled.

use std::sync::Arc;

use evoke_api::limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget in bytes. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget {
    room: Arc<Semaphore>,
    total: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(limits::IN_FLIGHT_BYTES)
    }
}

impl Budget {
    /// A budget of `bytes`, at most 4 GiB.
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { room: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits for room. What is larger than the whole budget takes all of it.
    pub(crate) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        // The semaphore is never closed.
        self.room.clone().acquire_many_owned(bytes).await.ok()
    }

    /// True while something would fit.
    pub(crate) fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }
}
