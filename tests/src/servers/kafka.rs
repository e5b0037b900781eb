//! Apache Kafka in KRaft mode, one broker, or three that are a cluster, from the jars that Maven brings.

mod client;
mod cluster;
mod users;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

pub use self::client::{Copies, Placed, Record, produce};
pub use self::cluster::Cluster;
use super::{Shared, tls};
use crate::case::Skipped;
use crate::process::{Pid, Process, Program, Signal, is_installed};
use crate::proxy::{Line, Proxy};
use crate::{eventually, ports, scratch};

/// The user that every SASL listener knows.
pub const USER: &str = "alice";
/// The password of [`USER`].
pub const PASSWORD: &str = "alice-secret-9f2c";

/// How long a cut takes.
const CUT: Duration = Duration::from_millis(30);
const STARTS_WITHIN: Duration = Duration::from_secs(180);
const POM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/kafka/pom.xml");

pub(super) static SHARED: Shared<Broker> = Shared::new();
static JARS: Shared<PathBuf> = Shared::new();

/// How many brokers start at once: each keeps a core busy, and a cluster needs all of its own at once.
const STARTS_AT_ONCE: usize = 3;
static STARTING: Semaphore = Semaphore::const_new(STARTS_AT_ONCE);

/// The broker that tests share, each with topics and consumer groups of its own.
///
/// # Errors
/// Where Kafka cannot be had.
pub async fn shared() -> Result<Arc<Broker>, Skipped> {
    SHARED
        .get(async {
            let broker = Broker::prepare().await?;
            broker.start().await;
            Ok(broker)
        })
        .await
}

/// What a broker is in its cluster.
#[derive(Clone, Debug)]
struct Place {
    /// From 1.
    id: usize,
    controller: SocketAddr,
    /// All controllers, `id@host:port`.
    voters: String,
    /// How many copies there are of what Kafka keeps for itself, and by default of topics.
    copies: usize,
}

impl Place {
    /// The places in a cluster of so many.
    fn all(brokers: usize) -> Vec<Self> {
        let controllers: Vec<_> = (0..brokers).map(|_| ports::free()).collect();
        let voters: Vec<_> = controllers.iter().zip(1..).map(|(at, id)| format!("{id}@{at}")).collect();
        let place = |(controller, id)| Self { id, controller, voters: voters.join(","), copies: brokers };
        controllers.into_iter().zip(1..).map(place).collect()
    }
}

/// Where a broker listens.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// Plain text.
    pub plain: SocketAddr,
    /// SASL PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 without TLS.
    pub sasl: SocketAddr,
    /// The same over TLS.
    pub sasl_tls: SocketAddr,
    /// TLS that asks for a client certificate.
    pub mutual_tls: SocketAddr,
    /// Plain text, over a way that [`Broker::cut`] cuts.
    pub proxied: SocketAddr,
    /// Where that way ends.
    behind: SocketAddr,
}

/// A broker with its data; running or not.
#[derive(Debug)]
pub struct Broker {
    jars: PathBuf,
    folder: TempDir,
    /// Where it listens, now or once it is started.
    pub listeners: Listeners,
    process: Mutex<Option<Process>>,
    proxy: Proxy,
    topics: AtomicU32,
}

impl Broker {
    /// Formats the storage of a broker of its own, without starting it.
    ///
    /// # Errors
    /// Where Kafka cannot be had.
    pub async fn prepare() -> Result<Self, Skipped> {
        Self::prepare_with(&[]).await
    }

    /// The same with more settings, or others than it would have.
    ///
    /// # Errors
    /// Where Kafka cannot be had.
    pub async fn prepare_with(settings: &[(&str, &str)]) -> Result<Self, Skipped> {
        Self::prepare_at(&Place::all(1)[0], settings).await
    }

    async fn prepare_at(place: &Place, settings: &[(&str, &str)]) -> Result<Self, Skipped> {
        let jars = JARS.get(fetch()).await?;
        let authority = tls::authority().await?;
        let folder = scratch::dir("kafka");
        let behind = ports::free();
        let proxy = Proxy::start(behind).await;
        let listeners = Listeners {
            plain: ports::free(),
            sasl: ports::free(),
            sasl_tls: ports::free(),
            mutual_tls: ports::free(),
            proxied: proxy.address(),
            behind,
        };
        fs::write(folder.path().join("server.pem"), authority.server().bundle()).unwrap();
        let mut properties = properties(folder.path(), place, &listeners, &authority.ca());
        // Of several lines for one setting, the last one counts.
        properties.extend(settings.iter().map(|(name, value)| format!("{name}={value}\n")));
        fs::write(folder.path().join("server.properties"), properties).unwrap();
        let broker = Self {
            jars: jars.as_ref().clone(),
            folder,
            listeners,
            process: Mutex::new(None),
            proxy,
            topics: AtomicU32::new(0),
        };
        let scram = |mechanism| format!("{mechanism}=[name={USER},password={PASSWORD}]");
        let format = broker
            .java("kafka.tools.StorageTool")
            .args(["format", "-t", "5L6g3nShT-eMCtK--X86sw", "-c"])
            .args([broker.folder.path().join("server.properties")])
            .args(["--add-scram", &scram("SCRAM-SHA-256"), "--add-scram", &scram("SCRAM-SHA-512")]);
        let (status, log) = format.output(STARTS_WITHIN).await;
        assert!(status.success(), "formatting Kafka's storage: {}", log.text());
        Ok(broker)
    }

    fn java(&self, class: &str) -> Program {
        Program::new("kafka", "java")
            .args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .args([self.jars.join("*")])
            .args([class])
    }

    /// Starts it when it is its turn, and waits until it answers.
    pub async fn start(&self) {
        let _turn = STARTING.acquire().await.unwrap();
        self.start_now().await;
    }

