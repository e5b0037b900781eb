//! Pipelines over a bus on Kafka, and brokers that fail under it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::names::TopicName;
use evoke_connect::kafka::Brokers;
use evoke_eventbus::bus::{BusError, EventBus, From, Health, Partition, Position, Reader, TopicSpec};
use evoke_eventbus::event::Event;
use evoke_eventbus::kafka::{KafkaBus, KafkaOptions};
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::kafka::KafkaPlan;
use evoke_tests::bus as log;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::{Load, Sent};
use evoke_tests::manifests::{bus, objects, pass, source, trigger};
use evoke_tests::process::Signal;
use evoke_tests::proxy::Line;
use evoke_tests::servers::kafka::{self, Broker, Cluster, Record};
use evoke_tests::{SOON, eventually, scratch};
use prometheus::Registry;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{Offset, TopicPartitionList};

/// How long a broker may take to come back.
pub(crate) const LATER: Duration = Duration::from_secs(90);
/// What an outage of the brokers or a kill of evoke may repeat, beside what is on the bus twice: twice the default `maxInFlight`. A
/// kill leaves so much delivered and not recorded, and so does an outage after which the work is given up.
const PER_OUTAGE: usize = 2 * 100;

/// A webhook, a bus on Kafka, and a Trigger to a sink. Names of their own keep the tests on one broker apart.
pub(crate) struct Pipeline {
    pub(crate) home: Home,
    pub(crate) name: String,
    pub(crate) sink: Sink,
}

impl Pipeline {
    pub(crate) async fn new(broker: &Broker, more: &str) -> Self {
        Self::at(&broker.listeners.plain.to_string(), broker.name("web"), more).await
    }

    pub(crate) async fn at(brokers: &str, name: String, more: &str) -> Self {
        let pipeline = Self { home: Home::new(), name, sink: Sink::start().await };
        pipeline.on(brokers, more);
        pipeline
    }

    /// The same with two subscribers of the Trigger `both-{name}`, `fast` and `slow`, each at a path of its name.
    pub(crate) async fn of_two(broker: &Broker) -> Self {
        let (name, sink) = (broker.name("web"), Sink::start().await);
        let to = |subscriber: &str| {
            format!("{{name: {subscriber}, condition: it, sink: {{uri: \"{}\"}}}}", sink.url(&format!("/{subscriber}")))
        };
        let home = Home::with(objects(&[
            bus("default", &format!("kafka: {{brokers: \"{}\", partitions: 2}}", broker.listeners.plain)),
            source(&name, "webhook: {in: {}}"),
            trigger(
                &format!("both-{name}"),
                &format!(
                    "inputs: {{it: {{eventSource: {name}, event: in}}}}\nsubscribers: [{}, {}]",
                    to("fast"),
                    to("slow")
                ),
            ),
        ]));
        Self { home, name, sink }
    }

    /// Writes the manifests.
    pub(crate) fn on(&self, brokers: &str, more: &str) {
        let Self { home, name, sink } = self;
        let manifest = objects(&[
            bus("default", &format!("kafka: {{brokers: \"{brokers}\", {more}}}")),
            source(name, "webhook: {in: {}}"),
            pass(&format!("all-{name}"), name, "in", &sink.url("/")),
        ]);
        home.write("evoke.yaml", manifest);
    }

    pub(crate) fn topic(&self) -> String {
        format!("default.{}.in", self.name)
    }

    pub(crate) fn path(&self) -> String {
        format!("/default/{}/in", self.name)
    }

    /// Ends a load under which `outages` happened, and asserts that everything arrives and is on the bus.
    pub(crate) async fn all_arrive(&self, load: Load, mut evoke: Evoke, brokers: &str, outages: usize) {
        let Sent { ids, again } = load.end().await;
        self.sink.wait_all(&ids, LATER).await;
        evoke.stop().await;
        // The client numbers what it sends, so that brokers recognise what comes again: only a sender can store an event twice.
        let stored = log::counted(log::kafka(brokers), &self.topic()).await;
        let twice = assert_conserved(&ids, [&stored], again).repeats;
        let found = assert_conserved(&ids, [&self.sink.delivered()], outages * PER_OUTAGE + twice);
        println!(
            "Kafka bus, {outages} outages: {} sent, {again} sent again, {twice} stored again, {} repeats",
            ids.len(),
            found.repeats
        );
    }

