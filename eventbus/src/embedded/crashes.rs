//! Power cuts, full disks and failing syncs, by seed, on a disk that forgets what was not synced.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use evoke_api::events::SyncMode;
use evoke_api::names::TopicName;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use prometheus::Registry;

use super::env::{Clock, Machine};
use super::simdisk::{DiskFaults, Rng, SimDisk};
use super::{EmbeddedBus, EmbeddedOptions, OpenError, SegmentSizes};
use crate::bus::{BusError, EventBus, Expect, From, Health, Partition, Position, Put, TopicSpec};
use crate::event::Event;
use crate::metrics::BusMetrics;

const DIR: &str = "/bus";

fn open(disk: &SimDisk, clock: &Arc<AtomicI64>) -> Result<(Arc<EmbeddedBus>, BusMetrics), OpenError> {
    open_with(disk, clock, SyncMode::Always)
}

fn open_with(
    disk: &SimDisk,
    clock: &Arc<AtomicI64>,
    sync: SyncMode,
) -> Result<(Arc<EmbeddedBus>, BusMetrics), OpenError> {
    let metrics = BusMetrics::new(&Registry::new()).unwrap();
    let options = EmbeddedOptions {
        segments: SegmentSizes { first: 2 << 10, largest: 8 << 10 },
        sync,
        ..EmbeddedOptions::new("test", metrics.clone())
    };
    let clock = clock.clone();
    let clock = Clock(Arc::new(move || {
        let skew = clock.load(Ordering::Relaxed);
        let by = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }));
    let disk = Arc::new(disk.clone());
    super::disk::Disk::create_dir(&*disk, Path::new(DIR)).unwrap();
    super::disk::Disk::sync_dir(&*disk, Path::new("/")).unwrap();
    let machine = Machine { disk, clock, retry: Duration::from_micros(100) };
    EmbeddedBus::open_on(machine, Path::new(DIR), options, None).map(|bus| (bus, metrics))
}

fn partition(topic: usize) -> Partition {
    Partition { topic: TopicName::parse(&format!("ns.topic.{topic}")), index: 0 }
}

/// What the tests know that a bus must hold.
#[derive(Default)]
struct Known {
    /// By topic: every event ever published, in order.
    published: [Vec<Event>; 2],
    /// By topic: what a receipt called stored.
    stored: [Vec<Event>; 2],
    /// By topic: what a reader saw is where.
    promised: [BTreeMap<u64, Event>; 2],
    /// By topic: below this anything may be gone.
    trimmed: [u64; 2],
    /// By topic: the last event that a trim may have taken.
    may_be_gone: [String; 2],
    /// By key: values from the last one that is durable on.
    state: HashMap<String, Vec<Option<Vec<u8>>>>,
    serial: usize,
}

struct Life {
    bus: Arc<EmbeddedBus>,
    known: Arc<Mutex<Known>>,
    /// All events have one size: what is left of one write then lies where the next one is expected.
    even: bool,
}

impl Life {
    async fn publish(&self, topic: usize, count: u64, rng: &mut Rng) -> impl Future<Output = ()> + use<> {
        let events: Vec<Event> = (0..count)
            .map(|_| {
                let mut known = self.known.lock();
                known.serial += 1;
                let id = format!("{:05}", known.serial);
                let size = if self.even { 300 } else { rng.below(700) };
                let data = vec![b'a' + (known.serial % 26) as u8; size as usize];
                let event = Event::builder(id, "/crash", "t").data(data).build().unwrap();
                known.published[topic].push(event.clone());
                event
            })
            .collect();
        let partition = partition(topic);
        let receipt = self.bus.publish(&partition, events.clone()).await;
        let known = self.known.clone();
        async move {
            let Ok(receipt) = receipt else { return };
            for (event, result) in events.into_iter().zip(receipt.await) {
                if result.is_ok() {
                    known.lock().stored[topic].push(event);
                }
            }
        }
    }

