use evoke_api::names::ObjectName;
use parking_lot::Mutex;
use prometheus::Registry;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::metrics::Metrics;
use crate::test_outlet::{Answer, TestOutlet};

#[derive(Default)]
struct TestMarks {
    mark: Mutex<Option<Mark>>,
    stored: watch::Sender<usize>,
}

impl TestMarks {
    fn time(&self) -> Option<DateTime<Utc>> {
        self.mark.lock().as_ref().map(|mark| mark.time)
    }

    fn schedule(&self) -> Option<Arc<str>> {
        self.mark.lock().as_ref().and_then(|mark| mark.schedule.clone())
    }
}

impl Marks for TestMarks {
    fn load<'a>(&'a self, _: &'a Origin) -> BoxFuture<'a, Result<Option<Mark>, Unsettled>> {
        async { Ok(self.mark.lock().clone()) }.boxed()
    }

    fn forget<'a>(&'a self, _: &'a Origin) -> BoxFuture<'a, Result<(), Unsettled>> {
        async {
            *self.mark.lock() = None;
            Ok(())
        }
        .boxed()
    }

    fn store<'a>(&'a self, _: &'a Origin, mark: Mark) -> BoxFuture<'a, Result<(), Unsettled>> {
        async move {
            *self.mark.lock() = Some(mark);
            self.stored.send_modify(|count| *count += 1);
            Ok(())
        }
        .boxed()
    }
}

struct Bench {
    outlet: Arc<TestOutlet>,
    marks: Arc<TestMarks>,
    status: watch::Receiver<Status>,
    cancel: CancellationToken,
    tasks: JoinSet<Result<(), SourceError>>,
    metrics: SourceMetrics,
}

fn origin() -> Origin {
    Origin { event_source: ObjectName::new("ns", "es"), event: "tick".into(), attributes: Default::default() }
}

fn start(schedule: &str, catch_up: Option<Duration>, mark: Option<DateTime<Utc>>) -> Bench {
    start_in_turn(schedule, catch_up, mark, None)
}

fn start_in_turn(
    schedule: &str,
    catch_up: Option<Duration>,
    mark: Option<DateTime<Utc>>,
    lease: Option<Lease>,
) -> Bench {
    let mark = mark.map(|time| Mark { time, schedule: Some(plan(schedule, catch_up).marked()) });
    start_after(&LeftOff::default(), schedule, catch_up, mark, lease)
}

fn plan(schedule: &str, catch_up: Option<Duration>) -> CronPlan {
    CronPlan {
        text: schedule.to_owned(),
        schedule: crate::cron::schedule::Schedule::parse(schedule, chrono_tz::Tz::UTC).unwrap(),
        catch_up,
        data: Some("hi".into()),
        content_type: Some("text/plain".into()),
    }
}

fn start_after(
    left_off: &LeftOff,
    schedule: &str,
    catch_up: Option<Duration>,
    mark: Option<Mark>,
    lease: Option<Lease>,
) -> Bench {
    let (outlet, marks) = (TestOutlet::new(), Arc::new(TestMarks::default()));
    *marks.mark.lock() = mark;
    let (status, status_seen) = watch::channel(Status::Connecting("start".into()));
    let cancel = CancellationToken::new();
    let metrics = Metrics::new(&Registry::new()).unwrap().of(&origin(), "cron");
    let turn = crate::cron::Turn { left_off: left_off.clone(), lease };
    let source = plan(schedule, catch_up).source(&origin(), metrics.clone(), Some(marks.clone()), Some(turn));
    let context = Context { outlet: outlet.clone(), status, cancel: cancel.clone() };
    let mut tasks = JoinSet::new();
    tasks.spawn(source.run(context));
    Bench { outlet, marks, status: status_seen, cancel, tasks, metrics }
}

impl Bench {
    async fn is_up(&mut self) {
        self.status.wait_for(|status| *status == Status::Up).await.unwrap();
    }

    async fn end(&mut self) {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }

    async fn ids(&self, count: usize) -> Vec<String> {
        let batches = self.outlet.batches(count).await;
        let id = |arrival: &Arrival| match arrival {
            Arrival::Event(event) => event.id().to_owned(),
            Arrival::Malformed(malformed) => panic!("{malformed:?}"),
        };
        batches.iter().flatten().map(id).collect()
    }
}

