//! Connections to Redis: found through Sentinel or a cluster's redirections where asked, encrypted, logged in.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, RedisError, Value, cmd};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::reply;
use super::server::{Mode, ServerPlan, Words};
use super::trouble::{Trouble, explain};
use crate::address::Address;
use crate::tls_client;

/// How many redirections a cluster may answer with before it is taken to be confused.
const REDIRECTIONS: usize = 5;

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Makes connections to what one plan names.
pub struct Connector {
    plan: ServerPlan,
    tls: Option<TlsConnector>,
}

/// A connection. It is closed when this is dropped.
pub struct Link {
    connection: MultiplexedConnection,
    /// Where it leads.
    pub address: Address,
    response_timeout: Duration,
    words: &'static Words,
    _driver: JoinSet<()>,
}

impl Link {
    /// Has one command answered, or says why it was not, in time.
    ///
    /// # Errors
    /// [`Trouble`], also where the server refuses.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, Trouble> {
        self.ask_within(command, self.response_timeout).await
    }

    /// The same for a command that may block on the server for `block`.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub async fn ask_blocking(&self, command: &Cmd, block: Duration) -> Result<Value, Trouble> {
        self.ask_within(command, self.response_timeout + block).await
    }

    async fn ask_within(&self, command: &Cmd, limit: Duration) -> Result<Value, Trouble> {
        let mut connection = self.connection.clone();
        match timeout(limit, command.query_async(&mut connection)).await {
            Ok(Ok(Value::ServerError(error))) => Err(self.refusal(error.into())),
            Ok(answer) => answer.map_err(|error| self.refusal(error)),
            Err(_) => Err(Trouble::silent(&self.address, limit)),
        }
    }

    /// Has several commands answered, in order; a refusal of one is a refusal of all.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub async fn ask_all(&self, commands: &redis::Pipeline) -> Result<Vec<Value>, Trouble> {
        self.ask_all_blocking(commands, Duration::ZERO).await
    }

    /// The same for commands that may block on the server for `block`.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub async fn ask_all_blocking(&self, commands: &redis::Pipeline, block: Duration) -> Result<Vec<Value>, Trouble> {
        let limit = self.response_timeout + block;
        let mut connection = self.connection.clone();
        match timeout(limit, commands.query_async(&mut connection)).await {
            Ok(answers) => answers.map_err(|error| self.refusal(first_refusal(error))),
            Err(_) => Err(Trouble::silent(&self.address, limit)),
        }
    }

    fn refusal(&self, error: RedisError) -> Trouble {
        Trouble::Redis(error, self.words)
    }
}

impl Connector {
    /// Reads certificates, once for all connections.
    ///
    /// # Errors
    /// Says what cannot be used, for people.
    pub fn new(plan: &ServerPlan) -> Result<Self, String> {
        let tls = plan.tls.as_ref().map(tls_client::config).transpose()?;
        Ok(Self { plan: plan.clone(), tls: tls.map(|config| TlsConnector::from(Arc::new(config))) })
    }

    /// Connects to the server that holds `key`.
    ///
    /// # Errors
    /// [`Trouble`] says what stands in the way.
    pub async fn connect(&self, key: &str) -> Result<Link, Trouble> {
        match &self.plan.mode {
            Mode::Node => self.first(&self.plan.addresses).await,
            Mode::Sentinel { master } => {
                let address = self.master(master).await?;
                let link = self.open(&address).await?;
                match reply::array(link.ask(&cmd("ROLE")).await?)
                    .and_then(|role| reply::string(role.into_iter().next()?))
                {
                    Some(role) if role != "master" => {
                        Err(Trouble::Other(format!("{address} is no master yet, but a {role}")))
                    }
                    _ => Ok(link),
                }
            }
            Mode::Cluster => self.holder(key).await,
        }
    }

    /// Where the server is said to be now: what Sentinel says where there is one, else what the plan says.
    ///
    /// # Errors
    /// [`Trouble`] where no Sentinel answers.
    pub async fn whereabouts(&self) -> Result<Vec<Address>, Trouble> {
        match &self.plan.mode {
            Mode::Node | Mode::Cluster => Ok(self.plan.addresses.clone()),
            Mode::Sentinel { master } => Ok(vec![self.master(master).await?]),
        }
    }

    /// What this connects to.
    pub fn plan(&self) -> &ServerPlan {
        &self.plan
    }

    /// A connection for messages of channels, which `pushed` takes. The future drives the connection: nothing is read while it
    /// is not polled.
    ///
    /// # Errors
    /// [`Trouble`] says what stands in the way.
    pub async fn subscriber(
        &self,
        pushed: impl redis::aio::AsyncPushSender,
    ) -> Result<(MultiplexedConnection, BoxFuture<'static, ()>, Address), Trouble> {
        let address = match &self.plan.mode {
            Mode::Sentinel { master } => self.master(master).await?,
            Mode::Node | Mode::Cluster => self.first(&self.plan.addresses).await?.address.clone(),
        };
        let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        if let Some(password) = &self.plan.password {
            info = info.set_password(password.expose());
            info = info.set_username(self.plan.username.as_ref().map_or("default", |user| user.expose()));
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(pushed);
        let stream = self.stream(&address).await?;
        let connected = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) = connected.map_err(|error| self.refusal(error))?;
        Ok((connection, driver.boxed(), address))
    }

