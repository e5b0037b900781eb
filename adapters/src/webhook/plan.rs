//! A validated webhook, and what several of them may not share.

use std::collections::HashMap;
use std::net::SocketAddr;

use evoke_api::events::{WebhookAuth, WebhookSource};
use evoke_api::names::ObjectName;
use evoke_api::problem::{FieldPath, Problem};
use http::{HeaderValue, Method};

use super::auth::Auth;
use crate::source::{Origin, Place};

/// Where a webhook listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// At the listener that all webhooks share unless they say otherwise.
    Shared,
    /// At a port of its own, on the address of the shared listener.
    Port(u16),
}

/// A validated webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookPlan {
    /// The event.
    pub origin: Origin,
    /// Where it listens.
    pub listen: Listen,
    /// The path, as it stands in a request.
    pub path: String,
    /// The one method it takes.
    pub method: Method,
    /// Who may send; anyone if absent.
    pub auth: Option<Auth>,
    /// The content type of bodies that carry none.
    pub content_type: Option<HeaderValue>,
}

impl WebhookPlan {
    /// The URL to send to, given the address of the shared listener.
    pub fn url(&self, shared: SocketAddr) -> String {
        format!("http://{}{}", self.address(shared), self.path)
    }

    /// The address to listen at, given that of the shared listener.
    pub fn address(&self, shared: SocketAddr) -> SocketAddr {
        match self.listen {
            Listen::Shared => shared,
            Listen::Port(port) => SocketAddr::new(shared.ip(), port),
        }
    }
}

/// Plans a webhook. `None` when a problem that was pushed keeps it from running.
pub fn plan(place: &Place<'_>, spec: &WebhookSource, problems: &mut Vec<Problem>) -> Option<WebhookPlan> {
    let before = problems.len();
    let mut error = |field: &str, message: String, hint: &str| {
        problems.push(Problem::error(place.path.key(field), message).hint(hint));
    };
    let Origin { event_source: ObjectName { namespace, name }, event, .. } = place.origin;
    let path = spec.path.clone().unwrap_or_else(|| format!("/{namespace}/{name}/{event}"));
    if let Err((message, hint)) = check_path(&path) {
        error("path", message, hint);
    }
    let method = spec.method.as_deref().unwrap_or("POST").to_ascii_uppercase();
    let method = match Method::from_bytes(method.as_bytes()) {
        Ok(method @ (Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::GET)) => method,
        _ => {
            error(
                "method",
                format!("{method:?} is no method that brings events"),
                "use POST, PUT, PATCH, DELETE or GET",
            );
            Method::POST
        }
    };
    let listen = match spec.port {
        None => Listen::Shared,
        Some(port) => {
            if port == 0 {
                error("port", "0 is no port that a sender could know".into(), "name one, or leave it out to share");
            }
            Listen::Port(port)
        }
    };
    let content_type = place.fields(problems).content_type(spec.content_type.as_deref());
    let content_type = content_type.and_then(|text| HeaderValue::try_from(text).ok());
    let auth = spec.auth.as_ref().and_then(|auth| plan_auth(place, auth, problems));
    let sound = !problems.iter().skip(before).any(Problem::is_error);
    sound.then(|| WebhookPlan { origin: place.origin.clone(), listen, path, method, auth, content_type })
}

/// A path is matched byte by byte, so it must be what clients send: already percent-encoded, without a query.
fn check_path(path: &str) -> Result<(), (String, &'static str)> {
    const PLAIN: &[u8] = b"/-._~!$&'()*+,;=:@%";
    if !path.starts_with('/') {
        return Err((format!("{path:?} does not start with a slash"), "write /like/this"));
    }
    if path.contains(['?', '#']) {
        return Err((format!("{path:?} has a query or a fragment"), "name the path only: queries are ignored"));
    }
    if let Some(odd) =
        path.chars().find(|c| !(c.is_ascii_alphanumeric() || c.is_ascii() && PLAIN.contains(&(*c as u8))))
    {
        return Err((format!("{path:?} has {odd:?}, which no request path has"), "percent-encode it"));
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err((format!("{path:?} has a segment that clients resolve before they send"), "take the dots out"));
    }
    Ok(())
}

