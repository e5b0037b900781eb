//! Where functions listen, as they come and go. Whoever serves functions publishes here; sinks look here.

use std::collections::HashMap;
use std::sync::Arc;

use evoke_api::names::ObjectName;
use http::uri::Authority;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The address of a function that is ready, or `None`.
pub type Address = Option<Authority>;

/// The shared directory of function addresses. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<Mutex<HashMap<ObjectName, watch::Sender<Address>>>>);

impl Endpoints {
    /// Says where a function listens from now on; `None` while it does not.
    pub fn publish(&self, function: &ObjectName, address: Address) {
        self.0.lock().entry(function.clone()).or_insert_with(|| watch::channel(None).0).send_replace(address);
    }

    /// Follows a function's address, also of one that is not there yet.
    pub fn follow(&self, function: &ObjectName) -> watch::Receiver<Address> {
        self.0.lock().entry(function.clone()).or_insert_with(|| watch::channel(None).0).subscribe()
    }
}
