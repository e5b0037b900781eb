//! A topic as this process knows it: its stream, what waits to be written, how full it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use evoke_api::names::TopicName;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batch;
use super::stream::{self, Info};
use super::writer::Queue;
use crate::metrics::TopicMetrics;

/// With less room than this, an event is accepted when it is stored, and not before.
const NEAR: u64 = 16 << 20;

/// One topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    /// The name of its stream.
    pub(super) stream: String,
    /// The name of its troubles.
    pub(super) label: Arc<str>,
    pub(super) metrics: TopicMetrics,
    /// Told when a trim made room.
    pub(super) trimmed: Notify,
    first: Subject,
    partitions: Vec<Part>,
    /// When the stream was made that the cuts are about.
    created: Mutex<String>,
    limit: AtomicI64,
    max_message: AtomicI64,
    /// True where the servers delete to make room.
    drops: AtomicBool,
    /// The age at which the servers delete, in milliseconds; 0 for none.
    max_age: AtomicU64,
    /// The stream takes batches.
    batches: AtomicBool,
    stored: AtomicU64,
    is_full: AtomicBool,
    is_skipping: AtomicBool,
}

#[derive(Debug)]
struct Part {
    subject: Subject,
    queue: Queue,
    /// What lies below, evoke has given up.
    cut: AtomicU64,
    /// What lies below, this process had JetStream delete.
    purged: AtomicU64,
}

impl Topic {
    pub(super) fn new(name: TopicName, partitions: u16, info: &Info, metrics: TopicMetrics) -> Self {
        let part = |index| Part {
            subject: stream::subject(&name, index).into(),
            queue: Queue::default(),
            cut: AtomicU64::new(0),
            purged: AtomicU64::new(0),
        };
        let topic = Self {
            stream: stream::name(&name),
            label: format!("topic {name}").into(),
            metrics,
            trimmed: Notify::new(),
            first: stream::subject(&name, 0).into(),
            partitions: (0..partitions).map(part).collect(),
            created: Mutex::new(info.created.clone()),
            limit: AtomicI64::new(-1),
            max_message: AtomicI64::new(-1),
            drops: AtomicBool::new(false),
            max_age: AtomicU64::new(0),
            batches: AtomicBool::new(false),
            stored: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            is_skipping: AtomicBool::new(false),
            name,
        };
        topic.learn(&info.config);
        topic.holds(info.state.bytes);
        topic
    }

    /// Takes the settings in that the stream has now.
    pub(super) fn learn(&self, config: &Config) {
        self.limit.store(config.max_bytes, Ordering::Relaxed);
        self.max_message.store(config.max_message_size.into(), Ordering::Relaxed);
        let drops = config.discard == DiscardPolicy::Old && config.max_bytes > 0;
        let counts = config.max_messages > 0 || config.max_messages_per_subject > 0;
        self.drops.store(drops || counts, Ordering::Relaxed);
        let age = u64::try_from(config.max_age.as_millis()).unwrap_or(u64::MAX);
        self.max_age.store(age, Ordering::Relaxed);
        self.batches.store(config.allow_batch_publish, Ordering::Relaxed);
    }

    pub(super) fn partitions(&self) -> u16 {
        u16::try_from(self.partitions.len()).unwrap_or(u16::MAX)
    }

    /// The subject of a partition; of the first one for a partition that is not there.
    pub(super) fn subject(&self, partition: u16) -> &Subject {
        self.partitions.get(usize::from(partition)).map_or(&self.first, |part| &part.subject)
    }

    pub(super) fn queue(&self, partition: u16) -> Option<&Queue> {
        self.partitions.get(usize::from(partition)).map(|part| &part.queue)
    }

