//! Publishing on a bus on Kafka where the brokers refuse what they are sent, or the client cannot go on: nothing is lost, nothing holds
//! up what is behind it, and nothing overtakes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use evoke_api::names::TopicName;
use evoke_connect::kafka::Brokers;
use evoke_eventbus::bus::{EventBus, Health, Partition, PublishError, Receipt, TopicSpec};
use evoke_eventbus::event::Event;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::{assert_conserved, assert_ordered, count};
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::kafka::{self, Broker, Record};
use evoke_tests::{SOON, eventually, scratch};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;

use super::bus_kafka::{LATER, health, open, records};

/// What a topic takes that was changed.
const LIMIT: &str = "10000";
/// Data of an event that it no longer takes.
pub(crate) const LARGE: usize = 20_000;

/// What else evoke gives a topic.
pub(crate) const KEPT: [(&str, &str); 2] = [("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")];

/// Gives a topic a limit that it did not have when evoke declared it, and waits until its broker goes by it.
pub(crate) async fn limit(broker: &Broker, topic: &str) {
    broker.set(topic, &[&KEPT[..], &[("max.message.bytes", LIMIT)]].concat()).await;
    let (producer, data) = (broker.producer(), vec![b'p'; LARGE]);
    eventually("the topic takes less", SOON, async || {
        // It says that it is an event and is none, so that it is passed by where it is still taken.
        let headers = OwnedHeaders::new().insert(Header { key: "ce_specversion", value: Some("1.0") });
        let probe = FutureRecord::<(), Vec<u8>>::to(topic).partition(0).payload(&data).headers(headers);
        match producer.send(probe, SOON).await {
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => Some(()),
            stored => {
                stored.unwrap();
                None
            }
        }
    })
    .await;
}

/// The ids of the events in a topic, in the order of each partition.
async fn stored(broker: &Broker, topic: &str, partitions: i32) -> Vec<String> {
    let ends = broker.ends(topic, partitions).await;
    let all = records(broker, topic, usize::try_from(ends.values().sum::<i64>()).unwrap()).await;
    let id = |headers: Vec<(String, Vec<u8>)>| headers.into_iter().find(|(name, _)| name == "ce_id");
    all.into_iter().filter_map(|(_, _, headers, _)| Some(String::from_utf8(id(headers)?.1).unwrap())).collect()
}

pub(crate) async fn what_a_topic_no_longer_takes_is_a_dead_letter_and_the_rest_keeps_its_order() -> Verdict {
    const RECORDS: usize = 400;
    const KEYS: usize = 4;
    let is_large = |n: usize| n % 7 == 3;
    let broker = kafka::shared().await?;
    let (name, from) = (broker.name("kafka"), broker.topic(2).await);
    let (sink, dead) = (Sink::start().await, Sink::start().await);
    let brokers = broker.listeners.plain;
    let home = Home::with(objects(&[
        bus("default", &format!("kafka: {{brokers: \"{brokers}\", partitions: 2}}")),
        source(
            &name,
            &format!(
                "deadLetterSink: {{uri: \"{}\"}}\n\
                 kafka: {{in: {{brokers: \"{brokers}\", authRequired: false, topic: {from}, startAt: earliest, consumerGroup: {name}}}}}",
                dead.url("/")
            ),
        ),
        pass(&format!("all-{name}"), &name, "in", &sink.url("/")),
    ]));
    let topic = format!("default.{name}.in");
    let mut evoke = home.run().await;
    limit(&broker, &topic).await;
    // The source reads on while what it has published is under way: batches are behind those that are refused.
    let record = |n: usize| {
        let data = vec![b'x'; if is_large(n) { LARGE } else { 10 }];
        Record::new(data).key(format!("k{}", n % KEYS))
    };
    let placed = broker.produce(&from, (0..RECORDS).map(record)).await;
    let (mut small, mut large, mut named) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for (n, placed) in placed.into_iter().enumerate() {
        named.insert(placed.id.clone(), format!("k{}-{}", n % KEYS, placed.offset));
        let ids = if is_large(n) { &mut large } else { &mut small };
        ids.insert(placed.id);
    }
    sink.wait_all(&small, LATER).await;
    let letters = dead.wait(large.len(), LATER).await;
    evoke.metric("evoke_bus_refused_events_total", &[("topic", &*topic)], large.len() as f64, SOON).await;
    evoke.log().wait_for(&["no longer as declared", &topic, "takes 10000 bytes (max.message.bytes)"], SOON).await;
    evoke.stop().await;

    let refused: BTreeSet<String> = letters.iter().map(|letter| letter.text("evokeposition")).collect();
    assert_eq!(refused, large);
    for letter in &letters {
        let cause = letter.text("evokecause");
        assert!(cause.contains("the bus takes 10000"), "{cause}");
    }
    assert_eq!(dead.count(), large.len());
    let log = stored(&broker, &topic, 2).await;
    let twice = assert_conserved(&small, [&count(log.clone())], small.len()).repeats;
    assert_ordered(log.iter().map(|id| named[id].clone()));
    assert_conserved(&small, [&sink.delivered()], twice);
    let switches = evoke.log().count("they are published one at a time until evoke starts again");
    assert_eq!(switches, 1, "one line a change, not one a batch");
    println!("{} stored, {twice} twice, {} refused", small.len(), large.len());
    Ok(())
}

