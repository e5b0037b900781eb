//! Pipelines on the JetStream bus: what lies on the servers, and what happens when these fail, refuse or are full.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use evoke_api::events::OnFull;
use evoke_api::names::TopicName;
use evoke_connect::nats::NatsPlan;
use evoke_eventbus::bus::{BusError, EventBus, From, Health, Partition, Position, TopicSpec};
use evoke_eventbus::event::Event;
use evoke_eventbus::jetstream::JetStreamBus;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::jetstream::JetStreamPlan;
use evoke_tests::bus::jetstream as bus_on;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::{self, assert_conserved};
use evoke_tests::load::Load;
use evoke_tests::manifests::{bus, objects, pass, source, trigger};
use evoke_tests::process::Signal;
use evoke_tests::servers::nats::{Cluster, Nats, Operator};
use evoke_tests::servers::tls;
use evoke_tests::{SOON, eventually, scratch};

use crate::jetstream_site::{
    LATER, PER_OUTAGE, STREAM, Site, all_arrive, jetstream, manifests, send, send_all, send_all_again,
};

pub(crate) async fn events_lie_on_the_servers_in_binary_mode_and_foreign_ones_are_read() -> Verdict {
    let Site { nats, sink, home } = Site::start("partitions: 4").await?;
    let mut evoke = home.run().await;
    let sent = send_all(&evoke, 0..40).await;
    sink.wait_all(&sent, SOON).await;

    let context = jetstream::new(nats.client().await);
    let stream = context.get_stream(STREAM).await.unwrap();
    let subjects = &stream.cached_info().config.subjects;
    assert_eq!(subjects.len(), 4, "{subjects:?}");
    assert_eq!(stream.cached_info().state.messages, 40);
    let mut ids = BTreeSet::new();
    for sequence in 1..=40 {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        assert_eq!([header("ce-specversion"), header("ce-evokeformat"), header("ce-type")], ["1.0", "1", "t"]);
        assert_eq!(message.payload, header("ce-id"));
        assert!(header("Nats-Msg-Id").contains(&header("ce-id")));
        ids.insert(header("ce-id"));
    }
    assert_eq!(ids, sent);

    // Other programs write to the first partition; what cannot be an event holds nothing up.
    let write = async |headers: &[(&str, &str)], payload: &'static str| {
        let headers: HeaderMap = headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        let sent = context.publish_with_headers("evoke.default.web.in", headers, payload.into()).await.unwrap();
        sent.await.unwrap().sequence
    };
    write(&[("ce-id", "no source"), ("ce-specversion", "1.0")], "").await;
    write(&[("ce-id", "binary"), ("ce-specversion", "1.0"), ("ce-source", "urn:x"), ("ce-type", "y")], "1").await;
    let structured = r#"{"specversion":"1.0","id":"structured","source":"urn:x","type":"y","data":{"a":1.50}}"#;
    write(&[("content-type", "application/cloudevents+json")], structured).await;
    let plain = write(&[("content-type", "text/plain")], "plain").await;
    let received = sink.wait(43, SOON).await;
    let by_id = |id: &str| received.iter().find(|r| r.id() == id).unwrap_or_else(|| panic!("{id} is missing"));
    assert_eq!(by_id("binary").body, "1");
    assert_eq!(by_id("structured").body, r#"{"a":1.50}"#);
    let plain = by_id(&format!("{STREAM}/{plain}"));
    assert_eq!((&plain.body[..], plain.header("content-type")), (&b"plain"[..], "text/plain"));
    assert_eq!((plain.ce("type"), plain.ce("source")), ("io.evoke.nats", "/nats/evoke.default.web.in"));
    evoke.metric("evoke_bus_skipped_events_total", &[], 1.0, SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn servers_that_are_down_at_start_are_waited_for() -> Verdict {
    let Site { nats, sink, home } = Site::on(Nats::prepare(&[]).await?, "").await;
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&[&nats.address.to_string()], SOON).await;
    nats.resume().await;
    evoke.ready(LATER).await;
    let sent = send_all(&evoke, 0..10).await;
    sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("trying again"), 0, "what waits for the bus has nothing to add");
    Ok(())
}

