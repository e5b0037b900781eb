//! Which kind each bus was when it last ran here, as the data directory remembers, and what a bus that becomes another kind leaves
//! behind. So does one whose name comes to mean another bus: a name that means a ClusterEventBus is remembered as a kind of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evoke_api::catalog::BusName;
use evoke_api::names::{ObjectName, SubscriptionId};

use super::buses::{self, label};
use super::plan::Plans;

const FILE: &str = "BUSES";
const FORMAT: &str = "evoke buses, format ";
const VERSION: &str = "1";
/// A bus of which nothing is written down is of this kind where it has a folder: what came before did not write it down.
const EMBEDDED: &str = "embedded";
/// What a name is in its namespace that means a ClusterEventBus.
const CLUSTER: &str = "cluster";
/// A line, of no bus, in a file that has every name which meant a ClusterEventBus. What came before wrote none of them down.
const COMPLETE: (&str, &str) = ("_names", "known");
/// How many subscriptions an error names.
const NAMED: usize = 10;

/// The kinds of the buses that ran on one data directory.
#[derive(Debug)]
pub(crate) struct Kinds {
    data_dir: PathBuf,
    kinds: BTreeMap<String, String>,
}

/// A bus that is to be of another kind than it was, or a name that is to mean another one.
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
    /// Nobody can tell while it runs.
    Running,
    /// Nobody can tell, and why.
    Unknown(String),
}

impl Left {
    /// What is known of a bus of this kind that runs: events may come to it until it ends.
    pub(crate) fn of_running(kind: Option<&str>) -> Self {
        let unknown = || Self::Unknown("only an embedded bus is looked at".to_owned());
        kind.filter(|kind| *kind == EMBEDDED).map_or_else(unknown, |_| Self::Running)
    }
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
        let mut kinds = self.kinds.clone();
        kinds.insert(bus.to_owned(), kind.to_owned());
        self.write(kinds)
    }

    /// Remembers which names mean a ClusterEventBus, durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn set_names(&mut self, plans: &Plans) -> io::Result<()> {
        let mut kinds = self.kinds.clone();
        kinds.insert(COMPLETE.0.to_owned(), COMPLETE.1.to_owned());
        for name in cluster_names(plans) {
            kinds.insert(label(&BusName::Namespaced(name)), CLUSTER.to_owned());
        }
        if kinds == self.kinds { Ok(()) } else { self.write(kinds) }
    }

    fn write(&mut self, kinds: BTreeMap<String, String>) -> io::Result<()> {
        let (path, new) = (self.data_dir.join(FILE), self.data_dir.join(format!("{FILE}.new")));
        let mut file = File::create(&new)?;
        writeln!(file, "{FORMAT}{VERSION}")?;
        for (bus, kind) in &kinds {
            writeln!(file, "{bus} {kind}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.data_dir)?.sync_all()?;
        self.kinds = kinds;
        Ok(())
    }

    /// The buses that are of another kind in `plans`, and the names that mean another bus, with what waits on the old ones. `running` has
    /// the labels of those that run, at which nobody can look.
    pub(crate) async fn changes(&self, plans: &Plans, running: &BTreeSet<String>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, plan) in &plans.buses {
            let (bus, now) = (label(name), plan.kind.name());
            let Some(was) = self.of(&bus).filter(|was| *was != now) else { continue };
            let left = self.left(&bus, was, running).await;
            changes.push(Change { was: was.to_owned(), bus, now, left });
        }
        for name in cluster_names(plans) {
            let meant = label(&BusName::Cluster(name.name.to_string()));
            // Of a ClusterEventBus that ran before such names were written down, they are taken to have meant it.
            if !self.kinds.contains_key(COMPLETE.0) && self.of(&meant).is_some() {
                continue;
            }
            let bus = label(&BusName::Namespaced(name));
            let Some(was) = self.of(&bus).filter(|was| *was != CLUSTER) else { continue };
            let left = self.left(&bus, was, running).await;
            changes.push(Change { was: was.to_owned(), bus, now: CLUSTER, left });
        }
        changes
    }

    /// What waits on the bus that `bus` was.
    async fn left(&self, bus: &str, was: &str, running: &BTreeSet<String>) -> Left {
        // A label's namespace has no dot.
        let (namespace, name) = bus.split_once('.').unwrap_or((bus, ""));
        let of_cluster = was == CLUSTER;
        let held = if of_cluster { label(&BusName::Cluster(name.to_owned())) } else { bus.to_owned() };
        let kind = if of_cluster { self.of(&held) } else { Some(was) };
        if kind != Some(EMBEDDED) || running.contains(&held) {
            return Left::of_running(kind);
        }
        match buses::waiting(&held, &self.data_dir).await {
            // What others have on a ClusterEventBus is not left behind.
            Ok(waiting) => {
                let is_left = |id: &SubscriptionId| !of_cluster || *id.owner.namespace == *namespace;
                Left::Events(waiting.into_iter().filter(|(id, _)| is_left(id)).collect())
            }
            Err(why) => Left::Unknown(why),
        }
    }
}

