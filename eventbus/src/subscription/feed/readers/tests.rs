//! Feeds of a log that loses what it had. Nobody asks again here who is not woken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use prometheus::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::subscription::feed::{Cursor, Feeds, Window};
use crate::subscription::ledger::Millis;
use crate::subscription::metrics::Metrics;
use crate::subscription::test_log::{TestLog, millis, partition};

const SOON: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Bell {
    rung: AtomicUsize,
    rings: Notify,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        self.rings.notify_one();
    }
}

fn feeds(log: &Arc<TestLog>) -> Feeds {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    Feeds::new(Arc::clone(log) as _, Window::default(), metrics, TaskTracker::new(), CancellationToken::new())
}

struct Reading {
    cursor: Cursor,
    bell: Arc<Bell>,
}

impl Reading {
    fn at(feeds: &Feeds, at: u128) -> Self {
        Self::having_seen(feeds, at, Millis(0))
    }

    /// One that has passed something before.
    fn having_seen(feeds: &Feeds, at: u128, seen: Millis) -> Self {
        Self { cursor: feeds.cursor(&partition(), Position(at), seen), bell: Arc::default() }
    }

    fn poll(&mut self) -> Poll<Result<Slice, Gone>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.cursor.poll_next(&Context::from_waker(&waker))
    }

    async fn slice(&mut self) -> Result<Slice, Gone> {
        loop {
            if let Poll::Ready(slice) = self.poll() {
                return slice;
            }
            tokio::time::timeout(SOON, self.bell.rings.notified()).await.expect("it is woken");
        }
    }

    /// The ids of what it reads up to `end`.
    async fn upto(&mut self, end: u128) -> Vec<String> {
        let mut ids = Vec::new();
        while self.cursor.position() < Position(end) {
            ids.extend(self.slice().await.unwrap().records().iter().map(|record| record.event.id().to_owned()));
        }
        assert_eq!(self.cursor.position(), Position(end));
        ids
    }
}

fn ids(name: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{name}{n}")).collect()
}

fn ahead(end: u128) -> Gone {
    Gone::Ahead { end: Position(end).into() }
}

#[test]
fn a_head_that_fails_is_said_to_who_waits_there_and_leaves_the_others_waiting() {
    let mut state = State::default();
    let bells: [Arc<Bell>; 3] = Default::default();
    let [head, moved, behind] = [20, 30, 10].map(|at| state.add(Position(at), Millis(0)));
    let waker = |n: usize| Waker::from(Arc::clone(&bells[n]));
    state.ask(head, Ask::Head(waker(0)));
    state.ask(moved, Ask::Head(waker(1)));
    state.ask(behind, Ask::Behind(waker(2)));
    state.fail(Position(20), Gone::Trimmed { first: Position(50).into() });
    assert!(matches!(state.cursors[&head].ask, Ask::Answer(Err(Gone::Trimmed { .. }))));
    assert!(matches!(state.cursors[&moved].ask, Ask::Nothing));
    assert!(matches!(state.cursors[&behind].ask, Ask::Behind(_)));
    assert_eq!(bells.map(|bell| bell.rung.load(Ordering::Relaxed)), [1, 1, 0]);
}

#[tokio::test]
async fn who_is_behind_a_head_that_fails_is_served() {
    let log = TestLog::new();
    log.append("a", 100, 0);
    log.trim_to(50);
    let feeds = feeds(&log);
    let (mut head, mut behind) = (Reading::at(&feeds, 20), Reading::at(&feeds, 10));
    assert!(head.poll().is_pending() && behind.poll().is_pending());
    for reading in [&mut head, &mut behind] {
        assert_eq!(reading.slice().await.unwrap_err(), Gone::Trimmed { first: Position(50).into() });
        reading.cursor.seek(Position(50));
    }
    assert_eq!([head.upto(100).await, behind.upto(100).await], [ids("a", 50..100), ids("a", 50..100)]);
}

#[tokio::test]
async fn an_older_copy_takes_everybody_back_who_has_read_beyond_it() {
    let log = TestLog::new();
    log.append("a", 30, 0);
    let feeds = feeds(&log);
    let (mut waits, mut works, mut lags) = (Reading::at(&feeds, 0), Reading::at(&feeds, 0), Reading::at(&feeds, 5));
    assert_eq!([waits.upto(30).await, works.upto(30).await], [ids("a", 0..30), ids("a", 0..30)]);
    // One waits for more, and another is busy with what it has.
    assert!(waits.poll().is_pending());
    log.replace(20, "b", 40, 1_000);
    assert_eq!(waits.slice().await.unwrap_err(), ahead(20));
    // It is told at once, and not read to from where it was.
    let Poll::Ready(told) = works.poll() else { panic!("it is told") };
    assert_eq!(told.unwrap_err(), ahead(20));
    for reading in [&mut waits, &mut works] {
        reading.cursor.seek(Position(20));
        assert_eq!(reading.upto(60).await, ids("b", 20..60));
    }
    assert_eq!(lags.upto(60).await, [ids("a", 5..20), ids("b", 20..60)].concat());
}

