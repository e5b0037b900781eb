//! Reads the topic into the table, and sees to it that there is one.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;

use super::table::Table;
use crate::bus::{BusError, Health};
use crate::kafka::Core;
use crate::kafka::pool::{Found, Seat};
use crate::kafka::print::{Print, Prints, Verdict};

/// What the reader of the topic may hold.
const PREFETCH: usize = 512 << 10;
const READ_AGAIN: Duration = Duration::from_millis(200);
/// Who has the trouble, for the bus's health.
const STATE: &str = "state";

/// How far the topic was read, and what it is known by again.
#[derive(Default)]
struct Progress {
    next: i64,
    prints: Prints,
    /// How often connections had been lost when it was last looked whether the topic is what it was.
    cuts: u64,
}

/// Reads the topic into the table until the bus is closed.
pub(in crate::kafka) async fn follow(core: Arc<Core>) {
    let mut read = Progress { cuts: core.told.cuts(), ..Progress::default() };
    while !core.closed.is_cancelled() {
        // One that is new sits where it should, wherever the one before was about to sit.
        let seat = core.pool.seat(core.state.place(), PREFETCH);
        let asking = seat.ask();
        let doubtful = read_on(&core, &seat, &mut read).await;
        drop(asking);
        core.pool.forget(&seat);
        if doubtful {
            check(&core, &mut read).await;
        }
    }
}

/// Reads until the topic may not be the one that was read any more; false when the bus is closed.
async fn read_on(core: &Core, seat: &Arc<Seat>, read: &mut Progress) -> bool {
    loop {
        let said = std::future::poll_fn(|cx| poll(core, seat, cx, read));
        let doubtful = async {
            tokio::select! {
                doubtful = said => doubtful,
                () = core.state.doubt.notified() => true,
            }
        };
        match core.closed.run_until_cancelled(doubtful).await {
            None => return false,
            Some(true) => return true,
            Some(false) => {}
        }
        if core.closed.run_until_cancelled(tokio::time::sleep(READ_AGAIN)).await.is_none() {
            return false;
        }
    }
}

/// Takes in what there is; completes only where something is wrong, with whether the topic may not be the one that was read.
fn poll(core: &Core, seat: &Arc<Seat>, cx: &Context<'_>, read: &mut Progress) -> Poll<bool> {
    let state = &core.state;
    let mut is_cut = false;
    let found = core.pool.poll(seat, cx, read.next, |queue| {
        // What has come since may be of another topic: nothing is taken before that is known.
        is_cut = core.told.cuts() != read.cuts;
        if is_cut {
            return Ok(None);
        }
        let mut shared = state.table.lock();
        let mut read_on = Ok(None::<()>);
        while let Some(message) = queue.poll(Duration::ZERO) {
            match message {
                Ok(message) if message.offset() >= read.next => {
                    read.next = message.offset() + 1;
                    read.prints.read(Print::of(&message));
                    shared.take(&state.wire, message.offset(), message.key().unwrap_or_default(), message.payload());
                }
                Ok(_) => {}
                Err(error) => {
                    read_on = Err(error);
                    break;
                }
            }
        }
        drop(shared);
        read.prints.keep();
        state.applied.send_if_modified(|applied| std::mem::replace(applied, read.next) != read.next);
        read_on
    });
    match found {
        Found::Nothing | Found::Some(()) if !is_cut => Poll::Pending,
        Found::Nothing | Found::Some(()) => Poll::Ready(true),
        Found::Error(error) => Poll::Ready(is_doubtful(&error)),
        Found::Failed(_) => Poll::Ready(false),
    }
}

/// Whether a client that says so may read another topic than before, or none.
fn is_doubtful(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::NoOffset
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
        )
    )
}

/// Looks whether the topic still is the one that was read, until that is known.
async fn check(core: &Arc<Core>, read: &mut Progress) {
    let mut gone = false;
    loop {
        let cuts = core.told.cuts();
        let Some(looked) = core.closed.run_until_cancelled(look(core, read, &mut gone)).await else { return };
        match &looked {
            Ok(()) => {
                read.cuts = cuts;
                core.health.clear(STATE);
            }
            Err(error) if gone => core.health.trouble(&STATE.into(), Health::Down(error.to_string().into())),
            Err(error) => tracing::debug!(%error, "it cannot be seen yet whether the topic of the state is the same"),
        }
        // Also where it is the same, of which the client thought otherwise: it may do so again at once.
        let waited = core.closed.run_until_cancelled(tokio::time::sleep(READ_AGAIN)).await;
        if looked.is_ok() || waited.is_none() {
            return;
        }
    }
}

/// Looks once: makes the topic again if it is gone, and begins anew with one that is another.
async fn look(core: &Arc<Core>, read: &mut Progress, gone: &mut bool) -> Result<(), BusError> {
    let (state, place) = (&core.state, core.state.place());
    // What a client knows of a topic, such as the epoch of its leader, may keep it from reading another one of that name.
    let outdate = || core.pool.outdate(&place, Instant::now());
    if core.cluster.partitions(&state.wire).await?.is_none() && !std::mem::replace(gone, true) {
        let text = format!("topic {} is gone, and with it evoke's state: it is made again", state.wire);
        core.health.trouble(&STATE.into(), Health::Down(text.into()));
        outdate();
    }
    state.prepare(&core.cluster, &core.topics).await?;
    let ends = core.cluster.ends(vec![place.clone()]).await?;
    let no_ends = || BusError::Unavailable(format!("the ends of topic {} are not known", state.wire).into());
    let ends = ends.first().copied().ok_or_else(no_ends)?;
    let verdict = read.prints.compare(core, &place, ends, true).await.inspect_err(|_| outdate())?;
    if verdict == Verdict::Same && (ends.first..=ends.end).contains(&read.next) {
        return Ok(());
    }
    outdate();
    if read.next > 0 {
        tracing::error!(
            topic = %state.wire,
            "the brokers have lost evoke's state: what the processes on the bus know of it is stored again"
        );
        core.state_publisher.renew();
        // In one step for whoever loads: who finds nothing then knows why.
        let mut shared = state.table.lock();
        shared.table = Table::default();
        state.applied.send_replace(-1);
        state.losses.send_modify(|losses| *losses += 1);
    }
    *read = Progress { next: ends.first, ..Progress::default() };
    Ok(())
}