fn plan_auth(place: &Place<'_>, spec: &WebhookAuth, problems: &mut Vec<Problem>) -> Option<Auth> {
    let path = place.path.key("auth");
    let before = problems.len();
    let mut resolve = |name: &str, plain, from| {
        let namespace = &place.origin.event_source.namespace;
        evoke_api::credentials::resolve(place.vault, namespace, &path, name, plain, from, problems)
    };
    let token = resolve("bearerToken", spec.bearer_token.as_ref(), spec.bearer_token_from.as_ref());
    let username = resolve("username", spec.username.as_ref(), spec.username_from.as_ref());
    let password = resolve("password", spec.password.as_ref(), spec.password_from.as_ref());
    if problems.len() > before {
        return None;
    }
    let mut refuse = |field: Option<&str>, message: &str, hint: &str| {
        let path = field.map_or_else(|| path.clone(), |field| path.key(field));
        problems.push(Problem::error(path, message).hint(hint));
        None
    };
    // What comes from elsewhere may be known only where the webhook runs: an empty value is seen to there.
    let plain = [("bearerToken", &spec.bearer_token), ("username", &spec.username), ("password", &spec.password)];
    if let Some((field, _)) = plain.into_iter().find(|(_, value)| value.as_ref().is_some_and(|v| v.expose().is_empty()))
    {
        return refuse(Some(field), "is empty", "leave `auth` out to take events from anyone");
    }
    match (token, username, password) {
        (Some(token), None, None) => Some(Auth::Bearer(token)),
        (None, Some(username), Some(_)) if username.expose().contains(':') => {
            refuse(Some("username"), "a user name of basic auth has no colon", "choose another name")
        }
        (None, Some(username), Some(password)) => Some(Auth::Basic { username, password }),
        (None, None, None) => refuse(
            None,
            "names nobody who may send",
            "set `bearerToken`, or `username` and `password`, or leave `auth` out",
        ),
        (Some(_), _, _) => refuse(
            None,
            "asks for a bearer token and for a user at once",
            "keep `bearerToken`, or `username` and `password`",
        ),
        (None, Some(_), None) => {
            refuse(Some("username"), "a user needs a password", "add `password` or `passwordFrom`")
        }
        (None, None, Some(_)) => {
            refuse(Some("password"), "a password needs a user", "add `username` or `usernameFrom`")
        }
    }
}

/// A source that takes what another one has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The EventSource of the later one.
    pub event_source: ObjectName,
    /// What is wrong with it; names both.
    pub problem: Problem,
}

/// Finds the webhooks that would take the same requests: same listener, path and method. `shared_port` is the port of the shared
/// listener, where it is known.
pub fn clashes<'a>(plans: impl IntoIterator<Item = &'a WebhookPlan>, shared_port: Option<u16>) -> Vec<Clash> {
    let mut taken: HashMap<_, &WebhookPlan> = HashMap::new();
    let mut clashes = Vec::new();
    for plan in plans {
        let listen = match plan.listen {
            Listen::Port(port) if Some(port) == shared_port => Listen::Shared,
            other => other,
        };
        let first = *taken.entry((listen, &plan.path, &plan.method)).or_insert(plan);
        if !std::ptr::eq(first, plan) {
            let [one, other] = [first, plan].map(|plan| {
                let Origin { event_source, event, .. } = &plan.origin;
                format!("webhook {event:?} of EventSource {event_source}")
            });
            let message = format!("{other} takes {} {}, as {one} does", plan.method, plan.path);
            let path = FieldPath::spec().key("webhook").key(&*plan.origin.event).key("path");
            let problem = Problem::error(path, message).hint("give one of them another `path`, `method` or `port`");
            clashes.push(Clash { event_source: plan.origin.event_source.clone(), problem });
        }
    }
    clashes
}

#[cfg(test)]
mod tests {
    use evoke_api::credentials::{Secret, ValueFrom, Vault};
    use evoke_api::events::Attributes;

    use super::*;

    struct OneSecret;

    impl Vault for OneSecret {
        fn look_up(&self, namespace: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
            match from.env.as_deref() {
                Some("TOKEN") if namespace == "ns" => Ok(Secret::new("s3cret")),
                _ => Err(Problem::error(path.clone(), "there is no such secret")),
            }
        }
    }

    fn planned(event: &str, spec: &WebhookSource) -> (Option<WebhookPlan>, Vec<String>) {
        let origin = Origin {
            event_source: ObjectName::new("ns", "shop"),
            event: event.into(),
            attributes: Attributes::default(),
        };
        let path = FieldPath::spec().key("webhook").key(event);
        let mut problems = Vec::new();
        let plan = plan(&Place { origin: &origin, path: &path, vault: &OneSecret }, spec, &mut problems);
        (plan, problems.iter().map(ToString::to_string).collect())
    }

    fn fault(spec: &WebhookSource) -> String {
        let (plan, problems) = planned("orders", spec);
        assert!(plan.is_none() && problems.len() == 1, "{problems:?}");
        problems.into_iter().next().unwrap()
    }

