//! The task of a Kafka source: hands batches to the outlet and says what settled, and starts a session over when it ends.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::callbacks::Shared;
use super::positions::Mark;
use super::reader::{Batch, Failure, Reader};
use crate::metrics::SourceMetrics;
use crate::plan::kafka::KafkaPlan;
use crate::source::{Context, Origin, Outlet, Settled, Source, SourceError, Status, Unsettled};

/// Batches accepted and not settled; the outlet's own limits are in bytes.
const IN_FLIGHT: usize = 1024;
/// How long a batch may still wait for room after the source was cancelled.
const GRACE: Duration = Duration::from_secs(2);
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A session that lasted this long did work.
const WORKED: Duration = Duration::from_secs(60);

/// One topic, read as a member of a consumer group.
pub(super) struct KafkaSource {
    plan: KafkaPlan,
    origin: Origin,
    metrics: SourceMetrics,
    instance: String,
}

impl KafkaSource {
    pub(super) fn new(plan: KafkaPlan, origin: Origin, metrics: SourceMetrics, instance: &str) -> Self {
        Self { plan, origin, metrics, instance: instance.to_owned() }
    }

    async fn session(&self, context: &Context) -> Result<(), Failure> {
        let shared = Arc::<Shared>::default();
        let stop = context.cancel.child_token();
        let drained = CancellationToken::new();
        let (batches, received) = mpsc::channel(1);
        let (done, ended) = oneshot::channel();
        let reader = Reader {
            plan: self.plan.clone(),
            origin: self.origin.clone(),
            metrics: self.metrics.clone(),
            instance: self.instance.clone(),
            shared: Arc::clone(&shared),
            status: context.status.clone(),
            stop: stop.clone(),
            drained: drained.clone(),
            runtime: Handle::current(),
        };
        // Should this future be dropped, the thread ends by itself.
        let (_stop, drained) = (stop.drop_guard(), drained.drop_guard());
        let thread = thread::Builder::new()
            .name("evoke-kafka".to_owned())
            .spawn(move || drop(done.send(reader.run(batches))))
            .map_err(|error| Failure::Passing(format!("cannot start a thread: {error}")))?;
        let pumped = pump(received, &*context.outlet, &shared, &context.cancel).await;
        if pumped.is_err() {
            _stop.disarm().cancel();
        }
        shared.close();
        drop(drained);
        let read = ended.await;
        if thread.join().is_err() {
            return Err(Failure::Passing("the thread that reads panicked".to_owned()));
        }
        match pumped {
            Err(Unsettled(cause)) => Err(Failure::Passing(format!("what was read could not be stored: {cause}"))),
            Ok(()) => read.unwrap_or_else(|_| Err(Failure::Passing("the thread that reads ended".to_owned()))),
        }
    }
}

impl Source for KafkaSource {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let mut wait = BACKOFF;
            while !context.cancel.is_cancelled() {
                let started = Instant::now();
                match self.session(&context).await {
                    _ if context.cancel.is_cancelled() => break,
                    Err(Failure::Lasting(cause)) => return Err(SourceError(cause.into())),
                    Err(Failure::Passing(cause)) => context.status.send_replace(Status::Down(cause.into())),
                    Ok(()) => context.status.send_replace(Status::Down("the session ended".into())),
                };
                self.metrics.reconnects.inc();
                if started.elapsed() > WORKED {
                    wait = BACKOFF;
                }
                tokio::select! {
                    () = context.cancel.cancelled() => break,
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(BACKOFF_MAX),
                }
            }
            Ok(())
        })
    }
}

/// Gives batches to the outlet in order until there are no more, and notes what settled in the same order.
async fn pump(
    mut received: mpsc::Receiver<Batch>,
    outlet: &dyn Outlet,
    shared: &Shared,
    cancel: &CancellationToken,
) -> Result<(), Unsettled> {
    let (accepted, settling) = mpsc::channel::<(Settled, Vec<Mark>)>(1);
    let accept = async move {
        while let Some(Batch { arrivals, marks, .. }) = received.recv().await {
            let settled = tokio::select! {
                settled = outlet.accept(arrivals) => settled?,
                () = out_of_time(cancel) => break,
            };
            if accepted.send((settled, marks)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::try_join!(accept, settle(settling, shared)).map(|((), ())| ())
}

async fn settle(mut accepted: mpsc::Receiver<(Settled, Vec<Mark>)>, shared: &Shared) -> Result<(), Unsettled> {
    let mut in_flight = FuturesOrdered::new();
    let mut open = true;
    while open || !in_flight.is_empty() {
        tokio::select! {
            batch = accepted.recv(), if open && in_flight.len() < IN_FLIGHT => match batch {
                Some((settled, marks)) => in_flight.push_back(async move { settled.await.map(|()| marks) }),
                None => open = false,
            },
            Some(marks) = in_flight.next(), if !in_flight.is_empty() => shared.settle(&marks?),
        }
    }
    Ok(())
}

async fn out_of_time(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

#[cfg(test)]
mod tests;
