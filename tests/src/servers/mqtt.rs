//! Mosquitto, from Debian's package, and clients that publish: rumqttc's own, which evoke's source does not use.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde_json::json;
use tempfile::TempDir;

use super::tls;
use crate::case::Skipped;
use crate::process::{Process, Program, Signal, is_installed};
use crate::{SOON, eventually, ports, scratch};

/// The user that a broker with a password knows.
pub const USER: &str = "reader";
/// The password of [`USER`].
pub const PASSWORD: &str = "mqtt-secret-6f1d";
/// The file of passwords of a broker that has one.
const PASSWORDS: &str = "passwords";

/// A broker with its data; running or not.
#[derive(Debug)]
pub struct Mosquitto {
    folder: TempDir,
    settings: Vec<String>,
    /// Where it listens, without a log-in unless it was made with one.
    pub address: SocketAddr,
    /// Where it listens with TLS and asks for a client certificate, if it does.
    pub tls_address: Option<SocketAddr>,
    process: Mutex<Option<Process>>,
}

impl Mosquitto {
    /// Starts a broker that keeps sessions on disk.
    ///
    /// # Errors
    /// Where mosquitto cannot be had.
    pub async fn start() -> Result<Self, Skipped> {
        Self::with(&["allow_anonymous true"]).await
    }

    /// Starts a broker with more lines of configuration.
    ///
    /// # Errors
    /// Where mosquitto cannot be had.
    pub async fn with(settings: &[&str]) -> Result<Self, Skipped> {
        let broker = Self::prepare(settings)?;
        broker.resume().await;
        Ok(broker)
    }

    /// Starts a broker that only lets [`USER`] in, who may publish on all topics and subscribe to those under `open/`.
    ///
    /// # Errors
    /// Where mosquitto or its plugin cannot be had.
    pub async fn with_password() -> Result<Self, Skipped> {
        let mut broker = Self::prepare(&["allow_anonymous false"])?;
        let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
        let plugin = libraries.map(|library| library.join("mosquitto_dynamic_security.so")).find(|path| path.is_file());
        let plugin =
            plugin.ok_or_else(|| Skipped::because("no mosquitto_dynamic_security.so of Debian's mosquitto"))?;
        let users = broker.path("users.json");
        let program = Program::new("mosquitto_ctrl", "mosquitto_ctrl").args(["dynsec", "init"]);
        let (status, log) = program.args([&users]).args([USER, PASSWORD]).output(SOON).await;
        assert!(status.success(), "mosquitto_ctrl: {}", log.text());
        let mut made: serde_json::Value = serde_json::from_str(&fs::read_to_string(&users).unwrap()).unwrap();
        made["roles"][0]["acls"] = json!([
            {"acltype": "subscribePattern", "topic": "open/#", "allow": true},
            {"acltype": "publishClientSend", "topic": "#", "allow": true},
        ]);
        fs::write(&users, made.to_string()).unwrap();
        broker.settings.push(format!("plugin {}", plugin.display()));
        broker.settings.push(format!("plugin_opt_config_file {}", users.display()));
        broker.resume().await;
        Ok(broker)
    }

    /// Starts a broker that has the password of [`USER`] in a file, and lets in without a log-in who names no user.
    ///
    /// # Errors
    /// Where mosquitto cannot be had.
    pub async fn with_password_file() -> Result<Self, Skipped> {
        let mut broker = Self::prepare(&["allow_anonymous true"])?;
        broker.know_user().await;
        broker.resume().await;
        Ok(broker)
    }

    /// Has a file with the password of [`USER`] from the start.
    async fn know_user(&mut self) {
        self.settings.push(format!("password_file {}", self.path(PASSWORDS).display()));
        self.set_password(PASSWORD).await;
    }

    /// Gives [`USER`] another password in the file, for the next [`Mosquitto::resume`].
    pub async fn set_password(&self, password: &str) {
        let program = Program::new("mosquitto_passwd", "mosquitto_passwd").args(["-c", "-b"]);
        let (status, log) = program.args([self.path(PASSWORDS)]).args([USER, password]).output(SOON).await;
        assert!(status.success(), "mosquitto_passwd: {}", log.text());
    }

    /// Starts a broker as [`Mosquitto::with_password_file`] does, which also listens with TLS and asks for a certificate there.
    ///
    /// # Errors
    /// Where mosquitto or openssl cannot be had.
    pub async fn with_tls() -> Result<Self, Skipped> {
        let authority = tls::authority().await?;
        let mut broker = Self::prepare(&["allow_anonymous true"])?;
        let (address, server) = (ports::free(), authority.server());
        broker.tls_address = Some(address);
        broker.settings.extend([
            format!("listener {} 127.0.0.1", address.port()),
            format!("certfile {}", server.cert.display()),
            format!("keyfile {}", server.key.display()),
            format!("cafile {}", authority.ca().display()),
            "require_certificate true".to_owned(),
            "allow_anonymous true".to_owned(),
        ]);
        broker.know_user().await;
        broker.resume().await;
        Ok(broker)
    }

