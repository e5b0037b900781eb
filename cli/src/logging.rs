//! Log lines, on standard error: coloured only on a terminal, JSON on request.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::args::LogFormat;

/// Starts logging. `EVOKE_LOG` holds a tracing filter that wins over `verbose`: 0 logs changes of state, 1 one line per delivery,
/// 2 every decision.
pub(crate) fn start(format: LogFormat, verbose: u8) {
    // The NATS client logs every attempt; what changes, evoke says itself.
    let default = match verbose {
        0 => "info,async_nats=off",
        1 => "info,async_nats=off,evoke::delivery=debug",
        _ => {
            "info,async_nats=off,evoke=debug,evoke_api=debug,evoke_connect=debug,evoke_eventbus=debug,evoke_adapters=debug,evoke_delivery=debug,\
              evoke_eventsource=debug,evoke_trigger=debug,evoke_function=debug,evoke_cli=debug"
        }
    };
    let filter = EnvFilter::try_from_env("EVOKE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
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
