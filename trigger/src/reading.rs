//! One event, read as far as conditions need it, and at most once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cel_interpreter::common::types::{CelMap, CelMapKey, CelString};
use cel_interpreter::common::value::Val;
use chrono::DateTime;
use evoke_eventbus::event::Event;

use crate::json::{self, Datum, Node, Tree};
use crate::shared::{Kept, Share};
use crate::value::{self, Container, Value};

/// What one value of a list or map takes, in bytes, more or less.
const VALUE_BYTES: usize = 64;

/// An event and what was read of its data so far, along the paths of a [`Tree`].
#[derive(Debug)]
pub(crate) struct Reading {
    event: Event,
    tree: Arc<Tree>,
    /// What of it counts where it is kept for others.
    share: Option<Share>,
    data: OnceLock<Data>,
    whole: OnceLock<Made>,
}

#[derive(Debug)]
enum Data {
    None,
    Text,
    Bytes,
    Json(Json),
    Unreadable(Unreadable),
}

type Made = Result<Container, Unreadable>;

#[derive(Debug)]
struct Json {
    found: Box<[Datum]>,
    /// At each node, made when it is read as a whole; most conditions never do.
    containers: OnceLock<Box<[OnceLock<Made>]>>,
}

/// Why something of an event cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// There is no such attribute, key or item.
    #[error("there is none")]
    Missing,
    /// The data says it is JSON and is not.
    #[error("the data is no JSON: {0}")]
    NoJson(json::Malformed),
    /// The data says it is text and is not UTF-8.
    #[error("the data is no UTF-8")]
    NoText,
    /// A number that no double holds.
    #[error("the number is larger than any double")]
    OutOfRange,
    /// `time` is no timestamp.
    #[error("it is no RFC 3339 time")]
    NoTime,
}

type Read<'a> = Result<Value<'a>, Unreadable>;

/// How the data is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Bytes,
    Unknown,
}

impl Reading {
    /// Reads nothing yet.
    pub(crate) fn new(event: Event, tree: &Arc<Tree>) -> Self {
        Self { event, tree: Arc::clone(tree), share: None, data: OnceLock::new(), whole: OnceLock::new() }
    }

    /// One that is kept for others.
    pub(crate) fn kept(event: Event, tree: &Arc<Tree>, kept: &Arc<Kept>) -> Self {
        Self { share: Some(Share::of(kept, tree)), ..Self::new(event, tree) }
    }

