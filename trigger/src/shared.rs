//! What the conditions over one bus share in a process: for each topic the paths into its data that any of them reads, so that an event is
//! parsed once for all.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use evoke_api::limits;
use evoke_api::names::TopicName;
use evoke_eventbus::bus::Record;
use parking_lot::Mutex;

use crate::condition::{Binding, Condition};
use crate::json::Tree;
use crate::reading::Reading;

/// The topics of one bus that conditions of this process read. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Readings(Arc<Topics>);

#[derive(Debug, Default)]
struct Topics {
    topics: Mutex<HashMap<TopicName, Weak<Topic>>>,
    kept: Arc<Kept>,
}

/// One topic, and the conditions that judge its events.
#[derive(Debug)]
struct Topic {
    members: Mutex<Members>,
    /// Changes with every change of the members.
    generation: AtomicU64,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct Members {
    conditions: BTreeMap<u64, Condition>,
    last: u64,
    /// The paths of all of them.
    tree: Arc<Tree>,
}

/// The place of a condition among those that judge the events of one topic. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Member {
    topic: Arc<Topic>,
    id: u64,
    generation: u64,
    binding: Binding,
    /// Whether others read the data too.
    shares: bool,
}

impl Readings {
    /// Counts a condition among those that judge the events of a topic.
    pub(crate) fn join(&self, topic: &TopicName, condition: &Condition) -> Member {
        let topic = self.topic(topic);
        let id = topic.members.lock().add(condition);
        topic.generation.fetch_add(1, Ordering::Release);
        let binding = Binding::new(condition, &Arc::default());
        let mut member = Member { topic, id, generation: 0, binding, shares: false };
        member.follow(condition);
        member
    }

    fn topic(&self, name: &TopicName) -> Arc<Topic> {
        let mut topics = self.0.topics.lock();
        if let Some(topic) = topics.get(name).and_then(Weak::upgrade) {
            return topic;
        }
        topics.retain(|_, topic| topic.strong_count() > 0);
        let topic = Arc::new(Topic {
            members: Mutex::new(Members { conditions: BTreeMap::new(), last: 0, tree: Arc::default() }),
            generation: AtomicU64::new(0),
            kept: Arc::clone(&self.0.kept),
        });
        topics.insert(name.clone(), Arc::downgrade(&topic));
        topic
    }
}

impl Members {
    fn add(&mut self, condition: &Condition) -> u64 {
        self.last += 1;
        self.conditions.insert(self.last, condition.clone());
        self.merge();
        self.last
    }

    fn remove(&mut self, id: u64) {
        self.conditions.remove(&id);
        self.merge();
    }

    fn merge(&mut self) {
        self.tree = Arc::new(Tree::new(self.conditions.values().flat_map(|c| c.paths().iter().map(Vec::as_slice))));
    }
}

impl Member {
    /// Takes up what others have changed by coming and going. To be called before an event is judged.
    pub(crate) fn follow(&mut self, condition: &Condition) {
        let now = self.topic.generation.load(Ordering::Acquire);
        if now != self.generation {
            let members = self.topic.members.lock();
            self.binding = Binding::new(condition, &members.tree);
            self.shares = members.conditions.values().filter(|condition| condition.reads_data()).count() > 1;
            self.generation = now;
        }
    }

    /// Where the condition's paths are in the readings that [`Member::reading`] gives.
    pub(crate) fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The reading of an event: the one that another condition made of it, or a new one.
    pub(crate) fn reading(&self, record: &Record) -> Arc<Reading> {
        let tree = self.binding.tree();
        let noted = (self.shares && self.topic.kept.has_room())
            .then(|| record.note.get_or_make(|| Reading::kept(record.event.clone(), tree, &self.topic.kept)))
            .flatten();
        match noted {
            Some(reading) if Arc::ptr_eq(reading.tree(), tree) => reading,
            // Made before others came or went.
            _ => Arc::new(Reading::new(record.event.clone(), tree)),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.topic.members.lock().remove(self.id);
        self.topic.generation.fetch_add(1, Ordering::Release);
    }
}

/// How much is kept for others, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Kept(AtomicUsize);

impl Kept {
    fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) < limits::READING_BYTES
    }
}

/// The part of one reading.
#[derive(Debug)]
pub(crate) struct Share {
    kept: Arc<Kept>,
    bytes: AtomicUsize,
}

