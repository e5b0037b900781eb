//! The clients that read, and who reads what with them.
//!
//! A client can read a partition once. So a reader *sits* on a client that does not read its partition yet; there is one client for
//! all readers of a size, and one more for each further reader of the same partition. A reader that is not asked for a moment gets up,
//! and what was fetched ahead for it is let go: nothing it might hold is bounded by anything but its own reading.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use evoke_connect::kafka::Brokers;
use evoke_connect::kafka::words::text;
use futures_util::task::AtomicWaker;
use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{self, Consumer, Ears, Told, listen};
use super::cluster::Place;

/// How often clients are listened to, and readers looked after.
const TICK: Duration = Duration::from_millis(50);
/// How long a reader may sit that is not asked.
const IDLE: Duration = Duration::from_millis(150);
/// How long a client is kept that nobody sits on.
const UNUSED: Duration = Duration::from_secs(30);
/// What a client gets of a partition at once: the least and the most.
const AHEAD: (usize, usize) = (32 << 10, 1 << 20);

/// See the module.
pub(super) struct Pool {
    brokers: Brokers,
    name: Arc<str>,
    told: Arc<Told>,
    clients: Mutex<Vec<Shared>>,
    /// Somebody got up.
    left: Condvar,
    seats: Mutex<Vec<Weak<Seat>>>,
    tasks: TaskTracker,
    /// Readers may be dropped anywhere.
    runtime: Handle,
}

struct Shared {
    consumer: Arc<Consumer>,
    ahead: usize,
    taken: HashMap<Place, Taken>,
    made: Instant,
    /// What it is not to read any more.
    outdated: HashSet<Place>,
    used: Instant,
}

