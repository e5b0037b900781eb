//! A marked tree against a schema: every unknown field, wrong type, missing field and value that is not allowed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::node::{Content, Field};
use super::scalar::Scalar;
use super::{Node, Place, Schemas, did_you_mean};
use crate::limits;
use crate::problem::{FieldPath, Problem, Step, quoted};

/// Checks a tree.
pub(super) struct Walk<'a> {
    schemas: &'a Schemas,
    path: Vec<Step>,
    found: Vec<(Place, Problem)>,
}

impl<'a> Walk<'a> {
    /// What is wrong with `tree`, and the JSON that it stands for by the schema. Where something is wrong the JSON is made up, so
    /// that the rest can be looked at all the same.
    pub(super) fn check(schemas: &'a Schemas, schema: &Value, tree: &Node) -> (Value, Vec<(Place, Problem)>) {
        let mut walk = Walk { schemas, path: Vec::new(), found: Vec::new() };
        let value = walk.value(tree, tree.place, schema);
        (value.unwrap_or_default(), walk.found)
    }

    fn error(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        if self.found.len() > limits::MANIFEST_PROBLEMS {
            return;
        }
        if self.found.len() == limits::MANIFEST_PROBLEMS {
            self.found
                .push((place, Problem::error(FieldPath::root(), "what else is wrong with this object is not shown")));
            return;
        }
        let path = FieldPath::new(self.path.clone());
        self.found.push((place, Problem { hint, ..Problem::error(path, message) }));
    }

    /// Checks a value; `place` is where to point. `None` for one that is not what the schema wants.
    fn value(&mut self, node: &Node, place: Place, schema: &Value) -> Option<Value> {
        let schemas = self.schemas;
        let schema = schemas.resolve(schema);
        if let Some(only) = only_variant(schema) {
            return self.value(node, place, only);
        }
        let choices = choices(schema, schemas);
        if !choices.is_empty() {
            return self.one_of(node, place, &choices);
        }
        let wanted = Wanted::of(schema);
        match (&wanted, &node.content) {
            (Wanted::Anything, _) => return Some(self.anything(node, place)),
            (Wanted::Object, Content::Object(fields)) => return Some(self.object(fields, place, schema)),
            (Wanted::List, Content::List(items)) => return Some(self.list(items, place, schema)),
            (_, Content::Scalar(scalar)) => match self.scalar(scalar, wanted, place, schema) {
                Ok(value) => return Some(value),
                Err(Refused::Value) => return None,
                Err(Refused::Type) => {}
            },
            _ => {}
        }
        let hint = mistaken(wanted, node, schema);
        self.error(place, format!("expected {}, found {}", wanted.name(), node.type_name()), hint);
        None
    }