    fn store(&self, rng: &mut Rng) -> impl Future<Output = ()> + use<> {
        let key = format!("key/{}", rng.below(5));
        let value = (!rng.hits(200)).then(|| vec![rng.below(256) as u8; rng.below(300) as usize]);
        self.known.lock().state.entry(key.clone()).or_insert_with(|| vec![None]).push(value.clone());
        let put = Put { key: key.clone(), value: value.clone().map(Into::into), expect: Expect::Any };
        let (bus, known) = (self.bus.clone(), self.known.clone());
        let attempt = self.known.lock().state[&key].len() - 1;
        let soon = rng.hits(500);
        async move {
            if soon {
                // Seen by everybody, and lost with the machine at worst.
                drop(bus.store_soon(vec![put]).await);
            } else if bus.store(vec![put]).await.is_ok() {
                let mut known = known.lock();
                // What came before the last durable value can no longer be found.
                let values = known.state.get_mut(&key).unwrap();
                values[..attempt].fill(value);
            }
        }
    }

    async fn read(bus: Arc<EmbeddedBus>, known: Arc<Mutex<Known>>, topic: usize) {
        let partition = partition(topic);
        let first = bus.locate(&[(partition.clone(), From::First)]).await.unwrap()[0].first;
        let mut reader = bus.read(&partition, From::At(first), 1000).await.unwrap();
        loop {
            match reader.next(3000).await {
                Ok(batch) => {
                    let mut known = known.lock();
                    known.promised[topic].extend(batch.records.into_iter().map(|r| (r.at.0 as u64, r.event)));
                }
                Err(BusError::Trimmed { first }) => {
                    reader = bus.read(&partition, From::At(first), 1000).await.unwrap();
                }
                Err(_) => return,
            }
        }
    }
}

/// Compares what a bus holds with what it must.
async fn check(bus: &Arc<EmbeddedBus>, known: &Mutex<Known>, seed: u64) {
    for topic in 0..2 {
        let partition = partition(topic);
        bus.declare(&TopicSpec { name: partition.topic.clone(), partitions: 1 }).await.unwrap();
        let mark = bus.locate(&[(partition.clone(), From::First)]).await.unwrap()[0];
        let (first, end) = (mark.first.0 as u64, mark.end.0 as u64);
        let mut reader = bus.read(&partition, From::First, 0).await.unwrap();
        let mut found = BTreeMap::new();
        let mut last_time = SystemTime::UNIX_EPOCH;
        while (found.len() as u64) < end - first {
            for record in reader.next(5000).await.unwrap_or_else(|e| panic!("seed {seed}: {e}")).records {
                assert!(
                    record.appended >= last_time,
                    "seed {seed}: topic {topic} position {}: the time of append went back from {last_time:?} to {:?}",
                    record.at,
                    record.appended
                );
                last_time = record.appended;
                assert_eq!(record.at.0 as u64, first + found.len() as u64, "seed {seed}: positions are dense");
                found.insert(record.at.0 as u64, record.event);
            }
        }
        let mut known = known.lock();
        assert!(first <= known.trimmed[topic], "seed {seed}: {first} trimmed, {} allowed", known.trimmed[topic]);
        for (at, event) in &known.promised[topic] {
            if *at >= first {
                assert_eq!(found.get(at), Some(event), "seed {seed}: topic {topic} position {at}, {first}..{end}");
            }
        }
        let there: HashSet<&str> = found.values().map(Event::id).collect();
        let oldest = found.values().next().map_or("~", Event::id);
        let must_be_there = |event: &&Event| event.id() > known.may_be_gone[topic].as_str() || event.id() >= oldest;
        for event in known.stored[topic].iter().filter(must_be_there) {
            assert!(there.contains(event.id()), "seed {seed}: topic {topic} has lost {event:?}, {first}..{end}");
        }
        let mut published = known.published[topic].iter();
        for (at, event) in &found {
            assert!(published.any(|p| p == event), "seed {seed}: position {at} is out of order: {event:?}");
        }
        // What is there now is durable, for no receipt but for this.
        known.promised[topic] = found;
    }
    let entries = bus.load("").await.unwrap();
    let mut known = known.lock();
    for (key, values) in &mut known.state {
        let now = entries.iter().find(|e| e.key == *key).map(|e| e.value.to_vec());
        assert!(values.contains(&now), "seed {seed}: {key} is {now:?}, none of {values:?}");
        *values = vec![now];
    }
}

