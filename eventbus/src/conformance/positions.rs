//! Positions that are gone, and counting without reading.

use std::sync::Arc;

use super::{
    Harness, Limits, SOON, again, events, first_seen, mark, next_records, open_reader, partition, start, store,
    store_all,
};
use crate::bus::{BusError, EventBus, From, Point, Position};
use crate::subscription::ledger::{Ledger, Millis};

/// Enough to fill two thirds of a small bus, which makes a trim worth its while on every back-end.
const EVENTS: usize = 700;
const LIMITS: Limits = Limits { max_event_bytes: 64 << 10, max_bytes: 1 << 20 };

/// A position below the log is an error that names the first one that is kept.
pub async fn trimmed_error_names_first<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, LIMITS).await;
    let partition = partition();
    let mut positions = Vec::new();
    for chunk in 0..EVENTS / 100 {
        positions.extend(store_all(&bus, &partition, events(chunk * 100..chunk * 100 + 100, 1000)).await);
    }
    let mut behind = open_reader(&bus, From::At(positions[0])).await.unwrap();
    again(async || bus.trim(&partition, positions[EVENTS / 2]).await).await.unwrap();
    let first = mark(&bus, From::First).await.first;
    assert!(first > positions[0], "half of the log is trimmed, some of it at least is deleted");
    let trimmed = BusError::Trimmed { first };
    assert_eq!(open_reader(&bus, From::At(positions[0])).await.err(), Some(trimmed.clone()));
    assert_eq!(next_records(&mut behind, 1).await.err(), Some(trimmed));
    let mut reader = open_reader(&bus, From::At(first)).await.unwrap();
    assert_eq!(next_records(&mut reader, 1).await.unwrap()[0].at, first);
}

/// A position beyond the end is an error: the bus lost events, or was made anew.
pub async fn ahead_error_after_lost_tail<H: Harness>(harness: &H) {
    let (site, bus) = start(harness, Limits::default()).await;
    for id in 0..100 {
        store(&bus, &partition(), &events(id..id + 1, 100)).await;
    }
    let after = mark(&bus, From::Next).await.end;
    drop(open_reader(&bus, From::At(mark(&bus, From::Next).await.end)).await.unwrap());
    let bus = harness.lose_tail(&site, bus, &partition()).await;
    let now = mark(&bus, From::Next).await;
    // It is the log without its tail, or another log that comes after it.
    let (expected, ahead) = match now.end < after {
        true => (BusError::Ahead { end: now.end }, 0),
        false => (BusError::Trimmed { first: now.first }, mark(&bus, From::First).await.ahead),
    };
    assert_eq!(open_reader(&bus, From::At(after)).await.err(), Some(expected));
    assert_eq!(mark(&bus, From::At(after)).await.ahead, ahead);
}

/// Lag is counted without a reader.
pub async fn locate_counts_without_reader<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    let empty = mark(&bus, From::First).await;
    assert_eq!(empty.ahead, 0);
    assert_eq!(again(async || bus.locate(&[]).await).await.unwrap(), []);
    let positions = store_all(&bus, &partition(), events(0..100, 100)).await;
    let start = mark(&bus, From::At(positions[0])).await;
    assert_eq!(start.at, positions[0]);
    for (i, position) in positions.iter().enumerate() {
        let found = mark(&bus, From::At(*position)).await;
        assert_eq!((found.at, found.first, found.end), (*position, start.first, start.end));
        if found.exact {
            assert_eq!(found.ahead, 100 - i as u64);
        }
    }
    let next = mark(&bus, From::Next).await;
    assert_eq!((next.at, next.ahead), (next.end, 0));
    let asked = [(partition(), From::Next), (partition(), From::At(positions[99]))];
    let both = again(async || bus.locate(&asked).await).await.unwrap();
    assert_eq!(both.iter().map(|m| m.ahead).collect::<Vec<_>>(), [0, 1]);
    let unknown = crate::bus::Partition { topic: evoke_api::names::TopicName::parse("never.declared"), index: 0 };
    let error = again(async || bus.locate(&[(unknown.clone(), From::First)]).await).await;
    assert_eq!(error, Err(BusError::NoTopic(unknown.topic)));
}

