//! The addresses that webhooks listen at, shared by those that name the same one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Duration, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::body::Budget;
use super::connection;
use super::limits::Limits;
use super::metrics::Metrics;
use super::request::Endpoint;
use super::routes::{Routes, Taken};

/// All addresses of a process that webhooks listen at. An address is bound when the first webhook needs it, tried again for as long
/// as it is in use, and given up when the last one has been gone for a while, so that webhooks may come, go and change without
/// their senders losing a connection. Cloning shares it; dropping the last one closes every connection at once.
#[derive(Clone, Debug)]
pub struct Listeners(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    hub: Arc<Hub>,
    _abort: DropGuard,
}

/// What all connections of a process share.
#[derive(Debug)]
pub(super) struct Hub {
    shared: SocketAddr,
    listeners: Mutex<HashMap<SocketAddr, Arc<Listener>>>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    pub(super) bodies: Budget,
    pub(super) requests: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    /// Cancelled when no connection is accepted and no further request on one.
    pub(super) closing: CancellationToken,
    /// Cancelled when connections are dropped as they are.
    pub(super) abort: CancellationToken,
}

/// One address.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) routes: Routes,
    pub(super) state: watch::Sender<State>,
}

/// How an address is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is not bound yet.
    Binding,
    /// It is bound, as this.
    Up(SocketAddr),
    /// It cannot be bound; says why.
    Down(Arc<str>),
}

impl Listeners {
    /// Listens nowhere yet. `shared` is the address of webhooks that name no port, and its host that of those that do; its port
    /// may be 0, for any that is free.
    pub fn new(shared: SocketAddr, metrics: Metrics) -> Self {
        Self::with_limits(shared, metrics, Limits::default())
    }

    pub(super) fn with_limits(shared: SocketAddr, metrics: Metrics, limits: Limits) -> Self {
        let abort = CancellationToken::new();
        let hub = Hub {
            shared,
            listeners: Mutex::default(),
            bodies: Budget::new(limits.body_bytes, metrics.body_bytes.clone()),
            requests: Arc::new(Semaphore::new(limits.requests)),
            connections: Arc::new(Semaphore::new(limits.connections)),
            tasks: TaskTracker::new(),
            closing: abort.child_token(),
            abort: abort.clone(),
            limits,
            metrics,
        };
        Self(Arc::new(Handle { hub: Arc::new(hub), _abort: abort.drop_guard() }))
    }

    /// The address that the shared listener has, once it has one.
    pub fn shared_address(&self) -> Option<SocketAddr> {
        let listeners = self.0.hub.listeners.lock();
        match *listeners.get(&self.0.hub.shared)?.state.borrow() {
            State::Up(address) => Some(address),
            State::Binding | State::Down(_) => None,
        }
    }

    /// Accepts no more connections, lets those that are open finish the requests they have, and closes them; after `drain`,
    /// whatever they are doing. Ask the sources to end before or at the same time: their requests are answered as they settle.
    pub async fn close(&self, drain: Duration) {
        let hub = &self.0.hub;
        hub.closing.cancel();
        hub.tasks.close();
        if timeout(drain, hub.tasks.wait()).await.is_err() {
            hub.abort.cancel();
            hub.tasks.wait().await;
        }
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }
}

impl Hub {
    /// Sends the requests for a webhook to it from now on, binding its address if nobody else did.
    pub(super) fn add(self: &Arc<Self>, endpoint: &Arc<Endpoint>) -> Result<Arc<Listener>, Taken> {
        let address = endpoint.plan.address(self.shared);
        let mut listeners = self.listeners.lock();
        let listener = listeners.entry(address).or_insert_with(|| {
            let routes = Routes::new(self.limits.linger);
            let listener = Arc::new(Listener { address, routes, state: watch::Sender::new(State::Binding) });
            self.tasks.spawn(connection::listen(Arc::clone(self), Arc::clone(&listener)));
            listener
        });
        listener.routes.add(endpoint)?;
        Ok(Arc::clone(listener))
    }

    /// Gives an address up if nobody needs it. True if it did, and the listener is to end.
    pub(super) fn retire(&self, listener: &Listener) -> bool {
        let mut listeners = self.listeners.lock();
        let expired = listener.routes.expired();
        if expired {
            listeners.remove(&listener.address);
        }
        expired
    }
}
