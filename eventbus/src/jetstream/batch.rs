//! Events of one partition on their way to its stream, as a batch of NATS's fast ingest (ADR-50): the servers store each as it comes, say
//! now and then how far they are, and take no more of a batch after the first that they miss or refuse. So what fails can be sent again
//! without coming after what followed it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_nats::{HeaderMap, Message, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::{Refusal, WireError};
use crate::codec::nats;
use crate::event::Event;

/// What a message takes beside its subject, its event's headers and its data: the header of repeats.
pub(super) const OVERHEAD: usize = 512;
/// What the servers take of headers, all of a message together.
pub(super) const HEADER_BYTES: usize = 65_535;
/// The servers say how far they are after so many messages, or after about so many bytes.
const EVERY: usize = 250;
const EVERY_BYTES: usize = 1 << 20;
/// So many may always be on their way, although the servers have not said yet how many they like to take, or like fewer. The protocol
/// asks for more patience; so few do no harm, and nothing rests on when their answers come.
pub(super) const FIRST: usize = 100;
/// Longer identities are hashed: the servers keep each of them in memory for as long as they recognise it.
const IDENTITY_BYTES: usize = 200;

/// What separates the parts of an identity, and what a header cannot hold.
const SEPARATED: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%');

/// What a reply's subject asks of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Start = 0,
    Append = 1,
    End = 3,
    Ping = 4,
}

/// A batch that is being sent.
#[derive(Debug)]
pub(super) struct Batch {
    /// What the subjects of its answers begin with. The last token is its name, which no other batch has.
    prefix: String,
    /// The same with what all of them go on with: how often the servers are to say how far they are, and that they end at a gap.
    terms: String,
    /// A message by itself, which any server knows.
    is_single: bool,
    sent: u64,
    stored: u64,
    /// After how many messages the servers say how far they are, once they have said it.
    agreed: Option<usize>,
    has_ended: bool,
    /// What was refused, and why. What was sent after it is not stored.
    refused: Option<(u64, Refusal)>,
    /// Up to which message was sent when.
    times: VecDeque<(u64, Instant)>,
}

/// How far a batch is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// So many events more are stored.
    pub(super) stored: usize,
    /// When the last of them was sent.
    pub(super) sent: Option<Instant>,
    /// It had been stored before.
    pub(super) repeated: bool,
    /// More of what was sent is stored, or known to be refused.
    pub(super) is_news: bool,
    /// Nothing more of the batch will be; all is well if everything was, or what comes next is what was refused.
    pub(super) end: Option<End>,
}

/// How a batch ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All of it is stored.
    Complete,
    /// The event after those that are stored is refused.
    Refused(Refusal),
    /// What was sent after those that are stored got lost on the way.
    Lost,
    /// What was sent after those that are stored may be stored yet. The servers say no more of it, and why.
    Unclear(Refusal),
}

/// What the servers answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    #[serde(rename = "type")]
    kind: Option<String>,
    error: Option<Refusal>,
    seq: u64,
    msgs: usize,
    count: Option<u64>,
    duplicate: bool,
}

impl Batch {
    /// One named `prefix`, for events like these.
    pub(super) fn new(prefix: String, events: &[Outgoing], is_single: bool) -> Self {
        let bytes: usize = events.iter().map(|outgoing| outgoing.event.encoded_len()).sum();
        let every = (EVERY_BYTES * events.len() / bytes.max(1)).clamp(1, EVERY);
        let (terms, refused, times) = (format!("{prefix}.{every}.fail."), None, VecDeque::new());
        Self { prefix, terms, is_single, sent: 0, stored: 0, agreed: None, has_ended: false, refused, times }
    }

    /// Sent, and not known to be stored.
    pub(super) fn under_way(&self) -> usize {
        usize::try_from(self.sent - self.stored).unwrap_or(usize::MAX)
    }

    /// How many more may be sent.
    pub(super) fn room(&self) -> usize {
        if self.has_ended || self.refused.is_some() || (self.is_single && self.sent > 0) {
            return 0;
        }
        let most = self.agreed.map_or(FIRST, |every| FIRST.max(2 * every));
        most.saturating_sub(self.under_way())
    }

    /// True where the servers have to be told that nothing follows, should nothing wait: there is room for more, or no use in it.
    pub(super) fn is_to_end(&self) -> bool {
        !self.has_ended && !self.is_single && (self.room() > 0 || self.refused.is_some())
    }

    /// True while the servers hold something of it.
    pub(super) fn is_open(&self) -> bool {
        !self.is_single && !self.has_ended && self.sent > 0
    }

    /// The subject of the answer to a question how far it is; `None` where nothing more can be said.
    pub(super) fn ping(&self) -> Option<String> {
        (!self.is_single && self.sent > 0).then(|| self.reply(self.sent, Operation::Ping))
    }

