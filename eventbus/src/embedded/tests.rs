//! The embedded bus on the real file system.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evoke_api::events::OnFull;
use evoke_api::names::TopicName;
use prometheus::Registry;
use tempfile::TempDir;

use super::*;
use crate::bus::Expect;
use crate::metrics::BusMetrics;

fn options() -> EmbeddedOptions {
    let metrics = BusMetrics::new(&Registry::new()).unwrap();
    let segments = SegmentSizes { first: 8 << 10, largest: 64 << 10 };
    EmbeddedOptions { segments, ..EmbeddedOptions::new("test", metrics) }
}

fn topic() -> Partition {
    Partition { topic: TopicName::parse("default.orders.created"), index: 0 }
}

fn event(i: usize, bytes: usize) -> Event {
    Event::builder(i.to_string(), "/test", "t").data(vec![b'x'; bytes]).build().unwrap()
}

async fn open(dir: &TempDir, options: EmbeddedOptions) -> Arc<EmbeddedBus> {
    let bus = EmbeddedBus::open(dir.path(), options).unwrap();
    bus.declare(&TopicSpec { name: topic().topic, partitions: 1 }).await.unwrap();
    bus
}

/// Stores events; says where the log ends then.
async fn publish(bus: &EmbeddedBus, events: Vec<Event>) -> Position {
    let receipt = bus.publish(&topic(), events).await.unwrap();
    assert!(receipt.await.iter().all(Result::is_ok));
    bus.locate(&[(topic(), From::Next)]).await.unwrap()[0].at
}

async fn read_ids(bus: &EmbeddedBus, from: From, count: usize) -> Vec<String> {
    let mut reader = bus.read(&topic(), from, 0).await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = reader.next(10_000).await.unwrap();
        ids.extend(batch.records.iter().map(|r| r.event.id().to_owned()));
    }
    ids
}

#[tokio::test]
async fn events_outlive_the_process_over_many_segments() {
    let dir = TempDir::new().unwrap();
    let bus = open(&dir, options()).await;
    for chunk in 0..50 {
        publish(&bus, (0..20).map(|i| event(chunk * 20 + i, 300)).collect()).await;
    }
    let expected: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    assert_eq!(read_ids(&bus, From::First, 1000).await, expected);
    bus.close().await.unwrap();
    drop(bus);
    let bus = open(&dir, options()).await;
    assert_eq!(read_ids(&bus, From::First, 1000).await, expected);
    assert_eq!(read_ids(&bus, From::At(Position(637)), 363).await, expected[637..]);
    assert_eq!(publish(&bus, vec![event(1000, 10)]).await, Position(1001));
}

#[tokio::test]
async fn a_directory_belongs_to_one_bus() {
    let dir = TempDir::new().unwrap();
    let bus = open(&dir, options()).await;
    let text = EmbeddedBus::open(dir.path(), options()).unwrap_err().to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(text.contains(&dir.path().canonicalize().unwrap().display().to_string()), "{text}");
    assert!(text.contains("--data-dir"), "{text}");
    drop(bus);
    drop(open(&dir, options()).await);
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("FORMAT"), "evoke embedded bus, format 7\n").unwrap();
    let text = EmbeddedBus::open(dir.path(), options()).unwrap_err().to_string();
    assert!(text.contains("format 7") && text.contains("up to 1"), "{text}");
    std::fs::write(dir.path().join("FORMAT"), "?\n").unwrap();
    assert!(matches!(EmbeddedBus::open(dir.path(), options()), Err(OpenError::Damaged { .. })));
}

#[tokio::test]
async fn state_survives_compaction_and_reopening() {
    let dir = TempDir::new().unwrap();
    let bus = open(&dir, options()).await;
    let put = |key: &str, value: usize, expect| Put { key: key.into(), value: Some(vec![b'v'; value].into()), expect };
    let mut last = 0;
    for round in 0..200 {
        let revisions = bus.store(vec![put("a/1", round, Expect::Any), put("a/2", 100, Expect::Any)]).await.unwrap();
        assert!(revisions[0].unwrap() > last);
        last = revisions[1].unwrap();
    }
    let stale =
        bus.store(vec![put("a/2", 1, Expect::Revision(last - 1)), put("a/3", 1, Expect::Absent)]).await.unwrap();
    assert_eq!(stale[0], None);
    let gone = Put { key: "a/3".into(), value: None, expect: Expect::Revision(stale[1].unwrap()) };
    let deleted = bus.store(vec![gone]).await.unwrap()[0].unwrap();
    let before = bus.load("a/").await.unwrap();
    assert_eq!(
        before.iter().map(|e| (e.key.as_str(), e.value.len())).collect::<Vec<_>>(),
        [("a/1", 199), ("a/2", 100)]
    );
    drop(bus);
    assert_eq!(std::fs::read_dir(dir.path().join("state")).unwrap().count(), 1);
    let bus = open(&dir, options()).await;
    assert_eq!(bus.load("a/").await.unwrap(), before);
    let next = bus.store(vec![put("b", 1, Expect::Any)]).await.unwrap()[0].unwrap();
    assert!(next > deleted, "a revision is never given twice");
}

