//! Who may send to a webhook.

use std::hint::black_box;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use evoke_api::credentials::Secret;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer` and this token.
    Bearer(Secret),
    /// `Authorization: Basic` and this user.
    Basic {
        /// The user; without a colon.
        username: Secret,
        /// The password.
        password: Secret,
    },
}

impl Auth {
    /// True when part of it is empty, so that it protects nothing.
    pub(super) fn is_blank(&self) -> bool {
        match self {
            Self::Bearer(token) => token.expose().is_empty(),
            Self::Basic { username, password } => username.expose().is_empty() || password.expose().is_empty(),
        }
    }
}

/// Compares credentials in a time that says nothing about them: what is compared are digests, in full.
pub(super) struct Guard {
    scheme: Scheme,
    expected: [u8; 32],
}

enum Scheme {
    Bearer,
    Basic,
}

impl Guard {
    pub(super) fn new(auth: &Auth) -> Self {
        match auth {
            Auth::Bearer(token) => Self { scheme: Scheme::Bearer, expected: digest(token.expose().as_bytes()) },
            Auth::Basic { username, password } => {
                let pair = format!("{}:{}", username.expose(), password.expose());
                Self { scheme: Scheme::Basic, expected: digest(pair.as_bytes()) }
            }
        }
    }

    /// True if the request carries the credentials.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let presented = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, credentials)) = presented.and_then(|value| value.split_once(' ')) else { return false };
        let credentials = credentials.trim();
        match self.scheme {
            Scheme::Bearer => scheme.eq_ignore_ascii_case("bearer") && self.matches(credentials.as_bytes()),
            Scheme::Basic => {
                scheme.eq_ignore_ascii_case("basic") && BASE64.decode(credentials).is_ok_and(|pair| self.matches(&pair))
            }
        }
    }

    fn matches(&self, presented: &[u8]) -> bool {
        let differing = self.expected.iter().zip(digest(presented)).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
        black_box(differing) == 0
    }

    /// What the answer to a request without them says.
    pub(super) fn challenge(&self) -> HeaderValue {
        HeaderValue::from_static(match self.scheme {
            Scheme::Bearer => "Bearer realm=\"evoke\"",
            Scheme::Basic => "Basic realm=\"evoke\", charset=\"UTF-8\"",
        })
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(guard: &Guard, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        guard.admits(&headers)
    }

    #[test]
    fn a_token() {
        let guard = Guard::new(&Auth::Bearer(Secret::new("t0ken")));
        assert!(admits(&guard, "Bearer t0ken") && admits(&guard, "bearer  t0ken"));
        for wrong in ["Bearer t0ke", "Bearer t0ken2", "Bearer", "Bearer ", "t0ken", "Basic t0ken"] {
            assert!(!admits(&guard, wrong), "{wrong}");
        }
        assert!(!guard.admits(&HeaderMap::new()));
    }

    #[test]
    fn a_user() {
        let guard =
            Guard::new(&Auth::Basic { username: Secret::new("aladdin"), password: Secret::new("open:s\u{e9}same") });
        let pair = |text: &str| format!("Basic {}", BASE64.encode(text));
        assert!(admits(&guard, &pair("aladdin:open:s\u{e9}same")));
        assert!(admits(&guard, pair("aladdin:open:s\u{e9}same").trim_end_matches('=')));
        for wrong in [&pair("aladdin:open"), &pair("aladdin"), "Basic *", "Bearer aladdin"] {
            assert!(!admits(&guard, wrong), "{wrong}");
        }
    }
}