    /// The paths that it is read along.
    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The event.
    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// The data, or what is in it at a node of the tree.
    ///
    /// # Errors
    /// [`Unreadable`], also for JSON that is malformed elsewhere.
    pub(crate) fn data(&self, node: Node) -> Read<'_> {
        match self.parsed() {
            Data::None if node == Node::ROOT => Ok(Value::Null),
            Data::Text if node == Node::ROOT => Ok(Value::Text(text(self.event.data_slice()))),
            Data::Bytes if node == Node::ROOT => Ok(Value::Bytes(self.event.data_slice())),
            Data::None | Data::Text | Data::Bytes => Err(Unreadable::Missing),
            Data::Json(json) => self.datum(json, node),
            Data::Unreadable(why) => Err(why.clone()),
        }
    }

    /// Whether the data holds a key at a node of the tree, which must be below another one.
    ///
    /// # Errors
    /// [`Unreadable`] when what should hold the key is not there or holds no keys, as `has()` does.
    pub(crate) fn has_data(&self, node: Node, parent: Node) -> Result<bool, Unreadable> {
        match self.parsed() {
            Data::Json(json) => match (json.found.get(parent.index()), json.found.get(node.index())) {
                (Some(Datum::Object(..)), Some(Datum::Missing)) => Ok(false),
                (Some(Datum::Object(..)), Some(_)) => Ok(true),
                _ => Err(Unreadable::Missing),
            },
            Data::Unreadable(why) => Err(why.clone()),
            Data::None | Data::Text | Data::Bytes => Err(Unreadable::Missing),
        }
    }

    fn datum<'a>(&'a self, json: &'a Json, node: Node) -> Read<'a> {
        match json.found.get(node.index()).unwrap_or(&Datum::Missing) {
            Datum::Missing => Err(Unreadable::Missing),
            Datum::Null => Ok(Value::Null),
            Datum::Bool(value) => Ok(Value::Bool(*value)),
            Datum::Int(value) => Ok(Value::Int(*value)),
            Datum::UInt(value) => Ok(Value::UInt(*value)),
            Datum::Double(value) => Ok(Value::Double(*value)),
            Datum::OutOfRange => Err(Unreadable::OutOfRange),
            Datum::Text(from, to) => Ok(Value::Text(self.part(*from, *to))),
            Datum::Unescaped(value) => Ok(Value::Text(value)),
            Datum::Object(from, to) | Datum::Array(from, to) => {
                let places = json.containers.get_or_init(|| json.found.iter().map(|_| OnceLock::new()).collect());
                let place = places.get(node.index()).ok_or(Unreadable::Missing)?;
                let made = place.get_or_init(|| {
                    let built = value::build(self.part(*from, *to)).map_err(|_| Unreadable::OutOfRange)?;
                    Ok(self.counted(Container::new(built)))
                });
                made.as_ref().map(Value::Container).map_err(Clone::clone)
            }
        }
    }

    fn counted(&self, made: Container) -> Container {
        self.count(usize::try_from(made.weight).unwrap_or(usize::MAX).saturating_mul(VALUE_BYTES));
        made
    }

    fn count(&self, bytes: usize) {
        if let Some(share) = &self.share {
            share.grow(bytes);
        }
    }

    fn part(&self, from: u32, to: u32) -> &str {
        text(self.event.data_slice().get(from as usize..to as usize).unwrap_or_default())
    }

    fn parsed(&self) -> &Data {
        self.data.get_or_init(|| {
            let data = self.event.data_slice();
            let format = Format::of(self.event.content_type());
            if data.is_empty() {
                return Data::None;
            }
            if format == Format::Bytes {
                return Data::Bytes;
            }
            let Ok(text) = std::str::from_utf8(data) else {
                return match format {
                    Format::Unknown => Data::Bytes,
                    Format::Text => Data::Unreadable(Unreadable::NoText),
                    _ => Data::Unreadable(Unreadable::NoJson(json::Malformed { at: 0, what: "no UTF-8" })),
                };
            };
            if format == Format::Text {
                return Data::Text;
            }
            match json::read(text, &self.tree) {
                Ok(found) => {
                    self.count(found.iter().map(Datum::held).sum());
                    Data::Json(Json { found, containers: OnceLock::new() })
                }
                Err(_) if format == Format::Unknown => Data::Bytes,
                Err(why) => Data::Unreadable(Unreadable::NoJson(why)),
            }
        })
    }

    /// An attribute or extension.
    ///
    /// # Errors
    /// [`Unreadable::Missing`], and [`Unreadable::NoTime`] for a `time` that is none.
    pub(crate) fn attribute(&self, name: &str) -> Read<'_> {
        attribute(&self.event, name)
    }

    /// The whole event as a map: attributes, extensions and `data`.
    ///
    /// # Errors
    /// [`Unreadable`] when any of it is.
    pub(crate) fn whole(&self) -> Read<'_> {
        let made = self.whole.get_or_init(|| {
            let mut members: HashMap<CelMapKey<'static>, Box<dyn Val>> = HashMap::new();
            for (name, _) in self.event.attributes().chain([("specversion", "")]) {
                members.insert(CelMapKey::from(name.to_owned()), self.attribute(name)?.to_owned());
            }
            members.insert(CelMapKey::String(CelString::from("data")), self.data(Node::ROOT)?.to_owned());
            Ok(self.counted(Container::new(Box::new(CelMap::from(members)))))
        });
        made.as_ref().map(Value::Container).map_err(Clone::clone)
    }
}

/// An attribute or extension of an event, as conditions see it.
///
/// # Errors
/// [`Unreadable::Missing`], and [`Unreadable::NoTime`] for a `time` that is none.
pub(crate) fn attribute<'a>(event: &'a Event, name: &str) -> Read<'a> {
    if name == "specversion" {
        return Ok(Value::Text("1.0"));
    }
    let text = event.attribute(name).ok_or(Unreadable::Missing)?;
    if name == "time" {
        return DateTime::parse_from_rfc3339(text).map(Value::Time).map_err(|_| Unreadable::NoTime);
    }
    Ok(Value::Text(text))
}

/// True when an event carries the attribute; `data` counts as one when it is not empty.
pub(crate) fn has_attribute(event: &Event, name: &str) -> bool {
    match name {
        "specversion" => true,
        "data" => !event.data_slice().is_empty(),
        name => event.attribute(name).is_some(),
    }
}