/// Waits until the hour does not end in the middle of a test.
async fn within_an_hour() {
    while Utc::now().timestamp() % 3600 >= 3600 - 20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_tick_is_an_event_of_its_time() {
    let mut bench = start("@every 1s", None, None);
    bench.outlet.settle_all();
    let began = Utc::now();
    let batches = bench.outlet.batches(2).await;
    assert!(Utc::now() - began < chrono::TimeDelta::seconds(20));
    let [Arrival::Event(first)] = &batches[0][..] else { panic!("{batches:?}") };
    let [Arrival::Event(second)] = &batches[1][..] else { panic!("{batches:?}") };
    let time = |event: &evoke_eventbus::event::Event| event.id().parse::<DateTime<Utc>>().unwrap();
    assert_eq!(time(second) - time(first), chrono::TimeDelta::seconds(1));
    assert_eq!(first.attribute("time"), Some(first.id()));
    assert_eq!((first.ty(), first.source()), ("io.evoke.cron", "/namespaces/ns/eventsources/es/tick"));
    assert_eq!((first.content_type(), first.data_slice()), (Some("text/plain"), &b"hi"[..]));
    assert_eq!(*bench.status.borrow(), Status::Up);
    assert_eq!(*bench.marks.stored.borrow(), 0, "nothing is remembered without catchUp");
    bench.end().await;
    assert_eq!(bench.metrics.up.get(), 0);
}

#[tokio::test]
async fn missed_ticks_are_fired_oldest_first_and_marked_once_settled() {
    within_an_hour().await;
    let now = Utc::now();
    let mark = now - chrono::TimeDelta::hours(5);
    let mut bench = start("@hourly", Some(Duration::from_secs(3 * 3600)), Some(mark));
    let ids = bench.ids(3).await;
    let times: Vec<DateTime<Utc>> = ids.iter().map(|id| id.parse().unwrap()).collect();
    assert!(times.is_sorted() && times[0] >= now - chrono::TimeDelta::hours(3) && times[2] <= now, "{ids:?}");
    assert_eq!(bench.metrics.skipped.get(), 2);
    assert_eq!(bench.marks.time(), Some(mark), "nothing is settled");
    bench.outlet.settle(1, Answer::Settled);
    bench.outlet.settle(0, Answer::Settled);
    let marks = bench.marks.clone();
    marks.stored.subscribe().wait_for(|_| marks.time() == Some(times[1])).await.unwrap();
    bench.outlet.settle(2, Answer::Settled);
    bench.end().await;
    assert_eq!(bench.marks.time(), Some(times[2]), "the end waits for what is under way");
}

#[tokio::test]
async fn the_first_start_leaves_a_mark_and_fires_nothing() {
    let mut bench = start("@yearly", Some(Duration::from_secs(3600)), None);
    bench.is_up().await;
    assert!(Utc::now() - bench.marks.time().unwrap() < chrono::TimeDelta::seconds(10));
    bench.end().await;
    assert!(bench.outlet.batches(0).await.is_empty());
}

#[tokio::test]
async fn ticks_that_did_not_settle_are_fired_again() {
    within_an_hour().await;
    let mark = Utc::now() - chrono::TimeDelta::hours(3);
    let mut bench = start("@hourly", Some(Duration::from_secs(3600 * 24)), Some(mark));
    let ids = bench.ids(3).await;
    bench.outlet.settle(0, Answer::Settled);
    bench.outlet.settle(1, Answer::Unsettled("disk full"));
    bench.status.wait_for(|status| *status == Status::Down("disk full".into())).await.unwrap();
    assert_eq!(bench.metrics.up.get(), 0);
    let again = bench.ids(5).await;
    assert_eq!(again[3..], ids[1..]);
    bench.outlet.settle_all();
    bench.is_up().await;
    bench.end().await;
}

#[test]
fn data_and_its_type() {
    use evoke_api::credentials::{Secret, ValueFrom, Vault};

    struct NoVault;
    impl Vault for NoVault {
        fn look_up(
            &self,
            _: &str,
            _: &ValueFrom,
            path: &evoke_api::problem::FieldPath,
        ) -> Result<Secret, evoke_api::problem::Problem> {
            Err(evoke_api::problem::Problem::error(path.clone(), "no secrets"))
        }
    }
    for (spec, data, content_type) in [
        (json!({}), "", None),
        (json!({ "data": "hello" }), "hello", Some("text/plain; charset=utf-8")),
        (json!({ "data": { "a": [1, 2.5, null] } }), r#"{"a":[1,2.5,null]}"#, Some("application/json")),
        (json!({ "data": 7, "contentType": "text/x-seven" }), "7", Some("text/x-seven")),
    ] {
        let mut spec = spec;
        spec["schedule"] = json!("@hourly");
        let origin = origin();
        let path = evoke_api::problem::FieldPath::spec();
        let place = crate::source::Place { origin: &origin, path: &path, vault: &NoVault };
        let mut problems = Vec::new();
        let plan = crate::cron::plan(&place, &serde_json::from_value(spec).unwrap(), &mut problems).unwrap();
        let event = plan.event(&origin, DateTime::UNIX_EPOCH).unwrap();
        assert_eq!((event.data_slice(), event.content_type()), (data.as_bytes(), content_type));
        assert_eq!(event.id(), "1970-01-01T00:00:00Z");
    }
}

#[tokio::test]
async fn who_takes_over_fires_what_was_due_meanwhile_and_nothing_twice() {
    let now = Utc::now();
    let ago = |seconds| now - chrono::TimeDelta::seconds(seconds);
    let turn = Lease { since: ago(600), lasts: Arc::new(|| true) };
    let mut bench = start_in_turn("@every 10s", None, Some(ago(35)), Some(turn));
    bench.outlet.settle_all();
    let ids = bench.ids(3).await;
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]) && ids[0] > rfc3339(ago(35)), "{ids:?}");
    bench.end().await;
    assert!(bench.marks.time().is_some_and(|mark| rfc3339(mark) >= ids[2]), "the next one goes on from here");
}

