//! `evoke send`: sends CloudEvents to a webhook source or any URL.

mod client;
mod events;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use evoke_api::limits::IN_FLIGHT_BYTES;
use evoke_api::problem::FieldPath;
use evoke_api::quantity;
use evoke_eventbus::codec::Attributes;
use evoke_eventbus::event::Event;
use http::{HeaderName, HeaderValue, Method};
use serde::Serialize;
use url::Url;

use client::{Answer, Poster};

/// What the events of a batch may take, which are held all at once.
const BATCH_BYTES: usize = IN_FLIGHT_BYTES;

const EXAMPLES: &str = "\
Examples:
  evoke send http://127.0.0.1:8080/default/shop/orders --type order.created --data '{\"amount\": 250}'
  evoke send http://127.0.0.1:8080/default/shop/orders --data @order.json --attribute partitionkey=eu -o json
  curl -s https://example.org/feed | evoke send http://127.0.0.1:8080/default/shop/feed --data -
  evoke send https://broker.example.org/ --event-file events.json --mode batch --bearer-token-file token

Exit code: 0 when everything was answered with 2xx, 1 when something was refused, unanswered or unreadable, 2 for wrong usage.";

/// `evoke send`
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SendArgs {
    /// Where to send: http or https. Redirects are not followed.
    #[arg(value_name = "URL", value_parser = parse_url)]
    pub url: Url,

    /// The event's `type` [default: io.evoke.send].
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    pub ty: Option<String>,

    /// The event's `source`, a URI or a path [default: /evoke/send].
    #[arg(long, value_name = "URI", value_parser = NonEmptyStringValueParser::new())]
    pub source: Option<String>,

    /// The event's `id` [default: a new UUID, version 7].
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new(), conflicts_with_all = ["count", "event_file"])]
    pub id: Option<String>,

    /// The event's `subject`.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub subject: Option<String>,

    /// The event's `time`, as in 2026-05-04T03:02:01Z [default: now].
    #[arg(long, value_name = "RFC 3339", value_parser = parse_time)]
    pub time: Option<String>,

    /// Another attribute or extension of the event, but for `id`. May be repeated.
    #[arg(short, long = "attribute", value_name = "NAME=VALUE", value_parser = parse_attribute)]
    pub attributes: Vec<(String, String)>,

    /// The event's data: text as it is, `@FILE` for what a file holds, `-` or `@-` for what comes on standard input.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["data_file", "event_file"])]
    pub data: Option<String>,

    /// A file that holds the event's data, byte for byte; `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "event_file")]
    pub data_file: Option<PathBuf>,

    /// A file that holds one whole CloudEvent in JSON, or an array of them; `-` for standard input. The other options replace
    /// their attributes.
    #[arg(long, value_name = "FILE")]
    pub event_file: Option<PathBuf>,

    /// The content type of the data [default: application/json if it is JSON, text/plain; charset=utf-8 if it is UTF-8, else
    /// application/octet-stream].
    #[arg(long, value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    pub content_type: Option<String>,

    /// How the event is put into the request: attributes as headers, all as JSON, or all in a JSON array.
    #[arg(short, long, value_enum, default_value_t = Mode::Binary)]
    pub mode: Mode,

    /// How many events to send, each with an id of its own: one request after the other, or one batch.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "event_file")]
    pub count: u32,

    /// The request's method.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "POST")]
    pub method: Method,

    /// A header of the request. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,

    /// A file that holds the bearer token to send.
    #[arg(long, value_name = "FILE", conflicts_with = "basic_auth_file")]
    pub bearer_token_file: Option<PathBuf>,

    /// A file that holds the user and the password to send, as USER:PASSWORD.
    #[arg(long, value_name = "FILE")]
    pub basic_auth_file: Option<PathBuf>,

    /// How long to wait for an answer, as in 500ms, 1m30s or PT10S.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,

    /// How to print the answers: a line each, or a JSON object each.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// CloudEvents' content modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The data is the body, attributes are headers; data that is an event by its content type goes as in structured mode.
    Binary,
    /// The body is the event in JSON.
    Structured,
    /// The body is a JSON array of all events.
    Batch,
}

