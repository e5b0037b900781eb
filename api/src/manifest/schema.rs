//! The schema of every kind, made once from the types that objects are read into.

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Kind;
use super::kind::Version;
use crate::events::{EventBusSpec, EventSourceSpec, TriggerSpec};
use crate::functions::{self, FunctionSpec};
use crate::kubernetes::KnativeService;

/// The schemas of all kinds. Takes milliseconds to make; make it once.
#[derive(Debug)]
pub struct Schemas {
    definitions: Map<String, Value>,
    event_source: Value,
    event_bus: Value,
    trigger: Value,
    function: Value,
    function_v1beta1: Value,
    secret: Value,
    service: Value,
    knative_service: Value,
}

impl Schemas {
    /// Makes them.
    pub fn new() -> Self {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let generator = &mut generator;
        let any = json!(true);
        let mut schemas = Self {
            definitions: Map::new(),
            event_source: of_spec::<EventSourceSpec>(generator, true),
            event_bus: of_spec::<EventBusSpec>(generator, false),
            trigger: of_spec::<TriggerSpec>(generator, true),
            function: of_spec::<FunctionSpec>(generator, true),
            function_v1beta1: of_spec::<functions::v1beta1::FunctionSpec>(generator, true),
            secret: with_metadata(Secret::json_schema(generator)),
            service: with_metadata(Service::json_schema(generator)),
            knative_service: {
                let status = generator.subschema_for::<KnativeService>().to_value();
                object(generator, &any, &status, &["apiVersion", "kind", "metadata"])
            },
        };
        schemas.definitions = generator.take_definitions(true);
        schemas
    }

    /// The schema of a kind.
    pub(super) fn of(&self, kind: Kind, version: Version) -> &Value {
        match (kind, version) {
            (Kind::EventSource, _) => &self.event_source,
            (Kind::EventBus | Kind::ClusterEventBus, _) => &self.event_bus,
            (Kind::Trigger, _) => &self.trigger,
            (Kind::Function, Version::Current) => &self.function,
            (Kind::Function, Version::V1beta1) => &self.function_v1beta1,
            (Kind::Secret, _) => &self.secret,
            (Kind::Service, _) => &self.service,
            (Kind::KnativeService, _) => &self.knative_service,
        }
    }

    /// Follows references to the schema that says something.
    pub(super) fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = reference.rsplit('/').next().unwrap_or_default();
            match self.definitions.get(name) {
                Some(next) => schema = next,
                None => return &Value::Null,
            }
        }
        schema
    }
}

impl Default for Schemas {
    fn default() -> Self {
        Self::new()
    }
}

/// The schema of one of our kinds.
fn of_spec<S: JsonSchema>(generator: &mut SchemaGenerator, needs_spec: bool) -> Value {
    let required: &[&str] =
        if needs_spec { &["apiVersion", "kind", "metadata", "spec"] } else { &["apiVersion", "kind", "metadata"] };
    let spec = generator.subschema_for::<S>().to_value();
    object(generator, &spec, &json!(true), required)
}

fn object(generator: &mut SchemaGenerator, spec: &Value, status: &Value, required: &[&str]) -> Value {
    let metadata = generator.subschema_for::<ObjectMeta>();
    let text = json!({"type": "string"});
    let properties = json!({"apiVersion": text, "kind": text, "metadata": metadata, "spec": spec, "status": status});
    json!({"type": "object", "properties": properties, "required": required})
}

/// The schema of one of Kubernetes' own kinds, whose `metadata` is optional only in lists.
fn with_metadata(schema: Schema) -> Value {
    let mut schema = schema.to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("required".to_owned(), json!(["apiVersion", "kind", "metadata"]));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let schemas = Schemas::new();
        let all = serde_json::to_string(&schemas.definitions).unwrap();
        for reference in all.split("\"$ref\":\"").skip(1) {
            let reference = reference.split('"').next().unwrap();
            assert!(schemas.resolve(&json!({ "$ref": reference })).is_object(), "{reference}");
        }
        assert_eq!(
            schemas.of(Kind::Trigger, Version::Current)["required"],
            json!(["apiVersion", "kind", "metadata", "spec"])
        );
    }
}
