//! Segments made ahead: what is asked of the thread that makes them, and what it has done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::env::Env;
use super::topic::TopicLog;
use super::writer::Queue;

/// Segments that may wait to be made.
const QUEUED: usize = 64;

/// Whose segments are to be made.
pub(super) type Wanted = Receiver<Weak<TopicLog>>;

/// Asks for segments. What is being made takes its space on the disk before the log has it, so that a disk without space for more is
/// full only once all that was asked for is done with.
#[derive(Debug)]
pub(super) struct Spares {
    /// None when the bus is closed.
    wanted: Mutex<Option<SyncSender<Weak<TopicLog>>>>,
    asked: AtomicU64,
    done: AtomicU64,
}

impl Spares {
    pub(super) fn new() -> (Self, Wanted) {
        let (sender, wanted) = sync_channel(QUEUED);
        (Self { wanted: Mutex::new(Some(sender)), asked: AtomicU64::new(0), done: AtomicU64::new(0) }, wanted)
    }

    /// Has a segment made ahead; false when too many are being made, and it must be asked for again. For the writer alone.
    pub(super) fn ask(&self, topic: &Arc<TopicLog>) -> bool {
        match self.wanted.lock().as_ref().map(|wanted| wanted.try_send(Arc::downgrade(topic))) {
            Some(Ok(())) => {
                self.asked.fetch_add(1, Ordering::AcqRel);
                true
            }
            None | Some(Err(TrySendError::Disconnected(_))) => true,
            Some(Err(TrySendError::Full(_))) => false,
        }
    }

    /// How many were ever asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// How many of them are made and handed over, or are not going to be.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// No more are asked for.
    pub(super) fn close(&self) {
        *self.wanted.lock() = None;
    }
}

/// Makes segments ahead until the bus is closed.
pub(super) fn make(env: &Env, wanted: &Wanted, queue: &Queue<TopicLog>) {
    while let Ok(topic) = wanted.recv() {
        if let Some(topic) = topic.upgrade() {
            make_one(&topic);
        }
        env.spares.done.fetch_add(1, Ordering::AcqRel);
        // The writer may wait for it.
        queue.retry();
    }
}

fn make_one(topic: &TopicLog) {
    let plan = topic.head.lock().spare_wanted(topic);
    match plan.make(topic) {
        Ok(spare) => {
            let late = topic.head.lock().offer_spare(spare);
            if let Some(late) = late {
                late.discard(topic);
            }
        }
        // The writer meets the same trouble when it needs the segment, and reports it then.
        Err(error) => tracing::debug!(topic = %topic.name, %error, "a segment could not be made ahead"),
    }
}
