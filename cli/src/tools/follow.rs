//! Waits for jobs, showing on standard error how far they are where that takes more than a moment.

use std::io::IsTerminal;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::channel::Channel;
use super::{ToolError, number, text};

/// How often it asks.
const INTERVAL: Duration = Duration::from_millis(200);
/// What takes less is not worth a word.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a line is written where nobody watches a terminal.
const LINES: Duration = Duration::from_secs(5);

/// A line on standard error that is written over on a terminal, and now and then elsewhere.
pub(super) struct Progress {
    started: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), shown: None, is_terminal: std::io::stderr().is_terminal() }
    }

    /// Shows how far it is, if it is time for that.
    pub(super) fn show(&mut self, what: impl FnOnce() -> String) {
        let pause = if self.is_terminal { INTERVAL } else { LINES };
        let since = self.shown.unwrap_or(self.started + PATIENCE - pause);
        if since.elapsed() < pause {
            return;
        }
        self.shown = Some(Instant::now());
        if self.is_terminal {
            anstream::eprint!("\r\x1b[K{}", what());
        } else {
            anstream::eprintln!("{}", what());
        }
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        if self.is_terminal && self.shown.is_some() {
            anstream::eprint!("\r\x1b[K");
        }
    }
}

/// Waits until jobs are over, and gives back what became of each, in their order.
///
/// # Errors
/// When evoke does not answer any more.
pub(super) async fn jobs(channel: &Channel, ids: &[String]) -> Result<Vec<Value>, ToolError> {
    let mut progress = Progress::start();
    let mut over: Vec<Option<Value>> = vec![None; ids.len()];
    loop {
        let mut states = Vec::with_capacity(ids.len());
        for (id, over) in ids.iter().zip(&mut over) {
            if over.is_none() {
                let job = channel.call(Method::GET, &format!("/v1/jobs/{id}"), None).await?;
                let state = text(&job, "state").to_owned();
                if matches!(&*state, "done" | "cancelled" | "failed") {
                    *over = Some(job);
                } else {
                    states.push(job);
                }
            }
        }
        if over.iter().all(Option::is_some) {
            progress.end();
            return Ok(over.into_iter().flatten().collect());
        }
        progress.show(|| states.iter().map(line).collect::<Vec<_>>().join("; "));
        tokio::time::sleep(INTERVAL).await;
    }
}

/// How far a job is.
pub(super) fn line(job: &Value) -> String {
    let subscription = text(job, "subscription");
    let counts = &job["counts"];
    let (delivered, failed) = (number(counts, "delivered"), number(counts, "failed"));
    match text(job, "state") {
        "waiting" => format!("{subscription}: waits for an evoke that runs it and is not paused"),
        state => format!("{subscription}: {state}, {delivered} delivered, {failed} failed"),
    }
}

/// Says what became of jobs; false if not all of it went well.
pub(super) fn went_well(jobs: &[Value]) -> bool {
    let mut well = true;
    for job in jobs {
        let (subscription, id) = (text(job, "subscription"), text(job, "id"));
        match (text(job, "state"), number(&job["counts"], "failed")) {
            ("done", 0) => continue,
            ("done", failed) if job["to"].is_string() => anstream::eprintln!("{subscription}: {failed} failed"),
            ("done", failed) => anstream::eprintln!("{subscription}: {failed} failed again and are dead letters"),
            (state, _) => anstream::eprintln!("{subscription}: job {id} is {state}: {}", text(job, "cause")),
        }
        well = false;
    }
    well
}
