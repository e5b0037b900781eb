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
/// The same, for a host that the search list of a pod completes.
const SHORT_SUFFIX: &str = ".svc";
/// Beside 80, where OpenFunction has a function's Service listen.
const FUNCTION_PORT: u16 = 8080;
const FUNCTION_GROUP: &str = "core.openfunction.io";
const KNATIVE_GROUP: &str = "serving.knative.dev";

/// Plans a sink at `path` of an object in `namespace`. `uri` wins over `ref`; a URL under which a Function of the catalog is
/// reached in a cluster means that Function. `None` goes with an error among `problems`. What is right but has no address yet is among
/// `not_here`.
pub fn plan_sink(
    spec: &SinkSpec,
    namespace: &str,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
    not_here: &mut Vec<Problem>,
) -> Option<SinkPlan> {
    let planned = match (&spec.uri, &spec.reference) {
        (Some(uri), reference) => {
            if reference.is_some() {
                problems.push(Problem::warning(path.key("ref"), "`ref` has no effect beside `uri`"));
            }
            from_uri(uri, catalog, &path.key("uri"), problems)
        }
        (None, Some(reference)) => from_reference(reference, namespace, catalog, &path.key("ref"), problems, not_here),
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
    let host = url.host_str().filter(|_| url.scheme() == "http");
    if let (Some(OPENFUNCTION_HOST), None) = (host, url.port()) {
        let rest = url.path().trim_start_matches('/');
        let (namespace, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (function, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if namespace.is_empty() || function.is_empty() {
            let message =
                format!("{OPENFUNCTION_HOST} serves functions under /NAMESPACE/FUNCTION, and this path names none");
            return Err(error(message, "use `ref: {kind: Function, name: ...}`"));
        }
        let name = ObjectName::new(namespace, function);
        if !catalog.functions.contains_key(&name) {
            missing("Function", &name, catalog.functions.keys(), catalog, path, problems)?;
        }
        return Ok(SinkPlan::Function { name, path: with_query(&format!("/{rest}"), &url) });
    }
    if let (Some(host), None | Some(FUNCTION_PORT)) = (host, url.port())
        && let Some(name) = in_namespace(without_suffix(host).unwrap_or(host))
        && catalog.functions.contains_key(&name)
    {
        return Ok(SinkPlan::Function { name, path: with_query(url.path(), &url) });
    }
    warn_of_cluster_host(&url, catalog, path, problems);
    Ok(SinkPlan::Http(url))
}

/// A host less what says that it is one of a cluster.
fn without_suffix(host: &str) -> Option<&str> {
    host.strip_suffix(CLUSTER_SUFFIX).or_else(|| host.strip_suffix(SHORT_SUFFIX))
}

/// The object that `{name}.{namespace}` means.
fn in_namespace(host: &str) -> Option<ObjectName> {
    let (name, namespace) = host.split_once('.')?;
    (!namespace.contains('.')).then(|| ObjectName::new(namespace, name))
}

/// A host of a cluster is none elsewhere.
fn warn_of_cluster_host(url: &Url, catalog: &Catalog, path: &FieldPath, problems: &mut Vec<Problem>) {
    let Some(host) = url.host_str().filter(|_| !catalog.partial) else { return };
    let Some(name) = without_suffix(host) else { return };
    let is_declared = |name: &ObjectName| {
        catalog.functions.contains_key(name)
            || catalog.services.contains_key(name)
            || catalog.knative_services.contains_key(name)
    };
    let problem = match in_namespace(name).filter(|name| !is_declared(name)) {
        Some(name) => {
            let known = catalog.functions.keys().chain(catalog.services.keys());
            let problem = Problem::warning(path.clone(), format!("no Function or Service {name} is declared"));
            match nearest(&name, known) {
                Some(near) => problem.hint(format!("did you mean {near}")),
                None => problem.hint("outside of a cluster this host does not exist"),
            }
        }
        None => {
            let message = format!("only the DNS of a cluster knows the host {host}");
            Problem::warning(path.clone(), message).hint("elsewhere, --set its `uri` to one that is reached there")
        }
    };
    problems.push(problem);
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
    not_here: &mut Vec<Problem>,
) -> Result<SinkPlan, Problem> {
    // To OpenFunction, an empty namespace is one that is not set.
    let elsewhere = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let name = ObjectName::new(elsewhere.unwrap_or(namespace), reference.name.as_str());
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
        ("Service", Some(KNATIVE_GROUP)) => knative(&name, catalog, &named, problems, not_here),
        ("Service", None) if catalog.knative_services.contains_key(&name) && !catalog.services.contains_key(&name) => {
            knative(&name, catalog, &named, problems, not_here)
        }
        ("Service", None | Some("")) if version.is_none_or(|version| version == "v1") => {
            // In a cluster, every Function has a Service of its name.
            if catalog.functions.contains_key(&name) && !catalog.services.contains_key(&name) {
                return Ok(SinkPlan::Function { name, path: "/".into() });
            }
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
    let url = address(&format!("{}{port}", in_cluster(name)), path)?;
    warn_of_cluster_host(&url, catalog, path, problems);
    Ok(SinkPlan::Http(url))
}

fn knative(
    name: &ObjectName,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
    not_here: &mut Vec<Problem>,
) -> Result<SinkPlan, Problem> {
    let Some(service) = catalog.knative_services.get(name) else {
        missing("Knative Service", name, catalog.knative_services.keys(), catalog, path, problems)?;
        return address(&in_cluster(name), path).map(SinkPlan::Http);
    };
    match &service.url {
        Some(url) => {
            let url = address(url, path)?;
            warn_of_cluster_host(&url, catalog, path, problems);
            Ok(SinkPlan::Http(url))
        }
        None => {
            let message = format!("the Knative Service {name} has no `status.url` yet");
            let hint = "wait until it is ready, or use `uri`";
            match catalog.partial {
                true => problems.push(Problem::warning(path.clone(), message).hint(hint)),
                false => not_here.push(Problem::error(path.clone(), message).hint(hint)),
            }
            address(&in_cluster(name), path).map(SinkPlan::Http)
        }
    }
}

/// Where a Service is reached inside its cluster.
fn in_cluster(ObjectName { namespace, name }: &ObjectName) -> String {
    format!("http://{name}.{namespace}{CLUSTER_SUFFIX}")
}

fn address(url: &str, path: &FieldPath) -> Result<Url, Problem> {
    Url::parse(url).map_err(|wrong| Problem::error(path.clone(), format!("{url:?} is no URL: {wrong}")))
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