#[tokio::test]
async fn who_just_started_does_not_catch_up_unasked_and_who_lost_the_turn_does_not_fire() {
    let now = Utc::now();
    let turn = Lease { since: now, lasts: Arc::new(|| true) };
    let mark = now - chrono::TimeDelta::seconds(35);
    let mut bench = start_in_turn("@every 1s", None, Some(mark), Some(turn));
    bench.outlet.settle_all();
    assert!(bench.ids(1).await[0] >= rfc3339(now));
    bench.end().await;
    let turn = Lease { since: mark, lasts: Arc::new(|| false) };
    let mut bench = start_in_turn("@every 1s", None, Some(mark), Some(turn));
    bench.is_up().await;
    bench.end().await;
    assert_eq!(bench.marks.time(), Some(mark));
}

#[tokio::test]
async fn who_gives_the_turn_away_first_fires_what_is_due() {
    let began = Utc::now();
    let ago = |seconds| began - chrono::TimeDelta::seconds(seconds);
    let turn = Lease { since: ago(600), lasts: Arc::new(|| true) };
    let mut bench = start_in_turn("@every 1s", None, Some(ago(5)), Some(turn));
    bench.outlet.refuse("full");
    bench.status.wait_for(|status| matches!(status, Status::Down(_))).await.unwrap();
    bench.outlet.relent();
    bench.outlet.settle_all();
    bench.end().await;
    let ids = bench.ids(0).await;
    let due = (1..=5).map(|seconds| rfc3339(ago(5) + chrono::TimeDelta::seconds(seconds)));
    assert_eq!(ids[..5], due.collect::<Vec<_>>());
}

/// A mark of another schedule.
fn foreign(time: DateTime<Utc>) -> Option<Mark> {
    Some(Mark { time, schedule: Some("0 0 * * * UTC".into()) })
}

fn ago(now: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
    now - chrono::TimeDelta::seconds(seconds)
}

#[tokio::test]
async fn who_comes_after_another_fires_from_its_last_look_on() {
    let (now, left_off) = (Utc::now(), LeftOff::default());
    left_off.found(ago(now, 35), &[]);
    let mut bench = start_after(&left_off, "@every 10s", None, None, None);
    bench.outlet.settle_all();
    let ids = bench.ids(3).await;
    bench.end().await;
    let first = (now.timestamp() - 35).div_euclid(10) * 10 + 10;
    let due = (0..3).map(|n| rfc3339(DateTime::from_timestamp(first + n * 10, 0).unwrap()));
    assert_eq!(ids[..3], due.collect::<Vec<_>>(), "each once, with none left out");
    assert!(left_off.looked().unwrap() >= now && left_off.owed(None).is_empty());
    assert_eq!(bench.metrics.skipped.get(), 0);

    // What nobody looked at for longer than a minute is too old.
    left_off.found(ago(now, 3600), &[]);
    let mut bench = start_after(&left_off, "@every 10s", None, None, None);
    bench.outlet.settle_all();
    assert!(bench.ids(5).await[0] >= rfc3339(ago(now, 75)));
    bench.end().await;
    assert!(bench.metrics.skipped.get() > 300);
}

