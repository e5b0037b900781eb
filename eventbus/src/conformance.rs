//! What every bus must do, as tests on the trait. A back-end gives a [`Harness`], and its tests are made of
//! [`with_conformance_tests!`](crate::with_conformance_tests).
//!
//! The tests hold for a bus that fails as the contract lets it: calls that may pass are made again, and what is not known to be
//! stored is published again. They take positions for opaque, and know events by their ids.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a suite of tests")]

mod positions;
mod publishing;
mod reading;
mod state;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::TopicName;

use crate::bus::{BusError, EventBus, From, Mark, Partition, Position, Reader, Receipt, Record, Topic, TopicSpec};
use crate::event::Event;

pub use self::positions::*;
pub use self::publishing::*;
pub use self::reading::*;
pub use self::state::*;

/// A wait for something that must come; none of the tests takes as long when it passes.
const SOON: Duration = Duration::from_secs(20);
/// A wait for something that must not come.
const A_WHILE: Duration = Duration::from_millis(300);

/// The limits of a bus under test.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Its `maxEventBytes`.
    pub max_event_bytes: usize,
    /// Its `maxBytes`; `onFull` is `block`.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_event_bytes: 64 << 10, max_bytes: 16 << 20 }
    }
}

/// Makes buses to test, and does to them what comes from outside.
#[allow(async_fn_in_trait, reason = "the tests run where they are called")]
pub trait Harness {
    /// Where a bus keeps its events: a directory, or a prefix on a broker.
    type Site;

    /// False for a back-end that cannot refuse by size.
    const FULL_BLOCKS: bool = true;

    /// A new, empty site.
    async fn site(&self, limits: Limits) -> Self::Site;

    /// Opens the bus of a site.
    async fn open(&self, site: &Self::Site) -> Arc<dyn EventBus>;

    /// Cuts the bus off from what it keeps, without a goodbye, and gives a bus to go on with: the same one where it connects again
    /// by itself, a new one on the same site where the process must start again.
    async fn cut(&self, site: &Self::Site, bus: Arc<dyn EventBus>) -> Arc<dyn EventBus>;

    /// Takes the last events of a topic away, as a broker does that was put back to an older copy; some stay.
    async fn lose_tail(&self, site: &Self::Site, bus: Arc<dyn EventBus>, partition: &Partition) -> Arc<dyn EventBus>;

    /// Appends an event as another program would; the default is for a bus that no other program can write to.
    async fn publish_foreign(&self, _: &Self::Site, bus: &Arc<dyn EventBus>, to: &Partition, event: Event) {
        store_all(bus, to, vec![event]).await;
    }
}

/// Calls a macro with the name of every function of the suite, after what it is given itself: `with_conformance_tests!(callback! ARGS)`
/// is `callback! { ARGS; receipt_after_durable ... }`.
#[macro_export]
macro_rules! with_conformance_tests {
    ($callback:ident! $($args:tt)*) => {
        $callback! { $($args)*;
            receipt_after_durable publish_results_per_event order_per_partition_over_failure full_blocks_then_resumes
            too_large_refused_alone redeclare_is_noop drift_reported partition_count_fixed read_first_next_at_time
            read_waits_at_end reader_resumes_after_cut_no_gap_no_repeat next_cancel_safe prefetch_bounded_in_bytes
            one_event_larger_than_budget two_readers_independent time_never_back trimmed_error_names_first
            ahead_error_after_lost_tail locate_counts_without_reader losses_are_counted_to_the_event
            trim_keeps_at_and_above foreign_event_readable
            store_expect_one_winner_of_many load_sees_resolved_stores large_values_are_kept_and_larger_ones_refused
            headers_and_bytes_roundtrip closed_bus_says_so
        }
    };
}

/// Makes a test of each function that is named, on one harness.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr; $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::$name(&$harness).await;
            }
        )*
    };
}

/// Makes a call again while its failure may pass.
async fn again<T>(mut call: impl AsyncFnMut() -> Result<T, BusError>) -> Result<T, BusError> {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        match call().await {
            Err(BusError::Unavailable(_)) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            other => return other,
        }
    }
}

/// The partition that the tests use.
fn partition() -> Partition {
    Partition { topic: TopicName::parse("conformance.source.event"), index: 0 }
}

