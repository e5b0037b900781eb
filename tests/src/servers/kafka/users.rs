//! The user of the SASL listeners, taken away and given back while the broker runs.

use super::{Broker, PASSWORD, STARTS_WITHIN, USER};

const KINDS: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];

impl Broker {
    /// Forgets the user, as far as SCRAM goes. Who is logged in stays so until it has to log in again.
    pub async fn remove_user(&self) {
        // The tool takes one kind at a time.
        for kind in KINDS {
            self.change_user(["--delete-config", kind]).await;
        }
    }

    /// Knows the user again, by the password that it had.
    pub async fn restore_user(&self) {
        for kind in KINDS {
            self.change_user(["--add-config", &format!("{kind}=[password={PASSWORD}]")]).await;
        }
    }

    async fn change_user(&self, change: [&str; 2]) {
        let tool = self
            .java("kafka.admin.ConfigCommand")
            .args(["--bootstrap-server", &self.listeners.plain.to_string(), "--alter"])
            .args(["--entity-type", "users", "--entity-name", USER])
            .args(change);
        let (status, log) = tool.output(STARTS_WITHIN).await;
        assert!(status.success(), "changing the user of Kafka: {}", log.text());
    }
}
