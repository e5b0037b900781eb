use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::problem::Severity;

mod every_field;

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::new);

fn load_files(files: &[(&str, &str)]) -> Loaded {
    let files: Vec<_> = files.iter().map(|(name, text)| SourceFile::new(*name, *text)).collect();
    load(&SCHEMAS, &files, &[])
}

fn load_text(text: &str) -> Loaded {
    load_files(&[("m.yaml", text)])
}

/// What is wrong with a text, one line each, less the file's name.
fn wrong(text: &str) -> Vec<String> {
    let lines = load_text(text).diagnostics.into_iter().map(|d| d.to_string());
    lines.map(|line| line.strip_prefix("m.yaml:").unwrap_or(&line).to_owned()).collect()
}

fn trigger(spec: &str) -> String {
    let lines: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: events.openfunction.io/v1alpha1\nkind: Trigger\nmetadata:\n  name: t\nspec:\n{lines}")
}

const RIGHT: &str =
    "eventBus: default\ninputs:\n  a: {eventSource: s, event: e}\nsubscribers:\n- condition: a\n  topic: x";

#[test]
fn every_error_of_every_object_is_reported_with_its_place() {
    let text = "\
apiVersion: events.openfunction.io/v1alpha1
kind: EventSource
metadata:
  name: s
spec:
  eventbus: default
  kafka:
    orders:
      broker: a:9092
      startAt: first
      authRequired: \"true\"
      maxMessageBytes: many
      attributes: {n: 1}
  cron:
    tick: every minute
  redis: []
  build: {srcRepo: {}, timeout: 5}
---
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata: {name: f}
spec:
  serving:
    template:
      containers:
      - name: function
        comand: [a]
        ports: [{containerPort: 99999999999}]
";
    let expected = [
        "6:3: spec.eventbus: unknown field; did you mean `eventBus`",
        "9:7: spec.kafka.orders.broker: unknown field; did you mean `brokers`",
        "10:16: spec.kafka.orders.startAt: \"first\" is not allowed here; the values are `earliest`, `latest`",
        "11:21: spec.kafka.orders.authRequired: expected a boolean, found a string; take the quotes away",
        "12:24: spec.kafka.orders.maxMessageBytes: expected an integer, found a string",
        "13:23: spec.kafka.orders.attributes.n: expected a string, found an integer; put it in quotes",
        "15:11: spec.cron.tick: expected an object, found a string; write its fields as `name: value`, indented below it",
        "16:10: spec.redis: expected an object, found a list; write its fields as `name: value`, indented below it",
        "17:33: spec.build.timeout: expected a string, found an integer; write `5s` for seconds",
        "27:9: spec.serving.template.containers[0].comand: unknown field; did you mean `command`",
        "28:33: spec.serving.template.containers[0].ports[0].containerPort: 99999999999 is too large; write 2147483647 or less",
    ];
    assert_eq!(wrong(text), expected);
}

