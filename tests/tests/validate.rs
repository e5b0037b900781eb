//! `evoke validate`: every error of every file, with its place and the likely fix.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, binary, checkout, command};
use evoke_tests::manifests::{bare_source, bus, objects, pass, source, trigger};
use evoke_tests::process::Program;
use evoke_tests::{SOON, docs};
use serde_json::Value;

async fn validate(home: &Home, args: &[&str]) -> (Option<i32>, String) {
    let mut all: Vec<OsString> = vec!["validate".into(), home.manifests().into()];
    all.extend(args.iter().map(Into::into));
    command(all).await
}

/// Fails unless some line starts with `file:line:column: ` and goes on with the field's path and every one of `says`.
fn assert_line(text: &str, file: &str, line: usize, column: usize, path: &str, says: &[&str]) {
    let place = format!("{file}:{line}:{column}: ");
    let found = text.lines().find_map(|l| l.split_once(&place).map(|(_, rest)| rest).filter(|r| r.starts_with(path)));
    let found = found.unwrap_or_else(|| panic!("nothing is said of {place}{path} in\n{text}"));
    for part in says {
        assert!(found.contains(part), "{place}{found}\nlacks {part:?}");
    }
}

const BROKEN: &str = "\
apiVersion: events.openfunction.io/v1alpha1
kind: EventSource
metadata:
  name: shop
spec:
  eventBus: default
  kafka:
    orders:
      broker: 127.0.0.1:9092
      authRequired: false
  cron:
    daily:
      schedule: \"0 0 31 2 *\"
---
apiVersion: events.openfunction.io/v1alpha1
kind: EventSource
metadata:
  name: nowhere
spec:
  webhook:
    in: {}
---
apiVersion: events.openfunction.io/v1alpha1
kind: Trigger
metadata:
  name: t
spec:
  eventBus: other
  inputs:
    orders:
      eventSource: shop
      event: orders
    gone:
      eventSource: shop
      event: refunds
  subscribers:
    - condition: orders && payments
      sink:
        uri: ftp://example.com/
    - condition: orders.data.amount >
      topic: x
    - condition: orders
      sink:
        ref:
          kind: Function
          name: missing
      delivery:
        backoffDelay: soon
        retries: 3
";

pub(crate) async fn every_error_has_its_place_and_a_fix() -> Verdict {
    let home = Home::with(BROKEN);
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    let file = "evoke.yaml";
    assert_line(&text, file, 9, 7, "spec.kafka.orders.broker: ", &["unknown field", "did you mean", "brokers"]);
    assert_line(&text, file, 13, 17, "spec.cron.daily.schedule: ", &["never"]);
    assert_line(&text, file, 20, 3, "spec", &["eventBus", "sink"]);
    assert_line(&text, file, 28, 13, "spec.eventBus: ", &["other"]);
    assert_line(&text, file, 35, 14, "spec.inputs.gone.event: ", &["refunds"]);
    assert_line(&text, file, 37, 18, "spec.subscribers[0].condition: ", &["payments"]);
    assert_line(&text, file, 39, 14, "spec.subscribers[0].sink.uri: ", &["ftp"]);
    assert_line(&text, file, 40, 18, "spec.subscribers[1].condition: ", &[]);
    assert_line(&text, file, 46, 17, "spec.subscribers[2].sink.ref.name: ", &["missing"]);
    assert_line(&text, file, 48, 23, "spec.subscribers[2].delivery.backoffDelay: ", &["soon"]);
    assert_line(&text, file, 49, 9, "spec.subscribers[2].delivery.retries: ", &["did you mean", "retry"]);
    for line in text.lines().filter(|line| line.contains("evoke.yaml:")) {
        assert!(!line.ends_with('.'), "{line}");
    }
    Ok(())
}

