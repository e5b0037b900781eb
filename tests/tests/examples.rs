//! The pipeline of `examples/buses` on every kind of bus: one word of the manifest is all that differs.

use evoke_tests::SOON;
use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::evoke::{Home, checkout};
use evoke_tests::servers::{kafka, nats, redis::Redis};

/// Runs the example on the bus of this name, whose address is set by `more`.
async fn orders_arrive(bus: &str, more: Option<String>) -> Result<(), Skipped> {
    let home = Home::new();
    let words = [format!("EventSource/shop:eventBus={bus}"), format!("Trigger/orders:eventBus={bus}")];
    let sets = words.into_iter().chain(more).flat_map(|set| ["--set".to_owned(), set]);
    let run = home.evoke().paths([checkout().join("examples/buses")]).args(sets);
    let mut evoke = run.ready().await;
    for (amount, customer) in [(250, "ada"), (50, "ben"), (300, "nobody")] {
        let body = format!("{{\"amount\": {amount}, \"customer\": \"{customer}\"}}");
        let answer = evoke.post("/default/shop/orders", &[("content-type", "application/json")], body).await;
        assert_eq!(answer.status, 202, "{bus}: {}", answer.text());
    }
    evoke.log().wait_for(&["got io.evoke.webhook", "\"amount\": 250"], SOON).await;
    evoke.log().wait_for(&["got io.evoke.webhook", "\"amount\": 50"], SOON).await;
    // One order met the condition and was taken, one met it and was refused, and all went to the subscriber that takes all.
    for (subscriber, outcome, count) in
        [("notify", "delivered", 1.0), ("ordered", "delivered", 2.0), ("notify", "dead_lettered", 1.0)]
    {
        let labels = [("subscriber", subscriber), ("outcome", outcome)];
        evoke.metric("evoke_deliveries_total", &labels, count, SOON).await;
    }
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn the_same_pipeline_runs_on_every_bus() -> Verdict {
    orders_arrive("embedded", None).await?;
    let nats = nats::shared().await?;
    orders_arrive("jetstream", Some(format!("EventBus/jetstream:jetStream.url={}", nats.url()))).await?;
    let redis = Redis::start().await?;
    orders_arrive("redis", Some(format!("EventBus/redis:redis.address={}", redis.address))).await?;
    let broker = kafka::shared().await?;
    orders_arrive("kafka", Some(format!("EventBus/kafka:kafka.brokers={}", broker.listeners.plain))).await
}
