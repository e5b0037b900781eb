//! Reads one partition in order.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Core;
use super::cluster::{Place, unreadable};
use super::doubt::Doubt;
use super::pool::{Found, Seat};
use super::print::{Print, Prints};
use super::publisher::position;
use super::record::Decoder;
use crate::bus::{Batch, BusError, Fut, Partition, Reader, Record};

/// Records of one batch, at most; also how many are passed by that are no events.
const RECORDS: usize = 4096;
/// How long nothing must come before it is looked whether the log ends in what is no record: at first, and at most.
const QUIET: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

pub(super) struct KafkaReader {
    core: Arc<Core>,
    partition: Partition,
    place: Place,
    seat: Arc<Seat>,
    decoder: Decoder,
    /// The offset to go on at.
    next: i64,
    /// What was read last, to know the log again by.
    prints: Prints,
    /// Time does not go back.
    appended: SystemTime,
    /// What no longer fitted into the last batch.
    spare: Option<Record>,
    /// What the client said after the last batch.
    error: Option<KafkaError>,
    /// How often connections had been lost when it was last looked whether the log is what it was.
    cuts: u64,
    /// The log may not be what it was.
    doubtful: bool,
    /// Looks whether it is, since so many connections had been lost.
    looking: Option<(u64, AbortOnDropHandle<Result<(), BusError>>)>,
    /// How long nothing must come, and until when.
    quiet: Duration,
    quiet_until: Instant,
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.core.pool.forget(&self.seat);
    }
}

/// What one look at the queue gave.
#[derive(Default)]
struct Taken {
    batch: Batch,
    looked_at: usize,
    error: Option<KafkaError>,
}

impl KafkaReader {
    pub(super) fn new(core: &Arc<Core>, partition: &Partition, place: Place, next: i64, prefetch: usize) -> Self {
        let seat = core.pool.seat(place.clone(), prefetch);
        Self {
            core: Arc::clone(core),
            partition: partition.clone(),
            decoder: Decoder::new(&partition.topic, core.topic_metrics(&partition.topic)),
            place,
            seat,
            next,
            prints: Prints::default(),
            appended: SystemTime::UNIX_EPOCH,
            spare: None,
            error: None,
            cuts: core.told.cuts(),
            doubtful: false,
            looking: None,
            quiet: QUIET.0,
            quiet_until: Instant::now() + QUIET.0,
        }
    }

    async fn next_batch(&mut self, max_bytes: usize) -> Result<Batch, BusError> {
        let seat = Arc::clone(&self.seat);
        let _asking = seat.ask();
        loop {
            self.settle().await?;
            if let Some(error) = self.error.take() {
                self.judge(&error)?;
                continue;
            }
            let quiet_until = self.quiet_until;
            let taken = tokio::select! {
                biased;
                taken = std::future::poll_fn(|cx| self.poll(cx, max_bytes)) => Some(taken?),
                () = tokio::time::sleep_until(quiet_until) => None,
            };
            let batch = match taken {
                Some(taken) => {
                    self.error = taken.error;
                    (taken.looked_at > 0).then_some(taken.batch)
                }
                None => self.pass_by().await,
            };
            if let Some(batch) = batch {
                self.quiet = QUIET.0;
                self.quiet_until = Instant::now() + self.quiet;
                return Ok(batch);
            }
        }
    }

    /// Looks whether the log is still the one that was read, where there is a doubt. Whoever asks may go away at any moment and ask
    /// again: a look that was begun goes on.
    async fn settle(&mut self) -> Result<(), BusError> {
        let cuts = self.core.told.cuts();
        if self.looking.is_none() && (self.doubtful || cuts != self.cuts) {
            self.doubtful = true;
            let doubt = Doubt {
                core: Arc::clone(&self.core),
                topic: self.partition.topic.clone(),
                place: self.place.clone(),
                next: self.next,
                prints: self.prints.clone(),
                appended: self.appended,
            };
            self.looking = Some((cuts, AbortOnDropHandle::new(self.core.tasks.spawn(doubt.settle()))));
        }
        let Some((cuts, look)) = &mut self.looking else { return Ok(()) };
        let (cuts, settled) = (*cuts, look.await.unwrap_or(Err(BusError::Closed)));
        self.looking = None;
        if matches!(settled, Ok(()) | Err(BusError::Ahead { .. })) {
            // What was fetched before may be of what the log has lost, and others wrote something else there since.
            self.core.pool.stand(&self.seat);
        }
        settled?;
        (self.cuts, self.doubtful) = (cuts, false);
        Ok(())
    }

