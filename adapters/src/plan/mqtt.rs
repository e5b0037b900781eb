//! A validated MQTT source.

use evoke_api::credentials::{Secret, Tls};
use evoke_api::events::{MqttSource, MqttVersion};
use evoke_api::problem::Problem;
use evoke_connect::address::Address;
use evoke_connect::fields::Fields;
use evoke_connect::tls::{SaslPlan, TlsPlan};
use url::{Host, Url};

use crate::source::{Origin, Place};

const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;
/// MQTT writes the length of a text in two bytes.
const TEXT_BYTES: usize = 65_535;
/// What marks a subscription that several clients share.
pub(crate) const SHARE: &str = "$share/";

/// A validated MQTT source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttPlan {
    pub(crate) address: Address,
    pub(crate) topic: String,
    pub(crate) client_id: String,
    pub(crate) qos: Qos,
    pub(crate) clean: bool,
    /// `None`: whichever the broker speaks.
    pub(crate) version: Option<MqttVersion>,
    pub(crate) username: Option<Secret>,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: Option<TlsPlan>,
    pub(crate) content_type: Option<String>,
}

/// Quality of service, by the names of the protocol.
#[allow(clippy::enum_variant_names, reason = "MQTT's own names")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    #[default]
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

impl MqttPlan {
    /// The topic or pattern that is read.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The name that the broker knows the session by.
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The broker's `host:port`.
    pub fn broker(&self) -> String {
        self.address.to_string()
    }
}

/// Validates `mqtt.{event}`. `None` when an error was pushed.
pub fn plan(place: &Place<'_>, spec: &MqttSource, problems: &mut Vec<Problem>) -> Option<MqttPlan> {
    let mut planning = Planning { origin: place.origin, spec, fields: place.fields(problems) };
    let broker = planning.broker();
    planning.topic();
    let client_id = planning.client_id();
    let qos = planning.qos();
    let tls = planning.tls(broker.encrypted);
    let (username, password) = planning.login(&broker);
    let mut fields = planning.fields;
    if password.is_some() && tls.is_none() {
        fields.warning("password", "the password crosses the network as plain text", "use TLS: `ssl://`");
    }
    if spec.retain == Some(true) {
        fields.warning("retain", "not acted on: it is about publishing, and a source does not", "remove it");
    }
    let content_type = fields.content_type(spec.content_type.as_deref());
    fields.is_sound().then(|| MqttPlan {
        address: broker.address,
        topic: spec.topic.clone(),
        client_id,
        qos,
        clean: spec.clean_session == Some(true),
        version: spec.protocol_version,
        username,
        password,
        tls,
        content_type,
    })
}

/// What a `url` says.
#[derive(Default)]
struct Broker {
    address: Address,
    encrypted: bool,
    username: Option<Secret>,
    password: Option<Secret>,
}

struct Planning<'a> {
    origin: &'a Origin,
    spec: &'a MqttSource,
    fields: Fields<'a>,
}

