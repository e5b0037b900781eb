//! Feeds on the embedded bus.

use std::future::poll_fn;
use std::time::Duration;

use evoke_api::names::TopicName;
use prometheus::Registry;
use tempfile::TempDir;

use super::*;
use crate::bus::{From, TopicSpec};
use crate::embedded::{EmbeddedBus, EmbeddedOptions, SegmentSizes};
use crate::event::Event;
use crate::metrics::BusMetrics;

const EVENT_BYTES: usize = 1000;

struct Setup {
    bus: Arc<EmbeddedBus>,
    feeds: Feeds,
    metrics: Metrics,
    tasks: TaskTracker,
    cancel: CancellationToken,
    published: usize,
    _dir: TempDir,
}

fn partition() -> Partition {
    Partition { topic: TopicName::parse("default.orders.created"), index: 0 }
}

impl Setup {
    async fn new(window: Window) -> Self {
        let dir = TempDir::new().unwrap();
        let registry = Registry::new();
        let segments = SegmentSizes { first: 64 << 10, largest: 256 << 10 };
        let options = EmbeddedOptions { segments, ..EmbeddedOptions::new("test", BusMetrics::new(&registry).unwrap()) };
        let bus = EmbeddedBus::open(dir.path(), options).unwrap();
        bus.declare(&TopicSpec { name: partition().topic, partitions: 1 }).await.unwrap();
        let (metrics, tasks, cancel) = (Metrics::new(&registry).unwrap(), TaskTracker::new(), CancellationToken::new());
        let feeds = Feeds::new(Arc::clone(&bus) as _, window, metrics.clone(), tasks.clone(), cancel.clone());
        Self { bus, feeds, metrics, tasks, cancel, published: 0, _dir: dir }
    }

    async fn publish(&mut self, count: usize) {
        for _ in 0..count.div_ceil(100) {
            let events = (0..count.min(100)).map(|n| {
                let id = (self.published + n).to_string();
                Event::builder(id, "/test", "t").data(vec![b'x'; EVENT_BYTES]).build().unwrap()
            });
            let receipt = self.bus.publish(&partition(), events.collect()).await.unwrap();
            assert!(receipt.await.iter().all(Result::is_ok));
            self.published += count.min(100);
        }
    }

    fn cursor(&self, at: u128) -> Reading {
        Reading { cursor: self.feeds.cursor(&partition(), Position(at), Millis(0)), next: at as usize }
    }

    fn read_bytes(&self, reader: &str) -> u64 {
        self.metrics.read.with_label_values(&[reader]).get()
    }

    fn kept(&self) -> usize {
        assert_eq!(self.metrics.window_bytes.get() as usize, self.feeds.0.window_bytes.load(Ordering::Acquire));
        self.feeds.0.window_bytes.load(Ordering::Acquire)
    }
}

/// A cursor that checks that every event comes, once and in order.
struct Reading {
    cursor: Cursor,
    next: usize,
}

impl Reading {
    async fn slice(&mut self) -> Result<Slice, Gone> {
        let slice =
            tokio::time::timeout(Duration::from_secs(20), poll_fn(|cx| self.cursor.poll_next(cx))).await.unwrap()?;
        for record in slice.records() {
            assert_eq!((record.event.id(), record.at.0), (&*self.next.to_string(), self.next as u128));
            self.next += 1;
        }
        assert_eq!(slice.next().0, self.next as u128);
        Ok(slice)
    }

    async fn upto(&mut self, end: usize) {
        while self.next < end {
            self.slice().await.unwrap();
        }
        assert_eq!(self.next, end);
    }
}

#[tokio::test]
async fn cursors_at_the_head_share_one_read_and_nothing_is_kept_for_long() {
    let mut setup = Setup::new(Window::default()).await;
    let mut readings: Vec<_> = (0..20).map(|_| setup.cursor(0)).collect();
    for round in 1..=10 {
        setup.publish(100).await;
        for reading in &mut readings {
            reading.upto(round * 100).await;
        }
        assert_eq!(setup.kept(), 0, "in round {round}");
    }
    let bytes = setup.read_bytes("head");
    assert!((1_000_000..1_200_000).contains(&bytes), "{bytes}");
    assert_eq!(setup.read_bytes("catch_up"), 0);
}

