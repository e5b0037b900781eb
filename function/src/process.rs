//! Functions as child processes: a port is chosen, the command started under a guard, its output handed on, and its end seen to.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use evoke_api::credentials::Secret;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::expand::expand;
use crate::guard;
use crate::launch::{Instance, LaunchError, Launcher};
use crate::plan::FunctionPlan;

mod output;
mod port;

pub use output::{LogOutput, Output};
use output::{Tail, relay};
use port::Ports;

/// How often a starting function is asked whether it listens.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// How long a guard may take to end what it guards once it was told to kill it.
const KILL_PATIENCE: Duration = Duration::from_secs(7);
/// How long output may still come after the end of all that could write it.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// What the child processes of one evoke share.
pub struct ProcessHost {
    executable: PathBuf,
    output: Arc<dyn Output>,
    ports: Ports,
}

impl ProcessHost {
    /// `executable` is a program whose `launch-child` calls [`guard::launch_child`]: evoke itself, as
    /// [`guard::this_executable`] gives it.
    pub fn new(executable: PathBuf, output: Arc<dyn Output>) -> Self {
        Self { executable, output, ports: Ports::new() }
    }

    /// From now on no function gets one of these ports, which others are to listen on.
    pub fn reserve(&self, ports: BTreeSet<u16>) {
        self.ports.reserve(ports);
    }
}

/// Starts one function as a child process.
pub struct ProcessLauncher {
    plan: Arc<FunctionPlan>,
    host: Arc<ProcessHost>,
}

impl ProcessLauncher {
    /// A launcher of the function that `plan` describes.
    pub fn new(plan: Arc<FunctionPlan>, host: Arc<ProcessHost>) -> Self {
        Self { plan, host }
    }

    async fn start(&self) -> Result<Process, LaunchError> {
        let plan = &*self.plan;
        if !tokio::fs::metadata(&plan.working_dir).await.is_ok_and(|found| found.is_dir()) {
            let dir = plan.working_dir.display();
            return Err(failed(format!(
                "{dir} is no directory; correct workingDir, which is relative to the manifest"
            )));
        }
        let port = self.host.ports.pick().map_err(|e| failed(format!("found no free port: {e}")))?;
        let mut process = self.spawn(port).map_err(|e| failed(format!("cannot start a process: {e}")))?;
        let awaited = tokio::select! {
            authority = listening(port) => Ok(authority),
            reason = process.end() => Err(format!("{reason} before it listened on port {port} ($PORT)")),
            () = sleep(plan.start_timeout) => {
                let limit = plan.start_timeout.as_secs_f64();
                Err(format!("did not listen on port {port} ($PORT) within {limit} s"))
            }
        };
        match awaited {
            Ok(authority) => {
                process.authority = authority;
                Ok(process)
            }
            Err(reason) => {
                process.stop(Duration::ZERO).await;
                Err(failed(format!("{reason}{}", process.tail.told())))
            }
        }
    }

    fn spawn(&self, port: u16) -> io::Result<Process> {
        let FunctionPlan { name, .. } = &*self.plan;
        let (command, env) = command_line(&self.plan, port);
        let mut guard = Command::new(&self.host.executable)
            .arg0("evoke")
            .args([guard::SUBCOMMAND, "--"])
            .args(command)
            .envs(env.iter().map(|(name, value)| (name, value.expose())))
            .current_dir(&self.plan.working_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Keeps a terminal's ctrl-C from the guard: evoke decides when its functions end.
            .process_group(0)
            .spawn()?;
        let tail = Tail::default();
        let mut readers = JoinSet::new();
        if let Some(stdout) = guard.stdout.take() {
            readers.spawn(relay(stdout, name.clone(), self.host.output.clone(), tail.clone()));
        }
        if let Some(stderr) = guard.stderr.take() {
            readers.spawn(relay(stderr, name.clone(), self.host.output.clone(), tail.clone()));
        }
        Ok(Process { authority: String::new(), control: guard.stdin.take(), guard, readers, tail })
    }
}

impl Launcher for ProcessLauncher {
    fn launch(&self) -> BoxFuture<'_, Result<Box<dyn Instance>, LaunchError>> {
        async move { Ok(Box::new(self.start().await?) as Box<dyn Instance>) }.boxed()
    }
}

fn failed(why: String) -> LaunchError {
    LaunchError(why.into())
}

/// The command and its variables, with `$(NAME)` replaced as Kubernetes does: in a variable by those before it, in the command by
/// all of them.
fn command_line(plan: &FunctionPlan, port: u16) -> (Vec<String>, HashMap<String, Secret>) {
    let own = [
        ("POD_NAME".to_owned(), Secret::new(&*plan.name.name)),
        ("POD_NAMESPACE".to_owned(), Secret::new(&*plan.name.namespace)),
        ("PORT".to_owned(), Secret::new(port.to_string())),
    ];
    let mut env: HashMap<String, Secret> = own.into();
    for (name, value) in &plan.env {
        if name != "PORT" {
            let value = expand(value.expose(), |name| env.get(name).map(Secret::expose));
            env.insert(name.clone(), Secret::new(value));
        }
    }
    let look_up = |name: &str| env.get(name).map(Secret::expose);
    let command = plan.command.iter().map(|part| expand(part, look_up)).collect();
    (command, env)
}

/// Waits until somebody listens on `port` of this host, over either version of IP.
async fn listening(port: u16) -> String {
    let here = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    loop {
        for address in here {
            if TcpStream::connect(address).await.is_ok_and(|stream| stream.local_addr().is_ok_and(|own| own != address))
            {
                return address.to_string();
            }
        }
        sleep(PROBE_INTERVAL).await;
    }
}

/// A guard with the function it guards. Dropping it closes the guard's input, which kills the function.
struct Process {
    authority: String,
    control: Option<ChildStdin>,
    guard: Child,
    readers: JoinSet<()>,
    tail: Tail,
}

impl Process {
    /// Waits for the function's end and for the last of its output. Safe to cancel.
    async fn end(&mut self) -> String {
        let reason = match self.guard.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("cannot be watched: {error}"),
        };
        self.drain().await;
        reason
    }

    async fn stop(&mut self, grace: Duration) {
        if !grace.is_zero()
            && let Some(control) = &mut self.control
        {
            // A guard that is gone has ended its function.
            control.write_all(guard::ASK_TO_END).await.ok();
            timeout(grace, self.guard.wait()).await.ok();
        }
        self.control = None;
        if timeout(KILL_PATIENCE, self.guard.wait()).await.is_err() {
            self.guard.kill().await.ok();
        }
        self.drain().await;
    }

    async fn drain(&mut self) {
        let all = async { while self.readers.join_next().await.is_some() {} };
        if timeout(OUTPUT_PATIENCE, all).await.is_err() {
            self.readers.shutdown().await;
        }
    }
}

impl Instance for Process {
    fn authority(&self) -> &str {
        &self.authority
    }

    fn ended(&mut self) -> BoxFuture<'_, String> {
        async move { format!("{}{}", self.end().await, self.tail.told()) }.boxed()
    }

    fn stop(mut self: Box<Self>, grace: Duration) -> BoxFuture<'static, ()> {
        async move { Process::stop(&mut self, grace).await }.boxed()
    }
}

/// What a guard's status says of the function: the guard passes statuses on, and signals as a shell does.
fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=159) => format!("ended by signal {}", code - 128),
        Some(code) => format!("ended with exit status {code}"),
        None => format!("its guard ended with {status}"),
    }
}
