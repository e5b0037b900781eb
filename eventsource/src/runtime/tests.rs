use chrono::{DateTime, TimeDelta, Utc};
use evoke_adapters::source::{Arrival, Settled, SourceError, Unsettled};
use evoke_adapters::webhook;
use evoke_api::catalog::Catalog;
use evoke_api::credentials::{Secret, ValueFrom, Vault};
use evoke_api::events::{CronSource, EventSourceSpec, SinkSpec};
use evoke_api::names::ObjectName;
use evoke_api::problem::{FieldPath, Problem};
use evoke_delivery::endpoints::Endpoints;
use evoke_eventbus::bus::{Expect, Partition, Put};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::event;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::subscription::{Settings, metrics};
use futures_util::future::BoxFuture;
use prometheus::{Registry, TextEncoder};

use super::*;

struct NoVault;

impl Vault for NoVault {
    fn look_up(&self, _: &str, _: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
        Err(Problem::error(path.clone(), "no vault"))
    }
}

/// A process with a bus in a directory of its own.
struct Process {
    _dir: tempfile::TempDir,
    registry: Registry,
    subscriptions: Subscriptions,
    shared: Shared,
}

impl Process {
    fn start() -> Self {
        let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::new());
        let options = EmbeddedOptions::new("test", BusMetrics::new(&registry).unwrap());
        let bus = EmbeddedBus::open(dir.path(), options).unwrap();
        let counted = metrics::Metrics::new(&registry).unwrap();
        let shared = Shared {
            sinks: Sinks::new(Endpoints::default()),
            listeners: Listeners::new("127.0.0.1:0".parse().unwrap(), webhook::Metrics::new(&registry).unwrap()),
            budget: Budget::default(),
            sources: SourceMetrics::new(&registry).unwrap(),
            instance: "test".into(),
            deliveries: DeliveryMetrics::new(&registry).unwrap(),
            left_off: LeftOffs::default(),
        };
        let subscriptions = Subscriptions::start(bus, Settings::default(), &counted);
        Self { _dir: dir, registry, subscriptions, shared }
    }

    async fn run(&self, plan: EventSourcePlan) -> EventSource {
        let mut source = EventSource::new(&plan, Some(self.subscriptions.clone()), self.shared.clone());
        source.change(plan).await.unwrap();
        source
    }

    /// The first event on a topic.
    async fn first(&self, event: &str) -> event::Event {
        let topic = TopicName::event(&ObjectName::new("ns", "clock"), event);
        let partition = Partition { topic, index: 0 };
        let mut reader = self.subscriptions.bus().read(&partition, From::First, 1 << 20).await.unwrap();
        loop {
            if let Some(record) = reader.next(1 << 20).await.unwrap().records.into_iter().next() {
                return record.event;
            }
        }
    }

    /// The times of the ticks of `clock/tick`, in the order in which they were published, to the first one that is not before `until`.
    async fn ticks(&self, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let topic = TopicName::event(&ObjectName::new("ns", "clock"), "tick");
        let partition = Partition { topic, index: 0 };
        let mut reader = self.subscriptions.bus().read(&partition, From::First, 1 << 20).await.unwrap();
        let mut ticks = Vec::new();
        while ticks.last().is_none_or(|last| *last < until) {
            let records = reader.next(1 << 20).await.unwrap().records;
            ticks.extend(records.iter().map(|record| record.event.id().parse::<DateTime<Utc>>().unwrap()));
        }
        ticks
    }

    async fn set_mark(&self, mark: String) {
        let put = Put { key: MARK.into(), value: Some(mark.into()), expect: Expect::Any };
        self.subscriptions.bus().store(vec![put]).await.unwrap();
    }

    async fn mark(&self) -> Option<String> {
        let entries = self.subscriptions.bus().load(MARK).await.unwrap();
        entries.first().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    }

    fn scrape(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }

    /// Stops an EventSource as at the end of a process: the next one knows only what is on the bus.
    async fn stop(&self, source: EventSource) {
        source.stop(soon()).await;
        self.shared.left_off.retain([]);
    }

    async fn end(self, source: EventSource) {
        source.stop(soon()).await;
        self.subscriptions.close().await;
        self.subscriptions.bus().close().await.unwrap();
    }
}