pub(crate) async fn the_same_as_json() -> Verdict {
    let home = Home::with(BROKEN);
    let (code, text) = validate(&home, &["-o", "json"]).await;
    assert_eq!(code, Some(1), "{text}");
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let diagnostics = found["diagnostics"].as_array().unwrap_or_else(|| panic!("{found}"));
    let daily =
        diagnostics.iter().find(|p| p["path"] == "spec.cron.daily.schedule").unwrap_or_else(|| panic!("{found}"));
    assert_eq!((&daily["line"], &daily["column"], &daily["severity"]), (&13.into(), &17.into(), &"error".into()));
    assert!(daily["file"].as_str().unwrap().ends_with("evoke.yaml"));
    assert!(daily["message"].as_str().unwrap().contains("never"));
    Ok(())
}

pub(crate) async fn one_broken_file_of_ten_hides_nothing_of_the_others() -> Verdict {
    let home = Home::new();
    for n in 0..9 {
        home.write(&format!("sub/good-{n}.yaml"), source(&format!("s{n}"), "webhook: {in: {}}"));
    }
    home.write("broken.yaml", "apiVersion: events.openfunction.io/v1alpha1\nkind: [EventSource\nmetadata: {name: x}\n");
    home.write(
        "wrong.json",
        r#"{"apiVersion": "events.openfunction.io/v1alpha1", "kind": "Event", "metadata": {"name": "x"}}"#,
    );
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1));
    assert!(text.lines().any(|line| line.contains("broken.yaml:")), "{text}");
    assert!(text.lines().any(|line| line.contains("wrong.json:1:") && line.contains("Event")), "{text}");
    assert!(!text.contains("good-"), "{text}");
    let (status, log) = home.evoke().output(SOON).await;
    assert_eq!(status.code(), Some(1), "run refuses what validate refuses");
    assert!(log.count("broken.yaml:") > 0 && log.count("wrong.json:1:") > 0, "{}", log.text());
    home.remove("broken.yaml");
    home.remove("wrong.json");
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    Ok(())
}

pub(crate) async fn a_folder_that_cannot_be_read_hides_nothing_of_the_others() -> Verdict {
    let home = Home::new();
    home.write("closed/good.yaml", source("a", "webhook: {in: {}}"));
    home.write("open/wrong.yaml", source("b", "webhok: {in: {}}"));
    let closed = home.manifests().join("closed");
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    // Root may read everything unless it gives that right up.
    let is_root = rustix::process::geteuid().is_root();
    let wrapper: &[&str] =
        if is_root { &["setpriv", "--bounding-set=-dac_override,-dac_read_search"] } else { &["env"] };
    let program = Program::new("evoke", wrapper[0]).args(&wrapper[1..]).args([binary()]).args(["validate"]);
    let (status, log) = program.args([home.manifests()]).output(SOON).await;
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", log.text());
    log.wait_for(&[&format!("{}: cannot be read: ", closed.display()), "permissions"], SOON).await;
    assert_line(&log.text(), "open/wrong.yaml", 6, 3, "spec.webhok: ", &["did you mean"]);
    Ok(())
}

pub(crate) async fn a_path_is_taken_once_on_the_port_that_is_shared() -> Verdict {
    let home = Home::with(source("web", "webhook: {one: {path: /x}, two: {path: /x, port: 8080}}"));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("takes POST /x, as webhook"), "{text}");
    let (status, log) = home.evoke().listen_at("127.0.0.1:8080").output(SOON).await;
    assert_eq!(status.code(), Some(1), "run refuses what validate refuses");
    assert_eq!(log.count("takes POST /x"), 1, "{}", log.text());
    let (code, text) = validate(&home, &["--listen", "127.0.0.1:9000"]).await;
    assert_eq!(code, Some(0), "{text}");
    Ok(())
}

