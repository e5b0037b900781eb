//! An answer that is an event: how it is read, and what becomes of it on its way back to the bus.

use bytes::{Bytes, BytesMut};
use evoke_api::limits;
use evoke_eventbus::codec::http::{Decoded, decode};
use evoke_eventbus::event::{Event, InvalidEvent};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

/// The extension that counts how often an event was made as a reply to another, and that one to another.
pub const HOPS: &str = "evokehops";

/// What an answer with a 2xx status says.
#[derive(Debug)]
pub(crate) enum Answer {
    /// No event: whatever it says is the subscriber's own.
    Plain(Incoming),
    /// An event.
    Event(Event),
    /// It claims to be an event and is none; says why, and how it begins.
    Garbage(String, Bytes),
    /// An event that is larger than this bus takes.
    TooLarge,
}

/// Reads an answer as an event of at most `limit` bytes, until `deadline`. One that does not claim to be an event is not read.
pub(crate) async fn read(headers: &HeaderMap, mut body: Incoming, limit: usize, deadline: Instant) -> Answer {
    if let Ok(Decoded::Plain) = decode(headers, &[]) {
        return Answer::Plain(body);
    }
    let mut data = BytesMut::new();
    loop {
        match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                let Ok(more) = frame.into_data() else { continue };
                if data.len() + more.len() > limit {
                    return Answer::TooLarge;
                }
                data.extend_from_slice(&more);
            }
            Ok(Some(Err(error))) => return Answer::Garbage(format!("it broke off: {error}"), data.freeze()),
            Err(_) => return Answer::Garbage("it did not end in time".into(), data.freeze()),
        }
    }
    let data = data.freeze();
    let event = match decode(headers, &data) {
        Ok(Decoded::One(event)) => event.build().map_err(|error| error.to_string()),
        Ok(Decoded::Batch(_)) => Err("a batch of events, where one is expected".into()),
        Ok(Decoded::Plain) => Err("no event".into()),
        Err(error) => Err(error.to_string()),
    };
    event.map_or_else(|why| Answer::Garbage(why, data), Answer::Event)
}

/// What becomes of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// It goes on, with its hops counted and the trace of what it replies to where it has none of its own.
    Goes(Event),
    /// It has gone round too often.
    Cut {
        /// The reply, untouched.
        reply: Event,
        /// How many hops it would have made.
        hops: u32,
    },
}

/// Prepares a reply to `event` for the bus.
pub(crate) fn onward(event: &Event, reply: Event) -> Result<Onward, InvalidEvent> {
    // The sink has no say in this: an event that it made up begins where the one it got was.
    let before = event.attribute(HOPS).map_or(0, |hops| hops.parse().unwrap_or(u32::MAX));
    let hops = before.saturating_add(1);
    if hops > limits::REPLY_HOPS {
        return Ok(Onward::Cut { reply, hops });
    }
    let mut builder = reply.to_builder().attribute(HOPS, hops.to_string());
    if reply.attribute("traceparent").is_none() {
        builder = builder.without("tracestate");
        for name in ["traceparent", "tracestate"] {
            builder = builder.attribute_if(name, event.attribute(name));
        }
    }
    builder.build().map(Onward::Goes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, more: &[(&str, &str)]) -> Event {
        let bare = Event::builder(id, "/s", "t");
        more.iter().fold(bare, |event, (name, value)| event.attribute(*name, *value)).build().unwrap()
    }

    #[track_caller]
    fn goes(event: &Event, reply: Event) -> Event {
        match onward(event, reply).unwrap() {
            Onward::Goes(event) => event,
            cut => panic!("{cut:?}"),
        }
    }

    #[test]
    fn a_reply_keeps_what_it_is_and_takes_the_trace_along() {
        let asked = event("1", &[("traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("partitionkey", "k")]);
        let reply = goes(&asked, event("r", &[("tenant", "acme")]));
        let got: Vec<_> = reply.attributes().skip(1).collect();
        assert_eq!(reply.id(), "r");
        let expected = [
            ("source", "/s"),
            ("type", "t"),
            ("tenant", "acme"),
            ("evokehops", "1"),
            ("traceparent", "00-a-b-01"),
            ("tracestate", "x=1"),
        ];
        assert_eq!(got, expected);
        let own = goes(&asked, event("r", &[("traceparent", "00-c-d-01")]));
        assert_eq!((own.attribute("traceparent"), own.attribute("tracestate")), (Some("00-c-d-01"), None));
    }

    #[test]
    fn hops_are_counted_whatever_the_sink_says_and_end() {
        let mut current = event("0", &[]);
        for hop in 1..=limits::REPLY_HOPS {
            current = goes(&current, event("r", &[(HOPS, "0")]));
            assert_eq!(current.attribute(HOPS), Some(&*hop.to_string()));
        }
        let reply = event("r", &[("a", "b")]);
        let cut = Onward::Cut { reply: reply.clone(), hops: limits::REPLY_HOPS + 1 };
        assert_eq!(onward(&current, reply.clone()), Ok(cut));
        assert!(matches!(onward(&event("x", &[(HOPS, "many")]), reply), Ok(Onward::Cut { .. })));
    }
}
