//! A stream, read as a member of a consumer group.
//!
//! A session first reads what this consumer was given before and did not acknowledge, then what is new. Now and then it takes over
//! what other consumers were given and do not finish.

use std::collections::HashSet;
use std::time::Duration;

use evoke_api::events::StartAt;
use futures_util::future::{BoxFuture, FutureExt};
use redis::{Cmd, cmd};

use super::desk::{self, Ask, Batch, Refused, Work, ask};
use super::given::Given;
use super::source::{BLOCK, Every, Portion, Session, Shared, millis};
use super::trouble::Trouble;
use crate::source::Origin;
use evoke_connect::redis::link::Link;
use evoke_connect::redis::reply::{self, Claimed, Entry};
use evoke_connect::redis::trouble::Trouble as ServerTrouble;

const LAG_INTERVAL: Duration = Duration::from_secs(10);
/// Entries that one `XACK` names.
const ACK_COUNT: usize = 500;
/// What takes over from other consumers, and where it starts and ends.
const CLAIM: &str = "XAUTOCLAIM";
const BEGIN: &str = "0-0";

/// One stream. What must outlast a session is kept here.
pub(super) struct Stream {
    key: String,
    group: String,
    start_at: StartAt,
    claim: Option<(Duration, Duration)>,
    /// Where the group goes on should it be lost.
    given: Given,
    /// Settled and not acknowledged: a connection that breaks causes no duplicates of these.
    settled: Vec<String>,
    refused: Refused,
}

impl Stream {
    pub(super) fn new(key: String, group: String, start_at: StartAt, claim: Option<(Duration, Duration)>) -> Self {
        Self { key, group, start_at, claim, given: Given::default(), settled: Vec::new(), refused: Refused::default() }
    }

    /// Makes the group unless it is there. One that was lost goes on before the first entry that is not settled.
    async fn make_group(&mut self, link: &mut Link) -> Result<(), ServerTrouble> {
        let restart = self.given.restart();
        let start = match (restart, self.start_at) {
            (Some(id), _) => id.to_string(),
            (None, StartAt::Earliest) => "0".to_owned(),
            (None, StartAt::Latest) => "$".to_owned(),
        };
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.key).arg(&self.group).arg(start).arg("MKSTREAM");
        match link.ask(&create).await {
            Err(trouble) if trouble.code() == Some("BUSYGROUP") => return Ok(()),
            made => made.map(drop)?,
        }
        if let Some(id) = restart {
            self.given.goes_on_after(id);
        }
        Ok(())
    }

    async fn session(&mut self, shared: &Shared) -> Result<(), Trouble> {
        let connected = async {
            let mut clerk = shared.connector.connect(&self.key).await?;
            self.make_group(&mut clerk).await?;
            Ok::<_, Trouble>((shared.connector.connect(&self.key).await?, clerk))
        };
        let (reader, clerk) = tokio::select! {
            biased;
            () = shared.context.cancel.cancelled() => return Ok(()),
            connected = connected => connected?,
        };
        let under_way = self.settled.iter().cloned().collect();
        // A claim that was refused is tried again at once.
        let timer = if self.refused.is(CLAIM) { Every::at_once } else { Every::new };
        let mut reading = Reading {
            shared,
            under_way,
            owes: !self.settled.is_empty(),
            own_after: Some(BEGIN.to_owned()),
            portion: Portion::new(),
            acknowledging: 0,
            claims: self.claim.map(|(_, interval)| timer(interval)),
            claim_from: None,
            measures: Every::at_once(LAG_INTERVAL),
            stream: self,
        };
        desk::run(&mut reading, shared, reader, clerk).await
    }
}

impl Session for Stream {
    fn run<'a>(&'a mut self, shared: &'a Shared) -> BoxFuture<'a, Result<(), Trouble>> {
        self.session(shared).boxed()
    }
}

/// One session's view of the stream.
struct Reading<'a> {
    stream: &'a mut Stream,
    shared: &'a Shared,
    /// Everything between being read and being acknowledged.
    under_way: HashSet<String>,
    /// Whether there is something to acknowledge that an earlier session could not.
    owes: bool,
    /// After which of this consumer's own unfinished entries to go on; `None` once there are no more.
    own_after: Option<String>,
    portion: Portion,
    /// How many of the settled ones, from the first, are being acknowledged.
    acknowledging: usize,
    claims: Option<Every>,
    /// Where to go on claiming, while a round of it is not over.
    claim_from: Option<String>,
    measures: Every,
}

enum Done {
    Acknowledged,
    Claimed(Claimed),
    /// The server is too old to claim.
    CannotClaim,
    Measured(Option<reply::Group>),
}

