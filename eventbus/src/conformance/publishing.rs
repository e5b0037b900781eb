//! Topics, and events on their way in.

use super::{
    A_WHILE, Harness, Limits, SOON, assert_rising, declare, event, events, first_seen, mark, open_reader, partition,
    publish, read_until, start, store,
};
use crate::bus::{From, Health, PublishError};
use crate::event::Event;

/// What a receipt calls stored is there after the process or the connection went away.
pub async fn receipt_after_durable<H: Harness>(harness: &H) {
    let (site, mut bus) = start(harness, Limits::default()).await;
    for round in 0..5 {
        store(&bus, &partition(), &events(round * 10..round * 10 + 10, 100)).await;
        bus = harness.cut(&site, bus).await;
        let mut reader = open_reader(&bus, From::First).await.unwrap();
        let ids = first_seen(&read_until(&mut reader, round * 10 + 10).await);
        assert_eq!(ids, (0..round * 10 + 10).collect::<Vec<_>>());
    }
}

/// A receipt has one result for each event, and what it calls stored is read from where the log ended before.
pub async fn publish_results_per_event<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    assert!(publish(&bus, &partition(), &[]).await.await.is_empty());
    store(&bus, &partition(), &events(100..150, 50)).await;
    let before = mark(&bus, From::Next).await.at;
    store(&bus, &partition(), &events(0..100, 50)).await;
    let mut reader = open_reader(&bus, From::At(before)).await.unwrap();
    let records = read_until(&mut reader, 100).await;
    assert_rising(&records);
    assert_eq!(first_seen(&records), (0..100).collect::<Vec<_>>());
}

/// Calls made one after the other are first appended in that order, though some fail and are made again.
pub async fn order_per_partition_over_failure<H: Harness>(harness: &H) {
    let (site, mut bus) = start(harness, Limits::default()).await;
    let batches: Vec<Vec<Event>> = (0..60).map(|b| events(b * 10..b * 10 + 10, 200)).collect();
    let mut from = 0;
    while from < batches.len() {
        let to = (from + 8).min(batches.len());
        let mut receipts = Vec::new();
        for batch in &batches[from..to] {
            receipts.push(publish(&bus, &partition(), batch).await);
        }
        if from == 24 {
            bus = harness.cut(&site, bus).await;
        }
        for receipt in receipts {
            // As a source does it: what follows a failure is sent again with it.
            if receipt.await.iter().any(Result::is_err) {
                break;
            }
            from += 1;
        }
    }
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    let records = read_until(&mut reader, 600).await;
    assert_rising(&records);
    assert_eq!(first_seen(&records), (0..600).collect::<Vec<_>>());
}

/// A full bus leaves publishers waiting and says so; a trim lets them go on.
pub async fn full_blocks_then_resumes<H: Harness>(harness: &H) {
    if !H::FULL_BLOCKS {
        return;
    }
    let limits = Limits { max_bytes: 256 << 10, ..Limits::default() };
    let (_site, bus) = start(harness, limits).await;
    let partition = partition();
    let mut health = bus.health();
    let mut stored = 0;
    loop {
        let one = [event(stored, 4000)];
        let mut call = Box::pin(publish(&bus, &partition, &one));
        let receipt = tokio::select! {
            biased;
            receipt = &mut call => receipt,
            full = health.wait_for(|h| matches!(h, Health::Full(_))) => {
                drop(full.unwrap());
                // A bus may go by what it knows, and find room once it has looked.
                let Ok(receipt) = tokio::time::timeout(A_WHILE, &mut call).await else { break };
                receipt
            }
        };
        receipt.await;
        stored += 1;
        assert!(stored < 200, "256 KiB never hold 200 events of 4 KB");
    }
    assert!(stored > 30, "{stored} events of 4 KB fill 256 KiB");
    // Whoever gave up is in nobody's way.
    let one = [event(stored, 4000)];
    let waiting = publish(&bus, &partition, &one);
    let end = mark(&bus, From::Next).await.at;
    let trim = super::again(async || bus.trim(&partition, end).await);
    let (receipt, trimmed) = tokio::join!(tokio::time::timeout(SOON, waiting), trim);
    trimmed.unwrap();
    receipt.expect("a trim makes room").await;
    tokio::time::timeout(SOON, health.wait_for(|h| *h == Health::Up)).await.expect("up again").unwrap();
}

/// An event above the limit is refused with its size; the others of its call are stored.
pub async fn too_large_refused_alone<H: Harness>(harness: &H) {
    let limits = Limits { max_event_bytes: 2000, ..Limits::default() };
    let (_site, bus) = start(harness, limits).await;
    assert_eq!(bus.max_event_bytes(), 2000);
    let exact = 2000 - event(1, 0).encoded_len();
    let batch = [event(0, 10), event(1, exact), event(1, exact + 1), event(2, 10)];
    let results = loop {
        let results = publish(&bus, &partition(), &batch).await.await;
        if !results.iter().any(|r| matches!(r, Err(PublishError::Uncertain(_)))) {
            break results;
        }
    };
    assert_eq!(results[2], Err(PublishError::TooLarge { bytes: 2001, limit: 2000 }));
    for stored in [0, 1, 3] {
        assert!(results[stored].is_ok(), "{results:?}");
    }
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    assert_eq!(first_seen(&read_until(&mut reader, 3).await), [0, 1, 2]);
}

/// Declaring a topic again changes nothing.
pub async fn redeclare_is_noop<H: Harness>(harness: &H) {
    let (site, bus) = start(harness, Limits::default()).await;
    let first = declare(&bus, 1).await;
    store(&bus, &partition(), &events(0..10, 10)).await;
    assert_eq!(declare(&bus, 1).await, first);
    let bus = harness.cut(&site, bus).await;
    assert_eq!(declare(&bus, 1).await, first);
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    assert_eq!(first_seen(&read_until(&mut reader, 10).await).len(), 10);
}

/// A topic that is not as asked for says what differs.
pub async fn drift_reported<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    assert!(declare(&bus, 1).await.drift.is_empty());
    let drift = declare(&bus, 3).await.drift;
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert!(drift[0].contains('1') && drift[0].contains('3'), "{drift:?}");
}

/// The number of partitions is what it was when the topic was made.
pub async fn partition_count_fixed<H: Harness>(harness: &H) {
    let (site, bus) = start(harness, Limits::default()).await;
    assert_eq!(declare(&bus, 1).await.partitions, 1);
    assert_eq!(declare(&bus, 4).await.partitions, 1);
    let bus = harness.cut(&site, bus).await;
    assert_eq!(declare(&bus, 1).await.partitions, 1);
}
