//! Sources that are no longer let in while they read: they say so, go on once they are, and miss nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::ConnectOptions;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::during;
use evoke_tests::servers::nats::{Nats, Operator};
use evoke_tests::servers::redis::Redis;
use evoke_tests::{SOON, eventually};
use redis::aio::MultiplexedConnection;
use redis::cmd;

use super::{nats_source, redis_source};

/// What it may take until a source is let in again, and has what it missed.
const LATER: Duration = Duration::from_secs(60);
/// How long until it is not let in, at the most: credentials have to expire first.
const EXPIRED: Duration = Duration::from_secs(90);
/// Messages that there are to be between two faults, at the least.
const BETWEEN: usize = 100;
/// What one connection that ends may repeat: messages that a consumer of evoke's has on their way, at the most.
const NATS_WINDOW: usize = 1024;
/// The same of a stream of Redis: one read, and one ahead.
const REDIS_WINDOW: usize = 2 * 128;

/// Waits until `/readyz` and the metrics say that the source is not let in, and that it names no secret.
async fn shut_out(evoke: &Evoke, says: &[&str], secret: &str) {
    let text = evoke.waits_for(says, EXPIRED).await;
    assert!(!text.contains(secret), "{text}");
    eventually("the metric says so too", SOON, async || {
        (evoke.metrics().await.sum("evoke_source_up", &[]) == 0.0).then_some(())
    })
    .await;
}

/// Waits until the source reads, and has read more.
async fn let_in(evoke: &mut Evoke, sink: &Sink) {
    evoke.ready(LATER).await;
    sink.wait_more(BETWEEN, LATER).await;
}

/// Waits until everything has arrived, and asserts that nothing else did, and how much each connection that ended repeated.
async fn misses_nothing(evoke: &mut Evoke, sink: &Sink, sent: &BTreeSet<String>, window: usize) {
    sink.wait_all(sent, LATER).await;
    let broken = evoke.metrics().await.sum("evoke_source_reconnects_total", &[]);
    evoke.stop().await;
    assert!(broken >= 1.0, "{broken}");
    let found = assert_conserved(sent, [&sink.delivered()], broken as usize * window);
    println!("{} sent, {} repeats over {broken} connections that ended", sent.len(), found.repeats);
}

/// The users that a server of NATS knows, and their passwords.
fn users(users: &[(&str, &str)]) -> String {
    let users: Vec<_> = users.iter().map(|(name, word)| format!("{{user: {name}, password: \"{word}\"}}")).collect();
    format!("authorization {{ users: [{}] }}", users.join(", "))
}

pub(crate) async fn a_user_of_nats_that_is_taken_away_misses_nothing() -> Verdict {
    let (writer, reader, renewed) = (("writer", "wr1ter-08"), ("reader", "r3ader-71"), ("reader", "r3newed-72"));
    let nats = Nats::with(&[&users(&[writer, reader])]).await?;
    let log_in = || ConnectOptions::with_user_and_password(writer.0.to_owned(), writer.1.to_owned());
    let context = nats_source::make_stream(&nats.client_with(log_in).await, "S").await;
    let sink = Sink::start().await;
    let reads = |(user, password): (&str, &str)| {
        let more = format!(", stream: S, auth: {{username: {user}, password: {password}}}");
        nats_source::manifests(&nats.url(), &more, &sink)
    };
    let home = Home::with(reads(reader));
    let mut evoke = home.run().await;
    let publish = async |call: usize| nats_source::store_some(&context, call).await;
    let known = async |list: &[(&str, &str)]| {
        nats.reconfigure("authorization", &users(list));
        nats.reload().await;
    };
    let says = ["nats/in", "refuses to log evoke in", "check `auth.username` and `auth.password`"];
    let changes = async {
        sink.wait_more(BETWEEN, SOON).await;
        known(&[writer]).await;
        shut_out(&evoke, &says, reader.1).await;
        known(&[writer, reader]).await;
        let_in(&mut evoke, &sink).await;
        // Of a password that changes, the manifest has to be told.
        known(&[writer, renewed]).await;
        shut_out(&evoke, &says, reader.1).await;
        home.write("evoke.yaml", reads(renewed));
        let_in(&mut evoke, &sink).await;
    };
    let (sent, ()) = during(publish, changes).await;
    nats_source::acked(&context, "S", "default_nats_in").await;
    misses_nothing(&mut evoke, &sink, &sent, NATS_WINDOW).await;
    assert_eq!(evoke.log().count(reader.1) + evoke.log().count(renewed.1), 0, "a password is in the log");
    Ok(())
}

