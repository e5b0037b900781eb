//! How an embedded bus works, and why one cannot be opened.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use evoke_api::events::{OnFull, SyncMode};
use evoke_api::limits;

use super::env::SegmentSizes;
use crate::metrics::BusMetrics;

/// How an embedded bus works.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The bus's name, in logs and metrics.
    pub name: Arc<str>,
    /// The largest event taken, as encoded, in bytes.
    pub max_event_bytes: usize,
    /// What all logs together may hold, in bytes; as much as the disk when absent.
    pub max_bytes: Option<u64>,
    /// What happens at `max_bytes`.
    pub on_full: OnFull,
    /// When an event counts as durable.
    pub sync: SyncMode,
    /// How large files are.
    pub segments: SegmentSizes,
    /// What is accepted and not yet durable, at most, in bytes.
    pub queue_bytes: usize,
    /// Where to count.
    pub metrics: BusMetrics,
}

impl EmbeddedOptions {
    /// The defaults, under this name.
    pub fn new(name: impl Into<Arc<str>>, metrics: BusMetrics) -> Self {
        Self {
            name: name.into(),
            max_event_bytes: limits::EVENT_BYTES,
            max_bytes: None,
            on_full: OnFull::Block,
            sync: SyncMode::Always,
            segments: SegmentSizes::default(),
            queue_bytes: 16 << 20,
            metrics,
        }
    }
}

/// Why a directory cannot be opened as a bus.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{} is in use by another evoke (process {pid}): stop that one, or give this one another --data-dir",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, as it says.
        pid: String,
    },
    /// A later evoke wrote it.
    #[error(
        "{} has format {found} of the embedded bus, and this evoke knows formats up to {supported}: take a newer evoke, \
         or another --data-dir",
        dir.display()
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The newest one known here.
        supported: u32,
    },
    /// It cannot be read as what it should be.
    #[error("{}: {what}; restore it from a copy, or move it away to go on without what it held", path.display())]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
}
