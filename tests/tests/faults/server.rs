//! What a bus is on, what goes wrong with that, and how.

use evoke_tests::bus as log;
use evoke_tests::disk::SmallDisk;
use evoke_tests::evoke::Home;
use evoke_tests::ledger::Counts;
use evoke_tests::load::Load;
use evoke_tests::proxy::{Line, Proxy};
use evoke_tests::servers::kafka::{self, Broker};
use evoke_tests::servers::nats::{self, Nats};
use evoke_tests::servers::redis::{Group, MASTER, Redis};
use tokio::time::sleep;

use super::deal::Fault;
use super::{BETWEEN, PAUSE, RECOVERY, TOPIC};

/// The stream of [`TOPIC`] on NATS.
const STREAM: &str = "evoke+default+web+in";

/// What is below a bus.
pub(super) enum Server {
    /// Nothing: the bus is inside of evoke.
    Embedded,
    /// The same, with the data directory on a disk of its own.
    SmallDisk(SmallDisk),
    Kafka(Broker),
    Nats(Nats, Proxy),
    Redis(Redis, Proxy),
    KafkaCluster(kafka::Cluster),
    NatsCluster(nats::Cluster),
    RedisGroup(Box<Group>),
}

/// One server.
#[derive(Clone, Copy)]
enum Node<'a> {
    Kafka(&'a Broker),
    Nats(&'a Nats),
    Redis(&'a Redis),
}

impl Node<'_> {
    async fn kill(self) {
        match self {
            Self::Kafka(broker) => broker.kill().await,
            Self::Nats(nats) => nats.kill().await,
            Self::Redis(redis) => redis.kill().await,
        }
    }

    async fn start(self) {
        match self {
            Self::Kafka(broker) => broker.start().await,
            Self::Nats(nats) => nats.resume().await,
            Self::Redis(redis) => redis.resume().await,
        }
    }

    fn freeze(self) {
        match self {
            Self::Kafka(broker) => broker.freeze(),
            Self::Nats(nats) => nats.freeze(),
            Self::Redis(redis) => redis.freeze(),
        }
    }

    fn thaw(self) {
        match self {
            Self::Kafka(broker) => broker.thaw(),
            Self::Nats(nats) => nats.thaw(),
            Self::Redis(redis) => redis.thaw(),
        }
    }
}

impl Server {
    /// Everything that goes wrong. Where servers take over from each other, they do it twice.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let of_evoke = [
            Fault::KillEvoke,
            Fault::FreezeEvoke,
            Fault::SetClockBack,
            Fault::SetClockAhead,
            Fault::KillFunction,
            Fault::FreezeFunction,
        ];
        let of_server = [Fault::KillServer, Fault::FreezeServer, Fault::CutLine, Fault::HoldLine, Fault::SlowLine];
        match self {
            Self::Embedded => of_evoke.to_vec(),
            Self::SmallDisk(_) => [&of_evoke[..], &[Fault::FillDisk]].concat(),
            Self::Kafka(_) | Self::Nats(..) | Self::Redis(..) => [&of_evoke[..], &of_server].concat(),
            Self::KafkaCluster(_) | Self::NatsCluster(_) | Self::RedisGroup(_) => {
                vec![Fault::ChangeLeader, Fault::ChangeLeader, Fault::KillEvoke, Fault::FreezeServer]
            }
        }
    }

    /// The spec of an EventBus on it.
    pub(super) fn bus(&self) -> String {
        match self {
            Self::Embedded => "embedded: {}".to_owned(),
            // Segments of at most a sixteenth of this: what is left in them when the disk is full is used up soon.
            Self::SmallDisk(_) => "embedded: {maxBytes: 8Mi}".to_owned(),
            Self::Kafka(broker) => format!("kafka: {{brokers: \"{}\", replication: 1}}", broker.listeners.proxied),
            Self::Nats(_, proxy) => format!("jetStream: {{url: \"nats://{}\"}}", proxy.address()),
            Self::Redis(_, proxy) => format!("redis: {{address: \"{}\"}}", proxy.address()),
            Self::KafkaCluster(cluster) => {
                format!("kafka: {{brokers: \"{}\", partitions: 3, replication: 3}}", cluster.addresses())
            }
            Self::NatsCluster(cluster) => {
                format!("jetStream: {{url: \"{}\", partitions: 2, replicas: 3}}", cluster.url())
            }
            Self::RedisGroup(group) => {
                let at = format!("address: \"{}\", sentinelMasterName: {MASTER}", group.sentinel);
                format!("redis: {{{at}, partitions: 4, replicas: 1}}")
            }
        }
    }

    /// How often each event is on the bus; `None` where what everybody has finished makes room for what comes.
    pub(super) async fn stored(&self, home: &Home) -> Option<Counts> {
        let bus = match self {
            Self::Embedded => log::embedded(&home.data()),
            Self::SmallDisk(_) => return None,
            Self::Kafka(broker) => log::kafka(&broker.listeners.plain.to_string()),
            Self::Nats(nats, _) => log::jetstream(&nats.url()).await,
            Self::Redis(redis, _) => log::redis(&[redis.address]),
            Self::KafkaCluster(cluster) => log::kafka(&cluster.addresses()),
            Self::NatsCluster(cluster) => log::jetstream(&cluster.url()).await,
            Self::RedisGroup(group) => log::redis(&[group.roles().await.0.address]),
        };
        Some(log::counted(bus, TOPIC).await)
    }

    /// The server that events are stored by now.
    async fn leader(&self) -> Node<'_> {
        match self {
            Self::Embedded | Self::SmallDisk(_) => panic!("the bus inside of evoke has no server"),
            Self::Kafka(broker) => Node::Kafka(broker),
            Self::Nats(nats, _) => Node::Nats(nats),
            Self::Redis(redis, _) => Node::Redis(redis),
            Self::KafkaCluster(cluster) => Node::Kafka(cluster.leader(TOPIC).await),
            Self::NatsCluster(cluster) => Node::Nats(cluster.leader(STREAM).await),
            Self::RedisGroup(group) => Node::Redis(group.roles().await.0),
        }
    }

    pub(super) async fn restart(&self) {
        let node = self.leader().await;
        node.kill().await;
        node.start().await;
    }

    pub(super) async fn freeze(&self) {
        let node = self.leader().await;
        node.freeze();
        sleep(PAUSE).await;
        node.thaw();
    }

    /// Has the line to it be like that for a while.
    pub(super) async fn disturb(&self, line: Line) {
        let set = |line| match self {
            Self::Kafka(broker) => broker.line(line),
            Self::Nats(_, proxy) | Self::Redis(_, proxy) => proxy.set(line),
            _ => panic!("nothing lies between evoke and its bus"),
        };
        set(line);
        sleep(PAUSE).await;
        set(Line::Open);
    }

    /// Kills the server that leads, waits until events are accepted without it where that is possible, and has it back as one that
    /// follows.
    pub(super) async fn change_leader(&self, load: &Load) {
        if let Self::RedisGroup(group) = self {
            // The one that is left accepts nothing before it has a replica.
            group.fail_over().await;
            return group.rejoin().await;
        }
        let leader = self.leader().await;
        leader.kill().await;
        load.more(BETWEEN, RECOVERY).await;
        leader.start().await;
        match self {
            Self::KafkaCluster(cluster) => cluster.settled(TOPIC).await,
            Self::NatsCluster(cluster) => cluster.settled().await,
            _ => panic!("nobody takes over from a server that is alone"),
        }
    }
}
