//! From `sink` to where it points: URLs, and references to objects that have an address.

use evoke_api::catalog::Catalog;
use evoke_api::events::{Reference, SinkSpec};
use evoke_api::names::ObjectName;
use evoke_api::problem::{FieldPath, Problem};
use url::Url;

use super::SinkPlan;

/// The host under which OpenFunction used to serve all functions, by path.
const OPENFUNCTION_HOST: &str = "openfunction.io.svc.cluster.local";
const CLUSTER_SUFFIX: &str = ".svc.cluster.local";
const FUNCTION_GROUP: &str = "core.openfunction.io";
const KNATIVE_GROUP: &str = "serving.knative.dev";

/// Plans a sink at `path` of an object in `namespace`. `uri` wins over `ref`; a URL under which a Function of the catalog is
/// reached in a cluster means that Function. `None` goes with an error among `problems`.
pub fn plan_sink(
    spec: &SinkSpec,
    namespace: &str,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
) -> Option<SinkPlan> {
    let planned = match (&spec.uri, &spec.reference) {
        (Some(uri), reference) => {
            if reference.is_some() {
                problems.push(Problem::warning(path.key("ref"), "`ref` has no effect beside `uri`"));
            }
            from_uri(uri, catalog, &path.key("uri"), problems)
        }
        (None, Some(reference)) => from_reference(reference, namespace, catalog, &path.key("ref"), problems),
        (None, None) => Err(Problem::error(path.clone(), "the sink points nowhere").hint("give it a `uri` or a `ref`")),
    };
    planned.map_err(|problem| problems.push(problem)).ok()
}

