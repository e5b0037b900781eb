//! Opening a bus: the directory is checked or made, its logs are read, its threads started.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use evoke_api::names::TopicName;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::EmbeddedBus;
use super::core::Core;
use super::disk::Disk;
use super::env::{Env, Machine, SegmentSizes};
use super::lock::{DirLock, check_format, format_text};
use super::options::{EmbeddedOptions, OpenError};
use super::recovery::{open_topic, read_text, write_text};
use super::room::Room;
use super::spares::{self, Spares};
use super::state::{StateLog, StateTable};
use super::topic::TopicLog;
use super::writer::{Queue, Topics, Writer};
use crate::health::HealthBoard;
use crate::queued::Queued;

impl EmbeddedBus {
    pub(super) fn open_on(
        machine: Machine,
        dir: &Path,
        options: EmbeddedOptions,
        lock: Option<DirLock>,
    ) -> Result<Arc<Self>, OpenError> {
        let Machine { disk, clock, retry } = machine;
        let root = dir.join("topics");
        prepare(&*disk, dir, &root)?;
        let (spares, wanted) = Spares::new();
        let metrics = options.metrics.bus(&options.name);
        let env = Arc::new(Env {
            disk,
            clock,
            retry,
            sync: options.sync,
            segments: fit(options.segments, options.max_bytes),
            room: Room::new(options.max_bytes),
            health: HealthBoard::new(options.name.clone(), metrics.clone()),
            metrics,
            spares,
        });
        let lock = lock.map(Arc::new);
        let state = Arc::new(StateTable::default());
        let state_log = Arc::new(Mutex::new(StateLog::open(&env, dir, &state)?));
        let topics: Arc<Topics> = Arc::new(RwLock::new(open_topics(&env, &root)?));
        let (queue, state_queue) = (Arc::new(Queue::new()), Arc::new(Queue::new()));
        let core = Arc::new(Core {
            dir: dir.to_owned(),
            topics: topics.clone(),
            declaring: tokio::sync::Mutex::new(()),
            state,
            state_log: state_log.clone(),
            queue: queue.clone(),
            state_queue: state_queue.clone(),
            events: Queued::new(options.queue_bytes, &env.metrics.queued_bytes),
            own_events: Queued::new(options.queue_bytes / 4, &env.metrics.queued_bytes),
            changes: Queued::new(options.queue_bytes / 4, &env.metrics.queued_bytes),
            closed: CancellationToken::new(),
            lock: Mutex::new(lock.clone()),
            options,
            env: env.clone(),
        });
        let bus = Arc::new(Self { core, threads: Mutex::default() });
        // Each holds the lock on the directory for as long as it may change a file.
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let lock = lock.clone();
            let locked = move || {
                run();
                drop(lock);
            };
            let thread = std::thread::Builder::new().name(name.into()).spawn(locked);
            bus.threads.lock().push(thread.map_err(|source| OpenError::Io { path: dir.to_owned(), source })?);
            Ok(())
        };
        let (writer, maker) = (Writer { env: env.clone(), queue: queue.clone() }, env.clone());
        spawn(
            "evoke-bus-write",
            Box::new(move || {
                writer.run();
                close_topics(&topics);
            }),
        )?;
        let writer = Writer { env, queue: state_queue };
        spawn(
            "evoke-bus-state",
            Box::new(move || {
                writer.run();
                if let Err(error) = state_log.lock().close() {
                    tracing::error!(%error, "the state could not be synced at the end");
                }
            }),
        )?;
        spawn("evoke-bus-files", Box::new(move || spares::make(&maker, &wanted, &queue)))?;
        Ok(bus)
    }
}

/// Makes or checks what every directory has.
fn prepare(disk: &dyn Disk, dir: &Path, root: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    let format = dir.join("FORMAT");
    if disk.list(dir).map_err(io)?.iter().any(|name| name == "FORMAT") {
        check_format(dir, &read_text(disk, &format).map_err(io)?)?;
    } else {
        let new = dir.join("FORMAT.new");
        write_text(disk, &new, &format_text()).map_err(io)?;
        disk.rename(&new, &format).map_err(io)?;
    }
    disk.create_dir(root).map_err(io)?;
    disk.sync_dir(dir).map_err(io)
}

fn open_topics(env: &Arc<Env>, root: &Path) -> Result<HashMap<TopicName, Arc<TopicLog>>, OpenError> {
    let io = |source| OpenError::Io { path: root.to_owned(), source };
    let mut topics = HashMap::new();
    for folder in env.disk.list(root).map_err(io)? {
        // One that was being made is made again when it is declared.
        if !folder.ends_with(".new") {
            let topic = open_topic(env, &root.join(folder))?;
            topics.insert(topic.name.clone(), Arc::new(topic));
        }
    }
    Ok(topics)
}

fn close_topics(topics: &Topics) {
    for topic in topics.read().values() {
        if let Err(error) = topic.head.lock().close(topic) {
            tracing::error!(topic = %topic.name, %error, "the log could not be synced at the end");
        }
    }
}

/// Under a small limit, segments are small too: only whole ones can be deleted.
fn fit(sizes: SegmentSizes, max_bytes: Option<u64>) -> SegmentSizes {
    let most = max_bytes.map_or(u64::MAX, |max| (max / 16).max(4096));
    SegmentSizes { first: sizes.first.min(most), largest: sizes.largest.min(most) }
}
