//! How a source says how it is doing.

use crate::metrics::SourceMetrics;
use crate::source::{Context, Status};

/// What a source counts and tells.
pub(crate) struct Report {
    pub(crate) metrics: SourceMetrics,
    pub(crate) context: Context,
}

impl Report {
    /// Says how it is doing, if that is news.
    pub(crate) fn set(&self, status: Status) {
        self.metrics.up.set((status == Status::Up).into());
        self.context.status.send_if_modified(|old| {
            let is_news = *old != status;
            *old = status;
            is_news
        });
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.context.status.borrow() == Status::Up
    }
}
