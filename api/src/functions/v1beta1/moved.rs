//! Where `v1beta1` has what `v1beta2` has in another place, so that people are told of what they wrote.

use crate::problem::{FieldPath, Step};

/// A place in `v1beta2`, and the places in `v1beta1`, of which the first that is there is the one that counts.
const MOVED: [(&str, &[&str]); 11] = [
    ("spec/serving/triggers/http/port", &["spec/port"]),
    ("spec/serving/triggers/http/route", &["spec/route"]),
    ("spec/serving/triggers/dapr", &["spec/serving/inputs"]),
    ("spec/serving/hooks", &["metadata/annotations/plugins"]),
    ("spec/serving/tracing", &["metadata/annotations/plugins.tracing"]),
    (
        "spec/serving/workloadType",
        &[
            "spec/serving/scaleOptions/keda/scaledJob",
            "spec/serving/scaleOptions/keda/scaledObject/workloadType",
            "spec/serving/scaleOptions/keda/scaledObject",
        ],
    ),
    (
        "spec/serving/scaleOptions/minReplicas",
        &["spec/serving/scaleOptions/keda/scaledObject/minReplicaCount", "spec/serving/scaleOptions/minReplicas"],
    ),
    (
        "spec/serving/scaleOptions/maxReplicas",
        &[
            "spec/serving/scaleOptions/keda/scaledJob/maxReplicaCount",
            "spec/serving/scaleOptions/keda/scaledObject/maxReplicaCount",
            "spec/serving/scaleOptions/maxReplicas",
        ],
    ),
    ("spec/serving/scaleOptions/keda/triggers", &["spec/serving/triggers"]),
    ("spec/serving/scaleOptions", &["spec/serving/scaleOptions", "spec/serving/triggers"]),
    ("spec/build/shipwright/params", &["spec/build/params"]),
];

/// The path under which a manifest has what the Function made of it has at `path`. `is_there` tells which paths the manifest has.
pub(crate) fn written(path: &FieldPath, is_there: impl Fn(&FieldPath) -> bool) -> FieldPath {
    for (now, before) in MOVED {
        let Some(rest) = below(path.steps(), now) else { continue };
        let at = |place: &&str| {
            let keys = place.split('/').map(|key| Step::Key(key.to_owned()));
            FieldPath::new(keys.chain(rest.iter().cloned()).collect())
        };
        let found = before.iter().map(at).find(|place| is_there(place));
        return found.or_else(|| before.first().map(at)).unwrap_or_else(|| path.clone());
    }
    path.clone()
}

/// The steps that follow these keys.
fn below<'a>(steps: &'a [Step], keys: &str) -> Option<&'a [Step]> {
    let mut rest = steps;
    for key in keys.split('/') {
        rest = match rest.split_first()? {
            (Step::Key(name), rest) if name == key => rest,
            _ => return None,
        };
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_is_named_as_it_was_written() {
        let scaling = FieldPath::spec().key("serving").key("scaleOptions");
        let http = FieldPath::spec().key("serving").key("triggers").key("http");
        let object = scaling.key("keda").key("scaledObject");
        for (path, there, expected) in [
            (http.key("port"), vec![], "spec.port"),
            (http.key("route").key("rules").index(1).key("matches"), vec![], "spec.route.rules[1].matches"),
            (FieldPath::spec().key("serving").key("triggers").key("dapr").index(0), vec![], "spec.serving.inputs[0]"),
            (FieldPath::spec().key("serving").key("tracing"), vec![], r#"metadata.annotations["plugins.tracing"]"#),
            (
                scaling.key("minReplicas"),
                vec![object.key("minReplicaCount"), scaling.key("minReplicas")],
                "spec.serving.scaleOptions.keda.scaledObject.minReplicaCount",
            ),
            (scaling.key("minReplicas"), vec![scaling.key("minReplicas")], "spec.serving.scaleOptions.minReplicas"),
            (
                FieldPath::spec().key("serving").key("workloadType"),
                vec![object.clone()],
                "spec.serving.scaleOptions.keda.scaledObject",
            ),
            (scaling.clone(), vec![FieldPath::spec().key("serving").key("triggers")], "spec.serving.triggers"),
            (scaling.clone(), vec![scaling.clone()], "spec.serving.scaleOptions"),
            (scaling.key("keda").key("triggers").index(2), vec![], "spec.serving.triggers[2]"),
            (FieldPath::spec().key("serving").key("timeout"), vec![], "spec.serving.timeout"),
            (FieldPath::spec().key("image"), vec![], "spec.image"),
        ] {
            assert_eq!(written(&path, |place| there.contains(place)).to_string(), expected, "{path}");
        }
    }
}