    /// A broker that is not started yet.
    ///
    /// # Errors
    /// Where mosquitto cannot be had.
    pub fn prepare(settings: &[&str]) -> Result<Self, Skipped> {
        if !is_installed("mosquitto") {
            return Err(Skipped::because("no mosquitto command (apt-get install mosquitto)"));
        }
        let (folder, address) = (scratch::dir("mosquitto"), ports::free());
        let mut lines = vec![
            "persistence true".to_owned(),
            format!("persistence_location {}/", folder.path().display()),
            // What was not saved is lost when the broker is killed: saved after every change of a session.
            "autosave_on_changes true".to_owned(),
            "autosave_interval 1".to_owned(),
            "max_queued_messages 0".to_owned(),
            // As root it would become another user, who cannot write here.
            "user root".to_owned(),
            format!("listener {} 127.0.0.1", address.port()),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        Ok(Self { folder, settings: lines, address, tls_address: None, process: Mutex::new(None) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it, on the data that it had.
    pub async fn resume(&self) {
        let config = self.path("mosquitto.conf");
        fs::write(&config, self.settings.join("\n")).unwrap();
        let process = Program::new("mosquitto", "mosquitto").args(["-v", "-c"]).args([&config]).start().await;
        crate::case::show_on_failure(process.log());
        *self.process.lock() = Some(process);
        eventually("mosquitto listens", SOON, async || tokio::net::TcpStream::connect(self.address).await.ok()).await;
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        let process = self.process.lock().take();
        if let Some(mut process) = process {
            process.kill().await;
        }
    }

    /// Ends it in order: it saves all of its data.
    pub async fn stop(&self) {
        let process = self.process.lock().take();
        if let Some(mut process) = process {
            process.signal(Signal::TERM);
            process.ended(SOON).await;
        }
    }

    /// Freezes it with SIGSTOP, until [`Mosquitto::thaw`].
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

    /// How many lines of its log hold every one of `parts`.
    pub fn logged(&self, parts: &[&str]) -> usize {
        let process = self.process.lock();
        let Some(process) = process.as_ref() else { return 0 };
        process.log().text().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// A client that publishes without a log-in.
    pub async fn publisher(&self) -> Publisher {
        Publisher::connect(self.options("publisher")).await
    }

    /// A client that publishes as [`USER`].
    pub async fn publisher_with_password(&self) -> Publisher {
        let mut options = self.options("publisher");
        options.set_credentials(USER, PASSWORD);
        Publisher::connect(options).await
    }

    /// A client that leaves a message behind when it is gone without a word.
    pub async fn publisher_with_will(&self, topic: &str, payload: &str) -> Publisher {
        let mut options = self.options("mortal");
        options.set_last_will(LastWill::new(topic, payload.to_owned(), QoS5::AtLeastOnce, false, None));
        Publisher::connect(options).await
    }

    fn options(&self, client: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client, self.address.ip().to_string(), self.address.port());
        options.set_keep_alive(Duration::from_secs(60)).set_clean_start(true);
        options
    }
}

/// A client that publishes, one message after the other. A connection that breaks is an error of the test.
pub struct Publisher {
    client: AsyncClient,
    events: EventLoop,
    /// How long the broker may take to confirm what is published.
    patience: Duration,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

impl Publisher {
    async fn connect(options: MqttOptions) -> Self {
        let (client, mut events) = AsyncClient::new(options, 64);
        let connected = async {
            loop {
                if let Event::Incoming(Packet::ConnAck(_)) = events.poll().await.unwrap() {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, connected).await.expect("the broker answers");
        Self { client, events, patience: SOON }
    }

    /// Lets the broker take longer to confirm what is published, such as while it is frozen.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Publishes a message and waits until the broker has it.
    pub async fn send(&mut self, topic: &str, qos: u8, payload: impl Into<Vec<u8>>) {
        self.send_with(topic, qos, false, payload, PublishProperties::default()).await;
    }

    /// The same with everything that may stand beside a message.
    pub async fn send_with(
        &mut self,
        topic: &str,
        qos: u8,
        retain: bool,
        payload: impl Into<Vec<u8>>,
        properties: PublishProperties,
    ) {
        self.put(topic, qos, retain, payload.into(), properties).await;
        self.confirmed(qos, 1).await;
    }

    /// Publishes many messages at once and waits until the broker has them all.
    pub async fn send_all(&mut self, topic: &str, qos: u8, payloads: impl IntoIterator<Item = String>) {
        let payloads: Vec<String> = payloads.into_iter().collect();
        for part in payloads.chunks(16) {
            for payload in part {
                self.put(topic, qos, false, payload.clone().into_bytes(), PublishProperties::default()).await;
            }
            self.confirmed(qos, part.len()).await;
        }
    }

    async fn put(&self, topic: &str, qos: u8, retain: bool, payload: Vec<u8>, properties: PublishProperties) {
        let qos = match qos {
            0 => QoS5::AtMostOnce,
            1 => QoS5::AtLeastOnce,
            _ => QoS5::ExactlyOnce,
        };
        self.client.publish_with_properties(topic, qos, retain, payload, properties).await.unwrap();
    }

    async fn confirmed(&mut self, qos: u8, count: usize) {
        use rumqttc::Outgoing;

        let mut left = count;
        let confirmed = async {
            while left > 0 {
                match self.events.poll().await.unwrap() {
                    Event::Outgoing(Outgoing::Publish(_)) if qos == 0 => left -= 1,
                    Event::Incoming(Packet::PubAck(_)) if qos == 1 => left -= 1,
                    Event::Incoming(Packet::PubComp(_)) if qos == 2 => left -= 1,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(self.patience, confirmed).await.expect("the broker confirms what is published");
    }
}
