//! Several topics, and what a start is shown of the time before.

use super::*;

/// Notes what it is shown, and how.
struct Notes(Arc<Mutex<Vec<String>>>, Option<Duration>);

impl Selector for Notes {
    fn select(&mut self, topic: usize, record: &Record) -> Verdict {
        self.0.lock().push(format!("{topic}:{}", record.event.id()));
        Verdict::Match
    }

    fn window(&self) -> Option<Duration> {
        self.1
    }

    fn observe(&mut self, topic: usize, record: &Record) {
        self.0.lock().push(format!("{topic}:({})", record.event.id()));
    }
}

#[tokio::test(start_paused = true)]
async fn several_topics_are_merged_by_time_and_a_silent_one_is_not_waited_for() {
    let mut plan = plan("a");
    plan.topics.push(topic("payment"));
    let (bus, process) = waiting(0, &plan).await;
    for n in 0..6 {
        let to = ["order", "order", "payment"][n % 3];
        bus.append(&partition(to), vec![event(n)]);
        sleep(SECOND).await;
    }
    let (notes, sink) = (Arc::default(), Script::takes(MS));
    let lane = process.run_with(&plan, &sink, None, Box::new(Notes(Arc::clone(&notes), None)));
    sink.attempts(6).await;
    assert_eq!(*notes.lock(), ["0:0", "0:1", "1:2", "0:3", "0:4", "1:5"]);
    bus.append(&partition("order"), vec![event(6)]);
    sink.attempts(7).await;
    lane.drain().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_window_is_shown_again_without_being_judged() {
    let mut plan = plan("a");
    plan.topics.push(topic("payment"));
    let (bus, process) = waiting(0, &plan).await;
    let sink = Script::takes(MS);
    let notes = Arc::default();
    let lane = process.run_with(&plan, &sink, None, Box::new(Notes(Arc::clone(&notes), Some(60 * SECOND))));
    for n in 0..9 {
        bus.append(&partition(["order", "payment"][n % 2]), vec![event(n)]);
        sleep(20 * SECOND).await;
    }
    assert_eq!(notes.lock().len(), 9);
    lane.drain().await;
    notes.lock().clear();
    bus.append(&partition("order"), vec![event(9)]);
    let process = Process::start(&bus);
    let lane = process.run_with(&plan, &sink, None, Box::new(Notes(Arc::clone(&notes), Some(60 * SECOND))));
    sink.attempts(10).await;
    assert_eq!(*notes.lock(), ["1:(5)", "0:(6)", "1:(7)", "0:(8)", "0:9"]);
    lane.drain().await;
}
