//! A Function of the version before, as OpenFunction's users have it.

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
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
    for field in ["port 8081 is not used", "`version` has no effect without a cluster"] {
        evoke.log().wait_for(&["warning: spec.", field], SOON).await;
    }
    evoke.stop().await;
    Ok(())
}