/// Where the mark of `clock/tick` is.
const MARK: &str = "marks/ns/clock/tick";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// An EventSource whose events tick as given, with a sink that nobody listens at where `sink` says so.
fn ticking(events: &[(&str, &str)], sink: bool) -> EventSourcePlan {
    let mut spec = EventSourceSpec { event_bus: Some("default".into()), ..EventSourceSpec::default() };
    for (event, schedule) in events {
        spec.cron.insert((*event).into(), CronSource { schedule: (*schedule).into(), ..CronSource::default() });
    }
    spec.sink = sink.then(|| SinkSpec { uri: Some("http://127.0.0.1:9/".into()), ..SinkSpec::default() });
    planned(&spec)
}

/// An EventSource with nothing but the event `tick`.
fn clock(schedule: &str, catch_up: Option<&str>, data: &str) -> EventSourceSpec {
    let mut spec = EventSourceSpec { event_bus: Some("default".into()), ..EventSourceSpec::default() };
    let source = CronSource {
        schedule: schedule.into(),
        catch_up: catch_up.map(Into::into),
        data: Some(data.into()),
        ..CronSource::default()
    };
    spec.cron.insert("tick".into(), source);
    spec
}

fn planned(spec: &EventSourceSpec) -> EventSourcePlan {
    let catalog = Catalog { default_bus: true, ..Catalog::default() };
    crate::plan::plan(&ObjectName::new("ns", "clock"), spec, &catalog, &NoVault).plan.unwrap()
}

#[tokio::test]
async fn events_reach_the_bus_and_the_source_says_that_it_is_up() {
    let process = Process::start();
    let source = process.run(ticking(&[("tick", "@every 1s")], false)).await;
    let event = process.first("tick").await;
    assert_eq!((event.source(), event.ty()), ("/namespaces/ns/eventsources/clock/tick", "io.evoke.cron"));
    let statuses: Vec<_> = source.sources().map(|(plan, status)| (plan.origin.event.clone(), status)).collect();
    assert_eq!(statuses, [("tick".into(), Status::Up)]);
    let up = r#"evoke_source_up{event="tick",event_source="clock",kind="cron",namespace="ns"} 1"#;
    assert!(process.scrape().contains(up), "{}", process.scrape());
    process.end(source).await;
}

