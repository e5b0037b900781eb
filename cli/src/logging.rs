//! Log lines, on standard error: coloured only on a terminal, JSON on request. What cannot be written is lost, and ends nothing.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use chrono::{SecondsFormat, Utc};
use evoke_api::manifest::Diagnostic;
use evoke_api::problem::{FieldPath, Severity};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::args::LogFormat;

/// Starts logging. `EVOKE_LOG` holds a tracing filter that wins over `verbose`: 0 logs changes of state, 1 one line per delivery,
/// 2 every decision.
pub(crate) fn start(format: LogFormat, verbose: u8) {
    // The NATS client logs every attempt, and notify what has gone that it watched; what changes, evoke says itself.
    let default = match verbose {
        0 => "info,async_nats=off,notify=off",
        1 => "info,async_nats=off,notify=off,evoke::delivery=debug",
        _ => {
            "info,async_nats=off,notify=off,evoke=debug,evoke_api=debug,evoke_connect=debug,evoke_eventbus=debug,evoke_adapters=debug,evoke_delivery=debug,\
              evoke_eventsource=debug,evoke_trigger=debug,evoke_function=debug,evoke_cli=debug"
        }
    };
    let filter = EnvFilter::try_from_env("EVOKE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say on standard error that standard error takes nothing, and panic.
        .log_internal_errors(false)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // A second start, as in tests that run several pipelines in one process, keeps the first one's settings.
    let started = match format {
        LogFormat::Text => builder.compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

/// A line that is printed whatever filter there is.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    message: &'a str,
    #[serde(flatten)]
    place: Option<Place<'a>>,
    target: &'static str,
}

/// Where something is wrong.
#[derive(Serialize)]
struct Place<'a> {
    file: &'a str,
    line: u32,
    column: u32,
    object: Option<&'a str>,
    field: &'a FieldPath,
    hint: Option<&'a str>,
}

/// Prints what is wrong with a manifest.
pub(crate) fn diagnose(format: LogFormat, diagnostic: &Diagnostic) {
    let Diagnostic { severity, file, line, column, object, path, message, hint } = diagnostic;
    if format == LogFormat::Text {
        return print(&mut anstream::stderr(), &format_args!("{diagnostic}\n"));
    }
    let level = match severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARN",
    };
    let (object, hint) = (object.as_deref(), hint.as_deref());
    print_json(level, message, Some(Place { file, line: *line, column: *column, object, field: path, hint }));
}

/// Prints why a command has failed.
pub(crate) fn fail(format: LogFormat, error: &dyn Display) {
    match format {
        LogFormat::Text => {
            let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
            print(&mut anstream::stderr(), &format_args!("{style}error:{style:#} {error}\n"));
        }
        LogFormat::Json => print_json("ERROR", &error.to_string(), None),
    }
}

fn print_json(level: &'static str, message: &str, place: Option<Place<'_>>) {
    let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let line = Line { timestamp, level, message, place, target: "evoke_cli" };
    if let Ok(line) = serde_json::to_string(&line) {
        print(&mut std::io::stderr(), &format_args!("{line}\n"));
    }
}

/// Prints on a stream that may take nothing any more, as its disk is full, or its reader has gone.
pub(crate) fn print(stream: &mut dyn Write, text: &dyn Display) {
    _ = write!(stream, "{text}");
}
