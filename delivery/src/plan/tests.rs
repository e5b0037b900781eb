use std::time::Duration;

use evoke_api::catalog::Catalog;
use evoke_api::events::{DeliverySpec, RateLimit, Reference, SinkSpec};
use evoke_api::functions::FunctionSpec;
use evoke_api::kubernetes::{KnativeService, Service};
use evoke_api::names::{ObjectName, TopicName};
use evoke_api::problem::{FieldPath, Problem};
use url::Url;

use super::*;

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.functions.insert(ObjectName::new("shop", "billing"), FunctionSpec::default());
    catalog.services.insert(ObjectName::new("shop", "audit"), Service::default());
    let ports = serde_json::from_value(serde_json::json!({"ports": [{"port": 8080}, {"port": 9090}]})).unwrap();
    catalog.services.insert(ObjectName::new("shop", "odd"), ports);
    let url = Some("http://mail.shop.example.com".to_owned());
    catalog.knative_services.insert(ObjectName::new("shop", "mail"), KnativeService { url });
    let url = Some("http://inside.shop.svc.cluster.local".to_owned());
    catalog.knative_services.insert(ObjectName::new("shop", "inside"), KnativeService { url });
    catalog.knative_services.insert(ObjectName::new("shop", "starting"), KnativeService::default());
    catalog
}

fn plan(spec: &SinkSpec, catalog: &Catalog) -> (Option<SinkPlan>, Vec<String>) {
    let (mut problems, mut not_here) = (Vec::new(), Vec::new());
    let path = FieldPath::spec().key("sink");
    let planned = plan_sink(spec, "shop", catalog, &path, &mut problems, &mut not_here);
    assert_eq!(planned.is_none(), problems.iter().any(Problem::is_error), "{problems:?}");
    let found = problems.iter().map(|problem| format!("{:?} {problem}", problem.severity));
    (planned, found.chain(not_here.iter().map(|problem| format!("NotHere {problem}"))).collect())
}

fn uri(uri: &str) -> SinkSpec {
    SinkSpec { uri: Some(uri.into()), reference: None }
}

fn reference(api_version: Option<&str>, kind: &str, name: &str) -> SinkSpec {
    let api_version = api_version.map(Into::into);
    let reference = Reference { api_version, kind: kind.into(), name: name.into(), namespace: None };
    SinkSpec { uri: None, reference: Some(reference) }
}

fn http(url: &str) -> Option<SinkPlan> {
    Some(SinkPlan::Http(Url::parse(url).unwrap()))
}

fn function(name: &str, path: &str) -> Option<SinkPlan> {
    Some(SinkPlan::Function { name: ObjectName::new("shop", name), path: path.into() })
}

/// What is said at `field` of the sink where the host is one of a cluster.
fn of_cluster(field: &str, host: &str) -> String {
    format!(
        "Warning spec.sink.{field}: only the DNS of a cluster knows the host {host}; elsewhere, --set its `uri` to one that is reached there"
    )
}

#[test]
fn urls_of_functions_mean_the_functions() {
    for (url, expected) in [
        ("http://openfunction.io.svc.cluster.local/shop/billing", function("billing", "/")),
        ("http://openfunction.io.svc.cluster.local/shop/billing/v2/x?a=b", function("billing", "/v2/x?a=b")),
        ("http://billing.shop.svc.cluster.local", function("billing", "/")),
        ("http://billing.shop.svc.cluster.local/in?a=b", function("billing", "/in?a=b")),
        ("http://billing.shop.svc.cluster.local:80/in", function("billing", "/in")),
        ("http://billing.shop.svc.cluster.local:8080/in", function("billing", "/in")),
        ("http://billing.shop.svc", function("billing", "/")),
        ("http://billing.shop.svc:8080/in", function("billing", "/in")),
        ("http://billing.shop/in?a=b", function("billing", "/in?a=b")),
        ("http://billing.shop:8080", function("billing", "/")),
        ("http://billing.shop:9090/", http("http://billing.shop:9090/")),
        ("https://billing.shop/", http("https://billing.shop/")),
        ("http://billing.bank/", http("http://billing.bank/")),
        ("http://billing/", http("http://billing/")),
        ("https://user:secret@example.com/a?b=c", http("https://user:secret@example.com/a?b=c")),
    ] {
        assert_eq!(plan(&uri(url), &catalog()), (expected, vec![]), "{url}");
    }
}

