//! One writer a partition: takes what waits, a batch at a time, and does not go on before it is known what became of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use evoke_api::events::OnFull;
use evoke_connect::backoff::Backoff;
use futures_util::poll;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::task::unconstrained;

use super::batch::{self, Messages, Outcome};
use super::core::Core;
use super::error::{ApiError, Refusal, WireError};
use super::stream;
use super::topic::Topic;
use crate::bus::{BusError, Health, Position, PublishError, Receipt};
use crate::event::Event;

/// One batch, in bytes.
const BATCH_BYTES: usize = 2 << 20;
const WAIT_FIRST: Duration = Duration::from_millis(50);
/// How often a full stream is tried: a trim makes room without a word.
const WAIT_LONGEST: Duration = Duration::from_millis(500);

/// So many failures in a row are no passing matter, such as the election of a leader.
const FAILURES: u32 = 3;

type Outcomes = Vec<Result<Position, PublishError>>;

/// The events of one `publish`.
#[derive(Debug)]
pub(super) struct Job {
    state: Mutex<Slots>,
    /// Nobody waits for it any more, and it was not accepted.
    abandoned: AtomicBool,
}

#[derive(Debug)]
struct Slots {
    results: Vec<Option<Result<Position, PublishError>>>,
    left: usize,
    done: Option<oneshot::Sender<Outcomes>>,
    room: Option<OwnedSemaphorePermit>,
}

/// Takes an event back that its publisher gave up before it was accepted.
pub(super) struct Unaccepted(Option<Arc<Job>>);

impl Unaccepted {
    pub(super) fn accepted(mut self) {
        self.0 = None;
    }
}

impl Drop for Unaccepted {
    fn drop(&mut self) {
        if let Some(job) = &self.0 {
            job.abandoned.store(true, Ordering::Release);
        }
    }
}

impl Job {
    /// A job of `results.len()` events, of which those are settled that have a result.
    pub(super) fn new(
        results: Vec<Option<Result<Position, PublishError>>>,
        room: OwnedSemaphorePermit,
    ) -> (Arc<Self>, Receipt) {
        let events = results.len();
        let left = results.iter().filter(|result| result.is_none()).count();
        let (done, settled) = oneshot::channel();
        let slots = Slots { results, left, done: Some(done), room: Some(room) };
        let job = Arc::new(Self { state: Mutex::new(slots), abandoned: AtomicBool::new(false) });
        let lost = move || (0..events).map(|_| Err(PublishError::Uncertain("the bus was closed".into()))).collect();
        (job, Box::pin(async move { settled.await.unwrap_or_else(|_| lost()) }))
    }

    pub(super) fn guard(self: &Arc<Self>) -> Unaccepted {
        Unaccepted(Some(self.clone()))
    }

    fn settle(&self, slot: usize, result: Result<Position, PublishError>) {
        let mut slots = self.state.lock();
        let Some(place) = slots.results.get_mut(slot) else { return };
        if place.replace(result).is_none() {
            slots.left -= 1;
        }
        if slots.left == 0
            && let Some(done) = slots.done.take()
        {
            slots.room = None;
            let results = std::mem::take(&mut slots.results).into_iter().flatten().collect();
            // Whoever published need not wait for the receipt.
            drop(done.send(results));
        }
    }
}

/// One event that waits.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) event: Event,
    pub(super) job: Arc<Job>,
    pub(super) slot: usize,
}

impl Item {
    fn is_abandoned(&self) -> bool {
        self.job.abandoned.load(Ordering::Acquire)
    }
}

/// What waits for one partition.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: Mutex<VecDeque<Item>>,
    /// Nobody writes any more; changes only while `items` is locked.
    closed: AtomicBool,
    wake: Notify,
    pub(super) started: AtomicBool,
}

