use serde_json::json;

use super::*;

struct Secrets;

impl Vault for Secrets {
    fn look_up(&self, namespace: &str, from: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
        let reference = from.secret_key_ref.as_ref().unwrap();
        if reference.name == "known" {
            return Ok(Secret::new(format!("{namespace}'s {}", reference.key)));
        }
        Err(Problem::error(path.clone(), "there is no such secret"))
    }
}

fn planned(spec: Value) -> Planned<FunctionPlan> {
    let spec: FunctionSpec = serde_json::from_value(spec).unwrap();
    plan(&ObjectName::new("ns", "f"), &spec, Path::new("/manifests"), &Secrets)
}

fn with_container(container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("function");
    json!({ "serving": { "template": { "containers": [container] } } })
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_command_its_arguments_variables_and_folder() {
    let planned = planned(json!({
        "image": "registry/f:v1",
        "serving": {
            "params": { "MODE": "fast" },
            "timeout": "2m",
            "template": {
                "terminationGracePeriodSeconds": 3,
                "containers": [{
                    "name": "function",
                    "command": ["python3", "main.py"],
                    "args": ["--port=$(PORT)"],
                    "workingDir": "app",
                    "env": [
                        { "name": "PLAIN", "value": "x" },
                        { "name": "EMPTY" },
                        { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "known", "key": "token" } } },
                        { "name": "MAYBE", "valueFrom": { "secretKeyRef": { "name": "no", "key": "k", "optional": true } } },
                    ],
                }],
            },
        },
    }));
    assert_eq!(texts(&planned.problems), Vec::<String>::new());
    let plan = planned.plan.unwrap();
    assert_eq!(plan.command, ["python3", "main.py", "--port=$(PORT)"]);
    assert_eq!(plan.working_dir, Path::new("/manifests/app"));
    assert_eq!((plan.start_timeout, plan.grace), (Duration::from_secs(120), Duration::from_secs(3)));
    let env: Vec<_> = plan.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(env, [("MODE", "fast"), ("PLAIN", "x"), ("EMPTY", ""), ("KEY", "ns's token")]);
    assert!(!format!("{plan:?}").contains("token"));
}

#[test]
fn a_function_of_openfunction_is_right_but_cannot_run_here() {
    let planned = planned(json!({
        "version": "v1.0.0",
        "image": "openfunctiondev/sample:v1",
        "imageCredentials": { "name": "registry" },
        "build": { "builder": "b", "srcRepo": { "url": "https://example.org/r" } },
        "serving": {
            "triggers": { "http": { "port": 8080, "engine": "knative" }, "dapr": [{ "name": "cron", "type": "bindings.cron" }] },
            "template": { "containers": [{ "name": "function", "imagePullPolicy": "Always", "ports": [{ "containerPort": 80 }] }] },
        },
    }));
    assert!(planned.plan.is_none());
    assert!(planned.problems.iter().all(|p| !p.is_error()), "{:?}", planned.problems);
    let texts = texts(&planned.problems);
    for expected in [
        "spec.build: `build` has no effect without a cluster",
        "spec.version: `version` has no effect",
        "spec.imageCredentials: `imageCredentials` has no effect",
        "spec.serving.triggers.http.engine: `engine` has no effect",
        "spec.serving.template.containers[0].imagePullPolicy: `imagePullPolicy` has no effect",
        "spec.serving.template.containers[0].ports: `ports` has no effect",
        "spec.serving.triggers.dapr: Dapr triggers have no effect; have an EventSource read",
        "spec.serving.triggers.http.port: port 8080 is not used: evoke chooses a free port",
    ] {
        assert!(texts.iter().any(|text| text.starts_with(expected)), "{expected}: {texts:?}");
    }
    assert_eq!(planned.not_here.len(), 1);
    let text = planned.not_here[0].to_string();
    assert!(text.starts_with("spec.serving.template.containers: a function without a `command`"), "{text}");
    assert!(text.contains("add `command: [PROGRAM, ARGUMENT...]`"), "{text}");
}

