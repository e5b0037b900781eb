//! The admin address and the socket in the data directory: `/metrics`, `/healthz`, `/readyz`, `/v1/status`, and the API of the tools.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::api::access::{self, Token};
use crate::local::readiness::Readiness;

/// What the admin address shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Every metric of the process.
    pub registry: Registry,
    /// How every part of the pipeline is doing.
    pub readiness: watch::Receiver<Arc<Readiness>>,
}

/// Serves the socket in the data directory until cancelled: whoever may connect there may do everything.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve_unix(
    listener: UnixListener,
    admin: Admin,
    api: Api,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let router = router(admin).merge(api.router());
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/v1/status", get(status))
        .with_state(admin)
}

/// Serves until cancelled. A page on the web must not read a laptop's metrics through its browser, so an address on the loopback
/// interface answers only requests that name it as such.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    admin: Admin,
    api: Api,
    token: Token,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let loopback = listener.local_addr()?.ip().is_loopback();
    let guarded = api.router().layer(middleware::from_fn_with_state(token, access::check));
    let mut router = router(admin).merge(guarded);
    if loopback {
        router = router.layer(middleware::from_fn(only_local));
    }
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let readiness = admin.readiness.borrow().clone();
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, readiness.to_string()).into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    axum::Json(admin.readiness.borrow().as_ref()).into_response()
}

async fn only_local(request: Request, next: Next) -> Response {
    if is_local(request.headers()) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "this address answers only requests to localhost, without a foreign Origin\n")
        .into_response()
}

fn is_local(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).is_none_or(is_local_authority);
    let origin = text(header::ORIGIN)
        .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, authority)| is_local_authority(authority)));
    host && origin
}

/// True for `localhost` and loopback addresses, with or without a port.
fn is_local_authority(authority: &str) -> bool {
    let address = authority.parse().map(|address: SocketAddr| address.ip());
    if let Ok(ip) = address.or_else(|_| authority.trim_matches(['[', ']']).parse::<IpAddr>()) {
        return ip.is_loopback();
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_to_this_machine_are_local() {
        for (host, origin, local) in [
            ("localhost:9490", None, true),
            ("127.0.0.1", None, true),
            ("[::1]:9490", None, true),
            ("evil.example:9490", None, false),
            ("localhost.evil.example", None, false),
            ("localhost:9490", Some("http://localhost:3000"), true),
            ("localhost:9490", Some("https://evil.example"), false),
            ("localhost:9490", Some("http://6.6.6.6"), false),
            ("localhost:9490", Some("null"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(is_local(&headers), local, "{host} {origin:?}");
        }
    }
}
