//! The `evoke` binary.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    evoke_cli::main(evoke_cli::Cli::parse())
}
