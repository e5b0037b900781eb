//! Lists of Redis: what is in a consumer's hands and nobody knows of, who finds it, and whose it is after that.

use std::collections::BTreeSet;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::during;
use evoke_tests::manifests::bare_source;
use evoke_tests::process::Signal;
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, cmd};
use tokio::sync::watch;

use super::redis_source;

const CONSUMERS: &str = "{jobs}:evoke:consumers";
/// How long a sink takes for an item under load: always some are under way.
const SLOW: Duration = Duration::from_secs(1);

/// The list that a consumer moves items to.
fn held_by(consumer: &str) -> String {
    format!("{{jobs}}:evoke:items:{consumer}")
}

/// A source without a bus: an item stays with its consumer until the sink has it.
fn without_bus(server: &Redis, sink: &Sink, more: &str) -> String {
    let (uri, address) = (sink.url("/"), &server.address);
    bare_source(
        "redis",
        &format!(
            "sink: {{uri: \"{uri}\"}}\ndelivery: {{timeout: PT2M}}\n\
             redis:\n  in: {{redisHost: \"{address}\", list: jobs{more}}}"
        ),
    )
}

/// Whether a consumer is among those whose items are looked for.
async fn is_known(redis: &mut MultiplexedConnection, consumer: &str) -> bool {
    cmd("SISMEMBER").arg(CONSUMERS).arg(consumer).query_async(redis).await.unwrap()
}

/// Waits until a consumer of the list is there, and says which.
async fn consumer(redis: &mut MultiplexedConnection) -> String {
    eventually("there is a consumer", SOON, async || {
        let mut consumers: BTreeSet<String> = cmd("SMEMBERS").arg(CONSUMERS).query_async(redis).await.ok()?;
        consumers.pop_first()
    })
    .await
}

pub(crate) async fn an_item_that_was_moved_for_a_lost_connection_is_delivered() -> Verdict {
    let server = Redis::start().await?;
    let (_home, mut evoke, sink) = redis_source::reading(&server.address.to_string(), ", list: jobs").await;
    let mut redis = server.connection().await;
    let _: i64 = redis.rpush("jobs", "first").await.unwrap();
    sink.wait(1, SOON).await;
    redis_source::emptied(&mut redis).await;
    // This is where a server puts one for which evoke waits on a connection that it has given up by then.
    let held = held_by(&consumer(&mut redis).await);
    let _: i64 = redis.rpush(held, "late").await.unwrap();
    sink.wait(2, SOON).await;
    redis_source::emptied(&mut redis).await;
    evoke.stop().await;
    assert_conserved(&["first", "late"].map(str::to_owned).into(), [&sink.bodies()], 0);
    Ok(())
}

pub(crate) async fn a_consumer_that_was_taken_for_dead_is_found_when_it_is() -> Verdict {
    const ITEMS: usize = 5;

    let server = Redis::start().await?;
    let sink = Sink::scripted(|_| Answer::Hang).await;
    let homes = [0, 1].map(|_| Home::with(without_bus(&server, &sink, ", processingTimeout: 2s")));
    let mut one = homes[0].run().await;
    let mut redis = server.connection().await;
    let name = consumer(&mut redis).await;
    // This is what another one does that has not heard of it for too long.
    let struck: i64 = cmd("SREM").arg(CONSUMERS).arg(&name).query_async(&mut redis).await.unwrap();
    assert_eq!(struck, 1);
    assert_eq!(consumer(&mut redis).await, name);
    let items: Vec<String> = (0..ITEMS).map(|n| format!("job-{n}")).collect();
    let _: i64 = redis.rpush("jobs", &items).await.unwrap();
    sink.wait(ITEMS, SOON).await;
    one.kill().await;

    sink.script(|_| Answer::Status(200));
    let mut two = homes[1].run().await;
    sink.wait_delivered(ITEMS, SOON).await;
    redis_source::emptied(&mut redis).await;
    two.stop().await;
    assert_conserved(&items.into_iter().collect(), [&sink.bodies()], ITEMS);
    Ok(())
}