/// How to print answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Status and id.
    Text,
    /// Status, ids and the answer's body.
    Json,
}

/// Why not everything was sent, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SendError(String);

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}: write it as http://127.0.0.1:8080/path"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{:?} is not http or https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL are seen by others on this machine: use --basic-auth-file".into());
    }
    Ok(url)
}

fn parse_time(text: &str) -> Result<String, String> {
    parse_attribute(&format!("time={text}")).map(|(_, time)| time)
}

fn parse_attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    if name == "id" {
        return Err("the id is given with --id, and not beside --count or --event-file".into());
    }
    Attributes::default().set(name, value).map_err(|e| e.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no header name"))?;
    let value = value.trim().parse().map_err(|_| format!("{value:?} is no header value"))?;
    Ok((name, value))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = quantity::duration(text, &FieldPath::root()).map_err(|problem| problem.to_string())?;
    if duration.is_zero() { Err("nobody answers in no time".into()) } else { Ok(duration) }
}

/// Sends what the arguments say, in a runtime of its own.
///
/// # Errors
/// As [`run`].
pub fn main(args: SendArgs) -> Result<(), SendError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| SendError(format!("cannot start: {e}")))?.block_on(run(args))
}

/// Sends what the arguments say, printing an answer a line on standard output. Events are sent one after the other; the first
/// that is not answered with 2xx ends it.
///
/// # Errors
/// Says what could not be read, who did not answer, or what the answer was.
pub async fn run(args: SendArgs) -> Result<(), SendError> {
    send(&args, &mut io::stdout()).await
}

async fn send(args: &SendArgs, out: &mut impl Write) -> Result<(), SendError> {
    let events = events::events(args).await?;
    let poster = Poster::new(args).await?;
    match args.mode {
        Mode::Batch => report(args, &poster, &batch(events)?, out).await,
        Mode::Binary | Mode::Structured => {
            for event in events {
                report(args, &poster, &[event?], out).await?;
            }
            Ok(())
        }
    }
}

/// The events of one batch.
fn batch(events: impl Iterator<Item = Result<Event, SendError>>) -> Result<Vec<Event>, SendError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for event in events {
        let event = event?;
        bytes += event.encoded_len();
        if bytes > BATCH_BYTES {
            let what = format!("the events of one batch have more than {BATCH_BYTES} bytes");
            return Err(SendError(format!("{what}: send fewer of them, or each in a request of its own")));
        }
        batch.push(event);
    }
    Ok(batch)
}

#[derive(Serialize)]
struct Report<'a> {
    status: u16,
    ids: Vec<&'a str>,
    answer: &'a str,
}

/// Sends one request, prints its answer, and fails if it was not 2xx.
async fn report(args: &SendArgs, poster: &Poster, events: &[Event], out: &mut impl Write) -> Result<(), SendError> {
    let Answer { status, retry_after, content } = poster.post(args, events).await?;
    let ids: Vec<&str> = events.iter().map(Event::id).collect();
    let printed = match args.output {
        Output::Json => {
            let report = Report { status: status.as_u16(), ids, answer: &content };
            serde_json::to_writer(&mut *out, &report).map_err(io::Error::from).and_then(|()| writeln!(out))
        }
        Output::Text if status.is_success() => match &ids[..] {
            [id] => writeln!(out, "{status}: {id}"),
            ids => writeln!(out, "{status}: {} events", ids.len()),
        },
        Output::Text => Ok(()),
    };
    printed.and_then(|()| out.flush()).map_err(|e| SendError(format!("cannot print the answer: {e}")))?;
    if status.is_success() {
        return Ok(());
    }
    let mut message = format!("{} answered {status}", client::shown(&args.url));
    match client::explanation(&content) {
        why if why.is_empty() => {}
        why => message = format!("{message}: {why}"),
    }
    if let Some(after) = retry_after {
        message = format!("{message} (Retry-After: {after})");
    }
    Err(SendError(message))
}

#[cfg(test)]
mod tests;
