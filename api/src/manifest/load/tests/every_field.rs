//! Every field that OpenFunction has, and every one that evoke adds, is read into the types under its own name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::{Loaded, load};
use crate::events::{JoinMode, OnFull, Ordering, StartAt};
use crate::functions::{BuildStrategyKind, HookPolicy, HttpEngine, RestartPolicy, WorkloadType};
use crate::manifest::{Kind, Node, ObjectValue, Schemas, SourceFile, read};
use crate::names::ObjectName;

fn loaded(text: &str) -> Loaded {
    let loaded = load(&Schemas::new(), &[SourceFile::new("manifest.yaml", text)], &[]);
    assert!(loaded.diagnostics.is_empty(), "{:#?}", loaded.diagnostics);
    loaded
}

/// Every scalar of `given` is in `read`: no field was dropped on the way.
fn assert_kept(given: &Value, read: &Value, path: &str) {
    match given {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{path}.{key}");
                match read.get(key) {
                    Some(read) => assert_kept(value, read, &path),
                    // An empty list or object says what its absence says.
                    None => assert!(value.as_array().is_some_and(Vec::is_empty), "{path} is lost"),
                }
            }
        }
        Value::Array(items) => {
            let read = read.as_array().unwrap_or_else(|| panic!("{path} is no list"));
            assert_eq!(items.len(), read.len(), "{path}");
            for (n, (item, read)) in items.iter().zip(read).enumerate() {
                assert_kept(item, read, &format!("{path}[{n}]"));
            }
        }
        Value::Number(number) if read.is_string() => {
            assert_eq!(number.as_f64(), read.as_str().unwrap().parse().ok(), "{path}");
        }
        scalar => assert_eq!(scalar, read, "{path}"),
    }
}

fn check_kept(loaded: &Loaded, text: &str) {
    let documents: Vec<_> = read::documents(text).trees.iter().map(Node::to_json).collect();
    assert_eq!(documents.len(), loaded.objects.len());
    for (given, object) in documents.iter().zip(&loaded.objects) {
        let spec = given.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let read = match &object.value {
            ObjectValue::EventSource(spec) => serde_json::to_value(spec),
            ObjectValue::EventBus(spec) | ObjectValue::ClusterEventBus(spec) => serde_json::to_value(spec),
            ObjectValue::Trigger(spec) => serde_json::to_value(spec),
            ObjectValue::Function(spec) => serde_json::to_value(spec),
            other => panic!("{other:?}"),
        };
        assert_kept(&spec, &read.unwrap(), "spec");
    }
}

#[test]
fn event_source() {
    let text = include_str!("eventsource.yaml");
    let loaded = loaded(text);
    check_kept(&loaded, text);
    let catalog = loaded.catalog();
    let spec = &catalog.event_sources[&ObjectName::new("shop", "everything")];
    let kafka = &spec.kafka["orders"];
    assert_eq!(kafka.start_at, Some(StartAt::Earliest));
    assert_eq!(kafka.sasl_password.as_ref().unwrap().expose(), "p");
    assert!(kafka.auth_required);
    assert_eq!(spec.redis["entries"].redis_db, Some(1));
    assert_eq!(spec.redis["entries"].enable_tls, Some(false));
    assert_eq!(spec.mqtt["temperature"].consumer_id.as_deref(), Some("c"));
    assert_eq!(spec.nats["subject"].queue_group.as_deref(), Some("g"));
    assert_eq!(spec.nats["stream"].start_at, Some(StartAt::Earliest));
    assert_eq!(spec.cron["tick"].data, Some(serde_json::json!({"a": [1, 2.5, true, null]})));
    assert!(!format!("{spec:?}").contains("Secret(p)"), "secrets are not printed");
}

#[test]
fn event_buses() {
    let text = include_str!("eventbus.yaml");
    let loaded = loaded(text);
    check_kept(&loaded, text);
    let catalog = loaded.catalog();
    let bus = &catalog.cluster_event_buses["default"];
    assert_eq!(bus.max_event_bytes.as_deref(), Some("2Mi"));
    let embedded = bus.embedded.as_ref().unwrap();
    assert_eq!((embedded.max_bytes.as_deref(), embedded.on_full), (Some("1073741824"), Some(OnFull::DropOldest)));
    let bus = &catalog.event_buses[&ObjectName::new("default", "jetstream")];
    assert_eq!(bus.max_event_bytes.as_deref(), Some("1e6"), "a size may be a plain number, and keeps its text");
    assert_eq!(bus.jet_stream.as_ref().unwrap().native.as_ref().unwrap().replicas, Some(3));
    let old = catalog.event_buses[&ObjectName::new("default", "old")].nats_streaming.clone().unwrap();
    assert_eq!((old.nats_url.as_str(), old.nats_streaming_cluster_id.as_str()), ("nats://nats.default:4222", "stan"));
    assert!(loaded.find(Kind::ClusterEventBus, &ObjectName::new("", "default")).is_some());
}

#[test]
fn trigger() {
    let text = include_str!("trigger.yaml");
    let loaded = loaded(text);
    check_kept(&loaded, text);
    let spec = &loaded.catalog().triggers[&ObjectName::new("shop", "everything")];
    let first = &spec.subscribers[0];
    let delivery = first.delivery.as_ref().unwrap();
    assert_eq!(delivery.ordering, Some(Ordering::PartitionKey));
    assert_eq!(delivery.rate_limit.as_ref().unwrap().burst, Some(20));
    assert_eq!(first.reply.as_ref().unwrap().topic.as_deref(), Some("answers"));
    assert_eq!(first.sink.as_ref().unwrap().reference.as_ref().unwrap().namespace.as_deref(), Some("ns"));
    assert_eq!(spec.join.unwrap().mode, Some(JoinMode::OpenFunction));
    assert_eq!(spec.inputs["dead"].topic.as_deref(), Some("dead"));
}