pub(crate) async fn sources_that_take_from_one_another_are_named() -> Verdict {
    let kafka = "kafka: {k: {brokers: \"k:9092\", authRequired: false, topic: t, consumerGroup: g}}";
    let home = Home::with(objects(&[source("one", kafka), source("two", kafka)]));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let warning = "warning: spec.kafka.k.consumerGroup: kafka \"k\" of EventSource default/two reads \"t\" as the group \"g\", \
                   as kafka \"k\" of EventSource default/one does";
    assert!(text.contains(warning), "{text}");
    let mqtt = "mqtt: {m: {url: \"tcp://m:1883\", topic: a, consumerID: me}}";
    home.write("evoke.yaml", objects(&[source("one", mqtt), source("two", mqtt)]));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let warning = "warning: spec.mqtt.m.consumerID: mqtt \"m\" of EventSource default/two connects as \"default.two.m\": mqtt \"m\" \
                   of EventSource default/one is the client \"me\" of m:1883";
    assert!(text.contains(warning), "{text}");
    Ok(())
}

pub(crate) async fn an_address_that_is_refused_shows_no_password() -> Verdict {
    const SECRET: &str = "s3cret-4417";
    let refused = [
        (
            source("r", &format!("redis: {{in: {{redisHost: \"redis://:{SECRET}@cache:6379\"}}}}")),
            ["spec.redis.in.redisHost: ", "redisPasswordFrom"],
        ),
        (
            source("k", &format!("kafka: {{in: {{brokers: \"u:{SECRET}@k:9092\", authRequired: false}}}}")),
            ["spec.kafka.in.brokers: ", "passwordFrom"],
        ),
        (
            source("m", &format!("mqtt: {{in: {{url: \"http://u:{SECRET}@m\", topic: a}}}}")),
            ["spec.mqtt.in.url: ", "tcp://host:port"],
        ),
        (
            source("n", &format!("nats: {{in: {{url: \"nats://u:{SECRET}@n\", subject: a}}}}")),
            ["spec.nats.in.url: ", "`auth`"],
        ),
        (bus("r", &format!("redis: {{address: \"u:{SECRET}@cache\"}}")), ["spec.redis.address: ", "passwordFrom"]),
        (bus("k", &format!("kafka: {{brokers: \"k1,u:{SECRET}@k2\"}}")), ["spec.kafka.brokers: ", "passwordFrom"]),
        (bus("j", &format!("jetStream: {{url: \"nats://{SECRET}@n\"}}")), ["spec.jetStream.url: ", "`auth`"]),
    ];
    let home = Home::with(objects(&refused.each_ref().map(|(object, _)| object.clone())));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    for (_, [path, way]) in &refused {
        let line = text.lines().find(|line| line.contains(path) && !line.contains("warning: "));
        assert!(line.is_some_and(|line| line.contains(way)), "nothing says {path}{way}:\n{text}");
    }
    let (_, json) = validate(&home, &["-o", "json"]).await;
    let (_, log) = home.evoke().output(SOON).await;
    for shown in [text, json, log.text()] {
        let lines: Vec<&str> = shown.lines().filter(|line| line.contains(SECRET)).collect();
        assert!(lines.is_empty(), "{SECRET} shows in {lines:?}");
    }
    Ok(())
}

pub(crate) async fn two_objects_of_one_name_are_refused() -> Verdict {
    let home = Home::with(source("web", "webhook: {in: {}}"));
    home.write("second.yaml", source("web", "webhook: {other: {}}"));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    let line = text.lines().find(|l| l.contains("second.yaml:")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("evoke.yaml:1") && line.contains("web"), "names the other place: {line}");
    Ok(())
}

pub(crate) async fn what_openfunction_accepts_and_ignores_is_a_warning() -> Verdict {
    let kafka = "kafka: {k: {brokers: \"a:9092\", authRequired: false, scaleOption: {lagThreshold: \"5\"}}}";
    let home = Home::with(objects(&[
        bus(
            "default",
            "topic: given\nnatsStreaming: {natsURL: \"nats://nats:4222\", natsStreamingClusterID: stan, subscriptionType: queue, \
             durableSubscriptionName: ImDurable}",
        ),
        source(
            "s",
            &format!(
                "logLevel: \"2\"\nbuild: {{srcRepo: {{url: \"https://example.org/r\"}}}}\n{kafka}\nmqtt: {{m: {{url: \"tcp://mqtt:1883\", topic: a, retain: true}}}}"
            ),
        ),
        pass("t", "s", "k", "http://example.com/"),
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: foreign}\nspec: {replicas: 1}\n".to_owned(),
    ]));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let ignored = ["spec.logLevel", "spec.build", "spec.topic"];
    for part in ["natsStreaming", "mqtt.m.retain", "Deployment", "scaleOption"].into_iter().chain(ignored) {
        assert!(
            text.lines().any(|line| line.contains("warning") && line.contains(part)),
            "no warning of {part}:\n{text}"
        );
    }
    Ok(())
}

