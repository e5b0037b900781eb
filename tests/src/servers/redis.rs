//! Redis, its clusters and Sentinel, from Debian's package.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use redis::{AsyncConnectionConfig, Client};
use tempfile::TempDir;

use super::tls;
use crate::case::Skipped;
use crate::process::{Pid, Process, Program, Signal, is_installed};
use crate::{SOON, eventually, ports, scratch};

mod cluster;

pub use cluster::Cluster;

/// A Redis server with its data; running or not.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    settings: Vec<String>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens with TLS, if it does.
    pub tls_address: Option<SocketAddr>,
    process: Mutex<Option<Process>>,
}

impl Redis {
    /// Starts a server that writes every change to disk.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub async fn start() -> Result<Self, Skipped> {
        Self::with(&[]).await
    }

    /// Starts a server with more lines of configuration.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub async fn with(settings: &[&str]) -> Result<Self, Skipped> {
        let redis = Self::prepare(settings)?;
        redis.resume().await;
        Ok(redis)
    }

    /// Starts a server that also listens with TLS and asks clients for a certificate.
    ///
    /// # Errors
    /// Where Redis or openssl cannot be had.
    pub async fn with_tls(settings: &[&str]) -> Result<Self, Skipped> {
        let authority = tls::authority().await?;
        let mut redis = Self::prepare(settings)?;
        let address = ports::free();
        let server = authority.server();
        redis.tls_address = Some(address);
        redis.settings.extend([
            format!("tls-port {}", address.port()),
            format!("tls-cert-file {}", server.cert.display()),
            format!("tls-key-file {}", server.key.display()),
            format!("tls-ca-cert-file {}", authority.ca().display()),
            "tls-auth-clients yes".to_owned(),
        ]);
        redis.resume().await;
        Ok(redis)
    }

    /// Starts a replica of this one, and waits until it follows.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub async fn replica(&self) -> Result<Self, Skipped> {
        let replica = Self::with(&[&format!("replicaof 127.0.0.1 {}", self.address.port())]).await?;
        let mut connection = self.connection().await;
        eventually("the replica follows", SOON, async || {
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await.ok()?;
            info.contains("state=online").then_some(())
        })
        .await;
        Ok(replica)
    }

    /// A server that is not started yet.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub fn prepare(settings: &[&str]) -> Result<Self, Skipped> {
        if !is_installed("redis-server") {
            return Err(Skipped::because("no redis-server command (apt-get install redis-server)"));
        }
        let (folder, address) = (scratch::dir("redis"), ports::free());
        let mut lines = vec![
            format!("port {}", address.port()),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", folder.path().display()),
            "appendonly yes".to_owned(),
            "appendfsync always".to_owned(),
            "save \"\"".to_owned(),
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        Ok(Self { folder, settings: lines, address, tls_address: None, process: Mutex::new(None) })
    }

    /// Starts it, on the data that it had.
    pub async fn resume(&self) {
        let config = self.folder.path().join("redis.conf");
        fs::write(&config, self.settings.join("\n")).unwrap();
        let process = Program::new("redis", "redis-server").args([&config]).start().await;
        crate::case::show_on_failure(process.log());
        *self.process.lock() = Some(process);
        eventually("Redis listens", SOON, async || tokio::net::TcpStream::connect(self.address).await.ok()).await;
    }

    /// Takes its data away while it does not run.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn forget(&self) {
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
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
        process.expect("the server runs").ended(within).await;
    }

    /// Where its data is, unless its configuration says otherwise.
    pub fn data(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// True from its start until it is killed.
    pub fn is_running(&self) -> bool {
        self.process.lock().is_some()
    }

    /// Freezes it with SIGSTOP, until [`Redis::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.process.lock().as_ref().expect("the server runs").signal(signal);
    }

    /// The id of its process.
    pub fn pid(&self) -> Pid {
        self.process.lock().as_ref().expect("the server runs").pid()
    }

    /// A connection to it, ready for commands.
    pub async fn connection(&self) -> MultiplexedConnection {
        connection(&format!("redis://{}/", self.address)).await
    }

    /// The ids of the events in a stream of a bus, in order.
    pub async fn stream_ids(&self, key: &str) -> Vec<String> {
        let mut range = redis::cmd("XRANGE");
        range.arg(key).arg("-").arg("+");
        let found: StreamRangeReply = range.query_async(&mut self.connection().await).await.unwrap();
        found.ids.iter().map(|entry| entry.get("ce-id").expect("an event of evoke's")).collect()
    }

    /// A connection whose commands may take as long as the server is frozen.
    pub async fn patient_connection(&self) -> MultiplexedConnection {
        connect(&format!("redis://{}/", self.address), Duration::from_secs(90)).await
    }

    /// A connection as a user.
    pub async fn connection_as(&self, user: &str, password: &str) -> MultiplexedConnection {
        connection(&format!("redis://{user}:{password}@{}/", self.address)).await
    }
}

