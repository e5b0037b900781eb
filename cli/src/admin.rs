//! The admin address and the socket in the data directory: `/metrics`, `/healthz`, `/readyz`, `/v1/status`, and the API of the tools.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::{Authority, Uri};
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

/// Serves until cancelled. A page on the web must not read a laptop's metrics through its browser, nor those of a network that
/// only the browser can reach, so pages of elsewhere are refused; an address on the loopback interface also refuses requests that
/// do not name it as such.
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
    let router = router(admin).merge(guarded).layer(middleware::from_fn_with_state(loopback, welcome));
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

async fn welcome(State(loopback): State<bool>, request: Request, next: Next) -> Response {
    if is_welcome(request.headers(), request.uri(), loopback) {
        return next.run(request).await;
    }
    let text = if loopback {
        "this address answers only requests to localhost, without a foreign Origin\n"
    } else {
        "this address answers no pages of elsewhere: the Origin is not the Host\n"
    };
    (StatusCode::FORBIDDEN, text).into_response()
}

/// Programs send no Origin. By which names a machine goes off its loopback interface nobody knows here, so that there the Host may
/// be any, as long as a page is of the same.
fn is_welcome(headers: &HeaderMap, uri: &Uri, loopback: bool) -> bool {
    // What cannot be read is no name that anybody has.
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let host = host.or_else(|| uri.authority().map(Authority::as_str));
    let origin = headers.get(header::ORIGIN).map(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.map_or("", |(_, authority)| authority)
    });
    match origin {
        _ if loopback => host.is_none_or(is_local_authority) && origin.is_none_or(is_local_authority),
        Some(origin) => !origin.is_empty() && host.is_some_and(|host| host.eq_ignore_ascii_case(origin)),
        None => true,
    }
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

    fn takes(host: &str, origin: Option<&str>, loopback: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        is_welcome(&headers, &Uri::from_static("/metrics"), loopback)
    }

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
            assert_eq!(takes(host, origin, true), local, "{host} {origin:?}");
        }
    }

    #[test]
    fn pages_of_elsewhere_are_refused_at_every_address() {
        for (host, origin, welcome) in [
            ("evoke.example:9490", None, true),
            ("10.0.0.7:9490", None, true),
            ("evoke.example:9490", Some("http://Evoke.example:9490"), true),
            ("evoke.example:9490", Some("http://evoke.example"), false),
            ("evoke.example:9490", Some("https://evil.example"), false),
            ("evoke.example:9490", Some("http://localhost:9490"), false),
            ("evoke.example:9490", Some("null"), false),
            ("", Some("null"), false),
        ] {
            assert_eq!(takes(host, origin, false), welcome, "{host} {origin:?}");
        }
    }

    #[test]
    fn the_host_of_a_request_without_that_header_is_in_its_target() {
        for (target, local) in [("http://localhost:9490/metrics", true), ("http://evil.example/metrics", false)] {
            assert_eq!(is_welcome(&HeaderMap::new(), &Uri::from_static(target), true), local, "{target}");
        }
    }
}
