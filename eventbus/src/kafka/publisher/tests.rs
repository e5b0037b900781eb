//! The publisher where there are no brokers: what it leaves to whom, and what ends with it.

use prometheus::Registry;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::metrics::BusMetrics;
use crate::queued::Queued;

/// How long a client may take to be replaced.
const SOON: Duration = Duration::from_secs(30);

/// A publisher to brokers that are not there.
fn publisher() -> Publisher {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", "127.0.0.1:1").set("enable.idempotence", "true").set("message.timeout.ms", "0");
    let metrics = BusMetrics::new(&Registry::new()).unwrap().bus("test");
    Publisher::new(config.clone(), config, &Arc::default(), &metrics).unwrap()
}

async fn publish(publisher: &Publisher, events: usize) -> oneshot::Receiver<Vec<Stored>> {
    let room = Queued::new(1 << 20, &publisher.inner.metrics.queued_bytes).place(1).await.unwrap();
    let event = |id: usize| Event::builder(id.to_string(), "/s", "t").build().unwrap();
    publisher.publish(("orders".into(), 0), (0..events).map(event).collect(), room)
}

#[tokio::test]
async fn what_is_published_when_the_bus_ends_is_not_stored_and_its_publisher_is_told() {
    let publisher = publisher();
    assert!(publisher.inner.is_idle());
    // One is with the client, and two wait for it.
    let mut stored = publish(&publisher, 3).await;
    assert!(!publisher.inner.is_idle());
    publisher.stop();
    assert_eq!(stored.try_recv(), Ok(vec![Err(fate::closed()); 3]));
    let mut late = publish(&publisher, 1).await;
    assert_eq!(late.try_recv(), Err(TryRecvError::Closed));
    assert!(publisher.inner.is_idle());
}

#[tokio::test]
async fn a_client_that_is_replaced_before_it_stored_anything_leaves_what_it_had_to_the_next() {
    let publisher = publisher();
    let mut stored = publish(&publisher, 3).await;
    let client = || Arc::clone(&publisher.inner.routes.read().in_batches);
    for _ in 0..2 {
        let (before, until) = (client(), Instant::now() + SOON);
        publisher.renew();
        while Arc::ptr_eq(&before, &client()) {
            assert!(Instant::now() < until, "another takes its place");
            std::thread::sleep(STEP);
        }
        assert_eq!(stored.try_recv(), Err(TryRecvError::Empty));
    }
    publisher.stop();
    assert_eq!(stored.try_recv(), Ok(vec![Err(fate::closed()); 3]));
}
