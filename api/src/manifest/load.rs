//! Files to objects, and everything that is wrong with them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::kind::{Recognised, Version, recognise};
use super::node::Content;
use super::walk::Walk;
use super::{Diagnostic, Kind, Node, Object, ObjectValue, Override, Place, Schemas, SourceFile, read};
use crate::catalog::Catalog;
use crate::limits;
use crate::names::{self, ObjectName};
use crate::problem::{FieldPath, Problem, quoted};

/// What files hold.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects, in the order of the files. Those that have errors are among them as far as they can be understood, so that
    /// planning finds what else is wrong; nothing may run while [`has_errors`](Self::has_errors).
    pub objects: Vec<Object>,
    /// What is wrong, by file, line and column.
    pub diagnostics: Vec<Diagnostic>,
    /// The fields of objects that were found wrong while loading.
    wrong: HashSet<(Arc<str>, Option<Arc<str>>, FieldPath)>,
}

impl Loaded {
    /// True when anything keeps the manifests from being used.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Adds what others found, and keeps the order. What they say of a field that was found wrong while loading, or of what is
    /// below it, is left out: it was not the manifest's value that they saw.
    pub fn report(&mut self, more: impl IntoIterator<Item = Diagnostic>) {
        let of_wrong = |d: &Diagnostic| {
            let mut above = Some(d.path.clone());
            while let Some(path) = above {
                above = path.parent();
                if self.wrong.contains(&(d.file.clone(), d.object.clone(), path)) {
                    return true;
                }
            }
            false
        };
        let more: Vec<_> = more.into_iter().filter(|d| !of_wrong(d)).collect();
        self.diagnostics.extend(more);
        Diagnostic::sort(&mut self.diagnostics);
    }

    /// The object of this kind and name.
    pub fn find(&self, kind: Kind, name: &ObjectName) -> Option<&Object> {
        self.objects.iter().find(|object| object.kind == kind && object.name == *name)
    }

    /// The objects by kind and name, for plans; neither [partial](Catalog::partial) nor with a
    /// [default bus](Catalog::default_bus).
    pub fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for object in &self.objects {
            let name = object.name.clone();
            match &object.value {
                ObjectValue::EventSource(spec) => _ = catalog.event_sources.insert(name, (**spec).clone()),
                ObjectValue::EventBus(spec) => _ = catalog.event_buses.insert(name, (**spec).clone()),
                ObjectValue::ClusterEventBus(spec) => {
                    catalog.cluster_event_buses.insert(name.name.to_string(), (**spec).clone());
                }
                ObjectValue::Trigger(spec) => _ = catalog.triggers.insert(name, (**spec).clone()),
                ObjectValue::Function(spec) => _ = catalog.functions.insert(name, (**spec).clone()),
                ObjectValue::Secret(data) => _ = catalog.secrets.insert(name, data.clone()),
                ObjectValue::Service(service) => _ = catalog.services.insert(name, (**service).clone()),
                ObjectValue::KnativeService(service) => _ = catalog.knative_services.insert(name, service.clone()),
            }
        }
        catalog
    }
}

/// Reads files, changes them as `overrides` say, and checks every field of every object.
pub fn load(schemas: &Schemas, files: &[SourceFile], overrides: &[Override]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut drafts = Vec::new();
    for file in files {
        if file.text.len() > limits::MANIFEST_BYTES {
            let message = format!("the file is larger than {} bytes", limits::MANIFEST_BYTES);
            loaded.diagnostics.push(Diagnostic::file(file.name.clone(), message));
            continue;
        }
        let read::Documents { trees, problems } = read::documents(&file.text);
        let at = |(place, problem)| Diagnostic::new(file.name.clone(), place, None, problem);
        loaded.diagnostics.extend(problems.into_iter().map(at));
        for tree in trees {
            draft(&file.name, tree, &mut drafts, &mut loaded.diagnostics);
        }
    }
    for over in overrides {
        if let Err(problem) = over.apply(&mut drafts) {
            loaded.diagnostics.push(Diagnostic::new(
                Arc::from(""),
                Place::OVERRIDE,
                Some(over.target().into()),
                problem,
            ));
        }
    }
    let mut seen = HashMap::new();
    for draft in drafts {
        loaded.objects.extend(draft.check(schemas, &mut seen, &mut loaded.diagnostics));
    }
    let wrong = loaded.diagnostics.iter().filter(|d| d.is_error() && d.object.is_some());
    loaded.wrong = wrong.map(|d| (d.file.clone(), d.object.clone(), d.path.clone())).collect();
    Diagnostic::sort(&mut loaded.diagnostics);
    loaded
}

/// An object of a kind that is read, before its fields are checked.
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) name: Option<ObjectName>,
    pub(super) tree: Node,
    version: Version,
    file: Arc<str>,
}

/// Where objects of one kind and name were first defined.
type Seen = HashMap<(Kind, ObjectName), (Arc<str>, Place)>;

