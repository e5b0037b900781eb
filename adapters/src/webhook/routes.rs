//! Which webhook a request is for, at one address.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderValue, Method};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::request::Endpoint;
use crate::source::Origin;

/// The webhooks of one address, by path.
#[derive(Debug)]
pub(super) struct Routes {
    table: RwLock<Table>,
    changes: watch::Sender<()>,
    linger: Duration,
}

#[derive(Debug)]
struct Table {
    paths: HashMap<String, Path>,
    /// When the last webhook went; `None` while there are any.
    emptied: Option<Instant>,
}

#[derive(Debug, Default)]
struct Path {
    endpoints: Vec<Arc<Endpoint>>,
    /// When the last one went.
    left: Option<Instant>,
}

/// Another webhook takes the same requests.
pub(super) struct Taken {
    /// Its event, for people.
    pub(super) by: String,
    /// Says when a webhook was taken away.
    pub(super) changes: watch::Receiver<()>,
}

/// Where a request goes.
pub(super) enum Found {
    /// To this webhook, which waits for it to be answered before it ends.
    Endpoint(Arc<Endpoint>, TaskTrackerToken),
    /// Nowhere: the path takes these methods.
    OtherMethods(HeaderValue),
    /// Nowhere for now: the webhook went, and may be back.
    Gone,
    /// Nowhere.
    Nothing,
}

impl Routes {
    pub(super) fn new(linger: Duration) -> Self {
        let table = Table { paths: HashMap::new(), emptied: Some(Instant::now()) };
        Self { table: RwLock::new(table), changes: watch::Sender::new(()), linger }
    }

    /// Adds a webhook. One of the same event is replaced, and finishes what it has; one of another event keeps its place.
    pub(super) fn add(&self, endpoint: &Arc<Endpoint>) -> Result<(), Taken> {
        let mut table = self.table.write();
        let path = table.paths.entry(endpoint.plan.path.clone()).or_default();
        match path.endpoints.iter_mut().find(|e| e.plan.method == endpoint.plan.method) {
            Some(other) if !same_event(&other.plan.origin, &endpoint.plan.origin) => {
                let Origin { event_source, event, .. } = &other.plan.origin;
                let by = format!("event {event} of EventSource {event_source}");
                return Err(Taken { by, changes: self.changes.subscribe() });
            }
            Some(former) => *former = Arc::clone(endpoint),
            None => path.endpoints.push(Arc::clone(endpoint)),
        }
        path.left = None;
        table.emptied = None;
        Ok(())
    }

    /// Takes a webhook away, unless it was replaced. From here on no request finds it.
    pub(super) fn remove(&self, endpoint: &Arc<Endpoint>) {
        let mut table = self.table.write();
        let now = Instant::now();
        if let Some(path) = table.paths.get_mut(&endpoint.plan.path) {
            path.endpoints.retain(|e| !Arc::ptr_eq(e, endpoint));
            if path.endpoints.is_empty() {
                path.left.get_or_insert(now);
            }
        }
        table.paths.retain(|_, path| path.left.is_none_or(|left| now - left < self.linger));
        if table.paths.values().all(|path| path.endpoints.is_empty()) {
            table.emptied.get_or_insert(now);
        }
        drop(table);
        self.changes.send_replace(());
    }

    /// True when there has been no webhook for a while, so that the address is not needed any more.
    pub(super) fn expired(&self) -> bool {
        self.expires().is_some_and(|at| at <= Instant::now())
    }

    /// Waits until [`Routes::expired`].
    pub(super) async fn wait_expired(&self) {
        let mut changes = self.changes.subscribe();
        while !self.expired() {
            match self.expires() {
                Some(at) => sleep_until(at).await,
                // The sender is part of `self`: this ends when something changes, and in no other way.
                None => drop(changes.changed().await),
            }
        }
    }

    fn expires(&self) -> Option<Instant> {
        self.table.read().emptied.map(|emptied| emptied + self.linger)
    }

    pub(super) fn find(&self, path: &str, method: &Method) -> Found {
        let table = self.table.read();
        let Some(path) = table.paths.get(path) else { return Found::Nothing };
        match (path.endpoints.iter().find(|e| e.plan.method == *method), path.left) {
            (Some(endpoint), _) => Found::Endpoint(Arc::clone(endpoint), endpoint.requests.token()),
            (None, None) => Found::OtherMethods(allow(&path.endpoints)),
            (None, Some(left)) if left.elapsed() < self.linger => Found::Gone,
            (None, Some(_)) => Found::Nothing,
        }
    }
}

fn same_event(one: &Origin, other: &Origin) -> bool {
    one.event_source == other.event_source && one.event == other.event
}

fn allow(endpoints: &[Arc<Endpoint>]) -> HeaderValue {
    let mut methods: Vec<&str> = endpoints.iter().map(|e| e.plan.method.as_str()).collect();
    methods.push("OPTIONS");
    HeaderValue::try_from(methods.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("OPTIONS"))
}
