//! Requests to an HTTP endpoint, as events: CloudEvents in binary, structured and batched content, and any other body.
//!
//! A request is answered with 202 once all of it is settled, and never before. What a sender sees otherwise is the subject of
//! `request`; how addresses, routes and connections come and go, of `listeners`, `routes` and `connection`.

mod answer;
mod auth;
mod body;
mod connection;
mod limits;
mod listeners;
mod metrics;
mod plan;
mod request;
mod routes;
mod source;

pub use auth::Auth;
pub use listeners::Listeners;
pub use metrics::Metrics;
pub use plan::{Clash, Listen, WebhookPlan, clashes, plan};

#[cfg(test)]
mod tests;