impl Queue {
    /// Puts events in line.
    ///
    /// # Errors
    /// [`BusError::Closed`] after [`Queue::close`]: nobody would ever write them.
    pub(super) fn push(&self, items: impl Iterator<Item = Item>) -> Result<(), BusError> {
        let mut line = self.items.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(BusError::Closed);
        }
        line.extend(items);
        drop(line);
        self.wake.notify_one();
        Ok(())
    }

    /// Lets go of what is in line, whose receipts then say that it is not known and why, and takes no more.
    pub(super) fn close(&self, cause: &Arc<str>) {
        let mut line = self.items.lock();
        self.closed.store(true, Ordering::Release);
        let left = std::mem::take(&mut *line);
        drop(line);
        for Item { job, slot, .. } in left {
            job.settle(slot, Err(PublishError::Uncertain(cause.clone())));
        }
        self.wake.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.lock().is_empty()
    }

    /// The first events, at most `most` of them; they stay in line until they are settled.
    fn front(&self, most: usize) -> Vec<Event> {
        let mut items = self.items.lock();
        while items.front().is_some_and(Item::is_abandoned) {
            items.pop_front();
        }
        Self::batch(items.iter().take(most))
    }

    /// What comes after the first `under_way` events.
    fn after(&self, under_way: usize) -> Vec<Event> {
        let items = self.items.lock();
        Self::batch(items.iter().skip(under_way).take(batch::EVENTS))
    }

    /// As many of these as one batch takes.
    fn batch<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<Event> {
        let mut bytes = 0;
        let fits = |item: &&Item| {
            let is_first = bytes == 0;
            bytes += item.event.encoded_len() + batch::OVERHEAD;
            (is_first || bytes <= BATCH_BYTES) && !item.is_abandoned()
        };
        items.take_while(fits).map(|item| item.event.clone()).collect()
    }

    fn settle(&self, results: impl Iterator<Item = Result<Position, PublishError>>) {
        let results: Vec<_> = results.collect();
        let settled: Vec<_> = {
            let mut items = self.items.lock();
            let count = results.len().min(items.len());
            items.drain(..count).collect()
        };
        for (Item { job, slot, .. }, result) in settled.into_iter().zip(results) {
            job.settle(slot, result);
        }
    }
}

/// Writes what waits for a partition until the bus is closed.
pub(super) async fn run(core: Arc<Core>, topic: Arc<Topic>, partition: u16) {
    if let Some(queue) = topic.queue(partition) {
        let backoff = Backoff::between(WAIT_FIRST, WAIT_LONGEST);
        let writer = Writer { core: &core, topic: &topic, partition, backoff, failures: 0, doubtful: false };
        core.closed.run_until_cancelled(Box::pin(writer.run(queue))).await;
    }
}

struct Writer<'a> {
    core: &'a Arc<Core>,
    topic: &'a Topic,
    partition: u16,
    backoff: Backoff,
    /// In a row.
    failures: u32,
    /// The stream may have been made anew since something was stored last.
    doubtful: bool,
}

