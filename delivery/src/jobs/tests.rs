use std::time::Duration;

use evoke_api::credentials::Secret;
use evoke_api::names::{ObjectName, SubscriptionId, TopicName};
use evoke_eventbus::bus::{EventBus, From, Partition, Position, Record, TopicSpec};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::event::Event;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::subscription::job::{self, Job, Range, State, Work};
use evoke_eventbus::subscription::{Settings, Subscriptions, metrics as bus_metrics, report};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::*;
use crate::dead_letter::{Failure, letter};
use crate::dead_letters::{self, Filter, Letters, Wanted};
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::plan::{DeadLetterPlan, DeliveryPolicy};
use crate::sinks::Sinks;
use crate::subscription::Verdict;

const MS: Duration = Duration::from_millis(1);

fn id(subscriber: &str) -> SubscriptionId {
    SubscriptionId { owner: ObjectName::new("shop", "orders"), subscriber: subscriber.into() }
}

fn topic() -> TopicName {
    TopicName::event(&ObjectName::new("shop", "web"), "in")
}

fn event(n: usize) -> Event {
    Event::builder(n.to_string(), "/web", "order").data(vec![b'x'; 100]).build().unwrap()
}

/// A subscriber that publishes on a topic, so that what it got can be read.
struct One(Mutex<Arc<SubscriptionPlan>>);

struct All;

impl Selector for All {
    fn select(&mut self, _: usize, _: &Record) -> Verdict {
        Verdict::Match
    }

    fn window(&self) -> Option<Duration> {
        None
    }

    fn observe(&mut self, _: usize, _: &Record) {}
}

fn output() -> TopicName {
    TopicName::named("shop", "out")
}

impl One {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::new(SubscriptionPlan {
            id: id("a"),
            topics: vec![topic()],
            sink: None,
            topic: Some(output()),
            reply: None,
            dead_letter: DeadLetterPlan::Store,
            policy: DeliveryPolicy::default(),
        }))))
    }
}

impl Subscribers for One {
    fn plan(&self, wanted: &SubscriptionId) -> Option<Arc<SubscriptionPlan>> {
        (*wanted == id("a")).then(|| Arc::clone(&self.0.lock()))
    }

    fn selector(&self, wanted: &SubscriptionId) -> Option<Box<dyn Selector>> {
        (*wanted == id("a")).then(|| Box::new(All) as Box<dyn Selector>)
    }

    fn takes(&self, _: &Job) -> bool {
        true
    }

    fn target(&self, _: &JobId) -> Option<Secret> {
        None
    }
}

/// A process on an embedded bus.
struct Process {
    bus: Arc<EmbeddedBus>,
    subscriptions: Subscriptions,
    jobs: Jobs,
    tasks: TaskTracker,
}

impl Process {
    async fn start(dir: &std::path::Path) -> Self {
        let registry = Registry::new();
        let metrics = BusMetrics::new(&registry).unwrap();
        let bus = EmbeddedBus::open(dir, EmbeddedOptions::new("test", metrics)).unwrap();
        let subscriptions =
            Subscriptions::start(bus.clone(), Settings::default(), &bus_metrics::Metrics::new(&registry).unwrap());
        for name in [topic(), output(), TopicName::dead_letters()] {
            bus.declare(&TopicSpec { name, partitions: 1 }).await.unwrap();
        }
        subscriptions.declare_store(&TopicName::dead_letters()).await.unwrap();
        let runner = Runner {
            subscriptions: subscriptions.clone(),
            subscribers: One::new(),
            sinks: Sinks::new(Endpoints::default()),
            metrics: Metrics::new(&registry).unwrap(),
            instance: "one".into(),
        };
        let tasks = TaskTracker::new();
        let jobs = Jobs::start(runner, &tasks);
        Self { bus, subscriptions, jobs, tasks }
    }

