//! The records of one call, until all of them are stored or will never be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rdkafka::message::OwnedHeaders;
use tokio::sync::oneshot;

use crate::bus::{Position, PublishError};
use crate::event::Event;
use crate::kafka::cluster::Place;
use crate::kafka::record;
use crate::metrics::OneBusMetrics;
use crate::queued;

/// What became of one record.
pub(in crate::kafka) type Stored = Result<Position, PublishError>;

/// A record to publish.
pub(in crate::kafka) struct Outgoing<'a> {
    pub(in crate::kafka) key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub(in crate::kafka) value: Option<&'a [u8]>,
    pub(in crate::kafka) headers: Option<OwnedHeaders>,
}

/// See the module.
pub(super) struct Call {
    /// The partition.
    pub(super) to: Place,
    /// Calls were accepted in the order of their numbers.
    number: u64,
    /// What is published again when a client gives up; nothing for what is not to be.
    events: Vec<Event>,
    results: Mutex<Vec<Stored>>,
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<Vec<Stored>>>>,
    since: Instant,
    metrics: OneBusMetrics,
    _room: queued::Place,
    /// Held until the call is over, wherever its records are.
    _open: Arc<()>,
}

impl Call {
    /// A call of so many records: of `events`, or of what is not published again.
    pub(super) fn new(
        to: Place,
        number: u64,
        records: usize,
        events: Vec<Event>,
        metrics: &OneBusMetrics,
        room: queued::Place,
        open: Arc<()>,
    ) -> (Arc<Self>, oneshot::Receiver<Vec<Stored>>) {
        let (done, stored) = oneshot::channel();
        let not_yet = PublishError::Uncertain("the bus ended before the brokers had it".into());
        let call = Arc::new(Self {
            to,
            number,
            events,
            results: Mutex::new(vec![Err(not_yet); records]),
            // One more, so that it is not over before all are handed over.
            left: AtomicUsize::new(records + 1),
            done: Mutex::new(Some(done)),
            since: Instant::now(),
            metrics: metrics.clone(),
            _room: room,
            _open: open,
        });
        (call, stored)
    }

    /// One of its records.
    pub(super) fn pending(self: &Arc<Self>, index: usize) -> Pending {
        Pending { call: Arc::clone(self), index, awaited: false }
    }

    /// All of its events, in order.
    pub(super) fn events(self: &Arc<Self>) -> impl Iterator<Item = Pending> {
        (0..self.events.len()).map(move |index| self.pending(index))
    }

    /// Its records are handed over.
    pub(super) fn handed_over(&self) {
        self.count();
    }

    fn count(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().take()
        {
            self.metrics.committed(self.since.elapsed());
            // Whoever dropped the receipt does not want to know.
            done.send(std::mem::take(&mut *self.results.lock())).unwrap_or_default();
        }
    }
}

/// One record of a call, of which nobody knows yet what becomes.
pub(super) struct Pending {
    call: Arc<Call>,
    index: usize,
    awaited: bool,
}

impl Pending {
    /// The partition.
    pub(super) fn to(&self) -> &Place {
        &self.call.to
    }

    /// The same, with whether what is behind it in its partition waits for it.
    pub(super) fn awaited(mut self, awaited: bool) -> Self {
        self.awaited = awaited;
        self
    }

    /// Whether what is behind it in its partition waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// Records are first published in this order.
    pub(super) fn order(&self) -> (u64, usize) {
        (self.call.number, self.index)
    }

    /// The event, unless this is not published again.
    pub(super) fn event(&self) -> Option<&Event> {
        self.call.events.get(self.index)
    }

    /// Why it is not stored where the brokers refused it alone. Which size they take they do not say.
    pub(super) fn too_large(&self) -> PublishError {
        match self.event() {
            Some(event) => {
                let bytes = record::batch_bytes(event);
                PublishError::TooLarge { bytes, limit: bytes.saturating_sub(1) }
            }
            None => PublishError::Uncertain(
                format!("topic {} takes no record of this size: raise its max.message.bytes", self.to().0).into(),
            ),
        }
    }

    pub(super) fn resolve(self, result: Stored) {
        if let Some(place) = self.call.results.lock().get_mut(self.index) {
            *place = result;
        }
        self.call.count();
    }
}