impl Writer<'_> {
    async fn run(mut self, queue: &Queue) {
        // After a repeat, or an event that is too large, each goes alone, up to where the batch would have ended.
        let mut alone = 0_usize;
        let mut prepared = None;
        while !queue.is_closed() {
            if std::mem::take(&mut self.doubtful) && !self.agrees().await {
                continue;
            }
            let next =
                prepared.take().or_else(|| self.messages(queue.front(if alone > 0 { 1 } else { batch::EVENTS })));
            let Some((events, messages)) = next else {
                self.core.drained.notify_waiters();
                if self.topic.is_full() {
                    self.relieve(queue).await;
                } else {
                    queue.wake.notified().await;
                }
                continue;
            };
            let started = Instant::now();
            // Handed to the client in one go, which sends while the next batch is put together.
            let storing = unconstrained(messages.store(&self.core.wire, self.topic.subject(self.partition)));
            let mut storing = std::pin::pin!(storing);
            let at_once = poll!(storing.as_mut());
            let next = if alone > 0 { None } else { self.messages(queue.after(events.len())) };
            let outcome = match at_once {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => storing.await,
            };
            match outcome {
                Outcome::Stored(places) => {
                    prepared = next;
                    alone = alone.saturating_sub(1);
                    self.stored(&events, &places, started);
                    queue.settle(places.into_iter().map(|(sequence, _)| Ok(Position(sequence.into()))));
                }
                Outcome::Repeated | Outcome::TooLarge if events.len() > 1 => alone = events.len(),
                Outcome::TooLarge => {
                    alone = alone.saturating_sub(1);
                    self.topic.metrics.refused_events.inc();
                    let bytes = events.iter().map(Event::encoded_len).sum();
                    queue.settle(std::iter::once(Err(PublishError::TooLarge {
                        bytes,
                        limit: self.topic.max_message(),
                    })));
                }
                Outcome::Full(refusal) => self.full(&refusal).await,
                // A batch of one is never called repeated; what JetStream does not say, it may say next time.
                Outcome::Repeated => {
                    self.trouble("JetStream calls an event repeated and does not say where it is").await;
                }
                Outcome::Refused(refusal) => {
                    self.doubtful = true;
                    self.trouble(&format!("JetStream refuses to store events: {refusal}")).await;
                }
                Outcome::Unknown(error) => self.unknown(error).await,
            }
        }
    }

    /// A batch of these events, if there are any.
    fn messages(&self, events: Vec<Event>) -> Option<(Vec<Event>, Messages)> {
        let messages = Messages::of(&events, &self.core.wire)?;
        Some((events, messages))
    }

    fn stored(&mut self, events: &[Event], places: &[(u64, bool)], started: Instant) {
        self.backoff.reset();
        self.failures = 0;
        self.topic.set_full(false);
        self.core.board.clear(&self.topic.label);
        let metrics = &self.topic.metrics;
        let repeats = places.iter().filter(|(_, repeated)| *repeated).count();
        let bytes: usize = events.iter().map(Event::encoded_len).sum();
        metrics.duplicate_events.inc_by(repeats as u64);
        metrics.published_events.inc_by((events.len() - repeats) as u64);
        metrics.published_bytes.inc_by(bytes as u64);
        self.topic.grew((bytes + events.len() * batch::OVERHEAD / 2) as u64);
        self.core.metrics.committed(started.elapsed());
        self.core.show_queue();
    }

    async fn full(&mut self, refusal: &Refusal) {
        self.topic.set_full(true);
        let topic = &self.topic.name;
        let what = match self.topic.limit() {
            Some(limit) if refusal.is(Refusal::STREAM_FULL) => {
                format!("the stream of the topic {topic} holds its {limit} bytes (maxBytes)")
            }
            _ => format!("JetStream has no room for the topic {topic}: {refusal}"),
        };
        let hint = match self.core.plan.on_full {
            OnFull::Block => "",
            OnFull::DropOldest => "; a stream that drops the oldest is not full: check its `discard`",
        };
        self.core.board.trouble(&self.topic.label, Health::Full(format!("{what}{hint}").into()));
        tokio::select! {
            () = tokio::time::sleep(self.backoff.wait()) => {}
            () = self.topic.trimmed.notified() => {}
        }
    }

    /// Looks for room again although nothing waits: who publishes may hold back while the stream is called full.
    async fn relieve(&mut self, queue: &Queue) {
        tokio::select! {
            () = queue.wake.notified() => return,
            () = self.topic.trimmed.notified() => {}
            () = tokio::time::sleep(WAIT_LONGEST) => {}
        }
        let Ok(Some(info)) = stream::info(&self.core.wire, &self.topic.stream).await else { return };
        self.topic.holds(info.state.bytes);
        if self.topic.limit().is_none_or(|limit| info.state.bytes < limit - limit / 8) {
            self.topic.set_full(false);
            self.core.board.clear(&self.topic.label);
        }
    }

    /// False where it is not known that the partition still is one, or it is not.
    async fn agrees(&mut self) -> bool {
        match self.core.still_agrees(self.topic).await {
            Ok(agrees) => return agrees,
            Err(ApiError::Wire(error)) => self.unknown(error).await,
            Err(error) => {
                self.doubtful = true;
                self.trouble(&error.to_string()).await;
            }
        }
        false
    }

    async fn unknown(&mut self, error: WireError) {
        self.doubtful = true;
        match error {
            // The connection says itself when it is there again.
            WireError::Down(_) | WireError::Broken => self.core.wire.until_up().await,
            WireError::Nobody => self.missing().await,
            other => self.trouble(&other.to_string()).await,
        }
    }

    /// Nobody takes the events: the stream has no leader for the moment, or it is gone.
    async fn missing(&mut self) {
        match self.core.remake(self.topic).await {
            Ok(true) => {
                let topic = &self.topic.name;
                tracing::error!(%topic, "the stream was gone and is made anew: the events in it are lost");
            }
            Ok(false) => self.trouble(&WireError::Nobody.to_string()).await,
            Err(error) => self.trouble(&error.to_string()).await,
        }
    }

    /// Waits, and says why, should it last.
    async fn trouble(&mut self, cause: &str) {
        let topic = &self.topic.name;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.core.board.trouble(&self.topic.label, Health::Down(format!("topic {topic}: {cause}").into()));
        }
        tokio::time::sleep(self.backoff.wait()).await;
    }
}
