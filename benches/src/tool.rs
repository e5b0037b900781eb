//! The brokers' own perf tools: how they are run, and what they say.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use evoke_tests::process::{Program, is_installed};
use evoke_tests::scratch;

use crate::measure::Outcome;

const RUNS_WITHIN: Duration = Duration::from_secs(120);
const BUILDS_WITHIN: Duration = Duration::from_secs(600);
const NATS_CLI: &str = "0.5.0";
const KAFKA_TOOLS: &str = "4.1.0";

/// What a tool reached.
#[derive(Clone, Debug)]
pub enum Tooled {
    /// Events a second, and of what that is made up.
    Rate(f64, String),
    /// It cannot be had here; says why.
    Skipped(String),
}

/// Runs a tool to its end: all that it wrote.
///
/// # Errors
/// When it fails.
pub async fn output(program: Program) -> Outcome<String> {
    output_within(program, RUNS_WITHIN).await
}

async fn output_within(program: Program, within: Duration) -> Outcome<String> {
    let (status, log) = program.output(within).await;
    let text = log.text();
    if status.success() { Ok(text) } else { Err(format!("{} failed: {}", log.name(), log.tail(5).join(" ")).into()) }
}

/// The number before `unit`, with or without commas in it.
///
/// # Errors
/// When there is none.
pub fn number_before(text: &str, unit: &str) -> Outcome<f64> {
    let before = text.rsplit_once(unit).map(|(before, _)| before.trim_end()).unwrap_or_default();
    let number = before.rsplit(char::is_whitespace).next().unwrap_or_default().replace(',', "");
    number.parse().map_err(|_| format!("no number before {unit:?} in {text:?}").into())
}

/// The `nats` command, built once a machine; in words, why it cannot be had.
///
/// # Errors
/// When files cannot be written.
pub async fn nats_cli() -> Outcome<Result<PathBuf, String>> {
    let folder = scratch::cache().join(format!("natscli-{NATS_CLI}"));
    let binary = folder.join("nats");
    if binary.is_file() {
        return Ok(Ok(binary));
    }
    if !is_installed("go") {
        return Ok(Err("no go command, which builds the nats command".to_owned()));
    }
    let build = |into: &Path| {
        let package = format!("github.com/nats-io/natscli/nats@v{NATS_CLI}");
        Program::new("go install", "go").env("GOBIN", into).args(["install", &package])
    };
    Ok(bring(&folder, build).await?.map(|()| binary))
}

/// The class path of Kafka's perf tools, brought once a machine; in words, why they cannot be had.
///
/// # Errors
/// When files cannot be written.
pub async fn kafka_tools() -> Outcome<Result<PathBuf, String>> {
    let folder = scratch::cache().join(format!("kafka-tools-{KAFKA_TOOLS}"));
    let class_path = folder.join("*");
    if folder.is_dir() {
        return Ok(Ok(class_path));
    }
    if !is_installed("mvn") {
        return Ok(Err("no mvn command, which brings Kafka's tools".to_owned()));
    }
    let pom = concat!(env!("CARGO_MANIFEST_DIR"), "/kafka-tools.xml");
    let build = |into: &Path| {
        Program::new("mvn", "mvn")
            .args(["-q", "-B", "dependency:copy-dependencies", "-f", pom])
            .args([format!("-DoutputDirectory={}", into.display())])
    };
    Ok(bring(&folder, build).await?.map(|()| class_path))
}

/// Fills a folder, which appears complete or not at all.
async fn bring(folder: &Path, build: impl FnOnce(&Path) -> Program) -> io::Result<Result<(), String>> {
    let partial = folder.with_extension(std::process::id().to_string());
    fs::create_dir_all(&partial)?;
    if let Err(error) = output_within(build(&partial), BUILDS_WITHIN).await {
        fs::remove_dir_all(&partial)?;
        return Ok(Err(error.to_string()));
    }
    fs::rename(&partial, folder)?;
    Ok(Ok(()))
}