    /// The first of `addresses` that takes a connection.
    async fn first(&self, addresses: &[Address]) -> Result<Link, Trouble> {
        let mut trouble = Trouble::Other("no server is named".into());
        for address in addresses {
            match self.open(address).await {
                Ok(link) => return Ok(link),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    /// Asks the Sentinels, in turn, for the master.
    async fn master(&self, name: &str) -> Result<Address, Trouble> {
        let mut trouble = Trouble::Other("no Sentinel is named".into());
        for sentinel in &self.plan.addresses {
            match self.ask_sentinel(sentinel, name).await {
                Ok(address) => return Ok(address),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    async fn ask_sentinel(&self, sentinel: &Address, name: &str) -> Result<Address, Trouble> {
        let mut command = cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(name);
        let link = self.bare(sentinel).await?;
        let answer = match link.ask(&command).await {
            // Sentinels often have no password where the servers have one.
            Err(Trouble::Redis(error, _)) if error.code() == Some("NOAUTH") => {
                self.log_in(&link).await?;
                link.ask(&command).await?
            }
            answer => answer?,
        };
        let mut parts = reply::array(answer).unwrap_or_default().into_iter().filter_map(reply::string);
        match (parts.next(), parts.next().and_then(|port| port.parse().ok())) {
            (Some(host), Some(port)) => Ok(Address { host, port }),
            _ => Err(Trouble::Other(format!(
                "the Sentinel {sentinel} knows no master {name:?}; correct sentinelMasterName"
            ))),
        }
    }

    /// Follows a cluster's redirections to the server that holds `key`.
    async fn holder(&self, key: &str) -> Result<Link, Trouble> {
        let mut link = self.first(&self.plan.addresses).await?;
        for _ in 0..REDIRECTIONS {
            let Err(Trouble::Redis(error, words)) = link.ask(cmd("TYPE").arg(key)).await else { return Ok(link) };
            let Some((host, port)) = error.redirect_node().and_then(|(node, _)| node.rsplit_once(':')) else {
                return Err(Trouble::Redis(error, words));
            };
            let port = port.parse().map_err(|_| Trouble::Other(format!("{} redirects to nowhere", link.address)))?;
            // An empty host is the one that was asked.
            let host = if host.is_empty() { link.address.host.clone() } else { host.to_owned() };
            link = self.open(&Address { host, port }).await?;
        }
        Err(Trouble::Other("the cluster redirects in circles".into()))
    }

    /// A connection that is logged in and in its database.
    ///
    /// # Errors
    /// [`Trouble`] says what stands in the way.
    pub async fn open(&self, address: &Address) -> Result<Link, Trouble> {
        let link = self.bare(address).await?;
        self.log_in(&link).await?;
        if self.plan.db != 0 {
            link.ask(cmd("SELECT").arg(self.plan.db)).await?;
        }
        Ok(link)
    }

    async fn log_in(&self, link: &Link) -> Result<(), Trouble> {
        let Some(password) = &self.plan.password else { return Ok(()) };
        let mut command = cmd("AUTH");
        if let Some(username) = &self.plan.username {
            command.arg(username.expose());
        }
        command.arg(password.expose());
        link.ask(&command).await?;
        Ok(())
    }

    async fn bare(&self, address: &Address) -> Result<Link, Trouble> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let stream = self.stream(address).await?;
        let connected = MultiplexedConnection::new_with_config(&info, stream, config);
        let limit = self.plan.dial_timeout;
        let (connection, driver) = timeout(limit, connected)
            .await
            .map_err(|_| Trouble::silent(address, limit))?
            .map_err(|error| self.unwelcome(address, error))?;
        let mut task = JoinSet::new();
        task.spawn(driver);
        let response_timeout = self.plan.response_timeout;
        Ok(Link { connection, address: address.clone(), response_timeout, words: self.plan.words, _driver: task })
    }

    /// A refusal, in the words of this plan's manifest.
    pub fn refusal(&self, error: RedisError) -> Trouble {
        Trouble::Redis(error, self.plan.words)
    }

    /// A server that breaks a new connection.
    fn unwelcome(&self, address: &Address, error: RedisError) -> Trouble {
        if self.tls.is_none() && error.is_io_error() {
            return Trouble::Other(format!(
                "{address} broke the connection: {error}; if it wants TLS, set {}",
                self.plan.words.tls
            ));
        }
        self.refusal(error)
    }

    async fn stream(&self, address: &Address) -> Result<Box<dyn Stream>, Trouble> {
        let refused = |error: &io::Error| Trouble::Other(format!("cannot connect to {address}: {}", explain(error)));
        let limit = self.plan.dial_timeout;
        let connected = timeout(limit, TcpStream::connect((address.host.as_str(), address.port))).await;
        let stream = connected.map_err(|_| Trouble::silent(address, limit))?.map_err(|e| refused(&e))?;
        stream.set_nodelay(true).map_err(|e| refused(&e))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let named = self.plan.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let name = named.unwrap_or_else(|| address.host.clone());
        let name = ServerName::try_from(name).map_err(|e| Trouble::Other(format!("{address}: {e}")))?;
        let failed = |cause: String| {
            Trouble::Other(format!("TLS with {address} failed: {cause}; check `tls`, and that the port speaks TLS"))
        };
        match timeout(limit, tls.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", limit.as_secs_f64()))),
        }
    }
}

/// What the first of several commands was refused for.
fn first_refusal(error: RedisError) -> RedisError {
    let refusals = error.clone().into_server_errors();
    refusals.and_then(|all| all.first().map(|(_, refusal)| refusal.clone().into())).unwrap_or(error)
}
