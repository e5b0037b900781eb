//! Readers, and what they give back.

use std::time::{Duration, SystemTime};

use super::{
    A_WHILE, Harness, Limits, again, assert_rising, event, events, first_seen, mark, next_records, open_reader,
    partition, read_until, start, store, store_all,
};
use crate::bus::{BusError, From, Record};
use crate::event::Event;

/// The extension by which a bus knows what evoke wrote; an event may have one of that name.
const MARK: &str = "evokeformat";

/// Every way to begin begins where it says.
pub async fn read_first_next_at_time<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    let early = store_all(&bus, &partition(), events(0..10, 100)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let late = store_all(&bus, &partition(), events(10..20, 100)).await;
    let mut next = open_reader(&bus, From::Next).await.unwrap();
    store(&bus, &partition(), &events(20..30, 100)).await;

    let mut reader = open_reader(&bus, From::First).await.unwrap();
    let all = read_until(&mut reader, 30).await;
    assert_eq!(first_seen(&all), (0..30).collect::<Vec<_>>());
    assert_eq!(next_records(&mut next, 1).await.unwrap()[0].event.id(), "20");

    let mut at = open_reader(&bus, From::At(early[5])).await.unwrap();
    assert_eq!(next_records(&mut at, 1).await.unwrap()[0].at, early[5]);
    let between = all.iter().find(|r| r.at == late[0]).unwrap().appended;
    let mut since = open_reader(&bus, From::Time(between)).await.unwrap();
    let first = next_records(&mut since, 1).await.unwrap().remove(0);
    assert!(first.appended >= between && first.at <= late[0] && first.at > early[9], "{first:?}");
    let mut whole = open_reader(&bus, From::Time(SystemTime::UNIX_EPOCH)).await.unwrap();
    assert_eq!(next_records(&mut whole, 1).await.unwrap()[0].event.id(), "0");
    let later = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(mark(&bus, From::Time(later)).await.ahead, 0);
}

/// At the end a reader waits, and goes on when there is something.
pub async fn read_waits_at_end<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    for id in 0..20 {
        let nothing = tokio::time::timeout(Duration::from_millis(10), next_records(&mut reader, 1000)).await;
        assert!(nothing.is_err(), "there is nothing to read");
        let positions = store_all(&bus, &partition(), vec![event(id, 10)]).await;
        let mut last = None;
        while last != positions.last().copied() {
            let records = next_records(&mut reader, 1000).await.unwrap();
            assert!(records.iter().all(|r| r.event.id() == id.to_string()));
            last = records.last().map(|r| r.at);
        }
    }
}

/// A reader goes on where it was, over a cut.
pub async fn reader_resumes_after_cut_no_gap_no_repeat<H: Harness>(harness: &H) {
    let (site, mut bus) = start(harness, Limits::default()).await;
    let mut records: Vec<Record> = Vec::new();
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    for round in 0..6 {
        store(&bus, &partition(), &events(round * 50..round * 50 + 50, 500)).await;
        records.extend(next_records(&mut reader, 7000).await.unwrap());
        let cut = harness.cut(&site, bus.clone()).await;
        if !std::sync::Arc::ptr_eq(&cut, &bus) {
            let next = records.last().map(|r| crate::bus::Position(r.at.0 + 1)).unwrap();
            reader = open_reader(&cut, From::At(next)).await.unwrap();
            bus = cut;
        }
    }
    let end = mark(&bus, From::Next).await.end;
    while records.last().is_none_or(|r| r.at.0 + 1 < end.0) {
        let more = next_records(&mut reader, 7000).await.unwrap();
        records.extend(more);
        if first_seen(&records).len() == 300 {
            break;
        }
    }
    assert_rising(&records);
    assert_eq!(first_seen(&records), (0..300).collect::<Vec<_>>());
}

/// A `next` that is dropped takes nothing with it.
pub async fn next_cancel_safe<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    store(&bus, &partition(), &events(0..500, 300)).await;
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    let mut records = Vec::new();
    let mut patience = 0;
    while first_seen(&records).len() < 500 {
        patience = (patience + 37) % 400;
        let next = again(async || reader.next(3000).await);
        if let Ok(batch) = tokio::time::timeout(Duration::from_micros(patience), next).await {
            records.extend(batch.unwrap().records);
        }
    }
    assert_rising(&records);
    assert_eq!(first_seen(&records), (0..500).collect::<Vec<_>>());
}

/// A reader that is not asked holds no more than its prefetch: after a trim it can give no more than that.
pub async fn prefetch_bounded_in_bytes<H: Harness>(harness: &H) {
    let limits = Limits { max_bytes: 1 << 20, ..Limits::default() };
    let (_site, bus) = start(harness, limits).await;
    let partition = partition();
    let prefetch = 16 << 10;
    let size = event(0, 1000).encoded_len();
    for chunk in 0..8 {
        store(&bus, &partition, &events(chunk * 100..chunk * 100 + 100, 1000)).await;
    }
    let mut reader = again(async || bus.read(&partition, From::First, prefetch).await).await.unwrap();
    next_records(&mut reader, 1).await.unwrap();
    // Whatever it prefetches, it does now.
    tokio::time::sleep(A_WHILE).await;
    let end = mark(&bus, From::Next).await.end;
    again(async || bus.trim(&partition, end).await).await.unwrap();
    let first = mark(&bus, From::First).await.first;
    let mut held = 0;
    while let Ok(Ok(records)) = tokio::time::timeout(A_WHILE, next_records(&mut reader, 1 << 20)).await {
        held += records.iter().filter(|r| r.at < first).map(|r| r.event.encoded_len()).sum::<usize>();
    }
    assert!(held <= prefetch + size, "{held} bytes were held, {prefetch} allowed");
}