/// Events called `{key}-{number}`, accepted one after the other, whose receipts are awaited later.
pub(crate) struct Published {
    to: Partition,
    receipts: Vec<(String, Receipt)>,
}

impl Published {
    pub(crate) fn on(topic: &str) -> Self {
        Self { to: Partition { topic: TopicName::parse(topic), index: 0 }, receipts: Vec::new() }
    }

    pub(crate) async fn publish(&mut self, bus: &dyn EventBus, id: String, bytes: usize) {
        let event = Event::builder(id.as_str(), "/s", "t").data(vec![b'x'; bytes]).build().unwrap();
        let receipt = bus.publish(&self.to, vec![event]).await.unwrap();
        self.receipts.push((id, receipt));
    }

    /// Waits for all receipts: what is stored, and what is too large, each with the limit.
    pub(crate) async fn settled(self) -> (BTreeSet<String>, BTreeMap<String, usize>) {
        let (mut stored, mut refused) = (BTreeSet::new(), BTreeMap::new());
        for (id, receipt) in self.receipts {
            let mut results = tokio::time::timeout(LATER, receipt).await.expect("a receipt");
            match results.pop() {
                Some(Ok(())) => {
                    stored.insert(id);
                }
                Some(Err(PublishError::TooLarge { limit, .. })) => {
                    refused.insert(id, limit);
                }
                other => panic!("{id}: {other:?}"),
            }
        }
        (stored, refused)
    }
}

pub(crate) fn brokers(broker: &Broker) -> Brokers {
    Brokers { addresses: broker.listeners.plain.to_string(), ..Brokers::default() }
}

