//! Posts events to a function, wherever it listens at the moment.

use std::time::Duration;

use evoke_api::names::ObjectName;
use evoke_eventbus::event::Event;
use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::{PathAndQuery, Scheme};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::endpoints::{Address, Endpoints};
use crate::http::{Poster, retry};
use crate::sink::{Outcome, Sink};

/// A function that evoke serves. Its sudden end is a lost connection, hence a retry.
#[derive(Debug)]
pub struct FunctionSink {
    poster: Poster,
    function: ObjectName,
    address: watch::Receiver<Address>,
    path: PathAndQuery,
    timeout: Duration,
    destination: String,
}

impl FunctionSink {
    /// Follows a function's address and posts to `path` there.
    ///
    /// # Errors
    /// A path that HTTP cannot express.
    pub(crate) fn new(
        poster: Poster,
        endpoints: &Endpoints,
        function: &ObjectName,
        path: &str,
        timeout: Duration,
    ) -> Result<Self, http::uri::InvalidUri> {
        let path: PathAndQuery = path.parse()?;
        let ObjectName { namespace, name } = function;
        let destination = format!("http://{name}.{namespace}.svc.cluster.local{}", path.path());
        let (function, address) = (function.clone(), endpoints.follow(function));
        Ok(Self { poster, function, address, path, timeout, destination })
    }

    async fn post(&self, event: &Event, wanted: Option<usize>) -> (Outcome, Option<Event>) {
        let deadline = Instant::now() + self.timeout;
        let now = self.address.borrow().clone();
        let address = match now {
            Some(address) => Some(address),
            None => self.wait(deadline).await,
        };
        let Some(address) = address else {
            return (retry(format!("function {} is not ready", self.function), None, None), None);
        };
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(address)
            .path_and_query(self.path.clone())
            .build()
            .unwrap_or_default();
        self.poster.post(uri, None, event, deadline.saturating_duration_since(Instant::now()), wanted).await
    }

    async fn wait(&self, deadline: Instant) -> Address {
        let mut address = self.address.clone();
        let ready = tokio::time::timeout_at(deadline, address.wait_for(Option::is_some)).await;
        ready.ok().and_then(Result::ok).and_then(|address| address.clone())
    }
}

impl Sink for FunctionSink {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { self.post(event, None).await.0 })
    }

    fn ask<'a>(&'a self, event: &'a Event, limit: usize) -> BoxFuture<'a, (Outcome, Option<Event>)> {
        Box::pin(self.post(event, Some(limit)))
    }

    fn destination(&self) -> &str {
        &self.destination
    }
}
