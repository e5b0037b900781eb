//! Makes sinks from plans. All of them share their connections.

use std::sync::{Arc, OnceLock};

use crate::endpoints::Endpoints;
use crate::function::FunctionSink;
use crate::http::{HttpSink, Poster};
use crate::plan::{DeadLetterPlan, SinkPlan, SubscriptionPlan};
use crate::rate::{Bucket, Buckets};
use crate::sink::Sink;

/// Where the sinks of a process come from. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Sinks {
    endpoints: Endpoints,
    plain: Poster,
    tls: Arc<OnceLock<Poster>>,
    buckets: Buckets,
}

/// Why there is no sink.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// What HTTP cannot express.
    #[error("{0} cannot be posted to")]
    Address(#[from] http::uri::InvalidUri),
    /// No certificates to trust.
    #[error("the certificates that this machine trusts cannot be read, which https needs: {0}")]
    Roots(#[from] std::io::Error),
}

impl Sinks {
    /// Functions are found in `endpoints`.
    pub fn new(endpoints: Endpoints) -> Self {
        Self { endpoints, plain: Poster::plain(), tls: Arc::default(), buckets: Buckets::default() }
    }

    /// The sink of a plan, each attempt of which may take `timeout`.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn sink(&self, plan: &SinkPlan, timeout: std::time::Duration) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(match plan {
            SinkPlan::Http(url) => {
                let poster = if url.scheme() == "https" { self.tls()? } else { self.plain.clone() };
                Arc::new(HttpSink::new(poster, url, timeout)?)
            }
            SinkPlan::Function { name, path } => {
                Arc::new(FunctionSink::new(self.plain.clone(), &self.endpoints, name, path, timeout)?)
            }
        })
    }

    /// The sinks that a subscription needs.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn outputs(&self, plan: &SubscriptionPlan) -> Result<Outputs, SinkError> {
        let timeout = plan.policy.timeout;
        let dead_letter = match &plan.dead_letter {
            DeadLetterPlan::Sink(sink) => Some(self.sink(sink, timeout)?),
            DeadLetterPlan::Topic(_) | DeadLetterPlan::Store => None,
        };
        let sink = plan.sink.as_ref().map(|sink| self.sink(sink, timeout)).transpose()?;
        let bucket = plan.policy.rate_limit.as_ref().map(|limit| self.buckets.of(&plan.id, limit));
        Ok(Outputs { sink, dead_letter, bucket })
    }

    /// Certificates are read when the first `https` sink needs them, once.
    fn tls(&self) -> Result<Poster, SinkError> {
        if let Some(poster) = self.tls.get() {
            return Ok(poster.clone());
        }
        let poster = Poster::tls()?;
        Ok(self.tls.get_or_init(|| poster).clone())
    }
}

/// The sinks of one subscription.
#[derive(Clone, Default)]
pub struct Outputs {
    /// Where events are posted.
    pub sink: Option<Arc<dyn Sink>>,
    /// Where dead letters are posted, if the plan says a sink.
    pub dead_letter: Option<Arc<dyn Sink>>,
    /// How many deliveries may start, if the plan limits them.
    pub bucket: Option<Bucket>,
}
