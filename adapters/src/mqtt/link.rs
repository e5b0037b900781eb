//! A connection to a broker: TCP, TLS, log-in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::events::MqttVersion;
use evoke_connect::tls_client;
use futures_util::{SinkExt, StreamExt};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::codec::{FramedRead, FramedWrite};

use super::trouble::Trouble;
use super::wire::{Accepted, Codec, Connect, Incoming, Outgoing};
use crate::plan::mqtt::MqttPlan;

/// How long a broker may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// What the broker is told of how often it hears of this client.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Messages of QoS 1 and 2 that may be on their way at once.
const RECEIVE_MAXIMUM: u16 = 1024;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(super) type Reader = FramedRead<ReadHalf<Box<dyn Stream>>, Codec>;
pub(super) type Writer = FramedWrite<WriteHalf<Box<dyn Stream>>, Codec>;

/// Makes connections to what one plan names.
pub(super) struct Connector {
    plan: MqttPlan,
    tls: Option<TlsConnector>,
}

/// A connection that the broker took.
pub(super) struct Link {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) accepted: Accepted,
}

impl Connector {
    /// Reads certificates, once for all connections.
    pub(super) fn new(plan: &MqttPlan) -> Result<Self, String> {
        let tls = plan.tls.as_ref().map(tls_client::config).transpose()?;
        Ok(Self { plan: plan.clone(), tls: tls.map(|config| TlsConnector::from(Arc::new(config))) })
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self, version: MqttVersion) -> Result<Link, Trouble> {
        let stream = self.stream().await?;
        let late = || Trouble::silent(&self.plan.address, ANSWER.as_secs());
        timeout(ANSWER, self.log_in(stream, version)).await.map_err(|_| late())?
    }

    async fn log_in(&self, stream: Box<dyn Stream>, version: MqttVersion) -> Result<Link, Trouble> {
        let plan = &self.plan;
        let (read, write) = tokio::io::split(stream);
        let mut reader = FramedRead::new(read, Codec::new(version));
        let mut writer = FramedWrite::new(write, Codec::new(version));
        let connect = Outgoing::Connect(Connect {
            client_id: plan.client_id.clone(),
            clean: plan.clean,
            keep_alive: KEEP_ALIVE.as_secs().try_into().unwrap_or(u16::MAX),
            receive_maximum: RECEIVE_MAXIMUM,
            username: plan.username.clone(),
            password: plan.password.clone(),
        });
        writer.send(connect).await.map_err(|error| Trouble::broken(plan, Some(error)))?;
        match reader.next().await {
            Some(Ok(Incoming::Accepted(accepted))) => Ok(Link { reader, writer, accepted }),
            Some(Ok(Incoming::Refused(refusal))) => Err(Trouble::refused(plan, refusal)),
            Some(Ok(_)) => Err(Trouble::Other(format!("{} answers with something else than CONNACK", plan.address))),
            // Older brokers answer a version that they do not know in a way that it cannot be read in, or not at all.
            Some(Err(error)) => Err(Trouble::Version(format!("{}: {error}{}", plan.address, self.guess()))),
            None => Err(Trouble::Version(format!("{} closed the connection at once{}", plan.address, self.guess()))),
        }
    }

    fn guess(&self) -> &'static str {
        if self.tls.is_none() { "; if it wants TLS, write ssl:// in `url`" } else { "" }
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, Trouble> {
        let address = &self.plan.address;
        let late = || Trouble::silent(address, ANSWER.as_secs());
        let connected = timeout(ANSWER, TcpStream::connect((address.host.as_str(), address.port))).await;
        let refused = |error: io::Error| Trouble::unreachable(address, &error);
        let stream = connected.map_err(|_| late())?.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let named = self.plan.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let name = named.unwrap_or_else(|| address.host.clone());
        let name = ServerName::try_from(name).map_err(|e| Trouble::Other(format!("{address}: {e}")))?;
        match timeout(ANSWER, tls.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(Trouble::Other(format!(
                "TLS with {address} failed: {error}; check the certificates, and that the port speaks TLS"
            ))),
            Err(_) => Err(late()),
        }
    }
}
