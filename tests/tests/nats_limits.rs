//! NATS sources when nothing is taken: what a stream gives out and what it keeps, over an edit too, and what a subject loses.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::{assert_conserved, balance, count, repeats};
use evoke_tests::manifests::{bare_source, bus, objects, source, trigger};
use evoke_tests::servers::nats::Nats;
use evoke_tests::{SOON, eventually};

use super::nats_source::{acked, make_stream, publish_all};

const LATER: Duration = Duration::from_secs(90);
const OWN: &str = "default_nats_in";
/// Messages of a consumer that evoke makes which may be on their way, at the most.
const ACK_PENDING: usize = 1024;
const WAITING: usize = 3000;
/// So many messages on a subject, one after the other: far more than a bus of 24 MiB and the 16 MiB before it hold.
const MESSAGES: usize = 20_000;
const MESSAGE_BYTES: usize = 4 << 10;
/// A server that keeps all of them for a client that is slow to read, instead of cutting it off.
const PATIENT: &str = "max_pending: 268435456";
/// How a sink that hangs is tried again: little time is lost once it does not, and an answer that is only slow counts.
const DELIVERY: &str = "timeout: PT15S, retry: 1000, backoffPolicy: linear, backoffDelay: PT0.1S";

/// A source that has a sink alone: its messages are on their way until the sink has them.
fn straight(nats: &Nats, more: &str, sink: &Sink) -> String {
    let (to, url) = (sink.url("/"), nats.url());
    bare_source(
        "nats",
        &format!("sink: {{uri: \"{to}\"}}\ndelivery: {{{DELIVERY}}}\nnats:\n  in: {{url: \"{url}\", {more}}}"),
    )
}

async fn info(context: &Context) -> Info {
    context.get_stream("S").await.unwrap().consumer_info(OWN).await.unwrap()
}

/// Publishes messages that the sink does not take, and waits until it was asked to take each.
async fn held(context: &Context, subject: &str, sink: &Sink) -> BTreeSet<String> {
    sink.script(|_| Answer::Hang);
    let ids = publish_all(context, "S", subject, 5).await;
    eventually("the messages are on their way", SOON, async || {
        let tried = sink.attempts();
        ids.iter().all(|id| tried.contains_key(id)).then_some(())
    })
    .await;
    assert_eq!(info(context).await.num_ack_pending, ids.len());
    ids
}