#[test]
fn broken_objects_are_read_as_far_as_they_go() {
    let loaded = load_text(&trigger(
        "eventBuss: other\ninputs:\n  a: 5\n  b: {event: e}\nsubscribers:\n- topic: [x]\n  delivery: {retries: 3, maxInFlight: -1, ordering: x}",
    ));
    assert_eq!(loaded.diagnostics.len(), 7, "{:#?}", loaded.diagnostics);
    let ObjectValue::Trigger(spec) = &loaded.objects[0].value else { panic!("{:?}", loaded.objects) };
    assert_eq!(spec.event_bus, "other", "the misspelt field is taken for what was meant");
    assert_eq!(spec.inputs.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(spec.subscribers[0].delivery.as_ref().unwrap().retry, Some(3));
    assert_eq!((spec.subscribers[0].topic.as_ref(), spec.subscribers[0].condition.as_str()), (None, ""));
}

#[test]
fn planning_says_nothing_of_what_was_made_up() {
    let mut loaded = load_text(&trigger("eventBus: default\ninputs: {a: {topic: x}}\nsubscribers:\n- topic: [x]"));
    let object = loaded.objects[0].clone();
    let subscriber = FieldPath::spec().key("subscribers").index(0);
    let before = loaded.diagnostics.len();
    loaded.report([
        object.diagnose(Problem::error(subscriber.key("condition"), "the condition is empty")),
        object.diagnose(Problem::error(subscriber.key("topic").key("below"), "whatever")),
    ]);
    assert_eq!(loaded.diagnostics.len(), before);
    let found = Problem::error(FieldPath::spec().key("eventBus"), "there is no bus `default`");
    loaded.report([object.diagnose(found.clone()), object.diagnose(Problem { severity: Severity::Warning, ..found })]);
    let lines: Vec<_> = loaded.diagnostics[..2].iter().map(ToString::to_string).collect();
    let expected = [
        "m.yaml:6:13: spec.eventBus: there is no bus `default`",
        "m.yaml:6:13: warning: spec.eventBus: there is no bus `default`",
    ];
    assert_eq!(lines, expected);
    assert_eq!(loaded.diagnostics[0].object.as_deref(), Some("Trigger default/t"));
}

#[test]
fn problems_of_plans_find_their_places() {
    let loaded = load_text(&trigger(RIGHT));
    assert!(loaded.diagnostics.is_empty() && !loaded.has_errors());
    let at = |path: FieldPath| {
        let Place { line, column } = loaded.objects[0].locate(&path);
        (line, column)
    };
    let subscribers = FieldPath::spec().key("subscribers");
    assert_eq!(at(subscribers.index(0).key("condition")), (10, 16));
    assert_eq!(at(subscribers.index(0).key("sink").key("uri")), (10, 5));
    assert_eq!(at(FieldPath::root()), (1, 1));
    assert_eq!(at(FieldPath::root().key("metadata").key("namespace")), (4, 3));
}

#[test]
fn nothing_is_something_that_is_not_there() {
    assert_eq!(wrong(&trigger(&format!("{RIGHT}\nlogLevel:\njoin: ~"))), [""; 0]);
    let text = trigger("eventBus:\ninputs: {a: , b: {}}\nsubscribers: [~]");
    let expected = [
        "6:3: spec.eventBus: this field is required; add `eventBus`",
        "7:12: spec.inputs.a: expected an object, found nothing; write `{}` for an empty one",
        "8:17: spec.subscribers[0]: expected an object, found nothing; write `{}` for an empty one",
    ];
    assert_eq!(wrong(&text), expected);
    assert_eq!(
        wrong("apiVersion: events.openfunction.io/v1alpha1\nkind: Trigger\nmetadata: {name: t}\n"),
        ["1:1: spec: this field is required; add `spec`"]
    );
}

#[test]
fn names_are_those_of_kubernetes() {
    let named = |metadata: &str| wrong(&trigger(RIGHT).replace("\n  name: t", metadata));
    assert_eq!(named("\n  name: a-b.c0"), [""; 0]);
    for name in ["A", "a_b", "-a", "a.", "", "a..b"] {
        let wrong = named(&format!("\n  name: {name:?}"));
        assert!(wrong.len() == 1 && wrong[0].contains("metadata.name: "), "{name}: {wrong:?}");
    }
    assert_eq!(named(" {}"), ["3:11: metadata.name: this field is required; give the object a name"]);
    assert_eq!(named("\n  name: 5"), ["4:9: metadata.name: expected a string, found an integer; put it in quotes"]);
    assert!(named("\n  name: a\n  namespace: a.b")[0].starts_with("5:14: metadata.namespace: \"a.b\" is no namespace"));
    assert_eq!(named("\n  name: a\n  namespace: \"\""), [""; 0]);
    let unset = load_text(&trigger(RIGHT).replace("name: t", "name: t\n  namespace: ''"));
    assert_eq!(unset.objects[0].to_string(), "Trigger default/t");
    assert!(named(" [a]")[0].starts_with("3:11: metadata: expected an object, found a list"));
    assert!(named("\n  name: a\n  label: {}")[0].contains("did you mean `labels`"));
    let cluster =
        "apiVersion: events.openfunction.io/v1alpha1\nkind: ClusterEventBus\nmetadata: {name: b, namespace: ns}\n";
    assert_eq!(
        wrong(cluster),
        [
            "3:32: warning: metadata.namespace: a ClusterEventBus has no namespace, and this one is ignored; take it away"
        ]
    );
    assert_eq!(load_text(cluster).objects[0].to_string(), "ClusterEventBus b");
    assert_eq!(wrong(&cluster.replace("namespace: ns", "namespace: ''")), [""; 0]);
}

#[test]
fn two_of_one_name_are_refused_with_both_places() {
    let other = trigger(RIGHT).replace("name: t", "name: t\n  namespace: default");
    let loaded = load_files(&[("a.yaml", &trigger(RIGHT)), ("b/b.yaml", &format!("---\n{other}"))]);
    let lines: Vec<_> = loaded.diagnostics.iter().map(ToString::to_string).collect();
    let expected = "b/b.yaml:5:9: metadata.name: Trigger default/t is defined twice, first at a.yaml:1:1; \
                    rename or remove one of the two";
    assert_eq!(lines, [expected]);
    assert_eq!(loaded.objects.len(), 1);
    let elsewhere = trigger(RIGHT).replace("name: t", "name: t\n  namespace: ns");
    assert!(load_files(&[("a.yaml", &trigger(RIGHT)), ("b.yaml", &elsewhere)]).diagnostics.is_empty());
}

#[test]
fn what_is_no_manifest_of_ours_is_said_so() {
    assert_eq!(wrong("- a\n")[0], "1:1: expected an object, found a list; begin with `apiVersion` and `kind`");
    assert_eq!(wrong("a: 1\n"), ["1:1: warning: neither `apiVersion` nor `kind`: no manifest, and ignored"]);
    assert_eq!(wrong("kind: Trigger\n"), ["1:1: apiVersion: this field is required; add it as text"]);
    assert_eq!(wrong("apiVersion: v1\nkind: [Secret]\n"), ["2:7: kind: this field is required; add it as text"]);
    let foreign = "apiVersion: apps/v1\nkind: Deployment\nspec: {whatever: 1}\n";
    assert_eq!(
        wrong(foreign),
        ["2:7: warning: kind: \"Deployment\" of \"apps/v1\" is none of evoke's kinds, and ignored"]
    );
    assert_eq!(
        wrong("apiVersion: events.openfunction.io/v1alpha1\nkind: Triger\n"),
        ["2:7: kind: there is no \"Triger\" in \"events.openfunction.io/v1alpha1\"; did you mean `Trigger`"]
    );
    let top = wrong(&trigger(RIGHT).replace("spec:", "data: {}\nspec:"));
    assert_eq!(top, ["5:1: data: unknown field; the fields are `apiVersion`, `kind`, `metadata`, `spec`, `status`"]);
}

#[test]
fn one_broken_file_of_ten_hides_nothing_of_the_others() {
    let right = trigger(RIGHT);
    let mut files: Vec<_> =
        (0..9).map(|n| (format!("{n}.yaml"), right.replace("name: t", &format!("name: t{n}")))).collect();
    files.insert(4, ("broken.yaml".to_owned(), "kind: [Trigger\n".to_owned()));
    files.push((
        "a.json".to_owned(),
        r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringDate":{}}"#.to_owned(),
    ));
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let loaded = load_files(&files);
    let lines: Vec<_> = loaded.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "a.json:1:60: stringDate: unknown field; did you mean `stringData`");
    assert!(lines[1].starts_with("broken.yaml:2:1: broken YAML: "), "{lines:?}");
    assert_eq!(loaded.objects.len(), 10);
}

