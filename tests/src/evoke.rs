//! The evoke binary, its manifests and its data directory.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use crate::http::{self, Response};
use crate::metrics::Scrape;
use crate::process::{Log, Pid, Process, Program, Signal};
use crate::{SOON, case, eventually, ports, scratch};

/// The evoke binary: `EVOKE_BIN`, else the one that cargo built beside this test.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("EVOKE_BIN") {
        return path.into();
    }
    // A test lies in `deps` below the folder of binaries, a bench in that folder.
    let this = std::env::current_exe().unwrap();
    let found = this.ancestors().skip(1).take(2).map(|folder| folder.join("evoke")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("no evoke binary near {}: run `cargo build -p evoke-cli` first, or set EVOKE_BIN", this.display())
    })
}

/// The checkout's root.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A folder with `manifests/` and `data/`, on which evoke is run, killed and run again.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// A home without manifests.
    pub fn new() -> Self {
        let folder = scratch::dir("evoke");
        fs::create_dir(folder.path().join("manifests")).unwrap();
        Self { folder }
    }

    /// A home with one manifest file.
    pub fn with(manifest: impl AsRef<str>) -> Self {
        let home = Self::new();
        home.write("evoke.yaml", manifest);
        home
    }

    /// Writes a manifest file, replacing it in one step as editors do.
    pub fn write(&self, name: &str, text: impl AsRef<str>) {
        let path = self.manifests().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let partial = self.path().join("partial");
        fs::write(&partial, text.as_ref()).unwrap();
        fs::rename(partial, path).unwrap();
    }

    /// Removes a manifest file.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifests().join(name)).unwrap();
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The manifests' folder.
    pub fn manifests(&self) -> PathBuf {
        self.path().join("manifests")
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// `evoke run` on the manifests and the data directory, not started yet.
    pub fn evoke(&self) -> Run {
        Run {
            wrapper: Vec::new(),
            paths: vec![self.manifests().into()],
            data: self.data(),
            args: Vec::new(),
            envs: Vec::new(),
            folder: self.path().to_owned(),
            admin: ports::free(),
            listen: ports::free(),
        }
    }

    /// Starts `evoke run` and waits until it is ready.
    pub async fn run(&self) -> Evoke {
        self.evoke().ready().await
    }

    /// Runs a tool against the evoke on the data directory to its end: its exit code and its output.
    pub async fn tool(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut argv: Vec<OsString> = args.iter().map(Into::into).collect();
        argv.extend(["--data-dir".into(), self.data().into()]);
        command(argv).await
    }

    /// Runs a tool against the buses themselves.
    pub async fn tool_without_evoke(&self, args: &[&str]) -> (Option<i32>, String) {
        let manifests = self.manifests();
        let mut args = args.to_vec();
        args.extend(["-f", manifests.to_str().unwrap()]);
        self.tool(&args).await
    }

    /// What a tool prints with `-o json`.
    ///
    /// # Panics
    /// When it fails, or prints anything else.
    pub async fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let (code, text) = self.tool(&args).await;
        assert_eq!(code, Some(0), "{args:?}: {text}");
        json(&text)
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// An `evoke run` that is not started yet.
#[derive(Clone, Debug)]
pub struct Run {
    wrapper: Vec<OsString>,
    paths: Vec<OsString>,
    data: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(String, String)>,
    folder: PathBuf,
    admin: SocketAddr,
    listen: SocketAddr,
}

impl Run {
    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Takes other paths than the home's manifests.
    #[must_use]
    pub fn paths<A: Into<OsString>>(mut self, paths: impl IntoIterator<Item = A>) -> Self {
        self.paths = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Takes another data directory.
    #[must_use]
    pub fn data(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = data.into();
        self
    }

    /// Takes this admin address, `host:port`.
    #[must_use]
    pub fn admin_at(mut self, address: &str) -> Self {
        self.admin = address.parse().unwrap();
        self
    }

    /// Takes this address for the shared webhook listener, `host:port`.
    #[must_use]
    pub fn listen_at(mut self, address: &str) -> Self {
        self.listen = address.parse().unwrap();
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it below another program, such as strace.
    #[must_use]
    pub fn below<A: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// A URL on the shared webhook listener that it will have; `path` starts with `/`.
    pub fn webhook(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Starts it.
    pub async fn start(self) -> Evoke {
        let mut argv = self.wrapper;
        argv.push(binary().into());
        let mut program = Program::new("evoke", &argv[0]).args(&argv[1..]).args(["run"]).args(&self.paths);
        program = program.arg_path("--data-dir", &self.data).folder(&self.folder);
        let (admin, listen) = (self.admin.to_string(), self.listen.to_string());
        program = program.args(["--admin", &admin, "--listen", &listen]).args(&self.args);
        for (name, value) in &self.envs {
            program = program.env(name, value);
        }
        let process = program.start().await;
        case::show_on_failure(process.log());
        Evoke { process, admin: self.admin, listen: self.listen }
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time.
    pub async fn ready(self) -> Evoke {
        let mut evoke = self.start().await;
        evoke.ready(SOON).await;
        evoke
    }

    /// Runs it to its end.
    pub async fn output(self, within: Duration) -> (ExitStatus, Log) {
        let mut evoke = self.start().await;
        let status = evoke.ended(within).await;
        (status, evoke.log().clone())
    }
}

/// A running evoke.
#[derive(Debug)]
pub struct Evoke {
    process: Process,
    admin: SocketAddr,
    listen: SocketAddr,
}

impl Evoke {
    /// What it wrote so far.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// A URL on the shared webhook listener; `path` starts with `/`.
    pub fn webhook(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// A URL on the admin address; `path` starts with `/`.
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// Posts to a webhook source.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<bytes::Bytes>) -> Response {
        http::post(&self.webhook(path), headers, body).await
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Panics
    /// When evoke ends instead, or is not ready within `within`; says what it waits for.
    pub async fn ready(&mut self, within: Duration) {
        let (url, mut last) = (self.admin("/readyz"), String::new());
        let deadline = tokio::time::Instant::now() + within;
        while tokio::time::Instant::now() < deadline {
            assert!(self.process.is_running(), "evoke has ended instead of becoming ready");
            match http::get(&url).await {
                Ok(answer) if answer.status == 200 => return,
                Ok(answer) => last = answer.text(),
                Err(error) => last = error,
            }
            tokio::time::sleep(crate::LOOK_AGAIN).await;
        }
        panic!("not ready within {within:?}: {last}");
    }

    /// Waits until `/readyz` answers 503 with a text that holds every one of `parts`, and returns it.
    pub async fn waits_for(&self, parts: &[&str], within: Duration) -> String {
        let url = self.admin("/readyz");
        eventually(&format!("/readyz names {parts:?}"), within, async || {
            let answer = http::get(&url).await.ok()?;
            let text = answer.text();
            (answer.status == 503 && parts.iter().all(|part| text.contains(part))).then_some(text)
        })
        .await
    }

    /// Scrapes `/metrics`.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self) -> Scrape {
        Scrape::parse(&http::get(&self.admin("/metrics")).await.unwrap().text())
    }

    /// Waits until the samples of a metric that carry `labels` sum up to at least `least`, and returns the sum.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)], least: f64, within: Duration) -> f64 {
        eventually(&format!("{name}{labels:?} reaches {least}"), within, async || {
            let sum = self.metrics().await.sum(name, labels);
            (sum >= least).then_some(sum)
        })
        .await
    }

    /// What `/v1/status` says of a subscriber of a Trigger, `{namespace}/{name}`, as long as it says anything.
    pub async fn subscriber(&self, trigger: &str, name: &str) -> Option<serde_json::Value> {
        let answer = http::get(&self.admin("/v1/status")).await.ok()?;
        let status: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        let mut parts = status["parts"].as_array()?.iter();
        let part = parts.find(|part| part["kind"] == "trigger" && part["name"] == trigger)?;
        part["subscribers"].get(name).cloned()
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// `kill -9`, awaited.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        self.process.ended(within).await
    }

    /// SIGTERM, and a clean end within the drain's deadline.
    ///
    /// # Panics
    /// When the exit code is not 0.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended(Duration::from_secs(40)).await;
        assert_eq!(status.code(), Some(0), "evoke did not drain cleanly");
    }

    /// Asks it to drain although deliveries hang, and waits until it has ended.
    ///
    /// # Panics
    /// When the exit code is not 1.
    pub async fn stop_short(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended(Duration::from_secs(40)).await;
        assert_eq!(status.code(), Some(1), "evoke does not say that deliveries were cut short");
    }
}

/// The JSON document in what a tool printed, among the lines on standard error.
///
/// # Panics
/// When there is none.
pub fn json(text: &str) -> serde_json::Value {
    let lines: Vec<_> = text.lines().skip_while(|line| *line != "{").collect();
    let end = lines.iter().rposition(|line| *line == "}").map_or(0, |end| end + 1);
    serde_json::from_str(&lines[..end].join("\n")).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

/// Asserts that a JSON object has these fields, among others.
///
/// # Panics
/// When it has not.
pub fn assert_has(value: &serde_json::Value, expected: &serde_json::Value) {
    for (name, expected) in expected.as_object().unwrap() {
        assert_eq!(value.get(name), Some(expected), "{name} of {value}");
    }
}

/// Runs any evoke command to its end: its exit code and its output.
pub async fn command<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> (Option<i32>, String) {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let (status, log) = Program::new("evoke", binary()).args(&args).output(SOON).await;
    (status.code(), log.text())
}