#[tokio::test]
async fn what_is_stored_soon_is_seen_at_once_and_outlives_the_process() {
    let dir = TempDir::new().unwrap();
    let bus = open(&dir, options()).await;
    let put = |n: u64, expect| Put { key: "a".into(), value: Some(n.to_string().into()), expect };
    let mut revision = bus.store(vec![put(0, Expect::Absent)]).await.unwrap()[0].unwrap();
    // Beyond what one file of state holds, and with calls that wait for their sync between.
    for n in 1..2000 {
        let puts = vec![put(n, Expect::Revision(revision))];
        let stored = if n % 50 == 0 { bus.store(puts).await } else { bus.store_soon(puts).await };
        revision = stored.unwrap()[0].unwrap();
        assert_eq!(bus.load("a").await.unwrap()[0].value, n.to_string());
    }
    assert_eq!(bus.store_soon(vec![put(9, Expect::Absent)]).await.unwrap(), [None]);
    // What a process that is killed now leaves behind.
    let left = TempDir::new().unwrap();
    copy(dir.path(), left.path());
    let after = open(&left, options()).await;
    assert_eq!(after.load("a").await.unwrap()[0].value, "1999");
    after.close().await.unwrap();
    bus.close().await.unwrap();
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_rest_kept() {
    let dir = TempDir::new().unwrap();
    let bus = open(&dir, options()).await;
    publish(&bus, (0..3).map(|i| event(i, 100)).collect()).await;
    drop(bus);
    let path = dir.path().join("topics/default.orders.created/0000000001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[end - 50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let bus = open(&dir, options()).await;
    assert_eq!(publish(&bus, vec![event(9, 10)]).await, Position(3));
    assert_eq!(read_ids(&bus, From::First, 3).await, ["0", "1", "9"]);
}

#[tokio::test]
async fn damage_in_the_middle_is_counted_and_skipped_once() {
    let dir = TempDir::new().unwrap();
    let bus = open(&dir, options()).await;
    for i in 0..6 {
        publish(&bus, vec![event(i, 100)]).await;
    }
    drop(bus);
    let path = dir.path().join("topics/default.orders.created/0000000001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let second = bytes.windows(100).position(|w| w.iter().all(|b| *b == b'x')).unwrap();
    bytes[second + 160] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let options = options();
    let metrics = options.metrics.clone();
    let bus = open(&dir, options).await;
    let damaged = metrics.bus("test").topic(topic().topic.as_str()).damaged_events;
    assert_eq!(damaged.get(), 1);
    let mut reader = bus.read(&topic(), From::First, 0).await.unwrap();
    assert_eq!(reader.next(10_000).await.unwrap().records.len(), 1);
    let hole = |first, next| BusError::Damaged { first: Position(first), next: Position(next) };
    assert_eq!(reader.next(10_000).await.unwrap_err(), hole(1, 2));
    assert_eq!(read_ids(&bus, From::At(Position(2)), 4).await, ["2", "3", "4", "5"]);
    // Whoever looks for what lay there hears the same, and what lies before it is still there.
    let mut reader = bus.read(&topic(), From::At(Position(1)), 0).await.unwrap();
    assert_eq!(reader.next(10_000).await.unwrap_err(), hole(1, 2));
    assert_eq!(read_ids(&bus, From::At(Position(0)), 1).await, ["0"]);
    assert_eq!(damaged.get(), 1);
    assert_eq!(bus.locate(&[(topic(), From::Next)]).await.unwrap()[0].at, Position(6));
}

#[tokio::test]
async fn a_full_bus_waits_for_a_trim() {
    let dir = TempDir::new().unwrap();
    let bus = open(&dir, EmbeddedOptions { max_bytes: Some(64 << 10), ..options() }).await;
    let (mut stored, topic) = (0, topic());
    let mut health = bus.health();
    let blocked = loop {
        tokio::select! {
            biased;
            receipt = bus.publish(&topic, vec![event(stored, 1000)]) => assert!(receipt.unwrap().await[0].is_ok()),
            full = async { health.wait_for(|h| matches!(h, Health::Full(_))).await.map(drop) } => {
                full.unwrap();
                break stored;
            }
        }
        stored += 1;
    };
    assert!((58..=64).contains(&blocked), "{blocked}");
    let waiting = bus.publish(&topic, vec![event(stored, 1000)]);
    let trimmer = async {
        let full = health.wait_for(|h| matches!(h, Health::Full(_))).await.unwrap().clone();
        bus.trim(&topic, Position(20)).await.unwrap();
        full
    };
    let (receipt, full) = tokio::join!(waiting, trimmer);
    assert!(receipt.unwrap().await[0].is_ok());
    let Health::Full(text) = full else { unreachable!() };
    assert!(text.contains("default.orders.created") && text.contains("65536"), "{text}");
    health.wait_for(|h| *h == Health::Up).await.unwrap();
}

#[tokio::test]
async fn drop_oldest_makes_room_and_counts() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions { max_bytes: Some(64 << 10), on_full: OnFull::DropOldest, ..options() };
    let metrics = options.metrics.clone();
    let bus = open(&dir, options).await;
    let mut reader = bus.read(&topic(), From::First, 0).await.unwrap();
    for i in 0..200 {
        publish(&bus, vec![event(i, 1000)]).await;
    }
    let mark = bus.locate(&[(topic(), From::First)]).await.unwrap()[0];
    assert!(mark.ahead >= 50 && mark.end == Position(200), "{mark:?}");
    assert_eq!(reader.next(1).await.unwrap_err(), BusError::Trimmed { first: mark.first });
    let dropped = metrics.bus("test").topic(topic().topic.as_str()).dropped_events.get();
    assert_eq!(u128::from(dropped), mark.first.0);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The directory was written by a program of its own, from `docs/on-disk-format.md`.
#[tokio::test]
async fn format_1_is_read_and_continued() {
    let dir = TempDir::new().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/embedded-format-1");
    copy(&fixture, dir.path());
    let bus = EmbeddedBus::open(dir.path(), options()).unwrap();
    let orders = Partition { topic: TopicName::parse("default.shop.orders"), index: 0 };
    let mark = bus.locate(&[(orders.clone(), From::First)]).await.unwrap()[0];
    assert_eq!((mark.first, mark.end, mark.ahead), (Position(40), Position(45), 5));
    let mut reader = bus.read(&orders, From::First, 0).await.unwrap();
    let mut records = Vec::new();
    while records.len() < 5 {
        records.extend(reader.next(10_000).await.unwrap().records);
    }
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record.at, Position(40 + i as u128));
        assert_eq!(record.event.id(), (40 + i).to_string());
        assert_eq!(record.event.attribute("subject"), Some("gr\u{f6}\u{df}e"));
        assert_eq!(record.event.data(), format!("{{\"n\":{}}}", 40 + i));
    }
    let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_455_722);
    assert_eq!(records[1].appended, second);
    let at = bus.locate(&[(orders.clone(), From::Time(second))]).await.unwrap()[0].at;
    assert_eq!(at, Position(41));
    let upper = Partition { topic: TopicName::parse("default.Shop.Orders"), index: 0 };
    assert_eq!(bus.locate(&[(upper, From::First)]).await.unwrap()[0].end, Position(0));
    let state = bus.load("ledger/").await.unwrap();
    assert_eq!(state, [Entry { key: "ledger/a".into(), value: "three".into(), revision: 7 }]);
    let put = Put { key: "ledger/b".into(), value: Some("again".into()), expect: Expect::Absent };
    assert_eq!(bus.store(vec![put]).await.unwrap(), [Some(9)]);
    let stored = bus.publish(&orders, vec![event(45, 10)]).await.unwrap().await;
    assert_eq!(stored, [Ok(())]);
    assert_eq!(bus.locate(&[(orders, From::Next)]).await.unwrap()[0].at, Position(46));
}
