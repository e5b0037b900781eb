//! Events from the bus through a Trigger's lanes: many subscribers of one topic, and order by key.

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::time::{Duration, Instant};

use evoke_api::catalog::Catalog;
use evoke_api::events::{EventSourceSpec, Input, SinkSpec, Subscriber, TriggerSpec, WebhookSource};
use evoke_api::names::ObjectName;
use evoke_delivery::endpoints::Endpoints;
use evoke_delivery::metrics::Metrics;
use evoke_delivery::plan::{DeliveryPolicy, Ordering, SinkPlan, SubscriptionPlan};
use evoke_delivery::sink::{Outcome as Delivery, Sink};
use evoke_delivery::sinks::{Outputs, Sinks};
use evoke_delivery::subscription::{Lane, declare};
use evoke_eventbus::bus::{BusError, EventBus, From, Partition};
use evoke_eventbus::event::Event;
use evoke_eventbus::subscription::metrics as subscription_metrics;
use evoke_eventbus::subscription::{Settings, Subscriptions};
use evoke_tests::process::Pid;
use evoke_trigger::plan::{TriggerPlan, plan};
use evoke_trigger::shared::Readings;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prometheus::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fast_sink::{FastSink, payload};
use crate::measure::{Measured, Meter, Outcome};
use crate::promises::Promises;
use crate::sides::BATCH;

/// Subscribers, and how many events they get.
const SUBSCRIBERS: [(usize, usize); 3] = [(1, 60_000), (10, 20_000), (100, 4_000)];
/// Calls under way.
const CALLS: usize = 4;
/// Holds of every event, and of nothing but an attribute or of the data too; no two subscribers ask for the same amount.
const OF_ATTRIBUTE: &str = "event.type == \"order\"";
const OF_DATA: &str = "event.type == \"order\" && event.data.amount > AMOUNT.5";
/// What Knative reaches in order with four keys, in events a second.
const KNATIVE: f64 = 250.0;
/// What the project promises with four keys, as a multiple of that.
const ORDERED_TARGET: f64 = 20.0;
/// What it promises of 16 keys beside 4, where the sink is what takes the time: more, and not by chance.
const GROWTH_TARGET: f64 = 1.5;
const KEYS: [usize; 4] = [4, 16, 64, 256];
/// So many at once, so that no key waits for another.
const ORDERED_IN_FLIGHT: usize = 256;
const ORDERED_SPAN: Duration = Duration::from_millis(1500);
/// More than are delivered in that time.
const ORDERED_EVENTS: usize = 1 << 19;
const ORDERED_AHEAD: usize = 8192;
const ORDERED_CALL: usize = 64;
/// What a request takes at a sink where 4 keys get Knative's rate four times over at best.
const SLOW: Duration = Duration::from_millis(4);
/// What is looked at again after so long.
const AGAIN: Duration = Duration::from_millis(1);

/// The lanes of one Trigger on a bus, ended with [`Lanes::end`].
struct Lanes {
    subscriptions: Subscriptions,
    lanes: JoinSet<Result<(), BusError>>,
    stop: CancellationToken,
    abort: CancellationToken,
    to: Partition,
}

impl Lanes {
    /// Every subscriber delivers where `outputs` says for its plan, under `policy`.
    async fn start(
        bus: &Arc<dyn EventBus>,
        mut plan: TriggerPlan,
        policy: &DeliveryPolicy,
        mut outputs: impl FnMut(&mut SubscriptionPlan) -> Outcome<Outputs>,
    ) -> Outcome<Self> {
        let registry = Registry::new();
        let counted = subscription_metrics::Metrics::new(&registry)?;
        let subscriptions = Subscriptions::start(Arc::clone(bus), Settings::default(), &counted);
        let (metrics, selectors) = (Metrics::new(&registry)?, plan.selectors(&Readings::default()));
        let (stop, abort, mut lanes) = (CancellationToken::new(), CancellationToken::new(), JoinSet::new());
        let topic = plan.inputs.first().map(|input| input.topic.clone()).ok_or("a Trigger without inputs")?;
        for (subscriber, selector) in plan.subscribers.drain(..).zip(selectors) {
            let mut of = subscriber.subscription;
            of.policy = policy.clone();
            let outputs = outputs(&mut of)?;
            declare(&subscriptions, &of, From::Next).await?;
            let lane = Lane::new(subscriptions.clone(), Arc::new(of), outputs, selector, &metrics);
            lanes.spawn(lane.run(stop.clone(), abort.clone()));
        }
        Ok(Self { subscriptions, lanes, stop, abort, to: Partition { topic, index: 0 } })
    }

    /// Waits for the deliveries under way, and until the last positions are durable.
    async fn end(mut self) -> Outcome<()> {
        self.stop.cancel();
        while let Some(ended) = self.lanes.join_next().await {
            ended??;
        }
        self.subscriptions.close().await;
        Ok(())
    }
}

