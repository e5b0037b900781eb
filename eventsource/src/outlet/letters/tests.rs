use std::collections::VecDeque;

use evoke_adapters::source::{Arrival, Malformed, Outlet};
use evoke_eventbus::bus::{Entry, From, Fut, Health, Mark, Position, Put, Reader, Topic, TopicSpec};
use evoke_eventbus::embedded::{EmbeddedBus, EmbeddedOptions};
use evoke_eventbus::metrics::BusMetrics;
use futures_util::FutureExt;
use parking_lot::Mutex;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::malformed::letter;
use crate::outlet::budget::Budget;
use crate::outlet::bus::BusOutlet;
use crate::outlet::tests::{close, event, malformed, metrics, on, origin, read};

/// The largest event that the topic takes.
const TOPIC_BYTES: usize = 1000;
/// How long a late receipt takes.
const LATE: Duration = Duration::from_millis(100);

/// What becomes of one attempt to publish on the topic.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Refused,
    Uncertain,
    Never,
    Late,
}

/// A bus with a topic that answers as the script says, and takes what is small enough once that is over.
#[derive(Debug)]
struct Grudging {
    inner: Arc<dyn EventBus>,
    script: Mutex<VecDeque<Answer>>,
}

impl EventBus for Grudging {
    fn declare<'a>(&'a self, topic: &'a TopicSpec) -> Fut<'a, Topic> {
        self.inner.declare(topic)
    }

    fn publish<'a>(&'a self, to: &'a Partition, mut events: Vec<Event>) -> Fut<'a, Receipt> {
        if to.topic != topic() {
            return self.inner.publish(to, events);
        }
        let answer = self.script.lock().pop_front();
        async move {
            match answer {
                Some(Answer::Refused) => return Err(BusError::Unavailable("no room".into())),
                Some(Answer::Never) => std::future::pending::<()>().await,
                Some(Answer::Uncertain) => {
                    let lost: Result<(), _> = Err(PublishError::Uncertain("the answer was lost".into()));
                    return Ok(std::future::ready(vec![lost; events.len()]).boxed());
                }
                Some(Answer::Late) | None => {}
            }
            let is_late = answer.is_some();
            let verdict = |event: &Event| match event.encoded_len() {
                bytes if bytes > TOPIC_BYTES => Err(PublishError::TooLarge { bytes, limit: TOPIC_BYTES }),
                _ => Ok(()),
            };
            let verdicts: Vec<_> = events.iter().map(verdict).collect();
            events.retain(|event| verdict(event).is_ok());
            let receipt = self.inner.publish(to, events).await?;
            Ok(async move {
                if is_late {
                    sleep(LATE).await;
                }
                let mut stored = receipt.await.into_iter();
                let results = verdicts.into_iter().map(|verdict| verdict.and_then(|()| stored.next().unwrap()));
                results.collect::<Vec<_>>()
            }
            .boxed())
        }
        .boxed()
    }

    fn read<'a>(&'a self, partition: &'a Partition, from: From, prefetch: usize) -> Fut<'a, Box<dyn Reader>> {
        self.inner.read(partition, from, prefetch)
    }

    fn locate<'a>(&'a self, at: &'a [(Partition, From)]) -> Fut<'a, Vec<Mark>> {
        self.inner.locate(at)
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: Position) -> Fut<'a, ()> {
        self.inner.trim(partition, before)
    }

    fn load<'a>(&'a self, prefix: &'a str) -> Fut<'a, Vec<Entry>> {
        self.inner.load(prefix)
    }

    fn store(&self, puts: Vec<Put>) -> Fut<'_, Vec<Option<u64>>> {
        self.inner.store(puts)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }

    fn stored_bytes<'a>(&'a self, partition: &'a Partition) -> Fut<'a, Option<u64>> {
        self.inner.stored_bytes(partition)
    }

    fn max_event_bytes(&self) -> usize {
        self.inner.max_event_bytes()
    }

    fn max_value_bytes(&self) -> usize {
        self.inner.max_value_bytes()
    }

    fn close(&self) -> Fut<'_, ()> {
        self.inner.close()
    }
}

/// The topic that the manifest names.
fn topic() -> TopicName {
    TopicName::named("ns", "broken")
}

