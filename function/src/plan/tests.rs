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
    let problems = planned(json!({ "image": "", "serving": {} })).problems;
    assert!(texts(&problems)[0].starts_with("spec.image: the function has neither an `image` nor a `command`; add"));
    let mut spec = with_container(json!({ "command": ["x"] }));
    spec["image"] = json!("");
    assert!(planned(spec).plan.is_some(), "an image that is empty is not set");
}

#[test]
fn what_openfunction_refuses_is_refused() {
    let source = json!({ "url": "https://example.org/r" });
    let build = |more: Value| {
        let mut build = json!({ "builder": "b", "srcRepo": source });
        build.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "build": build })
    };
    let scaled = |options: Value| json!({ "serving": { "scaleOptions": options } });
    for (spec, expected) in [
        (json!({}), "spec: there is neither `build` nor `serving`, so that nothing is to be done; add `serving: {}`"),
        (build(json!({ "srcRepo": {} })), "spec.build.srcRepo: no source is named to build from; add the `url`"),
        (
            build(json!({ "srcRepo": { "url": "", "bundleContainer": { "image": "" } } })),
            "spec.build.srcRepo: no source is named to build from",
        ),
        (build(json!({ "builder": null })), "spec.build: nothing says how to build; add `builder`"),
        (build(json!({ "timeout": "soon" })), "spec.build.timeout: \"soon\" is no duration"),
        (build(json!({ "builderMaxAge": "-1h" })), "spec.build.builderMaxAge: \"-1h\" is negative"),
        (build(json!({ "shipwright": { "timeout": "5" } })), "spec.build.shipwright.timeout: \"5\" has no unit"),
        (
            build(json!({ "successfulBuildsHistoryLimit": -1 })),
            "spec.build.successfulBuildsHistoryLimit: -1 is too small; write 0 or more",
        ),
        (build(json!({ "failedBuildsHistoryLimit": -2 })), "spec.build.failedBuildsHistoryLimit: -2 is too small"),
        (scaled(json!({ "minReplicas": -1 })), "spec.serving.scaleOptions.minReplicas: -1 is too small"),
        (
            scaled(json!({ "minReplicas": 3, "maxReplicas": 2 })),
            "spec.serving.scaleOptions.minReplicas: 3 is more than `maxReplicas`, which is 2; raise `maxReplicas`",
        ),
        (
            scaled(json!({ "minReplicas": 11 })),
            "spec.serving.scaleOptions.minReplicas: 11 is more than `maxReplicas`, which is 10 by default",
        ),
        (
            scaled(json!({ "keda": { "scaledObject": {}, "scaledJob": {} } })),
            "spec.serving.scaleOptions.keda.scaledJob: a function is scaled in one way, and `scaledObject` is set as well",
        ),
        (
            scaled(json!({ "keda": { "scaledJob": { "failedJobsHistoryLimit": -1 } } })),
            "spec.serving.scaleOptions.keda.scaledJob.failedJobsHistoryLimit: -1 is too small",
        ),
        (json!({ "serving": { "timeout": "soon" } }), "spec.serving.timeout: \"soon\" is no duration"),
    ] {
        let mut spec = spec;
        spec["image"] = json!("registry/f:v1");
        let planned = planned(spec);
        assert!(planned.plan.is_none());
        let errors: Vec<_> = planned.problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
        assert!(errors.len() == 1 && errors[0].starts_with(expected), "{expected}: {errors:?}");
    }
    for spec in [
        build(json!({ "builder": null, "dockerfile": "Dockerfile", "timeout": "0s", "failedBuildsHistoryLimit": 0 })),
        build(json!({ "srcRepo": { "bundleContainer": { "image": "registry/source" } } })),
        scaled(json!({ "minReplicas": 0, "maxReplicas": 0, "keda": { "scaledJob": {} } })),
    ] {
        let mut spec = spec;
        spec["image"] = json!("registry/f:v1");
        let problems = planned(spec).problems;
        assert!(!problems.iter().any(Problem::is_error), "{problems:?}");
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
fn a_runtime_that_is_not_known_is_said_and_a_program() {
    let planned = |runtime: &str| {
        let mut spec = with_container(json!({ "command": ["x"] }));
        spec["workloadRuntime"] = json!(runtime);
        let Planned { plan, problems, not_here } = planned(spec);
        (plan.is_some(), texts(&problems).join(" "), not_here.len())
    };
    for runtime in ["", "OCIContainer", "ocicontainer"] {
        assert_eq!(planned(runtime), (true, String::new(), 0), "{runtime}");
    }
    assert_eq!(planned("wasmedge"), (false, String::new(), 1));
    for (runtime, meant) in [("OCI", "OCIContainer"), ("Wasm", "WasmEdge")] {
        let warning = format!(
            "spec.workloadRuntime: {runtime:?} is no runtime that is known, and taken for OCIContainer; did you mean `{meant}`"
        );
        assert_eq!(planned(runtime), (true, warning, 0));
    }
}

#[test]
fn no_time_to_start_in_is_the_usual_time() {
    let mut spec = with_container(json!({ "command": ["x"] }));
    spec["serving"]["timeout"] = json!("0s");
    let planned = planned(spec);
    assert_eq!((planned.plan.unwrap().start_timeout, planned.problems.len()), (START_TIMEOUT, 0));
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
