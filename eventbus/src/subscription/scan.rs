//! Reads a part of a log that has an end, without a subscription: what lies there is looked at and nothing is moved.

use std::time::Duration;

use crate::bus::{Batch, BusError, EventBus, From, Mark, Partition, Position, Reader, Record};

const READ_BYTES: usize = 256 << 10;
/// A read that takes longer may wait for an event that will never come: positions have holes.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long it may take to find the last event before a place.
const PATIENCE_BACK: Duration = Duration::from_secs(30);
/// By how much further a look back goes than the one before.
const FURTHER: u128 = 16;

/// Where one thing is in the log.
///
/// # Errors
/// The bus's.
pub async fn locate(bus: &dyn EventBus, partition: &Partition, from: From) -> Result<Mark, BusError> {
    let marks = bus.locate(&[(partition.clone(), from)]).await?;
    marks.first().copied().ok_or_else(|| BusError::Unavailable("the bus located nothing".into()))
}

/// True if there is no event from `at` up to `until`.
///
/// # Errors
/// The bus's.
pub async fn is_over(
    bus: &dyn EventBus,
    partition: &Partition,
    at: Position,
    until: Position,
) -> Result<bool, BusError> {
    if at >= until {
        return Ok(true);
    }
    let marks = bus.locate(&[at, until].map(|at| (partition.clone(), From::At(at)))).await?;
    let [here, there] = marks[..] else { return Err(BusError::Unavailable("the bus located nothing".into())) };
    Ok(here.ahead == there.ahead && (here.exact || here.ahead == 0))
}

/// The last event before `upto`, and not before `floor`, with the time at which the bus itself says that it was appended: of other events
/// a reader may make it later. `None` where there is none that can be read.
///
/// # Errors
/// The bus's.
pub async fn last_before(
    bus: &dyn EventBus,
    partition: &Partition,
    upto: Position,
    floor: Position,
) -> Result<Option<Record>, BusError> {
    let last = tokio::time::timeout(PATIENCE_BACK, look_back(bus, partition, upto, floor)).await;
    last.unwrap_or_else(|_| Err(BusError::Unavailable("the bus does not give the last event that it has".into())))
}

async fn look_back(
    bus: &dyn EventBus,
    partition: &Partition,
    upto: Position,
    floor: Position,
) -> Result<Option<Record>, BusError> {
    let there = locate(bus, partition, From::At(upto)).await?;
    let (upto, floor) = (upto.min(there.end), floor.max(there.first));
    let mut reach = 1;
    loop {
        let at = Position(upto.0.saturating_sub(reach)).max(floor);
        if at >= upto {
            return Ok(None);
        }
        let here = locate(bus, partition, From::At(at)).await?;
        if here.ahead > there.ahead
            && let Some(last) = last_between(bus, partition, at, upto).await?
        {
            return Ok(Some(last));
        }
        if at == floor {
            return Ok(None);
        }
        reach = reach.saturating_mul(FURTHER);
    }
}

async fn last_between(
    bus: &dyn EventBus,
    partition: &Partition,
    from: Position,
    upto: Position,
) -> Result<Option<Record>, BusError> {
    let mut last = None;
    let mut scan = Scan::new(bus, partition.clone(), from, upto);
    while let Some(mut batch) = scan.next().await? {
        last = batch.records.pop();
    }
    match last {
        Some(record) if record.at > from => {
            // A reader that has read nothing before it has its time from it alone.
            let mut alone = Scan::new(bus, partition.clone(), record.at, Position(record.at.0.saturating_add(1)));
            Ok(alone.next().await?.and_then(|batch| batch.records.into_iter().next()))
        }
        last => Ok(last),
    }
}

/// Reads one partition from a position to an end.
pub struct Scan<'a> {
    bus: &'a dyn EventBus,
    partition: Partition,
    at: Position,
    until: Position,
    reader: Option<Box<dyn Reader>>,
}

impl<'a> Scan<'a> {
    /// Reads what lies from `at` on and before `until`.
    pub fn new(bus: &'a dyn EventBus, partition: Partition, at: Position, until: Position) -> Self {
        Self { bus, partition, at, until, reader: None }
    }

