//! A validated `jetStream`, and OpenFunction's `natsStreaming` read as one.

use std::time::Duration;

use evoke_api::credentials::{NatsAuth, Secret};
use evoke_api::events::{JetStreamBus, JetStreamStorage, NatsStreamingBus, OnFull};
use evoke_api::problem::Problem;
use evoke_connect::fields::Fields;
use evoke_connect::nats::NatsPlan;
use evoke_connect::nats::plan::NatsSpec;
use percent_encoding::percent_decode_str;

/// How many partitions a topic is made with when the manifest does not say.
pub const PARTITIONS: u16 = 8;
const PARTITIONS_MOST: u16 = 64;
const REPLICAS_MOST: u16 = 5;
/// How long the servers recognise an event when the manifest does not say; NATS's own default.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Below this, NATS takes no window and no age.
const SHORTEST: Duration = Duration::from_millis(100);

/// `jetStream`. What is `None` is NATS's or evoke's default for a stream that is made, and left alone on one that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JetStreamPlan {
    /// How to reach the servers.
    pub nats: NatsPlan,
    /// How many servers keep a stream.
    pub replicas: Option<u16>,
    /// Where they keep it.
    pub storage: Option<JetStreamStorage>,
    /// How long events are kept.
    pub max_age: Option<Duration>,
    /// How much a topic's stream may hold.
    pub max_bytes: Option<u64>,
    /// How long the servers recognise an event that is published again.
    pub duplicate_window: Option<Duration>,
    /// How many partitions a topic is made with.
    pub partitions: u16,
    /// What happens at `max_bytes`.
    pub on_full: OnFull,
}

impl JetStreamPlan {
    /// The defaults on these servers.
    pub fn on(nats: NatsPlan) -> Self {
        Self {
            nats,
            replicas: None,
            storage: None,
            max_age: None,
            max_bytes: None,
            duplicate_window: None,
            partitions: PARTITIONS,
            on_full: OnFull::default(),
        }
    }
}

/// Plans `jetStream`. `None` when an error was found; what only a cluster can do goes to `not_here`.
pub fn plan(
    mut fields: Fields<'_>,
    spec: &JetStreamBus,
    max_event_bytes: usize,
    not_here: &mut Vec<Problem>,
) -> Option<JetStreamPlan> {
    if spec.native.is_some() {
        if spec.url.is_some() {
            fields.error("native", "`url` and `native` are both set", "keep `url` to use servers that are there");
            return None;
        }
        let message = "servers that evoke runs itself are for clusters";
        let hint = "start a server (`nats-server -js`) and name it in `url`, or use the embedded bus: `evoke run --bus embedded`";
        not_here.push(Problem::error(fields.path("native"), message).hint(hint));
        return None;
    }
    let Some(url) = &spec.url else {
        fields.error("url", "names no server", "write `url: nats://host:4222`");
        return None;
    };
    let nats = NatsSpec { url_field: "url", url, auth: spec.auth.as_ref(), tls: spec.tls.as_ref() };
    let nats = NatsPlan::plan(fields.part(), nats);
    let replicas = within(&mut fields, "replicas", spec.replicas, REPLICAS_MOST);
    let partitions = within(&mut fields, "partitions", spec.partitions, PARTITIONS_MOST);
    let max_age = duration(&mut fields, "maxAge", spec.max_age.as_deref());
    let duplicate_window = duration(&mut fields, "duplicateWindow", spec.duplicate_window.as_deref());
    if let (Some(age), Some(window)) = (max_age, duplicate_window)
        && window > age
    {
        fields.error("duplicateWindow", "is longer than `maxAge`", "NATS recognises only what it keeps: shorten it");
    }
    // Below this, a few events fill a topic, and a batch of them never fits.
    let least = 4 * max_event_bytes as u64;
    let hint = format!("at least {least}, four times `maxEventBytes`");
    let max_bytes = super::max_bytes(&mut fields, spec.max_bytes.as_deref(), least, &hint);
    if spec.storage == Some(JetStreamStorage::Memory) {
        let message = "events and positions live in the servers' memory: a restart of all of them loses both";
        fields.warning("storage", message, "use `file` where that matters");
    }
    if spec.on_full == Some(OnFull::DropOldest) && max_bytes.is_none() && spec.max_bytes.is_none() {
        fields.warning("onFull", "`dropOldest` has no effect without `maxBytes`", "set `maxBytes`");
    }
    Some(JetStreamPlan {
        nats: nats?,
        replicas,
        storage: spec.storage,
        max_age,
        max_bytes,
        duplicate_window,
        partitions: partitions.unwrap_or(PARTITIONS),
        on_full: spec.on_full.unwrap_or_default(),
    })
}

