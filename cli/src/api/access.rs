//! Who may do what on the admin address: anybody who reaches it may see how things are; what changes something, and what shows the
//! data of events, takes the token.

use std::hint::black_box;
use std::io;
use std::path::Path;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use evoke_api::credentials::Secret;
use sha2::{Digest, Sha256};

use super::ApiError;

/// The token of the admin address, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token(Option<Secret>);

impl Token {
    /// Reads the token that a file holds, less the line break at its end.
    ///
    /// # Errors
    /// When it cannot be read, or holds none.
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(file)?;
        match text.trim() {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
            token => Ok(Self(Some(Secret::new(token)))),
        }
    }

    fn admits(&self, request: &Request) -> bool {
        let presented = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = presented
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match (&self.0, token) {
            (Some(expected), Some((_, token))) => is_same(expected.expose(), token.trim()),
            _ => false,
        }
    }
}

/// Compares digests, all of them, so that how long it takes says nothing of either.
fn is_same(expected: &str, presented: &str) -> bool {
    let (expected, presented) = (Sha256::digest(expected), Sha256::digest(presented));
    let differing = expected.iter().zip(presented).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    black_box(differing) == 0
}

/// Lets a request to the admin address pass, or not.
pub(crate) async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read && !request.uri().path().starts_with("/v1/dead-letters") || token.admits(&request) {
        return next.run(request).await;
    }
    if token.0.is_none() {
        let text = "this address shows how things are and changes nothing: use the socket in the data directory (--data-dir), or \
                    start evoke with --admin-token-file";
        return ApiError::new(StatusCode::FORBIDDEN, text).into_response();
    }
    let text = "the token is missing or wrong: give the file that evoke was started with to --token-file";
    let mut refused = ApiError::new(StatusCode::UNAUTHORIZED, text).into_response();
    refused.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer realm=\"evoke\""));
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_the_token() {
        let token = Token(Some(Secret::new("t0ken")));
        let request =
            |value: &str| Request::builder().header(AUTHORIZATION, value).body(axum::body::Body::empty()).unwrap();
        assert!(token.admits(&request("Bearer t0ken")) && token.admits(&request("bearer  t0ken")));
        for wrong in ["Bearer t0ke", "Bearer t0ken2", "Bearer ", "t0ken", "Basic t0ken"] {
            assert!(!token.admits(&request(wrong)), "{wrong}");
        }
        assert!(!Token::default().admits(&request("Bearer ")));
    }
}
