//! Events that are larger than the server of a Redis bus takes in one piece: each ends in the dead letter, and what is around it arrives.

use std::collections::BTreeSet;

use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};

/// The data of a large event, which the manifests allow.
const LARGE: usize = 2 << 20;
/// What Redis can be told to take at least.
const LEAST: usize = 1 << 20;

/// A webhook, and a stream of another server that takes anything, both on one bus and to one sink.
struct Pipeline {
    home: Home,
    upstream: Redis,
    sink: Sink,
    dead: Sink,
}

impl Pipeline {
    async fn on(server: &Redis, fields: &str) -> Result<Self, Skipped> {
        let (upstream, sink, dead) = (Redis::start().await?, Sink::start().await, Sink::start().await);
        let sources = format!(
            "deadLetterSink: {{uri: \"{}\"}}\nwebhook: {{in: {{}}}}\n\
             redis: {{up: {{redisHost: \"{}\", stream: up, startAt: earliest}}}}",
            dead.url("/"),
            upstream.address
        );
        let bus_spec = format!("maxEventBytes: 4Mi\nredis: {{address: \"{}\", partitions: 1{fields}}}", server.address);
        let home = Home::with(objects(&[
            bus("default", &bus_spec),
            source("src", &sources),
            pass("posted", "src", "in", &sink.url("/")),
            pass("read", "src", "up", &sink.url("/")),
        ]));
        Ok(Self { home, upstream, sink, dead })
    }

    /// Adds events with so many bytes of data to the stream, in one step.
    async fn add(&self, events: &[(&str, usize)]) {
        let mut all = redis::pipe();
        all.atomic();
        for (id, bytes) in events {
            all.cmd("XADD").arg("up").arg("*").arg("ce-id").arg(*id).arg("ce-source").arg("/s").arg("ce-type").arg("t");
            all.arg("data").arg(vec![b'x'; *bytes]);
        }
        all.exec_async(&mut self.upstream.connection().await).await.unwrap();
    }

    /// The only dead letter, of `large` from the stream, says that no more than `limit` bytes are taken.
    async fn is_refused(&self, limit: usize) {
        let letter = self.dead.wait(1, SOON).await.remove(0);
        assert_eq!(letter.ce("type"), "io.evoke.malformed");
        assert_eq!((letter.ce("evokeposition"), letter.ce("evokebytes")), ("large", &*LARGE.to_string()));
        let cause = letter.text("evokecause");
        assert!(cause.contains(&limit.to_string()), "{cause}");
        assert_eq!(letter.body, vec![b'x'; 16 << 10]);
    }

    /// These have arrived once each, and there is one dead letter. The bus was never down over it.
    async fn ends(&self, mut evoke: Evoke, ids: &[&str]) {
        evoke.stop().await;
        assert_conserved(&named(ids), [&self.sink.delivered()], 0);
        assert_eq!(self.dead.count(), 1, "{:?}", self.dead.received());
        assert_eq!(evoke.log().count("the bus cannot write"), 0);
    }
}

fn named(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Posts an event with so many bytes of data.
async fn post(evoke: &Evoke, id: &str, bytes: usize) -> u16 {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    evoke.post("/default/src/in", &headers, vec![b'x'; bytes]).await.status.as_u16()
}

async fn set(server: &Redis, bytes: usize) {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("proto-max-bulk-len").arg(bytes);
    set.exec_async(&mut server.connection().await).await.unwrap();
}

pub(crate) async fn what_the_server_does_not_take_is_a_dead_letter() -> Verdict {
    let server = Redis::with(&["proto-max-bulk-len 1mb"]).await?;
    let pipeline = Pipeline::on(&server, "").await?;
    let evoke = pipeline.home.run().await;
    pipeline.add(&[("a", 1), ("large", LARGE), ("b", LEAST - 1024)]).await;
    pipeline.sink.wait_all(&named(&["a", "b"]), SOON).await;
    pipeline.is_refused(LEAST).await;
    assert_eq!(post(&evoke, "posted", LARGE).await, 413);
    assert_eq!(post(&evoke, "small", LEAST - 1024).await, 202);
    pipeline.sink.wait_all(&named(&["small"]), SOON).await;
    pipeline.ends(evoke, &["a", "b", "small"]).await;
    Ok(())
}

pub(crate) async fn a_limit_that_is_lowered_and_raised_while_evoke_runs_is_followed() -> Verdict {
    let server = Redis::start().await?;
    let pipeline = Pipeline::on(&server, "").await?;
    let evoke = pipeline.home.run().await;
    assert_eq!(post(&evoke, "before", LARGE).await, 202);
    pipeline.sink.wait_all(&named(&["before"]), SOON).await;
    set(&server, LEAST).await;
    // It is sent before evoke looks at the server again, and ends the connection.
    pipeline.add(&[("a", 1), ("large", LARGE), ("b", 1)]).await;
    pipeline.sink.wait_all(&named(&["a", "b"]), SOON).await;
    pipeline.is_refused(LEAST).await;
    assert_eq!(post(&evoke, "between", LARGE).await, 413);
    set(&server, 2 * LARGE).await;
    eventually("a large event is taken again", SOON, async || {
        let status = post(&evoke, "after", LARGE).await;
        assert!(matches!(status, 202 | 413), "{status}");
        (status == 202).then_some(())
    })
    .await;
    pipeline.sink.wait_all(&named(&["after"]), SOON).await;
    pipeline.ends(evoke, &["before", "a", "b", "after"]).await;
    Ok(())
}

pub(crate) async fn a_limit_that_evoke_may_not_ask_for_shows_in_a_refusal() -> Verdict {
    // What the docs ask for, and no more.
    let acl = "user worker on >w0rker-secret ~evoke:* +@stream +@hash +@scripting +@transaction +@connection +info +time \
               +wait +memory|usage +cluster|slots";
    let server = Redis::with(&["proto-max-bulk-len 1mb", acl]).await?;
    let pipeline = Pipeline::on(&server, ", username: worker, password: w0rker-secret").await?;
    let evoke = pipeline.home.run().await;
    assert_eq!(post(&evoke, "before", 1).await, 202);
    pipeline.add(&[("a", 1), ("large", LARGE), ("b", 1)]).await;
    pipeline.sink.wait_all(&named(&["before", "a", "b"]), SOON).await;
    pipeline.is_refused(LARGE - 1).await;
    assert_eq!(post(&evoke, "posted", LARGE).await, 413);
    pipeline.ends(evoke, &["before", "a", "b"]).await;
    Ok(())
}
