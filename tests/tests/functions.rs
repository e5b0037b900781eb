//! Functions as child processes: how they start, fail, come back and end.

use std::path::Path;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::manifests::{objects, python, source, trigger};
use evoke_tests::process::Signal;
use evoke_tests::{SOON, eventually};

/// What every function here starts with: it says its process id and the one of a child of its own, takes events, and hands on to
/// `on_event` what to do with them.
pub(crate) const PRELUDE: &str = r#"
import os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

helper = subprocess.Popen(["sleep", "1000"])
print("pids", os.getpid(), helper.pid)

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        on_event(self, body)
    def answer(self, status):
        self.send_response(status); self.send_header("content-length", "0"); self.end_headers()

def serve():
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A webhook source, and the function `f` as its only subscriber.
fn home(program: &str, subscriber: &str) -> Home {
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers: [{{name: f, condition: it, sink: {{ref: {{kind: Function, name: f}}}}{subscriber}}}]"
    );
    let home = Home::with(objects(&[source("web", "webhook: {in: {}}"), python("f", "f.py"), trigger("t", &spec)]));
    home.write("f.py", format!("{PRELUDE}\n{program}"));
    home
}

pub(crate) async fn send(evoke: &Evoke, id: &str) {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    assert_eq!(evoke.post("/default/web/in", &headers, "x").await.status, 202);
}

/// The process ids in the line that the function `f` wrote on one of its starts, from 1.
async fn pids(evoke: &Evoke, start: usize) -> Vec<String> {
    pids_of(evoke, "f", start).await
}

/// The same of any function.
pub(crate) async fn pids_of(evoke: &Evoke, function: &str, start: usize) -> Vec<String> {
    let mark = format!("default/{function} | pids ");
    let line = eventually(&format!("start {start} of {function}"), SOON, async || {
        let log = evoke.log().text();
        log.lines().filter(|line| line.contains(&mark)).nth(start - 1).map(str::to_owned)
    })
    .await;
    line.rsplit("pids ").next().unwrap().split_whitespace().map(str::to_owned).collect()
}

pub(crate) async fn gone(pids: &[String]) {
    let is_gone = |pid: &String| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
        // A zombie is gone for everybody but whoever ought to wait for it.
        stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    };
    eventually(&format!("{pids:?} are gone"), SOON, async || pids.iter().all(is_gone).then_some(())).await;
}

pub(crate) async fn a_function_gets_its_environment_and_its_output_has_its_name() -> Verdict {
    let manifest = "
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata: {name: f}
spec:
  serving:
    params: {GREETING: hello}
    template:
      containers:
        - name: function
          command: [sh, -c]
          args: ['exec python3 -u $(PROGRAM)']
          workingDir: sub
          env: [{name: PROGRAM, value: f.py}, {name: NAME, value: world}]
";
    let program = "def on_event(h, body): print('event', os.environ['GREETING'], os.environ['NAME'], os.getcwd()); h.answer(200)\nserve()";
    let home = home(program, "");
    home.write("sub/f.py", format!("{PRELUDE}\n{program}"));
    let text = std::fs::read_to_string(home.manifests().join("evoke.yaml")).unwrap();
    let mut parts: Vec<&str> = text.split("---\n").collect();
    parts[1] = manifest;
    home.write("evoke.yaml", parts.join("---\n"));
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    let line = evoke.log().wait_for(&["event hello world", "manifests/sub"], SOON).await;
    let (front, _) = line.split_once("event hello").unwrap();
    assert!(front.contains("default/f"), "its output has its name in front: {line}");
    let pids = pids(&evoke, 1).await;
    evoke.stop().await;
    gone(&pids).await;
    Ok(())
}