/// Finds out what a document, or an item of a list, is.
fn draft(file: &Arc<str>, tree: Node, drafts: &mut Vec<Draft>, diagnostics: &mut Vec<Diagnostic>) {
    let mut report = |place, problem| diagnostics.push(Diagnostic::new(file.clone(), place, None, problem));
    if !matches!(tree.content, Content::Object(_)) {
        let message = format!("expected an object, found {}", tree.type_name());
        let problem = Problem::error(FieldPath::root(), message);
        return report(tree.place, problem.hint("begin with `apiVersion` and `kind`"));
    }
    let text = |name: &str| tree.get(name).and_then(|field| field.value.as_str());
    let (api_version, kind) = match (text("apiVersion"), text("kind")) {
        (Some(api_version), Some(kind)) => (api_version, kind),
        // A folder of manifests may well hold other YAML and JSON.
        _ if tree.get("apiVersion").is_none() && tree.get("kind").is_none() => {
            let message = "neither `apiVersion` nor `kind`: no manifest, and ignored";
            return report(tree.place, Problem::warning(FieldPath::root(), message));
        }
        (api_version, _) => {
            let path = FieldPath::root().key(if api_version.is_none() { "apiVersion" } else { "kind" });
            let place = tree.locate(&path);
            return report(place, Problem::error(path, "this field is required").hint("add it as text"));
        }
    };
    match recognise(api_version, kind) {
        Ok(Recognised::Read(kind, version)) => {
            let name = name(kind, &tree);
            drafts.push(Draft { kind, name, tree, version, file: file.clone() });
        }
        Ok(Recognised::List) => {
            let Content::Object(mut fields) = tree.content else { return };
            match fields.shift_remove("items").map(|field| field.value) {
                Some(Node { content: Content::List(items), .. }) => {
                    for item in items {
                        draft(file, item, drafts, diagnostics);
                    }
                }
                Some(other) if !other.is_null() => {
                    let message = format!("expected a list, found {}", other.type_name());
                    report(other.place, Problem::error(FieldPath::root().key("items"), message));
                }
                _ => {}
            }
        }
        Err(problem) => report(tree.locate(&problem.path), problem),
    }
}

/// The namespace and name that an object gives itself, if it has a name.
fn name(kind: Kind, tree: &Node) -> Option<ObjectName> {
    let metadata = &tree.get("metadata")?.value;
    let namespace = if kind.is_namespaced() { namespace(metadata).unwrap_or("default") } else { "" };
    Some(ObjectName::new(namespace, metadata.get("name")?.value.as_str()?))
}

/// The namespace in an object's metadata. An empty one is not set, as for Kubernetes.
fn namespace(metadata: &Node) -> Option<&str> {
    metadata.get("namespace")?.value.as_str().filter(|namespace| !namespace.is_empty())
}

impl Draft {
    fn check(self, schemas: &Schemas, seen: &mut Seen, diagnostics: &mut Vec<Diagnostic>) -> Option<Object> {
        let Self { kind, version, tree, file, .. } = self;
        let name = name(kind, &tree);
        let label = name.as_ref().map(|name| Arc::from(format!("{kind} {name}")));
        let (json, mut found) = Walk::check(schemas, schemas.of(kind, version), &tree);
        let mut problems = Vec::new();
        check_name(kind, &tree, &mut problems);
        let mut first = true;
        if let Some(name) = &name {
            match seen.entry((kind, name.clone())) {
                Entry::Vacant(entry) => _ = entry.insert((file.clone(), tree.place)),
                Entry::Occupied(entry) => {
                    let (file, Place { line, column }) = entry.get();
                    let message = format!("{kind} {name} is defined twice, first at {file}:{line}:{column}");
                    let path = FieldPath::root().key("metadata").key("name");
                    problems.push(Problem::error(path, message).hint("rename or remove one of the two"));
                    first = false;
                }
            }
        }
        let valid = !found.iter().any(|(_, problem)| problem.is_error());
        let value = match ObjectValue::read(kind, version, json, &mut problems) {
            Ok(value) => Some(value),
            Err(problem) => {
                // Where an error was reported already, this is most likely another view of it.
                problems.extend(Some(problem).filter(|_| valid));
                None
            }
        };
        found.extend(problems.into_iter().map(|problem| (tree.locate(&problem.path), problem)));
        let at = |(place, problem)| Diagnostic::new(file.clone(), place, label.clone(), problem);
        diagnostics.extend(found.into_iter().map(at));
        let (name, value) = (name.filter(|_| first)?, value?);
        Some(Object { kind, name, file, value, tree: Arc::new(tree) })
    }
}

/// Checks what Kubernetes would say of the name and the namespace.
fn check_name(kind: Kind, tree: &Node, problems: &mut Vec<Problem>) {
    let metadata = FieldPath::root().key("metadata");
    let Some(fields) = tree.get("metadata") else { return };
    match fields.value.get("name").map(|field| field.value.as_str()) {
        Some(Some(name)) if !names::is_object_name(name) => problems.push(
            Problem::error(metadata.key("name"), format!("{} is no name for an object", quoted(name)))
                .hint("use at most 253 of a-z, 0-9, `-` and `.`, a letter or digit at both ends"),
        ),
        Some(_) => {}
        None => {
            problems
                .push(Problem::error(metadata.key("name"), "this field is required").hint("give the object a name"));
        }
    }
    match namespace(&fields.value) {
        Some(_) if !kind.is_namespaced() => problems.push(
            Problem::warning(metadata.key("namespace"), format!("a {kind} has no namespace, and this one is ignored"))
                .hint("take it away"),
        ),
        Some(namespace) if !names::is_namespace(namespace) => problems.push(
            Problem::error(metadata.key("namespace"), format!("{} is no namespace", quoted(namespace)))
                .hint("use at most 63 of a-z, 0-9 and `-`, a letter or digit at both ends"),
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
