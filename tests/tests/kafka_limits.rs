//! What Kafka does not keep or take: records that it deletes before they are read, a disk that is full, a topic for small records.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::disk::SmallDisk;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::{self, assert_conserved};
use evoke_tests::load::Load;
use evoke_tests::manifests::{bus, objects, pass, source, trigger};
use evoke_tests::servers::kafka::{self, Broker, Record};
use evoke_tests::{SOON, eventually, scratch};

use super::bus_kafka::{LATER, Pipeline, records};

const DROPPED: &str = "evoke_subscription_dropped_total";
/// What the log says of events that a subscription never gets.
const LOST: &str = "events are lost to a subscription";

/// A broker that looks every moment for what it may delete.
async fn hasty() -> Result<Broker, Skipped> {
    let settings = [("log.initial.task.delay.ms", "200"), ("log.retention.check.interval.ms", "200")];
    let broker = Broker::prepare_with(&settings).await?;
    broker.start().await;
    Ok(broker)
}

pub(crate) async fn what_is_deleted_under_a_paused_subscription_is_counted_and_named() -> Verdict {
    const EVENTS: usize = 40;
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::of_two(&broker).await;
    let (topic, trigger) = (pipeline.topic(), format!("both-{}", pipeline.name));
    let Pipeline { home, sink, .. } = &pipeline;
    let slow = format!("{trigger}/slow");
    home.run().await.stop().await;
    let (code, text) = home.tool_without_evoke(&["subscription", "pause", &slow]).await;
    assert_eq!(code, Some(0), "{text}");
    let mut evoke = home.run().await;
    for id in (0..EVENTS).map(|n| n.to_string()) {
        assert_eq!(pipeline.send(&evoke, &id, &[], id.clone()).await, 202);
    }
    sink.wait_at("/fast", EVENTS, SOON).await;

    // One partition is cut in its middle, the other one at its end.
    let mut stored: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (partition, _, _, data) in records(&broker, &topic, EVENTS).await {
        stored.entry(partition).or_default().push(String::from_utf8(data).unwrap());
    }
    let cuts = [(0, stored[&0].len() / 2), (1, stored[&1].len())];
    let mut lost = BTreeSet::new();
    for (partition, upto) in cuts {
        broker.delete_before(&topic, partition, i64::try_from(upto).unwrap()).await;
        lost.extend(stored[&partition][..upto].iter().cloned());
    }
    let all: BTreeSet<String> = stored.into_values().flatten().collect();
    let left: BTreeSet<String> = all.difference(&lost).cloned().collect();
    assert!(!lost.is_empty() && !left.is_empty(), "{lost:?} are cut, {left:?} are left");

    let (code, text) = home.tool(&["subscription", "resume", &slow]).await;
    assert_eq!(code, Some(0), "{text}");
    let labels = [("trigger", &*trigger), ("subscriber", "slow")];
    let dropped = evoke.metric(DROPPED, &labels, lost.len() as f64, SOON).await;
    let evaluated = evoke.metric("evoke_verdicts_total", &labels, left.len() as f64, SOON).await;
    assert_eq!((dropped, evaluated), (lost.len() as f64, left.len() as f64));
    for (partition, upto) in cuts {
        let count = format!(" partition={partition} events={upto} ");
        evoke.log().wait_for(&[LOST, &slow, &topic, &count, "before they were read"], SOON).await;
    }
    sink.wait_at("/slow", left.len(), SOON).await;
    let of_the_other = [("trigger", &*trigger), ("subscriber", "fast")];
    assert_eq!(evoke.metrics().await.sum(DROPPED, &of_the_other), 0.0, "it had read them");
    evoke.stop().await;
    let came = |path| ledger::count(sink.received_at(path).iter().map(Received::id));
    assert_conserved(&left, [&came("/slow")], 0);
    assert_conserved(&all, [&came("/fast")], 0);
    Ok(())
}

pub(crate) async fn what_a_slow_subscription_has_not_read_of_a_topic_that_is_cut_to_size_is_counted() -> Verdict {
    const EVENTS: usize = 100;
    let broker = hasty().await?;
    let slowly = |_: &Received| Answer::After(Duration::from_millis(250), Box::new(Answer::Status(200)));
    let sink = Sink::scripted(slowly).await;
    let home = Home::with(objects(&[
        bus("default", &format!("kafka: {{brokers: \"{}\", partitions: 1, maxBytes: 1Mi}}", broker.listeners.plain)),
        source("web", "webhook: {in: {}}"),
        trigger(
            "all",
            &format!(
                "inputs: {{it: {{eventSource: web, event: in}}}}\n\
                 subscribers: [{{name: all, condition: it, sink: {{uri: \"{}\"}}, delivery: {{maxInFlight: 1}}}}]",
                sink.url("/")
            ),
        ),
    ]));
    // As evoke makes it, but in small files, since Kafka deletes them as a whole.
    let topic = "default.web.in";
    let settings = [
        ("segment.bytes", "1048576"),
        ("retention.bytes", "1048576"),
        ("retention.ms", "-1"),
        ("message.timestamp.type", "LogAppendTime"),
    ];
    broker.make_topic_with(topic, 1, &settings).await;
    let mut evoke = home.run().await;
    assert_eq!(evoke.log().count("the topic is not as declared"), 0);
    let large = (0..EVENTS).map(|_| Record::new(vec![b'x'; 128 << 10]).partition(0));
    let placed = broker.produce(topic, large).await;

    let labels = [("trigger", "all"), ("subscriber", "all")];
    let dropped = eventually("every event is delivered or counted", LATER, async || {
        let dropped = evoke.metrics().await.sum(DROPPED, &labels);
        (sink.delivered_count() as f64 + dropped >= EVENTS as f64).then_some(dropped)
    })
    .await;
    evoke.log().wait_for(&[LOST, "default/all/all", topic], SOON).await;
    evoke.stop().await;
    let begin = broker.begins(topic, 1).await[&0];
    let all: BTreeSet<String> = placed.iter().map(|placed| placed.id.clone()).collect();
    let delivered = sink.delivered();
    let found = ledger::balance(&all, [&delivered]);
    assert_eq!((found.made_up, found.repeats), (Vec::new(), 0));
    assert_eq!(dropped, found.lost.len() as f64, "{:?} are lost", found.lost);
    assert!(dropped > 0.0, "Kafka has cut nothing that was not read: its log begins at {begin}");
    for placed in placed.iter().filter(|placed| placed.offset >= begin) {
        assert!(delivered.contains_key(&placed.id), "{} is there, and was not delivered", placed.id);
    }
    broker.stop().await;
    Ok(())
}