    fn object(&mut self, fields: &IndexMap<String, Field>, place: Place, schema: &Value) -> Value {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            // A schema that names no field at all, such as that of a free map, closes nothing.
            None => properties.is_none().then_some(&Value::Bool(true)),
            given => given,
        };
        let properties = properties.unwrap_or(&none);
        let mut out = Map::new();
        for (key, field) in fields {
            self.path.push(Step::Key(key.clone()));
            match (properties.get(key), additional) {
                // What is null is absent, as for Kubernetes.
                (Some(_), _) if field.value.is_null() => {}
                (Some(chosen), _)
                    if self.is_no_choice(&field.value, chosen) && !required(schema).any(|name| name == key) => {}
                (Some(schema), _) => {
                    let value = self.value(&field.value, field.place(), schema);
                    out.extend(value.map(|value| (key.clone(), value)));
                }
                (None, Some(schema)) => {
                    let value = self.value(&field.value, field.place(), schema);
                    // Others may refer to the key.
                    out.insert(key.clone(), value.unwrap_or_else(|| self.made_up(schema)));
                }
                (None, None) if self.found.len() > limits::MANIFEST_PROBLEMS => {}
                (None, None) => {
                    let known = properties.keys().map(String::as_str);
                    self.error(field.key, "unknown field", did_you_mean::hint(key, known.clone(), "field"));
                    // A field under a misspelt name is not missing, and the rest is checked as if it were right.
                    let meant = did_you_mean::did_you_mean(key, known).filter(|name| !fields.contains_key(*name));
                    if let Some((name, schema)) = meant.and_then(|name| Some((name, properties.get(name)?)))
                        && !field.value.is_null()
                    {
                        let value = self.value(&field.value, field.place(), schema);
                        out.insert(name.to_owned(), value.unwrap_or_else(|| self.made_up(schema)));
                    }
                }
            }
            self.path.pop();
        }
        for name in required(schema).filter(|name| !out.contains_key(*name)).collect::<Vec<_>>() {
            // What is there and wrong was reported as such.
            if fields.get(name).is_none_or(|field| field.value.is_null()) {
                self.path.push(Step::Key(name.to_owned()));
                self.error(place, "this field is required", Some(format!("add `{name}`")));
                self.path.pop();
            }
            out.insert(name.to_owned(), properties.get(name).map_or(Value::Null, |schema| self.made_up(schema)));
        }
        Value::Object(out)
    }

    fn list(&mut self, items: &[Node], place: Place, schema: &Value) -> Value {
        let any = Value::Bool(true);
        let limit = |name| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        if let Some(most) = limit("maxItems").filter(|most| items.len() > *most) {
            self.error(place, format!("{} items, where {most} are allowed", items.len()), None);
        }
        if let Some(least) = limit("minItems").filter(|least| items.len() < *least) {
            self.error(place, format!("{} items, where {least} are needed", items.len()), None);
        }
        let schema = schema.get("items").unwrap_or(&any);
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Index(index));
            let value = self.value(item, item.place, schema);
            // The items behind it keep their places.
            out.push(value.unwrap_or_else(|| self.made_up(schema)));
            self.path.pop();
        }
        Value::Array(out)
    }

    /// The JSON of a scalar of the wanted type.
    fn scalar(&mut self, scalar: &Scalar, wanted: Wanted, place: Place, schema: &Value) -> Result<Value, Refused> {
        match (wanted, scalar) {
            (Wanted::Quantity, Scalar::Number(number, text)) => {
                Ok(Value::String(if number.is_f64() { text.clone() } else { number.to_string() }))
            }
            (Wanted::String | Wanted::Quantity, Scalar::String { text, .. }) => {
                self.warn_of_old_bool(scalar, place);
                if schema.get("format").and_then(Value::as_str) != Some("byte") {
                    return Ok(Value::String(text.clone()));
                }
                // Kubernetes passes over the line breaks of a text that is wrapped.
                let encoded = text.replace(['\r', '\n'], "");
                if STANDARD.decode(&encoded).is_err() {
                    let hint = "encode the value, or give it as text under `stringData`".to_owned();
                    self.error(place, "this is not base64", Some(hint));
                    return Err(Refused::Value);
                }
                Ok(Value::String(encoded))
            }
            (Wanted::IntOrString, Scalar::String { text, .. }) => Ok(Value::String(text.clone())),
            (Wanted::IntOrString | Wanted::Number, Scalar::Number(number, _)) => Ok(Value::Number(number.clone())),
            (Wanted::Integer, Scalar::Number(number, _)) if !number.is_f64() => {
                self.check_range(number, place, schema)?;
                Ok(Value::Number(number.clone()))
            }
            (Wanted::Boolean, Scalar::Bool(value)) => Ok(Value::Bool(*value)),
            (Wanted::Boolean, other) => other.as_old_bool().map(Value::Bool).ok_or(Refused::Type),
            _ => Err(Refused::Type),
        }
    }

    fn check_range(&mut self, number: &serde_json::Number, place: Place, schema: &Value) -> Result<(), Refused> {
        let (low, high) = range(schema);
        let Some(value) = number.as_i128() else { return Ok(()) };
        if value < low {
            self.error(place, format!("{value} is too small"), Some(format!("write {low} or more")));
        } else if value > high {
            self.error(place, format!("{value} is too large"), Some(format!("write {high} or less")));
        } else {
            return Ok(());
        }
        Err(Refused::Value)
    }

    /// A value that is one of a few.
    fn one_of(&mut self, node: &Node, place: Place, choices: &[&Value]) -> Option<Value> {
        let value = node.to_json();
        if choices.contains(&&value) {
            return Some(value);
        }
        let texts: Vec<_> = choices.iter().map(|choice| plain(choice)).collect();
        match &value {
            Value::String(text) => {
                let hint = did_you_mean::hint(text, texts.iter().map(String::as_str), "value");
                self.error(place, format!("{} is not allowed here", quoted(text)), hint);
            }
            Value::Number(number) if choices.iter().any(|choice| choice.is_number()) => {
                let hint = format!("write {}", texts.join(" or "));
                self.error(place, format!("{number} is not allowed here"), Some(hint));
            }
            _ => {
                let hint = format!("write `{}`", texts.join("` or `"));
                self.error(place, format!("{} is not allowed here", node.type_name()), Some(hint));
            }
        }
        None
    }

    /// True for an empty text where the values are few: so Go writes a choice that is not made, and reads one.
    fn is_no_choice(&self, node: &Node, schema: &Value) -> bool {
        if node.as_str() != Some("") {
            return false;
        }
        let choices = choices(schema, self.schemas);
        !choices.is_empty() && !choices.iter().any(|choice| choice.as_str() == Some(""))
    }

    /// The least that meets a schema.
    fn made_up(&self, schema: &Value) -> Value {
        let schema = self.schemas.resolve(schema);
        if let Some(only) = only_variant(schema) {
            return self.made_up(only);
        }
        if let Some(choice) = choices(schema, self.schemas).first() {
            return (*choice).clone();
        }
        match Wanted::of(schema) {
            Wanted::Anything => Value::Null,
            Wanted::List => Value::Array(Vec::new()),
            Wanted::String | Wanted::Quantity | Wanted::IntOrString => Value::String(String::new()),
            Wanted::Boolean => Value::Bool(false),
            Wanted::Integer | Wanted::Number => Value::from(i64::try_from(range(schema).0.max(0)).unwrap_or_default()),
            Wanted::Object => {
                let properties = schema.get("properties");
                let field = |name: &str| Some((name.to_owned(), self.made_up(properties?.get(name)?)));
                Value::Object(required(schema).filter_map(field).collect())
            }
        }
    }

    /// A value of any type, as it is.
    fn anything(&mut self, node: &Node, place: Place) -> Value {
        match &node.content {
            Content::Scalar(scalar) => {
                self.warn_of_old_bool(scalar, place);
                if matches!(scalar, Scalar::NoNumber(_)) {
                    self.error(place, "JSON has no such number", Some("put it in quotes".to_owned()));
                }
                scalar.to_json()
            }
            Content::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    out.push(self.anything(item, item.place));
                    self.path.pop();
                }
                Value::Array(out)
            }
            Content::Object(fields) => {
                let mut out = Map::new();
                for (key, field) in fields {
                    self.path.push(Step::Key(key.clone()));
                    out.insert(key.clone(), self.anything(&field.value, field.place()));
                    self.path.pop();
                }
                Value::Object(out)
            }
        }
    }

    fn warn_of_old_bool(&mut self, scalar: &Scalar, place: Place) {
        if let (Some(value), Some(text)) = (scalar.as_old_bool(), scalar.as_str())
            && self.found.len() < limits::MANIFEST_PROBLEMS
        {
            let message = format!("Kubernetes reads `{text}` as the boolean {value}");
            let problem = Problem::warning(FieldPath::new(self.path.clone()), message);
            self.found.push((place, problem.hint("put it in quotes")));
        }
    }
}

