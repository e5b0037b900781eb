//! A bus of which somebody deletes the state while evoke runs: it is made again, and holds what evoke knows.

use std::collections::BTreeSet;

use async_nats::jetstream;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home, json};
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::{Load, Sent};
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::servers::kafka::Broker;
use evoke_tests::{SOON, eventually};
use serde_json::Value;

use super::bus_kafka::{LATER, Pipeline};

/// What evoke says, once a loss.
const SAID: &str = "lost evoke's state: what the processes on the bus know of it is stored again";
const TOPIC: &str = "_evoke.state";

/// Deletes everything that evoke keeps on a bus but events.
async fn delete_state(server: &BusServer) {
    match server {
        BusServer::Embedded => {}
        BusServer::JetStream(nats) => {
            jetstream::new(nats.client().await).delete_stream("KV_evoke").await.unwrap();
        }
        BusServer::Kafka(broker) => broker.delete_topic(TOPIC).await,
        BusServer::Redis(redis) => {
            let mut redis = redis.connection().await;
            let keys: Vec<String> = redis::cmd("KEYS").arg("evoke:{_state}*").query_async(&mut redis).await.unwrap();
            // In one step: half of it is not lost, but wrong.
            redis::cmd("DEL").arg(keys).exec_async(&mut redis).await.unwrap();
        }
    }
}

/// Waits until evoke has said so often that the state was lost.
async fn said(evoke: &Evoke, times: usize) {
    eventually("the loss is said", LATER, async || (evoke.log().count(SAID) >= times).then_some(())).await;
}

async fn send(evoke: &Evoke, id: &str) {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
}

/// A subscription as the bus has it; `None` while the bus cannot say, or does not know it.
async fn row(home: &Home, name: &str) -> Option<Value> {
    let (code, text) = home.tool(&["subscription", "list", "-o", "json"]).await;
    if code != Some(0) {
        return None;
    }
    json(&text)["subscriptions"].as_array()?.iter().find(|row| row["name"] == name).cloned()
}

/// Whether the bus knows that one subscription has an event put aside, and that another is paused in front of it.
async fn is_known(home: &Home) -> Option<()> {
    let (parked, paused) = (row(home, "default/parked/all").await?, row(home, "default/slow/all").await?);
    let partitions = parked["inputs"][0]["partitions"].as_array()?.iter();
    let open: u64 = partitions.filter_map(|partition| partition["open"].as_u64()).sum();
    (open == 1 && paused["paused"] == true && paused["lag"] == 1).then_some(())
}

/// One subscription has an event put aside, and another is paused in front of it, when the state is deleted. Whatever is on the bus after
/// that is known from evoke alone, which is then killed.
async fn keeps_what_is_parked(server: &BusServer) -> Verdict {
    let sink = Sink::scripted(|request| match &*request.path {
        "/parked" => Answer::Full(503, vec![("retry-after", "15".to_owned())], "later".into()),
        _ => Answer::Status(200),
    })
    .await;
    let home = server.home(objects(&[
        source("web", "webhook: {in: {}}"),
        pass("parked", "web", "in", &sink.url("/parked")),
        pass("slow", "web", "in", &sink.url("/slow")),
    ]));
    let mut evoke = home.run().await;
    let (code, text) = home.tool(&["subscription", "pause", "slow/all"]).await;
    assert_eq!(code, Some(0), "{text}");
    evoke.log().wait_for(&["paused", "subscriber=default/slow/all"], SOON).await;
    send(&evoke, "1").await;
    eventually("the event is put aside", SOON, async || is_known(&home).await).await;

    delete_state(server).await;
    said(&evoke, 1).await;
    eventually("the bus knows it again", LATER, async || is_known(&home).await).await;
    evoke.ready(LATER).await;
    evoke.kill().await;
    assert_eq!(sink.received_at("/slow").len(), 0, "a pause holds");
    assert_eq!(evoke.log().count(SAID), 1);

    sink.script(|_| Answer::Status(200));
    let mut evoke = home.run().await;
    let (code, text) = home.tool(&["subscription", "resume", "slow/all"]).await;
    assert_eq!(code, Some(0), "{text}");
    for path in ["/parked", "/slow"] {
        eventually(&format!("it arrives at {path}"), LATER, async || {
            let received = sink.received_at(path);
            received.iter().any(|request| request.id() == "1" && request.status == Some(200)).then_some(())
        })
        .await;
    }
    evoke.stop().await;
    assert_eq!(evoke.log().count(SAID), 0, "a start finds what is there");
    Ok(())
}