pub(crate) async fn an_item_that_was_moved_for_a_lost_connection_is_delivered_under_load_too() -> Verdict {
    let server = Redis::start().await?;
    let sink = Sink::scripted(|_| Answer::After(SLOW, Box::new(Answer::Status(200)))).await;
    let home = Home::with(without_bus(&server, &sink, ""));
    let mut evoke = home.run().await;
    let (mut pusher, mut redis) = (server.connection().await, server.connection().await);
    let held = held_by(&consumer(&mut redis).await);
    let push = async |call: usize| {
        let item = call.to_string();
        let _: i64 = pusher.rpush("jobs", &item).await.unwrap();
        vec![item]
    };
    let stray = async {
        sink.wait_delivered(1, SOON).await;
        let _: i64 = redis.rpush(held, "late").await.unwrap();
        eventually("it is found", SOON, async || sink.bodies().contains_key("late").then_some(())).await;
    };
    let (mut sent, ()) = during(push, stray).await;
    sent.insert("late".to_owned());
    redis_source::emptied(&mut redis).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.bodies()], 0);
    Ok(())
}

pub(crate) async fn an_item_that_comes_late_to_a_dead_consumer_is_delivered() -> Verdict {
    let server = Redis::start().await?;
    let mut redis = server.connection().await;
    let _: i64 = redis.sadd(CONSUMERS, &["dead", "living"]).await.unwrap();
    let _: () = redis.set("{jobs}:evoke:alive:living", 1).await.unwrap();
    let _: i64 = redis.rpush(held_by("dead"), "early").await.unwrap();
    let (_home, mut evoke, sink) =
        redis_source::reading(&server.address.to_string(), ", list: jobs, processingTimeout: 2s").await;
    sink.wait(1, SOON).await;
    // This is where a server puts one that a consumer waits for that is cut off.
    let _: i64 = redis.rpush(held_by("dead"), "late").await.unwrap();
    sink.wait(2, SOON).await;
    redis_source::emptied(&mut redis).await;
    // Nothing comes any more when so much time has gone by.
    let forgotten: i64 = redis.del("{jobs}:evoke:removed:dead").await.unwrap();
    assert_eq!(forgotten, 1);
    eventually("the dead one is struck off", SOON, async || (!is_known(&mut redis, "dead").await).then_some(())).await;
    assert!(is_known(&mut redis, "living").await);
    evoke.stop().await;
    assert_conserved(&["early", "late"].map(str::to_owned).into(), [&sink.bodies()], 0);
    Ok(())
}

/// A consumer that was frozen removes what it has settled, which is not with it any more: it must not take an equal item that it was
/// given since.
pub(crate) async fn an_item_that_comes_after_an_equal_one_was_put_back_is_delivered() -> Verdict {
    let server = Redis::start().await?;
    let (tell, told) = watch::channel(false);
    let sink = Sink::scripted(move |_| Answer::When(told.clone(), Box::new(Answer::Status(200)))).await;
    let more = ", processingTimeout: 2s, readTimeout: 30s";
    let homes = [0, 1].map(|_| Home::with(without_bus(&server, &sink, more)));
    let mut frozen = homes[0].run().await;
    let mut redis = server.connection().await;
    let held = held_by(&consumer(&mut redis).await);
    let _: i64 = redis.rpush("jobs", "same").await.unwrap();
    sink.wait(1, SOON).await;

    sink.script(|_| Answer::Status(200));
    let mut other = homes[1].run().await;
    frozen.signal(Signal::STOP);
    sink.wait_delivered(1, SOON).await;
    redis_source::emptied(&mut redis).await;
    other.stop().await;

    sink.script(|_| Answer::Hang);
    frozen.signal(Signal::CONT);
    let _: i64 = redis.rpush("jobs", "same").await.unwrap();
    eventually("it is taken", SOON, async || {
        let count: i64 = redis.llen(&held).await.ok()?;
        (count == 1).then_some(())
    })
    .await;
    // Only now the first one is settled.
    tell.send_replace(true);
    sink.wait_delivered(2, SOON).await;
    frozen.log().wait_for(&["the source is down", "put back", "processingTimeout"], SOON).await;
    frozen.kill().await;

    sink.script(|_| Answer::Status(200));
    let mut other = homes[1].run().await;
    sink.wait_delivered(3, SOON).await;
    redis_source::emptied(&mut redis).await;
    other.stop().await;
    assert_eq!(sink.delivered_count(), 3, "the first one twice, the second one once");
    Ok(())
}