    pub(crate) async fn send(
        &self,
        evoke: &Evoke,
        id: &str,
        more: &[(&str, &str)],
        data: impl Into<bytes::Bytes>,
    ) -> u16 {
        let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
        evoke.post(&self.path(), &[&headers, more].concat(), data).await.status.as_u16()
    }
}

/// Everything in a topic, read with another client: partition, key, headers and value.
pub(crate) async fn records(
    broker: &Broker,
    topic: &str,
    count: usize,
) -> Vec<(i32, Option<Vec<u8>>, Vec<(String, Vec<u8>)>, Vec<u8>)> {
    let consumer: BaseConsumer = broker.client().set("group.id", "look").create().unwrap();
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let metadata = consumer.fetch_metadata(Some(&topic), SOON).unwrap();
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition_offset(&topic, partition.id(), Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut found = Vec::new();
        while found.len() < count {
            let message = consumer.poll(SOON).expect("a record").unwrap();
            let headers = message.headers().map(|headers| {
                headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect()
            });
            found.push((
                message.partition(),
                message.key().map(<[u8]>::to_vec),
                headers.unwrap_or_default(),
                message.payload().unwrap_or_default().to_vec(),
            ));
        }
        found
    })
    .await
    .unwrap()
}

pub(crate) async fn an_event_crosses_the_bus_as_every_kafka_client_reads_it() -> Verdict {
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::new(&broker, "partitions: 4, replication: 1").await;
    let mut evoke = pipeline.home.run().await;
    let more = [("content-type", "application/json"), ("ce-partitionkey", "order-7"), ("ce-tenant", "acme")];
    assert_eq!(pipeline.send(&evoke, "a", &more, "{ \"amount\" : 1.50 }").await, 202);
    let received = pipeline.sink.wait(1, SOON).await;
    assert_eq!((received[0].id(), received[0].ce("tenant"), received[0].ce("partitionkey")), ("a", "acme", "order-7"));
    assert_eq!(received[0].body, "{ \"amount\" : 1.50 }");
    assert!(!received[0].headers.contains_key("ce-evokeformat"));

    let (_, key, headers, value) = records(&broker, &pipeline.topic(), 1).await.remove(0);
    assert_eq!((key.as_deref(), value.as_slice()), (Some(&b"order-7"[..]), &b"{ \"amount\" : 1.50 }"[..]));
    let header = |name: &str| {
        let found = headers.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name} in {headers:?}"));
        String::from_utf8(found.1.clone()).unwrap()
    };
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "a"),
        ("ce_source", "/s"),
        ("ce_type", "t"),
        ("ce_tenant", "acme"),
        ("content-type", "application/json"),
        ("ce_evokeformat", "1"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }

    // Others may publish there too, and what is no event at all does not hold up what is behind it.
    let foreign = Record::new("plain").partition(2).key("k");
    let broken = Record::new("half").partition(2).header("ce_specversion", "1.0").header("ce_id", "x");
    let event = Record::new("whole")
        .partition(2)
        .header("ce_specversion", "1.0")
        .header("ce_id", "b")
        .header("ce_source", "/other")
        .header("ce_type", "t");
    let placed = broker.produce(&pipeline.topic(), [foreign, broken, event]).await;
    let received = pipeline.sink.wait(3, SOON).await;
    let by_id = |id: &str| received.iter().find(|event| event.id() == id).expect(id);
    let plain = by_id(&placed[0].id);
    assert_eq!(plain.body, "plain");
    assert_eq!(plain.ce("source"), format!("/namespaces/default/eventsources/{}/in", pipeline.name));
    assert_eq!((plain.ce("type"), plain.ce("partitionkey")), ("io.evoke.kafka", "k"));
    assert_eq!((by_id("b").ce("source"), &by_id("b").body[..]), ("/other", &b"whole"[..]));
    evoke.metric("evoke_bus_skipped_events_total", &[], 1.0, SOON).await;
    evoke.stop().await;
    assert_eq!(pipeline.sink.count(), 3);

    // Positions are kept on the brokers: another process, with no data of its own, goes on where this one was.
    let elsewhere = pipeline.home.path().join("elsewhere");
    let mut evoke = pipeline.home.evoke().data(elsewhere).ready().await;
    assert_eq!(pipeline.send(&evoke, "c", &[], "x").await, 202);
    let received = pipeline.sink.wait(4, SOON).await;
    assert_eq!(received[3].id(), "c");
    evoke.stop().await;
    assert_eq!(pipeline.sink.count(), 4);
    Ok(())
}

