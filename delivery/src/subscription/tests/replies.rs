//! `reply`.

use futures_util::future::BoxFuture;

use super::*;
use crate::sink::Sink;
use crate::sinks::Outputs;

/// A script that answers what it takes with an event.
struct Replier {
    script: Arc<Script>,
    reply: fn(&Event) -> Event,
}

impl Sink for Replier {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome> {
        self.script.deliver(event)
    }

    fn ask<'a>(&'a self, event: &'a Event, limit: usize) -> BoxFuture<'a, (Outcome, Option<Event>)> {
        Box::pin(async move {
            assert!(limit > 0);
            let outcome = self.script.deliver(event).await;
            let reply = (outcome == Outcome::Delivered).then(|| (self.reply)(event));
            (outcome, reply)
        })
    }

    fn destination(&self) -> &str {
        "http://replier.test/"
    }
}

fn replying(to: &str) -> SubscriptionPlan {
    let mut plan = plan("a");
    plan.reply = Some(topic(to));
    plan
}

fn run(process: &Process, plan: &SubscriptionPlan, script: &Arc<Script>, reply: fn(&Event) -> Event) -> Running {
    let sink: Arc<dyn Sink> = Arc::new(Replier { script: Arc::clone(script), reply });
    process.run_outputs(plan, Outputs { sink: Some(sink), ..Outputs::default() }, Box::new(All))
}

fn answer(event: &Event) -> Event {
    Event::builder(format!("re-{}", event.id()), "/replier", "answer").data(&b"yes"[..]).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_published_with_its_own_id_and_its_hops() {
    let plan = replying("answers");
    let (bus, process) = waiting(0, &plan).await;
    let traced = event(0).to_builder().attribute("traceparent", "00-a-b-01").build().unwrap();
    bus.append(&partition("order"), vec![traced, event(1)]);
    let script = Script::takes(MS);
    let lane = run(&process, &plan, &script, answer);
    script.attempts(2).await;
    sleep(SECOND).await;
    let replies = bus.events(&partition("answers"));
    let of = |n: usize, name| replies[n].attribute(name);
    assert_eq!(replies.iter().map(Event::id).collect::<Vec<_>>(), ["re-0", "re-1"]);
    assert_eq!((replies[0].source(), replies[0].ty(), replies[0].data_slice()), ("/replier", "answer", &b"yes"[..]));
    assert_eq!((of(0, "evokehops"), of(0, "traceparent"), of(1, "traceparent")), (Some("1"), Some("00-a-b-01"), None));
    assert_eq!(process.metric("evoke_replies_total", "published"), 2.0);
    assert_eq!(process.metric("evoke_deliveries_total", "delivered"), 2.0);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_finished_once_its_reply_is_durable_and_is_not_posted_again_for_it() {
    let plan = replying("answers");
    let (bus, process) = waiting(3, &plan).await;
    bus.refuses_publish.store(true, Relaxed);
    let script = Script::takes(MS);
    let lane = run(&process, &plan, &script, answer);
    script.attempts(3).await;
    sleep(8 * SECOND).await;
    assert_eq!(ledger(&bus, "a").await.open().len(), 3);
    bus.refuses_publish.store(false, Relaxed);
    sleep(30 * SECOND).await;
    assert_eq!(bus.events(&partition("answers")).len(), 3);
    assert_eq!(ledger(&bus, "a").await.needs(), Position(3));
    assert_eq!(script.log.lock().len(), 3);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_a_kill_took_is_asked_for_again() {
    let plan = replying("answers");
    let (bus, process) = waiting(3, &plan).await;
    bus.refuses_publish.store(true, Relaxed);
    let script = Script::takes(MS);
    let lane = run(&process, &plan, &script, answer);
    script.attempts(3).await;
    sleep(SECOND).await;
    lane.kill().await;
    bus.refuses_publish.store(false, Relaxed);
    let process = Process::start(&bus);
    let lane = run(&process, &plan, &script, answer);
    script.attempts(6).await;
    sleep(SECOND).await;
    assert_eq!(bus.events(&partition("answers")).len(), 3);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_never_taken_makes_a_dead_letter_of_what_it_replies_to() {
    let plan = replying("answers");
    let bus = MemoryBus::with_limit(1000);
    let process = Process::start(&bus);
    process.declare(&plan).await;
    bus.append(&partition("order"), vec![event(0)]);
    let huge = |event: &Event| answer(event).to_builder().data(vec![b'z'; 2000]).build().unwrap();
    let script = Script::takes(MS);
    let lane = run(&process, &plan, &script, huge);
    sleep(SECOND).await;
    let letters = bus.events(&store());
    assert_eq!((letters.len(), letters[0].id(), letters[0].data()), (1, "0", event(0).data()));
    let cause = letters[0].attribute("evokecause").unwrap();
    assert!(cause.starts_with("the reply cannot be published: the event has "), "{cause}");
    assert_eq!(letters[0].attribute("knativeerrordest"), Some("topic shop.web.answers"));
    assert_eq!(script.log.lock().len(), 1);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_replies_is_cut_and_ends_in_the_dead_letter() {
    // It reads what it replies on.
    let mut plan = replying("order");
    plan.policy.max_in_flight = 1;
    let (bus, process) = waiting(1, &plan).await;
    let script = Script::takes(MS);
    let lane = run(&process, &plan, &script, |event| {
        let hops = event.attribute("evokehops").unwrap_or("0");
        event.to_builder().attribute("made", hops).without("evokehops").build().unwrap()
    });
    sleep(60 * SECOND).await;
    assert_eq!(script.log.lock().len(), 17, "the event, and sixteen replies");
    let letters = bus.events(&store());
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].attribute("made"), letters[0].data()),
        (Some("16"), event(0).data()),
        "what is cut is the reply"
    );
    assert_eq!(
        letters[0].attribute("evokecause"),
        Some("reply number 17 in a row, and at most 16 may follow each other: they go round in circles")
    );
    assert_eq!(process.metric("evoke_replies_total", "published"), 16.0);
    assert_eq!(process.metric("evoke_replies_total", "cut"), 1.0);
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn every_reply_arrives_over_kills_and_faults() {
    for seed in 0..20u64 {
        let mut plan = replying("answers");
        plan.policy.max_in_flight = 4;
        let (bus, _) = waiting(0, &plan).await;
        let script = Script::new(move |event, before| {
            let n: u64 = event.id().parse().unwrap();
            (
                MS * (n % 3) as u32,
                if (n + seed).is_multiple_of(9) && before == 0 { failure(500) } else { Outcome::Delivered },
            )
        });
        let (total, kills) = (120, 3);
        for life in 0..=kills {
            let process = Process::start_faulty(&bus, seed * 10 + life as u64);
            let lane = run(&process, &plan, &script, answer);
            if life < kills {
                bus.append(&partition("order"), (life * 40..(life + 1) * 40).map(event).collect());
                sleep(100 * MS).await;
                lane.kill().await;
                continue;
            }
            for _ in 0..1000 {
                if ledger(&bus, "a").await.needs() == Position(total as u128) {
                    break;
                }
                sleep(SECOND).await;
            }
            lane.drain().await;
        }
        let replied: std::collections::BTreeSet<_> =
            bus.events(&partition("answers")).iter().map(|reply| reply.id().to_owned()).collect();
        assert_eq!(replied, (0..total).map(|n| format!("re-{n}")).collect(), "seed {seed}");
        assert!(bus.events(&store()).is_empty(), "seed {seed}");
    }
}