impl Shared {
    /// Whether it can be asked to read a partition.
    fn is_free(&self, place: &Place) -> bool {
        !self.taken.contains_key(place) && !self.outdated.contains(place)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Sits,
    GetsUp,
}

/// Where one reader sits, if it does.
pub(super) struct Seat {
    place: Place,
    ahead: usize,
    waker: Arc<AtomicWaker>,
    state: Mutex<State>,
}

struct State {
    at: At,
    /// Somebody waits for a record.
    asked: bool,
    last_asked: Instant,
    gone: bool,
}

enum At {
    Nowhere,
    /// A task is on its way to sit down.
    SittingDown,
    Sits(Sitting),
    Failed(String),
}

/// A partition that a client reads for somebody.
struct Sitting {
    queue: PartitionQueue<Ears>,
    consumer: Arc<Consumer>,
}

/// What a reader finds.
pub(super) enum Found<T> {
    /// Nothing yet; the waker is kept.
    Nothing,
    /// What the reader made of the records.
    Some(T),
    /// The client says something else.
    Error(KafkaError),
    /// No client can be had.
    Failed(String),
}

impl Pool {
    pub(super) fn new(brokers: &Brokers, name: Arc<str>, told: &Arc<Told>, tasks: &TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            brokers: brokers.clone(),
            name,
            told: Arc::clone(told),
            clients: Mutex::default(),
            left: Condvar::new(),
            seats: Mutex::default(),
            tasks: tasks.clone(),
            runtime: Handle::current(),
        })
    }

    /// A seat for a reader that may hold `prefetch` bytes.
    pub(super) fn seat(&self, place: Place, prefetch: usize) -> Arc<Seat> {
        // The client asks for more while it holds less than twice as much.
        let ahead = (prefetch / 2).clamp(AHEAD.0, AHEAD.1).next_power_of_two();
        let state = State { at: At::Nowhere, asked: false, last_asked: Instant::now(), gone: false };
        let seat = Arc::new(Seat { place, ahead, waker: Arc::default(), state: Mutex::new(state) });
        let mut seats = self.seats.lock();
        seats.retain(|seat| seat.strong_count() > 0);
        seats.push(Arc::downgrade(&seat));
        seat
    }

    /// Looks after clients and readers until it is cancelled.
    pub(super) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(tick.tick()).await.is_some() {
            let mut unused = Vec::new();
            {
                let mut clients = self.clients.lock();
                for client in clients.iter_mut() {
                    if !client.taken.is_empty() {
                        client.used = Instant::now();
                    }
                    // Every partition has a queue of its own: here are only errors, which are noted.
                    listen(&client.consumer);
                }
                let mut index = 0;
                clients.retain(|client| {
                    index += 1;
                    let keep = index == 1 || client.used.elapsed() < UNUSED;
                    if !keep {
                        unused.push(Arc::clone(&client.consumer));
                    }
                    keep
                });
            }
            if !unused.is_empty() {
                // Closing a client blocks.
                self.block(move || drop(unused));
            }
            let seats: Vec<_> = self.seats.lock().iter().filter_map(Weak::upgrade).collect();
            for seat in seats {
                if let Some(sitting) = seat.idle() {
                    self.get_up(seat.place.clone(), sitting);
                }
            }
        }
    }

    /// Runs what waits for a client.
    fn block(&self, work: impl FnOnce() + Send + 'static) {
        self.tasks.spawn_blocking_on(work, &self.runtime);
    }

    /// Lets all clients go. Blocks.
    pub(super) fn close(&self) {
        let clients = std::mem::take(&mut *self.clients.lock());
        drop(clients);
    }

    /// Has the seat sit down at an offset, in a task of its own.
    fn sit_down(self: &Arc<Self>, seat: &Arc<Seat>, offset: i64) {
        let (pool, seat) = (Arc::clone(self), Arc::clone(seat));
        self.block(move || {
            let found = pool.find(&seat, offset);
            let mut state = seat.state.lock();
            match found {
                Ok(sitting) if state.gone => {
                    drop(state);
                    pool.leave(&seat.place, sitting);
                    return;
                }
                Ok(sitting) => state.at = At::Sits(sitting),
                Err(error) => state.at = At::Failed(text(&error)),
            }
            state.last_asked = Instant::now();
            drop(state);
            seat.waker.wake();
        });
    }

    fn find(&self, seat: &Seat, offset: i64) -> Result<Sitting, KafkaError> {
        let consumer = self.take_client(seat)?;
        let (topic, partition) = (&seat.place.0, seat.place.1);
        let assign = || {
            // Before it is assigned, so that no record goes elsewhere.
            let mut queue = consumer
                .split_partition_queue(topic, partition)
                .ok_or_else(|| KafkaError::Subscription(format!("no queue for partition {partition}")))?;
            let waker = Arc::clone(&seat.waker);
            queue.set_nonempty_callback(move || waker.wake());
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
            consumer.incremental_assign(&list)?;
            Ok(queue)
        };
        let assigned = assign();
        match assigned {
            Ok(queue) => Ok(Sitting { queue, consumer }),
            Err(error) => {
                self.vacate(&seat.place, &consumer);
                Err(error)
            }
        }
    }

    /// A client of the right size that does not read the partition, from now on taken.
    fn take_client(&self, seat: &Seat) -> Result<Arc<Consumer>, KafkaError> {
        let mut clients = self.clients.lock();
        loop {
            let fitting = || clients.iter().filter(|client| client.ahead == seat.ahead);
            if fitting().any(|client| client.is_free(&seat.place)) {
                break;
            }
            let soon = |client: &Shared| client.taken.get(&seat.place) == Some(&Taken::GetsUp);
            if !fitting().any(|client| soon(client) && !client.outdated.contains(&seat.place)) {
                let config = client::reading(&self.brokers, &self.name, seat.ahead);
                let consumer = Arc::new(config.create_with_context(Ears::new(&self.told))?);
                clients.push(Shared {
                    consumer,
                    ahead: seat.ahead,
                    taken: HashMap::new(),
                    made: Instant::now(),
                    outdated: HashSet::new(),
                    used: Instant::now(),
                });
                break;
            }
            self.left.wait_for(&mut clients, TICK);
        }
        let free = clients.iter_mut().find(|client| client.ahead == seat.ahead && client.is_free(&seat.place));
        let client = free.ok_or(KafkaError::Canceled)?;
        client.taken.insert(seat.place.clone(), Taken::Sits);
        client.used = Instant::now();
        Ok(Arc::clone(&client.consumer))
    }

    /// Has a partition read by clients that were made since, from now on: what an older one knows of a topic, such as the epoch of its
    /// leader, may keep it from reading another one of that name.
    pub(super) fn outdate(&self, place: &Place, since: Instant) {
        for client in self.clients.lock().iter_mut().filter(|client| client.made < since) {
            client.outdated.insert(place.clone());
        }
    }

    fn get_up(self: &Arc<Self>, place: Place, sitting: Sitting) {
        self.mark(&place, &sitting.consumer, Some(Taken::GetsUp));
        let pool = Arc::clone(self);
        self.block(move || pool.leave(&place, sitting));
    }

    fn leave(&self, place: &Place, sitting: Sitting) {
        let Sitting { queue, consumer } = sitting;
        let mut list = TopicPartitionList::new();
        list.add_partition(&place.0, place.1);
        if let Err(error) = consumer.incremental_unassign(&list) {
            tracing::debug!(topic = %place.0, partition = place.1, cause = %text(&error), "cannot stop reading");
        }
        // What was fetched ahead is of the past now, and is freed as the queue is asked for it.
        while queue.poll(Duration::ZERO).is_some() {}
        drop(queue);
        self.vacate(place, &consumer);
    }

    fn vacate(&self, place: &Place, consumer: &Arc<Consumer>) {
        self.mark(place, consumer, None);
        self.left.notify_all();
    }

    fn mark(&self, place: &Place, consumer: &Arc<Consumer>, taken: Option<Taken>) {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.iter_mut().find(|client| Arc::ptr_eq(&client.consumer, consumer)) {
            match taken {
                Some(taken) => client.taken.insert(place.clone(), taken),
                None => client.taken.remove(place),
            };
        }
    }

    /// Has a reader get up, to sit down elsewhere in the log or not at all.
    pub(super) fn stand(self: &Arc<Self>, seat: &Seat) {
        let sitting = seat.rise(false);
        if let Some(sitting) = sitting {
            self.get_up(seat.place.clone(), sitting);
        }
    }

    /// The reader is no more.
    pub(super) fn forget(self: &Arc<Self>, seat: &Seat) {
        if let Some(sitting) = seat.rise(true) {
            self.get_up(seat.place.clone(), sitting);
        }
    }

    /// Asks for records from `offset` on. `take` is called with the queue where there may be some; a connection that was lost before they
    /// came is counted by then.
    pub(super) fn poll<T>(
        self: &Arc<Self>,
        seat: &Arc<Seat>,
        cx: &std::task::Context<'_>,
        offset: i64,
        take: impl FnOnce(&PartitionQueue<Ears>) -> Result<Option<T>, KafkaError>,
    ) -> Found<T> {
        seat.waker.register(cx.waker());
        let mut state = seat.state.lock();
        match std::mem::replace(&mut state.at, At::Nowhere) {
            At::Nowhere => {
                state.at = At::SittingDown;
                drop(state);
                self.sit_down(seat, offset);
                Found::Nothing
            }
            At::SittingDown => {
                state.at = At::SittingDown;
                Found::Nothing
            }
            At::Failed(cause) => Found::Failed(cause),
            At::Sits(sitting) => {
                listen(&sitting.consumer);
                let taken = take(&sitting.queue);
                state.at = At::Sits(sitting);
                match taken {
                    Ok(Some(taken)) => Found::Some(taken),
                    Ok(None) => Found::Nothing,
                    Err(error) => Found::Error(error),
                }
            }
        }
    }
}