#[test]
fn urls_that_cannot_be_posted_to_are_refused() {
    for (url, expected) in [
        (
            "example.com/a",
            "Error spec.sink.uri: this is no URL: relative URL without a base; write it as `http://host/path`",
        ),
        ("", "Error spec.sink.uri: this is no URL: relative URL without a base; write it as `http://host/path`"),
        (
            "ftp://example.com",
            "Error spec.sink.uri: events cannot be posted to a URL with the scheme \"ftp\"; use http or https",
        ),
        ("http://", "Error spec.sink.uri: this is no URL: empty host; write it as `http://host/path`"),
        (
            "http://openfunction.io.svc.cluster.local/shop",
            "Error spec.sink.uri: openfunction.io.svc.cluster.local serves functions under /NAMESPACE/FUNCTION, and this path names none; use `ref: {kind: Function, name: ...}`",
        ),
        (
            "http://openfunction.io.svc.cluster.local/shop/biling",
            "Error spec.sink.uri: there is no Function shop/biling; did you mean shop/billing",
        ),
    ] {
        assert_eq!(plan(&uri(url), &catalog()), (None, vec![expected.to_owned()]), "{url}");
    }
    let (_, problems) = plan(&uri("ftp://user:hunter2@example.com"), &catalog());
    assert!(!problems[0].contains("hunter2"));
}

#[test]
fn a_host_of_a_cluster_is_a_warning() {
    let partial = Catalog { partial: true, ..catalog() };
    let undeclared =
        |name: &str, hint: &str| format!("Warning spec.sink.uri: no Function or Service {name} is declared; {hint}");
    for (url, expected) in [
        ("http://biling.shop.svc.cluster.local", undeclared("shop/biling", "did you mean shop/billing")),
        ("http://biling.shop.svc:8080/in", undeclared("shop/biling", "did you mean shop/billing")),
        ("http://nowhere.shop.svc/", undeclared("shop/nowhere", "outside of a cluster this host does not exist")),
        ("http://audit.shop.svc.cluster.local/in", of_cluster("uri", "audit.shop.svc.cluster.local")),
        ("https://audit.shop.svc:8443/in", of_cluster("uri", "audit.shop.svc")),
        ("http://billing.shop.svc:9090/in", of_cluster("uri", "billing.shop.svc")),
        ("https://billing.shop.svc.cluster.local/", of_cluster("uri", "billing.shop.svc.cluster.local")),
        ("http://pod.odd.shop.svc/", of_cluster("uri", "pod.odd.shop.svc")),
    ] {
        assert_eq!(plan(&uri(url), &catalog()), (http(url), vec![expected]), "{url}");
        assert_eq!(plan(&uri(url), &partial), (http(url), vec![]), "{url}");
    }
}

#[test]
fn references_become_addresses() {
    let elsewhere = |namespace: &str| {
        let mut spec = reference(None, "Function", "billing");
        spec.reference.as_mut().unwrap().namespace = Some(namespace.to_owned());
        spec
    };
    for (spec, expected) in [
        (reference(None, "Function", "billing"), function("billing", "/")),
        (reference(Some("core.openfunction.io/v1beta1"), "Function", "billing"), function("billing", "/")),
        (reference(Some("core.openfunction.io/v1beta2"), "Function", "billing"), function("billing", "/")),
        (elsewhere("shop"), function("billing", "/")),
        (elsewhere(""), function("billing", "/")),
        // The Service that a function has in a cluster.
        (reference(None, "Service", "billing"), function("billing", "/")),
        (reference(Some("v1"), "Service", "billing"), function("billing", "/")),
        (reference(None, "Service", "mail"), http("http://mail.shop.example.com")),
        (reference(Some("serving.knative.dev/v1"), "Service", "mail"), http("http://mail.shop.example.com")),
    ] {
        assert_eq!(plan(&spec, &catalog()), (expected, vec![]), "{spec:?}");
    }
    let partial = Catalog { partial: true, ..catalog() };
    for (spec, host, port) in [
        (reference(None, "Service", "audit"), "audit.shop.svc.cluster.local", ""),
        (reference(Some("v1"), "Service", "odd"), "odd.shop.svc.cluster.local", ":8080"),
        (reference(Some("serving.knative.dev/v1"), "Service", "inside"), "inside.shop.svc.cluster.local", ""),
    ] {
        let expected = http(&format!("http://{host}{port}"));
        assert_eq!(plan(&spec, &catalog()), (expected.clone(), vec![of_cluster("ref.name", host)]), "{spec:?}");
        assert_eq!(plan(&spec, &partial), (expected, vec![]), "{spec:?}");
    }
    // One that is declared goes before the one that a function would have.
    let mut both = catalog();
    both.services.insert(ObjectName::new("shop", "billing"), Service::default());
    let own = http("http://billing.shop.svc.cluster.local");
    assert_eq!(plan(&reference(None, "Service", "billing"), &both).0, own);
}

