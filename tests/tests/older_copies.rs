//! A broker that comes back with an older copy of all that it had, events and positions: that is noticed, what is lost is counted for whom
//! it is lost, and everything later arrives.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::evoke::Evoke;
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::{assert_conserved, balance};
use evoke_tests::process::Signal;
use evoke_tests::servers::bus::BusServer;
use evoke_tests::servers::kafka::Broker;
use evoke_tests::{SOON, eventually, scratch};
use tokio::sync::watch;

use super::bus_kafka::LATER;
use super::conservation::{at_rest, dropped, home, is_refused, send};
use super::poisoned_records::write_events;

/// Events that the copy has, and that were published after it was made.
const KEPT: usize = 30;
const GONE: usize = 10;
/// How often others write some events, more than were lost in all.
const WRITES: usize = 3;
/// What the slow subscriber is tried again with: so late that it has to be read again from the bus.
const RETRY: &str = "retry: 1000, backoffPolicy: linear, backoffDelay: PT2S";
/// What evoke says of a log that has lost its end, and of its state. Either is enough: where the state is noticed first, the positions in
/// it fit the log.
const SAID: [&str; 2] = ["the bus has lost the end of its log", "lost evoke's state"];

/// What evoke does while its broker is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// It sees that the broker goes.
    Awake,
    /// It stands still, and others have written by the time that it sees the broker again.
    Frozen,
}

async fn is_noticed(evoke: &Evoke) {
    eventually("the older copy is noticed", LATER, async || {
        SAID.iter().any(|said| evoke.log().count(said) > 0).then_some(())
    })
    .await;
}

/// Publishes events, of which the slow subscriber refuses every second one, and waits until both had all so far.
async fn publish(evoke: &Evoke, numbers: Range<usize>, fast: &Sink, slow: &Sink) -> BTreeSet<String> {
    let all = numbers.end;
    let sent: BTreeSet<String> = numbers.map(|n| format!("before-{n}")).collect();
    for id in &sent {
        send(evoke, id, 1).await;
    }
    fast.wait_delivered(all, SOON).await;
    eventually("the slow one was given all", SOON, async || (slow.attempts().len() == all).then_some(())).await;
    sent
}

async fn goes_on(server: &BusServer, meanwhile: Meanwhile) -> Verdict {
    let refuse = |request: &Received| Answer::Status(if is_refused(request.id()) { 503 } else { 200 });
    let (fast, slow) = (Sink::start().await, Sink::scripted(refuse).await);
    let home = home(&server.spec(1), &fast, &slow, RETRY);
    let mut evoke = home.run().await;
    let kept = publish(&evoke, 0..KEPT, &fast, &slow).await;
    server.kill().await;
    let copy = home.path().join("copy");
    scratch::copy(&server.data(), &copy);
    server.start().await;
    evoke.ready(LATER).await;
    let gone = publish(&evoke, KEPT..KEPT + GONE, &fast, &slow).await;

    if meanwhile == Meanwhile::Frozen {
        evoke.signal(Signal::STOP);
    }
    server.kill().await;
    if meanwhile == Meanwhile::Awake {
        evoke.waits_for(&["bus default.default", "down"], LATER).await;
    }
    fs::remove_dir_all(server.data()).unwrap();
    scratch::copy(&copy, &server.data());
    server.start().await;
    if meanwhile == Meanwhile::Awake {
        is_noticed(&evoke).await;
        evoke.ready(LATER).await;
    }
    let mut later = BTreeSet::new();
    for round in 0..WRITES {
        later.extend(write_events(server, &format!("others-{round}")).await);
    }
    if meanwhile == Meanwhile::Frozen {
        evoke.signal(Signal::CONT);
        evoke.ready(LATER).await;
    }
    for n in 0..5 {
        let id = format!("after-{n}");
        send(&evoke, &id, 1).await;
        later.insert(id);
    }
    slow.script(|_| Answer::Status(200));

    let (sent, there) = (&(&kept | &gone) | &later, &kept | &later);
    fast.wait_all(&sent, LATER).await;
    slow.wait_all(&there, LATER).await;
    at_rest(&evoke).await;
    // Entries of Redis have the time in their ids: what others write lies behind every position, and shows nothing.
    if matches!(server, BusServer::Kafka(_)) {
        is_noticed(&evoke).await;
    }
    evoke.ready(LATER).await;
    let counted = (dropped(&evoke, "fast").await, dropped(&evoke, "slow").await);
    evoke.stop().await;
    // Whoever starts again from an older position has each event once more, at the most.
    let repeats = assert_conserved(&sent, [&fast.delivered()], sent.len()).repeats;
    let found = balance(&sent, [&slow.delivered()]);
    println!("{meanwhile:?}: {repeats} and {} repeats, {counted:?} counted, {:?} lost", found.repeats, found.lost);
    assert_eq!(found.made_up, Vec::<String>::new());
    assert!(found.repeats <= sent.len(), "{} repeats", found.repeats);
    assert!(found.lost.iter().all(|id| gone.contains(id) && is_refused(id)), "{:?} are lost", found.lost);
    assert_eq!(counted.0, 0.0, "the fast one had all");
    let lost = found.lost.len() as f64;
    match server {
        // It is away so long that the work is given up, and taken up by the positions in the copy, which know of nothing later.
        BusServer::Kafka(_) => assert!(counted.1 <= lost, "{} of {lost} counted", counted.1),
        _ => assert_eq!(counted.1, lost, "what was not finished is counted"),
    }
    Ok(())
}

