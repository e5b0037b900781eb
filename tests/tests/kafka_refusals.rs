//! What the brokers refuse of a bus on Kafka: it holds up nothing else, and is taken as soon as they take it.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use evoke_api::names::TopicName;
use evoke_eventbus::bus::{EventBus, Expect, Health, Partition, PublishError, Put, TopicSpec};
use evoke_eventbus::event::Event;
use evoke_tests::case::Verdict;
use evoke_tests::eventually;
use evoke_tests::servers::kafka;

use super::bus_kafka::{LATER, health, open};
use super::kafka_publishing::{KEPT, LARGE, Published, brokers, limit};

pub(crate) async fn state_is_stored_while_the_brokers_refuse_events() -> Verdict {
    const EVENTS: usize = 60;
    let broker = kafka::shared().await?;
    let site = broker.name("site");
    let bus = open(brokers(&broker), &site);
    health(&bus, |health| *health == Health::Up).await;
    let mut stores = 0_u32;
    // The client that publishes events ends with the first that is refused of each topic.
    for topic in ["a.b.one", "a.b.two", "a.b.three", "a.b.four"] {
        bus.declare(&TopicSpec { name: TopicName::parse(topic), partitions: 1 }).await.unwrap();
        limit(&broker, &format!("{site}.{topic}")).await;
        let is_settled = AtomicBool::new(false);
        let publish = async {
            let mut published = Published::on(topic);
            for n in 0..EVENTS {
                published.publish(&*bus, format!("k-{n}"), if n % 2 == 0 { LARGE } else { 10 }).await;
            }
            let settled = published.settled().await;
            is_settled.store(true, Ordering::Release);
            settled
        };
        let store = async {
            while !is_settled.load(Ordering::Acquire) {
                stores += 1;
                let value = Some(Bytes::from(stores.to_string()));
                let stored = bus.store(vec![Put { key: "a".to_owned(), value, expect: Expect::Any }]).await;
                assert!(stored.unwrap()[0].is_some(), "{topic}");
            }
        };
        let ((accepted, refused), ()) = tokio::join!(publish, store);
        assert_eq!((accepted.len(), refused.len()), (EVENTS / 2, EVENTS / 2), "{topic}");
    }
    let kept = bus.load("a").await.unwrap();
    assert_eq!(kept[0].value, stores.to_string());
    bus.close().await.unwrap();
    Ok(())
}

pub(crate) async fn an_event_is_taken_once_its_topic_takes_more() -> Verdict {
    let broker = kafka::shared().await?;
    let site = broker.name("site");
    let bus = open(brokers(&broker), &site);
    health(&bus, |health| *health == Health::Up).await;
    let to = Partition { topic: TopicName::parse("a.b.c"), index: 0 };
    bus.declare(&TopicSpec { name: to.topic.clone(), partitions: 1 }).await.unwrap();
    let topic = format!("{site}.a.b.c");
    limit(&broker, &topic).await;
    let publish = async || {
        let event = Event::builder("large", "/s", "t").data(vec![b'x'; LARGE]).build().unwrap();
        let receipt = bus.publish(&to, vec![event]).await.unwrap();
        tokio::time::timeout(LATER, receipt).await.expect("a receipt").remove(0)
    };
    // Refused by the brokers first, and then by what is known of them.
    for _ in 0..2 {
        let refused = publish().await;
        assert!(matches!(refused, Err(PublishError::TooLarge { limit: 10_000, .. })), "{refused:?}");
    }
    broker.set(&topic, &KEPT).await;
    eventually("it is taken", LATER, async || publish().await.ok()).await;
    bus.close().await.unwrap();
    Ok(())
}