pub(crate) async fn a_server_that_is_killed_and_frozen_under_load_loses_nothing() -> Verdict {
    let Site { nats, sink, home } = Site::start("").await?;
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    for round in 0..3 {
        let so_far = sink.delivered_count();
        sink.wait_delivered(so_far + 200, LATER).await;
        nats.kill().await;
        if round == 1 {
            evoke.waits_for(&["lost the connection", &nats.address.to_string()], SOON).await;
        }
        nats.resume().await;
        evoke.ready(LATER).await;
    }
    nats.freeze();
    evoke.waits_for(&["bus"], LATER).await;
    nats.thaw();
    evoke.ready(LATER).await;
    let so_far = sink.delivered_count();
    sink.wait_delivered(so_far + 100, LATER).await;
    all_arrive(load, &sink, &mut evoke, bus_on(&nats.url()).await, 4).await;
    // One line says that the bus is away, and perhaps one that it is so again when it seemed to be back, not one an attempt.
    let lost = evoke.log().count("the bus cannot write");
    assert!(lost <= 2 * 4, "{lost} lines for four outages");
    Ok(())
}

pub(crate) async fn evoke_that_is_killed_under_load_goes_on_where_it_was() -> Verdict {
    let Site { nats, sink, home } = Site::start("").await?;
    let run = home.evoke();
    let load = Load::start(&run.webhook("/default/web/in"));
    for _ in 0..3 {
        let mut evoke = run.clone().ready().await;
        let so_far = sink.delivered_count();
        sink.wait_delivered(so_far + 200, LATER).await;
        evoke.kill().await;
    }
    let mut evoke = run.ready().await;
    all_arrive(load, &sink, &mut evoke, bus_on(&nats.url()).await, 3).await;
    Ok(())
}

pub(crate) async fn every_way_to_log_in_works_and_a_refusal_is_named() -> Verdict {
    let sink = Sink::start().await;
    let user = nkeys::KeyPair::new_user();
    let nkey = format!("authorization {{ users: [{{nkey: {}}}] }}", user.public_key());
    let seed = user.seed().unwrap();
    let operator = Operator::new();
    let settings = operator.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let indented = |text: String| text.trim_end().replace('\n', "\\n");
    let (good, expired) = (operator.credentials(LATER * 60), operator.expired_credentials());
    let cases = [
        (
            vec!["authorization { user: ann, password: pw-1f7 }"],
            "auth: {username: ann, password: pw-1f7}".to_owned(),
            "auth: {username: ann, password: wrong-9a}".to_owned(),
            "`auth.username` and `auth.password`",
        ),
        (
            vec!["authorization { token: token-77 }"],
            "auth: {token: token-77}".to_owned(),
            "auth: {token: wrong-9a}".to_owned(),
            "`auth.token`",
        ),
        (
            vec![&*nkey],
            format!("auth: {{nkey: {seed}}}"),
            format!("auth: {{nkey: {}}}", nkeys::KeyPair::new_user().seed().unwrap()),
            "`auth.nkey`",
        ),
        (
            settings,
            format!("auth: {{credentials: \"{}\"}}", indented(good)),
            format!("auth: {{credentials: \"{}\"}}", indented(expired)),
            "has neither expired nor been revoked",
        ),
    ];
    for (n, (settings, right, wrong, named)) in cases.into_iter().enumerate() {
        let nats = Nats::with(&settings).await?;
        let home = Home::with(manifests(&jetstream(&nats.url(), &wrong), &sink));
        let mut evoke = home.evoke().start().await;
        evoke.waits_for(&["refuses to log evoke in", named], SOON).await;
        assert_eq!(evoke.log().count("wrong-9a"), 0);
        evoke.signal(Signal::TERM);
        evoke.ended(LATER).await;
        home.write("evoke.yaml", manifests(&jetstream(&nats.url(), &right), &sink));
        let mut evoke = home.run().await;
        let id = format!("login-{n}");
        assert_eq!(send(&evoke, &id, "x").await, 202);
        sink.wait_all(&[id].into(), SOON).await;
        evoke.stop().await;
    }
    Ok(())
}

