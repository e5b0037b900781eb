//! What the Kafka client reports, in few words.

use rdkafka::error::KafkaError;

/// What went wrong, in the client's words but without its names for the operation.
pub fn text(error: &KafkaError) -> String {
    let Some(code) = error.rdkafka_error_code() else { return error.to_string() };
    let told = code.to_string();
    let words = told.split_once(" (").and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(&told);
    words.trim_start_matches("Local: ").trim_start_matches("Broker: ").to_owned()
}

/// The client's reason without the connection's own name and what it appends about its state.
pub fn shorten(reason: &str) -> String {
    let named = |name: &str| name.contains('/') && !name.contains(' ');
    let reason = reason.split_once(": ").filter(|(name, _)| named(name)).map_or(reason, |(_, reason)| reason);
    let end = reason.find(" (after ").or_else(|| reason.find(" (in state ")).unwrap_or(reason.len());
    reason.get(..end).unwrap_or(reason).to_owned()
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode;

    use super::*;

    #[test]
    fn says_what_went_wrong_in_few_words() {
        let error = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
        assert_eq!(text(&error), "Timed out");
        assert_eq!(
            text(&KafkaError::ConsumerCommit(RDKafkaErrorCode::IllegalGeneration)),
            "Specified group generation id is not valid"
        );
        assert_eq!(
            shorten(
                "ssl://k:9094/bootstrap: SSL handshake failed: no (after 12ms in state CONNECT, 1 identical error(s) suppressed)"
            ),
            "SSL handshake failed: no"
        );
    }
}
