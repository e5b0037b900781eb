//! Requests to NATS: each answered, refused, or given up at once when the connection is gone.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::error::{ApiError, Refusal, WireError};

/// How long an answer may take. A request of a stream without a leader gets none.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How long who publishes waits for a connection before it is told that there is none.
const PATIENCE: Duration = Duration::from_secs(1);

/// The connection, as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is one; every new one has a higher number.
    Up(u64),
    /// There is none; says why.
    Down(Arc<str>),
}

/// A client, and who waits for which answer.
pub(super) struct Wire {
    pub(super) client: Client,
    standing: watch::Receiver<Standing>,
    inbox: String,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Message>>>,
    last: AtomicU64,
    closed: CancellationToken,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("standing", &*self.standing.borrow()).finish_non_exhaustive()
    }
}

/// Takes a request out of the list of those that wait, however it ends.
struct Waiting<'a> {
    wire: &'a Wire,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.wire.waiting.lock().remove(&self.number);
    }
}

impl Wire {
    /// The wire, and the subscription that [`Wire::deliver`] is to be run with.
    pub(super) async fn new(
        client: Client,
        standing: watch::Receiver<Standing>,
        closed: CancellationToken,
    ) -> Result<(Arc<Self>, Subscriber), WireError> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|e| WireError::Client(e.to_string()))?;
        let (waiting, last) = (Mutex::default(), AtomicU64::new(0));
        Ok((Arc::new(Self { client, standing, inbox, waiting, last, closed }), answers))
    }

    /// Gives answers to who waits for them, until the bus is closed.
    pub(super) async fn deliver(self: Arc<Self>, mut answers: Subscriber) {
        while let Some(Some(answer)) = self.closed.run_until_cancelled(answers.next()).await {
            let number = answer.subject.as_str().rsplit('.').next().and_then(|token| token.parse().ok());
            let waiting = number.and_then(|number: u64| self.waiting.lock().remove(&number));
            if let Some(waiting) = waiting {
                // Whoever gave up has dropped the other end.
                drop(waiting.send(answer));
            }
        }
    }

    /// The connection, and its changes.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The number of the connection that is there.
    pub(super) fn up(&self) -> Result<u64, WireError> {
        match &*self.standing.borrow() {
            Standing::Up(number) => Ok(*number),
            Standing::Down(cause) => Err(WireError::Down(cause.clone())),
        }
    }

    /// Waits a moment for a connection that is being made again.
    pub(super) async fn up_soon(&self) -> Result<(), WireError> {
        match tokio::time::timeout(PATIENCE, self.until_up()).await {
            Ok(()) => Ok(()),
            Err(_) => self.up().map(|_| ()),
        }
    }

    /// Waits for a connection.
    pub(super) async fn until_up(&self) {
        let mut standing = self.standing.clone();
        // The sender lives as long as the client.
        if standing.wait_for(|standing| matches!(standing, Standing::Up(_))).await.is_err() {
            self.closed.cancelled().await;
        }
    }

    /// Sends and waits for the answer.
    pub(super) async fn ask(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<Message, WireError> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(number, answer);
        let _waiting = Waiting { wire: self, number };
        self.within(async {
            let (subject, reply) = (Subject::from(subject), format!("{}.{number}", self.inbox));
            let sent = if headers.is_empty() {
                self.client.publish_with_reply(subject, reply, payload).await
            } else {
                self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            };
            sent.map_err(|error| WireError::Client(error.to_string()))?;
            let answer = answered.await.map_err(|_| WireError::Closed)?;
            match answer.status {
                Some(StatusCode::NO_RESPONDERS) => Err(WireError::Nobody),
                _ => Ok(answer),
            }
        })
        .await
    }

    /// Runs what needs the connection, until there is another or none, or the time is up.
    pub(super) async fn within<T>(&self, what: impl Future<Output = Result<T, WireError>>) -> Result<T, WireError> {
        let mut standing = self.standing.clone();
        standing.borrow_and_update();
        self.up()?;
        tokio::select! {
            result = what => result,
            changed = standing.changed() => match changed {
                Ok(()) => Err(self.up().err().unwrap_or(WireError::Broken)),
                Err(_) => Err(WireError::Closed),
            },
            () = self.closed.cancelled() => Err(WireError::Closed),
            () = tokio::time::sleep(ANSWER) => Err(WireError::Silent),
        }
    }

    /// One call of JetStream's API.
    pub(super) async fn api<T: DeserializeOwned>(&self, call: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|e| ApiError::Garbage(e.to_string()))?;
        let answer = self.ask(&format!("$JS.API.{call}"), HeaderMap::new(), body.into()).await?;
        Refusal::check(&answer.payload)?;
        serde_json::from_slice(&answer.payload).map_err(|e| ApiError::Garbage(format!("{call}: {e}")))
    }
}
