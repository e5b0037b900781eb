//! A channel, or the channels of a pattern. Redis keeps no message: what is published while nobody listens is gone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::iter;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, cmd};
use tokio::sync::mpsc::{self, Receiver, error::TrySendError};
use tokio::time::{Sleep, sleep, timeout};

use super::source::{Every, IN_FLIGHT, Session, Shared};
use super::trouble::Trouble;
use crate::flow::{Flow, Progress};
use crate::source::{Arrival, Status};
use evoke_connect::address::Address;
use evoke_connect::backoff::Backoff;
use evoke_connect::redis::reply;

/// Messages taken in and not handed over. From half of it on nothing more is read, so that they wait with Redis, within its
/// `client-output-buffer-limit`; the other half is for what one read may bring.
const QUEUE: usize = 4096;
const BATCH: usize = 256;
/// How often the connection is tried, since nothing need ever be published on it.
const PING: Duration = Duration::from_secs(10);

/// One channel or pattern.
pub(super) struct Channel {
    name: String,
    is_pattern: bool,
    /// Taken in and not settled. Redis cannot be asked for these again, so they outlast a session.
    again: VecDeque<Vec<Arrival>>,
}

impl Channel {
    pub(super) fn new(name: String, is_pattern: bool) -> Self {
        Self { name, is_pattern, again: VecDeque::new() }
    }

    async fn session(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let skipped = shared.metrics.skipped.clone();
        let pushed = move |push: PushInfo| {
            if let Some(message) = Message::of(push)
                && let Err(TrySendError::Full(_)) = queue.try_send(message)
            {
                skipped.inc();
            }
            Ok::<_, Infallible>(())
        };
        let cancel = &shared.context.cancel;
        let (connection, driver, address) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            connected = shared.connector.subscriber(pushed) => connected?,
        };
        let mut driver = driver;
        let subscribed = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            subscribed = self.subscribe(shared, connection.clone(), &address) => subscribed,
            () = &mut driver => Err(lost(&address)),
        };
        subscribed?;
        shared.up();
        let mut listening = Listening {
            shared,
            messages,
            flow: Flow::new(shared.context.outlet.clone()),
            again: &mut self.again,
            backoff: Backoff::new(),
            hold: None,
        };
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            never = listening.run(&mut driver, connection, &address) => never,
        };
        if ended.is_ok() {
            listening.finish().await;
        } else {
            listening.keep();
        }
        ended
    }

    async fn subscribe(
        &self,
        shared: &Shared,
        mut connection: MultiplexedConnection,
        address: &Address,
    ) -> Result<(), Trouble> {
        let limit = shared.plan.server.response_timeout;
        let subscribed = match self.is_pattern {
            true => timeout(limit, connection.psubscribe(&self.name)).await,
            false => timeout(limit, connection.subscribe(&self.name)).await,
        };
        let subscribed = subscribed.map_err(|_| Trouble::silent(address, limit))?;
        Ok(subscribed.map_err(|error| shared.connector.refusal(error))?)
    }
}

impl Session for Channel {
    fn run<'a>(&'a mut self, shared: &'a Shared) -> BoxFuture<'a, Result<(), Trouble>> {
        self.session(shared).boxed()
    }
}

fn lost(address: &Address) -> Trouble {
    Trouble::other(format!("the connection to {address} broke"))
}

/// A session at work.
struct Listening<'a> {
    shared: &'a Shared,
    messages: Receiver<Message>,
    flow: Flow<Vec<Arrival>>,
    again: &'a mut VecDeque<Vec<Arrival>>,
    backoff: Backoff,
    /// Nothing is handed over before this is over.
    hold: Option<Pin<Box<Sleep>>>,
}

