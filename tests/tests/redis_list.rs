//! Lists of Redis: what is in a consumer's hands and nobody knows of, and who finds it.

use std::collections::BTreeSet;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::bare_source;
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, cmd};

use super::redis_source;

const CONSUMERS: &str = "{jobs}:evoke:consumers";

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
    let held = format!("{{jobs}}:evoke:items:{}", consumer(&mut redis).await);
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
    // Without a bus, an item stays with its consumer until the sink has it.
    let spec = format!(
        "sink: {{uri: \"{}\"}}\nredis:\n  in: {{redisHost: \"{}\", list: jobs, processingTimeout: 2s}}",
        sink.url("/"),
        server.address
    );
    let homes = [0, 1].map(|_| Home::with(bare_source("redis", &spec)));
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
