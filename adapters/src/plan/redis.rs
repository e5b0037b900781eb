//! A validated Redis source.

use std::time::Duration;

use evoke_api::events::{RedisSource, StartAt};
use evoke_api::problem::Problem;
use evoke_connect::fields::Fields;
use evoke_connect::redis::server::{DIAL_TIMEOUT, Mode, RESPONSE_TIMEOUT, ServerPlan, ServerSpec, Words};

use crate::source::{Origin, Place};

const WORDS: Words = Words {
    address: "redisHost",
    username: "redisUsername",
    password: "redisPassword",
    add_password: "add redisPassword",
    db: "redisDB",
    tls: "`enableTLS: true`",
    cluster: "redisType: cluster",
    sentinel: "`failover: true`",
    wrong_type: "name a stream in `stream`, a list in `list`, or another key",
    version: "6.2",
};
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// How long an entry may be with a consumer that does not finish it before another takes it.
const PROCESSING_TIMEOUT: Duration = Duration::from_secs(60);
/// How often such entries are looked for.
const REDELIVER_INTERVAL: Duration = Duration::from_secs(30);
/// Timers need a little room to be worth their messages.
const SHORTEST: Duration = Duration::from_millis(100);
/// What Dapr takes for no limit, or for no wait at all.
const NONE: &str = "-1";

/// A validated Redis source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisPlan {
    pub(crate) server: ServerPlan,
    pub(crate) retry_first: Duration,
    pub(crate) retry_longest: Duration,
    pub(crate) read: Read,
    pub(crate) content_type: Option<String>,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Stream {
        key: String,
        group: String,
        start_at: StartAt,
        /// How old and how often, for entries that another consumer does not finish.
        claim: Option<(Duration, Duration)>,
    },
    Channel {
        name: String,
        is_pattern: bool,
    },
    List {
        key: String,
        /// A consumer that was silent for so long is dead, and its items go back.
        dead_after: Duration,
    },
}

impl RedisPlan {
    /// True for a channel or a pattern: everybody who listens gets every message.
    pub fn is_channel(&self) -> bool {
        matches!(self.read, Read::Channel { .. })
    }

    /// The stream, channel, pattern or list that is read.
    pub fn key(&self) -> &str {
        match &self.read {
            Read::Stream { key, .. } | Read::List { key, .. } | Read::Channel { name: key, .. } => key,
        }
    }
}

/// Validates `redis.{event}`. `None` when an error was pushed.
pub fn plan(place: &Place<'_>, spec: &RedisSource, problems: &mut Vec<Problem>) -> Option<RedisPlan> {
    let mut planning = Planning { origin: place.origin, spec, fields: place.fields(problems) };
    let mode = planning.mode();
    let server = planning.server(mode);
    let read = planning.read();
    let retry_first = planning.wait("redisMinRetryInterval", spec.redis_min_retry_interval.as_deref(), RETRY_FIRST);
    let retry_longest = planning.wait("redisMaxRetryInterval", spec.redis_max_retry_interval.as_deref(), RETRY_LONGEST);
    let dial_timeout = planning.time("dialTimeout", spec.dial_timeout.as_deref(), DIAL_TIMEOUT);
    let response_timeout = planning.time("readTimeout", spec.read_timeout.as_deref(), RESPONSE_TIMEOUT);
    planning.without_effect();
    let content_type = planning.fields.content_type(spec.content_type.as_deref());
    planning.fields.is_sound().then(|| RedisPlan {
        server: ServerPlan { dial_timeout, response_timeout, ..server },
        retry_first: retry_first.min(retry_longest),
        retry_longest,
        read,
        content_type,
    })
}

struct Planning<'a> {
    origin: &'a Origin,
    spec: &'a RedisSource,
    fields: Fields<'a>,
}

