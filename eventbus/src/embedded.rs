//! The bus inside the process: a log of its own per topic in a data directory, written by one thread with group commit, and small
//! state beside them.
//!
//! | module | holds |
//! | --- | --- |
//! | `options`, `open` | how a bus works, and opening one |
//! | `core` | what the bus is asked for: topics, readers, positions, state |
//! | `publish` | publishing, until the writer has it |
//! | [`disk`] | what is asked of the file system |
//! | `lock` | one process per directory; the format's version |
//! | `record`, `segment` | the bytes on disk, and finding a place in them |
//! | `topic`, `head`, `reader` | one log: its segments, its growing end, its readers |
//! | `recovery` | opening a log after whatever ended the last process |
//! | `state` | the small state beside the logs |
//! | `writer`, `spares` | the threads that write and sync, and the one that makes files ahead of them |
//! | `room`, `health` | who may publish, and what keeps the bus from working |
//!
//! ```text
//! publish -> lane (bytes) -> room (maxBytes) -> queue -> writer: write, sync -> receipt, readers
//! ```

mod core;
pub(crate) mod disk;
mod env;
mod head;
mod lock;
mod open;
mod options;
mod publish;
mod reader;
mod record;
mod recovery;
mod room;
mod segment;
mod spares;
mod state;
mod topic;
mod writer;

#[cfg(test)]
mod conform;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod simdisk;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::core::Core;
use self::env::Machine;
use self::lock::DirLock;
use crate::bus::{
    BusError, Entry, EventBus, From, Fut, Health, Mark, Partition, Position, Put, Reader, Receipt, Topic, TopicSpec,
};
use crate::event::Event;

pub use self::env::SegmentSizes;
pub use self::options::{EmbeddedOptions, OpenError};

/// See the module.
pub struct EmbeddedBus {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for EmbeddedBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBus").field("dir", &self.core.dir).finish_non_exhaustive()
    }
}

impl EmbeddedBus {
    /// Opens the bus in `dir`, or makes one there. Reads from the disk, and does not need a runtime.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the directory and what to do.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Arc<Self>, OpenError> {
        let io = |source| OpenError::Io { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let dir = dir.canonicalize().map_err(io)?;
        let lock = DirLock::take(&dir)?;
        Self::open_on(Machine::real(), &dir, options, Some(lock))
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.core.dir
    }

    /// Has the threads end once all that is queued was written, and gives them to be joined.
    fn stop(&self) -> Vec<JoinHandle<()>> {
        self.core.closed.cancel();
        self.core.queue.close();
        self.core.state_queue.close();
        self.core.env.spares.close();
        *self.core.lock.lock() = None;
        std::mem::take(&mut *self.threads.lock())
    }
}

impl Drop for EmbeddedBus {
    fn drop(&mut self) {
        // Joined, so that the directory is free for whoever opens it next. It takes one commit.
        for thread in self.stop() {
            drop(thread.join());
        }
    }
}

impl EventBus for EmbeddedBus {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic> {
        self.core.declare(topic).boxed()
    }

    fn publish<'a>(&'a self, to: &'a Partition, events: Vec<Event>) -> Fut<'a, Receipt> {
        self.core.publish(to, events).boxed()
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch_bytes: usize) -> Fut<'a, Box<dyn Reader>> {
        self.core.read(partition, from, prefetch_bytes).boxed()
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        self.core.locate(at).boxed()
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        self.core.trim(partition, before).boxed()
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        async move {
            if self.core.closed.is_cancelled() {
                return Err(BusError::Closed);
            }
            Ok(self.core.state.under(prefix))
        }
        .boxed()
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        self.core.store(puts, false).boxed()
    }

    fn store_soon(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        self.core.store(puts, true).boxed()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.core.env.health.subscribe()
    }

    fn stored_bytes<'a>(&'a self, partition: &'a Partition) -> Fut<'a, Option<u64>> {
        async move { Ok(Some(self.core.topic(partition)?.bytes())) }.boxed()
    }

    fn max_event_bytes(&self) -> usize {
        self.core.options.max_event_bytes
    }

    fn max_value_bytes(&self) -> usize {
        state::VALUE_BYTES
    }

    fn close(&self) -> Fut<'_, ()> {
        async move {
            let threads = self.stop();
            let joined = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join));
            match joined.await {
                Ok(Ok(())) => Ok(()),
                _ => Err(BusError::Broken("a thread of the bus failed".into())),
            }
        }
        .boxed()
    }
}
