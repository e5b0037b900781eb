//! One writer a partition: sends what waits as batches, one at a time, and sends again what is not known to be stored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use evoke_api::events::OnFull;
use evoke_connect::backoff::Backoff;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot, watch};

use super::batch::{self, Batch, End, Outgoing, Progress};
use super::core::Core;
use super::error::{ApiError, Refusal, WireError};
use super::stream;
use super::topic::Topic;
use super::wire::{ANSWER, Standing};
use crate::bus::{BusError, Health, PublishError, Receipt};

/// How long the servers may be silent before they are asked how far a batch is: an answer of theirs may have been lost.
const QUIET: Duration = Duration::from_millis(500);
/// What is handed to the client at once, in bytes.
const CHUNK_BYTES: usize = 2 << 20;
const WAIT_FIRST: Duration = Duration::from_millis(50);
/// How often a full stream is tried: a trim makes room without a word.
const WAIT_LONGEST: Duration = Duration::from_millis(500);

/// So many failures in a row are no passing matter, such as the election of a leader.
const FAILURES: u32 = 3;

type Outcomes = Vec<Result<(), PublishError>>;

/// The events of one `publish`.
#[derive(Debug)]
pub(super) struct Job {
    state: Mutex<Slots>,
    /// Nobody waits for it any more, and it was not accepted.
    abandoned: AtomicBool,
}

#[derive(Debug)]
struct Slots {
    results: Vec<Option<Result<(), PublishError>>>,
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
        results: Vec<Option<Result<(), PublishError>>>,
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

    fn settle(&self, slot: usize, result: Result<(), PublishError>) {
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
    pub(super) outgoing: Outgoing,
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

    /// What comes after the first `under_way` events, at most `most` of it and about a chunk; it stays in line until it is settled.
    fn after(&self, under_way: usize, most: usize) -> Vec<Outgoing> {
        let mut items = self.items.lock();
        while items.get(under_way).is_some_and(Item::is_abandoned) {
            items.remove(under_way);
        }
        let mut bytes = 0;
        let fits = |item: &&Item| {
            let is_first = bytes == 0;
            bytes += item.outgoing.event.encoded_len() + batch::OVERHEAD;
            (is_first || bytes <= CHUNK_BYTES) && !item.is_abandoned()
        };
        items.iter().skip(under_way).take(most).take_while(fits).map(|item| item.outgoing.clone()).collect()
    }

    /// The size of the first event, in bytes.
    fn front_bytes(&self) -> usize {
        self.items.lock().front().map_or(0, |item| item.outgoing.event.encoded_len())
    }

    /// The first `count` events are stored, or refused for one reason; says how many bytes they were.
    fn settle(&self, count: usize, result: &Result<(), PublishError>) -> usize {
        let settled: Vec<_> = {
            let mut items = self.items.lock();
            let count = count.min(items.len());
            items.drain(..count).collect()
        };
        let mut bytes = 0;
        for Item { outgoing, job, slot } in settled {
            bytes += outgoing.event.encoded_len();
            job.settle(slot, result.clone());
        }
        bytes
    }
}

/// Writes what waits for a partition until the bus is closed.
pub(super) async fn run(core: Arc<Core>, topic: Arc<Topic>, partition: u16) {
    let Some(queue) = topic.queue(partition) else { return };
    let inbox = core.wire.client.new_inbox();
    let answers = match core.wire.client.subscribe(format!("{inbox}.>")).await {
        Ok(answers) => answers,
        // The client has ended.
        Err(error) => return topic.forget(&error.to_string().into()),
    };
    let backoff = Backoff::between(WAIT_FIRST, WAIT_LONGEST);
    let (core, topic) = (&core, &*topic);
    let (unsure, doubtful, has_leader) = (0, false, false);
    let (batches, failures) = (0, 0);
    let writer =
        Writer { core, topic, partition, inbox, answers, batches, unsure, backoff, failures, doubtful, has_leader };
    core.closed.run_until_cancelled(Box::pin(writer.run(queue))).await;
}

struct Writer<'a> {
    core: &'a Arc<Core>,
    topic: &'a Topic,
    partition: u16,
    /// Where answers come, each to a subject below that of its batch.
    inbox: String,
    answers: Subscriber,
    batches: u64,
    /// So many events at the front may be on their way from a batch that ended unclearly. They are sent by themselves: in a batch, an
    /// event that a leader knows but that too few servers have yet counts as stored.
    unsure: usize,
    backoff: Backoff,
    /// In a row.
    failures: u32,
    /// The stream may have been made anew since something was stored last.
    doubtful: bool,
    /// The servers told of the stream when they were asked last: it has a leader, whatever becomes of events.
    has_leader: bool,
}