fn embedded(dir: &TempDir, max_event_bytes: usize) -> Arc<EmbeddedBus> {
    let mut options = EmbeddedOptions::new("test", BusMetrics::new(&Registry::new()).unwrap());
    options.max_event_bytes = max_event_bytes;
    EmbeddedBus::open(dir.path(), options).unwrap()
}

async fn grudging(dir: &TempDir, max_event_bytes: usize, script: &[Answer]) -> Subscriptions {
    let (inner, script) = (embedded(dir, max_event_bytes), Mutex::new(script.iter().copied().collect()));
    let subscriptions = on(Arc::new(Grudging { inner, script }));
    for topic in [topic(), TopicName::dead_letters()] {
        subscriptions.declare_store(&topic).await.unwrap();
    }
    subscriptions
}

/// Three attempts, one right after the other.
fn policy() -> DeliveryPolicy {
    let soon = Duration::from_millis(1);
    DeliveryPolicy { retry: 2, delay: soon, delay_max: soon, ..DeliveryPolicy::default() }
}

fn letters(subscriptions: &Subscriptions, policy: DeliveryPolicy) -> Letters {
    Letters { sink: None, policy, topic: Some((subscriptions.clone(), topic())) }
}

/// Everything that a topic holds.
async fn held(subscriptions: &Subscriptions, topic: &TopicName) -> Vec<Event> {
    let bus = &**subscriptions.bus();
    let begin = (Partition { topic: topic.clone(), index: 0 }, From::First);
    let count = bus.locate(&[begin]).await.unwrap()[0].ahead;
    read(bus, topic, usize::try_from(count).unwrap()).await
}

/// The ids of what the topic holds, and of what the store does.
async fn ids(subscriptions: &Subscriptions) -> [Vec<String>; 2] {
    let of = |events: Vec<Event>| events.iter().map(|event| event.id().to_owned()).collect();
    [of(held(subscriptions, &topic()).await), of(held(subscriptions, &TopicName::dead_letters()).await)]
}

#[tokio::test]
async fn a_batch_is_settled_once_the_store_has_what_the_topic_never_takes() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = grudging(&dir, 1 << 20, &[Answer::Refused, Answer::Uncertain, Answer::Never]).await;
    let orders = TopicName::event(&origin().event_source, "orders");
    subscriptions.declare_topic(&orders).await.unwrap();
    let metrics = metrics();
    let outlet = BusOutlet {
        origin: origin(),
        health: subscriptions.bus().health(),
        subscriptions: subscriptions.clone(),
        topic: orders.clone(),
        letters: letters(&subscriptions, DeliveryPolicy { timeout: Duration::from_millis(50), ..policy() }),
        budget: Budget::default(),
        metrics: metrics.clone(),
    };
    let batch = vec![Arrival::Event(event("1", 10)), malformed(), malformed()];
    outlet.accept(batch).await.unwrap().await.unwrap();
    assert_eq!((metrics.accepted.get(), metrics.malformed.get(), metrics.failed.get()), (1, 2, 0));
    assert_eq!(held(&subscriptions, &orders).await, [event("1", 10)]);
    assert_eq!(ids(&subscriptions).await, [vec![], vec!["t/0/7", "t/0/7"]]);
    close(&subscriptions).await;
}

#[tokio::test]
async fn a_topic_that_fails_for_a_while_gets_its_letters() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = grudging(&dir, 1 << 20, &[Answer::Refused, Answer::Uncertain]).await;
    letters(&subscriptions, policy()).settle(vec![event("1", 1), event("2", 1)]).await.unwrap();
    assert_eq!(ids(&subscriptions).await, [vec!["1", "2"], vec![]]);
    close(&subscriptions).await;
}

#[tokio::test]
async fn what_the_topic_takes_late_is_published_once() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = grudging(&dir, 1 << 20, &[Answer::Late]).await;
    let policy = DeliveryPolicy { retry: 10_000, timeout: LATE / 10, ..policy() };
    letters(&subscriptions, policy).settle(vec![event("1", 1)]).await.unwrap();
    assert_eq!(ids(&subscriptions).await, [vec!["1"], vec![]]);
    close(&subscriptions).await;
}