/// A Trigger whose subscribers all want every event of one topic. `name` is the namespace, so that runs on one bus share nothing.
fn trigger(name: &str, subscribers: usize, condition: &str) -> Outcome<TriggerPlan> {
    let subscriber = |n: usize| Subscriber {
        name: Some(n.to_string()),
        condition: condition.replace("AMOUNT", &(n % 100).to_string()),
        sink: Some(SinkSpec { uri: Some("http://127.0.0.1:9/".to_owned()), reference: None }),
        ..Subscriber::default()
    };
    let input = Input { event_source: Some("web".into()), event: Some("order".into()), ..Input::default() };
    let spec = TriggerSpec {
        event_bus: "default".into(),
        inputs: std::iter::once(("order".to_owned(), input)).collect(),
        subscribers: (0..subscribers).map(subscriber).collect(),
        ..TriggerSpec::default()
    };
    let source = EventSourceSpec {
        event_bus: Some("default".into()),
        webhook: std::iter::once(("order".to_owned(), WebhookSource::default())).collect(),
        ..EventSourceSpec::default()
    };
    let catalog = Catalog {
        event_sources: BTreeMap::from([(ObjectName::new(name, "web"), source)]),
        default_bus: true,
        ..Catalog::default()
    };
    let planned = plan(&ObjectName::new(name, "bench"), &spec, &catalog);
    let problems = planned.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    planned.plan.ok_or_else(|| problems.into())
}

/// Events that the condition holds of; with `keys`, each is of one of so many.
fn order_events(numbers: Range<usize>, keys: Option<usize>) -> Outcome<Vec<Event>> {
    let made = numbers.map(|n| {
        Event::builder(n.to_string(), "/bench", "order")
            .attribute("datacontenttype", "application/json")
            .attribute_if("partitionkey", keys.map(|keys| (n % keys).to_string()))
            .data(payload(n))
            .build()
    });
    Ok(made.collect::<Result<_, _>>()?)
}

/// What goes through a Trigger.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Subscribers, each of which gets every event.
    pub subscribers: usize,
    /// How many events.
    pub events: usize,
    /// Events of one call.
    pub batch: usize,
    /// Of each subscriber.
    pub max_in_flight: usize,
    /// Conditions read the data, and not only an attribute.
    pub reads_data: bool,
}

/// Publishes, filters, delivers to nowhere and records: from the first publish to the last durable position of every subscriber.
/// `name` is used once on a bus.
///
/// # Errors
/// The bus's.
pub async fn delivered(bus: &Arc<dyn EventBus>, name: &str, work: Work, server: Option<Pid>) -> Outcome<Measured> {
    let Work { subscribers, events, batch, max_in_flight, reads_data } = work;
    let policy = DeliveryPolicy { max_in_flight, ..DeliveryPolicy::default() };
    let sink = Arc::new(Count(AtomicU64::new(0)));
    let outputs = || Outputs { sink: Some(Arc::clone(&sink) as _), dead_letter: None, bucket: None };
    let trigger = trigger(name, subscribers, if reads_data { OF_DATA } else { OF_ATTRIBUTE })?;
    let lanes = Lanes::start(bus, trigger, &policy, |_| Ok(outputs())).await?;
    let (events, mut receipts) = (events / batch * batch, VecDeque::new());
    // Every event has an id of its own: JetStream takes one that it knows only once.
    let calls = (0..events / batch).map(|call| order_events(call * batch..(call + 1) * batch, None));
    let calls = calls.collect::<Outcome<Vec<_>>>()?;
    let meter = Meter::start(server)?;
    for call in calls {
        receipts.push_back(bus.publish(&lanes.to, call).await?);
        if receipts.len() == CALLS
            && let Some(receipt) = receipts.pop_front()
        {
            receipt.await.into_iter().try_for_each(|stored| stored.map(drop))?;
        }
    }
    for receipt in receipts {
        receipt.await.into_iter().try_for_each(|stored| stored.map(drop))?;
    }
    while sink.0.load(Atomic::Relaxed) < (events * subscribers) as u64 {
        tokio::time::sleep(AGAIN).await;
    }
    // A lane ends once its position is durable.
    lanes.end().await?;
    meter.stop(events)
}

struct Count(AtomicU64);

impl Sink for Count {
    fn deliver<'a>(&'a self, _: &'a Event) -> BoxFuture<'a, Delivery> {
        self.0.fetch_add(1, Atomic::Relaxed);
        std::future::ready(Delivery::Delivered).boxed()
    }

    fn destination(&self) -> &str {
        "nowhere"
    }
}

