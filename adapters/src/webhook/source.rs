//! A webhook as a source: its requests come to it between start and end.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::listeners::{Hub, Listener, Listeners, State};
use super::plan::WebhookPlan;
use super::request::Endpoint;
use super::routes::Taken;
use crate::source::{Context, Source, SourceError, Status};

impl WebhookPlan {
    /// The source that this plans, at the address it names.
    pub fn source(self, listeners: &Listeners) -> Box<dyn Source> {
        Box::new(Webhook { plan: self, listeners: listeners.clone() })
    }
}

struct Webhook {
    plan: WebhookPlan,
    listeners: Listeners,
}

impl Source for Webhook {
    fn run(self: Box<Self>, context: Context) -> BoxFuture<'static, Result<(), SourceError>> {
        let run = async move {
            let Context { outlet, status, cancel } = context;
            if self.plan.auth.as_ref().is_some_and(Auth::is_blank) {
                report(
                    &status,
                    Status::Down("a credential of `auth` is empty: give it a value, or leave `auth` out".into()),
                );
                cancel.cancelled().await;
                return Ok(());
            }
            let abandoned = CancellationToken::new();
            // Whoever drops this future waits for nothing any more.
            let _guard = abandoned.clone().drop_guard();
            let endpoint = Arc::new(Endpoint::new(self.plan, outlet, abandoned));
            let serve = async {
                let route = Route::add(self.listeners.hub(), &endpoint, &status).await;
                route.report(&status).await;
            };
            // Ending it takes the route away, so that no request comes after those that are waited for.
            cancel.run_until_cancelled(serve).await;
            endpoint.drain().await;
            Ok(())
        };
        run.boxed()
    }
}

/// A webhook that requests are sent to, until this is dropped.
struct Route {
    listener: Arc<Listener>,
    endpoint: Arc<Endpoint>,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.listener.routes.remove(&self.endpoint);
    }
}

impl Route {
    /// Waits for as long as another webhook takes the same requests.
    async fn add(hub: &Arc<Hub>, endpoint: &Arc<Endpoint>, status: &watch::Sender<Status>) -> Self {
        loop {
            let Taken { by, mut changes } = match hub.add(endpoint) {
                Ok(listener) => return Self { listener, endpoint: Arc::clone(endpoint) },
                Err(taken) => taken,
            };
            let plan = &endpoint.plan;
            let cause = format!("{} {} belongs to {by}", plan.method, plan.path);
            report(status, Status::Down(cause.into()));
            // The sender lives as long as the other webhook has the route; that it is gone is news as well.
            drop(changes.changed().await);
        }
    }

    /// Says how the address is doing, for as long as it is waited for.
    async fn report(&self, status: &watch::Sender<Status>) {
        let mut state = self.listener.state.subscribe();
        loop {
            let now = match &*state.borrow_and_update() {
                State::Binding => Status::Connecting(format!("binding {}", self.listener.address).into()),
                State::Up(_) => Status::Up,
                State::Down(cause) => Status::Down(Arc::clone(cause)),
            };
            report(status, now);
            // The sender lives in the listener that this holds.
            drop(state.changed().await);
        }
    }
}

fn report(status: &watch::Sender<Status>, now: Status) {
    status.send_if_modified(|status| {
        let news = *status != now;
        *status = now;
        news
    });
}