pub(crate) async fn a_killed_broker_comes_back_and_nothing_is_lost() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    let pipeline = Pipeline::new(&broker, "partitions: 4").await;
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    for _ in 0..2 {
        load.more(200, LATER).await;
        broker.kill().await;
        evoke.waits_for(&["bus", "down"], LATER).await;
        broker.start().await;
        evoke.ready(LATER).await;
        load.more(100, LATER).await;
    }
    let log = evoke.log().clone();
    pipeline.all_arrive(load, evoke, &broker.listeners.plain.to_string(), 2).await;
    let ups = log.count("the bus takes events again");
    assert!((3..=5).contains(&ups), "one line a change, not one an attempt: {ups}");
    broker.stop().await;
    Ok(())
}

pub(crate) async fn a_frozen_broker_goes_on_and_nothing_is_lost() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    let pipeline = Pipeline::new(&broker, "partitions: 2").await;
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    load.more(200, LATER).await;
    broker.freeze();
    evoke.waits_for(&["bus", "down"], LATER).await;
    broker.thaw();
    evoke.ready(LATER).await;
    load.more(100, LATER).await;
    pipeline.all_arrive(load, evoke, &broker.listeners.plain.to_string(), 1).await;
    broker.stop().await;
    Ok(())
}

pub(crate) async fn a_leader_that_goes_away_loses_nothing() -> Verdict {
    let cluster = Cluster::start().await?;
    let brokers = cluster.addresses();
    let pipeline = Pipeline::at(&brokers, "web".to_owned(), "partitions: 3, replication: 3").await;
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().start().await;
    evoke.ready(LATER).await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    for _ in 0..2 {
        load.more(300, LATER).await;
        let leader = cluster.leader(&pipeline.topic()).await;
        leader.kill().await;
        // With two of three brokers everything goes on.
        load.more(300, LATER).await;
        let so_far = pipeline.sink.delivered_count();
        pipeline.sink.wait_delivered(so_far + 100, LATER).await;
        leader.start().await;
        cluster.settled(&pipeline.topic()).await;
    }
    evoke.ready(LATER).await;
    pipeline.all_arrive(load, evoke, &brokers, 2).await;
    Ok(())
}

pub(crate) async fn evoke_survives_kills_on_a_kafka_bus() -> Verdict {
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::new(&broker, "partitions: 4").await;
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    for _ in 0..5 {
        let target = pipeline.sink.delivered_count() + 200;
        pipeline.sink.wait_delivered(target, LATER).await;
        evoke.kill().await;
        evoke = run.clone().ready().await;
    }
    pipeline.all_arrive(load, evoke, &broker.listeners.plain.to_string(), 5).await;
    Ok(())
}

pub(crate) fn open(brokers: Brokers, prefix: &str) -> Arc<KafkaBus> {
    let plan = KafkaPlan { brokers, partitions: 1, ..KafkaPlan::default() };
    let metrics = BusMetrics::new(&Registry::new()).unwrap();
    KafkaBus::open(KafkaOptions { prefix: format!("{prefix}."), ..KafkaOptions::new("test", plan, metrics) }).unwrap()
}

pub(crate) async fn health(bus: &KafkaBus, wanted: impl Fn(&Health) -> bool) -> Health {
    let mut health = bus.health();
    let found = tokio::time::timeout(LATER, health.wait_for(|health| wanted(health))).await;
    found.expect("the bus says so").unwrap().clone()
}

