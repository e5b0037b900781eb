//! A subject. NATS keeps no message: what is published while nobody listens is gone.

use std::future::pending;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::timeout;
use uuid::Uuid;

use super::connection::{Connection, State, round_trip};
use super::message::Mapper;
use crate::intake::{Happened, Intake, Room};
use crate::metrics::SourceMetrics;
use crate::plan::nats::{NatsSourcePlan, SubjectPlan};
use crate::report::Report;
use crate::source::{Context, Origin, Source, SourceError, Status};

/// Messages taken in and not handed over; what comes while there are so many is lost, and counted.
const ROOM: Room = Room { messages: 8192, bytes: 16 * 1024 * 1024 };
/// How long the server may take to hear that nothing more is wanted.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) struct SubjectReader {
    plan: NatsSourcePlan,
    subject: SubjectPlan,
    origin: Origin,
    metrics: SourceMetrics,
}

impl SubjectReader {
    pub(super) fn new(plan: NatsSourcePlan, subject: SubjectPlan, origin: Origin, metrics: SourceMetrics) -> Self {
        Self { plan, subject, origin, metrics }
    }
}

impl Source for SubjectReader {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        async move {
            let connection = Connection::open(&self.plan, &self.origin).await?;
            let messages = subscribe(&connection, &self.subject).await?;
            let mut listening = Listening {
                mapper: Mapper::new(&self.origin, self.plan.content_type.as_deref()),
                intake: Intake::new(&context, ROOM),
                report: Report { metrics: self.metrics, context },
                connection,
                messages,
                confirming: None,
                is_overrun: false,
            };
            listening.run().await;
            listening.finish().await;
            Ok(())
        }
        .boxed()
    }
}

/// The client makes the subscription again at every connection.
async fn subscribe(connection: &Connection, plan: &SubjectPlan) -> Result<Subscriber, SourceError> {
    let (client, subject) = (&connection.client, plan.subject.clone());
    let subscribed = match &plan.queue_group {
        Some(group) => client.queue_subscribe(subject, group.clone()).await,
        None => client.subscribe(subject).await,
    };
    subscribed.map_err(|e| SourceError(format!("the subscription cannot be made: {e}").into()))
}

struct Listening {
    mapper: Mapper,
    /// NATS wants no acknowledgement.
    intake: Intake<()>,
    report: Report,
    connection: Connection,
    messages: Subscriber,
    /// Under way until the server has made the subscription.
    confirming: Option<BoxFuture<'static, ()>>,
    /// Messages are being lost.
    is_overrun: bool,
}

impl Listening {
    async fn run(&mut self) {
        let cancel = self.report.context.cancel.clone();
        let state = self.connection.now();
        self.note_state(&state);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                happened = self.intake.next() => self.note(happened),
                state = self.connection.changed() => self.note_state(&state),
                () = or_never(&mut self.confirming) => {
                    self.confirming = None;
                    self.say_up();
                }
                message = self.messages.next() => match message {
                    Some(message) => self.take(&message),
                    // Only a client that is gone ends a subscription.
                    None => return,
                },
            }
        }
    }

    fn note_state(&mut self, state: &State) {
        match (state.is_up, &state.denied) {
            (true, None) => self.confirming = Some(round_trip(self.connection.client.clone()).boxed()),
            (true, Some(denied)) => {
                let cause =
                    format!("the user may not read the subject ({denied}): let it subscribe, or correct subject");
                self.connection.say(cause.into(), &self.report);
            }
            (false, _) => {
                self.confirming = None;
                self.connection.say_down(state, &self.report);
            }
        }
    }

    fn say_up(&mut self) {
        let state = self.connection.now();
        if !state.is_up || state.denied.is_some() {
            self.note_state(&state);
        } else if self.confirming.is_none() && !self.intake.is_failing() {
            self.connection.say_up(&self.report);
        }
    }

    fn take(&mut self, message: &Message) {
        if !self.intake.has_room() {
            self.report.metrics.skipped.inc();
            if !std::mem::replace(&mut self.is_overrun, true) {
                let Origin { event_source, event, .. } = self.mapper.origin();
                tracing::warn!(%event_source, %event, "messages are lost: they come faster than they can be stored");
            }
            return;
        }
        let arrival = self.mapper.arrival(message, &Uuid::now_v7().to_string(), None);
        self.intake.take(arrival, None, message.length);
    }

    fn note(&mut self, happened: Happened<()>) {
        match happened {
            Happened::Accepted | Happened::Due => {}
            Happened::Settled(_) => {
                self.is_overrun &= !self.intake.is_settled();
                self.say_up();
            }
            Happened::Failed(error) => {
                self.report.set(Status::Down(format!("what was read could not be stored: {error}").into()));
            }
        }
    }

    /// Takes in what has already come, and has it settled.
    async fn finish(&mut self) {
        drop(timeout(GOODBYE, self.messages.unsubscribe()).await);
        while let Some(Some(message)) = self.messages.next().now_or_never() {
            self.take(&message);
        }
        let lost = self.intake.finish(drop).await.lost;
        if lost > 0 {
            self.report.metrics.skipped.inc_by(lost.try_into().unwrap_or_default());
            let Origin { event_source, event, .. } = self.mapper.origin();
            tracing::warn!(%event_source, %event, lost, "messages are lost: they could not be stored");
        }
        self.report.metrics.up.set(0);
    }
}

async fn or_never(under_way: &mut Option<BoxFuture<'static, ()>>) {
    match under_way {
        Some(future) => future.await,
        None => pending().await,
    }
}
