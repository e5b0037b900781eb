//! The suite on Redis: a server a site, killed where it is to be cut off.

use std::sync::Arc;

use evoke_eventbus::bus::{EventBus, Partition};
use evoke_eventbus::codec::redis::encode;
use evoke_eventbus::conformance::{Harness, Limits};
use evoke_eventbus::event::Event;
use evoke_eventbus::metrics::BusMetrics;
use evoke_eventbus::plan::redis::RedisPlan;
use evoke_eventbus::redis::{RedisBus, RedisOptions};
use evoke_tests::case::Skipped;
use evoke_tests::servers::redis::Redis;
use redis::{Value, cmd};

pub(super) struct Servers;

pub(super) async fn harness() -> Result<Servers, Skipped> {
    // Said once here, rather than by every site.
    Redis::prepare(&[]).map(|_| Servers)
}

pub(super) struct Site {
    server: Redis,
    limits: Limits,
}

/// The stream of a partition, as the docs name it.
fn stream(partition: &Partition) -> String {
    let mut key = format!("evoke:{}", partition.topic.as_str().replace('.', ":"));
    if partition.index > 0 {
        key.push_str(&format!(":{}", partition.index));
    }
    key
}

impl Harness for Servers {
    type Site = Site;

    async fn site(&self, limits: Limits) -> Site {
        Site { server: Redis::start().await.unwrap(), limits }
    }

    async fn open(&self, site: &Site) -> Arc<dyn EventBus> {
        let address = site.server.address;
        let plan = RedisPlan {
            max_bytes: Some(site.limits.max_bytes),
            ..RedisPlan::at(&address.ip().to_string(), address.port())
        };
        let metrics = BusMetrics::new(&prometheus::Registry::new()).unwrap();
        let options =
            RedisOptions { max_event_bytes: site.limits.max_event_bytes, ..RedisOptions::new("test", plan, metrics) };
        RedisBus::open(&options).unwrap()
    }

    async fn cut(&self, site: &Site, bus: Arc<dyn EventBus>) -> Arc<dyn EventBus> {
        site.server.kill().await;
        site.server.resume().await;
        bus
    }

    async fn lose_tail(&self, site: &Site, bus: Arc<dyn EventBus>, partition: &Partition) -> Arc<dyn EventBus> {
        let mut redis = site.server.connection().await;
        let key = stream(partition);
        let mut all = cmd("XRANGE");
        let entries: Vec<Value> = all.arg(&key).arg("-").arg("+").query_async(&mut redis).await.unwrap();
        let _: i64 = cmd("DEL").arg(&key).query_async(&mut redis).await.unwrap();
        for entry in &entries[..entries.len() / 2] {
            let (id, fields): (String, Vec<Vec<u8>>) = redis::from_redis_value(entry.clone()).unwrap();
            let mut add = cmd("XADD");
            add.arg(&key).arg(id);
            for field in fields {
                add.arg(field);
            }
            let _: String = add.query_async(&mut redis).await.unwrap();
        }
        self.cut(site, bus).await
    }

    async fn publish_foreign(&self, site: &Site, _: &Arc<dyn EventBus>, to: &Partition, event: Event) {
        let mut redis = site.server.connection().await;
        let mut add = cmd("XADD");
        add.arg(stream(to)).arg("*");
        encode(&event, |name, value| {
            if name != b"evokeformat" && name != b"ce-specversion" {
                add.arg(name).arg(value);
            }
        });
        let _: String = add.query_async(&mut redis).await.unwrap();
    }
}
