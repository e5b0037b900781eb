//! The client, and what it says of its connection.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use evoke_connect::nats::client::{Link, connect};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::plan::nats::NatsSourcePlan;
use crate::report::Report;
use crate::source::{Origin, SourceError, Status};

/// How long the server may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How the connection is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) is_up: bool,
    /// Why it is not.
    cause: Option<Arc<str>>,
    /// What the server did not allow on this connection.
    pub(super) denied: Option<Arc<str>>,
}

/// A connection that is made again for as long as it is held.
pub(super) struct Connection {
    pub(super) client: Client,
    state: watch::Receiver<State>,
    was_up: bool,
}

impl Connection {
    pub(super) async fn open(plan: &NatsSourcePlan, origin: &Origin) -> Result<Self, SourceError> {
        let (changes, state) = watch::channel(State::default());
        let name = format!("evoke {}/{}", origin.event_source, origin.event);
        let told = move |link| {
            changes.send_modify(|state| match link {
                Link::Up => *state = State { is_up: true, ..State::default() },
                Link::Down { cause, .. } => *state = State { cause: Some(cause), ..State::default() },
                Link::Denied(what) => state.denied = Some(what),
            });
        };
        let client = connect(&plan.nats, &name, told).await.map_err(|e| SourceError(e.to_string().into()))?;
        Ok(Self { client, state, was_up: false })
    }

    /// Waits for the next change. Safe to cancel.
    pub(super) async fn changed(&mut self) -> State {
        // The client holds the sender for as long as it is there.
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.state.borrow_and_update().clone()
    }

    /// How it is now.
    pub(super) fn now(&mut self) -> State {
        self.state.borrow_and_update().clone()
    }

    /// Says that the source reads.
    pub(super) fn say_up(&mut self, report: &Report) {
        self.was_up = true;
        report.set(Status::Up);
    }

    /// Says that the source does not read, and why, if the connection is the reason.
    pub(super) fn say_down(&self, state: &State, report: &Report) {
        if let Some(cause) = &state.cause {
            self.say(Arc::clone(cause), report);
        }
    }

    /// Says that the source does not read, and why.
    pub(super) fn say(&self, cause: Arc<str>, report: &Report) {
        if report.is_up() {
            report.metrics.reconnects.inc();
        }
        report.set(if self.was_up { Status::Down(cause) } else { Status::Connecting(cause) });
    }
}

/// Waits until the server has done everything that it was asked for before, or has not answered in time.
pub(super) async fn round_trip(client: Client) {
    let echo = async {
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.ok()?;
        client.publish(inbox, "".into()).await.ok()?;
        answers.next().await
    };
    // A user who may not do this reads all the same.
    drop(timeout(ANSWER, echo).await);
}