/// Sends events until the fast subscriber has had all.
async fn feed(evoke: &Evoke, numbers: Range<usize>, fast: &Sink) -> BTreeSet<String> {
    let all = numbers.end;
    let sent: BTreeSet<String> = numbers.map(|n| format!("before-{n}")).collect();
    for id in &sent {
        send(evoke, id, 1).await;
    }
    fast.wait_delivered(all, SOON).await;
    sent
}

/// Others write more than was lost.
async fn write_others(server: &BusServer) -> BTreeSet<String> {
    let mut written = BTreeSet::new();
    for round in 0..WRITES {
        written.extend(write_events(server, &format!("others-{round}")).await);
    }
    written
}

/// Keeps a copy of what the server has.
async fn keep_copy(server: &BusServer, evoke: &mut Evoke, copy: &Path) {
    server.kill().await;
    scratch::copy(&server.data(), copy);
    server.start().await;
    evoke.ready(LATER).await;
}

/// A subscriber that has read beyond the copy's end, and is busy while that is noticed, misses nothing of what others wrote.
pub(crate) async fn a_subscriber_that_is_busy_misses_nothing_of_what_others_write() -> Verdict {
    let server = BusServer::jetstream().await?;
    let (open, gate) = watch::channel(false);
    let wait = move |request: &Received| match request.id() == format!("before-{KEPT}") {
        true => Answer::When(gate.clone(), Box::new(Answer::Status(200))),
        false => Answer::Status(200),
    };
    let (fast, slow) = (Sink::start().await, Sink::scripted(wait).await);
    let home = home(&server.spec(1), &fast, &slow, "maxInFlight: 1, timeout: PT2M");
    let mut evoke = home.run().await;
    let kept = feed(&evoke, 0..KEPT, &fast).await;
    slow.wait_all(&kept, SOON).await;
    let copy = home.path().join("copy");
    keep_copy(&server, &mut evoke, &copy).await;
    let first_gone = feed(&evoke, KEPT..KEPT + 1, &fast).await;
    let busy_with = format!("before-{KEPT}");
    eventually("the slow one is busy", SOON, async || slow.attempts().contains_key(&busy_with).then_some(())).await;
    let gone = &first_gone | &feed(&evoke, KEPT + 1..KEPT + GONE, &fast).await;

    evoke.signal(Signal::STOP);
    server.kill().await;
    fs::remove_dir_all(server.data()).unwrap();
    scratch::copy(&copy, &server.data());
    server.start().await;
    let others = write_others(&server).await;
    evoke.signal(Signal::CONT);
    fast.wait_all(&others, LATER).await;
    is_noticed(&evoke).await;
    open.send_replace(true);
    let there = &kept | &others;
    slow.wait_all(&there, LATER).await;
    at_rest(&evoke).await;
    evoke.stop().await;
    let sent = &there | &gone;
    assert_conserved(&sent, [&fast.delivered()], sent.len());
    let found = balance(&sent, [&slow.delivered()]);
    println!("{} repeats, {:?} lost", found.repeats, found.lost);
    assert_eq!(found.made_up, Vec::<String>::new());
    assert!(found.repeats <= sent.len(), "{} repeats", found.repeats);
    assert!(found.lost.iter().all(|id| gone.contains(id)), "{:?} are lost", found.lost);
    Ok(())
}