#[test]
fn lists_are_taken_apart() {
    let item = |name: &str, extra: &str| {
        format!("- apiVersion: v1\n  kind: Secret\n  metadata: {{name: {name}}}\n  stringData: {{a: b{extra}}}\n")
    };
    let text = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: \"\"}}\nitems:\n{}{}",
        item("a", ""),
        item("b", ", c: 1")
    );
    let loaded = load_text(&text);
    assert_eq!(
        loaded.diagnostics[0].to_string(),
        "m.yaml:12:25: stringData.c: expected a string, found an integer; put it in quotes"
    );
    assert_eq!(loaded.diagnostics.len(), 1);
    assert_eq!(
        loaded.objects.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["Secret default/a", "Secret default/b"]
    );
    assert_eq!(wrong("apiVersion: v1\nkind: List\nitems: {}\n"), ["3:8: items: expected a list, found an object"]);
    assert_eq!(wrong("apiVersion: v1\nkind: List\n"), [""; 0]);
}

#[test]
fn secrets_are_decoded_and_never_printed() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: Opaque\ndata: {a: aHVudGVyMg==}\nstringData: {b: hunter3}\n";
    let loaded = load_text(text);
    assert!(loaded.diagnostics.is_empty());
    let data = &loaded.catalog().secrets[&ObjectName::new("default", "s")];
    assert_eq!((data.text("a").unwrap().expose(), data.text("b").unwrap().expose()), ("hunter2", "hunter3"));
    for printed in [format!("{loaded:?}"), format!("{:?}", loaded.objects[0]), format!("{:?}", loaded.catalog())] {
        assert!(!printed.contains("hunter") && !printed.contains("aHVudGVy"), "{printed}");
    }
    let broken = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: hunter2!, b: [hunter3], c: 12345}\ntype: hunter4\nstringData: hunter5\n";
    let lines = wrong(broken);
    assert_eq!(lines[0], "4:11: data.a: this is not base64; encode the value, or give it as text under `stringData`");
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| !line.contains("hunter") && !line.contains("12345")), "{lines:?}");
}