async fn connection(url: &str) -> MultiplexedConnection {
    connect(url, Duration::from_secs(10)).await
}

async fn connect(url: &str, answers_within: Duration) -> MultiplexedConnection {
    let client = Client::open(url).unwrap();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(answers_within));
    eventually("Redis answers", SOON, async || {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.ok()?;
        redis::cmd("PING").query_async::<String>(&mut connection).await.ok()?;
        Some(connection)
    })
    .await
}

/// A master, a replica of it, and a Sentinel that watches them.
#[derive(Debug)]
pub struct Group {
    /// The first master.
    pub master: Redis,
    /// Its replica.
    pub replica: Redis,
    /// Where Sentinel listens.
    pub sentinel: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

/// The name that [`Group`]'s Sentinel knows its master by.
pub const MASTER: &str = "main";
/// How long Sentinel may take to see who is well, and to put one in the place of another: what fails is tried again only later.
const FAILS_OVER: Duration = Duration::from_secs(120);

impl Group {
    /// Starts all three and waits until the replica follows.
    ///
    /// # Errors
    /// Where Redis cannot be had.
    pub async fn start() -> Result<Self, Skipped> {
        let master = Redis::start().await?;
        let replica = master.replica().await?;
        let (folder, sentinel) = (scratch::dir("sentinel"), ports::free());
        let config = folder.path().join("sentinel.conf");
        let lines = [
            format!("port {}", sentinel.port()),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", folder.path().display()),
            format!("sentinel monitor {MASTER} 127.0.0.1 {} 1", master.address.port()),
            format!("sentinel down-after-milliseconds {MASTER} 4000"),
            format!("sentinel failover-timeout {MASTER} 5000"),
        ];
        fs::write(&config, lines.join("\n")).unwrap();
        let process = Program::new("sentinel", "redis-server").args([&config]).args(["--sentinel"]).start().await;
        crate::case::show_on_failure(process.log());
        let group = Self { master, replica, sentinel, _folder: folder, _process: process };
        group.wait_until_known().await;
        Ok(group)
    }

    /// Waits until Sentinel knows a replica that is well, and so may become the master.
    async fn wait_until_known(&self) {
        let mut sentinel = connection(&format!("redis://{}/", self.sentinel)).await;
        eventually("Sentinel knows the replica", FAILS_OVER, async || {
            let found: Vec<HashMap<String, String>> =
                redis::cmd("SENTINEL").arg("replicas").arg(MASTER).query_async(&mut sentinel).await.ok()?;
            // What is wrong with it would be among its flags.
            found.iter().any(|replica| replica.get("flags").is_some_and(|flags| flags == "slave")).then_some(())
        })
        .await;
    }

    /// The server that Sentinel names as the master, and the other one.
    pub async fn roles(&self) -> (&Redis, &Redis) {
        let mut sentinel = connection(&format!("redis://{}/", self.sentinel)).await;
        let (_, port) = eventually("Sentinel names a master", SOON, async || {
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("get-master-addr-by-name").arg(MASTER);
            ask.query_async::<(String, u16)>(&mut sentinel).await.ok()
        })
        .await;
        let is_replica = port == self.replica.address.port();
        if is_replica { (&self.replica, &self.master) } else { (&self.master, &self.replica) }
    }

    /// Waits until all that the master took so far is on the replica too.
    pub async fn settled(&self) {
        let mut master = self.master.connection().await;
        let copies: i64 = redis::cmd("WAIT").arg(1).arg(10_000).query_async(&mut master).await.unwrap();
        assert_eq!(copies, 1, "the replica has not followed");
    }

    /// Kills the master and waits until Sentinel has made the replica one.
    pub async fn fail_over(&self) {
        let (master, replica) = self.roles().await;
        master.kill().await;
        eventually("the replica is the master", FAILS_OVER, async || {
            let named = self.roles().await.0.address;
            // A server that changes its role ends its connections.
            let mut promoted = replica.connection().await;
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut promoted).await.ok()?;
            (named == replica.address && info.contains("role:master")).then_some(())
        })
        .await;
    }

    /// Starts the server that was killed as the replica of the one that took its place, and waits until it could take it back.
    pub async fn rejoin(&self) {
        let (master, old) = self.roles().await;
        old.resume().await;
        let (mut following, mut followed) = (old.connection().await, master.connection().await);
        let port = master.address.port();
        eventually("the old master follows", FAILS_OVER, async || {
            redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec_async(&mut following).await.ok()?;
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut followed).await.ok()?;
            info.contains("state=online").then_some(())
        })
        .await;
        self.wait_until_known().await;
    }
}