    /// Passes by what the log ends in and what is no record, such as the marks of transactions: the client keeps it to itself, and who
    /// waits for the reader to come up to the end would wait for ever.
    async fn pass_by(&mut self) -> Option<Batch> {
        // It is looked less often the longer nothing comes.
        self.quiet = (self.quiet * 2).min(QUIET.1);
        self.quiet_until = Instant::now() + self.quiet;
        let seat = Arc::clone(&self.seat);
        let at = self.core.tasks.spawn_blocking(move || seat.position()).await.ok().flatten()?;
        // All that the client gave out was taken: what it is further on by was no record.
        if at <= self.next {
            return None;
        }
        self.next = at;
        Some(Batch { next: position(at), ..Batch::default() })
    }

    fn poll(&mut self, cx: &Context<'_>, max_bytes: usize) -> Poll<Result<Taken, BusError>> {
        let mut taken = Taken::default();
        if let Some(spare) = self.spare.take() {
            taken.add(spare);
        }
        let (core, seat) = (Arc::clone(&self.core), Arc::clone(&self.seat));
        let (from, cuts) = (self.next, self.cuts);
        let full = taken.looked_at > 0 && taken.batch.bytes >= max_bytes;
        let mut is_cut = false;
        let found = core.pool.poll(&seat, cx, from, |queue| {
            // What has come since may be of another log: nothing is taken before that is known.
            is_cut = core.told.cuts() != cuts;
            while !is_cut && !full && taken.looked_at < RECORDS {
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        if !self.take(&mut taken, &message, max_bytes) {
                            break;
                        }
                    }
                    Some(Err(error)) => {
                        taken.error = Some(error);
                        break;
                    }
                    None => break,
                }
            }
            Ok(Some(()))
        });
        if let Found::Failed(cause) = found {
            taken.error = None;
            if taken.looked_at == 0 {
                return Poll::Ready(Err(BusError::Unavailable(
                    format!("cannot read {}: {cause}", self.place.0).into(),
                )));
            }
        }
        if taken.looked_at == 0 && taken.error.is_none() && !is_cut {
            return Poll::Pending;
        }
        self.prints.keep();
        taken.batch.next = position(self.spare.as_ref().map_or(self.next, offset_of));
        Poll::Ready(Ok(taken))
    }

    /// Takes a record into the batch; false when the batch is full.
    fn take(&mut self, taken: &mut Taken, message: &BorrowedMessage<'_>, max_bytes: usize) -> bool {
        let offset = message.offset();
        if offset < self.next {
            return true;
        }
        self.next = offset + 1;
        self.prints.read(Print::of(message));
        let appended = message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok());
        let appended = appended.and_then(|millis| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
        self.appended = appended.map_or(self.appended, |appended| appended.max(self.appended));
        let Some(event) = self.decoder.event(message) else {
            taken.looked_at += 1;
            taken.batch.latest = Some(self.appended);
            return true;
        };
        let record = Record::new(position(offset), self.appended, event);
        let bytes = taken.batch.bytes + record.event.encoded_len();
        if !taken.batch.records.is_empty() && bytes > max_bytes {
            self.spare = Some(record);
            return false;
        }
        taken.add(record);
        taken.batch.bytes < max_bytes
    }

    /// What an error of the client means.
    fn judge(&mut self, error: &KafkaError) -> Result<(), BusError> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(
                Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::NoOffset,
            ) => {
                self.core.pool.stand(&self.seat);
                self.doubtful = true;
                Ok(())
            }
            Some(Code::TopicAuthorizationFailed) => {
                self.core.pool.stand(&self.seat);
                Err(unreadable(&self.place.0))
            }
            // It goes on by itself.
            _ => Ok(()),
        }
    }
}

fn offset_of(record: &Record) -> i64 {
    i64::try_from(record.at.0).unwrap_or(i64::MAX)
}

impl Taken {
    fn add(&mut self, record: Record) {
        self.looked_at += 1;
        self.batch.bytes += record.event.encoded_len();
        self.batch.records.push(record);
    }
}

impl Reader for KafkaReader {
    fn next(&mut self, max_bytes: usize) -> Fut<'_, Batch> {
        async move {
            let closed = self.core.closed.clone();
            match closed.run_until_cancelled(self.next_batch(max_bytes)).await {
                Some(batch) => batch,
                None => Err(BusError::Closed),
            }
        }
        .boxed()
    }
}