#[test]
fn services_are_known_by_name() {
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: s, namespace: ns}
spec: {ports: [{name: http, port: 80, targetPort: web}], selector: {a: b}}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: s, namespace: ns}
spec: {template: {spec: {containers: [{image: i}]}}}
status: {url: \"http://s.n.example.com\", address: {url: x}, conditions: []}
";
    let loaded = load_text(text);
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    let catalog = loaded.catalog();
    let name = ObjectName::new("ns", "s");
    assert_eq!(catalog.services[&name].ports.as_ref().unwrap()[0].port, 80);
    assert_eq!(catalog.knative_services[&name].url.as_deref(), Some("http://s.n.example.com"));
}

#[test]
fn an_empty_choice_is_one_that_is_not_made() {
    let function = |version: &str, serving: &str| {
        format!(
            "apiVersion: core.openfunction.io/{version}\nkind: Function\nmetadata: {{name: f}}\nspec: {{image: i, serving: {serving}}}\n"
        )
    };
    for text in [
        function("v1beta2", "{workloadType: ''}"),
        function("v1beta1", "{runtime: async, scaleOptions: {keda: {scaledObject: {workloadType: \"\"}}}}"),
        trigger(&format!("{RIGHT}\n  delivery: {{ordering: ''}}\njoin: {{mode: \"\"}}")),
    ] {
        assert_eq!(wrong(&text), [""; 0], "{text}");
    }
    let loaded = load_text(&function("v1beta2", "{workloadType: ''}"));
    let ObjectValue::Function(spec) = &loaded.objects[0].value else { panic!("{:?}", loaded.objects) };
    assert_eq!(spec.serving.as_ref().unwrap().workload_type, None);
    // One that has to be made is missing.
    let lines = wrong(&function("v1beta1", "{runtime: ''}"));
    assert!(lines.len() == 1 && lines[0].contains("spec.serving.runtime: \"\" is not allowed here"), "{lines:?}");
}