/// 1, 10 and 100 subscribers of one topic, and what one more costs.
///
/// # Errors
/// The bus's.
pub async fn subscribers(bus: &Arc<dyn EventBus>, server: Option<Pid>) -> Outcome<()> {
    println!(
        "\nsubscribers of one topic, 1 KiB of JSON that their conditions read, in calls of {BATCH}, a sink that does nothing; CPU us per event"
    );
    println!(
        "| maxInFlight | subscribers | events/s | deliveries/s | CPU | per extra subscriber | server's CPU | per extra subscriber |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for in_flight in [DeliveryPolicy::default().max_in_flight, 4096] {
        let mut one = None;
        for (subscribers, events) in SUBSCRIBERS {
            let name = format!("subs-{in_flight}-{subscribers}");
            let work = Work { subscribers, events, batch: BATCH, max_in_flight: in_flight, reads_data: true };
            let measured = delivered(bus, &name, work, server).await?;
            let one: Measured = *one.get_or_insert(measured);
            let extra = |more: f64, than: f64| match subscribers {
                1 => "-".to_owned(),
                n => format!("{:.3}", (more - than) * 1e6 / (n - 1) as f64),
            };
            println!(
                "| {in_flight} | {subscribers} | {:.0} | {:.0} | {:.2} | {} | {:.2} | {} |",
                measured.rate,
                measured.rate * subscribers as f64,
                measured.cpu * 1e6,
                extra(measured.cpu, one.cpu),
                measured.server_cpu * 1e6,
                extra(measured.server_cpu, one.server_cpu)
            );
        }
    }
    Ok(())
}

/// What events in order by key reach, in events a second.
#[derive(Clone, Copy, Debug)]
pub struct Ordered {
    /// Into the fast sink, with 4 keys.
    pub fast: f64,
    /// Into the slow sink, with 4 keys.
    pub slow: f64,
    /// Into the slow sink, with 16 keys.
    pub slow_of_16: f64,
}

impl Ordered {
    /// Says how it is beside what is promised.
    pub fn promise(&self, promises: &mut Promises) {
        promises.at_least("ordered by key, 4 keys, times Knative's rate", self.fast / KNATIVE, ORDERED_TARGET);
        let growth = self.slow_of_16 / self.slow;
        promises.at_least("ordered by key, sink of 4 ms, 16 keys beside 4 keys", growth, GROWTH_TARGET);
    }
}

/// Events in order by key into an HTTP sink, with more and more keys.
///
/// # Errors
/// The bus's, or that the order was not kept.
pub async fn ordered(bus: &Arc<dyn EventBus>) -> Outcome<Ordered> {
    println!(
        "\n`ordering: partitionKey`, 1 KiB, HTTP, maxInFlight {ORDERED_IN_FLIGHT}; beside Knative's {KNATIVE:.0}/s with 4 keys"
    );
    println!(
        "| keys | fast sink/s | times Knative | sink of 4 ms/s | times Knative |\n| ---: | ---: | ---: | ---: | ---: |"
    );
    let mut found = Ordered { fast: f64::NAN, slow: f64::NAN, slow_of_16: f64::NAN };
    for keys in KEYS {
        let fast = in_order(bus, keys, Duration::ZERO).await?;
        let slow = in_order(bus, keys, SLOW).await?;
        println!("| {keys} | {fast:.0} | {:.1} | {slow:.0} | {:.1} |", fast / KNATIVE, slow / KNATIVE);
        match keys {
            4 => (found.fast, found.slow) = (fast, slow),
            16 => found.slow_of_16 = slow,
            _ => {}
        }
    }
    Ok(found)
}

async fn in_order(bus: &Arc<dyn EventBus>, keys: usize, delay: Duration) -> Outcome<f64> {
    let sink = FastSink::start(ORDERED_EVENTS, delay).await?;
    let policy = DeliveryPolicy {
        ordering: Ordering::PartitionKey,
        max_in_flight: ORDERED_IN_FLIGHT,
        ..DeliveryPolicy::default()
    };
    let (sinks, url) = (Sinks::new(Endpoints::default()), sink.url());
    let name = format!("keys-{keys}-{}", delay.as_millis());
    let lanes = Lanes::start(bus, trigger(&name, 1, OF_ATTRIBUTE)?, &policy, |plan| {
        plan.sink = Some(SinkPlan::Http(url.parse()?));
        Ok(sinks.outputs(plan)?)
    })
    .await?;
    let mut sent = 0;
    let mut from = None;
    let rate = loop {
        let came = sink.count();
        match from {
            // From a moment on when every key is at work.
            None if came >= 16 * keys => from = Some((came, Instant::now())),
            Some((before, started)) if started.elapsed() >= ORDERED_SPAN => {
                break (came - before) as f64 / started.elapsed().as_secs_f64();
            }
            _ => {}
        }
        if sent - came < ORDERED_AHEAD && sent + ORDERED_CALL <= ORDERED_EVENTS {
            let events = order_events(sent..sent + ORDERED_CALL, Some(keys))?;
            // What is accepted is stored in the order it was.
            drop(bus.publish(&lanes.to, events).await?);
            sent += ORDERED_CALL;
        } else {
            tokio::time::sleep(AGAIN).await;
        }
    };
    lanes.abort.cancel();
    lanes.end().await?;
    for n in keys..sent {
        if let Some(at) = sink.arrival(n)
            && sink.arrival(n - keys).is_none_or(|before| before > at)
        {
            return Err(format!("event {n} came before the one before it of its key").into());
        }
    }
    Ok(rate)
}