#[tokio::test]
async fn another_schedule_counts_from_the_last_look_of_the_one_before() {
    let (now, left_off) = (Utc::now(), LeftOff::default());
    left_off.found(ago(now, 12), &[]);
    let half_a_day = Some(Duration::from_secs(12 * 3600));
    let mut bench = start_after(&left_off, "@every 1s", half_a_day, foreign(ago(now, 7200)), None);
    bench.outlet.settle_all();
    assert_eq!(bench.ids(1).await[0], rfc3339(ago(now, 11)));
    bench.end().await;
}

#[tokio::test]
async fn what_was_not_settled_is_fired_by_the_next_source() {
    within_an_hour().await;
    let left_off = LeftOff::default();
    let mark = Utc::now() - chrono::TimeDelta::hours(3);
    let day = Some(Duration::from_secs(24 * 3600));
    let of_mark = Some(Mark { time: mark, schedule: None });
    let mut bench = start_after(&left_off, "@hourly", day, of_mark, None);
    let ids = bench.ids(3).await;
    bench.outlet.settle(0, Answer::Settled);
    bench.outlet.settle(1, Answer::Unsettled("disk full"));
    bench.outlet.refuse("disk full");
    bench.end().await;
    // It was due, whatever is from now on.
    let mut bench = start_after(&left_off, "@yearly", None, None, None);
    assert_eq!(bench.ids(2).await, ids[1..]);
    bench.outlet.settle_all();
    bench.end().await;
    assert!(left_off.owed(None).is_empty());
}

#[tokio::test]
async fn a_mark_of_another_schedule_is_no_mark() {
    let now = Utc::now();
    let half_a_day = Some(Duration::from_secs(12 * 3600));
    let mut bench = start_after(&LeftOff::default(), "@every 1s", half_a_day, foreign(ago(now, 7200)), None);
    bench.is_up().await;
    assert!(bench.marks.time().unwrap() >= now, "what is missed from here on is caught up");
    assert_eq!(bench.marks.schedule().as_deref(), Some("@every 1s"));
    bench.outlet.settle_all();
    assert!(bench.ids(1).await[0] >= rfc3339(now));
    bench.end().await;
}

#[tokio::test]
async fn a_mark_without_a_schedule_counts() {
    let now = Utc::now();
    let hour = Some(Duration::from_secs(3600));
    let mark = Some(Mark { time: ago(now, 30), schedule: None });
    let mut bench = start_after(&LeftOff::default(), "@every 1s", hour, mark, None);
    assert_eq!(bench.ids(1).await[0], rfc3339(ago(now, 29)));
    let (time, schedule) = (bench.marks.time(), bench.marks.schedule());
    assert_eq!((time, schedule.as_deref()), (Some(ago(now, 30)), Some("@every 1s")));
    bench.outlet.settle_all();
    bench.end().await;
}

#[tokio::test]
async fn a_mark_goes_with_catch_up() {
    let mut bench = start("@yearly", None, Some(Utc::now()));
    bench.is_up().await;
    assert_eq!(bench.marks.time(), None);
    bench.end().await;
    assert_eq!((bench.marks.time(), *bench.marks.stored.borrow()), (None, 0));
}

#[tokio::test]
async fn who_had_the_turn_before_a_reload_goes_on_unless_another_did() {
    let now = Utc::now();
    let mark = |seconds| Some(Mark { time: ago(now, seconds), schedule: Some("@every 1s".into()) });
    for (mark, expected) in [(mark(300), 11), (foreign(ago(now, 300)), 11), (mark(5), 4)] {
        let left_off = LeftOff::default();
        left_off.found(ago(now, 12), &[ago(now, 14), ago(now, 13)].map(|tick| tick - subsecond(tick)));
        let lease = Lease { since: ago(now, 600), lasts: Arc::new(|| true) };
        let owes = expected == 11;
        let mut bench = start_after(&left_off, "@every 1s", None, mark, Some(lease));
        bench.outlet.settle_all();
        let ids = bench.ids(3).await;
        let first = if owes { 14 } else { expected };
        assert_eq!(ids[0], rfc3339(ago(now, first)));
        assert!(!owes || ids[2] == rfc3339(ago(now, expected)), "{ids:?}");
        bench.end().await;
    }
}

fn subsecond(time: DateTime<Utc>) -> chrono::TimeDelta {
    chrono::TimeDelta::nanoseconds(time.timestamp_subsec_nanos().into())
}

#[tokio::test]
async fn who_gives_the_turn_away_leaves_a_mark_of_its_last_look() {
    let began = Utc::now();
    let turn = Lease { since: began, lasts: Arc::new(|| true) };
    let mut bench = start_in_turn("@yearly", None, Some(ago(began, 3600)), Some(turn));
    bench.is_up().await;
    bench.end().await;
    assert!(bench.marks.time().unwrap() >= began);
}
