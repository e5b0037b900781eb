//! A function that notes what it gets, and can be killed and frozen.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::evoke::Home;
use crate::ledger::{Counts, count};
use crate::process::{Pid, Signal, send};
use crate::{SOON, eventually, manifests};

/// Notes path and id of an event before it answers, so that what was taken and not answered for is counted too.
const PROGRAM: &str = r#"
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

notes = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Noting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        os.write(notes, f"{self.path} {self.headers['ce-id']}\n".encode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256


with open(sys.argv[2] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[2] + ".new", sys.argv[2])
Server(("127.0.0.1", int(os.environ["PORT"])), Noting).serve_forever()
"#;

/// A Function of a home, as a child process of the evoke that runs there.
#[derive(Debug)]
pub struct Function {
    name: String,
    notes: PathBuf,
    pid: PathBuf,
}

impl Function {
    /// A function of this name whose program lies in `home`, outside the manifests.
    pub fn new(home: &Home, name: &str) -> Self {
        let at = |what: &str| home.path().join(format!("{name}.{what}"));
        fs::write(at("py"), PROGRAM).unwrap();
        fs::write(at("notes"), "").unwrap();
        Self { name: name.to_owned(), notes: at("notes"), pid: at("pid") }
    }

    /// Its manifest.
    pub fn manifest(&self) -> String {
        let program = self.notes.with_extension("py");
        manifests::python_with(&self.name, &[&program, &self.notes, &self.pid])
    }

    /// The URL of a path of it, which starts with `/`, as manifests have it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}.default.svc.cluster.local{path}", self.name)
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        self.signal(Signal::KILL).await;
    }

    /// Freezes it with SIGSTOP for so long.
    pub async fn freeze(&self, time: Duration) {
        let pid = self.signal(Signal::STOP).await;
        tokio::time::sleep(time).await;
        send(pid, Signal::CONT);
    }

    /// Sends a signal to the process that runs now, or next.
    async fn signal(&self, signal: Signal) -> Pid {
        let pid = eventually(&format!("the function {} runs", self.name), SOON, async || {
            let pid = Pid::from_raw(fs::read_to_string(&self.pid).ok()?.parse().ok()?)?;
            // The id may be that of a process before, which is gone.
            let command = fs::read(Path::new("/proc").join(pid.as_raw_pid().to_string()).join("cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(self.notes.to_str()?).then_some(pid)
        })
        .await;
        send(pid, signal);
        pid
    }

    /// The ids that came to a path, in order.
    pub fn taken(&self, path: &str) -> Vec<String> {
        let notes = fs::read_to_string(&self.notes).unwrap();
        let lines = notes.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(to, _)| *to == path).map(|(_, id)| id.to_owned()).collect()
    }

    /// Waits until so many different ids came to a path.
    ///
    /// # Panics
    /// When they have not within `within`.
    pub async fn wait_taken(&self, path: &str, ids: usize, within: Duration) -> Counts {
        eventually(&format!("{ids} ids at {path} of the function {}", self.name), within, async || {
            let taken = count(self.taken(path));
            (taken.len() >= ids).then_some(taken)
        })
        .await
    }
}