/// Some lives of one bus, each ended by a power cut in the middle of something.
async fn lives(seed: u64) {
    let mut rng = Rng(seed);
    let mut disk = SimDisk::new(rng.below(u64::MAX));
    let known = Arc::new(Mutex::new(Known::default()));
    let clock = Arc::new(AtomicI64::new(0));
    let even = rng.hits(500);
    for _ in 0..3 {
        clock.store(rng.below(7) as i64 - 3, Ordering::Relaxed);
        let Ok((bus, metrics)) = open(&disk, &clock) else {
            panic!("seed {seed}: the bus does not open");
        };
        check(&bus, &known, seed).await;
        for topic in 0..2 {
            let damaged = metrics.bus("test").topic(partition(topic).topic.as_str()).damaged_events.get();
            assert_eq!(damaged, 0, "seed {seed}: a torn write is taken for damage");
        }
        if rng.hits(500) {
            disk.set_faults(DiskFaults { sync: rng.below(150), write: rng.below(150), space: None });
        }
        disk.cut_after(rng.below(150));
        let life = Life { bus: bus.clone(), known: known.clone(), even };
        let mut off = disk.watch_off();
        let mut waiting = FuturesUnordered::new();
        for topic in 0..2 {
            waiting.push(Life::read(bus.clone(), known.clone(), topic).boxed());
        }
        for _ in 0..60 {
            let topic = rng.below(2) as usize;
            match rng.below(20) {
                0..12 => {
                    let count = 1 + rng.below(4);
                    waiting.push(life.publish(topic, count, &mut rng).await.boxed());
                }
                12..17 => waiting.push(life.store(&mut rng).boxed()),
                17 => {
                    let end = bus.locate(&[(partition(topic), From::Next)]).await.unwrap()[0].at;
                    let before = rng.below(end.0 as u64 + 1);
                    {
                        let mut known = known.lock();
                        known.trimmed[topic] = known.trimmed[topic].max(before);
                        known.may_be_gone[topic] = format!("{:05}", known.serial);
                    }
                    drop(bus.trim(&partition(topic), Position(before.into())).await);
                }
                // Some wait for an answer. Beside readers there is one to come, while there is power.
                _ if waiting.len() > 2 => tokio::select! {
                    _ = waiting.next() => {}
                    _ = off.wait_for(|off| *off) => {}
                },
                _ => {}
            }
            if *off.borrow() {
                break;
            }
        }
        tokio::select! {
            () = async { while waiting.len() > 2 { waiting.next().await; } } => {}
            _ = off.wait_for(|off| *off) => {}
        }
        disk.cut();
        drop((life, off));
        bus.close().await.unwrap();
        while waiting.next().await.is_some() {}
        drop(bus);
        disk = disk.after_power_cut();
    }
    let (bus, _) = open(&disk, &clock).unwrap();
    check(&bus, &known, seed).await;
}

#[test]
fn no_receipt_before_the_data_is_synced() {
    let setting = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().unwrap());
    let first = setting("EVOKE_SEED", 1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    for seed in first..first + setting("EVOKE_SEEDS", 2000) {
        runtime.block_on(lives(seed));
    }
}

