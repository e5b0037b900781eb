//! One session that takes work from Redis and gives it back when it is settled: what streams and lists have in common.
//!
//! Two connections: one reads, and may wait on the server for something to read; the other is the clerk, who acknowledges what is
//! settled and runs the other errands, one at a time.

use std::collections::VecDeque;
use std::future::pending;

use futures_util::future::{BoxFuture, FutureExt};

use super::source::{IN_FLIGHT, Shared};
use super::trouble::Trouble;
use crate::flow::{Flow, Progress};
use crate::source::Arrival;
use evoke_connect::redis::link::Link;
use evoke_connect::redis::trouble::Trouble as ServerTrouble;

/// Something to do with a connection, which comes back afterwards.
pub(super) type Ask<T> = Box<dyn FnOnce(Link) -> Asked<T> + Send>;
type Asked<T> = BoxFuture<'static, Answer<T>>;

/// What comes of an [`Ask`].
pub(super) struct Answer<T> {
    link: Link,
    /// What was asked for.
    to: &'static str,
    result: Result<T, ServerTrouble>,
}

/// Wraps a function that uses a connection. `what` names the command that it stands or falls with.
pub(super) fn ask<T, F>(what: &'static str, function: F) -> Ask<T>
where
    F: for<'a> FnOnce(&'a mut Link) -> BoxFuture<'a, Result<T, ServerTrouble>> + Send + 'static,
    T: 'static,
{
    Box::new(move |mut link| {
        async move {
            let result = function(&mut link).await;
            Answer { link, to: what, result }
        }
        .boxed()
    })
}

/// What the server refused and has not done since. It outlasts sessions: one that reads, and will soon end as the one before it
/// did, is not up in between.
#[derive(Debug, Default)]
pub(super) struct Refused(Option<&'static str>);

impl Refused {
    /// Whether it was this.
    pub(super) fn is(&self, what: &str) -> bool {
        self.0 == Some(what)
    }

    fn note<T>(&mut self, what: &'static str, result: &Result<T, ServerTrouble>) {
        match result {
            Ok(_) if self.is(what) => self.0 = None,
            Err(trouble) if trouble.code().is_some() => self.0 = Some(what),
            _ => {}
        }
    }
}

/// What was read, and what gives it back once it is settled.
pub(super) struct Batch<T> {
    pub(super) tokens: Vec<T>,
    pub(super) arrivals: Vec<Arrival>,
}

/// What to read and which errands to run.
pub(super) trait Work: Send {
    /// What gives one arrival back.
    type Token: Send;
    /// What a read brings.
    type Found: Send + 'static;
    /// What an errand brings.
    type Done: Send + 'static;

    /// What to read next, if anything. `quiet` tells that nothing is under way: all that was read is settled and given back.
    fn read(&mut self, quiet: bool) -> Option<Ask<Self::Found>>;

    /// Takes what was read.
    fn found(&mut self, found: Self::Found) -> Batch<Self::Token>;

    /// Takes what is settled, to give it back.
    fn settled(&mut self, tokens: Vec<Self::Token>);

    /// True when all that is settled was given back.
    fn is_idle(&self) -> bool;

    /// The clerk's next errand, if there is one. `room` tells that what it brings can be handed over soon.
    fn errand(&mut self, room: bool) -> Option<Ask<Self::Done>>;

    /// Takes what an errand brought.
    ///
    /// # Errors
    /// Where it shows that the session has to end.
    fn done(&mut self, done: Self::Done) -> Result<Batch<Self::Token>, Trouble>;

    /// Waits until a new errand is due. Safe to cancel.
    fn due(&mut self) -> BoxFuture<'_, ()>;

    /// What was refused, in this session or an earlier one.
    fn refused(&mut self) -> &mut Refused;
}

/// Works until the context is cancelled and everything that was handed over is settled and given back.
pub(super) async fn run<W: Work>(work: &mut W, shared: &Shared, reader: Link, clerk: Link) -> Result<(), Trouble> {
    let cancel = &shared.context.cancel;
    let mut flow = Flow::new(shared.context.outlet.clone());
    let (mut reader, mut clerk) = (Some(reader), Some(clerk));
    let mut read: Option<Asked<W::Found>> = None;
    let mut errand: Option<Asked<W::Done>> = None;
    let mut waiting: VecDeque<Batch<W::Token>> = VecDeque::new();
    let (mut stopping, mut has_read) = (false, false);
    loop {
        if flow.has_room()
            && flow.len() < IN_FLIGHT
            && let Some(Batch { tokens, arrivals }) = waiting.pop_front()
        {
            flow.offer(tokens, arrivals);
        }
        if let Some(link) = clerk.take() {
            match work.errand(!stopping && waiting.is_empty()) {
                Some(ask) => errand = Some(ask(link)),
                None => clerk = Some(link),
            }
        }
        let quiet = flow.len() == 0 && waiting.is_empty() && work.is_idle() && errand.is_none();
        if stopping && quiet {
            return Ok(());
        }
        // One read ahead of what the outlet took.
        if waiting.is_empty()
            && flow.len() < IN_FLIGHT
            && let Some(link) = reader.take()
        {
            match work.read(quiet) {
                Some(ask) => read = Some(ask(link)),
                None => reader = Some(link),
            }
        }
        let batch = tokio::select! {
            biased;
            () = cancel.cancelled(), if !stopping => {
                // What was read and not handed over stays this consumer's, and is read first next time.
                (stopping, read, reader) = (true, None, None);
                waiting.clear();
                continue;
            }
            progress = flow.progress() => {
                match progress {
                    Progress::Accepted => {}
                    Progress::Settled(tokens) => work.settled(tokens),
                    Progress::Failed(_, error) => return Err(error.into()),
                }
                continue;
            }
            Answer { link, to, result } = or_never(&mut errand) => {
                (errand, clerk) = (None, Some(link));
                work.refused().note(to, &result);
                work.done(result?)?
            }
            Answer { link, to, result } = or_never(&mut read) => {
                (read, reader, has_read) = (None, Some(link), true);
                work.refused().note(to, &result);
                work.found(result?)
            }
            () = work.due(), if !stopping => continue,
        };
        if has_read && !stopping && work.refused().0.is_none() {
            shared.up();
        }
        if !batch.arrivals.is_empty() && !stopping {
            waiting.push_back(batch);
        }
    }
}

/// What a future under way comes to; never where there is none. Safe to cancel.
async fn or_never<T>(under_way: &mut Option<BoxFuture<'static, T>>) -> T {
    match under_way {
        Some(future) => future.await,
        None => pending().await,
    }
}

impl<T> Batch<T> {
    /// Nothing.
    pub(super) fn empty() -> Self {
        Self { tokens: Vec::new(), arrivals: Vec::new() }
    }
}
