//! Publishes on one stream: one transaction at a time, in order, until the server has it.
//!
//! While one is under way, what comes after it gathers into the next, which is put together meanwhile. A transaction is stored as a whole or not at all, and is sent
//! again for as long as its fate is unknown, so that a failure may repeat events and never reorders them. Once it is stored it is not
//! sent again while it is there, however long replicas take to have it. What turns out to be larger than the server takes is left out, and
//! the calls that brought it are told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use futures_util::poll;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::sending::{Sending, Sent, Transaction};
use super::shared::{Core, Log};
use crate::bus::PublishError;
use crate::event::Event;
use crate::queued::Place;

/// What goes into one transaction, but for its last event. The server keeps all of it aside until it is complete, and is slower with
/// what its processor's caches do not hold.
const TRANSACTION_BYTES: usize = 256 << 10;
const TRANSACTION_EVENTS: usize = 2048;

/// Which of the events of a call that were taken are not stored, by their places among these and in their order, and why.
pub(super) type TooLarge = Vec<(usize, PublishError)>;

/// One result an event of a call, where of those that were taken some turned out too large.
pub(super) fn with_later(results: Vec<Result<(), PublishError>>, too_large: TooLarge) -> Vec<Result<(), PublishError>> {
    let mut too_large = too_large.into_iter().peekable();
    let mut place = 0;
    let mut later = || {
        let error = too_large.next_if(|(at, _)| *at == place).map(|(_, error)| error);
        place += 1;
        error.map_or(Ok(()), Err)
    };
    results.into_iter().map(|result| result.and_then(|()| later())).collect()
}

/// The events of one call.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) events: Vec<Event>,
    /// Told when all of them are stored, but for those that the server does not take.
    pub(super) reply: oneshot::Sender<TooLarge>,
    pub(super) place: Place,
}

/// What waits for one stream. Bounded by the places that its operations hold.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    ops: VecDeque<Op>,
    /// Nobody publishes any more.
    ended: bool,
}

impl Lane {
    /// Puts an operation in line; false when the bus is closed.
    pub(super) fn push(&self, op: Op) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.ended {
            return false;
        }
        waiting.ops.push_back(op);
        drop(waiting);
        self.arrived.notify_one();
        true
    }

    /// The next operation; where there is none and there is to be an end, this is it.
    fn take(&self, end: bool) -> Option<Op> {
        let mut waiting = self.waiting.lock();
        let op = waiting.ops.pop_front();
        waiting.ended |= end && op.is_none();
        op
    }

    /// Gives up what waits: whoever waits for the receipts learns that they will not come.
    fn give_up(&self) {
        let mut waiting = self.waiting.lock();
        waiting.ended = true;
        waiting.ops.clear();
    }
}

/// Publishes what comes until the bus is closed and all of it is stored, or cannot be.
pub(super) async fn run(core: Arc<Core>, log: Arc<Log>) {
    let mut gathered = Gathered { log: &log, rest: VecDeque::new(), open: VecDeque::new() };
    let mut next = None;
    loop {
        let closed = core.closed.is_cancelled();
        let Some(mut transaction) = next.take().or_else(|| gathered.transaction(closed)) else {
            if closed {
                return;
            }
            tokio::select! {
                () = log.lane.arrived.notified() => {}
                () = core.closed.cancelled() => {}
            }
            continue;
        };
        while !transaction.sends_nothing() {
            let sent = {
                let sending = Sending { core: &core, log: &log, transaction: &transaction };
                let mut sent = std::pin::pin!(sending.until_done());
                let at_once = poll!(sent.as_mut());
                // While the server is busy with one, the next one is put together.
                if next.is_none() {
                    next = gathered.transaction(false);
                }
                match at_once {
                    Poll::Ready(sent) => sent,
                    Poll::Pending => sent.await,
                }
            };
            match sent {
                Sent::Stored => break,
                // The others go on before what comes after them.
                Sent::TooLarge(limit) => transaction = transaction.without_larger(&log.key, limit),
                Sent::GivenUp => {
                    core.hub.board.clear(&log.key);
                    log.lane.give_up();
                    return;
                }
            }
        }
        gathered.settled(&transaction);
    }
}

/// What was taken from the lane and is not answered yet.
struct Gathered<'a> {
    log: &'a Log,
    /// Events that are in no transaction yet.
    rest: VecDeque<Event>,
    /// Whom they are from, and those of the transaction that is under way.
    open: VecDeque<Open>,
}

/// A call of which not everything is settled.
struct Open {
    settled: usize,
    left: usize,
    too_large: TooLarge,
    reply: oneshot::Sender<TooLarge>,
    _place: Place,
}

impl Gathered<'_> {
    /// The next transaction; `None` if nothing waits.
    fn transaction(&mut self, end: bool) -> Option<Transaction> {
        let (mut bytes, mut events) = (0, Vec::new());
        while bytes < TRANSACTION_BYTES && events.len() < TRANSACTION_EVENTS {
            if self.rest.is_empty() {
                let Some(Op { events, reply, place }) = self.log.lane.take(end && events.is_empty()) else { break };
                let left = events.len();
                self.open.push_back(Open { settled: 0, left, too_large: TooLarge::new(), reply, _place: place });
                self.rest = events.into();
            }
            if let Some(event) = self.rest.pop_front() {
                bytes += event.encoded_len();
                events.push(event);
            }
        }
        (!events.is_empty()).then(|| Transaction::new(&self.log.key, events))
    }

    /// The events of a transaction are stored or will not be: answers the calls that are whole.
    fn settled(&mut self, transaction: &Transaction) {
        let refused = transaction.refused();
        self.log.metrics.refused_events.inc_by(refused.len() as u64);
        let mut refused = refused.into_iter().peekable();
        let (mut passed, mut events) = (0, transaction.total());
        while let Some(first) = self.open.front_mut() {
            let taken = events.min(first.left);
            while let Some((place, error)) = refused.next_if(|(place, _)| *place < passed + taken) {
                first.too_large.push((first.settled + place - passed, error));
            }
            passed += taken;
            events -= taken;
            first.settled += taken;
            first.left -= taken;
            if first.left > 0 {
                return;
            }
            if let Some(Open { reply, too_large, .. }) = self.open.pop_front() {
                // Nobody may be waiting.
                reply.send(too_large).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_out_too_large_is_named_beside_what_was_before() {
        let error = |bytes| PublishError::TooLarge { bytes, limit: 10 };
        let before = vec![Ok(()), Err(error(20)), Ok(()), Ok(()), Err(error(30))];
        assert_eq!(with_later(before.clone(), TooLarge::new()), before);
        let after = with_later(before, vec![(0, error(11)), (2, error(12))]);
        assert_eq!(after, [Err(error(11)), Err(error(20)), Ok(()), Err(error(12)), Err(error(30))]);
    }
}