#[test]
fn neither_image_nor_command_is_an_error() {
    for spec in [json!({}), with_container(json!({ "args": ["x"] })), with_container(json!({ "command": [] }))] {
        let planned = planned(spec);
        assert!(planned.plan.is_none());
        let texts = texts(&planned.problems);
        assert!(texts[0].starts_with("spec: the function has neither an `image` nor a `command`; add"), "{texts:?}");
    }
}

#[test]
fn wasm_is_for_later() {
    let mut spec = with_container(json!({ "command": ["x"] }));
    spec["workloadRuntime"] = json!("WasmEdge");
    let planned = planned(spec);
    assert!(planned.plan.is_none());
    assert!(planned.not_here[0].to_string().starts_with("spec.workloadRuntime: only programs"));
}

#[test]
fn what_has_no_effect_is_named() {
    let mut spec = with_container(json!({
        "command": ["x"],
        "resources": { "limits": { "memory": "1Gi" } },
        "env": [
            { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
            { "name": "PORT", "value": "8080" },
            { "name": "MODE", "value": "slow" },
        ],
    }));
    spec["serving"]["params"] = json!({ "MODE": "fast" });
    spec["serving"]["scaleOptions"] = json!({ "maxReplicas": 3 });
    spec["serving"]["template"]["nodeSelector"] = json!({ "a": "b" });
    let others = spec["serving"]["template"]["containers"].as_array_mut().unwrap();
    others.push(json!({ "name": "sidecar" }));
    let planned = planned(spec);
    let texts = texts(&planned.problems);
    let container = "spec.serving.template.containers[0]";
    for expected in [
        "spec.serving.scaleOptions: `scaleOptions` has no effect without a cluster".to_owned(),
        "spec.serving.template.nodeSelector: `nodeSelector` has no effect without a cluster".to_owned(),
        format!("{container}.resources: `resources` has no effect without a cluster"),
        "spec.serving.template.containers[1]: container \"sidecar\" is not started".to_owned(),
        "spec.serving.params.MODE: the container's own variable MODE wins".to_owned(),
        format!("{container}.env[0].valueFrom: NODE is not set: valueFrom.fieldRef has no effect"),
        format!("{container}.env[1]: PORT is set by evoke"),
    ] {
        assert!(texts.iter().any(|text| text.starts_with(&expected)), "{expected}: {texts:#?}");
    }
    assert_eq!(texts.len(), 7, "{texts:#?}");
    let env = planned.plan.unwrap().env;
    assert_eq!(env.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["MODE", "MODE"]);
}

#[test]
fn what_cannot_be_given_to_a_program_is_refused() {
    let planned = planned(with_container(json!({
        "command": ["", "a\0b"],
        "env": [
            { "name": "A=B", "value": "x" },
            { "name": "X", "value": "\0" },
            { "name": "S", "valueFrom": { "secretKeyRef": { "name": "unknown", "key": "k" } } },
        ],
    })));
    assert!(planned.plan.is_none());
    let texts = texts(&planned.problems);
    assert_eq!(texts.len(), 5, "{texts:#?}");
    assert!(texts[0].contains("command[1]: a program cannot be given a NUL"), "{texts:?}");
    assert!(texts[1].contains("command[0]: the program's name is empty"), "{texts:?}");
    assert!(texts[2].contains("env[0]: \"A=B\" is no name"), "{texts:?}");
    assert!(texts[4].contains("env[2].valueFrom: there is no such secret"), "{texts:?}");
}

#[test]
fn times_that_are_none_are_refused() {
    let mut spec = with_container(json!({ "command": ["x"] }));
    spec["serving"]["timeout"] = json!("soon");
    spec["serving"]["template"]["terminationGracePeriodSeconds"] = json!(-1);
    let planned = planned(spec);
    assert!(planned.plan.is_none());
    assert_eq!(planned.problems.iter().filter(|p| p.is_error()).count(), 2, "{:?}", planned.problems);
}
