//! Reads events again: those that were put aside without their data, and those that a window holds.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_eventbus::bus::{Batch, BusError, EventBus, From, Fut, Partition, Position, Reader, Record};
use evoke_eventbus::event::Event;

use super::shelf::detached;

const READ_BYTES: usize = 64 << 10;
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of the events that were to be read again.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those that are there.
    pub(super) events: Vec<(Position, Event)>,
    /// Those that are not kept any more.
    pub(super) lost: Vec<Position>,
    /// Those to be tried again later, and why.
    pub(super) later: Vec<Position>,
    pub(super) error: Option<BusError>,
}

/// Reads the events at some positions of one partition, which are in order.
pub(super) async fn events(bus: Arc<dyn EventBus>, partition: Partition, positions: Vec<Position>) -> Found {
    let mut found = Found::default();
    let mut wanted = positions.into_iter().peekable();
    let mut reader: Option<Box<dyn Reader>> = None;
    while let Some(&at) = wanted.peek() {
        let batch = match next(&*bus, &partition, at, &mut reader).await {
            Ok(batch) => batch,
            Err(BusError::Trimmed { first }) if at < first => {
                while let Some(lost) = wanted.next_if(|at| *at < first) {
                    found.lost.push(lost);
                }
                continue;
            }
            Err(BusError::Ahead { .. }) => {
                found.lost.extend(wanted);
                return found;
            }
            Err(error) => {
                found.later.extend(wanted);
                found.error = Some(error);
                return found;
            }
        };
        let before = found.events.len();
        for record in &batch.records {
            while let Some(lost) = wanted.next_if(|at| *at < record.at) {
                found.lost.push(lost);
            }
            if wanted.next_if_eq(&record.at).is_some() {
                found.events.push((record.at, detached(&record.event)));
            }
        }
        while let Some(lost) = wanted.next_if(|at| *at < batch.next) {
            found.lost.push(lost);
        }
        if found.events.len() == before {
            // Nothing of what was read was wanted: the next one is further away.
            reader = None;
        }
    }
    found
}

async fn next(
    bus: &dyn EventBus,
    partition: &Partition,
    at: Position,
    reader: &mut Option<Box<dyn Reader>>,
) -> Result<Batch, BusError> {
    let mut open = match reader.take() {
        Some(open) => open,
        None => bus.read(partition, From::At(at), READ_BYTES).await?,
    };
    let batch = soon(open.next(READ_BYTES)).await?;
    *reader = Some(open);
    Ok(batch)
}

/// What is read here was there before, so that a read which waits means that the bus is not well, or that the event is gone.
async fn soon<T>(read: Fut<'_, T>) -> Result<T, BusError> {
    let late = || BusError::Unavailable("the bus does not give events that it has".into());
    tokio::time::timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| Err(late()))
}

/// What lies in a window before a frontier, of one partition.
pub(super) struct Past {
    reader: Option<Box<dyn Reader>>,
    upto: Position,
    /// How many events there are; an upper bound where the bus can only estimate.
    left: u64,
    batch: Batch,
    done: usize,
}

impl Past {
    /// Begins at the first event appended at `since` or later.
    pub(super) async fn open(
        bus: &dyn EventBus,
        partition: &Partition,
        since: SystemTime,
        upto: Position,
    ) -> Result<Self, BusError> {
        let marks = bus.locate(&[From::Time(since), From::At(upto)].map(|at| (partition.clone(), at))).await?;
        let [from, to] = marks[..] else { return Err(BusError::Unavailable("the bus located nothing".into())) };
        let left = from.ahead.saturating_sub(to.ahead);
        let reader = if left > 0 { Some(bus.read(partition, From::At(from.at), READ_BYTES).await?) } else { None };
        Ok(Self { reader, upto, left, batch: Batch::default(), done: 0 })
    }

    /// The next event, without taking it.
    pub(super) async fn peek(&mut self) -> Result<Option<&Record>, BusError> {
        while self.done >= self.batch.records.len() {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            if self.left == 0 || self.batch.next >= self.upto {
                return Ok(None);
            }
            self.batch = soon(reader.next(READ_BYTES)).await?;
            self.done = 0;
        }
        Ok(self.batch.records.get(self.done).filter(|record| record.at < self.upto))
    }

    pub(super) fn take(&mut self) {
        self.done += 1;
        self.left = self.left.saturating_sub(1);
    }
}