pub(crate) async fn nothing_overtakes_a_batch_that_is_refused() -> Verdict {
    const EVENTS: usize = 300;
    let broker = kafka::shared().await?;
    let site = broker.name("site");
    let bus = open(brokers(&broker), &site);
    health(&bus, |health| *health == Health::Up).await;
    // Of one topic something is stored before its limit changes, of one nothing is; one is as it should be.
    let [used, fresh, other] = ["a.b.used", "a.b.fresh", "a.b.other"];
    let mut published = [used, fresh, other].map(Published::on);
    for published in &published {
        bus.declare(&TopicSpec { name: published.to.topic.clone(), partitions: 1 }).await.unwrap();
    }
    let [first, _, third] = &mut published;
    for published in [first, third] {
        published.publish(&*bus, "k-0".to_owned(), 10).await;
        let (_, receipt) = published.receipts.pop().unwrap();
        assert_eq!(receipt.await, [Ok(())]);
    }
    for topic in [used, fresh] {
        limit(&broker, &format!("{site}.{topic}")).await;
    }
    let is_large = |n: usize| n % 10 == 1;
    for n in 1..=EVENTS {
        for published in &mut published {
            published.publish(&*bus, format!("k-{n}"), if is_large(n) { LARGE } else { 10 }).await;
        }
    }
    let ids = |which: &dyn Fn(usize) -> bool| -> BTreeSet<String> {
        (1..=EVENTS).filter(|n| which(*n)).map(|n| format!("k-{n}")).collect()
    };
    for (published, topic) in published.into_iter().zip([used, fresh, other]) {
        let is_refused = |n: usize| topic != other && is_large(n);
        let (accepted, refused) = published.settled().await;
        let small = ids(&|n| !is_refused(n));
        let large: BTreeMap<String, usize> = ids(&is_refused).into_iter().map(|id| (id, 10_000)).collect();
        assert_eq!((&accepted, refused), (&small, large), "{topic}");
        let log = stored(&broker, &format!("{site}.{topic}"), 1).await;
        assert_ordered(log.iter().cloned());
        let mut kept: BTreeSet<String> = log.into_iter().collect();
        if topic != fresh {
            assert!(kept.remove("k-0"), "{topic}");
        }
        assert_eq!(kept, small, "{topic}");
    }
    bus.close().await.unwrap();
    Ok(())
}

/// Puts one folder in the place of another.
fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) async fn what_a_client_had_that_gave_up_is_stored_before_anything_later() -> Verdict {
    let folder = scratch::dir("rollback");
    let (data, before) = (folder.path().join("data"), folder.path().join("before"));
    let broker = Broker::prepare_with(&[("log.dirs", data.to_str().unwrap())]).await?;
    broker.start().await;
    let site = broker.name("site");
    let bus = open(brokers(&broker), &site);
    let is_up = |health: &Health| *health == Health::Up;
    let is_down = |health: &Health| matches!(health, Health::Down(_));
    health(&bus, is_up).await;
    let mut published = Published::on("a.b.c");
    bus.declare(&TopicSpec { name: published.to.topic.clone(), partitions: 1 }).await.unwrap();
    let publish = async |published: &mut Published, numbers: std::ops::Range<usize>| {
        for n in numbers {
            published.publish(&*bus, format!("k-{n}"), 10).await;
        }
    };
    let settle = async |published: &mut Published| {
        let settled = Published { to: published.to.clone(), receipts: std::mem::take(&mut published.receipts) };
        settled.settled().await.0.len()
    };
    publish(&mut published, 0..5).await;
    assert_eq!(settle(&mut published).await, 5);
    broker.kill().await;
    health(&bus, is_down).await;
    copy(&data, &before);
    broker.start().await;
    health(&bus, is_up).await;
    publish(&mut published, 5..10).await;
    assert_eq!(settle(&mut published).await, 5);

    // The broker comes back without what it acknowledged last, which the client notices by the numbers of what it sends next: it cannot
    // go on. That is under way before the broker goes, and more follows as soon as it is back.
    broker.freeze();
    publish(&mut published, 10..20).await;
    broker.kill().await;
    health(&bus, is_down).await;
    copy(&before, &data);
    broker.start().await;
    health(&bus, is_up).await;
    publish(&mut published, 20..40).await;
    assert_eq!(settle(&mut published).await, 30);
    // Another client works as well as the first one.
    publish(&mut published, 40..45).await;
    assert_eq!(settle(&mut published).await, 5);

    let log = stored(&broker, &format!("{site}.a.b.c"), 1).await;
    assert_ordered(log.iter().cloned());
    let kept: BTreeSet<String> = log.into_iter().collect();
    let expected: BTreeSet<String> = (0..5).chain(10..45).map(|n| format!("k-{n}")).collect();
    assert_eq!(kept, expected);
    bus.close().await.unwrap();
    broker.stop().await;
    Ok(())
}
