//! One object of a manifest: its typed value, and where its fields are.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::kind::Version;
use super::{Diagnostic, Kind, Node, Place};
use crate::events::{EventBusSpec, EventSourceSpec, TriggerSpec};
use crate::functions::{self, FunctionSpec};
use crate::kubernetes::{KnativeService, SecretData, Service};
use crate::names::ObjectName;
use crate::problem::{FieldPath, Problem, Step};

/// An object of a manifest.
#[derive(Clone, Debug)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its namespace, `default` where it names none, and its name.
    pub name: ObjectName,
    /// The file it is in, as it is shown to people.
    pub file: Arc<str>,
    /// What it says.
    pub value: ObjectValue,
    pub(super) tree: Arc<Node>,
}

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ObjectValue {
    EventSource(Box<EventSourceSpec>),
    EventBus(Box<EventBusSpec>),
    ClusterEventBus(Box<EventBusSpec>),
    Trigger(Box<TriggerSpec>),
    /// Of either version.
    Function(Box<FunctionSpec>),
    Secret(SecretData),
    Service(Box<Service>),
    KnativeService(KnativeService),
}

impl Object {
    /// Where the value at `path` is, or its nearest ancestor that is there.
    pub fn locate(&self, path: &FieldPath) -> Place {
        self.tree.locate(&self.written(path))
    }

    /// Puts a problem of this object, such as one that planning found, at its place, under the path that the manifest has there.
    pub fn diagnose(&self, mut problem: Problem) -> Diagnostic {
        problem.path = self.written(&problem.path);
        let place = self.tree.locate(&problem.path);
        Diagnostic::new(self.file.clone(), place, Some(self.to_string().into()), problem)
    }

    /// The path under which the manifest has what the value has at `path`: a Function of the version before is converted.
    fn written(&self, path: &FieldPath) -> FieldPath {
        let version = self.tree.get("apiVersion").and_then(|field| field.value.as_str());
        if self.kind == Kind::Function && version == Some(functions::v1beta1::API_VERSION) {
            return functions::v1beta1::written(path, |place| self.has(place));
        }
        path.clone()
    }

    /// Whether the manifest has a value at a path of keys.
    fn has(&self, path: &FieldPath) -> bool {
        let mut node = &*self.tree;
        for step in path.steps() {
            let Step::Key(key) = step else { return false };
            let Some(field) = node.get(key) else { return false };
            node = &field.value;
        }
        true
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl ObjectValue {
    /// Reads the JSON of an object that was checked; `problems` takes what a conversion warns of.
    ///
    /// # Errors
    /// What the schema does not know of and the type refuses all the same.
    pub(super) fn read(
        kind: Kind,
        version: Version,
        mut json: Value,
        problems: &mut Vec<Problem>,
    ) -> Result<Self, Problem> {
        let spec = json.get_mut("spec").map(Value::take);
        Ok(match kind {
            Kind::EventSource => Self::EventSource(spec_of(spec)?),
            Kind::EventBus => Self::EventBus(spec_of(spec)?),
            Kind::ClusterEventBus => Self::ClusterEventBus(spec_of(spec)?),
            Kind::Trigger => Self::Trigger(spec_of(spec)?),
            Kind::Function if version == Version::V1beta1 => {
                let old: Box<functions::v1beta1::FunctionSpec> = spec_of(spec)?;
                let annotations = json.pointer("/metadata/annotations").and_then(Value::as_object);
                Self::Function(Box::new(old.convert(annotations, problems)))
            }
            Kind::Function => Self::Function(spec_of(spec)?),
            Kind::Secret => {
                let secret: k8s_openapi::api::core::v1::Secret = from_json(json, &FieldPath::root())?;
                Self::Secret(secret.into())
            }
            Kind::Service => Self::Service(spec_of(spec)?),
            Kind::KnativeService => {
                let status = json.get_mut("status").map(Value::take);
                let read = status.map(|status| from_json(status, &FieldPath::root().key("status")));
                Self::KnativeService(read.transpose()?.unwrap_or_default())
            }
        })
    }
}

fn spec_of<T: DeserializeOwned + Default>(spec: Option<Value>) -> Result<Box<T>, Problem> {
    match spec {
        Some(spec) => from_json(spec, &FieldPath::spec()),
        None => Ok(Box::default()),
    }
}

fn from_json<T: DeserializeOwned>(json: Value, base: &FieldPath) -> Result<T, Problem> {
    serde_path_to_error::deserialize(json).map_err(|e| {
        let mut steps = base.steps().to_vec();
        for segment in e.path() {
            match segment {
                serde_path_to_error::Segment::Map { key } => steps.push(Step::Key(key.clone())),
                serde_path_to_error::Segment::Seq { index } => steps.push(Step::Index(*index)),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {}
            }
        }
        Problem::error(FieldPath::new(steps), e.inner().to_string())
    })
}