pub(crate) async fn a_broker_that_is_down_at_the_start_is_waited_for() -> Verdict {
    let broker = Broker::prepare().await?;
    let brokers = Brokers { addresses: broker.listeners.plain.to_string(), ..Brokers::default() };
    let bus = open(brokers, "down");
    assert!(matches!(&*bus.health().borrow(), Health::Connecting(_) | Health::Down(_)));
    let Health::Down(cause) = health(&bus, |health| matches!(health, Health::Down(_))).await else { unreachable!() };
    assert!(cause.contains(&broker.listeners.plain.to_string()), "{cause}");
    let spec = TopicSpec { name: TopicName::parse("a.b.c"), partitions: 1 };
    let partition = Partition { topic: spec.name.clone(), index: 0 };
    let event = Event::builder("1", "/s", "t").build().unwrap();
    for error in [
        bus.declare(&spec).await.err(),
        bus.publish(&partition, vec![event.clone()]).await.err(),
        bus.load("").await.err(),
        bus.locate(&[(partition.clone(), From::First)]).await.err(),
    ] {
        assert!(matches!(&error, Some(BusError::Unavailable(why)) if why.contains("cannot reach")), "{error:?}");
    }
    broker.start().await;
    health(&bus, |health| *health == Health::Up).await;
    // What it refuses while it starts, it does a moment later.
    eventually("the topic is declared", LATER, async || bus.declare(&spec).await.ok()).await;
    let stored = bus.publish(&partition, vec![event]).await.unwrap().await;
    assert!(stored[0].is_ok(), "{stored:?}");
    bus.close().await.unwrap();
    broker.stop().await;
    Ok(())
}

/// Publishes events whose data are numbers, and waits until they are stored.
async fn publish(bus: &KafkaBus, to: &Partition, numbers: Range<usize>) {
    let events = numbers.map(|n| Event::builder(n.to_string(), "/s", "t").data(n.to_string()).build().unwrap());
    let stored = bus.publish(to, events.collect()).await.unwrap().await;
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
}

/// The next records' data, in order; what a reader says instead is an error.
async fn data(reader: &mut dyn Reader, count: usize) -> Result<Vec<String>, BusError> {
    let mut found = Vec::new();
    while found.len() < count {
        let batch = tokio::time::timeout(LATER, reader.next(1 << 20)).await.expect("records")?;
        found
            .extend(batch.records.iter().map(|record| String::from_utf8_lossy(record.event.data_slice()).into_owned()));
    }
    Ok(found)
}

