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
    mark: Mutex<Option<DateTime<Utc>>>,
    stored: watch::Sender<usize>,
}

impl Marks for TestMarks {
    fn load<'a>(&'a self, _: &'a Origin) -> BoxFuture<'a, Result<Option<DateTime<Utc>>, Unsettled>> {
        async { Ok(*self.mark.lock()) }.boxed()
    }

    fn store<'a>(&'a self, _: &'a Origin, mark: DateTime<Utc>) -> BoxFuture<'a, Result<(), Unsettled>> {
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
    turn: Option<Lease>,
) -> Bench {
    let (outlet, marks) = (TestOutlet::new(), Arc::new(TestMarks::default()));
    *marks.mark.lock() = mark;
    let (status, status_seen) = watch::channel(Status::Connecting("start".into()));
    let cancel = CancellationToken::new();
    let plan = CronPlan {
        text: String::new(),
        schedule: crate::cron::schedule::Schedule::parse(schedule, chrono_tz::Tz::UTC).unwrap(),
        catch_up,
        data: Some("hi".into()),
        content_type: Some("text/plain".into()),
    };
    let metrics = Metrics::new(&Registry::new()).unwrap().of(&origin(), "cron");
    let source = plan.source(&origin(), metrics.clone(), Some(marks.clone()), turn);
    let context = Context { outlet: outlet.clone(), status, cancel: cancel.clone() };
    let mut tasks = JoinSet::new();
    tasks.spawn(source.run(context));
    Bench { outlet, marks, status: status_seen, cancel, tasks, metrics }
}

impl Bench {
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

#[tokio::test]
async fn a_tick_is_an_event_of_its_time() {
    let mut bench = start("@every 1s", None, None);
    bench.outlet.settle_all();
    let began = Utc::now();
    let batches = bench.outlet.batches(2).await;
    assert!(Utc::now() - began < chrono::TimeDelta::milliseconds(2500));
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
    let now = Utc::now();
    let mark = now - chrono::TimeDelta::hours(5);
    let mut bench = start("@hourly", Some(Duration::from_secs(3 * 3600)), Some(mark));
    let ids = bench.ids(3).await;
    let times: Vec<DateTime<Utc>> = ids.iter().map(|id| id.parse().unwrap()).collect();
    assert!(times.is_sorted() && times[0] >= now - chrono::TimeDelta::hours(3) && times[2] <= now, "{ids:?}");
    assert_eq!(bench.metrics.skipped.get(), 2);
    assert_eq!(*bench.marks.mark.lock(), Some(mark), "nothing is settled");
    bench.outlet.settle(1, Answer::Settled);
    bench.outlet.settle(0, Answer::Settled);
    let marks = bench.marks.clone();
    marks.stored.subscribe().wait_for(|_| *marks.mark.lock() == Some(times[1])).await.unwrap();
    bench.outlet.settle(2, Answer::Settled);
    bench.end().await;
    assert_eq!(*bench.marks.mark.lock(), Some(times[2]), "the end waits for what is under way");
}

#[tokio::test]
async fn the_first_start_leaves_a_mark_and_fires_nothing() {
    let mut bench = start("@yearly", Some(Duration::from_secs(3600)), None);
    bench.status.wait_for(|status| *status == Status::Up).await.unwrap();
    let mark = bench.marks.mark.lock().unwrap();
    assert!(Utc::now() - mark < chrono::TimeDelta::seconds(10));
    bench.end().await;
    assert!(bench.outlet.batches(0).await.is_empty());
}

#[tokio::test]
async fn ticks_that_did_not_settle_are_fired_again() {
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
    bench.status.wait_for(|status| *status == Status::Up).await.unwrap();
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
    assert!(bench.marks.mark.lock().is_some_and(|mark| rfc3339(mark) >= ids[2]), "the next one goes on from here");
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
    bench.status.wait_for(|status| *status == Status::Up).await.unwrap();
    bench.end().await;
    assert_eq!(*bench.marks.mark.lock(), Some(mark));
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