#[tokio::test]
async fn a_change_touches_only_what_changed() {
    let process = Process::start();
    let mut source = process.run(ticking(&[("a", "@hourly"), ("b", "@hourly"), ("c", "@hourly")], false)).await;
    let tasks = |source: &EventSource| -> BTreeMap<_, _> {
        source.events.iter().map(|event| (event.plan.origin.event.to_string(), event.task.id())).collect()
    };
    let before = tasks(&source);
    source.change(ticking(&[("a", "@hourly"), ("b", "@every 1s"), ("d", "@every 1s")], false)).await.unwrap();
    let after = tasks(&source);
    assert!(before["a"] == after["a"] && before["b"] != after["b"] && !after.contains_key("c"));
    process.first("b").await;
    process.first("d").await;
    let scrape = process.scrape();
    assert!(scrape.contains(r#"event="d""#) && !scrape.contains(r#"event="c""#), "{scrape}");

    source.change(ticking(&[("a", "@hourly"), ("b", "@every 1s"), ("d", "@every 1s")], true)).await.unwrap();
    assert_eq!(tasks(&source), after, "a sink beside a bus is no matter of the sources");
    assert!(source.sink().is_some());
    process.end(source).await;
}

/// Something that a reload restarts too, and that takes longer to end than a tick.
fn slow(source: &EventSource) -> Event {
    let (_, status) = watch::channel(Status::Up);
    let stop = CancellationToken::new();
    let told = stop.clone();
    let task = source.tasks.spawn(async move {
        told.cancelled().await;
        // Ticks are missed by time passing, and by nothing else.
        sleep(Duration::from_millis(2500)).await;
    });
    let plan = ticking(&[("slow", "@yearly")], false).events.remove(0);
    Event { plan, status, stop: Some(stop.drop_guard()), task }
}

#[tokio::test]
async fn a_reload_that_takes_its_time_loses_no_tick() {
    let process = Process::start();
    let mut source = process.run(planned(&clock("@every 1s", None, "a"))).await;
    process.ticks(Utc::now()).await;
    let buried = EventSourceSpec { dead_letter_topic: Some("broken".into()), ..clock("@every 1s", None, "b") };
    for spec in [clock("@every 1s", None, "b"), buried, clock("* * * * * *", None, "c")] {
        let slow = slow(&source);
        source.events.push(slow);
        source.change(planned(&spec)).await.unwrap();
        let ticks = process.ticks(Utc::now()).await;
        assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::seconds(1)), "{ticks:?}");
    }
    assert!(!process.scrape().contains(r#"event="slow""#), "what is gone is forgotten");
    process.end(source).await;
}

#[tokio::test]
async fn a_reload_that_is_taken_back_loses_no_tick() {
    let process = Process::start();
    let (plan, other) = (planned(&clock("@every 1s", None, "a")), ticking(&[("other", "@yearly")], false));
    let mut source = process.run(plan.clone()).await;
    process.ticks(Utc::now()).await;
    // The event goes and comes back, and so does the EventSource.
    source.change(other).await.unwrap();
    sleep(Duration::from_millis(2500)).await;
    source.change(plan.clone()).await.unwrap();
    process.ticks(Utc::now()).await;
    source.stop(soon()).await;
    sleep(Duration::from_millis(2500)).await;
    let source = process.run(plan).await;
    let ticks = process.ticks(Utc::now()).await;
    assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::seconds(1)), "{ticks:?}");
    process.end(source).await;
}

#[tokio::test]
async fn an_event_that_comes_back_fires_nothing_of_the_time_without_it() {
    let process = Process::start();
    let mut source = process.run(planned(&clock("@every 1s", None, "a"))).await;
    process.ticks(Utc::now()).await;
    source.change(ticking(&[("other", "@yearly")], false)).await.unwrap();
    process.shared.left_off.retain([source.plan()]);
    let gone = Utc::now();
    sleep(Duration::from_millis(2500)).await;
    let back = Utc::now();
    source.change(planned(&clock("@every 1s", None, "a"))).await.unwrap();
    let ticks = process.ticks(back).await;
    assert!(ticks.iter().all(|tick| *tick <= gone || *tick > back), "{gone} to {back}: {ticks:?}");
    process.end(source).await;
}

#[tokio::test]
async fn a_mark_is_of_one_schedule_and_goes_with_catch_up() {
    let process = Process::start();
    let began = Utc::now();
    let ago = |seconds| (began - TimeDelta::seconds(seconds)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    // Before marks had a schedule, they were of any.
    process.set_mark(ago(5)).await;
    let source = process.run(planned(&clock("@every 1s", Some("1h"), "a"))).await;
    let ticks = process.ticks(began).await;
    let first: Vec<_> = ticks.iter().map(|tick| tick.timestamp() - began.timestamp()).take(5).collect();
    assert_eq!(first, [-4, -3, -2, -1, 0]);
    process.stop(source).await;
    let mark = process.mark().await.unwrap();
    assert!(mark.ends_with("Z @every 1s"), "{mark}");

    // What this schedule would have fired while there was another one was not missed.
    process.set_mark(format!("{} 0 0 * * * UTC", ago(3600))).await;
    let source = process.run(planned(&clock("@every 1s", Some("12h"), "a"))).await;
    process.ticks(Utc::now()).await;
    process.stop(source).await;

    // Nor was what fires while nothing is to be caught up.
    let mut source = process.run(planned(&clock("@every 1s", None, "a"))).await;
    process.ticks(Utc::now()).await;
    assert_eq!(process.mark().await, None);
    source.change(planned(&clock("@every 1s", Some("12h"), "a"))).await.unwrap();
    let ticks = process.ticks(Utc::now()).await;
    assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "{ticks:?}");
    process.end(source).await;
}