/// What a subscription loses with the beginning of its log is counted to the event, where it began and however much it had read.
pub async fn losses_are_counted_to_the_event<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, LIMITS).await;
    let partition = partition();
    let mut ids = (0..EVENTS).step_by(100).map(|first| events(first..first + 100, 1000));
    // What was there before is none of its own.
    store(&bus, &partition, &ids.next().unwrap()).await;
    let begin = mark(&bus, From::Next).await.point();
    for events in ids {
        store(&bus, &partition, &events).await;
    }
    let all = positions_from(&bus, begin).await;
    let (mut ledger, mut next) = (Ledger::starting_at(begin), 0);
    for (evaluated, needed) in [(10, 250), (50, 450), (20, 580)] {
        next += evaluated;
        ledger.advance(all[next], evaluated as u64, Millis(0));
        again(async || bus.trim(&partition, all[needed]).await).await.unwrap();
        let first = mark(&bus, From::First).await.point();
        let lost = all[next..].iter().filter(|at| **at < first.at).count();
        assert!(lost > 0, "of what lies between {next} and {needed}, nothing is trimmed");
        assert_eq!(ledger.lost(mark(&bus, From::At(ledger.upto())).await.begin()).unread, Some(lost as u64));
        assert_eq!(ledger.trimmed(first).unread, Some(lost as u64));
        next += lost;
        let (lag, is_exact) = ledger.lag(&mark(&bus, From::At(ledger.upto())).await);
        assert!(!is_exact || lag == (all.len() - next) as u64, "{lag} of {} lie ahead", all.len() - next);
    }
}

/// Where every event from `begin` on is. What readers count on the way is right.
async fn positions_from(bus: &Arc<dyn EventBus>, begin: Point) -> Vec<Position> {
    let end = mark(bus, From::Next).await.end;
    let mut reader = open_reader(bus, From::At(begin.at)).await.unwrap();
    let (mut all, mut next) = (Vec::new(), begin.at);
    while next < end {
        let batch = tokio::time::timeout(SOON, again(async || reader.next(64 << 10).await)).await;
        let batch = batch.expect("a reader gives what is there").unwrap();
        next = next.max(batch.next);
        all.extend(batch.records.iter().map(|record| record.at));
        if let (Some(now), Some(then)) = (batch.before, begin.before) {
            assert_eq!(now - then, all.len() as u64, "events up to {next}");
        }
    }
    all
}

/// A trim never takes what it was told to keep.
pub async fn trim_keeps_at_and_above<H: Harness>(harness: &H) {
    let (site, bus) = start(harness, LIMITS).await;
    let partition = partition();
    let mut positions = Vec::new();
    for chunk in 0..EVENTS / 100 {
        positions.extend(store_all(&bus, &partition, events(chunk * 100..chunk * 100 + 100, 1000)).await);
    }
    for kept in [0, 1, 250, 333, 500, EVENTS - 1] {
        again(async || bus.trim(&partition, positions[kept]).await).await.unwrap();
        let first = mark(&bus, From::First).await.first;
        assert!(first <= positions[kept], "{first} is above {}", positions[kept]);
        let mut reader = open_reader(&bus, From::At(positions[kept])).await.unwrap();
        assert_eq!(next_records(&mut reader, 1).await.unwrap()[0].at, positions[kept]);
    }
    let stored = again(async || bus.stored_bytes(&partition).await).await.unwrap();
    assert!(stored.is_none_or(|bytes| bytes < 700_000), "{stored:?} bytes are still stored");
    let bus = harness.cut(&site, bus).await;
    again(async || bus.trim(&partition, positions[EVENTS - 1]).await).await.unwrap();
    let mut reader = open_reader(&bus, From::At(positions[EVENTS - 1])).await.unwrap();
    assert_eq!(next_records(&mut reader, 1).await.unwrap()[0].at, positions[EVENTS - 1]);
    // An id of its own: a bus may recognise what was published before.
    let more = store_all(&bus, &partition, events(EVENTS..EVENTS + 1, 10)).await;
    assert!(more[0] > positions[EVENTS - 1], "positions go on after a trim");
    let mut reader = open_reader(&bus, From::At(more[0])).await.unwrap();
    assert_eq!(first_seen(&next_records(&mut reader, 1).await.unwrap()), [EVENTS]);
}