pub(crate) async fn tls_is_spoken_and_a_stranger_is_named() -> Verdict {
    let nats = Nats::with_tls(true, &[]).await?;
    let authority = tls::authority().await?;
    let sink = Sink::start().await;
    let (ca, client) = (authority.ca(), authority.client());
    let url = format!("tls://{}", nats.address);
    let files = format!(
        "caFrom: {{file: {:?}}}, certFrom: {{file: {:?}}}, keyFrom: {{file: {:?}}}, serverName: broker.test",
        ca, client.cert, client.key
    );
    let home = Home::with(manifests(&jetstream(&url, ""), &sink));
    let mut evoke = home.evoke().start().await;
    evoke.waits_for(&["TLS failed", "check `tls`"], SOON).await;
    evoke.signal(Signal::TERM);
    evoke.ended(LATER).await;
    home.write("evoke.yaml", manifests(&jetstream(&url, &format!("tls: {{{files}}}")), &sink));
    let mut evoke = home.run().await;
    let sent = send_all(&evoke, 0..5).await;
    sink.wait_all(&sent, SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn servers_without_batches_store_one_event_after_the_other() -> Verdict {
    let Site { nats, sink, home } = Site::on(Nats::older().await?, "partitions: 1").await;
    let run = home.evoke();
    let mut evoke = run.clone().ready().await;
    evoke.log().wait_for(&["the servers do not know batches", "NATS 2.14"], SOON).await;
    let load = Load::start(&run.webhook("/default/web/in"));
    load.more(300, LATER).await;
    nats.kill().await;
    nats.resume().await;
    load.more(300, LATER).await;
    all_arrive(load, &sink, &mut evoke, bus_on(&nats.url()).await, 1).await;
    Ok(())
}

pub(crate) async fn a_server_that_comes_back_with_an_older_copy_is_noticed() -> Verdict {
    let Site { nats, sink, home } = Site::start("partitions: 1").await?;
    let mut evoke = home.run().await;
    let mut sent = send_all(&evoke, 0..50).await;
    sink.wait_all(&sent, SOON).await;
    nats.kill().await;
    let copy = home.path().join("copy");
    scratch::copy(&nats.data(), &copy);
    nats.resume().await;
    evoke.ready(LATER).await;
    sent.extend(send_all_again(&evoke, 50..70).await);
    sink.wait_all(&sent, SOON).await;

    // What the servers lost was delivered. Others write more than that before evoke sees them again.
    evoke.signal(Signal::STOP);
    nats.kill().await;
    std::fs::remove_dir_all(nats.data()).unwrap();
    scratch::copy(&copy, &nats.data());
    nats.resume().await;
    let context = jetstream::new(nats.client().await);
    for n in 0..40 {
        let mut headers = HeaderMap::new();
        let id = format!("new-{n}");
        for (name, value) in [("ce-specversion", "1.0"), ("ce-id", &*id), ("ce-source", "/s"), ("ce-type", "t")] {
            headers.insert(name, value);
        }
        context.publish_with_headers("evoke.default.web.in", headers, "".into()).await.unwrap().await.unwrap();
        sent.insert(id);
    }
    evoke.signal(Signal::CONT);
    sink.wait_all(&sent, LATER).await;
    evoke.log().wait_for(&["the bus has lost the end of its log"], SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], PER_OUTAGE);
    Ok(())
}

pub(crate) async fn a_stream_that_is_deleted_is_made_anew_and_read_from_its_start() -> Verdict {
    let Site { nats, sink, home } = Site::start("partitions: 1").await?;
    let mut evoke = home.run().await;
    let mut sent = send_all(&evoke, 0..20).await;
    sink.wait_all(&sent, SOON).await;
    jetstream::new(nats.client().await).delete_stream(STREAM).await.unwrap();
    // Stored in the new one, maybe before it is looked at.
    sent.extend(send_all_again(&evoke, 20..60).await);
    sink.wait_all(&sent, LATER).await;
    evoke.log().wait_for(&["the stream was gone and is made anew"], SOON).await;
    evoke.stop().await;
    assert_conserved(&sent, [&sink.delivered()], 0);
    Ok(())
}

pub(crate) async fn a_full_stream_blocks_and_goes_on() -> Verdict {
    let nats = Nats::start().await?;
    let busy = Arc::new(AtomicBool::new(true));
    let is_busy = busy.clone();
    let script =
        move |_: &Received| if is_busy.load(Ordering::Relaxed) { Answer::Status(503) } else { Answer::Status(200) };
    let sink = Sink::scripted(script).await;
    let fields = format!("maxEventBytes: 64Ki\n{}", jetstream(&nats.url(), "maxBytes: 1Mi, partitions: 1"));
    let pass = trigger(
        "all",
        &format!(
            "inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers: [{{name: all, condition: it, \
             sink: {{uri: \"{}\"}}, delivery: {{retry: 1000, backoffPolicy: linear, backoffDelay: PT0.2S}}}}]",
            sink.url("/")
        ),
    );
    let home = Home::with(objects(&[bus("default", &fields), source("web", "webhook: {in: {}}"), pass]));
    let mut evoke = home.run().await;
    let mut taken = BTreeSet::new();
    let mut perhaps = BTreeSet::new();
    for n in 0..100 {
        let id = format!("f-{n}");
        let sent = tokio::time::timeout(Duration::from_secs(20), send(&evoke, &id, vec![b'x'; 32 << 10])).await;
        if matches!(sent, Ok(202)) {
            taken.insert(id);
        } else {
            perhaps.insert(id);
            break;
        }
    }
    assert!(!perhaps.is_empty() && taken.len() < 33, "1 MiB took {} events of 32 KiB", taken.len());
    evoke.waits_for(&["maxBytes"], SOON).await;
    busy.store(false, Ordering::Relaxed);
    sink.wait_all(&taken, LATER).await;
    evoke.ready(LATER).await;
    let more = send_all(&evoke, 0..20).await;
    taken.extend(more);
    sink.wait_all(&taken, LATER).await;
    evoke.stop().await;
    let delivered = sink.delivered();
    assert_conserved(&ledger::sent(&taken, &perhaps, &delivered), [&delivered], 0);
    Ok(())
}

/// The bus, without evoke around it.
async fn open_bus(nats: &Nats, fields: impl FnOnce(&mut JetStreamPlan)) -> JetStreamBus {
    let mut plan = JetStreamPlan::on(NatsPlan { servers: vec![nats.url()], ..NatsPlan::default() });
    fields(&mut plan);
    let metrics = BusMetrics::new(&prometheus::Registry::new()).unwrap();
    let bus = JetStreamBus::open("test", plan, 1 << 20, &metrics).await.unwrap();
    bus.health().wait_for(|health| *health == Health::Up).await.unwrap();
    bus
}

pub(crate) async fn what_a_stream_drops_is_named_whenever_it_does() -> Verdict {
    let nats = Nats::start().await?;
    let bus = open_bus(&nats, |plan| (plan.max_bytes, plan.on_full) = (Some(1 << 20), OnFull::DropOldest)).await;
    let partition = Partition { topic: TopicName::parse("default.drops.in"), index: 0 };
    bus.declare(&TopicSpec { name: partition.topic.clone(), partitions: 1 }).await.unwrap();
    let mut reader = bus.read(&partition, From::First, 0).await.unwrap();
    let first = bus.locate(&[(partition.clone(), From::First)]).await.unwrap()[0].at;
    let (mut next, mut read, mut named) = (first, 0, 0);
    for round in 0..20 {
        // Twice as much as the stream keeps, and then one look, sooner after the last one than any check might be.
        for call in 0..8 {
            let event = |n: usize| Event::builder(format!("{round}-{call}-{n}"), "/s", "t").data(vec![b'x'; 32 << 10]);
            let events = (0..8).map(|n| event(n).build().unwrap()).collect();
            let stored = bus.publish(&partition, events).await.unwrap().await;
            assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        }
        match reader.next(1).await {
            Ok(batch) => {
                let mut gaps = batch.gaps.iter();
                for record in &batch.records {
                    if record.at != next {
                        // Of one partition alone, everything that is passed over is lost.
                        assert_eq!(gaps.next(), Some(&(next..record.at)), "a silent jump");
                        named += record.at.0 - next.0;
                    }
                    next = Position(record.at.0 + 1);
                    read += 1;
                }
                assert_eq!((gaps.next(), batch.next), (None, next));
            }
            Err(BusError::Trimmed { first }) => {
                named += first.0 - next.0;
                next = first;
                reader = bus.read(&partition, From::At(next), 0).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(read > 0 && named > 500, "{read} read, {named} named as lost");
    bus.close().await.unwrap();
    Ok(())
}

pub(crate) async fn a_stream_made_anew_with_fewer_partitions_is_noticed() -> Verdict {
    let nats = Nats::start().await?;
    let (old, new) = (open_bus(&nats, |_| ()).await, open_bus(&nats, |_| ()).await);
    let topic = TopicName::parse("default.anew.in");
    let declare = async |bus: &JetStreamBus, partitions| {
        bus.declare(&TopicSpec { name: topic.clone(), partitions }).await.unwrap().partitions
    };
    let publish = async |index: u16, id: &str| {
        let to = Partition { topic: topic.clone(), index };
        let event = Event::builder(id, "/s", "t").build().unwrap();
        match old.publish(&to, vec![event]).await {
            Ok(receipt) => {
                tokio::time::timeout(LATER, receipt).await.expect("an answer").remove(0).map_err(|e| e.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    };
    assert_eq!(declare(&old, 4).await, 4);
    for index in 0..4 {
        publish(index, &format!("before-{index}")).await.unwrap();
    }
    let context = jetstream::new(nats.client().await);
    context.delete_stream("evoke+default+anew+in").await.unwrap();
    assert_eq!(declare(&new, 2).await, 2);
    // It goes to a partition that is no more, and waits there for nobody.
    let lost = publish(3, "lost").await.unwrap_err();
    assert!(lost.contains("2 partitions by now, and no more 4") && lost.contains("restart evoke"), "{lost}");
    let refused = publish(3, "refused").await.unwrap_err();
    assert!(refused.contains("2 partitions, none with index 3"), "{refused}");
    assert_eq!(publish(1, "after").await, Ok(()));
    let partition = Partition { topic: topic.clone(), index: 1 };
    let mut reader = new.read(&partition, From::First, 0).await.unwrap();
    assert_eq!(reader.next(1).await.unwrap().records[0].event.id(), "after");
    old.close().await.unwrap();
    new.close().await.unwrap();
    Ok(())
}

pub(crate) async fn an_event_above_the_servers_limit_is_dead_lettered_with_the_cause() -> Verdict {
    let nats = Nats::with(&["max_payload: 65536"]).await?;
    let (sink, dead) = (Sink::start().await, Sink::start().await);
    let spec = format!(
        "deadLetterSink: {{uri: \"{}\"}}\ncron: {{big: {{schedule: \"@every 1s\", data: {{text: \"{}\"}}}}}}\nwebhook: {{in: {{}}}}",
        dead.url("/"),
        "x".repeat(100_000)
    );
    let home = Home::with(objects(&[
        bus("default", &jetstream(&nats.url(), "")),
        source("web", &spec),
        pass("all", "web", "in", &sink.url("/")),
    ]));
    let mut evoke = home.run().await;
    let letters = dead.wait(1, SOON).await;
    let cause = letters[0].text("evokecause");
    assert!(cause.contains("limit") && cause.contains("bytes"), "{cause}");
    assert_eq!(send(&evoke, "large", vec![b'x'; 100_000]).await, 413);
    assert_eq!(send(&evoke, "small", "x").await, 202);
    sink.wait_all(&["small".to_owned()].into(), SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn no_more_is_put_aside_than_the_servers_take_as_a_position() -> Verdict {
    const EVENTS: usize = 2500;
    let nats = Nats::with(&["max_payload: 12288"]).await?;
    let is_busy = Arc::new(AtomicBool::new(true));
    let busy = is_busy.clone();
    let script =
        move |_: &Received| if busy.load(Ordering::Relaxed) { Answer::Status(503) } else { Answer::Status(200) };
    let sink = Sink::scripted(script).await;
    let pass = trigger(
        "all",
        &format!(
            "inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers: [{{name: all, condition: it, \
             sink: {{uri: \"{}\"}}, delivery: {{retry: 1000, backoffPolicy: linear, backoffDelay: PT2S}}}}]",
            sink.url("/")
        ),
    );
    let fields = jetstream(&nats.url(), "partitions: 1");
    let home = Home::with(objects(&[bus("default", &fields), source("web", "webhook: {in: {}}"), pass]));
    let run = home.evoke();
    let mut evoke = run.clone().ready().await;
    let client = nats.client().await;
    let ids: BTreeSet<String> = (0..EVENTS).map(|n| format!("p-{n}")).collect();
    for id in &ids {
        let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "urn:x"), ("ce-type", "t")];
        let headers: HeaderMap = headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        client.publish_with_headers("evoke.default.web.in", headers, "x".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    evoke.metric("evoke_subscription_stalled", &[("subscriber", "all")], 1.0, LATER).await;
    let parked = evoke.metrics().await.sum("evoke_deliveries_parked", &[("subscriber", "all")]);
    assert!((10.0..500.0).contains(&parked), "{parked} put aside");
    assert_eq!(evoke.log().count("positions cannot be recorded"), 0);
    // What was put aside is known after a kill, and nothing else is.
    evoke.kill().await;
    is_busy.store(false, Ordering::Relaxed);
    let mut evoke = run.ready().await;
    sink.wait_all(&ids, LATER).await;
    evoke.stop().await;
    assert_conserved(&ids, [&sink.delivered()], PER_OUTAGE);
    Ok(())
}

pub(crate) async fn an_event_that_is_published_again_is_stored_once_and_counted() -> Verdict {
    let Site { nats, sink, home } = Site::start("partitions: 2").await?;
    let mut evoke = home.run().await;
    for id in ["a", "b", "a", "a", "c"] {
        assert_eq!(send(&evoke, id, id.to_owned()).await, 202, "what is there already is accepted as well");
    }
    let labels = [("bus", "default.default"), ("topic", "default.web.in")];
    assert_eq!(evoke.metric("evoke_bus_duplicate_events_total", &labels, 2.0, SOON).await, 2.0);
    sink.wait_all(&["a", "b", "c"].map(str::to_owned).into(), SOON).await;
    evoke.stop().await;
    assert_eq!(sink.delivered(), ledger::count(["a", "b", "c"]));
    let context = jetstream::new(nats.client().await);
    assert_eq!(context.get_stream(STREAM).await.unwrap().cached_info().state.messages, 3);
    Ok(())
}

pub(crate) async fn a_leader_that_goes_away_loses_nothing() -> Verdict {
    let cluster = Cluster::start().await?;
    let sink = Sink::start().await;
    let home = Home::with(manifests(&jetstream(&cluster.url(), "replicas: 3, partitions: 2"), &sink));
    let mut evoke = home.evoke().start().await;
    evoke.ready(LATER).await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    for _ in 0..2 {
        let so_far = sink.delivered_count();
        sink.wait_delivered(so_far + 200, LATER).await;
        let leader = cluster.leader(STREAM).await;
        leader.kill().await;
        let so_far = sink.delivered_count();
        sink.wait_delivered(so_far + 100, LATER).await;
        leader.resume().await;
        cluster.settled().await;
        evoke.ready(LATER).await;
    }
    cluster.step_down(STREAM).await;
    let so_far = sink.delivered_count();
    sink.wait_delivered(so_far + 100, LATER).await;
    all_arrive(load, &sink, &mut evoke, bus_on(&cluster.url()).await, 3).await;
    let context = jetstream::new(cluster.nodes[0].client().await);
    eventually("the stream has its replicas", LATER, async || {
        let info = context.get_stream(STREAM).await.ok()?.cached_info().clone();
        (info.config.num_replicas == 3).then_some(())
    })
    .await;
    Ok(())
}
