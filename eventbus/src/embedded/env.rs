//! What the parts of one embedded bus share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_api::events::SyncMode;

use super::disk::{Disk, OsDisk};
use super::room::Room;
use super::spares::Spares;
use crate::health::HealthBoard;
use crate::metrics::OneBusMetrics;

/// How large segments are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSizes {
    /// A topic's first one; each later one is four times as large.
    pub first: u64,
    /// Up to this.
    pub largest: u64,
}

impl Default for SegmentSizes {
    fn default() -> Self {
        Self { first: 256 << 10, largest: 64 << 20 }
    }
}

/// What a bus gets from the machine, which tests replace.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Clock,
    /// How long the writer waits before it tries again what failed, the first time.
    pub(super) retry: Duration,
}

impl Machine {
    /// This one.
    pub(super) fn real() -> Self {
        let clock = Clock(Arc::new(SystemTime::now));
        Self { disk: Arc::new(OsDisk), clock, retry: Duration::from_millis(50) }
    }
}

/// Where the time comes from.
#[derive(Clone)]
pub(super) struct Clock(pub(super) Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Clock,
    pub(super) retry: Duration,
    pub(super) sync: SyncMode,
    pub(super) segments: SegmentSizes,
    pub(super) room: Room,
    pub(super) health: HealthBoard,
    pub(super) metrics: OneBusMetrics,
    pub(super) spares: Spares,
}

impl Env {
    pub(super) fn now(&self) -> SystemTime {
        (self.clock.0)()
    }
}
