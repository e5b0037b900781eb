//! `evoke launch-child`: runs a function's command, and ends all of it when evoke ends, however evoke ends.
//!
//! ```text
//! evoke --pipe--> guard --> command, leader of a process group of its own --> whatever it starts
//! ```
//!
//! The guard is a small process between evoke and the command. A byte on its standard input asks the command's group to end
//! (SIGTERM); the end of that input, which is also what the death of evoke looks like, kills it. What leaves the group is
//! inherited by the guard (where the system has subreapers) and killed too. If the guard itself is killed, so is the command.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};

/// The hidden subcommand: `evoke launch-child -- COMMAND ARGUMENT...`.
pub const SUBCOMMAND: &str = "launch-child";
/// What to write to the guard's standard input to have the command asked to end.
pub(crate) const ASK_TO_END: &[u8] = b"t";
/// Set by the guard for the second stage, which becomes the command.
const GUARD_PID: &str = "EVOKE_GUARD_PID";
const CANNOT_START: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The executable of this process, in a spelling that outlives its replacement by a newer one where the system allows.
///
/// # Errors
/// Where the system cannot say what this process runs.
pub fn this_executable() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// Runs `command` to its end and gives back what it ended with: its own status, or 128 and the signal's number; 126 and 127 as a
/// shell has them. To be called on the main thread, before anything else is started.
pub fn launch_child(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(NOT_FOUND);
    };
    if let Some(guard) = std::env::var_os(GUARD_PID) {
        return become_command(&guard, program, arguments);
    }
    match guard(command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&format!("cannot start {}: {error}", program.display()));
            ExitCode::from(CANNOT_START)
        }
    }
}

fn guard(command: &[OsString]) -> io::Result<u8> {
    let this = rustix::process::getpid();
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(this))?;
    let child = Command::new(this_executable()?)
        .arg0("evoke")
        .args([SUBCOMMAND, "--"])
        .args(command)
        .env(GUARD_PID, this.as_raw_pid().to_string())
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()?;
    let leader = Pid::from_child(&child);
    thread::spawn(move || obey(leader));
    loop {
        // Also takes the orphans that this process inherits, so that they leave no zombies.
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == leader => {
                end_group(leader, Signal::KILL);
                sweep();
                return Ok(code(status));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Passes on what evoke asks for, until it asks for the end by closing the pipe or by dying.
fn obey(leader: Pid) {
    let mut input = io::stdin().lock();
    let mut byte = [0; ASK_TO_END.len()];
    while input.read_exact(&mut byte).is_ok() {
        end_group(leader, Signal::TERM);
    }
    end_group(leader, Signal::KILL);
}

fn end_group(leader: Pid, signal: Signal) {
    // The one way for this to fail is that nobody is left.
    kill_process_group(leader, signal).ok();
}

/// Kills what left the command's process group and became a child of this process. The ids of children that are not waited for
/// yet cannot have passed to somebody else.
#[cfg(target_os = "linux")]
fn sweep() {
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(5);
    let children = format!("/proc/self/task/{}/children", rustix::process::getpid());
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        let ids = std::fs::read_to_string(&children).unwrap_or_default();
        for child in ids.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)) {
            rustix::process::kill_process(child, Signal::KILL).ok();
        }
        match wait(WaitOptions::NOHANG) {
            Ok(None) => thread::sleep(PAUSE),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn sweep() {}

fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The second stage. The guard's main thread lives as long as the guard, so the death signal, which is tied to the thread that
/// started this process, comes exactly when the guard is gone.
fn become_command(guard: &std::ffi::OsStr, program: &OsString, arguments: &[OsString]) -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        complain(&format!("cannot tie {} to evoke: {error}", program.display()));
        return ExitCode::from(CANNOT_START);
    }
    let orphaned = rustix::process::getppid().is_none_or(|parent| *guard != *parent.as_raw_pid().to_string());
    if orphaned {
        return ExitCode::from(CANNOT_START);
    }
    let error = Command::new(program).args(arguments).env_remove(GUARD_PID).exec();
    complain(&format!("cannot start {}: {error}", program.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_START })
}

fn complain(what: &str) {
    // There is nobody to tell where standard error is gone.
    writeln!(io::stderr(), "evoke: {what}").ok();
}