/// What a schema asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Anything,
    Object,
    List,
    String,
    Boolean,
    Integer,
    Number,
    /// A string that may be written as a number.
    Quantity,
    IntOrString,
}

impl Wanted {
    fn of(schema: &Value) -> Self {
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return Self::IntOrString;
        }
        let is = |name: &str| match schema.get("type") {
            Some(Value::String(only)) => only == name,
            Some(Value::Array(several)) => several.iter().any(|one| one == name),
            _ => false,
        };
        if is("string") {
            let quantity = schema.get("format").and_then(Value::as_str) == Some("quantity");
            return if quantity { Self::Quantity } else { Self::String };
        }
        let types = [("object", Self::Object), ("array", Self::List), ("boolean", Self::Boolean)];
        let numbers = [("integer", Self::Integer), ("number", Self::Number)];
        types.into_iter().chain(numbers).find(|(name, _)| is(name)).map_or(Self::Anything, |(_, wanted)| wanted)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Anything => "a value",
            Self::Object => "an object",
            Self::List => "a list",
            Self::String => "a string",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Quantity => "a size such as `64Mi`",
            Self::IntOrString => "an integer or a string",
        }
    }
}

/// Why a scalar is not taken.
enum Refused {
    /// It is of another type, which is still to be said.
    Type,
    /// Its value, which has been said.
    Value,
}

