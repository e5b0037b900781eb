//! Names: of objects, of subscriptions, of topics.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The namespace; empty for an object of the whole cluster.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Names an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A subscription: `{namespace}/{trigger}/{subscriber}`. Its position in the bus is kept under this name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId {
    /// The Trigger it belongs to, or the EventSource whose sink it feeds.
    pub owner: ObjectName,
    /// The subscriber's `name`, by default its index.
    pub subscriber: Arc<str>,
}

impl SubscriptionId {
    /// What the subscription of an EventSource's own sink is called.
    pub const SINK: &'static str = "sink";
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.subscriber)
    }
}

/// A topic's name, `{namespace}.{eventSource}.{event}` or `{namespace}.{topic}`, with the dots inside its parts escaped. Every
/// back-end derives its own spelling from the parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// The topic of one event of an EventSource.
    pub fn event(event_source: &ObjectName, event: &str) -> Self {
        let ObjectName { namespace, name } = event_source;
        Self(format!("{namespace}.{}.{}", escape(name), escape(event)).into())
    }

    /// A topic that a manifest names (`topic`, `deadLetterTopic`).
    pub fn named(namespace: &str, topic: &str) -> Self {
        Self(format!("{namespace}.{}", escape(topic)).into())
    }

    /// The store of what could not be delivered and has no dead letter of its own. No namespace starts with `_`.
    pub fn dead_letters() -> Self {
        Self("_evoke.deadletters".into())
    }

    /// Reads a name as [`Display`](fmt::Display) wrote it.
    pub fn parse(text: &str) -> Self {
        Self(text.into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts, still escaped.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a dot into `_-`, and doubles a `_` that would otherwise read as the start of an escape, so that two different texts
/// never give the same part.
fn escape(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    let mut rest = part.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '.' => out.push_str("_-"),
            '_' if matches!(rest.peek(), Some('_' | '-' | '.')) => out.push_str("__"),
            other => out.push(other),
        }
    }
    out
}

/// True for a name that events, inputs and subscribers may have: `[A-Za-z0-9]([-A-Za-z0-9_]{0,61}[A-Za-z0-9])?`.
pub fn is_event_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
}

/// True for a name that Kubernetes lets an object have: a DNS subdomain of RFC 1123.
pub fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// True for a name that Kubernetes lets a namespace have: a DNS label of RFC 1123.
pub fn is_namespace(name: &str) -> bool {
    name.len() <= 63 && is_label(name)
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes the escapes back.
    fn unescape(part: &str) -> String {
        let mut out = String::new();
        let mut rest = part.chars().peekable();
        while let Some(c) = rest.next() {
            match (c, rest.peek()) {
                ('_', Some('-')) => out.extend(rest.next().map(|_| '.')),
                ('_', Some('_')) => out.extend(rest.next()),
                _ => out.push(c),
            }
        }
        out
    }

    #[test]
    fn topics_that_openfunction_would_mix_up_differ() {
        let topic = |source: &str, event| TopicName::event(&ObjectName::new("ns", source), event).to_string();
        assert_eq!(topic("a-b", "c"), "ns.a-b.c");
        assert_eq!(topic("a", "b-c"), "ns.a.b-c");
        assert_eq!(topic("a.b", "c"), "ns.a_-b.c");
        assert_eq!(TopicName::named("ns", "dead.letters").parts().collect::<Vec<_>>(), ["ns", "dead_-letters"]);
        assert_eq!(TopicName::parse("ns.a_-b.c"), TopicName::event(&ObjectName::new("ns", "a.b"), "c"));
    }

    #[test]
    fn names_that_may_be_given() {
        let longest = "a".repeat(63);
        for name in ["a", "A-b_c", "0", longest.as_str()] {
            assert!(is_event_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "_a", "a.b", "a b", "é", &"a".repeat(64)] {
            assert!(!is_event_name(name), "{name}");
        }
        assert!(is_object_name("a.b-c.0") && is_object_name(&"a".repeat(253)));
        assert!(!is_object_name(&"a".repeat(254)) && !is_object_name("a_b") && !is_object_name("a.-b"));
        assert!(is_namespace("a-b") && !is_namespace("a.b") && !is_namespace(&"a".repeat(64)) && !is_namespace(""));
    }

    #[test]
    fn objects_are_shown_by_namespace_and_name() {
        let owner = ObjectName::new("shop", "t");
        assert_eq!(SubscriptionId { owner, subscriber: "0".into() }.to_string(), "shop/t/0");
        assert_eq!(ObjectName::new("", "bus").to_string(), "bus");
    }

    proptest! {
        #[test]
        fn no_two_texts_give_one_part(text in "[-_.a]{0,12}") {
            let part = escape(&text);
            prop_assert!(!part.contains('.'));
            prop_assert_eq!(unescape(&part), text);
        }
    }
}
