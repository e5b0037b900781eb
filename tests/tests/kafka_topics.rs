//! Topics of a bus on Kafka that are not as evoke makes them, or are changed by others, and what Kafka's own tools see of them.

use std::collections::BTreeSet;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::kafka::{self, Broker, Record};
use evoke_tests::{SOON, eventually};

use super::bus_kafka::{LATER, Pipeline, records};

pub(crate) async fn a_topic_with_fewer_partitions_is_used_as_it_is() -> Verdict {
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::new(&broker, "partitions: 8").await;
    broker.make_topic(&pipeline.topic(), 2).await;
    let mut evoke = pipeline.home.run().await;
    for n in 0..20 {
        assert_eq!(pipeline.send(&evoke, &n.to_string(), &[], "x").await, 202);
    }
    let sent = (0..20).map(|n| n.to_string()).collect();
    pipeline.sink.wait_all(&sent, SOON).await;
    let partitions: BTreeSet<i32> = records(&broker, &pipeline.topic(), 20).await.into_iter().map(|r| r.0).collect();
    assert_eq!(partitions, [0, 1].into());
    evoke.log().wait_for(&["has 2 partitions, not 8: they are used as they are"], SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&pipeline.sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_topic_made_again_is_read_from_its_beginning() -> Verdict {
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::new(&broker, "partitions: 1").await;
    let mut evoke = pipeline.home.run().await;
    for n in 0..10 {
        assert_eq!(pipeline.send(&evoke, &n.to_string(), &[], "x").await, 202);
    }
    pipeline.sink.wait_delivered(10, SOON).await;
    let make = async || {
        broker.make_topic_with(&pipeline.topic(), 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    };

    // It has grown past the place to go on at by the time that it can be looked at.
    broker.delete_topic(&pipeline.topic()).await;
    evoke.log().wait_for(&["cannot read", "is no longer there"], LATER).await;
    make().await;
    let longer: BTreeSet<String> = (0..20).map(|n| format!("longer-{n}")).collect();
    let record = |id: &String| {
        let headers = [("ce_specversion", "1.0"), ("ce_id", id.as_str()), ("ce_source", "/s"), ("ce_type", "t")];
        headers.into_iter().fold(Record::new("x").partition(0), |record, (name, value)| record.header(name, value))
    };
    broker.produce(&pipeline.topic(), longer.iter().map(record)).await;
    pipeline.sink.wait_all(&longer, LATER).await;

    // It is shorter, and there again before anybody could see that it was not.
    broker.delete_topic(&pipeline.topic()).await;
    make().await;
    let placed = broker.produce(&pipeline.topic(), (0..5).map(|n| Record::new(format!("new {n}")).partition(0))).await;
    let new: BTreeSet<String> = placed.into_iter().map(|placed| placed.id).collect();
    pipeline.sink.wait_all(&new, LATER).await;
    evoke.log().wait_for(&["the bus has lost the end of its log"], SOON).await;
    evoke.ready(SOON).await;
    evoke.stop().await;
    let sent = (0..10).map(|n| n.to_string()).chain(longer).chain(new).collect();
    assert_conserved(&sent, [&pipeline.sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn partitions_that_others_add_are_taken_up() -> Verdict {
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::new(&broker, "partitions: 2").await;
    let topic = pipeline.topic();
    let mut sent = BTreeSet::new();
    let mut evoke = pipeline.home.run().await;
    let mut more = async |evoke: &Evoke, ids: std::ops::Range<usize>| {
        for id in ids.map(|n| n.to_string()) {
            assert_eq!(pipeline.send(evoke, &id, &[], "x").await, 202);
            sent.insert(id);
        }
        pipeline.sink.wait_all(&sent, SOON).await;
    };
    more(&evoke, 0..10).await;
    broker.grow_topic(&topic, 4).await;
    // Whoever makes use of them before evoke does has written nothing in vain.
    let foreign = broker.produce(&topic, [2, 3].map(|partition| Record::new("early").partition(partition))).await;
    more(&evoke, 10..20).await;

    // They are read from their beginning.
    let foreign: BTreeSet<String> = foreign.into_iter().map(|placed| placed.id).collect();
    pipeline.sink.wait_all(&foreign, LATER).await;
    evoke.log().wait_for(&["somebody gave the topic more partitions", &topic], SOON).await;
    evoke.log().wait_for(&["the new ones are read from their start", &topic], SOON).await;
    // From then on they are written to as well.
    more(&evoke, 20..60).await;
    evoke.stop().await;
    let written = records(&broker, &topic, 62).await;
    let partitions: BTreeSet<i32> = written.iter().filter(|record| record.3 == b"x").map(|record| record.0).collect();
    assert_eq!(partitions, [0, 1, 2, 3].into());
    sent.extend(foreign);
    assert_conserved(&sent, [&pipeline.sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn letters_are_listed_where_others_gave_the_store_partitions() -> Verdict {
    const LETTERS: usize = 20;
    let broker = Broker::prepare().await?;
    broker.start().await;
    broker.make_topic("_evoke.deadletters", 3).await;
    let (brokers, from, sink) = (broker.listeners.plain, broker.topic(1).await, Sink::start().await);
    let home = Home::with(objects(&[
        bus("default", &format!("kafka: {{brokers: \"{brokers}\", partitions: 3}}")),
        source(
            "kafka",
            &format!(
                "kafka: {{in: {{brokers: \"{brokers}\", authRequired: false, topic: {from}, startAt: earliest, consumerGroup: g}}}}"
            ),
        ),
        pass("all", "kafka", "in", &sink.url("/")),
    ]));
    let mut evoke = home.run().await;
    // They claim to be events, and have no source.
    let half = Record::new("half").header("ce_specversion", "1.0").header("ce_id", "1").header("ce_type", "t");
    let placed = broker.produce(&from, vec![half; LETTERS]).await;
    broker.produce(&from, [Record::new("good")]).await;
    broker.all_committed("g", &from, 1, SOON).await;
    assert_eq!(sink.wait(1, SOON).await[0].body, "good");
    let listed = home.json(&["dlq", "list"]).await;
    let letters = listed["deadLetters"].as_array().unwrap().iter();
    let listed: BTreeSet<&str> = letters.map(|letter| letter["eventId"].as_str().unwrap()).collect();
    let expected: BTreeSet<&str> = placed.iter().map(|placed| &*placed.id).collect();
    assert_eq!((&listed, listed.len()), (&expected, LETTERS));
    evoke.stop().await;
    broker.stop().await;
    Ok(())
}

pub(crate) async fn kafka_s_own_tools_see_how_far_a_trigger_is() -> Verdict {
    let broker = kafka::shared().await?;
    let pipeline = Pipeline::of_two(&broker).await;
    let (trigger_name, topic) = (format!("both-{}", pipeline.name), pipeline.topic());
    let group = format!("default.{trigger_name}");
    let Pipeline { home, sink, .. } = &pipeline;
    let send = async |evoke: &Evoke, ids: std::ops::Range<usize>| {
        for n in ids {
            assert_eq!(pipeline.send(evoke, &n.to_string(), &[], "x").await, 202);
        }
    };
    let lag = async || {
        let (ends, committed) = (broker.ends(&topic, 2).await, broker.committed(&group, &topic, 2).await);
        (committed.len() == 2).then(|| ends.iter().map(|(p, end)| end - committed[p]).collect::<Vec<_>>())
    };
    let shows = async |what: &str, events: i64| {
        eventually(what, SOON, async || (lag().await?.iter().sum::<i64>() == events).then_some(())).await;
    };
    let mut evoke = home.run().await;
    send(&evoke, 0..20).await;
    sink.wait(40, SOON).await;
    shows("both have everything", 0).await;

    evoke.stop().await;
    let slow = format!("{trigger_name}/slow");
    let (code, text) = home.tool_without_evoke(&["subscription", "pause", &slow]).await;
    assert_eq!(code, Some(0), "{text}");
    let mut evoke = home.run().await;
    send(&evoke, 20..27).await;
    sink.wait_at("/fast", 27, SOON).await;
    let labels = [("trigger", &*trigger_name), ("subscriber", "slow")];
    evoke.metric("evoke_subscription_lag_events", &labels, 7.0, SOON).await;
    shows("the one that is behind counts", 7).await;
    let (code, text) = home.tool(&["subscription", "resume", &slow]).await;
    assert_eq!(code, Some(0), "{text}");
    sink.wait_at("/slow", 27, SOON).await;
    shows("it has caught up", 0).await;

    send(&evoke, 27..30).await;
    sink.wait_at("/fast", 30, SOON).await;
    sink.wait_at("/slow", 30, SOON).await;
    evoke.stop().await;
    assert_eq!(lag().await, Some(vec![0, 0]), "the last positions are shown at the end");
    let members = async || broker.members(&group).await;
    let members = eventually("the broker says who is in the group", SOON, members).await;
    assert!(members.is_empty(), "nobody joins the group");
    assert_eq!(evoke.log().count("tools do not see"), 0);
    Ok(())
}