impl Seat {
    /// Somebody waits for a record, until this is dropped.
    pub(super) fn ask(self: &Arc<Self>) -> Asking {
        self.state.lock().asked = true;
        Asking(Arc::clone(self))
    }

    /// Where the client goes on giving out, which is past what it passes by as no record; `None` while it has given out nothing, and
    /// for who does not sit. Blocks.
    pub(super) fn position(&self) -> Option<i64> {
        let state = self.state.lock();
        let At::Sits(sitting) = &state.at else { return None };
        let consumer = Arc::clone(&sitting.consumer);
        // The client takes a moment to say it.
        drop(state);
        let positions = consumer.position().ok()?;
        let at = positions.find_partition(&self.place.0, self.place.1)?.offset();
        if let Offset::Offset(at) = at { Some(at) } else { None }
    }

    /// Gets up if nobody has asked for a while.
    fn idle(&self) -> Option<Sitting> {
        let mut state = self.state.lock();
        if state.asked || state.last_asked.elapsed() < IDLE {
            return None;
        }
        state.rise()
    }

    fn rise(&self, gone: bool) -> Option<Sitting> {
        let mut state = self.state.lock();
        state.gone |= gone;
        state.rise()
    }
}

impl State {
    fn rise(&mut self) -> Option<Sitting> {
        match std::mem::replace(&mut self.at, At::Nowhere) {
            At::Sits(sitting) => Some(sitting),
            // It sits down first; who is gone gets up again then.
            At::SittingDown => {
                self.at = At::SittingDown;
                None
            }
            At::Nowhere | At::Failed(_) => None,
        }
    }
}

/// See [`Seat::ask`].
pub(super) struct Asking(Arc<Seat>);

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        (state.asked, state.last_asked) = (false, Instant::now());
    }
}