#[tokio::test]
async fn a_full_disk_stops_publishers_and_loses_nothing() {
    let disk = SimDisk::new(1);
    let clock = Arc::new(AtomicI64::new(0));
    let (bus, _) = open(&disk, &clock).unwrap();
    let name = partition(0).topic;
    bus.declare(&TopicSpec { name, partitions: 1 }).await.unwrap();
    disk.set_faults(DiskFaults { space: Some(20 << 10), ..DiskFaults::default() });
    let mut health = bus.health();
    let to = partition(0);
    let event = |id: usize| Event::builder(id.to_string(), "/full", "t").data(vec![0; 500]).build().unwrap();
    // One at a time until there is no room: how many the writer takes together would decide how many fit.
    let mut receipts = Vec::new();
    let stored = loop {
        let mut receipt = bus.publish(&to, vec![event(receipts.len())]).await.unwrap();
        let answer = tokio::select! {
            answer = &mut receipt => Some(answer),
            full = health.wait_for(|h| matches!(h, Health::Full(_))) => {
                let full = format!("{:?}", *full.unwrap());
                assert!(full.contains("ns.topic.0"), "{full}");
                None
            }
        };
        let id = receipts.len();
        match answer {
            Some(answer) => {
                assert_eq!(answer, [Ok(())]);
                receipts.push(async move { answer }.boxed());
            }
            None => {
                receipts.push(receipt);
                break id;
            }
        }
    };
    for id in receipts.len()..100 {
        receipts.push(bus.publish(&to, vec![event(id)]).await.unwrap());
    }
    assert!((10..60).contains(&stored), "{stored}");
    assert_eq!(bus.locate(&[(to.clone(), From::Next)]).await.unwrap()[0].end.0, stored as u128);
    assert!(receipts[stored..].iter_mut().all(|r| r.now_or_never().is_none()), "nothing is acknowledged");
    // State goes on while it has space: what makes the bus empty again depends on it.
    let put = Put { key: "k".into(), value: Some("v".into()), expect: Expect::Any };
    assert!(bus.store(vec![put]).await.unwrap()[0].is_some());
    disk.set_faults(DiskFaults::default());
    health.wait_for(|h| *h == Health::Up).await.unwrap();
    for (i, receipt) in receipts.into_iter().enumerate().skip(stored) {
        assert_eq!(receipt.await, [Ok(())], "{i}");
    }
}

#[tokio::test]
async fn a_full_disk_resumes_after_a_trim() {
    let disk = SimDisk::new(1);
    let (bus, _) = open(&disk, &Arc::new(AtomicI64::new(0))).unwrap();
    let to = partition(0);
    bus.declare(&TopicSpec { name: to.topic.clone(), partitions: 1 }).await.unwrap();
    disk.set_faults(DiskFaults { space: Some(20 << 10), ..DiskFaults::default() });
    let mut health = bus.health();
    let event = |id: usize| Event::builder(id.to_string(), "/full", "t").data(vec![0; 500]).build().unwrap();
    let mut last = bus.publish(&to, vec![event(0)]).await.unwrap();
    for id in 1..40 {
        last = bus.publish(&to, vec![event(id)]).await.unwrap();
    }
    health.wait_for(|h| matches!(h, Health::Full(_))).await.unwrap();
    let end = bus.locate(&[(to.clone(), From::Next)]).await.unwrap()[0].end;
    bus.trim(&to, end).await.unwrap();
    assert_eq!(last.await, [Ok(())]);
    health.wait_for(|h| *h == Health::Up).await.unwrap();
}

#[tokio::test]
async fn what_a_segment_made_ahead_takes_is_not_missing() {
    let disk = SimDisk::new(1);
    let (bus, _) = open(&disk, &Arc::new(AtomicI64::new(0))).unwrap();
    let to = partition(0);
    bus.declare(&TopicSpec { name: to.topic.clone(), partitions: 1 }).await.unwrap();
    // For one segment more, and not for two.
    disk.set_faults(DiskFaults { space: Some(14 << 10), ..DiskFaults::default() });
    let (health, mut seen) = (bus.health(), disk.watch_seen());
    let held = disk.hold_folders();
    let event = |id: usize| Event::builder(id.to_string(), "/full", "t").data(vec![0; 500]).build().unwrap();
    for id in 0..2 {
        let stored = bus.publish(&to, vec![event(id)]).await.unwrap().await;
        assert_eq!(stored, [Ok(())]);
    }
    seen.wait_for(|seen| seen.held > 0).await.unwrap();
    let receipt = bus.publish(&to, (2..6).map(event).collect()).await.unwrap();
    // The second time, what came of the first is known.
    seen.wait_for(|seen| seen.refused > 1).await.unwrap();
    drop(held);
    assert_eq!(receipt.await, [const { Ok(()) }; 4]);
    assert!(!health.has_changed().unwrap(), "{:?}", *health.borrow());
}

