//! How far readers are, as Kafka's own tools look for it: offsets that are committed for groups which nobody joins.

use std::collections::BTreeMap;
use std::sync::Arc;

use evoke_connect::kafka::Brokers;
use evoke_connect::kafka::words::text;
use parking_lot::Mutex;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::task::TaskTracker;

use super::client::{self, Consumer, Ears, listen};
use super::cluster::Place;
use crate::bus::BusError;

/// A client commits for one group only, and costs threads and connections: so many are kept, others are made when they are needed.
const KEPT: usize = 8;

/// The groups of a bus.
pub(super) struct Groups {
    brokers: Brokers,
    name: Arc<str>,
    kept: Mutex<BTreeMap<Arc<str>, Consumer>>,
    tasks: TaskTracker,
}

impl Groups {
    pub(super) fn new(brokers: &Brokers, name: Arc<str>, tasks: &TaskTracker) -> Arc<Self> {
        Arc::new(Self { brokers: brokers.clone(), name, kept: Mutex::default(), tasks: tasks.clone() })
    }

    /// Commits the next offsets of a group. Takes at most some seconds.
    ///
    /// # Errors
    /// When the brokers do not take them.
    pub(super) async fn commit(self: &Arc<Self>, group: Arc<str>, next: Vec<(Place, i64)>) -> Result<(), BusError> {
        let groups = Arc::clone(self);
        let committed = self.tasks.spawn_blocking(move || {
            groups.commit_now(&group, &next).map_err(|error| {
                BusError::Unavailable(format!("cannot commit offsets of group {group:?}: {}", text(&error)).into())
            })
        });
        committed.await.unwrap_or(Err(BusError::Closed))
    }

    fn commit_now(&self, group: &Arc<str>, next: &[(Place, i64)]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(next.len());
        for ((topic, partition), offset) in next {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        let kept = self.kept.lock().remove(group);
        let client = match kept {
            Some(client) => client,
            // That a group cannot be used says nothing of the bus: nobody else is told.
            None => {
                client::committing(&self.brokers, &self.name, group).create_with_context(Ears::new(&Arc::default()))?
            }
        };
        // One that was idle for long has old things to say.
        listen(&client);
        // The reason, such as a group that this user may not use, comes as an event of its own.
        client.commit(&list, CommitMode::Sync).map_err(|error| listen(&client).unwrap_or(error))?;
        let mut kept = self.kept.lock();
        if kept.len() < KEPT {
            kept.insert(Arc::clone(group), client);
        }
        Ok(())
    }

    /// Lets all clients go. Blocks.
    pub(super) fn close(&self) {
        let kept = std::mem::take(&mut *self.kept.lock());
        drop(kept);
    }
}