fn from_uri(uri: &str, catalog: &Catalog, path: &FieldPath, problems: &mut Vec<Problem>) -> Result<SinkPlan, Problem> {
    let error = |message: String, hint: &str| Problem::error(path.clone(), message).hint(hint);
    // The text itself may hold a password: it is never quoted.
    let url =
        Url::parse(uri).map_err(|wrong| error(format!("this is no URL: {wrong}"), "write it as `http://host/path`"))?;
    if !matches!(url.scheme(), "http" | "https") {
        let message = format!("events cannot be posted to a URL with the scheme {:?}", url.scheme());
        return Err(error(message, "use http or https"));
    }
    if url.as_str().parse::<http::Uri>().is_err() {
        return Err(error("this URL cannot be posted to".into(), "write it as `http://host/path`"));
    }
    let Some(host) = url.host_str().filter(|_| url.scheme() == "http" && url.port().is_none()) else {
        return Ok(SinkPlan::Http(url));
    };
    if host == OPENFUNCTION_HOST {
        let rest = url.path().trim_start_matches('/');
        let (namespace, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (function, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if namespace.is_empty() || function.is_empty() {
            let message = format!("{host} serves functions under /NAMESPACE/FUNCTION, and this path names none");
            return Err(error(message, "use `ref: {kind: Function, name: ...}`"));
        }
        let name = ObjectName::new(namespace, function);
        if !catalog.functions.contains_key(&name) {
            missing("Function", &name, catalog.functions.keys(), catalog, path, problems)?;
        }
        return Ok(SinkPlan::Function { name, path: with_query(&format!("/{rest}"), &url) });
    }
    if let Some((function, namespace)) = host.strip_suffix(CLUSTER_SUFFIX).and_then(|name| name.split_once('.')) {
        let name = ObjectName::new(namespace, function);
        if catalog.functions.contains_key(&name) {
            return Ok(SinkPlan::Function { name, path: with_query(url.path(), &url) });
        }
        let is_known = catalog.services.contains_key(&name) || catalog.knative_services.contains_key(&name);
        if !is_known && !catalog.partial {
            let message = format!("no Function or Service {name} is declared");
            let problem = Problem::warning(path.clone(), message);
            let known = catalog.functions.keys().chain(catalog.services.keys());
            problems.push(match nearest(&name, known) {
                Some(near) => problem.hint(format!("did you mean {near}")),
                None => problem.hint("outside of a cluster this host does not exist"),
            });
        }
    }
    Ok(SinkPlan::Http(url))
}

fn with_query(path: &str, url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

fn from_reference(
    reference: &Reference,
    namespace: &str,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
) -> Result<SinkPlan, Problem> {
    let name = ObjectName::new(reference.namespace.as_deref().unwrap_or(namespace), reference.name.as_str());
    let version = reference.api_version.as_deref();
    let group = version.map(|version| version.split_once('/').map_or("", |(group, _)| group));
    let named = path.key("name");
    match (reference.kind.as_str(), group) {
        ("Function", None | Some(FUNCTION_GROUP)) => {
            if !catalog.functions.contains_key(&name) {
                missing("Function", &name, catalog.functions.keys(), catalog, &named, problems)?;
            }
            Ok(SinkPlan::Function { name, path: "/".into() })
        }
        ("Service", Some(KNATIVE_GROUP)) => knative(&name, catalog, &named, problems),
        ("Service", None) if catalog.knative_services.contains_key(&name) && !catalog.services.contains_key(&name) => {
            knative(&name, catalog, &named, problems)
        }
        ("Service", None | Some("")) if version.is_none_or(|version| version == "v1") => {
            service(&name, catalog, &named, problems)
        }
        ("Function" | "Service", _) => {
            let message = format!("there is no {} in {}", reference.kind, version.unwrap_or_default());
            let hint = match reference.kind.as_str() {
                "Function" => "use `core.openfunction.io/v1beta2`, or leave `apiVersion` out",
                _ => "use `v1` or `serving.knative.dev/v1`, or leave `apiVersion` out",
            };
            Err(Problem::error(path.key("apiVersion"), message).hint(hint))
        }
        (kind, _) => {
            let message = format!("events cannot be delivered to a {kind:?}");
            let hint = "use a Function, a Service, a Knative Service, or `uri`";
            Err(Problem::error(path.key("kind"), message).hint(hint))
        }
    }
}

/// A Service is posted to at port 80, or at its first port if it does not have that one.
fn service(
    name: &ObjectName,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
) -> Result<SinkPlan, Problem> {
    let ports = match catalog.services.get(name) {
        Some(service) => service.ports.as_deref().unwrap_or_default(),
        None => {
            missing("Service", name, catalog.services.keys(), catalog, path, problems)?;
            &[]
        }
    };
    let port = match ports.first() {
        Some(first) if ports.iter().all(|port| port.port != 80) => format!(":{}", first.port),
        _ => String::new(),
    };
    let ObjectName { namespace, name } = name;
    address(&format!("http://{name}.{namespace}{CLUSTER_SUFFIX}{port}"), path)
}

fn knative(
    name: &ObjectName,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
) -> Result<SinkPlan, Problem> {
    let Some(service) = catalog.knative_services.get(name) else {
        missing("Knative Service", name, catalog.knative_services.keys(), catalog, path, problems)?;
        let ObjectName { namespace, name } = name;
        return address(&format!("http://{name}.{namespace}{CLUSTER_SUFFIX}"), path);
    };
    match &service.url {
        Some(url) => address(url, path),
        None => {
            let message = format!("the Knative Service {name} has no `status.url` yet");
            Err(Problem::error(path.clone(), message).hint("wait until it is ready, or use `uri`"))
        }
    }
}

fn address(url: &str, path: &FieldPath) -> Result<SinkPlan, Problem> {
    Url::parse(url)
        .map(SinkPlan::Http)
        .map_err(|wrong| Problem::error(path.clone(), format!("{url:?} is no URL: {wrong}")))
}

/// A reference to nothing: an error, or a warning where the rest is elsewhere.
fn missing<'a>(
    kind: &str,
    name: &ObjectName,
    known: impl Iterator<Item = &'a ObjectName>,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
) -> Result<(), Problem> {
    let message = format!("there is no {kind} {name}");
    let hint = nearest(name, known).map(|near| format!("did you mean {near}"));
    let hinted = |problem: Problem| match &hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    };
    if !catalog.partial {
        return Err(hinted(Problem::error(path.clone(), message)));
    }
    problems.push(hinted(Problem::warning(path.clone(), message)));
    Ok(())
}

/// The object that was probably meant: of the same name elsewhere, or of nearly the same name.
fn nearest<'a>(name: &ObjectName, known: impl Iterator<Item = &'a ObjectName>) -> Option<&'a ObjectName> {
    let letters = name.name.chars().count();
    let distance = |other: &ObjectName| {
        strsim::damerau_levenshtein(&name.name, &other.name) + usize::from(name.namespace != other.namespace)
    };
    let nearest = known.map(|other| (distance(other), other)).min()?;
    (nearest.0 <= letters.max(3) / 3).then_some(nearest.1)
}
