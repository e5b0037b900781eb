//! Reads a part of a log that has an end, without a subscription: what lies there is looked at and nothing is moved.

use std::time::Duration;

use crate::bus::{Batch, BusError, EventBus, From, Mark, Partition, Position, Reader};

const READ_BYTES: usize = 256 << 10;
/// A read that takes longer may wait for an event that will never come: positions have holes.
const PATIENCE: Duration = Duration::from_millis(500);

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

    /// The next events; `None` at the end. What was trimmed meanwhile is passed by.
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
                Err(BusError::Trimmed { first }) if first > self.at => {
                    (self.at, self.reader) = (first.min(self.until), None);
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
}
