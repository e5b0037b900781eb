use evoke_api::credentials::{Secret, ValueFrom, Vault};
use evoke_api::events::Attributes;
use evoke_api::names::ObjectName;
use evoke_api::problem::{FieldPath, Problem};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::*;
use crate::source::Place;

/// Holds `hunter2` under one name.
struct OneSecret;

impl Vault for OneSecret {
    fn look_up(&self, _: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
        match from.env.as_deref() {
            Some("KNOWN") => Ok(Secret::new("hunter2")),
            _ => Err(Problem::error(path.clone(), "there is no such secret")),
        }
    }
}

/// What the spec of an event comes to, and what is wrong with it.
pub(super) fn planned<S, P>(
    kind: &str,
    (event_source, event): (&str, &str),
    spec: &S,
    plan: impl FnOnce(&Place<'_>, &S, &mut Vec<Problem>) -> Option<P>,
) -> (Option<P>, Vec<Problem>) {
    let event_source = ObjectName::new("ns", event_source);
    let origin = Origin { event_source, event: event.into(), attributes: Attributes::default() };
    let path = FieldPath::spec().key(kind).key(event);
    let mut problems = Vec::new();
    let plan = plan(&Place { origin: &origin, path: &path, vault: &OneSecret }, spec, &mut problems);
    (plan, problems)
}

/// The same of what is written, and of these fields where it does not say.
pub(super) fn planned_text<S: DeserializeOwned, P>(
    kind: &str,
    name: (&str, &str),
    (written, rest): (Value, Value),
    plan: impl FnOnce(&Place<'_>, &S, &mut Vec<Problem>) -> Option<P>,
) -> (Option<P>, Vec<String>) {
    let mut spec: Map<String, Value> = serde_json::from_value(rest).unwrap();
    spec.extend(serde_json::from_value::<Map<String, Value>>(written).unwrap());
    let (plan, problems) = planned(kind, name, &serde_json::from_value(spec.into()).unwrap(), plan);
    (plan, problems.iter().map(ToString::to_string).collect())
}

/// What is planned with nothing wrong.
pub(super) fn sound<P>((plan, problems): (Option<P>, Vec<String>)) -> P {
    assert_eq!(problems, [""; 0]);
    plan.unwrap()
}