pub(crate) async fn a_function_that_exits_at_once_is_started_again_and_named() -> Verdict {
    let home = home("sys.exit(3)", "");
    let mut evoke = home.evoke().start().await;
    let text = evoke.waits_for(&["function default/f", "3"], SOON).await;
    assert!(text.contains("function default/f"), "{text}");
    pids(&evoke, 3).await;
    let starts = evoke.log().count("pids ");
    assert!(starts < 20, "{starts} starts without back-off");
    // Events wait for it, on disk.
    send(&evoke, "early").await;
    home.write(
        "f.py",
        format!("{PRELUDE}\ndef on_event(h, body): print('got', h.headers['ce-id']); h.answer(200)\nserve()"),
    );
    evoke.log().wait_for(&["got early"], Duration::from_secs(90)).await;
    evoke.ready(SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_function_that_dies_comes_back_and_gets_what_it_did_not_finish() -> Verdict {
    let program = "
def on_event(h, body):
    if not os.path.exists('died'):
        open('died', 'w').close()
        os._exit(1)
    print('got', h.headers['ce-id']); h.answer(200)
serve()";
    let home = home(program, "");
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    evoke.log().wait_for(&["got 1"], SOON).await;
    let (first, second) = (pids(&evoke, 1).await, pids(&evoke, 2).await);
    assert_ne!(first, second);
    gone(&first).await;
    evoke.stop().await;
    gone(&second).await;
    Ok(())
}

pub(crate) async fn hangs_and_garbage_end_in_the_dead_letter_and_stop_nothing_else() -> Verdict {
    let dead = Sink::start().await;
    let program = "
def on_event(h, body):
    if h.headers['ce-id'] == 'hang': time.sleep(1000)
    if h.headers['ce-id'] == 'garbage':
        h.wfile.write(b'\\x16\\x03 this is no HTTP\\r\\n\\r\\n'); h.close_connection = True; return
    print('got', h.headers['ce-id']); h.answer(200)
serve()";
    let subscriber = format!(
        ", deadLetterSink: {{uri: \"{}\"}}, delivery: {{retry: 1, backoffDelay: PT0.1S, timeout: PT5S}}",
        dead.url("/")
    );
    let home = home(program, &subscriber);
    let mut evoke = home.run().await;
    for id in ["hang", "garbage", "good"] {
        send(&evoke, id).await;
    }
    evoke.log().wait_for(&["got good"], SOON).await;
    let letters = dead.wait(2, SOON).await;
    for letter in &letters {
        assert_eq!(letter.ce("evokeattempts"), "2", "{letter:?}");
        assert!(!letter.text("evokecause").is_empty());
        assert!(letter.ce("knativeerrordest").contains("f"), "{letter:?}");
    }
    let hang = letters.iter().find(|r| r.id() == "hang").unwrap();
    assert!(hang.text("evokecause").contains("no answer within"), "{}", hang.text("evokecause"));
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn sigterm_lets_a_function_finish() -> Verdict {
    let program = "
def end(*_):
    print('ending'); sys.exit(0)
signal.signal(signal.SIGTERM, end)
def on_event(h, body):
    print('begun'); time.sleep(1.5); print('finished', h.headers['ce-id']); h.answer(200)
serve()";
    let home = home(program, "");
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    evoke.log().wait_for(&["begun"], SOON).await;
    let pids = pids(&evoke, 1).await;
    evoke.stop().await;
    let log = evoke.log().text();
    let place = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part} is not in the log"));
    assert!(place("finished 1") < place("ending"), "the delivery under way is finished first");
    gone(&pids).await;
    // It was recorded: nothing is delivered again.
    let mut evoke = home.run().await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("begun"), 0);
    Ok(())
}

pub(crate) async fn a_function_that_ignores_sigterm_is_killed() -> Verdict {
    let program = "
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def on_event(h, body): h.answer(200)
serve()";
    let home = home(program, "");
    let text = std::fs::read_to_string(home.manifests().join("evoke.yaml")).unwrap();
    home.write("evoke.yaml", text.replace("  template:\n", "  template:\n      terminationGracePeriodSeconds: 2\n"));
    let mut evoke = home.run().await;
    let pids = pids(&evoke, 1).await;
    evoke.signal(Signal::TERM);
    evoke.ended(Duration::from_secs(20)).await;
    gone(&pids).await;
    Ok(())
}

pub(crate) async fn nothing_is_left_behind_by_a_kill() -> Verdict {
    let program = "
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def on_event(h, body): h.answer(200)
serve()";
    let home = home(program, "");
    let mut evoke = home.run().await;
    let pids = pids(&evoke, 1).await;
    evoke.kill().await;
    gone(&pids).await;
    Ok(())
}