pub(crate) async fn credentials_of_nats_that_expire_or_are_revoked_miss_nothing() -> Verdict {
    // Long enough to start with, short enough to wait for.
    const SHORT: Duration = Duration::from_secs(45);

    let operator = Operator::new();
    let settings = operator.settings();
    let nats = Nats::with(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let own = operator.credentials(LATER * 60);
    let client = nats.client_with(|| ConnectOptions::with_credentials(&own).unwrap()).await;
    let context = nats_source::make_stream(&client, "S").await;
    let sink = Sink::start().await;
    let reads = |credentials: &str| {
        let text = credentials.trim_end().replace('\n', "\\n");
        nats_source::manifests(&nats.url(), &format!(", stream: S, auth: {{credentials: \"{text}\"}}"), &sink)
    };
    let home = Home::with(reads(&operator.credentials(SHORT)));
    let mut evoke = home.run().await;
    let publish = async |call: usize| nats_source::store_some(&context, call).await;
    let says = ["nats/in", "refuses to log evoke in", "`auth.credentials` has neither expired nor been revoked"];
    let changes = async {
        sink.wait_more(BETWEEN, SOON).await;
        shut_out(&evoke, &says, "NKEY SEED").await;
        let second = operator.credentials(LATER * 60);
        home.write("evoke.yaml", reads(&second));
        let_in(&mut evoke, &sink).await;
        nats.reconfigure("resolver_preload", &operator.revoking(&second));
        nats.reload().await;
        shut_out(&evoke, &says, "NKEY SEED").await;
        home.write("evoke.yaml", reads(&operator.credentials(LATER * 60)));
        let_in(&mut evoke, &sink).await;
    };
    let (sent, ()) = during(publish, changes).await;
    nats_source::acked(&context, "S", "default_nats_in").await;
    misses_nothing(&mut evoke, &sink, &sent, NATS_WINDOW).await;
    Ok(())
}

async fn ask(redis: &mut MultiplexedConnection, command: &str) {
    let mut words = command.split(' ');
    let mut asked = cmd(words.next().unwrap_or_default());
    for word in words {
        asked.arg(word);
    }
    asked.exec_async(redis).await.unwrap();
}

pub(crate) async fn a_user_of_redis_that_is_taken_away_misses_nothing() -> Verdict {
    let server = Redis::with(&["user reader on >r3ader-secret ~* &* +@all"]).await?;
    let sink = Sink::start().await;
    let reads = |password: &str| {
        let more = format!(", stream: in, startAt: earliest, redisUsername: reader, redisPassword: {password}");
        redis_source::manifests(&server.address.to_string(), &more, &sink)
    };
    let home = Home::with(reads("r3ader-secret"));
    let mut evoke = home.run().await;
    let (mut redis, mut admin) = (server.connection().await, server.connection().await);
    let publish = async |call: usize| redis_source::add_some(&mut redis, call).await;
    let says = ["redis/in", "refuses the user or the password", "correct redisUsername and redisPassword"];
    let changes = async {
        sink.wait_more(BETWEEN, SOON).await;
        ask(&mut admin, "ACL DELUSER reader").await;
        shut_out(&evoke, &says, "r3ader-secret").await;
        ask(&mut admin, "ACL SETUSER reader on >r3ader-secret ~* &* +@all").await;
        let_in(&mut evoke, &sink).await;
        // One that may do less than before is let in, and told at the next try.
        ask(&mut admin, "ACL SETUSER reader -xack").await;
        evoke.waits_for(&["redis/in", "the user may not do this", "xack"], LATER).await;
        ask(&mut admin, "ACL SETUSER reader +xack").await;
        let_in(&mut evoke, &sink).await;
        // A password that changes ends no connection: it is asked for at the next one.
        ask(&mut admin, "ACL SETUSER reader resetpass >r3newed-secret").await;
        sink.wait_more(BETWEEN, LATER).await;
        ask(&mut admin, "CLIENT KILL USER reader").await;
        shut_out(&evoke, &says, "r3ader-secret").await;
        home.write("evoke.yaml", reads("r3newed-secret"));
        let_in(&mut evoke, &sink).await;
    };
    let (sent, ()) = during(publish, changes).await;
    misses_nothing(&mut evoke, &sink, &sent, REDIS_WINDOW).await;
    redis_source::acked(&mut redis, "in", redis_source::GROUP).await;
    assert_eq!(evoke.log().count("r3ader-secret") + evoke.log().count("r3newed-secret"), 0, "a password is in the log");
    Ok(())
}
