//! Credentials that end while evoke is connected to the servers of a bus: the cause is said once, sources wait, and it goes on when
//! evoke is let in again.

use std::time::Duration;

use evoke_api::credentials::Secret;
use evoke_connect::nats::NatsPlan;
use evoke_connect::nats::plan::Login;
use evoke_tests::bus::jetstream_as;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Evoke;
use evoke_tests::load::Load;
use evoke_tests::servers::nats::{Nats, Operator};

use crate::jetstream_site::{LATER, Site, all_arrive, send};

const EVERYONE: &str = "authorization { users: [{user: ann, password: pw-1f7}, {user: bob, password: pw-2c8}] }";
const WITHOUT_ANN: &str = "authorization { users: [{user: bob, password: pw-2c8}] }";
/// Long enough for evoke to start and send a while, on a busy machine too.
const SHORT_LIFE: Duration = Duration::from_secs(45);
/// How long until evoke is locked out, at the most: credentials have to expire first.
const EXPIRED: Duration = Duration::from_secs(90);
/// How long evoke stays locked out: several attempts to log in.
const LOCKED_OUT: Duration = Duration::from_secs(3);

/// How many lines say that the bus does not work since the servers refuse the login.
fn refusals(evoke: &Evoke) -> usize {
    let parts = ["the bus cannot write", "refuses to log evoke in"];
    evoke.log().text().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

/// Waits until evoke is locked out, which names `hint`, and leaves it so for a while. What is posted meanwhile is refused.
async fn stays_locked_out(evoke: &Evoke, hint: &str) {
    evoke.waits_for(&["bus default.default: down: ", "refuses to log evoke in", hint], EXPIRED).await;
    assert_eq!(send(evoke, "too-early", "x").await, 503);
    tokio::time::sleep(LOCKED_OUT).await;
    assert_eq!(send(evoke, "too-early", "x").await, 503);
}

pub(crate) async fn a_user_that_is_removed_is_named_and_goes_on_when_it_is_back() -> Verdict {
    let auth = "auth: {username: ann, password: pw-1f7}";
    let Site { nats, sink, home } = Site::on(Nats::with(&[EVERYONE]).await?, auth).await;
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    for round in 1..=2 {
        load.more(200, LATER).await;
        nats.reconfigure("authorization", WITHOUT_ANN);
        nats.reload().await;
        stays_locked_out(&evoke, "`auth.username` and `auth.password`").await;
        assert_eq!(refusals(&evoke), round, "one line for each time");
        nats.reconfigure("authorization", EVERYONE);
        nats.reload().await;
        evoke.ready(LATER).await;
    }
    load.more(200, LATER).await;
    let login = Login::User { username: Secret::new("bob"), password: Secret::new("pw-2c8") };
    let bus = jetstream_as(NatsPlan { servers: vec![nats.url()], login, ..NatsPlan::default() }).await;
    all_arrive(load, &sink, &mut evoke, bus, 2).await;
    assert_eq!(evoke.log().count("pw-1f7"), 0);
    Ok(())
}

pub(crate) async fn credentials_that_expire_are_named_and_new_ones_go_on() -> Verdict {
    let operator = Operator::new();
    let settings = operator.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let auth = "auth: {credentialsFrom: {file: user.creds}}";
    let Site { nats, sink, home } = Site::on(Nats::with(&settings).await?, auth).await;
    home.write("user.creds", operator.credentials(SHORT_LIFE));
    let run = home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    load.more(200, LATER).await;
    stays_locked_out(&evoke, "check that `auth.credentials` has neither expired nor been revoked").await;
    // In the second in which they expire, servers let in whom they turn out again.
    assert!((1..=6).contains(&refusals(&evoke)), "{}", refusals(&evoke));
    // A bus does not change while it runs: evoke is started again with what was issued anew.
    evoke.kill().await;
    let renewed = operator.credentials(LATER * 60);
    home.write("user.creds", &renewed);
    let mut evoke = run.ready().await;
    load.more(200, LATER).await;
    let login = Login::Credentials(Secret::new(renewed));
    let bus = jetstream_as(NatsPlan { servers: vec![nats.url()], login, ..NatsPlan::default() }).await;
    // The outage, and the kill.
    all_arrive(load, &sink, &mut evoke, bus, 2).await;
    Ok(())
}