pub(crate) async fn an_edited_source_keeps_its_consumer() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    publish_all(&context, "S", "s.a", 5).await;
    let sink = Sink::start().await;
    let reads = |start: &str, subject: &str| {
        straight(&nats, &format!("stream: S, startAt: {start}, subject: \"{subject}\""), &sink)
    };
    let home = Home::with(reads("latest", "s.a"));
    let mut evoke = home.run().await;
    let made = info(&context).await.created;
    let mut sent = held(&context, "s.a", &sink).await;
    evoke.kill().await;
    sent.extend(publish_all(&context, "S", "s.a", 5).await);
    let left = info(&context).await;
    assert_eq!(left.num_ack_pending as u64 + left.num_pending, sent.len() as u64);

    // What was on its way and what waited comes, and nothing from before the consumer was made.
    home.write("evoke.yaml", reads("earliest", "s.*"));
    sink.script(|_| Answer::Status(200));
    let mut evoke = home.run().await;
    sent.extend(publish_all(&context, "S", "s.b", 5).await);
    sink.wait_all(&sent, LATER).await;
    acked(&context, "S", OWN).await;

    // What was on its way comes also where the source is to read something else from now on.
    sent.extend(held(&context, "s.b", &sink).await);
    evoke.kill().await;
    home.write("evoke.yaml", reads("earliest", "s.c"));
    sink.script(|_| Answer::Status(200));
    let mut evoke = home.run().await;
    sent.extend(publish_all(&context, "S", "s.c", 5).await);
    publish_all(&context, "S", "s.a", 5).await;
    sink.wait_all(&sent, LATER).await;
    acked(&context, "S", OWN).await;
    evoke.stop().await;
    let now = info(&context).await;
    assert_eq!((now.config.durable_name.as_deref(), now.created), (Some(OWN), made), "it is the same consumer");
    assert_eq!((now.config.filter_subject.as_str(), now.config.deliver_policy), ("s.c", DeliverPolicy::New));
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn what_is_on_its_way_is_bounded_and_the_lag_has_all_of_it() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let sent = publish_all(&context, "S", "s.a", WAITING).await;
    let sink = Sink::scripted(|_| Answer::Hang).await;
    // One process takes in less than the consumer would give it, two of them more.
    let homes = [0, 1].map(|_| Home::with(straight(&nats, "stream: S, startAt: earliest", &sink)));
    let (mut one, mut two) = (homes[0].run().await, homes[1].run().await);
    let given = eventually("the consumer has given out all that it may", SOON, async || {
        let info = info(&context).await;
        (info.num_ack_pending >= ACK_PENDING).then_some(info)
    })
    .await;
    assert_eq!(usize::try_from(given.config.max_ack_pending), Ok(ACK_PENDING));
    assert_eq!((given.num_ack_pending, given.num_pending), (ACK_PENDING, (WAITING - ACK_PENDING) as u64));
    for evoke in [&one, &two] {
        let lag = evoke.metric("evoke_source_lag", &[("event", "in")], WAITING as f64, SOON).await;
        assert_eq!(lag, WAITING as f64, "nothing is acknowledged");
    }
    let now = info(&context).await;
    assert_eq!((now.num_ack_pending, now.num_redelivered), (ACK_PENDING, 0), "nor given out again");

    sink.script(|_| Answer::Status(200));
    sink.wait_all(&sent, LATER).await;
    acked(&context, "S", OWN).await;
    for evoke in [&mut one, &mut two] {
        eventually("the lag is gone", SOON, async || {
            (evoke.metrics().await.sum("evoke_source_lag", &[]) == 0.0).then_some(())
        })
        .await;
        evoke.stop().await;
    }
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn what_core_subjects_skip_is_counted() -> Verdict {
    let nats = Nats::with(&[PATIENT]).await?;
    let sink = Sink::scripted(|_| Answer::Hang).await;
    let subscriber = format!(
        "inputs: {{it: {{eventSource: nats, event: in}}}}\n\
         subscribers: [{{name: all, condition: it, sink: {{uri: \"{}\"}}, delivery: {{{DELIVERY}}}}}]",
        sink.url("/")
    );
    let home = Home::with(objects(&[
        bus("default", "embedded: {maxBytes: 24Mi, onFull: block}"),
        source("nats", &format!("nats:\n  in: {{url: \"{}\", subject: in}}", nats.url())),
        trigger("t", &subscriber),
    ]));
    let mut evoke = home.run().await;
    let client = nats.client().await;
    for n in 0..MESSAGES {
        client.publish("in", format!("{n:<MESSAGE_BYTES$}").into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let skipped = "evoke_source_skipped_total";
    evoke.waits_for(&["bus default.default", "full"], SOON).await;
    evoke.metric(skipped, &[("event", "in")], 1.0, SOON).await;

    sink.script(|_| Answer::Status(200));
    let lost = eventually("every message is delivered or counted", LATER, async || {
        let lost = evoke.metrics().await.sum(skipped, &[("event", "in")]);
        (sink.delivered_count() as f64 + lost >= MESSAGES as f64).then_some(lost)
    })
    .await;
    evoke.ready(SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("messages are lost"), 1, "one warning");
    let came = sink.received().into_iter().filter(|request| request.status == Some(200));
    let numbers = count(came.map(|request| String::from_utf8_lossy(&request.body).trim_end().to_owned()));
    let sent: BTreeSet<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
    let found = balance(&sent, [&numbers]);
    assert_eq!((found.made_up, found.repeats, repeats(&sink.delivered())), (Vec::new(), 0, 0));
    assert_eq!(lost, found.lost.len() as f64, "{} of {MESSAGES} were delivered", numbers.len());
    Ok(())
}