#[tokio::test]
async fn nothing_is_read_that_nobody_asks_for() {
    let mut setup = Setup::new(Window::default()).await;
    let mut reading = setup.cursor(0);
    setup.publish(5000).await;
    reading.slice().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(setup.read_bytes("head") <= 520 << 10);
}

#[tokio::test]
async fn a_slow_cursor_costs_a_bounded_window_and_catches_up() {
    let window = Window { partition: 1 << 20, total: 16 << 20 };
    let mut setup = Setup::new(window).await;
    let (mut fast, mut slow) = (setup.cursor(0), setup.cursor(0));
    for round in 1..=20 {
        setup.publish(500).await;
        fast.upto(round * 500).await;
        assert!(setup.kept() <= window.partition, "{}", setup.kept());
    }
    slow.upto(10_000).await;
    assert_eq!(setup.kept(), 0);
    assert!(setup.read_bytes("catch_up") > 8_000_000);
    // At the head again, both share.
    let before = setup.read_bytes("catch_up");
    setup.publish(100).await;
    fast.upto(10_100).await;
    slow.upto(10_100).await;
    assert_eq!(setup.read_bytes("catch_up"), before);
}

#[tokio::test]
async fn the_total_of_all_windows_is_bounded() {
    let mut setup = Setup::new(Window { partition: 4 << 20, total: 1 << 20 }).await;
    let (mut fast, slow) = (setup.cursor(0), setup.cursor(0));
    setup.publish(5000).await;
    fast.upto(5000).await;
    assert!(setup.kept() <= (1 << 20) + (512 << 10), "{}", setup.kept());
    drop(slow);
    assert_eq!(setup.kept(), 0);
}

#[tokio::test]
async fn cursors_that_are_behind_at_different_places_all_get_on() {
    let mut setup = Setup::new(Window { partition: 100 << 10, total: 1 << 20 }).await;
    setup.publish(5000).await;
    let mut readings: Vec<_> = (0..10).map(|n| setup.cursor(n * 450)).collect();
    let mut head = setup.cursor(5000);
    let reads = readings.iter_mut().map(|reading| reading.upto(5000));
    futures_util::future::join_all(reads).await;
    setup.publish(100).await;
    head.upto(5100).await;
    for reading in &mut readings {
        reading.upto(5100).await;
    }
}

