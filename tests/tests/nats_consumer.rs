//! NATS sources whose durable consumer is there already: made from an earlier manifest, or by somebody else.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, pull, push};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use async_nats::jetstream::{self, Context};
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::nats::Nats;
use evoke_tests::{SOON, eventually};

use super::nats_source::{acked, make_stream, manifests, publish_all};

const OWN: &str = "default_nats_in";
const UP: &str = "the source is up";

async fn info(context: &Context, consumer: &str) -> Info {
    context.get_stream("S").await.unwrap().consumer_info(consumer).await.unwrap()
}

/// Edits the manifest of an evoke that runs, and waits until the source has started anew with it.
async fn edit(home: &Home, evoke: &mut Evoke, manifest: String) {
    let before = evoke.log().count(UP);
    home.write("evoke.yaml", manifest);
    eventually("the source starts anew", SOON, async || (evoke.log().count(UP) > before).then_some(())).await;
    evoke.ready(SOON).await;
}

pub(crate) async fn a_subject_that_is_edited_becomes_the_filter() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let sink = Sink::start().await;
    let reads = |subject: &str| manifests(&nats.url(), &format!(", stream: S, subject: \"{subject}\""), &sink);
    let home = Home::with(reads("s.a"));
    let mut evoke = home.run().await;
    let mut read = publish_all(&context, "S", "s.a", 5).await;
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;
    let made = info(&context, OWN).await.created;

    edit(&home, &mut evoke, reads("s.b")).await;
    publish_all(&context, "S", "s.a", 5).await;
    read.extend(publish_all(&context, "S", "s.b", 5).await);
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;
    let now = info(&context, OWN).await;
    assert_eq!((now.config.filter_subject.as_str(), now.created), ("s.b", made), "it is changed, not made again");

    // The same where it is edited while evoke does not run.
    evoke.stop().await;
    home.write("evoke.yaml", reads("s.*.deep"));
    let mut evoke = home.run().await;
    publish_all(&context, "S", "s.b", 5).await;
    read.extend(publish_all(&context, "S", "s.c.deep", 5).await);
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;
    evoke.stop().await;
    let now = info(&context, OWN).await;
    assert_eq!((now.config.filter_subject.as_str(), now.created), ("s.*.deep", made));
    assert_conserved(&read, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_subject_that_is_taken_out_is_no_filter_any_more() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let sink = Sink::start().await;
    let home = Home::with(manifests(&nats.url(), ", stream: S, subject: s.a", &sink));
    let mut evoke = home.run().await;
    let mut read = publish_all(&context, "S", "s.a", 5).await;
    sink.wait_all(&read, SOON).await;
    edit(&home, &mut evoke, manifests(&nats.url(), ", stream: S", &sink)).await;
    for subject in ["s.a", "s.b"] {
        read.extend(publish_all(&context, "S", subject, 5).await);
    }
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;
    evoke.stop().await;
    assert_eq!(info(&context, OWN).await.config.filter_subject, "");
    assert_conserved(&read, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_filter_of_somebody_else_stays() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let theirs = pull::Config {
        durable_name: Some("theirs".to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: "s.a".to_owned(),
        ..pull::Config::default()
    };
    context.get_stream("S").await.unwrap().create_consumer(theirs).await.unwrap();
    let sink = Sink::start().await;
    let home = Home::with(manifests(&nats.url(), ", stream: S, consumer: theirs", &sink));
    let mut evoke = home.run().await;
    publish_all(&context, "S", "s.b", 5).await;
    let read = publish_all(&context, "S", "s.a", 5).await;
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", "theirs").await;
    evoke.stop().await;
    assert_eq!(info(&context, "theirs").await.config.filter_subject, "s.a");
    assert_conserved(&read, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_message_that_is_larger_than_the_consumer_s_limit_comes_too() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let theirs = pull::Config {
        durable_name: Some("theirs".to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_bytes: 1024,
        ..pull::Config::default()
    };
    context.get_stream("S").await.unwrap().create_consumer(theirs).await.unwrap();
    let mut sizes = BTreeMap::new();
    for size in [10, 8192, 10, 10, 900, 8192, 8192, 10] {
        let ack = context.publish("s.a", vec![b'x'; size].into()).await.unwrap().await.unwrap();
        sizes.insert(format!("S/{}", ack.sequence), size);
    }
    let sink = Sink::start().await;
    let home = Home::with(manifests(&nats.url(), ", stream: S, consumer: theirs", &sink));
    let mut evoke = home.run().await;
    let read: BTreeSet<String> = sizes.keys().cloned().collect();
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", "theirs").await;
    evoke.ready(SOON).await;
    evoke.stop().await;
    let came: BTreeMap<String, usize> =
        sink.received_at("/").iter().map(|received| (received.id().to_owned(), received.body.len())).collect();
    assert_eq!(came, sizes);
    assert_eq!(info(&context, "theirs").await.config.max_bytes, 1024, "it is left as it is");
    assert_conserved(&read, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_start_that_is_edited_is_that_of_the_next_consumer() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let before = publish_all(&context, "S", "s.a", 5).await;
    let sink = Sink::start().await;
    let reads = |more: &str| manifests(&nats.url(), &format!(", stream: S{more}"), &sink);
    let home = Home::with(reads(", startAt: latest"));
    let mut evoke = home.run().await;
    let mut read = publish_all(&context, "S", "s.a", 5).await;
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;

    // The consumer that is there goes on where it is.
    edit(&home, &mut evoke, reads(", startAt: earliest")).await;
    read.extend(publish_all(&context, "S", "s.a", 5).await);
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;
    assert_conserved(&read, [&sink.delivered()], 0);
    assert_eq!(info(&context, OWN).await.config.deliver_policy, DeliverPolicy::New);

    // Another one starts where the manifest says now, and the first is left as it is.
    edit(&home, &mut evoke, reads(", startAt: earliest, consumer: other")).await;
    let all: BTreeSet<String> = before.union(&read).cloned().collect();
    sink.wait_all(&all, SOON).await;
    acked(&context, "S", "other").await;
    evoke.stop().await;
    assert_eq!(info(&context, "other").await.config.deliver_policy, DeliverPolicy::All);
    assert_eq!(info(&context, OWN).await.num_pending, 0);
    let found = assert_conserved(&all, [&sink.delivered()], read.len());
    assert_eq!(found.repeats, read.len(), "each consumer brings everything, under the same ids");
    Ok(())
}

pub(crate) async fn a_filter_that_the_server_does_not_take_is_named() -> Verdict {
    let nats = Nats::start().await?;
    let context = jetstream::new(nats.client().await);
    // Of a work queue, each message is one consumer's.
    let config = stream::Config {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        retention: RetentionPolicy::WorkQueue,
        ..stream::Config::default()
    };
    let stream = context.create_stream(config).await.unwrap();
    let other = pull::Config {
        durable_name: Some("other".to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: "s.b".to_owned(),
        ..pull::Config::default()
    };
    stream.create_consumer(other).await.unwrap();
    let sink = Sink::start().await;
    let reads =
        |subject: &str| manifests(&nats.url(), &format!(", stream: S, startAt: earliest, subject: {subject}"), &sink);
    let home = Home::with(reads("s.a"));
    let mut evoke = home.run().await;
    let mut read = publish_all(&context, "S", "s.a", 5).await;
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;
    home.write("evoke.yaml", reads("s.b"));
    evoke.waits_for(&["nats/in", OWN, "cannot be made to read \"s.b\"", "name another"], SOON).await;
    assert_eq!(info(&context, OWN).await.config.filter_subject, "s.a", "it is left as it is");
    // What the server takes later is taken over then.
    stream.delete_consumer("other").await.unwrap();
    evoke.ready(SOON).await;
    read.extend(publish_all(&context, "S", "s.b", 5).await);
    sink.wait_all(&read, SOON).await;
    acked(&context, "S", OWN).await;
    evoke.stop().await;
    assert_conserved(&read, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_consumer_that_would_lose_messages_is_named() -> Verdict {
    let nats = Nats::start().await?;
    let context = make_stream(&nats.client().await, "S").await;
    let stream = context.get_stream("S").await.unwrap();
    let pushes = push::Config {
        durable_name: Some("pushes".to_owned()),
        deliver_subject: "somewhere".to_owned(),
        ack_policy: AckPolicy::Explicit,
        ..push::Config::default()
    };
    stream.create_consumer(pushes).await.unwrap();
    let forgets = pull::Config {
        durable_name: Some("forgets".to_owned()),
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    stream.create_consumer(forgets).await.unwrap();
    let (sink, url) = (Sink::start().await, nats.url());
    let event = |name: &str, consumer: &str| format!("\n  {name}: {{url: \"{url}\", stream: S, consumer: {consumer}}}");
    let manifest = |events: &[String]| {
        let passes = ["one", "two"].map(|name| pass(name, "nats", name, &sink.url(&format!("/{name}"))));
        objects(&[&[source("nats", &format!("nats:{}", events.concat()))], &passes[..]].concat())
    };
    let home = Home::with(manifest(&[event("one", "pushes"), event("two", "forgets")]));
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["nats/one", "\"pushes\" pushes messages, and evoke pulls them", "name another"], SOON).await;
    let says = ["nats/two", "\"forgets\" does not want each message acknowledged", "name another"];
    evoke.waits_for(&says, SOON).await;
    home.write("evoke.yaml", manifest(&[event("one", "first"), event("two", "second")]));
    evoke.ready(SOON).await;
    let read = publish_all(&context, "S", "s.a", 5).await;
    for path in ["/one", "/two"] {
        let came: BTreeSet<String> = sink.wait_at(path, 5, SOON).await.iter().map(|r| r.id().to_owned()).collect();
        assert_eq!(came, read, "{path}");
    }
    for consumer in ["first", "second"] {
        acked(&context, "S", consumer).await;
    }
    evoke.stop().await;
    Ok(())
}
