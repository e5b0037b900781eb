//! What goes wrong between evoke and JetStream, in the words of the bus.

use std::sync::Arc;

use serde::Deserialize;

use crate::bus::BusError;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// There is no connection; says why.
    #[error("{0}")]
    Down(Arc<str>),
    /// The connection broke while the answer was awaited.
    #[error("the connection to NATS broke before it answered")]
    Broken,
    /// Nobody answered in time.
    #[error(
        "NATS does not answer: the stream has no leader, the account may not ask, or a server has turned JetStream off, \
         as one does that cannot write (its log says why)"
    )]
    Silent,
    /// Nobody is there to answer.
    #[error(
        "nobody at NATS answers for this: the stream is gone, or the servers run without JetStream (`nats-server -js`)"
    )]
    Nobody,
    /// The client refused the message.
    #[error("the NATS client refuses this: {0}")]
    Client(String),
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed,
}

/// What JetStream says instead of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{description} (code {err_code})")]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) err_code: u64,
    pub(super) description: String,
}

impl Refusal {
    pub(super) const NOT_ENABLED: u64 = 10076;
    pub(super) const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
    pub(super) const NO_MESSAGE: u64 = 10037;
    pub(super) const NO_STREAM: u64 = 10059;
    pub(super) const NAME_IN_USE: u64 = 10058;
    pub(super) const STREAM_FULL: u64 = 10077;
    pub(super) const UNKNOWN_BATCH: u64 = 10208;
    pub(super) const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];
    /// A message is larger than the stream takes, or its headers than any stream does.
    const TOO_LARGE: [u64; 2] = [10054, 10097];
    /// The stream's own limit, and those of the account and the servers.
    const FULL: [u64; 5] = [Self::STREAM_FULL, 10047, 10023, 10028, 10002];

    /// The refusal that an answer holds, if it does.
    pub(super) fn check(answer: &[u8]) -> Result<(), Self> {
        #[derive(Deserialize)]
        struct Answer {
            error: Option<Refusal>,
        }
        match serde_json::from_slice::<Answer>(answer) {
            Ok(Answer { error: Some(refusal) }) => Err(refusal),
            _ => Ok(()),
        }
    }

    pub(super) fn is(&self, code: u64) -> bool {
        self.err_code == code
    }

    /// True where the message is what is wrong, and never fits.
    pub(super) fn is_too_large(&self) -> bool {
        Self::TOO_LARGE.contains(&self.err_code)
    }

    /// True where what is full may have room later.
    pub(super) fn is_full(&self) -> bool {
        Self::FULL.contains(&self.err_code)
    }
}

/// Why a call of JetStream's API failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("NATS answers what evoke cannot read: {0}")]
    Garbage(String),
}

impl ApiError {
    pub(super) fn is(&self, code: u64) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is(code))
    }
}

impl From<WireError> for BusError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => Self::Closed,
            other => Self::Unavailable(other.to_string().into()),
        }
    }
}

impl From<Refusal> for BusError {
    fn from(refusal: Refusal) -> Self {
        match refusal.err_code {
            Refusal::NOT_ENABLED | Refusal::NOT_ENABLED_FOR_ACCOUNT => {
                let hint = "enable it for this account: `nats-server -js`, or the account's JetStream limits";
                Self::Unavailable(format!("NATS has no JetStream here: {refusal}; {hint}").into())
            }
            _ => Self::Unavailable(format!("JetStream refuses: {refusal}").into()),
        }
    }
}

impl From<ApiError> for BusError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Wire(error) => error.into(),
            ApiError::Refused(refusal) => refusal.into(),
            ApiError::Garbage(_) => Self::Broken(error.to_string().into()),
        }
    }
}
