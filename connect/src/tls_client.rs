//! A [`TlsPlan`] as the configuration of a rustls client.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::tls::TlsPlan;

/// Makes the configuration. Reads the system's authorities where the plan names none.
///
/// # Errors
/// Says what cannot be used, for people.
pub fn config(plan: &TlsPlan) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let authorities = Arc::new(authorities(plan)?);
    let config = builder(provider.clone())?.with_root_certificates(authorities.clone());
    let mut config = match &plan.identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates(identity.cert.expose())?;
            let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes());
            let key = key.map_err(|e| format!("the client's key cannot be used: {e}"))?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("the client's certificate cannot be used: {e}"))?
        }
    };
    if plan.insecure_skip_verify {
        config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(algorithms)));
    } else if let Some(name) = &plan.server_name {
        let name = ServerName::try_from(name.clone()).map_err(|e| format!("`serverName` cannot be used: {e}"))?;
        let usual = WebPkiServerVerifier::builder_with_provider(authorities, provider)
            .build()
            .map_err(|e| format!("the certificate authorities cannot be used: {e}"))?;
        config.dangerous().set_certificate_verifier(Arc::new(NamedCertificate { name, usual }));
    }
    Ok(config)
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())
}

fn authorities(plan: &TlsPlan) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match &plan.ca {
        Some(ca) => {
            for certificate in certificates(ca.expose())? {
                store.add(certificate).map_err(|e| format!("a certificate of `ca` cannot be used: {e}"))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(system.certs);
            if store.is_empty() && !plan.insecure_skip_verify {
                let cause = system.errors.first().map(|e| format!(": {e}")).unwrap_or_default();
                return Err(format!("the system has no certificate authorities{cause}; name the server's in `tls.ca`"));
            }
        }
    }
    Ok(store)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| format!("no certificate: {e}"))
}

/// `serverName`: the name that the certificate must carry, for clients that know the server by its address alone.
#[derive(Debug)]
struct NamedCertificate {
    name: ServerName<'static>,
    usual: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for NamedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.usual.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// `insecureSkipVerify`: takes whatever certificate the server shows, so long as it has its key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