    /// The jobs of another process on the same bus.
    fn another(&self, instance: &str) -> Jobs {
        let runner = Runner {
            subscriptions: self.subscriptions.clone(),
            subscribers: One::new(),
            sinks: Sinks::new(Endpoints::default()),
            metrics: Metrics::new(&Registry::new()).unwrap(),
            instance: instance.into(),
        };
        Jobs::start(runner, &self.tasks)
    }

    /// The ids of what is on the output, in order of their numbers.
    async fn got_ids(&self) -> Vec<usize> {
        let mut ids: Vec<usize> = self.got().await.iter().map(|event| event.id().parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    }

    async fn publish(&self, topic: TopicName, events: Vec<Event>) {
        let receipt = self.bus.publish(&Partition { topic, index: 0 }, events).await.unwrap();
        assert!(receipt.await.iter().all(Result::is_ok));
    }

    /// What is on the output, and how often.
    async fn got(&self) -> Vec<Event> {
        let partition = Partition { topic: output(), index: 0 };
        let end = self.bus.locate(&[(partition.clone(), From::Next)]).await.unwrap()[0].end;
        let start = self.bus.locate(&[(partition.clone(), From::First)]).await.unwrap()[0].at;
        let mut scan = evoke_eventbus::subscription::scan::Scan::new(&*self.bus, partition, start, end);
        let mut events = Vec::new();
        while let Some(batch) = scan.next().await.unwrap() {
            events.extend(batch.records.into_iter().map(|record| record.event));
        }
        events
    }

    async fn letters(&self) -> usize {
        let mut count = 0;
        dead_letters::page(&*self.bus, &Wanted::default(), None, usize::MAX, |_| count += 1).await.unwrap();
        count
    }

    async fn until_over(&self) -> Vec<Job> {
        loop {
            let jobs: Vec<_> = job::list(&*self.bus).await.unwrap().into_iter().map(|stored| stored.job).collect();
            if jobs.iter().all(|job| job.state.is_over()) {
                return jobs;
            }
            self.jobs.nudge().notify_one();
            sleep(5 * MS).await;
        }
    }

    async fn end(self) {
        self.jobs.stop(Instant::now() + Duration::from_secs(5)).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.subscriptions.close().await;
        self.bus.close().await.unwrap();
    }
}

fn dead(n: usize, subscriber: &str) -> Event {
    let failure = Failure { cause: format!("cause {}", n % 3), attempts: 1, ..Failure::default() };
    letter(&event(n), &id(subscriber), &failure).unwrap()
}

fn of(subscriber: &str) -> Wanted {
    Wanted::new(Filter { subscriber: Some(subscriber.into()), ..Filter::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_takes_its_own_letters_off_the_list_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    let letters = (0..300).map(|n| dead(n, if n % 2 == 0 { "a" } else { "b" })).collect();
    process.publish(TopicName::dead_letters(), letters).await;
    assert_eq!(process.letters().await, 300);

    // All of one subscriber's are one interval, however others lie between.
    let selection = dead_letters::select(&*process.bus, &of("a")).await.unwrap();
    let letters = &selection.of[&Some(id("a"))];
    assert_eq!((letters.places.len(), letters.count, selection.of.len()), (1, 150, 1));

    let runs = |wanted: &SubscriptionId| *wanted == id("a");
    let redriven = redrive(&*process.bus, &Wanted::default(), runs).await.unwrap();
    assert_eq!((redriven.jobs.len(), redriven.skipped), (1, vec![(Some(id("b")), 150)]));
    let again = redrive(&*process.bus, &of("a"), runs).await.unwrap();
    assert_eq!(again.jobs.len(), 0, "they are being redriven");
    let jobs = process.until_over().await;
    assert_eq!((&jobs[0].state, jobs[0].counts.delivered, jobs[0].counts.failed), (&State::Done, 150, 0));
    assert_eq!(process.letters().await, 150);
    let got: Vec<_> = process.got().await;
    assert_eq!(process.got_ids().await, (0..300).step_by(2).collect::<Vec<_>>());
    assert!(got.iter().all(|event| event.attributes().count() == 3), "as they were");
    process.end().await;

    // Nothing is kept for a job that is over, and a restart lists the same.
    let process = Process::start(dir.path()).await;
    assert_eq!(process.letters().await, 150);
    loop {
        if process.bus.load("ledger/").await.unwrap().is_empty() {
            break;
        }
        sleep(5 * MS).await;
    }
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_purged_stays_purged_and_the_log_is_given_up_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    process.publish(TopicName::dead_letters(), (0..100).map(|n| dead(n, "b")).collect()).await;
    let wanted = Wanted::new(Filter { cause: Some("CAUSE 1".into()), ..Filter::default() }).unwrap();
    let selection = dead_letters::select(&*process.bus, &wanted).await.unwrap();
    let letters = &selection.of[&Some(id("b"))];
    assert_eq!((letters.places.len(), letters.count), (33, 33));
    let purged = purge(&*process.bus, &wanted).await.unwrap();
    assert_eq!(purged, Purged { of: [(Some(id("b")), 33)].into(), busy: 0, more: false });
    assert_eq!(process.letters().await, 67);
    // What is left is one interval again: it may pass over what is purged already.
    let selection = dead_letters::select(&*process.bus, &Wanted::default()).await.unwrap();
    let letters = &selection.of[&Some(id("b"))];
    assert_eq!((letters.places.len(), letters.count), (1, 67));
    purge(&*process.bus, &Wanted::default()).await.unwrap();
    assert_eq!(process.letters().await, 0);
    process.publish(TopicName::dead_letters(), vec![dead(100, "b")]).await;
    assert_eq!(process.letters().await, 1);
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_reads_its_part_and_leaves_the_subscription_alone() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    process.subscriptions.declare(&id("a"), &[topic()], From::Next).await.unwrap();
    process.publish(topic(), (0..1000).map(event).collect()).await;
    let ranges = ranges(&process.subscriptions, &[topic()], &Span { start: Start::First, until: None }).await.unwrap();
    process.publish(topic(), vec![event(1000)]).await;
    let counting = Counting { bus: &*process.bus, topics: &[topic()], ranges: &ranges };
    let counted = count(counting, Box::new(All), |_| true).await.unwrap();
    assert_eq!((counted.read, counted.matched), (1000, 1000));
    let before = report::reports(&*process.bus).await.unwrap();
    let job = Job::new(new_id(), &id("a"), Work::Replay { to: None, login: false, only: None }, ranges);
    job::create(&*process.bus, &job).await.unwrap();
    let jobs = process.until_over().await;
    assert_eq!((&jobs[0].state, jobs[0].counts.delivered), (&State::Done, 1000));
    let got = process.got().await;
    assert_eq!(got.len(), 1000);
    assert!(got.iter().all(|event| event.attribute("evokereplay") == Some(&*job.id.0)));
    let after = report::reports(&*process.bus).await.unwrap();
    assert_eq!((before.len(), after.len()), (1, 1), "a job is no subscription");
    assert_eq!(before[0].inputs[0].partitions[0].1, after[0].inputs[0].partitions[0].1);
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_after_a_restart_and_its_events_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    process.publish(topic(), (0..5000).map(event).collect()).await;
    let ranges = ranges(&process.subscriptions, &[topic()], &Span { start: Start::First, until: None }).await.unwrap();
    let job = Job::new(new_id(), &id("a"), Work::Replay { to: None, login: false, only: None }, ranges);
    job::create(&*process.bus, &job).await.unwrap();
    process.jobs.nudge().notify_one();
    while process.got().await.len() < 500 {
        sleep(MS).await;
    }
    process.end().await;
    let process = Process::start(dir.path()).await;
    let jobs = process.until_over().await;
    assert_eq!(jobs[0].state, State::Done);
    assert_eq!(process.got_ids().await, (0..5000).collect::<Vec<_>>(), "a drain repeats nothing");
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_redrive_keeps_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    process.publish(TopicName::dead_letters(), (0..5000).map(|n| dead(n, "a")).collect()).await;
    let redriven = redrive(&*process.bus, &of("a"), |_| true).await.unwrap();
    process.jobs.nudge().notify_one();
    while process.got().await.len() < 200 {
        sleep(MS).await;
    }
    let was_cancelled = job::cancel(&*process.bus, &redriven.jobs[0].0.id).await.unwrap();
    process.end().await;
    let process = Process::start(dir.path()).await;
    loop {
        if process.bus.load("ledger/").await.unwrap().is_empty() {
            break;
        }
        process.jobs.nudge().notify_one();
        sleep(5 * MS).await;
    }
    let (left, got) = (process.letters().await, process.got().await.len());
    assert!(left + got >= 5000, "nothing is lost: {left} listed, {got} delivered");
    if was_cancelled {
        assert!(left + got <= 5000 + 2 * 100, "{left} listed, {got} delivered");
    }
    process.end().await;
}

fn redrive_of(letters: &Letters) -> Job {
    let (from, last) = (letters.places.first().unwrap(), letters.places.last().unwrap());
    let topic = TopicName::dead_letters().as_str().into();
    let range = Range { topic, partition: 0, from, until: Position(last.0 + 1), since: 0 };
    Job::new(new_id(), &id("a"), Work::Redrive { letters: letters.places.clone() }, vec![range])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redrives_that_select_the_same_letters_deliver_each_of_them_once() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    let other = process.another("two");
    process.publish(TopicName::dead_letters(), (0..2000).map(|n| dead(n, "a")).collect()).await;
    // As two processes make them that select at the same time.
    let selection = dead_letters::select(&*process.bus, &of("a")).await.unwrap();
    for _ in 0..3 {
        job::create(&*process.bus, &redrive_of(&selection.of[&Some(id("a"))])).await.unwrap();
    }
    other.nudge().notify_one();
    let jobs = process.until_over().await;
    assert!(jobs.iter().all(|job| job.state == State::Done), "{jobs:?}");
    assert_eq!(jobs.iter().map(|job| job.counts.delivered).sum::<u64>(), 2000);
    assert_eq!(process.got_ids().await, (0..2000).collect::<Vec<_>>());
    assert_eq!(process.letters().await, 0);
    other.stop(Instant::now() + Duration::from_secs(5)).await;
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_selected_before_a_redrive_began_is_not_purged() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    process.publish(TopicName::dead_letters(), (0..5000).map(|n| dead(n, "a")).collect()).await;
    let selection = dead_letters::select(&*process.bus, &of("a")).await.unwrap();
    let selected = &selection.of[&Some(id("a"))];
    redrive(&*process.bus, &of("a"), |_| true).await.unwrap();
    process.jobs.nudge().notify_one();
    while process.got().await.is_empty() {
        sleep(MS).await;
    }
    assert!(!dead_letters::take(&*process.bus, Some(&id("a")), selected).await.unwrap());
    process.until_over().await;
    assert_eq!(process.got_ids().await, (0..5000).collect::<Vec<_>>());
    assert_eq!(purge(&*process.bus, &of("a")).await.unwrap(), Purged::default());
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_purges_each_counts_what_it_took() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    let letters = (0..400).map(|n| dead(n, if n % 2 == 0 { "a" } else { "b" })).collect();
    process.publish(TopicName::dead_letters(), letters).await;
    let all = Wanted::default();
    let (one, two) = tokio::join!(purge(&*process.bus, &all), purge(&*process.bus, &all));
    let counts = [one.unwrap(), two.unwrap()].map(|purged| purged.of.values().sum::<u64>());
    assert_eq!(counts.iter().sum::<u64>(), 400, "{counts:?}");
    assert_eq!(process.letters().await, 0);
    process.end().await;
}
