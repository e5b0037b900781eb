//! A Function of the version before, as OpenFunction's users have it.

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, command, json};
use evoke_tests::manifests::{objects, source, trigger};

/// What only a cluster uses is there as well, as it is in such manifests.
const MANIFEST: &str = "
apiVersion: core.openfunction.io/v1beta1
kind: Function
metadata: {name: greet}
spec:
  version: v1.0.0
  image: example/greet:v1
  port: 8081
  serving:
    runtime: knative
    params: {GREETING: hello, PLACE: '$(POD_NAMESPACE)/$(POD_NAME)'}
    timeout: 1m
    template:
      containers:
        - name: function
          command: [python3, -u]
          args: [greet.py, $(GREETING)]
          workingDir: greet
          env: [{name: NAME, value: world}]
";

const PROGRAM: &str = r#"
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Greet(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        environment = [os.environ[name] for name in ("GREETING", "NAME", "PLACE")]
        print("greets", self.headers["ce-id"], sys.argv[1], *environment)
        self.send_response(204)
        self.end_headers()

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Greet).serve_forever()
"#;

/// Of what the later version has elsewhere, something of each kind.
const MOVED: &str = "\
apiVersion: core.openfunction.io/v1beta1
kind: Function
metadata:
  name: moved
  annotations:
    plugins: '{order: [a]}'
    plugins.tracing: '{enabled: true}'
spec:
  image: example/moved:v1
  port: 8081
  route:
    hostnames: [f.example.com]
  serving:
    runtime: knative
    triggers:
      - type: cron
        metadata: {}
    scaleOptions:
      keda:
        scaledObject:
          minReplicaCount: 3
          maxReplicaCount: 2
";

pub(crate) async fn what_is_said_of_it_names_what_it_says() -> Verdict {
    let home = Home::with(MOVED);
    let args = ["validate".into(), home.manifests().into_os_string(), "-o".into(), "json".into()];
    let (code, text) = command(args).await;
    assert_eq!(code, Some(1), "{text}");
    let found = json(&text);
    let mut said: Vec<_> = found["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|about| {
            let number = |name: &str| about[name].as_u64().unwrap();
            (about["path"].as_str().unwrap(), number("line"), number("column"), about["severity"].as_str().unwrap())
        })
        .collect();
    said.sort_unstable();
    let expected: [(&str, u64, u64, &str); 8] = [
        ("metadata.annotations.plugins", 6, 14, "warning"),
        (r#"metadata.annotations["plugins.tracing"]"#, 7, 22, "warning"),
        ("spec.port", 10, 9, "warning"),
        ("spec.route", 12, 5, "warning"),
        ("spec.serving.scaleOptions", 19, 7, "warning"),
        ("spec.serving.scaleOptions.keda.scaledObject", 21, 11, "warning"),
        ("spec.serving.scaleOptions.keda.scaledObject.minReplicaCount", 21, 28, "error"),
        // A template is missing altogether.
        ("spec.serving.template.containers", 14, 5, "warning"),
    ];
    assert_eq!(said, expected, "{found:#}");
    Ok(())
}

pub(crate) async fn a_function_of_the_version_before_runs_as_it_says() -> Verdict {
    let spec = "inputs: {it: {eventSource: web, event: in}}\n\
                subscribers: [{name: f, condition: it, sink: {ref: {kind: Function, name: greet}}}]";
    let parts = [source("web", "webhook: {in: {}}"), MANIFEST.trim_start().to_owned(), trigger("t", spec)];
    let home = Home::with(objects(&parts));
    home.write("greet/greet.py", PROGRAM);
    let mut evoke = home.run().await;
    let headers = [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/s"), ("ce-type", "t")];
    assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
    let line = evoke.log().wait_for(&["greets 7 hello hello world default/greet"], SOON).await;
    let (front, _) = line.split_once("greets").unwrap();
    assert!(front.contains("default/greet"), "its output has its name in front: {line}");
    // What is of no use here is not lost on the way, but named.
    for field in ["port: port 8081 is not used", "version: `version` has no effect without a cluster"] {
        evoke.log().wait_for(&[&format!("warning: spec.{field}")], SOON).await;
    }
    evoke.stop().await;
    Ok(())
}