/// The names of the fields that an object must have.
fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The least and the greatest integer that a schema allows.
fn range(schema: &Value) -> (i128, i128) {
    let (low, high) = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => (i128::from(i32::MIN), i128::from(i32::MAX)),
        Some("uint8") => (0, i128::from(u8::MAX)),
        Some("uint16") => (0, i128::from(u16::MAX)),
        Some("uint32") => (0, i128::from(u32::MAX)),
        Some("uint" | "uint64") => (0, i128::from(u64::MAX)),
        _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    let limit = |name| schema.get(name).and_then(Value::as_i64).map(i128::from);
    (limit("minimum").map_or(low, |least| least.max(low)), limit("maximum").map_or(high, |most| most.min(high)))
}

/// The one alternative beside null, where there is just one.
fn only_variant(schema: &Value) -> Option<&Value> {
    let mut other = variants(schema)?.iter().filter(|schema| !is_null(schema));
    other.next().filter(|_| other.next().is_none())
}

/// The alternatives of a schema that is nothing else.
fn variants(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array)
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null") || schema.get("const").is_some_and(Value::is_null)
}

/// The values that are allowed, where they are few: those of `enum` and of `const`, in alternatives as well.
fn choices<'a>(schema: &'a Value, schemas: &'a Schemas) -> Vec<&'a Value> {
    let schema = schemas.resolve(schema);
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let below = variants(schema).into_iter().flatten().flat_map(|schema| choices(schema, schemas));
    listed.chain(schema.get("const")).filter(|value| !value.is_null()).chain(below).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The likely fix for a value of the wrong type.
fn mistaken(wanted: Wanted, node: &Node, schema: &Value) -> Option<String> {
    let scalar = match &node.content {
        Content::Scalar(scalar) => Some(scalar),
        _ => None,
    };
    let format = schema.get("format").and_then(Value::as_str);
    let hint = match (wanted, scalar) {
        (Wanted::String, Some(Scalar::Number(number, _))) if format == Some("duration") => {
            return Some(format!("write `{number}s` for seconds"));
        }
        (_, Some(Scalar::Null)) if wanted == Wanted::Object => "write `{}` for an empty one",
        (_, Some(Scalar::Null)) => "write a value, or leave the field out",
        (Wanted::String, Some(_)) => "put it in quotes",
        (Wanted::Boolean, Some(Scalar::String { text, plain: false }))
            if matches!(Scalar::plain(text), Scalar::Bool(_)) =>
        {
            "take the quotes away"
        }
        (Wanted::Integer, Some(Scalar::String { text, plain: false }))
            if matches!(Scalar::plain(text), Scalar::Number(..)) =>
        {
            "take the quotes away"
        }
        (Wanted::Boolean, _) => "write `true` or `false`",
        (Wanted::List, _) => "write it as a list, each item after `- `",
        (Wanted::Object, _) => "write its fields as `name: value`, indented below it",
        _ => return None,
    };
    Some(hint.to_owned())
}