/// The namespaces and names under which Triggers and EventSources mean a ClusterEventBus.
fn cluster_names(plans: &Plans) -> BTreeSet<ObjectName> {
    let triggers = plans.triggers.values().map(|plan| (&plan.name, Some(&plan.bus)));
    let sources = plans.event_sources.values().map(|plan| (&plan.name, plan.bus.as_ref()));
    let meant = triggers.chain(sources).filter_map(|(of, bus)| match bus {
        Some(BusName::Cluster(name)) => Some(ObjectName::new(of.namespace.clone(), name.as_str())),
        Some(BusName::Namespaced(_) | BusName::Default(_)) | None => None,
    });
    meant.collect()
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
        let Self { was, now, left, .. } = self;
        format!("it was {} and would become {}, and {left}: {}", spelled(was), spelled(now), self.ways_out())
    }

    /// What lets it be made.
    pub(crate) fn ways_out(&self) -> String {
        // A label's namespace has no dot. Manifests that mean a ClusterEventBus have no bus in the namespace.
        let flag = match self.bus.split_once('.') {
            Some((_, name)) if self.now == CLUSTER => name.to_owned(),
            _ => self.bus.replacen('.', "/", 1),
        };
        let seen = "`evoke subscription list` shows that nothing waits";
        match self.left {
            Left::Events(_) => {
                format!("run the manifests that it had until {seen}, or give up what waits with --abandon {flag}")
            }
            Left::Running => format!(
                "stop evoke once {seen}, then start it again, or start it with --abandon {flag}, which gives up what waits"
            ),
            // Other namespaces may go on with that bus, so that there may always be something on it.
            Left::Unknown(_) if self.was == CLUSTER => format!(
                "start evoke with --abandon {flag}, which gives up what waits there for the namespace, if anything does; \
                 nothing is deleted"
            ),
            Left::Unknown(_) => format!(
                "run the manifests that it had until {seen}, then start evoke with --abandon {flag}, which gives up what waits"
            ),
        }
    }
}