impl Writer<'_> {
    async fn run(mut self, queue: &Queue) {
        while !queue.is_closed() {
            if std::mem::take(&mut self.doubtful) && !self.agrees().await {
                continue;
            }
            let first = queue.after(0, if self.unsure > 0 { 1 } else { self.topic.batch_limit() });
            if first.is_empty() {
                self.core.drained.notify_waiters();
                if self.topic.is_full() || self.failures >= FAILURES {
                    self.relieve(queue).await;
                } else {
                    queue.wake.notified().await;
                }
                continue;
            }
            match self.batch(queue, first).await {
                Ok(End::Complete) => {}
                Ok(End::Refused(refusal)) if refusal.is_too_large() => {
                    self.topic.metrics.refused_events.inc();
                    let (bytes, limit) = (queue.front_bytes(), self.topic.max_message());
                    queue.settle(1, &Err(PublishError::TooLarge { bytes, limit }));
                    self.unsure = self.unsure.saturating_sub(1);
                }
                Ok(End::Refused(refusal)) if refusal.is_full() => self.full(&refusal).await,
                Ok(End::Refused(refusal)) => {
                    self.doubtful = true;
                    self.trouble(&format!("JetStream refuses to store events: {refusal}")).await;
                }
                Ok(End::Lost) => self.trouble("events got lost on the way to JetStream").await,
                Ok(End::Unclear(refusal)) => {
                    self.trouble(&format!("JetStream does not say what it stored of a batch: {refusal}")).await;
                }
                Err(error) => self.unknown(error).await,
            }
        }
    }

    /// Sends these events, and what waits behind them, as one batch. What is stored is settled, the rest stays in line.
    async fn batch(&mut self, queue: &Queue, first: Vec<Outgoing>) -> Result<End, WireError> {
        let mut standing = self.core.wire.standing();
        standing.borrow_and_update();
        self.core.wire.up()?;
        self.batches += 1;
        let mut batch = Batch::new(format!("{}.{}", self.inbox, self.name()), &first, first.len() == 1);
        let ended = self.follow(&mut batch, queue, first, &mut standing).await;
        match &ended {
            Err(_) | Ok(End::Unclear(_)) => self.unsure = self.unsure.max(batch.under_way()),
            // Servers forget a batch by themselves only after a while.
            Ok(End::Refused(_)) if batch.is_open() => self.post(batch.end(), HeaderMap::new(), Bytes::new()).await?,
            Ok(_) => {}
        }
        ended
    }

    async fn follow(
        &mut self,
        batch: &mut Batch,
        queue: &Queue,
        first: Vec<Outgoing>,
        standing: &mut watch::Receiver<Standing>,
    ) -> Result<End, WireError> {
        // The time for news runs from when there is something to hear of, and from the last news: a server that can store nothing, as on
        // a full disk, still answers how far a batch is.
        let (mut events, mut since) = (first, Instant::now());
        loop {
            if !events.is_empty() {
                let is_idle = batch.under_way() == 0;
                self.send(batch, &events).await?;
                if is_idle {
                    since = Instant::now();
                }
            }
            let room = batch.room();
            events = if room > 0 { queue.after(batch.under_way(), room) } else { Vec::new() };
            if !events.is_empty() {
                continue;
            }
            if batch.is_to_end() {
                self.post(batch.end(), HeaderMap::new(), Bytes::new()).await?;
            }
            let answer = self.answer(batch, standing, since).await?;
            let progress = batch.answered(&answer)?;
            self.stored(queue, &progress);
            if let Some(end) = progress.end {
                return Ok(end);
            }
            if progress.is_news {
                since = Instant::now();
            }
        }
    }

    /// The name of a batch, which no other one of the stream has.
    fn name(&self) -> String {
        let unique = self.inbox.rsplit('.').next().unwrap_or_default();
        format!("{unique}-{}", self.batches)
    }

    async fn send(&self, batch: &mut Batch, events: &[Outgoing]) -> Result<(), WireError> {
        for outgoing in events {
            self.post(batch.next(), outgoing.headers(), outgoing.event.data()).await?;
        }
        batch.sent_at(Instant::now());
        Ok(())
    }

    async fn post(&self, reply: String, headers: HeaderMap, payload: Bytes) -> Result<(), WireError> {
        let (client, subject) = (&self.core.wire.client, self.topic.subject(self.partition).clone());
        let posted = if headers.is_empty() {
            client.publish_with_reply(subject, reply, payload).await
        } else {
            client.publish_with_reply_and_headers(subject, reply, headers, payload).await
        };
        posted.map_err(|error| WireError::Client(error.to_string()))
    }

    /// The next answer, unless there was no news for too long.
    async fn answer(
        &mut self,
        batch: &Batch,
        standing: &mut watch::Receiver<Standing>,
        since: Instant,
    ) -> Result<Message, WireError> {
        loop {
            let left = ANSWER.saturating_sub(since.elapsed());
            tokio::select! {
                // What has come counts, however late it is looked at.
                biased;
                answer = self.answers.next() => return answer.ok_or(WireError::Closed),
                changed = standing.changed() => return match changed {
                    Ok(()) => Err(self.core.wire.up().err().unwrap_or(WireError::Broken)),
                    Err(_) => Err(WireError::Closed),
                },
                () = tokio::time::sleep(left.min(QUIET)) => {
                    if left <= QUIET {
                        return Err(WireError::Silent);
                    }
                    if let Some(ping) = batch.ping() {
                        self.post(ping, HeaderMap::new(), Bytes::new()).await?;
                    }
                }
            }
        }
    }

    /// Settles what is stored by now.
    fn stored(&mut self, queue: &Queue, progress: &Progress) {
        if progress.stored == 0 {
            return;
        }
        self.backoff.reset();
        self.failures = 0;
        self.topic.set_full(false);
        self.core.board.clear(&self.topic.label);
        self.unsure = self.unsure.saturating_sub(progress.stored);
        let bytes = queue.settle(progress.stored, &Ok(()));
        let metrics = &self.topic.metrics;
        let events = if progress.repeated { &metrics.duplicate_events } else { &metrics.published_events };
        events.inc_by(progress.stored as u64);
        metrics.published_bytes.inc_by(bytes as u64);
        self.topic.grew((bytes + progress.stored * batch::OVERHEAD / 2) as u64);
        if let Some(sent) = progress.sent {
            self.core.metrics.committed(sent.elapsed());
        }
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

    /// Looks at the stream again although nothing waits: who publishes may hold back while it is called full or down.
    async fn relieve(&mut self, queue: &Queue) {
        tokio::select! {
            () = queue.wake.notified() => return,
            () = self.topic.trimmed.notified() => {}
            () = tokio::time::sleep(WAIT_LONGEST) => {}
        }
        let Ok(info) = stream::info(&self.core.wire, &self.topic.stream).await else { return };
        // A stream that is gone holds nothing, and is made anew by the next event.
        let held = info.map_or(0, |info| info.state.bytes);
        self.topic.holds(held);
        if !self.topic.is_full() || self.topic.limit().is_none_or(|limit| held < limit - limit / 8) {
            self.failures = 0;
            self.topic.set_full(false);
            self.core.board.clear(&self.topic.label);
        }
    }

    /// False where it is not known that the partition still is one, or it is not.
    async fn agrees(&mut self) -> bool {
        let agrees = self.core.still_agrees(self.topic).await;
        self.has_leader = agrees.is_ok();
        match agrees {
            Ok(agrees) => return agrees,
            Err(ApiError::Wire(error)) => self.unknown(error).await,
            Err(error) => {
                self.doubtful = true;
                self.trouble(&BusError::from(error).to_string()).await;
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
            WireError::Silent if self.has_leader => {
                let (stream, subject) = (&self.topic.stream, self.topic.subject(self.partition));
                let cause = format!(
                    "NATS answers for the stream {stream} and stores nothing that is published to {subject}: its server \
                     cannot write (its log says why; after a full disk it needs space, and then a restart), or evoke may \
                     not publish there"
                );
                self.trouble(&cause).await;
            }
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
