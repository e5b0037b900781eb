//! Reads events again: those that were put aside without their data, and those that a window holds.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_eventbus::bus::{Batch, BusError, EventBus, From, Fut, Partition, Position, Reader, Record};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::ledger::Millis;
use evoke_eventbus::subscription::scan;

use super::shelf::detached;

const READ_BYTES: usize = 64 << 10;
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const LATE: &str = "the bus does not give events that it has";

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

/// Reads the events at some positions of one partition, which are in order. One that was appended after `seen` is another than that which
/// was there.
pub(super) async fn events(
    bus: Arc<dyn EventBus>,
    partition: Partition,
    positions: Vec<Position>,
    seen: Millis,
) -> Found {
    let mut found = Found::default();
    let last = positions.last().copied().unwrap_or_default();
    let mut wanted = positions.into_iter().peekable();
    let mut reader: Option<Box<dyn Reader>> = None;
    'read: while let Some(&at) = wanted.peek() {
        // A reader that has read nothing before has the time of its first event from that alone.
        let begins = reader.is_none();
        let batch = match next(&*bus, &partition, at, &mut reader).await {
            Ok(Some(batch)) => batch,
            Ok(None) => match scan::is_over(&*bus, &partition, at, Position(last.0.saturating_add(1))).await {
                // Somebody else has deleted them, and nothing comes after.
                Ok(true) => {
                    found.lost.extend(wanted);
                    return found;
                }
                Ok(false) => return found.put_off(wanted, BusError::Unavailable(LATE.into())),
                Err(error) => return found.put_off(wanted, error),
            },
            Err(BusError::Trimmed { first }) if at < first => {
                while let Some(lost) = wanted.next_if(|at| *at < first) {
                    found.lost.push(lost);
                }
                continue;
            }
            Err(BusError::Damaged { first, next }) if first <= at => {
                while let Some(lost) = wanted.next_if(|at| (first..next).contains(at)) {
                    found.lost.push(lost);
                }
                continue;
            }
            Err(BusError::Ahead { .. }) => {
                found.lost.extend(wanted);
                return found;
            }
            Err(error) => return found.put_off(wanted, error),
        };
        let before = found.events.len();
        for record in &batch.records {
            while let Some(lost) = wanted.next_if(|at| *at < record.at) {
                found.lost.push(lost);
            }
            let is_newer = Millis::from(record.appended) > seen;
            if is_newer && wanted.peek() == Some(&record.at) && !(begins && record.at == at) {
                // Its own time may be an earlier one.
                reader = None;
                continue 'read;
            }
            if wanted.next_if_eq(&record.at).is_some() {
                if is_newer {
                    found.lost.push(record.at);
                } else {
                    found.events.push((record.at, detached(&record.event)));
                }
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

impl Found {
    /// The rest is to be tried again later.
    fn put_off(mut self, rest: impl Iterator<Item = Position>, error: BusError) -> Self {
        self.later.extend(rest);
        self.error = Some(error);
        self
    }
}

/// What comes next, or nothing if that takes long: what is read here was there before, so that either the bus is not well, or it is gone.
async fn next(
    bus: &dyn EventBus,
    partition: &Partition,
    at: Position,
    reader: &mut Option<Box<dyn Reader>>,
) -> Result<Option<Batch>, BusError> {
    let mut open = match reader.take() {
        Some(open) => open,
        None => bus.read(partition, From::At(at), READ_BYTES).await?,
    };
    let batch = soon(open.next(READ_BYTES)).await?;
    *reader = Some(open);
    Ok(batch)
}

async fn soon<T>(read: Fut<'_, T>) -> Result<Option<T>, BusError> {
    tokio::time::timeout(READ_TIMEOUT, read).await.ok().transpose()
}

/// What lies in a window before a frontier, of one partition.
pub(super) struct Past<'a> {
    bus: &'a dyn EventBus,
    partition: &'a Partition,
    reader: Option<Box<dyn Reader>>,
    upto: Position,
    /// When the last one was appended: none counts as appended later.
    last: Millis,
    /// How many events there are; an upper bound where the bus can only estimate.
    left: u64,
    batch: Batch,
    done: usize,
}

impl<'a> Past<'a> {
    /// Begins at the first event appended at `since` or later, and ends before `upto`, where the last one was appended at `last`. What a
    /// clock calls newer that was ahead for a while counts as appended then: it would fill the window until that time has come.
    pub(super) async fn open(
        bus: &'a dyn EventBus,
        partition: &'a Partition,
        since: SystemTime,
        (upto, last): (Position, Millis),
    ) -> Result<Self, BusError> {
        let marks = bus.locate(&[From::Time(since), From::At(upto)].map(|at| (partition.clone(), at))).await?;
        let [from, to] = marks[..] else { return Err(BusError::Unavailable("the bus located nothing".into())) };
        let left = from.ahead.saturating_sub(to.ahead);
        let reader = if left > 0 { Some(bus.read(partition, From::At(from.at), READ_BYTES).await?) } else { None };
        Ok(Self { bus, partition, reader, upto, last, left, batch: Batch::default(), done: 0 })
    }

    /// The next event, without taking it.
    pub(super) async fn peek(&mut self) -> Result<Option<&Record>, BusError> {
        while self.done >= self.batch.records.len() {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            if self.left == 0 || self.batch.next >= self.upto {
                return Ok(None);
            }
            self.batch = match soon(reader.next(READ_BYTES)).await {
                Ok(batch) => batch.ok_or_else(|| BusError::Unavailable(LATE.into()))?,
                // What is gone is none of the window.
                Err(BusError::Trimmed { first: next } | BusError::Damaged { next, .. }) if next > self.batch.next => {
                    *reader = self.bus.read(self.partition, From::At(next), READ_BYTES).await?;
                    Batch { next, ..Batch::default() }
                }
                Err(error) => return Err(error),
            };
            for record in self.batch.records.iter_mut().filter(|record| Millis::from(record.appended) > self.last) {
                record.appended = self.last.to_system();
            }
            self.done = 0;
        }
        Ok(self.batch.records.get(self.done).filter(|record| record.at < self.upto))
    }

    pub(super) fn take(&mut self) {
        self.done += 1;
        self.left = self.left.saturating_sub(1);
    }
}