/// A kind, in words.
fn spelled(kind: &str) -> &str {
    if kind == CLUSTER { "the ClusterEventBus of that name" } else { kind }
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
            Self::Running => f.write_str("what waits there is not known while it runs"),
            Self::Unknown(why) => write!(f, "what waits there cannot be seen from here ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::names::TopicName;
    use evoke_delivery::plan::DeadLetterPlan;
    use evoke_eventbus::bus::{EventBus, From, Partition};
    use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
    use evoke_eventbus::event::Event;
    use evoke_eventbus::metrics::BusMetrics;
    use evoke_eventbus::plan::redis::RedisPlan;
    use evoke_eventbus::plan::{BusKind, BusPlan, EmbeddedPlan};
    use evoke_eventbus::subscription::{Settings, Subscriptions, metrics};
    use evoke_eventsource::plan::EventSourcePlan;
    use evoke_trigger::plan::TriggerPlan;
    use prometheus::Registry;

    use super::*;

    /// A bus, and a Trigger of the namespace `shop` on it.
    fn plans(bus: BusName, kind: BusKind) -> Plans {
        let name = ObjectName::new("shop", "t");
        let trigger = TriggerPlan { name: name.clone(), bus: bus.clone(), inputs: Vec::new(), subscribers: Vec::new() };
        Plans {
            buses: [(bus, BusPlan { max_event_bytes: 1 << 20, kind })].into(),
            triggers: [(name, trigger)].into(),
            ..Plans::default()
        }
    }

    fn own() -> BusName {
        BusName::Namespaced(ObjectName::new("shop", "main"))
    }

    fn of_cluster() -> BusName {
        BusName::Cluster("main".to_owned())
    }

    fn redis(bus: BusName) -> Plans {
        plans(bus, BusKind::Redis(RedisPlan::at("127.0.0.1", 6379)))
    }

    fn embedded(bus: BusName) -> Plans {
        plans(bus, BusKind::Embedded(EmbeddedPlan::default()))
    }

    /// What changes when nothing runs.
    async fn changes(kinds: &Kinds, plans: &Plans) -> Vec<Change> {
        kinds.changes(plans, &BTreeSet::new()).await
    }

    fn behind(events: u64) -> Left {
        Left::Events(vec![(
            SubscriptionId { owner: ObjectName::new("shop", "t"), subscriber: "behind".into() },
            events,
        )])
    }

    /// An embedded bus on which events wait for one subscription of a namespace, and none for another.
    async fn fill(data_dir: &Path, label: &str, namespace: &str, events: usize) {
        let options = EmbeddedOptions::new(label, BusMetrics::new(&Registry::new()).unwrap());
        let bus = EmbeddedBus::open(&evoke_eventbus::open::embedded_folder(data_dir, label), options).unwrap();
        let metrics = metrics::Metrics::new(&Registry::new()).unwrap();
        let subscriptions = Subscriptions::start(bus.clone(), Settings::default(), &metrics);
        let topic = TopicName::parse("shop.web.orders");
        let id =
            |subscriber: &str| SubscriptionId { owner: ObjectName::new(namespace, "t"), subscriber: subscriber.into() };
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
        assert_eq!(changes(&kinds, &redis(own())).await, []);
        // Nothing is written down of it: its folder tells.
        fill(empty.path(), "shop.main", "shop", 0).await;
        let found = changes(&kinds, &redis(own())).await;
        assert!(found.len() == 1 && found[0].is_clean(), "{found:?}");
        let kinds = Kinds::read(dir.path()).unwrap();
        fill(dir.path(), "shop.main", "shop", 3).await;
        let found = changes(&kinds, &redis(own())).await;
        let change = Change { bus: "shop.main".into(), was: "embedded".into(), now: "redis", left: behind(3) };
        assert_eq!(found, [change]);
        let text = found[0].refusal();
        for part in ["was embedded and would become redis", "3 of shop/t/behind", "--abandon shop/main"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(changes(&kinds, &embedded(own())).await, []);
    }

    #[tokio::test]
    async fn what_a_broker_holds_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), "shop.main", "shop", 3).await;
        let mut kinds = Kinds::read(dir.path()).unwrap();
        kinds.set("shop.main", "redis").unwrap();
        assert_eq!(changes(&kinds, &redis(own())).await, []);
        let found = changes(&kinds, &embedded(own())).await;
        assert!(matches!(&found[..], [Change { was, now: "embedded", left: Left::Unknown(_), .. }] if was == "redis"));
        assert!(!found[0].is_clean());
        let text = found[0].refusal();
        for part in ["cannot be seen", "nothing waits, then start evoke with --abandon shop/main"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_comes_to_mean_another_bus_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut kinds = Kinds::read(dir.path()).unwrap();
        kinds.set("shop.main", "embedded").unwrap();
        kinds.set_names(&embedded(own())).unwrap();
        fill(dir.path(), "shop.main", "shop", 3).await;
        let found = changes(&kinds, &embedded(of_cluster())).await;
        let change = Change { bus: "shop.main".into(), was: "embedded".into(), now: "cluster", left: behind(3) };
        assert_eq!(found, [change]);
        let text = found[0].refusal();
        let said = "was embedded and would become the ClusterEventBus of that name";
        for part in [said, "3 of shop/t/behind", "--abandon main"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let running = BTreeSet::from(["shop.main".to_owned()]);
        let found = kinds.changes(&embedded(of_cluster()), &running).await;
        assert!(matches!(&found[..], [Change { left: Left::Running, .. }]), "{found:?}");
        let text = found[0].refusal();
        for part in ["while it runs: stop evoke once", "start it again", "--abandon main"] {
            assert!(text.contains(part), "{part}: {text}");
        }

        // What is given up stays known as such after the next start.
        kinds.set("_cluster.main", "embedded").unwrap();
        kinds.set_names(&embedded(of_cluster())).unwrap();
        let mut kinds = Kinds::read(dir.path()).unwrap();
        assert_eq!(changes(&kinds, &embedded(of_cluster())).await, []);

        // On the way back, what others have on the bus of all is none of this name's.
        let found = changes(&kinds, &embedded(own())).await;
        assert!(found.len() == 1 && found[0].is_clean(), "{found:?}");
        fill(dir.path(), "_cluster.main", "bank", 5).await;
        fill(dir.path(), "_cluster.main", "shop", 2).await;
        let found = changes(&kinds, &embedded(own())).await;
        let change = Change { bus: "shop.main".into(), was: "cluster".into(), now: "embedded", left: behind(2) };
        assert_eq!(found, [change]);
        let text = found[0].refusal();
        for part in ["was the ClusterEventBus of that name and would become embedded", "--abandon shop/main"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        kinds.set("_cluster.main", "redis").unwrap();
        let running = BTreeSet::from(["_cluster.main".to_owned()]);
        for running in [BTreeSet::new(), running] {
            let found = kinds.changes(&embedded(own()), &running).await;
            assert!(matches!(&found[..], [Change { left: Left::Unknown(_), .. }]), "{found:?}");
            let text = found[0].refusal();
            assert!(text.contains(": start evoke with --abandon shop/main, which gives up"), "{text}");
            assert!(!text.contains("run the manifests") && !text.contains("start it again"), "another refusal: {text}");
        }
        kinds.set("shop.main", "embedded").unwrap();
        assert_eq!(changes(&kinds, &embedded(own())).await, []);
    }

    #[tokio::test]
    async fn what_came_before_did_not_write_names_down() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("BUSES");
        fill(dir.path(), "shop.main", "shop", 3).await;
        fs::write(&file, "evoke buses, format 1\n_cluster.main redis\nshop.main embedded\n").unwrap();
        let mut kinds = Kinds::read(dir.path()).unwrap();
        assert_eq!(
            changes(&kinds, &redis(of_cluster())).await,
            [],
            "the bus of all ran here, and is taken for this one"
        );
        kinds.set_names(&redis(of_cluster())).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, "evoke buses, format 1\n_cluster.main redis\n_names known\nshop.main cluster\n");
        kinds.set("shop.main", "embedded").unwrap();
        assert_eq!(changes(&kinds, &redis(of_cluster())).await.len(), 1, "it is known from here on");

        fs::write(&file, "evoke buses, format 1\nshop.main embedded\n").unwrap();
        let kinds = Kinds::read(dir.path()).unwrap();
        assert_eq!(changes(&kinds, &redis(of_cluster())).await.len(), 1, "the bus of all never ran here");
    }

    #[test]
    fn names_are_those_of_triggers_and_event_sources() {
        let mut all = redis(of_cluster());
        for (namespace, bus) in [("crm", Some(of_cluster())), ("apart", Some(own())), ("alone", None)] {
            let name = ObjectName::new(namespace, "web");
            let (events, dead_letter) = (Vec::new(), DeadLetterPlan::Store);
            let source = EventSourcePlan { name: name.clone(), bus, events, sink: None, dead_letter };
            all.event_sources.insert(name, source);
        }
        assert_eq!(cluster_names(&all), ["crm", "shop"].map(|namespace| ObjectName::new(namespace, "main")).into());
    }
}
