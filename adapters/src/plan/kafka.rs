//! A validated Kafka source.

use evoke_api::credentials::Secret;
use evoke_api::events::{KafkaSource, StartAt};
use evoke_api::problem::Problem;
use evoke_connect::address::Address;
use evoke_connect::fields::Fields;
use evoke_connect::kafka::{Brokers, Login, plan as brokers};
use evoke_connect::tls::SaslPlan;

use crate::source::Place;

/// A validated Kafka source.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaPlan {
    pub(crate) brokers: Brokers,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) start_at: StartAt,
    pub(crate) content_type: Option<String>,
}

impl KafkaPlan {
    /// The bootstrap servers, separated by commas.
    pub fn brokers(&self) -> &str {
        &self.brokers.addresses
    }

    /// Each of them, however it is written.
    pub(crate) fn servers(&self) -> impl Iterator<Item = Address> {
        let lower = self.brokers.addresses.split(',').map(str::to_ascii_lowercase);
        lower.filter_map(|broker| Address::parse(&broker, brokers::PORT))
    }

    /// The topic that is read.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.group
    }
}

/// Validates `kafka.{event}`. `None` when an error was pushed.
pub fn plan(place: &Place<'_>, spec: &KafkaSource, problems: &mut Vec<Problem>) -> Option<KafkaPlan> {
    let mut fields = place.fields(problems);
    let addresses = brokers::addresses(&mut fields, &spec.brokers);
    let topic = spec.topic.clone().unwrap_or_else(|| place.origin.event.to_string());
    check_topic(&mut fields, &topic);
    let group = group(&mut fields, place, spec);
    let login = login(&mut fields, spec);
    let tls = brokers::tls(&mut fields, spec.tls.as_ref(), spec.auth_required, login.as_ref());
    unused(&mut fields, spec);
    let content_type = fields.content_type(spec.content_type.as_deref());
    fields.is_sound().then(|| KafkaPlan {
        brokers: Brokers { addresses, login, tls },
        topic,
        group,
        start_at: spec.start_at.unwrap_or_default(),
        content_type,
    })
}

fn check_topic(fields: &mut Fields<'_>, topic: &str) {
    let sound = (1..=249).contains(&topic.len())
        && !matches!(topic, "." | "..")
        && topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !sound {
        let hint = if topic.contains(',') {
            "an event reads one topic: make an event of each"
        } else {
            "letters, digits, '.', '_' and '-', at most 249 of them"
        };
        fields.error("topic", format!("{topic:?} is no Kafka topic"), hint);
    }
}

fn group(fields: &mut Fields<'_>, place: &Place<'_>, spec: &KafkaSource) -> String {
    let of_keda = spec.scale_option.as_ref().and_then(|option| option.consumer_group.as_deref());
    let of_keda = of_keda.filter(|group| !group.is_empty());
    let (group, mut of) = match (&spec.consumer_group, of_keda) {
        (Some(own), other) => {
            if other.is_some_and(|other| other != own) {
                let message = format!("ignored: `consumerGroup` is {own:?}");
                fields.under("scaleOption").warning("consumerGroup", message, "remove it here");
            }
            (own.clone(), fields.part())
        }
        (None, Some(other)) => (other.to_owned(), fields.under("scaleOption")),
        (None, None) => return place.origin.own_name(),
    };
    if group.trim().is_empty() || group.len() > 255 {
        let hint = "name one of at most 255 characters, or remove the field";
        of.error("consumerGroup", format!("{group:?} is no consumer group"), hint);
    }
    group
}

/// SASL is used when `authRequired` or `sasl` asks for it; OpenFunction's two fields alone do not, as they never did.
fn login(fields: &mut Fields<'_>, spec: &KafkaSource) -> Option<Login> {
    let sasl = SaslPlan::plan(fields, spec.sasl.as_ref());
    let username = fields.secret("saslUsername", spec.sasl_username.as_ref(), spec.sasl_username_from.as_ref());
    let password = fields.secret("saslPassword", spec.sasl_password.as_ref(), spec.sasl_password_from.as_ref());
    if !spec.auth_required && spec.sasl.is_none() {
        for (field, _) in [("saslUsername", username), ("saslPassword", password)].iter().filter(|(_, v)| v.is_some()) {
            let message = "ignored, since `authRequired` is false";
            fields.warning(field, message, "set authRequired: true, or use `sasl`");
        }
        return None;
    }
    let mut only = |field: &str, older: Option<Secret>, newer: Option<Secret>, missing: bool| {
        if older.is_some() && newer.is_some() {
            fields.error(field, format!("`{field}` is set here and in `sasl`"), "keep one of the two");
        }
        let found = newer.or(older);
        if found.is_none() && missing {
            let message = format!("SASL needs a user and a password: `{field}` is missing");
            fields.error(field, message, "or set it in `sasl`");
        }
        found
    };
    let named = spec.sasl.clone().unwrap_or_default();
    let no_name = spec.sasl_username_from.is_none() && named.username_from.is_none();
    let no_password = spec.sasl_password_from.is_none() && named.password_from.is_none();
    let username = only("saslUsername", username, sasl.username, no_name);
    let password = only("saslPassword", password, sasl.password, no_password);
    Some(Login { mechanism: sasl.mechanism.unwrap_or_default(), username: username?, password: password? })
}

/// Warns of what is accepted and not acted on.
fn unused(fields: &mut Fields<'_>, spec: &KafkaSource) {
    if spec.max_message_bytes.is_some() {
        let message = "not acted on: it limited what Dapr publishes";
        fields.warning("maxMessageBytes", message, "the limit for events is the bus's `maxEventBytes`");
    }
    let Some(option) = &spec.scale_option else { return };
    let path = fields.path("scaleOption");
    if let Ok(serde_json::Value::Object(set)) = serde_json::to_value(option) {
        for field in set.keys().filter(|field| *field != "consumerGroup") {
            let message = "not acted on: sources run in this process and are not scaled";
            fields.problems().push(Problem::warning(path.key(field), message));
        }
    }
}

#[cfg(test)]
mod tests;