#[test]
fn a_knative_service_without_an_address_is_not_reached_here() {
    let text = "spec.sink.ref.name: the Knative Service shop/starting has no `status.url` yet; wait until it is ready, or use `uri`";
    let partial = Catalog { partial: true, ..catalog() };
    let inside = http("http://starting.shop.svc.cluster.local");
    for api_version in [None, Some("serving.knative.dev/v1")] {
        let spec = reference(api_version, "Service", "starting");
        assert_eq!(plan(&spec, &catalog()), (inside.clone(), vec![format!("NotHere {text}")]));
        assert_eq!(plan(&spec, &partial), (inside.clone(), vec![format!("Warning {text}")]));
    }
}

#[test]
fn references_to_nothing_are_refused_and_with_partial_manifests_only_warned_of() {
    let partial = Catalog { partial: true, ..catalog() };
    for (spec, text, elsewhere) in [
        (
            reference(None, "Function", "biling"),
            "spec.sink.ref.name: there is no Function shop/biling; did you mean shop/billing",
            function("biling", "/"),
        ),
        (
            reference(None, "Service", "nowhere"),
            "spec.sink.ref.name: there is no Service shop/nowhere",
            http("http://nowhere.shop.svc.cluster.local"),
        ),
        (
            reference(Some("serving.knative.dev/v1"), "Service", "post"),
            "spec.sink.ref.name: there is no Knative Service shop/post",
            http("http://post.shop.svc.cluster.local"),
        ),
    ] {
        assert_eq!(plan(&spec, &catalog()), (None, vec![format!("Error {text}")]));
        assert_eq!(plan(&spec, &partial), (elsewhere, vec![format!("Warning {text}")]));
    }
}

#[test]
fn references_to_what_takes_no_events_are_refused() {
    for (spec, expected) in [
        (
            reference(None, "Deployment", "x"),
            "Error spec.sink.ref.kind: events cannot be delivered to a \"Deployment\"; use a Function, a Service, a Knative Service, or `uri`",
        ),
        (
            reference(Some("apps/v1"), "Service", "x"),
            "Error spec.sink.ref.apiVersion: there is no Service in apps/v1; use `v1` or `serving.knative.dev/v1`, or leave `apiVersion` out",
        ),
        (
            reference(Some("v1"), "Function", "x"),
            "Error spec.sink.ref.apiVersion: there is no Function in v1; use `core.openfunction.io/v1beta2`, or leave `apiVersion` out",
        ),
        (SinkSpec::default(), "Error spec.sink: the sink points nowhere; give it a `uri` or a `ref`"),
    ] {
        assert_eq!(plan(&spec, &catalog()), (None, vec![expected.to_owned()]));
    }
}

#[test]
fn a_uri_wins_over_a_reference() {
    let both = SinkSpec { uri: Some("http://a.test/".into()), ..reference(None, "Function", "nothing") };
    let warning = "Warning spec.sink.ref: `ref` has no effect beside `uri`".to_owned();
    assert_eq!(plan(&both, &catalog()), (http("http://a.test/"), vec![warning]));
}

fn policy(spec: &DeliverySpec) -> (DeliveryPolicy, Vec<String>) {
    let mut problems = Vec::new();
    let policy = plan_policy(Some(spec), &FieldPath::spec().key("delivery"), &mut problems);
    (policy, problems.iter().map(|problem| format!("{:?} {problem}", problem.severity)).collect())
}

#[test]
fn a_policy_takes_every_field() {
    let spec = DeliverySpec {
        retry: Some(0),
        backoff_policy: Some("linear".into()),
        backoff_delay: Some("PT5M".into()),
        timeout: Some("1m30s".into()),
        retry_after_max: Some("0s".into()),
        max_in_flight: Some(1),
        ordering: Some(Ordering::PartitionKey),
        rate_limit: Some(RateLimit { events: 100, per: Some("PT1M".into()), burst: Some(5) }),
        deduplication_window: Some("PT10M".into()),
    };
    let expected = DeliveryPolicy {
        retry: 0,
        backoff: Backoff::Linear,
        delay: Duration::from_secs(300),
        delay_max: Duration::from_secs(300),
        timeout: Duration::from_secs(90),
        retry_after_max: Duration::ZERO,
        max_in_flight: 1,
        ordering: Ordering::PartitionKey,
        rate_limit: Some(super::RateLimit { events: 100, per: Duration::from_secs(60), burst: 5 }),
        deduplication_window: Some(Duration::from_secs(600)),
    };
    assert_eq!(policy(&spec), (expected, vec![]));
}