#[tokio::test]
async fn a_failed_sync_is_not_tried_again_on_the_same_file() {
    let disk = SimDisk::new(7);
    let clock = Arc::new(AtomicI64::new(0));
    let (bus, _) = open(&disk, &clock).unwrap();
    let to = partition(0);
    bus.declare(&TopicSpec { name: to.topic.clone(), partitions: 1 }).await.unwrap();
    let event = |id: usize| Event::builder(id.to_string(), "/sync", "t").data(vec![0; 100]).build().unwrap();
    let stored = bus.publish(&to, vec![event(0), event(1)]).await.unwrap().await;
    assert_eq!(stored, [Ok(()), Ok(())]);
    disk.set_faults(DiskFaults { sync: 1000, ..DiskFaults::default() });
    let mut health = bus.health();
    let mut receipt = bus.publish(&to, vec![event(2)]).await.unwrap();
    let down = health.wait_for(|h| matches!(h, Health::Down(_))).await.unwrap().clone();
    assert!(format!("{down:?}").contains("the sync failed"), "{down:?}");
    assert!((&mut receipt).now_or_never().is_none(), "nothing is acknowledged");
    disk.set_faults(DiskFaults::default());
    assert_eq!(receipt.await, [Ok(())]);
    health.wait_for(|h| *h == Health::Up).await.unwrap();
    disk.cut();
    bus.close().await.unwrap();
    let (bus, _) = open(&disk.after_power_cut(), &clock).unwrap();
    let mut reader = bus.read(&to, From::First, 0).await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < 3 {
        ids.extend(reader.next(1000).await.unwrap().records.iter().map(|r| r.event.id().to_owned()));
    }
    assert_eq!(ids, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_receipt_waits_for_a_sync_unless_told_otherwise() {
    for (sync, waits) in [(SyncMode::Always, true), (SyncMode::Never, false)] {
        let disk = SimDisk::new(3);
        let (bus, _) = open_with(&disk, &Arc::new(AtomicI64::new(0)), sync).unwrap();
        let to = partition(0);
        bus.declare(&TopicSpec { name: to.topic.clone(), partitions: 1 }).await.unwrap();
        let seen = disk.watch_seen();
        let syncs = || seen.borrow().syncs;
        // All of it fits into the first files, which are synced in any case before others follow them.
        for id in 0..3 {
            let before = syncs();
            let event = Event::builder(id.to_string(), "/sync", "t").data(vec![0; 100]).build().unwrap();
            assert_eq!(bus.publish(&to, vec![event]).await.unwrap().await, [Ok(())]);
            assert_eq!(syncs() > before, waits, "{sync:?}: event {id}");
            let before = syncs();
            let put = Put { key: "k".into(), value: Some("v".into()), expect: Expect::Any };
            assert!(bus.store(vec![put]).await.unwrap()[0].is_some());
            assert_eq!(syncs() > before, waits, "{sync:?}: state {id}");
        }
        // What was never synced is at the end, so that a power cut after that takes nothing.
        bus.close().await.unwrap();
        drop(bus);
        disk.cut();
        let (bus, _) = open_with(&disk.after_power_cut(), &Arc::new(AtomicI64::new(0)), sync).unwrap();
        assert_eq!(bus.locate(&[(to, From::Next)]).await.unwrap()[0].at, Position(3), "{sync:?}");
        assert_eq!(bus.load("k").await.unwrap().len(), 1, "{sync:?}");
        bus.close().await.unwrap();
    }
}