pub(crate) async fn a_bucket_that_is_deleted_keeps_what_is_parked() -> Verdict {
    keeps_what_is_parked(&BusServer::jetstream().await?).await
}

pub(crate) async fn a_state_topic_that_is_deleted_keeps_what_is_parked() -> Verdict {
    keeps_what_is_parked(&BusServer::kafka().await?).await
}

pub(crate) async fn hashes_that_are_deleted_keep_what_is_parked() -> Verdict {
    keeps_what_is_parked(&BusServer::redis().await?).await
}

pub(crate) async fn a_state_topic_that_is_deleted_is_made_again() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    let pipeline = Pipeline::new(&broker, "partitions: 4").await;
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    const LOSSES: usize = 2;
    for times in 1..=LOSSES {
        load.more(200, LATER).await;
        broker.delete_topic(TOPIC).await;
        said(&evoke, times).await;
        evoke.ready(LATER).await;
        // Deliveries go on, from where they were.
        let so_far = pipeline.sink.delivered_count();
        pipeline.sink.wait_delivered(so_far + 200, LATER).await;
    }
    assert!(broker.ends(TOPIC, 1).await[&0] > 0, "it is there, and in use");
    // It holds the positions too: what was not finished is, by whoever comes next.
    evoke.kill().await;
    assert_eq!(evoke.log().count(SAID), LOSSES);
    let evoke = run.ready().await;
    load.more(100, LATER).await;
    pipeline.all_arrive(load, evoke, &broker.listeners.plain.to_string(), LOSSES + 1).await;
    broker.stop().await;
    Ok(())
}

/// Two processes share a subscription when the state is deleted: neither takes over from the other.
pub(crate) async fn who_works_on_what_outlives_a_bucket_that_is_deleted() -> Verdict {
    let server = BusServer::jetstream().await?;
    let sink = Sink::start().await;
    let manifest = objects(&[
        bus("default", &server.spec(8)),
        source("web", "webhook: {in: {}}"),
        pass("all", "web", "in", &sink.url("/")),
    ]);
    let (first, second) = (Home::with(&manifest), Home::with(&manifest));
    let mut one = first.run().await;
    let mut two = second.run().await;
    let mine = async |evoke: &Evoke| -> BTreeSet<u64> {
        let subscriber = evoke.subscriber("default/all", "all").await.unwrap_or_default();
        subscriber["mine"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    };
    let parts = eventually("each has half", LATER, async || {
        let parts = [mine(&one).await, mine(&two).await];
        (parts.iter().all(|part| part.len() == 4) && parts[0].is_disjoint(&parts[1])).then_some(parts)
    })
    .await;
    let load = Load::start_on(&[one.webhook("/default/web/in"), two.webhook("/default/web/in")]);
    load.more(300, LATER).await;
    delete_state(&server).await;
    said(&one, 1).await;
    said(&two, 1).await;
    load.more(300, LATER).await;
    assert_eq!([mine(&one).await, mine(&two).await], parts);
    let Sent { ids, again } = load.end().await;
    sink.wait_all(&ids, LATER).await;
    println!("two processes, their state deleted: {} sent, {again} sent again", ids.len());
    one.stop().await;
    two.stop().await;
    // JetStream knows an event that is published again, so that all repeats were of deliveries.
    assert_conserved(&ids, [&sink.delivered()], 0);
    Ok(())
}