#[tokio::test]
async fn what_is_too_large_for_the_topic_goes_to_the_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = grudging(&dir, 1 << 20, &[]).await;
    let hour = Duration::from_secs(3600);
    let letters = letters(&subscriptions, DeliveryPolicy { delay: hour, delay_max: hour, ..policy() });
    let all = vec![event("1", 1), event("large", 2 * TOPIC_BYTES), event("2", 1)];
    timeout(Duration::from_secs(30), letters.settle(all)).await.expect("it is not tried again").unwrap();
    assert_eq!(ids(&subscriptions).await, [vec!["1", "2"], vec!["large"]]);
    let kept = held(&subscriptions, &TopicName::dead_letters()).await;
    assert_eq!(kept[0].data_slice().len(), 2 * TOPIC_BYTES, "the store takes all of it");
    close(&subscriptions).await;
}

#[tokio::test]
async fn what_is_too_large_for_the_store_keeps_less_of_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = grudging(&dir, 4096, &[]).await;
    letters(&subscriptions, policy()).settle(vec![event("large", 10_000), event("1", 1)]).await.unwrap();
    assert_eq!(ids(&subscriptions).await, [vec!["1"], vec!["large"]]);
    let kept = held(&subscriptions, &TopicName::dead_letters()).await.remove(0);
    assert!((1000..4096).contains(&kept.data_slice().len()), "{kept:?}");
    assert_eq!((kept.source(), kept.ty()), (event("large", 1).source(), "io.evoke.test"));
    close(&subscriptions).await;
}

/// The least that a bus can be told to take.
const LEAST_BYTES: usize = 1 << 10;

#[tokio::test]
async fn what_is_too_large_without_data_keeps_less_of_its_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = grudging(&dir, LEAST_BYTES, &[]).await;
    let position = |end: &str| format!("{}{end}", "p".repeat(600));
    let large = |end| {
        let malformed = Malformed { position: position(end), cause: "c".repeat(2000), raw: vec![b'x'; 5000].into() };
        letter(&origin(), &malformed).unwrap()
    };
    letters(&subscriptions, policy()).settle(vec![large("1"), event("small", 1), large("2")]).await.unwrap();
    let kept = held(&subscriptions, &TopicName::dead_letters()).await;
    let ids: Vec<_> = kept.iter().map(|letter| letter.id().to_owned()).collect();
    assert_eq!(ids, ["1", "2"].map(|end| hex(&Sha256::digest(position(end)))));
    for (kept, end) in kept.iter().zip(["1", "2"]) {
        let large = large(end);
        assert_eq!((kept.source(), kept.ty()), (large.source(), large.ty()));
        assert_eq!(kept.attribute("evokeposition"), Some(&*"p".repeat(128)));
        assert_eq!(kept.attribute("evokecause"), Some(&*"c".repeat(128)));
        assert_eq!(kept.attribute("evokesha256"), large.attribute("evokesha256"));
        assert_eq!(kept.attribute("evokebytes"), Some("5000"));
        assert!(kept.data().is_empty());
    }
    assert_eq!(held(&subscriptions, &topic()).await, [event("small", 1)]);
    close(&subscriptions).await;
}

#[test]
fn any_letter_can_be_made_to_fit() {
    let long = "\u{e9}".repeat(8000);
    let full = (0..125).fold(Event::builder(&*long, &*long, &*long), |event, n| {
        event.attribute(format!("x{n:062}"), if n % 2 == 0 { &*long } else { "short" })
    });
    let mut letter = full.data(vec![b'x'; 100]).build().unwrap();
    let mut rounds = 0;
    while letter.encoded_len() > LEAST_BYTES {
        letter = shortened(&letter, LEAST_BYTES).unwrap();
        rounds += 1;
    }
    assert_eq!((rounds, letter.id()), (2, &*hex(&Sha256::digest(&long))));
    assert_eq!((letter.source(), letter.ty()), (&long[..SOURCE_BYTES], &long[..TYPE_BYTES]));
    assert_eq!(shortened(&letter, LEAST_BYTES), None, "there is nothing left to be cut");
}

#[tokio::test]
async fn what_not_even_the_store_takes_is_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = on(embedded(&dir, 1 << 20));
    let unsettled = letters(&subscriptions, policy()).settle(vec![event("1", 1)]).await.unwrap_err();
    assert!(unsettled.0.contains("_evoke.deadletters"), "{unsettled}");
    close(&subscriptions).await;
}