#[tokio::test]
async fn all_eventsources_of_a_process_share_one_budget() {
    let mut process = Process::start();
    // Whatever is accepted takes all of it.
    process.shared.budget = Budget::new(1);
    let (first, second) = (ticking(&[("a", "@hourly")], false), ticking(&[("b", "@hourly")], false));
    let start =
        |plan: &EventSourcePlan| EventSource::new(plan, Some(process.subscriptions.clone()), process.shared.clone());
    let (mut one, mut other) = (start(&first), start(&second));
    let held = one.outlet(&first.events[0], &first).await.unwrap();
    let waits = other.outlet(&second.events[0], &second).await.unwrap();
    let arrival =
        |plan: &EventSourcePlan| vec![Arrival::Event(plan.events[0].origin.event("test", "1").build().unwrap())];
    let settled = held.accept(arrival(&first)).await.unwrap();
    assert!(!waits.has_room());
    assert!(waits.accept(arrival(&second)).now_or_never().is_none());

    settled.await.unwrap();
    assert!(waits.has_room());
    waits.accept(arrival(&second)).await.unwrap().await.unwrap();
    for event in ["a", "b"] {
        assert_eq!(process.first(event).await.id(), "1");
    }
    other.stop(soon()).await;
    process.end(one).await;
}

/// A source that panics, or ends, or waits until it is cancelled, by turns.
struct Fickle(Arc<std::sync::atomic::AtomicUsize>);

impl Source for Fickle {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        let turn = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            match turn {
                0 => panic!("first turn"),
                1 => return Err(SourceError("second turn".into())),
                _ => {
                    context.status.send_replace(Status::Up);
                    context.cancel.cancelled().await;
                }
            }
            Ok(())
        }
        .boxed()
    }
}

struct NoOutlet;

impl Outlet for NoOutlet {
    fn accept(&self, _: Vec<Arrival>) -> BoxFuture<'_, Result<Settled, Unsettled>> {
        std::future::ready(Err(Unsettled("not in this test".into()))).boxed()
    }

    fn has_room(&self) -> bool {
        false
    }

    fn max_event_bytes(&self) -> usize {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_or_panics_is_started_again() {
    let metrics = SourceMetrics::new(&Registry::new()).unwrap();
    let plan = ticking(&[("tick", "@hourly")], false).events.remove(0);
    let metrics = metrics.of(&plan.origin, "test");
    let (status, mut seen) = watch::channel(Status::Connecting("starting".into()));
    let cancel = CancellationToken::new();
    let context = Context { outlet: Arc::new(NoOutlet), status, cancel: cancel.clone() };
    let turns = Arc::default();
    let make = || Ok(Box::new(Fickle(Arc::clone(&turns))) as Box<dyn Source>);
    let look = async {
        let mut causes = Vec::new();
        loop {
            seen.changed().await.unwrap();
            match &*seen.borrow_and_update() {
                Status::Down(cause) => causes.push(cause.to_string()),
                Status::Up => break,
                Status::Connecting(_) => {}
            }
        }
        cancel.cancel();
        causes
    };
    let ((), causes) = tokio::join!(keep(&plan.origin, make, context, &metrics), look);
    assert_eq!(causes, ["it panicked", "second turn"]);
    assert_eq!(metrics.reconnects.get(), 2);
}