#[test]
fn function() {
    let text = include_str!("function-v1beta2.yaml");
    let loaded = loaded(text);
    check_kept(&loaded, text);
    let spec = &loaded.catalog().functions[&ObjectName::new("default", "everything")];
    let build = spec.build.as_ref().unwrap();
    let strategy = build.shipwright.as_ref().unwrap().strategy.as_ref().unwrap();
    assert_eq!(strategy.kind, Some(BuildStrategyKind::BuildStrategy));
    let serving = spec.serving.as_ref().unwrap();
    let http = serving.triggers.as_ref().unwrap().http.as_ref().unwrap();
    assert_eq!((http.port, http.engine), (Some(8080), Some(HttpEngine::Keda)));
    let keda = serving.scale_options.as_ref().unwrap().keda.as_ref().unwrap();
    assert_eq!(keda.scaled_job.as_ref().unwrap().restart_policy, Some(RestartPolicy::OnFailure));
    assert_eq!(serving.workload_type, Some(WorkloadType::StatefulSet));
    let container = spec.container().unwrap();
    assert_eq!(container.command.as_deref().unwrap(), ["python3", "main.py"]);
    assert_eq!(container.working_dir.as_deref(), Some("./function"));
    assert_eq!(container.resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"].0, "0.5");
    let template = serving.template.as_ref().unwrap();
    let config = template.volumes.as_ref().unwrap()[0].config_map.as_ref().unwrap();
    assert_eq!(config.default_mode, Some(0o644), "octal, as Kubernetes reads it");
    assert_eq!(config.items.as_ref().unwrap()[0].mode, Some(0o600));
}

#[test]
fn function_of_the_version_before() {
    let loaded = loaded(include_str!("function-v1beta1.yaml"));
    let functions = loaded.catalog().functions;
    let spec = &functions[&ObjectName::new("default", "everything-before")];
    assert_eq!((spec.version.as_deref(), spec.image.as_deref()), (Some("v1.0.0"), Some("example/f:v1")));
    assert_eq!(spec.image_credentials.as_ref().unwrap().name, "push-secret");
    assert_eq!(spec.workload_runtime.as_deref(), Some("OCIContainer"));
    let build = spec.build.as_ref().unwrap();
    assert_eq!(build.src_repo.bundle_container.as_ref().unwrap().image, "example/bundle");
    assert_eq!((build.timeout.as_deref(), build.builder_max_age.as_deref()), (Some("10m"), Some("48h")));
    let shipwright = build.shipwright.as_ref().unwrap();
    let params: Vec<_> = shipwright.params.iter().map(|p| (p.name.as_str(), p.value.as_deref().unwrap())).collect();
    assert_eq!((params, shipwright.timeout.as_deref()), (vec![("one", "x"), ("two", "z")], Some("5m")));
    let serving = spec.serving.as_ref().unwrap();
    let http = serving.triggers.as_ref().unwrap().http.as_ref().unwrap();
    assert_eq!(http.port, Some(8081));
    assert_eq!(http.route.as_ref().unwrap().hostnames, ["f.example.com"]);
    let hooks = serving.hooks.as_ref().unwrap();
    assert_eq!((hooks.pre.join(","), hooks.post.join(",")), ("a,b".to_owned(), "c".to_owned()));
    assert_eq!(hooks.policy, Some(HookPolicy::Override));
    assert_eq!(serving.tracing.as_ref().unwrap().provider.oap_server.as_deref(), Some("localhost:11800"));
    let outputs: Vec<_> = serving.outputs.iter().map(|output| output.dapr.clone().unwrap()).collect();
    assert_eq!((outputs[0].kind.as_deref(), outputs[0].output_name.as_deref()), (Some("bindings.kafka"), Some("out")));
    assert_eq!((outputs[1].name.as_str(), outputs[1].kind.as_deref()), ("elsewhere", None), "none is dropped");
    assert_eq!(serving.states["store"].spec.as_ref().unwrap().kind, "state.redis");
    let scaling = serving.scale_options.as_ref().unwrap();
    assert_eq!((scaling.min_replicas, scaling.max_replicas), (Some(1), Some(5)));
    assert_eq!(scaling.keda.as_ref().unwrap().triggers[0].kind, "kafka");
    assert_eq!(serving.workload_type, Some(WorkloadType::StatefulSet));
    let only = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    assert_eq!((&serving.params, &serving.labels), (&only("A", "b"), &only("team", "blue")));
    assert_eq!((&serving.annotations, serving.timeout.as_deref()), (&only("note", "hello"), Some("5m")));
    assert_eq!(spec.container().unwrap().image_pull_policy.as_deref(), Some("Always"));

    let spec = &functions[&ObjectName::new("default", "jobs-before")];
    let serving = spec.serving.as_ref().unwrap();
    let triggers = serving.triggers.as_ref().unwrap();
    assert!(triggers.http.is_none());
    let input = &triggers.dapr[0];
    assert_eq!((input.name.as_str(), input.input_name.as_deref()), ("target", Some("in")));
    assert_eq!((input.kind.as_deref(), input.topic.as_deref()), (Some("pubsub.kafka"), Some("t")));
    let scaling = serving.scale_options.as_ref().unwrap();
    assert_eq!(scaling.max_replicas, Some(3));
    assert_eq!(scaling.keda.as_ref().unwrap().scaled_job.as_ref().unwrap().polling_interval, Some(7));
    assert_eq!(serving.workload_type, Some(WorkloadType::Job));
}