#[tokio::test]
async fn a_loss_is_not_forgotten_while_nobody_says_where_the_log_goes_on() {
    let log = TestLog::new();
    log.append("a", 30, 0);
    let feeds = feeds(&log);
    let mut head = Reading::at(&feeds, 0);
    assert_eq!(head.upto(30).await, ids("a", 0..30));
    assert!(head.poll().is_pending());
    log.fail_locates(2);
    log.replace(20, "b", 40, 1_000);
    assert_eq!(head.slice().await.unwrap_err(), ahead(20));
    head.cursor.seek(Position(20));
    assert_eq!(head.upto(60).await, ids("b", 20..60));
}

#[tokio::test]
async fn who_has_read_nothing_since_it_came_goes_back_to_what_is_newer_than_it_has_seen() {
    let log = TestLog::new();
    log.append("a", 30, 0);
    let feeds = feeds(&log);
    let (mut head, mut new) = (Reading::having_seen(&feeds, 30, millis(0)), Reading::at(&feeds, 15));
    assert!(head.poll().is_pending() && new.poll().is_pending());
    log.replace(20, "b", 5, 1_000);
    assert_eq!(head.slice().await.unwrap_err(), ahead(20));
    head.cursor.seek(Position(20));
    assert_eq!(head.upto(25).await, ids("b", 20..25));
}

#[tokio::test]
async fn a_reader_that_has_read_nothing_goes_on_after_an_outage_only_in_the_same_log() {
    let log = TestLog::new();
    log.append("a", 30, 0);
    let feeds = feeds(&log);
    let mut head = Reading::having_seen(&feeds, 30, millis(0));
    // Nothing was lost.
    log.fail_read(30);
    log.append("a", 5, 500);
    assert_eq!(head.upto(35).await, ids("a", 30..35));
    drop(head);
    let mut head = Reading::having_seen(&feeds, 35, millis(500));
    assert!(head.poll().is_pending());
    log.fail_read(35);
    log.replace(20, "b", 40, 1_000);
    assert_eq!(head.slice().await.unwrap_err(), ahead(20));
    head.cursor.seek(Position(20));
    assert_eq!(head.upto(60).await, ids("b", 20..60));
}

#[tokio::test]
async fn a_reader_of_those_behind_knows_the_log_again_after_an_outage() {
    let log = TestLog::new();
    log.append("a", 200, 0);
    let feeds = feeds(&log);
    let (mut head, mut lags) = (Reading::at(&feeds, 200), Reading::at(&feeds, 0));
    assert!(head.poll().is_pending());
    assert_eq!(lags.slice().await.unwrap().records().len(), 50);
    log.fail_read(50);
    log.replace(20, "b", 300, 1_000);
    assert_eq!(lags.slice().await.unwrap_err(), ahead(20));
    lags.cursor.seek(Position(20));
    assert_eq!(lags.upto(320).await, ids("b", 20..320));
}

#[tokio::test]
async fn what_was_read_of_a_lost_end_is_given_to_nobody_who_catches_up() {
    let log = TestLog::new();
    log.append("a", 200, 0);
    let feeds = feeds(&log);
    // What was read for those that are behind is kept as long as there is one.
    let _stays = Reading::at(&feeds, 0);
    let (mut head, mut lags) = (Reading::at(&feeds, 200), Reading::at(&feeds, 110));
    assert!(head.poll().is_pending());
    assert_eq!(lags.upto(200).await, ids("a", 110..200));
    log.append("a", 1, 0);
    assert_eq!(head.upto(201).await, ["a200"]);
    assert!(head.poll().is_pending());
    log.replace(120, "b", 100, 1_000);
    assert_eq!(head.slice().await.unwrap_err(), ahead(120));
    head.cursor.seek(Position(220));
    assert!(head.poll().is_pending());
    assert_eq!(lags.slice().await.unwrap_err(), ahead(120));
    lags.cursor.seek(Position(120));
    assert_eq!(lags.upto(220).await, ids("b", 120..220));
}

#[tokio::test]
async fn a_hole_is_passed_as_far_as_the_log_goes() {
    let log = TestLog::new();
    log.append("a", 10, 0);
    log.move_end(20);
    let feeds = feeds(&log);
    let (mut head, mut lags) = (Reading::at(&feeds, 20), Reading::at(&feeds, 5));
    assert!(head.poll().is_pending());
    assert_eq!(lags.upto(20).await, ids("a", 5..10));
    // The head lies beyond the end that the log has by now, and nobody has heard of it.
    let mut lags = Reading::at(&feeds, 10);
    log.move_end(15);
    assert_eq!(lags.upto(15).await, Vec::<String>::new());
    log.append("b", 10, 1_000);
    assert_eq!(lags.upto(25).await, ids("b", 15..25));
}

#[tokio::test]
async fn who_asked_from_behind_reads_at_the_head_once_nobody_else_does() {
    let log = TestLog::new();
    log.append("a", 10, 0);
    let feeds = feeds(&log);
    let (mut beyond, mut last) = (Reading::at(&feeds, 30), Reading::at(&feeds, 10));
    assert!(beyond.poll().is_pending() && last.poll().is_pending());
    assert_eq!(beyond.slice().await.unwrap_err(), ahead(10));
    log.append("a", 5, 0);
    assert_eq!(last.upto(15).await, ids("a", 10..15));
}
