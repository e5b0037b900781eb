//! Processes that the tests start: their output is kept, and none outlives the run.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

const LINES_KEPT: usize = 200_000;

/// The lines a process wrote to both of its outputs. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Log {
    name: Arc<str>,
    lines: watch::Sender<VecDeque<String>>,
}

impl Log {
    fn new(name: &str) -> Self {
        Self { name: name.into(), lines: watch::Sender::new(VecDeque::new()) }
    }

    /// Whose lines they are.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn push(&self, line: String) {
        self.lines.send_modify(|lines| {
            if lines.len() == LINES_KEPT {
                lines.pop_front();
            }
            lines.push_back(line);
        });
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines.borrow();
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    /// All lines.
    pub fn text(&self) -> String {
        self.tail(usize::MAX).join("\n")
    }

    /// How many lines there are that hold `part`.
    pub fn count(&self, part: &str) -> usize {
        self.lines.borrow().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits for a line that holds every one of `parts`, and returns it.
    ///
    /// # Panics
    /// When there is none within `within`.
    pub async fn wait_for(&self, parts: &[&str], within: Duration) -> String {
        let mut lines = self.lines.subscribe();
        let found = |lines: &VecDeque<String>| lines.iter().find(|l| parts.iter().all(|p| l.contains(p))).cloned();
        let wait = async {
            loop {
                if let Some(line) = found(&lines.borrow_and_update()) {
                    return line;
                }
                lines.changed().await.expect("the log is held here");
            }
        };
        tokio::time::timeout(within, wait).await.unwrap_or_else(|_| panic!("no line with {parts:?} within {within:?}"))
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    argv: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

impl Program {
    /// A program, known as `name` in reports.
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        Self { name: name.to_owned(), argv: vec![program.as_ref().to_owned()], envs: Vec::new(), folder: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an option and the path that is its value.
    #[must_use]
    pub fn arg_path(self, option: &str, path: &Path) -> Self {
        self.args([option.as_ref(), path.as_os_str()])
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts it. It is killed when dropped, and by the kernel when this process ends first.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(self) -> Process {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.argv);
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // The kernel ends what a thread started when that thread ends: a test's own does, a worker of the runtime does not.
        let mut worker = JoinSet::new();
        worker.spawn(async move { command.spawn() });
        let spawned = worker.join_next().await.expect("one was spawned").expect("it does not panic");
        let mut child = spawned.unwrap_or_else(|e| panic!("{}: cannot start: {e}", self.name));
        let log = Log::new(&self.name);
        let mut pumps = JoinSet::new();
        pumps.spawn(pump(child.stdout.take().unwrap(), log.clone()));
        pumps.spawn(pump(child.stderr.take().unwrap(), log.clone()));
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it was not awaited yet");
        Process { pid, child, log, pumps }
    }

    /// Runs it to its end and returns what it wrote to both outputs.
    pub async fn output(self, within: Duration) -> (ExitStatus, Log) {
        let mut process = self.start().await;
        let status = process.ended(within).await;
        (status, process.log)
    }
}

async fn pump(from: impl AsyncRead + Unpin, to: Log) {
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        to.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
        line.clear();
    }
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    child: Child,
    log: Log,
    pumps: JoinSet<()>,
}

impl Process {
    /// Its id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What it wrote so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process has been awaited to its end.
    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and for the end of its output.
    ///
    /// # Panics
    /// When it has not ended within `within`.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let name = self.log.name.clone();
        let status = tokio::time::timeout(within, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{name}: still runs after {within:?}")).unwrap();
        // Children of its own may hold the outputs open for ever.
        tokio::time::timeout(Duration::from_secs(1), async { while self.pumps.join_next().await.is_some() {} })
            .await
            .unwrap_or_default();
        status
    }

    /// `kill -9`, awaited.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Sends a signal to a process that is there.
///
/// # Panics
/// When it is not.
pub fn send(to: Pid, signal: Signal) {
    rustix::process::kill_process(to, signal).unwrap();
}

/// True if `program` is on the path.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
