//! One test: run under a time limit, with the logs of what it started shown when it fails.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;

use crate::process::Log;

/// Why a test cannot run on this machine: a server that cannot be had, a right that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped(pub String);

impl Skipped {
    /// Skips for a reason.
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// What a test returns: it panics when it fails, and returns an error only where it cannot run.
pub type Verdict = Result<(), Skipped>;

const LOG_LINES: usize = 60;

tokio::task_local! {
    static LOGS: Arc<Mutex<Vec<Log>>>;
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Shows the end of `log` if the test that this is called in fails.
pub fn show_on_failure(log: &Log) {
    // Outside a test, as in a bench, there is nothing to show it in.
    LOGS.try_with(|logs| logs.lock().push(log.clone())).unwrap_or_default();
}

/// Makes panics of tests part of their report, with the place they come from, instead of a line somewhere on standard error.
pub fn capture_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if LOGS.try_with(|_| ()).is_err() {
            return default(info);
        }
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANIC.with(|last| *last.borrow_mut() = Some(format!("{place}: {message}")));
    }));
}

/// Runs a test to its end or its time limit.
///
/// # Errors
/// The report of a failed test.
pub async fn run(limit: Duration, test: impl Future<Output = Verdict>) -> Result<Verdict, String> {
    let logs = Arc::new(Mutex::new(Vec::new()));
    let guarded = AssertUnwindSafe(tokio::time::timeout(limit, test)).catch_unwind();
    let mut report = match LOGS.scope(logs.clone(), guarded).await {
        Ok(Ok(verdict)) => return Ok(verdict),
        Ok(Err(_)) => format!("not done within {limit:?}"),
        Err(_) => PANIC.take().unwrap_or_else(|| "panicked".to_owned()),
    };
    for log in logs.lock().iter() {
        let tail = log.tail(LOG_LINES);
        write!(report, "\n--- {} (last {} lines)\n{}", log.name(), tail.len(), tail.join("\n")).unwrap();
    }
    Err(report)
}
