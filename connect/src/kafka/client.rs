//! Brokers as the settings of a client.

mod server_name;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::Brokers;

impl Brokers {
    /// The settings of a client that reaches them, to which the caller adds what it is for.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.addresses)
            .set("allow.auto.create.topics", "false")
            .set("socket.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.max.ms", "5000")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Info);
        if let Some(login) = &self.login {
            config
                .set("sasl.mechanism", login.mechanism.as_str())
                .set("sasl.username", login.username.expose())
                .set("sasl.password", login.password.expose());
        }
        if let Some(tls) = &self.tls {
            match &tls.ca {
                Some(ca) => config.set("ssl.ca.pem", ca.expose()),
                None => config.set("ssl.ca.location", "probe"),
            };
            if let Some(identity) = &tls.identity {
                config.set("ssl.certificate.pem", identity.cert.expose()).set("ssl.key.pem", identity.key.expose());
            }
            if tls.insecure_skip_verify {
                config.set("enable.ssl.certificate.verification", "false");
            }
            // The client can check no other name than the one it connects to.
            if tls.server_name.is_some() || tls.insecure_skip_verify {
                config.set("ssl.endpoint.identification.algorithm", "none");
            }
        }
        config.set(
            "security.protocol",
            match (self.login.is_some(), self.tls.is_some()) {
                (false, false) => "plaintext",
                (false, true) => "ssl",
                (true, false) => "sasl_plaintext",
                (true, true) => "sasl_ssl",
            },
        );
        config
    }

    /// Whether a bootstrap broker shows a certificate for `tls.serverName`; nothing to do without one. Blocks.
    ///
    /// # Errors
    /// In words, when none does, with what the last one answered.
    pub fn check_server_name(&self) -> Result<(), String> {
        server_name::check(self)
    }
}
