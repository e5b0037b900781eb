//! What a source took in that its upstream pushes, until it is settled. It outlives connections: not everything can be asked for again.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;

use evoke_connect::backoff::Backoff;
use tokio::time::{Sleep, sleep};

use crate::flow::{Flow, Progress};
use crate::source::{Arrival, Context, Unsettled};

/// Batches handed over and not settled; the outlet's own limits are in bytes.
const IN_FLIGHT: usize = 256;

/// What may wait to be handed over before no more is to be taken in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Messages, and a token for each that its upstream is told of.
#[derive(Debug)]
struct Batch<T> {
    tokens: Vec<T>,
    arrivals: Vec<Arrival>,
    bytes: usize,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { tokens: Vec::new(), arrivals: Vec::new(), bytes: 0 }
    }
}

/// What happened to what was taken in.
pub(crate) enum Happened<T> {
    Accepted,
    Settled(Vec<T>),
    Failed(Unsettled),
    /// It is time to hand over again what failed.
    Due,
}

/// What is left when a source ends: the tokens of what is not settled, and how many messages had none.
pub(crate) struct Left<T> {
    pub(crate) tokens: Vec<T>,
    pub(crate) lost: usize,
}

/// The messages of one source that are not settled.
pub(crate) struct Intake<T> {
    room: Room,
    flow: Flow<Batch<T>>,
    /// Taken in, and not handed over.
    waiting: Batch<T>,
    /// To be handed over again.
    again: VecDeque<Batch<T>>,
    backoff: Backoff,
    /// Nothing is handed over before this is over.
    hold: Option<Pin<Box<Sleep>>>,
    /// The outlet failed, and has not settled anything since.
    is_failing: bool,
}

impl<T> Intake<T> {
    pub(crate) fn new(context: &Context, room: Room) -> Self {
        Self {
            room,
            flow: Flow::new(context.outlet.clone()),
            waiting: Batch::default(),
            again: VecDeque::new(),
            backoff: Backoff::new(),
            hold: None,
            is_failing: false,
        }
    }

    /// Whether more should be taken in.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.arrivals.len() < self.room.messages && self.waiting.bytes < self.room.bytes
    }

    /// True when all that was taken in is settled.
    pub(crate) fn is_settled(&self) -> bool {
        self.flow.len() == 0 && self.again.is_empty() && self.waiting.arrivals.is_empty()
    }

    /// True from when the outlet failed until it settles something.
    pub(crate) fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// Takes a message in that takes `bytes` while it waits.
    pub(crate) fn take(&mut self, arrival: Arrival, token: Option<T>, bytes: usize) {
        self.waiting.bytes += bytes;
        self.waiting.arrivals.push(arrival);
        self.waiting.tokens.extend(token);
    }

    /// Hands over what is next, and waits for the next thing to happen; for ever if nothing is under way. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Happened<T> {
        self.offer();
        let progress = tokio::select! {
            biased;
            progress = self.flow.progress() => progress,
            () = until(&mut self.hold) => {
                self.hold = None;
                return Happened::Due;
            }
        };
        match progress {
            Progress::Accepted => Happened::Accepted,
            Progress::Settled(batch) => {
                self.is_failing = false;
                self.backoff.reset();
                Happened::Settled(batch.tokens)
            }
            Progress::Failed(batches, error) => {
                for batch in batches.into_iter().rev() {
                    self.again.push_front(batch);
                }
                self.is_failing = true;
                self.hold = Some(Box::pin(sleep(self.backoff.wait())));
                Happened::Failed(error)
            }
        }
    }

    fn offer(&mut self) {
        if self.hold.is_some() || !self.flow.has_room() || self.flow.len() >= IN_FLIGHT {
            return;
        }
        let waits = !self.waiting.arrivals.is_empty();
        let next = self.again.pop_front().or_else(|| waits.then(|| std::mem::take(&mut self.waiting)));
        if let Some(batch) = next {
            let arrivals = batch.arrivals.clone();
            self.flow.offer(batch, arrivals);
        }
    }

    /// Has what was taken in settled, unless that fails. `settled` hears of all that is.
    pub(crate) async fn finish(&mut self, mut settled: impl FnMut(Vec<T>)) -> Left<T> {
        self.hold = None;
        while !self.is_settled() {
            match self.next().await {
                Happened::Settled(tokens) => settled(tokens),
                Happened::Failed(_) => break,
                Happened::Accepted | Happened::Due => {}
            }
        }
        let mut left = Left { tokens: Vec::new(), lost: 0 };
        let waiting = std::mem::take(&mut self.waiting);
        for batch in self.flow.abandon().into_iter().chain(self.again.drain(..)).chain([waiting]) {
            left.lost += batch.arrivals.len().saturating_sub(batch.tokens.len());
            left.tokens.extend(batch.tokens);
        }
        left
    }
}

async fn until(hold: &mut Option<Pin<Box<Sleep>>>) {
    match hold {
        Some(hold) => hold.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::source::{Malformed, Status};
    use crate::test_outlet::{Answer, TestOutlet};

    fn intake(outlet: &Arc<TestOutlet>) -> Intake<u32> {
        let status = watch::channel(Status::Up).0;
        let context = Context { outlet: outlet.clone(), status, cancel: CancellationToken::new() };
        Intake::new(&context, Room { messages: 2, bytes: 100 })
    }

    fn message(n: u32) -> Arrival {
        Arrival::Malformed(Malformed { position: n.to_string(), cause: "test".into(), raw: bytes::Bytes::new() })
    }

    fn positions(batch: &[Arrival]) -> Vec<String> {
        let position = |arrival: &Arrival| match arrival {
            Arrival::Malformed(malformed) => malformed.position.clone(),
            Arrival::Event(_) => String::new(),
        };
        batch.iter().map(position).collect()
    }

    #[tokio::test]
    async fn there_is_room_by_count_and_by_bytes() {
        let outlet = TestOutlet::new();
        let mut intake = intake(&outlet);
        intake.take(message(1), Some(1), 10);
        assert!(intake.has_room());
        intake.take(message(2), Some(2), 10);
        assert!(!intake.has_room());
        assert!(matches!(intake.next().await, Happened::Accepted));
        assert!(intake.has_room() && !intake.is_settled());
        intake.take(message(3), Some(3), 100);
        assert!(!intake.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_handed_over_again_in_its_order() {
        let outlet = TestOutlet::new();
        let mut intake = intake(&outlet);
        for n in [1, 2] {
            intake.take(message(n), Some(n), 1);
            assert!(matches!(intake.next().await, Happened::Accepted));
        }
        outlet.settle(0, Answer::Unsettled("full"));
        assert!(matches!(intake.next().await, Happened::Failed(_)));
        assert!(intake.is_failing());
        intake.take(message(3), None, 1);
        outlet.settle_all();
        let mut settled = Vec::new();
        while !intake.is_settled() {
            if let Happened::Settled(tokens) = intake.next().await {
                settled.extend(tokens);
            }
        }
        assert!(!intake.is_failing());
        assert_eq!(settled, [1, 2]);
        let batches = outlet.batches(5).await;
        let order: Vec<_> = batches[2..].iter().map(|batch| positions(batch)).collect();
        assert_eq!(order, [["1"], ["2"], ["3"]]);
        assert!(intake.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_is_left_at_the_end_is_told() {
        let outlet = TestOutlet::new();
        let mut intake = intake(&outlet);
        intake.take(message(1), Some(1), 1);
        intake.take(message(2), None, 1);
        outlet.refuse("closed");
        let left = intake.finish(|_| {}).await;
        assert_eq!((left.tokens, left.lost), (vec![1], 1));
    }
}