impl Planning<'_> {
    fn mode(&mut self) -> Mode {
        let cluster = match self.spec.redis_type.as_deref() {
            None | Some("node" | "") => false,
            Some("cluster") => true,
            Some(other) => {
                self.fields.error("redisType", format!("{other:?} is no kind of Redis"), "write `node` or `cluster`");
                false
            }
        };
        let master = self.spec.sentinel_master_name.as_deref().unwrap_or_default();
        match (self.spec.failover == Some(true), cluster) {
            (true, true) => {
                self.fields.error(
                    "failover",
                    "a cluster has no Sentinels",
                    "keep one of `failover` and `redisType: cluster`",
                );
                Mode::Cluster
            }
            (true, false) => {
                if master.is_empty() {
                    let hint = "write the name that the Sentinels watch the master under";
                    self.fields.error("sentinelMasterName", "`failover` needs the master's name", hint);
                }
                Mode::Sentinel { master: master.to_owned() }
            }
            (false, cluster) => {
                if !master.is_empty() {
                    let hint = "set `failover: true`, with the Sentinels' addresses in redisHost";
                    self.fields.warning("sentinelMasterName", "ignored, since `failover` is not true", hint);
                }
                if cluster { Mode::Cluster } else { Mode::Node }
            }
        }
    }

    fn server(&mut self, mode: Mode) -> ServerPlan {
        let spec = self.spec;
        let mut db = spec.redis_db;
        if mode == Mode::Cluster
            && let Some(other) = db.take_if(|db| *db > 0)
        {
            let message = format!("{other} is ignored: a cluster has only database 0");
            self.fields.warning("redisDB", message, "remove it");
        }
        let server = ServerSpec {
            words: &WORDS,
            addresses: &spec.redis_host,
            username: (spec.redis_username.as_ref(), spec.redis_username_from.as_ref()),
            password: (spec.redis_password.as_ref(), spec.redis_password_from.as_ref()),
            sasl: spec.sasl.as_ref(),
            tls: spec.tls.as_ref(),
            encrypted: spec.enable_tls == Some(true),
            db,
        };
        let server = ServerPlan::plan(&mut self.fields, server, mode);
        if server.password.is_some() && server.tls.is_none() && spec.tls.is_some() {
            self.fields.warning("tls", "the password crosses the network as plain text", "remove `disabled`");
        }
        if server.db > 0 && spec.channel.is_some() {
            self.fields.warning("redisDB", "channels belong to no database", "remove it");
        }
        server
    }

    fn read(&mut self) -> Read {
        let spec = self.spec;
        let set = [("stream", &spec.stream), ("channel", &spec.channel), ("list", &spec.list)];
        let named: Vec<_> = set.into_iter().filter_map(|(field, value)| Some((field, value.as_deref()?))).collect();
        for (field, value) in &named {
            if value.is_empty() {
                self.fields.error(field, format!("`{field}` is empty"), "write its name");
            }
        }
        if let [(first, _), (second, _), ..] = named[..] {
            let message = format!("an event reads one thing, and `{first}` is set as well");
            self.fields.error(second, message, "make an event of each");
        }
        let timeout = self.limit("processingTimeout", spec.processing_timeout.as_deref(), PROCESSING_TIMEOUT);
        let interval = self.limit("redeliverInterval", spec.redeliver_interval.as_deref(), REDELIVER_INTERVAL);
        let kind = named.first().map_or("stream", |(field, _)| *field);
        if kind != "stream" {
            for (field, is_set) in [
                ("consumerGroup", spec.consumer_group.is_some()),
                ("startAt", spec.start_at.is_some()),
                ("redeliverInterval", spec.redeliver_interval.is_some()),
                ("processingTimeout", spec.processing_timeout.is_some() && kind == "channel"),
            ] {
                if is_set {
                    self.fields.warning(field, format!("`{field}` has no effect on a {kind}"), "remove it");
                }
            }
        }
        match (kind, named.first()) {
            ("channel", Some((_, name))) => {
                Read::Channel { name: (*name).to_owned(), is_pattern: name.contains(['*', '?', '[']) }
            }
            ("list", Some((_, key))) => {
                if timeout.is_none() {
                    let message = format!("a list cannot do without it: {PROCESSING_TIMEOUT:?} is taken");
                    self.fields.warning("processingTimeout", message, "write a time, or remove it");
                }
                Read::List { key: (*key).to_owned(), dead_after: timeout.unwrap_or(PROCESSING_TIMEOUT) }
            }
            (_, key) => {
                let group = spec.consumer_group.clone().unwrap_or_else(|| self.origin.own_name());
                if group.is_empty() {
                    self.fields.error("consumerGroup", "`consumerGroup` is empty", "name one, or remove the field");
                }
                Read::Stream {
                    key: key.map_or_else(|| self.origin.event.to_string(), |(_, key)| (*key).to_owned()),
                    group,
                    start_at: spec.start_at.unwrap_or_default(),
                    claim: timeout.zip(interval),
                }
            }
        }
    }

    /// A duration, or milliseconds without a unit, as Dapr reads these fields.
    fn duration(&mut self, field: &str, text: Option<&str>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        if let Ok(millis) = text.parse() {
            return Duration::from_millis(millis);
        }
        self.fields.duration(field, Some(text)).unwrap_or(default)
    }

    /// How long something may take. What is no limit to Dapr is the default here, so that nothing waits for ever.
    fn time(&mut self, field: &str, text: Option<&str>, default: Duration) -> Duration {
        let text = self.unless_none(field, text, default);
        let time = self.duration(field, text, default);
        if time.is_zero() {
            self.fields.warning(field, format!("evoke does not wait for ever: {default:?} is taken"), "write a time");
            return default;
        }
        self.long_enough(field, time)
    }

    /// How long to wait before something is tried again, which Dapr does sooner than is good for a server that is away.
    fn wait(&mut self, field: &str, text: Option<&str>, default: Duration) -> Duration {
        let text = self.unless_none(field, text, default);
        let wait = self.duration(field, text, default);
        if wait < SHORTEST {
            let message = format!("{wait:?} is too short: {SHORTEST:?} is taken");
            self.fields.warning(field, message, "write at least 100ms, or remove it");
        }
        wait.max(SHORTEST)
    }

    /// The text, unless it says that there is to be no such time, which is a warning.
    fn unless_none<'t>(&mut self, field: &str, text: Option<&'t str>, default: Duration) -> Option<&'t str> {
        if text.is_some_and(|text| text.trim() == NONE) {
            let message = format!("{NONE} cannot be had here: {default:?} is taken");
            self.fields.warning(field, message, "write a time, or remove it");
            return None;
        }
        text
    }

    /// The same, where 0 switches off what it is for.
    fn limit(&mut self, field: &str, text: Option<&str>, default: Duration) -> Option<Duration> {
        let time = self.duration(field, text, default);
        if time.is_zero() { None } else { Some(self.long_enough(field, time)) }
    }

    fn long_enough(&mut self, field: &str, time: Duration) -> Duration {
        if time < SHORTEST {
            let message = format!("{} ms is too short", time.as_millis());
            self.fields.error(field, message, "write at least 100ms");
        }
        time
    }

    /// Warns of what is accepted and has no meaning here.
    fn without_effect(&mut self) {
        let spec = self.spec;
        if spec.redis_max_retries.is_some() {
            self.fields.warning("redisMaxRetries", "not acted on: evoke tries for ever", "remove it");
        }
        if spec.write_timeout.is_some() {
            self.fields.warning("writeTimeout", "not acted on: readTimeout limits the whole exchange", "remove it");
        }
        for (field, is_set) in [
            ("poolSize", spec.pool_size.is_some()),
            ("poolTimeout", spec.pool_timeout.is_some()),
            ("maxConnAge", spec.max_conn_age.is_some()),
            ("minIdleConns", spec.min_idle_conns.is_some()),
            ("idleCheckFrequency", spec.idle_check_frequency.is_some()),
            ("idleTimeout", spec.idle_timeout.is_some()),
        ] {
            if is_set {
                let message = "not acted on: a source has two connections and no pool";
                self.fields.warning(field, message, "remove it");
            }
        }
    }
}

#[cfg(test)]
mod tests;
