//! The command line: every command, option and default.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use evoke_api::manifest::Override;

use crate::send::SendArgs;
use crate::tools::args::{DlqCommand, JobCommand, ReplayArgs, SubscriptionCommand};

/// Where webhook sources listen that name no port of their own.
const LISTEN: &str = "127.0.0.1:8080";

/// Events to functions: sources publish CloudEvents on a durable bus, CEL triggers fan them out to functions.
#[derive(Debug, Parser)]
#[command(name = "evoke", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the pipeline that manifests describe, in this process.
    Run(RunArgs),
    /// Check manifests, reporting every error of every file.
    Validate(ValidateArgs),
    /// Send a CloudEvent to a webhook source or any URL.
    Send(Box<SendArgs>),
    /// See, pause, resume and delete subscriptions: who reads what, and how far.
    #[command(subcommand)]
    Subscription(SubscriptionCommand),
    /// See, redrive and purge dead letters: what could not be delivered.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Deliver a part of the log again, without moving the subscription.
    Replay(Box<ReplayArgs>),
    /// See and cancel redrives and replays.
    #[command(subcommand)]
    Job(JobCommand),
    /// Start a function's process so that it cannot outlive evoke. Used by `run`.
    #[command(hide = true)]
    LaunchChild {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

/// Which manifests, and what to change in them.
#[derive(Clone, Debug, Args)]
pub struct ManifestArgs {
    /// Manifest files, or folders that are read recursively (*.yaml, *.yml, *.json).
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Override one field: KIND/[NAMESPACE/]NAME:FIELD.PATH=VALUE, the value in YAML. May be repeated.
    #[arg(long = "set", value_name = "KIND/NAME:PATH=VALUE", value_parser = parse_override)]
    pub overrides: Vec<Override>,

    /// Take this kind of bus whatever the manifests name.
    #[arg(long, value_enum, value_name = "KIND")]
    pub bus: Option<BusOverride>,
}

pub(crate) fn parse_override(text: &str) -> Result<Override, String> {
    Override::parse(text).map_err(|e| e.to_string())
}

/// The bus to take instead of the manifests'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BusOverride {
    /// The durable bus inside this process, in the data directory.
    Embedded,
}

/// `evoke run`
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// What to run.
    #[command(flatten)]
    pub manifests: ManifestArgs,

    /// Where embedded buses with their positions are kept, and the name of this process. One running evoke per directory.
    #[arg(long, value_name = "DIR", default_value = ".evoke", env = "EVOKE_DATA_DIR")]
    pub data_dir: PathBuf,

    /// Let this EventBus become another kind, or this name another bus, although events wait on the old one: [NAMESPACE/]NAME. Nothing is
    /// deleted. May be repeated.
    #[arg(long, value_name = "BUS")]
    pub abandon: Vec<String>,

    /// Where to serve /metrics, /healthz, /readyz and what the tools read; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9490")]
    pub admin: SocketAddr,

    /// A file that holds a token: who sends it as bearer may change things through --admin. Without it, only the socket in the data
    /// directory does.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Where webhook sources listen that name no port of their own; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = LISTEN)]
    pub listen: SocketAddr,

    /// How log lines are written, on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log one line per delivery; twice, every decision.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `evoke validate`
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// What to check.
    #[command(flatten)]
    pub manifests: ManifestArgs,

    /// Where `run` is to listen: webhooks may share its port, but not a path on it.
    #[arg(long, value_name = "ADDR", default_value = LISTEN)]
    pub listen: SocketAddr,

    /// The other objects are elsewhere, such as in a cluster: a reference to nothing is a warning.
    #[arg(long)]
    pub partial: bool,

    /// How to print what was found.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// `file:line:column: field: problem; likely fix`, a line each.
    Text,
    /// One JSON document.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn where_run_listens_and_keeps_its_data_by_default() {
        let Ok(Cli { command: Command::Run(args), .. }) = Cli::try_parse_from(["evoke", "run", "manifests"]) else {
            panic!("`evoke run manifests` is a command");
        };
        let addresses = [args.admin, args.listen].map(|address| address.to_string());
        assert_eq!(addresses, ["127.0.0.1:9490", "127.0.0.1:8080"]);
        assert_eq!(args.data_dir, std::path::Path::new(".evoke"));
        let Ok(Cli { command: Command::Validate(validate), .. }) =
            Cli::try_parse_from(["evoke", "validate", "manifests"])
        else {
            panic!("`evoke validate manifests` is a command");
        };
        assert_eq!(validate.listen, args.listen);
    }
}
