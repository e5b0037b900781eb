//! Checks `tls.serverName`. The Kafka client checks only the name that it connects to, so where the manifest gives another one the
//! bootstrap brokers are asked for their certificate first, on a connection of its own.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

use crate::kafka::Brokers;
use crate::kafka::plan::PORT;
use crate::tls_client;

const CONNECT: Duration = Duration::from_secs(2);

/// Whether a bootstrap broker shows a certificate for the name; nothing to do without one.
///
/// # Errors
/// In words, when none does, with what the last one answered.
pub(super) fn check(brokers: &Brokers) -> Result<(), String> {
    let Some(tls) = brokers.tls.as_ref().filter(|tls| !tls.insecure_skip_verify) else { return Ok(()) };
    let Some(name) = &tls.server_name else { return Ok(()) };
    let config = Arc::new(tls_client::config(tls).map_err(|cause| format!("tls: {cause}"))?);
    let mut last = String::new();
    for broker in brokers.addresses.split(',') {
        match handshake(&config, broker, name) {
            Ok(()) => return Ok(()),
            Err(cause) => last = format!("cannot reach {broker} as {name:?}: {cause}"),
        }
    }
    Err(last)
}

fn handshake(config: &Arc<ClientConfig>, broker: &str, name: &str) -> io::Result<()> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let has_port = broker.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let mut addresses = if has_port { broker.to_socket_addrs() } else { (broker, PORT).to_socket_addrs() }?;
    let address = addresses.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_read_timeout(Some(CONNECT))?;
    stream.set_write_timeout(Some(CONNECT))?;
    let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    connection.send_close_notify();
    connection.complete_io(&mut stream).map(drop)
}