#[tokio::test]
async fn cursors_that_are_behind_at_the_same_place_share_their_reads() {
    let mut setup = Setup::new(Window::default()).await;
    setup.publish(2000).await;
    let mut readings: Vec<_> = (0..10).map(|_| setup.cursor(0)).collect();
    let mut head = setup.cursor(2000);
    assert!(poll_fn(|cx| Poll::Ready(head.cursor.poll_next(cx))).await.is_pending());
    while readings[0].next < 2000 {
        for reading in &mut readings {
            reading.slice().await.unwrap();
        }
    }
    let bytes = setup.read_bytes("catch_up");
    assert!((2_000_000..4_000_000).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn a_cursor_that_does_not_ask_stops_nobody_who_is_behind_or_ahead() {
    let mut setup = Setup::new(Window { partition: 100 << 10, total: 1 << 20 }).await;
    setup.publish(3000).await;
    let (mut stuck, mut lagging, mut head) = (setup.cursor(0), setup.cursor(500), setup.cursor(3000));
    assert!(poll_fn(|cx| Poll::Ready(head.cursor.poll_next(cx))).await.is_pending());
    stuck.slice().await.unwrap();
    lagging.upto(3000).await;
    setup.publish(100).await;
    head.upto(3100).await;
    lagging.upto(3100).await;
    stuck.upto(3100).await;
}

#[tokio::test]
async fn a_cursor_further_than_the_head_reader_moves_it_and_loses_nobody() {
    let mut setup = Setup::new(Window::default()).await;
    setup.publish(1000).await;
    let mut first = setup.cursor(1000);
    assert!(poll_fn(|cx| Poll::Ready(first.cursor.poll_next(cx))).await.is_pending());
    setup.publish(100).await;
    // It begins beyond what the head reader has read.
    let mut second = setup.cursor(1100);
    assert!(poll_fn(|cx| Poll::Ready(second.cursor.poll_next(cx))).await.is_pending());
    first.upto(1100).await;
    setup.publish(100).await;
    first.upto(1200).await;
    second.upto(1200).await;
}

#[tokio::test]
async fn what_is_gone_is_said_at_the_head_and_behind_it_and_a_seek_goes_on() {
    let mut setup = Setup::new(Window::default()).await;
    setup.publish(3000).await;
    setup.bus.trim(&partition(), Position(2000)).await.unwrap();
    let first = setup.bus.locate(&[(partition(), From::First)]).await.unwrap()[0].first;
    assert!(first > Position(1000));
    let mut alone = setup.cursor(0);
    let gone = Gone::Trimmed { first: Point { at: first, before: None } };
    assert_eq!(alone.slice().await.unwrap_err(), gone);
    let mut head = setup.cursor(3000);
    assert!(poll_fn(|cx| Poll::Ready(head.cursor.poll_next(cx))).await.is_pending());
    assert_eq!(alone.slice().await.unwrap_err(), gone);
    alone.cursor.seek(first);
    alone.next = first.0 as usize;
    alone.upto(3000).await;
    let mut beyond = setup.cursor(4000);
    assert_eq!(beyond.slice().await.unwrap_err(), Gone::Ahead { end: Point { at: Position(3000), before: None } });
    setup.publish(100).await;
    head.upto(3100).await;
}

#[tokio::test]
async fn tasks_end_with_the_last_cursor_and_waiting_cursors_with_the_bus() {
    let setup = Setup::new(Window::default()).await;
    let mut reading = setup.cursor(0);
    let (mut other, waits) = (setup.cursor(0), setup.cancel.clone());
    assert_eq!(setup.tasks.len(), 2);
    let cancel = async {
        tokio::task::yield_now().await;
        waits.cancel();
    };
    let (gone, ()) = futures_util::future::join(reading.slice(), cancel).await;
    assert_eq!(gone.unwrap_err(), Gone::Closed);
    assert_eq!(other.slice().await.unwrap_err(), Gone::Closed);
    drop((reading, other));
    setup.tasks.close();
    setup.tasks.wait().await;

    let setup = Setup::new(Window::default()).await;
    drop(setup.cursor(0));
    setup.tasks.close();
    setup.tasks.wait().await;
    assert!(setup.feeds.0.feeds.lock().is_empty());
}

#[test]
fn a_slice_counts_what_was_lost_between_where_it_begins_and_ends() {
    let gaps = [(5, 8), (10, 12)].map(|(from, to)| Position(from)..Position(to)).into();
    let batch = Arc::new(Batch { next: Position(20), gaps, ..Batch::default() });
    let lost = |from, limit| Slice::new(&batch, Position(from), Position(limit)).lost();
    assert_eq!([lost(0, 20), lost(6, 11), lost(8, 10), lost(12, 20)], [5, 3, 0, 0]);
}

#[test]
fn a_slice_knows_how_much_was_appended_only_before_the_end_of_its_batch() {
    let batch = Arc::new(Batch { next: Position(20), before: Some(7), ..Batch::default() });
    let before = |limit, upto| Slice::new(&batch, Position(0), Position(limit)).before(Position(upto));
    assert_eq!([before(20, 20), before(30, 20), before(20, 19), before(10, 10)], [Some(7), Some(7), None, None]);
}
