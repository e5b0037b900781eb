//! The events to send: from options, a file, or standard input.

use std::borrow::Cow;
use std::path::Path;

use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use evoke_api::limits::IN_FLIGHT_BYTES;
use evoke_eventbus::codec::json;
use evoke_eventbus::event::{Event, EventBuilder};
use serde::de::IgnoredAny;
use tokio::fs::File;
use tokio::io::{self, AsyncRead, AsyncReadExt};
use uuid::Uuid;

use super::{SendArgs, SendError};

/// What a file may hold at most, in bytes.
const FILE_BYTES: usize = IN_FLIGHT_BYTES;

/// The events to send, in order.
pub(super) type Events<'a> = Box<dyn Iterator<Item = Result<Event, SendError>> + 'a>;

/// The events of a file are built before any is sent, so that none is where one is wrong. Those that options describe differ in
/// their ids and times alone, and each is built when it is sent.
pub(super) async fn events(args: &SendArgs) -> Result<Events<'_>, SendError> {
    let build = move |builder: EventBuilder<'static>| {
        with_options(args, builder).build().map_err(|e| SendError(format!("no event: {e}")))
    };
    match &args.event_file {
        Some(path) => {
            let events: Vec<Event> = whole(path).await?.into_iter().map(build).collect::<Result<_, _>>()?;
            Ok(Box::new(events.into_iter().map(Ok::<_, SendError>)))
        }
        None => Ok(Box::new(from_options(args).await?.map(build))),
    }
}

/// Events of a file, complete but for what options replace.
async fn whole(path: &Path) -> Result<Vec<EventBuilder<'static>>, SendError> {
    let text = read(path).await?;
    let array = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let decoded = if array { json::decode_batch(&text) } else { json::decode(&text).map(|event| vec![event]) };
    let decoded = decoded.map(|events| events.into_iter().map(EventBuilder::into_owned).collect::<Vec<_>>());
    match decoded {
        Ok(events) if events.is_empty() => Err(SendError(format!("{} holds no event", named(path)))),
        Ok(events) => Ok(events),
        Err(error) => Err(SendError(format!("{} holds no CloudEvent: {error}", named(path)))),
    }
}

async fn from_options(args: &SendArgs) -> Result<impl Iterator<Item = EventBuilder<'static>>, SendError> {
    let data = match (args.data.as_deref(), args.data_file.as_deref()) {
        (Some("-"), _) => Some(read(Path::new("-")).await?),
        (Some(text), _) => match text.strip_prefix('@') {
            Some(path) => Some(read(Path::new(path)).await?),
            None => Some(Bytes::copy_from_slice(text.as_bytes())),
        },
        (None, Some(path)) => Some(read(path).await?),
        (None, None) => None,
    };
    let content_type = data.as_deref().map(guess);
    let data = data.unwrap_or_default();
    Ok((0..args.count).map(move |_| {
        Event::builder(Uuid::now_v7().to_string(), "/evoke/send", "io.evoke.send")
            .attribute("time", Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true))
            .attribute_if("datacontenttype", content_type)
            .data(data.clone())
    }))
}

fn guess(data: &[u8]) -> &'static str {
    if serde_json::from_slice::<IgnoredAny>(data).is_ok() {
        "application/json"
    } else if std::str::from_utf8(data).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

fn with_options<'a>(args: &'a SendArgs, event: EventBuilder<'a>) -> EventBuilder<'a> {
    let event = args.attributes.iter().fold(event, |event, (name, value)| event.attribute(name, value));
    event
        .attribute_if("id", args.id.as_ref())
        .attribute_if("type", args.ty.as_ref())
        .attribute_if("source", args.source.as_ref())
        .attribute_if("subject", args.subject.as_ref())
        .attribute_if("time", args.time.as_ref())
        .attribute_if("datacontenttype", args.content_type.as_ref())
}

/// The content of a file, or of standard input.
pub(super) async fn read(path: &Path) -> Result<Bytes, SendError> {
    let content = async { if is_stdin(path) { all(io::stdin()).await } else { all(File::open(path).await?).await } };
    match content.await {
        Ok(content) if content.len() > FILE_BYTES => {
            Err(SendError(format!("{} holds more than {FILE_BYTES} bytes", named(path))))
        }
        Ok(content) => Ok(content.into()),
        Err(error) => Err(SendError(format!("cannot read {}: {error}", named(path)))),
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// A file as messages name it.
pub(super) fn named(path: &Path) -> Cow<'_, str> {
    if is_stdin(path) { "standard input".into() } else { path.to_string_lossy() }
}

async fn all(from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(FILE_BYTES as u64 + 1).read_to_end(&mut content).await?;
    Ok(content)
}
