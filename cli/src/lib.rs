//! The `evoke` command, as a library: the binary is one call.
//!
//! | module | holds |
//! | --- | --- |
//! | [`args`] | the command line |
//! | [`run`] | `evoke run` |
//! | [`validate`] | `evoke validate` |
//! | [`send`] | `evoke send` |
//! | [`tools`] | `evoke subscription`, `dlq`, `replay`, `job` |
//! | `api` | what the tools ask of a running evoke |
//! | `local` | manifests on a laptop: read, planned, run in this process |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz`, `/v1/status` |
//! | `logging`, `signals` | log lines, SIGTERM and ctrl-C |

use std::process::ExitCode;

pub mod admin;
mod api;
pub mod args;
mod local;
mod logging;
pub mod run;
pub mod send;
mod signals;
pub mod tools;
pub mod validate;

pub use args::Cli;
use args::{Command, LogFormat};
use tools::args::Tool;

/// Does what the command line says: 0 when it worked, 1 with one message on standard error when it did not. Wrong usage is
/// clap's, with 2.
pub fn main(cli: Cli) -> ExitCode {
    let format = match &cli.command {
        Command::Run(args) => args.log_format,
        _ => LogFormat::Text,
    };
    let done: Result<bool, Box<dyn std::error::Error>> = match cli.command {
        Command::Run(args) => run::run(&args).map(|()| true).map_err(Into::into),
        Command::Validate(args) => validate::validate(&args).map_err(Into::into),
        Command::Send(args) => send::main(*args).map(|()| true).map_err(Into::into),
        Command::Subscription(command) => tools::main(&Tool::Subscription(command)).map_err(Into::into),
        Command::Dlq(command) => tools::main(&Tool::Dlq(command)).map_err(Into::into),
        Command::Replay(args) => tools::main(&Tool::Replay(args)).map_err(Into::into),
        Command::Job(command) => tools::main(&Tool::Job(command)).map_err(Into::into),
        Command::LaunchChild { command } => return evoke_function::guard::launch_child(&command),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            logging::fail(format, &error);
            ExitCode::FAILURE
        }
    }
}
