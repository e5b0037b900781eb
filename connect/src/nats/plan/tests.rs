use evoke_api::credentials::ValueFrom;
use evoke_api::problem::FieldPath;

use super::*;
use crate::fields::tests;

fn planned(url: &str, auth: Option<&NatsAuth>, tls: Option<&Tls>) -> (Option<NatsPlan>, Vec<String>) {
    let spec = NatsSpec { url_field: "url", url, auth, tls };
    tests::planned(FieldPath::spec().key("jetStream"), |fields| NatsPlan::plan(fields, spec))
}

fn login(auth: &NatsAuth) -> (Option<Login>, Vec<String>) {
    let (plan, problems) = planned("nats://a", Some(auth), None);
    (plan.map(|plan| plan.login), problems)
}

#[test]
fn addresses_are_made_whole_and_kept_once() {
    let (plan, problems) = planned(" a, nats://b:4333 ,nats://a:4222/, [::1]:5", None, None);
    assert_eq!(problems, [""; 0]);
    let plan = plan.unwrap();
    assert_eq!(plan.servers, ["nats://a:4222", "nats://b:4333", "nats://[::1]:5"]);
    assert_eq!((plan.login, plan.tls), (Login::None, None));
}

#[test]
fn the_scheme_tls_asks_for_tls() {
    let (plan, _) = planned("tls://a,nats://b", None, None);
    assert_eq!(plan.unwrap().tls, Some(TlsPlan::default()));
    let disabled = Tls { disabled: Some(true), ..Tls::default() };
    let (plan, problems) = planned("tls://a", None, Some(&disabled));
    assert_eq!(plan, None);
    let expected = "spec.jetStream.tls.disabled: `url` asks for TLS, `tls` disables it; write `nats://`, or remove it";
    assert_eq!(problems, [expected]);
}

#[test]
fn an_address_that_cannot_be_is_refused_without_showing_credentials() {
    for (url, message) in [
        ("", "names no server"),
        ("nats://me:hunter2@a", "holds credentials"),
        ("hunter2@a", "holds credentials"),
        ("http://a", "has the scheme \"http\""),
        ("nats://", "holds"),
        ("nats://a/b", "has more than a host and a port"),
        ("nats://a:x", "holds no address of a server"),
    ] {
        let (plan, problems) = planned(url, None, None);
        assert_eq!(plan, None, "{url}");
        assert!(problems[0].starts_with(&format!("spec.jetStream.url: {message}")), "{url}: {problems:?}");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn there_is_one_way_to_log_in() {
    let secret = |text: &str| Some(Secret::new(text));
    let from = Some(ValueFrom { env: Some("KNOWN".into()), ..ValueFrom::default() });
    let user = NatsAuth { username: secret("u"), password_from: from.clone(), ..NatsAuth::default() };
    let password = Secret::new("hunter2");
    assert_eq!(login(&user).0, Some(Login::User { username: Secret::new("u"), password }));
    assert_eq!(login(&NatsAuth { token: secret("t"), ..NatsAuth::default() }).0, Some(Login::Token(Secret::new("t"))));
    let seed = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM";
    assert_eq!(
        login(&NatsAuth { nkey: secret(&format!("{seed}\n")), ..NatsAuth::default() }).0,
        Some(Login::Nkey(Secret::new(seed)))
    );

    for (auth, problem) in [
        (NatsAuth::default(), "spec.jetStream.auth: names no way to log in"),
        (
            NatsAuth { username: secret("u"), ..NatsAuth::default() },
            "spec.jetStream.auth.username: a user needs a password",
        ),
        (
            NatsAuth { password: secret("p"), ..NatsAuth::default() },
            "spec.jetStream.auth.password: a password needs its user",
        ),
        (
            NatsAuth { token: secret("t"), nkey: secret(seed), ..NatsAuth::default() },
            "spec.jetStream.auth.nkey: has several ways to log in: token, nkey",
        ),
        (
            NatsAuth { nkey: secret("hunter2"), ..NatsAuth::default() },
            "spec.jetStream.auth.nkey: is no seed of a user's NKey",
        ),
        (
            NatsAuth { credentials: secret("hunter2"), ..NatsAuth::default() },
            "spec.jetStream.auth.credentials: is no credentials file of a NATS user",
        ),
        (
            NatsAuth { token_from: Some(ValueFrom::default()), ..NatsAuth::default() },
            "spec.jetStream.auth.tokenFrom: there is no such secret",
        ),
    ] {
        let (login, problems) = login(&auth);
        assert_eq!(login, None, "{problem}");
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{problems:?}");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn secrets_never_print() {
    let auth = NatsAuth { token: Some(Secret::new("hunter2")), ..NatsAuth::default() };
    let (plan, _) = planned("nats://a", Some(&auth), None);
    assert!(!format!("{plan:?} {auth:?}").contains("hunter2"));
}