impl Planning<'_> {
    /// No message quotes the URL, which may hold a password.
    fn broker(&mut self) -> Broker {
        const HINT: &str = "write tcp://host:port, or ssl://host:port for TLS";
        let text = self.spec.url.trim();
        let whole = if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") };
        let Ok(url) = Url::parse(&whole) else {
            self.fields.error("url", "no broker's address", HINT);
            return Broker::default();
        };
        let encrypted = match url.scheme() {
            "tcp" | "mqtt" => false,
            "ssl" | "tls" | "mqtts" | "tcps" => true,
            "ws" | "wss" => {
                self.fields.error("url", "MQTT over WebSocket is not supported", HINT);
                false
            }
            other => {
                self.fields.error("url", format!("{other:?} is no scheme of MQTT"), HINT);
                false
            }
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            self.fields.error("url", "something follows the address", HINT);
        }
        let host = match url.host() {
            Some(Host::Ipv6(host)) => host.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        };
        if host.is_empty() || url.port() == Some(0) {
            self.fields.error("url", "no host or no port that can be", HINT);
        }
        let decoded = |part: &str| {
            let text = percent_encoding::percent_decode_str(part).decode_utf8().ok()?;
            (!text.is_empty()).then(|| Secret::new(text))
        };
        if url.password().is_some() {
            let hint = "use `username` and `passwordFrom`";
            self.fields.warning(
                "url",
                "the password is part of the url, where whoever reads the manifest sees it",
                hint,
            );
        }
        Broker {
            address: Address { host, port: url.port().unwrap_or(if encrypted { TLS_PORT } else { PORT }) },
            encrypted,
            username: decoded(url.username()),
            password: url.password().and_then(decoded),
        }
    }

    fn topic(&mut self) {
        let topic = &self.spec.topic;
        let filter = match topic.strip_prefix(SHARE) {
            None => topic.as_str(),
            Some(shared) => match shared.split_once('/') {
                Some((group, filter)) if !group.is_empty() && !group.contains(['+', '#']) => filter,
                _ => "",
            },
        };
        if topic.is_empty() {
            self.fields.error("topic", "no topic is named", "write one, which may hold `+` and `#`");
        } else if topic.starts_with(SHARE) && filter.is_empty() {
            self.fields.error("topic", format!("{topic:?} is no shared subscription"), "write $share/{group}/{topic}");
        } else if topic.len() > TEXT_BYTES || topic.contains('\0') || !is_filter(filter) {
            let hint = "`+` stands for one whole level, `#` for all levels that follow, at the end";
            self.fields.error("topic", format!("{topic:?} is no topic"), hint);
        }
    }

    fn client_id(&mut self) -> String {
        match self.spec.consumer_id.as_deref().unwrap_or_default() {
            "" => self.origin.own_name(),
            id => {
                if id.len() > TEXT_BYTES || id.chars().any(char::is_control) {
                    self.fields.error("consumerID", "no client id", "letters and digits, not too many of them");
                }
                id.to_owned()
            }
        }
    }

    fn qos(&mut self) -> Qos {
        match self.spec.qos {
            Some(0) => Qos::AtMostOnce,
            None | Some(1) => Qos::AtLeastOnce,
            Some(2) => Qos::ExactlyOnce,
            Some(other) => {
                self.fields.error("qos", format!("{other} is no quality of service"), "write 0, 1 or 2");
                Qos::default()
            }
        }
    }

    fn tls(&mut self, encrypted: bool) -> Option<TlsPlan> {
        let spec = self.spec;
        let older = [
            ("caCert", "ca", &spec.ca_cert, &spec.ca_cert_from),
            ("clientCert", "cert", &spec.client_cert, &spec.client_cert_from),
            ("clientKey", "key", &spec.client_key, &spec.client_key_from),
        ]
        .map(|(field, name, plain, from)| {
            let given = self.fields.secret(field, plain.as_ref(), from.as_ref());
            (field, name, given.filter(|secret| !secret.expose().is_empty()))
        });
        if !encrypted && spec.tls.is_none() {
            for (field, _, _) in older.iter().filter(|(_, _, given)| given.is_some()) {
                let message = "ignored, since the url does not ask for TLS";
                self.fields.warning(field, message, "write ssl:// in `url`");
            }
            return None;
        }
        let mut merged = spec.tls.clone().unwrap_or_default();
        let mut moved = Vec::new();
        for (field, name, given) in older {
            let Tls { ca, ca_from, cert, cert_from, key, key_from, .. } = &mut merged;
            let (place, from) = match name {
                "ca" => (ca, ca_from),
                "cert" => (cert, cert_from),
                _ => (key, key_from),
            };
            if given.is_none() {
                continue;
            }
            if place.is_some() || from.is_some() {
                self.fields.error(field, format!("`{field}` is set here and in `tls`"), "keep one of the two");
            } else {
                *place = given;
                moved.push((self.fields.path("tls").key(name), self.fields.path(field)));
            }
        }
        let known = self.fields.problems().len();
        let plan = TlsPlan::plan(&mut self.fields, Some(&merged), encrypted);
        // What is wrong is said where it was written.
        for problem in self.fields.problems().iter_mut().skip(known) {
            if let Some((_, written)) = moved.iter().find(|(path, _)| *path == problem.path) {
                problem.path = written.clone();
            }
        }
        plan
    }

    fn login(&mut self, broker: &Broker) -> (Option<Secret>, Option<Secret>) {
        let (spec, fields) = (self.spec, &mut self.fields);
        let sasl = SaslPlan::plan_login(fields, spec.sasl.as_ref(), "MQTT has no SASL here");
        let username = fields.secret("username", spec.username.as_ref(), spec.username_from.as_ref());
        let password = fields.secret("password", spec.password.as_ref(), spec.password_from.as_ref());
        let mut only = |field: &str, own: Option<Secret>, sasl: Option<Secret>, url: &Option<Secret>| {
            let found = [own, sasl, url.clone()].into_iter().flatten().filter(|secret| !secret.expose().is_empty());
            let mut found: Vec<Secret> = found.collect();
            if found.len() > 1 {
                let message = format!("`{field}` is set twice: here, in `sasl` or in the url");
                fields.error(field, message, "keep one of them");
            }
            if found.iter().any(|secret| secret.expose().len() > TEXT_BYTES) {
                fields.error(field, format!("`{field}` is longer than MQTT can say"), "at most 65535 bytes");
            }
            found.pop()
        };
        let username = only("username", username, sasl.username, &broker.username);
        let password = only("password", password, sasl.password, &broker.password);
        let unknown =
            spec.username_from.is_some() || spec.sasl.as_ref().is_some_and(|sasl| sasl.username_from.is_some());
        if password.is_some() && username.is_none() && !unknown {
            fields.error("password", "a password needs a user", "add `username`");
        }
        (username, password)
    }
}

/// Whether a text can be subscribed to.
fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_last = levels.peek().is_none();
        if (level.contains('+') && level != "+") || (level.contains('#') && !(level == "#" && is_last)) {
            return false;
        }
    }
    !filter.is_empty()
}

#[cfg(test)]
mod tests;