/// Where a reader says that its log goes on, which is another one by now.
async fn is_elsewhere(reader: &mut dyn Reader) -> Position {
    loop {
        match data(reader, 1).await {
            Err(BusError::Ahead { end }) => return end,
            Err(BusError::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn what_a_leader_with_a_fast_clock_wrote_is_no_other_log() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    let wire = "skew.a.b.c";
    let settings = |kind| [("message.timestamp.type", kind), ("retention.ms", "-1")];
    broker.make_topic_with(wire, 1, &settings("CreateTime")).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let ahead = Record { timestamp: Some(now + 1_800_000), ..Record::new("fast").partition(0) };
    broker.produce(wire, vec![ahead; 3]).await;
    broker.set(wire, &settings("LogAppendTime")).await;

    let bus = open(Brokers { addresses: broker.listeners.plain.to_string(), ..Brokers::default() }, "skew");
    health(&bus, |health| *health == Health::Up).await;
    let spec = TopicSpec { name: TopicName::parse("a.b.c"), partitions: 1 };
    assert_eq!(bus.declare(&spec).await.unwrap().drift, Vec::<String>::new());
    let partition = Partition { topic: spec.name.clone(), index: 0 };
    let mut reader = bus.read(&partition, From::Next, 0).await.unwrap();
    publish(&bus, &partition, 0..5).await;
    assert_eq!(data(&mut *reader, 5).await.unwrap(), ["0", "1", "2", "3", "4"]);
    let restart = async || {
        broker.kill().await;
        health(&bus, |health| matches!(health, Health::Down(_))).await;
        broker.start().await;
        health(&bus, |health| *health == Health::Up).await;
    };
    restart().await;
    publish(&bus, &partition, 5..8).await;
    assert_eq!(data(&mut *reader, 3).await.unwrap(), ["5", "6", "7"]);

    // Another log is known by what lies in it, whatever its times are.
    broker.delete_topic(wire).await;
    broker.make_topic_with(wire, 1, &settings("LogAppendTime")).await;
    broker.produce(wire, (0..20).map(|n| Record::new(format!("new {n}")).partition(0))).await;
    restart().await;
    assert_eq!(is_elsewhere(&mut *reader).await, Position(0));
    bus.close().await.unwrap();
    broker.stop().await;
    Ok(())
}

pub(crate) async fn a_log_that_was_put_back_and_grew_is_noticed_by_who_waits_for_more() -> Verdict {
    // Kafka makes its indexes as large as they may become, and they are copied.
    let broker = Broker::prepare_with(&[("log.index.size.max.bytes", "1048576")]).await?;
    broker.start().await;
    let folder = scratch::dir("rollback");
    let copy = folder.path().join("data");
    let bus = open(Brokers { addresses: broker.listeners.proxied.to_string(), ..Brokers::default() }, "back");
    health(&bus, |health| *health == Health::Up).await;
    let spec = TopicSpec { name: TopicName::parse("a.b.c"), partitions: 1 };
    bus.declare(&spec).await.unwrap();
    let partition = Partition { topic: spec.name.clone(), index: 0 };
    let mut reader = bus.read(&partition, From::First, 0).await.unwrap();
    publish(&bus, &partition, 0..5).await;
    assert_eq!(data(&mut *reader, 5).await.unwrap(), ["0", "1", "2", "3", "4"]);
    broker.kill().await;
    health(&bus, |health| matches!(health, Health::Down(_))).await;
    scratch::copy(&broker.data(), &copy);
    broker.start().await;
    health(&bus, |health| *health == Health::Up).await;
    publish(&bus, &partition, 5..10).await;
    assert_eq!(data(&mut *reader, 5).await.unwrap(), ["5", "6", "7", "8", "9"]);

    // The broker comes back with the older copy, and by the time that it can be reached others have written more than was lost.
    let put_back = async {
        broker.line(Line::Cut);
        broker.kill().await;
        fs::remove_dir_all(broker.data()).unwrap();
        scratch::copy(&copy, &broker.data());
        broker.start().await;
        let others = (0..20).map(|n| Record::new(format!("other {n}")).partition(0));
        broker.produce("back.a.b.c", others).await;
        broker.line(Line::Open);
    };
    let (end, ()) = tokio::join!(is_elsewhere(&mut *reader), put_back);
    assert_eq!(end, Position(5));
    health(&bus, |health| *health == Health::Up).await;
    let mut reader = bus.read(&partition, From::At(end), 0).await.unwrap();
    let others: Vec<String> = (0..20).map(|n| format!("other {n}")).collect();
    assert_eq!(data(&mut *reader, 20).await.unwrap(), others);
    bus.close().await.unwrap();
    broker.stop().await;
    Ok(())
}

pub(crate) async fn copies_survive_a_broker_and_too_many_are_named() -> Verdict {
    let cluster = Cluster::start().await?;
    let [first, second, _] = &cluster.nodes[..] else { panic!("three brokers") };
    let brokers = cluster.addresses();
    let pipeline = Pipeline::at(&brokers, "web".to_owned(), "partitions: 4, replication: 4").await;
    let mut evoke = pipeline.home.evoke().start().await;
    evoke.waits_for(&["bus default.default", "fewer brokers than `replication` says"], LATER).await;
    evoke.signal(Signal::TERM);
    evoke.ended(LATER).await;

    pipeline.on(&brokers, "partitions: 4, replication: 3");
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    load.more(200, LATER).await;
    let topics = [pipeline.topic(), "_evoke.state".to_owned(), "_evoke.deadletters".to_owned()];
    let mut leaders = BTreeSet::new();
    for topic in &topics {
        for copies in first.copies(topic).await {
            assert_eq!(copies.wanted, 3, "{topic}");
            leaders.insert(copies.leader);
        }
    }
    assert!(leaders.contains(&2), "the one that is killed leads some of it: {leaders:?}");
    second.kill().await;
    eventually("the others lead everything", LATER, async || {
        let copies = first.copies(&topics[0]).await;
        copies.iter().all(|copies| copies.leader != 2 && copies.in_sync == 2).then_some(())
    })
    .await;
    load.more(200, LATER).await;
    evoke.ready(LATER).await;
    second.start().await;
    eventually("all have everything again", LATER, async || {
        first.copies(&topics[0]).await.iter().all(|copies| copies.in_sync == 3).then_some(())
    })
    .await;
    load.more(100, LATER).await;
    let Sent { ids: sent, again: resent } = load.end().await;
    pipeline.sink.wait_all(&sent, LATER).await;
    evoke.stop().await;
    let found = assert_conserved(&sent, [&pipeline.sink.delivered()], 2 * PER_OUTAGE + resent);
    println!("Kafka bus, one of three killed: {} sent, {resent} sent again, {} repeats", sent.len(), found.repeats);
    futures_util::future::join_all(cluster.nodes.iter().map(Broker::stop)).await;
    Ok(())
}
