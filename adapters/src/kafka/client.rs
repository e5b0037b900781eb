//! The settings of the client.

use rdkafka::config::ClientConfig;
use sha2::{Digest as _, Sha256};

use crate::plan::kafka::KafkaPlan;
use crate::source::Origin;

/// The name of a member that comes back under the same one after a restart, and then has its partitions again at once. It is a hash,
/// since Kafka allows only some characters in it and not many.
fn member(origin: &Origin, instance: &str) -> String {
    let name = format!("{instance} {} {}", origin.event_source, origin.event);
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(16).fold("evoke-".to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

/// The client's settings.
pub(super) fn config(plan: &KafkaPlan, origin: &Origin, instance: &str) -> ClientConfig {
    let mut config = plan.brokers.config();
    let name = &origin.event_source;
    config
        .set("client.id", format!("evoke-{}-{}-{}", name.namespace, name.name, origin.event))
        .set("group.id", &plan.group)
        .set("group.instance.id", member(origin, instance))
        .set("partition.assignment.strategy", "cooperative-sticky")
        // After a crash the group gives the partitions away when this is over; brokers take no less by default.
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1000")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Never-committed partitions have a committed start before they are read: this is for offsets that expired.
        .set("auto.offset.reset", "earliest")
        // What a transaction aborted was never there, and what one has not committed yet is not to be acted on.
        .set("isolation.level", "read_committed")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("statistics.interval.ms", "5000")
        // What is fetched ahead is most of a consumer's memory.
        .set("queued.max.messages.kbytes", "8192")
        .set("queued.min.messages", "10000")
        // By default a partition rests for a second when what is fetched ahead has reached its limit.
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.max.bytes", "4194304")
        .set("fetch.message.max.bytes", "1048576");
    config
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evoke_api::events::{Attributes, StartAt};
    use evoke_api::names::ObjectName;
    use evoke_connect::kafka::Brokers;

    use super::*;

    fn origin(event: &str) -> Origin {
        Origin {
            event_source: ObjectName::new("ns", "shop"),
            event: Arc::from(event),
            attributes: Attributes::default(),
        }
    }

    #[test]
    fn what_was_aborted_is_not_read() {
        let plan = KafkaPlan {
            brokers: Brokers::default(),
            topic: "t".to_owned(),
            group: "g".to_owned(),
            start_at: StartAt::Latest,
            content_type: None,
        };
        assert_eq!(config(&plan, &origin("a"), "one").get("isolation.level"), Some("read_committed"));
    }

    #[test]
    fn a_member_has_one_name_in_each_process_and_source() {
        let name = member(&origin("a"), "one");
        assert_eq!(name, member(&origin("a"), "one"));
        assert_ne!(name, member(&origin("b"), "one"));
        assert_ne!(name, member(&origin("a"), "two"));
        assert!(name.starts_with("evoke-") && name.len() == 38, "{name}");
    }
}
