//! What records are known by again: whether a log still is the one that was read is judged by what lies at offsets that were read. Times
//! are no help where one leader's clock was ahead of the next one's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};

use super::Core;
use super::cluster::{Ends, Place, unreadable};
use super::pool::{Found, Pool, Seat};
use crate::bus::BusError;

/// How long a record may take to come.
const ANSWER: Duration = Duration::from_secs(5);
/// Records that are remembered.
const KEPT: usize = 8;

/// Where a record is, when it was stored, and how large it is: another record in its place differs in one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print {
    pub(super) offset: i64,
    millis: Option<i64>,
    key: usize,
    value: usize,
}

impl Print {
    pub(super) fn of(message: &BorrowedMessage<'_>) -> Self {
        Self {
            offset: message.offset(),
            millis: message.timestamp().to_millis(),
            key: message.key_len(),
            value: message.payload_len(),
        }
    }
}

/// The last records of the last batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Prints {
    newest: Option<Print>,
    kept: VecDeque<Print>,
}

/// What a log is, seen from a place in it that was read up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same as far as is known.
    Same,
    /// The same up to this offset, exclusively, and another one from there on or from somewhere before what was read last.
    SameBelow(i64),
    /// Another one, or one that has lost all that is remembered of it.
    Other,
}

impl Prints {
    /// A record was read.
    pub(super) fn read(&mut self, print: Print) {
        self.newest = Some(print);
    }

    /// A batch ends.
    pub(super) fn keep(&mut self) {
        let Some(print) = self.newest.take() else { return };
        self.kept.truncate(KEPT - 1);
        self.kept.push_front(print);
    }

    /// The records to look for in a log with these ends, the last one first, and whether some are beyond its end.
    fn to_look_for(&self, ends: Ends) -> (Vec<Print>, bool) {
        let kept = self.newest.iter().chain(&self.kept).filter(|print| print.offset >= ends.first);
        let (there, beyond): (Vec<_>, Vec<_>) = kept.partition(|print| print.offset < ends.end);
        (there.into_iter().copied().collect(), !beyond.is_empty())
    }

    /// Compares a log with what was read of it. Of one that is `compacted`, a record may be gone from the middle, which says nothing.
    pub(super) async fn compare(
        &self,
        core: &Core,
        place: &Place,
        ends: Ends,
        compacted: bool,
    ) -> Result<Verdict, BusError> {
        let (prints, mut differs) = self.to_look_for(ends);
        for print in prints {
            let found = look(core, place, print.offset).await?;
            if found == Some(print) {
                return Ok(if differs { Verdict::SameBelow(print.offset + 1) } else { Verdict::Same });
            }
            let is_gone = found.is_some_and(|found| found.offset > print.offset);
            differs |= !(compacted && is_gone);
        }
        Ok(if differs { Verdict::Other } else { Verdict::Same })
    }
}

/// Sits until dropped.
struct Sitting<'a> {
    pool: &'a Arc<Pool>,
    seat: Arc<Seat>,
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        self.pool.forget(&self.seat);
    }
}

/// The first record at an offset or after it; `None` where the log has none there by now.
async fn look(core: &Core, place: &Place, offset: i64) -> Result<Option<Print>, BusError> {
    let sitting = Sitting { pool: &core.pool, seat: core.pool.seat(place.clone(), 0) };
    let _asking = sitting.seat.ask();
    let unavailable = |cause: &str| BusError::Unavailable(format!("cannot read {}: {cause}", place.0).into());
    let read = std::future::poll_fn(|cx| {
        let found = core.pool.poll(&sitting.seat, cx, offset, |queue| {
            queue.poll(Duration::ZERO).transpose().map(|message| message.as_ref().map(Print::of))
        });
        match found {
            Found::Some(print) => Poll::Ready(Ok(Some(print))),
            Found::Nothing => Poll::Pending,
            Found::Error(error) => match meant(&error, &place.0) {
                Some(found) => Poll::Ready(found),
                None => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            Found::Failed(cause) => Poll::Ready(Err(unavailable(&cause))),
        }
    });
    match tokio::time::timeout(ANSWER, read).await {
        Ok(read) => read,
        Err(_) => Err(unavailable("no answer")),
    }
}

/// What an error of the client means for who looks for a record; `None` for one that it gets over by itself.
fn meant(error: &KafkaError, topic: &str) -> Option<Result<Option<Print>, BusError>> {
    use rdkafka::error::RDKafkaErrorCode as Code;
    match error.rdkafka_error_code()? {
        Code::AutoOffsetReset | Code::NoOffset | Code::OffsetOutOfRange => Some(Ok(None)),
        Code::TopicAuthorizationFailed => Some(Err(unreadable(topic))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(offset: i64) -> Print {
        Print { offset, millis: Some(7), key: 0, value: 1 }
    }

    #[test]
    fn who_may_not_read_a_record_is_told() {
        use rdkafka::error::RDKafkaErrorCode as Code;
        let meant = |code| meant(&KafkaError::MessageConsumption(code), "orders");
        assert_eq!(meant(Code::TopicAuthorizationFailed), Some(Err(unreadable("orders"))));
        assert!(matches!(unreadable("orders"), BusError::Broken(text) if text.contains("read topic orders")));
        assert_eq!(meant(Code::OffsetOutOfRange), Some(Ok(None)));
        assert_eq!(meant(Code::NotLeaderForPartition), None);
    }

    #[test]
    fn the_last_records_of_the_last_batches_are_looked_for() {
        let mut prints = Prints::default();
        assert_eq!(prints.to_look_for(Ends { first: 0, end: 9 }), (vec![], false));
        for batch in 0..20 {
            prints.read(print(batch * 10));
            prints.read(print(batch * 10 + 9));
            prints.keep();
            prints.keep();
        }
        prints.read(print(203));
        let look_for = |first, end| {
            let (prints, beyond) = prints.to_look_for(Ends { first, end });
            (prints.into_iter().map(|print| print.offset).collect::<Vec<_>>(), beyond)
        };
        assert_eq!(look_for(0, 204), (vec![203, 199, 189, 179, 169, 159, 149, 139, 129], false));
        assert_eq!(look_for(180, 204), (vec![203, 199, 189], false));
        assert_eq!(look_for(180, 199), (vec![189], true));
        assert_eq!(look_for(204, 300), (vec![], false));
        assert_eq!(look_for(0, 5), (vec![], true));
    }
}