/// The slices come from text that was found to be UTF-8 as a whole and were cut at ASCII.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl Format {
    fn of(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type else { return Self::Unknown };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let ends = |suffix: &str| {
            essence
                .len()
                .checked_sub(suffix.len())
                .and_then(|at| essence.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        };
        let starts = |prefix: &str| essence.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if essence.is_empty() {
            Self::Unknown
        } else if ends("/json") || ends("+json") {
            Self::Json
        } else if starts("text/") {
            Self::Text
        } else {
            Self::Bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Step;

    fn reading<'a>(
        tree: &Arc<Tree>,
        content_type: Option<&'a str>,
        data: impl Into<evoke_eventbus::event::Data<'a>>,
    ) -> Reading {
        let event = Event::builder("1", "/s", "t")
            .attribute_if("datacontenttype", content_type)
            .attribute("time", "2024-02-03T04:05:06.7+01:00")
            .data(data)
            .build()
            .unwrap();
        Reading::new(event, tree)
    }

    fn shown(read: Read<'_>) -> String {
        match read {
            Ok(Value::Container(container)) => format!("container of {}", container.weight),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn data_is_what_its_content_type_says() {
        let path = [Step::Key("a".into())];
        let tree = Arc::new(Tree::new([path.as_slice()]));
        let a = tree.find(&path).unwrap();
        for (content_type, data, whole, at_a) in [
            (Some("application/json"), r#"{"a":1}"#, "container of 3", "Ok(Int(1))"),
            (Some("Application/JSON; charset=utf-8"), r#"{"a":1}"#, "container of 3", "Ok(Int(1))"),
            (Some("text/json"), r#"{"a":1}"#, "container of 3", "Ok(Int(1))"),
            (Some("application/vnd.x+json"), r#"{"a":"b"}"#, "container of 3", "Ok(Text(\"b\"))"),
            (None, r#"{"a":null}"#, "container of 3", "Ok(Null)"),
            (None, "42", "Ok(Int(42))", "Err(Missing)"),
            (None, "hello", "Ok(Bytes([104, 101, 108, 108, 111]))", "Err(Missing)"),
            (Some("text/plain"), "hello", "Ok(Text(\"hello\"))", "Err(Missing)"),
            (Some("text/plain"), "{\"a\":1}", "Ok(Text(\"{\\\"a\\\":1}\"))", "Err(Missing)"),
            (Some("application/octet-stream"), "{}", "Ok(Bytes([123, 125]))", "Err(Missing)"),
            (Some("application/json"), "", "Ok(Null)", "Err(Missing)"),
            (
                Some("application/json"),
                "{\"a\":1",
                "Err(NoJson(Malformed { at: 6, what: \"neither comma nor brace after a member\" }))",
                "Err(NoJson(Malformed { at: 6, what: \"neither comma nor brace after a member\" }))",
            ),
        ] {
            let reading = reading(&tree, content_type, data);
            assert_eq!(shown(reading.data(Node::ROOT)), whole, "{content_type:?} {data}");
            assert_eq!(shown(reading.data(a)), at_a, "{content_type:?} {data}");
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        let tree = Arc::new(Tree::new([]));
        let invalid = bytes::Bytes::from_static(&[0x22, 0xFF, 0x22]);
        let data = |content_type| shown(reading(&tree, content_type, invalid.clone()).data(Node::ROOT));
        assert_eq!(data(None), "Ok(Bytes([34, 255, 34]))");
        assert_eq!(data(Some("text/plain")), "Err(NoText)");
        assert!(data(Some("application/json")).starts_with("Err(NoJson"));
    }

    #[test]
    fn attributes_are_text_but_time() {
        let reading = reading(&Arc::default(), None, "");
        assert_eq!(shown(reading.attribute("id")), "Ok(Text(\"1\"))");
        assert_eq!(shown(reading.attribute("specversion")), "Ok(Text(\"1.0\"))");
        assert_eq!(shown(reading.attribute("time")), "Ok(Time(2024-02-03T04:05:06.700+01:00))");
        assert_eq!(shown(reading.attribute("subject")), "Err(Missing)");
        assert!(!has_attribute(reading.event(), "data"));
        assert!(has_attribute(reading.event(), "time"));
    }

    #[test]
    fn a_text_that_is_escaped_or_not_is_the_same_text() {
        let paths = [[Step::Key("a".into())], [Step::Key("b".into())]];
        let tree = Arc::new(Tree::new(paths.iter().map(<[Step; 1]>::as_slice)));
        let reading = reading(&tree, Some("application/json"), r#"{"a":"x\u0079z/ü","b":"xyz\/ü"}"#);
        let at = |i: usize| match reading.data(tree.find(&paths[i]).unwrap()) {
            Ok(Value::Text(text)) => text.to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(at(0), "xyz/ü");
        assert_eq!(at(1), at(0));
    }
}