pub(crate) async fn what_ages_out_while_it_waits_for_a_retry_is_counted_at_the_next_start() -> Verdict {
    const EVENTS: usize = 20;
    let broker = hasty().await?;
    let pipeline = Pipeline::new(&broker, "partitions: 1").await;
    let (topic, sink) = (pipeline.topic(), &pipeline.sink);
    sink.script(|_| Answer::Status(503));
    let mut evoke = pipeline.home.run().await;
    for n in 0..EVENTS {
        assert_eq!(pipeline.send(&evoke, &format!("old-{n}"), &[], "x").await, 202);
    }
    eventually("all have failed once", SOON, async || (sink.attempts().len() == EVENTS).then_some(())).await;
    evoke.stop().await;

    let keep = |millis| [("message.timestamp.type", "LogAppendTime"), ("retention.ms", millis)];
    broker.set(&topic, &keep("1000")).await;
    eventually("Kafka has deleted them", LATER, async || {
        (broker.begins(&topic, 1).await[&0] == EVENTS as i64).then_some(())
    })
    .await;
    broker.set(&topic, &keep("-1")).await;
    sink.script(|_| Answer::Status(200));
    let mut evoke = pipeline.home.run().await;
    let mut sent = BTreeSet::new();
    for n in 0..5 {
        let id = format!("new-{n}");
        assert_eq!(pipeline.send(&evoke, &id, &[], "x").await, 202);
        sent.insert(id);
    }
    sink.wait_all(&sent, SOON).await;
    let trigger = format!("all-{}", pipeline.name);
    let labels = [("trigger", &*trigger), ("subscriber", "all")];
    assert_eq!(evoke.metric(DROPPED, &labels, EVENTS as f64, LATER).await, EVENTS as f64);
    evoke.log().wait_for(&[LOST, &trigger, &topic, "they waited for a retry"], SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    broker.stop().await;
    Ok(())
}

pub(crate) async fn a_broker_that_ends_on_a_full_disk_is_waited_for_and_nothing_is_lost() -> Verdict {
    let folder = scratch::dir("full");
    let disk = SmallDisk::mount(folder.path().join("disk"), "256m").await?;
    let data = disk.path().join("data");
    let broker = Broker::prepare_with(&[("log.dirs", data.to_str().unwrap())]).await?;
    broker.start().await;
    let pipeline = Pipeline::new(&broker, "partitions: 2").await;
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    load.more(300, LATER).await;
    let filler = disk.fill();
    // Kafka ends itself when there is no folder left that it can write to.
    broker.ended(LATER).await;
    evoke.waits_for(&["bus default.default", "down"], LATER).await;
    assert_eq!(pipeline.send(&evoke, "refused", &[], "x").await, 503);

    fs::remove_file(filler).unwrap();
    broker.start().await;
    evoke.ready(LATER).await;
    load.more(200, LATER).await;
    pipeline.all_arrive(load, evoke, &broker.listeners.plain.to_string(), 1).await;
    broker.stop().await;
    Ok(())
}

pub(crate) async fn an_event_that_the_topic_does_not_take_is_a_dead_letter() -> Verdict {
    let broker = kafka::shared().await?;
    let dead = Sink::start().await;
    let (name, sink) = (broker.name("web"), Sink::start().await);
    let home = Home::with(objects(&[
        bus("default", &format!("kafka: {{brokers: \"{}\", partitions: 1}}", broker.listeners.plain)),
        source(&name, &format!("deadLetterSink: {{uri: \"{}\"}}\nwebhook: {{in: {{}}}}", dead.url("/"))),
        pass(&format!("all-{name}"), &name, "in", &sink.url("/")),
    ]));
    let pipeline = Pipeline { home, name, sink };
    broker.make_topic_with(&pipeline.topic(), 1, &[("max.message.bytes", "10000")]).await;
    let mut evoke = pipeline.home.run().await;
    assert_eq!(pipeline.send(&evoke, "small", &[], "x").await, 202);
    assert_eq!(pipeline.send(&evoke, "large", &[], vec![b'L'; 20_000]).await, 202);
    assert_eq!(pipeline.send(&evoke, "next", &[], "y").await, 202);
    pipeline.sink.wait_all(&["small".to_owned(), "next".to_owned()].into(), SOON).await;
    let letter = dead.wait(1, SOON).await.remove(0);
    assert!(letter.text("evokecause").contains("10000"), "{}", letter.text("evokecause"));
    assert_eq!(letter.body, vec![b'L'; 16 * 1024]);
    assert!(evoke.log().count("max.message.bytes") >= 1, "the drift is said");
    evoke.stop().await;
    assert_eq!((pipeline.sink.count(), dead.count()), (2, 1));
    Ok(())
}