pub(crate) async fn what_cannot_run_here_is_a_warning_and_an_error_of_run() -> Verdict {
    let image_alone = "apiVersion: core.openfunction.io/v1beta2\nkind: Function\nmetadata: {name: f}\n\
                       spec: {image: \"registry.example.com/f:v1\", serving: {}}\n";
    let home = Home::with(objects(&[
        bus("default", "jetStream: {native: {replicas: 3}}"),
        source("web", "webhook: {in: {}}"),
        image_alone.to_owned(),
    ]));
    // What is said, and the ways out that it names.
    let said = [
        ("spec.jetStream.native: servers that evoke runs itself are for clusters", ["in `url`", "--bus embedded"]),
        ("spec.serving.template.containers: a function without a `command` cannot run", ["add `command: [", "$PORT"]),
    ];
    let assert_said = |text: &str, severity: &str| {
        for (what, ways) in said {
            let mut lines = text.lines().filter(|line| line.contains("evoke.yaml:"));
            let line = lines.find(|line| line.contains(&format!(": {severity}{what}")));
            let line = line.unwrap_or_else(|| panic!("nothing says {severity}{what:?}:\n{text}"));
            assert!(ways.iter().all(|way| line.contains(way)), "{line}\nlacks one of {ways:?}");
        }
    };
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    assert_said(&text, "warning: ");
    assert!(text.contains("0 errors, 2 warnings"), "{text}");

    let (status, log) = home.evoke().output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert_said(&log.text(), "");
    assert_eq!(log.count("warning: "), 0, "{}", log.text());

    // The ways out lead out.
    let container = "Function/f:serving.template.containers=[{name: function, command: [python3, f.py]}]";
    let (code, text) = validate(&home, &["--bus", "embedded", "--set", container]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("0 errors, 0 warnings"), "{text}");
    Ok(())
}

pub(crate) async fn partial_takes_references_for_granted() -> Verdict {
    let home = Home::with(pass("t", "elsewhere", "orders", "http://example.com/"));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("elsewhere"), "{text}");
    let (code, text) = validate(&home, &["--partial"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning") && text.contains("elsewhere"), "{text}");
    Ok(())
}

pub(crate) async fn set_and_bus_are_checked_too() -> Verdict {
    let home =
        Home::with(objects(&[bus("default", "kafka: {brokers: \"b:9092\"}"), source("web", "webhook: {in: {}}")]));
    let (code, text) = validate(&home, &["--bus", "embedded", "--set", "EventSource/web:webhook.in.path=/x"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("cannot run"), "{text}");
    let (code, text) = validate(&home, &["--set", "EventSource/web:webhook.in.paht=/x"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("paht"), "{text}");
    let (code, text) = validate(&home, &["--set", "EventSource/nobody:webhook.in.path=/x"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("nobody"), "{text}");
    Ok(())
}

pub(crate) async fn no_manifest_kills_it() -> Verdict {
    let deep = "(".repeat(200_000);
    let sum = vec!["1"; 3000].join("+");
    let conditions =
        [deep, sum, format!("it{}", ".a".repeat(2000)), "it && \u{0}".to_owned(), "''''".to_owned(), String::new()];
    for condition in &conditions {
        let text = serde_json::to_string(condition).unwrap();
        let spec =
            format!("inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers: [{{condition: {text}, topic: x}}]");
        let home = Home::with(objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)]));
        let (code, text) = validate(&home, &[]).await;
        assert_eq!(code, Some(1), "{}: {text}", &condition[..condition.len().min(20)]);
        assert!(text.contains("spec.subscribers[0].condition"), "{text}");
    }
    // A text of a few hundred bytes whose aliases stand for millions of items.
    let many: String = ('a'..'j')
        .zip('b'..='j')
        .map(|(before, name)| format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 8].join(", ")))
        .collect();
    let many = format!("a: &a [x, x, x, x, x, x, x, x]\n{many}");
    let nested = "[".repeat(100_000);
    for text in [many, nested, "\u{feff}\u{0}".to_owned(), "a: 1\na: 2\n".to_owned(), "- 1\n".to_owned()] {
        let home = Home::with(&text);
        let (code, said) = validate(&home, &[]).await;
        assert_eq!(code, Some(1), "{}: {said}", text.chars().take(20).collect::<String>());
    }
    let home = Home::with("");
    fs::write(home.manifests().join("latin.yaml"), b"a: \xff\xfe").unwrap();
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("latin.yaml"), "{text}");
    Ok(())
}