fn within(fields: &mut Fields<'_>, field: &str, value: Option<u16>, most: u16) -> Option<u16> {
    let value = value?;
    if !(1..=most).contains(&value) {
        fields.error(field, format!("{value} is out of range"), format!("choose between 1 and {most}"));
        return None;
    }
    Some(value)
}

fn duration(fields: &mut Fields<'_>, field: &str, text: Option<&str>) -> Option<Duration> {
    let duration = fields.duration(field, text)?;
    if duration < SHORTEST {
        fields.error(field, "is shorter than NATS takes", "write at least `100ms`, or leave it out");
        return None;
    }
    Some(duration)
}

/// Plans OpenFunction's `natsStreaming`, whose server is end of life, as JetStream on the same URL.
pub fn plan_stan(mut fields: Fields<'_>, spec: &NatsStreamingBus) -> Option<JetStreamPlan> {
    let message =
        "NATS Streaming is end of life: this is read as `jetStream` on the same servers, which must run JetStream";
    let problem = Problem::warning(fields.whole().clone(), message).hint("write `jetStream: {url: ...}` instead");
    fields.problems().push(problem);
    const NAME: &str = "evoke keeps a subscriber's position under the subscriber's own name";
    const START: &str = "where a new subscription starts is `startAt` of the Trigger's subscriber; the end by default";
    let ignored = [
        ("natsStreamingClusterID", true, "JetStream has no such id"),
        ("subscriptionType", true, "the partitions of a topic are shared among all processes of a Trigger"),
        ("durableSubscriptionName", true, NAME),
        ("consumerID", spec.consumer_id.is_some(), NAME),
        ("ackWaitTime", spec.ack_wait_time.is_some(), "set `delivery.timeout` of the subscriber"),
        ("maxInFlight", spec.max_in_flight.is_some(), "set `delivery.maxInFlight` of the subscriber"),
        ("deliverNew", spec.deliver_new == Some(false), START),
        ("deliverAll", spec.deliver_all == Some(true), START),
        ("startAtSequence", spec.start_at_sequence.is_some(), START),
        ("startWithLastReceived", spec.start_with_last_received == Some(true), START),
        ("startAtTimeDelta", spec.start_at_time_delta.is_some(), START),
        ("startAtTime", spec.start_at_time.is_some(), START),
        ("startAtTimeFormat", spec.start_at_time_format.is_some(), START),
        ("scaleOption", spec.scale_option.is_some(), "evoke scales by the lag that it reads itself"),
    ];
    for (field, _, hint) in ignored.into_iter().filter(|(_, is_set, _)| *is_set) {
        fields.warning(field, "has no effect on JetStream", hint);
    }
    let (servers, logins): (Vec<_>, Vec<_>) =
        spec.nats_url.split(',').map(|address| take_login(address.trim())).unzip();
    let mut logins = logins.into_iter().flatten();
    let login = logins.next();
    if let Some(login) = &login {
        let message = "the log-in is part of the url, where whoever reads the manifest sees it";
        let hint = "write `jetStream: {url, auth}` instead, with `passwordFrom` or `tokenFrom`";
        fields.warning("natsURL", message, hint);
        if logins.any(|other| other != *login) {
            fields.error("natsURL", "logs in to each server as somebody else", "keep one of them");
        }
    }
    let nats = NatsSpec { url_field: "natsURL", url: &servers.join(","), auth: login.as_ref(), tls: None };
    NatsPlan::plan(fields, nats).map(JetStreamPlan::on)
}

/// An address without the log-in that clients of NATS take from it: a user and a password, or a token.
fn take_login(address: &str) -> (String, Option<NatsAuth>) {
    let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
    let Some((login, host)) = rest.rsplit_once('@').filter(|(login, _)| !login.contains('/')) else {
        return (address.to_owned(), None);
    };
    let secret = |text: &str| Some(Secret::new(percent_decode_str(text).decode_utf8_lossy()));
    let auth = match login.split_once(':') {
        Some((user, pass)) => NatsAuth { username: secret(user), password: secret(pass), ..NatsAuth::default() },
        None => NatsAuth { token: secret(login), ..NatsAuth::default() },
    };
    (format!("{scheme}://{host}"), Some(auth))
}

#[cfg(test)]
mod tests;