#[test]
fn what_old_yaml_calls_a_boolean() {
    let source = |field: &str| {
        wrong(&format!(
            "apiVersion: events.openfunction.io/v1alpha1\nkind: EventSource\nmetadata: {{name: s}}\nspec:\n  redis: {{e: {{redisHost: h, {field}}}}}\n"
        ))
    };
    assert_eq!(source("enableTLS: yes"), [""; 0]);
    assert_eq!(
        source("stream: on"),
        ["5:37: warning: spec.redis.e.stream: Kubernetes reads `on` as the boolean true; put it in quotes"]
    );
    assert_eq!(source("stream: 'on'"), [""; 0]);
    assert_eq!(source("redisDB: 1.0"), ["5:38: spec.redis.e.redisDB: expected an integer, found a number"]);
}

#[test]
fn what_a_conversion_cannot_take_over_is_reported() {
    let text = "\
apiVersion: core.openfunction.io/v1beta1
kind: Function
metadata:
  name: f
  annotations:
    plugins: '{pre: a}'
    plugins.tracing: \"a: [\"
spec:
  image: i
  port: 80
  serving: {runtime: async}
";
    let lines = wrong(text);
    assert_eq!(lines.len(), 3, "{lines:?}");
    let annotations = "warning: metadata.annotations";
    assert!(lines[0].starts_with(&format!("6:14: {annotations}.plugins: `pre` cannot be read: ")), "{lines:?}");
    assert!(lines[1].starts_with(&format!("7:22: {annotations}[\"plugins.tracing\"]: broken YAML: ")), "{lines:?}");
    assert!(
        lines[2].starts_with("10:9: warning: spec.port: a function with `runtime: async` is not reached"),
        "{lines:?}"
    );
}

#[test]
fn annotations_are_taken_as_they_are() {
    let text = "\
apiVersion: core.openfunction.io/v1beta1
kind: Function
metadata:
  name: f
  annotations:
    plugins: '{pre: [a, 1, null], post: null, others: {}}'
    plugins.tracing: '{enabled: true, tags: {a: 1, b: true, c: null}, provider: {exporter: {name: otlp}}}'
spec:
  image: i
  serving: {runtime: knative}
";
    assert_eq!(wrong(text), [""; 0]);
    let loaded = load_text(text);
    let ObjectValue::Function(spec) = &loaded.objects[0].value else { panic!("{:?}", loaded.objects) };
    let serving = spec.serving.as_ref().unwrap();
    let hooks = serving.hooks.as_ref().unwrap();
    assert_eq!((hooks.pre.join(","), hooks.post.len()), ("a,1".to_owned(), 0));
    let tracing = serving.tracing.as_ref().unwrap();
    let tags: Vec<_> = tracing.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!((tracing.enabled, tags.join(",")), (true, "a=1,b=true".to_owned()));
    let provider = &tracing.provider;
    assert_eq!((provider.name.as_str(), provider.exporter.as_ref().unwrap().name.as_str()), ("", "otlp"));
}

#[test]
fn problems_of_the_version_before_are_where_it_has_them() {
    let text = "\
apiVersion: core.openfunction.io/v1beta1
kind: Function
metadata: {name: f}
spec:
  image: i
  port: 80
  serving:
    runtime: knative
    triggers: [{type: cron, metadata: {}}]
";
    let loaded = load_text(text);
    let serving = FieldPath::spec().key("serving");
    for (path, expected) in [
        (serving.key("triggers").key("http").key("port"), "m.yaml:6:9: spec.port: wrong"),
        (serving.key("scaleOptions"), "m.yaml:9:15: spec.serving.triggers: wrong"),
        (serving.key("timeout"), "m.yaml:8:5: spec.serving.timeout: wrong"),
    ] {
        assert_eq!(loaded.objects[0].diagnose(Problem::error(path, "wrong")).to_string(), expected);
    }
}

