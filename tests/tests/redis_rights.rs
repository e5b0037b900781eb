//! Redis sources whose user may do less than before: they are down until it may again, say so once, and lose nothing.

use std::collections::BTreeSet;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{self, Sink};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, cmd};

use super::redis_source;

const USER: &str = "user reader on >r3ader-rights ~* &* +@all";
const LOG_IN: &str = "redisUsername: reader, redisPassword: r3ader-rights, redisMaxRetryInterval: 500ms";
const UP: &str = "the source is up";
const DOWN: &str = "the source is down";
/// How often a source tries what it may not do while it is looked at.
const TRIES: usize = 5;
/// What is sent at once.
const AT_ONCE: usize = 10;

/// Gives the user a right, or takes it away.
async fn change(admin: &mut MultiplexedConnection, right: &str) {
    cmd("ACL").arg("SETUSER").arg("reader").arg(right).exec_async(admin).await.unwrap();
}

/// How often the server has refused a command so far.
async fn refusals(admin: &mut MultiplexedConnection, command: &str) -> usize {
    let text: String = cmd("INFO").arg("commandstats").query_async(admin).await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
    let count = line.and_then(|line| line.split_once("rejected_calls=")?.1.split(',').next());
    count.map_or(0, |count| count.parse().unwrap())
}

/// Waits until the source says what it may not do, and has tried it again and again without ever being up in between.
async fn stays_down(evoke: &Evoke, admin: &mut MultiplexedConnection, command: &str) {
    evoke.waits_for(&["redis/in", "the user may not do this", command], SOON).await;
    let enough = refusals(admin, command).await + TRIES;
    eventually("it is tried again and again", SOON, async || {
        let ready = http::get(&evoke.admin("/readyz")).await.unwrap();
        assert_eq!(ready.status, 503, "{}", ready.text());
        (refusals(admin, command).await >= enough).then_some(())
    })
    .await;
}

/// Waits until the source is up again, and asserts that it said each change once.
async fn goes_on(evoke: &mut Evoke, outages: usize) {
    evoke.ready(SOON).await;
    eventually("it says that it is up", SOON, async || (evoke.log().count(UP) > outages).then_some(())).await;
    assert_eq!((evoke.log().count(DOWN), evoke.log().count(UP)), (outages, outages + 1));
}

pub(crate) async fn a_stream_that_cannot_be_finished_stays_down() -> Verdict {
    let server = Redis::with(&[USER]).await?;
    let sink = Sink::start().await;
    let more = format!(", stream: in, startAt: earliest, redeliverInterval: 200ms, {LOG_IN}");
    let home = Home::with(redis_source::manifests(&server.address.to_string(), &more, &sink));
    let mut evoke = home.run().await;
    let (mut redis, mut admin) = (server.connection().await, server.connection().await);
    let (mut sent, mut outages) = (BTreeSet::new(), 0);
    for command in ["xack", "xautoclaim"] {
        change(&mut admin, &format!("-{command}")).await;
        sent.extend(redis_source::add_some(&mut redis, outages).await);
        stays_down(&evoke, &mut admin, command).await;
        change(&mut admin, &format!("+{command}")).await;
        outages += 1;
        goes_on(&mut evoke, outages).await;
        sink.wait_all(&sent, SOON).await;
        redis_source::acked(&mut redis, "in", redis_source::GROUP).await;
    }
    evoke.stop().await;
    // What was on its way when a session ended.
    assert_conserved(&sent, [&sink.delivered()], sent.len());
    Ok(())
}

pub(crate) async fn a_list_that_cannot_be_taken_from_stays_down() -> Verdict {
    let server = Redis::with(&[USER]).await?;
    let sink = Sink::start().await;
    let home =
        Home::with(redis_source::manifests(&server.address.to_string(), &format!(", list: jobs, {LOG_IN}"), &sink));
    let mut evoke = home.run().await;
    let (mut redis, mut admin) = (server.connection().await, server.connection().await);
    let (mut sent, mut outages) = (BTreeSet::new(), 0);
    for command in ["eval", "blmove"] {
        change(&mut admin, &format!("-{command}")).await;
        let items: Vec<String> = (0..AT_ONCE).map(|n| format!("{command}-{n}")).collect();
        let _: i64 = redis.rpush("jobs", &items).await.unwrap();
        sent.extend(items);
        stays_down(&evoke, &mut admin, command).await;
        change(&mut admin, &format!("+{command}")).await;
        outages += 1;
        goes_on(&mut evoke, outages).await;
        eventually("every item arrives", SOON, async || {
            let there = sink.bodies();
            sent.iter().all(|body| there.contains_key(body)).then_some(())
        })
        .await;
        redis_source::emptied(&mut redis).await;
    }
    evoke.stop().await;
    assert_conserved(&sent, [&sink.bodies()], sent.len());
    Ok(())
}