    async fn start_now(&self) {
        let process = self.java("kafka.Kafka").args([self.folder.path().join("server.properties")]).start().await;
        crate::case::show_on_failure(process.log());
        *self.process.lock() = Some(process);
        eventually("Kafka listens", STARTS_WITHIN, async || TcpStream::connect(self.listeners.plain).await.ok()).await;
        eventually("Kafka answers", STARTS_WITHIN, async || self.answers().await.then_some(())).await;
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        let process = self.process.lock().take();
        if let Some(mut process) = process {
            process.kill().await;
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it still runs after `within`.
    pub async fn ended(&self, within: Duration) {
        let process = self.process.lock().take();
        process.expect("the broker runs").ended(within).await;
    }

    /// Ends it; a broker of the tests has nothing to lose, and shutting down takes Kafka seconds.
    pub async fn stop(&self) {
        self.kill().await;
    }

    /// Cuts every connection to the proxied listener without a goodbye, and lets none through for a moment.
    pub async fn cut(&self) {
        self.line(Line::Cut);
        tokio::time::sleep(CUT).await;
        self.line(Line::Open);
    }

    /// Changes what becomes of the bytes on the proxied listener.
    pub fn line(&self, line: Line) {
        self.proxy.set(line);
    }

    /// Freezes it with SIGSTOP, until [`Broker::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.process.lock().as_ref().expect("the broker runs").signal(signal);
    }

    /// The id of its process.
    pub fn pid(&self) -> Pid {
        self.process.lock().as_ref().expect("the broker runs").pid()
    }

    /// Where its logs are, unless its settings say otherwise.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A client's settings for the plain listener.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.listeners.plain.to_string());
        config.set("log_level", "0");
        config
    }

    /// A name that no topic and no group of this broker has.
    pub fn name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.topics.fetch_add(1, Ordering::Relaxed))
    }
}

/// Brings the jars before a test needs them. Where they cannot be had, those that do say so.
pub(super) async fn bring() {
    drop(JARS.get(fetch()).await);
}

/// Brings the jars, once a machine.
async fn fetch() -> Result<PathBuf, Skipped> {
    for program in ["java", "mvn"] {
        if !is_installed(program) {
            return Err(Skipped::because(format!("no {program} command, which Kafka needs")));
        }
    }
    let jars = scratch::cache().join("kafka-4.1.0");
    if jars.is_dir() {
        return Ok(jars);
    }
    // Another run may fetch at the same time: the folder appears complete or not at all.
    let partial = scratch::cache().join(format!("kafka-4.1.0.{}", std::process::id()));
    fs::create_dir_all(&partial).unwrap();
    let maven = Program::new("mvn", "mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-f", POM])
        .args([format!("-DoutputDirectory={}", partial.display())]);
    let (status, log) = maven.output(Duration::from_secs(300)).await;
    if !status.success() {
        fs::remove_dir_all(&partial).unwrap_or_default();
        return Err(Skipped::because(format!("Maven cannot bring Kafka: {}", log.tail(3).join(" "))));
    }
    match fs::rename(&partial, &jars) {
        Err(_) if jars.is_dir() => fs::remove_dir_all(&partial).unwrap_or_default(),
        result => result.unwrap(),
    }
    Ok(jars)
}

fn properties(folder: &Path, place: &Place, listeners: &Listeners, ca: &Path) -> String {
    let Listeners { plain, sasl, sasl_tls, mutual_tls, proxied, behind } = listeners;
    let Place { id, controller, voters, copies } = place;
    // What a majority has survives the loss of any other.
    let in_sync = copies / 2 + 1;
    let folder = folder.display();
    let (ca, keys) = (ca.display(), format!("{folder}/server.pem"));
    let logins: String = ["sasl", "sasltls"]
        .map(|listener| {
            let module = "org.apache.kafka.common.security";
            format!(
                "listener.name.{listener}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required \
                 user_{USER}=\"{PASSWORD}\";\n\
                 listener.name.{listener}.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
                 listener.name.{listener}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
            )
        })
        .concat();
    let shown = |cut: &SocketAddr| {
        format!("PLAIN://{plain},SASL://{sasl},SASLTLS://{sasl_tls},MUTUALTLS://{mutual_tls},CUT://{cut}")
    };
    let (bound, shown) = (shown(behind), shown(proxied));
    format!(
        "process.roles=broker,controller\n\
         node.id={id}\n\
         controller.quorum.voters={voters}\n\
         controller.listener.names=CONTROLLER\n\
         listeners={bound},CONTROLLER://{controller}\n\
         advertised.listeners={shown}\n\
         listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,SASLTLS:SASL_SSL,MUTUALTLS:SSL,CUT:PLAINTEXT\n\
         inter.broker.listener.name=PLAIN\n\
         log.dirs={folder}/data\n\
         default.replication.factor={copies}\n\
         min.insync.replicas={in_sync}\n\
         offsets.topic.replication.factor={copies}\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor={copies}\n\
         transaction.state.log.num.partitions=4\n\
         transaction.state.log.min.isr={in_sync}\n\
         share.coordinator.state.topic.replication.factor={copies}\n\
         share.coordinator.state.topic.min.isr={in_sync}\n\
         group.initial.rebalance.delay.ms=0\n\
         auto.create.topics.enable=false\n\
         message.max.bytes=8388608\n\
         replica.fetch.max.bytes=8388608\n\
         log.segment.delete.delay.ms=1000\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         {logins}\
         ssl.keystore.type=PEM\n\
         ssl.keystore.location={keys}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={ca}\n\
         listener.name.mutualtls.ssl.client.auth=required\n"
    )
}
