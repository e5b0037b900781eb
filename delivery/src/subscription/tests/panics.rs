//! A lane that a bug ends is started again from its last position.

use std::sync::atomic::AtomicUsize;

use evoke_eventbus::subscription::sharing::Group;
use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::sink::Sink;
use crate::sinks::Outputs;

/// Panics at one event, so many times over all its lives.
struct Trap(Arc<AtomicUsize>, &'static str);

impl Selector for Trap {
    fn select(&mut self, _: usize, record: &Record) -> Verdict {
        let left = |left: usize| left.checked_sub(1);
        if record.event.id() == self.1 && self.0.fetch_update(Relaxed, Relaxed, left).is_ok() {
            panic!("trapped at {}", self.1);
        }
        Verdict::Match
    }

    fn window(&self) -> Option<Duration> {
        None
    }

    fn observe(&mut self, _: usize, _: &Record) {}
}

struct Supervised {
    stop: CancellationToken,
    progress: Progress,
    task: JoinHandle<()>,
}

impl Supervised {
    fn start(process: &Process, plan: &SubscriptionPlan, sink: &Arc<Script>, selector: SelectorFactory) -> Self {
        let outputs = Outputs { sink: Some(Arc::clone(sink) as Arc<dyn Sink>), dead_letter: None, bucket: None };
        let (subscriptions, plan) = (process.subscriptions.clone(), Arc::new(plan.clone()));
        let group = Group::trigger(&plan.id.owner);
        let supervisor = Supervisor::new(subscriptions, plan, outputs, selector, &process.metrics, (group, false));
        let (progress, stop) = (supervisor.progress(), CancellationToken::new());
        #[allow(clippy::disallowed_methods, reason = "a test's own task")]
        let task = tokio::spawn(supervisor.run(stop.clone(), CancellationToken::new()).map(Result::unwrap));
        Self { stop, progress, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn trap(times: usize, at: &'static str) -> SelectorFactory {
    let left = Arc::new(AtomicUsize::new(times));
    Box::new(move || Box::new(Trap(Arc::clone(&left), at)))
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_panics_is_started_again_and_loses_nothing() {
    let plan = plan("a");
    let (bus, process) = waiting(0, &plan).await;
    let sink = Script::takes(MS);
    let lane = Supervised::start(&process, &plan, &sink, trap(3, "15"));
    assert_eq!(process.metric("evoke_subscription_restarts_total", "a"), 0.0);
    for n in 0..30 {
        bus.append(&partition("order"), vec![event(n)]);
        sleep(10 * MS).await;
    }
    // Those before it were recorded while it still ran.
    assert_eq!(sink.delivered().into_keys().collect::<Vec<_>>(), (0..15).collect::<Vec<_>>());
    let status = lane.progress.snapshot();
    assert_eq!((status.running, status.last_error.as_deref()), (false, Some("a bug in evoke: trapped at 15")));
    let waits = lane.progress.waits_for().unwrap();
    assert_eq!(waits, "is started again soon, after a bug in evoke: trapped at 15");
    assert_eq!(process.metric("evoke_subscription_restarts_total", "a"), 1.0);
    // 1 s and 2 s and 4 s, since it does not get further.
    sleep(5 * SECOND).await;
    assert_eq!((sink.delivered().len(), process.metric("evoke_subscription_restarts_total", "a")), (15, 3.0));
    sleep(4 * SECOND).await;
    assert_eq!(sink.delivered().len(), 30);
    assert_eq!((lane.progress.waits_for(), lane.progress.snapshot().last_error), (None, None));
    assert!(lane.progress.snapshot().running);
    assert_eq!(process.metric("evoke_subscription_restarts_total", "a"), 3.0);
    lane.stop().await;
    assert_eq!(ledger(&bus, "a").await.needs(), Position(30));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_holds_nobody_else_back() {
    let (bad, good) = (plan("bad"), plan("good"));
    let (bus, process) = waiting(0, &bad).await;
    process.declare(&good).await;
    let breaks = Script::new(|event, before| {
        assert!(event.id() != "3" || before > 0, "broken");
        (MS, Outcome::Delivered)
    });
    let takes = Script::takes(MS);
    let all = || -> SelectorFactory { Box::new(|| Box::new(All)) };
    let lanes = [(&bad, &breaks), (&good, &takes)].map(|(plan, sink)| Supervised::start(&process, plan, sink, all()));
    bus.append(&partition("order"), (0..10).map(event).collect());
    sleep(500 * MS).await;
    assert_eq!(takes.delivered().len(), 10);
    sleep(2 * SECOND).await;
    assert_eq!(breaks.delivered().into_keys().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(process.metric("evoke_subscription_restarts_total", "bad"), 1.0);
    assert_eq!(process.metric("evoke_subscription_restarts_total", "good"), 0.0);
    for lane in lanes {
        lane.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_waits_to_be_started_again_ends_when_it_is_stopped() {
    let plan = plan("a");
    let (_, process) = waiting(1, &plan).await;
    let lane = Supervised::start(&process, &plan, &Script::takes(MS), trap(usize::MAX, "0"));
    sleep(20 * SECOND).await;
    let begin = tokio::time::Instant::now();
    lane.stop().await;
    assert!(begin.elapsed() < MS);
    // 1, 2, 4 and 8 s, and the next is due after 16.
    assert_eq!(process.metric("evoke_subscription_restarts_total", "a"), 5.0);
}
