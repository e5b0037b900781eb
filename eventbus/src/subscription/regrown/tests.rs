use std::sync::Arc;

use super::*;
use crate::subscription::test_log::{TestLog, millis, partition};

/// A ledger that has passed everything up to `upto`, the latest of it appended at a time in milliseconds.
fn ledger(upto: u128, seen: u64) -> Ledger {
    let mut ledger = Ledger::starting_at(Position(0));
    ledger.advance(Position(upto), 1, millis(seen));
    ledger
}

async fn look(log: &TestLog, ledger: &Ledger) -> Option<Position> {
    let partition = partition();
    let found = Regrown::new().look(log, &[(&partition, ledger)]).await.unwrap();
    found.get(&0).map(|newer| newer.at)
}

/// Thirty events, each 10 ms after the one before.
fn thirty() -> Arc<TestLog> {
    let log = TestLog::new();
    (0..30).for_each(|n| log.append("a", 1, n * 10));
    log
}

#[tokio::test]
async fn a_log_that_is_what_it_was_is_gone_on_in() {
    let log = thirty();
    assert_eq!(look(&log, &ledger(30, 290)).await, None);
    assert_eq!(look(&log, &ledger(12, 110)).await, None, "what lies behind is newer");
    assert_eq!(look(&log, &Ledger::starting_at(Position(12))).await, None, "it has judged nothing");
    // Appended in the same millisecond as the last one that was judged.
    let log = TestLog::new();
    log.append("a", 30, 5);
    assert_eq!(look(&log, &ledger(12, 5)).await, None);
}

#[tokio::test]
async fn one_that_lost_its_end_and_has_grown_beyond_the_frontier_is_gone_back_in() {
    let log = thirty();
    log.replace(20, "b", 15, 1_000);
    assert_eq!(look(&log, &ledger(30, 290)).await, Some(Position(20)));
    assert_eq!(look(&log, &ledger(15, 140)).await, None, "it had come no further than the copy");
    // As far as it was, and less far.
    log.replace(20, "b", 10, 1_000);
    assert_eq!(look(&log, &ledger(30, 290)).await, Some(Position(20)));
    log.replace(20, "b", 3, 1_000);
    assert_eq!(look(&log, &ledger(30, 290)).await, Some(Position(20)));
    // Nothing was written since: that it ends before the frontier is said by whoever reads there.
    log.replace(20, "b", 0, 1_000);
    assert_eq!(look(&log, &ledger(30, 290)).await, None);
}

#[tokio::test]
async fn a_clock_that_was_ahead_before_the_subscription_began_is_no_other_log() {
    let log = TestLog::new();
    log.append("fast", 20, 7_200_000);
    log.append("a", 20, 100);
    assert_eq!(look(&log, &ledger(40, 100)).await, None);
    log.replace(30, "b", 20, 200);
    // Newer than what it has seen is what the clock says that was ahead, too: that is judged again rather than any event lost.
    assert_eq!(look(&log, &ledger(40, 100)).await, Some(Position(0)));
    assert_eq!(look(&log, &ledger(40, 7_200_000)).await, None, "nothing says so");
}

#[tokio::test]
async fn positions_without_events_are_no_other_log() {
    let log = thirty();
    log.move_end(60);
    assert_eq!(look(&log, &ledger(60, 290)).await, None);
    log.append("b", 1, 1_000);
    assert_eq!(look(&log, &ledger(60, 290)).await, None);
}

#[tokio::test]
async fn those_that_open_together_ask_once() {
    let (log, regrown, partition) = (thirty(), Regrown::new(), partition());
    for upto in [30, 30, 29] {
        let ledger = ledger(upto, 290);
        assert_eq!(regrown.look(&*log, &[(&partition, &ledger)]).await.unwrap().len(), 0);
    }
    assert_eq!(log.located(), 1);
    // What was seen less of is not known to be sound.
    regrown.look(&*log, &[(&partition, &ledger(20, 190))]).await.unwrap();
    assert_eq!(log.located(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_less_takes_the_place_of_none_that_says_more() {
    let (log, regrown, partition) = (thirty(), Regrown::new(), partition());
    let at = |millis| Instant::now() + Duration::from_millis(millis);
    let keep = async |ledger: Ledger, millis| {
        let marks = log.locate(&question(&partition, ledger.seen(), ledger.upto())).await.unwrap();
        regrown.judge(&*log, &partition, Sound::new(&ledger, at(millis)), &marks).await.unwrap()
    };
    assert_eq!(keep(ledger(30, 290), 0).await, None);
    assert_eq!(keep(ledger(20, 290), 1).await, None);
    assert!(regrown.is_sound(&partition, Sound::new(&ledger(30, 290), at(2))));
    // It is too old by then.
    assert_eq!(keep(ledger(20, 290), 5_000).await, None);
    assert!(!regrown.is_sound(&partition, Sound::new(&ledger(30, 290), at(5_000))));
    assert!(regrown.is_sound(&partition, Sound::new(&ledger(20, 290), at(5_000))));
}

#[tokio::test]
async fn a_log_in_which_something_is_newer_is_asked_about_again() {
    let log = TestLog::new();
    log.append("fast", 20, 7_200_000);
    log.append("a", 20, 100);
    let (regrown, partition) = (Regrown::new(), partition());
    assert!(regrown.look(&*log, &[(&partition, &ledger(40, 100))]).await.unwrap().is_empty());
    let found = regrown.look(&*log, &[(&partition, &ledger(10, 100))]).await.unwrap();
    assert_eq!(found.get(&0).map(|newer| newer.at), Some(Position(0)));
}

#[tokio::test]
async fn what_is_no_event_at_its_start_says_nothing() {
    let log = TestLog::new();
    log.append("fast", 20, 7_200_000);
    log.move_end(21);
    let mut ledger = Ledger::starting_at(Position(20));
    ledger.advance(Position(21), 0, millis(100));
    assert_eq!(look(&log, &ledger).await, None);
}

#[tokio::test]
async fn the_end_that_a_new_reader_finds_is_no_later_than_what_is_newer() {
    let log = thirty();
    log.replace(20, "b", 5, 1_000);
    let newer = newer_before(&*log, &partition(), millis(290), Position(25)).await.unwrap();
    assert_eq!(newer.map(|newer| newer.at), Some(Position(20)));
    assert_eq!(newer_before(&*log, &partition(), millis(1_000), Position(25)).await.unwrap(), None);
}