    #[test]
    fn defaults() {
        let (plan, problems) = planned("orders", &WebhookSource::default());
        let plan = plan.unwrap();
        assert!(problems.is_empty());
        assert_eq!((plan.path.as_str(), &plan.method, plan.listen), ("/ns/shop/orders", &Method::POST, Listen::Shared));
        assert_eq!(plan.url("127.0.0.1:8080".parse().unwrap()), "http://127.0.0.1:8080/ns/shop/orders");
        let own = WebhookSource {
            port: Some(9000),
            path: Some("/".into()),
            method: Some("put".into()),
            ..Default::default()
        };
        let own = planned("orders", &own).0.unwrap();
        assert_eq!(own.url("[::1]:8080".parse().unwrap()), "http://[::1]:9000/");
        assert_eq!(own.method, Method::PUT);
    }

    #[test]
    fn says_which_field_is_wrong_and_how_to_mend_it() {
        let path = |path: &str| fault(&WebhookSource { path: Some(path.into()), ..Default::default() });
        assert_eq!(path("hook"), "spec.webhook.orders.path: \"hook\" does not start with a slash; write /like/this");
        assert!(path("/a?b=c").contains("has a query or a fragment"));
        assert!(path("/\u{fc}").contains("has '\u{fc}', which no request path has; percent-encode it"));
        assert!(path("/{id}").contains("has '{'"));
        assert!(path("/a/../b").contains("clients resolve"));
        let method = |method: &str| fault(&WebhookSource { method: Some(method.into()), ..Default::default() });
        assert!(
            method("OPTIONS").starts_with("spec.webhook.orders.method: \"OPTIONS\" is no method that brings events")
        );
        assert!(method("P T").contains("use POST, PUT"));
        assert!(
            fault(&WebhookSource { port: Some(0), ..Default::default() }).starts_with("spec.webhook.orders.port: 0 is")
        );
        let content_type = fault(&WebhookSource { content_type: Some("json".into()), ..Default::default() });
        assert_eq!(
            content_type,
            "spec.webhook.orders.contentType: \"json\" is no media type; write it as application/json"
        );
    }

    #[test]
    fn auth_is_a_token_or_a_user_with_a_password() {
        let with = |auth: WebhookAuth| WebhookSource { auth: Some(auth), ..Default::default() };
        let secret = |text: &str| Some(Secret::new(text));
        let env = |name: &str| Some(ValueFrom { env: Some(name.into()), ..Default::default() });

        let token = with(WebhookAuth { bearer_token_from: env("TOKEN"), ..Default::default() });
        let plan = planned("orders", &token).0.unwrap();
        assert_eq!(plan.auth, Some(Auth::Bearer(Secret::new("s3cret"))));
        assert!(!format!("{plan:?}").contains("s3cret"));
        let user = WebhookAuth { username: secret("u"), password: secret("p"), ..Default::default() };
        let basic = Auth::Basic { username: Secret::new("u"), password: Secret::new("p") };
        assert_eq!(planned("orders", &with(user.clone())).0.unwrap().auth, Some(basic));

        let wrong = |auth: WebhookAuth, text: &str| {
            let fault = fault(&with(auth));
            assert!(fault.contains(text), "{fault}");
        };
        wrong(WebhookAuth::default(), "auth: names nobody who may send; set `bearerToken`");
        wrong(
            WebhookAuth { bearer_token: secret(""), ..Default::default() },
            "auth.bearerToken: is empty; leave `auth` out",
        );
        wrong(WebhookAuth { bearer_token: secret("t"), ..user.clone() }, "a bearer token and for a user at once");
        wrong(WebhookAuth { password: None, ..user.clone() }, "auth.username: a user needs a password");
        wrong(WebhookAuth { username: None, ..user.clone() }, "auth.password: a password needs a user");
        wrong(WebhookAuth { username: secret("a:b"), ..user.clone() }, "has no colon");
        wrong(WebhookAuth { password: secret(""), ..user }, "auth.password: is empty");
        wrong(WebhookAuth { bearer_token_from: env("NO"), ..Default::default() }, "there is no such secret");
    }

    #[test]
    fn two_webhooks_cannot_take_the_same_requests() {
        let plan = |event: &str, path: &str, port: Option<u16>, method: &str| {
            let spec =
                WebhookSource { path: Some(path.into()), port, method: Some(method.into()), ..Default::default() };
            planned(event, &spec).0.unwrap()
        };
        let plans = [
            plan("a", "/x", None, "POST"),
            plan("b", "/x", None, "PUT"),
            plan("c", "/x/", None, "POST"),
            plan("d", "/x", Some(9000), "POST"),
            plan("e", "/x", Some(8080), "POST"),
        ];
        assert_eq!(clashes(&plans, None), []);
        let found = clashes(&plans, Some(8080));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].event_source, ObjectName::new("ns", "shop"));
        assert_eq!(
            found[0].problem.to_string(),
            "spec.webhook.e.path: webhook \"e\" of EventSource ns/shop takes POST /x, as webhook \"a\" of EventSource ns/shop \
             does; give one of them another `path`, `method` or `port`"
        );
    }
}