async fn declare(bus: &Arc<dyn EventBus>, partitions: u16) -> Topic {
    let spec = TopicSpec { name: partition().topic, partitions };
    again(async || bus.declare(&spec).await).await.unwrap()
}

/// A site with the topic.
async fn start<H: Harness>(harness: &H, limits: Limits) -> (H::Site, Arc<dyn EventBus>) {
    let site = harness.site(limits).await;
    let bus = harness.open(&site).await;
    declare(&bus, 1).await;
    (site, bus)
}

fn event(id: usize, bytes: usize) -> Event {
    Event::builder(id.to_string(), "/conformance", "test").data(vec![b'd'; bytes]).build().unwrap()
}

fn events(ids: std::ops::Range<usize>, bytes: usize) -> Vec<Event> {
    ids.map(|id| event(id, bytes)).collect()
}

async fn publish(bus: &Arc<dyn EventBus>, to: &Partition, events: &[Event]) -> Receipt {
    again(async || bus.publish(to, events.to_vec()).await).await.unwrap()
}

/// Publishes until all is known to be stored.
async fn store(bus: &Arc<dyn EventBus>, to: &Partition, events: &[Event]) {
    loop {
        let results = publish(bus, to, events).await.await;
        assert_eq!(results.len(), events.len(), "one result an event");
        if results.iter().all(Result::is_ok) {
            return;
        }
    }
}

/// Publishes until all is known to be stored; where each was, the last time.
async fn store_all(bus: &Arc<dyn EventBus>, to: &Partition, events: Vec<Event>) -> Vec<Position> {
    let end = async || again(async || bus.locate(&[(to.clone(), From::Next)]).await).await.unwrap()[0].end;
    let before = end().await;
    store(bus, to, &events).await;
    let end = end().await;
    let mut reader = again(async || bus.read(to, From::At(before), 64 << 10).await).await.unwrap();
    let (mut next, mut places) = (before, HashMap::new());
    while next < end {
        let batch = tokio::time::timeout(SOON, again(async || reader.next(64 << 10).await)).await;
        let batch = batch.expect("a reader gives what a receipt calls stored").unwrap();
        next = next.max(batch.next);
        places.extend(batch.records.into_iter().map(|record| (record.event.id().to_owned(), record.at)));
    }
    let place = |event: &Event| places.get(event.id()).copied();
    let positions: Vec<_> = events.iter().map(|event| place(event).expect("what a receipt calls stored")).collect();
    assert!(positions.is_sorted_by(|a, b| a < b), "positions of one call rise: {positions:?}");
    positions
}

async fn open_reader(bus: &Arc<dyn EventBus>, from: From) -> Result<Box<dyn Reader>, BusError> {
    let partition = partition();
    again(async || bus.read(&partition, from, 64 << 10).await).await
}

/// The next records, not none.
async fn next_records(reader: &mut Box<dyn Reader>, max_bytes: usize) -> Result<Vec<Record>, BusError> {
    loop {
        let batch = tokio::time::timeout(SOON, again(async || reader.next(max_bytes).await)).await;
        let batch = batch.expect("a reader gives what is there")?;
        if !batch.records.is_empty() {
            return Ok(batch.records);
        }
    }
}

/// Reads until every id below `ids` was seen; what was read, with repeats.
async fn read_until(reader: &mut Box<dyn Reader>, ids: usize) -> Vec<Record> {
    let mut missing: HashSet<String> = (0..ids).map(|id| id.to_string()).collect();
    let mut records = Vec::new();
    while !missing.is_empty() {
        for record in next_records(reader, 16 << 10).await.unwrap() {
            missing.remove(record.event.id());
            records.push(record);
        }
    }
    records
}

/// The ids in the order in which each came first.
fn first_seen(records: &[Record]) -> Vec<usize> {
    let mut seen = HashSet::new();
    records.iter().map(|r| r.event.id().parse().unwrap()).filter(|id| seen.insert(*id)).collect()
}

fn assert_rising(records: &[Record]) {
    assert!(records.is_sorted_by(|a, b| a.at < b.at), "positions rise, without repeats");
}

async fn mark(bus: &Arc<dyn EventBus>, from: From) -> Mark {
    again(async || bus.locate(&[(partition(), from)]).await).await.unwrap()[0]
}