/// A subscription that is paused beyond the end of an older copy of its stream goes on with what others wrote there, and not behind it.
pub(crate) async fn a_subscription_that_was_paused_misses_nothing_of_what_others_write() -> Verdict {
    let server = BusServer::jetstream().await?;
    let (fast, slow) = (Sink::start().await, Sink::start().await);
    let home = home(&server.spec(1), &fast, &slow, "maxInFlight: 2");
    let mut evoke = home.run().await;
    let kept = feed(&evoke, 0..KEPT, &fast).await;
    let copy = home.path().join("copy");
    keep_copy(&server, &mut evoke, &copy).await;
    let before = &kept | &feed(&evoke, KEPT..KEPT + GONE, &fast).await;
    slow.wait_all(&before, SOON).await;
    let (code, text) = home.tool(&["subscription", "pause", "t/slow"]).await;
    assert_eq!(code, Some(0), "{text}");
    evoke.log().wait_for(&["paused", "default/t/slow"], SOON).await;

    // The stream alone is put back: the positions are not.
    let stream = Path::new("jetstream/$G/streams/evoke+default+web+in");
    server.kill().await;
    fs::remove_dir_all(server.data().join(stream)).unwrap();
    scratch::copy(&copy.join(stream), &server.data().join(stream));
    server.start().await;
    is_noticed(&evoke).await;
    evoke.ready(LATER).await;
    let others = write_others(&server).await;
    fast.wait_all(&others, LATER).await;
    let (code, text) = home.tool(&["subscription", "resume", "t/slow"]).await;
    assert_eq!(code, Some(0), "{text}");
    slow.wait_all(&others, LATER).await;
    evoke.log().wait_for(&[SAID[0], "default/t/slow"], SOON).await;
    at_rest(&evoke).await;
    assert_eq!((dropped(&evoke, "fast").await, dropped(&evoke, "slow").await), (0.0, 0.0));
    evoke.stop().await;
    let sent = &before | &others;
    assert_conserved(&sent, [&fast.delivered()], sent.len());
    // What may have been under way when the server went, twice.
    assert_conserved(&sent, [&slow.delivered()], 2 * 2 * 2);
    Ok(())
}

async fn kafka() -> Result<BusServer, Skipped> {
    // Kafka makes its indexes as large as they may become, and they are copied.
    let broker = Broker::prepare_with(&[("log.index.size.max.bytes", "1048576")]).await?;
    broker.start().await;
    Ok(BusServer::Kafka(broker))
}

pub(crate) async fn a_kafka_that_comes_back_with_one_is_noticed() -> Verdict {
    goes_on(&kafka().await?, Meanwhile::Awake).await
}

pub(crate) async fn what_others_write_on_one_of_kafka_arrives() -> Verdict {
    goes_on(&kafka().await?, Meanwhile::Frozen).await
}

pub(crate) async fn a_redis_that_comes_back_with_one_is_noticed_and_counted() -> Verdict {
    goes_on(&BusServer::redis().await?, Meanwhile::Awake).await
}

pub(crate) async fn what_others_write_on_one_of_redis_arrives() -> Verdict {
    goes_on(&BusServer::redis().await?, Meanwhile::Frozen).await
}