impl Listening<'_> {
    async fn run(
        &mut self,
        driver: &mut BoxFuture<'static, ()>,
        connection: MultiplexedConnection,
        address: &Address,
    ) -> Result<(), Trouble> {
        let limit = self.shared.plan.server.response_timeout;
        let (mut pings, mut ping) = (Every::new(PING), None);
        loop {
            self.hand_over();
            // While the driver is not polled, nothing is read from the connection, so that nothing answers a ping either.
            let reading = self.messages.len() < QUEUE / 2;
            let taking = self.hold.is_none() && self.again.is_empty() && self.has_room();
            tokio::select! {
                biased;
                progress = self.flow.progress() => self.note(progress),
                () = until(&mut self.hold) => self.hold = None,
                Some(message) = self.messages.recv(), if taking => self.take(message),
                answer = answer(&mut ping), if reading => {
                    ping = None;
                    if !answer {
                        return Err(Trouble::silent(address, limit));
                    }
                }
                () = pings.due(), if reading && ping.is_none() => {
                    let mut connection = connection.clone();
                    let ping_it = async move { timeout(limit, cmd("PING").exec_async(&mut connection)).await.is_ok() };
                    ping = Some(ping_it.boxed());
                }
                () = &mut *driver, if reading => return Err(lost(address)),
            }
        }
    }

    fn has_room(&self) -> bool {
        self.flow.has_room() && self.flow.len() < IN_FLIGHT
    }

    /// Puts a message and what came with it next in line.
    fn take(&mut self, first: Message) {
        let more = iter::from_fn(|| self.messages.try_recv().ok());
        let batch: Vec<_> = iter::once(first).chain(more).take(BATCH).collect();
        let mapper = &self.shared.mapper;
        self.again.push_back(batch.into_iter().map(|m| mapper.message(&m.channel, m.payload)).collect());
    }

    fn hand_over(&mut self) {
        if self.hold.is_none()
            && self.has_room()
            && let Some(arrivals) = self.again.pop_front()
        {
            self.flow.offer(arrivals.clone(), arrivals);
        }
    }

    fn note(&mut self, progress: Progress<Vec<Arrival>>) {
        match progress {
            Progress::Accepted => {}
            Progress::Settled(_) => {
                if self.backoff.reset() {
                    self.shared.up();
                }
            }
            Progress::Failed(batches, error) => {
                for batch in batches.into_iter().rev() {
                    self.again.push_front(batch);
                }
                self.shared.set(Status::Down(Trouble::from(error).to_string().into()));
                self.hold = Some(Box::pin(sleep(self.backoff.wait())));
            }
        }
    }

    /// Has what was taken in settled, unless that fails.
    async fn finish(&mut self) {
        self.hold = None;
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
        self.hand_over();
        while self.flow.len() > 0 {
            let progress = self.flow.progress().await;
            if let Progress::Failed(batches, error) = progress {
                let lost = batches.iter().chain(&*self.again).map(Vec::len).sum::<usize>();
                self.shared.metrics.skipped.inc_by(lost.try_into().unwrap_or_default());
                tracing::warn!(channel = self.shared.plan.key(), lost, %error, "messages are lost");
                return;
            }
            self.hand_over();
        }
    }

    /// Puts by for the next session what is not settled.
    fn keep(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
        for batch in self.flow.abandon().into_iter().rev() {
            self.again.push_front(batch);
        }
    }
}

async fn until(hold: &mut Option<Pin<Box<Sleep>>>) {
    match hold {
        Some(hold) => hold.await,
        None => pending().await,
    }
}

async fn answer(ping: &mut Option<BoxFuture<'static, bool>>) -> bool {
    match ping {
        Some(ping) => ping.await,
        None => pending().await,
    }
}

/// A message, as Redis pushes it.
struct Message {
    channel: Vec<u8>,
    payload: Vec<u8>,
}

impl Message {
    fn of(push: PushInfo) -> Option<Self> {
        if !matches!(push.kind, PushKind::Message | PushKind::PMessage) {
            return None;
        }
        let mut parts = push.data.into_iter().rev();
        let payload = reply::bytes(parts.next()?)?;
        Some(Self { channel: reply::bytes(parts.next()?)?, payload })
    }
}