    /// Where it goes on.
    pub fn at(&self) -> Position {
        self.at
    }

    /// The next events; `None` at the end. What was trimmed meanwhile, or is damaged, is passed by.
    ///
    /// # Errors
    /// The bus's.
    pub async fn next(&mut self) -> Result<Option<Batch>, BusError> {
        while self.at < self.until {
            match self.read().await {
                Ok(Some(mut batch)) => {
                    let until = self.until;
                    batch.records.retain(|record| record.at < until);
                    // A batch may reach beyond the end, and whoever asks where this stands has not seen what lies there.
                    self.at = batch.next.max(self.at).min(until);
                    if !batch.records.is_empty() {
                        return Ok(Some(batch));
                    }
                }
                Ok(None) => {
                    if is_over(self.bus, &self.partition, self.at, self.until).await? {
                        self.at = self.until;
                    }
                }
                Err(BusError::Trimmed { first: next } | BusError::Damaged { next, .. }) if next > self.at => {
                    (self.at, self.reader) = (next.min(self.until), None);
                }
                Err(BusError::Ahead { .. }) => self.at = self.until,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// One read; `None` if it takes long.
    async fn read(&mut self) -> Result<Option<Batch>, BusError> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.bus.read(&self.partition, From::At(self.at), READ_BYTES).await?,
        };
        let batch = tokio::time::timeout(PATIENCE, reader.next(READ_BYTES)).await.ok().transpose()?;
        self.reader = Some(reader);
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::names::TopicName;
    use prometheus::Registry;
    use tempfile::TempDir;

    use super::*;
    use crate::bus::TopicSpec;
    use crate::embedded::{EmbeddedBus, EmbeddedOptions};
    use crate::event::Event;
    use crate::metrics::BusMetrics;
    use crate::subscription::test_log::{self, TestLog};

    #[tokio::test]
    async fn it_stands_at_its_end_and_not_where_the_last_batch_reached() {
        let dir = TempDir::new().unwrap();
        let metrics = BusMetrics::new(&Registry::new()).unwrap();
        let bus = EmbeddedBus::open(dir.path(), EmbeddedOptions::new("test", metrics)).unwrap();
        let partition = Partition { topic: TopicName::parse("shop.web.order"), index: 0 };
        bus.declare(&TopicSpec { name: partition.topic.clone(), partitions: 1 }).await.unwrap();
        let event = |n: usize| Event::builder(n.to_string(), "/web", "order").build().unwrap();
        let receipt = bus.publish(&partition, (0..10).map(event).collect()).await.unwrap();
        assert!(receipt.await.iter().all(Result::is_ok));
        let mut scan = Scan::new(&*bus, partition, Position(0), Position(5));
        let mut ids = Vec::new();
        while let Some(batch) = scan.next().await.unwrap() {
            ids.extend(batch.records.iter().map(|record| record.event.id().to_owned()));
        }
        assert_eq!(ids, ["0", "1", "2", "3", "4"]);
        assert_eq!(scan.at(), Position(5));
    }

    #[tokio::test]
    async fn the_last_event_before_a_place_has_its_own_time() {
        let log = TestLog::new();
        log.append("a", 5, 9_000);
        log.append("b", 5, 1_000);
        // Places without events, further than the first look goes.
        log.move_end(400);
        log.append("c", 1, 2_000);
        let partition = test_log::partition();
        let last = async |upto, floor| {
            let last = last_before(&*log, &partition, Position(upto), Position(floor)).await.unwrap();
            last.map(|record| (record.event.id().to_owned(), record.appended))
        };
        let is = |id: &str, millis| Some((id.to_owned(), test_log::time(millis)));
        // A reader that has read what is before says later.
        assert_eq!(last(400, 0).await, is("b9", 1_000));
        assert_eq!(last(7, 0).await, is("b6", 1_000));
        assert_eq!(last(5, 0).await, is("a4", 9_000));
        assert_eq!(last(1_000, 0).await, is("c400", 2_000));
        assert_eq!([last(0, 0).await, last(7, 7).await, last(400, 20).await], [None, None, None]);
    }
}
