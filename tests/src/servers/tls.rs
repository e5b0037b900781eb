//! A certificate authority and what it signs, made with the openssl command.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Shared;
use crate::SOON;
use crate::case::Skipped;
use crate::process::{Program, is_installed};
use crate::scratch;

static SHARED: Shared<Authority> = Shared::new();

/// A certificate authority with one server certificate (127.0.0.1, localhost, `broker.test`) and one client certificate.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub cert: PathBuf,
    /// Its PKCS #8 key.
    pub key: PathBuf,
}

impl Identity {
    /// Key and certificate in one PEM text, as Kafka takes them.
    pub fn bundle(&self) -> String {
        format!("{}{}", fs::read_to_string(&self.key).unwrap(), fs::read_to_string(&self.cert).unwrap())
    }

    /// What takes connections as this server, whoever the client is.
    ///
    /// # Panics
    /// When it is no identity of a server.
    pub fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(&self.cert).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The authority of this run.
///
/// # Errors
/// Where there is no openssl command.
pub async fn authority() -> Result<Arc<Authority>, Skipped> {
    SHARED
        .get(async {
            if !is_installed("openssl") {
                return Err(Skipped::because("no openssl command (apt-get install openssl)"));
            }
            Ok(Authority::new().await)
        })
        .await
}

impl Authority {
    async fn new() -> Self {
        let authority = Self { folder: scratch::dir("tls") };
        authority.certificate("ca", "CN = evoke test authority", "basicConstraints=critical,CA:TRUE", false).await;
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:broker.test";
        authority.certificate("server", "CN = broker.test", names, true).await;
        authority.certificate("client", "CN = client.test", "extendedKeyUsage=clientAuth", true).await;
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn certificate(&self, name: &str, subject: &str, extension: &str, signed: bool) {
        let subject = format!("/{}", subject.replace(" = ", "="));
        let mut openssl = Program::new("openssl", "openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"])
            .args(["-subj", &subject, "-addext", extension])
            .arg_path("-keyout", &self.path(&format!("{name}.key")))
            .arg_path("-out", &self.path(&format!("{name}.pem")));
        if signed {
            openssl = openssl
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .arg_path("-CA", &self.ca())
                .arg_path("-CAkey", &self.path("ca.key"));
        }
        let (status, log) = openssl.output(SOON).await;
        assert!(status.success(), "openssl: {}", log.text());
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server's identity.
    pub fn server(&self) -> Identity {
        Identity { cert: self.path("server.pem"), key: self.path("server.key") }
    }

    /// The client's identity.
    pub fn client(&self) -> Identity {
        Identity { cert: self.path("client.pem"), key: self.path("client.key") }
    }

    /// The folder of all of it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
