//! Reads the body of a request within its limits.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

/// How much of a body that was refused is taken all the same.
const DISCARDED_BYTES: usize = 16 * 1024 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is longer than the limit.
    TooLarge,
    /// All bodies together are.
    NoRoom,
    /// The sender went away, or did not speak HTTP to the end.
    Broken,
}

/// What all bodies that are read at once may hold.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    left: Arc<Semaphore>,
    gauge: IntGauge,
}

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    permit: Option<OwnedSemaphorePermit>,
    gauge: IntGauge,
}

impl Budget {
    pub(super) fn new(bytes: usize, gauge: IntGauge) -> Self {
        Self { left: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))), gauge }
    }

    /// Reads `body`, of at most `limit` bytes. The budget is taken as bytes arrive, not as they are announced, so that nobody can
    /// take it without sending them.
    pub(super) async fn read(&self, body: &mut Incoming, limit: usize) -> Result<(Bytes, Share), Unread> {
        let mut share = Share { permit: None, gauge: self.gauge.clone() };
        if body.size_hint().lower() > limit as u64 {
            return Err(Unread::TooLarge);
        }
        let mut read = Read::Nothing;
        let mut length = 0_usize;
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            length = length.saturating_add(chunk.len());
            if length > limit {
                return Err(Unread::TooLarge);
            }
            share.grow(&self.left, chunk.len())?;
            read.push(chunk);
        }
        Ok((read.finish(), share))
    }
}

impl Share {
    fn grow(&mut self, left: &Arc<Semaphore>, bytes: usize) -> Result<(), Unread> {
        let permits = u32::try_from(bytes).map_err(|_| Unread::TooLarge)?;
        let more = Arc::clone(left).try_acquire_many_owned(permits).map_err(|_| Unread::NoRoom)?;
        self.gauge.add(i64::from(permits));
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.gauge.sub(i64::try_from(held).unwrap_or(i64::MAX));
    }
}

/// Takes the rest of a body that nobody wants, so that its sender gets to read the answer instead of a broken connection. A body
/// that goes on and on is left: the connection ends with it.
pub(super) async fn discard(mut body: Incoming) {
    let all = async {
        let mut left = DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Either way there is no more to do.
    drop(timeout(DISCARD_TIME, all).await);
}

/// Most bodies arrive in one piece, which is not copied.
enum Read {
    Nothing,
    One(Bytes),
    Several(BytesMut),
}

impl Read {
    fn push(&mut self, chunk: Bytes) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(chunk),
            Self::One(first) => {
                let mut joined = BytesMut::with_capacity(2 * (first.len() + chunk.len()));
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&chunk);
                Self::Several(joined)
            }
            Self::Several(mut joined) => {
                joined.extend_from_slice(&chunk);
                Self::Several(joined)
            }
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(chunk) => chunk,
            Self::Several(joined) => joined.freeze(),
        }
    }
}