    /// The subject that the next event's answer comes to.
    pub(super) fn next(&mut self) -> String {
        self.sent += 1;
        if self.is_single {
            return format!("{}.1", self.prefix);
        }
        self.reply(self.sent, if self.sent == 1 { Operation::Start } else { Operation::Append })
    }

    /// The subject of the answer to a message that ends the batch and is not stored.
    pub(super) fn end(&mut self) -> String {
        self.has_ended = true;
        self.reply(self.sent + 1, Operation::End)
    }

    fn reply(&self, sequence: u64, operation: Operation) -> String {
        format!("{}{sequence}.{}.$FI", self.terms, operation as u8)
    }

    /// What was handed over so far was sent now.
    pub(super) fn sent_at(&mut self, now: Instant) {
        self.times.push_back((self.sent, now));
    }

    /// Takes an answer in.
    ///
    /// # Errors
    /// Where it says nothing of what is stored, which is not known then.
    pub(super) fn answered(&mut self, message: &Message) -> Result<Progress, WireError> {
        let Some(rest) = message.subject.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('.'))
        else {
            // Of a batch before.
            return Ok(Progress::default());
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(WireError::Nobody);
        }
        let answer: Answer = serde_json::from_slice(&message.payload).map_err(|_| {
            WireError::Client(format!("an answer of {} bytes is no acknowledgement", message.payload.len()))
        })?;
        match (answer.kind.as_deref(), answer.error) {
            (Some("ack"), _) => {
                self.agreed = Some(answer.msgs.max(1));
                let mut progress = self.progress(answer.seq, false);
                // Its end got lost, and makes no difference.
                progress.end = (self.has_ended && self.stored == self.sent).then_some(End::Complete);
                Ok(progress)
            }
            (Some("err"), Some(refusal)) => Ok(self.refuse(answer.seq, refusal)),
            (None, Some(refusal)) => {
                // It is the answer to one message, which the subject tells.
                let sequence =
                    if self.is_single { Some(1) } else { rest.split('.').nth(2).and_then(|n| n.parse().ok()) };
                Ok(self.refuse(sequence.unwrap_or(self.stored + 1), refusal))
            }
            (None, None) => {
                let count = answer.count.unwrap_or(1);
                let mut progress = self.progress(count, answer.duplicate);
                progress.end = Some(match self.refused.take() {
                    Some((sequence, refusal)) if sequence == self.stored + 1 => End::Refused(refusal),
                    _ if self.stored == self.sent => End::Complete,
                    _ => End::Lost,
                });
                Ok(progress)
            }
            // A gap: how far the batch came is said when it ends, which it does by itself.
            _ => Ok(Progress::default()),
        }
    }

    fn progress(&mut self, up_to: u64, repeated: bool) -> Progress {
        // What is said after a refusal is of what came before it.
        let most = self.refused.as_ref().map_or(self.sent, |(sequence, _)| sequence - 1).max(self.stored);
        let up_to = up_to.clamp(self.stored, most);
        let stored = usize::try_from(up_to - self.stored).unwrap_or(usize::MAX);
        self.stored = up_to;
        let mut sent = None;
        while let Some((last, at)) = self.times.front()
            && *last <= up_to
        {
            sent = Some(*at);
            self.times.pop_front();
        }
        Progress { stored, sent, repeated, is_news: stored > 0, end: None }
    }

    fn refuse(&mut self, sequence: u64, refusal: Refusal) -> Progress {
        // The batch is not known any more, or its end is refused: nothing else will be said of it.
        if refusal.is(Refusal::UNKNOWN_BATCH) || sequence > self.sent {
            // What was refused first is the cause of what came after it.
            let cause = self.refused.take().map_or(refusal, |(_, first)| first);
            let end = if self.stored == self.sent { End::Complete } else { End::Unclear(cause) };
            return Progress { end: Some(end), ..Progress::default() };
        }
        if sequence == self.stored + 1 {
            return Progress { end: Some(End::Refused(refusal)), ..Progress::default() };
        }
        // What comes before it may not be stored yet. The end of the batch tells.
        let is_news = self.refused.is_none();
        self.refused.get_or_insert((sequence, refusal));
        Progress { is_news, ..Progress::default() }
    }
}

/// An event to send.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) event: Event,
    /// Who passes it on, and what for.
    pub(super) by: Option<Arc<str>>,
}

impl Outgoing {
    /// The headers of its message.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = nats::binary_headers(&self.event);
        headers.insert("Nats-Msg-Id", identity(&self.event, self.by.as_deref()));
        headers
    }
}