impl Share {
    /// That of a reading along a tree.
    pub(crate) fn of(kept: &Arc<Kept>, tree: &Tree) -> Self {
        let share = Self { kept: Arc::clone(kept), bytes: AtomicUsize::new(0) };
        share.grow(size_of::<Reading>() + tree.bytes());
        share
    }

    /// It holds so many bytes more.
    pub(crate) fn grow(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.kept.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.kept.0.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use evoke_eventbus::bus::Position;
    use evoke_eventbus::event::Event;

    use super::*;

    fn record(data: &str) -> Record {
        let event = Event::builder("1", "/s", "t").attribute("datacontenttype", "application/json");
        Record::new(Position(0), SystemTime::UNIX_EPOCH, event.data(data.to_owned()).build().unwrap())
    }

    fn condition(text: &str) -> Condition {
        Condition::compile(text, &[]).unwrap()
    }

    fn kept(readings: &Readings) -> usize {
        readings.0.kept.0.load(Ordering::Relaxed)
    }

    #[test]
    fn an_event_is_read_once_for_all_conditions_over_its_topic() {
        let readings = Readings::default();
        let [a, b] = ["event.data.a == 1", "event.data.b == 2"].map(condition);
        let topic = TopicName::named("shop", "orders");
        let mut one = readings.join(&topic, &a);
        let two = readings.join(&topic, &b);
        let elsewhere = readings.join(&TopicName::named("shop", "payments"), &a);
        one.follow(&a);
        let record = record("{\"a\":1,\"b\":2}");
        let reading = one.reading(&record);
        assert!(Arc::ptr_eq(&reading, &two.reading(&record)));
        assert!(Arc::ptr_eq(&reading, &two.reading(&record.clone())));
        assert!(!Arc::ptr_eq(&reading, &elsewhere.reading(&record)));
        assert!(kept(&readings) > 0);
        drop((reading, record));
        assert_eq!(kept(&readings), 0);
    }

    #[test]
    fn who_is_alone_keeps_nothing() {
        let readings = Readings::default();
        let [a, of_no_data] = ["event.data.a == 1", "event.type == 'x'"].map(condition);
        let topic = TopicName::named("shop", "orders");
        let _other = readings.join(&topic, &of_no_data);
        let one = readings.join(&topic, &a);
        let record = record("{\"a\":1}");
        assert!(!Arc::ptr_eq(&one.reading(&record), &one.reading(&record)));
        assert_eq!(kept(&readings), 0);
    }

    #[test]
    fn who_comes_and_goes_is_followed_with_the_next_event() {
        let readings = Readings::default();
        let [a, b, c] = ["event.data.a == 1", "event.data.b == 2", "event.data.c == 3"].map(condition);
        let topic = TopicName::named("shop", "orders");
        let (mut one, mut two) = (readings.join(&topic, &a), readings.join(&topic, &b));
        one.follow(&a);
        let record = record("{}");
        let before = one.reading(&record);
        let mut three = readings.join(&topic, &c);
        // One that has not heard of it yet reads as before; what it has noted is of no use to who has.
        assert!(Arc::ptr_eq(&before, &two.reading(&record)));
        assert!(!Arc::ptr_eq(&before, &three.reading(&record)));
        let next = super::tests::record("{}");
        one.follow(&a);
        two.follow(&b);
        assert!(Arc::ptr_eq(&one.reading(&next), &three.reading(&next)));
        assert!(Arc::ptr_eq(&one.reading(&next), &two.reading(&next)));
        drop((one, two));
        three.follow(&c);
        assert!(!three.shares);
        drop(three);
        assert_eq!(readings.topic(&topic).members.lock().conditions.len(), 0);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let readings = Readings::default();
        let whole = condition("event.data.exists(x, x == 1)");
        let topic = TopicName::named("shop", "orders");
        let (mut one, two) = (readings.join(&topic, &whole), readings.join(&topic, &whole));
        one.follow(&whole);
        let numbers = format!("[{}]", vec!["1"; 1_000].join(","));
        let records: Vec<_> = (0..1_000).map(|_| record(&numbers)).collect();
        for record in &records {
            let reading = one.reading(record);
            reading.data(crate::json::Node::ROOT).unwrap();
            two.reading(record);
        }
        let most = kept(&readings);
        let each = most / records.iter().filter(|r| format!("{:?}", r.note) == "Note").count();
        assert!((limits::READING_BYTES..limits::READING_BYTES + each * 2).contains(&most), "{most}");
        drop(records);
        assert_eq!(kept(&readings), 0);
    }
}
