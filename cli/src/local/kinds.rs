//! Which kind each bus was when it last ran here, as the data directory remembers, and what a bus that becomes another kind leaves
//! behind.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evoke_api::names::SubscriptionId;

use super::buses;
use super::plan::Plans;

const FILE: &str = "BUSES";
const FORMAT: &str = "evoke buses, format ";
const VERSION: &str = "1";
/// A bus of which nothing is written down is of this kind where it has a folder: what came before did not write it down.
const EMBEDDED: &str = "embedded";
/// How many subscriptions an error names.
const NAMED: usize = 10;

/// The kinds of the buses that ran on one data directory.
#[derive(Debug)]
pub(crate) struct Kinds {
    data_dir: PathBuf,
    kinds: BTreeMap<String, String>,
}

/// A bus that is to be of another kind than it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its label.
    pub(crate) bus: String,
    /// What it was.
    pub(crate) was: String,
    /// What it is to be.
    pub(crate) now: &'static str,
    /// What waits on the old one.
    pub(crate) left: Left,
}

/// What waits on a bus that is no longer in the manifests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// So many events of these subscriptions; of none when it is empty.
    Events(Vec<(SubscriptionId, u64)>),
    /// Nobody can tell, and why.
    Unknown(String),
}

impl Kinds {
    /// Reads what a data directory remembers.
    ///
    /// # Errors
    /// When it cannot be read, or is not what this evoke writes.
    pub(crate) fn read(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        let kinds = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|what| io::Error::other(format!("{}: {what}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { data_dir: data_dir.to_owned(), kinds })
    }

    fn of(&self, bus: &str) -> Option<&str> {
        let had_folder = || evoke_eventbus::open::embedded_folder(&self.data_dir, bus).is_dir().then_some(EMBEDDED);
        self.kinds.get(bus).map(String::as_str).or_else(had_folder)
    }

    /// Remembers the kind of a bus, durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn set(&mut self, bus: &str, kind: &str) -> io::Result<()> {
        if self.kinds.get(bus).is_some_and(|old| old == kind) {
            return Ok(());
        }
        self.kinds.insert(bus.to_owned(), kind.to_owned());
        let (path, new) = (self.data_dir.join(FILE), self.data_dir.join(format!("{FILE}.new")));
        let mut file = File::create(&new)?;
        writeln!(file, "{FORMAT}{VERSION}")?;
        for (bus, kind) in &self.kinds {
            writeln!(file, "{bus} {kind}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.data_dir)?.sync_all()
    }

    /// The buses that are of another kind in `plans`, and what waits on the old ones. None of those may run.
    pub(crate) async fn changes(&self, plans: &Plans) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, plan) in &plans.buses {
            let (bus, now) = (buses::label(name), plan.kind.name());
            let Some(was) = self.of(&bus).filter(|was| *was != now) else { continue };
            let left = if was == EMBEDDED {
                buses::waiting(&bus, &self.data_dir).await.map_or_else(Left::Unknown, Left::Events)
            } else {
                Left::Unknown("these manifests do not say where it is".to_owned())
            };
            changes.push(Change { was: was.to_owned(), bus, now, left });
        }
        changes
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut lines = text.lines();
    match lines.next().and_then(|line| line.strip_prefix(FORMAT)) {
        Some(VERSION) => {}
        Some(found) if found.parse::<u32>().is_ok() => {
            let advice = "take a newer evoke, or another --data-dir";
            return Err(format!("it has format {found}, and this evoke knows format {VERSION}: {advice}"));
        }
        _ => return Err(damaged()),
    }
    let pair = |line: &str| line.split_once(' ').map(|(bus, kind)| (bus.to_owned(), kind.to_owned()));
    lines.map(|line| pair(line).ok_or_else(damaged)).collect()
}

fn damaged() -> String {
    "it is damaged: restore it from a copy, or delete it to go on without knowing of which kind the buses were"
        .to_owned()
}

impl Change {
    /// True if nothing is left behind.
    pub(crate) fn is_clean(&self) -> bool {
        self.left == Left::Events(Vec::new())
    }

    /// Says that the change is made.
    pub(crate) fn report(&self) {
        let Self { bus, was, now, left } = self;
        if self.is_clean() {
            tracing::info!(bus, was, now, "the bus is of another kind than before");
        } else {
            tracing::warn!(bus, was, now, %left, "the bus is of another kind than before, and what waits on the old one is abandoned; it stays there");
        }
    }

    /// Why the change is not made, and the ways out.
    pub(crate) fn refusal(&self) -> String {
        let Self { bus, was, now, left } = self;
        // A label's namespace has no dot.
        let flag = bus.replacen('.', "/", 1);
        format!(
            "it was {was} and would become {now}, and {left}: run the manifests that it had until `evoke subscription list` shows that \
             nothing waits, or give up what waits with --abandon {flag}"
        )
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events(waiting) if waiting.is_empty() => f.write_str("nothing waits there"),
            Self::Events(waiting) => {
                f.write_str("events wait there: ")?;
                for (index, (subscription, events)) in waiting.iter().take(NAMED).enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{events} of {subscription}")?;
                }
                match waiting.len().saturating_sub(NAMED) {
                    0 => Ok(()),
                    more => write!(f, ", and those of {more} more subscriptions"),
                }
            }
            Self::Unknown(why) => write!(f, "what waits there cannot be seen from here ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::catalog::BusName;
    use evoke_api::names::{ObjectName, TopicName};
    use evoke_eventbus::bus::{EventBus, From, Partition};
    use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
    use evoke_eventbus::event::Event;
    use evoke_eventbus::metrics::BusMetrics;
    use evoke_eventbus::plan::redis::RedisPlan;
    use evoke_eventbus::plan::{BusKind, BusPlan, EmbeddedPlan};
    use evoke_eventbus::subscription::{Settings, Subscriptions, metrics};
    use prometheus::Registry;

    use super::*;

    fn plans(kind: BusKind) -> Plans {
        let name = BusName::Namespaced(ObjectName::new("shop", "main"));
        Plans { buses: [(name, BusPlan { max_event_bytes: 1 << 20, kind })].into(), ..Plans::default() }
    }

    fn redis() -> Plans {
        plans(BusKind::Redis(RedisPlan::at("127.0.0.1", 6379)))
    }

    fn embedded() -> Plans {
        plans(BusKind::Embedded(EmbeddedPlan::default()))
    }

    /// An embedded bus on which events wait for one subscription, and none for another.
    async fn fill(data_dir: &Path, events: usize) {
        let options = EmbeddedOptions::new("shop.main", BusMetrics::new(&Registry::new()).unwrap());
        let bus = EmbeddedBus::open(&evoke_eventbus::open::embedded_folder(data_dir, "shop.main"), options).unwrap();
        let metrics = metrics::Metrics::new(&Registry::new()).unwrap();
        let subscriptions = Subscriptions::start(bus.clone(), Settings::default(), &metrics);
        let topic = TopicName::parse("shop.web.orders");
        let id =
            |subscriber: &str| SubscriptionId { owner: ObjectName::new("shop", "t"), subscriber: subscriber.into() };
        subscriptions.declare(&id("behind"), std::slice::from_ref(&topic), From::Next).await.unwrap();
        let batch = (0..events).map(|n| Event::builder(n.to_string(), "/s", "t").build().unwrap()).collect();
        let partition = Partition { topic: topic.clone(), index: 0 };
        for stored in bus.publish(&partition, batch).await.unwrap().await {
            stored.unwrap();
        }
        subscriptions.declare(&id("done"), &[topic], From::Next).await.unwrap();
        subscriptions.close().await;
        bus.close().await.unwrap();
    }

    #[test]
    fn a_kind_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut kinds = Kinds::read(dir.path()).unwrap();
        assert_eq!(kinds.of("shop.main"), None);
        kinds.set("shop.main", "redis").unwrap();
        kinds.set("a.b.c", "kafka").unwrap();
        kinds.set("shop.main", "embedded").unwrap();
        let kinds = Kinds::read(dir.path()).unwrap();
        assert_eq!(
            (kinds.of("shop.main"), kinds.of("a.b.c"), kinds.of("b.c")),
            (Some("embedded"), Some("kafka"), None)
        );
        let text = fs::read_to_string(dir.path().join("BUSES")).unwrap();
        assert_eq!(text, "evoke buses, format 1\na.b.c kafka\nshop.main embedded\n");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (text, wanted) in [
            ("evoke buses, format 2\n", "format 2, and this evoke knows format 1"),
            ("", "damaged"),
            ("evoke buses, format 1\nshop.main\n", "damaged"),
        ] {
            fs::write(dir.path().join("BUSES"), text).unwrap();
            let error = Kinds::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("BUSES"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_embedded_bus_is_looked_at() {
        let (empty, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kinds = Kinds::read(empty.path()).unwrap();
        assert_eq!(kinds.changes(&redis()).await, []);
        // Nothing is written down of it: its folder tells.
        fill(empty.path(), 0).await;
        let changes = kinds.changes(&redis()).await;
        assert!(changes.len() == 1 && changes[0].is_clean(), "{changes:?}");
        let kinds = Kinds::read(dir.path()).unwrap();
        fill(dir.path(), 3).await;
        let changes = kinds.changes(&redis()).await;
        let waiting = SubscriptionId { owner: ObjectName::new("shop", "t"), subscriber: "behind".into() };
        let left = Left::Events(vec![(waiting, 3)]);
        assert_eq!(changes, [Change { bus: "shop.main".into(), was: "embedded".into(), now: "redis", left }]);
        let text = changes[0].refusal();
        for part in ["was embedded and would become redis", "3 of shop/t/behind", "--abandon shop/main"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(kinds.changes(&embedded()).await, []);
    }

    #[tokio::test]
    async fn what_a_broker_holds_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), 3).await;
        let mut kinds = Kinds::read(dir.path()).unwrap();
        kinds.set("shop.main", "redis").unwrap();
        assert_eq!(kinds.changes(&redis()).await, []);
        let changes = kinds.changes(&embedded()).await;
        assert!(
            matches!(&changes[..], [Change { was, now: "embedded", left: Left::Unknown(_), .. }] if was == "redis")
        );
        assert!(!changes[0].is_clean());
        assert!(changes[0].refusal().contains("cannot be seen"), "{}", changes[0].refusal());
    }
}