/// What the servers recognise an event by that is published again: its source and id, and what makes another use of the same event
/// another event, such as the dead letter of one subscriber.
fn identity(event: &Event, by: Option<&str>) -> String {
    let mut identity = String::with_capacity(64);
    let uses = ["evoketrigger", "evokesubscriber", "evokelasttime", "evokehops"].map(|name| event.attribute(name));
    for part in [Some(event.source()), Some(event.id())].into_iter().chain(uses).chain([by]).flatten() {
        if !identity.is_empty() {
            identity.push('#');
        }
        identity.extend(utf8_percent_encode(part, SEPARATED));
    }
    if identity.len() > IDENTITY_BYTES {
        let hash = Sha256::digest(identity.as_bytes());
        return hash.iter().map(|byte| format!("{byte:02x}")).collect();
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_of(source: &str, id: &str, attributes: &[(&str, &str)]) -> String {
        let event = Event::builder(id, source, "t");
        identity(&attributes.iter().fold(event, |event, (n, v)| event.attribute(*n, *v)).build().unwrap(), None)
    }

    #[test]
    fn an_identity_is_source_id_and_use() {
        assert_eq!(identity_of("/a/b", "7", &[("subject", "x")]), "/a/b#7");
        let dead = [("evoketrigger", "ns/t"), ("evokesubscriber", "0")];
        assert_eq!(identity_of("/a/b", "7", &dead), "/a/b#7#ns/t#0");
        let event = Event::builder("7", "/a/b", "t").build().unwrap();
        assert_eq!(identity(&event, Some("ns/t/0")), "/a/b#7#ns/t/0");
        assert_ne!(identity_of("a#b", "c", &[]), identity_of("a", "b#c", &[]));
        assert!(identity_of("é \u{1f980}", "1", &[]).is_ascii());
        assert_eq!(identity_of(&"s".repeat(500), "1", &[]).len(), 64);
    }

    fn batch(events: usize) -> Batch {
        let event = Event::builder("1", "/s", "t").data("x").build().unwrap();
        let mut batch = Batch::new("_INBOX.a.b".to_owned(), &[Outgoing { event, by: None }], events == 1);
        let replies: Vec<_> = (0..events).map(|_| batch.next()).collect();
        if events > 1 {
            assert_eq!(replies[0], "_INBOX.a.b.250.fail.1.0.$FI");
            assert_eq!(replies[1], "_INBOX.a.b.250.fail.2.1.$FI");
        }
        batch
    }

    fn answer(subject: &str, payload: &'static str) -> Message {
        let (status, description, headers, reply) = (None, None, None, None);
        Message { subject: subject.into(), reply, payload: payload.into(), headers, status, description, length: 0 }
    }

    fn said(batch: &mut Batch, payload: &'static str) -> (usize, Option<End>) {
        let progress = batch.answered(&answer("_INBOX.a.b.250.fail.7.1.$FI", payload)).unwrap();
        (progress.stored, progress.end)
    }

    const TOO_LARGE: &str = r#"{"error":{"code":400,"err_code":10054,"description":"d"},"stream":"s","seq":0}"#;
    const FULL: &str =
        r#"{"type":"err","seq":7,"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#;

    #[test]
    fn a_batch_is_stored_bit_by_bit() {
        let mut batch = batch(20);
        assert_eq!((batch.under_way(), batch.room()), (20, 80));
        assert_eq!(said(&mut batch, r#"{"type":"ack","seq":0,"msgs":250}"#), (0, None));
        assert_eq!((batch.under_way(), batch.room()), (20, 480));
        assert_eq!(said(&mut batch, r#"{"type":"ack","seq":8,"msgs":4}"#), (8, None));
        // Said again, or late, it changes nothing.
        assert_eq!(said(&mut batch, r#"{"type":"ack","seq":4,"msgs":4}"#), (0, None));
        assert_eq!((batch.under_way(), batch.room(), batch.is_to_end()), (12, 88, true));
        assert_eq!(batch.end(), "_INBOX.a.b.250.fail.21.3.$FI");
        assert_eq!((batch.room(), batch.is_to_end()), (0, false));
        let end = said(&mut batch, r#"{"stream":"s","seq":99,"batch":"b","count":20}"#);
        assert_eq!(end, (12, Some(End::Complete)));
    }

    #[test]
    fn what_was_lost_or_refused_comes_after_what_is_stored() {
        let mut lost = batch(20);
        assert_eq!(said(&mut lost, r#"{"type":"gap","last_seq":7,"seq":9}"#), (0, None));
        assert_eq!(said(&mut lost, r#"{"stream":"s","seq":6,"batch":"b","count":6}"#), (6, Some(End::Lost)));

        let mut refused = batch(20);
        assert_eq!(said(&mut refused, FULL), (0, None));
        assert_eq!((refused.room(), refused.is_to_end()), (0, true));
        let (stored, end) = said(&mut refused, r#"{"stream":"s","seq":6,"batch":"b","count":6}"#);
        assert!(matches!(end, Some(End::Refused(refusal)) if stored == 6 && refusal.is_full()));

        let mut by_itself = batch(20);
        assert_eq!(said(&mut by_itself, TOO_LARGE), (0, None));
        let (stored, end) = said(&mut by_itself, r#"{"stream":"s","seq":6,"batch":"b","count":6}"#);
        assert!(matches!(end, Some(End::Refused(refusal)) if stored == 6 && refusal.is_too_large()));

        let mut first = batch(20);
        let end = first.answered(&answer("_INBOX.a.b.250.fail.1.0.$FI", TOO_LARGE)).unwrap().end;
        assert!(matches!(end, Some(End::Refused(refusal)) if refusal.is_too_large()));
    }

    #[test]
    fn an_end_that_is_lost_or_refused_leaves_nothing_waiting() {
        let ack = r#"{"type":"ack","seq":20,"msgs":250}"#;
        let mut lost = batch(20);
        lost.end();
        assert_eq!(said(&mut lost, ack), (20, Some(End::Complete)));
        let unknown = r#"{"error":{"code":400,"err_code":10208,"description":"batch publish ID is unknown"}}"#;
        let mut forgotten = batch(20);
        let (stored, end) = said(&mut forgotten, unknown);
        assert!(matches!(end, Some(End::Unclear(cause)) if stored == 0 && cause.is(Refusal::UNKNOWN_BATCH)));
        let mut refused = batch(20);
        assert_eq!(refused.end(), "_INBOX.a.b.250.fail.21.3.$FI");
        assert_eq!(refused.ping().unwrap(), "_INBOX.a.b.250.fail.20.4.$FI");
        let end = answer("_INBOX.a.b.250.fail.21.3.$FI", TOO_LARGE);
        let end = refused.answered(&end).unwrap().end;
        assert!(matches!(end, Some(End::Unclear(cause)) if cause.is_too_large()));
        assert_eq!(said(&mut refused, ack).0, 20);
    }

    #[test]
    fn an_end_that_is_refused_like_what_came_before_it_names_the_first_cause() {
        let mut batch = batch(20);
        assert_eq!(said(&mut batch, FULL), (0, None));
        assert_eq!(batch.end(), "_INBOX.a.b.250.fail.21.3.$FI");
        let end = batch.answered(&answer("_INBOX.a.b.250.fail.21.3.$FI", TOO_LARGE)).unwrap().end;
        assert!(matches!(end, Some(End::Unclear(cause)) if cause.is_full()));
    }

    #[test]
    fn only_what_is_stored_or_refused_is_news() {
        let mut batch = batch(20);
        let mut is_news = |payload| batch.answered(&answer("_INBOX.a.b.250.fail.20.4.$FI", payload)).unwrap().is_news;
        assert!(!is_news(r#"{"type":"ack","seq":0,"msgs":250}"#));
        let ack = r#"{"type":"ack","seq":4,"msgs":4}"#;
        assert!(is_news(ack));
        assert!(!is_news(ack), "asked again, servers that store nothing say the same");
        assert!(!is_news(r#"{"type":"gap","last_seq":7,"seq":9}"#));
        assert!(is_news(FULL));
        assert!(!is_news(FULL));
    }

    #[test]
    fn what_follows_a_refusal_is_not_stored_whatever_is_said() {
        let mut batch = batch(20);
        assert_eq!(said(&mut batch, TOO_LARGE), (0, None));
        assert_eq!(said(&mut batch, r#"{"type":"ack","seq":20,"msgs":10}"#), (6, None));
    }

    #[test]
    fn one_event_is_no_batch() {
        let mut one = batch(1);
        assert_eq!((one.room(), one.is_to_end()), (0, false));
        let stored = one.answered(&answer("_INBOX.a.b.1", r#"{"stream":"s","seq":2,"duplicate":true}"#)).unwrap();
        assert_eq!((stored.stored, stored.repeated, stored.end), (1, true, Some(End::Complete)));
        assert!(batch(1).answered(&answer("_INBOX.a.b.1", "+OK")).is_err());
        // All of it had been stored before.
        assert_eq!(said(&mut batch(2), r#"{"stream":"s","seq":0,"batch":"b","count":2}"#), (2, Some(End::Complete)));
    }

    #[test]
    fn the_answers_of_another_batch_are_passed_by() {
        let mut batch = batch(2);
        let other = batch.answered(&answer("_INBOX.a.c.250.fail.2.1.$FI", TOO_LARGE)).unwrap();
        assert_eq!((other.stored, other.end), (0, None));
        let longer = batch.answered(&answer("_INBOX.a.bb.250.fail.2.1.$FI", TOO_LARGE)).unwrap();
        assert_eq!((longer.stored, longer.end), (0, None));
    }
}
