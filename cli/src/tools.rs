//! What operators do: `evoke subscription`, `evoke dlq`, `evoke replay`, `evoke job`. All of them speak the API of [`crate::api`], to a
//! running evoke or to one inside this process that goes to the buses by itself.
//!
//! | module | holds |
//! | --- | --- |
//! | [`args`] | the command line |
//! | `channel` | the way to an evoke, and a request on it |
//! | `direct` | the API on the buses that manifests name |
//! | `subscription`, `dlq`, `replay`, `job` | the commands |
//! | `follow` | waits for jobs, showing how far they are |
//! | `table` | rows for people |

use std::io::{BufRead, IsTerminal, Write};

use serde_json::Value;

pub mod args;
mod channel;
mod direct;
mod dlq;
mod follow;
mod job;
mod replay;
mod subscription;
mod table;

use args::Tool;
use channel::Channel;

/// Why a tool did not do what it was asked, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ToolError(String);

/// Does it, in a runtime of its own. False when all was done and not all of it went well, which was said.
///
/// # Errors
/// [`ToolError`].
pub fn main(tool: &Tool) -> Result<bool, ToolError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| ToolError(format!("cannot start: {error}")))?;
    let done = runtime.block_on(run(tool));
    runtime.shutdown_background();
    done
}

async fn run(tool: &Tool) -> Result<bool, ToolError> {
    let channel = Channel::open(tool.target()).await?;
    let interrupted = async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => (),
            Err(_) => std::future::pending().await,
        }
    };
    let work = async {
        match tool {
            Tool::Subscription(command) => subscription::run(command, &channel).await,
            Tool::Dlq(command) => dlq::run(command, &channel).await,
            Tool::Replay(args) => replay::run(args, &channel).await,
            Tool::Job(command) => job::run(command, &channel).await,
        }
    };
    let done = tokio::select! {
        done = Box::pin(work) => done,
        () = interrupted => Err(ToolError("interrupted; jobs that `evoke run` has begun go on: see `evoke job list`".into())),
    };
    channel.close().await;
    done
}

/// Prints on standard output.
fn print(text: &str) -> Result<(), ToolError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| ToolError(format!("cannot print: {error}"))),
    }
}

fn print_json(value: &Value) -> Result<(), ToolError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| ToolError(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Asks whether to go on. Without a terminal nobody can be asked.
async fn confirm(question: &str) -> Result<bool, ToolError> {
    if !std::io::stdin().is_terminal() {
        return Err(ToolError(format!("{question} nobody is there to answer: add --yes to do it")));
    }
    anstream::eprint!("{question} [y/N] ");
    // Whoever interrupts instead of answering is heard.
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let failed = |error: &dyn std::error::Error| ToolError(format!("cannot read an answer: {error}"));
    let answer = read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A text of an answer.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an answer.
fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// A list of an answer.
fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