#[test]
fn what_makes_no_sense_in_a_policy_is_refused() {
    let spec = DeliverySpec {
        retry: Some(10_001),
        backoff_policy: Some("exponental".into()),
        backoff_delay: Some("0s".into()),
        timeout: Some("25h".into()),
        retry_after_max: Some("soon".into()),
        max_in_flight: Some(0),
        rate_limit: Some(RateLimit { burst: Some(0), ..RateLimit::default() }),
        deduplication_window: Some("1w".into()),
        ..DeliverySpec::default()
    };
    let (planned, problems) = policy(&spec);
    assert_eq!(planned, DeliveryPolicy::default());
    let expected = [
        "Error spec.delivery.retry: 10001 retries are too many; at most 10000; `backoffDelay` decides how long they take",
        "Error spec.delivery.backoffPolicy: \"exponental\" is no back-off policy; did you mean `exponential`",
        "Error spec.delivery.backoffDelay: this is too short; at least 1ms",
        "Error spec.delivery.timeout: this is too long; at most 24h",
        "Error spec.delivery.retryAfterMax: \"soon\" is no duration; write it as `1m30s`, `300ms` (Go) or `PT1M30S`, `P1D` (ISO-8601)",
        "Error spec.delivery.maxInFlight: 0 deliveries at once are not possible; choose between 1 and 10000",
        "Error spec.delivery.deduplicationWindow: \"1w\" is no duration; write it as `1m30s`, `300ms` (Go) or `PT1M30S`, `P1D` (ISO-8601)",
        "Error spec.delivery.rateLimit.events: nothing would ever be delivered; at least 1; `evoke subscription pause` stops deliveries for a while",
        "Error spec.delivery.rateLimit.burst: nothing would ever be delivered; at least 1; without `burst` it is `events`",
    ];
    assert_eq!(problems, expected);
    let most = DeliverySpec { max_in_flight: Some(10_000), ..DeliverySpec::default() };
    assert_eq!(policy(&most).0.max_in_flight, 10_000);
    let more = DeliverySpec { max_in_flight: Some(10_001), ..DeliverySpec::default() };
    assert_eq!(policy(&more).1.len(), 1);
}

#[test]
fn a_rate_limit_has_defaults_and_bounds() {
    let planned = |events, per: Option<&str>| {
        let rate_limit = Some(RateLimit { events, per: per.map(Into::into), burst: None });
        let (policy, problems) = policy(&DeliverySpec { rate_limit, ..DeliverySpec::default() });
        (policy.rate_limit.map(|limit| (limit.per.as_millis(), limit.burst)), problems)
    };
    assert_eq!(planned(50, None), (Some((1000, 50)), vec![]));
    assert_eq!(planned(1, Some("1h")), (Some((3_600_000, 1)), vec![]));
    let error = "Error spec.delivery.rateLimit.events: 1001 deliveries in 1ms are too many; at most 1000000 a second";
    assert_eq!(planned(1001, Some("1ms")), (None, vec![error.to_owned()]));
    assert_eq!(planned(1, Some("0s")).1, ["Error spec.delivery.rateLimit.per: this is too short; at least 1ms"]);
}

#[test]
fn dead_letters_go_to_the_sink_the_topic_or_the_store() {
    let plan = |sink: Option<&SinkSpec>, topic| {
        let (mut problems, mut not_here) = (Vec::new(), Vec::new());
        let path = FieldPath::spec().key("subscribers").index(0);
        let planned = plan_dead_letter(sink, topic, "shop", &catalog(), &path, &mut problems, &mut not_here);
        assert_eq!(not_here, []);
        (planned, problems.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let sink = uri("http://a.test/");
    let to_sink = DeadLetterPlan::Sink(http("http://a.test/").unwrap());
    assert_eq!(plan(None, None), (Some(DeadLetterPlan::Store), vec![]));
    assert_eq!(plan(Some(&sink), None), (Some(to_sink.clone()), vec![]));
    assert_eq!(plan(Some(&sink), Some("")), (Some(to_sink.clone()), vec![]));
    assert_eq!(plan(None, Some("failed")), (Some(DeadLetterPlan::Topic(TopicName::named("shop", "failed"))), vec![]));
    let (planned, problems) = plan(Some(&sink), Some("failed"));
    assert_eq!(planned, Some(to_sink));
    assert!(
        problems[0].starts_with("spec.subscribers[0].deadLetterTopic: `deadLetterTopic` has no effect"),
        "{problems:?}"
    );
    assert_eq!(plan(None, Some("")), (Some(DeadLetterPlan::Store), vec![]));
    assert_eq!(plan(None, Some("a b")).0, None);
    assert_eq!(plan(Some(&uri("nowhere")), None).0, None);
}
