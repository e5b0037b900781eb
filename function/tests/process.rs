//! Functions as real child processes: how they start, fail, end, and leave nothing behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which the general allowance does not reach")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evoke_api::credentials::Secret;
use evoke_api::names::ObjectName;
use evoke_delivery::endpoints::Endpoints;
use evoke_function::launch::{Instance, LaunchError, Launcher};
use evoke_function::metrics::Metrics;
use evoke_function::plan::FunctionPlan;
use evoke_function::process::{Output, ProcessHost, ProcessLauncher};
use evoke_function::runtime::{State, Status, serve};
use tokio::sync::watch;

const LAUNCH_CHILD: &str = env!("CARGO_BIN_EXE_evoke-test-launch-child");
/// Listens on $PORT, and ends on SIGTERM with status 0 after saying so.
const SERVER: &str = r#"
import http.server, os, signal, sys
def end(*_):
    print("ending", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Output for Lines {
    fn line(&self, function: &ObjectName, line: &str) {
        self.0.lock().unwrap().push(format!("{function} | {line}"));
    }
}

impl Lines {
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Bench {
    dir: tempfile::TempDir,
    output: Arc<Lines>,
    host: Arc<ProcessHost>,
}

impl Bench {
    fn new() -> Self {
        let output = Arc::new(Lines::default());
        let host = Arc::new(ProcessHost::new(LAUNCH_CHILD.into(), output.clone()));
        Self { dir: tempfile::tempdir().unwrap(), output, host }
    }

    fn plan(&self, command: &[&str]) -> FunctionPlan {
        FunctionPlan {
            name: ObjectName::new("ns", "f"),
            command: command.iter().map(|part| (*part).to_owned()).collect(),
            env: Vec::new(),
            working_dir: self.dir.path().to_owned(),
            start_timeout: Duration::from_secs(20),
            grace: Duration::from_secs(10),
        }
    }

    async fn launch(&self, plan: FunctionPlan) -> Result<Box<dyn Instance>, LaunchError> {
        ProcessLauncher::new(Arc::new(plan), self.host.clone()).launch().await
    }

    async fn error(&self, plan: FunctionPlan) -> String {
        match self.launch(plan).await {
            Ok(instance) => panic!("it listens on {}", instance.authority()),
            Err(LaunchError(why)) => why.to_string(),
        }
    }

    /// The id that the function wrote into `file` of its folder, once it has.
    async fn pid(&self, file: &str) -> u32 {
        let path = self.dir.path().join(file);
        eventually("a process id", || std::fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok()).await
    }
}

async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < give_up, "no {what} within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn lives(pid: u32) -> bool {
    // A zombie that nobody waited for yet is as good as gone: it holds no port.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn gone(pid: u32) {
    eventually("end of a process", || (!lives(pid)).then_some(())).await;
}

fn listens(authority: &str) -> bool {
    std::net::TcpStream::connect(authority).is_ok()
}

#[tokio::test]
async fn a_function_listens_speaks_and_ends_when_asked() {
    let bench = Bench::new();
    let plan = FunctionPlan {
        env: vec![
            ("GREETING".into(), Secret::new("hello")),
            ("LONGER".into(), Secret::new("$(GREETING) $(POD_NAMESPACE)/$(POD_NAME) $(NOBODY)")),
            ("PORT".into(), Secret::new("1")),
        ],
        ..bench.plan(&["sh", "-c", &format!("echo $LONGER $0 >&2; exec python3 -c '{SERVER}'"), "<$(GREETING)>"])
    };
    let instance = bench.launch(plan).await.unwrap();
    let authority = instance.authority().to_owned();
    assert!(listens(&authority));
    instance.stop(Duration::from_secs(10)).await;
    assert!(!listens(&authority));
    let lines = bench.output.taken();
    assert!(lines.contains(&"ns/f | hello ns/f $(NOBODY) <hello>".to_owned()), "{lines:?}");
    assert!(lines.contains(&"ns/f | ending".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn a_function_that_exits_at_once_is_an_error_with_its_last_words() {
    let bench = Bench::new();
    let error = bench.error(bench.plan(&["sh", "-c", "echo no such module: flask >&2; exit 3"])).await;
    assert!(error.starts_with("ended with exit status 3 before it listened on port 2"), "{error}");
    assert!(error.ends_with("; last output: no such module: flask"), "{error}");
    let error = bench.error(bench.plan(&["sh", "-c", "kill -SEGV $$$$"])).await;
    assert!(error.starts_with("ended by signal 11 before it listened"), "{error}");
    assert!(error.ends_with("; it wrote nothing"), "{error}");
}

#[tokio::test]
async fn a_command_or_folder_that_is_not_there_is_named() {
    let bench = Bench::new();
    let error = bench.error(bench.plan(&["no-such-program", "--port"])).await;
    assert!(
        error.contains("exit status 127") && error.contains("cannot start no-such-program: No such file"),
        "{error}"
    );
    let plan = FunctionPlan { working_dir: "/no/such/folder".into(), ..bench.plan(&["true"]) };
    let error = bench.error(plan).await;
    assert_eq!(error, "/no/such/folder is no directory; correct workingDir, which is relative to the manifest");
}

#[tokio::test]
async fn a_function_that_never_listens_is_ended() {
    let bench = Bench::new();
    let limit = Duration::from_secs(3);
    let plan = bench.plan(&["sh", "-c", "echo $$$$ > pid; echo warming up; exec sleep 1000"]);
    let error = bench.error(FunctionPlan { start_timeout: limit, ..plan }).await;
    assert!(error.starts_with("did not listen on port ") && error.contains("($PORT) within 3 s"), "{error}");
    assert!(error.ends_with("; last output: warming up"), "{error}");
    gone(bench.pid("pid").await).await;
}

#[tokio::test]
async fn a_function_that_ignores_sigterm_is_killed_after_its_grace() {
    let bench = Bench::new();
    let deaf = SERVER.replace("os._exit(0)", "pass");
    let instance = bench.launch(bench.plan(&["python3", "-c", &deaf])).await.unwrap();
    let authority = instance.authority().to_owned();
    let since = Instant::now();
    instance.stop(Duration::from_secs(2)).await;
    assert!(since.elapsed() >= Duration::from_secs(2) && since.elapsed() < Duration::from_secs(20));
    assert!(!listens(&authority));
    assert!(bench.output.taken().contains(&"ns/f | ending".to_owned()), "it was asked first");
}

/// A server, and beside it a child that left the process group and a grandchild that its parent abandoned, both deaf.
fn spawner() -> String {
    format!(
        "trap '' TERM
        setsid sh -c 'echo $$$$ > left; exec sleep 1000' &
        sh -c 'sleep 1000 & echo $! > orphan'
        while ! [ -s left ]; do sleep 0.01; done
        python3 -c '{SERVER}' & wait"
    )
}

#[tokio::test]
async fn what_a_function_started_ends_with_it() {
    let bench = Bench::new();
    let instance = bench.launch(bench.plan(&["sh", "-c", &spawner()])).await.unwrap();
    let (left, orphan) = (bench.pid("left").await, bench.pid("orphan").await);
    assert!(lives(left) && lives(orphan));
    instance.stop(Duration::from_millis(200)).await;
    assert!(!lives(left) && !lives(orphan));
}

#[tokio::test]
async fn a_dropped_instance_leaves_nothing_behind() {
    let bench = Bench::new();
    let instance = bench.launch(bench.plan(&["sh", "-c", &spawner()])).await.unwrap();
    let (left, orphan) = (bench.pid("left").await, bench.pid("orphan").await);
    let authority = instance.authority().to_owned();
    drop(instance);
    gone(left).await;
    gone(orphan).await;
    eventually("end of the server", || (!listens(&authority)).then_some(())).await;
}

#[tokio::test]
async fn nothing_survives_a_guard_that_is_killed() {
    let bench = Bench::new();
    let mut instance = bench.launch(bench.plan(&["python3", "-c", SERVER])).await.unwrap();
    let authority = instance.authority().to_owned();
    let me = std::process::id();
    let guards = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children"));
    let guard = find_guard(bench.dir.path()).unwrap_or_else(|| panic!("no guard among {guards:?}"));
    assert!(Command::new("kill").args(["-9", &guard.to_string()]).status().unwrap().success());
    let reason = instance.ended().await;
    assert!(reason.starts_with("its guard ended with signal: 9"), "{reason}");
    eventually("end of the server", || (!listens(&authority)).then_some(())).await;
}

fn find_guard(dir: &Path) -> Option<u32> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let here = std::fs::read_link(entry.path().join("cwd")).ok()? == dir;
        (here && command.starts_with(b"evoke\0launch-child\0")).then_some(pid)
    })
}

/// What the death of evoke looks like to a guard: the other end of its standard input is gone.
#[tokio::test]
async fn the_end_of_evoke_is_the_end_of_the_function() {
    let bench = Bench::new();
    let mut guard = Command::new(LAUNCH_CHILD)
        .args(["launch-child", "--", "sh", "-c", "echo $$ > pid; trap '' TERM; while :; do sleep 1; done"])
        .current_dir(bench.dir.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = bench.pid("pid").await;
    drop(guard.stdin.take());
    let status = tokio::task::spawn_blocking(move || guard.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(128 + 9));
    assert!(!lives(pid));
}

#[tokio::test]
async fn a_flood_of_output_is_handed_on_whole() {
    let bench = Bench::new();
    let flood = "import sys\nfor i in range(20000): print(i)\nsys.stdout.write('y' * 100000)";
    let error = bench.error(bench.plan(&["python3", "-c", flood])).await;
    assert!(error.starts_with("ended with exit status 0 before it listened"), "{error}");
    let lines = bench.output.taken();
    assert!((0..20_000).all(|i| lines[i] == format!("ns/f | {i}")));
    let long: usize = lines[20_000..].iter().map(|line| line.len() - "ns/f | ".len()).sum();
    assert_eq!(long, 100_000);
    assert!(error.len() < 2_000);
}

struct Served {
    status: watch::Receiver<Status>,
    handle: evoke_function::runtime::Handle,
    endpoints: Endpoints,
    registry: prometheus::Registry,
    task: tokio::task::JoinSet<()>,
}

fn served(bench: &Bench, plan: FunctionPlan) -> Served {
    let (endpoints, registry) = (Endpoints::default(), prometheus::Registry::new());
    let metrics = Metrics::new(&registry).unwrap();
    let (handle, run) = serve(Arc::new(plan), bench.host.clone(), endpoints.clone(), &metrics);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(run);
    Served { status: handle.status(), handle, endpoints, registry, task }
}

impl Served {
    async fn wait_for(&mut self, is: impl FnMut(&Status) -> bool) -> Status {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, self.status.wait_for(is)).await.unwrap().unwrap().clone()
    }

    fn scrape(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }
}

#[tokio::test]
async fn a_function_that_ends_is_started_again_and_its_address_follows() {
    let bench = Bench::new();
    let name = ObjectName::new("ns", "f");
    let script = format!("echo $$$$ > pid; exec python3 -c '{SERVER}'");
    let mut served = served(&bench, bench.plan(&["sh", "-c", &script]));
    let mut address = served.endpoints.follow(&name);
    let first = address.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(listens(first.as_str()));
    served.wait_for(|s| matches!(&s.state, State::Ready { url } if **url == format!("http://{first}"))).await;
    assert!(served.scrape().contains("evoke_function_up{function=\"f\",namespace=\"ns\"} 1"));

    let pid = bench.pid("pid").await;
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let failed = served.wait_for(|s| matches!(s.state, State::Failed { .. })).await;
    assert!(matches!(&failed.state, State::Failed { cause } if cause.starts_with("ended by signal 9")), "{failed:?}");
    let ready = served.wait_for(|s| matches!(s.state, State::Ready { .. })).await;
    assert_eq!(ready.restarts, 1);
    let second = address.wait_for(|a| a.as_ref().is_some_and(|a| *a != first)).await.unwrap().clone().unwrap();
    assert!(listens(second.as_str()));
    assert!(served.scrape().contains("evoke_function_restarts_total{function=\"f\",namespace=\"ns\"} 1"));

    served.handle.stop(tokio::time::Instant::now() + Duration::from_secs(10));
    served.task.join_next().await.unwrap().unwrap();
    assert_eq!(served.status.borrow().state, State::Stopped);
    assert_eq!(*address.borrow(), None);
    assert!(!listens(second.as_str()));
    assert!(served.scrape().contains("evoke_function_up{function=\"f\",namespace=\"ns\"} 0"));
}

#[tokio::test]
async fn a_function_that_keeps_failing_is_tried_again_more_and_more_slowly() {
    let bench = Bench::new();
    let mut served = served(&bench, bench.plan(&["sh", "-c", "echo broken; exit 1"]));
    let since = Instant::now();
    let third = served.wait_for(|s| s.restarts == 3).await;
    assert!(since.elapsed() >= Duration::from_millis(200 + 400 + 800), "{:?}", since.elapsed());
    let State::Starting { why } = &third.state else { panic!("{third:?}") };
    assert!(why.starts_with("starting again: ended with exit status 1"), "{why}");
    served.handle.stop(tokio::time::Instant::now());
    served.task.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn the_address_is_withdrawn_before_the_function_is_asked_to_end() {
    let bench = Bench::new();
    let slow = SERVER.replace("os._exit(0)", "import time; time.sleep(5); os._exit(0)");
    let mut served = served(&bench, bench.plan(&["python3", "-c", &slow]));
    served.wait_for(|s| matches!(s.state, State::Ready { .. })).await;
    let mut address = served.endpoints.follow(&ObjectName::new("ns", "f"));
    let authority = address.borrow().clone().unwrap();
    served.handle.stop(tokio::time::Instant::now() + Duration::from_secs(10));
    address.wait_for(Option::is_none).await.unwrap();
    assert!(listens(authority.as_str()), "it still finishes what it has");
    served.task.join_next().await.unwrap().unwrap();
    assert!(!listens(authority.as_str()));
}