    /// True when nothing waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.partitions.iter().all(|part| part.queue.is_empty())
    }

    /// Lets go of what waits to be written, whose receipts name the cause, and takes no more.
    pub(super) fn forget(&self, cause: &Arc<str>) {
        self.partitions.iter().for_each(|part| part.queue.close(cause));
    }

    /// What lies below, evoke has given up.
    pub(super) fn cut(&self, partition: u16) -> u64 {
        self.partitions.get(usize::from(partition)).map_or(0, |part| part.cut.load(Ordering::Acquire))
    }

    /// What lies below `before`, evoke has given up of the stream that was made then. The cuts of another one are forgotten.
    pub(super) fn set_cut(&self, partition: u16, created: &str, before: u64) {
        let mut known = self.created.lock();
        if *known != created {
            created.clone_into(&mut known);
            for part in &self.partitions {
                part.cut.store(0, Ordering::Release);
                part.purged.store(0, Ordering::Release);
            }
        }
        if let Some(part) = self.partitions.get(usize::from(partition)) {
            part.cut.fetch_max(before, Ordering::AcqRel);
        }
    }

    /// The cut of a partition, if this process has not had JetStream delete all below it yet.
    pub(super) fn unpurged(&self, partition: u16) -> Option<u64> {
        let part = self.partitions.get(usize::from(partition))?;
        let cut = part.cut.load(Ordering::Acquire);
        (cut > part.purged.load(Ordering::Acquire)).then_some(cut)
    }

    /// What lies below `before` is deleted from the stream that was made then.
    pub(super) fn set_purged(&self, partition: u16, created: &str, before: u64) {
        let known = self.created.lock();
        if *known == created
            && let Some(part) = self.partitions.get(usize::from(partition))
        {
            part.purged.fetch_max(before, Ordering::AcqRel);
        }
    }

    /// True where the servers delete by themselves.
    pub(super) fn cuts_itself(&self) -> bool {
        self.drops.load(Ordering::Relaxed) || self.max_age.load(Ordering::Relaxed) > 0
    }

    /// The age at which the servers delete, where they do so for no other reason.
    pub(super) fn only_age(&self) -> Option<Duration> {
        let age = self.max_age.load(Ordering::Relaxed);
        (age > 0 && !self.drops.load(Ordering::Relaxed)).then(|| Duration::from_millis(age))
    }

    /// The stream's `max_bytes`.
    pub(super) fn limit(&self) -> Option<u64> {
        u64::try_from(self.limit.load(Ordering::Relaxed)).ok().filter(|limit| *limit > 0)
    }

    /// How many events may be sent before the servers have said anything: one, where the stream takes no batches.
    pub(super) fn batch_limit(&self) -> usize {
        if self.batches.load(Ordering::Relaxed) { batch::FIRST } else { 1 }
    }

    /// The largest message the stream takes.
    pub(super) fn max_message(&self) -> usize {
        usize::try_from(self.max_message.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// The stream holds so many bytes, as JetStream says.
    pub(super) fn holds(&self, bytes: u64) {
        self.stored.store(bytes, Ordering::Relaxed);
        self.metrics.stored_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The stream holds so many more, as far as known here.
    pub(super) fn grew(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_full(&self, full: bool) {
        self.is_full.store(full, Ordering::Release);
    }

    /// True where JetStream said that there is no room, and nothing was stored since.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// True where the stream is full or may soon be: an event counts as accepted once it is stored.
    pub(super) fn is_near_full(&self) -> bool {
        let near = |limit: u64| self.stored.load(Ordering::Relaxed).saturating_add(NEAR) >= limit;
        self.is_full() || (!self.cuts_itself() && self.limit().is_some_and(near))
    }

    /// Counts a message that cannot be an event; true for the first one.
    pub(super) fn skip(&self) -> bool {
        self.metrics.skipped_events.inc();
        !self.is_skipping.swap(true, Ordering::AcqRel)
    }

    /// The room an event takes in the queue.
    pub(super) fn cost(bytes: usize) -> usize {
        bytes + batch::OVERHEAD
    }
}