/// One event always fits, however little is asked for.
pub async fn one_event_larger_than_budget<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    let partition = partition();
    store(&bus, &partition, &[event(0, 50_000), event(1, 10), event(2, 60_000), event(3, 50_000)]).await;
    let mut reader = again(async || bus.read(&partition, From::First, 0).await).await.unwrap();
    let mut seen = Vec::new();
    while first_seen(&seen).len() < 4 {
        let records = next_records(&mut reader, 1).await.unwrap();
        assert_eq!(records.len(), 1, "one event is more than one byte");
        seen.extend(records);
    }
    assert_eq!(seen.iter().find(|r| r.event.id() == "2").unwrap().event.data().len(), 60_000);
}

/// Readers know nothing of each other.
pub async fn two_readers_independent<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    store(&bus, &partition(), &events(0..200, 200)).await;
    let mut slow = open_reader(&bus, From::First).await.unwrap();
    let mut slow_records = next_records(&mut slow, 1).await.unwrap();
    let mut fast = open_reader(&bus, From::First).await.unwrap();
    assert_eq!(first_seen(&read_until(&mut fast, 200).await), (0..200).collect::<Vec<_>>());
    drop(fast);
    while first_seen(&slow_records).len() < 200 {
        slow_records.extend(next_records(&mut slow, 5000).await.unwrap());
    }
    assert_rising(&slow_records);
    assert_eq!(first_seen(&slow_records), (0..200).collect::<Vec<_>>());
}

/// The time of append never goes back, over a cut neither.
pub async fn time_never_back<H: Harness>(harness: &H) {
    let (site, mut bus) = start(harness, Limits::default()).await;
    for round in 0..4 {
        store(&bus, &partition(), &events(round * 25..round * 25 + 25, 50)).await;
        bus = harness.cut(&site, bus).await;
    }
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    let records = read_until(&mut reader, 100).await;
    assert!(records.is_sorted_by_key(|r| r.appended));
    let ago = SystemTime::now().duration_since(records[0].appended).unwrap_or_default();
    assert!(ago < Duration::from_secs(300), "the time of append is now, not {ago:?} ago");
}

/// An event from another program is read like any other.
pub async fn foreign_event_readable<H: Harness>(harness: &H) {
    let (site, bus) = start(harness, Limits::default()).await;
    let foreign = Event::builder("0", "urn:other:program", "other").data("{\"a\":1}").build().unwrap();
    harness.publish_foreign(&site, &bus, &partition(), foreign).await;
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    let records = read_until(&mut reader, 1).await;
    let event = &records[0].event;
    assert_eq!((event.source(), event.ty()), ("urn:other:program", "other"));
    assert_eq!(event.data_slice(), b"{\"a\":1}");
}

/// Attributes and data come back as they went in, but for the mark that a bus puts on an event itself.
pub async fn headers_and_bytes_roundtrip<H: Harness>(harness: &H) {
    let (site, bus) = start(harness, Limits::default()).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let batch = vec![
        Event::builder("0", "/a?b=c&d=%20", "typ\u{e9}")
            .attribute("subject", "\u{1f980} \"quoted\" , = ;")
            .attribute("time", "2026-11-23T15:53:00.123456789Z")
            .attribute("datacontenttype", "application/octet-stream")
            .attribute("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .attribute("partitionkey", "k/1")
            .attribute("x9", "")
            .data(every_byte)
            .build()
            .unwrap(),
        Event::builder("1", "s", "t").build().unwrap(),
        Event::builder("2", "s", "t").attribute("long", "v".repeat(32 << 10)).data("null").build().unwrap(),
        // Data that is an event of its own, in a format that is read here and in one that is not.
        Event::builder("3", "s", "t")
            .attribute("datacontenttype", "application/cloudevents+json; charset=utf-8")
            .data(r#"{"specversion":"1.0","id":"inner","source":"i","type":"i"}"#)
            .build()
            .unwrap(),
        Event::builder("4", "s", "t")
            .attribute("datacontenttype", "application/cloudevents+avro")
            .data("avro")
            .build()
            .unwrap(),
        Event::builder("5", "s", "t").attribute(MARK, "of its own").attribute("subject", "s").build().unwrap(),
        (0..125).fold(Event::builder("6", "s", "t"), |event, n| event.attribute(format!("x{n}"), "")).build().unwrap(),
    ];
    store(&bus, &partition(), &batch).await;
    let bus = harness.cut(&site, bus).await;
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    let records = read_until(&mut reader, batch.len()).await;
    for sent in &batch {
        let read = &records.iter().find(|r| r.event.id() == sent.id()).unwrap().event;
        assert_eq!(read.data(), sent.data());
        for (name, value) in sent.attributes().filter(|(name, _)| *name != MARK) {
            assert_eq!(read.attribute(name), Some(value), "{name}");
        }
    }
}

/// A reader of a bus that was closed says so and does not wait.
pub async fn closed_bus_says_so<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    let mut reader = open_reader(&bus, From::First).await.unwrap();
    let (closed, end) = tokio::join!(bus.close(), next_records(&mut reader, 100));
    closed.unwrap();
    assert_eq!(end.unwrap_err(), BusError::Closed);
    let partition = partition();
    assert_eq!(again(async || bus.publish(&partition, events(0..1, 1)).await).await.err(), Some(BusError::Closed));
    assert_eq!(again(async || bus.store(vec![super::state::put("a", "1")]).await).await, Err(BusError::Closed));
    again(async || bus.close().await).await.unwrap();
}