#[test]
fn base64_may_be_wrapped() {
    let text = "\
apiVersion: v1
kind: Secret
metadata: {name: s}
data:
  block: |
    aHVu
    dGVyMg==
  quoted: \"aHVudGVy\\r\\nMg==\"
";
    assert_eq!(wrong(text), [""; 0]);
    let secrets = load_text(text).catalog().secrets;
    let data = &secrets[&ObjectName::new("default", "s")];
    for key in ["block", "quoted"] {
        assert_eq!(data.bytes(key), Some(b"hunter2".as_slice()), "{key}");
    }
    assert!(wrong(&text.replace("aHVu\n", "a Hu\n"))[0].contains("data.block: this is not base64"));
}

#[test]
fn files_that_are_no_text() {
    let broken = SourceFile::from_bytes("a.yaml", b"a: \xc3\xa9\nb: \xc3\xa9\xff".to_vec()).unwrap_err();
    let expected = "a.yaml:2:5: not UTF-8: the byte at position 11 is not part of a character; save the file as UTF-8";
    assert_eq!(broken.to_string(), expected);
    let large = SourceFile::from_bytes("a.yaml", vec![b' '; limits::MANIFEST_BYTES + 1]).unwrap_err();
    assert_eq!(large.to_string(), "a.yaml: the file has 16777217 bytes, a manifest at most 16777216; split it");
    assert_eq!(SourceFile::from_bytes("a.yaml", b"a: 1".to_vec()).unwrap().text, "a: 1");
}

#[test]
fn diagnostics_as_json() {
    let loaded = load_text(&trigger(&format!("{RIGHT}\nlogLevl: \"1\"")));
    let json = serde_json::to_value(&loaded.diagnostics).unwrap();
    let expected = serde_json::json!([{
        "severity": "error", "file": "m.yaml", "line": 12, "column": 3, "object": "Trigger default/t",
        "path": "spec.logLevl", "message": "unknown field", "hint": "did you mean `logLevel`",
    }]);
    assert_eq!(json, expected);
}

#[test]
fn a_large_object_with_errors_everywhere_takes_no_time() {
    let unknown: String = (0..100_000).map(|n| format!("  field{n}: x\n")).collect();
    let start = std::time::Instant::now();
    let lines = wrong(&format!("{}{unknown}", trigger(RIGHT)));
    assert_eq!(lines.len(), limits::MANIFEST_PROBLEMS + 1);
    assert!(lines.iter().any(|line| line.ends_with("is not shown")));
    let long = trigger(RIGHT).replace("topic: x", &format!("{}: x", "t".repeat(500_000)));
    assert_eq!(wrong(&long).len(), 1);
    let many: String =
        (0..5000).map(|n| format!("---\n{}", trigger(RIGHT).replace("name: t", &format!("name: t{n}")))).collect();
    assert!(wrong(&many).is_empty());
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

/// A manifest that is right, with something changed somewhere.
fn mutated() -> impl Strategy<Value = String> {
    let text = [
        include_str!("tests/eventsource.yaml"),
        include_str!("tests/eventbus.yaml"),
        include_str!("tests/trigger.yaml"),
        include_str!("tests/function-v1beta1.yaml"),
        include_str!("tests/function-v1beta2.yaml"),
    ];
    let piece = "[-a-z:\\[\\]{},&*!|>'\"%@#?~<.0-9 \n\t]{0,8}|: |\n|- |&a |\\*a |\\{\\}|null|1e9|-1|true|\\PC";
    (prop::sample::select(text.to_vec()), any::<prop::sample::Index>(), 0usize..12, piece).prop_map(
        |(text, at, cut, piece)| {
            let chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            let tail = chars.iter().skip(at + cut);
            chars.iter().take(at).copied().chain(piece.chars()).chain(tail.copied()).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_mutation_panics(texts in prop::collection::vec(mutated(), 4)) {
        let files: Vec<_> = texts.iter().map(|text| SourceFile::new("m.yaml", text.clone())).collect();
        let loaded = load(&SCHEMAS, &files, &[]);
        for diagnostic in &loaded.diagnostics {
            prop_assert!(!diagnostic.to_string().ends_with('.'), "{}", diagnostic);
        }
        for object in &loaded.objects {
            prop_assert!(object.locate(&FieldPath::spec()).line > 0);
        }
    }
}