impl Reading<'_> {
    fn batch(&mut self, entries: Vec<Entry>) -> Batch<String> {
        let mut batch = Batch::empty();
        for Entry { id, fields } in entries {
            if !self.under_way.insert(id.clone()) {
                continue;
            }
            match fields {
                Some(fields) => {
                    self.stream.given.took(&id);
                    batch.arrivals.push(self.shared.mapper.entry(&id, fields));
                    batch.tokens.push(id);
                }
                // The stream was trimmed past it: there is nothing left but to say that it is done with.
                None => {
                    self.shared.metrics.skipped.inc();
                    self.stream.given.settled(&id);
                    self.stream.settled.push(id);
                }
            }
        }
        batch
    }

    fn acknowledge(&mut self) -> Ask<Done> {
        self.acknowledging = self.stream.settled.len();
        let mut commands = redis::pipe();
        for ids in self.stream.settled.chunks(ACK_COUNT) {
            commands.cmd("XACK").arg(&self.stream.key).arg(&self.stream.group).arg(ids);
        }
        ask("XACK", move |link| async move { link.ask_all(&commands).await.map(|_| Done::Acknowledged) }.boxed())
    }

    fn claim(&self, from: &str, idle: Duration) -> Ask<Done> {
        let mut command = cmd(CLAIM);
        command.arg(&self.stream.key).arg(&self.stream.group).arg(&self.shared.consumer);
        command.arg(millis(idle)).arg(from).arg("COUNT").arg(self.portion.count());
        ask(CLAIM, move |link| {
            async move {
                match link.ask(&command).await {
                    Ok(answer) => Ok(Done::Claimed(reply::claimed(answer)?)),
                    Err(trouble) if trouble.is_unknown_command() => Ok(Done::CannotClaim),
                    Err(trouble) => Err(trouble),
                }
            }
            .boxed()
        })
    }

    fn measure(&self) -> Ask<Done> {
        let mut command = cmd("XINFO");
        command.arg("GROUPS").arg(&self.stream.key);
        let group = self.stream.group.clone();
        ask("XINFO", move |link| {
            async move {
                match link.ask(&command).await {
                    Ok(answer) => Ok(Done::Measured(reply::group(answer, &group))),
                    // Where the user may not ask, nothing but the metric is missing.
                    Err(trouble) if trouble.code() == Some("NOPERM") => Ok(Done::Measured(None)),
                    Err(trouble) => Err(trouble),
                }
            }
            .boxed()
        })
    }

    fn read_command(&self, after: &str) -> Cmd {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.stream.group).arg(&self.shared.consumer);
        command.arg("COUNT").arg(self.portion.count());
        if self.own_after.is_none() {
            command.arg("BLOCK").arg(millis(BLOCK));
        }
        command.arg("STREAMS").arg(&self.stream.key).arg(after);
        command
    }
}

impl Work for Reading<'_> {
    type Token = String;
    type Found = Vec<Entry>;
    type Done = Done;

    fn read(&mut self, _quiet: bool) -> Option<Ask<Vec<Entry>>> {
        // What ended the session before must not end this one: all that was read would only be repeated.
        if self.owes || self.stream.refused.is(CLAIM) {
            return None;
        }
        let command = self.read_command(self.own_after.as_deref().unwrap_or(">"));
        Some(ask("XREADGROUP", move |link| {
            async move { Ok(reply::read(link.ask_blocking(&command, BLOCK).await?)?) }.boxed()
        }))
    }

    fn found(&mut self, entries: Vec<Entry>) -> Batch<String> {
        self.portion.learn(entries.len(), entries.iter().map(Entry::bytes).sum());
        let last = entries.last().map(|entry| entry.id.clone());
        if self.own_after.is_some() {
            if last.is_none() {
                // What this consumer had and no longer has was taken over: others settle it.
                self.stream.given.keep(&self.under_way);
            }
            self.own_after = last;
        } else if let Some(last) = last {
            self.stream.given.up_to(&last);
        }
        self.batch(entries)
    }

    fn settled(&mut self, ids: Vec<String>) {
        ids.iter().for_each(|id| self.stream.given.settled(id));
        self.stream.settled.extend(ids);
    }

    fn is_idle(&self) -> bool {
        self.stream.settled.is_empty()
    }

    fn errand(&mut self, room: bool) -> Option<Ask<Done>> {
        if !self.stream.settled.is_empty() {
            return Some(self.acknowledge());
        }
        // What is this consumer's own comes first, unless it is to be found out whether claims are allowed.
        if room
            && (self.own_after.is_none() || self.stream.refused.is(CLAIM))
            && let (Some((idle, _)), Some(claims)) = (self.stream.claim, &mut self.claims)
        {
            if claims.is_due() {
                self.claim_from.get_or_insert_with(|| BEGIN.to_owned());
            }
            if let Some(from) = &self.claim_from {
                return Some(self.claim(from, idle));
            }
        }
        if self.measures.is_due() { Some(self.measure()) } else { None }
    }

    fn done(&mut self, done: Done) -> Result<Batch<String>, Trouble> {
        let Origin { event_source, event, .. } = self.shared.origin();
        match done {
            Done::Acknowledged => {
                self.owes = false;
                for id in self.stream.settled.drain(..self.acknowledging) {
                    self.under_way.remove(&id);
                }
            }
            Done::Claimed(Claimed { next, entries }) => {
                self.claim_from = Some(next).filter(|next| next != BEGIN);
                let batch = self.batch(entries);
                if !batch.tokens.is_empty() {
                    tracing::info!(%event_source, %event, entries = batch.tokens.len(), "took over what others left");
                }
                return Ok(batch);
            }
            Done::CannotClaim => {
                (self.claims, self.claim_from, self.stream.claim) = (None, None, None);
                tracing::warn!(%event_source, %event, "what others leave stays with them: Redis 6.2 would have XAUTOCLAIM");
            }
            Done::Measured(Some(group)) => {
                self.shared.metrics.lag.set(group.pending.saturating_add(group.lag.unwrap_or_default()));
                self.stream.given.at_first(&group.last_delivered);
            }
            Done::Measured(None) => {}
        }
        Ok(Batch::empty())
    }

    fn due(&mut self) -> BoxFuture<'_, ()> {
        async {
            match &mut self.claims {
                Some(claims) => tokio::select! {
                    () = claims.due() => {}
                    () = self.measures.due() => {}
                },
                None => self.measures.due().await,
            }
        }
        .boxed()
    }

    fn refused(&mut self) -> &mut Refused {
        &mut self.stream.refused
    }
}