pub(crate) async fn a_source_with_neither_bus_nor_sink_is_refused() -> Verdict {
    let home = Home::with(bare_source("web", "webhook: {in: {}}"));
    let (code, text) = validate(&home, &[]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("eventBus") && text.contains("sink"), "{text}");
    Ok(())
}

pub(crate) async fn every_manifest_in_the_docs_is_right() -> Verdict {
    let mut pages: Vec<PathBuf> = fs::read_dir(checkout().join("docs")).unwrap().map(|e| e.unwrap().path()).collect();
    pages.extend(["README.md", "ARCHITECTURE.md"].map(|page| checkout().join(page)));
    let mut checked = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md") && page.is_file()) {
        // Pages show the same object in several ways, so each block stands for itself.
        for (n, block) in docs::manifests(page).iter().enumerate() {
            let home = Home::with(block);
            let (code, text) = validate(&home, &["--partial"]).await;
            assert_eq!(code, Some(0), "{} block {}:\n{block}\n{text}", page.display(), n + 1);
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} manifests in the docs");
    Ok(())
}

pub(crate) async fn every_example_is_right() -> Verdict {
    let mut checked = 0;
    for example in fs::read_dir(checkout().join("examples")).unwrap().map(|entry| entry.unwrap().path()) {
        if example.is_dir() {
            let (code, text) = command(["validate".as_ref(), example.as_os_str()]).await;
            assert_eq!(code, Some(0), "{}: {text}", example.display());
            checked += 1;
        }
    }
    assert!(checked > 0);
    Ok(())
}

/// Whether the checkout has a test of this name: a module of end-to-end tests (`bus_*` for all that begin so), a crate, or a function or a
/// module in one.
fn is_a_test(name: &str, sources: &[String]) -> bool {
    let modules: Vec<_> =
        fs::read_dir(checkout().join("tests/tests")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let is_module =
        |module: &OsString| match (module.to_str().and_then(|m| m.strip_suffix(".rs")), name.strip_suffix('*')) {
            (Some(module), Some(front)) => module.starts_with(front),
            (Some(module), None) => module == name,
            (None, _) => false,
        };
    let declared = [format!("fn {name}("), format!("fn {name}<"), format!("mod {name};")];
    modules.iter().any(is_module)
        || checkout().join(name).join("Cargo.toml").is_file()
        || sources.iter().any(|text| declared.iter().any(|start| text.contains(start)))
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

pub(crate) async fn every_test_that_the_guarantees_name_is_there() -> Verdict {
    let mut found = Vec::new();
    for folder in ["tests/tests", "eventbus/src", "delivery/src"] {
        sources(&checkout().join(folder), &mut found);
    }
    let text = fs::read_to_string(checkout().join("docs/guarantees.md")).unwrap();
    let mut checked = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let shown = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap();
        for name in shown.split('`').skip(1).step_by(2) {
            assert!(is_a_test(name, &found), "{name} is no test: {row}");
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked} tests are named");
    Ok(())
}
